"""The nouns of the estate: each verb, what it prints, and that what is refused changes nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from capconduit.errors import ExitCode
from capconduit_cli.completion import completions
from tests.cli.estate import contents, done, walk
from tests.cli.runner import clean_environment, run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


def shown(home: Path, *argv: str) -> dict[str, Any]:
    """What `argv --json` prints."""
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


# Adding, listing, showing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noun", "name", "wanted"),
    [
        (
            "seller", ("acme",),
            {"name": "acme", "status": "active", "currency": "USD", "balance": "25.000000", "held": "0.000000",
             "available": "25.000000", "credit_limit": "0.000000", "low_balance": "0.000000",
             "timezone": "America/New_York"},
        ),
        (
            "rate", ("std",),
            {"name": "std", "currency": "USD", "per_minute": "0.200000", "connect_fee": "0.000000",
             "increment": "60/60", "then_per_minute": None, "then_after_ms": None},
        ),
        (
            "trunk", ("carrier",),
            {"name": "carrier", "kind": "pjsip", "hosts": ["127.0.0.1"], "port": 5070, "codecs": ["ulaw", "alaw"],
             "region": "", "auth": "ip", "username": "", "secret": "", "transport": "udp", "srtp": False, "nat": False,
             "qualify_ms": None, "permit": []},
        ),
        (
            "campaign", ("solar",),
            {"name": "solar", "seller": "acme", "status": "active", "strategy": "priority", "rate": "std", "dids": 1,
             "rules": 1, "billable_threshold_ms": 0, "max_attempts": 5, "ring_budget_ms": 90_000,
             "max_duration_ms": 14_400_000, "schedule": "", "duplicate_window_ms": None, "anonymous": "default",
             "min_attestation": "default"},
        ),
        (
            "did", ("+18005550100",),
            {"number": "+18005550100", "status": "assigned", "trunk": "carrier", "seller": "acme",
             "campaign": "solar"},
        ),
        (
            "target", ("buyer1",),
            {"name": "buyer1", "kind": "pjsip", "address": "sip:buyer@127.0.0.1:5080", "ring_ms": 20_000,
             "enabled": True, "health": "well", "active": 0, "failures": 0, "rested_until": None, "schedule": "",
             "rate": "", "payout": "", "agent": ""},
        ),
        (
            "rule", ("solar", "buyer1"),
            {"campaign": "solar", "target": "buyer1", "priority": 1, "weight": 1, "enabled": True, "rate": "",
             "payout": ""},
        ),
    ],
)  # fmt: skip
def test_what_was_added_is_listed_and_shown(
    estate: Path, noun: str, name: tuple[str, ...], wanted: dict[str, Any]
) -> None:
    one = shown(estate, noun, "show", *name)
    assert {key: one[key] for key in wanted} == wanted
    assert set(one) == set(wanted) | {"id", "created", "updated"}
    assert len(one["id"]) == 26
    assert one["created"].endswith("Z")
    assert done(noun, "list", "--json", home=estate).json == [one]
    assert str(next(iter(wanted.values()))) in done(noun, "list", home=estate).out


def test_a_number_is_found_in_any_notation(estate: Path) -> None:
    for text in ("+1 (800) 555-0100", "8005550100", "1-800-555-0100", "800.555.0100"):
        assert shown(estate, "did", "show", text)["number"] == "+18005550100"


def test_a_new_seller_takes_the_currency_that_its_amounts_name(estate: Path) -> None:
    done("seller", "add", "globex", "--credit-limit", "100 EUR", home=estate)
    seller = shown(estate, "seller", "show", "globex")
    assert (seller["currency"], seller["credit_limit"], seller["available"]) == ("EUR", "100.000000", "100.000000")


def test_settings_are_listed_shown_and_set(estate: Path) -> None:
    names = [row["name"] for row in done("setting", "list", "--json", home=estate).json]
    assert {"timezone", "funding_slice_s"} <= set(names)
    done("setting", "set", "funding_slice_s", "30", home=estate)
    setting = shown(estate, "setting", "show", "funding_slice_s")
    assert (setting["value"], setting["default"], setting["type"]) == (30, 60, "integer")
    assert run("setting", "show", "funding_slice_s", "--fields", "value", "-o", "plain", home=estate).out == "30\n"


def test_a_number_that_no_number_of_its_country_is_as_long_as_is_taken_and_said(estate: Path) -> None:
    assert "no number of its country" not in done("did", "add", "+18005550177", home=estate).err
    for number in ("+1800555", "+180055501770"):
        added = done("did", "add", number, home=estate)
        assert f"{number} is as long as no number of its country" in added.err
        assert shown(estate, "did", "show", number)["number"] == number


def test_a_setting_goes_back_to_its_default_and_that_can_be_undone(estate: Path) -> None:
    before = contents(estate)
    done("setting", "set", "timezone", "Europe/Athens", home=estate)
    rehearsed = done("setting", "reset", "timezone", "--dry-run", "--json", home=estate)
    assert rehearsed.json["value"] == "UTC"
    assert shown(estate, "setting", "show", "timezone")["value"] == "Europe/Athens"
    assert shown(estate, "setting", "reset", "timezone")["value"] == "UTC"
    after = contents(estate)
    assert after["setting"] == before["setting"]
    assert "setting.reset" in after["audit"][-1]
    again = done("setting", "reset", "timezone", home=estate)
    assert "default already" in again.err
    assert contents(estate) == after
    (entry,) = done("audit", "list", "--json", "--filter", "action=setting.reset", home=estate).json
    done("audit", "undo", entry["id"], "--yes", home=estate)
    assert shown(estate, "setting", "show", "timezone")["value"] == "Europe/Athens"
    assert run("setting", "reset", "timezon", home=estate).err.count("did you mean 'timezone'?") == 1


# Changing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (("seller", "set", "acme", "--credit-limit", "50"), "credit_limit", "50.000000"),
        (("seller", "set", "acme", "--low-balance", "10 usd"), "low_balance", "10.000000"),
        (("seller", "suspend", "acme"), "status", "suspended"),
        (("rate", "set", "std", "--per-minute", "0.25"), "per_minute", "0.250000"),
        (("rate", "set", "std", "--connect-fee", "0.05"), "connect_fee", "0.050000"),
        (("rate", "set", "std", "--increment", "30/6"), "increment", "30/6"),
        (("trunk", "set", "carrier", "--port", "5062"), "port", 5062),
        (("trunk", "set", "carrier", "--host", "192.0.2.7", "--host", "192.0.2.0/24"), "hosts",
         ["192.0.2.7", "192.0.2.0/24"]),
        (("trunk", "set", "carrier", "--codecs", "opus,g722"), "codecs", ["opus", "g722"]),
        (("trunk", "set", "carrier", "--region", "gb"), "region", "GB"),
        (("campaign", "set", "solar", "--strategy", "weighted"), "strategy", "weighted"),
        (("campaign", "set", "solar", "--max-duration", "1h30m"), "max_duration_ms", 5_400_000),
        (("campaign", "set", "solar", "--billable-threshold", "90s"), "billable_threshold_ms", 90_000),
        (("campaign", "set", "solar", "--ring-budget", "45s"), "ring_budget_ms", 45_000),
        (("campaign", "set", "solar", "--max-attempts", "3"), "max_attempts", 3),
        (("campaign", "pause", "solar"), "status", "paused"),
        (("target", "set", "buyer1", "--ring", "1m"), "ring_ms", 60_000),
        (("target", "set", "buyer1", "--kind", "extension", "--address", "100@internal"), "address", "100@internal"),
        (("target", "pause", "buyer1"), "enabled", False),
        (("rule", "set", "solar", "buyer1", "--priority", "7"), "priority", 7),
        (("rule", "set", "solar", "buyer1", "--weight", "70"), "weight", 70),
        (("rule", "pause", "solar", "buyer1"), "enabled", False),
        (("did", "suspend", "+18005550100"), "status", "suspended"),
        (("did", "release", "+18005550100"), "status", "available"),
        (("setting", "set", "timezone", "Europe/Athens"), "value", "Europe/Athens"),
    ],
)  # fmt: skip
def test_a_change_is_printed_and_kept_and_a_dry_run_keeps_nothing(
    estate: Path, argv: tuple[str, ...], key: str, value: object
) -> None:
    before = contents(estate)
    rehearsed = done(*argv, "--dry-run", "--json", home=estate)
    assert rehearsed.json[key] == value
    assert "nothing was changed" in rehearsed.err
    assert contents(estate) == before
    changed = done(*argv, "--json", home=estate)
    assert changed.json[key] == value
    assert "nothing was changed" not in changed.err
    name = argv[2:4] if argv[0] == "rule" else argv[2:3]
    assert shown(estate, argv[0], "show", *name)[key] == value


@pytest.mark.parametrize(
    ("stop", "key"),
    [
        (("seller", "suspend", "resume", "acme"), "status"),
        (("campaign", "pause", "resume", "solar"), "status"),
        (("target", "pause", "resume", "buyer1"), "enabled"),
        (("rule", "pause", "resume", "solar", "buyer1"), "enabled"),
        (("did", "suspend", "resume", "+18005550100"), "status"),
    ],
)
def test_what_was_stopped_can_go_on(estate: Path, stop: tuple[str, ...], key: str) -> None:
    noun, halt, resume, *name = stop
    before = shown(estate, noun, "show", *name)[key]
    assert shown(estate, noun, halt, *name)[key] != before
    assert shown(estate, noun, resume, *name)[key] == before


def test_a_did_is_assigned_and_moved(estate: Path) -> None:
    done("did", "add", "(800) 555-0101", home=estate)
    assert shown(estate, "did", "assign", "8005550101", "solar")["seller"] == "acme"
    done("did", "release", "8005550101", home=estate)
    assert shown(estate, "did", "assign", "8005550101", "--campaign", "solar")["campaign"] == "solar"
    assert done("did", "assign", "8005550101", "solar", "--campaign", "solar", home=estate)
    twice = run("did", "assign", "8005550101", "solar", "--campaign", "wind", home=estate)
    assert (twice.code, "[campaign-twice]" in twice.err) == (ExitCode.USAGE, True)
    done("trunk", "add", "carrier2", "--kind", "iax2", "--host", "192.0.2.9", home=estate)
    assert shown(estate, "did", "set", "8005550101", "--trunk", "carrier2")["trunk"] == "carrier2"


def test_every_change_is_in_the_audit_with_who_made_it(home: Path) -> None:
    walk(home)
    run("campaign", "pause", "solar", home=home, env={"SUDO_USER": "alice"})
    last = contents(home)["audit"][-1]
    assert any(str(value).endswith("(sudo alice)") for value in last)
    run("campaign", "resume", "solar", home=home, env={"SUDO_USER": "al\x1bice) --"})
    assert not any("\x1b" in str(value) or "sudo" in str(value) for value in contents(home)["audit"][-1])


# Removing ------------------------------------------------------------------------------------------------------------


def test_things_are_removed_in_the_order_they_depend(estate: Path) -> None:
    done("did", "release", "+18005550100", home=estate)
    for argv in (
        ("rule", "remove", "solar", "buyer1"), ("did", "remove", "+18005550100"), ("campaign", "remove", "solar"),
        ("target", "remove", "buyer1"), ("rate", "remove", "std"), ("trunk", "remove", "carrier"),
    ):  # fmt: skip
        rehearsed = done(*argv, "--dry-run", home=estate)
        assert "can be removed" in rehearsed.err
        removed = done(*argv, "--yes", home=estate)
        assert "is removed" in removed.err
        assert removed.out == ""
    tables = contents(estate)
    assert all(tables[name] == [] for name in ("rule", "did", "campaign", "target", "rate", "trunk", "cap"))


def test_a_seller_without_money_is_removed(estate: Path) -> None:
    done("seller", "add", "globex", home=estate)
    done("seller", "remove", "globex", "--yes", home=estate)
    assert run("seller", "show", "globex", home=estate).code == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("argv", "slug"),
    [
        (("seller", "remove", "acme", "--yes"), "seller-has-ledger"),
        (("rate", "remove", "std", "--yes"), "rate-in-use"),
        (("trunk", "remove", "carrier", "--yes"), "trunk-in-use"),
        (("campaign", "remove", "solar", "--yes"), "campaign-in-use"),
        (("target", "remove", "buyer1", "--yes"), "target-in-use"),
        (("did", "remove", "+18005550100", "--yes"), "did-assigned"),
        (("rule", "remove", "solar", "buyer2", "--yes"), "target-not-found"),
        # What cannot be done is refused before anybody is asked.
        (("rate", "remove", "std"), "rate-in-use"),
        (("rate", "remove", "stdd"), "rate-not-found"),
        (("rate", "remove", "std", "--dry-run"), "rate-in-use"),
    ],
)
def test_what_is_in_use_is_not_removed(estate: Path, argv: tuple[str, ...], slug: str) -> None:
    before = contents(estate)
    result = run(*argv, home=estate)
    assert result.code == ExitCode.REFUSED
    assert f"[{slug}]" in result.err
    assert "hint: " in result.err
    assert contents(estate) == before


def test_without_a_terminal_nothing_is_removed_unasked(estate: Path) -> None:
    before = contents(estate)
    result = run("rule", "remove", "solar", "buyer1", home=estate)
    assert result.code == ExitCode.USAGE
    assert "[confirmation-needed]" in result.err
    assert contents(estate) == before


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "slug", "says"),
    [
        (("seller", "add", "acme"), "seller-exists", "capconduit seller show acme"),
        (("rate", "add", "std", "--per-minute", "1"), "rate-exists", "std"),
        (("trunk", "add", "carrier", "--host", "192.0.2.1"), "trunk-exists", "carrier"),
        (("campaign", "add", "solar", "--seller", "acme", "--rate", "std"), "campaign-exists", "solar"),
        (("target", "add", "buyer1", "--address", "sip:a@192.0.2.1"), "target-exists", "buyer1"),
        (("rule", "add", "solar", "buyer1"), "rule-exists", "capconduit rule set solar buyer1"),
        (("did", "add", "8005550100"), "did-exists", "+18005550100"),
        (("campaign", "add", "roof", "--seller", "acm", "--rate", "std"), "seller-not-found", "did you mean 'acme'?"),
        (("campaign", "add", "roof", "--seller", "acme", "--rate", "sdt"), "rate-not-found", "did you mean 'std'?"),
        (("campaign", "show", "solr"), "campaign-not-found", "did you mean 'solar'?"),
        (("target", "pause", "buyer2"), "target-not-found", "did you mean 'buyer1'?"),
        (("rule", "add", "solar", "byer1"), "target-not-found", "did you mean 'buyer1'?"),
        (("did", "assign", "+18005550100", "wind"), "campaign-not-found", "'wind'"),
        (("did", "add", "+18005550199", "--trunk", "carier"), "trunk-not-found", "did you mean 'carrier'?"),
        (("did", "show", "+18005550101"), "did-not-found", "did you mean '+18005550100'?"),
        (("setting", "show", "timezon"), "setting-not-found", "did you mean 'timezone'?"),
        (("--tenant", "defalt", "seller", "list"), "tenant-not-found", "did you mean 'default'?"),
        (("--tenant", "xyz", "seller", "list"), "tenant-not-found", "did you mean 'default'?"),
    ],
)  # fmt: skip
def test_what_is_there_already_or_not_at_all_is_refused(
    estate: Path, argv: tuple[str, ...], slug: str, says: str
) -> None:
    before = contents(estate)
    result = run(*argv, home=estate)
    assert result.code == ExitCode.REFUSED, result.err
    assert result.out == ""
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


@pytest.mark.parametrize(
    ("argv", "slug", "says"),
    [
        (("seller", "add", "a b"), "name-invalid", "'a b'"),
        (("seller", "add", "globex", "--currency", "EURO"), "currency-invalid", "EURO"),
        (("seller", "add", "globex", "--timezone", "New York"), "timezone-invalid", "America/New_York"),
        (("seller", "add", "globex", "--credit-limit", "-1"), "amount-invalid", "-1"),
        (("seller", "add", "globex", "--currency", "USD", "--credit-limit", "5 EUR"), "currency-mismatch", "EUR"),
        (("seller", "set", "acme", "--credit-limit", "5 EUR"), "currency-mismatch", "USD"),
        (("seller", "set", "acme"), "nothing-to-set", "seller set --help"),
        (("rate", "add", "x", "--per-minute", "0,20"), "amount-invalid", "0,20"),
        (("rate", "add", "x"), "argument-missing", "--per-minute"),
        (("rate", "add", "x", "--per-minute", "1", "--increment", "60"), "increment-invalid", "60/60"),
        (("rate", "add", "x", "--per-minute", "1 EUR", "--connect-fee", "1 USD"), "currency-mismatch", "EUR"),
        (("rate", "set", "std", "--per-minute", "1 EUR"), "currency-mismatch", "USD"),
        (("rate", "set", "std"), "nothing-to-set", "std"),
        (("trunk", "add", "x"), "host-missing", "--host"),
        (("trunk", "add", "x", "--host", "a b"), "host-invalid", "'a b'"),
        (("trunk", "add", "x", "--host", "a", "--port", "70000"), "port-invalid", "70000"),
        (("trunk", "add", "x", "--host", "a", "--kind", "sip"), "value-invalid", "pjsip"),
        (("trunk", "add", "x", "--host", "a", "--region", "XX"), "region-invalid", "XX"),
        (("trunk", "add", "global", "--host", "a"), "name-reserved", "global"),
        (("trunk", "set", "carrier"), "nothing-to-set", "carrier"),
        (("campaign", "add", "x", "--seller", "acme"), "argument-missing", "--rate"),
        (("campaign", "set", "solar", "--strategy", "weigthed"), "value-invalid", "did you mean 'weighted'?"),
        (("campaign", "set", "solar", "--max-attempts", "0"), "number-out-of-range", "0"),
        (("campaign", "set", "solar", "--max-duration", "25h"), "number-out-of-range", "1d1h"),
        (("campaign", "set", "solar"), "nothing-to-set", "solar"),
        (("target", "add", "x", "--address", "sip:a b"), "address-invalid", "sip:a b"),
        (("target", "add", "x", "--address", "sip:a@192.0.2.1", "--ring", "soon"), "duration-invalid", "soon"),
        (("target", "add", "x", "--address", "sip:a@192.0.2.1", "--ring", "1h"), "ring-invalid", "5m"),
        (("target", "set", "buyer1", "--kind", "iax2"), "address-invalid", "sip:buyer"),
        (("target", "set", "buyer1"), "nothing-to-set", "buyer1"),
        (("rule", "set", "solar", "buyer1", "--priority", "-1"), "priority-invalid", "-1"),
        (("rule", "set", "solar", "buyer1", "--weight", "x"), "value-invalid", "--weight"),
        (("rule", "set", "solar", "buyer1"), "nothing-to-set", "solar/buyer1"),
        (("did", "add", "hello"), "number-invalid", "hello"),
        (("did", "add", "+1800555\n0100"), "value-invalid", "control characters"),
        (("did", "set", "+18005550100"), "nothing-to-set", "+18005550100"),
        (("setting", "set", "funding_slice_s", "soon"), "setting-invalid", "soon"),
        (("setting", "set", "anonymous_callers", "maybe"), "setting-invalid", "reject"),
        (("setting", "set", "timezone", "Nowhere"), "timezone-invalid", "Nowhere"),
        (("setting", "set", "timezone", "America/NewYork"), "timezone-invalid", "did you mean 'America/New_York'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused_and_changes_nothing(
    estate: Path, argv: tuple[str, ...], slug: str, says: str
) -> None:
    before = contents(estate)
    result = run(*argv, home=estate)
    assert result.code == ExitCode.USAGE, result.err
    assert result.out == ""
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


def test_a_rate_in_another_currency_is_refused(estate: Path) -> None:
    done("rate", "add", "euro", "--per-minute", "0.20 EUR", home=estate)
    assert shown(estate, "rate", "show", "euro")["currency"] == "EUR"
    result = run("campaign", "set", "solar", "--rate", "euro", home=estate)
    assert result.code == ExitCode.REFUSED
    assert "[currency-mismatch]" in result.err


def test_without_a_database_the_next_step_is_told(home: Path) -> None:
    result = run("seller", "list", home=home)
    assert result.code == ExitCode.DATABASE
    assert "capconduit init" in result.err


# Completion ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("seller", "show", ""), ["acme"]),
        (("balance", "add", "a"), ["acme"]),
        (("campaign", "add", "x", "--rate", ""), ["std"]),
        (("did", "add", "1", "--trunk", "c"), ["carrier"]),
        (("did", "assign", "+18"), ["+18005550100"]),
        (("did", "assign", "+18005550100", ""), ["solar"]),
        (("rule", "add", "solar", "b"), ["buyer1"]),
        (("cap", "set", "cam"), ["campaign"]),
        (("cap", "set", "campaign", ""), ["solar"]),
        (("cap", "usage", "rule", ""), ["solar/buyer1"]),
        (("cap", "set", "system", ""), []),
        (("setting", "set", "tim"), ["timezone"]),
        (("route", "+1"), ["+18005550100"]),
        (("campaign", "set", "solar", "--strategy", "w"), ["weighted"]),
    ],
)
def test_names_complete_from_the_database(estate: Path, words: tuple[str, ...], offered: list[str]) -> None:
    with mock.patch.dict(os.environ, clean_environment(estate), clear=True):
        assert [item.value for item in completions(words)] == offered
