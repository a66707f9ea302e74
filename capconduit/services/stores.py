"""Opening the database that the configuration names; the one door from the services to the engines."""

from __future__ import annotations

from capconduit.store.open import check_schema, open_store

__all__ = ["check_schema", "open_store"]
