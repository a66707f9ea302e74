"""`export`, `plan` and `apply`: exit codes, files and stdin, output, and asking before anything is removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from capconduit.errors import ExitCode
from tests.cli.estate import contents, done, walk
from tests.cli.runner import Result, run

CHANGES = 2


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate, and an export of it with a comment in the file that `file_of` names."""
    walk(home)
    text = done("export", home=home).out.replace("[seller.acme]", "# the first\n[seller.acme]  # since May")
    file_of(home).write_text(text, "utf-8")
    return home


def file_of(home: Path) -> Path:
    return home / "work" / "estate.toml"


def edit(home: Path, before: str, after: str) -> None:
    text = file_of(home).read_text("utf-8")
    assert text.count(before) == 1
    file_of(home).write_text(text.replace(before, after), "utf-8")


def plan(home: Path, *argv: str) -> Result:
    return run("plan", "-f", "estate.toml", *argv, home=home)


def apply(home: Path, *argv: str) -> Result:
    return run("apply", "-f", "estate.toml", *argv, home=home)


def test_a_plan_of_an_export_is_nothing_and_its_code_is_0(estate: Path) -> None:
    before = contents(estate)
    for argv in ((), ("--prune",)):
        found = plan(estate, *argv, "--json")
        assert (found.code, found.json) == (ExitCode.DONE, [])
    again = apply(estate, "--json")  # there is nothing to ask about
    assert (again.code, again.json, "as the file says" in again.err) == (ExitCode.DONE, [], True)
    assert contents(estate) == before


def test_a_plan_with_changes_tells_each_field_and_its_code_is_2(estate: Path) -> None:
    edit(estate, 'ring = "20s"', 'ring = "25s"')
    edit(estate, "[seller.acme]", '[seller.zenith]\ncurrency = "EUR"\n\n[seller.acme]')
    before = contents(estate)
    found = plan(estate, "--json")
    assert found.code == CHANGES
    assert found.json == [
        {"action": "add", "what": "seller.zenith", "field": "currency", "before": "", "after": "EUR"},
        {"action": "set", "what": "target.buyer1", "field": "ring", "before": "20s", "after": "25s"},
    ]
    assert "1 to add, 1 to set, 0 to remove" in found.err
    assert contents(estate) == before


def test_an_apply_does_what_the_plan_told_and_twice_nothing(estate: Path) -> None:
    edit(estate, 'ring = "20s"', 'ring = "25s"')
    planned = plan(estate, "--json").json
    applied = apply(estate, "--yes", "--json")
    assert (applied.code, applied.json) == (ExitCode.DONE, planned)
    assert "1 change applied" in applied.err
    assert done("target", "show", "buyer1", "--json", home=estate).json["ring_ms"] == 25_000
    before = contents(estate)
    assert apply(estate, "--yes").code == ExitCode.DONE
    assert plan(estate).code == ExitCode.DONE
    assert contents(estate) == before


def test_without_a_terminal_nobody_is_asked_and_nothing_done(estate: Path) -> None:
    edit(estate, 'ring = "20s"', 'ring = "25s"')
    before = contents(estate)
    refused = apply(estate)
    assert (refused.code, "confirmation-needed" in refused.err) == (ExitCode.USAGE, True)
    assert contents(estate) == before


def test_a_dry_run_changes_nothing_and_refuses_what_would_be_refused(estate: Path) -> None:
    edit(estate, 'ring = "20s"', 'ring = "25s"')
    before = contents(estate)
    assert apply(estate, "--dry-run").code == ExitCode.DONE
    edit(estate, 'ring = "25s"', 'ring = "2h"')
    refused = apply(estate, "--dry-run")
    assert (refused.code, "set target.buyer1: " in refused.err) == (ExitCode.USAGE, True)
    assert contents(estate) == before


def test_prune_tells_how_many_and_asks(estate: Path) -> None:
    done("seller", "add", "zenith", home=estate)
    done("rate", "add", "spare", "--per-minute", "1", home=estate)
    kept = plan(estate)
    assert kept.code == ExitCode.DONE
    assert "left as they are: 2 (seller.zenith, rate.spare)" in kept.err
    assert plan(estate, "--prune").code == CHANGES
    refused = apply(estate, "--prune", "--yes")  # they came after the export
    assert (refused.code, "seller.zenith" in refused.err) == (ExitCode.REFUSED, True)
    asked = apply(estate, "--prune", "--force")
    assert (asked.code, "2 removals" in asked.err) == (ExitCode.USAGE, True)
    assert len(done("seller", "list", "--json", home=estate).json) == 2
    assert apply(estate, "--prune", "--force", "--yes").code == ExitCode.DONE
    assert [s["name"] for s in done("seller", "list", "--json", home=estate).json] == ["acme"]


