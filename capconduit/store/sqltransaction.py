"""The store's verbs in SQL that both engines speak; what differs between them is a Dialect.

Statements are written with `:name` parameters. Every statement on a tenant's tables carries the tenant, but for the few
that serve a node's daemon over all tenants: those say so in a comment `all tenants`, and a test looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from capconduit.domain import model
from capconduit.domain.books import Books, CallKey, CounterKey
from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Cap,
    Cdr,
    Counter,
    Hold,
    Node,
    Place,
    RecentCaller,
    RuleState,
    TargetState,
    Tombstone,
)
from capconduit.ids import ulid
from capconduit.store import estates, pruning
from capconduit.store.dialect import Dialect, Shape, insert_sql
from capconduit.store.notes import Notes
from capconduit.store.remembered import Remembered, is_unused
from capconduit.store.rooms import Rooms
from capconduit.store.rows import kept_values, mapping
from capconduit.store.sqlloading import Loading
from capconduit.store.store import LONGEST_CALL_MS, Outdated, Transaction
from capconduit.vocab import ATTEMPT_SCOPES, CapMetric, CapScope

if TYPE_CHECKING:
    from capconduit.domain.estate import Estate

Row = TypeVar("Row")
Answer = TypeVar("Answer")

# Columns of the records that say whose call it was, by scope; targets and rules are counted by attempt.
_SCOPE_COLUMN: Final = {
    CapScope.SYSTEM: "tenant_id",
    CapScope.SELLER: "seller_id",
    CapScope.CAMPAIGN: "campaign_id",
    CapScope.DID: "did_id",
    CapScope.TARGET: "target_id",
    CapScope.RULE: "rule_id",
    CapScope.TRUNK: "trunk",
}


# What each metric counts of the records: the count, and which records.
_COUNTED: Final = {
    CapMetric.ATTEMPTS: ("count(*)", "cdr.attempts > 0 AND cdr.reject_code <> 'engine_timeout'"),
    CapMetric.CONNECTED: ("count(*)", "cdr.answered_ms IS NOT NULL"),
    CapMetric.BILLABLE: ("count(*)", "cdr.billable = :yes"),
    CapMetric.MINUTES: ("sum((cdr.talk_ms + 999) / 1000)", "cdr.answered_ms IS NOT NULL"),
    CapMetric.SPEND: ("sum(cdr.amount_micros)", "cdr.billable = :yes"),
}


# What of a row on the way of a call may change after it was made.
_CHANGING: Final[dict[type, tuple[str, ...]]] = {
    Call: (
        "channel", "state", "rate_id", "connect_fee_micros", "per_minute_micros", "first_s", "step_s", "then_after_s",
        "then_per_minute_micros", "attempt", "leg", "funded_s", "answered_ms", "seen_ms", "lease_until_ms",
        "reject_reason", "trace",
    ),
    Account: ("balance_micros", "held_micros", "credit_limit_micros"),
    Counter: ("used", "in_flight", "base"),
    Attempt: ("rang_ms", "answered_ms", "ended_ms", "dialstatus", "hangup_cause"),
    Place: ("window_start_ms", "amount", "state", "counted", "reason"),
    Hold: ("amount_micros", "state", "expires_ms"),
}  # fmt: skip


@cache
def _changing(kind: type) -> tuple[Shape, Callable[[Any], tuple[Any, ...]]]:
    """The columns of `kind` that may change, with those of its key; and the values of both."""
    m, names = mapping(kind), _CHANGING[kind]
    shape = Shape(m.table, tuple((name, m.types[name]) for name in names), m.shape.keys)
    return shape, kept_values(kind, (*names, *m.key))


@cache
def _all_but_keys(kind: type) -> Shape:
    """Everything that an operator may change of a row; it is found by its key and its tenant."""
    m = mapping(kind)
    keys = (*m.key, "tenant_id")
    others = tuple((name, m.types[name]) for name in m.columns if name not in keys)
    return Shape(m.table, others, tuple((name, m.types[name]) for name in keys))


# Rows that are removed, by their keys.
_CALLS: Final = Shape("call", (), (("id", "text"),))
_PLACES: Final = Shape("place", (), (("call_id", "text"), ("attempt", "bigint"), ("cap_id", "text")))
_CALLERS: Final = Shape("recent_caller", (), (("campaign_id", "text"), ("caller", "text"), ("call_id", "text")))


class SqlTransaction(Loading, Rooms, Transaction):
    """Transaction over a Dialect. One that only reads locks nothing and makes no rows.

    remembered: rows that need not be read, for decisions; see remembered.py.
    """

    def __init__(self, dialect: Dialect, *, write: bool, remembered: Remembered | None = None) -> None:
        self._db = dialect
        self._remembered = remembered
        self.decided: Books | None = None  # what decisions wrote
        self._writes = write
        self._for_update = dialect.for_update if write else ""
        self._alone = False  # the estate is locked for a change: nobody else decides
        self._touched: set[estates.Touched] = set()  # rows of the estate whose change was not told yet
        self._version: int | None = None  # of the estate, where this transaction made a new one
        self._notes = Notes(dialect)

    def query(self, sql: str, values: Mapping[str, Any] | None = None) -> list[Any]:
        """Rows of a statement; for the store's own book-keeping."""
        return self._db.query(sql, values or {})

    # --- configuration and records ------------------------------------------------------------------------------------

    def find(self, kind: type[Row], tenant_id: str, /, **where: Any) -> Row | None:
        found = self.rows(kind, tenant_id, limit=2, **where)
        return found[0] if len(found) == 1 else None

    def rows(
        self,
        kind: type[Row],
        tenant_id: str,
        /,
        *,
        since: tuple[str, int | str] | None = None,
        until: tuple[str, int | str] | None = None,
        newest_first: str = "",
        limit: int | None = None,
        **where: Any,
    ) -> Sequence[Row]:
        m = mapping(kind)
        values: dict[str, Any] = {"tenant_id": tenant_id, **where}
        conditions = [f"{'id' if kind is model.Tenant else 'tenant_id'} = :tenant_id", *(f"{c} = :{c}" for c in where)]
        for bound, sign, name in ((since, ">=", "since"), (until, "<", "until")):
            if bound is not None:
                conditions.append(f"{bound[0]} {sign} :{name}")
                values[name] = bound[1]
        order = f"{newest_first} DESC, {m.key[0]} DESC" if newest_first else ", ".join(m.key)
        sql = f"{m.select} WHERE {' AND '.join(conditions)} ORDER BY {order}"
        if limit is not None:
            sql += " LIMIT :row_limit"
            values["row_limit"] = limit
        return [m.load(row) for row in self._db.query(sql, values)]

    def insert(self, row: object) -> None:
        self._insert(type(row), [row])

    def insert_all(self, rows: Sequence[object]) -> None:
        if rows:
            self._must_write()
            self._touch(rows)
            m = mapping(type(rows[0]))
            self._db.insert(m.shape, list(map(m.values, rows)))
            self._notes.take(rows)

    def update(self, row: object) -> None:
        self._update(type(row), [row])

    def update_all(self, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            self._touch(rows)
            kind: type = type(rows[0])
            shape = _all_but_keys(kind)
            names = [name for name, _ in (*shape.columns, *shape.keys)]
            self._db.update(shape, [tuple(getattr(row, name) for name in names) for row in rows])

    def delete(self, row: object) -> None:
        self._must_write()
        self._touch([row])
        m = mapping(type(row))
        condition = " AND ".join(f"{k} = :{k}" for k in m.key)
        self._db.query(
            f"DELETE FROM {m.table} WHERE {condition} AND tenant_id = :tenant_id RETURNING 1",
            {**{k: getattr(row, k) for k in m.key}, "tenant_id": getattr(row, "tenant_id")},  # noqa: B009 - any row
        )

    def nodes(self) -> Sequence[Node]:
        m = mapping(Node)
        return [m.load(row) for row in self._db.query(f"{m.select} ORDER BY name", {})]

    def put_node(self, node: Node) -> None:
        self._upsert(Node, [node])

    def tenants(self) -> Sequence[model.Tenant]:
        """All tenants of the installation."""
        m = mapping(model.Tenant)
        return [m.load(row) for row in self._db.query(f"{m.select} ORDER BY created_ms, id", {})]

    # --- the estate ---------------------------------------------------------------------------------------------------

    def estate_version(self, *, for_change: bool = False) -> int:
        locks = self._db.estate_lock(alone=for_change) if self._writes else ()
        self._alone = self._alone or (for_change and self._writes)
        return self._notes.look(self._db.queries([*locks, (estates.VERSION_SQL, {})])[-1][0])

    def load_estate(self, known: Estate | None = None) -> Estate:
        return estates.load(self._db, known)

    def bump_estate(self) -> int:
        self._must_write()
        sql = "UPDATE estate_version SET version = version + 1 WHERE id = 1 RETURNING version"
        self._version = int(self._db.query(sql, {})[0][0])
        estates.forget(self._db, self._version)
        self.finish()
        return self._version

    def finish(self) -> None:
        """Tell what of the estate was touched; at the end of a transaction, whoever begins it calls this."""
        if self._touched and self._version is None:
            self.bump_estate()
        if self._touched and self._version is not None:
            estates.note(self._db, self._version, self._touched)
            self._touched.clear()

    # --- the way of a call --------------------------------------------------------------------------------------------

    def send(self, books: Books) -> None:
        if self._db.sends_ahead:
            with self._db.together():
                self._add_new(books)

    def write(self, books: Books) -> None:
        self._must_write()
        self.decided = books
        # Apart and first: the same caller may be remembered anew below.
        self._remove(_CALLERS, sorted(books.forgotten))
        with self._db.together():
            self._add_new(books)
            self._change(Call, [books.calls[i] for i in sorted(books.dirty_calls)])
            self._remove(_CALLS, [(i,) for i in sorted(books.ended_calls)])
            self._change(Account, [books.accounts[i] for i in sorted(books.dirty_accounts)])
            self._upsert(TargetState, [books.targets[i] for i in sorted(books.dirty_targets)])
            self._upsert(RuleState, [books.rules[i] for i in sorted(books.dirty_rules)])
            self._change(Counter, [books.counters[k] for k in sorted(books.dirty_counters)])
            self._change(Attempt, [books.attempts[c][n] for c, n in sorted(books.dirty_attempts)])
            unused: list[tuple[str, int, str]] = []
            kept: list[Place] = []
            for call_id, attempt, cap_id in sorted(books.dirty_places):
                place = books.places[call_id][(attempt, cap_id)]
                if is_unused(place):
                    unused.append((call_id, attempt, cap_id))
                else:
                    kept.append(place)
            self._change(Place, kept)
            self._remove(_PLACES, unused)
            self._change(Hold, [books.holds[i] for i in sorted(books.dirty_holds)])
            self._upsert(RecentCaller, [books.callers[k] for k in sorted(books.dirty_callers)])

    def _add_new(self, books: Books) -> None:
        """Write what is new in `books`; from then on it is known like all the rest."""
        new = books.take_new()
        self._add(Call, [books.calls[i] for i in sorted(new.calls)])
        self._add(Attempt, [books.attempts[c][n] for c, n in sorted(new.attempts)])
        places = [books.places[c][(n, cap)] for c, n, cap in sorted(new.places)]
        self._add(Place, [place for place in places if not is_unused(place)])
        self._add(Hold, [books.holds[i] for i in sorted(new.holds)])
        self._add(model.LedgerEntry, new.ledger)
        self._add(Cdr, new.cdrs)
        self._add(model.Event, new.events)
        self._notes.take(new.events)
        self._upsert(Tombstone, new.tombstones)

    def _change(self, kind: type, rows: Sequence[Any]) -> None:
        """Write what may change of rows that are there."""
        if rows:
            shape, values = _changing(kind)
            self._db.update(shape, list(map(values, rows)))

    def _remove(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            self._db.delete(shape, rows)

    def live_call_keys(self, tenant_id: str, **where: Any) -> Sequence[CallKey]:
        conditions = " AND ".join(["tenant_id = :tenant_id", *(f"{c} = :{c}" for c in where)])
        rows = self._db.query(f"SELECT node, uniqueid FROM call WHERE {conditions}", {"tenant_id": tenant_id, **where})
        return [(row[0], row[1]) for row in rows]

    def node_calls(self, node: str) -> Sequence[Call]:
        return self._select(Call, "node = :node /* all tenants */ ORDER BY id", {"node": node})

    def call_node(self, call_id: str) -> str | None:
        rows = self._db.query(
            "SELECT node FROM call WHERE id = :id /* all tenants */"
            " UNION ALL SELECT node FROM cdr WHERE call_id = :id LIMIT 1",
            {"id": call_id},
        )
        return str(rows[0][0]) if rows else None

    def hold_ends(self, node: str) -> Mapping[str, int]:
        rows = self._db.query(
            "SELECT hold.call_id, hold.expires_ms FROM hold JOIN call ON call.id = hold.call_id /* all tenants */"
            " WHERE call.node = :node AND hold.state = 'open'",
            {"node": node},
        )
        return {row[0]: int(row[1]) for row in rows}

    # --- recounting ---------------------------------------------------------------------------------------------------

    def recount_cap(self, cap: Cap, start_ms: int, end_ms: int, width_ms: int = 0) -> Mapping[int, int]:
        """By attempts for caps on targets and rules, by calls for the others; see domain.settlement."""
        counted = _COUNTED.get(cap.metric)
        if counted is None:
            return {}
        what, test = counted
        values: dict[str, Any] = {
            "tenant_id": cap.tenant_id, "scope_id": cap.scope_id, "start": start_ms, "until": end_ms,
            "width": width_ms or end_ms - start_ms,
        }  # fmt: skip
        if cap.metric in (CapMetric.BILLABLE, CapMetric.SPEND):
            values["yes"] = True
        if cap.scope in ATTEMPT_SCOPES:
            # In the window of the Dial. The record names the attempt that was answered, or the last one; one that was
            # taken after it and never dialled has ended without a cause.
            column, at = f"attempt.{_SCOPE_COLUMN[cap.scope]}", "attempt.started_ms"
            if cap.metric is CapMetric.ATTEMPTS:
                test = "attempt.hangup_cause IS NOT NULL"
                test += " AND (cdr.call_id IS NULL OR cdr.reject_code <> 'engine_timeout')"
            source = (
                "attempt LEFT JOIN cdr ON cdr.tenant_id = attempt.tenant_id"
                " AND cdr.call_id = attempt.call_id AND cdr.attempt = attempt.number"
                f" WHERE attempt.tenant_id = :tenant_id AND {column} = :scope_id AND {test}"
                " AND attempt.call_id >= :oldest"  # ids begin with the instant: what is older is not looked at
            )
            values["oldest"] = ulid(max(start_ms - LONGEST_CALL_MS, 0), 0)
        else:
            owner, at = f"{_SCOPE_COLUMN[cap.scope]} = :scope_id", "decided_ms"
            if cap.scope is CapScope.TRUNK:
                owner = "trunk = (SELECT name FROM trunk WHERE tenant_id = :tenant_id AND id = :scope_id)"
            source = f"cdr WHERE tenant_id = :tenant_id AND {owner} AND {test}"
        rows = self._db.query(
            f"SELECT ({at} - :start) / :width, {what} FROM {source} AND {at} >= :start AND {at} < :until GROUP BY 1",
            values,
        )
        return {start_ms + int(row[0]) * values["width"]: int(row[1]) for row in rows if row[1]}

    def place_sums(self, tenant_id: str) -> Mapping[CounterKey, tuple[int, int]]:
        rows = self._db.query(
            "SELECT cap_id, window_start_ms, sum(counted),"
            " sum(CASE WHEN state <> 'released' THEN amount ELSE 0 END)"
            " FROM place WHERE tenant_id = :tenant_id GROUP BY cap_id, window_start_ms",
            {"tenant_id": tenant_id},
        )
        return {(row[0], row[1]): (int(row[2]), int(row[3])) for row in rows}

    def ledger_sums(self, tenant_id: str) -> Mapping[str, int]:
        rows = self._db.query(
            "SELECT seller_id, sum(amount_micros) FROM ledger WHERE tenant_id = :tenant_id GROUP BY seller_id",
            {"tenant_id": tenant_id},
        )
        return {row[0]: int(row[1]) for row in rows}

    def hold_sums(self, tenant_id: str) -> Mapping[str, int]:
        rows = self._db.query(
            "SELECT seller_id, sum(amount_micros) FROM hold WHERE tenant_id = :tenant_id AND state = 'open'"
            " GROUP BY seller_id",
            {"tenant_id": tenant_id},
        )
        return {row[0]: int(row[1]) for row in rows}

    # --- growth -------------------------------------------------------------------------------------------------------

    def find_outdated(
        self, what: Outdated, after: Sequence[Any], limit: int
    ) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
        return pruning.find(self._db, what, after, limit)

    def drop_outdated(self, what: Outdated, keys: Sequence[Sequence[Any]]) -> int:
        self._must_write()
        return pruning.drop(self._db, what, keys)

    def count_outdated(self, what: Outdated) -> int:
        return pruning.count(self._db, what)

    def page(self, kind: type, after: Sequence[Any], limit: int) -> list[Any]:
        """Raw rows of a whole table in the order of its key, beyond the key `after` (empty: from the first)."""
        m = mapping(kind)
        beyond, values = pruning.beyond(m.key, after)
        where = f" WHERE {beyond}" if after else ""
        sql = f"{m.select}{where} /* all tenants */ ORDER BY {', '.join(m.key)} LIMIT :row_limit"
        return self._db.query(sql, {**values, "row_limit": limit})

    def put(self, kind: type, rows: Sequence[Sequence[Any]]) -> None:
        """Raw rows as `page` gave them."""
        self._must_write()
        self._db.insert(mapping(kind).shape, rows)

    # --- statements ---------------------------------------------------------------------------------------------------

    def _touch(self, rows: Sequence[Any]) -> None:
        if type(rows[0]) in estates.ESTATE_ROWS:
            self._touched.update(map(estates.touched, rows))

    def _must_write(self) -> None:
        """SQLite would write from any transaction, one that only reads included, and without having waited its turn."""
        assert self._writes, "a writing verb in a transaction that only reads"

    def _select(self, kind: type[Row], where: str, values: Mapping[str, Any]) -> list[Row]:
        m = mapping(kind)
        return [m.load(row) for row in self._db.query(f"{m.select} WHERE {where}", values)]

    def _add(self, kind: type, rows: Sequence[Any]) -> None:
        """Rows that are new by their nature: their keys are ids that were made just now."""
        if rows:
            self._must_write()
            m = mapping(kind)
            self._db.insert(m.shape, list(map(m.values, rows)))

    def _insert(self, kind: type, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            self._touch(rows)
            m = mapping(kind)
            self._db.many(insert_sql(m.table, m.columns), [m.values(row) for row in rows])
            self._notes.take(rows)

    def _upsert(self, kind: type, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            self._touch(rows)
            m = mapping(kind)
            self._db.upsert(m.shape, list(map(m.values, rows)))

    def _update(self, kind: type, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            self._touch(rows)
            m = mapping(kind)
            others = tuple(c for c in m.columns if c not in m.key)
            sets = ", ".join(f"{c} = ?" for c in others)
            keys = " AND ".join(f"{k} = ?" for k in m.key)
            self._db.many(
                f"UPDATE {m.table} SET {sets} WHERE {keys} AND tenant_id = ?",
                [(*(getattr(r, c) for c in others), *(getattr(r, k) for k in m.key), r.tenant_id) for r in rows],
            )
