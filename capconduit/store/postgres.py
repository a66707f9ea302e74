"""The server engine: PostgreSQL through psycopg, several daemons on one database.

Failure policy: fail closed. A server that is away raises DatabaseError; a broken connection is thrown away and the next
transaction opens a new one. `synchronous_commit` stays on: what is answered is durable.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, lru_cache, partial
from itertools import chain
from struct import pack
from typing import Any, Final, LiteralString

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from capconduit.errors import DatabaseError, Refused
from capconduit.store.dialect import (
    CALLER_LOCK,
    CHANNEL_LOCK,
    OUTBOX_LOCK,
    Column,
    Dialect,
    RetryTransaction,
    Shape,
    value_refused,
)
from capconduit.store.pipeline import Pipeline
from capconduit.store.sqlstore import SqlStore
from capconduit.store.sqltransaction import SqlTransaction

CONNECT_TIMEOUT_S: Final = 3
LOCK_TIMEOUT_MS: Final = 5_000
MIGRATION_LOCK: Final = 0x0CA9C0D0  # advisory lock: one migration at a time
ESTATE_LOCK: Final = 0x0CA9C0D1  # advisory lock: shared by decisions, alone for changes of configuration
PREPARE_AFTER: Final = 2
TEXT_OID: Final = 25  # of the type `text`, in every database
# Whatever the server's default: each statement sees what was committed while the locks before it were waited for.
BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
# A default of `off` would lose what was acknowledged; one that waits for standbys as well is left as it is.
DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
# Decisions find every row by its key. A planner that takes a table for small would read it whole, with all the dead
# versions that decisions leave behind until the next vacuum: twice the work after a minute, and growing. And no key is
# looked for twice in a statement: to memoize is in vain.
BY_KEY: Final = "".join(
    f" -c enable_{way}=off" for way in ("seqscan", "bitmapscan", "hashjoin", "mergejoin", "memoize")
)
SEND_BUFFER: Final = 1 << 20  # bytes: rows that are sent ahead must not wait until the server reads them
# A server that has vanished without a word is given up after about ten seconds, not after TCP's quarter of an hour.
KEEPALIVE: Final[dict[str, Any]] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 8_000,
}

_NAMED = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")

_SEEDS: Final = {CHANNEL_LOCK: 0, CALLER_LOCK: 1, OUTBOX_LOCK: 2}


def _element(value: str) -> str:
    """A text within the quotes of an array's element. (str.translate would take ten times as long.)"""
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _quoted(texts: Sequence[str]) -> str:
    """An array of texts with quotes or backslashes within."""
    return '{"' + '","'.join([_element(text) for text in texts]) + '"}'


def binary_array(texts: Sequence[str], encoding: str) -> bytes:
    """An array of texts as PostgreSQL sends and receives it in binary form (`array_recv`): nothing is escaped, which
    with JSON takes a tenth of the time here and less there, too."""
    parts = [pack(">5i", 1, 0, TEXT_OID, len(texts), 1)]  # dimensions, any NULL, type; length, the first one's number
    for text in texts:
        encoded = text.encode(encoding)
        parts += (len(encoded).to_bytes(4, "big"), encoded)
    return b"".join(parts)


def array_text(values: Sequence[Any], kind: str, quoted: Callable[[Sequence[str]], Any] = _quoted) -> Any:
    """A column of values as PostgreSQL reads an array ("Array Input and Output Syntax"); quicker to make here in one go
    than element by element in the driver. `quoted` makes one of texts that cannot stand as they are."""
    if not values:
        return "{}"
    if kind != "text":  # numbers and booleans, which Python writes as PostgreSQL reads them
        return "{" + repr([*values])[1:-1].replace("None", "NULL") + "}"
    try:
        joined = '","'.join(values)
    except TypeError:  # a NULL
        return "{" + ",".join(["NULL" if v is None else f'"{_element(v)}"' for v in values]) + "}"
    if joined.count('"') != 2 * (len(values) - 1) or "\\" in joined:
        return quoted(values)
    return '{"' + joined + '"}'


def _given(columns: Sequence[Column]) -> str:
    """Rows that come as one array for each column.

    Functions in SELECT go through their arrays in step, row by row; in FROM each would be kept as a table first, which
    took as long as writing the rows.
    """
    return f"SELECT {', '.join(f'unnest(?::{kind}[]) AS {name}' for name, kind in columns)}"


