"""What decisions read: channels, callers, accounts and counters, locked in one order and loaded in few round trips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from capconduit.domain.books import Books, CallerKey, CallKey, CounterKey
from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Cdr,
    Counter,
    Hold,
    Place,
    RecentCaller,
    RuleState,
    TargetState,
)
from capconduit.ids import ulid
from capconduit.store import estates
from capconduit.store.dialect import CALLER_LOCK, CHANNEL_LOCK, Dialect, insert_sql
from capconduit.store.rows import mapping
from capconduit.store.store import LOOK_BACK_MS

if TYPE_CHECKING:
    from capconduit.domain.needs import Foreseen, Needs
    from capconduit.store.notes import Notes
    from capconduit.store.remembered import Remembered

Rows = Sequence[Sequence[Any]]
Statement = tuple[str, Mapping[str, Any]]


def _ignore(_rows: Rows) -> None:
    """A lock has no rows that matter."""


class Ask(NamedTuple):
    """A statement, and what is done with its rows."""

    sql: str
    values: Mapping[str, Any]
    keep: Callable[[Rows], None] = _ignore


def _keeping(kind: type, into: dict[Any, Any]) -> Callable[[Rows], None]:
    """Keeps rows by their keys."""
    m = mapping(kind)
    key = attrgetter(*m.key)

    def keep(rows: Rows) -> None:
        for row in map(m.load, rows):
            into[key(row)] = row

    return keep


class Loading:
    """See store.Transaction. Everything is asked for in the order of locks: the estate, channels, callers, accounts,
    targets, rules, counters."""

    _db: Dialect
    _writes: bool
    _alone: bool
    _for_update: str
    _notes: Notes
    _remembered: Remembered | None

    def begin_decisions(
        self,
        keys: Iterable[CallKey],
        books: Books,
        now_ms: int | None = None,
        *,
        live: bool = False,
        foreseen: Foreseen | None = None,
    ) -> int:
        asks = [Ask(*lock) for lock in (self._db.estate_lock(alone=False) if self._writes else ())]
        version: list[int] = []
        asks.append(Ask(estates.VERSION_SQL, {}, lambda rows: version.append(self._notes.look(rows[0]))))
        channels = _Channels(self._db, self._unknown(keys, books), books, now_ms)
        if channels.keys:
            asks += [*self._name_locks(CHANNEL_LOCK, channels.keys), channels.known()]
            if live:
                asks += channels.calls()
        if foreseen is not None:
            asks += [*self._callers(foreseen.callers, books), *self._needed(foreseen.needs, books)]
        self._ask(asks)
        self._ask(channels.found(without_calls=live))
        return version[0]

    def _unknown(self, keys: Iterable[CallKey], books: Books) -> list[CallKey]:
        """The channels that must be asked for, in the order of locks; the live calls of the others are in `books`."""
        wanted = sorted(set(keys))
        return wanted if self._remembered is None else self._remembered.give_calls(wanted, books)

    def lock_calls(self, keys: Iterable[CallKey], books: Books, now_ms: int | None = None) -> None:
        """See store.Transaction."""
        if wanted := sorted(set(keys)):
            channels = _Channels(self._db, wanted, books, now_ms)
            self._ask([*self._name_locks(CHANNEL_LOCK, wanted), channels.known()])
            self._ask(channels.found())

    def lock_callers(self, keys: Iterable[CallerKey], books: Books) -> None:
        """See store.Transaction."""
        self._ask(self._callers(keys, books))

    def lock_needs(self, needs: Needs, books: Books) -> None:
        """See store.Transaction."""
        self._ask(self._needed(needs, books))
        self._make_states(TargetState, needs.targets, books.targets)
        self._make_states(RuleState, needs.rules, books.rules)
        self._make_counters(sorted(needs.counters.keys() - books.counters.keys()), needs.counters, books)
        self._ask([self._bucket(cap_id, after, until, books) for cap_id, after, until in needs.buckets()])

    def lock_accounts(self, seller_ids: Iterable[str], books: Books) -> None:
        """See store.Transaction."""
        from capconduit.domain.needs import Needs

        self.lock_needs(Needs(sellers=set(seller_ids)), books)

    def lock_counters(self, keys: Mapping[CounterKey, str], books: Books) -> None:
        """See store.Transaction."""
        from capconduit.domain.needs import Needs

        self.lock_needs(Needs(counters=dict(keys)), books)

    def _ask(self, asks: Sequence[Ask]) -> None:
        """All of them in one round trip, where the engine can."""
        if asks:
            found = self._db.queries([(ask.sql, ask.values) for ask in asks])
            for ask, rows in zip(asks, found, strict=True):
                ask.keep(rows)

    def _name_locks(self, kind: str, pairs: Sequence[tuple[str, str]]) -> Sequence[Ask]:
        """None where nobody else decides anyway."""
        return [Ask(*lock) for lock in self._db.name_locks(kind, pairs)] if self._writes and not self._alone else []

    def _callers(self, keys: Iterable[CallerKey], books: Books) -> Sequence[Ask]:
        wanted = sorted(set(keys))
        if not wanted:
            return []
        where = f"{self._db.any_pair(('campaign_id', 'caller'), 'keys')} /* all tenants */"

        sql = f"{mapping(RecentCaller).select} WHERE {where}"
        load = Ask(sql, self._db.pair_values("keys", wanted), _keeping(RecentCaller, books.callers))
        return [*self._name_locks(CALLER_LOCK, wanted), load]

    def _needed(self, needs: Needs, books: Books) -> Sequence[Ask]:
        """What `books` does not have yet."""
        asks = (
            self._locking(Account, needs.sellers, books.accounts),
            self._locking(TargetState, needs.targets, books.targets),
            self._locking(RuleState, needs.rules, books.rules),
            self._locking_counters(sorted(needs.counters.keys() - books.counters.keys()), books),
        )
        return [ask for ask in asks if ask is not None]

    def _locking(self, kind: type, ids: Iterable[str], into: dict[str, Any]) -> Ask | None:
        """The statement that locks and loads rows by their ids; none where there is nothing to load."""
        if self._remembered is None:
            wanted = sorted(id for id in ids if id not in into)
        else:
            wanted = self._remembered.give_rows(kind, ids, into)
        if not wanted:
            return None
        m = mapping(kind)
        key = m.key[0]
        where = f"{self._db.any_of(key, 'ids')} /* all tenants */{self._in_order(key)}"
        return Ask(f"{m.select} WHERE {where}", {"ids": self._db.list_value(wanted)}, _keeping(kind, into))

    def _in_order(self, key: str) -> str:
        """Rows are locked in the order of their keys; where none are locked, their order is nobody's concern."""
        return f" ORDER BY {key}{self._for_update}" if self._for_update else ""

    def _locking_counters(self, keys: Sequence[CounterKey], books: Books) -> Ask | None:
        if self._remembered is not None:
            keys = self._remembered.give_counters(keys, books.counters)
        if not keys:
            return None
        pairs = self._db.any_pair(("cap_id", "window_start_ms"), "keys")
        where = f"{pairs} /* all tenants */{self._in_order('cap_id, window_start_ms')}"
        keep = _keeping(Counter, books.counters)
        return Ask(f"{mapping(Counter).select} WHERE {where}", self._db.pair_values("keys", keys), keep)

    def _bucket(self, cap_id: str, after_ms: int, until_ms: int, books: Books) -> Ask:
        """What a cap that looks back has counted; its counter of instant 0, which is locked, stands for all of them."""
        starts = books.buckets.setdefault(cap_id, set())

        def keep(rows: Rows) -> None:
            for counter in map(m.load, rows):
                starts.add(counter.window_start_ms)
                books.counters.setdefault((cap_id, counter.window_start_ms), counter)

        m = mapping(Counter)
        where = "cap_id = :cap_id AND window_start_ms > :after AND window_start_ms <= :until /* all tenants */"
        return Ask(f"{m.select} WHERE {where}", {"cap_id": cap_id, "after": after_ms, "until": until_ms}, keep)

    def _make_states(self, kind: type, ids: Iterable[str], into: dict[str, Any]) -> None:
        """States of targets or rules that were never dialled, made and locked: several daemons may be the first."""
        load = self._locking(kind, ids, into)
        if load is None or not self._writes:
            return
        m = mapping(kind)
        key, zeros = m.key[0], ", ".join("0" for _ in m.columns[2:])
        make = (
            f"INSERT INTO {m.table} ({', '.join(m.columns)})"
            f" SELECT id, tenant_id, {zeros} FROM {key.removesuffix('_id')}"
            f" WHERE {self._db.any_of('id', 'ids')} /* all tenants */"
            f" ORDER BY id ON CONFLICT DO NOTHING RETURNING {key}"
        )
        self._ask([Ask(make, load.values), load])

    def _make_counters(self, missing: Sequence[CounterKey], tenants: Mapping[CounterKey, str], books: Books) -> None:
        """Counters of windows that nobody used yet, made and locked."""
        load = self._locking_counters(missing, books)
        if load is None or not self._writes:
            return
        m = mapping(Counter)
        fresh = [
            Counter(tenant_id=tenants[k], cap_id=k[0], window_start_ms=k[1], used=0, in_flight=0, base=0)
            for k in missing
        ]
        sql = f"{insert_sql(m.table, m.columns)} ON CONFLICT DO NOTHING"
        self._db.many(sql, [m.values(counter) for counter in fresh])
        self._ask([load])


