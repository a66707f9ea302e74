"""The months of cdr, event and ledger on PostgreSQL: one table for each, made ahead of time, dropped when it is over.

The key of these tables is a ULID, which begins with the instant it was made at: a month is a range of ids, and whoever
looks for an id looks into one month. Rows of a month that has no table yet fall into the default partition, so that
nothing fails for want of a table; they are moved when their month's table is made.

Locks: making a month and dropping one lock the whole table (ACCESS EXCLUSIVE) for some milliseconds; decisions wait
meanwhile. Less would not do: an INSERT that had found its way to the default partition before a month is attached, and
waited there, fails when it comes to its turn. Whoever does not get the lock within LOCK_MS gives up for now, because
everybody else queues behind him. DETACH PARTITION … CONCURRENTLY locks less than dropping does, but PostgreSQL refuses
it to tables that have a default partition (PostgreSQL, "ALTER TABLE"). Files are deleted after the commit, unlocked.

Failure policy: fails open for calls. A month that cannot be made or dropped raises DatabaseError and is tried again
later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from capconduit.errors import DatabaseError
from capconduit.ids import is_ulid, ulid
from capconduit.store.dialect import RetryTransaction

if TYPE_CHECKING:
    from capconduit.store.sqlstore import SqlStore
    from capconduit.store.sqltransaction import SqlTransaction

BY_MONTH: Final = {"cdr": "call_id", "event": "id", "ledger": "id"}  # table → the ULID it is partitioned by
AHEAD: Final = 2  # months beyond this one
LOCK_MS: Final = 200  # decisions wait no longer than this for a lock that we do not get
PARTITION_LOCK: Final = 0x0CA9C0D2  # advisory lock: one at a time makes and drops months
MOVED_MAX: Final = 20_000  # rows of one month that are moved while calls go on; about 100 ms
TRIES: Final = 5  # to get the lock in an upgrade, when nobody else should be there
PAUSE_S: Final = 1  # between them
OLDEST_YEARS: Final = 20  # a row that claims to be older stays in the default partition
_CROCKFORD: Final = {c: n for n, c in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}
_TIME_CHARACTERS: Final = 10  # of a ULID
_MONTH: Final = re.compile(r"\d{4}(0[1-9]|1[0-2])")


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month in UTC: `start_ms` inclusive, `end_ms` exclusive."""

    start_ms: int
    end_ms: int

    @property
    def name(self) -> str:
        """`202611`."""
        return f"{_moment(self.start_ms):%Y%m}"

    @property
    def ids(self) -> tuple[str, str]:
        """The range of ULIDs made in it: from, to (exclusive)."""
        return ulid(self.start_ms, 0), ulid(self.end_ms, 0)


def month_of(at_ms: int) -> Month:
    """The month that an instant lies in."""
    first = _moment(at_ms).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return Month(_ms(first), _ms(following))


def months(first_ms: int, ahead_of_ms: int) -> Iterator[Month]:
    """The months from that of `first_ms` to AHEAD months after that of `ahead_of_ms`."""
    last = month_of(ahead_of_ms)
    for _ in range(AHEAD):
        last = month_of(last.end_ms)
    month = month_of(first_ms)
    while month <= last:
        yield month
        month = month_of(month.end_ms)


def instant_of(id_: str) -> int | None:
    """The instant in a ULID (UTC ms); None for what is none."""
    if not is_ulid(id_):
        return None
    value = 0
    for character in id_[:_TIME_CHARACTERS]:
        value = value * 32 + _CROCKFORD[character]
    return value


def ensure(store: SqlStore, now_ms: int, *, whole: bool = False) -> list[str]:
    """Make the months of now and the next ones that are missing; the names of the tables that were made.

    `whole`: nothing else goes on, so the older months of all rows in the default partition are made, too, however many
    rows are to be moved. Raises DatabaseError where a lock was not to be had, or too many rows would be moved.
    """
    made: list[str] = []
    for table in BY_MONTH:
        there = _existing(store, table)
        wanted = _with_rows(store, table, now_ms) if whole else months(now_ms, now_ms)
        missing = (month for month in wanted if month.name not in there)
        made += (f"{table}_{month.name}" for month in missing if _tried(store, table, month, whole=whole))
    return made


def ensure_since(store: SqlStore, since_ms: int, now_ms: int) -> list[str]:
    """Make all months from that of `since_ms` on, for rows that are about to come; no older than OLDEST_YEARS."""
    first_ms = max(since_ms, _oldest_ms(now_ms))
    return [
        f"{table}_{month.name}"
        for table in BY_MONTH
        for month in months(min(first_ms, now_ms), now_ms)
        if _tried(store, table, month, whole=True)
    ]


