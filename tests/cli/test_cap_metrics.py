"""`cap`: minutes, money, calls per second and windows that look back, as people write and read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.errors import ExitCode
from capconduit_cli.output import Quantity, Unit
from tests.cli.estate import DID, change, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate without its caps."""
    walk(home)
    done("cap", "clear", "campaign", "solar", "--yes", home=home)
    done("cap", "clear", "target", "buyer1", "--yes", home=home)
    return home


def rows(home: Path, *argv: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = done("cap", *argv, "--json", home=home).json
    return found


def now_ms() -> int:
    return SystemClock().now_ms()  # the command line's own clock decides which window is that of now


@pytest.mark.parametrize(
    ("scope", "option", "text", "wanted", "shown"),
    [
        ("campaign solar", "--concurrent", "10", ("concurrent", None, 10, "calls", ""), "10"),
        ("campaign solar", "--attempts", "300/day", ("attempts", "day", 300, "calls", ""), "300"),
        ("campaign solar", "--connected", "20/hour", ("connected", "hour", 20, "calls", ""), "20"),
        ("campaign solar", "--billable", "50/rolling:1h", ("billable", "rolling:1h", 50, "calls", ""), "50"),
        ("campaign solar", "--billable", "50/rolling:7d", ("billable", "rolling:7d", 50, "calls", ""), "50"),
        ("campaign solar", "--billable", "5/rolling:90s", ("billable", "rolling:1m30s", 5, "calls", ""), "5"),
        ("campaign solar", "--minutes", "500/day", ("minutes", "day", 30_000, "seconds", ""), "500m00s"),
        ("campaign solar", "--spend", "25.50/week", ("spend", "week", "25.500000", "money", "USD"), "25.50 USD"),
        ("campaign solar", "--spend", "25.5 usd/total", ("spend", "total", "25.500000", "money", "USD"), "25.50 USD"),
        ("seller acme", "--spend", "1/month", ("spend", "month", "1.000000", "money", "USD"), "1.00 USD"),
        ("rule solar/buyer1", "--spend", "1/month", ("spend", "month", "1.000000", "money", "USD"), "1.00 USD"),
        (f"did {DID}", "--spend", "1/month", ("spend", "month", "1.000000", "money", "USD"), "1.00 USD"),
        ("target buyer1", "--spend", "1/month", ("spend", "month", "1.000000", "money", ""), "1.00"),
        ("trunk carrier", "--cps", "5", ("cps", None, 5, "calls", ""), "5"),
        ("system", "--minutes", "1/rolling:10s", ("minutes", "rolling:10s", 60, "seconds", ""), "1m00s"),
    ],
)
def test_a_limit_by_any_metric_is_set_shown_and_taken_away(
    estate: Path, scope: str, option: str, text: str, wanted: tuple[Any, ...], shown: str
) -> None:
    before = contents(estate)
    argv = ("set", *scope.split(), option)
    (row,) = rows(estate, *argv, text, "--dry-run")
    assert contents(estate) == before
    assert rows(estate, *argv, text)[0].items() >= {
        "metric": wanted[0], "window": wanted[1], "limit": wanted[2], "unit": wanted[3], "currency": wanted[4],
        "free": wanted[2],
    }.items()  # fmt: skip
    (listed,) = rows(estate, "list", *scope.split())
    assert {key: listed[key] for key in listed if key != "id"} == {
        key: row[key] for key in listed if key != "id"
    }  # fmt: skip
    line = done("cap", "list", *scope.split(), home=estate).out.splitlines()[1]
    assert f"  {shown}  " in line
    none = "none" if "/" not in text else f"none/{text.rpartition('/')[2]}"
    assert rows(estate, *argv, none) == []


@pytest.mark.parametrize(
    ("scope", "argv", "slug", "says"),
    [
        ("campaign solar", ("--spend", "25 EUR/week"), "currency-mismatch", "USD"),
        ("target buyer1", ("--spend", "25 USD/week"), "currency-mismatch", "all sellers"),
        ("system", ("--spend", "25 USD/week"), "currency-mismatch", "without USD"),
        ("campaign solar", ("--minutes", "1.5/day"), "limit-invalid", "500/day"),
        ("campaign solar", ("--minutes", "500"), "limit-invalid", "500/day"),
        ("campaign solar", ("--minutes", "500 USD/day"), "limit-invalid", "spend only"),
        ("campaign solar", ("--minutes", "100000001/day"), "limit-invalid", "too large"),
        ("campaign solar", ("--spend", "1000000001/day"), "limit-invalid", "too large"),
        ("campaign solar", ("--spend", "1,50/day"), "limit-invalid", "25.50/day"),
        ("campaign solar", ("--cps", "5/day"), "limit-invalid", "like 5"),
        ("campaign solar", ("--cps", "10001"), "limit-invalid", "too large"),
        ("campaign solar", ("--attempts", "5/rolling"), "limit-invalid", "rolling:1h"),
        ("campaign solar", ("--attempts", "5/rolling:soon"), "limit-invalid", "soon"),
        ("campaign solar", ("--attempts", "5/rolling:9s"), "limit-invalid", "10s to 35d"),
        ("campaign solar", ("--attempts", "5/rolling:36d"), "limit-invalid", "10s to 35d"),
        ("campaign solar", ("--attempts", "5/day:1h"), "limit-invalid", "window"),
        ("campaign solar", ("--attempts", "5/rolling:1h", "--attempts", "6/rolling:60m"), "limit-twice", "attempts"),
    ],
)  # fmt: skip
def test_a_wrong_limit_changes_nothing(estate: Path, scope: str, argv: tuple[str, ...], slug: str, says: str) -> None:
    before = contents(estate)
    result = run("cap", "set", *scope.split(), *argv, home=estate)
    assert result.code == ExitCode.USAGE, result.err
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


def test_two_windows_that_look_back_stand_side_by_side(estate: Path) -> None:
    caps = rows(estate, "set", "campaign", "solar", "--attempts", "5/rolling:1m", "--attempts", "50/rolling:1h")
    assert [(row["window"], row["limit"], row["resets"]) for row in caps] == [
        ("rolling:1m", 5, None), ("rolling:1h", 50, None),
    ]  # fmt: skip


def test_what_calls_reserve_and_use_is_counted_in_minutes_and_money(estate: Path) -> None:
    done(
        "cap", "set", "campaign", "solar", "--minutes", "10/day", "--spend", "5/day", "--attempts", "9/rolling:1h",
        home=estate,
    )  # fmt: skip
    with engine(estate, now_ms=now_ms()) as calls:
        call_id = calls.arrive("1.1").call_id

        def usage() -> dict[str, tuple[Any, ...]]:
            found = rows(estate, "usage", "campaign", "solar")
            return {row["metric"]: (row["used"], row["in_flight"], row["free"]) for row in found}

        assert usage() == {
            "attempts": (0, 1, 8), "minutes": (0, 60, 540), "spend": ("0.000000", "0.200000", "4.800000"),
        }  # fmt: skip
        text = done("explain", call_id, home=estate).out
        assert "solar minutes/day: 0m00s/0m00s/10m00s\n" in text
        assert "solar spend/day: 0.00/0.00/5.00\n" in text
        assert "campaign solar minutes/day: 1m00s in flight (dialing)\n" in text
        assert "campaign solar spend/day: 0.20 USD in flight (dialing)\n" in text
        story = done("explain", call_id, "--json", home=estate).json
        spend = next(check for check in story["checks"] if check.get("metric") == "spend")
        assert (spend["used"], spend["limit"]) == ("0.000000", "5.000000")
        calls.end("1.1", answered_for_ms=20_500)
    assert usage() == {
        "attempts": (1, 0, 8), "minutes": (21, 0, 579), "spend": ("0.200000", "0.000000", "4.800000"),
    }  # fmt: skip
    table = done("cap", "usage", "campaign", "solar", home=estate).out
    assert "0m21s" in table
    assert "0.20 USD" in table
    text = done("explain", call_id, home=estate).out
    assert "campaign solar minutes/day: 0m21s used (settled)\n" in text
    places = {p["counts"]: p["counted"] for p in done("explain", call_id, "--json", home=estate).json["places"]}
    assert places == {"attempts/rolling:1h": 1, "minutes/day": 21, "spend/day": "0.200000"}
    assert done("cap", "verify", home=estate).out == ""
    by_free = rows(estate, "usage", "--sort", "free")
    assert [row["metric"] for row in by_free] == ["attempts", "minutes", "spend"]
    assert rows(estate, "usage", "--filter", "used=0.200000")[0]["metric"] == "spend"


def test_verify_finds_wrong_minutes_and_money(estate: Path) -> None:
    done("cap", "set", "campaign", "solar", "--minutes", "10/day", "--spend", "5/day", home=estate)
    for metric in ("minutes", "spend"):
        change(estate, "UPDATE counter SET used = 90 WHERE cap_id = (SELECT id FROM cap WHERE metric = ?)", metric)
    found = run("cap", "verify", "--json", home=estate)
    assert found.code == ExitCode.DRIFT
    drifts = {row["metric"]: (row["used"], row["recounted_used"], row["unit"]) for row in found.json}
    assert drifts == {"minutes": (90, 0, "seconds"), "spend": ("0.000090", "0.000000", "money")}
    assert "1m30s" in run("cap", "verify", home=estate).out


def test_verify_finds_a_target_whose_calls_are_miscounted_and_fix_sets_it_right(estate: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1.1")
        assert done("cap", "verify", home=estate).out == ""
        change(estate, "UPDATE target_state SET active = 3")
        found = run("cap", "verify", "--json", home=estate)
        assert found.code == ExitCode.DRIFT
        (drift,) = found.json
        assert (drift["scope"], drift["name"], drift["metric"], drift["window"], drift["window_start"]) == (
            "target", "buyer1", "active", None, None,
        )  # fmt: skip
        assert (drift["in_flight"], drift["recounted_in_flight"], drift["unit"]) == (3, 1, "calls")
        whole = run("db", "verify", "--json", home=estate)
        assert whole.code == ExitCode.DRIFT
        assert [(r["check"], r["subject"], r["recorded"], r["recounted"]) for r in whole.json] == [
            ("target active", "target buyer1", "3", "1")
        ]
        before = contents(estate)
        assert run("cap", "verify", "--fix", "--dry-run", home=estate).code == ExitCode.DRIFT
        assert contents(estate) == before
        assert "set right" in run("cap", "verify", "--fix", home=estate).err
        assert done("target", "show", "buyer1", "--fields", "active", "-o", "plain", home=estate).out == "1\n"
        assert done("cap", "verify", home=estate).out == ""
        calls.end("1.1")
    assert done("cap", "verify", home=estate).out == ""


@pytest.mark.parametrize(
    ("quantity", "plain", "words"),
    [
        (Quantity(0), 0, "0"),
        (Quantity(5), 5, "5"),
        (Quantity(59, Unit.SECONDS), 59, "0m59s"),
        (Quantity(3_661, Unit.SECONDS), 3_661, "61m01s"),
        (Quantity(-61, Unit.SECONDS), -61, "-1m01s"),
        (Quantity(25_500_000, Unit.MONEY, "USD"), "25.500000", "25.50 USD"),
        (Quantity(1, Unit.MONEY), "0.000001", "0.000001"),
    ],
)
def test_a_quantity_has_a_form_for_machines_and_one_for_people(
    quantity: Quantity, plain: int | str, words: str
) -> None:
    assert (quantity.plain, quantity.words) == (plain, words)
