"""Months of cdr, event and ledger: made in time, moved into, dropped whole; the way of a call searches few of them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pytest

from capconduit.domain.books import Books
from capconduit.domain.model import Attempt, Cdr, Event, LedgerEntry
from capconduit.errors import DatabaseError
from capconduit.ids import ulid
from capconduit.store import partitions
from capconduit.store.partitions import instant_of, month_of, months
from capconduit.store.postgres import PostgresDialect
from capconduit.store.sqlstore import SqlStore
from capconduit.store.store import LOOK_BACK_MS
from tests.store_contract.conftest import Opener
from tests.unit.estate_builder import NODE, T0, TENANT, Till, route_of, settle_of, small_estate

DAY_MS = 86_400_000
NAMES = [f"{t}_{m}" for t in ("cdr", "event", "ledger") for m in ("202603", "202604", "202605")]  # T0 is 2026-03-02
NAMED = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
PARTITION = re.compile(r"\bcdr_(?:\d{6}|default)\b")
pytestmark = pytest.mark.postgres


@pytest.fixture
def shelf(opened: Opener, empty_postgres_url: str) -> SqlStore:
    """A PostgreSQL store of its own, upgraded at T0."""
    store = opened(empty_postgres_url)
    store.upgrade(T0)
    return store


@pytest.fixture
def till(shelf: SqlStore) -> Till:
    return Till(shelf, small_estate())


@pytest.fixture
def other(empty_postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection to the same database."""
    with psycopg.connect(empty_postgres_url, autocommit=True) as connection:
        yield connection


def tables(store: SqlStore) -> list[str]:
    """The months that are there."""
    with store.transaction(write=False) as tx:
        rows = tx.query("SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhparent"
                        " WHERE relkind = 'p' ORDER BY 1")  # fmt: skip
    return [row[0] for row in rows if not row[0].endswith("_default")]


def where_is(store: SqlStore, table: str, key: str, id_: str) -> str:
    """The partition that a row lies in."""
    with store.transaction(write=False) as tx:
        return str(tx.query(f"SELECT tableoid::regclass FROM {table} WHERE {key} = '{id_}'")[0][0])


def one_call(till: Till, uniqueid: str) -> Cdr:
    """A call of a minute, settled."""
    till.dial(route_of(uniqueid))
    till.ask(settle_of(uniqueid, talk_ms=60_000))
    return next(c for c in till.rows(Cdr) if c.uniqueid == uniqueid)


# --- months and ids --------------------------------------------------------------------------------------------------


def test_a_month_is_a_range_of_ids() -> None:
    december = month_of(1_798_675_200_000)  # 2026-12-31T00:00:00Z
    assert december.name == "202612"
    first, beyond = december.ids
    assert first <= ulid(december.start_ms, 0) < ulid(december.end_ms - 1, (1 << 80) - 1) < beyond
    assert ulid(december.start_ms - 1, (1 << 80) - 1) < first
    assert month_of(december.end_ms).name == "202701"
    assert [m.name for m in months(december.start_ms, december.start_ms)] == ["202612", "202701", "202702"]
    assert [m.name for m in months(T0, december.end_ms)][:2] == ["202603", "202604"]


def test_the_instant_in_an_id_is_read_back() -> None:
    assert instant_of(ulid(T0, 12345)) == T0
    assert instant_of("opening-acme") is None


# --- making them -----------------------------------------------------------------------------------------------------


def test_an_upgrade_makes_this_month_and_the_next_two(shelf: SqlStore) -> None:
    assert tables(shelf) == NAMES
    assert shelf.monthly
    assert shelf.upgrade(T0) == []
    assert shelf.ensure_partitions(T0) == []
    assert tables(shelf) == NAMES


def test_a_month_later_there_is_one_more_of_each(shelf: SqlStore) -> None:
    assert shelf.ensure_partitions(T0 + 30 * DAY_MS) == ["cdr_202606", "event_202606", "ledger_202606"]


def test_a_new_month_has_the_indexes_of_the_others(shelf: SqlStore) -> None:
    shelf.ensure_partitions(T0 + 30 * DAY_MS)
    with shelf.transaction(write=False) as tx:
        for table in ("cdr", "event", "ledger"):
            sql = "SELECT replace(indexdef, '{0}', '') FROM pg_indexes WHERE tablename = '{0}' ORDER BY 1"
            made, default = (tx.query(sql.format(name)) for name in (f"{table}_202606", f"{table}_default"))
            assert made == default
            orphans = f"""SELECT 1 FROM pg_index LEFT JOIN pg_inherits ON inhrelid = indexrelid
                          WHERE indrelid = '{table}_202606'::regclass AND inhparent IS NULL"""
            assert tx.query(orphans) == []  # every one belongs to the table's own


