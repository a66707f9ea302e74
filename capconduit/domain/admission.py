"""Turning a decision into an admitted call with its places and hold, or into the record of its reject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import DialAnswer, RejectAnswer, RouteAnswer, RouteRequest
from capconduit.domain.dialing import dial_of_attempt
from capconduit.domain.estate import Estate
from capconduit.domain.events import Ids
from capconduit.domain.events import event as event  # services know it by this name
from capconduit.domain.model import Attempt, Call, Campaign, Cdr, Event, Hold, Place, RecentCaller, RuleState
from capconduit.domain.rating import Funding, Tariff
from capconduit.domain.record import maker, replace
from capconduit.domain.routing import CapPlace, Decision, caller_of, first_dial, hold_for, route
from capconduit.domain.settings import Settings
from capconduit.domain.strategies import ROTATING, Candidate, advance
from capconduit.domain.targets import began, dial_lease_ms
from capconduit.domain.tariffs import tariff_of
from capconduit.domain.trace import dump_trace
from capconduit.domain.usage import amount_of, counter_key, left, taken, window_text
from capconduit.domain.ways import find_way
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
_new_place = maker(Place)
# Asked for by each place: Python 3.11 takes thirty times as long to find a member of an enum as a name of the module.
HELD, RELEASED, NO_WINDOW = PlaceState.HELD, PlaceState.RELEASED, WindowKind.NONE

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
        return dial_answer(known, legs_of(known, books), _campaign(estate, known)), Changes()
    ended = books.settled.get((request.node, request.uniqueid))
    if ended is not None and ended.reject_code:
        return _rejected_before(ended), Changes()
    if ended is not None or (request.node, request.uniqueid) in books.buried:
        call_id = ended.call_id if ended else ""
        return reject_answer(call_id, RejectCode.ENGINE_TIMEOUT, RejectCode.ENGINE_TIMEOUT, Settings()), Changes()
    call_id = ids()
    decision = route(request, estate, books, now_ms, call_id)
    if decision.reject is not None or decision.funding is None:
        return _reject(request, decision, estate, call_id, now_ms, ids)
    return _open(request, decision, estate, books, call_id, now_ms, ids)


def refuse_late(request: RouteRequest, estate: Estate, now_ms: int, ids: Ids) -> tuple[RejectAnswer, Changes]:
    """The record of a call whose decision nobody waits for any more; nothing is decided and nothing taken."""
    way = find_way(request, estate)
    decision = Decision(tenant_id=way.tenant_id, did_number=way.number, caller_e164="", did=way.did, trunk=way.trunk)
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


def legs_of(call: Call, books: Books) -> list[Attempt]:
    """The attempts of the Dial under way: one, or those that ring at once."""
    return [a for a in books.attempts[call.id].values() if a.round == call.attempt or a.number == call.attempt]


def dial_answer(call: Call, legs: Sequence[Attempt], campaign: Campaign | None) -> DialAnswer:
    """The answer that dials `legs`. A campaign that is gone leaves the funded time as the ceiling."""
    return DialAnswer(
        call_id=call.id,
        attempt=call.attempt,
        dial="&".join([leg.dial for leg in legs]),
        ring_s=legs[0].ring_s,
        funded_s=call.funded_s,
        ceiling_ms=campaign.max_duration_ms if campaign else call.funded_s * MS_PER_SECOND,
        target="&".join([leg.target_name for leg in legs]),
    )


def _campaign(estate: Estate, call: Call) -> Campaign | None:
    return estate.campaigns.get(call.campaign_id)


def take_places(places: Iterable[CapPlace], call: Call, attempt: int, funding: Funding) -> list[Place]:
    """Places of `call` in these caps: one call, or what its funding covers. Calls per second hold no place."""
    return [
        _new_place(
            call_id=call.id,
            attempt=attempt,
            cap_id=cap_id,
            tenant_id=zoned.cap.tenant_id,
            window_start_ms=start_ms,
            amount=amount_of(zoned.cap.metric, funding.funded_s, funding.hold_micros) if zoned.reserves else 1,
            state=HELD,
            counted=0,
            reason="",
            node=call.node,
            boot_id=call.boot_id,
        )
        for zoned, (cap_id, start_ms) in places
        if not zoned.ticks
    ]


def ticks(places: Iterable[CapPlace]) -> list[tuple[str, tuple[str, int]]]:
    """What caps by calls per second count of a new call: one, for good."""
    return [(zoned.cap.tenant_id, key) for zoned, key in places if zoned.ticks]


def caps_filled(places: Iterable[Place], books: Books, estate: Estate, now_ms: int, ids: Ids) -> list[Event]:
    """Events for the window caps that the taking of `places`, or of more in them, fills. (Concurrent ones fill and
    empty all the time.)"""
    events = []
    for place in places:
        zoned = estate.caps[place.cap_id]
        if zoned.cap.window_kind is NO_WINDOW:
            continue
        before = books.place(place.call_id, place.attempt, place.cap_id)
        more = place.amount - before.amount if before else place.amount
        key = (place.cap_id, place.window_start_ms)
        if zoned.bucket_ms and key == counter_key(zoned, now_ms):  # the window that ends now, as when it was taken
            free = zoned.cap.limit_value - sum(taken(zoned, key, books, now_ms))
        else:
            free = left(zoned, key, books)
        if 0 < free <= more:
            events.append(
                event(
                    ids, place.tenant_id, now_ms, EventKind.CAP_REACHED, place.cap_id,
                    scope=zoned.cap.scope, limited=zoned.subject, metric=zoned.cap.metric,
                    window=window_text(zoned.cap), limit=zoned.cap.limit_value,
                )
            )  # fmt: skip
    return events


def start_dial(
    call: Call,
    dialled: Sequence[Candidate],
    number: int,
    ring_s: int,
    funding: Funding,
    estate: Estate,
    books: Books,
    now_ms: int,
) -> tuple[list[Attempt], Changes]:
    """The next Dial of a call, of one target or of several at once, with all that it takes on the targets' side."""
    changes = Changes()
    for leg, candidate in enumerate(dialled, number):
        taken_here = [(zoned, counter_key(zoned, now_ms)) for zoned in candidate.offer.caps]
        changes.attempts.append(_attempt(call, candidate, leg, number, ring_s, now_ms))
        own = funding  # of one leg alone the hold is its own
        if len(dialled) > 1:
            own = Funding(hold_for(candidate.offer.tariff, funding.funded_s), funding.funded_s)
        changes.places.extend(take_places(taken_here, call, leg, own))
        changes.ticks.extend(ticks(taken_here))
    until_ms = dial_lease_ms(estate.settings(call.tenant_id), ring_s, now_ms)
    changes.targets = [began(c.state, until_ms) for c in dialled]
    changes.rules = _rotated(call, dialled, estate, books)
    return list(changes.attempts), changes


