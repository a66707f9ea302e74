"""What one engine's SQL says differently: a connection of an engine behind one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from capconduit.errors import DatabaseError, Refused

# Locks that are no rows; see Dialect.name_locks.
CHANNEL_LOCK: Final = "channel"
CALLER_LOCK: Final = "caller"
OUTBOX_LOCK: Final = "outbox"


Column = tuple[str, str]  # name, SQL type


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What is written of a table's rows, and the keys that they are found by: columns of a row that is inserted, and
    beyond them in an update. Made once and told apart by identity, as its statements are made once."""

    table: str
    columns: tuple[Column, ...]
    keys: tuple[Column, ...] = ()


class RetryTransaction(DatabaseError):
    """The engine aborted the transaction because of another one; the same work may succeed now."""

    def __init__(self, detail: str) -> None:
        super().__init__("database-busy", f"the database is busy: {detail}", "try again")


def value_refused(error: Exception) -> Refused:
    """A value that no column can keep: a number beyond 64 bits, a NUL or half a character in a text."""
    return Refused("value-invalid", f"a value cannot be kept: {error}", "give another value")


class Dialect(ABC):
    """A connection of one engine, and what its SQL says differently.

    Raises DatabaseError, Refused (a unique or foreign key), RetryTransaction.
    """

    for_update: str
    sends_ahead = False  # statements are under way while the program goes on

    @abstractmethod
    def queries(self, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
        """Rows of several statements in their order, in one round trip where the engine can."""

    @abstractmethod
    def query(self, sql: str, values: Mapping[str, Any]) -> list[Any]:
        """Rows of a statement."""

    @abstractmethod
    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement with `?` parameters for each row, in few round trips."""

    @abstractmethod
    def any_of(self, column: str, name: str) -> str:
        """Condition: `column` is one of the list `:name`."""

    @abstractmethod
    def any_pair(self, columns: tuple[str, str], name: str) -> str:
        """Condition: the two columns (a text, and a text or an instant) are one of the pairs `:name`."""

    @abstractmethod
    def insert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """Add many rows in the quickest way the engine has."""

    @abstractmethod
    def upsert(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """Add or replace many rows."""

    @abstractmethod
    def together(self) -> AbstractContextManager[None]:
        """The inserts, updates, upserts and deletes within may become one statement. They touch different rows."""

    @abstractmethod
    def update(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """Change many rows in the quickest way the engine has: `rows` are the new values, then the keys."""

    @abstractmethod
    def delete(self, shape: Shape, rows: Sequence[Sequence[Any]]) -> None:
        """Remove the rows of these keys in the quickest way the engine has."""

    @abstractmethod
    def estate_lock(self, *, alone: bool) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Statements that wait for the estate: shared by decisions, alone for a change of configuration."""

    @abstractmethod
    def name_locks(self, kind: str, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Statements that wait for other transactions that decide about one of these pairs, and let none begin to.

        Rows cannot do it: of a channel that nobody has told of yet there is none.
        """

    @abstractmethod
    def list_value(self, items: Sequence[Any]) -> Any:
        """How a list is handed over for `any_of`."""

    @abstractmethod
    def pair_values(self, name: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """How pairs are handed over for `any_pair`."""


@cache
def update_sql(shape: Shape) -> str:
    """UPDATE of one row with `?` parameters: the values, then the keys."""
    sets = ", ".join(f"{name} = ?" for name, _ in shape.columns)
    return f"UPDATE {shape.table} SET {sets} WHERE {_where(shape.keys)} /* all tenants */"  # noqa: S608 - our own names


@cache
def delete_sql(shape: Shape) -> str:
    """DELETE of one row with `?` parameters."""
    return f"DELETE FROM {shape.table} WHERE {_where(shape.keys)} /* all tenants */"  # noqa: S608 - our own names


@cache
def upsert_sql(shape: Shape) -> str:
    """INSERT of one row with `?` parameters, or the new values of the one that has its keys."""
    names, keys = [name for name, _ in shape.columns], [name for name, _ in shape.keys]
    sets = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    return f"{insert_sql(shape.table, names)} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {sets}"


def _where(keys: Sequence[Column]) -> str:
    return " AND ".join(f"{name} = ?" for name, _ in keys)


def insert_sql(table: str, columns: Sequence[str]) -> str:
    """INSERT of one row with `?` parameters."""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - our own names