def test_rows_lie_in_the_month_of_their_id(till: Till) -> None:
    cdr = one_call(till, "u1")
    assert where_is(till.store, "cdr", "call_id", cdr.call_id) == "cdr_202603"
    assert {where_is(till.store, "event", "id", e.id) for e in till.rows(Event)} == {"event_202603"}
    (entry,) = till.rows(LedgerEntry, call_id=cdr.call_id)
    assert where_is(till.store, "ledger", "id", entry.id) == "ledger_202603"


def test_without_a_month_nothing_fails_and_its_rows_are_moved_when_it_is_made(till: Till) -> None:
    till.clock.pass_ms(200 * DAY_MS)  # nobody made a month since
    before = one_call(till, "u1")
    assert where_is(till.store, "cdr", "call_id", before.call_id) == "cdr_default"
    events, ledger = till.rows(Event), till.rows(LedgerEntry)
    assert "cdr_202609" in till.store.ensure_partitions(till.clock.now_ms())
    assert where_is(till.store, "cdr", "call_id", before.call_id) == "cdr_202609"
    assert till.rows(Cdr) == [before]
    assert (till.rows(Event), till.rows(LedgerEntry)) == (events, ledger)
    till.verify()


def test_an_upgrade_sorts_older_rows_into_their_months(till: Till) -> None:
    """What a database from before the months brings along."""
    till.clock.wall_ms = T0 - 400 * DAY_MS
    old = one_call(till, "u1")
    till.clock.wall_ms = T0 - 100 * DAY_MS
    younger = one_call(till, "u2")
    assert where_is(till.store, "cdr", "call_id", old.call_id) == "cdr_default"
    till.store.upgrade(T0)
    assert where_is(till.store, "cdr", "call_id", old.call_id) == "cdr_202501"
    assert where_is(till.store, "cdr", "call_id", younger.call_id) == "cdr_202511"
    assert [t for t in tables(till.store) if t not in NAMES] == [
        f"{t}_{m}" for t in ("cdr", "event", "ledger") for m in ("202501", "202511")
    ]
    assert where_is(till.store, "ledger", "id", "opening-acme") == "ledger_default"  # no ULID


