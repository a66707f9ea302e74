"""Seeds of the simulation on the store in memory, and what makes a failing one worth having: it replays and shrinks.

`SIM_SEEDS=n` runs n seeds, `SIM_SECONDS=n` as many as that time allows, `SIM_FIRST=n` begins at another seed than 1,
`SIM_JOBS=n` uses n processes. A failure prints its seed and its story; `python -m tests.simulation SEED` tells it
again.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.faults import FAULTS
from tests.simulation.mutants import MUTANTS
from tests.simulation.runner import Sweep, shrink, sweep, sweep_all
from tests.simulation.world import World

FIRST = int(os.environ.get("SIM_FIRST", "1"))
SECONDS = float(os.environ.get("SIM_SECONDS", "0"))
SEEDS = int(os.environ.get("SIM_SEEDS", str(10**9) if SECONDS else "300"))
JOBS = int(os.environ.get("SIM_JOBS", str(min(os.cpu_count() or 1, 2))))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def swept() -> Sweep:
    """All seeds, once."""
    total = Sweep()
    for part in sweep_all(FIRST, SEEDS, SECONDS, JOBS):
        total.add(part)
    sys.stdout.write(f"\nsimulation: {total}\n")
    return total


@pytest.mark.timeout(0)
def test_every_promise_holds_after_every_step(swept: Sweep) -> None:
    assert not swept.broken, "\n\n".join(swept.broken)


@pytest.mark.timeout(0)
def test_every_kind_of_fault_was_met(swept: Sweep) -> None:
    """A fault that never comes proves nothing."""
    if SEEDS >= 100 and not SECONDS:
        assert sorted(set(FAULTS) - set(swept.met)) == []


@pytest.mark.timeout(0)
def test_calls_of_every_kind_were_lived_through(swept: Sweep) -> None:
    """A world in which nothing is admitted proves nothing, nor one in which everything is."""
    if not swept.broken:
        assert 0.2 < swept.admitted / swept.calls < 0.8


# --- a seed is a proof that can be looked at --------------------------------------------------------------------------


def digest(seed: int) -> str:
    """A world's story and all its rows, in short."""
    world = World(seed, calls=60, telling=True).run()
    text = repr(world.story) + repr(
        sorted((k, sorted(map(repr, r.values()))) for k, r in world.invariants.snapshot().items())
    )
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_same_seed_tells_the_same_story() -> None:
    assert digest(7) == digest(7)
    assert digest(7) != digest(8)


def test_a_seed_replays_in_another_process() -> None:
    """Nothing depends on how sets are ordered, which differs from process to process."""
    code = "from tests.simulation.test_worlds import digest; import sys; sys.stdout.write(digest(7))"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert told == {digest(7)}


def test_a_failure_names_its_seed_and_tells_the_life_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS["the_limit_before_the_money"].break_it(monkeypatch)
    story = sweep(1, 1, 5, float("inf")).broken[0]
    assert story.startswith("seed 1: AssertionError: u")
    assert "funded are" in story
    for word in ("arrives at", "RouteRequest(", "dials 1:", "is answered by", "limit "):
        assert word in story, story


def test_a_failing_seed_is_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has nothing to do with it is left out: faults, and calls that come later."""
    MUTANTS["the_limit_before_the_money"].break_it(monkeypatch)
    assert World(2).enabled
    options, story = shrink(2)
    assert World(2, **options).enabled == frozenset()
    assert options["calls"] < 20
    assert story.startswith("seed 2: AssertionError: u")
