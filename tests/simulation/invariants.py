"""The promises, looked at after every commit and whenever something really happens; and all of them at rest.

What a commit has changed is checked at once against sums that are kept here apart (cheap); the slow recount of
everything, by tests.simulation.reference, comes now and then and at rest. `reality` is what asterisk.py lives through.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Cap,
    Cdr,
    Counter,
    Event,
    Hold,
    LedgerEntry,
    Place,
    RecentCaller,
    Seller,
    Setting,
    TargetState,
    Tombstone,
    Trunk,
)
from capconduit.services.balances import verify_balances
from capconduit.services.caps import verify_caps
from capconduit.vocab import (
    CallState,
    CapMetric,
    CapScope,
    EventKind,
    HoldState,
    LedgerKind,
    PlaceState,
    WindowKind,
)
from tests.simulation import reference
from tests.simulation.memory import KINDS, Change
from tests.simulation.reference import PER_ATTEMPT, Uses, zone_of

if TYPE_CHECKING:
    from tests.simulation.asterisk import Line
    from tests.simulation.world import World

Key = tuple[str, int]
TOLERANCE_MS = 60  # signalling: an answer is seen, and a limit moved, a few milliseconds late
DRIFT_MS = 250  # and a clock that drifts while a daemon is away


class Invariants:
    """What is remembered between two looks, and the looks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tables = world.tables
        self._ledger: Tally[str] = Tally()
        self._held: Tally[str] = Tally()
        self._counted: Tally[Key] = Tally()
        self._open: Tally[Key] = Tally()
        self._active: Tally[str] = Tally()
        self._billed: set[str] = set()
        self._since: dict[str, int] = {}  # cap id → when it began to count
        self._funded: dict[str, int] = {}  # call id → seconds that are durably funded
        self._channels: set[tuple[str, str]] = set()  # that were recorded
        self._new_ledger: list[LedgerEntry] = []
        self._states_before: dict[str, TargetState | None] = {}
        self._commits = 0
        self.recounts = 0

    # --- after every commit -------------------------------------------------------------------------------------------

    def committed(self, changes: list[Change]) -> None:
        """A transaction stands."""
        by_kind: dict[type[Any], list[Change]] = {}
        for change in changes:
            by_kind.setdefault(change[0], []).append(change)
        self._commits += 1
        self._new_ledger = [after for _, _, _, after in by_kind.get(LedgerEntry, ())]
        for _, key, _, after in by_kind.get(Call, ()):
            if after is not None:
                self._funded[key] = after.funded_s
        self._states_before = {key: before for _, key, before, _ in by_kind.get(TargetState, ())}
        self._note_caps(by_kind)
        self._ledger_grew(by_kind.get(LedgerEntry, ()))
        self._holds_moved(by_kind.get(Hold, ()))
        self._accounts_stand(by_kind)
        self._attempts_moved(by_kind.get(Attempt, ()))
        self._targets_stand(by_kind)
        self._places_moved(by_kind.get(Place, ()))
        self._counters_stand(by_kind)
        for _, _, before, after in by_kind.get(Call, ()):
            if before is None:
                self._call_began(after)
            elif after is None:
                self._call_ended(before)
            else:
                self._call_went_on(before, after)
        for _, _, before, after in by_kind.get(Cdr, ()):
            assert before is None, f"the record of {before.uniqueid} was changed"
            self._recorded(after)
        self._told(by_kind)
        self._limits_hold(by_kind.get(Counter, ()), by_kind.get(Cap, ()))
        if self._world.every_commit or self._commits % self._world.recount_every == 0:
            self.recount()

    def _note_caps(self, by_kind: dict[type[Any], list[Change]]) -> None:
        """Since when caps count; those whose time zone changes begin a window with what the old one has used."""
        for _, key, before, after in by_kind.get(Cap, ()):
            if before is None:
                self._since[key] = self._world.office_now_ms()
            elif after is None:
                self._since.pop(key, None)
        if any(key[1] == "timezone" and before is not None for _, key, before, _ in by_kind.get(Setting, ())):
            self._world.carried |= set(self._tables.rows[Cap])

    def _ledger_grew(self, changes: Iterable[Change]) -> None:
        for _, _, before, entry in changes:
            assert before is None, f"ledger entry {before.id} was changed"
            self._ledger[entry.seller_id] += entry.amount_micros
            assert entry.balance_after_micros == self._ledger[entry.seller_id], f"{entry.id}: balance after it"
            if entry.kind is LedgerKind.CALL:
                assert entry.amount_micros < 0
                assert entry.call_id not in self._billed, f"{entry.call_id} is billed twice"
                self._billed.add(entry.call_id)

    def _holds_moved(self, changes: Iterable[Change]) -> None:
        for _, _, before, hold in changes:
            assert hold is not None
            assert before is None or before.state is HoldState.OPEN, f"hold of {hold.call_id} was opened again"
            self._held[hold.seller_id] += _open_micros(hold) - (_open_micros(before) if before else 0)

    def _accounts_stand(self, by_kind: dict[type[Any], list[Change]]) -> None:
        touched = {key for _, key, _, _ in by_kind.get(Account, ())}
        for kind in (LedgerEntry, Hold):
            touched |= {after.seller_id for _, _, _, after in by_kind.get(kind, ())}
        for seller_id in touched:
            account: Account = self._tables.rows[Account][seller_id]
            assert account.available_micros >= 0, f"{seller_id} has {account.available_micros} available"
            assert account.balance_micros == self._ledger[seller_id], f"{seller_id}: balance is not its ledger"
            assert account.held_micros == self._held[seller_id], f"{seller_id}: held is not its open holds"

    def _attempts_moved(self, changes: Iterable[Change]) -> None:
        for _, _, before, after in changes:
            if before is None:
                self._dialled(after)
                earlier = [a for a in self._tables.parts[Attempt][after.call_id].values() if a.number < after.number]
                assert after.number == len(earlier) + 1, f"{after.call_id}: attempts are not numbered in a row"
                assert after.target_id not in {a.target_id for a in earlier}, f"{after.call_id}: a target twice"
            else:
                assert before.ended_ms is None or replace(before, rang_ms=after.rang_ms) == after, (
                    f"{after.call_id}: an attempt that had ended was changed"
                )
            self._active[after.target_id] += int(after.ended_ms is None)
            self._active[after.target_id] -= int(before is not None and before.ended_ms is None)

    def _dialled(self, attempt: Attempt) -> None:
        call = self._tables.rows[Call].get(attempt.call_id)
        if call is not None:
            self._world.allowed.dialled(attempt, call.campaign_id, self._states_before.get(attempt.target_id))

    def _targets_stand(self, by_kind: dict[type[Any], list[Change]]) -> None:
        touched = {key for _, key, _, _ in by_kind.get(TargetState, ())}
        touched |= {after.target_id for _, _, _, after in by_kind.get(Attempt, ())}
        for target_id in touched:
            state = self._tables.rows[TargetState].get(target_id)
            active = state.active if state else 0
            self._rests_when_it_fails(self._states_before.get(target_id), state)
            assert active == self._active[target_id], f"{target_id}: {active} active, {self._active[target_id]} ring"

    def _rests_when_it_fails(self, before: TargetState | None, after: TargetState | None) -> None:
        """As many failures in a row as the setting says rest a target."""
        most = int(self._tables.rows[Setting][(self._world.tenant_id, "breaker_failures")].value)
        if before is not None and after is not None and most and before.failures < after.failures >= most:
            assert after.rested_until_ms, f"{after.target_id} failed {after.failures} times and does not rest"

    def _places_moved(self, changes: Iterable[Change]) -> None:
        for _, key, before, after in changes:
            if before is not None:
                place_key = (before.cap_id, before.window_start_ms)
                self._counted[place_key] -= before.counted
                self._open[place_key] -= before.amount if before.state is not PlaceState.RELEASED else 0
                was_released = before.state is PlaceState.RELEASED
                assert not was_released or after is None or after == before, f"place {key} was taken again"
            if after is not None:
                place_key = (after.cap_id, after.window_start_ms)
                self._counted[place_key] += after.counted
                self._open[place_key] += after.amount if after.state is not PlaceState.RELEASED else 0
                assert min(after.counted, after.amount) >= 0, f"place {key} is negative"

    def _counters_stand(self, by_kind: dict[type[Any], list[Change]]) -> None:
        keys = {key for _, key, _, _ in by_kind.get(Counter, ())}
        for _, _, before, after in by_kind.get(Place, ()):
            keys |= {(p.cap_id, p.window_start_ms) for p in (before, after) if p is not None}
        for key in keys:
            cap = self._tables.rows[Cap].get(key[0])
            counter = self._tables.rows[Counter].get(key)
            if cap is not None and cap.metric is CapMetric.CPS:
                continue
            if counter is None:
                assert (self._counted[key], self._open[key]) == (0, 0), f"{key}: places without a counter"
                continue
            stands = (counter.used, counter.in_flight)
            assert min(stands) >= 0, f"{key}: {stands}"
            sums = (counter.base + self._counted[key], self._open[key])
            assert stands == sums, f"{key}: counter {stands}, places {sums}"

    def _limits_hold(self, counters: Iterable[Change], caps: Iterable[Change]) -> None:
        """A count may stand above a limit that was lowered, and go down; it never grows there."""
        fresh = {key for _, key, before, _ in caps if before is None}
        for _, key, before, after in counters:
            if after is None or key[0] in fresh:
                continue
            cap = self._tables.rows[Cap].get(key[0])
            total = after.used + after.in_flight
            if cap is None or total <= (before.used + before.in_flight if before else 0):
                continue
            if cap.metric is CapMetric.CPS or cap.window_kind is WindowKind.ROLLING:
                self._look_back(cap, key[1])
            else:
                assert total <= cap.limit_value, f"{key}: {total} over its limit {cap.limit_value}"

    def _look_back(self, cap: Cap, bucket_ms: int) -> None:
        """In any interval as long as the window there is no more than the limit: all those that hold a new use."""
        window_ms = 1_000 if cap.metric is CapMetric.CPS else cap.window_ms
        since = self._since[cap.id] if cap.metric is CapMetric.CPS else 0  # it has no past
        uses = sorted((at, used + held) for at, used, held in self._uses(cap) if used + held and at >= since)
        grown = [at for at, _ in uses if bucket_ms <= at < bucket_ms + self._width_ms(cap)]
        if not grown:
            return
        for end, _ in uses:
            if end >= grown[0] and end - window_ms < grown[-1]:
                total = sum(n for at, n in uses if end - window_ms < at <= end)
                assert total <= cap.limit_value, (
                    f"{cap.id}: {total} within {window_ms} ms to {end}, the limit is {cap.limit_value}"
                )

    def _width_ms(self, cap: Cap) -> int:
        return 50 if cap.metric is CapMetric.CPS else max(-(-cap.window_ms // 60), 1_000)

    def _uses(self, cap: Cap) -> list[tuple[int, int, int]]:
        if cap.metric is not CapMetric.CPS:
            return Uses(self._tables).of(cap)
        return [(at, 1, 0) for at in Uses(self._tables).admissions(cap)]

    # --- calls --------------------------------------------------------------------------------------------------------

    def _call_began(self, call: Call) -> None:
        """A new call has its hold, its first Dial, a place in every cap of its path, and was allowed."""
        hold = self._tables.rows[Hold].get(call.id)
        assert hold is not None, f"{call.uniqueid} has no hold"
        assert hold.state is HoldState.OPEN, f"{call.uniqueid}: hold {hold.state}"
        self._world.admitted += 1
        self._has_places(call, fresh=True)
        self._is_funded(call)
        self._world.allowed.admitted(call)

    def _has_places(self, call: Call, *, fresh: bool) -> None:
        """Every cap on the call and on its ringing targets counts it, in the window of its admission."""
        rows = self._tables.rows
        places = self._tables.parts[Place].get(call.id, {})
        held = {(n, cap_id): p for (n, cap_id), p in places.items() if p.state is not PlaceState.RELEASED}
        trunks = {t.id: t.name for t in rows[Trunk].values()}
        ringing = [a for a in self._tables.parts[Attempt][call.id].values() if a.ended_ms is None]
        for cap in rows[Cap].values():
            if cap.metric is CapMetric.CPS:
                continue
            if cap.scope in PER_ATTEMPT:
                column = "target_id" if cap.scope is CapScope.TARGET else "rule_id"
                wanted = [(a, a.started_ms) for a in ringing if getattr(a, column) == cap.scope_id]
            else:
                wanted = [(None, call.decided_ms)] if reference.owner_of(cap, call, trunks) else []
            for leg, at_ms in wanted:
                place = held.get((leg.number if leg else 0, cap.id))
                assert place is not None, f"{call.uniqueid} takes no place in {cap.id}"
                hold = rows[Hold][call.id].amount_micros
                amount = reference.reserved(cap, call, hold, leg)
                if place.amount != amount:
                    # A cap that was set meanwhile reserves all that is held, until the call is funded anew.
                    assert (place.amount, self._is_new(cap)) == (hold, True), (
                        f"{call.uniqueid} reserves {place.amount} of {cap.id}, not {amount}"
                    )
                if fresh and cap.window_kind is not WindowKind.ROLLING:
                    zone = zone_of(cap, self._tables)
                    named = reference.window_name(cap.window_kind, place.window_start_ms, zone)
                    real = reference.window_name(cap.window_kind, at_ms, zone)
                    assert named == real, f"{call.uniqueid} counts in {named} of {cap.id}, and is of {real}"

    def _is_funded(self, call: Call) -> None:
        """The hold pays for what is told to be funded, by the dearest leg that may yet answer."""
        legs = [a for a in self._tables.parts[Attempt][call.id].values() if a.ended_ms is None]
        hold = self._tables.rows[Hold][call.id].amount_micros
        for leg in legs:
            if call.leg in (0, leg.number):
                costs = reference.price(reference.tariff_of(leg.tariff), call.funded_s)
                assert costs <= hold, f"{call.uniqueid}: {call.funded_s} s cost {costs}, held are {hold}"

    def _call_went_on(self, before: Call, after: Call) -> None:
        if after.attempt != before.attempt:
            self._has_places(after, fresh=False)
        if after.funded_s != before.funded_s or after.attempt != before.attempt or after.leg != before.leg:
            self._is_funded(after)
        if after.leg:
            legs = self._tables.parts[Attempt][after.id].values()
            ringing = [leg.number for leg in legs if leg.ended_ms is None and leg.number != after.leg]
            assert not ringing, f"{after.uniqueid}: leg {after.leg} has answered, and {ringing} ring on"
        if after.attempt == before.attempt:
            assert after.funded_s >= before.funded_s, f"{after.uniqueid} has less funded than before"
        assert before.state is not CallState.UP or after.state is CallState.UP, f"{after.uniqueid} is no longer up"

    def _call_ended(self, call: Call) -> None:
        """What ends in the books has ended in reality, is recorded, and holds nothing."""
        rows = self._tables.rows
        assert call.id in rows[Cdr], f"{call.uniqueid} is gone without a record"
        assert rows[Hold][call.id].state is not HoldState.OPEN, f"{call.uniqueid} is gone and holds money"
        places = self._tables.parts[Place].get(call.id, {}).values()
        assert all(p.state is PlaceState.RELEASED for p in places), f"{call.uniqueid} is gone and has places"
        ringing = [a for a in self._tables.parts[Attempt].get(call.id, {}).values() if a.ended_ms is None]
        assert not ringing, f"{call.uniqueid} is gone and rings"
        line = self._world.lines.get(call.uniqueid)
        if line is not None and (line.talking or line.dialling):
            cdr = rows[Cdr][call.id]
            forgiven = self._world.forgiven.forgives(line, cdr)
            assert forgiven, f"{call.uniqueid} lives, and was given back by {cdr.witness}"

    def _recorded(self, cdr: Cdr) -> None:
        """A record: the only one of its channel, priced exactly, true to what happened."""
        channel = (cdr.node, cdr.uniqueid)
        assert channel not in self._channels, f"{cdr.uniqueid} is recorded twice"
        self._channels.add(channel)
        assert channel not in self._tables.channels[Call], f"{cdr.uniqueid} is recorded and lives"
        entry = -sum(e.amount_micros for e in self._new_ledger if e.call_id == cdr.call_id)
        assert cdr.amount_micros == entry, f"{cdr.uniqueid}: {cdr.amount_micros} recorded, {entry} charged"
        assert min(cdr.amount_micros, cdr.written_off_micros, cdr.talk_ms, cdr.ring_ms, cdr.decision_ms) >= 0
        price = cdr.amount_micros + cdr.written_off_micros
        assert price in reference.possible_prices(cdr), (
            f"{cdr.uniqueid}: priced {price}, not one of {reference.possible_prices(cdr)}"
        )
        self._paid_out(cdr)
        if not cdr.attempts:
            self._world.rejected += 1
            self._world.allowed.rejected(cdr)
        line = self._world.lines.get(cdr.uniqueid)
        if line is not None and cdr.attempts:
            self._is_true(cdr, line)

    def _paid_out(self, cdr: Cdr) -> None:
        """What the target's side gets, by the same arithmetic."""
        if not cdr.payout_tariff:
            assert cdr.payout_micros == 0
            return
        prices: Any = reference.tariff_of(cdr.payout_tariff)
        expected = {0} if not cdr.billable else {
            reference.price(prices, s) for s in (reference.seconds_of(cdr.talk_ms), max(cdr.talk_ms // 1_000, 1))
        }  # fmt: skip
        assert cdr.payout_micros in expected, f"{cdr.uniqueid}: pays out {cdr.payout_micros}, not {expected}"

    def _is_true(self, cdr: Cdr, line: Line) -> None:
        """The record tells what happened, as far as anybody could see it."""
        talk_ms = line.talk_ms()
        fault = self._world.forgiven.untold(line, cdr)
        assert cdr.talk_ms <= talk_ms + TOLERANCE_MS + fault.more_ms, (
            f"{cdr.uniqueid}: {cdr.talk_ms} ms recorded by {cdr.witness}, {talk_ms} ms talked"
        )
        assert cdr.talk_ms >= talk_ms - TOLERANCE_MS - fault.less_ms, (
            f"{cdr.uniqueid}: {cdr.talk_ms} ms recorded by {cdr.witness}, {talk_ms} ms talked"
        )
        if fault.exact:
            assert (cdr.answered_ms is not None) == (line.answered_s is not None), f"{cdr.uniqueid}: answered or not"
            if line.answered_s is not None and self._world.forgiven.saw_everything(line):
                attempt = self._tables.rows[Attempt][(cdr.call_id, cdr.attempt)]
                assert attempt.dial == line.answered_dial, f"{cdr.uniqueid}: {attempt.dial} did not answer"
        if cdr.written_off_micros and not line.forgiven:
            over_ms = talk_ms - self._world.forgiven.funded_ms(line)
            assert over_ms > -TOLERANCE_MS or fault.more_ms, f"{cdr.uniqueid}: written off, and was funded"

    def _told(self, by_kind: dict[type[Any], list[Change]]) -> None:
        """Events come with what they tell of, in the same transaction."""
        told = Tally((e.kind, e.subject) for _, _, before, e in by_kind.get(Event, ()) if before is None)
        for _, _, before, after in by_kind.get(Call, ()):
            if before is None:
                assert told[(EventKind.CALL_STARTED, after.id)] == 1, f"{after.uniqueid} began and was not told"
            elif after is None:
                assert told[(EventKind.CALL_ENDED, before.id)] == 1, f"{before.uniqueid} ended and was not told"
        for _, _, _, cdr in by_kind.get(Cdr, ()):
            kind = EventKind.CALL_ENDED if cdr.attempts else EventKind.CALL_REJECTED
            assert told[(kind, cdr.call_id)] == 1, f"{cdr.uniqueid}: its end was not told"
        for _, _, _, entry in by_kind.get(LedgerEntry, ()) if self._world.begun else ():
            assert told[(EventKind.BALANCE_CHANGED, entry.seller_id)] >= 1, f"{entry.seller_id} was not told"
            low = self._tables.rows[Seller][entry.seller_id].low_balance_micros
            if entry.balance_after_micros < low <= entry.balance_after_micros - entry.amount_micros:
                assert told[(EventKind.BALANCE_LOW, entry.seller_id)] >= 1, f"{entry.seller_id} is low and was not told"

    def funded_s(self, line: Line) -> int:
        """What was last funded of a call that was dialled, in seconds."""
        return self._funded.get(line.dials[-1].call_id, 0) if line.dials else 0

    # --- whenever something really happens ----------------------------------------------------------------------------

    def dialling(self, line: Line) -> None:
        """A target is dialled now: the books know of it, and money is held for it."""
        with self._world.judging():
            if line.forgiven:
                return
            dialled = line.dials[-1]
            call: Call | None = self._tables.rows[Call].get(dialled.call_id)
            assert call is not None, f"{line.uniqueid} is dialled, and the books know of no such call"
            assert call.attempt >= dialled.attempt, f"{line.uniqueid}: attempt {dialled.attempt} is dialled unknown"
            hold = self._tables.rows[Hold][call.id]
            assert hold.state is HoldState.OPEN
            self._crowd(line)
            if call.attempt == dialled.attempt:
                assert call.funded_s >= dialled.funded_s, f"{line.uniqueid}: told more than is funded"

    def answered(self, line: Line) -> None:
        """The talk begins."""
        self.limit_moved(line)

    def limit_moved(self, line: Line) -> None:
        """The dead man's limit is never beyond what is funded."""
        with self._world.judging():
            if line.answered_s is None or line.limit_s is None or not line.talking:
                return
            may_talk_ms = (line.limit_s - line.answered_s) * 1_000
            funded_ms = self._world.forgiven.funded_ms(line)
            allowed_ms = funded_ms + TOLERANCE_MS + self._world.forgiven.slack_ms(line)
            if not line.caller.is_first:
                allowed_ms += line.dials[-1].ring_s * 1_000  # L() is the limit then
            assert may_talk_ms <= allowed_ms, (
                f"{line.uniqueid} may talk {may_talk_ms:.0f} ms, funded are {funded_ms} ms"
            )

    def talked(self, line: Line) -> None:
        """A talk is over."""
        with self._world.judging():
            talk_ms, funded_ms = line.talk_ms(), self._world.forgiven.funded_ms(line)
            allowed_ms = funded_ms + TOLERANCE_MS + self._world.forgiven.slack_ms(line)
            assert talk_ms <= allowed_ms, f"{line.uniqueid} talked {talk_ms} ms, funded were {funded_ms} ms"

    # --- the slow recount ---------------------------------------------------------------------------------------------

    def recount(self) -> None:
        """Every counter against calls and attempts counted one by one; every limit against real channels."""
        self.recounts += 1
        for cap in list(self._tables.rows[Cap].values()):
            if cap.metric is not CapMetric.CPS:
                self._recount(cap)
        self._recount_reality()

    def _recount(self, cap: Cap) -> None:
        zone, since = zone_of(cap, self._tables), self._since.get(cap.id, 0)
        rolling = cap.window_kind is WindowKind.ROLLING
        if rolling:
            return  # looked at with each admission
        used: Tally[str] = Tally()
        held: Tally[str] = Tally()
        for at_ms, settled, reserved in Uses(self._tables).of(cap):
            used[reference.window_name(cap.window_kind, at_ms, zone)] += settled
            held[reference.window_name(cap.window_kind, at_ms, zone)] += reserved
        stands: dict[str, tuple[int, int]] = {}
        for start_ms, counter in self._tables.buckets.get(cap.id, {}).items():
            name = reference.window_name(cap.window_kind, start_ms, zone)
            assert name not in stands or cap.id in self._world.carried, (
                f"{cap.id}: two windows are one {cap.window_kind}, {name}"
            )
            stands[name] = (counter.used, counter.in_flight)
        for name in used.keys() | held.keys() | stands.keys():
            if self._is_partial(cap, name, zone, since):
                continue
            stand, count = stands.get(name, (0, 0)), (used[name], held[name])
            assert stand[1] == count[1] or (stand[1] > count[1] and self._is_new(cap)), (
                f"{cap.id} {name}: {stand} stand, {count} counted"
            )
            assert stand[0] == count[0] or self._nearly(cap, stand[0], count[0]), (
                f"{cap.id} {name}: {stand} stand, {count} counted"
            )

    def _is_new(self, cap: Cap) -> bool:
        """Whether a cap by spend on the target's side was set while calls lived."""
        later = cap.id not in self._world.caps_of_the_beginning
        return later and cap.metric is CapMetric.SPEND and cap.scope in PER_ATTEMPT

    def _nearly(self, cap: Cap, stands: int, counted: int) -> bool:
        """Talk that our limit cut counts no second that it began; and no more counts than the cap lets through."""
        if cap.metric is not CapMetric.MINUTES:
            return False
        calls = len(self._tables.rows[Cdr])
        return counted <= stands <= counted + calls or stands >= cap.limit_value

    def _is_partial(self, cap: Cap, name: str, zone: str, since: int) -> bool:
        """Windows that began before the cap did are counted from then on only, but for the one it was set in."""
        if cap.id in self._world.caps_of_the_beginning:
            return False
        if cap.id in self._world.carried:
            return True
        return name != reference.window_name(cap.window_kind, since, zone)

    def _recount_reality(self) -> None:
        """What really rings or talks is known, and the money of its seller pays for all of it."""
        spent: Tally[str] = Tally()
        for line in self._living():
            call = self._tables.rows[Call].get(line.dials[-1].call_id)
            assert call is not None, f"{line.uniqueid} lives, and the books know of no such call"
            legs = self._tables.parts[Attempt][call.id].values()
            leg = next((g for g in legs if g.dial == line.answered_dial), None)
            if line.talking and leg is not None and line.slack_ms <= 0:
                talk_ms = max(line.talk_ms() - TOLERANCE_MS - reference.CUT_TOLERANCE_MS, 0)
                spent[call.seller_id] += reference.price(reference.tariff_of(leg.tariff), reference.seconds_of(talk_ms))
        for seller_id, micros in spent.items():
            account: Account = self._tables.rows[Account][seller_id]
            owned = account.balance_micros + account.credit_limit_micros
            assert micros <= owned, f"{seller_id} owns {owned} and has talked for {micros}"

    def _living(self) -> list[Line]:
        """What rings or talks in reality."""
        lines = self._world.lines.values()
        return [line for line in lines if (line.talking or line.dialling) and not line.forgiven]

    def _crowd(self, line: Line) -> None:
        """No more channels ring or talk at once than each cap says that stood from the beginning as it is now."""
        rows, world = self._tables.rows, self._world
        caps = [c for c in rows[Cap].values() if c.metric is CapMetric.CONCURRENT and c.updated_ms == c.created_ms]
        caps = [c for c in caps if c.id in world.caps_of_the_beginning]
        if not caps:
            return
        trunks = {t.id: t.name for t in rows[Trunk].values()}
        live = [(other, rows[Call].get(other.dials[-1].call_id)) for other in self._living()]
        for cap in caps:
            crowd = 0
            for other, call in live:
                if call is None:
                    continue
                if cap.scope not in PER_ATTEMPT:
                    crowd += reference.owner_of(cap, call, trunks)
                    continue
                column = "target_id" if cap.scope is CapScope.TARGET else "rule_id"
                dials = {leg.dial for leg in other.legs if not leg.ended} or set(other.dials[-1].dials)
                legs = self._tables.parts[Attempt][call.id].values()
                crowd += sum(leg.dial in dials and getattr(leg, column) == cap.scope_id for leg in legs)
            assert crowd <= cap.limit_value, f"{line.uniqueid} makes {crowd} channels at once under {cap.id}"

    # --- rest ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, dict[Any, Any]]:
        """Everything there is."""
        rows = self._tables.rows
        return {
            kind.__name__: {k: replace(r) if kind is Counter else r for k, r in rows[kind].items()} for kind in KINDS
        }

    def at_rest(self) -> None:
        """Everything is over: nothing lives, nothing is held, no place is taken, and every call has its one record."""
        rows = self._tables.rows
        self.recount()
        assert not rows[Call], f"calls live: {[c.uniqueid for c in rows[Call].values()]}"
        assert not any(c.in_flight for c in rows[Counter].values()), "places are taken"
        assert not any(a.held_micros for a in rows[Account].values()), "money is held"
        assert not any(h.state is HoldState.OPEN for h in rows[Hold].values())
        assert not any(p.state is not PlaceState.RELEASED for p in rows[Place].values())
        assert not any(s.active for s in rows[TargetState].values()), "targets are active"
        assert not any(a.ended_ms is None for a in rows[Attempt].values()), "attempts ring"
        recorded = {(c.node, c.uniqueid) for c in rows[Cdr].values()}
        buried = {(t.node, t.uniqueid) for t in rows[Tombstone].values()}
        assert not recorded & buried, f"buried and recorded: {recorded & buried}"
        for line in self._world.lines.values():
            if line.dials:
                assert (line.node, line.uniqueid) in recorded, f"{line.uniqueid} was dialled, and is not recorded"
        self._promises_are_kept()
        connected = {c.call_id for c in rows[Cdr].values() if c.answered_ms is not None}
        for caller in rows[RecentCaller].values():
            assert caller.call_id in connected, f"{caller.caller} is remembered for a call that was not connected"
        with self._world.in_office(dry_run=False) as office:
            assert list(verify_caps(office)) == []
            assert list(verify_balances(office)) == []

    def _promises_are_kept(self) -> None:
        """An end that was acknowledged or kept is recorded as it was told, whoever settled the call first."""
        cdrs = self._tables.channels[Cdr]
        for line in self._world.lines.values():
            cdr = cdrs.get((line.node, line.uniqueid))
            if cdr is None or line.forgiven or not cdr.attempts or line.asterisk.machine.gone:
                continue
            if self._world.forgiven.was_put_aside(line):
                continue
            concluded = self._world.forgiven.concluded_by(cdr)
            if concluded and (concluded == "abandoned" or self._world.forgiven.is_doubled(line)):
                continue
            if not line.acknowledged and (not line.kept or concluded):
                continue
            missing_ms = line.talk_ms() - cdr.talk_ms
            allowed_ms = TOLERANCE_MS + 0.002 * line.talk_ms() + line.clock_ms + line.slack_ms
            assert missing_ms <= allowed_ms, f"{line.uniqueid}: {missing_ms} ms of talk were told and are not recorded"


def _open_micros(hold: Hold) -> int:
    return hold.amount_micros if hold.state is HoldState.OPEN else 0
