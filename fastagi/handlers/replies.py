"""Answers as channel variables: the one place where CC_* are put together. CC_VERDICT and CC_ACK are always last."""

from __future__ import annotations

from collections.abc import Callable

from capconduit.domain.calls import DialAnswer, RejectAnswer, RouteAnswer
from capconduit.vocab import REJECTS, CcVariable, RejectCode, Verdict
from fastagi.agi_server import AgiReply


def route_reply(answer: RouteAnswer) -> AgiReply:
    """The answer of `route` and `attempt`."""
    return dial_reply(answer) if isinstance(answer, DialAnswer) else reject_reply(answer)


def dial_reply(answer: DialAnswer, on_applied: Callable[[bool], None] | None = None) -> AgiReply:
    """Dial this target."""
    return AgiReply(
        (
            (CcVariable.CALL, answer.call_id),
            (CcVariable.ATTEMPT, str(answer.attempt)),
            (CcVariable.DIAL, answer.dial),
            (CcVariable.RING_S, str(answer.ring_s)),
            (CcVariable.FUNDED_S, str(answer.funded_s)),
            (CcVariable.CEILING_MS, str(answer.ceiling_ms)),
            (CcVariable.OPTIONS, answer.options),
            (CcVariable.TARGET, answer.target),
            (CcVariable.VERDICT, Verdict.DIAL),
        ),
        on_applied=on_applied,
    )


def reject_reply(answer: RejectAnswer) -> AgiReply:
    """Do not connect."""
    return _reject(answer.reason, answer.cause, answer.sip)


def reject_without_decision(code: RejectCode) -> AgiReply:
    """A reject that no decision stands behind: it was too late, or the database is away."""
    cause, sip, _ = REJECTS[code]
    return _reject(code, cause, sip)


def _reject(reason: str, cause: int, sip: int) -> AgiReply:
    return AgiReply(
        (
            (CcVariable.REASON, reason),
            (CcVariable.CAUSE, str(cause)),
            (CcVariable.SIP, str(sip)),
            (CcVariable.VERDICT, Verdict.REJECT),
        )
    )


ACKNOWLEDGED = AgiReply(((CcVariable.ACK, "1"),))
NOT_ACKNOWLEDGED = AgiReply(((CcVariable.ACK, ""),), failed=True)
