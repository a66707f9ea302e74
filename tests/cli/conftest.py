"""What the tests of the command line share: a home of their own, and nouns of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import typer

from capconduit_cli.app import NOUNS, Noun, build_root

AddNoun = Callable[[str, typer.Typer], None]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and working directory, and no configuration of the machine."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr("capconduit.config.SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    return tmp_path


@pytest.fixture
def add_noun(monkeypatch: pytest.MonkeyPatch) -> AddNoun:
    """Adds a noun for the length of a test: `add_noun("sample", app)`."""
    added: list[Noun] = []

    def add(name: str, app: typer.Typer) -> None:
        noun = Noun(name, f"The {name} noun.", "Samples")
        module = ModuleType(noun.module)
        module.app = app  # type: ignore[attr-defined]  # that is what a noun's module has
        monkeypatch.setitem(sys.modules, noun.module, module)
        added.append(noun)
        for place in ("capconduit_cli.__main__.build_root", "capconduit_cli.completion.build_root"):
            monkeypatch.setattr(place, lambda: build_root((*NOUNS, *added)), raising=True)

    import capconduit_cli.completion  # noqa: F401  # so that its name can be replaced

    return add
