"""The page about the simulation says what there is."""

from __future__ import annotations

from tests.simulation.faults import FAULTS
from tests.simulation.mutants import MUTANTS
from tests.simulation.page import PAGE, renewed


def test_the_tables_of_faults_and_variants_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == renewed(page), "run `python -m tests.simulation --write`"
    assert all(f"| `{name}` |" in page for name in [*FAULTS, *MUTANTS])


def test_there_are_as_many_as_were_promised() -> None:
    assert len(FAULTS) >= 20
    assert len(MUTANTS) >= 25
    assert all(fault.does and fault.holds for fault in FAULTS.values())
    assert all(mutant.what for mutant in MUTANTS.values())
