"""The story of a call as text and as JSON: what `explain` and `route` say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from capconduit.units import format_duration, format_instant, format_micros, format_span
from capconduit.vocab import (
    CAUSE_ANSWERED_ELSEWHERE,
    REJECTS,
    CapMetric,
    CapScope,
    EventKind,
    HoldState,
    PlaceState,
    RejectCode,
    WindowKind,
)
from capconduit_cli.output import Quantity, Unit

if TYPE_CHECKING:
    from capconduit.domain.model import Attempt, Call, Cdr, Event, Hold, LedgerEntry
    from capconduit.domain.rating import Tariff
    from capconduit.domain.trace import Check
    from capconduit.services.calls import PlaceView, Story

MS_PER_SECOND: Final = 1_000
LONG_MS: Final = 600_000  # from here on instants are told without milliseconds
_RESTED_BY_HAND: Final = "rested after 0 failures"

# Numbers of the checks that are money; a trace keeps them as micros.
_MONEY_DETAILS: Final = frozenset({"balance", "credit_limit", "held", "available", "minimum", "hold"})
_CAP_NUMBERS: Final = ("used", "in_flight", "limit")
# The first decision's trace ends with these checks; what follows was checked when an attempt had failed.
_LAST_CHECKS: Final = ("strategy", "hold")
_UNITS: Final[Mapping[str, Unit]] = {CapMetric.MINUTES: Unit.SECONDS, CapMetric.SPEND: Unit.MONEY}
_BLOCKED_FOR: Final[Mapping[str, str]] = {
    CapScope.SYSTEM: "for everybody",
    CapScope.SELLER: "for this seller",
    CapScope.CAMPAIGN: "for this campaign",
}


# JSON --------------------------------------------------------------------------------------------------------------


def check_json(check: Check) -> dict[str, Any]:
    """A check as JSON: its name, whether it passed, and its numbers; money as decimal text."""
    money_keys = {*_MONEY_DETAILS, *(_CAP_NUMBERS if check.detail.get("metric") == CapMetric.SPEND else ())}
    details: dict[str, Any] = {
        key: format_micros(value) if key in money_keys and type(value) is int else value
        for key, value in check.detail.items()
    }
    if details.get("window") == WindowKind.NONE:
        details["window"] = None  # as everywhere in JSON
    for key in [key for key in details if key.endswith("_ms")]:
        details[key.removesuffix("_ms")] = _instant(details.pop(key))
    return {"check": check.name, "ok": check.ok, **details}


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """An attempt as JSON."""
    return {
        "attempt": attempt.number,
        "target": attempt.target_name,
        "dial": attempt.dial,
        "ring_s": attempt.ring_s,
        "started": _instant(attempt.started_ms),
        "rang": _instant(attempt.rang_ms),
        "answered": _instant(attempt.answered_ms),
        "ended": _instant(attempt.ended_ms),
        "dialstatus": attempt.dialstatus,
        "hangup_cause": attempt.hangup_cause,
        "round": attempt.round or attempt.number,
        "rate": tariff_json(_tariff(attempt.tariff)),
        "payout_rate": tariff_json(_tariff(attempt.payout)),
    }


def tariff_json(tariff: Tariff | None) -> dict[str, Any] | None:
    """Prices as JSON, as they stood; `then_…` are null where there is one price."""
    if tariff is None:
        return None
    return {
        "connect_fee": format_micros(tariff.connect_fee_micros),
        "per_minute": format_micros(tariff.per_minute_micros),
        "increment": f"{tariff.first_s}/{tariff.step_s}",
        "billable_threshold_ms": tariff.billable_threshold_ms,
        "then_per_minute": format_micros(tariff.then_per_minute_micros) if tariff.then_after_s else None,
        "then_after_ms": tariff.then_after_s * MS_PER_SECOND if tariff.then_after_s else None,
    }


def rate_of(cdr: Cdr) -> Tariff:
    """The prices that a call was charged by."""
    from capconduit.domain.rating import Tariff  # lists of calls in other forms do not need it

    return Tariff(
        connect_fee_micros=cdr.connect_fee_micros,
        per_minute_micros=cdr.per_minute_micros,
        first_s=cdr.first_s,
        step_s=cdr.step_s,
        billable_threshold_ms=cdr.billable_threshold_ms,
        then_after_s=cdr.then_after_s,
        then_per_minute_micros=cdr.then_per_minute_micros,
    )


def payout_of(cdr: Cdr) -> Tariff | None:
    """The prices that the target's side is paid by; None where it is paid nothing."""
    return _tariff(cdr.payout_tariff)


