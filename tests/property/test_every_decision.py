"""A walk through decisions of every kind, in any order and in batches: after each, the books are true and no limit is
exceeded. Pure: no database. `WALK_SEEDS` sets how many walks there are; a failure names its seed.

The estate has every kind of cap on every scope, every strategy, several rates, schedules, duplicate windows and a
circuit breaker; commands come doubled, late, in the wrong order and with wrong numbers; clocks are set; operators lower
and clear caps, change rates and switch targets.
"""

from __future__ import annotations

import os
import random
from collections import Counter as Tally
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from capconduit.domain.admission import legs_of
from capconduit.domain.calls import AnswerReport, AttemptReport, DialAnswer, ExtendRequest, LegTimes, SettleReport
from capconduit.domain.metering import leg_tariff
from capconduit.domain.model import Call, Cap, Place
from capconduit.domain.needs import Command
from capconduit.domain.routing import hold_for
from capconduit.vocab import (
    RESERVED_METRICS,
    CallState,
    CapMetric,
    CapScope,
    DialStatus,
    HoldState,
    PlaceState,
    RejectCode,
    Strategy,
    WindowKind,
)
from tests.unit.estate_builder import DOLLAR, NODE, T0, TENANT, EstateBuilder, PureTill, route_of

SEEDS = int(os.environ.get("WALK_SEEDS", "40"))
STEPS = 100
HOUR_MS = 3_600_000
ROLLING_MS = (10_000, 60_000, HOUR_MS)
WINDOWS = (WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH, WindowKind.TOTAL)
CALLERS = ("", "", "1001", *(f"+1212555014{i}" for i in range(6)))
DIDS = ("+18005550100", "+18005550101", "+18005550102")
TARGETS = ("buyer1", "buyer2", "buyer3", "buyer4")


