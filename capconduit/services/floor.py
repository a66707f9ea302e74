"""The live picture of one tenant's floor: kept from what the engine commits and from what the database says.

A Floor holds rows, and the JSON of every object that was shown; `flush` gives what changed since the last one. It
belongs to one thread. Two sources feed it: `take` gets what the engine of this node has just committed, `put` what was
read from the database (the calls of other nodes, and what commands changed; from time to time everything). What is
committed while a reading is under way is taken at once and again after it: rows are whole and absolute, so that doing
it twice changes nothing, and a reading that is older than a commit does not undo it.

Failure policy: fails open. The picture is decoration; what it misses is put right by the next whole reading.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from capconduit.domain.books import Books, CounterKey
from capconduit.domain.estate import Estate
from capconduit.domain.model import Account, Attempt, Call, Cdr, Event, Node, TargetState, Tenant
from capconduit.domain.usage import counter_key, taken
from capconduit.domain.windows import window_start_ms
from capconduit.ids import ulid
from capconduit.services.engine import Committed
from capconduit.services.floor_objects import (
    Burning,
    Json,
    Live,
    balance_object,
    burning,
    call_object,
    campaign_object,
    cap_currencies,
    cap_object,
    event_object,
    gone_object,
    sum_of,
    tallied,
    target_object,
)
from capconduit.services.floor_reading import EVENTS, Reading, Wanted, mark_of
from capconduit.store.floor import Mark, Tally
from capconduit.units import format_instant
from capconduit.vocab import WindowKind

CALL: Final = "call"
CAP: Final = "cap"
BALANCE: Final = "balance"
TARGET: Final = "target"
CAMPAIGN: Final = "campaign"
KINDS: Final = (CALL, CAP, BALANCE, TARGET, CAMPAIGN)
_NAMED_BY: Final = {BALANCE: "seller", TARGET: "name", CAMPAIGN: "name"}  # what viewers know these by
_PLURAL: Final = {CALL: "calls", CAP: "caps", BALANCE: "balances", TARGET: "targets", CAMPAIGN: "campaigns"}

OVERLAP_MS: Final = 3_000  # ids of events are made before they are committed: so far back is looked each time
WHOLE_OVERLAP_MS: Final = 60_000  # and so far with a whole reading, for nodes with other clocks
MEANWHILE: Final = 5_000  # commits that are remembered while a reading is under way

Message = tuple[str, bytes]  # type, JSON
Key = tuple[str, str]  # kind, id


@dataclass(slots=True)
class _Rows:
    """What is known."""

    calls: dict[str, Live] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)  # of other nodes' calls
    accounts: dict[str, Account] = field(default_factory=dict)
    states: dict[str, TargetState] = field(default_factory=dict)
    counters: Books = field(default_factory=Books)
    tallies: dict[str, Tally] = field(default_factory=dict)
    burns: dict[str, Burning] = field(default_factory=dict)  # by seller


class Floor:
    """The picture of a tenant as `node` sees it."""

    def __init__(self, tenant: Tenant, node: str) -> None:
        self.tenant = tenant
        self._node = node
        self._estate: Estate | None = None
        self._currencies: Mapping[str, str] = {}  # of caps by spend
        self._rows = _Rows()
        self._dirty: dict[Key, None] = {}
        self._gone: list[Json] = []
        self._news: list[Event] = []
        self._shown: dict[str, dict[str, bytes]] = {kind: {} for kind in KINDS}
        self._events: deque[tuple[str, bytes]] = deque(maxlen=EVENTS)
        self._seen: dict[str, None] = {}  # ids of events that were taken, oldest first
        self._counted: dict[str, None] = {}  # ids of settled calls that the tallies have
        self._day_ms: int | None = None  # since when the tallies count
        self._meanwhile: list[Committed] | None = None  # what was committed since the reading under way began
        self.nodes: Sequence[Node] = ()
        self._next_window_ms = 0

    # --- what comes in ------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How many calls are live."""
        return len(self._rows.calls)

    @property
    def estate(self) -> Estate | None:
        """The estate that is shown; None before the first reading."""
        return self._estate

    def begin(self, now_ms: int, *, whole: bool, estate: Estate | None, recount: bool) -> Wanted:
        """What to read now. Until `put` or `give_up`, commits are remembered. `recount`: the tallies of today, too."""
        self._meanwhile = []
        known = max((e for e in (estate, self._estate) if e is not None), key=lambda e: e.version, default=None)
        day_ms = self._day(now_ms, known)
        rows = self._rows
        if self._estate is None:
            since_id = ""  # the newest ones, whenever they were
        else:
            since_id = ulid(max(now_ms - (WHOLE_OVERLAP_MS if whole else OVERLAP_MS), 0), 0)
        return Wanted(
            tenant_id=self.tenant.id,
            node=self._node,
            whole=whole or self._estate is None,
            now_ms=now_ms,
            estate=known,
            since_id=since_id,
            known_events=self._seen,
            calls={call_id: rows.marks.get(call_id) for call_id in rows.calls},
            counted=self._counted,
            day_ms=day_ms if recount or day_ms != self._day_ms else None,
        )

    def _day(self, now_ms: int, estate: Estate | None) -> int:
        zone = estate.settings(self.tenant.id).timezone if estate else "UTC"
        return window_start_ms(WindowKind.DAY, now_ms, zone)

    @property
    def overrun(self) -> bool:
        """The reading under way takes so long that not all could be remembered that was committed since."""
        return self._meanwhile is not None and len(self._meanwhile) >= MEANWHILE

    def give_up(self) -> None:
        """The reading that was begun gave nothing."""
        self._meanwhile = None

    def put(self, reading: Reading, now_ms: int) -> None:
        """Take over what was read, and once more what was committed since it began."""
        meanwhile, self._meanwhile = self._meanwhile or [], None
        if reading.estate is not self._estate:
            self._put_estate(reading.estate)
        self._put_rows(reading)
        self._put_calls(reading, now_ms)
        self._put_ended(reading)
        self._news.extend(event for event in reading.events if event.id not in self._seen)
        self._seen.update(dict.fromkeys(reading.event_ids))
        self.nodes = reading.nodes
        for committed in meanwhile:
            self._take(committed, now_ms)
        self._forget(now_ms)

    def take(self, committed: Committed, now_ms: int) -> None:
        """Take over what the engine of this node has committed."""
        if self._meanwhile is not None and len(self._meanwhile) < MEANWHILE:
            self._meanwhile.append(committed)
        if self._estate is not None:
            self._take(committed, now_ms)

    def _take(self, committed: Committed, now_ms: int) -> None:
        rows, tenant_id, books = self._rows, self.tenant.id, committed.books
        for changes in committed.changes:
            for call in changes.calls:
                if call.tenant_id == tenant_id and call.id not in self._counted:
                    self._put_call(call, now_ms)
            for attempt in changes.attempts:
                if (live := rows.calls.get(attempt.call_id)) is not None:
                    live.legs[attempt.number] = attempt
                    self._dirty[(CALL, attempt.call_id)] = None
            for hold in changes.holds:
                if (live := rows.calls.get(hold.call_id)) is not None:
                    live.hold = hold
                    self._dirty[(CALL, hold.call_id)] = None
                self._put_account(books.accounts.get(hold.seller_id))
            for entry in changes.ledger:
                self._put_account(books.accounts.get(entry.seller_id))
            for place in changes.places:
                self._count(books, (place.cap_id, place.window_start_ms))
            for _, key in changes.ticks:
                self._count(books, key)
            for target in changes.targets:
                self._put_state(target)
            self._settle(changes.cdrs, books)
            for call_id in changes.ended:
                self._drop(call_id, next((cdr for cdr in changes.cdrs if cdr.call_id == call_id), None))
            for event in changes.events:
                if event.tenant_id == tenant_id and event.id not in self._seen:
                    self._seen[event.id] = None
                    self._news.append(event)

    def _settle(self, cdrs: Iterable[Cdr], books: Books) -> None:
        for cdr in cdrs:
            if cdr.tenant_id == self.tenant.id:
                self._tally(cdr, list(books.attempts.get(cdr.call_id, {}).values()))

    def _tally(self, cdr: Cdr, attempts: Sequence[Attempt]) -> None:
        """Count a settled call, once."""
        if cdr.call_id in self._counted:
            return
        self._counted[cdr.call_id] = None
        if self._day_ms is None or cdr.arrived_ms < self._day_ms:
            return
        for target_id, tally in tallied(cdr, attempts).items():
            self._rows.tallies[target_id] = sum_of(self._rows.tallies.get(target_id, Tally()), tally)
            self._dirty[(TARGET, target_id)] = None

    def _count(self, books: Books, key: CounterKey) -> None:
        counter = books.counters.get(key)
        if counter is None or counter.tenant_id != self.tenant.id:
            return
        self._rows.counters.counters[key] = counter
        if (starts := self._rows.counters.buckets.get(key[0])) is not None:
            starts.add(key[1])
        self._dirty[(CAP, key[0])] = None

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _put_estate(self, estate: Estate) -> None:
        """All that is named is looked at again; what was shown and is gone, too."""
        self._estate = estate
        self._currencies = cap_currencies(estate, self.tenant.id)
        tenant_id, rows = self.tenant.id, self._rows
        for cap_id, zoned in estate.caps.items():
            if zoned.cap.tenant_id == tenant_id:
                self._dirty[(CAP, cap_id)] = None
                if zoned.bucket_ms:
                    rows.counters.buckets.setdefault(cap_id, set())
        named: tuple[tuple[str, Mapping[str, Any]], ...] = (
            (BALANCE, estate.sellers), (TARGET, estate.targets), (CAMPAIGN, estate.campaigns),
        )  # fmt: skip
        for kind, entities in named:
            for entity_id, entity in entities.items():
                if entity.tenant_id == tenant_id:
                    self._dirty[(kind, entity_id)] = None
        for kind, shown in self._shown.items():
            for shown_id in shown:
                self._dirty[(kind, shown_id)] = None

    def _put_rows(self, reading: Reading) -> None:
        rows = self._rows
        for account in reading.accounts:
            self._put_account(account)
        for state in reading.states:
            self._put_state(state)
        for key, counter in reading.counters.counters.items():
            if rows.counters.counters.get(key) != counter:
                rows.counters.counters[key] = counter
                self._dirty[(CAP, key[0])] = None
        for cap_id, starts in reading.counters.buckets.items():
            if rows.counters.buckets.get(cap_id) != starts:  # those that are over are gone with this
                rows.counters.buckets[cap_id] = starts
                self._dirty[(CAP, cap_id)] = None
        if reading.day_ms is not None:
            self._day_ms = reading.day_ms
            rows.tallies = dict(reading.tallies)
            self._counted = dict.fromkeys(reading.counted)
            assert self._estate is not None
            for target_id in self._estate.targets:
                self._dirty[(TARGET, target_id)] = None

    def _put_calls(self, reading: Reading, now_ms: int) -> None:
        """Calls as they were read."""
        cdrs = {cdr.call_id: cdr for cdr in reading.cdrs}
        legs: dict[str, dict[int, Attempt]] = {}
        for attempt in reading.calls.attempts:
            legs.setdefault(attempt.call_id, {})[attempt.number] = attempt
        holds = {hold.call_id: hold for hold in reading.calls.holds}
        for call in reading.calls.calls:
            own, hold, known = legs.get(call.id, {}), holds.get(call.id), self._rows.calls.get(call.id)
            if known is None or (mark_of(known.call), known.legs, known.hold) != (mark_of(call), own, hold):
                live = self._put_call(call, now_ms)
                live.legs, live.hold = own, hold
            if (mark := reading.marks.get(call.id)) is not None:
                self._rows.marks[call.id] = mark
        for call_id in reading.gone:
            self._drop(call_id, cdrs.get(call_id))

    def _put_ended(self, reading: Reading) -> None:
        """Calls that ended elsewhere."""
        attempts: dict[str, list[Attempt]] = {}
        for attempt in reading.attempts:
            attempts.setdefault(attempt.call_id, []).append(attempt)
        for cdr in reading.cdrs:
            self._tally(cdr, attempts.get(cdr.call_id, []))

    def _put_call(self, call: Call, now_ms: int) -> Live:
        live = self._rows.calls.get(call.id)
        if live is None:
            live = self._rows.calls[call.id] = Live(call)
        live.call = call
        self._burn_anew(live, now_ms)
        self._dirty[(CALL, call.id)] = None
        return live

    def _burn_anew(self, live: Live, now_ms: int) -> None:
        """What a call adds to its seller's burning at this instant."""
        burns = burning(live.call, now_ms)
        if burns != live.burns:
            self._burn(live.call.seller_id, live.burns, -1)
            self._burn(live.call.seller_id, burns, 1)
            live.burns = burns

    def _burn(self, seller_id: str, burns: Burning | None, sign: int) -> None:
        if burns is not None:
            self._rows.burns[seller_id] = self._rows.burns.get(seller_id, Burning()).plus(burns, sign)
            self._dirty[(BALANCE, seller_id)] = None

    def _drop(self, call_id: str, cdr: Cdr | None) -> None:
        """A call is over; told once."""
        live = self._rows.calls.pop(call_id, None)
        self._rows.marks.pop(call_id, None)
        if live is None:
            return
        self._burn(live.call.seller_id, live.burns, -1)
        self._dirty.pop((CALL, call_id), None)
        if self._shown[CALL].pop(call_id, None) is not None:
            self._gone.append(gone_object(live.call, cdr))

    def _put_account(self, account: Account | None) -> None:
        if account is None or account.tenant_id != self.tenant.id:
            return
        if self._rows.accounts.get(account.seller_id) != account:
            self._rows.accounts[account.seller_id] = account
            self._dirty[(BALANCE, account.seller_id)] = None

    def _put_state(self, state: TargetState) -> None:
        if state.tenant_id == self.tenant.id and self._rows.states.get(state.target_id) != state:
            self._rows.states[state.target_id] = state
            self._dirty[(TARGET, state.target_id)] = None

    def _forget(self, now_ms: int) -> None:
        """What is too old to come again."""
        oldest = ulid(max(now_ms - 2 * WHOLE_OVERLAP_MS, 0), 0)
        for event_id in [e for e in self._seen if e < oldest]:
            del self._seen[event_id]
        counters, caps = self._rows.counters, self._estate.caps if self._estate else {}
        for key in list(counters.counters):
            zoned = caps.get(key[0])
            if zoned is None:
                stale = True
            elif zoned.bucket_ms:
                stale = key[1] not in counters.buckets.get(key[0], ())
            else:
                stale = key != counter_key(zoned, now_ms)
            if stale:
                del counters.counters[key]

    # --- what goes out ------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Look at what changes by itself as time goes by: windows, caps that look back, rests, second prices. For every
        second."""
        if self._estate is None:
            return
        for cap_id, starts in self._rows.counters.buckets.items():
            if starts:
                self._dirty[(CAP, cap_id)] = None
        for target_id, state in self._rows.states.items():
            if state.rested_until_ms or state.probe_until_ms:
                self._dirty[(TARGET, target_id)] = None
        for live in self._rows.calls.values():
            if live.call.then_after_s:
                self._burn_anew(live, now_ms)
        if now_ms >= self._next_window_ms:
            self._next_window_ms = now_ms - now_ms % 60_000 + 60_000  # windows change on the minute, in every zone
            for cap_id in self._shown[CAP]:
                self._dirty[(CAP, cap_id)] = None

    @property
    def dirty(self) -> bool:
        """Whether there may be something to tell."""
        return bool(self._dirty or self._gone or self._news)

    def flush(self, now_ms: int, limit: int) -> list[Message]:
        """What changed, one message for each object; of objects at most `limit`, the rest comes next time."""
        told: list[Message] = [("call-gone", _json(gone)) for gone in self._gone]
        self._gone = []
        for key in list(self._dirty)[:limit]:
            del self._dirty[key]
            told.extend(self._show(key, now_ms))
        for event in self._news:
            text = _json(event_object(event))
            self._events.append((event.id, text))
            told.append(("event", text))
        self._news = []
        return told

    def _show(self, key: Key, now_ms: int) -> Iterable[Message]:
        """One object as it is now, where that is not what was shown last."""
        kind, object_id = key
        shown = self._shown[kind]
        made, before = self._make(kind, object_id, now_ms), shown.get(object_id)
        if made is None:
            shown.pop(object_id, None)
            return () if before is None or kind == CALL else self._gone_from(kind, before)
        text = _json(made)
        if before == text:
            return ()
        shown[object_id] = text
        name = _NAMED_BY.get(kind)
        if before is None or name is None or json.loads(before)[name] == made[name]:
            return ((kind, text),)
        return (*self._gone_from(kind, before), (kind, text))

    def _gone_from(self, kind: str, before: bytes) -> Iterable[Message]:
        """That what was shown so is no more; nothing where another has its name by now: viewers know it by that."""
        gone, name = json.loads(before), _NAMED_BY.get(kind)
        if name is not None and any(json.loads(text)[name] == gone[name] for text in self._shown[kind].values()):
            return ()
        return ((kind, _json({**gone, "gone": True})),)

    def _make(self, kind: str, object_id: str, now_ms: int) -> Json | None:
        rows, estate = self._rows, self._estate
        assert estate is not None
        match kind:
            case "call":
                live = rows.calls.get(object_id)
                return call_object(live, estate) if live else None
            case "cap":
                zoned = estate.caps.get(object_id)
                if zoned is None:
                    return None
                used, in_flight = taken(zoned, counter_key(zoned, now_ms), rows.counters, now_ms)
                return cap_object(zoned, used, in_flight, now_ms, self._currencies.get(object_id, ""))
            case "balance":
                seller, account = estate.sellers.get(object_id), rows.accounts.get(object_id)
                if seller is None or account is None:
                    return None
                return balance_object(seller, account, rows.burns.get(object_id, Burning()), now_ms)
            case "target":
                target = estate.targets.get(object_id)
                if target is None or target.tenant_id != self.tenant.id:
                    return None
                state = rows.states.get(object_id) or rows.counters.target(target.tenant_id, object_id)
                return target_object(target, state, rows.tallies.get(object_id, Tally()), now_ms, estate)
            case _:
                campaign = estate.campaigns.get(object_id)
                return campaign_object(campaign, estate) if campaign else None

    def picture(self, now_ms: int, boot_id: str, health: bytes) -> bytes:
        """PICTURE of all that was flushed, as JSON."""
        head = _json({
            "at": format_instant(now_ms), "node": self._node, "boot_id": boot_id, "tenant": self.tenant.name,
        })[:-1]  # fmt: skip
        parts = [head]
        for kind in KINDS:
            parts += [b',"', _PLURAL[kind].encode(), b'":[', b",".join(self._in_order(kind)), b"]"]
        events = [text for _, text in sorted(self._events)]
        parts += [b',"events":[', b",".join(events), b'],"health":', health, b"}"]
        return b"".join(parts)

    def _in_order(self, kind: str) -> Iterable[bytes]:
        """Calls by age, all else as it is named."""
        shown = self._shown[kind]
        if kind == CALL:
            return [shown[call_id] for call_id in sorted(shown)]
        return [shown[object_id] for object_id in sorted(shown, key=lambda object_id: self._name(kind, object_id))]

    def _name(self, kind: str, object_id: str) -> tuple[str, ...]:
        estate = self._estate
        assert estate is not None
        if kind == CAP:
            zoned = estate.caps.get(object_id)
            return (
                (zoned.cap.scope, zoned.subject, zoned.cap.metric, zoned.cap.window_kind, object_id) if zoned else ("",)
            )
        by_kind: Mapping[str, Mapping[str, Any]] = {
            BALANCE: estate.sellers, TARGET: estate.targets, CAMPAIGN: estate.campaigns,
        }  # fmt: skip
        entity = by_kind[kind].get(object_id)
        return (entity.name if entity else "",)


def _json(value: object) -> bytes:
    """Compact JSON; half a character, which UTF-8 does not have, is escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()
