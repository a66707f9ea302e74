"""The end of a call: what it cost, what stays used, and its record. Idempotent by the channel's uniqueid."""

from __future__ import annotations

from collections.abc import Mapping

from capconduit.domain.admission import CDR_SCHEMA_VERSION, legs_of, release, sip_of_cause
from capconduit.domain.attempts import real_cause
from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import SettleAnswer, SettleReport
from capconduit.domain.estate import Estate
from capconduit.domain.events import Ids, event
from capconduit.domain.metering import leg_tariff, winning_leg
from capconduit.domain.model import Attempt, Call, Cdr, Event, LedgerEntry, Place, Tombstone
from capconduit.domain.rating import Charge, Tariff, charge
from capconduit.domain.record import replace, value
from capconduit.domain.routing import caller_of
from capconduit.domain.targets import ended, told
from capconduit.domain.tariffs import load_tariff
from capconduit.domain.usage import left, room_around
from capconduit.units import MS_PER_SECOND, seconds_from_ms_ceil
from capconduit.vocab import (
    CAUSE_ANSWERED_ELSEWHERE,
    CAUSE_NORMAL,
    SIP_FOR_OTHER_CAUSES,
    CallState,
    CapMetric,
    DialStatus,
    EventKind,
    HoldState,
    HungUpBy,
    LedgerKind,
    RejectCode,
)

# Two witnesses of one call may differ by rounding and signalling; more than this is told as a disagreement.
TALK_TOLERANCE_MS = 2_000
# A call that our own limit ended is measured a few milliseconds beyond what was funded; it is not billed for them.
CUT_TOLERANCE_MS = 250
SIP_OK, SIP_CANCELLED = 200, 487
# Asked for by each place, like those of admission.
CONCURRENT, BILLABLE = CapMetric.CONCURRENT, CapMetric.BILLABLE


@value
class Outcome:
    """What the call came to: whether and how long the target talked."""

    answered: bool
    answered_ms: int | None
    ended_ms: int
    talk_ms: int
    dialstatus: DialStatus | None


def settle(report: SettleReport, estate: Estate, books: Books, now_ms: int, ids: Ids) -> tuple[SettleAnswer, Changes]:
    """Post the price, void the rest of the hold, turn places into used or free, write the CDR: all or nothing.

    A call that is settled already stays as it is. A call that nobody knows gets a tombstone, so that its route, should
    it come later, takes nothing. An admission is given back (`engine_timeout`) only as long as nobody has heard of a
    Dial: a call that has answered or failed over was told of its admission after all.
    """
    key = (report.node, report.uniqueid)
    call = books.call_of(key)
    if call is None:
        return _settled_before(report, books, now_ms, ids)
    if report.reject is RejectCode.ENGINE_TIMEOUT and _has_dialled(call, books):
        return SettleAnswer(call_id=call.id, first=False), Changes()
    if _was_never_told(report, call, books):
        report = replace(report, reject=RejectCode.ENGINE_TIMEOUT)
    number = _last_told(report, call)
    leg = _leg(report, call, books, number)
    outcome = outcome_of(report, call, leg, _ceiling_ms(call, estate), now_ms)
    bill = _bill(call, leg, books, estate, outcome)
    last = _last_attempt(report, leg, outcome)
    cdr = _cdr(report, call, last, books, estate, outcome, bill)
    changes = Changes(
        ended=[call.id],
        attempts=[last, *_others(report, call, books, last, number, outcome)],
        places=_settled_places(call, books, estate, outcome, bill, report, last, number),
        holds=[replace(books.holds[call.id], state=HoldState.POSTED if bill.amount_micros else HoldState.VOID)],
        cdrs=[cdr],
        events=[_ended_event(cdr, now_ms, ids)],
    )
    _free_targets(call, last, books, estate, outcome, changes, now_ms, ids)
    if not outcome.answered and (caller := caller_of(call.ani_e164, call.ani)):
        changes.forgotten.append((call.campaign_id, caller, call.id))
    if bill.amount_micros:
        _post(call, cdr, bill, estate, changes, now_ms, ids)
    return SettleAnswer(call_id=call.id, first=True), changes


@value
class Bill:
    """What an ended call costs: its price, what of it could be charged, and what the target's side gets."""

    tariff: Tariff
    price: Charge
    amount_micros: int
    balance_after_micros: int
    payout_micros: int
    payout: str
    talk_s: int


