"""The server engine: PostgreSQL through psycopg, several daemons on one database.

Failure policy: fail closed. A server that is away raises DatabaseError; a broken connection is thrown away and the next
transaction opens a new one. `synchronous_commit` stays on: what is answered is durable.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from capconduit.domain.books import CallKey
from capconduit.errors import DatabaseError, Refused
from capconduit.store.sqlstore import Dialect, RetryTransaction, SqlStore, SqlTransaction, value_refused

CONNECT_TIMEOUT_S: Final = 3
LOCK_TIMEOUT_MS: Final = 5_000
MIGRATION_LOCK: Final = 0x0CA9C0D0  # advisory lock: one migration at a time
PREPARE_AFTER: Final = 2
# A server that has vanished without a word is given up after about ten seconds, not after TCP's quarter of an hour.
KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,
}

_NAMED = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@lru_cache(maxsize=1024)
def _named(sql: str) -> str:
    """`:name` parameters as psycopg writes them."""
    return _NAMED.sub(r"%(\1)s", sql.replace("%", "%%"))


@lru_cache(maxsize=1024)
def _positional(sql: str) -> str:
    """`?` parameters as psycopg writes them."""
    return sql.replace("%", "%%").replace("?", "%s")


class PostgresDialect(Dialect):
    """One connection."""

    for_update = " FOR UPDATE"
    for_share = " FOR SHARE"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def query(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        with _translated():
            cursor = self._connection.execute(_named(sql), values)
            return cursor.fetchall() if cursor.description else []

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with _translated(), self._connection.cursor() as cursor:
            if len(rows) == 1:
                cursor.execute(_positional(sql), rows[0])
            else:
                cursor.executemany(_positional(sql), rows)

    def any_of(self, column: str, name: str) -> str:
        return f"{column} = ANY(:{name})"

    def any_pair(self, columns: tuple[str, str], name: str) -> str:
        second = "bigint" if columns[1].endswith("_ms") else "text"
        pairs = f"unnest(CAST(:{name}_1 AS text[]), CAST(:{name}_2 AS {second}[]))"
        return f"({columns[0]}, {columns[1]}) IN (SELECT * FROM {pairs})"

    def lock_channels(self, pairs: Sequence[CallKey]) -> None:
        channels = "unnest(CAST(:keys_1 AS text[]), CAST(:keys_2 AS text[])) AS channel(node, uniqueid)"
        hashes = f"SELECT DISTINCT hashtextextended(node || chr(10) || uniqueid, 0) AS key FROM {channels} ORDER BY key"
        self.query(f"SELECT pg_advisory_xact_lock(key) FROM ({hashes}) AS hashes", self.pair_values("keys", pairs))

    def list_value(self, items: Sequence[Any]) -> Any:
        return list(items)

    def pair_values(self, name: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        return {f"{name}_1": [pair[0] for pair in pairs], f"{name}_2": [pair[1] for pair in pairs]}


@contextmanager
def _translated() -> Iterator[None]:
    """psycopg's errors as ours."""
    try:
        yield
    except (pg.SerializationFailure, pg.DeadlockDetected, pg.LockNotAvailable) as error:
        raise RetryTransaction(str(error)) from error
    except pg.UniqueViolation as error:
        detail = error.diag.message_detail or str(error)
        raise Refused(
            "exists", f"it exists already ({detail})", "choose another name, or change what is there"
        ) from error
    except pg.ForeignKeyViolation as error:
        raise Refused("in-use", "something else refers to it", "remove or change what refers to it first") from error
    except (psycopg.DataError, UnicodeEncodeError) as error:
        raise value_refused(error) from error
    except pg.NotNullViolation as error:
        text = " ".join(str(error).split())
        raise DatabaseError("database-failed", text, "report this: the program left out a value") from error
    except pg.UndefinedTable as error:
        raise DatabaseError(
            "database-empty",
            "the database has no CapConduit tables",
            "run `capconduit init` or `capconduit db upgrade`",
        ) from error
    except psycopg.Error as error:
        text = " ".join(str(error).split())
        raise DatabaseError(
            "database-failed", text, "check that PostgreSQL runs and that database.url is right"
        ) from error


def _version(tx: SqlTransaction) -> int:
    """The newest migration that `tx` sees."""
    if tx.query("SELECT to_regclass('schema_migration') IS NULL")[0][0]:
        return 0
    return int(tx.query("SELECT max(version) FROM schema_migration")[0][0] or 0)


class PostgresStore(SqlStore):
    """A database on a server. Each thread has its own connection."""

    engine = "postgres"

    def __init__(self, url: str) -> None:
        self.url = url
        self._local = threading.local()
        self._all: list[psycopg.Connection[Any]] = []
        self._guard = threading.Lock()

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[SqlTransaction]:
        """See store.Store. READ COMMITTED with explicit row locks; a reader sees one snapshot (REPEATABLE READ)."""
        connection = self._begin("BEGIN" if write else "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            yield SqlTransaction(PostgresDialect(connection), write=write)
            with _translated():
                connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    def _begin(self, statement: LiteralString) -> psycopg.Connection[Any]:
        """This thread's connection with a transaction begun; a new one where the old was ended while it lay idle."""
        connection = self._connection()
        assert connection.info.transaction_status is not TransactionStatus.INTRANS, (
            "a transaction within a transaction: its COMMIT would end the outer one"
        )
        with _translated():
            try:
                connection.execute(statement)
            except psycopg.OperationalError:
                self._throw_away(connection)
                connection = self._connection()
                connection.execute(statement)
        return connection

    def _roll_back(self, connection: psycopg.Connection[Any]) -> None:
        """Roll back; a connection that cannot is thrown away."""
        try:
            connection.execute("ROLLBACK")
        except psycopg.Error:
            self._throw_away(connection)

    def _throw_away(self, connection: psycopg.Connection[Any]) -> None:
        with suppress(psycopg.Error):
            connection.close()
        with self._guard:
            if connection in self._all:
                self._all.remove(connection)
        self._local.connection = None

    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        """See SqlStore."""
        with self.transaction(write=True) as tx, _translated():
            connection = self._connection()
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            if _version(tx) >= version:
                return False
            connection.execute(sql.replace("%", "%%").encode())
            for statement, values in after:
                connection.execute(_positional(statement).encode(), values)
        return True

    def schema_version(self) -> int:
        """See store.Store."""
        with self.transaction(write=False) as tx:
            return _version(tx)

    def close(self) -> None:
        """See store.Store."""
        with self._guard:
            for connection in self._all:
                with suppress(psycopg.Error):
                    connection.close()
            self._all.clear()
            self._local = threading.local()

    def _connection(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            connection = self._open()
            self._local.connection = connection
        return connection

    def _open(self) -> psycopg.Connection[Any]:
        with _translated():
            options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c timezone=UTC -c client_min_messages=warning"
            given = conninfo_to_dict(self.url)
            connection = psycopg.connect(
                self.url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                prepare_threshold=PREPARE_AFTER,
                application_name="capconduit",
                **KEEPALIVE,
                options=f"{given.get('options') or ''} {options}".strip(),
            )
        with self._guard:
            self._all.append(connection)
        return connection
