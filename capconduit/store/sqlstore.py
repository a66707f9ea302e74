"""What both engines' stores share: transactions that are tried again, and migrations."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from importlib.resources import files
from typing import Any, Final, TypeVar

from capconduit.errors import DatabaseError
from capconduit.store import partitions
from capconduit.store.dialect import RetryTransaction
from capconduit.store.rows import mapping
from capconduit.store.sqltransaction import SqlTransaction
from capconduit.store.store import Transaction

Answer = TypeVar("Answer")

RETRIES: Final = 5  # of a transaction that the engine aborted for concurrency
RETRY_PAUSE_S: Final = 0.01
MIGRATIONS: Final = (
    (1, "initial"),
    (2, "all_caps_and_money"),
    (3, "trunks_three_ways"),
    (4, "rollups"),
    (5, "people"),
    (6, "outward"),
    (7, "agents"),
    (8, "room_for_changes"),
)


class SqlStore(ABC):
    """What both engines' stores share: transactions with retries, and migrations."""

    url: str
    engine: str

    @abstractmethod
    def transaction(self, *, write: bool, hurry: bool = False) -> AbstractContextManager[SqlTransaction]:
        """See store.Store."""

    @abstractmethod
    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        """Run DDL statements and then `after`, in one transaction that no other process shares.

        False: the schema is at `version` already, another process was first.
        """

    @abstractmethod
    def schema_version(self) -> int:
        """See store.Store."""

    @abstractmethod
    def close(self) -> None:
        """See store.Store."""

    def run(self, work: Callable[[Transaction], Answer], *, hurry: bool = False) -> Answer:
        """See store.Store."""
        for attempt in range(RETRIES + 1):
            try:
                with self.transaction(write=True, hurry=hurry) as tx:
                    return work(tx)
            except RetryTransaction as error:
                if attempt == RETRIES:
                    raise DatabaseError(
                        "database-contention", f"gave up after {RETRIES + 1} tries: {error}", "try again"
                    ) from error
                time.sleep(RETRY_PAUSE_S * (attempt + 1))
        raise AssertionError("unreachable: the loop returns or raises")

    def upgrade(self, now_ms: int) -> list[str]:
        """See store.Store."""
        done = []
        current = self.schema_version()
        newest = MIGRATIONS[-1][0]
        if current > newest:
            raise DatabaseError(
                "schema-newer",
                f"the database is at migration {current}, this program knows {newest}",
                "install the newer CapConduit",
            )
        for version, name in MIGRATIONS:
            if version <= current:
                continue
            sql = files("capconduit.store.migrations").joinpath(f"{version:04d}_{name}.{self.engine}.sql").read_text()
            after: list[tuple[str, tuple[Any, ...]]] = [
                ("INSERT INTO schema_migration (version, name, applied_ms) VALUES (?, ?, ?)", (version, name, now_ms))
            ]
            if version == 1:
                after.append(("INSERT INTO estate_version (id, version) VALUES (?, ?)", (1, 1)))
            if self.script(version, sql, after):
                done.append(f"{version:04d}_{name}")
        if self.monthly:
            # Where somebody is at work after all, the daemon makes them later; nothing fails for want of them.
            with suppress(DatabaseError):
                partitions.ensure(self, now_ms, whole=True)
        return done

    @property
    def monthly(self) -> bool:
        """See store.Store."""
        return self.engine == "postgres"

    def ensure_partitions(self, now_ms: int) -> list[str]:
        """See store.Store."""
        return partitions.ensure(self, now_ms) if self.monthly else []

    def drop_months(self, kind: type, before_ms: int) -> list[str]:
        """See store.Store."""
        return partitions.drop(self, mapping(kind).table, before_ms) if self.monthly else []
