"""The simulation can fail: each variant of the product that is broken on purpose is found within a few seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.store.sqlite import SqliteStore
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.twin import TwinStore
from tests.simulation.world import Broken, World

FOUND_WITHIN = 20  # seeds


def live(seed: int, mutant: Mutant, directory: Path) -> None:
    """One world with the broken variant."""
    if mutant.store == "memory":
        World(seed, also=mutant.faults, wide=mutant.wide).run()
        return
    real = SqliteStore(directory / f"{seed}.sqlite", create=True)
    store = TwinStore(real, 1)
    try:
        World(seed, store, calls=60, also=mutant.faults).run()
        store.same()
    finally:
        store.close()


def first_broken(mutant: Mutant, directory: Path) -> Broken | None:
    """What the first seed says that fails."""
    for seed in range(1, FOUND_WITHIN + 1):
        try:
            live(seed, mutant, directory)
        except Broken as error:
            return error
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mutant = MUTANTS[name]
    mutant.break_it(monkeypatch)
    found = first_broken(mutant, tmp_path)
    assert found is not None, f"not found within {FOUND_WITHIN} seeds: {mutant.what}"
    assert str(found).startswith("seed ")
    assert isinstance(found.__cause__, AssertionError), found  # a promise was broken, the code did not fall over
