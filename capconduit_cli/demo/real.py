"""The demo's day on a real Asterisk: SIP calls by SIPp through the rendered dialplan, in the lab of a checkout.

The outside dependencies are the lab (`lab/`, which is no part of an installed package), its Asterisk and SIPp. **Fails
closed**: what is missing is said before anything starts, and every process that was started is ended.
"""

from __future__ import annotations

import asyncio
import csv
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from capconduit.config import Config
from capconduit.errors import PeerError, UsageError
from capconduit.render.contexts import CDR_FIELDS, CDR_FILE, RtpRange
from capconduit.render.engine import render_all
from capconduit.render.from_config import render_context
from capconduit.services import campaigns, dids, targets, trunks
from capconduit.services.office import Office
from capconduit.vocab import RejectCode, TargetKind
from capconduit_cli.demo import estate
from capconduit_cli.demo.estate import (
    BRIGHTCO,
    LEGAL_DID,
    LEXLINE,
    OVERFLOW,
    ROOFING_DID,
    ROOFPRO,
    SHINGLE,
    SOLAR_DID,
    SPARE_DID,
    SUNHAUS,
    TRIAL_DID,
    UNKNOWN_DID,
)
from capconduit_cli.demo.report import Check, Truth
from capconduit_cli.demo.stage import Stage
from capconduit_cli.demo.traffic import Act, Progress, pay_out

if TYPE_CHECKING:
    from lab.asterisk import Asterisk
    from lab.ports import LabPorts
    from lab.sipp import Sipp

Answer = TypeVar("Answer")

CHECKOUT: Final = Path(__file__).parents[2]
CALL_TIMEOUT_S: Final = 20.0
TARGET_TIMEOUT_S: Final = 120.0
HOSTILE_NAME: Final = rb'"${SHELL(id)}, (x):1:2" '

EXPECTED_REJECTS: Final = (
    RejectCode.TARGETS_ALL_FAILED,
    RejectCode.DID_UNKNOWN,
    RejectCode.DID_UNASSIGNED,
    RejectCode.DID_SUSPENDED,
    RejectCode.CALLER_ANONYMOUS,
    RejectCode.CAMPAIGN_PAUSED,
    "cap_reached:campaign:concurrent",
    RejectCode.BALANCE_HELD_BY_OTHER_CALLS,
    RejectCode.BALANCE_EXHAUSTED,
)


@dataclass(frozen=True)
class SipCall:
    """A call by SIPp, and what must come of it. `scenario` is one of the lab's; `dials` are targets with DIALSTATUS."""

    after_ms: int
    did: str
    scenario: str = "uac_hang_up"
    hold_ms: int = 0
    expect: int = 200
    reason: str = ""
    dials: tuple[tuple[str, str], ...] | None = None  # None: not foreseen, the strategy draws
    hung_up_by: str = "caller"
    caller: str = ""
    name: bytes = b""
    cut: bool = False


@dataclass(frozen=True)
class Quiet:
    """Every call before ends first: what comes next would change what it meets."""


@dataclass(frozen=True)
class Phase:
    """A part of the day; it begins when every call before has ended."""

    title: str
    note: str
    steps: Sequence[SipCall | Act | Quiet]


@dataclass(frozen=True)
class Places:
    """SIP URIs of what targets can be: one that answers, one that answers and hangs up, one busy, one silent."""

    answers: str
    hangs_up: str
    busy: str
    silent: str


def require_lab() -> None:
    """Make `lab` importable. Raises UsageError outside of a checkout."""
    if not (CHECKOUT / "lab" / "asterisk.py").is_file():
        raise UsageError(
            "lab-missing",
            "--asterisk needs the lab, which is in a checkout of CapConduit and not in the installed package",
            "run `make lab-demo` in a checkout; without --asterisk the demo needs nothing",
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))