def _attempt(call: Call, candidate: Candidate, number: int, first: int, ring_s: int, now_ms: int) -> Attempt:
    offer = candidate.offer
    return Attempt(
        call_id=call.id,
        number=number,
        tenant_id=call.tenant_id,
        target_id=offer.target.id,
        target_name=offer.target.name,
        rule_id=offer.rule.id,
        dial=dial_of_attempt(offer.dial, call.id, number),
        ring_s=ring_s,
        started_ms=now_ms,
        rang_ms=None,
        answered_ms=None,
        ended_ms=None,
        dialstatus=None,
        hangup_cause=None,
        round=first,
        rate_id=offer.rate_id,
        tariff=offer.priced,
        payout=offer.paid,
    )


def _rotated(call: Call, dialled: Sequence[Candidate], estate: Estate, books: Books) -> list[RuleState]:
    """The campaign's rotation goes on by the Dial of one target."""
    campaign = estate.campaigns[call.campaign_id]
    if campaign.strategy not in ROTATING:
        return []
    offers = [o for o in estate.offers(campaign).all if o.enabled]
    rules = [(o.rule, books.cursor(o.rule.id)) for o in offers]
    eligible = dialled[0].among or frozenset(o.rule.id for o in offers)
    return [
        RuleState(rule_id=rule.id, tenant_id=rule.tenant_id, cursor=cursor)
        for rule, cursor in advance(campaign.strategy, rules, eligible, dialled[0].rule.id)
    ]


def ring_seconds(dialled: Sequence[Candidate], budget_left_ms: int) -> int:
    """How long the target may ring: its own ring time (the longest of several) within what is left of the campaign's
    budget; at least 1 s."""
    longest_ms = max([c.target.ring_ms for c in dialled])
    return max(ceil_div(min(longest_ms, budget_left_ms), MS_PER_SECOND), 1)


def priced(call: Call, leg: Attempt, tariff: Tariff) -> Call:
    """The call at the prices of `leg`."""
    return replace(
        call,
        rate_id=leg.rate_id or call.rate_id,
        connect_fee_micros=tariff.connect_fee_micros,
        per_minute_micros=tariff.per_minute_micros,
        first_s=tariff.first_s,
        step_s=tariff.step_s,
        then_after_s=tariff.then_after_s,
        then_per_minute_micros=tariff.then_per_minute_micros,
    )


