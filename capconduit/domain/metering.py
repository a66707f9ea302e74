"""While a call lasts: the answer is recorded, and its hold is extended before it runs out."""

from __future__ import annotations

from collections.abc import Sequence

from capconduit.domain.admission import caps_filled, legs_of, priced, release
from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import AnsweredAnswer, AnswerReport, ExtendAnswer, ExtendRequest
from capconduit.domain.dialing import as_told
from capconduit.domain.estate import Estate
from capconduit.domain.events import Ids, event
from capconduit.domain.model import Attempt, Call, Place
from capconduit.domain.rating import Tariff
from capconduit.domain.record import replace
from capconduit.domain.routing import fund_legs, hold_for
from capconduit.domain.targets import ended, told, well
from capconduit.domain.tariffs import load_tariff
from capconduit.domain.usage import resized, room_around
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import CAUSE_ANSWERED_ELSEWHERE, CallState, CapMetric, EventKind


def call_tariff(call: Call) -> Tariff:
    """The tariff a call was admitted with; later changes of its rate do not touch it."""
    return Tariff(
        connect_fee_micros=call.connect_fee_micros,
        per_minute_micros=call.per_minute_micros,
        first_s=call.first_s,
        step_s=call.step_s,
        billable_threshold_ms=call.billable_threshold_ms,
        then_after_s=call.then_after_s,
        then_per_minute_micros=call.then_per_minute_micros,
    )


def leg_tariff(call: Call, leg: Attempt) -> Tariff:
    """The prices of one leg; an attempt of an older program has none of its own."""
    return load_tariff(leg.tariff) if leg.tariff else call_tariff(call)


def answered(
    report: AnswerReport, estate: Estate, books: Books, now_ms: int, ids: Ids
) -> tuple[AnsweredAnswer | None, Changes]:
    """The target answered: the call is up, at the prices of the leg that answered. Told twice, nothing changes.

    None: no such live call, or what was answered is no Dial of ours that is under way.
    Where nobody saw the instant (AMI was away), the call is up with its answer unknown: the talk time will be the
    channel's own, and until then its funding is counted from the beginning of the Dial, so never too generously.
    Of several legs the others are over, and give their places back; where nobody saw which one answered, all stay until
    somebody tells.
    """
    call = books.call_of((report.node, report.uniqueid))
    if call is None:
        return None, Changes()
    legs = legs_of(call, books)
    if all(leg.ended_ms is not None for leg in legs) or _is_of_another_dial(report.leg.dial, call, legs, books):
        return None, Changes()
    winner = winning_leg(legs, report.leg.dial)
    first = winner or legs[0]
    if call.state is CallState.UP and (call.leg or winner is None):
        return _meter(call, first, estate), Changes()
    changes = Changes()
    if call.state is not CallState.UP:
        call = _up(report, call, first, estate, books, changes, now_ms, ids)
    if winner is not None:
        call = _won(report, call, winner, legs, estate, books, changes, now_ms, ids)
    changes.calls.append(call)
    return _meter(call, first, estate), changes


def _is_of_another_dial(dial: str, call: Call, legs: Sequence[Attempt], books: Books) -> bool:
    """Whether what was answered is an attempt that is over: its word overtook, or came after, that of its end."""
    dialled = {leg.dial for leg in legs if leg.ended_ms is None}
    return dial not in dialled and any(a.dial == dial for a in books.attempts[call.id].values())


def _up(
    report: AnswerReport,
    call: Call,
    first: Attempt,
    estate: Estate,
    books: Books,
    changes: Changes,
    now_ms: int,
    ids: Ids,
) -> Call:
    """The call with its answer, from which on its funded time is counted."""
    call = replace(
        call,
        state=CallState.UP,
        answered_ms=report.leg.answered_ms,
        seen_ms=now_ms,
        lease_until_ms=now_ms + estate.settings(call.tenant_id).lease_up_s * MS_PER_SECOND,
    )
    expires_ms = _funded_from_ms(call, first) + call.funded_s * MS_PER_SECOND
    changes.holds.append(replace(books.holds[call.id], expires_ms=expires_ms))
    changes.events.append(
        event(ids, call.tenant_id, now_ms, EventKind.CALL_ANSWERED, call.id, target=first.target_name)
    )
    return call


def _won(
    report: AnswerReport,
    call: Call,
    winner: Attempt,
    legs: Sequence[Attempt],
    estate: Estate,
    books: Books,
    changes: Changes,
    now_ms: int,
    ids: Ids,
) -> Call:
    """The call at the prices of the leg that answered; its target is well, the other legs are over."""
    rang_ms = report.leg.rang_ms or winner.rang_ms
    answered_ms = call.answered_ms or report.leg.answered_ms
    changes.attempts.append(replace(winner, answered_ms=answered_ms, rang_ms=rang_ms))
    before = books.target(call.tenant_id, winner.target_id)
    state = well(before)
    if state is not before:
        changes.targets.append(state)
        changes.events.extend(told(before, state, winner.target_name, now_ms, ids))
    _end_losers(call, [leg for leg in legs if leg is not winner], estate, books, changes, now_ms)
    return replace(priced(call, winner, leg_tariff(call, winner)), leg=winner.number)


