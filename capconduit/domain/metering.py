"""While a call lasts: the answer is recorded, and its hold is extended before it runs out."""

from __future__ import annotations

from dataclasses import replace

from capconduit.domain.admission import Ids, event
from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import AnsweredAnswer, AnswerReport, ExtendAnswer, ExtendRequest
from capconduit.domain.estate import Estate
from capconduit.domain.model import Attempt, Call
from capconduit.domain.rating import Tariff, fund
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import CallState, EventKind, PlaceState


def call_tariff(call: Call) -> Tariff:
    """The tariff a call was admitted with; later changes of its rate do not touch it."""
    return Tariff(
        connect_fee_micros=call.connect_fee_micros,
        per_minute_micros=call.per_minute_micros,
        first_s=call.first_s,
        step_s=call.step_s,
        billable_threshold_ms=call.billable_threshold_ms,
    )


def answered(
    report: AnswerReport, estate: Estate, books: Books, now_ms: int, ids: Ids
) -> tuple[AnsweredAnswer | None, Changes]:
    """The target answered: call, attempt and places are up. Told twice, nothing changes.

    None: no such live call, or its last attempt has failed, so that what was answered is no Dial of ours.
    Where nobody saw the instant (AMI was away), the call is up with its answer unknown: the talk time will be the
    channel's own, and until then its funding is counted from the beginning of the Dial, so never too generously.
    """
    call = books.call_of((report.node, report.uniqueid))
    if call is None:
        return None, Changes()
    attempt = books.attempts[call.id][call.attempt]
    if attempt.ended_ms is not None:
        return None, Changes()
    if call.state is CallState.UP:
        return _meter(call, attempt, estate), Changes()
    at_ms = report.leg.answered_ms
    settings = estate.settings(call.tenant_id)
    call = replace(
        call,
        state=CallState.UP,
        answered_ms=at_ms,
        seen_ms=now_ms,
        lease_until_ms=now_ms + settings.lease_up_s * MS_PER_SECOND,
    )
    expires_ms = _funded_from_ms(call, attempt) + call.funded_s * MS_PER_SECOND
    told = event(ids, call.tenant_id, now_ms, EventKind.CALL_ANSWERED, call.id, target=attempt.target_name)
    changes = Changes(
        calls=[call],
        attempts=[replace(attempt, answered_ms=at_ms, rang_ms=report.leg.rang_ms or attempt.rang_ms)],
        places=[replace(p, state=PlaceState.UP) for p in books.open_places(call.id)],
        holds=[replace(books.holds[call.id], expires_ms=expires_ms)],
        events=[told],
    )
    return _meter(call, attempt, estate), changes


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

    None: no such live call. Not `extended`: the funding stays as it is and the call ends by itself when it has run out.
    """
    call = books.call_of((request.node, request.uniqueid))
    if call is None:
        return None, Changes()
    settings = estate.settings(call.tenant_id)
    campaign = estate.campaigns.get(call.campaign_id)
    hold, account = books.holds[call.id], books.account(call.seller_id)
    ceiling_s = campaign.max_duration_ms // MS_PER_SECOND if campaign else call.funded_s
    funding = fund(
        call_tariff(call),
        account.available_micros + hold.amount_micros,
        call.funded_s + settings.funding_slice_s,
        ceiling_s,
    )
    refreshed = replace(call, seen_ms=now_ms, lease_until_ms=now_ms + settings.lease_up_s * MS_PER_SECOND)
    if funding is None or funding.funded_s <= call.funded_s:
        answer = ExtendAnswer(call_id=call.id, funded_s=call.funded_s, extended=False)
        return answer, Changes(calls=[refreshed])
    base_ms = _funded_from_ms(call, books.attempts[call.id][call.attempt])
    extended = replace(hold, amount_micros=funding.hold_micros, expires_ms=base_ms + funding.funded_s * MS_PER_SECOND)
    told = event(
        ids, call.tenant_id, now_ms, EventKind.HOLD_EXTENDED, call.id,
        hold_micros=funding.hold_micros, funded_s=funding.funded_s,
    )  # fmt: skip
    answer = ExtendAnswer(call_id=call.id, funded_s=funding.funded_s, extended=True)
    return answer, Changes(calls=[replace(refreshed, funded_s=funding.funded_s)], holds=[extended], events=[told])
