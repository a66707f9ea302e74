"""Failover: what follows a Dial that was not answered."""

from __future__ import annotations

from capconduit.domain.admission import (
    all_failed,
    caps_filled,
    dial_answer,
    legs_of,
    priced,
    release,
    ring_seconds,
    start_dial,
)
from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import AttemptReport, RouteAnswer
from capconduit.domain.estate import Estate
from capconduit.domain.events import Ids, event
from capconduit.domain.model import Attempt, Call, Campaign, Place
from capconduit.domain.rating import Funding
from capconduit.domain.record import replace
from capconduit.domain.routing import Decision, Purse, first_dial, fund_dial, open_candidates
from capconduit.domain.strategies import Candidate, order
from capconduit.domain.targets import dial_lease_ms, failed, told
from capconduit.domain.trace import extend_trace
from capconduit.domain.usage import resized, room_around
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
    last, changes = _end_attempts(report, call, books, estate, now_ms, ids)
    decision = Decision(tenant_id=call.tenant_id, did_number=call.did_number, caller_e164=call.ani_e164)
    dialled = list(books.attempts[call.id].values())
    if campaign is not None and _may_go_on(report, campaign, dialled, now_ms):
        chosen, funding = _choose(decision, call, campaign, estate, books, now_ms)
        if funding is not None:
            return _go_on(decision, call, campaign, chosen, funding, estate, books, changes, now_ms, ids)
    answer = all_failed(call.id, last.hangup_cause or CAUSE_NO_ANSWER)
    changes.calls.append(replace(call, reject_reason=answer.reason, trace=extend_trace(call.trace, decision.trace)))
    return answer, changes


def _choose(
    decision: Decision, call: Call, campaign: Campaign, estate: Estate, books: Books, now_ms: int
) -> tuple[list[Candidate], Funding | None]:
    """The next Dial, with what the call holds moved to it; no funding: there is none."""
    dialled = books.attempts[call.id].values()
    own = [p for p in books.open_places(call.id) if p.attempt == 0]
    purse = Purse(books.account(call.seller_id), books.holds[call.id].amount_micros, room_around(own, estate, books))
    tried = frozenset(a.target_id for a in dialled)
    free, _ = open_candidates(decision, campaign, estate, books, now_ms, purse, tried)
    ordered = order(campaign.strategy, free, f"{call.id}:{call.attempt + 1}")
    chosen = list(first_dial(campaign, ordered, campaign.max_attempts - len(dialled)))
    return chosen, fund_dial(chosen, purse, campaign, estate, books, now_ms) if chosen else None


def _go_on(
    decision: Decision,
    call: Call,
    campaign: Campaign,
    chosen: list[Candidate],
    funding: Funding,
    estate: Estate,
    books: Books,
    changes: Changes,
    now_ms: int,
    ids: Ids,
) -> tuple[RouteAnswer, Changes]:
    """Dial `chosen`: hold, places and prices become theirs."""
    dialled = list(books.attempts[call.id].values())
    ring_s = ring_seconds(chosen, _ring_left_ms(campaign, dialled, now_ms))
    number = max(a.number for a in dialled) + 1
    legs, more = start_dial(call, chosen, number, ring_s, funding, estate, books, now_ms)
    advanced = replace(
        priced(call, legs[0], chosen[0].offer.tariff),
        attempt=number,
        funded_s=funding.funded_s,
        state=CallState.DIALING,
        lease_until_ms=dial_lease_ms(estate.settings(call.tenant_id), ring_s, now_ms),
        trace=extend_trace(call.trace, decision.trace),
    )
    hold = books.holds[call.id]
    expires_ms = now_ms + (ring_s + funding.funded_s) * MS_PER_SECOND
    own = [p for p in books.open_places(call.id) if p.attempt == 0]
    changes.calls.append(advanced)
    changes.attempts.extend(more.attempts)
    changes.targets.extend(more.targets)
    changes.rules.extend(more.rules)
    changes.ticks.extend(more.ticks)
    changes.holds.append(replace(hold, amount_micros=funding.hold_micros, expires_ms=expires_ms))
    places = [*resized(own, estate, funding.funded_s, funding.hold_micros, {}), *more.places]
    changes.events.extend(caps_filled(places, books, estate, now_ms, ids))
    changes.places.extend(places)
    return dial_answer(advanced, legs, campaign), changes


def _may_go_on(report: AttemptReport, campaign: Campaign, dialled: list[Attempt], now_ms: int) -> bool:
    return (
        report.dialstatus in FAILOVER_STATUSES
        and len(dialled) < campaign.max_attempts
        and _ring_left_ms(campaign, dialled, now_ms) >= MS_PER_SECOND
    )


def _ring_left_ms(campaign: Campaign, dialled: list[Attempt], now_ms: int) -> int:
    """What is left of the campaign's ring budget; legs that rang at once rang once."""
    rounds: dict[int, int] = {}
    for attempt in dialled:
        rang_ms = (attempt.ended_ms or now_ms) - attempt.started_ms
        rounds[attempt.round or attempt.number] = max(rang_ms, rounds.get(attempt.round or attempt.number, 0))
    return campaign.ring_budget_ms - sum(rounds.values())


def counted_when_failed(metric: CapMetric) -> int:
    """What an attempt that was dialled and not answered uses of a cap on the target's side."""
    return 1 if metric is CapMetric.ATTEMPTS else 0


def _end_attempts(
    report: AttemptReport, call: Call, books: Books, estate: Estate, now_ms: int, ids: Ids
) -> tuple[Attempt, Changes]:
    """The Dial is over without an answer: each of its legs has ended, what they held is given back."""
    cause = real_cause(report.hangup_cause)
    settings = estate.settings(call.tenant_id)
    changes = Changes(places=_released(call, books, estate))
    for leg in legs_of(call, books):
        attempt = replace(
            leg,
            rang_ms=report.rang_ms or leg.rang_ms,
            ended_ms=now_ms,
            dialstatus=report.dialstatus,
            hangup_cause=cause,
        )
        before = books.target(call.tenant_id, leg.target_id)
        state = failed(before, leg, report.dialstatus, settings, now_ms)
        changes.attempts.append(attempt)
        changes.targets.append(state)
        changes.events.append(
            event(
                ids, call.tenant_id, now_ms, EventKind.ATTEMPT_FAILED, call.id,
                attempt=attempt.number, target=attempt.target_name, dialstatus=report.dialstatus, cause=cause,
            )
        )  # fmt: skip
        changes.events.extend(told(before, state, leg.target_name, now_ms, ids))
    return changes.attempts[-1], changes


def _released(call: Call, books: Books, estate: Estate) -> list[Place]:
    """The places of the legs that failed, given back."""
    legs = {leg.number for leg in legs_of(call, books)}
    mine = [p for p in books.open_places(call.id) if p.attempt in legs]

    def counted(place: Place) -> int:
        zoned = estate.caps.get(place.cap_id)
        return counted_when_failed(zoned.cap.metric) if zoned else 0

    return release(mine, f"attempt {call.attempt} failed", counted)


def _again(call: Call, books: Books, campaign: Campaign | None, report: AttemptReport) -> RouteAnswer:
    """The answer in force for a report that came twice or late."""
    if call.reject_reason:
        last = books.attempts[call.id][call.attempt]
        return all_failed(call.id, last.hangup_cause or real_cause(report.hangup_cause))
    return dial_answer(call, legs_of(call, books), campaign)
