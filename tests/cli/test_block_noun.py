"""`block`: patterns as people write them, whose calls they hold for, lists, and what a blocked call is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.errors import ExitCode
from capconduit_cli.params import Expiry, parse_expiry
from tests.cli.estate import CALLER, DID, change, contents, done, engine, walk
from tests.cli.runner import run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


def shown(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


def blocked(home: Path, caller: str = CALLER) -> bool:
    return bool(shown(home, "route", DID, "--from", caller)["reject_code"] == "caller_blocked")


@pytest.mark.parametrize(
    ("text", "kept", "caller", "other"),
    [
        ("(212) 555-0147", "+12125550147", "2125550147", "2125550148"),
        ("+1212*", "+1212*", "2125550147", "2135550147"),
        ("+1 212 555 ????", "+1212555????", "2125550147", "2125560147"),
        ("Private", "anonymous", "anonymous", "2125550147"),
        ("1001", "1001", "1001", "1002"),
    ],
)
def test_a_pattern_is_shown_as_it_is_kept_and_blocks(
    estate: Path, text: str, kept: str, caller: str, other: str
) -> None:
    before = contents(estate)
    assert shown(estate, "block", "add", text, "--dry-run")["pattern"] == kept
    assert contents(estate) == before
    block = shown(estate, "block", "add", text, "--reason", "rings and hangs up")
    assert {key: block[key] for key in ("pattern", "scope", "name", "reason", "expires", "expired")} == {
        "pattern": kept, "scope": "system", "name": "", "reason": "rings and hangs up", "expires": None,
        "expired": False,
    }  # fmt: skip
    assert done("block", "list", "--json", home=estate).json == [block]
    assert shown(estate, "block", "show", text) == block
    assert shown(estate, "block", "show", block["id"]) == block
    assert blocked(estate, caller)
    assert not blocked(estate, other)
    done("block", "remove", text, "--yes", home=estate)
    assert not blocked(estate, caller)


def test_a_blocked_call_says_by_what_and_why(estate: Path) -> None:
    done("block", "add", "+1212*", "--campaign", "solar", "--reason", "list of May", home=estate)
    with engine(estate) as calls:
        call_id = calls.arrive("1.1").call_id
    text = done("explain", call_id, home=estate).out
    assert "rejected, caller_blocked: the caller is on a blocklist\n" in text
    assert "FAIL  caller.blocked    blocked for this campaign: +1212* (list of May)\n" in text
    check = done("explain", call_id, "--json", home=estate).json["checks"][-1]
    assert check == {
        "check": "caller.blocked", "ok": False, "pattern": "+1212*", "why": "list of May", "scope": "campaign",
    }  # fmt: skip


def test_a_block_holds_for_the_calls_of_a_seller_or_campaign(estate: Path) -> None:
    done("seller", "add", "globex", home=estate)
    done("block", "add", CALLER, "--seller", "globex", home=estate)
    assert not blocked(estate)
    done("block", "add", CALLER, "--seller", "acme", home=estate)
    assert blocked(estate)
    rows = done("block", "list", "--seller", "acme", "--json", home=estate).json
    assert [(r["scope"], r["name"], r["pattern"]) for r in rows] == [("seller", "acme", CALLER)]
    ambiguous = run("block", "show", CALLER, home=estate)
    assert ambiguous.code == ExitCode.REFUSED
    assert "[block-ambiguous]" in ambiguous.err
    assert "seller acme" in ambiguous.err
    done("block", "remove", CALLER, "--seller", "acme", "--yes", home=estate)
    assert shown(estate, "block", "show", CALLER)["name"] == "globex"
    done("seller", "remove", "globex", "--yes", home=estate)
    assert contents(estate)["block"] == [], "they go with what they belong to"


def test_a_block_ends_when_it_expires_and_can_be_made_anew(estate: Path) -> None:
    before_ms = SystemClock().now_ms()
    block = shown(estate, "block", "add", CALLER, "--expires", "7d")
    week_ms = 7 * 86_400_000
    expires_ms = contents(estate)["block"][0][-1]
    assert before_ms + week_ms <= expires_ms <= SystemClock().now_ms() + week_ms
    assert blocked(estate)
    again = run("block", "add", CALLER, home=estate)
    assert again.code == ExitCode.REFUSED
    assert "capconduit block set '+12125550147'" in again.err
    change(estate, "UPDATE block SET expires_ms = 1000")
    assert shown(estate, "block", "show", CALLER)["expired"] is True
    assert done("block", "list", "--filter", "expired=no", "--json", home=estate).json == []
    renewed = shown(estate, "block", "add", CALLER, "--expires", "2190-01-31")
    assert (renewed["expires"], renewed["expired"]) == ("2190-01-31T00:00:00.000Z", False)
    assert renewed["id"] != block["id"]
    assert len(contents(estate)["block"]) == 1


def test_a_block_is_changed(estate: Path) -> None:
    done("block", "add", CALLER, "--expires", "7d", home=estate)
    before = contents(estate)
    assert shown(estate, "block", "set", CALLER, "--expires", "never", "--dry-run")["expires"] is None
    assert contents(estate) == before
    block = shown(estate, "block", "set", CALLER, "--expires", "never", "--reason", "did it again")
    assert (block["expires"], block["reason"]) == (None, "did it again")


def test_a_list_is_blocked_all_or_nothing_and_again_without_harm(estate: Path) -> None:
    done("block", "add", CALLER, "--reason", "known", home=estate)
    path = estate / "list.csv"
    path.write_text("\ufeff# robocallers\n\n+44 20 7946 0000, rings at night\n+1900*\n212-555-0147\n1900\n", "utf-8")
    argv = ("block", "add", "--from-file", str(path), "--reason", "list of May")
    before = contents(estate)
    assert "nothing was changed" in done(*argv, "--dry-run", home=estate).err
    assert contents(estate) == before
    assert "3 are blocked now, 1 were already" in done(*argv, home=estate).err
    assert {(r["pattern"], r["reason"]) for r in done("block", "list", "--json", home=estate).json} == {
        (CALLER, "known"), ("+442079460000", "rings at night"), ("+1900*", "list of May"), ("1900", "list of May"),
    }  # fmt: skip
    assert "0 are blocked now, 4 were already" in done(*argv, home=estate).err
    before = contents(estate)
    wrong = run("block", "add", "--from-file", "-", home=estate, stdin="+442079460001\n\n+19?x\n")
    assert wrong.code == ExitCode.USAGE
    assert "line 3" in wrong.err
    assert contents(estate) == before
    (estate / "bytes").write_bytes(b"\xff\xfe")
    assert "[file-invalid]" in run("block", "add", "--from-file", str(estate / "bytes"), home=estate).err
    assert "[file-failed]" in run("block", "add", "--from-file", str(estate / "missing"), home=estate).err


@pytest.mark.parametrize(
    ("argv", "code", "slug", "says"),
    [
        (("add",), ExitCode.USAGE, "pattern-missing", "+1212*"),
        (("add", CALLER, "--from-file", "x"), ExitCode.USAGE, "pattern-twice", CALLER),
        (("add", "*"), ExitCode.USAGE, "pattern-invalid", "pause the campaign"),
        (("add", "+1?x"), ExitCode.USAGE, "pattern-invalid", "+1?x"),
        (("add", CALLER, "--seller", "acme", "--campaign", "solar"), ExitCode.USAGE, "scope-twice", "narrower"),
        (("add", CALLER, "--seller", "acm"), ExitCode.REFUSED, "seller-not-found", "did you mean 'acme'?"),
        (("add", CALLER, "--expires", "2020-01-01"), ExitCode.USAGE, "expiry-past", "2020-01-01"),
        (("add", CALLER, "--expires", "soon"), ExitCode.USAGE, "time-invalid", "7d"),
        (("add", CALLER, "--expires", "999999999d"), ExitCode.USAGE, "expiry-invalid", "for ever"),
        (("add", CALLER, "--reason", "x" * 501), ExitCode.USAGE, "text-too-long", "500"),
        (("show", "+12125550149"), ExitCode.REFUSED, "block-not-found", "block list"),
        (("set", "+1900*"), ExitCode.USAGE, "nothing-to-set", "+1900*"),
        (("set", "+1901*", "--expires", "1d"), ExitCode.REFUSED, "block-not-found", "did you mean '+1900*'?"),
        (("remove", "+1900*"), ExitCode.USAGE, "confirmation-needed", "--yes"),
        (("remove", "+1900*", "--campaign", "solar", "--yes"), ExitCode.REFUSED, "block-not-found", "+1900*"),
    ],
)  # fmt: skip
def test_a_wrong_block_changes_nothing(estate: Path, argv: tuple[str, ...], code: int, slug: str, says: str) -> None:
    done("block", "add", "+1900*", home=estate)
    before = contents(estate)
    result = run("block", *argv, home=estate)
    assert result.code == code, result.err
    assert f"[{slug}]" in result.err
    assert says in result.err
    assert contents(estate) == before


def test_an_end_is_a_duration_from_now_a_time_or_never() -> None:
    assert parse_expiry("1h30m").at(1_000) == 5_401_000
    assert parse_expiry("2026-12-25").at(1_000) == 1_798_156_800_000
    assert parse_expiry("Never") == Expiry(None)
    assert parse_expiry("never").at(1_000) is None
