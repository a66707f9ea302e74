"""The embedded engine: one SQLite file in WAL mode with `synchronous=FULL`, so that what is committed is on the disk.

Failure policy: fail closed. A file that is locked, full, read-only or damaged raises DatabaseError with what to do.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from itertools import chain
from json.encoder import encode_basestring_ascii as quoted
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from capconduit.errors import DatabaseError, Refused
from capconduit.store.dialect import (
    Dialect,
    RetryTransaction,
    Shape,
    delete_sql,
    insert_sql,
    update_sql,
    upsert_sql,
    value_refused,
)
from capconduit.store.remembered import Remembered
from capconduit.store.sqlstore import RETRIES, RETRY_PAUSE_S, SqlStore
from capconduit.store.sqltransaction import SqlTransaction

BUSY_TIMEOUT_MS: Final = 5_000
CLOSE_S: Final = 5  # for transactions under way, when the store is closed
ROWS_AT_ONCE: Final = 8
SHORT_ROW: Final = 12  # columns
CACHE_KIB: Final = 16_384
STATEMENT_CACHE: Final = 256
FILE_MODE: Final = 0o600


class _Connection(sqlite3.Connection):
    """A connection, and what of the database is known to the decisions that it serves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.remembered = Remembered()


class SqliteDialect(Dialect):
    """One connection. The writer's lock is on the whole file, so rows need none."""

    for_update = ""

    def __init__(self, connection: sqlite3.Connection, translated: _Translated) -> None:
        self._connection = connection
        self._translated = translated

    def queries(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
        with self._translated:
            return [self._connection.execute(sql, values).fetchall() for sql, values in statements]

    def insert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """See Dialect. Short rows share a statement: each step of one gives other threads a turn and takes it back."""
        one, several = _inserts(shape)
        shared = len(rows) - len(rows) % ROWS_AT_ONCE if len(shape.columns) <= SHORT_ROW else 0
        if shared:
            packs = [rows[at : at + ROWS_AT_ONCE] for at in range(0, shared, ROWS_AT_ONCE)]
            self.many(several, [tuple(chain.from_iterable(pack)) for pack in packs])
        if shared < len(rows):
            self.many(one, rows[shared:])

    def upsert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self.many(upsert_sql(shape), rows)

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def update(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self.many(update_sql(shape), rows)

    def delete(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        self.many(delete_sql(shape), rows)

    def estate_lock(self, *, alone: bool) -> Sequence[tuple[str, Mapping[str, Any]]]:  # noqa: ARG002
        """See Dialect. There is one writer at a time."""
        return ()

    def name_locks(self, *_: Any) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """See Dialect. There is one writer at a time."""
        return ()

    def query(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        with self._translated:
            return self._connection.execute(sql, dict(values)).fetchall()

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._translated:
            self._connection.executemany(sql, rows)

    def any_of(self, column: str, name: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(:{name}))"

    def any_pair(self, columns: tuple[str, str], name: str) -> str:
        # Columns, and not what functions give: those have no affinity, and a key's integer part would not be searched.
        return f"({columns[0]}, {columns[1]}) IN (SELECT key, value FROM json_each(:{name}))"

    def list_value(self, items: Sequence[Any]) -> Any:
        return json.dumps(items)

    def pair_values(self, name: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """See Dialect. Members of a JSON object, of which SQLite reads all, those of the same name too."""
        members = [f"{quoted(a)}:{quoted(b) if isinstance(b, str) else b}" for a, b in pairs]
        return {name: f"{{{','.join(members)}}}"}


@cache
def _inserts(shape: Shape) -> tuple[str, str]:
    """INSERT of one row, and of ROWS_AT_ONCE."""
    one = insert_sql(shape.table, [name for name, _ in shape.columns])
    return one, one + f", ({', '.join('?' * len(shape.columns))})" * (ROWS_AT_ONCE - 1)


class _Translated:
    """SQLite's errors as ours, around statements; a dozen times in a transaction, so no generator."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None and (ours := _ours(error, self._path)) is not None:
            raise ours from error


def _ours(error: BaseException, path: Path) -> Exception | None:
    """The error of ours that says what one of SQLite's does; None for any other."""
    if isinstance(error, sqlite3.IntegrityError):
        return _integrity(error)
    if isinstance(error, sqlite3.OperationalError):
        text = str(error)
        if "locked" in text or "busy" in text:
            return RetryTransaction(text)
        return DatabaseError("database-failed", f"{path}: {text}", _hint(text, path))
    if isinstance(error, sqlite3.DatabaseError):
        return DatabaseError("database-failed", f"{path}: {error}", "restore a backup of the file")
    if isinstance(error, OverflowError | UnicodeEncodeError):
        return value_refused(error)
    return None


def _integrity(error: sqlite3.IntegrityError) -> Refused | DatabaseError:
    text = str(error)
    if "NOT NULL" in text:
        return DatabaseError("database-failed", text, "report this: the program left out a value")
    if "FOREIGN KEY" in text:
        return Refused("in-use", "something else refers to it", "remove or change what refers to it first")
    return Refused(
        "exists", f"it exists already ({text.split(': ')[-1]})", "choose another name, or change what is there"
    )


def _version(tx: SqlTransaction) -> int:
    """The newest migration that `tx` sees."""
    if not tx.query("SELECT 1 FROM sqlite_master WHERE name = 'schema_migration'"):
        return 0
    return int(tx.query("SELECT max(version) FROM schema_migration")[0][0] or 0)


def _make_private(path: Path) -> None:
    """A new file is its owner's alone, and so are those that SQLite makes beside it: calls and money are nobody else's
    business. What is in the way is said by SQLite, which opens it next."""
    with suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def _hint(text: str, path: Path) -> str:
    if "no such table" in text:
        return "run `capconduit init` or `capconduit db upgrade`"
    if "readonly" in text:
        return f"make {path} and its directory writable for this user"
    if "full" in text:
        return f"free disk space where {path} lies"
    return f"check that {path} is there and that this user may read and write it"


class SqliteStore(SqlStore):
    """A database in one file. Each thread has its own connection, kept open until close()."""

    engine = "sqlite"

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"
        self._translated = _Translated(path)
        self._create = create
        self._local = threading.local()
        self._all: list[_Connection] = []
        self._guard = threading.Lock()
        self._idle = threading.Condition(self._guard)
        self._busy: set[int] = set()  # connections in a transaction: closing one would end the process

    @contextmanager
    def transaction(self, *, write: bool, hurry: bool = False) -> Iterator[SqlTransaction]:
        """See store.Store. A writer waits up to BUSY_TIMEOUT_MS for another one."""
        connection = self._connection()
        with self._guard:
            self._busy.add(id(connection))
        try:
            yield from self._within(connection, write=write, hurry=hurry)
        finally:
            with self._guard:
                self._busy.discard(id(connection))
                self._idle.notify_all()

    def _within(self, connection: _Connection, *, write: bool, hurry: bool) -> Iterator[SqlTransaction]:
        remembered = connection.remembered
        with self._translated:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        try:
            if hurry:
                with self._translated:
                    remembered.check(connection.execute("PRAGMA data_version").fetchone()[0])
            dialect = SqliteDialect(connection, self._translated)
            tx = SqlTransaction(dialect, write=write, remembered=remembered if hurry and write else None)
            yield tx
            tx.finish()
            with self._translated:
                connection.commit()
        except BaseException:
            remembered.forget()  # what failed was not kept; after an error nothing else is taken for granted either
            connection.rollback()
            raise
        if tx.decided is not None and hurry:
            remembered.keep(tx.decided)
        elif write:  # data_version tells of other connections only
            remembered.forget()

    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        """See SqlStore."""
        with self.transaction(write=True) as tx, self._translated:
            if _version(tx) >= version:
                return False
            connection = self._connection()
            for statement in sql.split(";\n"):
                if statement.strip():
                    connection.execute(statement)
            for statement, values in after:
                connection.execute(statement, values)
        return True

    def schema_version(self) -> int:
        """See store.Store."""
        if not self.path.exists():
            return 0
        with self.transaction(write=False) as tx:
            return _version(tx)

    def close(self) -> None:
        """See store.Store."""
        with self._guard:
            for connection in self._all:
                if id(connection) in self._busy:  # an idle one would take it as said of its last words, the checkpoint
                    connection.interrupt()
            self._idle.wait_for(lambda: not self._busy, CLOSE_S)
            for connection in self._all:
                if id(connection) not in self._busy:
                    connection.close()
            self._all.clear()
            self._local = threading.local()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            self._local.connection = connection
        return connection

    def _open(self) -> _Connection:
        if not self._create and not self.path.exists():
            raise DatabaseError("database-missing", f"there is no database {self.path}", "run `capconduit init` first")
        if self._create:
            _make_private(self.path)
        with self._translated:
            connection = sqlite3.connect(
                f"file:{quote(str(self.path))}?mode={'rwc' if self._create else 'rw'}",
                uri=True,
                timeout=BUSY_TIMEOUT_MS / 1_000,
                isolation_level=None,
                check_same_thread=False,  # close() ends connections of threads that are gone
                cached_statements=STATEMENT_CACHE,
                factory=_Connection,
            )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        with self._guard:
            self._all.append(connection)
        return connection

    def _prepare(self, connection: _Connection) -> None:
        """The settings of a connection. A new file becomes WAL once; SQLite does not wait for others in that moment."""
        for attempt in range(RETRIES + 1):
            try:
                with self._translated:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = FULL")
                    connection.execute("PRAGMA foreign_keys = ON")
                    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                return
            except RetryTransaction:
                if attempt == RETRIES:
                    raise
                time.sleep(RETRY_PAUSE_S * (attempt + 1))
