"""SIP load for a bench: a SIPp that calls and one that answers, without traces, bounded in calls and time."""

from __future__ import annotations

import csv
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.ports import LOOPBACK, MEDIA_SPACING, free_port, free_udp_range
from lab.wait import LabError, wait_for

SCENARIOS: Final = Path(__file__).parent / "sipp"
SPARE_S: Final = 40.0  # for the last calls of a run, retransmissions included
MEDIA_PORTS: Final = 400


@dataclass(frozen=True, slots=True)
class SipRun:
    """What became of a run: calls by their end, seconds from the first to the last, ms from INVITE to 180 of each."""

    answered: int
    failed: int
    seconds: float
    ringing_ms: list[float]

    @property
    def per_s(self) -> float:
        """Answered calls a second."""
        return self.answered / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """Of the times to 180 Ringing (ms); 0 where no call rang."""
        ordered = sorted(self.ringing_ms)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@contextmanager
def answering(directory: Path) -> Iterator[str]:
    """A target that rings and answers at once; its SIP URI."""
    port = _udp_port()
    command = [*_sipp("load_uas", port), "-timeout", "3600s"]
    with (directory / "uas.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        wait_for(lambda: _listens(port, process), "SIPp that answers")
        yield f"sip:target@{LOOPBACK}:{port}"
    finally:
        process.kill()
        process.wait()


def call(directory: Path, number: str, sip_port: int, *, rate: int, calls: int, at_once: int) -> SipRun:
    """`calls` calls, `rate` begun every second, at most `at_once` under way. Raises LabError where SIPp hangs."""
    statistics, times = directory / "uac.csv", directory / "uac.rtt"
    for path in (statistics, times):
        path.unlink(missing_ok=True)
    command = [
        *_sipp("load_uac", _udp_port()), "-s", number, "-r", str(rate), "-m", str(calls), "-l", str(at_once),
        "-trace_stat", "-stf", str(statistics), "-fd", "1s", "-trace_rtt", "-rtt_freq", "1",
        "-timer_resol", "1", "-recv_timeout", "10000", f"{LOOPBACK}:{sip_port}",
    ]  # fmt: skip
    limit_s = calls / rate + SPARE_S
    began_s = time.monotonic()
    with (directory / "uac.log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory)
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.wait()
        raise LabError(f"SIPp did not end within {limit_s:.0f} s") from error
    seconds = time.monotonic() - began_s
    rows = list(csv.DictReader(statistics.read_text().splitlines(), delimiter=";"))
    if not rows:
        raise LabError(f"SIPp ended with {process.returncode} and counted nothing")
    last = rows[-1]
    return SipRun(int(last["SuccessfulCall(C)"]), int(last["FailedCall(C)"]), seconds, _times(directory))


def _sipp(scenario: str, port: int) -> list[str]:
    media = free_udp_range(MEDIA_PORTS, MEDIA_SPACING)
    return [
        "sipp", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", LOOPBACK, "-mi", LOOPBACK, "-p", str(port),
        "-mp", str(media), "-nostdin",
    ]  # fmt: skip


def _udp_port() -> int:
    return free_port(socket.SOCK_DGRAM)


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise LabError(f"SIPp ended with {process.returncode}")
    return any(row.split()[1].endswith(f":{port:04X}") for row in Path("/proc/net/udp").read_text().splitlines()[1:])


def _times(directory: Path) -> list[float]:
    """Milliseconds from INVITE to 180 of each call, as SIPp wrote them."""
    found: list[float] = []
    for path in [*directory.glob("load_uac_*_rtt.csv"), *directory.glob("uac.rtt")]:
        rows = csv.DictReader(path.read_text().splitlines(), delimiter=";")
        found.extend(float(row["response_time_ms"]) for row in rows)
        path.unlink()
    return found
