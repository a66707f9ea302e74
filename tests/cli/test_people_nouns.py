"""`user`, `token`, `request` and `find` on the command line."""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from unittest import mock

import pytest

from capconduit.errors import ExitCode
from capconduit_cli.completion import completions
from tests.cli.estate import change, contents, done, engine, walk
from tests.cli.runner import clean_environment, run


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate with an admin and a seller's user."""
    walk(home)
    done("user", "add", "anna", "--role", "admin", "--email", "anna@example.com", home=home)
    done("user", "add", "bob", "--role", "seller", "--seller", "acme", home=home)
    return home


# Users and tokens ----------------------------------------------------------------------------------------------------


def test_users_are_listed_changed_and_removed(estate: Path) -> None:
    done("token", "add", "laptop", "--user", "bob", home=estate)
    rows = done("user", "list", "--json", home=estate).json
    assert [(r["name"], r["role"], r["seller"], r["email"], r["tokens"]) for r in rows] == [
        ("anna", "admin", "", "anna@example.com", 0),
        ("bob", "seller", "acme", "", 1),
    ]
    shown = done(
        "user", "set", "bob", "--email", "bob@example.com", "--status", "suspended", "--json", home=estate
    ).json
    assert (shown["email"], shown["status"]) == ("bob@example.com", "suspended")
    assert not done("token", "show", "laptop", "--json", home=estate).json["valid"]
    assert done("user", "resume", "bob", "--json", home=estate).json["status"] == "active"
    assert done("user", "set", "bob", "--email", "none", "--json", home=estate).json["email"] == ""
    done("user", "remove", "bob", "--yes", home=estate)
    assert [r["name"] for r in done("user", "list", "--json", home=estate).json] == ["anna"]
    assert done("token", "list", "--json", home=estate).json == []


def test_a_token_is_printed_once_and_only_its_hash_is_kept(estate: Path) -> None:
    made = done(
        "token", "add", "laptop", "--user", "bob", "--scope", "calls:read", "--expires", "90d", "--json", home=estate
    )
    text = made.json["token"]
    assert "it is not shown again" in made.err
    assert made.json["scopes"] == ["calls:read"]
    kept = repr(contents(estate))
    assert text not in kept
    assert hashlib.sha256(text.encode()).hexdigest() in kept
    for looked in (("token", "show", "laptop"), ("token", "list"), ("audit", "list")):
        out = done(*looked, "--json", home=estate).out
        assert text not in out
        assert hashlib.sha256(text.encode()).hexdigest() not in out
    assert not done("token", "revoke", "laptop", "--yes", "--json", home=estate).json["valid"]


def test_a_token_is_revoked_only_by_who_says_so(estate: Path) -> None:
    done("token", "add", "t", "--user", "bob", home=estate)
    refused = run("token", "revoke", "t", home=estate)
    assert (refused.code, "[confirmation-needed]" in refused.err, refused.out) == (ExitCode.USAGE, True, "")
    assert not done("token", "revoke", "t", "--dry-run", "--json", home=estate).json["valid"]
    assert done("token", "show", "t", "--json", home=estate).json["valid"]
    assert not done("token", "revoke", "t", "--yes", "--json", home=estate).json["valid"]


def test_a_rehearsed_token_is_none(estate: Path) -> None:
    before = contents(estate)
    result = done("token", "add", "x", "--user", "bob", "--dry-run", "--json", home=estate)
    assert result.json["token"] is None
    assert contents(estate) == before


