"""What list and show commands print, in every form."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from capconduit.errors import Refused, UsageError
from capconduit_cli import output
from capconduit_cli.output import (
    ChangeOutput,
    Column,
    Kind,
    ListOutput,
    OutputFormat,
    ShowOutput,
    confirm,
    emit_one,
    emit_rows,
    notice,
)
from capconduit_cli.text import cells, json_safe, printable
from capconduit_cli.typer_seam import NounApp
from tests.cli.conftest import AddNoun
from tests.cli.runner import clean_environment, run

COLUMNS = (
    Column("name"),
    Column("balance", Kind.MONEY, source="balance_micros"),
    Column("currency"),
    Column("created", Kind.INSTANT, source="created_ms"),
    Column("ring_ms", Kind.DURATION),
    Column("calls", Kind.INT),
    Column("active", Kind.BOOL),
    Column("hosts", Kind.NAMES),
    Column("id", shown=False),
    Column("trace", Kind.ANY, shown=False),
)
ACME: Mapping[str, object] = {
    "name": "acme",
    "balance_micros": 24_800_000,
    "currency": "USD",
    "created_ms": 1_772_953_199_999,
    "ring_ms": 90_000,
    "calls": 12,
    "active": True,
    "hosts": ("a.example", "b.example"),
    "id": "01JABCDEFGHJKMNPQRSTVWXYZ0",
    "trace": {"used": 1},
}
EMPTY: Mapping[str, object] = {**dict.fromkeys(ACME), "name": "zürich & söhne", "balance_micros": -5, "currency": "EUR"}
ROWS = (ACME, EMPTY)


def emitted(*rows: Mapping[str, object], opts: ListOutput) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        emit_rows(rows, COLUMNS, opts)
    return out.getvalue()


def listed(**opts: object) -> str:
    return emitted(*ROWS, opts=ListOutput(**opts))  # type: ignore[arg-type]  # the options under test


def shown(row: Mapping[str, object], opts: ChangeOutput) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        emit_one(row, COLUMNS, opts)
    return out.getvalue()


# Forms


def test_json_is_one_array_with_typed_values() -> None:
    first, second = json.loads(listed(json=True))
    assert first == {
        "name": "acme",
        "balance": "24.800000",
        "currency": "USD",
        "created": "2026-03-08T06:59:59.999Z",
        "ring_ms": 90_000,
        "calls": 12,
        "active": True,
        "hosts": ["a.example", "b.example"],
        "id": "01JABCDEFGHJKMNPQRSTVWXYZ0",
        "trace": {"used": 1},
    }
    assert list(first) == [column.key for column in COLUMNS]
    assert second == {**dict.fromkeys(first), "name": "zürich & söhne", "balance": "-0.000005", "currency": "EUR"}


def test_json_of_nothing_is_an_empty_array() -> None:
    assert json.loads(emitted(opts=ListOutput(json=True))) == []
    assert emitted(opts=ListOutput(output=OutputFormat.JSONL)) == ""


def test_json_of_one_thing_is_one_object() -> None:
    assert json.loads(shown(ACME, ShowOutput(json=True)))["balance"] == "24.800000"
    assert json.loads(shown(ACME, ChangeOutput(output=OutputFormat.JSON)))["name"] == "acme"


def test_json_lines_are_the_same_objects_one_a_line() -> None:
    lines = listed(output=OutputFormat.JSONL).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(listed(json=True))


def test_csv_has_a_header_and_exact_values() -> None:
    rows = list(csv.DictReader(io.StringIO(listed(output=OutputFormat.CSV))))
    assert rows[0] == {
        "name": "acme",
        "balance": "24.800000",
        "currency": "USD",
        "created": "2026-03-08T06:59:59.999Z",
        "ring_ms": "90000",
        "calls": "12",
        "active": "true",
        "hosts": "a.example b.example",
        "id": "01JABCDEFGHJKMNPQRSTVWXYZ0",
        "trace": '{"used": 1}',
    }
    assert rows[1]["active"] == rows[1]["created"] == rows[1]["hosts"] == ""


def test_plain_is_tab_separated_without_a_header() -> None:
    assert listed(output=OutputFormat.PLAIN, fields="name,balance") == "acme\t24.800000\nzürich & söhne\t-0.000005\n"
    assert shown(ACME, ShowOutput(output=OutputFormat.PLAIN, fields="balance")) == "24.800000\n"


def test_a_table_in_a_pipe_is_aligned_uncut_and_undrawn() -> None:
    assert listed(fields="name,balance,currency,created,ring_ms,active,hosts") == (
        "NAME              BALANCE  CURRENCY  CREATED                RING  ACTIVE  HOSTS\n"
        "acme                24.80  USD       2026-03-08 06:59:59Z  1m30s  yes     a.example, b.example\n"
        "zürich & söhne  -0.000005  EUR       -                         -  -       -\n"
    )
    long = {**ACME, "name": "x" * 500}
    assert "x" * 500 in emitted(long, opts=ListOutput())


def test_one_thing_as_a_table_is_one_field_a_line() -> None:
    lines = shown(ACME, ShowOutput()).splitlines()
    assert lines[:2] == ["name      acme", "balance   24.80"]
    assert len(lines) == len(COLUMNS), "what a list hides for its width is shown here"


def test_wide_characters_keep_the_columns_aligned() -> None:
    rows = ({**ACME, "name": "電話"}, {**ACME, "name": "e\u0301tat"}, {**ACME, "name": "abcd"})
    lines = emitted(*rows, opts=ListOutput(fields="name,currency")).splitlines()
    assert [cells(line[: line.index("USD")]) for line in lines[1:]] == [6, 6, 6]


# Choosing


def test_fields_are_chosen_in_the_order_given() -> None:
    assert listed(output=OutputFormat.CSV, fields="id, name").splitlines()[0] == "id,name"
    assert listed(fields="id").splitlines()[1] == "01JABCDEFGHJKMNPQRSTVWXYZ0", "also those that tables leave out"


@pytest.mark.parametrize("opts", [{"fields": "nam"}, {"sort": "-nam"}, {"filter": ["nam=x"]}])
def test_an_unknown_field_is_an_error_before_a_row_is_read(opts: dict[str, object]) -> None:
    def rows() -> Iterator[Mapping[str, object]]:
        raise AssertionError("a row was read")
        yield {}

    with pytest.raises(UsageError) as caught:
        emit_rows(rows(), COLUMNS, ListOutput(**opts))  # type: ignore[arg-type]  # the options under test
    assert caught.value.hint == "did you mean 'name'?"


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("calls", ["b", "a", "c", "none"]),
        ("-calls", ["c", "a", "b", "none"]),
        ("balance", ["c", "b", "a", "none"]),
        ("name", ["a", "b", "c", "none"]),
    ],
)
def test_sorting_is_by_value_and_rows_without_one_come_last(sort: str, names: list[str]) -> None:
    rows = (
        {**EMPTY, "name": "none", "calls": None, "balance_micros": None},
        {**EMPTY, "name": "a", "calls": 9, "balance_micros": 100},
        {**EMPTY, "name": "b", "calls": 2, "balance_micros": 20},
        {**EMPTY, "name": "c", "calls": 10, "balance_micros": 3},
    )
    assert [row["name"] for row in json.loads(emitted(*rows, opts=ListOutput(json=True, sort=sort)))] == names


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("name=ACME", ["acme"]),
        ("name=acm", []),
        ("balance=24.8", ["acme"]),
        ("balance=-0.000005", ["zürich & söhne"]),
        ("created=2026-03-08", ["acme"]),
        ("ring_ms=90000", ["acme"]),
        ("ring_ms=1m30s", ["acme"]),
        ("calls=12", ["acme"]),
        ("active=yes", ["acme"]),
        ("active=true", ["acme"]),
        ("active=no", ["zürich & söhne"]),
        ("hosts=b.example", ["acme"]),
        ("hosts=", ["zürich & söhne"]),
        ("id=", ["zürich & söhne"]),
    ],
)
def test_filters_compare_what_the_field_means(condition: str, kept: list[str]) -> None:
    assert [row["name"] for row in json.loads(listed(json=True, filter=[condition]))] == kept


def test_all_filters_must_hold_and_the_limit_comes_last() -> None:
    rows = [{**ACME, "name": f"n{number}", "calls": number % 2} for number in range(10)]
    opts = ListOutput(json=True, filter=["calls=1", "currency=usd"], sort="-name", limit=2)
    assert [row["name"] for row in json.loads(emitted(*rows, opts=opts))] == ["n9", "n7"]


def test_a_limit_stops_reading() -> None:
    def rows() -> Iterator[Mapping[str, object]]:
        yield ACME
        raise AssertionError("a second row was read")

    with contextlib.redirect_stdout(io.StringIO()):
        emit_rows(rows(), COLUMNS, ListOutput(output=OutputFormat.JSONL, limit=1))


@pytest.mark.parametrize("condition", ["active", "balance=much", "ring_ms=soon"])
def test_a_filter_that_cannot_be_understood_is_an_error(condition: str) -> None:
    with pytest.raises(UsageError):
        listed(filter=[condition])


def test_two_forms_at_once_are_refused_before_the_command_begins(home: Path, add_noun: AddNoun) -> None:
    app = NounApp()

    @app.verb("list", "capconduit sample list")
    def list_(out: ListOutput) -> None:
        """List."""
        raise AssertionError("the command began")

    add_noun("sample", app)
    result = run("sample", "list", "--json", "-o", "csv", home=home)
    assert (result.code, result.err.splitlines()[0]) == (
        2,
        "error: --json and --output csv exclude each other [output-conflict]",
    )
    assert run("sample", "list", "--limit", "0", home=home).code == 2


def test_money_without_its_currency_cannot_be_declared() -> None:
    with pytest.raises(AssertionError):
        emit_rows([], (Column("balance", Kind.MONEY),), ListOutput())
    with pytest.raises(AssertionError):
        emit_rows([], (Column("name"), Column("name")), ListOutput())


# Hostile text

HOSTILE = "\x1b[2J\x07\u202eevil\t\n\x9b\ud800\u2028"


@pytest.mark.parametrize("form", list(OutputFormat))
def test_control_characters_never_reach_the_output(form: OutputFormat) -> None:
    out = emitted({**ACME, "name": HOSTILE, "hosts": (HOSTILE,)}, opts=ListOutput(output=form))
    assert not [c for c in out if c not in "\n\t" and printable(c) != c]
    assert out.count("\n") == len(out.splitlines())
    if form is OutputFormat.JSON:
        assert json.loads(out)[0]["name"] == HOSTILE, "JSON escapes them and loses nothing"
    if form is OutputFormat.PLAIN:
        assert out.count("\t") == len(COLUMNS) - 1


def test_what_is_harmless_stays_as_it_is() -> None:
    text = "zürich — 電話 ✓"
    assert printable(text) == text
    assert json_safe(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


# A terminal

LISTING = """
from capconduit_cli.output import *
rows = [{"name": f"name{n}", "b": 10**15 + n * 10**6, "currency": "USD", "note": "n" * 200} for n in range(%d)]
emit_rows(rows, (Column("name"), Column("b", Kind.MONEY), Column("currency"), Column("note")), ListOutput())
"""


def on_terminal(home: Path, rows: int, width: int = 60, **env: str) -> str:
    """What a terminal gets to see from a listing."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = clean_environment(home, TERM="xterm-256color", PYTHONPATH=os.pathsep.join(sys.path), **env)
    environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "NO_COLOR") or k in env}
    with subprocess.Popen([sys.executable, "-c", LISTING % rows], env=environment, stdout=theirs) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while part := os.read(ours, 65_536):
                seen += part
        os.close(ours)
        assert process.wait(30) == 0
    return seen.decode()


