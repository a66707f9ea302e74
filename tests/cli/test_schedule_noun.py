"""`schedule`, and campaigns and targets that go by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import DID, contents, done, walk
from tests.cli.runner import run

MONDAY_NOON = "2026-11-23T12:00:00-05:00"  # in New York
SUNDAY_NOON = "2026-11-22T12:00:00-05:00"
NEW_YORK = ("--timezone", "America/New_York")


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate with a schedule."""
    walk(home)
    done("schedule", "add", "office", "--hours", "mon,tue - fri 9:00 - 17:00", *NEW_YORK, home=home)
    return home


def shown(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


def test_hours_and_holidays_are_kept_in_their_canonical_form(estate: Path) -> None:
    office = shown(estate, "schedule", "show", "office")
    assert office["hours"] == "Mon-Fri 09:00-17:00"
    assert office["timezone"] == "America/New_York"
    holidays = "12-25 ;2026-12-31  9:00-12:00"
    rehearsed = done("schedule", "set", "office", "--holidays", holidays, "--dry-run", "--json", home=estate)
    assert rehearsed.json["holidays"] == "2026-12-31 09:00-12:00; 12-25"
    assert shown(estate, "schedule", "show", "office")["holidays"] == ""
    done("schedule", "set", "office", "--holidays", holidays, home=estate)
    assert shown(estate, "schedule", "show", "office")["holidays"] == "2026-12-31 09:00-12:00; 12-25"
    assert shown(estate, "schedule", "set", "office", "--holidays", "none")["holidays"] == ""


def test_the_zone_is_that_of_the_setting_where_none_is_given(estate: Path) -> None:
    done("setting", "set", "timezone", "Europe/Athens", home=estate)
    assert shown(estate, "schedule", "add", "nights", "--hours", "Sat 22:00-06:00")["timezone"] == "Europe/Athens"


@pytest.mark.parametrize(("hours", "is_open"), [("always", True), ("never", False)])
def test_a_schedule_says_whether_it_is_open_and_when_that_changes(estate: Path, hours: str, is_open: bool) -> None:
    done("schedule", "add", "other", "--hours", hours, home=estate)
    other = shown(estate, "schedule", "show", "other")
    assert (other["open"], other["changes"]) == (is_open, None)
    office = shown(estate, "schedule", "show", "office")
    assert office["changes"].endswith(":00:00.000Z")
    assert office["changes"][11:13] in ("13", "14", "21", "22")  # 9:00 and 17:00 of New York, summer and winter
    rows = done("schedule", "list", "--json", home=estate).json
    assert rows == [office, other]
    assert [r["name"] for r in done("schedule", "list", "--filter", "open=yes", "--json", home=estate).json] in (
        ["office"] * office["open"] + ["other"] * is_open,
    )


def test_a_campaign_is_closed_outside_of_its_hours(estate: Path) -> None:
    assert shown(estate, "campaign", "set", "solar", "--schedule", "office")["schedule"] == "office"
    closed = shown(estate, "route", DID, "--at", SUNDAY_NOON)
    assert (closed["verdict"], closed["reject_code"]) == ("reject", "campaign_closed")
    text = done("route", DID, "--at", SUNDAY_NOON, home=estate).out
    assert "  FAIL  campaign.schedule  closed at this time in America/New_York\n" in text
    assert shown(estate, "route", DID, "--at", MONDAY_NOON)["verdict"] == "dial"
    assert shown(estate, "campaign", "set", "solar", "--schedule", "none")["schedule"] == ""
    assert shown(estate, "route", DID, "--at", SUNDAY_NOON)["verdict"] == "dial"


def test_a_target_is_passed_by_outside_of_its_hours(estate: Path) -> None:
    assert shown(estate, "target", "set", "buyer1", "--schedule", "office")["schedule"] == "office"
    answer = shown(estate, "route", DID, "--at", SUNDAY_NOON)
    assert (answer["reject_code"], answer["skipped"]) == (
        "targets_all_closed", [{"target": "buyer1", "why": "closed"}],
    )  # fmt: skip
    assert shown(estate, "route", DID, "--at", MONDAY_NOON)["verdict"] == "dial"
    done("target", "add", "late", "--address", "sip:l@192.0.2.1", "--schedule", "office", home=estate)
    assert shown(estate, "schedule", "show", "office")["targets"] == ["buyer1", "late"]


def test_a_schedule_in_use_is_not_removed(estate: Path) -> None:
    done("campaign", "set", "solar", "--schedule", "office", home=estate)
    assert shown(estate, "schedule", "show", "office")["campaigns"] == ["solar"]
    before = contents(estate)
    refused = run("schedule", "remove", "office", "--yes", home=estate)
    assert refused.code == ExitCode.REFUSED
    assert "[schedule-in-use]" in refused.err
    assert contents(estate) == before
    done("campaign", "set", "solar", "--schedule", "none", home=estate)
    assert "can be removed" in done("schedule", "remove", "office", "--dry-run", home=estate).err
    done("schedule", "remove", "office", "--yes", home=estate)
    assert done("schedule", "list", "--json", home=estate).json == []


@pytest.mark.parametrize(
    ("argv", "code", "slug", "says"),
    [
        (("add", "x"), ExitCode.USAGE, "argument-missing", "--hours"),
        (("add", "x", "--hours", "weekdays 09:00-17:00"), ExitCode.USAGE, "hours-invalid", "Mon-Fri"),
        (("add", "x", "--hours", "Mon 9:00-17:00; Mon 16:00-18:00"), ExitCode.USAGE, "hours-invalid", "Mon 16:00"),
        (("add", "x", "--hours", "always", "--holidays", "2026-02-30"), ExitCode.USAGE, "holidays-invalid", "02-30"),
        (("add", "x", "--hours", "always", "--timezone", "New York"), ExitCode.USAGE, "timezone-invalid", "New York"),
        (("add", "none", "--hours", "always"), ExitCode.USAGE, "name-reserved", "none"),
        (("add", "a b", "--hours", "always"), ExitCode.USAGE, "name-invalid", "a b"),
        (("add", "office", "--hours", "always"), ExitCode.REFUSED, "schedule-exists", "office"),
        (("set", "office"), ExitCode.USAGE, "nothing-to-set", "office"),
        (("set", "ofice", "--hours", "always"), ExitCode.REFUSED, "schedule-not-found", "did you mean 'office'?"),
        (("set", "office", "--hours", ""), ExitCode.USAGE, "hours-invalid", "always, or never"),
        (("show", "ofice"), ExitCode.REFUSED, "schedule-not-found", "did you mean 'office'?"),
        (("remove", "office"), ExitCode.USAGE, "confirmation-needed", "--yes"),
    ],
)  # fmt: skip
def test_a_wrong_schedule_changes_nothing(estate: Path, argv: tuple[str, ...], code: int, slug: str, says: str) -> None:
    before = contents(estate)
    result = run("schedule", *argv, home=estate)
    assert result.code == code, result.err
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


@pytest.mark.parametrize("noun", [("campaign", "set", "solar"), ("target", "set", "buyer1")])
def test_an_unknown_schedule_is_told(estate: Path, noun: tuple[str, ...]) -> None:
    result = run(*noun, "--schedule", "offfice", home=estate)
    assert result.code == ExitCode.REFUSED
    assert "did you mean 'office'?" in result.err