def _bill(call: Call, leg: Attempt, books: Books, estate: Estate, outcome: Outcome) -> Bill:
    """Charged is what the hold and the rest of the available money pay, and what caps by spend still let through."""
    tariff = leg_tariff(call, leg)
    talk_ms = talk_within_funding(outcome, call)
    price = charge(tariff, talk_ms) if outcome.answered else Charge(False, 0, 0)
    hold, account = books.holds[call.id], books.account(call.seller_id)
    own = [p for p in books.open_places(call.id) if p.attempt in (0, leg.number)]
    most = min(hold.amount_micros + account.available_micros, room_around(own, estate, books).micros)
    amount = max(min(price.price_micros, most), 0)
    paid = charge(load_tariff(leg.payout), talk_ms).price_micros if leg.payout and price.billable else 0
    return Bill(
        tariff=tariff,
        price=price,
        amount_micros=amount,
        balance_after_micros=account.balance_micros - amount,
        payout_micros=paid,
        payout=leg.payout,
        talk_s=seconds_from_ms_ceil(talk_ms) if outcome.answered else 0,
    )


def _leg(report: SettleReport, call: Call, books: Books, number: int) -> Attempt:
    """The attempt that ends here: the leg that answered, else the one whose channel hung up, else the first."""
    attempts = books.attempts[call.id]
    if number != call.attempt:
        return attempts[number]
    if call.leg:
        return attempts[call.leg]
    legs = legs_of(call, books)
    if (told := winning_leg(legs, report.leg.dial)) is not None:
        return told
    heard = [leg for leg in legs if report.hangup_source.startswith(f"{_peer(leg.dial)}-")]
    return heard[0] if len(heard) == 1 else legs[0]


def _peer(dial: str) -> str:
    """The beginning of the names of channels that a dial string makes: PJSIP/number@endpoint → PJSIP/endpoint."""
    technology, _, resource = dial.partition("/")
    name, _, _ = resource.partition("/")
    return f"{technology}/{name.rpartition('@')[2] if technology == 'PJSIP' else name}"


def _post(call: Call, cdr: Cdr, bill: Bill, estate: Estate, changes: Changes, now_ms: int, ids: Ids) -> None:
    """The money moves; a balance that falls below the seller's threshold is told once."""
    before, after = bill.balance_after_micros + bill.amount_micros, bill.balance_after_micros
    changes.ledger.append(_ledger_entry(call, cdr, bill, now_ms, ids))
    changes.events.append(
        event(
            ids, call.tenant_id, now_ms, EventKind.BALANCE_CHANGED, call.seller_id,
            amount_micros=-bill.amount_micros, balance_micros=after, call=call.id,
        )
    )  # fmt: skip
    seller = estate.sellers.get(call.seller_id)
    if seller is not None and after < seller.low_balance_micros <= before:
        changes.events.append(
            event(
                ids, call.tenant_id, now_ms, EventKind.BALANCE_LOW, call.seller_id,
                seller=seller.name, balance_micros=after, threshold_micros=seller.low_balance_micros,
            )
        )  # fmt: skip


def _free_targets(
    call: Call,
    last: Attempt,
    books: Books,
    estate: Estate,
    outcome: Outcome,
    changes: Changes,
    now_ms: int,
    ids: Ids,
) -> None:
    """The targets of all attempts that had not ended yet are free again; the one that answered is well, too."""
    settings = estate.settings(call.tenant_id)
    for attempt in books.attempts[call.id].values():
        if attempt.ended_ms is None:
            talked = outcome.answered and attempt.number == last.number
            before = books.target(call.tenant_id, attempt.target_id)
            state = ended(before, attempt, settings, now_ms, talked_until_ms=outcome.ended_ms if talked else None)
            changes.targets.append(state)
            changes.events.extend(told(before, state, attempt.target_name, now_ms, ids))


def _has_dialled(call: Call, books: Books) -> bool:
    return call.state is CallState.UP or call.attempt > 1 or books.attempts[call.id][1].ended_ms is not None


def _last_told(report: SettleReport, call: Call) -> int:
    """Number of the last attempt that the dialplan was told of: a later verdict may have come too late for it."""
    earlier = 0 < report.attempt < call.attempt and call.state is not CallState.UP
    return report.attempt if earlier else call.attempt


def _others(
    report: SettleReport, call: Call, books: Books, last: Attempt, told: int, outcome: Outcome
) -> list[Attempt]:
    """The other attempts that had not ended: legs that rang beside the last one, and those that were taken and never
    dialled, which end without a cause."""
    others = []
    for attempt in books.attempts[call.id].values():
        if attempt.ended_ms is not None or attempt.number == last.number:
            continue
        beside = attempt.round == told and report.reject is not RejectCode.ENGINE_TIMEOUT
        cause = CAUSE_ANSWERED_ELSEWHERE if outcome.answered else last.hangup_cause
        others.append(replace(attempt, ended_ms=outcome.ended_ms, hangup_cause=cause if beside else None))
    return others


