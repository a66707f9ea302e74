"""`balance statement` in its forms, and `balance check` for cron."""

from __future__ import annotations

import csv
import io
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import change, done, engine, walk
from tests.cli.runner import run

HOSTILE = "<script>alert(1)</script>&\"'"
THIS = ("balance", "statement", "acme", "--month", "2026-11")


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate with two calls at noon of 2026-11-21, and a payment with a hostile reason."""
    walk(home)
    with engine(home) as calls:
        for uniqueid, talk_ms in (("u1", 61_000), ("u2", 30_000)):
            calls.arrive(uniqueid)
            calls.end(uniqueid, answered_for_ms=talk_ms)
    done("balance", "add", "acme", "1.000001", "--reason", HOSTILE, home=home)
    return home


def test_as_text_it_fits_a_mail_and_sums_up(estate: Path) -> None:
    text = done(*THIS, home=estate).out
    assert "Statement 2026-11: acme" in text
    assert "2026-11-01 to 2026-11-30, USD" in text
    lines = {line.split("  ")[0]: line.split()[-1] for line in text.splitlines() if line and not line.startswith(" ")}
    assert lines["Opening balance"] == "0.00"
    assert lines["Calls"] == "-0.60"
    assert lines["Payments and adjustments"] == "26.000001"
    assert lines["Closing balance"] == "25.400001"
    assert "solar" in text
    assert all(len(line) <= 78 for line in text.splitlines())


def test_as_csv_the_balance_runs_from_the_opening_to_the_closing_one(estate: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(done(*THIS, "-o", "csv", home=estate).out)))
    assert [row["line"] for row in rows] == ["opening", "call", "adjustment", "adjustment", "closing"]
    balance = Decimal(rows[0]["balance"])
    for row in rows[1:]:
        balance += Decimal(row["amount"] or 0)
        assert Decimal(row["balance"]) == balance
    assert rows[1] | {"calls": "2", "billed_minutes": "3.00", "text": "solar"} == rows[1]


def test_how_long_calls_were_whose_records_are_pruned_is_not_told(estate: Path) -> None:
    change(estate, "DELETE FROM cdr WHERE uniqueid = 'u1'")
    made = done(*THIS, "--json", home=estate).json
    known, pruned = made["call_groups"]
    assert (known["group"], known["billed_minutes"], known["written_off"]) == ("solar", "1.00", "0.000000")
    assert (pruned["calls"], pruned["amount"]) == (1, "-0.400000")
    assert [pruned[key] for key in ("billed_seconds", "billed_minutes", "talk_ms", "written_off")] == [None] * 4
    assert made["written_off"] is None
    rows = list(csv.DictReader(io.StringIO(done(*THIS, "-o", "csv", home=estate).out)))
    assert (rows[2]["billed_minutes"], rows[2]["talk_ms"]) == ("", "")
    lines = [line.split() for line in done(*THIS, home=estate).out.splitlines()]
    assert [line[-2] for line in lines if line[:1] in (["calls"], ["all"]) and line[-1].startswith("-")] == ["-", "-"]
    assert (
        ">0.00<" not in done(*THIS, "-o", "html", home=estate).out.partition("<h2>Calls</h2>")[2].partition("<h2>")[0]
    )


def test_as_json_it_is_one_object(estate: Path) -> None:
    made = done(*THIS, "--by", "rate", "--json", home=estate).json
    assert {k: made[k] for k in ("opening", "calls", "adjustments", "fees", "corrections", "closing", "final")} == {
        "opening": "0.000000", "calls": "-0.600000", "adjustments": "26.000001", "fees": "0.000000",
        "corrections": "0.000000", "closing": "25.400001", "final": False,
    }  # fmt: skip
    assert [group["group"] for group in made["call_groups"]] == ["0.20/min 60/60"]
    assert [entry["reason"] for entry in made["entries"]] == ["wire 1234", HOSTILE]


class Page(HTMLParser):
    """The tags and texts of a page, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_as_a_page_it_needs_nothing_else_and_runs_nothing(estate: Path) -> None:
    text = done(*THIS, "-o", "html", home=estate).out
    page = Page(text)
    assert page.loads == []
    assert "url(" not in text
    assert "@import" not in text
    assert "script" not in page.tags
    assert HOSTILE in page.texts  # as text, and whole
    for amount in ("0.00", "-0.60", "26.000001", "25.400001"):
        assert amount in page.texts
    assert "@page" in text
    assert text.startswith("<!doctype html>")


