"""The commands of README.md work as they are written, one after the other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.runner import run

README = Path(__file__).resolve().parent.parent.parent / "README.md"
ENDLESS = ("serve",)


def commands() -> list[list[str]]:
    """The command lines of the console examples, in their order."""
    lines = re.findall(r"^\$ capconduit (.+)$", README.read_text("utf-8"), flags=re.MULTILINE)
    return [words for line in lines if (words := shlex.split(line, comments=True))[0] not in ENDLESS]


def test_the_examples_work_as_written(home: Path) -> None:
    assert len(commands()) > 20
    for argv in commands():
        result = run(*argv, home=home)
        assert result.code == 0, f"{argv}: {result.err}"


def test_an_example_that_does_not_work_is_noticed(home: Path) -> None:
    first = commands()[1]
    assert run(*first, home=home).code != 0, "there is no database before `capconduit init`"