def _was_never_told(report: SettleReport, call: Call, books: Books) -> bool:
    """The dialplan ends a call without knowing of an attempt: our verdict came too late for it.

    (A caller who left while we decided is another matter.)
    """
    return (
        report.witness == "handler"
        and report.reject is None
        and report.attempt == 0
        and report.dialstatus is None
        and report.hangup_source != (report.channel or call.channel)
        and not _has_dialled(call, books)
    )


def outcome_of(report: SettleReport, call: Call, attempt: Attempt, ceiling_ms: int, now_ms: int) -> Outcome:
    """What happened, by the best witness: AMI's times of the target's leg, else the caller channel's answered time.

    Where nobody saw the end, the channel's answered time bounds the talk: the report may have waited for long. Where
    the clock was set meanwhile, our own bounds it; where nobody measured it, the funded time does. An attempt that was
    told as failed stays so: an answer that is told after it is of a Dial that is none of ours, in the operator's own
    context for rejects.
    """
    told_ms = report.leg.ended_ms or report.ended_ms
    ended_ms = told_ms or now_ms
    if attempt.ended_ms is not None:
        return Outcome(False, None, ended_ms, 0, attempt.dialstatus or report.dialstatus)
    answered_ms = report.leg.answered_ms or call.answered_ms
    if answered_ms is not None:
        if told_ms is None and report.dialstatus is DialStatus.ANSWER and report.answered_for_ms:
            ended_ms = min(ended_ms, answered_ms + report.answered_for_ms)
        longest_ms = _longest_talk_ms(report)
        if ended_ms < answered_ms:
            ended_ms = answered_ms + (longest_ms or 0)
        else:  # where nobody measured the talk, Asterisk's own limit has bounded it
            most_ms = call.funded_s * MS_PER_SECOND if longest_ms is None else longest_ms
            if ended_ms - answered_ms > most_ms + TALK_TOLERANCE_MS:
                ended_ms = answered_ms + most_ms
        return Outcome(True, answered_ms, ended_ms, ended_ms - answered_ms, DialStatus.ANSWER)
    if report.dialstatus is DialStatus.ANSWER:
        talk_ms = min(max(report.answered_for_ms or 0, 0), ceiling_ms)
        dialled_for_ms = ended_ms - attempt.started_ms
        if dialled_for_ms > 0:  # who was answered before the Dial was up for longer; a clock set back says nothing
            talk_ms = min(talk_ms, dialled_for_ms)
        return Outcome(True, max(ended_ms - talk_ms, attempt.started_ms), ended_ms, talk_ms, DialStatus.ANSWER)
    return Outcome(False, None, ended_ms, 0, report.dialstatus)


def _ceiling_ms(call: Call, estate: Estate) -> int:
    """No call lasts longer: Asterisk's own limits end it then, whatever a report says."""
    campaign = estate.campaigns.get(call.campaign_id)
    return max(campaign.max_duration_ms if campaign else 0, call.funded_s * 1_000) + TALK_TOLERANCE_MS


def _longest_talk_ms(report: SettleReport) -> int | None:
    """More than this the target cannot have talked, whatever a wall clock that was set says: the time by our monotonic
    clock, and the time that the caller's channel was up. None where neither is known."""
    bounds = [report.leg.clock_talk_ms]
    if report.dialstatus is DialStatus.ANSWER and report.answered_for_ms:
        bounds.append(report.answered_for_ms)
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


def talk_within_funding(outcome: Outcome, call: Call) -> int:
    """The talk time that is priced: a cut at the funded limit lands a few ms late, which starts no new increment."""
    funded_ms = call.funded_s * 1_000
    if funded_ms < outcome.talk_ms <= funded_ms + CUT_TOLERANCE_MS:
        return funded_ms
    return outcome.talk_ms


def counted_by(metric: CapMetric, *, dialled: bool, answered: bool, billable: bool) -> int:
    """How much of a place in a cap by calls stays used at the end of what held it."""
    if metric is BILLABLE:
        return int(billable)
    if metric is CapMetric.ATTEMPTS:
        return int(dialled)
    return int(answered) if metric is CapMetric.CONNECTED else 0