def winning_leg(legs: Sequence[Attempt], dial: str) -> Attempt | None:
    """The leg that was dialled as `dial`, or the only one; None: nobody can tell."""
    alive = [leg for leg in legs if leg.ended_ms is None]
    if len(alive) == 1:
        return alive[0]
    return next((leg for leg in alive if dial and dial in (leg.dial, as_told(leg.dial))), None)


def _end_losers(
    call: Call, losers: Sequence[Attempt], estate: Estate, books: Books, changes: Changes, now_ms: int
) -> None:
    """Legs that another was quicker than: they were dialled, and that is all."""
    numbers, settings = {leg.number for leg in losers}, estate.settings(call.tenant_id)
    for leg in losers:
        changes.attempts.append(replace(leg, ended_ms=now_ms, hangup_cause=CAUSE_ANSWERED_ELSEWHERE))
        state = books.target(call.tenant_id, leg.target_id)
        changes.targets.append(ended(state, leg, settings, now_ms, talked_until_ms=None))

    def counted(place: Place) -> int:
        zoned = estate.caps.get(place.cap_id)
        return int(zoned is not None and zoned.cap.metric is CapMetric.ATTEMPTS)

    theirs = [p for p in books.open_places(call.id) if p.attempt in numbers]
    changes.places.extend(release(theirs, "another leg answered", counted))


def _funded_from_ms(call: Call, attempt: Attempt) -> int:
    """The instant from which a call's funded seconds are counted."""
    return call.answered_ms if call.answered_ms is not None else attempt.started_ms


def _meter(call: Call, attempt: Attempt, estate: Estate) -> AnsweredAnswer:
    campaign = estate.campaigns.get(call.campaign_id)
    return AnsweredAnswer(
        call_id=call.id,
        channel=call.channel,
        funded_from_ms=_funded_from_ms(call, attempt),
        funded_s=call.funded_s,
        ceiling_ms=campaign.max_duration_ms if campaign else call.funded_s * MS_PER_SECOND,
        slice_s=estate.settings(call.tenant_id).funding_slice_s,
    )


def extend(
    request: ExtendRequest, estate: Estate, books: Books, now_ms: int, ids: Ids
) -> tuple[ExtendAnswer | None, Changes]:
    """Reserve the next slice of a live call, or as many whole increments of it as there is money for.

    Caps by minutes and spend limit it like the money does; what it reserves of them grows with it. None: no such live
    call. Not `extended`: the funding stays as it is and the call ends by itself when it has run out. Asked again for
    what it has already (`beyond_s`), it gives that.
    """
    call = books.call_of((request.node, request.uniqueid))
    if call is None:
        return None, Changes()
    settings = estate.settings(call.tenant_id)
    campaign = estate.campaigns.get(call.campaign_id)
    hold, account = books.holds[call.id], books.account(call.seller_id)
    ceiling_s = campaign.max_duration_ms // MS_PER_SECOND if campaign else call.funded_s
    places = books.open_places(call.id)
    refreshed = replace(call, seen_ms=now_ms, lease_until_ms=now_ms + settings.lease_up_s * MS_PER_SECOND)
    if request.beyond_s is not None and request.beyond_s < call.funded_s:
        again = ExtendAnswer(call_id=call.id, funded_s=call.funded_s, extended=True)
        return again, Changes(calls=[refreshed])
    tariffs = _tariffs_in_force(call, books)
    funding = fund_legs(
        [
            (tariff, room_around([p for p in places if p.attempt in (0, number)], estate, books))
            for number, tariff in tariffs.items()
        ],
        account.available_micros + hold.amount_micros,
        call.funded_s + settings.funding_slice_s,
        ceiling_s,
    )
    if funding is None or funding.funded_s <= call.funded_s:
        answer = ExtendAnswer(call_id=call.id, funded_s=call.funded_s, extended=False)
        return answer, Changes(calls=[refreshed])
    hold_micros = max(funding.hold_micros, hold.amount_micros)
    base_ms = _funded_from_ms(call, books.attempts[call.id][call.leg or call.attempt])
    extended = replace(hold, amount_micros=hold_micros, expires_ms=base_ms + funding.funded_s * MS_PER_SECOND)
    extension = event(
        ids, call.tenant_id, now_ms, EventKind.HOLD_EXTENDED, call.id,
        hold_micros=hold_micros, funded_s=funding.funded_s,
    )  # fmt: skip
    legs = {number: hold_for(tariff, funding.funded_s) for number, tariff in tariffs.items()}
    reserved = resized(places, estate, funding.funded_s, hold_micros, legs)
    answer = ExtendAnswer(call_id=call.id, funded_s=funding.funded_s, extended=True)
    return answer, Changes(
        calls=[replace(refreshed, funded_s=funding.funded_s)],
        holds=[extended],
        places=reserved,
        events=[extension, *caps_filled(reserved, books, estate, now_ms, ids)],
    )


def _tariffs_in_force(call: Call, books: Books) -> dict[int, Tariff]:
    """Those of the legs that may be the one which talks, by their numbers; none where all have failed."""
    return {leg.number: leg_tariff(call, leg) for leg in legs_of(call, books) if leg.ended_ms is None}
