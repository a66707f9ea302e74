"""A database that is away, locked, damaged or read-only: an error that says what to do, and nothing half done."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from capconduit.domain.model import Node, Seller
from capconduit.errors import ConfigError, DatabaseError, ExitCode
from capconduit.services import calls, caps, sellers, whatif
from capconduit.services.balances import verify_balances
from capconduit.services.sellers import add_seller
from capconduit.store import sqlite as sqlite_module
from capconduit.store import sqlstore
from capconduit.store.open import open_store
from capconduit.store.postgres import ESTATE_LOCK, PostgresStore
from capconduit.store.sqlite import SqliteStore
from capconduit.store.sqlstore import RETRIES, RetryTransaction, SqlStore, SqlTransaction
from capconduit.store.store import Transaction
from tests.store_contract.conftest import Opener, PostgresServer
from tests.store_contract.test_books_written import dump
from tests.unit.estate_builder import T0, TENANT, Till, route_of, settle_of, small_estate


def slug_of(work: Any) -> str:
    """The slug of the DatabaseError that `work` raises; every one names a next step and exits with 3."""
    with pytest.raises(DatabaseError) as caught:
        work()
    assert caught.value.exit_code is ExitCode.DATABASE
    assert caught.value.hint
    return caught.value.slug


def read(store: SqlStore) -> Any:
    with store.transaction(write=False) as tx:
        return tx.tenants()


def write(store: SqlStore) -> Any:
    with store.transaction(write=True) as tx:
        return tx.bump_estate()


# --- both engines ----------------------------------------------------------------------------------------------------


def test_a_database_without_tables_says_how_to_make_them(empty_store: SqlStore) -> None:
    with pytest.raises(DatabaseError) as caught:
        read(empty_store)
    assert "init" in caught.value.hint
    with pytest.raises(DatabaseError) as caught:
        write(empty_store)
    assert "init" in caught.value.hint


def test_a_dry_run_is_refused_what_is_refused_and_leaves_nothing(shop: Till) -> None:
    before = dump(shop.store)
    office = shop.office(dry_run=True)
    assert add_seller(office, "newcomer").seller.name == "newcomer"
    limits = [caps.Limit(caps.CapMetric.CONCURRENT, caps.WindowKind.NONE, 3)]
    assert caps.set_caps(office, caps.CapScope.CAMPAIGN, "solar", limits)[0].cap.limit_value == 3
    with pytest.raises(Exception, match="exists already"):
        add_seller(office, "acme")
    assert dump(shop.store) == before
    assert add_seller(shop.office(), "newcomer").seller.name == "newcomer"


def test_reading_writes_nothing(shop: Till) -> None:
    shop.put(shop.rows(Seller)[0])
    shop.ask(route_of("u1"))
    shop.ask(route_of("u2"))
    shop.ask(settle_of("u2", talk_ms=1_000))
    limits = [caps.Limit(caps.CapMetric.BILLABLE, caps.WindowKind.DAY, 3)]
    caps.set_caps(shop.office(), caps.CapScope.CAMPAIGN, "solar", limits)
    shop.clock.pass_ms(86_400_000)  # windows that have no counter yet
    before = dump(shop.store)
    office = shop.office()
    whatif.what_if(office, "+18005550100", caller="+12125550147")
    caps.cap_usage(office)
    caps.verify_caps(office)
    verify_balances(office)
    calls.list_calls(office)
    calls.find_cdrs(office)
    calls.tell(office, "u1")
    sellers.list_sellers(office)
    with shop.store.transaction(write=False) as tx:
        tx.load_estate()
        tx.estate_version()
    assert dump(shop.store) == before


NODE = Node(name="n", boot_id="b", started_ms=0, seen_ms=0, asterisk_started_ms=None, state="up")
WRITES: dict[str, Callable[[SqlTransaction, Seller], object]] = {
    "insert": lambda tx, seller: tx.insert(seller),
    "update": lambda tx, seller: tx.update(seller),
    "delete": lambda tx, seller: tx.delete(seller),
    "bump": lambda tx, _: tx.bump_estate(),
    "node": lambda tx, _: tx.put_node(NODE),
}


@pytest.mark.parametrize("verb", WRITES)
def test_a_reading_transaction_cannot_write(shop: Till, verb: str) -> None:
    before, seller = dump(shop.store), shop.rows(Seller)[0]
    with pytest.raises((AssertionError, DatabaseError)), shop.store.transaction(write=False) as tx:
        WRITES[verb](tx, seller)
    assert dump(shop.store) == before


def test_a_transaction_that_is_asked_to_retry_is_run_again_a_bounded_number_of_times(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlstore, "RETRY_PAUSE_S", 0)
    tries: list[int] = []

    def work(tx: Any) -> str:
        tries.append(tx.bump_estate())
        if len(tries) < 3:
            raise RetryTransaction("in the way")
        return "done"

    assert store.run(work) == "done"
    assert tries == [2, 2, 2]  # each try began from what is committed

    def never(tx: Any) -> None:
        tries.append(tx.bump_estate())
        raise RetryTransaction("in the way")

    tries.clear()
    assert slug_of(lambda: store.run(never)) == "database-contention"
    assert tries == [3] * (RETRIES + 1)


def test_other_errors_are_not_retried(store: SqlStore) -> None:
    tries = []

    def work(tx: Any) -> None:
        tries.append(1)
        raise DatabaseError("database-failed", "no")

    with pytest.raises(DatabaseError):
        store.run(work)
    assert len(tries) == 1


def test_a_url_of_another_kind_is_refused() -> None:
    for url in ("mysql://x", "", "sqlite://relative", "/path"):
        with pytest.raises(ConfigError):
            open_store(url)


# --- SQLite ----------------------------------------------------------------------------------------------------------


def test_what_sqlite_commits_is_on_the_disk(opened: Opener, tmp_path: Path) -> None:
    store = opened(f"sqlite:///{tmp_path}/s.sqlite")
    store.upgrade(T0)

    def pragma(name: str) -> Any:
        with store.transaction(write=False) as tx:
            return tx.query(f"PRAGMA {name}")[0][0]

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 1)
    seen = []
    thread = threading.Thread(target=lambda: seen.append((pragma("synchronous"), pragma("foreign_keys"))))
    thread.start()
    thread.join(10)
    assert seen == [(2, 1)]  # every thread's own connection


def test_a_file_may_have_any_name(opened: Opener, tmp_path: Path) -> None:
    path = tmp_path / "a b%20c?d#e ü.sqlite"
    store = opened(f"sqlite:///{path}")
    store.upgrade(T0)
    assert path.exists()
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(path.name)] == []
    again = open_store(f"sqlite:///{path}")
    assert again.schema_version() == store.schema_version()
    again.close()


def test_a_missing_file_is_not_made_by_looking(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    store = open_store(f"sqlite:///{path}")
    assert store.schema_version() == 0
    assert slug_of(lambda: read(store)) == "database-missing"
    assert slug_of(lambda: write(store)) == "database-missing"
    assert not path.exists()


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("this is no database, but it is long enough to be looked at as one" * 20)
    store = open_store(f"sqlite:///{path}")
    assert slug_of(lambda: read(store)) == "database-failed"
    store.close()


def test_a_directory_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    assert slug_of(lambda: read(open_store(f"sqlite:///{tmp_path}"))) == "database-failed"


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory that everyone may look into, and for the time of the test a user who is not root."""
    directory = Path(tempfile.mkdtemp(prefix="cc-ro-"))
    directory.chmod(0o755)
    yield directory
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def test_a_file_that_may_not_be_written_is_told(unprivileged: Path) -> None:
    path = unprivileged / "s.sqlite"
    store = open_store(f"sqlite:///{path}", create=True)
    store.upgrade(T0)
    store.close()
    for suffix in ("", "-wal", "-shm"):
        file = Path(f"{path}{suffix}")
        if file.exists():
            file.chmod(0o444)
    unprivileged.chmod(0o555)
    store, was = open_store(f"sqlite:///{path}"), os.geteuid()
    try:
        if was == 0:
            os.seteuid(65_534)
        with pytest.raises(DatabaseError) as caught:
            write(store)
    finally:
        if was == 0:
            os.seteuid(was)
        unprivileged.chmod(0o755)
        store.close()
    assert caught.value.slug == "database-failed"
    assert "writ" in caught.value.hint


