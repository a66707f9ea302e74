"""`db`: upgrading is safe twice, and a database of another version is refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from capconduit.errors import ExitCode
from tests.cli.estate import change, contents, database, done
from tests.cli.runner import run


def test_upgrade_applies_what_is_missing_once(home: Path) -> None:
    database(home).parent.mkdir(parents=True)
    with closing(sqlite3.connect(database(home))) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # an empty file that is a database
    rehearsed = done("db", "upgrade", "--dry-run", "--json", home=home)
    assert rehearsed.json == [{"migration": "0001_initial"}]
    assert contents(home) == {}
    assert done("db", "upgrade", "--json", home=home).json == [{"migration": "0001_initial"}]
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
    change(home, "UPDATE schema_migration SET version = 999")
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