def addresses(places: Places) -> dict[str, tuple[TargetKind, str]]:
    """The estate's targets as they are in the morning."""
    at = {
        SUNHAUS: places.answers, BRIGHTCO: places.answers, OVERFLOW: places.answers, LEXLINE: places.answers,
        ROOFPRO: places.hangs_up, SHINGLE: places.hangs_up,
    }  # fmt: skip
    return {name: (TargetKind.PJSIP, address) for name, address in at.items()}


def script(places: Places) -> list[Phase]:
    """The whole day."""
    return [
        Phase("ordinary calls", "SIPp calls, Asterisk asks over FastAGI, SIPp answers", _ordinary()),
        Phase("targets that are busy or silent", "the next target is tried, until none is left", _failover(places)),
        Phase("wrong numbers and withheld ones", "rejected with the SIP code that fits", _wrong_numbers()),
        Phase("a burst against a cap on calls at once", "roofing takes 4", _burst(places)),
        Phase(
            "a balance runs dry in mid-call", "Asterisk itself ends the call when its money is used up", _dry(places)
        ),
    ]


def _ordinary() -> list[SipCall]:
    sunhaus = ((SUNHAUS, "ANSWER"),)
    return [
        SipCall(0, SOLAR_DID, hold_ms=2_200, dials=sunhaus),
        SipCall(100, SOLAR_DID, hold_ms=1_500, dials=sunhaus, name=HOSTILE_NAME),
        SipCall(100, SOLAR_DID, hold_ms=500, dials=sunhaus),  # below the billable threshold
        SipCall(100, ROOFING_DID, "uac_wait_bye", hung_up_by="target"),
        SipCall(100, LEGAL_DID, hold_ms=3_200, dials=((LEXLINE, "ANSWER"),)),
    ]


def _failover(places: Places) -> list[SipCall | Act | Quiet]:
    busy = tuple((name, "BUSY") for name in (SUNHAUS, BRIGHTCO, OVERFLOW))
    failed = RejectCode.TARGETS_ALL_FAILED.value
    return [
        _move(SUNHAUS, places.busy, "busy"),
        SipCall(100, SOLAR_DID, hold_ms=1_200, dials=(busy[0], (BRIGHTCO, "ANSWER"))),
        SipCall(100, SOLAR_DID, hold_ms=600, dials=(busy[0], (BRIGHTCO, "ANSWER"))),
        _move(LEXLINE, places.silent, "silent"),
        SipCall(100, LEGAL_DID, hold_ms=700, dials=((LEXLINE, "NOANSWER"), (OVERFLOW, "ANSWER"))),
        SipCall(100, LEGAL_DID, "uac_cancel", hold_ms=400, dials=((LEXLINE, "CANCEL"),)),
        Quiet(),
        _move(BRIGHTCO, places.busy, "busy"),
        _move(OVERFLOW, places.busy, "busy"),
        SipCall(100, SOLAR_DID, "uac_refused", expect=486, reason=failed, dials=busy, hung_up_by="system"),
    ]


def _wrong_numbers() -> list[SipCall | Act | Quiet]:
    refused = partial(SipCall, scenario="uac_refused", dials=(), hung_up_by="system")
    pause = partial(campaigns.pause_campaign, name=estate.ROOFING)
    return [
        refused(100, UNKNOWN_DID, expect=404, reason=RejectCode.DID_UNKNOWN.value),
        refused(100, SPARE_DID, expect=404, reason=RejectCode.DID_UNASSIGNED.value),
        refused(100, SOLAR_DID, expect=433, reason=RejectCode.CALLER_ANONYMOUS.value, caller="anonymous"),
        Act(100, f"suspends the DID {TRIAL_DID}", partial(dids.suspend_did, number=TRIAL_DID, suspended=True)),
        refused(100, TRIAL_DID, expect=404, reason=RejectCode.DID_SUSPENDED.value),
        Act(100, f"pauses the campaign {estate.ROOFING}", partial(pause, paused=True)),
        refused(100, ROOFING_DID, expect=480, reason=RejectCode.CAMPAIGN_PAUSED.value),
        Quiet(),
        Act(100, f"resumes the campaign {estate.ROOFING}", partial(pause, paused=False)),
    ]