def _open(
    request: RouteRequest, decision: Decision, estate: Estate, books: Books, call_id: str, now_ms: int, ids: Ids
) -> tuple[RouteAnswer, Changes]:
    seller, campaign, funding = decision.seller, decision.campaign, decision.funding
    assert seller is not None  # route() gave candidates, so it found all of these
    assert campaign is not None
    assert funding is not None
    dialled = first_dial(campaign, decision.candidates, campaign.max_attempts)
    ring_s = ring_seconds(dialled, campaign.ring_budget_ms)
    call = _call(request, decision, dialled[0], ring_s, estate, call_id, now_ms)
    legs, changes = start_dial(call, dialled, 1, ring_s, funding, estate, books, now_ms)
    changes.calls.append(call)
    changes.places.extend(take_places(decision.places, call, 0, funding))
    changes.ticks.extend(ticks(decision.places))
    changes.holds.append(_hold(call, funding, ring_s, now_ms))
    changes.callers.extend(_remembered(call, campaign))
    changes.events.extend(caps_filled(changes.places, books, estate, now_ms, ids))
    answer = dial_answer(call, legs, campaign)
    changes.events.append(
        event(
            ids, call.tenant_id, now_ms, EventKind.CALL_STARTED, call.id,
            did=call.did_number, caller=call.ani_e164 or call.ani, seller=seller.name, campaign=campaign.name,
            target=answer.target, hold_micros=funding.hold_micros, funded_s=funding.funded_s,
        )
    )  # fmt: skip
    return answer, changes


def _call(
    request: RouteRequest, decision: Decision, first: Candidate, ring_s: int, estate: Estate, call_id: str, now_ms: int
) -> Call:
    did, seller, campaign, funding = decision.did, decision.seller, decision.campaign, decision.funding
    assert did is not None
    assert seller is not None
    assert campaign is not None
    assert funding is not None
    tariff = first.offer.tariff
    return Call(
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
        rate_id=first.offer.rate_id,
        currency=seller.currency,
        connect_fee_micros=tariff.connect_fee_micros,
        per_minute_micros=tariff.per_minute_micros,
        first_s=tariff.first_s,
        step_s=tariff.step_s,
        billable_threshold_ms=campaign.billable_threshold_ms,
        strategy=campaign.strategy,
        attempt=1,
        funded_s=funding.funded_s,
        arrived_ms=request.arrived_ms or now_ms,
        decided_ms=now_ms,
        answered_ms=None,
        seen_ms=now_ms,
        lease_until_ms=dial_lease_ms(estate.settings(decision.tenant_id), ring_s, now_ms),
        reject_reason="",
        trace=dump_trace(decision.trace),
        leg=0,
        then_after_s=tariff.then_after_s,
        then_per_minute_micros=tariff.then_per_minute_micros,
    )


def _remembered(call: Call, campaign: Campaign) -> list[RecentCaller]:
    """The caller, where the campaign does not take the same one twice in a while."""
    caller = caller_of(call.ani_e164, call.ani)
    if not campaign.duplicate_window_ms or not caller:
        return []
    return [
        RecentCaller(
            campaign_id=campaign.id, caller=caller, tenant_id=call.tenant_id, call_id=call.id, at_ms=call.decided_ms
        )
    ]


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
    cdr = rejected_cdr(request, decision, answer, estate, now_ms)
    told = event(
        ids, decision.tenant_id, now_ms, EventKind.CALL_REJECTED, call_id,
        did=cdr.did, caller=cdr.caller_e164 or cdr.caller, reason=answer.reason, sip=answer.sip,
        seller=cdr.seller, campaign=cdr.campaign,
    )  # fmt: skip
    return answer, Changes(cdrs=[cdr], events=[told])


def rejected_cdr(request: RouteRequest, decision: Decision, answer: RejectAnswer, estate: Estate, now_ms: int) -> Cdr:
    """The record of a call that was never dialled."""
    campaign, seller = decision.campaign, decision.seller
    rate = estate.rates[campaign.rate_id] if campaign else None
    tariff = tariff_of(rate) if rate else Tariff(0, 0, 0, 0)
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
        connect_fee_micros=tariff.connect_fee_micros,
        per_minute_micros=tariff.per_minute_micros,
        first_s=tariff.first_s,
        step_s=tariff.step_s,
        then_after_s=tariff.then_after_s,
        then_per_minute_micros=tariff.then_per_minute_micros,
        attempt=0,
        payout_micros=0,
        payout_tariff="",
        billable_threshold_ms=campaign.billable_threshold_ms if campaign else 0,
        billable=False,
        amount_micros=0,
        written_off_micros=0,
        balance_after_micros=None,
        trace=dump_trace(decision.trace),
    )


def release(places: Iterable[Place], reason: str, counted: Callable[[Place], int]) -> list[Place]:
    """`places` given back for `reason`; `counted` says how much of each stays used."""
    return [replace(p, state=RELEASED, reason=reason, counted=counted(p)) for p in places]
