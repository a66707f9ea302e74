"""The promises, looked at from outside after every step: read from the tables, counted by other means than the code's.

The recount does not use the windows' arithmetic: it compares local dates, hours and months by their names.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

from capconduit.domain import model
from capconduit.domain.calls import DialAnswer
from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Campaign,
    Cap,
    Cdr,
    Counter,
    Did,
    Hold,
    LedgerEntry,
    Place,
    Seller,
    Target,
)
from capconduit.domain.needs import Command
from capconduit.domain.settlement import CUT_TOLERANCE_MS
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import SqlStore, SqlTransaction
from capconduit.vocab import (
    CampaignStatus,
    CapMetric,
    CapScope,
    DidStatus,
    HoldState,
    LedgerKind,
    PlaceState,
    Status,
    WindowKind,
)
from tests.unit.estate_builder import EstateBuilder

KINDS = [
    k for k in vars(model).values() if isinstance(k, type) and k.__module__ == model.__name__ and k is not model.Entity
]
PER_ATTEMPT = (CapScope.TARGET, CapScope.RULE)
Key = tuple[str, int]


def local_name(kind: WindowKind, at_ms: int, zone: str) -> str:
    """The name of the window of an instant, as a person in that zone would say it; equal names are one window."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(ZoneInfo(zone))
    match kind:
        case WindowKind.HOUR:
            return local.strftime("%Y-%m-%d %H %z")
        case WindowKind.DAY:
            return local.strftime("%Y-%m-%d")
        case WindowKind.WEEK:
            return local.strftime("%G week %V")
        case WindowKind.MONTH:
            return local.strftime("%Y-%m")
        case _:
            return "always"


