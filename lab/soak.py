"""`python -m lab.soak`: a thousand calls with every kind of end while daemon, AMI and channels are killed at random.

At the end our CDRs must be what SIPp itself counted, call by call, and nothing may be left: no place, no hold, no live
call, no channel. Prints its numbers; the exit code is 5 where anything differs. Bounded in time.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from capconduit.domain.model import Cdr
from capconduit.domain.rating import Tariff, charge
from capconduit.services import balances, calls, campaigns, caps, dids, targets
from capconduit.vocab import CapMetric, CapScope, TargetKind
from lab.asterisk import Asterisk
from lab.floor import RATE, SELLER, TRUNK, Floor
from lab.ports import LOOPBACK
from lab.root import DEFAULT_SUITE, SUITES, ensure_sipp, ensure_tree
from lab.sipp import Scenario, Sipp, SippFailed, final_codes
from lab.wait import LabError, pause, wait_for

FUNDS_MICROS: Final = 100_000_000_000
CALLING_SHARE: Final = 0.6  # of the minutes; the rest is for what is still under way
MINUTES: Final = 8.0
SETTLED_S: Final = 90.0  # until everything has ended, when nothing more is killed
PAUSE_S: Final = (2.0, 7.0)  # between two faults
AWAY_S: Final = (0.2, 3.0)  # how long the daemon or AMI is away
FROZEN_S: Final = (0.2, 2.0)
DEADLINE_MS, GUARD_S = 2_000, 3
# A call may have been on its way to the daemon when that was killed, and is answered by nobody until it is ready again.
AWAY_MARGIN_S: Final = 4.0
DIFFERS: Final = 5


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of end: who calls, who is called, and how many of a hundred calls."""

    name: str
    caller: Scenario
    target: Scenario | None  # None: nobody listens there
    percent: int
    expect: int = 200
    code: int = 486
    ring_s: int = 20
    hold_ms: int = 1_500


KINDS: Final = (
    Kind("caller hangs up", Scenario.UAC_HANG_UP, Scenario.UAS_ANSWER, 32),
    Kind("target hangs up", Scenario.UAC_WAIT_BYE, Scenario.UAS_HANG_UP, 20),
    Kind("caller cancels", Scenario.UAC_CANCEL, Scenario.UAS_RING, 16, hold_ms=600),
    Kind("caller cancels early", Scenario.UAC_CANCEL_EARLY, None, 8, hold_ms=300),
    Kind("busy", Scenario.UAC_REFUSED, Scenario.UAS_REFUSE, 8, expect=486),
    Kind("congestion", Scenario.UAC_REFUSED, Scenario.UAS_REFUSE, 5, expect=503, code=503),
    Kind("declined", Scenario.UAC_REFUSED, Scenario.UAS_REFUSE, 4, expect=403, code=603),
    Kind("no answer", Scenario.UAC_REFUSED, Scenario.UAS_RING, 7, expect=480, ring_s=1),
)


@dataclass(slots=True)
class Stream:
    """The calls of one kind: their number, SIPp's side of them, and what we expect."""

    kind: Kind
    number: str
    count: int
    uac: Sipp | None = None


@dataclass(slots=True)
class Faults:
    """What was done to the floor, and when the daemon was away (Unix time)."""

    done: Counter[str] = field(default_factory=Counter)
    away: list[tuple[float, float]] = field(default_factory=list)

    def excuse(self, began_s: float) -> bool:
        """Whether the daemon may never have heard of a call that began then."""
        return any(since - AWAY_MARGIN_S <= began_s <= until + AWAY_MARGIN_S for since, until in self.away)


