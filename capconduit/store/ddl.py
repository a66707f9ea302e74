"""The DDL of the SQLModel tables for one engine: what a first migration is frozen from, and what tests compare with."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlmodel import SQLModel

from capconduit.store import tables

DIALECTS = {"sqlite": sqlite.dialect, "postgres": postgresql.dialect}


def ddl(engine: str) -> str:
    """CREATE statements of all tables and indexes for `engine` ("sqlite" or "postgres"), each ended by `;`."""
    assert tables.TenantTable.__tablename__  # importing the module registers the tables
    dialect = DIALECTS[engine]()
    statements: list[str] = []
    for table in SQLModel.metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        statements.extend(
            str(CreateIndex(index).compile(dialect=dialect)).strip()
            for index in sorted(table.indexes, key=lambda i: str(i.name))
        )
    return "\n\n".join(line.replace("\t", "  ") + ";" for line in statements) + "\n"
