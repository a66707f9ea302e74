"""The store's verbs in SQL that both engines speak; what differs between them is a Dialect.

Statements are written with `:name` parameters. Every statement on a tenant's tables carries the tenant, but for the few
that serve a node's daemon over all tenants: those say so in a comment `all tenants`, and a test looks.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from typing import Any, Final, TypeVar

from capconduit.domain import model
from capconduit.domain.books import Books, CallKey, CounterKey
from capconduit.domain.estate import Estate, Rows, build_estate
from capconduit.domain.model import Account, Attempt, Call, Cap, Cdr, Counter, Hold, Node, Place, Tombstone
from capconduit.errors import DatabaseError, Refused
from capconduit.store.rows import mapping
from capconduit.store.store import Transaction
from capconduit.vocab import ATTEMPT_SCOPES, CapMetric, CapScope

Row = TypeVar("Row")
Answer = TypeVar("Answer")

RETRIES: Final = 5  # of a transaction that the engine aborted for concurrency
RETRY_PAUSE_S: Final = 0.01
MIGRATIONS: Final = ((1, "initial"),)

ESTATE_KINDS: Final = {
    "tenants": model.Tenant,
    "sellers": model.Seller,
    "trunks": model.Trunk,
    "rates": model.Rate,
    "campaigns": model.Campaign,
    "dids": model.Did,
    "targets": model.Target,
    "rules": model.Rule,
    "caps": model.Cap,
    "settings": model.Setting,
}

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


class RetryTransaction(DatabaseError):
    """The engine aborted the transaction because of another one; the same work may succeed now."""

    def __init__(self, detail: str) -> None:
        super().__init__("database-busy", f"the database is busy: {detail}", "try again")


def value_refused(error: Exception) -> Refused:
    """A value that no column can keep: a number beyond 64 bits, a NUL or half a character in a text."""
    return Refused("value-invalid", f"a value cannot be kept: {error}", "give another value")


class Dialect(ABC):
    """A connection of one engine, and what its SQL says differently.

    Raises DatabaseError, Refused (a unique or foreign key), RetryTransaction.
    """

    for_update: str
    for_share: str

    @abstractmethod
    def query(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        """Rows of a statement."""

    @abstractmethod
    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement with `?` parameters for each row, in few round trips."""

    @abstractmethod
    def any_of(self, column: str, name: str) -> str:
        """Condition: `column` is one of the list `:name`."""

    @abstractmethod
    def any_pair(self, columns: tuple[str, str], name: str) -> str:
        """Condition: the two columns (a text, and a text or an instant) are one of the pairs `:name`."""

    @abstractmethod
    def lock_channels(self, pairs: Sequence[CallKey]) -> None:
        """Wait for other transactions that decide about one of these (node, uniqueid), and let none begin to.

        Rows cannot do it: of a channel that nobody has told of yet there is none.
        """

    @abstractmethod
    def list_value(self, items: Sequence[Any]) -> Any:
        """How a list is handed over for `any_of`."""

    @abstractmethod
    def pair_values(self, name: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """How pairs are handed over for `any_pair`."""


class SqlTransaction(Transaction):
    """Transaction over a Dialect. One that only reads locks nothing and makes no rows."""

    def __init__(self, dialect: Dialect, *, write: bool) -> None:
        self._db = dialect
        self._writes = write
        self._for_update = dialect.for_update if write else ""
        self._for_share = dialect.for_share if write else ""
        self._alone = False  # the estate is locked for a change: nobody else decides

    def query(self, sql: str) -> list[Any]:
        """Rows of a statement without parameters; for the store's own book-keeping."""
        return self._db.query(sql, {})

    # --- configuration and records ------------------------------------------------------------------------------------

    def find(self, kind: type[Row], tenant_id: str, **where: Any) -> Row | None:
        found = self.rows(kind, tenant_id, limit=2, **where)
        return found[0] if len(found) == 1 else None

    def rows(
        self,
        kind: type[Row],
        tenant_id: str,
        *,
        since: tuple[str, int] | None = None,
        until: tuple[str, int] | None = None,
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

    def update(self, row: object) -> None:
        self._update(type(row), [row])

    def delete(self, row: object) -> None:
        self._must_write()
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
        lock = self._for_update if for_change else self._for_share
        rows = self._db.query(f"SELECT version FROM estate_version WHERE id = 1{lock}", {})
        self._alone = self._alone or (for_change and self._writes)
        return int(rows[0][0])

    def load_estate(self) -> Estate:
        version = self._db.query("SELECT version FROM estate_version WHERE id = 1", {})[0][0]
        rows = {}
        for name, kind in ESTATE_KINDS.items():
            m = mapping(kind)
            rows[name] = [m.load(row) for row in self._db.query(f"{m.select} /* all tenants */", {})]
        return build_estate(version, Rows(**rows))

    def bump_estate(self) -> int:
        self._must_write()
        return int(
            self._db.query("UPDATE estate_version SET version = version + 1 WHERE id = 1 RETURNING version", {})[0][0]
        )

    # --- the way of a call --------------------------------------------------------------------------------------------

    def lock_calls(self, keys: Iterable[CallKey], books: Books) -> None:
        wanted = sorted(set(keys))
        if not wanted:
            return
        if self._writes and not self._alone:
            self._db.lock_channels(wanted)
        values = self._db.pair_values("keys", wanted)
        where = self._db.any_pair(("node", "uniqueid"), "keys")
        calls = mapping(Call)
        sql = f"{calls.select} /* all tenants */ WHERE {where} ORDER BY node, uniqueid{self._for_update}"
        for row in self._db.query(sql, values):
            call = calls.load(row)
            books.calls[call.id] = call
            books.call_ids[(call.node, call.uniqueid)] = call.id
        if books.calls:
            self._load_parts(books)
        missing = [key for key in wanted if key not in books.call_ids]
        if missing:
            self._load_ends(missing, books)

    def _load_parts(self, books: Books) -> None:
        """Attempts, places and holds of the calls in `books`."""
        ids = self._db.list_value(sorted(books.calls))
        where = self._db.any_of("call_id", "ids")
        for attempt in self._select(Attempt, f"{where} /* all tenants */", {"ids": ids}):
            books.attempts.setdefault(attempt.call_id, {})[attempt.number] = attempt
        for place in self._select(Place, f"{where} /* all tenants */", {"ids": ids}):
            books.places.setdefault(place.call_id, {})[(place.attempt, place.cap_id)] = place
        for hold in self._select(Hold, f"{where} /* all tenants */", {"ids": ids}):
            books.holds[hold.call_id] = hold

    def _load_ends(self, keys: Sequence[CallKey], books: Books) -> None:
        """What is settled, or buried before it began."""
        values = self._db.pair_values("keys", keys)
        where = self._db.any_pair(("node", "uniqueid"), "keys")
        for cdr in self._select(Cdr, f"{where} /* all tenants */", values):
            books.settled[(cdr.node, cdr.uniqueid)] = cdr
        for tombstone in self._select(Tombstone, where, values):
            books.buried.add((tombstone.node, tombstone.uniqueid))

    def lock_accounts(self, seller_ids: Iterable[str], books: Books) -> None:
        wanted = sorted(set(seller_ids) - books.accounts.keys())
        if not wanted:
            return
        where = f"{self._db.any_of('seller_id', 'ids')} /* all tenants */ ORDER BY seller_id{self._for_update}"
        for account in self._select(Account, where, {"ids": self._db.list_value(wanted)}):
            books.accounts[account.seller_id] = account

    def lock_counters(self, keys: Mapping[CounterKey, str], books: Books) -> None:
        wanted = sorted(set(keys) - books.counters.keys())
        if not wanted:
            return
        missing = self._load_counters(wanted, books)
        if missing and self._writes:
            m = mapping(Counter)
            fresh = [
                Counter(tenant_id=keys[k], cap_id=k[0], window_start_ms=k[1], used=0, in_flight=0, base=0)
                for k in missing
            ]
            self._db.many(
                f"{_insert_sql(m.table, m.columns)} ON CONFLICT DO NOTHING", [m.values(counter) for counter in fresh]
            )
            self._load_counters(missing, books)

    def _load_counters(self, keys: Sequence[CounterKey], books: Books) -> Sequence[CounterKey]:
        """Lock and load; the keys that have no row."""
        where = (
            f"{self._db.any_pair(('cap_id', 'window_start_ms'), 'keys')} /* all tenants */"
            f" ORDER BY cap_id, window_start_ms{self._for_update}"
        )
        for counter in self._select(Counter, where, self._db.pair_values("keys", keys)):
            books.counters[(counter.cap_id, counter.window_start_ms)] = counter
        return [key for key in keys if key not in books.counters]

    def write(self, books: Books) -> None:
        self._insert(Call, [books.calls[i] for i in sorted(books.new_calls)])
        self._update(Call, [books.calls[i] for i in sorted(books.dirty_calls - books.new_calls)])
        if books.ended_calls:
            self._must_write()
            self._db.many("DELETE FROM call WHERE id = ? /* all tenants */", [(i,) for i in sorted(books.ended_calls)])
        self._update(Account, [books.accounts[i] for i in sorted(books.dirty_accounts)])
        self._update(Counter, [books.counters[k] for k in sorted(books.dirty_counters)])
        self._upsert(Attempt, [books.attempts[c][n] for c, n in sorted(books.dirty_attempts)])
        self._upsert(Place, [books.places[c][(n, cap)] for c, n, cap in sorted(books.dirty_places)])
        self._upsert(Hold, [books.holds[i] for i in sorted(books.dirty_holds)])
        self._insert(model.LedgerEntry, books.new_ledger)
        self._insert(Cdr, books.new_cdrs)
        self._insert(model.Event, books.new_events)
        self._upsert(Tombstone, books.new_tombstones)

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

    def recount_cap(self, cap: Cap, start_ms: int, end_ms: int) -> int:
        """By attempts for caps on targets and rules, by calls for the others; see domain.settlement.counted_by."""
        if cap.metric not in (CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE):
            return 0
        values = {"tenant_id": cap.tenant_id, "scope_id": cap.scope_id, "start": start_ms, "until": end_ms}
        test = {
            CapMetric.ATTEMPTS: "cdr.attempts > 0 AND cdr.reject_code <> 'engine_timeout'",
            CapMetric.CONNECTED: "cdr.answered_ms IS NOT NULL",
            CapMetric.BILLABLE: "cdr.billable = :yes",
        }[cap.metric]
        if cap.metric is CapMetric.BILLABLE:
            values["yes"] = True
        if cap.scope in ATTEMPT_SCOPES:
            # In the window of the Dial. A call's last attempt is the one that was answered, or that came too late;
            # one that was taken after it and never dialled has ended without a cause.
            column = f"attempt.{_SCOPE_COLUMN[cap.scope]}"
            if cap.metric is CapMetric.ATTEMPTS:
                test = "attempt.hangup_cause IS NOT NULL"
                test += " AND (cdr.call_id IS NULL OR cdr.reject_code <> 'engine_timeout')"
            sql = (
                "SELECT count(*) FROM attempt LEFT JOIN cdr ON cdr.tenant_id = attempt.tenant_id"
                " AND cdr.call_id = attempt.call_id AND cdr.attempts = attempt.number"
                f" WHERE attempt.tenant_id = :tenant_id AND {column} = :scope_id AND {test}"
                " AND attempt.started_ms >= :start AND attempt.started_ms < :until"
            )
        else:
            owner = f"{_SCOPE_COLUMN[cap.scope]} = :scope_id"
            if cap.scope is CapScope.TRUNK:
                owner = "trunk = (SELECT name FROM trunk WHERE tenant_id = :tenant_id AND id = :scope_id)"
            sql = (
                f"SELECT count(*) FROM cdr WHERE tenant_id = :tenant_id AND {owner} AND {test}"
                " AND decided_ms >= :start AND decided_ms < :until"
            )
        return int(self._db.query(sql, values)[0][0])

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

    # --- statements ---------------------------------------------------------------------------------------------------

    def _must_write(self) -> None:
        """SQLite would write from any transaction, one that only reads included, and without having waited its turn."""
        assert self._writes, "a writing verb in a transaction that only reads"

    def _select(self, kind: type[Row], where: str, values: Mapping[str, Any]) -> list[Row]:
        m = mapping(kind)
        return [m.load(row) for row in self._db.query(f"{m.select} WHERE {where}", values)]

    def _insert(self, kind: type, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            m = mapping(kind)
            self._db.many(_insert_sql(m.table, m.columns), [m.values(row) for row in rows])

    def _upsert(self, kind: type, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            m = mapping(kind)
            others = [c for c in m.columns if c not in m.key]
            sets = ", ".join(f"{c} = excluded.{c}" for c in others)
            sql = f"{_insert_sql(m.table, m.columns)} ON CONFLICT ({', '.join(m.key)}) DO UPDATE SET {sets}"
            self._db.many(sql, [m.values(row) for row in rows])

    def _update(self, kind: type, rows: Sequence[Any]) -> None:
        if rows:
            self._must_write()
            m = mapping(kind)
            others = tuple(c for c in m.columns if c not in m.key)
            sets = ", ".join(f"{c} = ?" for c in others)
            keys = " AND ".join(f"{k} = ?" for k in m.key)
            self._db.many(
                f"UPDATE {m.table} SET {sets} WHERE {keys} AND tenant_id = ?",
                [(*(getattr(r, c) for c in others), *(getattr(r, k) for k in m.key), r.tenant_id) for r in rows],
            )


def _insert_sql(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


class SqlStore(ABC):
    """What both engines' stores share: transactions with retries, and migrations."""

    url: str
    engine: str

    @abstractmethod
    def transaction(self, *, write: bool) -> AbstractContextManager[SqlTransaction]:
        """See store.Store."""

    @abstractmethod
    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        """Run DDL statements and then `after`, in one transaction that no other process shares.

        False: the schema is at `version` already, another process was first.
        """

    @abstractmethod
    def schema_version(self) -> int:
        """See store.Store."""

    @abstractmethod
    def close(self) -> None:
        """See store.Store."""

    def run(self, work: Callable[[Transaction], Answer]) -> Answer:
        """See store.Store."""
        for attempt in range(RETRIES + 1):
            try:
                with self.transaction(write=True) as tx:
                    return work(tx)
            except RetryTransaction as error:
                if attempt == RETRIES:
                    raise DatabaseError(
                        "database-contention", f"gave up after {RETRIES + 1} tries: {error}", "try again"
                    ) from error
                time.sleep(RETRY_PAUSE_S * (attempt + 1))
        raise AssertionError("unreachable: the loop returns or raises")

    def upgrade(self, now_ms: int) -> list[str]:
        """See store.Store."""
        done = []
        current = self.schema_version()
        newest = MIGRATIONS[-1][0]
        if current > newest:
            raise DatabaseError(
                "schema-newer",
                f"the database is at migration {current}, this program knows {newest}",
                "install the newer CapConduit",
            )
        for version, name in MIGRATIONS:
            if version <= current:
                continue
            sql = files("capconduit.store.migrations").joinpath(f"{version:04d}_{name}.{self.engine}.sql").read_text()
            after: list[tuple[str, tuple[Any, ...]]] = [
                ("INSERT INTO schema_migration (version, name, applied_ms) VALUES (?, ?, ?)", (version, name, now_ms))
            ]
            if version == 1:
                after.append(("INSERT INTO estate_version (id, version) VALUES (?, ?)", (1, 1)))
            if self.script(version, sql, after):
                done.append(f"{version:04d}_{name}")
        return done