class Soak:
    """One run on one floor."""

    def __init__(self, floor: Floor, count: int, minutes: float, seed: int) -> None:
        self.floor = floor
        self.random = random.Random(seed)
        self.calling_s = minutes * 60 * CALLING_SHARE
        self.deadline_s = time.monotonic() + minutes * 60
        self.faults = Faults()
        self.streams = [self._stream(place, kind, count) for place, kind in enumerate(KINDS, 1)]
        self.left: list[str] = []  # what is wrong

    def _stream(self, place: int, kind: Kind, count: int) -> Stream:
        name, number = f"kind{place}", f"+1800557{place:04d}"
        office = self.floor.office
        campaigns.add_campaign(office, name, seller=SELLER, rate=RATE)
        limits = [caps.parse_limit(CapMetric.CONCURRENT, "500")]
        limits += [caps.parse_limit(metric, "9999/day") for metric in (CapMetric.CONNECTED, CapMetric.BILLABLE)]
        caps.set_caps(office, CapScope.CAMPAIGN, name, limits)
        dids.add_did(office, number, trunk=TRUNK, campaign=name)
        return Stream(kind, number, max(round(count * kind.percent / 100), 1))

    # --- traffic and faults -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All calls, with faults as long as they last; then everything comes to rest."""
        with ExitStack() as stack:
            for place, stream in enumerate(self.streams, 1):
                self._begin(stream, f"kind{place}", stack)
            while any(stream.uac and stream.uac.runs for stream in self.streams):
                if time.monotonic() > self.deadline_s:
                    raise LabError(f"the calls do not end: {self._counts()}")
                self._fault()
                self._pause(PAUSE_S)
            self._settle()
            self._compare()

    def _begin(self, stream: Stream, name: str, stack: ExitStack) -> None:
        kind, minutes = stream.kind, self.deadline_s - time.monotonic()
        address = f"sip:target@{LOOPBACK}:9"
        if kind.target is not None:
            uas = stack.enter_context(
                Sipp.uas(kind.target, ring_ms=200, hold_ms=kind.hold_ms, code=kind.code, timeout_s=minutes + SETTLED_S)
            )
            address = uas.uri
        office = self.floor.office
        targets.add_target(office, name, kind=TargetKind.PJSIP, address=address, ring_ms=kind.ring_s * 1_000)
        targets.add_rule(office, name, name)
        stream.uac = stack.enter_context(
            Sipp.uac(
                kind.caller, stream.number, self.floor.ports.sip, hold_ms=kind.hold_ms, expect=kind.expect,
                calls=stream.count, rate=stream.count, period_ms=round(self.calling_s * 1_000), timeout_s=minutes,
            )
        )  # fmt: skip

    def _fault(self) -> None:
        choices: list[tuple[str, Callable[[], None]]] = [
            ("daemon killed", lambda: self._daemon_away(signal.SIGKILL)),
            ("daemon killed", lambda: self._daemon_away(signal.SIGKILL)),
            ("daemon restarted", lambda: self._daemon_away(signal.SIGTERM)),
            ("daemon frozen", self._daemon_frozen),
            ("AMI session killed", self._ami_killed),
            ("AMI session killed", self._ami_killed),
            ("channel hung up", self._channel_hung_up),
            ("channel hung up", self._channel_hung_up),
            ("channel hung up", self._channel_hung_up),
        ]
        name, strike = self.random.choice(choices)
        self.faults.done[name] += 1
        strike()

    def _daemon_away(self, how: signal.Signals) -> None:
        since = time.time()
        self.floor.stop_daemon(how)
        self._pause(AWAY_S)
        self.floor.start_daemon()
        self.faults.away.append((since, time.time()))

    def _daemon_frozen(self) -> None:
        since = time.time()
        self.floor.signal_daemon(signal.SIGSTOP)
        self._pause(FROZEN_S)
        self.floor.signal_daemon(signal.SIGCONT)
        self.faults.away.append((since, time.time()))

    def _ami_killed(self) -> None:
        kick_ami(self.floor.asterisk)

    def _channel_hung_up(self) -> None:
        names = self.floor.asterisk.channels()
        if names:
            self.floor.asterisk.cli(f"channel request hangup {self.random.choice(names)}")

    def _pause(self, between: tuple[float, float]) -> None:
        """Lets the traffic go on for a while."""
        pause(self.random.uniform(*between))

    def _settle(self) -> None:
        """Everything is there again: wait until nothing is under way."""
        floor = self.floor
        wait_for(lambda: floor.status()["ready"] and floor.status()["ami"]["up"], "daemon with AMI", SETTLED_S)
        for what, is_over in (
            ("channel", lambda: not floor.asterisk.channels()),
            ("live call", lambda: not floor.live()),
            ("kept settlement", lambda: not floor.asterisk.database("capconduit/unsettled")),
            ("settlement in the journal", lambda: not floor.status()["journal"]["waiting"]),
        ):
            try:
                wait_for(is_over, f"end of every {what}", SETTLED_S)
            except LabError as error:
                self.left.append(str(error))

    # --- what must be -------------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        cdrs = calls.find_cdrs(self.floor.office, limit=1_000_000)
        by_number: dict[str, list[Cdr]] = {}
        for cdr in cdrs:
            by_number.setdefault(cdr.did, []).append(cdr)
        print(
            f"{'kind':<22}{'SIPp calls':>11}{'answered':>10}{'CDRs':>7}{'refused':>9}{'CDRs':>7}{'never heard of':>16}"
        )
        for stream in self.streams:
            self._compare_stream(stream, by_number.get(stream.number, []))
        self._money(cdrs)
        print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.done.items())))
        print("witnesses: " + ", ".join(f"{name} {count}" for name, count in Counter(c.witness for c in cdrs).items()))

    def _compare_stream(self, stream: Stream, cdrs: Sequence[Cdr]) -> None:
        assert stream.uac is not None
        with contextlib.suppress(SippFailed):  # what was hung up or refused under it is a failure to SIPp
            stream.uac.wait()
        counts, seen = stream.uac.counts(), final_codes(stream.uac.messages())
        ours = {cdr.sip_call_id: cdr for cdr in cdrs}
        unheard = 0
        for call_id, (code, began_s) in seen.items():
            cdr = ours.pop(call_id, None)
            if cdr is None:
                unheard += 1
                if code == 200 or not self.faults.excuse(began_s):
                    self.left.append(f"{stream.kind.name}: SIPp's call {call_id} got {code} and has no CDR")
            elif (cdr.dialstatus == "ANSWER") is not (code == 200):
                self.left.append(f"{stream.kind.name}: call {call_id} got {code}, its CDR says {cdr.dialstatus!r}")
        self.left += [f"{stream.kind.name}: CDR {c.call_id} of no call of SIPp's" for c in ours.values()]
        answered = sum(code == 200 for code, _ in seen.values())
        told = sum(cdr.dialstatus == "ANSWER" for cdr in cdrs)
        for what, one, other in (
            ("calls made", counts.created, stream.count),
            ("calls ended", counts.succeeded + counts.failed, counts.created),
            ("calls with a final answer", len(seen), counts.created),
            ("CDRs and calls that the daemon never heard of", len(cdrs) + unheard, counts.created),
            ("answered calls", answered, told),
        ):
            if one != other:
                self.left.append(f"{stream.kind.name}: {what}: {one} and {other}")
        print(
            f"{stream.kind.name:<22}{counts.created:>11}{answered:>10}{told:>7}{counts.created - answered:>9}"
            f"{len(cdrs) - told:>7}{unheard:>16}"
        )

    def _money(self, cdrs: Sequence[Cdr]) -> None:
        floor = self.floor
        account = floor.balance().account
        charged = sum(cdr.amount_micros for cdr in cdrs)
        wrong = [cdr.call_id for cdr in cdrs if (cdr.amount_micros, cdr.written_off_micros) != (_price(cdr), 0)]
        _, entries = balances.ledger(floor.office, SELLER, limit=1_000_000)
        billed = Counter(entry.call_id for entry in entries if entry.call_id)
        for what, is_wrong in (
            (f"balance {account.balance_micros}", account.balance_micros != FUNDS_MICROS - charged),
            (f"held {account.held_micros}", account.held_micros != 0),
            (f"live calls {len(floor.live())}", bool(floor.live())),
            (f"wrong prices {wrong[:5]}", bool(wrong)),
            (f"billed twice {[c for c, n in billed.items() if n > 1][:5]}", any(n > 1 for n in billed.values())),
            (f"places and money that do not add up {floor.drift()[:3]}", bool(floor.drift())),
        ):
            if is_wrong:
                self.left.append(what)
        print(f"money: {len(billed)} calls charged, {charged} micros; held {account.held_micros}")

    def _counts(self) -> list[str]:
        return [f"{s.kind.name} {s.uac.counts()}" for s in self.streams if s.uac]