def _tariff(text: str) -> Tariff | None:
    from capconduit.domain.tariffs import load_tariff

    return load_tariff(text) if text else None


def story_json(story: Story, call: dict[str, Any] | None, cdr: dict[str, Any] | None) -> dict[str, Any]:
    """The whole story as JSON; `call` and `cdr` are the objects of `call show` and `cdr list`."""
    head = call or cdr or {}
    return {
        "call_id": head["call_id"],
        "uniqueid": head["uniqueid"],
        "node": head["node"],
        "state": head.get("state", "ended"),
        "summary": summary(story),
        "currency": head["currency"],
        "call": call,
        "cdr": cdr,
        "checks": [check_json(check) for check in story.checks],
        "attempts": [attempt_json(attempt) for attempt in story.attempts],
        "places": [_place_json(view) for view in story.places],
        "hold": _hold_json(story.hold) if story.hold else None,
        "ledger": [_ledger_json(entry) for entry in story.ledger],
        "events": [_event_json(event, data) for event, data in story.events],
    }


def _place_json(view: PlaceView) -> dict[str, Any]:
    place = view.place
    return {
        "attempt": place.attempt,
        "scope": view.scope or None,
        "name": view.subject or None,
        "counts": view.counts or None,
        "cap_id": place.cap_id,
        "state": place.state,
        "amount": _quantity(view.metric, place.amount).plain,
        "counted": _quantity(view.metric, place.counted).plain,
        "reason": place.reason,
    }


def _hold_json(hold: Hold) -> dict[str, Any]:
    return {
        "amount": format_micros(hold.amount_micros),
        "state": hold.state,
        "opened": _instant(hold.opened_ms),
        "expires": _instant(hold.expires_ms),
    }


def _ledger_json(entry: LedgerEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": _instant(entry.created_ms),
        "kind": entry.kind,
        "amount": format_micros(entry.amount_micros),
        "balance_after": format_micros(entry.balance_after_micros),
        "reason": entry.reason,
    }


def _event_json(event: Event, data: Mapping[str, Any]) -> dict[str, Any]:
    """Money in an event's data is decimal text, its names without `_micros`."""
    plain = {
        key.removesuffix("_micros"): format_micros(value) if key.endswith("_micros") else value
        for key, value in data.items()
    }
    return {"at": _instant(event.at_ms), "kind": event.kind, "data": plain}


def _instant(at_ms: int | None) -> str | None:
    return None if at_ms is None else format_instant(at_ms)


# Text --------------------------------------------------------------------------------------------------------------


def money(micros: int, currency: str) -> str:
    """`0.20 USD`."""
    return f"{format_micros(micros, trim=True)} {currency}".rstrip()


def tariff_words(tariff: Tariff) -> str:
    """`0.20/min by 60/60 + 0.05`, `0.20/min, 0.10/min beyond 60s, by 60/60`."""
    fee = f" + {money(tariff.connect_fee_micros, '')}" if tariff.connect_fee_micros else ""
    then = (
        f", {money(tariff.then_per_minute_micros, '')}/min beyond {tariff.then_after_s}s,"
        if tariff.then_after_s
        else ""
    )
    return f"{money(tariff.per_minute_micros, '')}/min{then} by {tariff.first_s}/{tariff.step_s}{fee}"


def _quantity(metric: str | None, value: int, currency: str = "") -> Quantity:
    unit = _UNITS.get(metric or "", Unit.CALLS)
    return Quantity(value, unit, currency if unit is Unit.MONEY else "")


