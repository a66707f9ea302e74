"""The simulation can fail: each variant of the product that is broken on purpose is found within a few seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.store.sqlite import SqliteStore
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.twin import TwinStore
from tests.simulation.world import Broken, World

FOUND_WITHIN = 40  # seeds


def live(seed: int, mutant: Mutant, directory: Path) -> None:
    """One world with the broken variant."""
    if mutant.store == "memory":
        World(seed, also=mutant.faults).run()
        return
    real = SqliteStore(directory / f"{seed}.sqlite", create=True)
    store = TwinStore(real, 1)
    try:
        World(seed, store, calls=60, also=mutant.faults).run()
        store.same()
    finally:
        store.close()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mutant = MUTANTS[name]
    mutant.break_it(monkeypatch)
    for seed in range(1, FOUND_WITHIN + 1):
        try:
            live(seed, mutant, tmp_path)
        except Broken as error:
            assert str(error).startswith(f"seed {seed}: ")
            assert isinstance(error.__cause__, AssertionError), error  # a promise was broken, the code did not fall over
            return
    pytest.fail(f"not found within {FOUND_WITHIN} seeds: {mutant.what}")
