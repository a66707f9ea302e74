"""Copying a whole database into an empty one of either engine: one snapshot, one transaction, compared before it stays.

What is copied is every row of every table, live calls with their holds and places included; not which migrations were
applied, for the target has applied its own. Failure policy: fail closed. A copy that is not the same is not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from capconduit.domain import agents, deliveries, model, people, rollups
from capconduit.errors import DriftError, Refused
from capconduit.store import partitions
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import MIGRATIONS, SqlStore
from capconduit.store.sqltransaction import SqlTransaction

PAGE: Final = 2_000  # rows at a time
# Everything there is, in an order in which what is referred to comes first.
COPIED: Final[Sequence[type]] = (
    model.Tenant, model.Seller, model.User, people.Token, people.DidRequest, model.Account, model.Trunk, model.Rate,
    model.Schedule, model.Campaign,
    model.Did, agents.Provider, agents.Agent, model.Target, model.Rule, model.Cap, model.Block, model.Setting,
    model.Audit, model.Node,
    model.Tombstone, model.Counter, model.TargetState, model.RuleState, model.RecentCaller, model.Call, model.Attempt,
    model.Place, model.Hold, model.LedgerKey, model.LedgerEntry, model.Cdr, model.Event,
    rollups.Rollup, rollups.RollupName,
    deliveries.Webhook, deliveries.NotificationRule, deliveries.Notification, deliveries.NotificationMark,
    deliveries.Outbox, deliveries.Lane, deliveries.Delivery,
)  # fmt: skip
_MASK: Final = (1 << 64) - 1

Tell = Callable[[str, int], None]  # progress: a table, and how many of its rows are copied


@dataclass(frozen=True, slots=True)
class Copied:
    """A table that is the same on both sides. `checksum`: of all its rows, whatever their order."""

    table: str
    rows: int
    checksum: str


@dataclass(slots=True)
class _Sum:
    """A checksum that does not depend on the order of rows: engines order texts differently."""

    rows: int = 0
    total: int = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        for row in rows:
            digest = blake2b(repr(tuple(row)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self.total = (self.total + int.from_bytes(digest)) & _MASK
        self.rows += len(rows)


def copy_everything(source: SqlStore, target: SqlStore, now_ms: int, tell: Tell) -> list[Copied]:
    """Copy all tables of `source`, as they are at this moment, into `target`, which must be empty.

    Raises Refused (not empty), DriftError (the copy is not the same; nothing is kept), DatabaseError.
    """
    _make_ready(target, now_ms)
    with source.transaction(write=False) as reading:
        if target.monthly:
            partitions.ensure_since(target, _oldest_ms(reading, now_ms), now_ms)
        with target.transaction(write=True) as writing:
            writing.estate_version(for_change=True)  # nobody decides on it meanwhile
            _refuse_rows(writing)
            sums = {kind: _copy(kind, reading, writing, tell) for kind in COPIED}
            version = reading.query("SELECT version FROM estate_version WHERE id = 1")[0][0]
            writing.outward.decide_feeding()
            writing.query(f"UPDATE estate_version SET version = {int(version)} WHERE id = 1 RETURNING 1")  # noqa: S608
            return [_compared(kind, writing, sums[kind]) for kind in COPIED]


def _make_ready(target: SqlStore, now_ms: int) -> None:
    """The target's tables; made where there are none."""
    version, newest = target.schema_version(), MIGRATIONS[-1][0]
    if version not in (0, newest):
        raise Refused(
            "target-of-another-version",
            f"the target is at migration {version}, this program needs {newest}",
            "give an empty database",
        )
    target.upgrade(now_ms)


def _refuse_rows(writing: SqlTransaction) -> None:
    for kind in COPIED:
        if writing.page(kind, (), 1):
            table = mapping(kind).table
            raise Refused(
                "target-not-empty",
                f"the target is not empty: it has rows in {table}",
                "give an empty database; `capconduit init` is not needed there",
            )


def _pages(kind: type, tx: SqlTransaction) -> Iterator[list[tuple[Any, ...]]]:
    """All rows of a table, as Python's own values whatever the engine: SQLite keeps booleans as numbers."""
    m = mapping(kind)
    booleans = [n for n, column in enumerate(m.columns) if m.types[column] == "boolean"]
    places = [m.columns.index(column) for column in m.key]
    after: Sequence[Any] = ()
    while rows := [list(row) for row in tx.page(kind, after, PAGE)]:
        for row in rows:
            for n in booleans:
                row[n] = bool(row[n])
        yield [tuple(row) for row in rows]
        after = [rows[-1][n] for n in places]
        if len(rows) < PAGE:
            return


def _copy(kind: type, reading: SqlTransaction, writing: SqlTransaction, tell: Tell) -> _Sum:
    done = _Sum()
    for rows in _pages(kind, reading):
        writing.put(kind, rows)
        done.add(rows)
        tell(mapping(kind).table, done.rows)
    return done


def _compared(kind: type, writing: SqlTransaction, given: _Sum) -> Copied:
    """Read back what was written. Raises DriftError, which undoes the copy."""
    table, kept = mapping(kind).table, _Sum()
    for rows in _pages(kind, writing):
        kept.add(rows)
    if kept != given:
        raise DriftError(
            "copy-differs",
            f"{table} has {kept.rows} rows ({kept.total:016x}) in the copy, {given.rows} ({given.total:016x}) here",
            "nothing was kept; does somebody else write to the target?",
        )
    return Copied(table, kept.rows, f"{kept.total:016x}")


def _oldest_ms(reading: SqlTransaction, now_ms: int) -> int:
    """The instant of the oldest row of the tables that are kept by month."""
    found = [
        reading.query(f"SELECT min({key}) FROM {table} WHERE length({key}) = 26")[0][0]  # noqa: S608
        for table, key in partitions.BY_MONTH.items()
    ]
    instants = [partitions.instant_of(id_) for id_ in found if id_ is not None]
    return min([at_ms for at_ms in instants if at_ms is not None], default=now_ms)