def drop(store: SqlStore, table: str, before_ms: int) -> list[str]:
    """Drop the months of a table that ended at `before_ms` or earlier, with all their rows; their names.

    Raises RetryTransaction where the lock was not to be had.
    """
    over = [name for name in sorted(_existing(store, table)) if _month_named(name).end_ms <= before_ms]
    for name in over:
        with store.transaction(write=True) as tx:
            _alone(tx)
            tx.query(f"DROP TABLE IF EXISTS {table}_{name}")
    return [f"{table}_{name}" for name in over]


def _tried(store: SqlStore, table: str, month: Month, *, whole: bool) -> bool:
    """Make one month; `whole`: again where a lock was not to be had."""
    for attempt in range(TRIES if whole else 1):
        try:
            with store.transaction(write=True) as tx:
                return _make(tx, table, month, whole=whole)
        except RetryTransaction:
            if attempt + 1 == (TRIES if whole else 1):
                raise
            time.sleep(PAUSE_S)
    raise AssertionError("unreachable: the loop returns or raises")


def _make(tx: SqlTransaction, table: str, month: Month, *, whole: bool) -> bool:
    """A month's table with the rows that wait for it in the default partition; False where it is there already."""
    key, (first, beyond), name = BY_MONTH[table], month.ids, f"{table}_{month.name}"
    _alone(tx)
    if month.name in _names(tx, table):
        return False
    in_month = f"{key} >= '{first}' AND {key} < '{beyond}'"
    some = tx.query(f"SELECT 1 FROM {table}_default WHERE {in_month} LIMIT {MOVED_MAX + 1}")  # noqa: S608
    if len(some) > MOVED_MAX and not whole:
        raise DatabaseError(
            "partition-late",
            f"more than {MOVED_MAX} rows of {month.name} lie in {table}_default",
            "stop the daemons and run `capconduit db upgrade`, which moves them",
        )
    tx.query(f"CREATE TABLE {name} (LIKE {table} INCLUDING ALL)")
    tx.query(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
    columns = ", ".join(_columns(tx, table))
    tx.query(
        f"WITH moved AS (DELETE FROM {table}_default WHERE {in_month} RETURNING {columns})"  # noqa: S608
        f" INSERT INTO {name} ({columns}) SELECT {columns} FROM moved"
    )
    tx.query(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{beyond}')")
    return True


def _alone(tx: SqlTransaction) -> None:
    """One at a time; and nobody is kept waiting for a lock that we do not get."""
    tx.query(f"SET LOCAL lock_timeout = {LOCK_MS}")
    tx.query(f"SELECT pg_advisory_xact_lock({PARTITION_LOCK})")


def _existing(store: SqlStore, table: str) -> set[str]:
    with store.transaction(write=False) as tx:
        return _names(tx, table)


def _names(tx: SqlTransaction, table: str) -> set[str]:
    """The months that a table has, as `202611`."""
    rows = tx.query(
        "SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid"  # noqa: S608
        f" WHERE pg_inherits.inhparent = '{table}'::regclass"
    )
    suffixes = (str(row[0]).removeprefix(f"{table}_") for row in rows)
    return {suffix for suffix in suffixes if _MONTH.fullmatch(suffix)}


def _columns(tx: SqlTransaction, table: str) -> Sequence[str]:
    rows: list[Any] = tx.query(
        f"SELECT attname FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"  # noqa: S608
        " ORDER BY attnum"
    )
    return [str(row[0]) for row in rows]


def _with_rows(store: SqlStore, table: str, now_ms: int) -> list[Month]:
    """The months of now and the next, and the older ones of which rows lie in the default partition."""
    key, wanted = BY_MONTH[table], list(months(now_ms, now_ms))
    at_ms = _oldest_ms(now_ms)
    with store.transaction(write=False) as tx:
        while at_ms < wanted[0].start_ms:
            found = tx.query(
                f"SELECT min({key}) FROM {table}_default"  # noqa: S608
                f" WHERE {key} >= '{ulid(at_ms, 0)}' AND {key} < '{wanted[0].ids[0]}'"
            )[0][0]
            if found is None:
                break
            oldest_ms = instant_of(found)
            month = month_of(at_ms if oldest_ms is None else oldest_ms)
            if oldest_ms is not None:
                wanted.append(month)
            at_ms = month.end_ms
    return sorted(wanted)


def _oldest_ms(now_ms: int) -> int:
    return max(now_ms - OLDEST_YEARS * 366 * 86_400_000, 0)


def _month_named(name: str) -> Month:
    return month_of(_ms(datetime(int(name[:4]), int(name[4:]), 1, tzinfo=UTC)))


def _moment(at_ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)


def _ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