@pytest.mark.parametrize(
    ("argv", "slug", "code"),
    [
        (("user", "add", "eve", "--role", "seller"), "seller-missing", 2),
        (("user", "add", "eve", "--role", "boss"), "value-invalid", 2),
        (("user", "add", "e/ve", "--role", "admin"), "name-invalid", 2),
        (("user", "add", "anna", "--role", "admin"), "user-exists", 1),
        (("user", "add", "eve", "--role", "admin", "--email", "eve"), "email-invalid", 2),
        (("user", "add", "eve", "--role", "seller", "--seller", "acmee"), "seller-not-found", 1),
        (("user", "set", "bob", "--role", "admin"), "seller-of-admin", 2),
        (("user", "set", "bob"), "nothing-to-set", 2),
        (("user", "show", "bop"), "user-not-found", 1),
        (("token", "add", "t", "--user", "bob", "--scope", "admin"), "scope-refused", 1),
        (("token", "add", "t", "--user", "bob", "--scope", "everything"), "value-invalid", 2),
        (("token", "add", "t", "--user", "bob", "--expires", "2020-01-01"), "expiry-invalid", 2),
        (("token", "add", "t", "--user", "bob", "--expires", "10000000d"), "expiry-invalid", 2),
        (("token", "add", "t", "--user", "nobody"), "user-not-found", 1),
        (("token", "revoke", "t"), "token-not-found", 1),
        (("user", "remove", "bob"), "confirmation-needed", 2),
        (("request", "file", "--seller", "acme", "--area", "solar"), "area-invalid", 2),
        (("request", "file", "--seller", "acme", "--area", "212"), "area-invalid", 2),
        (("request", "file", "--seller", "acme", "--quantity", "1001"), "quantity-invalid", 2),
        (("request", "file", "--seller", "acme", "--note", "x" * 501), "text-too-long", 2),
        (("request", "show", "01M"), "request-not-found", 1),
        (("request", "reject", "01M8", "--reason", " "), "reason-missing", 2),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(
    estate: Path, argv: tuple[str, ...], slug: str, code: int
) -> None:
    before = contents(estate)
    result = run(*argv, home=estate)
    assert (result.code, result.out) == (code, "")
    assert f"[{slug}]" in result.err
    assert "hint: " in result.err
    assert "<" not in result.err, "a word of Python's"
    assert contents(estate) == before


# Requests ------------------------------------------------------------------------------------------------------------


def test_a_request_goes_its_way(estate: Path) -> None:
    done("did", "add", "+12125550100", "--count", "3", home=estate)
    filed = done(
        "request",
        "file",
        "--seller",
        "acme",
        "--area",
        "+1 212",
        "--quantity",
        "3",
        "--note",
        "soon",
        "--json",
        home=estate,
    ).json
    assert (filed["status"], filed["area"], filed["wanted"], filed["numbers"]) == ("open", "+1212", 3, [])
    part = filed["id"][-6:]
    shown = done("request", "show", part, "--json", home=estate).json
    assert (shown["available"], shown["first_available"][0]) == (3, "+12125550100")
    before = contents(estate)
    dry = done("request", "approve", part, "--campaign", "solar", "--dry-run", "--json", home=estate)
    assert (dry.json["status"], contents(estate)) == ("approved", before)
    one = done("request", "approve", part, "--did", "(212) 555-0102", "--campaign", "solar", "--json", home=estate).json
    assert (one["status"], one["wanted"], one["numbers"]) == ("partly", 2, ["+12125550102"])
    closed = done("request", "reject", part, "--reason", "enough", "--json", home=estate).json
    assert (closed["status"], closed["reason"], closed["wanted"]) == ("closed", "enough", 0)
    listed = done("request", "list", "--seller", "acme", "--status", "closed", "--json", home=estate).json
    assert [row["id"] for row in listed] == [filed["id"]]
    assert done("request", "list", "--status", "open", "--json", home=estate).json == []
    assert run("request", "approve", part, home=estate).code == ExitCode.REFUSED


# Finding -------------------------------------------------------------------------------------------------------------


def found(home: Path, text: str) -> list[tuple[str, str]]:
    return [(row["kind"], row["name"]) for row in done("find", text, "--json", home=home).json]


def test_anything_is_found_by_its_name_or_a_part_of_it(estate: Path) -> None:
    assert found(estate, "acme") == [("seller", "acme")]
    assert found(estate, "OLA") == [("campaign", "solar")]
    assert found(estate, "127.0.0.1:5080") == [("target", "buyer1")]
    assert found(estate, "example.com") == [("user", "anna")]
    assert ("setting", "default_region") in found(estate, "region")
    done("token", "add", "sol", "--user", "bob", home=estate)
    assert found(estate, "sol") == [("token", "sol"), ("campaign", "solar")]  # what is called so comes first


@pytest.mark.parametrize("text", ["+18005550100", "(800) 555-0100", "800.555", "5550100", "1-800-555-0100"])
def test_a_number_is_found_in_any_notation(estate: Path, text: str) -> None:
    assert ("did", "+18005550100") in found(estate, text)


def test_calls_are_found_by_id_and_by_who_called(estate: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1795262400.17")
        live = [name for kind, name in found(estate, "1795262400.17") if kind == "call"]
        assert len(live) == 1
        calls.end("1795262400.17", answered_for_ms=1_000)
    for text in (live[0], live[0][-6:].lower(), "1795262400.17", "(212) 555-0147"):
        assert ("cdr", live[0]) in found(estate, text), text
    shown = done("find", live[0], "--json", home=estate).json[0]["command"].split()
    assert done(*shown[1:], "--json", home=estate).json["call_id"] == live[0]


def test_the_command_shows_it(estate: Path) -> None:
    done("block", "add", "+1212*", "--reason", "solar panels", home=estate)
    done("request", "file", "--seller", "acme", "--note", "solar", home=estate)
    rows = done("find", "solar", "--json", home=estate).json
    assert {row["kind"] for row in rows} == {"campaign", "block", "request"}
    for row in rows:
        done(*shlex.split(row["command"])[1:], home=estate)


def test_many_are_cut_and_counted(estate: Path) -> None:
    done("did", "add", "+12125550100", "--count", "30", home=estate)
    result = done("find", "+1212", "-o", "plain", home=estate)
    assert len(result.out.splitlines()) == 20
    assert "10 more of kind did are not shown" in result.err


def test_nothing_found_says_what_is_near(estate: Path) -> None:
    result = run("find", "acne", home=estate)
    assert (result.code, result.out) == (ExitCode.REFUSED, "")
    assert "did you mean 'acme'" in result.err
    assert run("find", " ", home=estate).code == ExitCode.USAGE


def test_another_tenant_s_things_are_not_found(estate: Path) -> None:
    change(estate, "INSERT INTO tenant (id, name, created_ms, updated_ms) VALUES ('U', 'other', 0, 0)")
    assert run("--tenant", "other", "find", "acme", home=estate).code == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("user", "show", "a"), ["anna"]),
        (("user", "set", "bob", "--seller", ""), ["acme", "none"]),
        (("token", "add", "x", "--user", "b"), ["bob"]),
        (("token", "revoke", ""), ["laptop"]),
        (("request", "file", "--seller", "a"), ["acme"]),
        (("did", "assign", "+18005550100", "--seller", "a"), ["acme"]),
        (("did", "assign", "+18005550100", "s"), ["solar"]),
        (("request", "approve", "01M", "--did", "+1800"), ["+18005550100"]),
    ],
)
def test_names_complete_from_the_database(estate: Path, words: tuple[str, ...], offered: list[str]) -> None:
    done("token", "add", "laptop", "--user", "bob", home=estate)
    with mock.patch.dict(os.environ, clean_environment(estate), clear=True):
        assert [item.value for item in completions(words)] == offered


