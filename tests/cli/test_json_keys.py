"""docs/json.md: every key that a noun prints stands in its section, and no section names a noun that is gone."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from capconduit_cli.app import NOUNS
from capconduit_cli.output import Column

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "json.md"
EVERYWHERE = {"id", "created", "updated"}
NOUNS_WITH_JSON = (
    "agent", "apply", "audit", "balance", "block", "call", "campaign", "cap", "cdr", "config", "db", "did", "doctor",
    "drain", "event", "explain", "find", "notification", "plan", "provider", "rate", "reload", "report", "request",
    "route", "rule", "schedule", "seller", "setting", "status", "target", "token", "trunk", "user", "webhook",
)  # fmt: skip


def sections() -> dict[str, str]:
    """The text of each section by its heading."""
    parts = re.split(r"^## (.+)$", DOCUMENT.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def keys(noun: str) -> set[str]:
    """The keys of all columns that a noun's module declares."""
    module = importlib.import_module(f"capconduit_cli.commands.{noun}")
    tables = [value for name, value in vars(module).items() if name.endswith("COLUMNS") and name != "ENTITY_COLUMNS"]
    columns: Iterable[Column] = (column for table in tables for column in table)
    return {column.key for column in columns}


@pytest.mark.parametrize("noun", NOUNS_WITH_JSON)
def test_every_key_is_documented(noun: str) -> None:
    text = sections()[noun]
    missing = {key for key in keys(noun) - EVERYWHERE if f"`{key}`" not in text}
    assert keys(noun)
    assert not missing


def test_the_sections_are_the_nouns_that_print_data() -> None:
    known = {noun.name for noun in NOUNS}
    assert set(sections()) == set(NOUNS_WITH_JSON)
    assert set(sections()) <= known
