"""Turning a decision into an admitted call with its places and hold, or into the record of its reject."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace

from capconduit.domain.books import Books, Changes, CounterKey
from capconduit.domain.calls import DialAnswer, RejectAnswer, RouteAnswer, RouteRequest
from capconduit.domain.dialing import dial_string
from capconduit.domain.estate import Estate
from capconduit.domain.model import Attempt, Call, Campaign, Cdr, Event, Hold, Place
from capconduit.domain.rating import Funding
from capconduit.domain.routing import Decision, caps_of_rule, counter_key, find_did, route
from capconduit.domain.settings import Settings
from capconduit.domain.strategies import Candidate
from capconduit.domain.trace import dump_trace
from capconduit.units import MS_PER_SECOND, ceil_div
from capconduit.vocab import (
    CAUSE_NO_ANSWER,
    CAUSE_TO_SIP,
    REJECTS,
    SIP_FOR_OTHER_CAUSES,
    CallState,
    EventKind,
    HoldState,
    HungUpBy,
    PlaceState,
    RejectCode,
    WindowKind,
)

CDR_SCHEMA_VERSION = 1
Ids = Callable[[], str]

_MONEY_REJECTS = frozenset(
    {RejectCode.BALANCE_EXHAUSTED, RejectCode.BALANCE_HELD_BY_OTHER_CALLS, RejectCode.BALANCE_BELOW_FIRST_INCREMENT}
)


def admit(request: RouteRequest, estate: Estate, books: Books, now_ms: int, ids: Ids) -> tuple[RouteAnswer, Changes]:
    """Decide about a call that arrived and take what it needs. Needs its account and counters in `books`.

    The same channel asking again gets the answer it has; a channel whose end came first is rejected and takes nothing.
    """
    known = books.call_of((request.node, request.uniqueid))
    if known is not None:
        last = books.attempts[known.id][known.attempt]
        if known.reject_reason:
            return all_failed(known.id, last.hangup_cause or CAUSE_NO_ANSWER), Changes()
        return dial_answer(known, last, _campaign(estate, known)), Changes()
    ended = books.settled.get((request.node, request.uniqueid))
    if ended is not None and ended.reject_code:
        return _rejected_before(ended), Changes()
    if ended is not None or (request.node, request.uniqueid) in books.buried:
        call_id = ended.call_id if ended else ""
        return reject_answer(call_id, RejectCode.ENGINE_TIMEOUT, RejectCode.ENGINE_TIMEOUT, Settings()), Changes()
    call_id = ids()
    decision = route(request, estate, books, now_ms, call_id)
    if decision.reject is not None or not decision.candidates:
        return _reject(request, decision, estate, call_id, now_ms, ids)
    return _open(request, decision, estate, books, call_id, now_ms, ids)


def refuse_late(request: RouteRequest, estate: Estate, now_ms: int, ids: Ids) -> tuple[RejectAnswer, Changes]:
    """The record of a call whose decision nobody waits for any more; nothing is decided and nothing taken."""
    number, did, trunk = find_did(request, estate)
    owner = did or trunk
    decision = Decision(
        tenant_id=owner.tenant_id if owner else estate.first_tenant_id(),
        did_number=number,
        caller_e164="",
        did=did,
        trunk=trunk,
    )
    return _reject(request, decision.refuse(RejectCode.ENGINE_TIMEOUT), estate, ids(), now_ms, ids)


def reject_answer(call_id: str, code: RejectCode, reason: str, settings: Settings) -> RejectAnswer:
    """The answer for a reject, with its hangup cause and SIP code."""
    cause, sip, _ = REJECTS[code]
    if code in _MONEY_REJECTS:
        sip = settings.balance_sip_code
    return RejectAnswer(call_id=call_id, code=code, reason=reason, cause=cause, sip=sip)


def all_failed(call_id: str, cause: int) -> RejectAnswer:
    """Every target that was tried failed; the cause and its SIP code are the last leg's own."""
    code = RejectCode.TARGETS_ALL_FAILED
    return RejectAnswer(call_id=call_id, code=code, reason=code, cause=cause, sip=sip_of_cause(cause))


def sip_of_cause(cause: int) -> int:
    """The SIP code chan_pjsip sends for a hangup cause."""
    return CAUSE_TO_SIP.get(cause, SIP_FOR_OTHER_CAUSES)


def _rejected_before(cdr: Cdr) -> RejectAnswer:
    """The answer that stands in the record of a rejected call."""
    return RejectAnswer(
        call_id=cdr.call_id,
        code=RejectCode(cdr.reject_code),
        reason=cdr.reject_reason,
        cause=cdr.hangup_cause,
        sip=cdr.sip_code,
    )


def dial_answer(call: Call, attempt: Attempt, campaign: Campaign | None) -> DialAnswer:
    """The answer that dials `attempt`. A campaign that is gone leaves the funded time as the ceiling."""
    return DialAnswer(
        call_id=call.id,
        attempt=attempt.number,
        dial=attempt.dial,
        ring_s=attempt.ring_s,
        funded_s=call.funded_s,
        ceiling_ms=campaign.max_duration_ms if campaign else call.funded_s * MS_PER_SECOND,
        target=attempt.target_name,
    )