def test_a_request_s_id_completes(estate: Path) -> None:
    filed = done("request", "file", "--seller", "acme", "--json", home=estate).json["id"]
    with mock.patch.dict(os.environ, clean_environment(estate), clear=True):
        assert [item.value for item in completions(("request", "show", filed[:5]))] == [filed]


# Lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        (("number~0101",), 1),
        (("number~555010",), 3),
        (("campaign~SOL",), 1),
        (("campaign~sol", "number~x"), 0),
        (("status=available",), 2),
        (("trunk~",), 3),
    ],
)
def test_a_filter_may_want_a_part(estate: Path, filters: tuple[str, ...], kept: int) -> None:
    done("did", "add", "+18005550101", "--count", "2", home=estate)
    argv = [part for each in filters for part in ("--filter", each)]
    assert len(done("did", "list", *argv, "-o", "plain", home=estate).out.splitlines()) == kept


def test_what_is_no_filter_is_said(estate: Path) -> None:
    result = run("did", "list", "--filter", "number", home=estate)
    assert (result.code, "--filter name~sol" in result.err) == (ExitCode.USAGE, True)
    assert done("seller", "list", "--filter", "name=ac~me", "--json", home=estate).json == []


@pytest.mark.parametrize("argv", [("user", "list"), ("token", "list"), ("request", "list"), ("find", "acme")])
def test_lists_are_sorted_cut_and_chosen_like_all_others(estate: Path, argv: tuple[str, ...]) -> None:
    done("token", "add", "t", "--user", "bob", home=estate)
    done("request", "file", "--seller", "acme", home=estate)
    for form in ("table", "json", "jsonl", "csv", "plain"):
        field = "kind" if argv[0] == "find" else "status" if argv[0] == "request" else "name"
        options = ("--fields", field, "--sort", f"-{field}", "--limit", "1", "-o", form)
        assert done(*argv, *options, home=estate).out.strip()