def check_lines(checks: Iterable[Check], currency: str) -> Iterator[str]:
    """One line for each check: whether it passed, its name, its numbers."""
    for check in checks:
        yield f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<16}  {_check_words(check, currency)}".rstrip()


def _check_words(check: Check, currency: str) -> str:
    d = check.detail
    try:
        match check.name:
            case "did":
                return d["number"] if d["number"] == d["dnid"] else f"{d['number']}, dialled as {d['dnid']}"
            case "did.status":
                return str(d["status"])
            case "did.campaign":
                return "assigned to a campaign" if check.ok else "assigned to no campaign"
            case "caller.anonymous":
                return f"the number is withheld; policy: {d['policy']}"
            case "caller.number":
                return f"{d['received']!r} is no number; policy: {d['policy']}"
            case "caller.blocked":
                why = f" ({d['why']})" if d["why"] else ""
                return f"blocked {_BLOCKED_FOR.get(d['scope'], '')}: {d['pattern']}{why}"
            case "caller.attestation":
                verdict = f", {d['verdict']}" if d["verdict"] else ""
                return f"at least {d['required']} is required; the call has {d['attestation'] or 'none'}{verdict}"
            case "caller.rate":
                return f"{d['calls']} calls of this caller in {d['window_s']}s; {d['limit']} are taken"
            case "caller.duplicate":
                return _duplicate_words(d)
            case "campaign.schedule":
                return f"{'open' if check.ok else 'closed'} at this time in {d['zone']}"
            case "hold":
                return f"holds {money(d['hold'], currency)} for {d['funded_s']}s of talk by rate {d['rate']}"
            case "seller":
                return f"{d['seller']} is {'active' if check.ok else 'suspended'}"
            case "balance":
                return _balance_words(d, currency)
            case "campaign":
                return f"{d['campaign']} is {d['status']}"
            case "target":
                return f"{d['target']}: {why_words(d['why'])}"
            case "rule":
                return (
                    f"no rule of {d['campaign']} leads to {d['target']}; its targets: {', '.join(d['targets']) or '-'}"
                )
            case "target.paused" | "rule.paused":
                return f"{d.get('rule') or d['target']} is paused"
            case "target.schedule":
                opens = "never" if d["opens_ms"] is None else format_instant(d["opens_ms"])
                return f"{d['target']} is closed in {d['zone']}; opens {opens}"
            case "target.rest":
                return f"{d['target']}: {why_words(d['why'])}, until {format_instant(d['until_ms'])}"
            case "strategy" if "place" in d:
                return _turn_words(d)
            case "strategy":
                return f"{d['strategy']}: {', '.join(d['order'])}"
            case name if name.startswith("cap."):
                counts = d["metric"] if d["window"] == WindowKind.NONE else f"{d['metric']}/{d['window']}"
                used, in_flight, limit = (_quantity(d["metric"], d[key]).words for key in _CAP_NUMBERS)
                return f"{d['subject']} {counts}: {used}/{in_flight}/{limit}"
    except (KeyError, TypeError):
        pass  # a trace that another version wrote: its numbers are shown as they are
    return ", ".join(f"{key} {value}" for key, value in d.items())


def _turn_words(d: Mapping[str, Any]) -> str:
    """Why another target comes first."""
    return (
        f"{d['strategy']}: number {d['place']} after {d['first']} (priority {d['priority']}, weight {d['weight']};"
        f" {d['first']}: {d['first_priority']}, {d['first_weight']}); at most {d['max_attempts']} are tried"
    )


def _balance_words(d: Mapping[str, Any], currency: str) -> str:
    credit = f" + credit {money(d['credit_limit'], '')}" if d["credit_limit"] else ""
    words = (
        f"available {money(d['available'], currency)} = {money(d['balance'], '')}{credit} - held {money(d['held'], '')}"
    )
    return f"{words}; needs at least {money(d['minimum'], currency)}"