def _same(shape: Shape) -> str:
    return " AND ".join(f"{shape.table}.{name} = given.{name}" for name, _ in shape.keys)


@cache
def _insert_sql(shape: Shape) -> LiteralString:
    return f"INSERT INTO {shape.table} ({', '.join(name for name, _ in shape.columns)}) {_given(shape.columns)}"


@cache
def _upsert_sql(shape: Shape) -> LiteralString:
    keys = [name for name, _ in shape.keys]
    sets = ", ".join(f"{name} = excluded.{name}" for name, _ in shape.columns if name not in keys)
    return f"{_insert_sql(shape)} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"


@lru_cache(maxsize=256)
def _together_sql(writes: tuple[LiteralString, ...]) -> str:
    """Several writes as one statement."""
    if len(writes) == 1:
        return _positional(writes[0])
    return _positional(f"WITH {', '.join(f'w{i} AS ({sql})' for i, sql in enumerate(writes))} SELECT 1")


@cache
def _update_sql(shape: Shape) -> LiteralString:
    sets, given = ", ".join(f"{name} = given.{name}" for name, _ in shape.columns), _given(shape.columns + shape.keys)
    return f"UPDATE {shape.table} SET {sets} FROM ({given}) AS given WHERE {_same(shape)}"


@cache
def _delete_sql(shape: Shape) -> LiteralString:
    return f"DELETE FROM {shape.table} USING ({_given(shape.keys)}) AS given WHERE {_same(shape)}"


@lru_cache(maxsize=1024)
def _named(sql: str) -> tuple[str, tuple[str, ...]]:
    """`:name` parameters as PostgreSQL writes them, `$1`; and the names in that order."""
    names = tuple(dict.fromkeys(_NAMED.findall(sql)))
    return _NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", sql), names


@lru_cache(maxsize=1024)
def _positional(sql: str) -> str:
    """`?` parameters as PostgreSQL writes them."""
    parts = sql.split("?")
    return parts[0] + "".join([f"${place}{part}" for place, part in enumerate(parts[1:], 1)])