def test_a_terminal_gets_a_table_fitted_to_its_width(home: Path) -> None:
    lines = on_terminal(home, 3).splitlines()
    assert "\x1b[1m" in lines[0], "the header is bold"
    assert lines[1].startswith("name0  1000000000.00  USD       nnn")
    assert lines[1].endswith("n…")
    assert max(cells(line) for line in lines[1:]) <= 60
    assert len(lines) == 4


def test_a_narrow_terminal_cuts_no_name_and_no_amount_and_drops_no_column(home: Path) -> None:
    line = on_terminal(home, 3, width=20).splitlines()[1]
    assert line == "name0  1000000000.00  USD       nnnnnnn…"


def test_no_color_is_respected(home: Path) -> None:
    seen = on_terminal(home, 3, NO_COLOR="1")
    assert "\x1b[3" not in seen
    assert "\x1b[4" not in seen


def test_a_long_table_is_not_drawn_by_rich(home: Path) -> None:
    assert "n" * 200 in on_terminal(home, output.RICH_ROWS + 1)


# Talking


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_nothing_is_asked_and_nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError) as caught:
        confirm("Remove seller 'acme'?", yes=False)
    assert caught.value.slug == "confirmation-needed"
    assert "--yes" in caught.value.hint


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "no\n", "yo\n"])
def test_every_answer_but_yes_is_no(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with pytest.raises(Refused):
        confirm("Remove seller 'acme'?", yes=False)


def test_yes_is_asked_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("Yes\n"))
    confirm("Remove 'a\x1bb'?", yes=False)
    assert capsys.readouterr() == ("", "Remove 'a\\x1bb'? [y/N] ")
    confirm("Remove?", yes=True)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("answer", "does"), [("\n", True), ("y\n", True), ("n\n", False), ("", False), ("x\n", False)])
def test_where_enter_is_yes_the_end_of_the_input_is_not(
    monkeypatch: pytest.MonkeyPatch, answer: str, does: bool
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with contextlib.nullcontext() if does else pytest.raises(Refused):
        confirm("Do this?", yes=False, default=True)


@pytest.mark.parametrize(
    ("form", "on_terminal", "said"),
    [
        (OutputFormat.TABLE, True, "nothing to show\n"),
        (OutputFormat.TABLE, False, ""),
        (OutputFormat.JSON, True, ""),
    ],
)
def test_an_empty_list_says_so_to_a_person_only(
    monkeypatch: pytest.MonkeyPatch, form: OutputFormat, on_terminal: bool, said: str
) -> None:
    out, err = (Terminal(), Terminal()) if on_terminal else (io.StringIO(), io.StringIO())
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    emit_rows([], [Column("name")], ListOutput(output=form))
    assert err.getvalue() == said
    emit_rows([{"name": "a"}], [Column("name")], ListOutput(output=form))
    assert err.getvalue() == said


def test_notices_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    notice("imported 3 \x1b numbers")
    assert capsys.readouterr() == ("", "imported 3 \\x1b numbers\n")
