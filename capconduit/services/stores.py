"""Opening the database that the configuration names; the one door from the services to the engines.

Failure policy: fail closed. A database that cannot be had, or is of another version, raises DatabaseError.
"""

from __future__ import annotations

from capconduit.store.open import check_schema, open_store
from capconduit.store.sqlstore import MIGRATIONS
from capconduit.store.store import Store

__all__ = ["check_schema", "open_store", "pending_migrations"]


def pending_migrations(store: Store) -> list[str]:
    """Names of the migrations that `store.upgrade` would apply; all of them for a database that is not there yet."""
    version = store.schema_version()
    return [f"{number:04d}_{name}" for number, name in MIGRATIONS if number > version]
