"""The tables of docs/simulation.md, written from what there is; `python -m tests.simulation --write` renews them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.simulation import world as _world  # noqa: F401 - registers the operators' faults
from tests.simulation.faults import FAULTS
from tests.simulation.mutants import MUTANTS

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- |", "|---|").replace("--- |", "---|")


def faults() -> str:
    """Every kind of fault: what it does, and what must hold all the same."""
    rows = [(f"`{f.name}`", f.does, f.holds) for f in FAULTS.values()]
    return _table(("fault", "what it does", "what must hold"), rows)


def mutants() -> str:
    """Every variant that is broken on purpose."""
    rows = [(f"`{m.name}`", m.area, m.what.removesuffix(".")) for m in MUTANTS.values()]
    return _table(("variant", "area", "what is broken"), rows)


TABLES = {"faults": faults, "variants": mutants}


def renewed(page: str) -> str:
    """The page with its tables as they should be."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        assert found, f"{PAGE} has no place for the table of {name}"
        page = f"{before}{begin}\n{table()}\n{end}{rest.partition(end)[2]}"
    return page
