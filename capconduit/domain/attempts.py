"""Failover: what follows a Dial that was not answered."""

from __future__ import annotations

from dataclasses import replace

from capconduit.domain.admission import (
    Ids,
    all_failed,
    caps_filled,
    dial_answer,
    dial_lease_ms,
    event,
    release,
    ring_seconds,
    start_attempt,
)
from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import AttemptReport, RouteAnswer
from capconduit.domain.estate import Estate
from capconduit.domain.model import Attempt, Call, Campaign, Place
from capconduit.domain.routing import Decision, open_candidates
from capconduit.domain.strategies import order
from capconduit.domain.trace import extend_trace
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import (
    CAUSE_NO_ANSWER,
    CAUSE_NORMAL,
    FAILOVER_STATUSES,
    CallState,
    CapMetric,
    DialStatus,
    EventKind,
)

_NO_CAUSE = frozenset({0, 127})  # HANGUPCAUSE after a Dial timeout, and after CANCEL


def real_cause(hangup_cause: int) -> int:
    """HANGUPCAUSE of an unanswered leg, with Asterisk's two non-answers made into `no answer` (19)."""
    return CAUSE_NO_ANSWER if hangup_cause in _NO_CAUSE else hangup_cause


def next_attempt(
    report: AttemptReport, estate: Estate, books: Books, now_ms: int, ids: Ids
) -> tuple[RouteAnswer, Changes]:
    """Record how the Dial ended and choose the next target, or reject with `targets_all_failed` and the leg's cause.

    A report of an attempt that is not the current one changes nothing: the answer in force is given again. Nor does one
    of a call that was answered: its places belong to the settlement, and there is nothing more to dial.
    """
    call = books.call_of((report.node, report.uniqueid))
    if call is None:
        ended = books.settled.get((report.node, report.uniqueid))
        return all_failed(ended.call_id if ended else "", real_cause(report.hangup_cause)), Changes()
    campaign = estate.campaigns.get(call.campaign_id)
    if report.attempt != call.attempt or call.reject_reason:
        return _again(call, books, campaign, report), Changes()
    if report.dialstatus is DialStatus.ANSWER or call.state is CallState.UP:
        return all_failed(call.id, report.hangup_cause or CAUSE_NORMAL), Changes()
    ended_attempt, changes = _end_attempt(report, call, books, estate, now_ms, ids)
    settings = estate.settings(call.tenant_id)
    decision = Decision(tenant_id=call.tenant_id, did_number=call.did_number, caller_e164=call.ani_e164)
    dialled = list(books.attempts[call.id].values())
    if campaign is not None and _may_go_on(report, campaign, dialled, now_ms):
        tried = frozenset(a.target_id for a in dialled)
        free, _ = open_candidates(decision, campaign, estate, books, now_ms, tried)
        ordered = order(campaign.strategy, free, f"{call.id}:{call.attempt + 1}")
        if ordered:
            ring_s = ring_seconds(ordered[0], _ring_left_ms(campaign, dialled, now_ms))
            attempt, places = start_attempt(call, ordered[0], call.attempt + 1, ring_s, estate, now_ms)
            advanced = replace(
                call,
                attempt=attempt.number,
                state=CallState.DIALING,
                lease_until_ms=dial_lease_ms(settings, ring_s, now_ms),
                trace=extend_trace(call.trace, decision.checks),
            )
            changes.calls.append(advanced)
            changes.attempts.append(attempt)
            changes.places.extend(places)
            changes.events.extend(caps_filled(places, books, estate, now_ms, ids))
            return dial_answer(advanced, attempt, campaign), changes
    answer = all_failed(call.id, ended_attempt.hangup_cause or CAUSE_NO_ANSWER)
    changes.calls.append(replace(call, reject_reason=answer.reason, trace=extend_trace(call.trace, decision.checks)))
    return answer, changes


def _may_go_on(report: AttemptReport, campaign: Campaign, dialled: list[Attempt], now_ms: int) -> bool:
    return (
        report.dialstatus in FAILOVER_STATUSES
        and len(dialled) < campaign.max_attempts
        and _ring_left_ms(campaign, dialled, now_ms) >= MS_PER_SECOND
    )


def _ring_left_ms(campaign: Campaign, dialled: list[Attempt], now_ms: int) -> int:
    """What is left of the campaign's ring budget."""
    return campaign.ring_budget_ms - sum((a.ended_ms or now_ms) - a.started_ms for a in dialled)


def counted_when_failed(metric: CapMetric) -> int:
    """What an attempt that was dialled and not answered uses of a cap on the target's side."""
    return 1 if metric is CapMetric.ATTEMPTS else 0


def _end_attempt(
    report: AttemptReport, call: Call, books: Books, estate: Estate, now_ms: int, ids: Ids
) -> tuple[Attempt, Changes]:
    cause = real_cause(report.hangup_cause)
    current = books.attempts[call.id][call.attempt]
    attempt = replace(
        current,
        rang_ms=report.rang_ms or current.rang_ms,
        ended_ms=now_ms,
        dialstatus=report.dialstatus,
        hangup_cause=cause,
    )
    told = event(
        ids, call.tenant_id, now_ms, EventKind.ATTEMPT_FAILED, call.id,
        attempt=attempt.number, target=attempt.target_name, dialstatus=report.dialstatus, cause=cause,
    )  # fmt: skip
    return attempt, Changes(attempts=[attempt], places=_released(call, books, estate), events=[told])


def _released(call: Call, books: Books, estate: Estate) -> list[Place]:
    """The places of the attempt that failed, given back."""
    mine = [p for p in books.open_places(call.id) if p.attempt == call.attempt]

    def counted(place: Place) -> int:
        zoned = estate.caps.get(place.cap_id)
        return counted_when_failed(zoned.cap.metric) if zoned else 0

    return release(mine, f"attempt {call.attempt} failed", counted)


def _again(call: Call, books: Books, campaign: Campaign | None, report: AttemptReport) -> RouteAnswer:
    """The answer in force for a report that came twice or late."""
    if call.reject_reason:
        last = books.attempts[call.id][call.attempt]
        return all_failed(call.id, last.hangup_cause or real_cause(report.hangup_cause))
    return dial_answer(call, books.attempts[call.id][call.attempt], campaign)
