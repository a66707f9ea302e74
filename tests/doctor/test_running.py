"""Carrying out checks: none stops another, none lasts for ever, and what went wrong is said."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import pytest

from capconduit.doctor.checks import CHECKS, chosen
from capconduit.doctor.findings import CannotTell, Check, Fault, Finding, Matter, Severity, fine
from capconduit.doctor.run import examine
from capconduit.doctor.scene import Scene, Source
from capconduit.errors import DatabaseError, UsageError
from tests.doctor.facts import scene

BAD = Fault("sample-bad", Severity.ERROR, "because")


def check(slug: str, run: object) -> Check:
    return Check(slug, Matter.MACHINE, f"what {slug} looks at", (BAD,), run)  # type: ignore[arg-type]


def well(_: Scene) -> Iterable[Finding]:
    return [fine("all is well")]


def test_a_finding_has_its_check_its_reason_and_its_fix() -> None:
    (finding,) = examine(scene(), [check("sample", lambda _: [BAD.found("5 of 3", fix="mend it", subject="x")])])
    assert finding == Finding("sample", "sample-bad", Severity.ERROR, "x", "5 of 3", "because", "mend it")


def test_what_is_well_goes_by_the_name_of_its_check() -> None:
    (finding,) = examine(scene(), [check("sample", well)])
    assert (finding.check, finding.id, finding.severity) == ("sample", "sample", Severity.OK)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CannotTell("no right", "sudo capconduit doctor"), "no right"),
        (DatabaseError("database-away", "it is away", "start it"), "it is away"),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError"),
    ],
)
def test_a_check_that_fails_is_unknown_and_the_others_go_on(error: Exception, told: str) -> None:
    def fails(_: Scene) -> Iterator[Finding]:
        yield BAD.found("found before", fix="mend it")
        raise error

    findings = list(examine(scene(), [check("first", fails), check("second", well)]))
    assert [f.id for f in findings] == ["sample-bad", "first", "second"]
    assert findings[1].severity is Severity.UNKNOWN
    assert told in findings[1].found
    assert findings[1].fix


def test_a_check_that_hangs_is_given_up_and_the_others_go_on() -> None:
    let_go = threading.Event()

    def hangs(_: Scene) -> Iterable[Finding]:
        let_go.wait(30)
        return []

    try:
        findings = list(examine(scene(), [check("first", hangs), check("second", well)], check_s=3.5))
    finally:
        let_go.set()
    assert [(f.id, f.severity) for f in findings] == [("first", Severity.UNKNOWN), ("second", Severity.OK)]


def test_when_the_time_is_over_every_check_that_is_left_says_so() -> None:
    findings = list(examine(scene(), [check("first", well), check("second", well)], total_s=0))
    assert [(f.id, f.severity) for f in findings] == [("first", Severity.UNKNOWN), ("second", Severity.UNKNOWN)]
    assert "--only second" in findings[1].fix


def test_what_hangs_is_waited_for_once() -> None:
    """A source that a check was given up over refuses the next check at once."""
    entered, let_go = threading.Event(), threading.Event()

    def hang() -> str:
        entered.set()
        let_go.wait(30)
        return "late"

    source = Source("the peer", hang)
    waiting = threading.Thread(target=source)
    waiting.start()
    try:
        assert entered.wait(30)
        with pytest.raises(CannotTell, match="the peer has not answered in time"):
            source()
    finally:
        let_go.set()
        waiting.join()
    assert source() == "late"


def test_a_source_is_asked_once_and_its_failure_kept() -> None:
    asked = []

    def fail() -> str:
        asked.append(1)
        raise DatabaseError("database-away", "it is away", "start it")

    source = Source("the database", fail)
    for _ in range(3):
        with pytest.raises(CannotTell, match="it is away"):
            source()
    assert asked == [1]


def test_nothing_answers_and_every_check_says_what_it_could_not_see() -> None:
    findings = list(examine(scene(), CHECKS))
    assert {f.check for f in findings} == {c.slug for c in CHECKS}
    assert not [f for f in findings if "the check itself failed" in f.found]


def test_an_undeclared_fault_is_a_bug_of_ours() -> None:
    stranger = Fault("stranger", Severity.ERROR, "why")
    (finding,) = examine(scene(), [check("sample", lambda _: [stranger.found("x", fix="y")])])
    assert finding.severity is Severity.UNKNOWN
    assert "AssertionError" in finding.found


def test_checks_are_chosen_by_their_name_or_their_matter() -> None:
    assert [c.slug for c in chosen(["fastagi"], [])] == ["fastagi"]
    assert {c.matter for c in chosen(["ami", "secrets"], [])} == {Matter.AMI, Matter.SECRETS}
    assert "clock" not in [c.slug for c in chosen([], ["clock"])]
    assert chosen([], []) == list(CHECKS)


def test_a_mistyped_check_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError) as error:
        chosen(["fastag"], [])
    assert "'fastagi'" in error.value.hint
    with pytest.raises(UsageError):
        chosen(["fastagi"], ["dialplan"])


def test_slugs_are_unique_and_stable_in_form() -> None:
    slugs = [c.slug for c in CHECKS]
    faults = [f.id for c in CHECKS for f in c.faults]
    assert len(slugs) == len(set(slugs))
    assert len(set(faults)) == len(set({f.id: f for c in CHECKS for f in c.faults}.values()))
    for slug in (*slugs, *faults):
        assert slug == slug.lower().strip("-")
        assert slug.replace("-", "").isalnum()
    assert set(slugs) & {m.value for m in Matter} == {"secrets"}  # that matter has this one check
