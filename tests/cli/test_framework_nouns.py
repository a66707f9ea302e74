"""The table of nouns: what the top level lists, what it loads, and what it must not load."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from capconduit import __version__
from capconduit.errors import ExitCode
from capconduit_cli.app import NOUNS, PROGRAM, CliState, build_root, state
from capconduit_cli.typer_seam import Group, NounApp, examples_of, single
from tests.cli.conftest import AddNoun
from tests.cli.runner import clean_environment, run

HEAVY = {
    "asyncio", "fastagi", "httpx", "jinja2", "panoramisk", "phonenumbers", "psycopg", "pydantic", "rich", "sqlalchemy",
    "sqlite3", "sqlmodel", "textual", "tomli_w", "tomllib", "uvloop",
}  # fmt: skip


def modules_after(home: Path, *argv: str) -> set[str]:
    """Top-level modules, and ours in full, that a process has imported when the command line has run."""
    code = (
        "import sys; from capconduit_cli.__main__ import main; main(sys.argv[1:]);"
        "sys.stderr.write('\\n'.join(['', *sys.modules]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    names = set(ended.stderr.split())
    return {name.split(".")[0] for name in names} | {name for name in names if name.startswith("capconduit")}


def test_the_top_level_help_imports_no_noun_and_nothing_heavy(home: Path) -> None:
    loaded = modules_after(home, "--help")
    assert "typer" in loaded
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.startswith("capconduit_cli.commands.")}


def test_a_noun_imports_no_other_noun_and_reads_its_values_without_pydantic(home: Path) -> None:
    loaded = modules_after(home, "config", "show", "--sort", "-key", "--filter", "source=default", "--limit", "3")
    assert {name for name in loaded if name.startswith("capconduit_cli.commands.")} == {
        "capconduit_cli.commands.config"
    }
    assert not loaded & (HEAVY - {"tomllib"})


def test_completing_a_noun_imports_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_CAPCONDUIT_COMPLETE", "bash")
    loaded = modules_after(home, "se")
    assert "capconduit_cli.completion" in loaded
    assert not {name for name in loaded if name.startswith("capconduit_cli.commands.")}


def test_the_help_lists_every_noun_in_its_section_in_order(home: Path) -> None:
    result = run("--help", home=home)
    assert result.code == ExitCode.DONE
    assert result.err == ""
    at = [result.out.index(f"\n  {noun.name} ") for noun in NOUNS]
    assert at == sorted(at)
    for noun in NOUNS:
        assert result.out.index(f"\n{noun.section}:\n") < result.out.index(f"\n  {noun.name} ")
    sections = [noun.section for noun in NOUNS]
    assert [s for n, s in enumerate(sections) if s not in sections[:n]] == [
        s for n, s in enumerate(sections) if n == 0 or sections[n - 1] != s
    ], "the nouns of a section stand together"


def test_every_noun_of_the_table_has_a_module() -> None:
    missing = [noun.name for noun in NOUNS if importlib.util.find_spec(noun.module) is None]
    assert missing == []


def test_every_module_of_commands_is_a_noun_of_the_table() -> None:
    directory = Path(str(importlib.util.find_spec("capconduit_cli.commands").origin)).parent  # type: ignore[union-attr]
    modules = {place.stem for place in directory.glob("[!_]*.py")}
    assert modules <= {noun.name for noun in NOUNS}


@pytest.mark.parametrize("noun", [n.name for n in NOUNS if importlib.util.find_spec(n.module)])
def test_every_command_has_help_and_an_example_that_calls_it(noun: str) -> None:
    root = build_root()
    parent = root.make_context(PROGRAM, [], resilient_parsing=True)
    command = root.get_command(parent, noun)
    assert command is not None
    commands = {f"{PROGRAM} {noun}": command}
    if isinstance(command, Group):
        commands = {f"{PROGRAM} {noun} {verb}": verb_command for verb, verb_command in command.commands.items()}
        assert commands, "a noun has verbs"
    for path, one in commands.items():
        assert one.help, path
        assert one.help.split("\n")[0].endswith("."), path
        words = path.removeprefix(PROGRAM)
        assert any(f"{words} " in f"{example} " for example in examples_of(one)), f"{path} has no example of itself"
        for param in one.params:
            assert getattr(param, "help", None), f"{path}: {param.name} has no help"


def test_a_verb_without_an_example_cannot_be_declared() -> None:
    with pytest.raises(AssertionError):
        NounApp().verb("add")
    with pytest.raises(AssertionError):
        NounApp().verb("add", "seller add acme")
    with pytest.raises(AssertionError):
        single()


@pytest.mark.parametrize(
    ("argv", "near"),
    [(("selr",), "'seller'"), (("campain", "list"), "'campaign'"), (("config", "sho"), "'show'"), (("zzz",), "--help")],
)
def test_a_mistyped_command_offers_the_nearest(home: Path, argv: tuple[str, ...], near: str) -> None:
    result = run(*argv, home=home)
    assert result.code == ExitCode.USAGE
    assert result.err.startswith("error: no command ")
    assert "[command-unknown]\nhint: " in result.err
    assert near in result.err.splitlines()[1]
    assert result.out == ""


@pytest.mark.parametrize("argv", [(), ("config",)])
def test_without_a_command_the_help_is_told_on_stderr_as_a_usage_error(home: Path, argv: tuple[str, ...]) -> None:
    result = run(*argv, home=home)
    assert result.code == ExitCode.USAGE
    assert result.out == ""
    assert result.err.startswith(f"Usage: {' '.join((PROGRAM, *argv))} ")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_a_verb_shows_arguments_options_and_examples(home: Path, flag: str) -> None:
    result = run("config", "set", flag, home=home)
    assert result.code == ExitCode.DONE
    assert result.out.startswith("Usage: capconduit config set SECTION.KEY VALUE [OPTIONS]\n")
    for part in ("Arguments:\n", "Options:\n", "--dry-run", "Examples:\n  capconduit config set "):
        assert part in result.out
    assert "\x1b" not in result.out


def test_the_version_is_printed(home: Path) -> None:
    assert run("--version", home=home).out == f"capconduit {__version__}\n"


def sample(seen: list[CliState]) -> NounApp:
    app = NounApp("About the sample.")

    @app.verb("see", "capconduit sample see")
    def see(ctx: typer.Context, name: Annotated[str, typer.Argument(help="A name.")] = "nobody") -> None:
        """See."""
        del name
        seen.append(state(ctx))

    return app


def test_the_global_options_reach_the_command(home: Path, add_noun: AddNoun) -> None:
    seen: list[CliState] = []
    add_noun("sample", sample(seen))
    (home / "named.toml").write_text("[fastagi]\ndeadline_ms = 321\n", "utf-8")
    assert run("--config", str(home / "named.toml"), "--tenant", "second", "sample", "see", home=home).code == 0
    assert run("sample", "see", home=home, env={"CAPCONDUIT_TENANT": "third"}).code == 0
    assert run("sample", "see", home=home).code == 0
    assert [one.tenant for one in seen] == ["second", "third", "default"]
    assert seen[0].config.fastagi.deadline_ms == 321


def test_a_noun_with_one_verb_is_still_a_noun(home: Path, add_noun: AddNoun) -> None:
    add_noun("sample", sample([]))
    result = run("sample", "--help", home=home)
    assert result.out.startswith("Usage: capconduit sample VERB ...\n\n  The sample noun.\n\n  About the sample.\n")
    assert "\nVerbs:\n  see  See.\n" in result.out


def test_a_module_can_be_one_command(home: Path, add_noun: AddNoun) -> None:
    @single("capconduit try +18005550100")
    def app(number: Annotated[str, typer.Argument(help="A number.")]) -> None:
        """Try a call."""
        typer.echo(f"tried {number}")

    add_noun("try", app)
    assert run("try", "+18005550100", home=home).out == "tried +18005550100\n"
    assert run("try", "--help", home=home).out.startswith("Usage: capconduit try NUMBER [OPTIONS]\n\n  Try a call.\n")


def test_the_module_runs_as_a_process(home: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "capconduit_cli", "--version"],
        env=clean_environment(home, PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, f"capconduit {__version__}\n")