class Invariants:
    """Remembers what stood before, so that growth beyond a limit is seen."""

    def __init__(self, store: SqlStore, builder: EstateBuilder) -> None:
        self._store = store
        self._zones = {s.id: s.timezone for s in builder.sellers}
        self._system_zone = next(s.value for s in builder.settings if s.name == "timezone")
        self._builder = builder
        self._from_the_start = {c.id for c in builder.caps}
        self._counts: dict[Key, int] = {}
        self._by_operator = False
        self._dialled: set[tuple[str, int]] = set()

    # --- reading ------------------------------------------------------------------------------------------------------

    def _all(self, tx: SqlTransaction, kind: type[Any]) -> list[Any]:
        m = mapping(kind)
        return [m.load(row) for row in tx.query(m.select)]

    def everything(self) -> dict[str, list[Any]]:
        """All rows of all tables."""
        with self._store.transaction(write=False) as tx:
            return {k.__name__: sorted(map(repr, self._all(tx, k))) for k in KINDS}

    def operated(self) -> None:
        """An operator has changed something: caps may be set below their use."""
        self._by_operator = True

    def answered(self, command: Command, answer: DialAnswer) -> None:
        """An answer to dial must be covered by an open hold, and be allowed by the estate as it stands."""
        with self._store.transaction(write=False) as tx:
            self._allowed(tx, answer)
            holds = [h for h in self._all(tx, Hold) if h.call_id == answer.call_id]
            calls = [c for c in self._all(tx, Call) if c.id == answer.call_id]
        if not calls:
            return  # it ended in the same batch
        assert len(holds) == 1
        assert holds[0].state is HoldState.OPEN
        assert price(calls[0], calls[0].funded_s) <= holds[0].amount_micros, "funded beyond its hold"
        assert answer.funded_s <= calls[0].funded_s  # extended in the same batch, never less

    def _allowed(self, tx: SqlTransaction, answer: DialAnswer) -> None:
        """A Dial that is told for the first time goes to an open target, in a campaign and on a DID that take calls."""
        if (answer.call_id, answer.attempt) in self._dialled:
            return
        self._dialled.add((answer.call_id, answer.attempt))
        for call in (c for c in self._all(tx, Call) if c.id == answer.call_id):
            if answer.attempt == 1:
                assert {s.status for s in self._all(tx, Seller) if s.id == call.seller_id} == {Status.ACTIVE}
                assert {d.status for d in self._all(tx, Did) if d.id == call.did_id} == {DidStatus.ASSIGNED}
                campaigns = {c.status for c in self._all(tx, Campaign) if c.id == call.campaign_id}
                assert campaigns == {CampaignStatus.ACTIVE}, "a paused campaign took a call"
            assert {t.enabled for t in self._all(tx, Target) if t.name == answer.target} == {True}, "a closed target"

    # --- checking -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """All promises, now. Raises AssertionError."""
        with self._store.transaction(write=False) as tx:
            rows = {k: self._all(tx, k) for k in (Account, Attempt, Call, Cap, Cdr, Counter, Hold, LedgerEntry, Place)}
        self._money(rows)
        self._once(rows)
        self._places(rows)
        self._limits(rows)
        self._recount(rows)

    def _money(self, rows: dict[type, list[Any]]) -> None:
        for account in rows[Account]:
            mine = [e for e in rows[LedgerEntry] if e.seller_id == account.seller_id]
            held = [h for h in rows[Hold] if h.seller_id == account.seller_id and h.state is HoldState.OPEN]
            assert account.available_micros >= 0, f"{account.seller_id} has {account.available_micros} available"
            assert account.balance_micros == sum(e.amount_micros for e in mine), f"{account.seller_id}: ledger"
            assert account.held_micros == sum(h.amount_micros for h in held), f"{account.seller_id}: held"
        charged = {e.call_id: -e.amount_micros for e in rows[LedgerEntry] if e.kind is LedgerKind.CALL}
        for cdr in rows[Cdr]:
            assert cdr.amount_micros == charged.get(cdr.call_id, 0), f"{cdr.uniqueid}: record against ledger"
            assert cdr.amount_micros + cdr.written_off_micros in possible_prices(cdr), f"{cdr.uniqueid}: price"
            assert min(cdr.amount_micros, cdr.written_off_micros, cdr.talk_ms, cdr.ring_ms) >= 0

    def _once(self, rows: dict[type, list[Any]]) -> None:
        """A channel is one call; a call is alive or settled, and settled once."""
        channels = Tally((r.node, r.uniqueid) for r in [*rows[Cdr], *rows[Call]])
        assert not [c for c, count in channels.items() if count > 1], f"twice: {channels.most_common(1)}"
        entries = Tally(e.call_id for e in rows[LedgerEntry] if e.call_id)
        assert not [c for c, count in entries.items() if count > 1], f"billed twice: {entries.most_common(1)}"
        alive = {c.id for c in rows[Call]}
        assert {h.call_id for h in rows[Hold] if h.state is HoldState.OPEN} == alive, "open holds against live calls"
        assert {p.call_id for p in rows[Place] if p.state is not PlaceState.RELEASED} <= alive, "a place without a call"

    def _places(self, rows: dict[type, list[Any]]) -> None:
        """Counters are what their places say."""
        counted: Tally[Key] = Tally()
        taken: Tally[Key] = Tally()
        for place in rows[Place]:
            key = (place.cap_id, place.window_start_ms)
            counted[key] += place.counted
            taken[key] += place.amount if place.state is not PlaceState.RELEASED else 0
        counters = {(c.cap_id, c.window_start_ms): c for c in rows[Counter]}
        assert taken.keys() <= counters.keys(), "places without a counter"
        for key, counter in counters.items():
            stands = (counter.used, counter.in_flight)
            assert min(stands) >= 0, f"{key}: {stands}"
            assert stands == (counter.base + counted[key], taken[key]), f"{key}: {stands} against its places"

    def _limits(self, rows: dict[type, list[Any]]) -> None:
        """No more than the limit; where an operator put the limit below the use, no more than there was."""
        limits = {c.id: c.limit_value for c in rows[Cap]}
        counts = {(c.cap_id, c.window_start_ms): c.used + c.in_flight for c in rows[Counter]}
        for key, count in counts.items():
            limit = limits.get(key[0])
            if limit is not None and count > max(limit, self._counts.get(key, 0)) and not self._by_operator:
                raise AssertionError(f"{key}: {count} over {limit}, was {self._counts.get(key)}")
        self._counts, self._by_operator = counts, False

    # --- the recount --------------------------------------------------------------------------------------------------

    def _zone(self, cap: Cap) -> str:
        b = self._builder
        match cap.scope:
            case CapScope.SELLER:
                return self._zones[cap.scope_id]
            case CapScope.CAMPAIGN:
                return self._zones[next(c.seller_id for c in b.campaigns if c.id == cap.scope_id)]
            case CapScope.RULE:
                campaign = next(r.campaign_id for r in b.rules if r.id == cap.scope_id)
                return self._zones[next(c.seller_id for c in b.campaigns if c.id == campaign)]
            case CapScope.DID:
                return self._zones[str(next(d.seller_id for d in b.dids if d.id == cap.scope_id))]
            case _:
                return self._system_zone

    def _recount(self, rows: dict[type, list[Any]]) -> None:
        """Counters against calls and attempts counted one by one.

        All windows of a cap that stood from the start; of one that was set later, the window it was set in.
        """
        for cap in rows[Cap]:
            zone = self._zone(cap)
            only = None if cap.id in self._from_the_start else local_name(cap.window_kind, cap.created_ms, zone)
            used = Tally(local_name(cap.window_kind, at, zone) for at in settled_uses(cap, rows))
            live = Tally(local_name(cap.window_kind, at, zone) for at in live_uses(cap, rows))
            stands: dict[str, tuple[int, int]] = {}
            for counter in rows[Counter]:
                if counter.cap_id == cap.id:
                    name = local_name(cap.window_kind, counter.window_start_ms, zone)
                    assert name not in stands, f"{cap.id}: two windows are one {cap.window_kind}, {name}"
                    stands[name] = (counter.used, counter.in_flight)
            for name in used.keys() | live.keys() | stands.keys() if only is None else {only}:
                counted = (used[name], live[name])
                assert stands.get(name, (0, 0)) == counted, f"{cap.id} {name}: {stands.get(name)} against {counted}"

    # --- rest ---------------------------------------------------------------------------------------------------------

    def check_rest(self, channels: Sequence[tuple[str, str]]) -> None:
        """Everything is over: nothing lives, nothing is held, no place is taken, and every call has its one record."""
        with self._store.transaction(write=False) as tx:
            assert self._all(tx, Call) == []
            assert all(c.in_flight == 0 for c in self._all(tx, Counter))
            assert all(a.held_micros == 0 for a in self._all(tx, Account))
            assert all(p.state is PlaceState.RELEASED for p in self._all(tx, Place))
            recorded = {(c.node, c.uniqueid) for c in self._all(tx, Cdr)}
            buried = {(t.node, t.uniqueid) for t in self._all(tx, model.Tombstone)}
        assert recorded | buried == set(channels), "a call was lost"
        assert not recorded & buried, "a call was buried and recorded"


