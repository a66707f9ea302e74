"""The schema: what the migrations make is what the tables say and what the domain's classes are, on both engines."""

from __future__ import annotations

import re
import threading
import types
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import Any, get_type_hints

import psycopg
import pytest
import sqlalchemy
from sqlmodel import SQLModel

from capconduit.clock import SystemClock
from capconduit.errors import DatabaseError
from capconduit.services.setup import prepare_database
from capconduit.store import tables
from capconduit.store.ddl import ddl
from capconduit.store.open import check_schema, open_store
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import MIGRATIONS, SqlStore
from tests.store_contract.conftest import PostgresServer
from tests.store_contract.test_books_written import KINDS
from tests.unit.estate_builder import T0

PARTITION = re.compile(r"_(default|\d{6})$")


def described(url: str) -> dict[str, Any]:
    """Everything an engine knows of a schema: columns with types, keys, indexes; by table."""
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        inspector = sqlalchemy.inspect(engine)
        return {
            table: {
                "columns": [
                    (c["name"], str(c["type"]), c["nullable"], c["default"], c.get("autoincrement"))
                    for c in inspector.get_columns(table)
                ],
                "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
                "foreign keys": sorted(
                    (tuple(f["constrained_columns"]), f["referred_table"], tuple(f["referred_columns"]))
                    for f in inspector.get_foreign_keys(table)
                ),
                "unique": sorted(
                    (str(u["name"]), tuple(u["column_names"])) for u in inspector.get_unique_constraints(table)
                ),
                "indexes": sorted(
                    (str(i["name"]), tuple(map(str, i["column_names"])), bool(i["unique"]))
                    for i in inspector.get_indexes(table)
                ),
            }
            for table in sorted(inspector.get_table_names())
            if not PARTITION.search(table)
        }
    finally:
        engine.dispose()


def create_all(url: str) -> None:
    """The schema as the SQLModel tables declare it."""
    assert tables.TenantTable.__tablename__
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        SQLModel.metadata.create_all(engine)
    finally:
        engine.dispose()


def assert_same(fresh: dict[str, Any], migrated: dict[str, Any]) -> None:
    assert fresh.keys() == migrated.keys()
    for table, columns in fresh.items():
        assert migrated[table] == columns, table
    assert len(fresh) == len(KINDS) + 3  # the estate's version and changes, and the migrations


def test_a_fresh_schema_and_a_migrated_one_are_the_same_on_sqlite(tmp_path: Path) -> None:
    fresh, migrated = f"sqlite:///{tmp_path}/fresh.sqlite", f"sqlite:///{tmp_path}/migrated.sqlite"
    create_all(fresh)
    store = open_store(migrated, create=True)
    store.upgrade(T0)
    store.close()
    assert_same(described(fresh), described(migrated))


@pytest.mark.postgres
def test_a_fresh_schema_and_a_migrated_one_are_the_same_on_postgres(
    postgres_server: PostgresServer, postgres_url: str, empty_postgres_url: str
) -> None:
    create_all(empty_postgres_url)
    fresh = described(empty_postgres_url)
    assert_same(fresh, described(postgres_url))
    integers = {t for table in fresh.values() for _, t, *_ in table["columns"]} - {"TEXT", "BOOLEAN"}
    assert integers == {"BIGINT"}  # 32 bits would not hold 10^15 micros


@pytest.mark.postgres
def test_rows_that_change_find_the_same_room_in_a_fresh_schema_and_a_migrated_one(
    postgres_url: str, empty_postgres_url: str
) -> None:
    def rooms(url: str) -> dict[str, list[str]]:
        with psycopg.connect(url) as connection:
            asked = "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r'"
            return dict(connection.execute(asked).fetchall())

    create_all(empty_postgres_url)
    fresh = rooms(empty_postgres_url)
    assert fresh == rooms(postgres_url)
    assert fresh.keys() >= {"account", "call", "counter", "place"}


