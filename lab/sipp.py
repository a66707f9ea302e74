"""SIP calls with SIPp: one object is one SIPp process, bounded in time, with its traces kept until it is closed.

The outside dependency is the `sipp` program (3.6). **Fails closed**: an exit code other than the expected, or a process
that does not end in time, raises SippFailed with the traces.
"""

from __future__ import annotations

import csv
import re
import shutil
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from lab.ports import LOOPBACK, free_port, media_ports
from lab.wait import LabError, wait_for

SCENARIOS: Final = Path(__file__).parent / "sipp"
END_GRACE_S: Final = 15.0
STATISTICS_PERIOD_S: Final = 1
UAC_S: Final = 45.0  # for all calls of a process; a machine that is busy may take several times what they last
UAS_S: Final = 110.0
TRACE_TAIL_CHARS: Final = 6_000
DEFAULT_CALLER: Final = "+12125550147"

# Processes that were started and not yet closed, for whoever reports a failure.
ALIVE: weakref.WeakSet[Sipp] = weakref.WeakSet()


class Scenario(StrEnum):
    """The scenario files in lab/sipp. UAC calls us, UAS is a target."""

    UAC_HANG_UP = "uac_hang_up"  # expects 200, holds, sends BYE
    UAC_WAIT_BYE = "uac_wait_bye"  # expects 200, then BYE from us
    UAC_REFUSED = "uac_refused"  # expects the final code, anything else fails the call
    UAC_CANCEL = "uac_cancel"  # sends CANCEL `hold_ms` after 180 Ringing, expects 487
    UAC_CANCEL_EARLY = "uac_cancel_early"  # sends CANCEL `hold_ms` after 100 Trying, before it rings
    UAS_ANSWER = "uas_answer"  # rings `ring_ms`, answers, waits for BYE
    UAS_HANG_UP = "uas_hang_up"  # rings `ring_ms`, answers, sends BYE `hold_ms` later
    UAS_REFUSE = "uas_refuse"  # answers with `code`
    UAS_RING = "uas_ring"  # rings until CANCEL


class SippFailed(LabError):
    """A SIPp process did not end as expected."""


@dataclass(frozen=True, slots=True)
class SippCounts:
    """What SIPp counted until now, or until its end."""

    created: int
    succeeded: int
    failed: int


