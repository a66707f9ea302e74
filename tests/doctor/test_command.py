"""`capconduit doctor` as a command: what it prints, its exit codes, and its page."""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from capconduit.doctor import checks
from capconduit.doctor.checks import CHECKS
from capconduit.doctor.document import PAGE, page
from capconduit.doctor.findings import CannotTell, Check, Fault, Finding, Matter, Severity, fine
from capconduit.doctor.scene import Scene
from capconduit.errors import ExitCode
from capconduit_cli.app import NOUNS, load_noun
from capconduit_cli.commands.doctor import CHECK_COLUMNS, COLUMNS
from capconduit_cli.typer_seam import Group
from tests.cli.runner import Result, run

BAD = Fault("clock-bad", Severity.ERROR, "time matters")
ODD = Fault("clock-odd", Severity.WARNING, "time matters a little")
KEYS = ["matter", "check", "id", "severity", "subject", "found", "why", "fix"]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding | Exception]:
    """What the one check that there is will find: a test fills it."""
    given: list[Finding | Exception] = []

    def find(_: Scene) -> Sequence[Finding]:
        for one in given:
            if isinstance(one, Exception):
                raise one
        return [one for one in given if isinstance(one, Finding)]

    check = Check("clock", Matter.MACHINE, "the clock", (BAD, ODD), find)
    monkeypatch.setattr(checks, "CHECKS", (check,))
    return given


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and no configuration of the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("capconduit.config.SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    return tmp_path


def doctor(home: Path, *argv: str) -> Result:
    return run("doctor", *argv, home=home)


def test_where_all_is_well_the_exit_code_is_0(home: Path, found: list[Finding | Exception]) -> None:
    found.append(fine("it is right"))
    result = doctor(home)
    assert result.code == ExitCode.DONE, result.err
    assert result.out == "machine\n  ok      clock: it is right\n"
    assert result.err == ""


def test_what_is_wrong_is_told_with_reason_and_fix_and_exit_code_5(
    home: Path, found: list[Finding | Exception]
) -> None:
    found.append(BAD.found("it is 5 s off", fix="timedatectl set-ntp true"))
    result = doctor(home)
    assert result.code == ExitCode.DRIFT
    assert result.out.splitlines() == [
        "machine",
        "  error   clock-bad: it is 5 s off",
        "          why: time matters",
        "          fix: timedatectl set-ntp true",
    ]
    assert "1 error [doctor-findings]" in result.err


@pytest.mark.parametrize(("least", "code"), [((), 5), (("--severity", "error"), 0), (("--severity", "unknown"), 5)])
def test_a_warning_counts_unless_errors_are_asked_for(
    home: Path, found: list[Finding | Exception], least: Sequence[str], code: int
) -> None:
    found.append(ODD.found("it is odd", fix="mend it"))
    assert doctor(home, *least).code == code


@pytest.mark.parametrize(("least", "code"), [((), 0), (("--severity", "unknown"), 5)])
def test_what_could_not_be_seen_counts_only_where_asked_for(
    home: Path, found: list[Finding | Exception], least: Sequence[str], code: int
) -> None:
    found.append(CannotTell("no right", "sudo capconduit doctor"))
    result = doctor(home, *least)
    assert result.code == code
    assert "  unknown clock: no right\n          how: sudo capconduit doctor\n" in result.out


def test_json_has_the_documented_keys(home: Path, found: list[Finding | Exception]) -> None:
    found.extend([BAD.found("it is off", fix="mend it", subject="pbx1"), fine("the other is right")])
    result = doctor(home, "--json")
    assert [list(row) for row in result.json] == [KEYS, KEYS]
    assert result.json[0] == {
        "matter": "machine", "check": "clock", "id": "clock-bad", "severity": "error", "subject": "pbx1",
        "found": "it is off", "why": "time matters", "fix": "mend it",
    }  # fmt: skip
    assert result.json[1]["id"] == "clock"
    rows = list(csv.DictReader(io.StringIO(doctor(home, "-o", "csv", "--filter", "severity=error").out)))
    assert [row["id"] for row in rows] == ["clock-bad"]


def test_the_columns_are_those_of_the_page() -> None:
    assert [column.key for column in COLUMNS] == KEYS
    text = PAGE.read_text("utf-8")
    assert [key for key in KEYS if f"`{key}`" not in text] == []
    assert [column.key for column in CHECK_COLUMNS] == ["matter", "check", "looks_at", "faults"]


def test_list_does_nothing_and_names_every_check(home: Path) -> None:
    result = doctor(home, "--list", "--json")
    assert result.code == ExitCode.DONE
    assert [row["check"] for row in result.json] == [check.slug for check in CHECKS]
    assert all(row["looks_at"] and row["faults"] for row in result.json)
    assert [row["check"] for row in doctor(home, "--list", "--only", "fastagi", "--json").json] == ["fastagi"]


def test_a_mistyped_check_is_refused_with_the_nearest(home: Path) -> None:
    result = doctor(home, "--only", "fastagy")
    assert result.code == ExitCode.USAGE
    assert "did you mean 'fastagi'?" in result.err


def test_hostile_text_of_a_peer_stays_text(home: Path, found: list[Finding | Exception]) -> None:
    found.append(BAD.found("\x1b]0;owned\x07", fix="mend it"))
    for form in ((), ("--json",), ("-o", "csv")):
        assert "\x1b" not in doctor(home, *form).out


def test_on_a_machine_without_anything_it_ends_and_says_so(home: Path) -> None:
    """No Asterisk, no daemon, no database: errors and much that is unknown, and no bug."""
    result = run("doctor", "--json", home=home, env={"CAPCONDUIT_ASTERISK__CONFIG_DIR": str(home / "none")})
    assert result.code == ExitCode.DRIFT, result.err
    rows = result.json
    assert {row["check"] for row in rows} == {check.slug for check in CHECKS}
    assert {"daemon-away", "migrations-pending", "ami-off"} <= {row["id"] for row in rows}
    assert not [row for row in rows if "the check itself failed" in row["found"]]
    assert all(row["fix"] for row in rows if row["severity"] not in ("ok", "unknown"))


def test_the_page_has_every_check_as_it_is_now() -> None:
    text = PAGE.read_text("utf-8")
    assert text == page(text), "run python -m capconduit.doctor.document --write"
    for check in CHECKS:
        assert f"**`{check.slug}`**" in text
        for fault in check.faults:
            assert f"| `{fault.id}` | {fault.severity} |" in text


def strings_of_the_doctor() -> Iterator[str]:
    """Every piece of text in its modules."""
    for path in sorted(Path(checks.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_command_that_a_fix_names_is_there() -> None:
    named = {
        (match[1], match[2] or "")
        for text in strings_of_the_doctor()
        for match in re.finditer(r"(?:^|[&;`] ?|: )capconduit (?:--[a-z]+ )?([a-z]+)(?: ([a-z]+)\b)?", text)
    }
    nouns = {noun.name: noun for noun in NOUNS}
    assert len(named) > 8
    for name, verb in sorted(named):
        assert name in nouns, name
        command = load_noun(nouns[name])
        if isinstance(command, Group):
            assert verb in command.commands, (name, verb)
