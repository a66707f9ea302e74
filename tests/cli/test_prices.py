"""Rates with two prices, rates and payouts of targets and rules, and what records say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import DID, Calls, change, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate, with a second target, a rate of two prices, a payout and a rate in euros."""
    walk(home)
    for argv in (
        ("target", "add", "buyer2", "--address", "sip:second@127.0.0.1:5081"),
        ("rate", "add", "long", "--per-minute", "0.30", "--then", "0.15", "--then-after", "60s"),
        ("rate", "add", "pay", "--per-minute", "0.12", "--increment", "1/1"),
        ("rate", "add", "euro", "--per-minute", "0.20 EUR"),
    ):
        done(*argv, home=home)
    return home


def shown(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


# Two prices ----------------------------------------------------------------------------------------------------------


def test_a_second_price_is_added_changed_and_taken_away(estate: Path) -> None:
    long = shown(estate, "rate", "show", "long")
    assert (long["then_per_minute"], long["then_after_ms"]) == ("0.150000", 60_000)
    assert long in done("rate", "list", "--json", home=estate).json
    assert shown(estate, "rate", "set", "long", "--then", "0.08")["then_per_minute"] == "0.080000"
    assert shown(estate, "rate", "set", "long", "--then-after", "2m")["then_after_ms"] == 120_000
    assert shown(estate, "rate", "set", "long", "--then", "0")["then_per_minute"] == "0.000000"
    before = contents(estate)
    assert shown(estate, "rate", "set", "long", "--then", "none", "--dry-run")["then_after_ms"] is None
    assert contents(estate) == before
    plain = shown(estate, "rate", "set", "long", "--then", "none")
    assert (plain["then_per_minute"], plain["then_after_ms"]) == (None, None)
    assert shown(estate, "rate", "set", "std", "--then", "0.10", "--then-after", "1h")["then_after_ms"] == 3_600_000


@pytest.mark.parametrize(
    ("argv", "slug", "says"),
    [
        (("add", "x", "--per-minute", "1", "--then", "1"), "second-step-incomplete", "--then-after 60s"),
        (("add", "x", "--per-minute", "1", "--then-after", "1m"), "second-step-incomplete", "--then 0.10"),
        (("set", "std", "--then", "1"), "second-step-incomplete", "std"),
        (("set", "std", "--then-after", "1m"), "second-step-incomplete", "std"),
        (("set", "long", "--then", "none", "--then-after", "1m"), "second-step-conflict", "--then-after"),
        (("add", "x", "--per-minute", "1", "--then", "1", "--then-after", "500ms"), "then-after-invalid", "500ms"),
        (("add", "x", "--per-minute", "1", "--then", "1", "--then-after", "25h"), "then-after-invalid", "86400s"),
        (("set", "long", "--then-after", "0"), "then-after-invalid", "0"),
        (("add", "x", "--per-minute", "1 USD", "--then", "1 EUR", "--then-after", "1m"), "currency-mismatch", "EUR"),
        (("set", "long", "--then", "1 EUR"), "currency-mismatch", "USD"),
        (("set", "long", "--then", "-1"), "amount-invalid", "-1"),
        # Nothing passes 64 bits: 10^15 micros a minute at most.
        (("add", "x", "--per-minute", "1000000000.000001"), "amount-invalid", "1000000000.000000"),
        (("add", "x", "--per-minute", "1", "--connect-fee", "1000000001"), "amount-invalid", "connect fee"),
        (("set", "std", "--per-minute", "1000000001"), "amount-invalid", "1000000001"),
        (("set", "long", "--then", "1000000001"), "amount-invalid", "1000000001"),
        (("add", "none", "--per-minute", "1"), "name-reserved", "none"),
    ],
)  # fmt: skip
def test_a_wrong_price_changes_nothing(estate: Path, argv: tuple[str, ...], slug: str, says: str) -> None:
    before = contents(estate)
    result = run("rate", *argv, home=estate)
    assert result.code == ExitCode.USAGE, result.err
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


def test_the_dearest_price_is_kept_and_decided_by(estate: Path) -> None:
    done("rate", "set", "std", "--per-minute", "1000000000", "--connect-fee", "1000000000", home=estate)
    assert shown(estate, "rate", "show", "std")["per_minute"] == "1000000000.000000"
    assert shown(estate, "route", DID)["reject_code"] == "balance_below_first_increment"


# Whose rate ----------------------------------------------------------------------------------------------------------


def test_a_rule_s_rate_stands_before_the_target_s_and_that_before_the_campaign_s(estate: Path) -> None:
    def price() -> tuple[str, Any]:
        (target,) = shown(estate, "route", DID)["targets"]
        paid = target["payout_rate"]
        return target["rate"]["per_minute"], paid and paid["per_minute"]

    assert price() == ("0.200000", None)
    done("rate", "add", "mid", "--per-minute", "0.25", home=estate)
    assert shown(estate, "target", "set", "buyer1", "--rate", "mid", "--payout", "pay")["payout"] == "pay"
    assert price() == ("0.250000", "0.120000")
    assert shown(estate, "rule", "set", "solar", "buyer1", "--rate", "long", "--payout", "mid")["rate"] == "long"
    assert price() == ("0.300000", "0.250000")
    done("rule", "set", "solar", "buyer1", "--rate", "none", "--payout", "none", home=estate)
    assert price() == ("0.250000", "0.120000")
    done("target", "set", "buyer1", "--rate", "none", "--payout", "none", home=estate)
    assert price() == ("0.200000", None)


def test_another_currency_is_refused_wherever_it_would_be_passed_by(estate: Path) -> None:
    """Decisions take the campaign's rate instead: an operator must not find out from the bill."""

    def refused(*argv: str) -> None:
        before = contents(estate)
        result = run(*argv, home=estate)
        assert result.code == ExitCode.REFUSED, argv
        assert "[currency-mismatch]" in result.err
        assert "acme" in result.err
        assert contents(estate) == before

    for option in ("--rate", "--payout"):
        refused("rule", "set", "solar", "buyer1", option, "euro")
        refused("rule", "add", "solar", "buyer2", option, "euro")
        refused("target", "set", "buyer1", option, "euro")
        done("target", "set", "buyer2", option, "euro", home=estate)  # no campaign goes there
        refused("rule", "add", "solar", "buyer2")
        done("target", "set", "buyer2", option, "none", home=estate)
    done("target", "set", "buyer2", "--rate", "euro", home=estate)
    done("rule", "add", "solar", "buyer2", "--rate", "long", home=estate)  # its own stands before
    refused("rule", "set", "solar", "buyer2", "--rate", "none")


def test_a_rate_in_use_is_not_removed(estate: Path) -> None:
    done("target", "set", "buyer1", "--payout", "pay", home=estate)
    done("rule", "set", "solar", "buyer1", "--rate", "long", home=estate)
    for name in ("pay", "long", "std"):
        result = run("rate", "remove", name, "--yes", home=estate)
        assert result.code == ExitCode.REFUSED
        assert "[rate-in-use]" in result.err
    done("rate", "remove", "euro", "--yes", home=estate)


@pytest.mark.parametrize(
    "argv", [("target", "set", "buyer1"), ("rule", "set", "solar", "buyer1"), ("rule", "add", "solar", "buyer2")]
)
def test_an_unknown_rate_is_told(estate: Path, argv: tuple[str, ...]) -> None:
    for option in ("--rate", "--payout"):
        result = run(*argv, option, "lnog", home=estate)
        assert result.code == ExitCode.REFUSED
        assert "did you mean 'long'?" in result.err


# What records say ----------------------------------------------------------------------------------------------------


def talk(calls: Calls, uniqueid: str, seconds: int, dial: str = "") -> str:
    """A call of some seconds; its id."""
    call_id: str = calls.arrive(uniqueid).call_id
    calls.clock.at_ms += 2_000
    calls.answer(uniqueid, dial)
    calls.clock.at_ms += seconds * 1_000
    calls.end(uniqueid, answered_for_ms=seconds * 1_000)
    return call_id


def test_a_record_has_payout_margin_and_both_prices(estate: Path) -> None:
    done("rule", "set", "solar", "buyer1", "--rate", "long", "--payout", "pay", home=estate)
    done("setting", "set", "funding_slice_s", "300", home=estate)
    with engine(estate) as calls:
        call_id = talk(calls, "1.1", 90)
    cdr = done("cdr", "list", "--json", home=estate).json[0]
    assert (cdr["amount"], cdr["payout"], cdr["margin"]) == ("0.450000", "0.180000", "0.270000")
    assert (cdr["rate"]["then_per_minute"], cdr["rate"]["then_after_ms"]) == ("0.150000", 60_000)
    assert (cdr["payout_rate"]["per_minute"], cdr["payout_rate"]["increment"]) == ("0.120000", "1/1")
    assert shown(estate, "cdr", "show", call_id)["attempt_list"][0]["rate"] == cdr["rate"]
    text = done("explain", call_id, home=estate).out
    assert "costs 0.30/min, 0.15/min beyond 60s, by 60/60; pays out 0.12/min by 1/1\n" in text
    assert "billed 120s at 0.30/min, 0.15/min beyond 60s, by 60/60 = 0.45 USD; balance then 24.55 USD\n" in text
    assert "pays out 0.18 USD at 0.12/min by 1/1; margin 0.27 USD\n" in text
    csv = done("cdr", "list", "-o", "csv", "--fields", "amount,payout,margin,currency", home=estate).out
    assert csv == "amount,payout,margin,currency\n0.450000,0.180000,0.270000,USD\n"


def test_a_call_that_was_not_answered_pays_out_nothing(estate: Path) -> None:
    done("target", "set", "buyer1", "--payout", "pay", home=estate)
    with engine(estate) as calls:
        calls.arrive("1.1")
        calls.end("1.1")
    cdr = done("cdr", "list", "--json", home=estate).json[0]
    assert (cdr["amount"], cdr["payout"], cdr["margin"]) == ("0.000000", "0.000000", "0.000000")


def test_route_says_what_each_target_costs_pays_out_and_leaves(estate: Path) -> None:
    done("target", "set", "buyer1", "--payout", "pay", home=estate)
    (target,) = shown(estate, "route", DID)["targets"]
    assert target["minute_margin"] == "0.080000"
    text = done("route", DID, home=estate).out
    assert "     costs 0.20/min by 60/60; pays out 0.12/min by 1/1; a minute leaves 0.08 USD\n" in text
    done("target", "set", "buyer1", "--payout", "none", home=estate)
    assert shown(estate, "route", DID)["targets"][0]["minute_margin"] is None
    assert "     costs 0.20/min by 60/60\n" in done("route", DID, home=estate).out


# Several at once -----------------------------------------------------------------------------------------------------


def test_legs_that_ring_at_once_are_shown_as_one_dial(estate: Path) -> None:
    done("rule", "add", "solar", "buyer2", "--rate", "long", home=estate)
    done("campaign", "set", "solar", "--strategy", "ring-all", home=estate)
    assert sorted(shown(estate, "route", DID)["target"].split("&")) == ["buyer1", "buyer2"]
    assert "  the first 2 ring at once\n" in done("route", DID, home=estate).out
    with engine(estate) as calls:
        answer = calls.arrive("1.1")
        assert done("call", "list", "--json", home=estate).json[0]["target"] == answer.target
        winner, loser = answer.target.split("&")
        legs = {a["target"]: a for a in shown(estate, "explain", "1.1")["attempts"]}
        calls.clock.at_ms += 2_000
        calls.answer("1.1", legs[winner]["dial"])
        assert done("call", "list", "--json", home=estate).json[0]["target"] == winner
        calls.clock.at_ms += 30_000
        calls.end("1.1", answered_for_ms=30_000)
    text = done("explain", "1.1", home=estate).out
    assert f"decided: dial {winner} and {loser} (caps" in text
    assert f"attempt 2: {loser}, {legs[loser]['dial']}, may ring 20s, at once with 1\n" in text
    assert "attempt 2 ends: another one answered\n" in text
    assert "attempt 1 is answered\n" in text
    story = shown(estate, "explain", "1.1")
    assert [(a["attempt"], a["round"], a["hangup_cause"]) for a in story["attempts"]] == [(1, 1, 16), (2, 1, 26)]
    assert (story["cdr"]["attempt"], story["cdr"]["attempts"], story["cdr"]["target"]) == (1, 2, winner)


# How targets are -----------------------------------------------------------------------------------------------------


def health(home: Path, name: str = "buyer1") -> tuple[Any, ...]:
    target = shown(home, "target", "show", name)
    return target["health"], target["active"], target["failures"]


def test_a_target_tells_its_calls_its_failures_and_its_rest(estate: Path) -> None:
    from capconduit.clock import SystemClock
    from capconduit.vocab import DialStatus

    done("setting", "set", "breaker_failures", "2", home=estate)
    done("setting", "set", "breaker_rest_s", "3600", home=estate)
    with engine(estate, now_ms=SystemClock().now_ms()) as calls:
        calls.arrive("1.1")
        assert health(estate) == ("well", 1, 0)
        calls.fail("1.1", 1, DialStatus.CHANUNAVAIL, 20)
        assert health(estate) == ("failing", 0, 1)
        calls.arrive("1.2")
        calls.fail("1.2", 1, DialStatus.CHANUNAVAIL, 20)
    assert health(estate) == ("resting", 0, 2)
    (row,) = done("target", "list", "--filter", "health=resting", "--json", home=estate).json
    assert row["rested_until"] > row["created"]
    answer = shown(estate, "route", DID)
    assert (answer["reject_code"], answer["skipped"][0]["why"]) == ("targets_all_closed", "rested after 2 failures")
    change(estate, "UPDATE target_state SET rested_until_ms = 1000 WHERE failures = 2")
    assert health(estate)[0] == "waiting"


def test_revive_undoes_a_rest_and_says_where_there_was_none(estate: Path) -> None:
    done("target", "rest", "buyer1", home=estate)
    assert shown(estate, "route", DID)["reject_code"] == "targets_all_closed"
    assert "buyer1: rested by an operator\n" in done("route", DID, home=estate).out
    before = contents(estate)
    rehearsed = done("target", "revive", "buyer1", "--dry-run", "--json", home=estate)
    assert (rehearsed.json["health"], rehearsed.json["rested_until"]) == ("well", None)
    assert contents(estate) == before
    version = before["estate_version"]
    assert shown(estate, "target", "revive", "buyer1")["health"] == "well"
    after = contents(estate)
    assert after["estate_version"] == version, "the estate is as it was"
    assert "target.revive" in after["audit"][-1]
    assert "target.revived" in after["event"][-1]
    assert shown(estate, "route", DID)["verdict"] == "dial"
    again = done("target", "revive", "buyer1", home=estate)
    assert "did not rest" in again.err
    assert contents(estate) == after


def test_a_rest_lasts_at_most_what_decisions_take_for_one(estate: Path) -> None:
    done("target", "rest", "buyer1", "--for", "30s", home=estate)
    assert health(estate) == ("resting", 0, 0)
    before = contents(estate)
    for text, code, slug in (("10m", ExitCode.USAGE, "rest-invalid"), ("500ms", ExitCode.USAGE, "rest-invalid")):
        result = run("target", "rest", "buyer1", "--for", text, home=estate)
        assert result.code == code
        assert f"[{slug}]" in result.err
        assert "1s to 1m" in result.err
        assert "breaker_rest_s" in result.err
    assert "target pause buyer1" in result.err
    assert run("target", "rest", "buyer9", home=estate).code == ExitCode.REFUSED
    assert run("target", "revive", "buyer9", home=estate).code == ExitCode.REFUSED
    assert contents(estate) == before


def test_a_target_s_state_goes_with_it_unless_a_call_is_there(estate: Path) -> None:
    assert len(contents(estate)["target_state"]) == 2
    assert len(contents(estate)["rule_state"]) == 1
    with engine(estate) as calls:
        calls.arrive("1.1")
        done("rule", "remove", "solar", "buyer1", "--yes", home=estate)
        done("target", "remove", "buyer1", "--yes", home=estate)
        done("target", "remove", "buyer2", "--yes", home=estate)
        assert len(contents(estate)["target_state"]) == 1
        assert contents(estate)["rule_state"] == []
        assert done("cap", "verify", home=estate).out == ""
        calls.end("1.1")
    assert done("cap", "verify", home=estate).out == ""
