"""Every end of a run: its exit code, its one line on stderr, its hint."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pytest
import typer

from capconduit.errors import (
    CapConduitError,
    ConfigError,
    DatabaseError,
    DriftError,
    ExitCode,
    NotFound,
    PeerError,
    Refused,
    UsageError,
)
from capconduit_cli.amounts import Amount, amount_option
from capconduit_cli.errors import run_guarded
from capconduit_cli.params import duration_option
from capconduit_cli.typer_seam import NounApp
from tests.cli.conftest import AddNoun
from tests.cli.runner import clean_environment, run, run_process


def failing(error: BaseException) -> NounApp:
    app = NounApp()

    @app.verb("fail", "capconduit sample fail")
    def fail() -> None:
        """Fail."""
        raise error

    return app


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


def reading() -> NounApp:
    app = NounApp()

    @app.verb("read", "capconduit sample read acme")
    def read(
        name: Annotated[str, typer.Argument(metavar="NAME", help="A name.")],
        amount: Annotated[int, typer.Argument(metavar="AMOUNT", help="An amount.", parser=int)] = 0,
        price: Annotated[Amount | None, amount_option("--price", help="A price.")] = None,
        ring_ms: Annotated[int, duration_option("--ring", help="How long.", show_default="20s")] = 20_000,
        colour: Annotated[Colour, typer.Option("--colour", help="A colour.")] = Colour.RED,
        many: Annotated[list[int] | None, typer.Option("--many", help="Numbers.", max=9)] = None,
        place: Annotated[Path | None, typer.Option("--place", help="A file.")] = None,
        loud: Annotated[bool, typer.Option("--loud", help="Loud.")] = False,
    ) -> None:
        """Read."""
        typer.echo(repr((name, amount, price and price.micros, ring_ms, colour.value, many, place, loud)))

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("seller-exists", "there is a seller 'acme'", "choose another name"), 1),
        (NotFound("seller", "acm", ("acme",)), 1),
        (UsageError("amount-invalid", "'x' is not an amount", "write it like 25"), 2),
        (ConfigError("config-missing", "no file", "write one"), 2),
        (DatabaseError("database-locked", "locked", "wait"), 3),
        (PeerError("daemon-away", "the daemon is away", "start it"), 4),
        (DriftError("cap-drift", "they differ", "look"), 5),
    ],
)
def test_each_failure_has_its_exit_code_and_one_line_with_its_slug(
    home: Path, add_noun: AddNoun, error: CapConduitError, code: int
) -> None:
    add_noun("sample", failing(error))
    result = run("sample", "fail", home=home)
    assert result.code == code
    assert result.out == ""
    assert result.err == f"error: {error.message} [{error.slug}]\nhint: {error.hint}\n"


def test_a_failure_without_a_hint_has_no_hint_line(home: Path, add_noun: AddNoun) -> None:
    add_noun("sample", failing(Refused("nothing", "nothing to do")))
    assert run("sample", "fail", home=home).err == "error: nothing to do [nothing]\n"


def test_hostile_text_in_an_error_is_made_visible(home: Path, add_noun: AddNoun) -> None:
    add_noun("sample", failing(Refused("x", "name \x1b]0;owned\x07 \u202e\nerror: all is well [done]", "\x9b2J")))
    err = run("sample", "fail", home=home).err
    assert err == "error: name \\x1b]0;owned\\x07 \\u202e\\nerror: all is well [done] [x]\nhint: \\x9b2J\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (typer.Abort(), ExitCode.INTERRUPTED),
        (typer.Exit(ExitCode.THRESHOLD), ExitCode.THRESHOLD),
        (SystemExit(4), ExitCode.PEER),
        (SystemExit(None), ExitCode.DONE),
        (SystemExit("no"), ExitCode.REFUSED),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "estate.toml"), ExitCode.USAGE),
        (PermissionError(errno.EACCES, "Permission denied", "estate.toml"), ExitCode.REFUSED),
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.REFUSED),
        (ConnectionResetError(errno.ECONNRESET, "reset"), ExitCode.BUG),
        (RuntimeError("oops"), ExitCode.BUG),
    ],
)
def test_other_ends_have_their_exit_code_too(
    home: Path, add_noun: AddNoun, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capconduit_cli.errors._silence_stdout", lambda: None)  # this process still needs its own
    add_noun("sample", failing(error))
    result = run("sample", "fail", home=home)
    assert result.code == code
    assert "Traceback" not in result.err


def test_a_broken_connection_is_not_taken_for_a_reader_that_left(home: Path, add_noun: AddNoun) -> None:
    add_noun("sample", failing(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    reading_end, writing_end = os.pipe()
    try:
        with os.fdopen(writing_end, "w") as out, pytest.MonkeyPatch.context() as patch:
            patch.setattr("capconduit_cli.errors._stdout_descriptor", lambda: out.fileno())
            assert run("sample", "fail", home=home).code == ExitCode.BUG
    finally:
        os.close(reading_end)


@pytest.mark.parametrize("how", ["--debug", "CAPCONDUIT_DEBUG"])
def test_a_bug_is_told_in_short_and_with_a_traceback_only_when_asked(home: Path, add_noun: AddNoun, how: str) -> None:
    add_noun("sample", failing(RuntimeError("oops")))
    short = run("sample", "fail", home=home)
    assert short.code == ExitCode.BUG
    assert short.err.startswith("error: this is a bug in CapConduit: RuntimeError: oops [bug]\nhint: ")
    long = (
        run("--debug", "sample", "fail", home=home)
        if how == "--debug"
        else run("sample", "fail", home=home, env={how: "1"})
    )
    assert long.code == ExitCode.BUG
    assert "Traceback" in long.err
    assert "failing" in long.err or "fail()" in long.err or "raise error" in long.err
    assert "Traceback" not in run("sample", "fail", home=home, env={"CAPCONDUIT_DEBUG": "0"}).err


def test_an_amount_with_its_currency_is_one_word(home: Path) -> None:
    result = run("balance", "add", "acme", "5", "EUR", "--reason", "x", home=home)
    assert result.code == ExitCode.USAGE
    assert "hint: write the amount and its currency as one: '5 EUR'" in result.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("did", "-o", "json", "list"), "-o stands after the verb: capconduit did list -o ..."),
        (("report", "--output", "csv", "hourly"), "--output stands after the verb: capconduit report"),
        (("--json", "did", "list"), "--json stands after the verb: capconduit NOUN VERB --json"),
        (("-o", "json", "did", "list"), "-o stands after the verb: capconduit NOUN VERB -o"),
        (("did", "--campaign", "solar", "assign", "+1"), "--campaign stands after the verb: capconduit did"),
        (("did", "--nonsense", "list"), "see `capconduit did --help`"),
        (("--versio",), "did you mean '--version'?"),
    ],
)
def test_an_option_of_a_verb_that_stands_too_early_is_told_where_it_stands(
    home: Path, argv: tuple[str, ...], hint: str
) -> None:
    result = run(*argv, home=home)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "[option-unknown]" in result.err
    assert f"hint: {hint}" in result.err


@pytest.mark.parametrize(
    ("argv", "line", "hint"),
    [
        ((), "'capconduit sample read' needs NAME [argument-missing]", "usage: capconduit sample read NAME [AMOUNT]"),
        (("a", "1", "b"), "'capconduit sample read' does not take 'b' [argument-unexpected]", "usage: capconduit"),
        (("a", "--colou", "red"), "has no option '--colou' [option-unknown]", "did you mean '--colour'?"),
        (("a", "--zzz"), "has no option '--zzz' [option-unknown]", "see `capconduit sample read --help`"),
        (("a", "-x"), "has no option '-x' [option-unknown]", "see `capconduit sample read --help`"),
        (("a", "--tenant", "b"), "has no option '--tenant' [option-unknown]", "before the noun: capconduit --tenant"),
        (("a", "--colour"), "'--colour' requires an argument [option-usage]", "see `capconduit sample read --help`"),
        (("a", "--loud=yes"), "'--loud' does not take a value [option-usage]", "see `capconduit sample read --help`"),
        (
            ("a", "--colour", "gren"),
            "--colour: 'gren' is not one of red, green [value-invalid]",
            "did you mean 'green'",
        ),
        (("a", "--colour", "zzz"), "--colour: 'zzz' is not one of red, green [value-invalid]", "choose red or green"),
        (("a", "--many", "x"), "--many: 'x' is not a whole number [value-invalid]", "digits"),
        (("a", "--many", "10"), "--many: '10' is out of range [value-invalid]", "at most 9"),
        (("a", "five"), "AMOUNT: 'five' cannot be read [value-invalid]", "--help"),
        (("a", "--price", "2,5"), "--price: '2,5' is not an amount [amount-invalid]", "25.50"),
        (("a", "--price", "-5"), "--price: '-5' has a sign [amount-invalid]", "without a sign"),
        (("a", "--ring", "long"), "--ring: 'long' is not a duration [duration-invalid]", "1m30s"),
        (("a\nb",), "NAME: 'a\\nb' has control characters [value-invalid]", "plain text"),
    ],
)
def test_a_wrong_command_line_names_the_value_and_the_next_step(
    home: Path, add_noun: AddNoun, argv: tuple[str, ...], line: str, hint: str
) -> None:
    add_noun("sample", reading())
    result = run("sample", "read", *argv, home=home)
    assert result.code == ExitCode.USAGE
    assert result.out == ""
    told, next_step = result.err.splitlines()
    assert told.startswith("error: ")
    assert told.endswith(line)
    assert next_step.startswith("hint: ")
    assert hint in next_step


def test_values_are_read_as_what_they_are(home: Path, add_noun: AddNoun) -> None:
    add_noun("sample", reading())
    assert run("sample", "read", "a", home=home).out == "('a', 0, None, 20000, 'red', None, None, False)\n"
    given = ("é", "-5", "--price", "2.50", "--ring", "1m", "--colour", "green", "--many", "1", "--many=2")
    result = run("sample", "read", *given, "--place", "x y", "--loud", home=home)
    assert result.out == "('é', -5, 2500000, 60000, 'green', [1, 2], PosixPath('x y'), True)\n"


def test_a_reader_that_leaves_is_no_failure(home: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "capconduit_cli", "config", "show"],
        env=clean_environment(home, PYTHONPATH=os.pathsep.join(sys.path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(30) == ExitCode.DONE
    assert told == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("argv", [("--help",), ("config", "show"), ("config", "show", "--json")])
def test_output_that_cannot_be_written_is_a_failure(home: Path, argv: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        result = run_process(*argv, home=home, env={"PYTHONPATH": os.pathsep.join(sys.path)}, stdout=full)
    assert result.code == ExitCode.REFUSED
    assert result.err.startswith("error: cannot write the output: No space left on device [output-failed]\n")


class FullDisk(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_output_that_cannot_be_written_is_told_also_when_a_check_found_drift(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("capconduit_cli.errors._silence_stdout", lambda: None)  # this process still needs its own

    def found_drift() -> None:
        raise typer.Exit(ExitCode.DRIFT)

    with contextlib.redirect_stdout(FullDisk()):
        code = run_guarded(found_drift, debug=False)
    assert code == ExitCode.REFUSED
    assert "[output-failed]" in capsys.readouterr().err


def test_a_closed_stdout_ends_no_command_halfway(home: Path) -> None:
    command = 'exec "$0" -m capconduit_cli config show >&-'
    ended = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable],
        env=clean_environment(home, PYTHONPATH=os.pathsep.join(sys.path)),
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
