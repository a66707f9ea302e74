"""One line for each call that is over: its id, what became of it, and the numbers that were billed."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from capconduit.domain.model import Cdr
from capconduit.domain.outcomes import outcome_of
from capconduit.units import format_micros

log = logging.getLogger("fastagi.calls")


def log_calls(cdrs: Sequence[Cdr]) -> None:
    """Log settled calls, rejected ones included; told by the engine after their commit."""
    if not log.isEnabledFor(logging.INFO):
        return
    for cdr in cdrs:
        log.info(
            _text(cdr), extra={"call": cdr.call_id, "uniqueid": cdr.uniqueid, "did": cdr.did, "fields": _fields(cdr)}
        )


def _text(cdr: Cdr) -> str:
    reason = f": {cdr.reject_reason}" if cdr.reject_reason else ""
    return f"call {outcome_of(cdr)}{reason}"


def _fields(cdr: Cdr) -> dict[str, object]:
    told: dict[str, object] = {
        "outcome": str(outcome_of(cdr)),
        "caller": cdr.caller_e164 or cdr.caller,
        "seller": cdr.seller,
        "campaign": cdr.campaign,
        "target": cdr.target,
        "attempts": cdr.attempts,
        "ring_ms": cdr.ring_ms,
        "talk_ms": cdr.talk_ms,
        "billed_s": cdr.billed_seconds,
    }
    if cdr.currency:
        told |= {"amount": format_micros(cdr.amount_micros), "currency": cdr.currency}
    return told | {"cause": cdr.hangup_cause, "sip": cdr.sip_code, "hung_up_by": str(cdr.hung_up_by)}
