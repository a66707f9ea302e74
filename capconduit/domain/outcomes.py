"""What became of a call, in one word, from its record."""

from __future__ import annotations

from capconduit.domain.model import Cdr
from capconduit.vocab import CallOutcome


def outcome_of(cdr: Cdr) -> CallOutcome:
    """Answered calls are completed, whoever ended them; of the others those with a reject code are rejected."""
    if cdr.answered_ms is not None or cdr.talk_ms:
        return CallOutcome.COMPLETED
    return CallOutcome.REJECTED if cdr.reject_code else CallOutcome.UNANSWERED