def _price(cdr: Cdr) -> int:
    tariff = Tariff(cdr.connect_fee_micros, cdr.per_minute_micros, cdr.first_s, cdr.step_s, cdr.billable_threshold_ms)
    return charge(tariff, cdr.talk_ms).price_micros if cdr.answered_ms is not None else 0


def kick_ami(asterisk: Asterisk) -> None:
    """End every session of AMI."""
    rows = [line.split() for line in asterisk.cli("manager show connected").splitlines()]
    for row in rows[1:]:
        if len(row) > 4 and row[4].isdigit():
            asterisk.cli(f"manager kick session {row[4]}")


def main(arguments: list[str] | None = None) -> int:
    """Runs it; 0 where everything is as SIPp saw it, 5 where not, 4 where the lab did not do its part."""
    parser = argparse.ArgumentParser(prog="python -m lab.soak", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default=DEFAULT_SUITE, help="forky has 22, bullseye has 16")
    parser.add_argument("--calls", type=int, default=1_000)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="the most it may take")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000), help="of the faults")
    chosen = parser.parse_args(arguments)
    print(f"{chosen.calls} calls on Asterisk of {chosen.suite}, seed {chosen.seed}", flush=True)
    try:
        ensure_sipp()
        with Floor(ensure_tree(chosen.suite), deadline_ms=DEADLINE_MS, guard_s=GUARD_S) as floor:
            floor.fund(str(FUNDS_MICROS // 1_000_000))
            floor.setting("breaker_failures", "0")
            soak = Soak(floor, chosen.calls, chosen.minutes, chosen.seed)
            soak.run()
            for trouble in soak.left:
                print(f"DIFFERS: {trouble}")
            if soak.left:
                print(floor.log_tail())
            print("ok" if not soak.left else f"{len(soak.left)} differences")
            return DIFFERS if soak.left else 0
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
