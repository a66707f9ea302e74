"""How many rows and bytes each table of a database has, its indexes included."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

import psycopg

# Tables with their months, where they are partitioned by month.
TABLES: Final = """
SELECT coalesce(pg_partition_root(c.oid), c.oid)::regclass::text, sum(pg_total_relation_size(c.oid))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') GROUP BY 1 ORDER BY 1
"""


def table_sizes(url: str) -> dict[str, dict[str, int]]:
    """table → rows and bytes, of a SQLite file or a PostgreSQL database."""
    return _of_file(Path(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else _of_server(url)


def _of_file(path: Path) -> dict[str, dict[str, int]]:
    file = sqlite3.connect(path)
    try:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        owners: dict[str, str] = dict(file.execute("SELECT name, tbl_name FROM sqlite_master").fetchall())
        tables = [name for name, owner in owners.items() if name == owner and not name.startswith("sqlite_")]
        pages = file.execute("SELECT name, SUM(pgsize) FROM dbstat WHERE aggregate = TRUE GROUP BY name").fetchall()
        sizes = {name: {"rows": _count(file, name), "bytes": 0} for name in tables}
        for name, size in pages:
            if owners.get(name) in sizes:
                sizes[owners[name]]["bytes"] += size
    finally:
        file.close()
    return sizes


def _count(file: sqlite3.Connection, table: str) -> int:
    return int(file.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608 - its own name


def _of_server(url: str) -> dict[str, dict[str, int]]:
    """After VACUUM ANALYZE, which the server does by itself a little later."""
    with psycopg.connect(url, autocommit=True) as server:
        server.execute("VACUUM ANALYZE")
        server.execute("CHECKPOINT")
        sizes = {}
        for name, size in server.execute(TABLES).fetchall():
            rows = server.execute(f"SELECT COUNT(*) FROM {name}".encode()).fetchone()  # noqa: S608 - its own name
            sizes[name] = {"rows": rows[0] if rows else 0, "bytes": int(size)}
    return sizes
