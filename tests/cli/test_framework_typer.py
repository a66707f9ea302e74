"""What we lean on inside of Typer is still there, and bundles of options behave like options."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import typer

from capconduit.errors import UsageError
from capconduit_cli.typer_seam import Bundle, NounApp
from tests.cli.conftest import AddNoun
from tests.cli.runner import run

PRIVATE_NAMES = {
    "typer._click.core": ("Command", "Context", "Parameter", "augment_usage_errors"),
    "typer._click.exceptions": (
        "BadOptionUsage", "ClickException", "MissingParameter", "NoArgsIsHelpError", "NoSuchOption", "UsageError",
    ),
    "typer._click.formatting": ("HelpFormatter",),
    "typer._click.parser": ("_OptionParser", "_ParsingState"),
    "typer._click.shell_completion": ("CompletionItem", "_resolve_context", "_resolve_incomplete"),
    "typer.core": ("TyperArgument", "TyperCommand", "TyperGroup", "TyperOption"),
    "typer.main": ("get_command", "get_group"),
}  # fmt: skip


@pytest.mark.parametrize("module", PRIVATE_NAMES)
def test_the_private_names_we_lean_on_exist(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in PRIVATE_NAMES[module] if not hasattr(found, name)] == []


def test_typer_reads_values_where_we_put_our_reader() -> None:
    core = importlib.import_module("typer.core")
    source = inspect.getsource(core._TyperParameter)
    assert "if self._runtime_param is None" in source
    assert ".coerce(value, param=self, ctx=ctx)" in source
    parser = importlib.import_module("typer._click.parser")
    assert list(inspect.signature(parser._OptionParser._process_opts).parameters) == ["self", "arg", "state"]


def test_a_kind_of_value_we_do_not_read_ourselves_is_still_read_by_typer(home: Path, add_noun: AddNoun) -> None:
    app = NounApp()

    @app.verb("see", "capconduit sample see")
    def see(pair: Annotated[tuple[int, str], typer.Option("--pair", help="A pair.")] = (0, "")) -> None:
        """See."""
        typer.echo(repr(pair))

    add_noun("sample", app)
    assert run("sample", "see", "--pair", "5", "x", home=home).out == "(5, 'x')\n"
    refused = run("sample", "see", "--pair", "five", "x", home=home)
    assert refused.code == 2
    assert refused.err.startswith("error: --pair: ")


@dataclass(frozen=True)
class Period(Bundle):
    since: Annotated[str, typer.Option("--since", help="From.")] = "monday"
    until: Annotated[str | None, typer.Option("--until", help="To.")] = None
    names: Annotated[list[str], typer.Option("--name", help="Names.")] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.until == self.since:
            raise UsageError("period-empty", "the period is empty", "let it end later")


@pytest.fixture
def reporting(add_noun: AddNoun) -> None:
    app = NounApp()

    @app.verb("report", "capconduit sample report acme")
    def report(
        seller: Annotated[str, typer.Argument(metavar="SELLER", help="The seller.")],
        period: Period,
        ctx: typer.Context,
        loud: Annotated[bool, typer.Option("--loud", help="Loud.")] = False,
    ) -> None:
        """Report."""
        typer.echo(f"{ctx.command_path} {seller} {period} {loud}")

    add_noun("sample", app)


@pytest.mark.usefixtures("reporting")
def test_a_bundle_gives_its_options_to_the_command(home: Path) -> None:
    given = run("sample", "report", "acme", "--since", "-2h", "--name", "a", "--name", "b", "--loud", home=home)
    assert given.out == ("capconduit sample report acme Period(since='-2h', until=None, names=['a', 'b']) True\n")
    assert "Period(since='monday', until=None, names=[]) False" in run("sample", "report", "acme", home=home).out


@pytest.mark.usefixtures("reporting")
def test_a_bundle_is_in_the_help_like_other_options(home: Path) -> None:
    help_text = run("sample", "report", "--help", home=home).out
    for part in ("Usage: capconduit sample report SELLER [OPTIONS]", "--since TEXT  From. [default: monday]"):
        assert part in help_text
    assert "--name TEXT   Names. [may be repeated]" in help_text
    assert help_text.index("--loud") < help_text.index("--since") < help_text.index("--help"), "its own come first"


@pytest.mark.usefixtures("reporting")
def test_a_bundle_can_refuse_before_the_command_begins(home: Path) -> None:
    result = run("sample", "report", "acme", "--until", "monday", home=home)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: the period is empty [period-empty]\nhint: let it end later\n"