def hung_up_by(report: SettleReport, call: Call, outcome: Outcome) -> HungUpBy:
    """Who ended it, from CHANNEL(hangupsource): the caller's channel, another channel, or none (dialplan, limits)."""
    source = report.hangup_source
    if source and source == (report.channel or call.channel):
        return HungUpBy.CALLER
    if outcome.answered and "/" in source and not source.startswith("dialplan/"):
        return HungUpBy.TARGET
    return HungUpBy.SYSTEM


def _settled_before(report: SettleReport, books: Books, now_ms: int, ids: Ids) -> tuple[SettleAnswer, Changes]:
    key = (report.node, report.uniqueid)
    cdr = books.settled.get(key)
    if cdr is None:
        if key in books.buried:
            return SettleAnswer(call_id=None, first=False), Changes()
        buried = Tombstone(node=report.node, uniqueid=report.uniqueid, created_ms=now_ms)
        return SettleAnswer(call_id=None, first=True), Changes(tombstones=[buried])
    difference = _disagreement(report, cdr)
    changes = Changes()
    if difference:
        changes.events.append(
            event(
                ids, cdr.tenant_id, now_ms, EventKind.SETTLEMENT_DISAGREED, cdr.call_id,
                witness=report.witness, settled_by=cdr.witness, difference=difference,
            )
        )  # fmt: skip
    return SettleAnswer(call_id=cdr.call_id, first=False, disagreement=difference), changes


def _disagreement(report: SettleReport, cdr: Cdr) -> str:
    """In which numbers a second report differs from what was settled; empty where it does not."""
    told_ms = report.answered_for_ms
    if report.leg.answered_ms is not None and report.leg.ended_ms is not None:
        told_ms = report.leg.ended_ms - report.leg.answered_ms
    answered = report.dialstatus is DialStatus.ANSWER
    if answered != (cdr.answered_ms is not None) and report.dialstatus is not None:
        return f"answered={answered} against {not answered}"
    if answered and told_ms is not None and abs(told_ms - cdr.talk_ms) > TALK_TOLERANCE_MS:
        return f"talk_ms={told_ms} against {cdr.talk_ms}"
    return ""


def _last_attempt(report: SettleReport, attempt: Attempt, outcome: Outcome) -> Attempt:
    """The current attempt as the call's end leaves it; one that had ended before keeps its end."""
    if attempt.ended_ms is not None:
        return attempt
    return replace(
        attempt,
        rang_ms=report.leg.rang_ms or attempt.rang_ms,
        answered_ms=outcome.answered_ms,
        ended_ms=outcome.ended_ms,
        dialstatus=outcome.dialstatus,
        hangup_cause=_final_cause(report, outcome),
    )


def _final_cause(report: SettleReport, outcome: Outcome) -> int:
    if outcome.answered:
        return report.hangup_cause or CAUSE_NORMAL
    return real_cause(report.hangup_cause)


def _settled_places(
    call: Call,
    books: Books,
    estate: Estate,
    outcome: Outcome,
    bill: Bill,
    report: SettleReport,
    last: Attempt,
    told: int,
) -> list[Place]:
    """All places given back; of caps by minutes and spend what was used stays, within what the cap lets through."""

    told_late = report.reject is RejectCode.ENGINE_TIMEOUT

    def counted(place: Place) -> int:
        zoned = estate.caps.get(place.cap_id)
        if zoned is None or zoned.cap.metric is CONCURRENT:  # as many caps are: nothing stays used
            return 0
        here = place.attempt in (0, last.number)
        if zoned.reserves:
            used = bill.talk_s if zoned.cap.metric is CapMetric.MINUTES else bill.amount_micros
            most = place.amount + max(left(zoned, (place.cap_id, place.window_start_ms), books), 0)
            return min(used, most) if here else 0
        number = books.attempts[call.id][place.attempt].round or place.attempt if place.attempt else 0
        dialled = not told_late and number <= told
        answered = here and outcome.answered
        return counted_by(zoned.cap.metric, dialled=dialled, answered=answered, billable=here and bill.price.billable)

    return release(books.open_places(call.id), "settled", counted)


def _ended_event(cdr: Cdr, now_ms: int, ids: Ids) -> Event:
    return event(
        ids, cdr.tenant_id, now_ms, EventKind.CALL_ENDED, cdr.call_id,
        dialstatus=cdr.dialstatus, target=cdr.target, talk_ms=cdr.talk_ms, amount_micros=cdr.amount_micros,
        written_off_micros=cdr.written_off_micros, hung_up_by=cdr.hung_up_by, reason=cdr.reject_reason,
    )  # fmt: skip