def price(call: Any, seconds: int) -> int:
    """Micros of `seconds` of talk, by adding increments one by one."""
    billed = call.first_s
    while billed < seconds:
        billed += call.step_s * max((seconds - billed) // call.step_s, 1)
    return call.connect_fee_micros + ceil(Fraction(billed) * call.per_minute_micros / 60)


def possible_prices(cdr: Cdr) -> set[int]:
    """What a call costs by its record. A cut at the funded limit lands a few milliseconds late and is not charged."""
    if cdr.answered_ms is None or cdr.talk_ms < cdr.billable_threshold_ms:
        return {0}
    prices = {price(cdr, ceil(Fraction(cdr.talk_ms, 1000)))}
    if cdr.talk_ms > 1000 and cdr.talk_ms % 1000 <= CUT_TOLERANCE_MS:
        prices.add(price(cdr, cdr.talk_ms // 1000))
    return prices


def matches(cap: Cap, row: Any) -> bool:
    """Whether a call or its record is one of what `cap` limits as a whole."""
    column = {
        CapScope.SYSTEM: "tenant_id",
        CapScope.SELLER: "seller_id",
        CapScope.CAMPAIGN: "campaign_id",
        CapScope.DID: "did_id",
        CapScope.TRUNK: "trunk",
    }[cap.scope]
    return bool(getattr(row, column) == cap.scope_id)


def settled_uses(cap: Cap, rows: dict[type, list[Any]]) -> list[int]:
    """The instants of admission of everything settled that `cap` counts."""
    if cap.metric is CapMetric.CONCURRENT:
        return []
    cdrs = {c.call_id: c for c in rows[Cdr] if c.attempts}
    if cap.scope not in PER_ATTEMPT:
        return [c.decided_ms for c in cdrs.values() if matches(cap, c) and counts(cap.metric, c)]
    column = "target_id" if cap.scope is CapScope.TARGET else "rule_id"
    uses = []
    for attempt in rows[Attempt]:
        if getattr(attempt, column) != cap.scope_id or attempt.ended_ms is None:
            continue
        cdr = cdrs.get(attempt.call_id)
        last = cdr is not None and attempt.number == cdr.attempts
        if last and cdr is not None:
            if counts(cap.metric, cdr):
                uses.append(attempt.started_ms)
        elif cap.metric is CapMetric.ATTEMPTS and (cdr is None or attempt.number < cdr.attempts):
            uses.append(attempt.started_ms)
    return uses


def counts(metric: CapMetric, cdr: Cdr) -> bool:
    match metric:
        case CapMetric.ATTEMPTS:
            return cdr.reject_code != "engine_timeout"
        case CapMetric.CONNECTED:
            return cdr.answered_ms is not None
        case _:
            return cdr.billable


def live_uses(cap: Cap, rows: dict[type, list[Any]]) -> list[int]:
    """The instants of admission of everything alive that `cap` counts."""
    calls = {c.id: c for c in rows[Call]}
    if cap.scope not in PER_ATTEMPT:
        return [c.decided_ms for c in calls.values() if matches(cap, c)]
    column = "target_id" if cap.scope is CapScope.TARGET else "rule_id"
    return [
        a.started_ms
        for a in rows[Attempt]
        if getattr(a, column) == cap.scope_id and a.ended_ms is None and a.call_id in calls
    ]
