"""The floor as the database knows it, for as long as the daemon is away.

Failure policy: fail closed. A database that is away or of another version raises DatabaseError: nothing is invented.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import orjson

from capconduit.clock import SystemClock
from capconduit.config import Config
from capconduit.services.floor import Floor
from capconduit.services.floor_reading import read
from capconduit.services.office import Desk, Office
from capconduit.services.stores import check_schema, open_store
from capconduit_cli.office import actor


def last_known(config: Config, tenant: str) -> Callable[[], dict[str, Any]]:
    """A reader of the database's picture; each call opens it and closes it again, on whatever thread it runs."""

    def look() -> dict[str, Any]:
        store = open_store(config.database.url)
        try:
            check_schema(store)
            return picture(Office(store, SystemClock(), tenant=tenant, actor=actor(os.environ)))
        finally:
            store.close()

    return look


def picture(office: Office) -> dict[str, Any]:
    """PICTURE (docs/control.md) of one snapshot of the database; it has no node, no boot and no health."""

    def work(desk: Desk) -> dict[str, Any]:
        floor = Floor(desk.tenant, "")  # a node of no name: all calls are those of others, read from the database
        wanted = floor.begin(desk.now_ms, whole=True, estate=None, recount=True)
        floor.put(read(desk.tx, wanted), desk.now_ms)
        floor.flush(desk.now_ms, sys.maxsize)
        made: dict[str, Any] = orjson.loads(floor.picture(desk.now_ms, "", b"null"))
        return made

    return office.read(work)
