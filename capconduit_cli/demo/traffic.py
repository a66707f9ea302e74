"""The demo's day: a seeded script of calls and of what an operator does, performed by the simulated Asterisk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from asterisk_simulator.ami_server import AmiServer
from asterisk_simulator.behaviours import (
    Answers,
    Behaviour,
    Busy,
    CallerCancels,
    CallOutcome,
    CallSpec,
    Congested,
    NoAnswer,
    Unavailable,
)
from asterisk_simulator.world import World
from capconduit.services import balances, campaigns, caps, dids, sellers
from capconduit.services.office import Office
from capconduit.vocab import CapMetric, CapScope, DialStatus, RejectCode, WindowKind
from capconduit_cli.demo import estate
from capconduit_cli.demo.estate import LEGAL_DID, ROOFING_DID, SOLAR_DID, SPARE_DID, TRIAL_DID, UNKNOWN_DID
from capconduit_cli.demo.report import Truth

TALK_MS: Final = (300, 2_600)
RING_MS: Final = (150, 600)  # below the targets' ring time of 1 s
LAST_MICROS: Final = 40_000  # 4 s of a call at 0.01 a second: what zenith is left with before its money runs out
BILLABLE_LEFT: Final = 3

# What a demo of this script meets, in the order in which it meets it.
EXPECTED_REJECTS: Final = (
    RejectCode.TARGETS_ALL_FAILED,
    RejectCode.DID_UNKNOWN,
    RejectCode.DID_UNASSIGNED,
    RejectCode.CALLER_ANONYMOUS,
    "cap_reached:did:attempts:total",
    RejectCode.DID_SUSPENDED,
    "cap_reached:campaign:concurrent",
    "cap_reached:seller:concurrent",
    "cap_reached:system:concurrent",
    RejectCode.TARGETS_ALL_CAPPED,
    "cap_reached:trunk:concurrent",
    RejectCode.CAMPAIGN_PAUSED,
    RejectCode.SELLER_SUSPENDED,
    RejectCode.BALANCE_HELD_BY_OTHER_CALLS,
    RejectCode.BALANCE_EXHAUSTED,
    RejectCode.BALANCE_BELOW_FIRST_INCREMENT,
    "cap_reached:campaign:billable:day",
)

_AREA_CODES: Final = ("201", "206", "305", "312", "404", "415", "512", "602", "617", "702", "718", "913")
_NAMES: Final = ("Ana Ruiz", "J. Smith", "O'Neil, Pat", "Zoë Brandt", "Nguyễn Văn An", "", "MARTIN K", "Front Desk")
# What strangers call themselves. None of it may move a cursor, a decision or a database.
_HOSTILE_NAMES: Final = (
    "Robert'); DROP TABLE call;--",
    "${SHELL(reboot)}",
    'x",CC_VERDICT=dial,"',
    "\x1b[2J\x1b[31mYOU ARE OUT OF MONEY",
    "agi_arg_3: +18005550105",
    "\u202egnirts desrever",
    "名無しさん 電話",
    "A" * 300,
)


@dataclass(frozen=True)
class Ring:
    """A call that comes in `after_ms` after the step before; its n-th Dial meets the n-th of `dials`."""

    after_ms: int
    spec: CallSpec
    dials: tuple[Behaviour, ...] = ()


@dataclass(frozen=True)
class Act:
    """Something an operator does `after_ms` after the step before."""

    after_ms: int
    what: str
    do: Callable[[Office], object]


@dataclass(frozen=True)
class Phase:
    """A part of the day. `alone`: it begins when every call before has ended. `note` says what to look at."""

    title: str
    note: str
    steps: Sequence[Ring | Act]
    alone: bool = False

    @property
    def calls(self) -> int:
        """How many calls come in."""
        return sum(isinstance(step, Ring) for step in self.steps)


class _Writer:
    """Writes calls of the script: callers, names and talk times come from the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        numbers = [f"+1{area}5550{line}" for area in _AREA_CODES for line in range(100, 200)]
        self._callers = iter(self.rng.sample(numbers, len(numbers)))

    def ring(
        self,
        did: str,
        *dials: Behaviour,
        after_ms: int = 0,
        name: str | None = None,
        ani: str | None = None,
        trunk: str = estate.CARRIER,
    ) -> Ring:
        spec = CallSpec(
            dnid=did,
            ani=next(self._callers) if ani is None else ani,
            caller_name=self.rng.choice(_NAMES) if name is None else name,
            trunk=trunk,
            sip_call_id=f"{self.rng.getrandbits(48):012x}@carrier.example",
        )
        return Ring(after_ms, spec, dials)

    def answer(self, talk_ms: int | None = None) -> Answers:
        return Answers(
            after_ms=self.rng.randint(*RING_MS),
            talk_ms=self.rng.randint(*TALK_MS) if talk_ms is None else talk_ms,
            hung_up_by=self.rng.choice(("caller", "target")),
        )