def _ledger_entry(call: Call, cdr: Cdr, bill: Bill, now_ms: int, ids: Ids) -> LedgerEntry:
    return LedgerEntry(
        id=ids(),
        tenant_id=call.tenant_id,
        seller_id=call.seller_id,
        amount_micros=-bill.amount_micros,
        kind=LedgerKind.CALL,
        idempotency_key=f"call:{call.id}",
        actor="settlement",
        reason=f"{cdr.billed_seconds}s to {cdr.target}",
        call_id=call.id,
        corrects_id=None,
        balance_after_micros=bill.balance_after_micros,
        created_ms=now_ms,
    )


def _cdr(
    report: SettleReport,
    call: Call,
    last: Attempt,
    books: Books,
    estate: Estate,
    outcome: Outcome,
    bill: Bill,
) -> Cdr:
    cause = _final_cause(report, outcome) if last.hangup_cause is None else last.hangup_cause
    rejected = "" if outcome.answered else (report.reject or call.reject_reason)
    by = hung_up_by(report, call, outcome)
    attempts = books.attempts[call.id] | {last.number: last}
    first_ring_ms = min([a.rang_ms for a in attempts.values() if a.rang_ms is not None], default=None)
    ring_end_ms = outcome.answered_ms or outcome.ended_ms
    seller, campaign = estate.sellers.get(call.seller_id), estate.campaigns.get(call.campaign_id)
    return Cdr(
        call_id=call.id,
        tenant_id=call.tenant_id,
        schema_version=CDR_SCHEMA_VERSION,
        node=call.node,
        boot_id=call.boot_id,
        uniqueid=call.uniqueid,
        linkedid=call.linkedid,
        sip_call_id=call.sip_call_id,
        did=call.did_number,
        did_id=call.did_id,
        caller=call.ani,
        caller_e164=call.ani_e164,
        caller_name=call.caller_name,
        trunk=call.trunk,
        attestation=call.attestation,
        stir_verdict=call.stir_verdict,
        seller_id=call.seller_id,
        seller=seller.name if seller else "",
        campaign_id=call.campaign_id,
        campaign=campaign.name if campaign else "",
        rule_id=last.rule_id,
        target_id=last.target_id,
        target=last.target_name,
        strategy=call.strategy,
        attempts=_tried(last, attempts),
        arrived_ms=call.arrived_ms,
        decided_ms=call.decided_ms,
        first_ring_ms=first_ring_ms,
        answered_ms=outcome.answered_ms,
        ended_ms=outcome.ended_ms,
        decision_ms=max(call.decided_ms - call.arrived_ms, 0),
        ring_ms=max(ring_end_ms - first_ring_ms, 0) if first_ring_ms is not None else 0,
        talk_ms=outcome.talk_ms,
        billed_seconds=bill.price.billed_seconds,
        dialstatus=outcome.dialstatus or "",
        hangup_cause=cause,
        sip_code=_sip_code(outcome, by, rejected, cause),
        hung_up_by=by,
        reject_code=rejected.split(":")[0],
        reject_reason=rejected,
        witness=report.witness if report.leg.answered_ms is None else f"{report.witness}+ami",
        currency=call.currency,
        connect_fee_micros=bill.tariff.connect_fee_micros,
        per_minute_micros=bill.tariff.per_minute_micros,
        first_s=bill.tariff.first_s,
        step_s=bill.tariff.step_s,
        billable_threshold_ms=bill.tariff.billable_threshold_ms,
        billable=bill.price.billable,
        amount_micros=bill.amount_micros,
        written_off_micros=bill.price.price_micros - bill.amount_micros,
        balance_after_micros=bill.balance_after_micros,
        trace=call.trace,
        attempt=last.number,
        then_after_s=bill.tariff.then_after_s,
        then_per_minute_micros=bill.tariff.then_per_minute_micros,
        payout_micros=bill.payout_micros,
        payout_tariff=bill.payout,
    )


def _sip_code(outcome: Outcome, by: HungUpBy, rejected: str, cause: int) -> int:
    """What the caller heard last: 200; 487 after its own CANCEL; the code of a reject; else what chan_pjsip says of a
    channel that was hung up under a caller who waited (603)."""
    if outcome.answered:
        return SIP_OK
    if by is HungUpBy.CALLER:
        return SIP_CANCELLED
    return sip_of_cause(cause) if rejected else SIP_FOR_OTHER_CAUSES


def _tried(last: Attempt, attempts: Mapping[int, Attempt]) -> int:
    """How many targets were dialled: up to the last attempt, those that rang beside it included."""
    beside = [a.number for a in attempts.values() if a.round and a.round == last.round]
    return max([last.number, *beside])