class Sipp:
    """One SIPp process. Use `Sipp.uac` or `Sipp.uas`; as a context manager it is ended at the end of the block."""

    def __init__(
        self, scenario: Scenario, arguments: list[str | bytes], words: dict[str, str], timeout_s: float
    ) -> None:
        self.scenario = scenario
        self.timeout_s = timeout_s
        self.port = free_port(socket.SOCK_DGRAM)
        self.dir = Path(tempfile.mkdtemp(prefix="cc-sipp-"))
        source = (SCENARIOS / f"{scenario}.xml").read_text()
        self._file = self.dir / "scenario.xml"
        self._file.write_text(re.sub(r"@([A-Z_]+)@", lambda match: words[match[1]], source))
        command: list[str | bytes] = [
            "sipp", "-sf", str(self._file), "-i", LOOPBACK, "-mi", LOOPBACK, "-p", str(self.port),
            "-mp", str(media_ports()), "-nostdin", "-timeout", f"{timeout_s:.0f}s",
            "-timeout_error", "-trace_err", "-error_file", str(self.dir / "errors"), "-trace_msg", "-message_file",
            str(self.dir / "messages"), "-trace_stat", "-stf", str(self.dir / "statistics"),
            "-fd", f"{STATISTICS_PERIOD_S}s", *arguments,
        ]  # fmt: skip
        with (self.dir / "screen").open("wb") as screen:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=screen, stderr=screen, cwd=self.dir
            )
        ALIVE.add(self)

    @classmethod
    def uac(
        cls,
        scenario: Scenario,
        number: str,
        sip_port: int,
        *,
        caller: str = DEFAULT_CALLER,
        name: bytes = b"",
        hold_ms: int = 0,
        expect: int = 200,
        calls: int = 1,
        rate: int = 10,
        period_ms: int = 1_000,
        headers: tuple[str, ...] = (),
        timeout_s: float = UAC_S,
    ) -> Sipp:
        """Starts calls to `number` at 127.0.0.1:`sip_port` and does not wait.

        name: the display name as it stands in From, with its quotes, any bytes. expect: the final code of UAC_REFUSED.
        headers: more lines of the INVITE. calls and rate: how many in all, and how many in each period.
        """
        words = {"HOLD_MS": str(hold_ms), "CODE": str(expect), "HEADERS": "\n".join(headers) or "Subject: lab"}
        keys: list[str | bytes] = ["-key", "caller", caller, "-key", "display", name or b" "]
        pace: list[str | bytes] = ["-r", str(rate), "-rp", str(period_ms)]
        bounds: list[str | bytes] = ["-m", str(calls), "-s", number, f"{LOOPBACK}:{sip_port}"]
        return cls(scenario, [*keys, *pace, *bounds], words, timeout_s)

    @classmethod
    def uas(
        cls,
        scenario: Scenario,
        *,
        ring_ms: int = 0,
        hold_ms: int = 0,
        code: int = 486,
        calls: int = 0,
        timeout_s: float = UAS_S,
    ) -> Sipp:
        """Starts a target and waits until it listens on `port`. With `calls` it ends by itself after as many."""
        words = {"RING_MS": str(ring_ms), "HOLD_MS": str(hold_ms), "CODE": str(code)}
        target = cls(scenario, ["-m", str(calls)] if calls else [], words, timeout_s)
        try:
            wait_for(target._listens, f"{scenario} on port {target.port}")
        except BaseException:
            target.close()
            raise
        return target

    def _listens(self) -> bool:
        if self._process.poll() is not None:
            raise SippFailed(f"{self.scenario} ended with {self._process.returncode}\n{self.trace_tail()}")
        # Not by trying to bind the port: that is in SIPp's way when it does so at the same moment.
        rows = Path("/proc/net/udp").read_text().splitlines()[1:]
        return any(row.split()[1].endswith(f":{self.port:04X}") for row in rows)

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def uri(self) -> str:
        """Where this target is called."""
        return f"sip:target@{LOOPBACK}:{self.port}"

    def wait(self) -> SippCounts:
        """Waits for the end of all calls. Raises SippFailed, with the traces, when not every call went as expected."""
        try:
            code = self._process.wait(self.timeout_s + END_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            code = -9
        if code != 0:
            raise SippFailed(f"{self.scenario} ended with {code}\n{self.trace_tail()}")
        return self.counts()

    def counts(self) -> SippCounts:
        """What SIPp counted; exact after its end, at most a second old before."""
        path = self.dir / "statistics"
        rows = list(csv.DictReader(path.read_text().splitlines(), delimiter=";")) if path.exists() else []
        if not rows:
            return SippCounts(0, 0, 0)
        last = rows[-1]
        return SippCounts(int(last["TotalCallCreated"]), int(last["SuccessfulCall(C)"]), int(last["FailedCall(C)"]))

    def messages(self) -> str:
        """Every SIP message sent and received so far."""
        path = self.dir / "messages"
        return path.read_text(errors="replace") if path.exists() else ""

    def talk_ms(self) -> int:
        """How long the only call of a UAC talked by its own clock; 0 where it was not answered, or is not over."""
        return next(iter(talks(self.messages()).values()), 0)

    def trace_tail(self) -> str:
        """The last of the error and message traces, for a failing test."""
        parts = []
        for name in ("screen", "errors", "messages"):
            path = self.dir / name
            if path.exists():
                parts.append(f"--- {self.scenario} {name}\n{path.read_text(errors='replace')[-TRACE_TAIL_CHARS:]}")
        return "\n".join(parts)

    def close(self) -> None:
        """Ends the process if it still runs, and removes its traces."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        ALIVE.discard(self)
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> Sipp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def final_codes(messages: str) -> dict[str, tuple[int, float]]:
    """What each INVITE of a UAC came to, by Call-ID, from its messages: the final code, and when it was sent.

    0 where there was none. The instant is Unix time.
    """
    found: dict[str, tuple[int, float]] = {}
    for at_s, call_id, method, code in _traced(messages):
        if method == "INVITE":
            known, began_s = found.setdefault(call_id, (0, at_s))
            if code >= 200 and not known:
                found[call_id] = (code, began_s)
    return found


def talks(messages: str) -> dict[str, int]:
    """How long the calls of a UAC that are over talked, by Call-ID, from its messages: from 200 to the first BYE (ms).

    It is what this side saw: a machine that stands still makes the talk longer and this number, too.
    """
    up_s: dict[str, float] = {}
    found: dict[str, int] = {}
    for at_s, call_id, method, code in _traced(messages):
        if (method, code) == ("INVITE", 200):
            up_s.setdefault(call_id, at_s)
        elif (method, code) == ("BYE", 0) and call_id in up_s:
            found.setdefault(call_id, round((at_s - up_s[call_id]) * 1_000))
    return found


def _traced(messages: str) -> Iterator[tuple[float, str, str, int]]:
    """The messages of a trace: Unix time, Call-ID, method by CSeq, and the code of an answer or 0."""
    for entry in re.split(r"^-{20,} ", messages, flags=re.MULTILINE)[1:]:
        stamp, _, rest = entry.partition("\n")
        call_id = re.search(r"^Call-ID: *(\S+)", rest, re.MULTILINE)
        method = re.search(r"^CSeq: *\d+ ([A-Z]+)", rest, re.MULTILINE)
        if call_id is None or method is None:  # the end of it is not written yet
            continue
        code = re.search(r"^SIP/2\.0 (\d\d\d) ", rest, re.MULTILINE)
        yield datetime.fromisoformat(stamp.strip()).timestamp(), call_id[1], method[1], int(code[1]) if code else 0


def dial(
    number: str,
    sip_port: int,
    *,
    expect: int = 200,
    hold_ms: int = 100,
    caller: str = DEFAULT_CALLER,
    name: bytes = b"",
    ended_by: str = "caller",
    headers: tuple[str, ...] = (),
    timeout_s: float = UAC_S,
) -> int:
    """One call from a carrier, waited for; how long it talked by SIPp's clock, in ms, or 0.

    With another `expect` than 200 the call must be refused with that code.

    ended_by: "caller" sends BYE after `hold_ms`; "us" waits for our BYE. Raises SippFailed with the traces.
    """
    if expect != 200:
        scenario = Scenario.UAC_REFUSED
    else:
        scenario = Scenario.UAC_HANG_UP if ended_by == "caller" else Scenario.UAC_WAIT_BYE
    with Sipp.uac(
        scenario, number, sip_port, caller=caller, name=name, hold_ms=hold_ms, expect=expect, headers=headers,
        timeout_s=timeout_s,
    ) as call:  # fmt: skip
        call.wait()
        return call.talk_ms()
