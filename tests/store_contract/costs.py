"""What a call costs a database: rows and bytes by table, statements, round trips and log written, on both engines.

    python -m tests.store_contract.costs

The calls are those of the README's estate: 90 seconds of talk at 60/60 with caps on campaign and target. Each is
routed, answered, extended once and settled; a batch is so many calls that do the same at once. docs/scaling.md has the
numbers.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter as Tally
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from capconduit.domain.needs import Command
from capconduit.store.open import open_store
from capconduit.store.rows import mapping
from capconduit.store.sqlite import SqliteStore
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.store_contract.conftest import PostgresServer
from tests.store_contract.test_books_written import KINDS
from tests.unit.estate_builder import (
    DOLLAR,
    EstateBuilder,
    Till,
    answer_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

CALLS: Final = 5_000
BATCHES: Final = (1, 8, 64)
BETWEEN_MS: Final = 1_000


def walk() -> EstateBuilder:
    """The estate of the README, with money and room for all of the calls."""
    builder = small_estate()
    builder.accounts[0].balance_micros = 10**6 * DOLLAR
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 10**6, WindowKind.DAY)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 10**6)
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.CONCURRENT, 10**6)
    return builder


def life(names: Sequence[str], till: Till) -> list[list[Command]]:
    """The batches of calls that live at the same time."""
    answered_ms = till.clock.now_ms()
    return [
        [route_of(name, trunk="carrier", arrived_ms=answered_ms) for name in names],
        [answer_of(name, answered_ms=answered_ms, rang_ms=answered_ms) for name in names],
        [extend_of(name) for name in names],
        [settle_of(name, talk_ms=90_000) for name in names],
    ]


def rows_left(till: Till, calls: int) -> dict[str, int]:
    """How many rows of each table one call leaves behind, by the rows that `calls` calls left."""
    before = counted(till.store)
    run(till, calls, 8)
    after = counted(till.store)
    return {table: (after[table] - before[table]) // calls for table in after if after[table] - before[table] >= calls}


def counted(store: SqlStore) -> dict[str, int]:
    with store.transaction(write=False) as tx:
        tables = [mapping(kind).table for kind in KINDS]
        return {table: tx.query(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def decided(till: Till, commands: Sequence[Command]) -> list[Any]:
    """One batch, as the engine asks for it."""
    return till.engine.run(commands)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def run(till: Till, calls: int, batch: int) -> None:
    """`calls` calls, `batch` of them at a time."""
    first = till.clock.now_ms()
    for at in range(0, calls, batch):
        for commands in life([f"{first}-{at + n}" for n in range(min(batch, calls - at))], till):
            assert not [a for a in decided(till, commands) if isinstance(a, Exception)]
        till.clock.pass_ms(BETWEEN_MS)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def of_server(server: PostgresServer) -> None:
    for batch in BATCHES:
        till = Till(open_store(server.url(server.empty_database())), walk())
        run(till, 500, batch)  # plans are made, pages are there
        server.admin("CHECKPOINT")
        began = wal(till.store)
        run(till, CALLS, batch)
        records, images, size = (now - then for now, then in zip(wal(till.store), began, strict=True))
        told = f"{size // CALLS} bytes, {records / CALLS:.1f} records, {images / CALLS:.2f} page images"
        say(f"batch of {batch}: log of a call {told}; {trips(till, batch)}")
        if batch == BATCHES[-1]:
            sizes(till)
        till.store.close()


def wal(store: SqlStore) -> tuple[int, int, int]:
    """Records, page images and bytes of the log so far."""
    with store.transaction(write=True) as tx:
        tx.query("SELECT pg_stat_force_next_flush()")
    with store.transaction(write=True) as tx:
        size = tx.query("SELECT pg_current_wal_lsn() - '0/0'")[0][0]
        records, images = tx.query("SELECT wal_records, wal_fpi FROM pg_stat_wal")[0]
    return int(records), int(images), int(size)


def trips(till: Till, batch: int) -> str:
    """Statements and round trips of each kind of batch, from the protocol's own trace."""
    told = []
    batches = life([f"t{n}" for n in range(batch)], till)
    for name, commands in zip(("route", "answer", "extend", "settle"), batches, strict=True):
        with tempfile.TemporaryFile() as trace:
            connection = till.store._connection(hurry=True)
            connection.pgconn.trace(trace.fileno())
            decided(till, commands)
            connection.pgconn.untrace()
            trace.seek(0)
            lines = [line.split(b"\t") for line in trace.read().splitlines()]
        ways = [line[1] for line in lines if len(line) > 2]
        turns = sum(pair == (b"F", b"B") for pair in pairwise(ways))  # we spoke, and then listened
        statements = sum(line[1] == b"F" and line[3].startswith(b"Execute") for line in lines if len(line) > 3)
        told.append(f"{name} {statements} statements, {turns} round trips")
    return "; ".join(told)


def sizes(till: Till) -> None:
    """Bytes of each row, indexes included; with the room that dead rows leave until they are vacuumed."""
    root = "coalesce(pg_partition_root(oid), oid)"
    with till.store.transaction(write=False) as tx:
        found = tx.query(
            f"SELECT {root}::regclass::text, sum(pg_total_relation_size(oid)), sum(pg_relation_size(oid))"
            " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') GROUP BY 1 ORDER BY 1"
        )
    rows = counted(till.store)
    for table, whole, alone in found:
        if rows.get(table, 0) >= CALLS // 2:
            told = f"{int(whole) // rows[table]} bytes a row ({int(alone) // rows[table]} without indexes)"
            say(f"  {table}: {rows[table]} rows, {told}")


# --- SQLite -----------------------------------------------------------------------------------------------------------


def of_file(path: Path) -> None:
    store = open_store(f"sqlite:///{path}", create=True)
    assert isinstance(store, SqliteStore)
    till = Till(store, walk())
    for batch in BATCHES:
        run(till, 200, batch)
        connection = store._connection()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        run(till, CALLS // 5, batch)
        size = Path(f"{path}-wal").stat().st_size
        connection.execute("PRAGMA wal_autocheckpoint = 1000")
        say(f"batch of {batch}: log {size * 5 // CALLS} bytes a call")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    owners = dict(connection.execute("SELECT name, tbl_name FROM sqlite_master").fetchall())
    pages: Tally[str] = Tally()
    for name, size in connection.execute("SELECT name, sum(pgsize) FROM dbstat GROUP BY name").fetchall():
        pages[owners.get(name, name)] += size
    for table, rows in counted(store).items():
        if rows >= 500:
            say(f"  {table}: {rows} rows, {pages[table] // rows} bytes a row")
    store.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        say("SQLite")
        of_file(Path(directory) / "costs.sqlite")
    server = PostgresServer()
    try:
        say(f"PostgreSQL {server.admin('SHOW server_version')[0][0]}")
        of_server(server)
    finally:
        server.close()


if __name__ == "__main__":
    main()