def test_a_writer_that_is_in_the_way_too_long_is_told_after_a_bounded_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "BUSY_TIMEOUT_MS", 20)
    monkeypatch.setattr(sqlstore, "RETRY_PAUSE_S", 0)
    path = tmp_path / "s.sqlite"
    till = Till(SqliteStore(path, create=True), small_estate())
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        assert slug_of(lambda: till.ask(route_of())) == "database-contention"
        assert len(read(till.store)) == 1  # readers do not wait
        other.execute("ROLLBACK")
        assert till.dial(route_of()).attempt == 1
    finally:
        other.close()
        till.store.close()


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.mark.postgres
def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    store = PostgresStore(f"postgresql://nobody@/nothing?host={tmp_path}")
    assert slug_of(lambda: read(store)) == "database-failed"
    store.close()


@pytest.mark.postgres
def test_a_database_that_does_not_exist_is_told(postgres_server: PostgresServer) -> None:
    store = PostgresStore(postgres_server.url("nowhere"))
    assert slug_of(lambda: read(store)) == "database-failed"
    store.close()


@pytest.mark.postgres
def test_a_connection_that_was_ended_is_replaced(
    opened: Opener, postgres_server: PostgresServer, postgres_database: str, postgres_url: str
) -> None:
    till = Till(opened(postgres_url), small_estate())
    till.dial(route_of("u1"))
    before = dump(till.store)

    def ended_within() -> None:
        with till.store.transaction(write=True) as tx:
            tx.bump_estate()
            postgres_server.terminate(postgres_database)
            tx.bump_estate()

    assert slug_of(ended_within) == "database-failed"
    assert dump(till.store) == before
    assert till.dial(route_of("u2")).attempt == 1
    till.verify()


