"""The attestation gate: levels, the verdicts of Asterisk and of carriers, and what stands against a call."""

from __future__ import annotations

import pytest

from capconduit.domain.stir import gate, level_of
from capconduit.vocab import Attestation, RejectCode

MISSING, INVALID = RejectCode.ATTESTATION_MISSING, RejectCode.ATTESTATION_INVALID


@pytest.mark.parametrize(
    ("attestation", "verdict", "level"),
    [
        ("A", "", "A"),
        (" b ", "", "B"),
        ("", "TN-Validation-Passed-A", "A"),
        ("", "tn-validation-passed-c", "C"),
        ("B", "TN-Validation-Passed-A", "B"),
        ("", "TN-Validation-Passed", ""),
        ("", "No-TN-Validation", ""),
        ("D", "", ""),
        ("", "", ""),
        ("", "A", ""),
    ],
)
def test_the_level_stands_by_itself_or_at_the_end_of_the_verdict(attestation: str, verdict: str, level: str) -> None:
    assert level_of(attestation, verdict) == level


@pytest.mark.parametrize("required", Attestation)
@pytest.mark.parametrize("told", Attestation)
@pytest.mark.parametrize("verdict", ["", "Verification passed", "TN-Validation-Passed"])
def test_a_level_as_good_as_asked_for_is_let_in_with_any_good_verdict(required: str, told: str, verdict: str) -> None:
    assert gate(required, told, verdict) == (None if "ABC".index(told) <= "ABC".index(required) else MISSING)


@pytest.mark.parametrize(
    "verdict",
    ["Signature failed", "Verification mismatch", "TN-Validation-Failed", "TN-Validation-Failed-A", "invalid"],
)
@pytest.mark.parametrize("told", ["A", ""])
def test_a_verdict_that_failed_is_worse_than_none(told: str, verdict: str) -> None:
    assert gate("C", told, verdict) is INVALID


@pytest.mark.parametrize("verdict", ["Verification not present", "No-TN-Validation"])
def test_a_level_that_nobody_verified_is_missing(verdict: str) -> None:
    assert gate("C", "A", verdict) is MISSING


def test_without_a_level_the_attestation_is_missing_and_where_none_is_asked_for_anything_goes() -> None:
    assert gate("C", "", "") is MISSING
    assert gate("C", "", "Verification passed") is MISSING
    assert gate("", "", "TN-Validation-Failed") is None


@pytest.mark.parametrize("required", ["a", " A", "gold", "AB"])
def test_a_level_that_does_not_exist_asks_for_the_best(required: str) -> None:
    """A setting that cannot be understood must not let everybody in, nor stop every call by an error."""
    assert gate(required, "A", "") is None
    assert gate(required, "B", "") is MISSING