def _duplicate_words(d: Mapping[str, Any]) -> str:
    window = format_span(d["window_s"] * MS_PER_SECOND)
    if d["ago_s"] is None:
        return f"no call of this caller in {window}"
    return f"last call {d['last_call']} was {format_duration(d['ago_s'] * MS_PER_SECOND)} ago; one in {window} is taken"


def why_words(why: str) -> str:
    """Why a target was passed by."""
    return "rested by an operator" if why == _RESTED_BY_HAND else why


def reject_words(code: str, reason: str) -> str:
    """A reject's reason with the sentence that explains it."""
    try:
        return f"{reason}: {REJECTS[RejectCode(code)][2]}"
    except ValueError:  # a code of another version
        return reason


def summary(story: Story) -> str:
    """The call in one sentence."""
    if story.call is not None:
        call = story.call.call
        return f"{call.state}, attempt {call.attempt} to {story.call.target}, funded for {call.funded_s}s of talk"
    cdr = story.cdr
    if cdr is None:  # neither alive nor settled: `tell` finds no such call
        return ""
    if cdr.answered_ms is not None:
        cost = money(cdr.amount_micros, cdr.currency) if cdr.billable else "not billable"
        return f"answered by {cdr.target}, {format_duration(cdr.talk_ms)} of talk, {cost}"
    if cdr.reject_code:
        return f"rejected, {reject_words(cdr.reject_code, cdr.reject_reason)}"
    return f"not answered, {cdr.dialstatus or 'ended without a Dial'}"


def story_lines(story: Story, now_ms: int | None = None) -> Iterator[str]:
    """The story as a timeline; instants are counted from the arrival. `now_ms` says how far a live call is now."""
    call, cdr = (story.call.call if story.call else None), story.cdr
    head = call or cdr
    assert head is not None  # `tell` finds one of them
    call_id = call.id if call else cdr.call_id if cdr else ""
    yield f"call {call_id} (uniqueid {head.uniqueid}, node {head.node})"
    yield summary(story)
    yield ""
    yield from _party_lines(story)
    yield ""
    arrived_ms, currency = head.arrived_ms, head.currency
    yield f"arrived {format_instant(arrived_ms)}"
    marks = [*_decision_marks(story, currency), *_attempt_marks(story.attempts), *_event_marks(story, currency)]
    if cdr is not None:
        marks.append((cdr.ended_ms, *_end_mark(cdr)))
    elif call is not None and now_ms is not None:
        marks.append((max(now_ms, *(mark[0] for mark in marks)), _now_words(call, story.hold, now_ms), ()))
    for at_ms, title, lines in sorted(marks, key=lambda mark: mark[0]):
        yield f"  {_since(at_ms - arrived_ms)}  {title}"
        yield from (f"{'':14}{line}" for line in lines)
    yield from _money_lines(story, currency)
    yield from _place_lines(story.places, call.state if call else "", currency)
    if cdr is not None and cdr.reject_code and not story.attempts:
        caller = f" --from {cdr.caller_e164}" if cdr.caller_e164 else ""
        yield ""
        yield f"would it go through now?  capconduit route {cdr.did}{caller}"


def _now_words(call: Call, hold: Hold | None, now_ms: int) -> str:
    """How far a live call is: what it talked, and until when that is paid for."""
    talked = f", {format_duration(max(now_ms - call.answered_ms, 0))} of talk" if call.answered_ms is not None else ""
    if hold is None or hold.state is not HoldState.OPEN:
        return f"now: {call.state}{talked}"
    left_ms = hold.expires_ms - now_ms
    when = f"is used up in {format_duration(left_ms)}"
    if left_ms < 0:
        when = f"was used up {format_duration(-left_ms)} ago"
    return f"now: {call.state}{talked}; what is held for it {when}"


Mark = tuple[int, str, Sequence[str]]


def _since(duration_ms: int) -> str:
    """A time since the arrival, ten wide: `+1.234s`, `+1h02m03s`."""
    sign, ms = ("-" if duration_ms < 0 else "+"), abs(duration_ms)
    if ms >= LONG_MS:
        return f"{sign}{format_duration(ms)}".rjust(10)
    return f"{sign}{ms // MS_PER_SECOND}.{ms % MS_PER_SECOND:03d}s".rjust(10)