def _burst(places: Places) -> list[SipCall | Act | Quiet]:
    full = "cap_reached:campaign:concurrent"
    refused = SipCall(100, ROOFING_DID, "uac_refused", expect=486, reason=full, dials=(), hung_up_by="system")
    return [
        _move(ROOFPRO, places.answers, "an answering one"),
        _move(SHINGLE, places.answers, "an answering one"),
        *[SipCall(100, ROOFING_DID, hold_ms=4_000) for _ in range(estate.ROOFING_CALLS)],
        replace(refused, after_ms=500),
        refused,
    ]


def _dry(places: Places) -> list[SipCall | Act | Quiet]:
    refused = partial(SipCall, scenario="uac_refused", expect=403, dials=(), hung_up_by="system")
    answered = ((LEXLINE, "ANSWER"),)
    return [
        _move(LEXLINE, places.answers, "an answering one"),
        Act(100, f"pays {estate.ZENITH} out, all but 0.04 EUR", pay_out),
        SipCall(200, LEGAL_DID, "uac_wait_bye", dials=answered, hung_up_by="system", cut=True),
        refused(2_600, LEGAL_DID, reason=RejectCode.BALANCE_HELD_BY_OTHER_CALLS.value),
        refused(3_000, LEGAL_DID, reason=RejectCode.BALANCE_EXHAUSTED.value),
    ]


def _move(target: str, address: str, what: str) -> Act:
    return Act(
        100, f"gives {target} another address, {what}", partial(targets.set_target, name=target, address=address)
    )


# --- Asterisk and SIPp


async def prepare() -> tuple[Path, LabPorts]:
    """The unpacked Asterisk and free ports; what is missing is got first. Raises PeerError."""
    from lab.ports import LabPorts
    from lab.root import ensure_sipp, ensure_tree

    await _in_lab(ensure_sipp)
    return await _in_lab(ensure_tree), await _in_lab(LabPorts.choose)


@asynccontextmanager
async def sip_targets() -> AsyncIterator[Places]:
    """SIPp processes that answer as targets do."""
    from lab.sipp import Scenario, Sipp

    started: list[Sipp] = []

    async def start(scenario: Scenario, **how: int) -> str:
        target = await _in_lab(partial(Sipp.uas, scenario, timeout_s=TARGET_TIMEOUT_S, **how))
        started.append(target)
        return target.uri

    try:
        yield Places(
            answers=await start(Scenario.UAS_ANSWER, ring_ms=300),
            hangs_up=await start(Scenario.UAS_HANG_UP, ring_ms=300, hold_ms=1_400),
            busy=await start(Scenario.UAS_REFUSE, code=486),
            silent=await start(Scenario.UAS_RING),
        )
    finally:
        for target in started:
            target.close()


def asterisk_section(ports: LabPorts) -> Mapping[str, Mapping[str, str]]:
    """What the configuration says of this Asterisk."""
    return {"asterisk": {"sip_listen": f"127.0.0.1:{ports.sip}", "iax_listen": f"127.0.0.1:{ports.iax}"}}


@asynccontextmanager
async def running_asterisk(tree: Path, ports: LabPorts, config: Config, stage: Stage) -> AsyncIterator[Asterisk]:
    """An Asterisk with the files that `capconduit render` would write. Raises PeerError with its log."""
    from lab.asterisk import Asterisk

    context = render_context(config, await asyncio.to_thread(trunks.list_trunks, stage.office), {})
    rtp = RtpRange(start=ports.rtp_start, end=ports.rtp_end)
    files = render_all(replace(context, agi_port=stage.agi_port, rtp=rtp))
    asterisk = Asterisk(tree, files, ports, node_name=config.node.name)
    try:
        await _in_lab(asterisk.start)
        yield asterisk
    finally:
        await _in_lab(asterisk.close)