@dataclass
class Walk:
    """A pure till with a world around it that remembers what was admitted when."""

    seed: int
    rng: random.Random = field(init=False)
    names: list[str] = field(default_factory=list)
    told: list[Command] = field(default_factory=list)  # to be said again
    ticks: list[tuple[str, int]] = field(default_factory=list)  # cap, instant
    taken: dict[tuple[str, int, str], int] = field(default_factory=dict)  # place → instant
    known: set[str] = field(default_factory=set)  # calls
    limits: dict[str, int] = field(default_factory=dict)  # the highest limit a cap ever had
    before: dict[tuple[str, int], int] = field(default_factory=dict)
    callers: dict[tuple[str, str], Call] = field(default_factory=dict)  # the last call of each in each campaign
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.till = PureTill(self._estate(), self.seed)
        self.opening = {i: a.balance_micros for i, a in self.till.books.accounts.items()}
        self.limits = {c.id: c.limit_value for c in self.till.builder.caps}

    # --- the world ----------------------------------------------------------------------------------------------------

    def _estate(self) -> EstateBuilder:
        rng, b = self.rng, EstateBuilder()
        b.setting("funding_slice_s", rng.choice([6, 30, 60, 180]))
        b.setting("breaker_failures", rng.choice([0, 1, 2, 5]))
        b.setting("breaker_rest_s", rng.choice([5, 60]))
        b.trunk()
        b.schedule(hours=rng.choice(["Mon 07:00-09:00", "always"]))
        for name in ("acme", "zenith"):
            b.seller(
                name,
                balance=rng.choice([150_000, 3 * DOLLAR, 30 * DOLLAR, 90 * DOLLAR]),
                credit=rng.choice([0, DOLLAR]),
            )
        for i in range(4):
            first_s, step_s = rng.choice([(60, 60), (30, 6), (6, 6), (1, 1)])
            after_s = rng.choice([0, 0, 60])
            b.rate(
                f"rate{i}",
                first_s=first_s,
                step_s=step_s,
                per_minute_micros=rng.choice([0, 59, 200_000, DOLLAR]),
                connect_fee_micros=rng.choice([0, 50_000]),
                then_after_s=after_s,
                then_per_minute_micros=rng.choice([0, 90_000]) if after_s else 0,
            )
        for name in TARGETS:
            b.target(
                name, campaign=None, ring_ms=rng.choice([5_000, 20_000]),
                rate_id=rng.choice([None, None, "rate1"]), payout_rate_id=rng.choice([None, "rate2"]),
                schedule_id=rng.choice([None, None, None, "office"]),
            )  # fmt: skip
        for number, seller in zip(DIDS, ("acme", "acme", "zenith"), strict=True):
            self._campaign(b, f"c{number[-1]}", seller, number)
        self._caps(b)
        return b

    def _campaign(self, b: EstateBuilder, name: str, seller: str, number: str) -> None:
        rng = self.rng
        b.campaign(
            name, seller, rng.choice(["rate0", "rate3"]), strategy=rng.choice(list(Strategy)),
            billable_threshold_ms=rng.choice([0, 30_000]), max_attempts=rng.choice([1, 3, 6]),
            ring_budget_ms=rng.choice([10_000, 90_000]), max_duration_ms=rng.choice([60_000, 90_500, 4 * 3_600_000]),
            duplicate_window_ms=rng.choice([0, 0, 60_000, HOUR_MS]),
        )  # fmt: skip
        b.did(number, name, trunk="carrier")
        for target in rng.sample(TARGETS, rng.randrange(1, 5)):
            b.rule(
                name, target, priority=rng.randrange(2), weight=rng.randrange(3), rate_id=rng.choice([None, "rate2"])
            )

    def _caps(self, b: EstateBuilder) -> None:
        rng = self.rng
        things = [
            (CapScope.SYSTEM, TENANT), (CapScope.TRUNK, "carrier"),
            *((CapScope.SELLER, s.id) for s in b.sellers), *((CapScope.CAMPAIGN, c.id) for c in b.campaigns),
            *((CapScope.DID, d.id) for d in b.dids), *((CapScope.TARGET, t.id) for t in b.targets),
            *((CapScope.RULE, r.id) for r in b.rules),
        ]  # fmt: skip
        for scope, scope_id in rng.sample(things, rng.randrange(1, 7)):
            metric = rng.choice(list(CapMetric))
            limit = {
                CapMetric.MINUTES: rng.choice([59, 200, 700, 3_000]),
                CapMetric.SPEND: rng.choice([199_999, DOLLAR, 2 * DOLLAR, 9 * DOLLAR]),
            }.get(metric, rng.choice([0, 1, 2, 3, 5, 9, 9, 20]))
            if metric in (CapMetric.CONCURRENT, CapMetric.CPS):
                b.cap(scope, scope_id, metric, limit)
            elif rng.random() < 0.4:
                b.cap(scope, scope_id, metric, limit, WindowKind.ROLLING, rng.choice(ROLLING_MS))
            else:
                b.cap(scope, scope_id, metric, limit, rng.choice(WINDOWS))

    # --- steps --------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            for _ in range(STEPS):
                self.step()
                self.check()
            self.rest()
        except Exception as error:
            story = "\n  ".join(self.log[-30:])
            raise AssertionError(f"seed {self.seed}: {error!r}\n  {story}") from error

    def step(self) -> None:
        roll = self.rng.random()
        if roll < 0.12:
            self._pass_time()
        elif roll < 0.2:
            self._operate()
        else:
            self.say([self._command() for _ in range(self.rng.choice([1, 1, 1, 2, 3, 6]))])

    def say(self, commands: list[Command]) -> None:
        """Decide a batch, and remember what it took at which instant."""
        self.log.append(", ".join(f"{type(c).__name__}({c.uniqueid})" for c in commands))
        till, now_ms = self.till, self.till.clock.now_ms()
        ticked, places = len(self.ticks), set(self.taken)
        answers = till.batch(commands)
        for command, answer in zip(commands, answers, strict=True):
            if isinstance(answer, DialAnswer) and command.uniqueid not in self.names:
                self.names.append(command.uniqueid)
        for changes in till.batch_changes:
            self.ticks.extend((key[0], now_ms) for _, key in changes.ticks)
            for place in changes.places:
                self.taken.setdefault((place.call_id, place.attempt, place.cap_id), now_ms)
            for call in changes.calls:
                self._admitted(call)
        assert len(self.ticks) >= ticked
        assert set(self.taken) >= places

    def _admitted(self, call: Call) -> None:
        """No caller twice within a campaign's duplicate window, where the first lives or was connected."""
        key = (call.campaign_id, call.ani_e164 or call.ani)
        last = self.callers.get(key)
        if not key[1] or call.id in self.known:
            return
        self.known.add(call.id)
        window_ms = self.till.estate.campaigns[call.campaign_id].duplicate_window_ms
        if last is not None and abs(call.decided_ms - last.decided_ms) < window_ms:
            cdr = self.till.books.settled.get((last.node, last.uniqueid))
            assert cdr is not None, f"{key} calls again while {last.uniqueid} lives"
            assert cdr.answered_ms is None, f"{key} calls again after {last.uniqueid} was connected"
        self.callers[key] = call

    def _command(self) -> Command:
        rng = self.rng
        if self.told and rng.random() < 0.1:
            return rng.choice(self.told[-12:])
        live = list(self.till.books.calls.values())
        if not live or rng.random() < 0.35:
            name = f"u{len(self.names)}-{rng.randrange(10**6)}"
            command: Command = route_of(name, rng.choice(DIDS), ani=rng.choice(CALLERS), trunk="carrier")
        else:
            command = self._about(rng.choice(live))
        self.told.append(command)
        return command

    def _about(self, call: Call) -> Command:
        rng, now_ms = self.rng, self.till.clock.now_ms()
        legs = legs_of(call, self.till.books)
        dial = rng.choice([rng.choice(legs).dial, "", "PJSIP/elsewhere"])
        match rng.randrange(7):
            case 0 | 1 if call.state is not CallState.UP:
                return AttemptReport(
                    node=NODE, uniqueid=call.uniqueid, attempt=call.attempt + rng.choice([0] * 8 + [1, -1]),
                    dialstatus=rng.choice([*DialStatus, DialStatus.NOANSWER, DialStatus.BUSY, None]),
                    hangup_cause=rng.choice([0, 17, 34]),
                )  # fmt: skip
            case 2:
                at_ms = rng.choice([now_ms, now_ms - 500, None])
                return AnswerReport(node=NODE, uniqueid=call.uniqueid, leg=LegTimes(answered_ms=at_ms, dial=dial))
            case 3 | 4:
                beyond_s = rng.choice([None, call.funded_s, max(call.funded_s - 1, 0)])
                return ExtendRequest(node=NODE, uniqueid=call.uniqueid, beyond_s=beyond_s)
            case _:
                return self._settlement(call, dial)

    def _settlement(self, call: Call, dial: str = "") -> SettleReport:
        rng = self.rng
        talked = rng.random() < 0.6
        return SettleReport(
            node=NODE,
            uniqueid=call.uniqueid,
            attempt=rng.choice([call.attempt, call.attempt, 1, 0]),
            dialstatus=DialStatus.ANSWER if talked else rng.choice([DialStatus.CANCEL, DialStatus.BUSY, None]),
            answered_for_ms=rng.choice([0, 1, 5_000, 29_999, 60_100, 600_000, 10**8]) if talked else None,
            hangup_cause=rng.choice([0, 16, 127]),
            leg=LegTimes(dial=dial),
            reject=rng.choice([None] * 9 + [RejectCode.ENGINE_TIMEOUT]),
        )

    def _pass_time(self) -> None:
        self.till.clock.pass_ms(
            self.rng.choice([1, 40, 300, 999, 5_000, 61_000, HOUR_MS, 26 * HOUR_MS, -700, -90_000, -70 * 60_000])
        )
        self.log.append(f"it is {self.till.clock.now_ms() - T0:+} ms")

    def _operate(self) -> None:
        b, rng = self.till.builder, self.rng
        match rng.randrange(5):
            case 0 if b.caps:
                at = rng.randrange(len(b.caps))
                b.caps[at] = replace(b.caps[at], limit_value=b.caps[at].limit_value * rng.choice([0, 1, 3]) // 2)
                self.limits[b.caps[at].id] = max(self.limits[b.caps[at].id], b.caps[at].limit_value)
                self.log.append(f"{b.caps[at].id} is {b.caps[at].limit_value}")
            case 1 if b.caps and rng.random() < 0.3:
                self._clear(b.caps.pop(rng.randrange(len(b.caps))))
            case 2:
                at = rng.randrange(len(b.rates))
                b.rates[at] = replace(b.rates[at], per_minute_micros=rng.choice([0, 60, 300_000, 2 * DOLLAR]))
                self.log.append(f"{b.rates[at].name} costs {b.rates[at].per_minute_micros}")
            case 3:
                at = rng.randrange(len(b.targets))
                b.targets[at] = replace(b.targets[at], enabled=not b.targets[at].enabled)
            case _:
                at = rng.randrange(len(b.settings))
                value = {"funding_slice_s": 6, "breaker_failures": 1, "breaker_rest_s": 30}[b.settings[at].name]
                b.settings[at] = replace(b.settings[at], value=str(value))
        self.till.rebuild()

    def _clear(self, cap: Cap) -> None:
        """Counters stay with the places of live calls, but those of calls per second, which have none."""
        self.log.append(f"{cap.id} is cleared")
        counters = self.till.books.counters
        for key in [k for k in counters if k[0] == cap.id and cap.metric is CapMetric.CPS]:
            del counters[key]

    def rest(self) -> None:
        """Every call ends; then nothing may be held."""
        for call in list(self.till.books.calls.values()):
            self.say([replace(self._settlement(call), reject=None, witness="spool")])
            self.check()
        books = self.till.books
        assert not books.calls
        assert all(c.in_flight == 0 for c in books.counters.values())
        assert all(a.held_micros == 0 for a in books.accounts.values())
        assert all(t.active == 0 for t in books.targets.values())
        assert all(p.state is PlaceState.RELEASED for own in books.places.values() for p in own.values())

    # --- what is always true ------------------------------------------------------------------------------------------

    def check(self) -> None:
        self._counters()
        self._money()
        self._reservations()
        self._any_interval()
        for target_id, state in self.till.books.targets.items():
            assert state.active == self.till.active(target_id), f"{target_id} has {state.active} under way"

    def _places(self) -> list[Place]:
        return [p for own in self.till.books.places.values() for p in own.values()]

    def _counters(self) -> None:
        """Counters are the sums of their places, and none is over its limit, but where an operator lowered that."""
        books, caps = self.till.books, self.till.estate.caps
        used, held = Tally[tuple[str, int]](), Tally[tuple[str, int]]()
        for place in self._places():
            key = (place.cap_id, place.window_start_ms)
            used[key] += place.counted
            held[key] += place.amount if place.state is PlaceState.HELD else 0
        for key, counter in books.counters.items():
            zoned = caps.get(key[0])
            assert counter.used >= 0
            assert counter.in_flight >= 0
            if key[0].split(":")[-2] != CapMetric.CPS:  # those hold no places
                assert (counter.used, counter.in_flight) == (used[key], held[key]), key
            count = counter.used + counter.in_flight
            if zoned is not None and not zoned.bucket_ms:
                assert count <= max(zoned.cap.limit_value, self.before.get(key, 0)), f"{key}: {count}"
            self.before[key] = count

    def _money(self) -> None:
        books = self.till.books
        moved = Tally[str]()
        for entry in books.new_ledger:
            moved[entry.seller_id] += entry.amount_micros
        for seller_id, account in books.accounts.items():
            held = sum(
                h.amount_micros for h in books.holds.values() if h.seller_id == seller_id and h.state is HoldState.OPEN
            )
            assert account.held_micros == held
            assert account.balance_micros == self.opening[seller_id] + moved[seller_id]
            assert account.available_micros >= 0
        assert {h.call_id for h in books.holds.values() if h.state is HoldState.OPEN} == set(books.calls)
        ledgers = Tally(e.call_id for e in books.new_ledger)
        assert all(n == 1 for n in ledgers.values())

    def _reservations(self) -> None:
        """A live call's hold pays for its funded seconds at every leg that may talk, and its places say the same."""
        books, caps = self.till.books, self.till.estate.caps
        for call in books.calls.values():
            legs = {leg.number: leg for leg in legs_of(call, books) if leg.ended_ms is None}
            costs = {n: hold_for(leg_tariff(call, leg), call.funded_s) for n, leg in legs.items()}
            hold = books.holds[call.id].amount_micros
            assert all(cost <= hold for cost in costs.values())
            for place in books.open_places(call.id):
                assert place.attempt == 0 or place.attempt in legs, "a place of a leg that is over"
                zoned = caps.get(place.cap_id)
                if zoned is not None and zoned.cap.metric in RESERVED_METRICS:
                    spend = hold if place.attempt == 0 else costs[place.attempt]
                    wanted = call.funded_s if zoned.cap.metric is CapMetric.MINUTES else spend
                    assert place.amount == wanted, f"{place} should be {wanted}"

    def _any_interval(self) -> None:
        """Of what was admitted at the instants of any interval no more counts than the limit ever was."""
        of_caps: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for place in self._places():
            at_ms = self.taken[(place.call_id, place.attempt, place.cap_id)]
            of_caps[place.cap_id].append((at_ms, place.amount if place.state is PlaceState.HELD else place.counted))
        for cap_id, at_ms in self.ticks:
            of_caps[cap_id].append((at_ms, 1))
        for cap in self.till.builder.caps:
            if cap.metric is CapMetric.CPS or cap.window_kind is WindowKind.ROLLING:
                self._sliding(cap, sorted(of_caps[cap.id]))

    def _sliding(self, cap: Cap, uses: list[tuple[int, int]]) -> None:
        width_ms, limit = cap.window_ms or 1_000, self.limits[cap.id]
        held = oldest = 0
        for at_ms, amount in uses:
            held += amount
            while uses[oldest][0] < at_ms - width_ms:
                held -= uses[oldest][1]
                oldest += 1
            assert held <= limit, f"{cap.id}: {held} within {width_ms} ms"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_order_of_commands_breaks_a_promise(seed: int) -> None:
    Walk(seed).run()


def test_the_walk_can_fail() -> None:
    """A place that is lost on the way is seen at once."""
    walk = Walk(3)
    while not (open_ones := [p for p in walk._places() if p.state is PlaceState.HELD and p.amount]):
        walk.step()
        walk.check()
    counter: Any = walk.till.books.counters[(open_ones[0].cap_id, open_ones[0].window_start_ms)]
    counter.in_flight -= open_ones[0].amount
    with pytest.raises(AssertionError):
        walk.check()