class PostgresDialect(Dialect):
    """One connection in one transaction."""

    for_update = " FOR UPDATE"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._together: list[tuple[LiteralString, list[Any]]] | None = None

    def query(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        with _translated():
            return self._rows(sql, values)

    def queries(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
        with _translated():
            return self._rows_of_all(statements)

    def _rows(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        cursor = self._execute(sql, values)
        return cursor.fetchall() if cursor.description else []

    def _rows_of_all(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
        with self._connection.pipeline():
            cursors = [self._execute(sql, values) for sql, values in statements]
            return [cursor.fetchall() for cursor in cursors]

    def _execute(self, sql: str, values: Mapping[str, Any]) -> psycopg.Cursor[Any]:
        numbered, names = _named(sql)
        return self._connection.execute(numbered.encode(), [values[name] for name in names])

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with _translated():
            if len(rows) == 1:
                self._connection.execute(_positional(sql).encode(), rows[0])
            else:
                with self._connection.cursor() as cursor:
                    cursor.executemany(_positional(sql).encode(), rows)

    def insert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self._write(_insert_sql(shape), self._arrays(shape.columns, rows))

    def upsert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self._write(_upsert_sql(shape), self._arrays(shape.columns, rows))

    def update(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self._write(_update_sql(shape), self._arrays(shape.columns + shape.keys, rows))

    def delete(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self._write(_delete_sql(shape), self._arrays(shape.keys, rows))

    def _arrays(self, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> list[Any]:
        return [self._array(values, kind) for (_, kind), values in zip(columns, zip(*rows, strict=True), strict=True)]

    def _array(self, values: Sequence[Any], kind: str) -> Any:
        return array_text(values, kind)

    def _write(self, sql: LiteralString, values: list[Any]) -> None:
        if self._together is not None:
            self._together.append((sql, values))
        else:
            self._do(_positional(sql), values)

    def _do(self, sql: str, values: Sequence[Any]) -> None:
        """A statement that gives no rows."""
        with _translated():
            self._connection.execute(sql.encode(), values)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See Dialect: one statement, each write a WITH query of it. All see the same snapshot, so they may not touch
        the same rows."""
        self._together = []
        yield
        writes, self._together = self._together, None
        if writes:
            sql = _together_sql(tuple(sql for sql, _ in writes))
            self._do(sql, list(chain.from_iterable(values for _, values in writes)))

    def estate_lock(self, *, alone: bool) -> Sequence[tuple[str, Mapping[str, Any]]]:
        shared = "" if alone else "_shared"
        return [(f"SELECT pg_advisory_xact_lock{shared}({ESTATE_LOCK})", {})]

    def name_locks(self, kind: str, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, Mapping[str, Any]]]:
        names = "SELECT unnest(CAST(:names_1 AS text[])) AS one, unnest(CAST(:names_2 AS text[])) AS two"
        hashes = (
            f"SELECT DISTINCT hashtextextended(one || chr(10) || two, {_SEEDS[kind]}) AS key FROM ({names}) AS name"
        )
        sql = f"SELECT count(pg_advisory_xact_lock(key)) FROM ({hashes} ORDER BY key) AS hashes"
        return [(sql, self.pair_values("names", pairs))]

    def any_of(self, column: str, name: str) -> str:
        return f"{column} = ANY(:{name})"

    def any_pair(self, columns: tuple[str, str], name: str) -> str:
        second = "bigint" if columns[1].endswith("_ms") else "text"
        pairs = f"SELECT unnest(CAST(:{name}_1 AS text[])), unnest(CAST(:{name}_2 AS {second}[]))"
        return f"({columns[0]}, {columns[1]}) IN ({pairs})"

    def list_value(self, items: Sequence[Any]) -> Any:
        return array_text(items, "text")

    def pair_values(self, name: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        kind = "bigint" if pairs and isinstance(pairs[0][1], int) else "text"
        firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return {f"{name}_1": array_text(firsts, "text"), f"{name}_2": array_text(seconds, kind)}


class HurriedDialect(PostgresDialect):
    """A pipeline in one transaction: statements are sent without waiting for those before them.

    A batch of decisions costs two to four round trips in all. What a statement that gives no rows has to complain of is
    heard with the next rows, or at the end.
    """

    sends_ahead = True

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline.connection)
        self._pipeline = pipeline
        self._quoted = partial(binary_array, encoding=pipeline.encoding)

    def _array(self, values: Sequence[Any], kind: str) -> Any:
        return array_text(values, kind, self._quoted)

    def _rows(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        return self._rows_of_all([(sql, values)])[0]

    def _rows_of_all(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
        for sql, values in statements:
            numbered, names = _named(sql)
            self._pipeline.send(numbered, [values[name] for name in names])
        answers = self._pipeline.answers()
        return answers[len(answers) - len(statements) :]  # before them come those of writes

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with _translated():
            for row in rows:
                self._pipeline.send(_positional(sql), row)

    def _do(self, sql: str, values: Sequence[Any]) -> None:
        with _translated():
            self._pipeline.send(sql, values)
            self._pipeline.flush()


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
    except pg.ReadOnlySqlTransaction as error:
        raise DatabaseError(
            "database-failed",
            "PostgreSQL takes no changes: it is read-only",
            "is it a standby, or is default_transaction_read_only set? point database.url at the primary",
        ) from error
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


@contextmanager
def _in_doubt(connection: psycopg.Connection[Any], *, doubt: bool) -> Iterator[None]:
    """A connection that is lost while COMMIT is under way leaves open whether it happened."""
    try:
        yield
    except psycopg.OperationalError as error:
        if not (doubt and connection.closed):
            raise
        raise DatabaseError(
            "outcome-unknown",
            "PostgreSQL was lost while it made the change: nobody knows whether it did",
            "look before you repeat it (a repeated `balance add` is harmless with the same --key)",
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
    def transaction(self, *, write: bool, hurry: bool = False) -> Iterator[SqlTransaction]:
        """See store.Store. READ COMMITTED with explicit row locks; a reader sees one snapshot (REPEATABLE READ)."""
        if hurry:
            with self._hurried() as dialect:
                tx = SqlTransaction(dialect, write=write)
                yield tx
                tx.finish()
            return
        connection = self._begin(BEGIN if write else "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            tx = SqlTransaction(PostgresDialect(connection), write=write)
            yield tx
            tx.finish()
            with _translated(), _in_doubt(connection, doubt=write):
                connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    @contextmanager
    def _hurried(self) -> Iterator[HurriedDialect]:
        """A writing transaction in one pipeline, BEGIN and COMMIT included.

        A connection that turns out to be lost before COMMIT was sent has changed nothing: that is worth another try.
        """
        pipeline, committing = self._pipeline(), False
        connection = pipeline.connection
        try:
            with _translated(), pipeline:
                pipeline.send(BEGIN)
                yield HurriedDialect(pipeline)
                committing = True
                pipeline.send("COMMIT")
        except BaseException as error:
            refused = pipeline.refused and not connection.closed
            if refused:
                self._throw_away(connection)
            else:
                self._roll_back(connection)
            if isinstance(error, DatabaseError) and connection.closed and not (committing or refused):
                raise RetryTransaction(error.message) from error
            raise

    def _pipeline(self) -> Pipeline:
        """That of this thread's connection for those in a hurry."""
        connection = self._idle_connection(hurry=True)
        kept: Pipeline | None = getattr(self._local, "pipeline", None)
        if kept is None or kept.connection is not connection:
            kept = self._local.pipeline = Pipeline(connection)
        return kept

    def _idle_connection(self, *, hurry: bool = False) -> psycopg.Connection[Any]:
        connection = self._connection(hurry=hurry)
        for known in (self._kept(hurry=True), self._kept(hurry=False)):
            assert known is None or known.info.transaction_status is not TransactionStatus.INTRANS, (
                "a transaction within a transaction: it may wait for the outer one for ever"
            )
        return connection

    def _begin(self, statement: LiteralString) -> psycopg.Connection[Any]:
        """This thread's connection with a transaction begun; a new one where the old was ended while it lay idle."""
        connection = self._idle_connection()
        with _translated():
            try:
                connection.execute(statement)
            except psycopg.OperationalError:
                self._throw_away(connection)
                connection = self._connection()
                connection.execute(statement)
        return connection

    def _roll_back(self, connection: psycopg.Connection[Any]) -> None:
        """Roll back; a connection that cannot is thrown away, and one on which the server refused a statement.

        Of those that were sent behind it in a pipeline the driver takes some for prepared, and none was: each would
        fail for ever. And one that was opened while the server was read-only would stay so.
        """
        status = connection.info.transaction_status
        if status is TransactionStatus.INERROR:
            self._throw_away(connection)
            return
        try:
            if status is not TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            self._throw_away(connection)

    def _throw_away(self, connection: psycopg.Connection[Any]) -> None:
        with suppress(psycopg.Error):
            connection.close()
        with self._guard:
            if connection in self._all:
                self._all.remove(connection)
        for hurry in (True, False):
            if self._kept(hurry=hurry) is connection:
                self._keep(None, hurry=hurry)

    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        """See SqlStore."""
        with self.transaction(write=True) as tx, _translated():
            connection = self._connection()
            connection.execute("SELECT pg_advisory_xact_lock($1)", (MIGRATION_LOCK,))
            if _version(tx) >= version:
                return False
            connection.execute(sql.encode())
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

    def _connection(self, *, hurry: bool = False) -> psycopg.Connection[Any]:
        """This thread's; the one for those in a hurry is another one."""
        connection = self._kept(hurry=hurry)
        if connection is None or connection.closed:
            connection = self._open(hurry=hurry)
            self._keep(connection, hurry=hurry)
        return connection

    def _kept(self, *, hurry: bool) -> psycopg.Connection[Any] | None:
        return getattr(self._local, "hurried" if hurry else "calm", None)

    def _keep(self, connection: psycopg.Connection[Any] | None, *, hurry: bool) -> None:
        setattr(self._local, "hurried" if hurry else "calm", connection)

    def _open(self, *, hurry: bool) -> psycopg.Connection[Any]:
        with _translated():
            options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c timezone=UTC -c client_min_messages=warning"
            given = conninfo_to_dict(self.url)
            connection = psycopg.connect(
                self.url,
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                # A pipeline prepares what it sends; the driver would at times have the server forget that with its own.
                prepare_threshold=None if hurry else PREPARE_AFTER,
                application_name="capconduit",
                cursor_factory=psycopg.RawCursor,  # our statements come numbered: nothing is left to parse
                **KEEPALIVE,
                options=f"{given.get('options') or ''} {options}{BY_KEY if hurry else ''}".strip(),
            )
            connection.execute(DURABLE)
        with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        with self._guard:
            self._all.append(connection)
        return connection