@pytest.mark.skipif(len(MIGRATIONS) > 1, reason="the tables have moved on since the first migration")
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_the_first_migration_is_what_the_tables_generate(engine: str) -> None:
    path = Path(tables.__file__).parent / "migrations" / f"0001_initial.{engine}.sql"
    assert [line.rstrip() for line in path.read_text().splitlines()] == [
        line.rstrip() for line in ddl(engine).splitlines()
    ]


SQL_TYPES = {int: "BIGINT", str: "TEXT", bool: "BOOLEAN"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_every_field_of_the_domain_is_a_column_of_its_type(kind: type[Any]) -> None:
    m = mapping(kind)
    table = SQLModel.metadata.tables[m.table]
    hints = get_type_hints(kind)
    expected = []
    for field in fields(kind):
        hint = hints[field.name]
        optional = isinstance(hint, types.UnionType)
        if optional:
            hint = next(arm for arm in hint.__args__ if arm is not type(None))
        plain = str if issubclass(hint, StrEnum) else hint
        expected.append((field.name, SQL_TYPES[plain], optional))
    actual = [(c.name, str(c.type.compile()).replace("BIGINTEGER", "BIGINT"), c.nullable) for c in table.columns]
    assert actual == expected
    assert tuple(c.name for c in table.primary_key.columns) == m.key


def test_every_table_of_a_tenant_has_the_column() -> None:
    assert tables.TenantTable.__tablename__
    without = {t.name for t in SQLModel.metadata.tables.values() if "tenant_id" not in t.columns}
    assert without == {"tenant", "node", "tombstone", "estate_version", "estate_change", "schema_migration"}


# --- migrating -------------------------------------------------------------------------------------------------------


def test_an_empty_database_is_told_and_made_ready_once(empty_store: SqlStore) -> None:
    assert empty_store.schema_version() == 0
    with pytest.raises(DatabaseError) as caught:
        check_schema(empty_store)
    assert caught.value.slug == "database-empty"
    clock = SystemClock()
    newest = f"{MIGRATIONS[-1][0]:04d}_{MIGRATIONS[-1][1]}"
    assert prepare_database(empty_store, clock)[-1] == newest
    assert prepare_database(empty_store, clock) == []
    check_schema(empty_store)
    assert empty_store.schema_version() == MIGRATIONS[-1][0]
    with empty_store.transaction(write=False) as tx:
        assert [t.name for t in tx.tenants()] == ["default"]
        assert tx.estate_version() == 2  # the tenant was made


def test_a_database_of_a_newer_program_is_refused(store: SqlStore) -> None:
    newer = MIGRATIONS[-1][0] + 1
    with store.transaction(write=True) as tx:
        tx.query(f"INSERT INTO schema_migration (version, name, applied_ms) VALUES ({newer}, 'later', 0) RETURNING 1")
    with pytest.raises(DatabaseError) as caught:
        store.upgrade(T0)
    assert caught.value.slug == "schema-newer"
    with pytest.raises(DatabaseError) as caught:
        check_schema(store)
    assert caught.value.slug == "schema-version"
    assert "install" in caught.value.hint


def test_a_migration_that_fails_leaves_nothing(empty_store: SqlStore) -> None:
    with pytest.raises(DatabaseError):
        empty_store.script(1, "CREATE TABLE a (x TEXT);\n\nCREATE TABLE b (y NONSENSE(;\n", [])
    empty_store.upgrade(T0)
    check_schema(empty_store)


def test_two_that_migrate_at_once_migrate_once(empty_store: SqlStore) -> None:
    done: list[Any] = []

    def migrate() -> None:
        other = open_store(empty_store.url, create=True)
        try:
            done.append(prepare_database(other, SystemClock()))
        except DatabaseError as error:
            done.append(error)
        finally:
            other.close()

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(isinstance(one, Exception) for one in done), done
    assert sorted(name for one in done for name in one) == [f"{version:04d}_{name}" for version, name in MIGRATIONS]
    check_schema(empty_store)
    with empty_store.transaction(write=False) as tx:
        assert [t.name for t in tx.tenants()] == ["default"]