def script(seed: int) -> list[Phase]:
    """The whole day; the same seed gives the same script."""
    w = _Writer(seed)
    return [
        Phase("an ordinary morning", "each call asks the daemon over FastAGI; AMI tells of its ends", _morning(w)),
        Phase("targets that are busy, silent or away", "the next target is tried, until none is left", _failover(w)),
        Phase("callers who give up", "what was held for them is free at once", _give_up(w)),
        Phase("wrong numbers and withheld ones", "rejected with the SIP code that fits", _wrong_numbers(w)),
        Phase("a trial number with five calls in all", "calls in flight count, so no sixth gets in", _trial(w)),
        Phase("a burst against caps on calls at once", "roofing takes 4, acme 10, everybody 14", _burst(w), alone=True),
        Phase("both targets of a campaign full", "and two calls at once on the backup trunk", _full(w), alone=True),
        Phase("the operator pauses and resumes", "live calls go on, new ones are rejected", _paused(w)),
        Phase("a balance runs dry in mid-call", "the hold grows until all is held, then it ends", _dry(w), alone=True),
        Phase("the last billable calls of the day", "short calls give their places back", _last(w), alone=True),
    ]


def _morning(w: _Writer) -> list[Ring]:
    """Answered calls. legal's come one by one, and so use none of its few places at overflow, which the burst needs."""
    steps = []
    for number in range(40):
        talk_ms = None
        if number % 5 == 1:
            did, talk_ms = LEGAL_DID, w.rng.randint(300, 900)
        elif number % 5 == 3:
            did = ROOFING_DID
        else:
            did = SOLAR_DID
            if number % 4 == 0:  # ends below the billable threshold
                talk_ms = w.rng.randint(200, estate.THRESHOLD_MS - 200)
        name = _HOSTILE_NAMES[number // 5] if number % 5 == 2 else None
        busy = (Busy(w.rng.randint(*RING_MS)),) if number % 10 in (0, 3) else ()
        steps.append(w.ring(did, *busy, w.answer(talk_ms), after_ms=w.rng.randint(80, 260), name=name))
    return steps


def _failover(w: _Writer) -> list[Ring]:
    rng = w.rng
    return [
        w.ring(SOLAR_DID, Busy(200), w.answer(), after_ms=200),
        w.ring(SOLAR_DID, NoAnswer(), w.answer(), after_ms=150),
        w.ring(SOLAR_DID, Unavailable(), Congested(100), w.answer(), after_ms=150),
        w.ring(ROOFING_DID, Busy(300), w.answer(), after_ms=150),
        w.ring(ROOFING_DID, Congested(150), w.answer(), after_ms=150),
        w.ring(SOLAR_DID, Busy(rng.randint(*RING_MS)), Busy(150), Busy(100), after_ms=150),
        w.ring(ROOFING_DID, Unavailable(), Unavailable(), after_ms=150),
        w.ring(SOLAR_DID, NoAnswer(), Busy(200), Congested(100), after_ms=150),
    ]


def _give_up(w: _Writer) -> list[Ring]:
    return [
        w.ring(did, *first, CallerCancels(w.rng.randint(200, 800)), after_ms=150)
        for did, first in (
            (SOLAR_DID, ()),
            (ROOFING_DID, ()),
            (LEGAL_DID, ()),
            (SOLAR_DID, (Busy(150),)),
            (ROOFING_DID, (Unavailable(),)),
        )
    ]


def _wrong_numbers(w: _Writer) -> list[Ring]:
    return [
        w.ring(UNKNOWN_DID, after_ms=200),
        w.ring("+19995550123", after_ms=80, name=_HOSTILE_NAMES[0]),
        w.ring(SPARE_DID, after_ms=80),
        w.ring(SOLAR_DID, after_ms=80, ani="anonymous", name="Anonymous"),
        w.ring("12", after_ms=80),
        w.ring(SPARE_DID, after_ms=80),
        w.ring(LEGAL_DID, after_ms=80, ani="", name=""),
    ]


def _trial(w: _Writer) -> list[Ring | Act]:
    suspend = partial(dids.suspend_did, number=TRIAL_DID, suspended=True)
    return [
        *(w.ring(TRIAL_DID, w.answer(w.rng.randint(300, 1_800)), after_ms=120) for _ in range(7)),
        Act(300, f"suspends the DID {TRIAL_DID}", suspend),
        w.ring(TRIAL_DID, after_ms=150),
        w.ring(TRIAL_DID, after_ms=100),
    ]


def _burst(w: _Writer) -> list[Ring]:
    """roofing takes 4 calls, acme 10, the system 14. Nobody hangs up before the last of these has come."""

    def held() -> Answers:
        return Answers(after_ms=w.rng.randint(*RING_MS), talk_ms=w.rng.randint(2_600, 3_600))

    roofing = [w.ring(ROOFING_DID, held(), after_ms=40) for _ in range(estate.ROOFING_CALLS)]
    over_campaign = [w.ring(ROOFING_DID, after_ms=40) for _ in range(3)]
    solar = [w.ring(SOLAR_DID, held(), after_ms=40) for _ in range(estate.ACME_CALLS - estate.ROOFING_CALLS)]
    over_seller = [w.ring(SOLAR_DID, after_ms=40) for _ in range(3)]
    legal = [w.ring(LEGAL_DID, held(), after_ms=40) for _ in range(estate.SYSTEM_CALLS - estate.ACME_CALLS)]
    over_system = [w.ring(did, after_ms=40) for did in (LEGAL_DID, SOLAR_DID, ROOFING_DID)]
    return [*roofing, *over_campaign, *solar, *over_seller, *legal, *over_system]


def _full(w: _Writer) -> list[Ring]:
    """lexline takes 2 calls at once; overflow's rule has one of its 3 connected calls left, then it is skipped."""
    held = [w.ring(LEGAL_DID, Answers(300, 2_000, "target"), after_ms=60) for _ in range(estate.LEXLINE_CALLS + 1)]
    rejected = [w.ring(LEGAL_DID, after_ms=60) for _ in range(3)]
    backup = [w.ring(SOLAR_DID, w.answer(1_500), after_ms=60, trunk=estate.BACKUP) for _ in range(estate.BACKUP_CALLS)]
    over_trunk = [w.ring(SOLAR_DID, after_ms=60, trunk=estate.BACKUP) for _ in range(2)]
    return [*held, *rejected, *backup, *over_trunk]


def _paused(w: _Writer) -> list[Ring | Act]:
    pause = campaigns.pause_campaign
    suspend = sellers.suspend_seller
    return [
        Act(200, f"pauses the campaign {estate.ROOFING}", partial(pause, name=estate.ROOFING, paused=True)),
        w.ring(ROOFING_DID, after_ms=150),
        w.ring(ROOFING_DID, after_ms=80),
        Act(150, f"resumes the campaign {estate.ROOFING}", partial(pause, name=estate.ROOFING, paused=False)),
        w.ring(ROOFING_DID, w.answer(1_200), after_ms=100),
        Act(150, f"suspends the seller {estate.ACME}", partial(suspend, name=estate.ACME, suspended=True)),
        w.ring(SOLAR_DID, after_ms=100),
        w.ring(ROOFING_DID, after_ms=80),
        Act(150, f"lets the seller {estate.ACME} work again", partial(suspend, name=estate.ACME, suspended=False)),
    ]


def _dry(w: _Writer) -> list[Ring | Act]:
    """zenith has 4 s of money left. A call takes it all in two slices and is cut; others find nothing."""
    return [
        Act(100, f"pays {estate.ZENITH} out, all but 0.04 EUR", pay_out),
        w.ring(LEGAL_DID, Answers(after_ms=250, talk_ms=60_000), after_ms=200),
        w.ring(LEGAL_DID, after_ms=2_400),
        w.ring(LEGAL_DID, after_ms=300),
        w.ring(LEGAL_DID, after_ms=2_400),
        w.ring(LEGAL_DID, after_ms=200),
        Act(100, f"gives {estate.LEGAL} a rate in steps of 6 s, and 0.10 EUR", _dearer),
        w.ring(LEGAL_DID, after_ms=150),
        Act(100, f"adds 2.00 EUR for {estate.ZENITH}", partial(_pay, micros=2_000_000)),
        w.ring(LEGAL_DID, w.answer(800), after_ms=150),
        w.ring(LEGAL_DID, w.answer(600), after_ms=100),
    ]


def _last(w: _Writer) -> list[Ring | Act]:
    """Short calls give their place back, so more than three calls get through until three were billable."""
    short = [w.ring(SOLAR_DID, w.answer(400), after_ms=100) for _ in range(2)]
    long = [w.ring(SOLAR_DID, w.answer(w.rng.randint(1_300, 2_200)), after_ms=120) for _ in range(BILLABLE_LEFT)]
    refused = [w.ring(SOLAR_DID, after_ms=100) for _ in range(3)]
    return [
        Act(100, f"leaves {estate.SOLAR} {BILLABLE_LEFT} more billable calls today", _leave_few),
        *short,
        # when these come, the short ones have ended below the threshold and given their places back
        Ring(1_500, long[0].spec, long[0].dials),
        *long[1:],
        *refused,
    ]


# --- what the operator does


def _pay(office: Office, micros: int) -> None:
    balances.adjust(office, estate.ZENITH, micros, reason="payment")


def pay_out(office: Office) -> None:
    available = balances.show_balance(office, estate.ZENITH).account.available_micros
    balances.adjust(office, estate.ZENITH, LAST_MICROS - available, reason="paid out at the seller's request")


def _dearer(office: Office) -> None:
    campaigns.set_campaign(office, estate.LEGAL, rate=estate.EUR_STEPS)
    _pay(office, 100_000)


def _leave_few(office: Office) -> None:
    for view in caps.cap_usage(office, CapScope.CAMPAIGN, estate.SOLAR):
        if view.cap.metric is CapMetric.BILLABLE:
            left = view.used + view.in_flight + BILLABLE_LEFT
            caps.set_caps(
                office, CapScope.CAMPAIGN, estate.SOLAR, [caps.Limit(CapMetric.BILLABLE, WindowKind.DAY, left)]
            )


# --- the performance

_DIALS: ContextVar[list[Behaviour] | None] = ContextVar("what the Dials of this task's call meet, the next one first")


class DemoWorld(World):
    """A simulated Asterisk in which each call brings along what its Dials meet."""

    def behaviour(self, dial: str, target: str) -> Behaviour:
        """The next of the call's own; the last one stays."""
        dials = _DIALS.get(None)
        if not dials:
            return super().behaviour(dial, target)
        return dials.pop(0) if len(dials) > 1 else dials[0]

    async def place(self, ring: Ring) -> CallOutcome:
        """Run one call of the script to its end. Belongs into a task of its own."""
        _DIALS.set(list(ring.dials))
        return await self.call(ring.spec)


def make_world(ami: AmiServer, agi_port: int, seed: int) -> DemoWorld:
    """The simulated Asterisk, asking a daemon on loopback."""
    return DemoWorld("127.0.0.1", agi_port, ami, random.Random(seed), systemname=ami.systemname)


def truth_of(outcome: CallOutcome) -> Truth:
    """What the simulated Asterisk saw of a call, as the report compares it."""
    return Truth(
        uniqueid=outcome.uniqueid,
        answered=outcome.dialstatus == DialStatus.ANSWER,
        talk_ms=outcome.talk_ms,
        reason=outcome.reject_reason or (RejectCode.ENGINE_TIMEOUT if outcome.fallback else ""),
        sip=outcome.sip or None,
        attempts=tuple((attempt.target, attempt.dialstatus) for attempt in outcome.attempts),
        hung_up_by=outcome.ended_by,
        cut=outcome.cut_by_timeout,
    )


@dataclass
class Progress:
    """How far the demo is, for whoever shows it."""

    total: int
    phases: int
    phase: int = 0
    title: str = ""
    note: str = ""
    placed: int = 0
    acts: list[str] = field(default_factory=list)

    def tell_act(self, what: str) -> None:
        """The operator did something."""
        self.note = f"the operator {what}"
        self.acts.append(self.note)


class Performance:
    """Plays a script in a world. `run()` returns when every call has ended."""

    def __init__(self, phases: Sequence[Phase], world: DemoWorld, office: Office) -> None:
        self._phases, self._world, self._office = phases, world, office
        self._calls: set[asyncio.Task[CallOutcome]] = set()
        self.progress = Progress(sum(phase.calls for phase in phases), len(phases))

    async def run(self) -> list[CallOutcome]:
        """Play the whole script; what the simulated Asterisk saw of each call. Cancelled, it leaves no call behind."""
        try:
            for number, phase in enumerate(self._phases, 1):
                if phase.alone:
                    await self._quiet()
                self.progress.phase, self.progress.title, self.progress.note = number, phase.title, phase.note
                for step in phase.steps:
                    await asyncio.sleep(step.after_ms / 1000)
                    await self._step(step)
            await self._quiet()
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)
        return list(self._world.outcomes)

    async def _step(self, step: Ring | Act) -> None:
        if isinstance(step, Act):
            await asyncio.to_thread(step.do, self._office)
            self.progress.tell_act(step.what)
            return
        call = asyncio.get_running_loop().create_task(self._world.place(step))
        self._calls.add(call)
        self.progress.placed += 1

    async def _quiet(self) -> None:
        """Wait until every call has ended. Raises what a call raised, which is a bug of the simulator's."""
        await asyncio.gather(*self._calls)