@pytest.mark.parametrize("form", [(), ("--json",), ("-o", "csv"), ("-o", "html")])
def test_where_it_does_not_add_up_there_is_no_statement(estate: Path, form: tuple[str, ...]) -> None:
    change(estate, "UPDATE account SET balance_micros = balance_micros + 1")
    result = run(*THIS, *form, home=estate)
    assert (result.code, result.out) == (ExitCode.DRIFT, "")
    assert "[statement-differs]" in result.err
    assert "0.000001 off" in result.err


@pytest.mark.parametrize(
    ("options", "slug"),
    [
        (("--month", "2199-12"), "month-to-come"),
        (("--month", "soon"), "month-invalid"),
        (("--json", "-o", "csv"), "output-conflict"),
        (("-o", "xlsx"), "value-invalid"),
        (("--by", "target"), "value-invalid"),
    ],
)
def test_what_cannot_be_a_statement_is_refused(estate: Path, options: tuple[str, ...], slug: str) -> None:
    result = run("balance", "statement", "acme", *options, home=estate)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert f"[{slug}]" in result.err


def test_a_key_that_was_used_says_that_nothing_was_added(estate: Path) -> None:
    argv = ("balance", "add", "acme", "5", "--reason", "wire", "--key", "w1", "--json")
    first, again = done(*argv, home=estate), done(*argv, home=estate)
    assert (first.json["added"], again.json["added"]) == (True, False)
    assert first.json["balance"] == again.json["balance"]
    assert first.err == ""
    assert "nothing was added" in again.err


def test_check_is_silent_where_all_is_well_and_tells_by_its_exit_code_where_not(estate: Path) -> None:
    well = run("balance", "check", "--below", "25.40", home=estate)
    assert (well.code, well.out, well.err) == (0, "", "")
    low = run("balance", "check", "--below", "25.400002", home=estate)
    assert low.code == ExitCode.THRESHOLD
    assert "acme" in low.out
    assert "[balance-low]" in low.err
    done("seller", "set", "acme", "--low-balance", "26", home=estate)
    assert run("balance", "check", "--json", home=estate).json[0]["threshold"] == "26.000000"


@pytest.mark.parametrize(
    "argv",
    [
        ("cdr", "list"), ("cdr", "export"), ("balance", "ledger", "acme"), ("audit", "list"),
    ],
)  # fmt: skip
def test_a_span_the_wrong_way_round_is_refused_and_not_empty(estate: Path, argv: tuple[str, ...]) -> None:
    result = run(*argv, "--since", "2026-11-22", "--until", "2026-11-21", home=estate)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "--since 2026-11-22T00:00:00Z is after --until 2026-11-21T00:00:00Z [span-inverted]" in result.err
    assert run(*argv, "--since", "2026-11-21", "--until", "2026-11-21", home=estate).code == 0


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--max-duration", "25h", "1d1h of talk is out of range"),
        ("--ring-budget", "20m", "20m of ringing is out of range"),
        ("--billable-threshold", "2h", "2h of talk is out of range"),
        ("--max-attempts", "21", "21 targets to try is out of range"),
    ],
)
def test_a_campaign_s_numbers_are_said_as_people_write_them(estate: Path, option: str, value: str, said: str) -> None:
    result = run("campaign", "set", "solar", option, value, home=estate)
    assert result.code == ExitCode.USAGE
    assert said in result.err
    assert "000" not in result.err
