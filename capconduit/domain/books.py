"""The rows a decision stands on, and the changes it makes to them; plain data that a transaction loads and writes.

A batch of decisions shares one Books: each decision reads what the ones before it took, so that the batch as a whole
never promises a place or a micro twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Cdr,
    Counter,
    Event,
    Hold,
    LedgerEntry,
    Place,
    RecentCaller,
    RuleState,
    TargetState,
    Tombstone,
)
from capconduit.domain.record import replace
from capconduit.vocab import HoldState, PlaceState

RELEASED: Final = PlaceState.RELEASED  # asked for by each place; Python 3.11 takes long to find a member of an enum

CounterKey = tuple[str, int]  # cap id, start of the window (UTC ms)
CallKey = tuple[str, str]  # node, uniqueid
CallerKey = tuple[str, str]  # campaign id, caller


@dataclass(slots=True)
class Changes:
    """What one decision does. Rows are whole new versions; `ended` are calls that leave the table of live calls.

    `ticks` are counters that count one more for good, with their tenant (calls per second hold no places); `forgotten`
    are callers whose call (the third) was not connected after all.
    """

    calls: list[Call] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    ledger: list[LedgerEntry] = field(default_factory=list)
    cdrs: list[Cdr] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    tombstones: list[Tombstone] = field(default_factory=list)
    targets: list[TargetState] = field(default_factory=list)
    rules: list[RuleState] = field(default_factory=list)
    callers: list[RecentCaller] = field(default_factory=list)
    forgotten: list[tuple[str, str, str]] = field(default_factory=list)
    ticks: list[tuple[str, CounterKey]] = field(default_factory=list)


@dataclass(slots=True)
class NewRows:
    """What of some Books no table has yet: keys of rows in them, and rows."""

    calls: set[str]
    attempts: set[tuple[str, int]]
    places: set[tuple[str, int, str]]
    holds: set[str]
    ledger: list[LedgerEntry]
    cdrs: list[Cdr]
    events: list[Event]
    tombstones: list[Tombstone]


@dataclass(slots=True)
class Books:
    """Locked rows of one transaction, kept true by `apply`; the store writes what is named new or dirty, never both."""

    accounts: dict[str, Account] = field(default_factory=dict)
    counters: dict[CounterKey, Counter] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    call_ids: dict[CallKey, str] = field(default_factory=dict)
    attempts: dict[str, dict[int, Attempt]] = field(default_factory=dict)
    places: dict[str, dict[tuple[int, str], Place]] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    settled: dict[CallKey, Cdr] = field(default_factory=dict)
    buried: set[CallKey] = field(default_factory=set)
    targets: dict[str, TargetState] = field(default_factory=dict)
    rules: dict[str, RuleState] = field(default_factory=dict)
    callers: dict[CallerKey, RecentCaller] = field(default_factory=dict)
    buckets: dict[str, set[int]] = field(default_factory=dict)  # starts of the buckets of caps that look back

    new_calls: set[str] = field(default_factory=set)
    dirty_calls: set[str] = field(default_factory=set)
    ended_calls: set[str] = field(default_factory=set)
    dirty_accounts: set[str] = field(default_factory=set)
    dirty_counters: set[CounterKey] = field(default_factory=set)
    dirty_attempts: set[tuple[str, int]] = field(default_factory=set)
    dirty_places: set[tuple[str, int, str]] = field(default_factory=set)
    dirty_holds: set[str] = field(default_factory=set)
    new_ledger: list[LedgerEntry] = field(default_factory=list)
    new_cdrs: list[Cdr] = field(default_factory=list)
    new_events: list[Event] = field(default_factory=list)
    new_tombstones: list[Tombstone] = field(default_factory=list)
    new_places: set[tuple[str, int, str]] = field(default_factory=set)
    new_attempts: set[tuple[str, int]] = field(default_factory=set)
    new_holds: set[str] = field(default_factory=set)
    dirty_targets: set[str] = field(default_factory=set)
    dirty_rules: set[str] = field(default_factory=set)
    dirty_callers: set[CallerKey] = field(default_factory=set)
    forgotten: list[tuple[str, str, str]] = field(default_factory=list)

    def take_new(self) -> NewRows:
        """Hand over what is new: whoever asks writes it as it is now. What changes of it from then on is dirty."""
        new = NewRows(
            self.new_calls, self.new_attempts, self.new_places, self.new_holds,
            self.new_ledger, self.new_cdrs, self.new_events, self.new_tombstones,
        )  # fmt: skip
        self.new_calls, self.new_attempts, self.new_places, self.new_holds = set(), set(), set(), set()
        self.new_ledger, self.new_cdrs, self.new_events, self.new_tombstones = [], [], [], []
        return new

    def account(self, seller_id: str) -> Account:
        """The seller's account; a missing one is a bug of the caller, who must lock it first."""
        return self.accounts[seller_id]

    def counter(self, tenant_id: str, key: CounterKey) -> Counter:
        """The counter of a cap's window; a window nobody used yet counts nothing."""
        return self.counters.get(key) or Counter(
            tenant_id=tenant_id, cap_id=key[0], window_start_ms=key[1], used=0, in_flight=0, base=0
        )

    def looking_back(self, cap_id: str, after_ms: int, until_ms: int) -> tuple[int, int]:
        """(used, in flight) of a cap that looks back: the sum of its buckets that begin in (after, until]."""
        used = in_flight = 0
        for start in self.buckets.get(cap_id, ()):
            if after_ms < start <= until_ms:
                counter = self.counters[(cap_id, start)]
                used += counter.used
                in_flight += counter.in_flight
        return used, in_flight

    def buckets_between(self, cap_id: str, after_ms: int, until_ms: int) -> list[tuple[int, int]]:
        """(start, used and in flight) of the buckets of a cap that begin in (after, until], in their order."""
        starts = sorted(s for s in self.buckets.get(cap_id, ()) if after_ms < s <= until_ms)
        counters = [self.counters[(cap_id, start)] for start in starts]
        return [(c.window_start_ms, c.used + c.in_flight) for c in counters]

    def target(self, tenant_id: str, target_id: str) -> TargetState:
        """What a target has been through; one that was never dialled, nothing."""
        return self.targets.get(target_id) or TargetState(
            target_id=target_id,
            tenant_id=tenant_id,
            active=0,
            failures=0,
            rested_until_ms=0,
            probe_until_ms=0,
            idle_since_ms=0,
        )

    def cursor(self, rule_id: str) -> int:
        """Where a rule stands in its campaign's rotation."""
        state = self.rules.get(rule_id)
        return state.cursor if state else 0

    def recent_caller(self, key: CallerKey) -> RecentCaller | None:
        """The last call of a caller in a campaign, if one is remembered."""
        return self.callers.get(key)

    def call_of(self, key: CallKey) -> Call | None:
        """The live call of a channel."""
        call_id = self.call_ids.get(key)
        return self.calls.get(call_id) if call_id else None

    def place(self, call_id: str, attempt: int, cap_id: str) -> Place | None:
        """The place of a call, or of one of its attempts, in a cap."""
        own = self.places.get(call_id)
        return own.get((attempt, cap_id)) if own else None

    def open_places(self, call_id: str) -> list[Place]:
        """The places a call still occupies."""
        return [p for p in self.places.get(call_id, {}).values() if p.state is not RELEASED]

    def apply(self, changes: Changes) -> None:
        """Take over the changes of one decision, with counters and accounts that follow from them."""
        self._apply_calls(changes)
        for attempt in changes.attempts:
            own, key = self.attempts.setdefault(attempt.call_id, {}), (attempt.call_id, attempt.number)
            if attempt.number not in own:
                self.new_attempts.add(key)
            elif key not in self.new_attempts:
                self.dirty_attempts.add(key)
            own[attempt.number] = attempt
        self._apply_places(changes.places)
        for hold in changes.holds:
            self._apply_hold(hold)
        for entry in changes.ledger:
            account = self.accounts[entry.seller_id]
            self._put_account(replace(account, balance_micros=account.balance_micros + entry.amount_micros))
            self.new_ledger.append(entry)
        for cdr in changes.cdrs:
            self.settled[(cdr.node, cdr.uniqueid)] = cdr
            self.new_cdrs.append(cdr)
        for tombstone in changes.tombstones:
            self.buried.add((tombstone.node, tombstone.uniqueid))
            self.new_tombstones.append(tombstone)
        self.new_events.extend(changes.events)
        self._apply_states(changes)

    def _apply_states(self, changes: Changes) -> None:
        for target in changes.targets:
            self.targets[target.target_id] = target
            self.dirty_targets.add(target.target_id)
        for rule in changes.rules:
            self.rules[rule.rule_id] = rule
            self.dirty_rules.add(rule.rule_id)
        for caller in changes.callers:
            self.callers[(caller.campaign_id, caller.caller)] = caller
            self.dirty_callers.add((caller.campaign_id, caller.caller))
        for campaign_id, caller_id, call_id in changes.forgotten:
            known = self.callers.get((campaign_id, caller_id))
            if known is not None and known.call_id == call_id:
                del self.callers[(campaign_id, caller_id)]
                self.dirty_callers.discard((campaign_id, caller_id))
            self.forgotten.append((campaign_id, caller_id, call_id))
        for tenant_id, key in changes.ticks:
            self._count(tenant_id, key, 1, 0)

    def _count(self, tenant_id: str, key: CounterKey, used: int, in_flight: int) -> None:
        """Move a counter."""
        counter = self.counters.get(key)
        if counter is None:
            counter = self.counters[key] = self.counter(tenant_id, key)
        if self.buckets and (starts := self.buckets.get(key[0])) is not None:
            starts.add(key[1])
        counter.used += used
        counter.in_flight += in_flight
        self.dirty_counters.add(key)

    def _apply_calls(self, changes: Changes) -> None:
        for call in changes.calls:
            if call.id not in self.calls:
                self.new_calls.add(call.id)
                self.call_ids[(call.node, call.uniqueid)] = call.id
            elif call.id not in self.new_calls:
                self.dirty_calls.add(call.id)
            self.calls[call.id] = call
        for call_id in changes.ended:
            call = self.calls.pop(call_id)
            del self.call_ids[(call.node, call.uniqueid)]
            self.dirty_calls.discard(call_id)
            if call_id in self.new_calls:
                self.new_calls.remove(call_id)
            else:
                self.ended_calls.add(call_id)

    def _apply_places(self, places: list[Place]) -> None:
        """A place that is released is released once: a second release changes nothing."""
        for place in places:
            call_id, cap_id = place.call_id, place.cap_id
            own_key = (place.attempt, cap_id)
            own = self.places.get(call_id)
            if own is None:
                own = self.places[call_id] = {}
            before = own.get(own_key)
            if before is None:
                held_before = 0
                self.new_places.add((call_id, place.attempt, cap_id))
            elif before.state is RELEASED:
                continue
            else:
                held_before = before.amount
                if (key := (call_id, place.attempt, cap_id)) not in self.new_places:
                    self.dirty_places.add(key)
            own[own_key] = place
            used, in_flight = 0, place.amount - held_before
            if place.state is RELEASED:
                used, in_flight = place.counted, -held_before
            if used or in_flight:
                self._count(place.tenant_id, (cap_id, place.window_start_ms), used, in_flight)

    def _apply_hold(self, hold: Hold) -> None:
        before = self.holds.get(hold.call_id)
        if before is None:
            self.new_holds.add(hold.call_id)
        elif hold.call_id not in self.new_holds:
            self.dirty_holds.add(hold.call_id)
        open_before = before.amount_micros if before and before.state is HoldState.OPEN else 0
        open_after = hold.amount_micros if hold.state is HoldState.OPEN else 0
        self.holds[hold.call_id] = hold
        account = self.accounts[hold.seller_id]
        self._put_account(replace(account, held_micros=account.held_micros + open_after - open_before))

    def _put_account(self, account: Account) -> None:
        self.accounts[account.seller_id] = account
        self.dirty_accounts.add(account.seller_id)
