"""How far a caller's number is vouched for (STIR/SHAKEN), and whether that is enough.

Verdicts come in several forms: Asterisk's STIR_SHAKEN(…,verify_result) ("Verification passed", "Signature failed",
"Verification mismatch", "Verification not present") and carriers' verstat (3GPP TS 24.229: "TN-Validation-Passed",
"TN-Validation-Failed", "No-TN-Validation", some with the level appended: "TN-Validation-Passed-A").
"""

from __future__ import annotations

from capconduit.vocab import Attestation, RejectCode

_LEVELS = tuple(level.value for level in Attestation)  # the best first
_FAILED = ("fail", "mismatch", "invalid")
_ABSENT = ("not present", "no-tn-validation", "no tn-validation")


def level_of(attestation: str, verdict: str) -> str:
    """`A`, `B` or `C`, as told by itself or at the end of the verdict; empty where no level is told."""
    told = attestation.strip().upper()
    if told in _LEVELS:
        return told
    head, _, last = verdict.strip().upper().rpartition("-")
    return last if head and last in _LEVELS else ""


def gate(required: str, attestation: str, verdict: str) -> RejectCode | None:
    """Why a call is not let in that needs the level `required` (empty: none is needed); None lets it in.

    A verdict that failed is worse than none. A level without any verdict is believed: the carrier checked it. A level
    that does not exist asks for the best.
    """
    if not required:
        return None
    told = verdict.strip().lower()
    if any(word in told for word in _FAILED):
        return RejectCode.ATTESTATION_INVALID
    level = level_of(attestation, verdict)
    least = _LEVELS.index(required) if required in _LEVELS else 0
    if not level or any(word in told for word in _ABSENT) or _LEVELS.index(level) > least:
        return RejectCode.ATTESTATION_MISSING
    return None