def _party_lines(story: Story) -> Iterator[str]:
    view, cdr = story.call, story.cdr
    if view is not None:
        c = view.call
        did, caller, e164, seller, campaign = c.did_number, c.ani, c.ani_e164, view.seller, view.campaign
        name, trunk, attestation, verdict = c.caller_name, c.trunk, c.attestation, c.stir_verdict
        strategy: str = c.strategy
    elif cdr is not None:
        did, caller, e164, seller, campaign = cdr.did, cdr.caller, cdr.caller_e164, cdr.seller, cdr.campaign
        name, trunk, attestation, verdict = cdr.caller_name, cdr.trunk, cdr.attestation, cdr.stir_verdict
        strategy = cdr.strategy
    else:
        return
    received = f" (received {caller})" if e164 and caller != e164 else ""
    yield f"did       {did}"
    yield f"caller    {e164 or caller or 'withheld'}{received}{f' {name!r}' if name else ''}"
    yield f"trunk     {trunk or '-'}"
    if attestation or verdict:
        yield f"stir      {attestation or '-'} {verdict}".rstrip()
    yield f"seller    {seller or '-'}"
    yield f"campaign  {campaign or '-'}{f' ({strategy})' if strategy else ''}"


def _decision_marks(story: Story, currency: str) -> Iterator[Mark]:
    call, cdr = (story.call.call if story.call else None), story.cdr
    head = call or cdr
    assert head is not None  # see story_lines
    first = _first_decision([check.name for check in story.checks])
    legs = " and ".join(leg.target_name for leg in _legs(story.attempts, 1))
    verdict = f"dial {legs}" if story.attempts else "reject"
    title = f"decided: {verdict} (caps are used/in flight/limit)"
    yield head.decided_ms, title, list(check_lines(story.checks[:first], currency))
    later = list(check_lines(story.checks[first:], currency))
    failed = [a.ended_ms for a in story.attempts if a.ended_ms is not None and a.answered_ms is None]
    if later:
        yield (failed[0] if failed else head.decided_ms), "checked again after attempts that failed", later


def _first_decision(names: Sequence[str]) -> int:
    """How many checks the first decision made."""
    last, then = _LAST_CHECKS
    if last not in names:
        return len(names)
    end = names.index(last) + 1
    return end + 1 if names[end : end + 1] == [then] else end


def _legs(attempts: Iterable[Attempt], first: int) -> list[Attempt]:
    """The attempts that rang at once with the one of this number."""
    return [a for a in attempts if first in (a.round, a.number)]


def _attempt_marks(attempts: Sequence[Attempt]) -> Iterator[Mark]:
    for a in attempts:
        beside = [str(leg.number) for leg in _legs(attempts, a.round or a.number) if leg is not a]
        at_once = f", at once with {' and '.join(beside)}" if beside else ""
        title = f"attempt {a.number}: {a.target_name}, {a.dial}, may ring {a.ring_s}s{at_once}"
        yield a.started_ms, title, _price_lines(a)
        if a.rang_ms is not None:
            yield a.rang_ms, f"attempt {a.number} rings", ()
        if a.answered_ms is not None:
            yield a.answered_ms, f"attempt {a.number} is answered", ()
        elif a.ended_ms is not None and a.hangup_cause == CAUSE_ANSWERED_ELSEWHERE:
            yield a.ended_ms, f"attempt {a.number} ends: another one answered", ()
        elif a.ended_ms is not None:
            status = a.dialstatus or "no DIALSTATUS"
            yield a.ended_ms, f"attempt {a.number} ends: {status}, hangup cause {a.hangup_cause}", ()


def _price_lines(attempt: Attempt) -> Sequence[str]:
    """What the attempt costs and pays out, where it pays out."""
    rate, payout = _tariff(attempt.tariff), _tariff(attempt.payout)
    return [f"costs {tariff_words(rate)}; pays out {tariff_words(payout)}"] if rate and payout else ()


