"""The story of a call as text and as JSON: what `explain` and `route` say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from capconduit.units import format_duration, format_instant, format_micros
from capconduit.vocab import REJECTS, EventKind, HoldState, PlaceState, RejectCode, WindowKind

if TYPE_CHECKING:
    from capconduit.domain.model import Attempt, Cdr, Event, Hold, LedgerEntry
    from capconduit.domain.trace import Check
    from capconduit.services.calls import PlaceView, Story

MS_PER_SECOND: Final = 1_000
LONG_MS: Final = 600_000  # from here on instants are told without milliseconds

# Numbers of the checks that are money; a trace keeps them as micros.
_MONEY_DETAILS: Final = frozenset({"balance", "credit_limit", "held", "available", "minimum", "hold"})
# The first decision's trace ends with this check; what follows was checked when an attempt had failed.
_LAST_CHECK: Final = "strategy"


# JSON --------------------------------------------------------------------------------------------------------------


def check_json(check: Check) -> dict[str, Any]:
    """A check as JSON: its name, whether it passed, and its numbers; money as decimal text."""
    details = {
        key: format_micros(value) if key in _MONEY_DETAILS and type(value) is int else value
        for key, value in check.detail.items()
    }
    if details.get("window") == WindowKind.NONE:
        details["window"] = None  # as everywhere in JSON
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
    }


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
        "counted": place.counted,
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
            case "seller":
                return f"{d['seller']} is {'active' if check.ok else 'suspended'}"
            case "balance":
                return _balance_words(d, currency)
            case "campaign":
                return f"{d['campaign']} is {d['status']}"
            case "target":
                return f"{d['target']}: {d['why']}"
            case "strategy":
                return f"{d['strategy']}: {', '.join(d['order'])}"
            case name if name.startswith("cap."):
                counts = d["metric"] if d["window"] == WindowKind.NONE else f"{d['metric']}/{d['window']}"
                return f"{d['subject']} {counts}: {d['used']}/{d['in_flight']}/{d['limit']}"
    except (KeyError, TypeError):
        pass  # a trace that another version wrote: its numbers are shown as they are
    return ", ".join(f"{key} {value}" for key, value in d.items())


def _balance_words(d: Mapping[str, Any], currency: str) -> str:
    credit = f" + credit {money(d['credit_limit'], '')}" if d["credit_limit"] else ""
    words = (
        f"available {money(d['available'], currency)} = {money(d['balance'], '')}{credit} - held {money(d['held'], '')}"
    )
    if d["hold"]:
        return f"{words}; holds {money(d['hold'], currency)} for {d['funded_s']}s (at least {money(d['minimum'], '')})"
    return f"{words}; needs at least {money(d['minimum'], currency)}"


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


def story_lines(story: Story) -> Iterator[str]:
    """The story as a timeline; instants are counted from the arrival."""
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
    for at_ms, title, lines in sorted(marks, key=lambda mark: mark[0]):
        yield f"  {_since(at_ms - arrived_ms)}  {title}"
        yield from (f"{'':14}{line}" for line in lines)
    yield from _money_lines(story, currency)
    yield from _place_lines(story.places)


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
    names = [check.name for check in story.checks]
    first = names.index(_LAST_CHECK) + 1 if _LAST_CHECK in names else len(names)
    verdict = f"dial {story.attempts[0].target_name}" if story.attempts else "reject"
    title = f"decided: {verdict} (caps are used/in flight/limit)"
    yield head.decided_ms, title, list(check_lines(story.checks[:first], currency))
    later = list(check_lines(story.checks[first:], currency))
    failed = [a.ended_ms for a in story.attempts if a.ended_ms is not None and a.answered_ms is None]
    if later:
        yield (failed[0] if failed else head.decided_ms), "checked again after attempts that failed", later


def _attempt_marks(attempts: Iterable[Attempt]) -> Iterator[Mark]:
    for a in attempts:
        yield a.started_ms, f"attempt {a.number}: {a.target_name}, {a.dial}, may ring {a.ring_s}s", ()
        if a.rang_ms is not None:
            yield a.rang_ms, f"attempt {a.number} rings", ()
        if a.answered_ms is not None:
            yield a.answered_ms, f"attempt {a.number} is answered", ()
        elif a.ended_ms is not None:
            status = a.dialstatus or "no DIALSTATUS"
            yield a.ended_ms, f"attempt {a.number} ends: {status}, hangup cause {a.hangup_cause}", ()


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
    if cdr.written_off_micros:
        lines.append(f"{money(cdr.written_off_micros, cdr.currency)} written off: there was no more money for it")
    return title, lines


def _price_words(cdr: Cdr) -> str:
    fee = f" + {money(cdr.connect_fee_micros, '')}" if cdr.connect_fee_micros else ""
    rate = f"{money(cdr.per_minute_micros, '')}/min by {cdr.first_s}/{cdr.step_s}{fee}"
    if not cdr.billable:
        return f"not billable: shorter than {format_duration(cdr.billable_threshold_ms)}"
    after = (
        "" if cdr.balance_after_micros is None else f"; balance then {money(cdr.balance_after_micros, cdr.currency)}"
    )
    return f"billed {cdr.billed_seconds}s at {rate} = {money(cdr.amount_micros, cdr.currency)}{after}"


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


def _place_lines(places: Sequence[PlaceView]) -> Iterator[str]:
    if not places:
        return
    yield ""
    yield "places in caps"
    for view in places:
        place = view.place
        cap = f"{view.scope} {view.subject} {view.counts}" if view.scope else f"cap {place.cap_id} (cleared since)"
        of = f", attempt {place.attempt}" if place.attempt else ""
        if place.state is not PlaceState.RELEASED:
            fate = f"in flight ({place.state})"
        elif place.counted:
            fate = f"used ({place.reason})"
        else:
            fate = f"given back ({place.reason})"
        yield f"  {cap}{of}: {fate}"