def _campaign(estate: Estate, call: Call) -> Campaign | None:
    return estate.campaigns.get(call.campaign_id)


def event(ids: Ids, tenant_id: str, now_ms: int, kind: EventKind, subject: str, **data: object) -> Event:
    """An event row; `data` becomes its JSON."""
    return Event(
        id=ids(),
        tenant_id=tenant_id,
        at_ms=now_ms,
        kind=kind,
        subject=subject,
        data=json.dumps(data, separators=(",", ":")),
    )


def take_places(keys: Iterable[CounterKey], call: Call, attempt: int, state: PlaceState, estate: Estate) -> list[Place]:
    """Places of `call` in the caps of `keys`; one unit each."""
    return [
        Place(
            call_id=call.id,
            attempt=attempt,
            cap_id=cap_id,
            tenant_id=estate.caps[cap_id].cap.tenant_id,
            window_start_ms=start_ms,
            amount=1,
            state=state,
            counted=0,
            reason="",
            node=call.node,
            boot_id=call.boot_id,
        )
        for cap_id, start_ms in keys
    ]


def caps_filled(places: Iterable[Place], books: Books, estate: Estate, now_ms: int, ids: Ids) -> list[Event]:
    """Events for the window caps that the taking of `places` fills. (Concurrent ones fill and empty all the time.)"""
    events = []
    for place in places:
        zoned = estate.caps[place.cap_id]
        counter = books.counter(place.tenant_id, (place.cap_id, place.window_start_ms))
        count = counter.used + counter.in_flight + place.amount
        if zoned.cap.window_kind is not WindowKind.NONE and count == zoned.cap.limit_value:
            events.append(
                event(
                    ids, place.tenant_id, now_ms, EventKind.CAP_REACHED, place.cap_id,
                    scope=zoned.cap.scope, limited=zoned.subject, metric=zoned.cap.metric,
                    window=zoned.cap.window_kind, limit=zoned.cap.limit_value,
                )
            )  # fmt: skip
    return events


def start_attempt(
    call: Call, candidate: Candidate, number: int, ring_s: int, estate: Estate, now_ms: int
) -> tuple[Attempt, list[Place]]:
    """The next Dial of a call with the places it takes on the target's side."""
    keys = [counter_key(zoned, now_ms) for zoned in caps_of_rule(estate, candidate.rule)]
    attempt = Attempt(
        call_id=call.id,
        number=number,
        tenant_id=call.tenant_id,
        target_id=candidate.target.id,
        target_name=candidate.target.name,
        rule_id=candidate.rule.id,
        dial=dial_string(candidate.target),
        ring_s=ring_s,
        started_ms=now_ms,
        rang_ms=None,
        answered_ms=None,
        ended_ms=None,
        dialstatus=None,
        hangup_cause=None,
    )
    return attempt, take_places(keys, call, number, PlaceState.DIALING, estate)


def ring_seconds(candidate: Candidate, budget_left_ms: int) -> int:
    """How long the target may ring: its own ring time within what is left of the campaign's budget; at least 1 s."""
    return max(ceil_div(min(candidate.target.ring_ms, budget_left_ms), MS_PER_SECOND), 1)


def dial_lease_ms(settings: Settings, ring_s: int, now_ms: int) -> int:
    """Until when a dialing call lives without news."""
    return now_ms + (ring_s + settings.lease_dial_extra_s) * MS_PER_SECOND


def _open(
    request: RouteRequest, decision: Decision, estate: Estate, books: Books, call_id: str, now_ms: int, ids: Ids
) -> tuple[RouteAnswer, Changes]:
    did, seller, campaign, rate = decision.did, decision.seller, decision.campaign, decision.rate
    funding = decision.funding
    assert did is not None  # route() gave candidates, so it found all of these
    assert seller is not None
    assert campaign is not None
    assert rate is not None
    assert funding is not None
    settings = estate.settings(decision.tenant_id)
    candidate = decision.candidates[0]
    ring_s = ring_seconds(candidate, campaign.ring_budget_ms)
    call = Call(
        id=call_id,
        tenant_id=decision.tenant_id,
        node=request.node,
        boot_id=request.boot_id,
        uniqueid=request.uniqueid,
        linkedid=request.linkedid,
        sip_call_id=request.sip_call_id,
        channel=request.channel,
        state=CallState.DIALING,
        dnid=request.dnid,
        ani=request.ani,
        ani_e164=decision.caller_e164,
        caller_name=request.caller_name,
        trunk=decision.trunk.name if decision.trunk else request.trunk,
        attestation=request.attestation,
        stir_verdict=request.stir_verdict,
        did_id=did.id,
        did_number=did.number,
        seller_id=seller.id,
        campaign_id=campaign.id,
        rate_id=rate.id,
        currency=seller.currency,
        connect_fee_micros=rate.connect_fee_micros,
        per_minute_micros=rate.per_minute_micros,
        first_s=rate.first_s,
        step_s=rate.step_s,
        billable_threshold_ms=campaign.billable_threshold_ms,
        strategy=campaign.strategy,
        attempt=1,
        funded_s=funding.funded_s,
        arrived_ms=request.arrived_ms or now_ms,
        decided_ms=now_ms,
        answered_ms=None,
        seen_ms=now_ms,
        lease_until_ms=dial_lease_ms(settings, ring_s, now_ms),
        reject_reason="",
        trace=dump_trace(decision.checks),
    )
    attempt, attempt_places = start_attempt(call, candidate, 1, ring_s, estate, now_ms)
    places = [*take_places(decision.places, call, 0, PlaceState.DIALING, estate), *attempt_places]
    changes = Changes(
        calls=[call],
        attempts=[attempt],
        places=places,
        holds=[_hold(call, funding, ring_s, now_ms)],
        events=[
            *caps_filled(places, books, estate, now_ms, ids),
            event(
                ids, call.tenant_id, now_ms, EventKind.CALL_STARTED, call.id,
                did=call.did_number, caller=call.ani_e164 or call.ani, seller=seller.name, campaign=campaign.name,
                target=attempt.target_name, hold_micros=funding.hold_micros, funded_s=funding.funded_s,
            ),
        ],
    )  # fmt: skip
    return dial_answer(call, attempt, campaign), changes


