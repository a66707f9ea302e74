"""Completion: what is offered, in each shell's own words, and that it fails quietly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer

from capconduit_cli.app import CliState
from capconduit_cli.completion import DEADLINE_S, completions
from capconduit_cli.params import COMPLETIONS, completer
from capconduit_cli.typer_seam import NounApp
from tests.cli.conftest import AddNoun
from tests.cli.runner import clean_environment, run


def offered(*words: str) -> list[str]:
    return [str(item.value) for item in completions(words)]


@pytest.fixture
def program(home: Path) -> Path:
    """A directory with a `capconduit` that the shells can call."""
    directory = home / "bin"
    directory.mkdir()
    script = directory / "capconduit"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m capconduit_cli "$@"\n', "utf-8")
    script.chmod(0o755)
    return directory


def shell(home: Path, program: Path, *command: str) -> str:
    path = os.pathsep.join((str(program), os.environ["PATH"]))
    ended = subprocess.run(
        command,
        env=clean_environment(home, PATH=path, PYTHONPATH=os.pathsep.join(sys.path)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    return ended.stdout


def test_nouns_verbs_options_choices_and_names_are_offered() -> None:
    assert offered("ser") == ["serve"]
    assert offered("config", "s") == ["show", "set"]
    assert offered("config", "show", "--so") == ["--sort"]
    assert offered("config", "show", "-o", "js") == ["json", "jsonl"]
    assert offered("config", "show", "--output=c") == ["csv"]
    assert offered("--tenant", "x", "config", "set", "fastagi.") == ["fastagi.listen", "fastagi.deadline_ms"]
    assert offered("--completion", "") == ["bash", "zsh", "fish"]


def test_nothing_is_offered_after_a_word_that_is_no_command() -> None:
    assert offered("bogus", "") == []
    assert offered("config", "bogus", "") == []


def test_completing_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    offered("--version", "con")
    offered("--completion", "bash", "con")
    offered("--help", "con")
    assert capsys.readouterr() == ("", "")


SEEN: list[CliState] = []


def names(state: CliState) -> Iterator[tuple[str, str] | str]:
    SEEN.append(state)
    yield "acme", "12 calls\nup"
    yield "a:b\x1b"
    yield from (f"many{number}" for number in range(COMPLETIONS * 2))


def no_names(state: CliState) -> list[str]:
    raise RuntimeError("the database is away")


@pytest.fixture
def sample(add_noun: AddNoun) -> None:
    app = NounApp()

    @app.verb("show", "capconduit sample show acme")
    def show(
        name: Annotated[str, typer.Argument(help="A name.", autocompletion=completer(names))],
        other: Annotated[str, typer.Option("--other", help="Another.", autocompletion=completer(names))] = "",
        failing: Annotated[str, typer.Option("--failing", help="Fails.", autocompletion=completer(no_names))] = "",
    ) -> None:
        """Show."""

    add_noun("sample", app)


@pytest.mark.usefixtures("sample")
def test_names_are_completed_for_the_tenant_and_configuration_given() -> None:
    SEEN.clear()
    assert offered("--tenant", "second", "--config", "x.toml", "sample", "show", "ac") == ["acme"]
    assert offered("sample", "show", "acme", "--other", "a") == ["acme", "a:b\x1b"]
    assert [(one.tenant, one.config_path) for one in SEEN] == [("second", Path("x.toml")), ("default", None)]
    assert len(offered("sample", "show", "m")) == COMPLETIONS


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("bash", "acme\na:b\\x1b\n"),
        ("fish", "acme\t12 calls up\na:b\\x1b\n"),
        ("zsh", "acme:12 calls up\na\\:b\\\\x1b\n"),
    ],
)
def test_each_shell_gets_its_own_form_without_control_characters(home: Path, name: str, lines: str) -> None:
    result = run("sample", "show", "a", home=home, env={"_CAPCONDUIT_COMPLETE": name})
    assert (result.code, result.out, result.err) == (0, lines, "")


@pytest.mark.usefixtures("sample")
def test_a_completer_that_fails_offers_nothing_and_says_nothing(home: Path) -> None:
    result = run("sample", "show", "--failing", "", home=home, env={"_CAPCONDUIT_COMPLETE": "bash"})
    assert (result.out, result.err) == ("", "")
    assert result.code != 0


def test_a_completer_that_hangs_is_ended(home: Path) -> None:
    """It waits on a pipe that nobody writes to; the deadline ends the process, not this test's patience."""
    code = (
        "import os, sys, capconduit_cli.completion as c\n"
        "c.DEADLINE_S = 0.05\n"
        "reading, writing = os.pipe()\n"
        "c.completions = lambda words: os.read(reading, 1)\n"
        "c.answer({'_CAPCONDUIT_COMPLETE': 'bash'}, [''])\n"
    )
    assert DEADLINE_S > 0
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(home, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode < 0
    assert (ended.stdout, ended.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("config", "s"), "show set"),
        (("config", "show", "--output", "=", "js"), "json jsonl"),
        (("config", "show", "--output", "="), "table json jsonl csv plain"),
        (("config", "set", '"fastagi.l'), "fastagi.listen"),
        (("config", "set", "log.level", ""), ""),
    ],
)
def test_bash_completes(home: Path, program: Path, words: tuple[str, ...], expected: str) -> None:
    script = 'eval "$(capconduit --completion bash)"; COMP_WORDS=(capconduit "$@"); COMP_CWORD=$#; _capconduit;'
    out = shell(home, program, "bash", "--norc", "-c", f'{script} echo "${{COMPREPLY[*]}}"', "bash", *words)
    assert out == f"{expected}\n"


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_fish_completes(home: Path, program: Path) -> None:
    script = 'capconduit --completion fish | source; complete -C "capconduit config s"'
    out = shell(home, program, "fish", "--no-config", "-c", script)
    assert sorted(line.split("\t")[0] for line in out.splitlines()) == ["set", "show"]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_completes(home: Path, program: Path) -> None:
    script = (
        'compdef() { :; }; _describe() { print -l -- "${(@P)2}"; }; _files() { print files; }\n'
        'eval "$(capconduit --completion zsh)"\n'
        'words=(capconduit "$@"); CURRENT=$#words; _capconduit'
    )
    out = shell(home, program, "zsh", "-f", "-c", script, "zsh", "config", "s")
    assert [line.split(":")[0] for line in out.splitlines()] == ["show", "set"]
    assert shell(home, program, "zsh", "-f", "-c", script, "zsh", "config", "set", "log.level", "") == "files\n"
