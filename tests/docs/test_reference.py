"""The reference page says what the program says, and the documentation names everything that an operator meets."""

from __future__ import annotations

from pathlib import Path

from capconduit.vocab import CapMetric, CcVariable
from capconduit_cli.reference import METRICS, VARIABLES, reference

ROOT = Path(__file__).parents[2]


def test_the_reference_page_is_what_the_program_writes() -> None:
    assert (ROOT / "docs/reference.md").read_text() == reference(), "run `make man`"


def test_every_variable_and_metric_is_described() -> None:
    assert set(VARIABLES) == set(CcVariable)
    assert set(METRICS) == set(CapMetric)


def test_the_dialplan_page_names_every_channel_variable() -> None:
    page = (ROOT / "docs/dialplan.md").read_text()
    assert [v for v in CcVariable if v not in page] == []


def test_the_architecture_names_only_files_that_exist() -> None:
    import re

    page = (ROOT / "docs/architecture.md").read_text()
    named = set(
        re.findall(
            r"`((?:capconduit|capconduit_cli|fastagi|domain|services|store|handlers|dialplan_templates)/[\w/.]+)`", page
        )
    )
    roots = [ROOT, ROOT / "capconduit", ROOT / "fastagi"]
    assert [n for n in sorted(named) if not any((r / n).exists() for r in roots)] == []