def _event_marks(story: Story, currency: str) -> Iterator[Mark]:
    """Events that no row tells of."""
    for event, data in story.events:
        match event.kind:
            case EventKind.HOLD_EXTENDED:
                amount = money(int(data.get("hold_micros", 0)), currency)
                yield event.at_ms, f"hold is now {amount}, funded for {data.get('funded_s')}s of talk", ()
            case EventKind.SETTLEMENT_DISAGREED:
                words = f"{data.get('witness')} told it otherwise: {data.get('difference')}; nothing was changed"
                yield event.at_ms, words, ()


def _end_mark(cdr: Cdr) -> tuple[str, Sequence[str]]:
    status = cdr.dialstatus or ("rejected" if cdr.reject_code else "-")
    title = (
        f"ended: {status}, hangup cause {cdr.hangup_cause}, SIP {cdr.sip_code}, by the {cdr.hung_up_by}"
        f" (told by {cdr.witness})"
    )
    lines = []
    if cdr.reject_code:
        lines.append(reject_words(cdr.reject_code, cdr.reject_reason))
    if cdr.answered_ms is not None:
        lines.append(f"talk {format_duration(cdr.talk_ms)}, rang {format_duration(cdr.ring_ms)}")
        lines.append(_price_words(cdr))
        lines += _payout_lines(cdr)
    if cdr.written_off_micros:
        lines.append(f"{money(cdr.written_off_micros, cdr.currency)} written off: there was no more money for it")
    return title, lines


def _payout_lines(cdr: Cdr) -> Sequence[str]:
    payout = payout_of(cdr)
    if payout is None:
        return ()
    margin = money(cdr.amount_micros - cdr.payout_micros, cdr.currency)
    return [f"pays out {money(cdr.payout_micros, cdr.currency)} at {tariff_words(payout)}; margin {margin}"]


def _price_words(cdr: Cdr) -> str:
    if not cdr.billable:
        return f"not billable: shorter than {format_duration(cdr.billable_threshold_ms)}"
    after = (
        "" if cdr.balance_after_micros is None else f"; balance then {money(cdr.balance_after_micros, cdr.currency)}"
    )
    amount = money(cdr.amount_micros, cdr.currency)
    return f"billed {cdr.billed_seconds}s at {tariff_words(rate_of(cdr))} = {amount}{after}"


def _money_lines(story: Story, currency: str) -> Iterator[str]:
    hold = story.hold
    if hold is None and not story.ledger:
        return
    yield ""
    yield "money"
    if hold is not None:
        until = f" until {format_instant(hold.expires_ms)}" if hold.state is HoldState.OPEN else ""
        yield f"  hold    {money(hold.amount_micros, currency)} {hold.state}{until}"
    for entry in story.ledger:
        yield (
            f"  ledger  {money(entry.amount_micros, currency)} {entry.kind}, balance then"
            f" {money(entry.balance_after_micros, currency)}: {entry.reason}"
        )


def _place_lines(places: Sequence[PlaceView], state: str, currency: str) -> Iterator[str]:
    if not places:
        return
    yield ""
    yield "places in caps"
    for view in places:
        place = view.place
        cap = f"{view.scope} {view.subject} {view.counts}" if view.scope else f"cap {place.cap_id} (cleared since)"
        of = f", attempt {place.attempt}" if place.attempt else ""
        if place.state is not PlaceState.RELEASED:
            fate = f"{_how_much(view, place.amount, currency)}in flight ({state})"
        elif place.counted:
            fate = f"{_how_much(view, place.counted, currency)}used ({place.reason})"
        else:
            fate = f"given back ({place.reason})"
        yield f"  {cap}{of}: {fate}"


def _how_much(view: PlaceView, amount: int, currency: str) -> str:
    """The amount of a place in a cap by minutes or spend; a place by calls is one."""
    quantity = _quantity(view.metric, amount, currency)
    return "" if quantity.unit is Unit.CALLS else f"{quantity.words} "