def test_a_lock_that_is_not_to_be_had_is_given_up_and_nobody_fails(
    till: Till, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long report reads the default partition; decisions go on while we wait for it and after we gave up."""
    monkeypatch.setattr(partitions, "LOCK_MS", 50)
    till.clock.pass_ms(200 * DAY_MS)
    with other.transaction():
        other.execute("SELECT count(*) FROM cdr_default")
        with pytest.raises(DatabaseError):
            till.store.ensure_partitions(till.clock.now_ms())
        cdr = one_call(till, "u1")
    assert tables(till.store) == NAMES
    assert "cdr_202609" in till.store.ensure_partitions(till.clock.now_ms())
    assert where_is(till.store, "cdr", "call_id", cdr.call_id) == "cdr_202609"


def test_decisions_that_meet_the_move_wait_and_succeed(till: Till, empty_postgres_url: str, opened: Opener) -> None:
    till.clock.pass_ms(200 * DAY_MS)
    one_call(till, "u0")
    made: list[str] = []
    beside = opened(empty_postgres_url)
    thread = threading.Thread(target=lambda: made.extend(beside.ensure_partitions(till.clock.now_ms())))
    thread.start()
    number = 0
    while thread.is_alive() or number < 5:
        number += 1
        one_call(till, f"u{number}")
    thread.join(30)
    assert len(made) == 9
    assert len(till.rows(Cdr)) == number + 1
    with till.store.transaction(write=False) as tx:
        assert tx.query("SELECT count(*) FROM cdr_default")[0][0] == 0
    till.verify()


def test_a_large_heap_of_rows_waits_for_an_upgrade(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "MOVED_MAX", 2)
    till.clock.pass_ms(200 * DAY_MS)
    for number in range(3):
        one_call(till, f"u{number}")
    with pytest.raises(DatabaseError) as caught:
        till.store.ensure_partitions(till.clock.now_ms())
    assert caught.value.slug == "partition-late"
    assert "db upgrade" in caught.value.hint
    till.store.upgrade(till.clock.now_ms())
    assert "cdr_202609" in tables(till.store)


def test_two_that_make_months_at_once_make_them_once(shelf: SqlStore, empty_postgres_url: str, opened: Opener) -> None:
    results: list[Any] = []

    def make() -> None:
        store = opened(empty_postgres_url)
        for _ in range(20):
            try:
                results.append(store.ensure_partitions(T0 + 200 * DAY_MS))
                return
            except DatabaseError:
                continue  # the other has the lock
        results.append("gave up")

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert "gave up" not in results
    assert len(set(tables(shelf)) - set(NAMES)) == 9


# --- dropping them ---------------------------------------------------------------------------------------------------


def test_only_months_that_are_wholly_over_are_dropped(till: Till) -> None:
    one_call(till, "u1")
    till.clock.pass_ms(31 * DAY_MS)
    april = one_call(till, "u2")
    assert till.store.drop_months(Cdr, month_of(T0).end_ms - 1) == []
    assert till.store.drop_months(Cdr, month_of(T0).end_ms) == ["cdr_202603"]
    assert till.rows(Cdr) == [april]
    assert till.store.drop_months(Event, month_of(T0).end_ms) == ["event_202603"]


def test_a_month_that_somebody_reads_is_not_dropped_now(
    shelf: SqlStore, other: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_MS", 50)
    with other.transaction():
        other.execute("SELECT count(*) FROM cdr")
        with pytest.raises(DatabaseError):
            shelf.drop_months(Cdr, T0 + 90 * DAY_MS)
    assert shelf.drop_months(Cdr, T0 + 90 * DAY_MS) == ["cdr_202603", "cdr_202604"]


# --- which months are searched ---------------------------------------------------------------------------------------


class Heard:
    """The statements on cdr that a dialect was given, with their values."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.statements: list[tuple[str, Mapping[str, Any]]] = []
        queries, query = PostgresDialect.queries, PostgresDialect.query

        def tell_all(dialect: PostgresDialect, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
            self.statements += [s for s in statements if " FROM cdr" in s[0]]
            return queries(dialect, statements)

        def tell(dialect: PostgresDialect, sql: str, values: Mapping[str, Any]) -> list[Any]:
            self.statements += [(sql, values)] if " FROM cdr" in sql else []
            return query(dialect, sql, values)

        monkeypatch.setattr(PostgresDialect, "queries", tell_all)
        monkeypatch.setattr(PostgresDialect, "query", tell)


def searched(url: str, statement: tuple[str, Mapping[str, Any]], mode: str = "auto") -> set[str]:
    """The partitions of cdr that a prepared statement looks into; `mode` is PostgreSQL's plan_cache_mode."""
    sql, values = statement
    numbered = NAMED.sub(lambda m: f"${sorted(values).index(m[1]) + 1}", sql)
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute(f"SET plan_cache_mode = {mode}".encode())
        connection.execute(f"PREPARE looking AS {numbered}".encode())
        marks = ", ".join("%s" for _ in values)
        lines = connection.execute(f"EXPLAIN EXECUTE looking({marks})".encode(), [values[n] for n in sorted(values)])
        return set(PARTITION.findall(" ".join(str(row[0]) for row in lines)))


@pytest.fixture
def long_running(till: Till) -> Till:
    """A till with the months of more than a year."""
    for number in range(0, 14, 3):
        till.store.ensure_partitions(T0 + number * 30 * DAY_MS)
    assert len([t for t in tables(till.store) if t.startswith("cdr_")]) == 14
    till.clock.pass_ms(300 * DAY_MS)  # 2026-12-27
    return till


def test_a_decision_searches_the_last_months_only(
    long_running: Till, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(monkeypatch)
    with long_running.store.transaction(write=True) as tx:
        tx.begin_decisions([(NODE, "u1"), (NODE, "u2")], Books(), long_running.clock.now_ms())
        tx.begin_decisions([(NODE, "u1")], Books())
    bounded, unbounded = heard.statements
    for mode in ("force_custom_plan", "force_generic_plan"):
        found = searched(empty_postgres_url, bounded, mode)
        assert {"cdr_202611", "cdr_202612", "cdr_default"} <= found
        assert min(found) == "cdr_202611"
        assert len(searched(empty_postgres_url, unbounded, mode)) == 15  # as it would be


def test_a_call_is_looked_up_by_id_in_its_month_alone(
    long_running: Till, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard(monkeypatch)
    with long_running.store.transaction(write=False) as tx:
        assert tx.call_node(ulid(T0, 1)) is None
        tx.find(Cdr, TENANT, call_id=ulid(T0, 1))
    assert [searched(empty_postgres_url, s) for s in heard.statements] == [{"cdr_202603"}] * 2


def test_an_end_told_again_is_known_for_as_long_as_we_look_back(till: Till) -> None:
    cdr = one_call(till, "u1")

    def known(now_ms: int) -> bool:
        books = Books()
        with till.store.transaction(write=True) as tx:
            tx.begin_decisions([(NODE, "u1")], books, now_ms)
        return (NODE, "u1") in books.settled

    assert known(cdr.ended_ms)
    assert known(T0 + LOOK_BACK_MS)
    assert not known(T0 + LOOK_BACK_MS + 1)


def test_the_parts_of_a_call_are_found_by_its_id(till: Till) -> None:
    cdr = one_call(till, "u1")
    assert len(till.rows(Attempt, call_id=cdr.call_id)) == 1
