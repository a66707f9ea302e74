"""Seeds on real databases: every read is compared with the store in memory; histories and books are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capconduit.store.open import open_store
from capconduit.store.sqlite import SqliteStore
from tests.simulation.memory import MemoryStore
from tests.simulation.twin import Differs, TwinStore
from tests.simulation.world import World

CALLS = 60
SQLITE_SEEDS = range(1, 13)
POSTGRES_SEEDS = range(1, 6)
Opener = Callable[[str], TwinStore]


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[TwinStore]:
    real = SqliteStore(tmp_path / "world.sqlite", create=True)
    real._connection().execute("PRAGMA synchronous = OFF")  # crashes here are of processes, not of the machine
    store = TwinStore(real, 1)
    yield store
    store.close()


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[TwinStore]:
    store = TwinStore(open_store(postgres_url), 1)
    yield store
    store.close()


def lives_alike(seed: int, store: TwinStore) -> None:
    """A world on a database and one in memory have the same story and the same rows."""
    there = World(seed, store, calls=CALLS, telling=True).run()
    store.same()
    here = World(seed, MemoryStore(), calls=CALLS, telling=True).run()
    assert there.story == here.story
    assert there.invariants.snapshot() == here.invariants.snapshot()
    assert there.tables.version == here.tables.version


@pytest.mark.parametrize("seed", SQLITE_SEEDS)
def test_promises_hold_on_sqlite_and_the_books_are_those_of_memory(sqlite: TwinStore, seed: int) -> None:
    lives_alike(seed, sqlite)


@pytest.mark.postgres
@pytest.mark.parametrize("seed", POSTGRES_SEEDS)
def test_promises_hold_on_postgres_and_the_books_are_those_of_memory(postgres: TwinStore, seed: int) -> None:
    lives_alike(seed, postgres)


def test_a_row_that_differs_is_seen(sqlite: TwinStore) -> None:
    World(1, sqlite, calls=20).run()
    with sqlite.real.transaction(write=True) as tx:
        tx.query("UPDATE account SET balance_micros = balance_micros + 1 RETURNING 1")
    with pytest.raises(Differs, match="Account"):
        sqlite.same()
