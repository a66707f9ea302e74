"""What a live picture reads from the database: everything, or only what others than this node's engine have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from capconduit.domain.books import Books
from capconduit.domain.estate import Estate
from capconduit.domain.model import Account, Attempt, Cdr, Event, Node, TargetState
from capconduit.domain.usage import counter_key
from capconduit.store.floor import MARKS, CallParts, Mark, Tally
from capconduit.store.store import Transaction
from capconduit.vocab import EventKind

EVENTS: Final = 200  # the last ones in a picture
EVENTS_AT_ONCE: Final = 5_000  # of one reading; a busier floor shows the newest
SETTLED_MS: Final = 60_000  # no commit is handed over later than this after it was made

mark_of: Final = attrgetter(*MARKS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read: all of it, or only what others than this node's engine change.

    `since_id`: events from here on, but those in `known_events`. `calls`: the live calls that are shown, with their
    marks where they are another node's. `counted`: calls that the tallies have. `day_ms`: count them anew from here.
    """

    tenant_id: str
    node: str
    whole: bool
    now_ms: int
    estate: Estate | None
    since_id: str
    known_events: Collection[str]
    calls: Mapping[str, Mark | None]
    counted: Collection[str]
    day_ms: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read in one snapshot of the database. `gone`: calls that were shown and live no more."""

    whole: bool
    estate: Estate
    accounts: Sequence[Account]
    states: Sequence[TargetState]
    counters: Books
    calls: CallParts
    marks: Mapping[str, Mark]
    gone: Collection[str]
    event_ids: Collection[str]
    events: Sequence[Event]
    cdrs: Sequence[Cdr]
    attempts: Sequence[Attempt]
    nodes: Sequence[Node]
    day_ms: int | None
    tallies: Mapping[str, Tally]
    counted: Collection[str]


def read(tx: Transaction, wanted: Wanted) -> Reading:
    """Read what is wanted; may run on any thread."""
    floor, tenant_id = tx.floor(), wanted.tenant_id
    estate = wanted.estate
    if estate is None or estate.version != tx.estate_version():
        estate = tx.load_estate(estate)
    marks: Mapping[str, Mark]
    if wanted.whole:
        parts = floor.calls(tenant_id, None)
        marks = {call.id: mark_of(call) for call in parts.calls if call.node != wanted.node}
        live = {call.id for call in parts.calls}
        gone = [call_id for call_id in wanted.calls if call_id not in live]
    else:
        marks = floor.marks(tenant_id, wanted.node)
        fresh = [call_id for call_id, mark in marks.items() if wanted.calls.get(call_id) != mark]
        parts = floor.calls(tenant_id, fresh) if fresh else CallParts((), (), ())
        gone = [call_id for call_id, mark in wanted.calls.items() if mark is not None and call_id not in marks]
    ids = floor.event_ids(tenant_id, wanted.since_id, EVENTS_AT_ONCE)
    unseen = [event_id for event_id in ids if event_id not in wanted.known_events]
    events = floor.events(tenant_id, unseen if wanted.since_id else unseen[:EVENTS]) if unseen else ()
    over = set(gone)
    if wanted.since_id:  # what has come and gone unseen; at first the tallies have all of them
        ends = {event.subject for event in events if event.kind is EventKind.CALL_ENDED}
        over |= {call_id for call_id in ends if call_id not in wanted.counted}
    cdrs, attempts = floor.ended(tenant_id, over) if over else ((), ())
    tallies: Mapping[str, Tally] = {}
    counted: Collection[str] = ()
    if wanted.day_ms is not None:
        tallies = floor.tallies(tenant_id, wanted.day_ms)
        counted = floor.ended_since(tenant_id, wanted.day_ms, wanted.now_ms - SETTLED_MS)
    return Reading(
        whole=wanted.whole,
        estate=estate,
        accounts=tx.rows(Account, tenant_id),
        states=tx.rows(TargetState, tenant_id),
        counters=_counters(tx, estate, wanted),
        calls=parts,
        marks=marks,
        gone=gone,
        event_ids=ids,
        events=events,
        cdrs=cdrs,
        attempts=attempts,
        nodes=tx.nodes(),
        day_ms=wanted.day_ms,
        tallies=tallies,
        counted=counted,
    )


def _counters(tx: Transaction, estate: Estate, wanted: Wanted) -> Books:
    """The counters of the windows of now, and the buckets that count."""
    books, keys, looking_back = Books(), set(), dict[int, list[str]]()
    for zoned in estate.caps.values():
        if zoned.cap.tenant_id != wanted.tenant_id:
            continue
        if zoned.bucket_ms:
            after_ms = wanted.now_ms - zoned.rolling_ms - zoned.bucket_ms
            looking_back.setdefault(after_ms, []).append(zoned.cap.id)
            books.buckets[zoned.cap.id] = set()
        else:
            keys.add(counter_key(zoned, wanted.now_ms))
    for counter in tx.floor().counters(wanted.tenant_id, keys, looking_back):
        books.counters[(counter.cap_id, counter.window_start_ms)] = counter
        if (starts := books.buckets.get(counter.cap_id)) is not None:
            starts.add(counter.window_start_ms)
    return books