async def _in_lab(work: Callable[[], Answer]) -> Answer:
    """The answer of blocking `work` of the lab, on a thread. Cancelled, it waits for the end of what has begun: it may
    have started a process. Raises PeerError."""
    from lab.wait import LabError

    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
    except LabError as error:
        raise PeerError("demo-lab", str(error).splitlines()[0], "`python -m lab root` sets the lab up") from error


# --- the performance


class Performance:
    """Plays the script by SIPp. `run()` returns when every call has ended."""

    def __init__(self, phases: Sequence[Phase], asterisk: Asterisk, office: Office, seed: int) -> None:
        self._phases, self._asterisk, self._office = phases, asterisk, office
        rng = random.Random(seed)
        self._callers = iter(
            rng.sample([f"+1{area}55501{line}" for area in (212, 305, 415) for line in range(10, 99)], 99)
        )
        self._calls: list[SipCall] = []
        self._running: list[tuple[Sipp, asyncio.Future[Any]]] = []
        self.failed: list[str] = []
        calls = sum(isinstance(step, SipCall) for phase in phases for step in phase.steps)
        self.progress = Progress(calls, len(phases))

    async def run(self) -> list[Truth]:
        """Play the whole script; what SIPp and Asterisk saw of each call. Cancelled, it leaves no process behind."""
        try:
            for number, phase in enumerate(self._phases, 1):
                self.progress.phase, self.progress.title, self.progress.note = number, phase.title, phase.note
                for step in phase.steps:
                    if isinstance(step, Quiet):
                        await self._quiet()
                        continue
                    await asyncio.sleep(step.after_ms / 1000)
                    await self._step(step)
                await self._quiet()
        finally:
            for sipp, _ in self._running:
                sipp.close()
        await _in_lab(self._asterisk.wait_idle)
        return truths(self._calls, self._asterisk.cdr_rows(CDR_FILE))

    async def _step(self, step: SipCall | Act) -> None:
        from lab.sipp import Scenario, Sipp

        if isinstance(step, Act):
            await asyncio.to_thread(step.do, self._office)
            self.progress.tell_act(step.what)
            return
        call = replace(step, caller=step.caller or next(self._callers))
        sipp = await _in_lab(
            partial(
                Sipp.uac, Scenario(call.scenario), call.did, self._asterisk.ports.sip, caller=call.caller,
                name=call.name, hold_ms=call.hold_ms, expect=call.expect, timeout_s=CALL_TIMEOUT_S,
            )
        )  # fmt: skip
        self._running.append((sipp, asyncio.ensure_future(asyncio.to_thread(sipp.wait))))
        self._calls.append(call)
        self.progress.placed += 1

    async def _quiet(self) -> None:
        """Wait until every SIPp has ended; what did not go as scripted is kept in `failed`."""
        from lab.wait import LabError

        for sipp, end in self._running:
            try:
                await end
            except LabError as error:
                self.failed.append(str(error).splitlines()[0])
            sipp.close()
        self._running.clear()

    def check(self) -> Check:
        """Whether every call ended for its caller with the SIP code, and by the side, that the script says."""
        return Check("every caller met the SIP code and the hangup of the script", wrong=self.failed)


def truths(placed: Sequence[SipCall], cdr_rows: Sequence[str]) -> list[Truth]:
    """What SIPp did and Asterisk's own CDR file says of each call; the caller's number ties both together."""
    records = [dict(zip(CDR_FIELDS, row, strict=True)) for row in csv.reader(cdr_rows)]
    by_caller = {record["src"]: record for record in records}
    found = []
    for call in placed:
        record = by_caller.get(call.caller if call.caller != "anonymous" else "", {})
        answered = call.expect == 200 and call.scenario != "uac_cancel"
        found.append(
            Truth(
                uniqueid=record.get("uniqueid", f"the call of {call.caller}"),
                answered=answered,
                talk_ms=round(float(record.get("billsec_s") or 0) * 1000) if answered else 0,
                reason=call.reason,
                sip=call.expect if call.reason else None,
                attempts=call.dials,
                hung_up_by=call.hung_up_by,
                cut=call.cut,
            )
        )
    return found
