"""A store in memory that behaves like a transaction: all of it or nothing, with the keys and references of the schema.

It is written apart from the SQL, so that where both do the same thing they check each other (see twin.py), and it is
what most seeds of the simulation run on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import UniqueConstraint
from sqlmodel import SQLModel

from capconduit.domain import model
from capconduit.domain.books import Books, CallerKey, CallKey, CounterKey
from capconduit.domain.estate import Estate, Rows, build_estate
from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Cap,
    Cdr,
    Counter,
    Hold,
    LedgerEntry,
    Node,
    Place,
    RecentCaller,
    RuleState,
    TargetState,
    Tombstone,
)
from capconduit.domain.needs import Foreseen, Needs
from capconduit.errors import Refused
from capconduit.store import tables as _schema  # noqa: F401 - registers the tables
from capconduit.store.copying import COPIED
from capconduit.store.estates import KINDS as ESTATE_KINDS
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import SqlStore
from capconduit.store.store import Transaction
from capconduit.vocab import ATTEMPT_SCOPES, CapMetric, CapScope, HoldState, PlaceState

KINDS: tuple[type[Any], ...] = tuple(COPIED)
Key = Any  # the value of a key column, or the tuple of several
Change = tuple[type[Any], Key, Any, Any]  # kind, key, row before, row after (None: there is none)
_MISSING: Any = object()


_KEYS: dict[type[Any], Callable[[Any], Key]] = {kind: attrgetter(*mapping(kind).key) for kind in KINDS}


def key_of(kind: type[Any]) -> Callable[[Any], Key]:
    """Reads the key of a row."""
    return _KEYS[kind]


def _unique(kind: type[Any]) -> list[Callable[[Any], Any]]:
    """Reads what must be unique of a row, beside its key."""
    constraints = SQLModel.metadata.tables[mapping(kind).table].constraints
    named = [tuple(c.name for c in u.columns) for u in constraints if isinstance(u, UniqueConstraint)]
    return [attrgetter(*columns) for columns in sorted(named)]


_UNIQUE = {kind: _unique(kind) for kind in KINDS}


@cache
def _references() -> dict[type[Any], list[tuple[str, type[Any]]]]:
    """kind → its columns that name a row of another kind."""
    kinds = {mapping(kind).table: kind for kind in KINDS}
    return {
        kind: sorted(
            ((next(iter(f.columns)).name, kinds[f.referred_table.name]) for f in table.foreign_key_constraints),
            key=lambda pair: pair[0],
        )
        for name, kind in kinds.items()
        if (table := SQLModel.metadata.tables[name]) is not None
    }


class Tables:
    """All rows, the indexes that decisions need, and what the transaction under way has changed."""

    def __init__(self) -> None:
        self.rows: dict[type[Any], dict[Key, Any]] = {kind: {} for kind in KINDS}
        self.parts: dict[type[Any], dict[str, dict[Key, Any]]] = {kind: {} for kind in (Attempt, Place)}
        self.channels: dict[type[Any], dict[CallKey, Any]] = {kind: {} for kind in (Call, Cdr)}
        self.buckets: dict[str, dict[int, Counter]] = {}  # counters by cap and start
        self.version = 1
        self.estate: Estate | None = None  # as it was last committed and read
        self._undo: list[tuple[type[Any], Key, Any]] = []
        self._version_before = 1

    @property
    def is_dirty(self) -> bool:
        """Whether the transaction under way has changed anything."""
        return bool(self._undo)

    def begin(self) -> None:
        """A transaction begins."""
        self._undo = []
        self._version_before = self.version

    def commit(self) -> list[Change]:
        """It stands; what it has changed, row by row."""
        first: dict[tuple[type[Any], Key], Any] = {}
        for kind, key, before in self._undo:
            first.setdefault((kind, key), before)
        self._undo = []
        return [(kind, key, before, self.rows[kind].get(key)) for (kind, key), before in first.items()]

    def roll_back(self) -> None:
        """Nothing of it has ever been."""
        for kind, key, before in reversed(self._undo):
            self._set(kind, key, before)
        self._undo = []
        self.version = self._version_before

    def put(self, row: Any) -> None:
        """Add or replace a row."""
        kind = type(row)
        key = key_of(kind)(row)
        self._undo.append((kind, key, self.rows[kind].get(key)))
        self._set(kind, key, row)

    def drop(self, kind: type[Any], key: Key) -> None:
        """Remove a row, if it is there."""
        before = self.rows[kind].get(key)
        if before is not None:
            self._undo.append((kind, key, before))
            self._set(kind, key, None)

    def _set(self, kind: type[Any], key: Key, row: Any) -> None:
        rows = self.rows[kind]
        before = rows.get(key)
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
        if kind in self.parts:
            _index(self.parts[kind], key[0], key[1:] if len(key) > 2 else key[1], row)
        elif kind is Counter:
            _index(self.buckets, key[0], key[1], row)
        elif kind in self.channels:
            named = row or before
            if named is not None:
                _set_or_drop(self.channels[kind], (named.node, named.uniqueid), row)


def _index(index: dict[str, dict[Key, Any]], group: str, key: Key, row: Any) -> None:
    _set_or_drop(index.setdefault(group, {}), key, row)


def _set_or_drop(rows: dict[Key, Any], key: Key, row: Any) -> None:
    if row is None:
        rows.pop(key, None)
    else:
        rows[key] = row


class MemoryTransaction(Transaction):
    """See store.Transaction. `on_statement` is called where the SQL would run one."""

    def __init__(self, tables: Tables, *, write: bool, on_statement: Callable[[], None] = lambda: None) -> None:
        self._tables = tables
        self._writes = write
        self._statement = on_statement
        self._touched = self._bumped = False

    # --- configuration and records ------------------------------------------------------------------------------------

    def find(self, kind: type[Any], tenant_id: str, /, **where: Any) -> Any:
        found = self.rows(kind, tenant_id, limit=2, **where)
        return found[0] if len(found) == 1 else None

    def rows(
        self,
        kind: type[Any],
        tenant_id: str,
        /,
        *,
        since: tuple[str, int | str] | None = None,
        until: tuple[str, int | str] | None = None,
        newest_first: str = "",
        limit: int | None = None,
        **where: Any,
    ) -> Sequence[Any]:
        self._statement()
        column = "id" if kind is model.Tenant else "tenant_id"
        found = [
            row
            for row in self._tables.rows[kind].values()
            if getattr(row, column) == tenant_id
            and all(getattr(row, name) == value for name, value in where.items())
            and (since is None or (getattr(row, since[0]) is not None and getattr(row, since[0]) >= since[1]))
            and (until is None or (getattr(row, until[0]) is not None and getattr(row, until[0]) < until[1]))
        ]
        found.sort(key=key_of(kind))
        if newest_first:
            first_key = mapping(kind).key[0]
            found.sort(key=lambda r: (getattr(r, newest_first), getattr(r, first_key)), reverse=True)
        return found[:limit]

    def insert(self, row: object) -> None:
        self._statement()
        self._must_write()
        self._check(row, key_of(type(row))(row) in self._tables.rows[type(row)])
        self._touched = self._touched or type(row) in ESTATE_KINDS.values()
        self._tables.put(row)

    def update(self, row: object) -> None:
        self._statement()
        self._must_write()
        kind = type(row)
        key = key_of(kind)(row)
        if key in self._tables.rows[kind]:
            self._check(row, False)
            self._touched = self._touched or kind in ESTATE_KINDS.values()
            self._tables.put(row)

    def delete(self, row: object) -> None:
        self._statement()
        self._must_write()
        kind = type(row)
        key = key_of(kind)(row)
        for other, columns in _references().items():
            for column, referred in columns:
                if referred is kind and any(getattr(r, column) == key for r in self._tables.rows[other].values()):
                    raise Refused("in-use", f"{mapping(other).table} refers to it", "remove what refers to it first")
        self._touched = self._touched or kind in ESTATE_KINDS.values()
        self._tables.drop(kind, key)

    def _check(self, row: Any, taken: bool) -> None:
        kind = type(row)
        key = key_of(kind)(row)
        for unique in _UNIQUE[kind]:
            mine = unique(row)
            taken = taken or any(
                unique(other) == mine for other_key, other in self._tables.rows[kind].items() if other_key != key
            )
        if taken:
            raise Refused("exists", f"it exists already ({mapping(kind).table})", "choose another name")
        for column, referred in _references()[kind]:
            value = getattr(row, column)
            if value is not None and value not in self._tables.rows[referred]:
                raise Refused("in-use", f"{column} {value!r} is not there", "name one that is")

    def tenants(self) -> Sequence[model.Tenant]:
        self._statement()
        return sorted(self._tables.rows[model.Tenant].values(), key=lambda t: (t.created_ms, t.id))

    def nodes(self) -> Sequence[Node]:
        self._statement()
        return sorted(self._tables.rows[Node].values(), key=lambda n: n.name)

    def put_node(self, node: Node) -> None:
        self._statement()
        self._must_write()
        self._tables.put(node)

    # --- the estate ---------------------------------------------------------------------------------------------------

    def estate_version(self, *, for_change: bool = False) -> int:
        self._statement()
        return self._tables.version

    def load_estate(self, known: Estate | None = None) -> Estate:
        self._statement()
        rows = {name: list(self._tables.rows[kind].values()) for name, kind in ESTATE_KINDS.items()}
        return build_estate(self._tables.version, Rows(**rows))

    def bump_estate(self) -> int:
        self._statement()
        self._must_write()
        self._tables.version += 1
        self._bumped = True
        return self._tables.version

    def finish(self) -> None:
        """The end of the transaction: whoever touched the estate has made a new version of it."""
        if self._touched and not self._bumped:
            self.bump_estate()

    # --- the way of a call --------------------------------------------------------------------------------------------

    def begin_decisions(
        self,
        keys: Iterable[CallKey],
        books: Books,
        now_ms: int | None = None,
        *,
        live: bool = False,
        foreseen: Foreseen | None = None,
    ) -> int:
        self.lock_calls(keys, books)
        if foreseen is not None:  # the rest is loaded by lock_needs, which is as good where nothing is sent
            self.lock_callers(foreseen.callers, books)
        return self._tables.version

    def lock_calls(self, keys: Iterable[CallKey], books: Books, now_ms: int | None = None) -> None:
        self._statement()
        tables = self._tables
        for key in sorted(set(keys)):
            if (call := tables.channels[Call].get(key)) is not None:
                books.calls[call.id] = call
                books.call_ids[key] = call.id
                if attempts := tables.parts[Attempt].get(call.id):
                    books.attempts[call.id] = dict(sorted(attempts.items()))
                if places := tables.parts[Place].get(call.id):
                    books.places[call.id] = dict(places)
                if (hold := tables.rows[Hold].get(call.id)) is not None:
                    books.holds[call.id] = hold
            if (cdr := tables.channels[Cdr].get(key)) is not None:
                books.settled[key] = cdr
            if key in tables.rows[Tombstone]:
                books.buried.add(key)

    def lock_callers(self, keys: Iterable[CallerKey], books: Books) -> None:
        for key in keys:
            if (caller := self._tables.rows[RecentCaller].get(key)) is not None:
                books.callers[key] = caller

    def lock_needs(self, needs: Needs, books: Books) -> None:
        self._statement()
        rows = self._tables.rows
        kinds: list[tuple[set[str], type[Any], dict[str, Any]]] = [
            (needs.sellers, Account, books.accounts),
            (needs.targets, TargetState, books.targets),
            (needs.rules, RuleState, books.rules),
        ]
        for wanted, kind, loaded in kinds:
            for key in wanted:
                if key not in loaded and (row := rows[kind].get(key)) is not None:
                    loaded[key] = row
        self._make_states(needs, books)
        self._lock_counters(needs.counters, books)
        for cap_id, after_ms, until_ms in needs.buckets():
            starts = books.buckets.setdefault(cap_id, set())
            for start, counter in self._tables.buckets.get(cap_id, {}).items():
                if after_ms < start <= until_ms:
                    starts.add(start)
                    if (cap_id, start) not in books.counters:
                        books.counters[(cap_id, start)] = replace(counter)

    def _make_states(self, needs: Needs, books: Books) -> None:
        """States of targets and rules that were never dialled."""
        if not self._writes:
            return
        for target_id in sorted(needs.targets - books.targets.keys()):
            target = self._tables.rows[model.Target].get(target_id)
            if target is not None:
                self._tables.put(Books().target(target.tenant_id, target_id))
                books.targets[target_id] = self._tables.rows[TargetState][target_id]
        for rule_id in sorted(needs.rules - books.rules.keys()):
            rule = self._tables.rows[model.Rule].get(rule_id)
            if rule is not None:
                self._tables.put(RuleState(rule_id=rule_id, tenant_id=rule.tenant_id, cursor=0))
                books.rules[rule_id] = self._tables.rows[RuleState][rule_id]

    def _lock_counters(self, wanted: Mapping[CounterKey, str], books: Books) -> None:
        counters = self._tables.rows[Counter]
        for key in sorted(wanted):
            if key in books.counters:
                continue
            found = counters.get(key)
            if found is None and self._writes:
                found = Counter(
                    tenant_id=wanted[key], cap_id=key[0], window_start_ms=key[1], used=0, in_flight=0, base=0
                )
                self._tables.put(found)
            if found is not None:
                books.counters[key] = replace(found)  # books change theirs in place

    def lock_accounts(self, seller_ids: Iterable[str], books: Books) -> None:
        self.lock_needs(Needs(sellers=set(seller_ids)), books)

    def lock_counters(self, keys: Mapping[CounterKey, str], books: Books) -> None:
        self.lock_needs(Needs(counters=dict(keys)), books)

    def send(self, books: Books) -> None:
        """Nothing is gained by it here."""

    def write(self, books: Books) -> None:
        self._must_write()
        for row in self._written(books):
            self._tables.put(row)
        self._statement()
        tables = self._tables
        for call_id in sorted(books.ended_calls):
            tables.drop(Call, call_id)
        for call_id, number, cap_id in sorted(books.dirty_places | books.new_places):
            place = books.places[call_id][(number, cap_id)]
            if place.state is PlaceState.RELEASED and place.counted == 0:
                tables.drop(Place, (call_id, number, cap_id))
            else:
                tables.put(place)
        for campaign_id, caller, call_id in books.forgotten:
            known = tables.rows[RecentCaller].get((campaign_id, caller))
            if known is not None and known.call_id == call_id:
                tables.drop(RecentCaller, (campaign_id, caller))
        self._statement()

    def _written(self, books: Books) -> Iterator[Any]:
        """The rows of `books` that are new or changed; a statement for each kind."""
        yield from (books.calls[i] for i in sorted(books.dirty_calls | books.new_calls))
        self._statement()
        yield from (books.attempts[c][n] for c, n in sorted(books.dirty_attempts | books.new_attempts))
        self._statement()
        yield from (books.holds[i] for i in sorted(books.dirty_holds | books.new_holds))
        self._statement()
        yield from books.new_ledger
        yield from books.new_cdrs
        self._statement()
        yield from books.new_events
        yield from (books.accounts[i] for i in sorted(books.dirty_accounts))
        self._statement()
        yield from (books.targets[i] for i in sorted(books.dirty_targets))
        yield from (books.rules[i] for i in sorted(books.dirty_rules))
        self._statement()
        yield from (replace(books.counters[k]) for k in sorted(books.dirty_counters))
        self._statement()
        yield from books.new_tombstones
        yield from (books.callers[k] for k in sorted(books.dirty_callers))

    def live_call_keys(self, tenant_id: str, **where: Any) -> Sequence[CallKey]:
        self._statement()
        return [
            (call.node, call.uniqueid)
            for call in self._tables.rows[Call].values()
            if call.tenant_id == tenant_id and all(getattr(call, c) == value for c, value in where.items())
        ]

    def node_calls(self, node: str) -> Sequence[Call]:
        self._statement()
        found = [c for c in self._tables.rows[Call].values() if c.node == node]
        return sorted(found, key=lambda c: c.id)

    def call_node(self, call_id: str) -> str | None:
        self._statement()
        found = self._tables.rows[Call].get(call_id) or self._tables.rows[Cdr].get(call_id)
        return found.node if found is not None else None

    def hold_ends(self, node: str) -> Mapping[str, int]:
        self._statement()
        holds = self._tables.rows[Hold]
        return {
            call.id: holds[call.id].expires_ms
            for call in self._tables.rows[Call].values()
            if call.node == node and call.id in holds and holds[call.id].state is HoldState.OPEN
        }

    # --- recounting ---------------------------------------------------------------------------------------------------

    def recount_cap(self, cap: Cap, start_ms: int, end_ms: int, width_ms: int = 0) -> Mapping[int, int]:
        width_ms = width_ms or end_ms - start_ms
        starts = range(start_ms, end_ms, width_ms)
        counts = {start: self._recount(cap, start, min(start + width_ms, end_ms)) for start in starts}
        return {start: count for start, count in counts.items() if count}

    def _recount(self, cap: Cap, start_ms: int, end_ms: int) -> int:
        self._statement()
        by_attempt = cap.scope in ATTEMPT_SCOPES
        total = 0
        for row in self._tables.rows[Attempt if by_attempt else Cdr].values():
            at_ms = row.started_ms if by_attempt else row.decided_ms
            if row.tenant_id != cap.tenant_id or not start_ms <= at_ms < end_ms or not self._is_of(cap, row):
                continue
            if not by_attempt:
                total += _counted(cap.metric, row)
                continue
            cdr = self._tables.rows[Cdr].get(row.call_id)
            told = cdr if cdr is not None and cdr.attempt == row.number else None
            if cap.metric is CapMetric.ATTEMPTS:
                given_back = told is not None and told.reject_code == "engine_timeout"
                total += int(row.hangup_cause is not None and not given_back)
            elif told is not None:
                total += _counted(cap.metric, told)
        return total

    def _is_of(self, cap: Cap, row: Any) -> bool:
        """Whether a record or an attempt is one of what `cap` limits."""
        if cap.scope is CapScope.TRUNK:
            trunk = self._tables.rows[model.Trunk].get(cap.scope_id)
            return trunk is not None and row.trunk == trunk.name
        column = "tenant_id" if cap.scope is CapScope.SYSTEM else f"{cap.scope}_id"
        return bool(getattr(row, column) == cap.scope_id)

    def place_sums(self, tenant_id: str) -> Mapping[CounterKey, tuple[int, int]]:
        self._statement()
        sums: dict[CounterKey, tuple[int, int]] = {}
        for place in self._tables.rows[Place].values():
            if place.tenant_id == tenant_id:
                counted, held = sums.get((place.cap_id, place.window_start_ms), (0, 0))
                held += place.amount if place.state is not PlaceState.RELEASED else 0
                sums[(place.cap_id, place.window_start_ms)] = (counted + place.counted, held)
        return sums

    def ledger_sums(self, tenant_id: str) -> Mapping[str, int]:
        self._statement()
        return _sums(r for r in self._tables.rows[LedgerEntry].values() if r.tenant_id == tenant_id)

    def hold_sums(self, tenant_id: str) -> Mapping[str, int]:
        self._statement()
        holds = self._tables.rows[Hold].values()
        return _sums(h for h in holds if h.tenant_id == tenant_id and h.state is HoldState.OPEN)

    def query(self, sql: str) -> list[Any]:
        """There is no SQL here."""
        raise NotImplementedError(sql)

    def find_outdated(self, *_: Any) -> Any:
        """Nothing is pruned in these worlds."""
        raise NotImplementedError

    drop_outdated = count_outdated = find_outdated  # type: ignore[assignment]

    def _must_write(self) -> None:
        assert self._writes, "a writing verb in a transaction that only reads"


def _sums(rows: Iterable[Any]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row.seller_id] = sums.get(row.seller_id, 0) + row.amount_micros
    return sums


def _counted(metric: CapMetric, cdr: Cdr) -> int:
    """What a record counts for a cap."""
    match metric:
        case CapMetric.ATTEMPTS:
            return int(cdr.attempts > 0 and cdr.reject_code != "engine_timeout")
        case CapMetric.CONNECTED:
            return int(cdr.answered_ms is not None)
        case CapMetric.BILLABLE:
            return int(cdr.billable)
        case CapMetric.MINUTES:
            return -(-cdr.talk_ms // 1_000) if cdr.answered_ms is not None else 0
        case CapMetric.SPEND:
            return cdr.amount_micros if cdr.billable else 0
        case _:
            return 0


class MemoryStore(SqlStore):
    """A database that is gone when the process ends. `run` is SqlStore's own, with its retries."""

    engine = "memory"
    url = "memory:"

    def __init__(self) -> None:
        self.tables = Tables()
        self.on_statement: Callable[[], None] = lambda: None

    @contextmanager
    def transaction(self, *, write: bool, hurry: bool = False) -> Iterator[Any]:
        """See store.Store."""
        self.tables.begin()
        try:
            tx = MemoryTransaction(self.tables, write=write, on_statement=lambda: self.on_statement())
            yield tx
            tx.finish()
        except BaseException:
            self.tables.roll_back()
            raise
        self.committed(self.tables.commit())

    def committed(self, changes: list[Change]) -> None:
        """What a transaction has changed; whoever wants to know stands in here."""

    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        return True

    def schema_version(self) -> int:
        return 0

    def upgrade(self, now_ms: int) -> list[str]:
        return []

    def close(self) -> None:
        pass