def test_a_seller_with_a_ledger_is_not_pruned_and_nothing_else_is_done(estate: Path) -> None:
    done("rate", "add", "spare", "--per-minute", "1", home=estate)
    file_of(estate).write_text("format = 1\n", "utf-8")
    before = contents(estate)
    refused = apply(estate, "--prune", "--yes")
    assert (refused.code, "[seller-has-ledger]" in refused.err) == (ExitCode.REFUSED, True)
    assert contents(estate) == before


def test_a_file_may_come_from_stdin(estate: Path) -> None:
    text = file_of(estate).read_text("utf-8")
    assert run("plan", "-f", "-", home=estate, stdin=text).code == ExitCode.DONE
    changed = "\ufeff" + text.replace('ring = "20s"', 'ring = "25s"').replace("\n", "\r\n")
    assert run("plan", "-f", "-", home=estate, stdin=changed).code == CHANGES
    assert run("apply", "-f", "-", home=estate, stdin=changed).code == ExitCode.USAGE
    assert run("apply", "-f", "-", "--yes", home=estate, stdin=changed).code == ExitCode.DONE
    assert run("plan", "-f", "-", home=estate, stdin=changed).code == ExitCode.DONE


def test_what_others_changed_is_named_and_overwritten_only_by_force(estate: Path) -> None:
    edit(estate, 'ring = "20s"', 'ring = "25s"')
    done("target", "set", "buyer1", "--ring", "30s", home=estate)
    planned = plan(estate)
    assert (planned.code, "will refuse" in planned.err, "target.buyer1" in planned.err) == (CHANGES, True, True)
    refused = apply(estate, "--yes")
    assert (refused.code, "[estate-conflict]" in refused.err, "target.buyer1" in refused.err) == (1, True, True)
    assert done("target", "show", "buyer1", "--json", home=estate).json["ring_ms"] == 30_000
    assert apply(estate, "--yes", "--force").code == ExitCode.DONE
    assert done("target", "show", "buyer1", "--json", home=estate).json["ring_ms"] == 25_000


@pytest.mark.parametrize(
    ("content", "slug"),
    [
        (b"\xff\xfe", "estate-unreadable"),
        (b"[seller.acme", "estate-not-toml"),
        (b"[seller.acme]\nstatsu = 'active'\n", "estate-key-unknown"),
        (b"[seller.acme]\ncurrency = 'EUR'\n", "estate-field-fixed"),
        (b"[trunk.carrier]\nsecret = 'hunter2'\n", "estate-value-invalid"),
    ],
)
def test_a_file_that_cannot_be_is_a_usage_error(estate: Path, content: bytes, slug: str) -> None:
    file_of(estate).write_bytes(content)
    for result in (plan(estate), apply(estate, "--yes")):
        assert (result.code, f"[{slug}]" in result.err, result.out) == (ExitCode.USAGE, True, "")
        assert "hunter2" not in result.err
    assert run("plan", "-f", "nowhere.toml", home=estate).code == ExitCode.USAGE


def test_an_export_keeps_the_comments_of_a_file(estate: Path) -> None:
    text = done("export", "--comments-of", "estate.toml", home=estate).out
    assert "# the first\n[seller.acme]  # since May\n" in text
    file_of(estate).write_text(text, "utf-8")
    assert plan(estate).code == ExitCode.DONE


def test_two_exports_differ_by_their_instant_only(estate: Path) -> None:
    first, second = ([*done("export", home=estate).out.splitlines()] for _ in range(2))
    assert [line for line in first if line not in second] in ([], [first[1]])
    assert first[1].startswith("exported = ")


def test_the_file_is_of_the_tenant_that_is_selected(estate: Path) -> None:
    refused = run("--tenant", "other", "plan", "-f", "estate.toml", home=estate)
    assert (refused.code, "[tenant-not-found]" in refused.err) == (ExitCode.REFUSED, True)
