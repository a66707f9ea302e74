"""The database of a world as its daemons and operators meet it, with all that can go wrong around a transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from capconduit.errors import DatabaseError
from capconduit.store.dialect import RetryTransaction
from capconduit.store.sqlstore import RETRIES, SqlStore

if TYPE_CHECKING:
    from tests.simulation.daemons import MachineClock, Process
    from tests.simulation.memory import MemoryStore
    from tests.simulation.world import World

STATEMENTS = 16  # a transaction that strikes does so at one of its first so many statements, or at its commit


class Database:
    """The one database of a world: the store behind it, and until when it cannot be used."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.away_until_s = 0.0
        self.read_only_until_s = 0.0


class FaultyStore(SqlStore):
    """What one process sees of the database. Retries are SqlStore's own."""

    engine = "faulty"
    url = "faulty:"

    def __init__(self, world: World, clock: MachineClock, process: Process | None) -> None:
        self._world = world
        self._clock = clock
        self._process = process  # None: an operator's command
        self._contended = 0

    @contextmanager
    def transaction(self, *, write: bool, hurry: bool = False) -> Iterator[Any]:
        """See store.Store."""
        world, inner = self._world, self._world.database.store
        self._clock.begin_transaction()
        if world.loop.time() < world.database.away_until_s:
            raise DatabaseError("database-failed", "the server is away", "wait")
        fate, left = self._fate(write), world.random("statement").randrange(1, STATEMENTS)

        def on_statement() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._strike(fate)

        with inner.transaction(write=write, hurry=hurry) as tx:
            if fate:
                inner.on_statement = on_statement
            try:
                yield tx
            finally:
                inner.on_statement = lambda: None
            if left > 0:
                self._strike(fate)
            if write and world.loop.time() < world.database.read_only_until_s:
                raise DatabaseError("database-failed", "read-only", "make it writable")
        self._strike_after(fate)

    def _fate(self, write: bool) -> str:
        """What will happen to this transaction; mostly nothing."""
        draw = self._world.draw
        if self._contended and write:
            self._contended -= 1
            return "" if self._world.calm else "transaction_retried"
        if not write:
            return "transaction_lost" if draw("transaction_lost") else ""
        if draw("contention"):
            self._contended = RETRIES
            return "transaction_retried"
        for name in ("transaction_retried", "transaction_lost", "commit_in_doubt"):
            if draw(name):
                return name
        for name in ("killed_in_transaction", "killed_after_commit"):
            if draw(name):
                return name
        return ""

    def _strike(self, fate: str) -> None:
        """Before the commit: nothing of the transaction may stay."""
        if fate == "transaction_retried":
            raise RetryTransaction("could not serialize access")
        if fate == "transaction_lost":
            raise DatabaseError("database-failed", "the connection broke", "wait")
        if fate == "killed_in_transaction":
            self._world.die(self._process, "in a transaction")

    def _strike_after(self, fate: str) -> None:
        """After the commit: all of it stays, and whoever asked does not know."""
        if fate == "commit_in_doubt":
            raise DatabaseError("database-failed", "the connection broke at the commit", "look whether it was done")
        if fate == "killed_after_commit":
            self._world.die(self._process, "after a commit")

    def script(self, version: int, sql: str, after: Sequence[tuple[str, tuple[Any, ...]]]) -> bool:
        return True

    def schema_version(self) -> int:
        return 0

    def close(self) -> None:
        pass
