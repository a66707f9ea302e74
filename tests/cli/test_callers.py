"""Who may call: a campaign's policies, the settings behind them, and what a call that was turned away is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from capconduit.errors import ExitCode
from capconduit.vocab import Strategy
from capconduit_cli.completion import completions
from tests.cli.estate import CALLER, DID, contents, done, engine, walk
from tests.cli.runner import clean_environment, run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


def shown(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


@pytest.mark.parametrize(
    ("option", "text", "key", "value"),
    [
        *(("--strategy", strategy.value, "strategy", strategy.value) for strategy in Strategy),
        ("--duplicate-window", "30d", "duplicate_window_ms", 2_592_000_000),
        ("--duplicate-window", "366d", "duplicate_window_ms", 31_622_400_000),
        ("--duplicate-window", "none", "duplicate_window_ms", None),
        ("--anonymous", "reject", "anonymous", "reject"),
        ("--anonymous", "allow", "anonymous", "allow"),
        ("--anonymous", "default", "anonymous", "default"),
        ("--min-attestation", "A", "min_attestation", "A"),
        ("--min-attestation", "C", "min_attestation", "C"),
        ("--min-attestation", "default", "min_attestation", "default"),
    ],
)
def test_a_policy_is_set_on_a_new_campaign_and_on_an_old_one(
    estate: Path, option: str, text: str, key: str, value: object
) -> None:
    added = shown(estate, "campaign", "add", "roof", "--seller", "acme", "--rate", "std", option, text)
    assert added[key] == value
    done(
        "campaign", "set", "solar", "--duplicate-window", "1h", "--anonymous", "reject", "--min-attestation", "B",
        home=estate,
    )  # fmt: skip
    before = contents(estate)
    assert shown(estate, "campaign", "set", "solar", option, text, "--dry-run")[key] == value
    assert contents(estate) == before
    assert shown(estate, "campaign", "set", "solar", option, text)[key] == value
    assert shown(estate, "campaign", "show", "solar")[key] == value


@pytest.mark.parametrize(
    ("argv", "slug", "says"),
    [
        (("--duplicate-window", "367d"), "duplicate-window-invalid", "366d"),
        (("--duplicate-window", "500ms"), "duplicate-window-invalid", "1s"),
        (("--duplicate-window", "long"), "duration-invalid", "long"),
        (("--anonymous", "rejcet"), "value-invalid", "did you mean 'reject'?"),
        (("--min-attestation", "D"), "value-invalid", "A or B or C or default"),
        (("--strategy", "round_robin"), "value-invalid", "did you mean 'round-robin'?"),
    ],
)
def test_a_wrong_policy_changes_nothing(estate: Path, argv: tuple[str, ...], slug: str, says: str) -> None:
    before = contents(estate)
    result = run("campaign", "set", "solar", *argv, home=estate)
    assert result.code == ExitCode.USAGE, result.err
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("min_attestation", {"a": "A", "B": "B", "none": "", "": ""}, ("D", "yes")),
        ("anonymous_callers", {"reject": "reject"}, ("default", "")),
        ("breaker_failures", {"0": 0, "1000": 1000}, ("-1", "1001", "many")),
        ("breaker_rest_s", {"1": 1, "86400": 86_400}, ("0", "86401", "1m")),
        ("default_region", {"gb": "GB"}, ("", "XX")),
        ("cdr_keep_days", {"0": 0, "40": 40, "36500": 36_500}, ("39", "-1", "36501")),
        ("event_keep_days", {"0": 0, "1": 1}, ("1.5",)),
        ("place_keep_days", {"0": 0, "35": 35}, ("x",)),
    ],
)
def test_settings_take_what_can_be_in_force(
    estate: Path, name: str, good: dict[str, object], bad: tuple[str, ...]
) -> None:
    for text, value in good.items():
        assert shown(estate, "setting", "set", name, text)["value"] == value
        assert shown(estate, "setting", "show", name)["value"] == value
    before = contents(estate)
    for text in bad:
        result = run("setting", "set", name, text, home=estate)
        assert result.code == ExitCode.USAGE, text
        assert "-invalid]" in result.err
        assert contents(estate) == before


def test_a_caller_who_calls_again_is_told_when_the_last_call_was(estate: Path) -> None:
    done("campaign", "set", "solar", "--duplicate-window", "2h", home=estate)
    with engine(estate) as calls:
        first = calls.arrive("1.1").call_id
        calls.end("1.1", answered_for_ms=20_000)
        calls.clock.at_ms += 90_000
        second = calls.arrive("1.2").call_id
    assert "ok    caller.duplicate  no call of this caller in 2h\n" in done("explain", first, home=estate).out
    text = done("explain", second, home=estate).out
    assert f"FAIL  caller.duplicate  last call {first} was 1m30s ago; one in 2h is taken\n" in text
    check = done("explain", second, "--json", home=estate).json["checks"][-1]
    assert check == {
        "check": "caller.duplicate", "ok": False, "window_s": 7_200, "last_call": first, "ago_s": 90,
    }  # fmt: skip


def test_a_call_without_the_attestation_that_is_asked_for_says_what_it_has(estate: Path) -> None:
    done("campaign", "set", "solar", "--min-attestation", "B", home=estate)
    with engine(estate) as calls:
        told = {
            name: calls.arrive(name, caller=CALLER, attestation=level, verdict=verdict).call_id
            for name, level, verdict in (("1.1", "A", "TN-Validation-Passed"), ("1.2", "C", ""), ("1.3", "", ""))
        }

    def line(uniqueid: str) -> str:
        lines = done("explain", told[uniqueid], home=estate).out.splitlines()
        return next(line.strip() for line in lines if "caller.attestation" in line)

    assert line("1.1") == "ok    caller.attestation  at least B is required; the call has A, TN-Validation-Passed"
    assert line("1.2") == "FAIL  caller.attestation  at least B is required; the call has C"
    assert line("1.3") == "FAIL  caller.attestation  at least B is required; the call has none"


def test_an_anonymous_caller_is_turned_away_by_the_campaign_or_the_setting(estate: Path) -> None:
    def verdict() -> str:
        return str(shown(estate, "route", DID)["reject_code"])

    assert verdict() == ""
    done("setting", "set", "anonymous_callers", "reject", home=estate)
    assert verdict() == "caller_anonymous"
    done("campaign", "set", "solar", "--anonymous", "allow", home=estate)
    assert verdict() == ""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("schedule", "show", ""), ["office"]),
        (("block", "show", "+1"), ["+1900*"]),
        (("campaign", "set", "solar", "--schedule", ""), ["office", "none"]),
        (("target", "set", "buyer1", "--payout", ""), ["std", "none"]),
        (("rule", "set", "solar", "buyer1", "--rate", "s"), ["std"]),
        (("target", "revive", ""), ["buyer1"]),
        (("block", "add", "+1", "--seller", ""), ["acme"]),
        (("campaign", "set", "solar", "--anonymous", ""), ["allow", "reject", "default"]),
    ],
)
def test_names_complete(estate: Path, words: tuple[str, ...], offered: list[str]) -> None:
    done("schedule", "add", "office", "--hours", "always", home=estate)
    done("block", "add", "+1900*", home=estate)
    with mock.patch.dict(os.environ, clean_environment(estate), clear=True):
        assert [item.value for item in completions(words)] == offered
