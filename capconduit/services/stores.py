"""Opening the database that the configuration names; the one door from the services to the engines.

Failure policy: fail closed. A database that cannot be had, or is of another version, raises DatabaseError.
"""

from __future__ import annotations

from typing import Final

from capconduit.store.open import check_schema
from capconduit.store.open import open_store as open_named
from capconduit.store.sqlstore import MIGRATIONS, SqlStore
from capconduit.store.store import Store

__all__ = ["check_schema", "open_store", "pending_migrations"]

_SQLITE: Final = "sqlite://"


def open_store(url: str, *, create: bool = False) -> SqlStore:
    """A store for `sqlite:///absolute/file` or `postgresql://…`; nothing is connected yet. `create`: a missing file is
    made.

    A SQLite URL is read as capconduit.config reads it: an absolute file, whatever the working directory is.
    """
    if url.startswith(_SQLITE):
        url = f"{_SQLITE}//{url.removeprefix(_SQLITE).lstrip('/')}"
    return open_named(url, create=create)


def pending_migrations(store: Store) -> list[str]:
    """Names of the migrations that `store.upgrade` would apply; all of them for a database that is not there yet."""
    version = store.schema_version()
    return [f"{number:04d}_{name}" for number, name in MIGRATIONS if number > version]
