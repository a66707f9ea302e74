"""The store that a database URL names."""

from __future__ import annotations

from pathlib import Path

from capconduit.errors import ConfigError, DatabaseError
from capconduit.store.sqlstore import MIGRATIONS, SqlStore


def open_store(url: str, *, create: bool = False) -> SqlStore:
    """A store for `sqlite:///absolute/file` or `postgresql://…`; nothing is connected yet.

    A SQLite path is absolute, however many slashes there are. `create`: a missing file is made.
    """
    if url.startswith("sqlite:///"):
        from capconduit.store.sqlite import SqliteStore  # either engine's driver is loaded only when it is used

        path = Path("/" + url.removeprefix("sqlite://").lstrip("/"))
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        return SqliteStore(path, create=create)
    if url.startswith(("postgresql://", "postgres://")):
        from capconduit.store.postgres import PostgresStore

        return PostgresStore(url)
    raise ConfigError(
        "database-url-invalid",
        f"database.url {url!r} is not understood",
        "use sqlite:///absolute/file or postgresql://…",
    )


def check_schema(store: SqlStore) -> None:
    """Raises DatabaseError where the database is not at the newest migration."""
    version, newest = store.schema_version(), MIGRATIONS[-1][0]
    if version == 0:
        raise DatabaseError("database-empty", f"{store.url} has no CapConduit tables", "run `capconduit init`")
    if version != newest:
        raise DatabaseError(
            "schema-version",
            f"the database is at migration {version}, this program needs {newest}",
            "run `capconduit db upgrade`" if version < newest else "install the newer CapConduit",
        )