class _Channels:
    """The calls of some channels, alive, settled or buried, into `books`."""

    def __init__(self, db: Dialect, keys: Sequence[CallKey], books: Books, now_ms: int | None) -> None:
        self.keys = keys
        self._books = books
        self._values: Mapping[str, Any] = db.pair_values("keys", keys)
        self._where = f"{db.any_pair(('node', 'uniqueid'), 'keys')} /* all tenants */"
        self._recent = ""
        self._bounds = self._values
        if now_ms is not None:  # the months before are not searched
            self._recent = " AND call_id >= :oldest"
            self._bounds = {**self._values, "oldest": ulid(max(now_ms - LOOK_BACK_MS, 0), 0)}
        self._kinds: set[str] = set()

    def known(self) -> Ask:
        """What there is of them."""
        where = self._where
        return Ask(
            f"SELECT 'call', node, uniqueid FROM call WHERE {where}"
            f" UNION ALL SELECT 'cdr', node, uniqueid FROM cdr WHERE {where}{self._recent}"
            f" UNION ALL SELECT 'tombstone', node, uniqueid FROM tombstone WHERE {where}",
            self._bounds,
            self._keep_known,
        )

    def found(self, *, without_calls: bool = False) -> Sequence[Ask]:
        """What was known of them, whole."""
        asks = [*self.calls()] if "call" in self._kinds and not without_calls else []
        if "cdr" in self._kinds:
            m = mapping(Cdr)
            asks.append(Ask(f"{m.select} WHERE {self._where}{self._recent}", self._bounds, self._keep_cdrs))
        return asks

    def calls(self) -> Sequence[Ask]:
        """Live calls with their attempts, places and holds."""
        parts = f"call_id IN (SELECT id FROM call WHERE {self._where})"
        return [
            Ask(f"{mapping(Call).select} WHERE {self._where}", self._values, self._keep_calls),
            Ask(f"{mapping(Attempt).select} WHERE {parts}", self._values, self._keep_attempts),
            Ask(f"{mapping(Place).select} WHERE {parts}", self._values, self._keep_places),
            Ask(f"{mapping(Hold).select} WHERE {parts}", self._values, self._keep_holds),
        ]

    def _keep_known(self, rows: Rows) -> None:
        for what, node, uniqueid in rows:
            self._kinds.add(what)
            if what == "tombstone":
                self._books.buried.add((node, uniqueid))

    def _keep_calls(self, rows: Rows) -> None:
        for call in map(mapping(Call).load, rows):
            self._books.calls[call.id] = call
            self._books.call_ids[(call.node, call.uniqueid)] = call.id

    def _keep_attempts(self, rows: Rows) -> None:
        for attempt in sorted(map(mapping(Attempt).load, rows), key=lambda a: (a.call_id, a.number)):
            self._books.attempts.setdefault(attempt.call_id, {})[attempt.number] = attempt

    def _keep_places(self, rows: Rows) -> None:
        for place in map(mapping(Place).load, rows):
            self._books.places.setdefault(place.call_id, {})[(place.attempt, place.cap_id)] = place

    def _keep_holds(self, rows: Rows) -> None:
        for hold in map(mapping(Hold).load, rows):
            self._books.holds[hold.call_id] = hold

    def _keep_cdrs(self, rows: Rows) -> None:
        for cdr in map(mapping(Cdr).load, rows):
            self._books.settled[(cdr.node, cdr.uniqueid)] = cdr
