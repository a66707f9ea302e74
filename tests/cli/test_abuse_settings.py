"""What an operator sets against abuse, and how a call above the rate and a blocked caller are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.abuse import Finding
from capconduit.domain.calls import RouteRequest
from capconduit.errors import ExitCode
from capconduit.services.abuse import office_of, tell
from capconduit.vocab import AbuseKind
from tests.cli.estate import CALLER, DID, NODE, Calls, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


def shown(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("caller_max_calls", {"0": 0, "1": 1, "500": 500}, ("-1", "501", "many")),
        ("caller_window_s", {"1": 1, "3600": 3_600}, ("0", "3601")),
        ("abuse_window_s", {"10": 10, "3600": 3_600}, ("9", "3601")),
        ("abuse_dids", {"0": 0, "2": 2, "500": 500}, ("1", "501")),
        ("abuse_sequence", {"0": 0, "2": 2}, ("1",)),
        ("abuse_redials", {"0": 0, "2": 2}, ("1",)),
        ("abuse_short_s", {"1": 1, "60": 60}, ("0", "61")),
        ("abuse_short_calls", {"0": 0, "2": 2}, ("1",)),
        ("abuse_junk", {"0": 0, "2": 2}, ("1",)),
        ("abuse_range", {"0": 0, "2": 2, "100": 100}, ("1", "101")),
        ("abuse_trunk_calls", {"0": 0, "1000000": 1_000_000}, ("1000001",)),
        ("abuse_trunk_short_percent", {"0": 0, "100": 100}, ("101",)),
        ("abuse_trunk_junk_percent", {"0": 0, "100": 100}, ("101",)),
        ("abuse_spike_factor", {"0": 0, "2": 2}, ("1", "1001")),
        ("abuse_block", {"off": "off", "0": "off", "60s": "1m", "3600": "1h", "30d": "30d"}, ("59s", "31d", "on", "")),
    ],
)
def test_settings_take_what_can_be_in_force(
    estate: Path, name: str, good: dict[str, object], bad: tuple[str, ...]
) -> None:
    for text, value in good.items():
        assert shown(estate, "setting", "set", name, text)["value"] == value
    before = contents(estate)
    for text in bad:
        result = run("setting", "set", name, text, home=estate)
        assert result.code == ExitCode.USAGE, text
        assert "-invalid]" in result.err
        assert contents(estate) == before


def test_a_threshold_of_one_is_told_why_it_is_none(estate: Path) -> None:
    result = run("setting", "set", "abuse_junk", "1", home=estate)
    assert "give 0 (never) or at least 2" in result.err


def test_a_call_above_the_rate_is_explained_and_the_what_if_knows_no_rate(estate: Path) -> None:
    done("setting", "set", "caller_max_calls", "3", home=estate)
    with engine(estate) as calls:
        call_id = arrive(calls, 4)
    text = done("explain", call_id, home=estate).out
    assert "FAIL  caller.rate   4 calls of this caller in 10s; 3 are taken\n" in text.replace("rate       ", "rate   ")
    assert "cps_limit" in text
    assert "caller.rate" not in done("route", DID, "--from", CALLER, home=estate).out


def arrive(calls: Calls, caller_calls: int) -> str:
    request = RouteRequest(
        node=NODE, boot_id="b", uniqueid="1.1", dnid=DID, ani=CALLER, arrived_ms=calls.clock.at_ms,
        caller_calls=caller_calls,
    )  # fmt: skip
    answer = calls._ask(request)
    assert answer.reason == "cps_limit"
    return str(answer.call_id)


def test_a_caller_blocked_for_abuse_is_in_the_list_and_can_be_let_through_again(estate: Path) -> None:
    with engine(estate) as calls:
        store, clock = calls._engine._store, calls.clock
        found = Finding(AbuseKind.JUNK, CALLER, 20, 20, 300, {"did": DID, "trunk": "carrier"})
        tell(office_of(store, clock, "default"), [found], block_ms=3_600_000, most=1)
    (row,) = done("block", "list", "--json", home=estate).json
    assert (row["pattern"], row["reason"]) == (CALLER, "abuse: junk, 20 in 300 s")
    assert row["expires"]
    assert row["scope"] == "system"
    done("block", "remove", CALLER, "--yes", home=estate)
    assert done("block", "list", "--json", home=estate).json == []