def _hold(call: Call, funding: Funding, ring_s: int, now_ms: int) -> Hold:
    return Hold(
        call_id=call.id,
        tenant_id=call.tenant_id,
        seller_id=call.seller_id,
        amount_micros=funding.hold_micros,
        state=HoldState.OPEN,
        opened_ms=now_ms,
        expires_ms=now_ms + (ring_s + funding.funded_s) * MS_PER_SECOND,
    )


def _reject(
    request: RouteRequest, decision: Decision, estate: Estate, call_id: str, now_ms: int, ids: Ids
) -> tuple[RejectAnswer, Changes]:
    code = decision.reject or RejectCode.NO_TARGET
    answer = reject_answer(call_id, code, decision.reason or code.value, estate.settings(decision.tenant_id))
    cdr = rejected_cdr(request, decision, answer, now_ms)
    told = event(
        ids, decision.tenant_id, now_ms, EventKind.CALL_REJECTED, call_id,
        did=cdr.did, caller=cdr.caller_e164 or cdr.caller, reason=answer.reason, sip=answer.sip,
        seller=cdr.seller, campaign=cdr.campaign,
    )  # fmt: skip
    return answer, Changes(cdrs=[cdr], events=[told])


def rejected_cdr(request: RouteRequest, decision: Decision, answer: RejectAnswer, now_ms: int) -> Cdr:
    """The record of a call that was never dialled."""
    rate, campaign, seller = decision.rate, decision.campaign, decision.seller
    arrived_ms = request.arrived_ms or now_ms
    return Cdr(
        call_id=answer.call_id,
        tenant_id=decision.tenant_id,
        schema_version=CDR_SCHEMA_VERSION,
        node=request.node,
        boot_id=request.boot_id,
        uniqueid=request.uniqueid,
        linkedid=request.linkedid,
        sip_call_id=request.sip_call_id,
        did=decision.did_number,
        did_id=decision.did.id if decision.did else None,
        caller=request.ani,
        caller_e164=decision.caller_e164,
        caller_name=request.caller_name,
        trunk=decision.trunk.name if decision.trunk else request.trunk,
        attestation=request.attestation,
        stir_verdict=request.stir_verdict,
        seller_id=seller.id if seller else None,
        seller=seller.name if seller else "",
        campaign_id=campaign.id if campaign else None,
        campaign=campaign.name if campaign else "",
        rule_id=None,
        target_id=None,
        target="",
        strategy=campaign.strategy if campaign else "",
        attempts=0,
        arrived_ms=arrived_ms,
        decided_ms=now_ms,
        first_ring_ms=None,
        answered_ms=None,
        ended_ms=now_ms,
        decision_ms=max(now_ms - arrived_ms, 0),
        ring_ms=0,
        talk_ms=0,
        billed_seconds=0,
        dialstatus="",
        hangup_cause=answer.cause,
        sip_code=answer.sip,
        hung_up_by=HungUpBy.SYSTEM,
        reject_code=answer.code,
        reject_reason=answer.reason,
        witness="route",
        currency=seller.currency if seller else "",
        connect_fee_micros=rate.connect_fee_micros if rate else 0,
        per_minute_micros=rate.per_minute_micros if rate else 0,
        first_s=rate.first_s if rate else 0,
        step_s=rate.step_s if rate else 0,
        billable_threshold_ms=campaign.billable_threshold_ms if campaign else 0,
        billable=False,
        amount_micros=0,
        written_off_micros=0,
        balance_after_micros=None,
        trace=dump_trace(decision.checks),
    )


def release(places: Iterable[Place], reason: str, counted: Callable[[Place], int]) -> list[Place]:
    """`places` given back for `reason`; `counted` says how much of each stays used."""
    return [replace(p, state=PlaceState.RELEASED, reason=reason, counted=counted(p)) for p in places]
