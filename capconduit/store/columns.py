"""The kinds of columns of the tables. Integers are BIGINT everywhere: SQLModel's default for `int` holds 32 bits on
PostgreSQL, and 10^15 micros would fail there."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Text, text
from sqlmodel import Field

# Small rows found by their key alone are kept in one tree instead of two (SQLite).
WITHOUT_ROWID: dict[str, Any] = {"sqlite_with_rowid": False}
# Rows that change with every call leave room on their page, so that a change stays on it and touches no index
# (PostgreSQL's heap-only tuples).
HOT: dict[str, Any] = {"sqlite_with_rowid": False, "postgresql_with": {"fillfactor": 50}}
# As much for rows that are gone when their call is; and less where only half of the rows change, once.
ROOM_FOR_ALL: dict[str, Any] = {"postgresql_with": {"fillfactor": 50}}
ROOM_FOR_HALF: dict[str, Any] = {"sqlite_with_rowid": False, "postgresql_with": {"fillfactor": 67}}
# Kept in one table for each month (PostgreSQL); the month is in the id, a ULID. See partitions.py.
BY_MONTH = "RANGE ({})"


def key() -> Any:
    """A text that is (part of) the key."""
    return Field(primary_key=True, sa_type=Text)


def ref(column: str) -> Any:
    """A key of another table."""
    return Field(foreign_key=column, sa_type=Text)


def plain() -> Any:
    """A text."""
    return Field(sa_type=Text)


def big() -> Any:
    """An integer or an instant."""
    return Field(sa_type=BigInteger)


def added_text() -> Any:
    """A text that a later migration added; empty in older rows."""
    return Field(sa_type=Text, sa_column_kwargs={"server_default": text("''")})


def added_big() -> Any:
    """An integer that a later migration added; 0 in older rows."""
    return Field(sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")})


def added_flag() -> Any:
    """A yes or no that a later migration added; no in older rows."""
    return Field(sa_type=Boolean, sa_column_kwargs={"server_default": text("false")})


def big_key() -> Any:
    """An integer that is (part of) the key."""
    return Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