@pytest.mark.postgres
def test_an_idle_connection_that_was_ended_fails_no_call(
    opened: Opener, postgres_server: PostgresServer, postgres_database: str, postgres_url: str
) -> None:
    """The server was restarted while nothing was under way: nobody's call need be lost for it."""
    till = Till(opened(postgres_url), small_estate())
    till.dial(route_of("u1"))
    postgres_server.terminate(postgres_database)
    assert till.dial(route_of("u2")).attempt == 1
    postgres_server.terminate(postgres_database)
    assert len(read(till.store)) == 1


@pytest.mark.postgres
def test_after_a_crash_of_the_server_everything_committed_is_there(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    till = Till(opened(postgres_url), small_estate())
    for i in range(5):
        till.dial(route_of(f"u{i}"))
    till.ask(settle_of("u0", talk_ms=5_000))
    before = dump(till.store)
    postgres_server.crash()
    try:
        assert slug_of(lambda: till.ask(route_of("lost"))) == "database-failed"
        assert slug_of(lambda: read(till.store)) == "database-failed"
    finally:
        postgres_server.start()
    assert dump(till.store) == before
    till.verify()
    assert till.ask(settle_of("u1", talk_ms=5_000)).first
    assert not till.ask(settle_of("u0", talk_ms=5_000)).first
    till.verify()


@pytest.mark.postgres
def test_a_deadlock_is_resolved_by_running_one_again(opened: Opener, postgres_url: str) -> None:
    """Two lock two rows in opposite order: PostgreSQL aborts one (40P01), and its second try works."""
    builder = small_estate()
    builder.seller("second")
    till = Till(opened(postgres_url), builder)
    meet = threading.Barrier(2, timeout=30)
    tries: dict[str, int] = {"acme": 0, "second": 0}
    names = ("acme", "second")

    def work(first: str, then: str) -> Any:
        def locked(tx: Any) -> None:
            tries[first] += 1
            for name in (first, then):
                tx.query(f"SELECT 1 FROM account WHERE tenant_id = '{TENANT}' AND seller_id = '{name}' FOR UPDATE")
                if name == first and tries[first] == 1:
                    meet.wait()  # both hold their first row and want the other's

        return lambda: till.store.run(locked)

    failed: list[BaseException] = []

    def guarded(run: Any) -> None:
        try:
            run()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(work(a, b),)) for a, b in (names, names[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failed == []
    assert sum(tries.values()) == 3


@pytest.mark.postgres
def test_a_serialization_failure_is_run_again(opened: Opener, postgres_url: str) -> None:
    """40001: a REPEATABLE READ transaction updates a row that another one has changed since its snapshot."""
    till = Till(opened(postgres_url), small_estate())
    tries = []

    def work(tx: Any) -> int:
        tries.append(1)
        if len(tries) == 1:
            tx.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            tx.query("SELECT version FROM estate_version")
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute("UPDATE estate_version SET version = version + 1")
        return int(tx.bump_estate())

    version = till.store.run(work)
    assert len(tries) == 2
    assert version == 4  # 1, the estate inserted, the other's change, ours


@pytest.mark.postgres
def test_a_lock_that_is_held_too_long_is_told_after_a_bounded_wait(
    opened: Opener, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capconduit.store.postgres.LOCK_TIMEOUT_MS", 20)
    monkeypatch.setattr(sqlstore, "RETRY_PAUSE_S", 0)
    till = Till(opened(postgres_url), small_estate())
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT * FROM account FOR UPDATE")
        assert slug_of(lambda: till.ask(route_of())) == "database-contention"
        other.rollback()
    assert till.dial(route_of()).attempt == 1


@pytest.mark.postgres
def test_a_refused_statement_spoils_none_that_was_sent_behind_it(
    opened: Opener, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver takes a statement for prepared that the server, after an error, has never looked at."""
    monkeypatch.setattr("capconduit.store.postgres.LOCK_TIMEOUT_MS", 20)
    monkeypatch.setattr(sqlstore, "RETRY_PAUSE_S", 0)
    till = Till(opened(postgres_url), small_estate())
    with pytest.raises(LookupError), till.store.transaction(write=True, hurry=True):
        raise LookupError  # the first ROLLBACK makes the driver forget what it takes for prepared, later ones do not
    for name in ("u1", "u2", "u3", "u4"):
        till.dial(route_of(name))
    for name in ("u1", "u2"):  # the third time they are prepared
        till.ask(settle_of(name))
    with psycopg.connect(postgres_url) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({ESTATE_LOCK})")
        assert slug_of(lambda: till.ask(settle_of("u3"))) == "database-contention"
        other.rollback()
    assert till.ask(settle_of("u3")).first
    assert till.ask(settle_of("u4")).first
    till.verify()


@pytest.mark.postgres
def test_a_transaction_that_was_not_even_begun_spoils_no_other(
    opened: Opener, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is in no transaction then, so nothing needs to be rolled back; yet it prepared nothing, either."""
    till = Till(opened(postgres_url), small_estate())
    monkeypatch.setattr("capconduit.store.postgres.BEGIN", "BEGIN AGAIN")
    assert slug_of(lambda: till.ask(route_of("u1"))) == "database-failed"
    monkeypatch.undo()
    assert till.dial(route_of("u1")).attempt == 1
    till.verify()


@pytest.mark.postgres
def test_a_connection_that_is_ended_before_the_commit_is_worth_another_try(
    opened: Opener, postgres_server: PostgresServer, postgres_database: str, postgres_url: str
) -> None:
    till = Till(opened(postgres_url), small_estate())
    till.dial(route_of())
    tries: list[int] = []

    def work(tx: Transaction) -> int:
        tries.append(tx.estate_version())
        if len(tries) == 1:
            postgres_server.terminate(postgres_database)
        return tx.estate_version()

    assert till.store.run(work, hurry=True) == tries[0]
    assert len(tries) == 2
    assert till.ask(settle_of()).first
