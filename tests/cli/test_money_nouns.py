"""`balance` and `cap`: amounts and limits as people write them, refusals that change nothing, and what verify finds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import NOON_MS, change, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate: acme with 25 USD, solar with caps 200/day and 10 at once, buyer1 with 5 at once."""
    return walk(home)


def balance(home: Path) -> str:
    return str(done("balance", "show", "acme", "--json", home=home).json["balance"])


def usage(home: Path, *argv: str) -> list[tuple[Any, ...]]:
    rows = done("cap", "usage", *argv, "--json", home=home).json
    return [(r["scope"], r["name"], r["metric"], r["window"], r["used"], r["in_flight"], r["free"]) for r in rows]


# balance -------------------------------------------------------------------------------------------------------------


def test_a_balance_is_shown_with_what_is_held_and_available(estate: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1.1")
        assert done("balance", "show", "acme", "--json", home=estate).json == {
            "seller": "acme",
            "currency": "USD",
            "balance": "25.000000",
            "held": "0.200000",
            "available": "24.800000",
            "credit_limit": "0.000000",
            "low_balance": "0.000000",
            "status": "active",
        }


@pytest.mark.parametrize(
    ("amount", "after"),
    [
        ("5", "30.000000"),
        ("5.50 usd", "30.500000"),
        ("-5", "20.000000"),
        ("-25", "0.000000"),
        ("0.000001", "25.000001"),
    ],
)
def test_money_is_added_and_taken_back(estate: Path, amount: str, after: str) -> None:
    before = contents(estate)
    rehearsed = done("balance", "add", "acme", amount, "--reason", "why", "--dry-run", "--json", home=estate)
    assert rehearsed.json["balance"] == after
    assert contents(estate) == before
    assert done("balance", "add", "acme", amount, "--reason", "why", "--json", home=estate).json["balance"] == after
    assert balance(estate) == after


def test_the_same_key_again_adds_nothing(estate: Path) -> None:
    for _ in range(2):
        done("balance", "add", "acme", "10", "--reason", "invoice 7", "--key", "invoice-7", home=estate)
    assert balance(estate) == "35.000000"
    other = run("balance", "add", "acme", "11", "--reason", "invoice 7", "--key", "invoice-7", home=estate)
    assert other.code == ExitCode.REFUSED
    assert "[key-used]" in other.err
    assert balance(estate) == "35.000000"


@pytest.mark.parametrize(
    ("argv", "code", "slug"),
    [
        (("acme", "-25.000001", "--reason", "x"), ExitCode.REFUSED, "not-enough-money"),
        (("acm", "5", "--reason", "x"), ExitCode.REFUSED, "seller-not-found"),
        (("acme", "5 EUR", "--reason", "x"), ExitCode.USAGE, "currency-mismatch"),
        (("acme", "5", "--reason", " "), ExitCode.USAGE, "reason-missing"),
        (("acme", "5"), ExitCode.USAGE, "argument-missing"),
        (("acme", "--reason", "x"), ExitCode.USAGE, "argument-missing"),
        (("acme", "0", "--reason", "x"), ExitCode.USAGE, "amount-invalid"),
        (("acme", "5,50", "--reason", "x"), ExitCode.USAGE, "amount-invalid"),
        (("acme", "1e3", "--reason", "x"), ExitCode.USAGE, "amount-invalid"),
        (("acme", "5", "--reason", "x" * 501), ExitCode.USAGE, "text-too-long"),
        (("acme", "5", "--reason", "a\nb"), ExitCode.USAGE, "value-invalid"),
        (("acme", "5", "--raeson", "x"), ExitCode.USAGE, "option-unknown"),
    ],
)
def test_a_wrong_adjustment_changes_nothing(estate: Path, argv: tuple[str, ...], code: int, slug: str) -> None:
    before = contents(estate)
    result = run("balance", "add", *argv, home=estate)
    assert result.code == code, result.err
    assert f"[{slug}]" in result.err
    assert result.out == ""
    assert contents(estate) == before


def test_what_live_calls_hold_cannot_be_taken_back(estate: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1.1")
        result = run("balance", "add", "acme", "-25", "--reason", "all of it", home=estate)
        assert result.code == ExitCode.REFUSED
        assert "24.80 USD available" in result.err


def test_the_ledger_has_every_movement_newest_first(estate: Path) -> None:
    done("balance", "add", "acme", "-5", "--reason", "refund", home=estate)
    rows = done("balance", "ledger", "acme", "--json", home=estate).json
    assert [(r["amount"], r["balance_after"], r["reason"], r["kind"]) for r in rows] == [
        ("-5.000000", "20.000000", "refund", "adjustment"),
        ("25.000000", "25.000000", "wire 1234", "adjustment"),
    ]
    assert all(r["currency"] == "USD" and r["actor"] and r["call_id"] is None for r in rows)
    one = run("balance", "ledger", "acme", "--limit", "1", "--json", home=estate)
    assert [r["reason"] for r in one.json] == ["refund"]
    assert "--limit N shows more" in one.err
    assert done("balance", "ledger", "acme", "--until", "yesterday", "--json", home=estate).json == []
    assert done("balance", "ledger", "acme", "--since", "yesterday", "--json", home=estate).json == rows
    sorted_rows = done("balance", "ledger", "acme", "--sort", "-amount", "--json", home=estate).json
    assert sorted_rows == rows[::-1]


def test_verify_is_silent_when_all_adds_up(estate: Path) -> None:
    for argv in (("balance", "verify"), ("cap", "verify"), ("db", "verify")):
        result = done(*argv, home=estate)
        assert (result.out, result.err) == ("", "")


@pytest.mark.parametrize(
    ("sql", "what", "recorded", "recounted"),
    [
        ("UPDATE account SET balance_micros = 26000000", "balance", "26.000000", "25.000000"),
        ("UPDATE account SET held_micros = 1", "held", "0.000001", "0.000000"),
    ],
)
def test_verify_finds_an_account_that_does_not_add_up(
    estate: Path, sql: str, what: str, recorded: str, recounted: str
) -> None:
    change(estate, sql)
    result = run("balance", "verify", "--json", home=estate)
    assert result.code == ExitCode.DRIFT
    assert result.json == [
        {"seller": "acme", "what": what, "recorded": recorded, "recounted": recounted, "currency": "USD"}
    ]
    assert "[balance-drift]" in result.err
    whole = run("db", "verify", "--json", home=estate)
    assert whole.code == ExitCode.DRIFT
    [row] = whole.json
    assert row.pop("fix")
    assert row == {"tenant": "default", "check": what, "subject": "acme", "recorded": recorded, "recounted": recounted}


# cap -----------------------------------------------------------------------------------------------------------------


def test_caps_are_listed_and_their_use_is_counted(estate: Path) -> None:
    assert [(r["scope"], r["name"], r["metric"], r["window"], r["limit"], r["timezone"]) for r in done(
        "cap", "list", "--json", home=estate
    ).json] == [
        ("campaign", "solar", "billable", "day", 200, "America/New_York"),
        ("campaign", "solar", "concurrent", None, 10, "America/New_York"),
        ("target", "buyer1", "concurrent", None, 5, "UTC"),
    ]  # fmt: skip
    with engine(estate, now_ms=_now_ms()) as calls:
        calls.arrive("1.1")
        assert usage(estate, "campaign", "solar") == [
            ("campaign", "solar", "billable", "day", 0, 1, 199),
            ("campaign", "solar", "concurrent", None, 0, 1, 9),
        ]
        calls.end("1.1", answered_for_ms=30_000)
    assert usage(estate) == [
        ("campaign", "solar", "billable", "day", 1, 0, 199),
        ("campaign", "solar", "concurrent", None, 0, 0, 10),
        ("target", "buyer1", "concurrent", None, 0, 0, 5),
    ]
    resets = {r["metric"]: r["resets"] for r in done("cap", "usage", "campaign", "--json", home=estate).json}
    assert resets["concurrent"] is None
    assert resets["billable"].endswith(":00:00.000Z")


def _now_ms() -> int:
    from capconduit.clock import SystemClock

    return SystemClock().now_ms()  # the command line's own clock decides which window is that of now


@pytest.mark.parametrize(
    ("argv", "caps"),
    [
        (("campaign", "solar", "--concurrent", "20"), {("concurrent", None, 20), ("billable", "day", 200)}),
        (("campaign", "solar", "--billable", "none/day"), {("concurrent", None, 10)}),
        (("campaign", "solar", "--concurrent", "none"), {("billable", "day", 200)}),
        (
            ("campaign", "solar", "--billable", "9/hour", "--billable", "90/day", "--attempts", "1000/total"),
            {("concurrent", None, 10), ("billable", "hour", 9), ("billable", "day", 90), ("attempts", "total", 1000)},
        ),
        (("rule", "solar/buyer1", "--connected", "7/week"), {("connected", "week", 7)}),
        (("did", "(800) 555-0100", "--concurrent", "0"), {("concurrent", None, 0)}),
        (("trunk", "carrier", "--attempts", "5/month"), {("attempts", "month", 5)}),
        (("seller", "acme", "--billable", "5/day"), {("billable", "day", 5)}),
        (("system", "--concurrent", "500"), {("concurrent", None, 500)}),
    ],
)
def test_caps_are_set_changed_and_taken_away(
    estate: Path, argv: tuple[str, ...], caps: set[tuple[str, str | None, int]]
) -> None:
    before = contents(estate)
    rehearsed = done("cap", "set", *argv, "--dry-run", "--json", home=estate)
    assert {(r["metric"], r["window"], r["limit"]) for r in rehearsed.json} == caps
    assert "nothing was changed" in rehearsed.err
    assert contents(estate) == before
    now = done("cap", "set", *argv, "--json", home=estate).json
    assert {(r["metric"], r["window"], r["limit"]) for r in now} == caps
    scope = argv[:1] if argv[0] == "system" else argv[:2]
    kept = done("cap", "list", *scope, "--json", home=estate).json
    assert {(r["metric"], r["window"], r["limit"]) for r in kept} == caps


@pytest.mark.parametrize(
    ("argv", "code", "slug"),
    [
        (("campaign", "solar"), ExitCode.USAGE, "limit-missing"),
        (("campaign",), ExitCode.USAGE, "argument-missing"),
        (("rule", "solar", "--concurrent", "1"), ExitCode.USAGE, "rule-name-invalid"),
        (("rule", "--concurrent", "1"), ExitCode.USAGE, "argument-missing"),
        (("system", "solar", "--concurrent", "1"), ExitCode.USAGE, "argument-unexpected"),
        (("compaign", "solar", "--concurrent", "1"), ExitCode.USAGE, "value-invalid"),
        (("campaign", "solar", "--concurrent", "1/day"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--concurrent", "-1"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--concurrent", "many"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--billable", "200"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--billable", "none"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--billable", "200/fortnight"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--billable", "9999999999/day"), ExitCode.USAGE, "limit-invalid"),
        (("campaign", "solar", "--billable", "1/day", "--billable", "2/day"), ExitCode.USAGE, "limit-twice"),
        (("campaign", "solr", "--concurrent", "1"), ExitCode.REFUSED, "campaign-not-found"),
        (("did", "+18005550199", "--concurrent", "1"), ExitCode.REFUSED, "did-not-found"),
        # All or nothing: the first limit is right.
        (("campaign", "solar", "--concurrent", "3", "--billable", "x/day"), ExitCode.USAGE, "limit-invalid"),
    ],
)
def test_a_wrong_cap_changes_nothing(estate: Path, argv: tuple[str, ...], code: int, slug: str) -> None:
    before = contents(estate)
    result = run("cap", "set", *argv, home=estate)
    assert result.code == code, result.err
    assert f"[{slug}]" in result.err
    assert result.out == ""
    assert contents(estate) == before


def test_clear_asks_and_takes_all_caps_of_one_thing(estate: Path) -> None:
    before = contents(estate)
    assert run("cap", "clear", "campaign", "solar", home=estate).code == ExitCode.USAGE
    assert "the 1 cap of target buyer1" in run("cap", "clear", "target", "buyer1", home=estate).err
    rehearsed = done("cap", "clear", "campaign", "solar", "--dry-run", home=estate)
    assert "2 caps" in rehearsed.err
    assert contents(estate) == before
    done("cap", "clear", "campaign", "solar", "--yes", home=estate)
    assert [scope for scope, *_ in usage(estate)] == ["target"]
    assert "nothing was changed" in done("cap", "clear", "campaign", "solar", home=estate).err


def test_a_new_cap_counts_what_happened_before_it(estate: Path) -> None:
    with engine(estate, now_ms=_now_ms()) as calls:
        calls.arrive("1.1")
        calls.end("1.1", answered_for_ms=30_000)
        calls.arrive("1.2")
        done("cap", "set", "seller", "acme", "--billable", "5/day", "--concurrent", "3", home=estate)
    assert usage(estate, "seller") == [
        ("seller", "acme", "billable", "day", 1, 1, 3),
        ("seller", "acme", "concurrent", None, 0, 1, 2),
    ]


def test_verify_finds_a_counter_that_differs_and_fix_sets_it_right(estate: Path) -> None:
    with engine(estate, now_ms=_now_ms()) as calls:
        calls.arrive("1.1")
    sql = "UPDATE counter SET in_flight = 3 WHERE cap_id = (SELECT id FROM cap WHERE scope = 'target')"
    change(estate, sql)
    found = run("cap", "verify", "--json", home=estate)
    assert found.code == ExitCode.DRIFT
    (drift,) = found.json
    assert (drift["scope"], drift["name"], drift["metric"], drift["window"], drift["window_start"]) == (
        "target", "buyer1", "concurrent", None, None,
    )  # fmt: skip
    assert (drift["in_flight"], drift["recounted_in_flight"], drift["used"], drift["recounted_used"]) == (3, 1, 0, 0)
    assert "--fix" in found.err
    rehearsed = run("cap", "verify", "--fix", "--dry-run", home=estate)
    assert rehearsed.code == ExitCode.DRIFT
    whole = run("db", "verify", "--json", home=estate)
    assert [(r["check"], r["subject"], r["recorded"], r["recounted"]) for r in whole.json] == [
        ("cap in flight", "target buyer1", "3", "1")
    ]
    fixed = run("cap", "verify", "--fix", home=estate)
    assert fixed.code == ExitCode.DRIFT, "drift was found"
    assert "set right" in fixed.err
    assert done("cap", "verify", home=estate).out == ""


def test_windows_of_another_day_are_not_those_of_now(estate: Path) -> None:
    with engine(estate, now_ms=NOON_MS - 400 * 86_400_000) as calls:
        calls.arrive("1.1")
        calls.end("1.1", answered_for_ms=30_000)
    assert usage(estate, "campaign", "solar")[0][4] == 0


def test_the_audit_tells_money_in_units_and_limits_what_is_left_by_the_filter(estate: Path) -> None:
    done("balance", "add", "acme", "1.50", "--reason", "first", home=estate)
    done("cap", "set", "seller", "acme", "--concurrent", "7", home=estate)
    told = done("audit", "list", "--filter", "action=balance.add", "--limit", "1", "--json", home=estate).json
    assert re.fullmatch(r"balance \d+\.\d\d → \d+\.\d\d", told[0]["changed"])
