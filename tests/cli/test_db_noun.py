"""`db`: upgrading is safe twice, another version is refused; pruning and copying change no balance and no call."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.model import Node
from capconduit.errors import ExitCode
from capconduit.services.stores import open_store
from capconduit.store.sqlstore import MIGRATIONS
from tests.cli.estate import change, contents, database, done, engine, walk
from tests.cli.runner import run
from tests.cli.test_daemon_nouns import WELL, daemons, socket_path

__all__ = ["daemons", "socket_path"]  # fixtures

ALL = [{"migration": f"{version:04d}_{name}"} for version, name in MIGRATIONS]


def test_upgrade_applies_what_is_missing_once(home: Path) -> None:
    database(home).parent.mkdir(parents=True)
    with closing(sqlite3.connect(database(home))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # an empty file that is a database
    rehearsed = done("db", "upgrade", "--dry-run", "--json", home=home)
    assert ALL[0] == {"migration": "0001_initial"}
    assert rehearsed.json == ALL
    assert contents(home) == {}
    assert done("db", "upgrade", "--json", home=home).json == ALL
    before = contents(home)
    again = done("db", "upgrade", "--json", home=home)
    assert again.json == []
    assert "up to date" in again.err
    assert contents(home) == before


def test_upgrade_makes_no_database_where_there_is_none(home: Path) -> None:
    result = run("db", "upgrade", home=home)
    assert result.code == ExitCode.DATABASE
    assert "capconduit init" in result.err
    assert not database(home).exists()


def test_a_database_of_a_newer_version_is_refused_by_every_command(home: Path) -> None:
    done("init", "--yes", home=home)
    change(home, "UPDATE schema_migration SET version = 999 WHERE version = 1")
    for argv in (("seller", "list"), ("seller", "add", "acme"), ("db", "verify"), ("serve",)):
        result = run(*argv, home=home)
        assert result.code == ExitCode.DATABASE, argv
        assert "[schema-version]" in result.err
        assert "install the newer CapConduit" in result.err
    assert run("db", "upgrade", home=home).code == ExitCode.DATABASE


def test_an_empty_database_is_told_from_an_old_one(home: Path) -> None:
    database(home).parent.mkdir(parents=True)
    database(home).touch()
    result = run("seller", "list", home=home)
    assert result.code == ExitCode.DATABASE
    assert "[database-empty]" in result.err


# --- pruning ---------------------------------------------------------------------------------------------------------

DAY_MS = 86_400_000


@pytest.fixture
def old(home: Path) -> Path:
    """The walk with a call of 100 days ago, and one that has been up since."""
    walk(home)
    with engine(home, SystemClock().now_ms() - 100 * DAY_MS) as calls:
        calls.arrive("u1")
        calls.end("u1", answered_for_ms=60_000)
        calls.arrive("u2")
    return home


def without(tables: dict[str, list[object]], *names: str) -> dict[str, list[object]]:
    return {name: rows for name, rows in tables.items() if name not in names}


def test_by_default_only_what_nobody_can_ask_for_is_pruned(old: Path) -> None:
    before = contents(old)
    assert done("db", "prune", "--json", home=old).json == [{"table": "place", "rows": 1}]
    assert without(contents(old), "place", "counter", "audit") == without(before, "place", "counter", "audit")
    for noun in ("cap", "balance", "db"):
        done(noun, "verify", home=old)
    assert done("db", "prune", "--json", home=old).json == []


def test_pruning_goes_by_the_settings(old: Path) -> None:
    done("setting", "set", "cdr_keep_days", "90", home=old)
    rehearsed = done("db", "prune", "--dry-run", "--json", home=old)
    expected = [{"table": t, "rows": 1} for t in ("cdr", "attempt", "hold", "place")]
    assert rehearsed.json == expected
    assert "nothing was changed" in rehearsed.err
    pruned = done("db", "prune", "--json", home=old).json
    assert sorted(pruned, key=str) == sorted(expected, key=str)
    assert done("cdr", "list", "--json", home=old).json == []
    assert [c["uniqueid"] for c in done("call", "list", "--json", home=old).json] == ["u2"]
    done("db", "verify", home=old)


def test_a_day_is_asked_for_before_everything_older_goes(old: Path) -> None:
    before = contents(old)
    asked = run("db", "prune", "--before", "-1440h", home=old)
    assert asked.code == ExitCode.USAGE
    assert "[confirmation-needed]" in asked.err
    assert contents(old) == before
    pruned = {
        row["table"]: row["rows"] for row in done("db", "prune", "--before", "-1440h", "--yes", "--json", home=old).json
    }
    assert {**pruned, "event": 0} == {"cdr": 1, "attempt": 1, "hold": 1, "place": 1, "event": 0}
    assert pruned["event"] > 2
    assert contents(old)["ledger"] == before["ledger"]
    done("db", "verify", home=old)


def test_a_day_too_young_is_refused(old: Path) -> None:
    result = run("db", "prune", "--before", "-24h", "--yes", home=old)
    assert result.code == ExitCode.USAGE
    assert "[before-too-young]" in result.err


# --- copying ---------------------------------------------------------------------------------------------------------


def test_a_copy_is_told_of_and_is_the_installation(old: Path) -> None:
    url = f"sqlite://{old}/copy.sqlite"
    copied = done("db", "copy", "--to", url, "--json", home=old)
    rows = {row["table"]: row["rows"] for row in copied.json}
    assert (rows["seller"], rows["call"], rows["cdr"], rows["ledger"]) == (1, 1, 1, 2)
    assert all(row["checksum"] for row in copied.json)
    assert f'in [database]: url = "{url}"' in copied.err
    there = {"CAPCONDUIT_DATABASE__URL": url}
    for argv in (("seller", "list", "--json"), ("call", "list", "--json"), ("cap", "usage", "--json")):
        assert run(*argv, home=old, env=there).json == run(*argv, home=old).json
    assert run("db", "verify", home=old, env=there).code == ExitCode.DONE
    database(old).unlink()
    assert run("call", "list", home=old, env=there).code == ExitCode.DONE  # that was the copy


def test_a_copy_goes_into_an_empty_database_only(old: Path) -> None:
    url = f"sqlite://{old}/copy.sqlite"
    done("db", "copy", "--to", url, home=old)
    again = run("db", "copy", "--to", url, home=old)
    assert again.code == ExitCode.REFUSED
    assert "[target-not-empty]" in again.err
    assert again.out == ""
    same = run("db", "copy", "--to", f"sqlite://{database(old)}", home=old)
    assert same.code == ExitCode.USAGE
    assert "[database-url-same]" in same.err


@pytest.mark.parametrize("url", ["postgres://h/d", "mysql://h/d", "sqlite://relative.sqlite", ""])
def test_a_target_that_is_no_database_is_refused(old: Path, url: str) -> None:
    result = run("db", "copy", "--to", url, home=old)
    assert result.code == ExitCode.USAGE, result.err
    assert "[database-url-" in result.err


def test_no_copy_is_made_while_a_daemon_runs(old: Path) -> None:
    url, store = f"sqlite://{old}/copy.sqlite", open_store(f"sqlite://{database(old)}")
    node = Node(
        name="pbx1", boot_id="b", started_ms=0, seen_ms=SystemClock().now_ms() + DAY_MS, asterisk_started_ms=None,
        state="up",
    )  # fmt: skip
    store.run(lambda tx: tx.put_node(node))
    store.close()
    result = run("db", "copy", "--to", url, home=old)
    assert result.code == ExitCode.REFUSED
    assert "[daemon-running]" in result.err
    assert "pbx1" in result.err
    done("db", "copy", "--to", url, "--force", home=old)


def test_no_copy_is_made_while_a_daemon_answers(old: Path, daemons: Any, socket_path: str) -> None:
    daemons(WELL)
    url, here = f"sqlite://{old}/copy.sqlite", {"CAPCONDUIT_CONTROL__SOCKET": socket_path}
    result = run("db", "copy", "--to", url, home=old, env=here)
    assert result.code == ExitCode.REFUSED
    assert "pid 4711" in result.err
    assert run("db", "copy", "--to", url, "--force", home=old, env=here).code == ExitCode.DONE


def test_a_copy_of_what_does_not_add_up_says_so(old: Path) -> None:
    change(old, "UPDATE account SET balance_micros = balance_micros + 1")
    result = run("db", "copy", "--to", f"sqlite://{old}/copy.sqlite", home=old)
    assert result.code == ExitCode.DRIFT
    assert "1 balances and 0 counters" in result.err
    assert "url = " in result.err


def test_a_password_in_a_url_is_not_shown() -> None:
    from capconduit_cli.commands.db import _quoted

    assert _quoted("postgresql://cc:s3cret@db.example.net/cc") == '"postgresql://cc:…@db.example.net/cc"'
    assert _quoted("postgresql:///cc") == '"postgresql:///cc"'


# Backing up -----------------------------------------------------------------------------------------------------------


def test_a_backup_is_put_back_and_what_was_there_is_kept(home: Path, tmp_path: Path) -> None:
    walk(home)
    file, before = tmp_path / "capconduit.backup", contents(home)
    made = done("db", "backup", str(file), home=home)
    assert made.out == ""
    assert str(file) in made.err
    done("seller", "add", "later", home=home)
    back = done("db", "restore", str(file), "--yes", home=home)
    assert contents(home) == before
    [kept] = database(home).parent.glob("*.before-*")
    assert str(kept) in back.err
    assert done("db", "verify", "--json", home=home).json == []


def test_a_restore_asks_and_a_script_must_say_yes(home: Path, tmp_path: Path) -> None:
    walk(home)
    done("db", "backup", str(tmp_path / "b"), home=home)
    before = contents(home)
    assert run("db", "restore", str(tmp_path / "b"), home=home).code == ExitCode.USAGE
    assert contents(home) == before


def test_a_backup_in_the_way_and_a_file_that_is_none_are_refused(home: Path, tmp_path: Path) -> None:
    walk(home)
    file = tmp_path / "b"
    file.write_text("mine")
    taken = run("db", "backup", str(file), home=home)
    assert (taken.code, "[backup-exists]" in taken.err, file.read_text()) == (ExitCode.REFUSED, True, "mine")
    for directory in (str(tmp_path), ".", "/"):
        where = run("db", "backup", "--force", directory, home=home)
        assert (where.code, "[backup-is-directory]" in where.err) == (ExitCode.USAGE, True)
    wrong = run("db", "restore", str(file), "--yes", home=home)
    assert (wrong.code, "[backup-unreadable]" in wrong.err) == (ExitCode.REFUSED, True)
    assert run("db", "restore", str(tmp_path / "nothing"), "--yes", home=home).code == ExitCode.USAGE


def test_a_rehearsed_restore_reads_the_file_and_changes_nothing(home: Path, tmp_path: Path) -> None:
    walk(home)
    file = tmp_path / "b"
    done("db", "backup", str(file), home=home)
    done("seller", "add", "later", home=home)
    before = contents(home)
    told = done("db", "restore", str(file), "--dry-run", home=home).err
    assert f"{file.stat().st_size:,} bytes" in told
    assert f"would be kept in {database(home)}.before-" in told
    assert contents(home) == before
    assert not list(database(home).parent.glob("*.before-*"))
    file.write_bytes(file.read_bytes()[:-8_192])
    damaged = run("db", "restore", str(file), "--dry-run", home=home)
    assert (damaged.code, "[backup-" in damaged.err) == (ExitCode.REFUSED, True)


def test_nothing_is_put_back_under_a_running_daemon(home: Path, tmp_path: Path) -> None:
    walk(home)
    done("db", "backup", str(tmp_path / "b"), home=home)
    with closing(open_store(f"sqlite:///{database(home)}")) as store, store.transaction(write=True) as tx:
        now_ms = SystemClock().now_ms()
        up = Node(
            name="pbx-1", boot_id="b", started_ms=now_ms, seen_ms=now_ms, asterisk_started_ms=None, state="up"
        )  # fmt: skip
        tx.put_node(up)
    refused = run("db", "restore", str(tmp_path / "b"), "--yes", home=home)
    assert (refused.code, "pbx-1" in refused.err) == (ExitCode.REFUSED, True)
