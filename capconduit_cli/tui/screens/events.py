"""Screen 5: what happens, as it happens; rejects with their reasons."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from capconduit.units import MS_PER_SECOND, parse_money
from capconduit.vocab import REJECTS, EventKind, RejectCode
from capconduit_cli.tui.cells import Cell, cell, clock, date_and_time, money, safe, time_of_day
from capconduit_cli.tui.floor import Event, Floor
from capconduit_cli.tui.screens.base import Column, Fact, Handles, Moment, View
from capconduit_cli.tui.themes import Role

_MARKS: Final[Mapping[str, tuple[str, Role]]] = {
    EventKind.CALL_STARTED: ("→", Role.INFO),
    EventKind.CALL_ANSWERED: ("●", Role.GOOD),
    EventKind.CALL_ENDED: ("○", Role.PLAIN),
    EventKind.CALL_REJECTED: ("✖", Role.BAD),
    EventKind.CALL_ZOMBIE: ("†", Role.BAD),
    EventKind.ATTEMPT_FAILED: ("▼", Role.WARN),
    EventKind.CAP_REACHED: ("█", Role.WARN),
    EventKind.BALANCE_LOW: ("▼", Role.WARN),
    EventKind.TARGET_RESTED: ("z", Role.WARN),
    EventKind.TARGET_REVIVED: ("●", Role.GOOD),
    EventKind.SETTLEMENT_DISAGREED: ("≠", Role.BAD),
    EventKind.ABUSE_DETECTED: ("!", Role.BAD),
    EventKind.ESTATE_CHANGED: ("±", Role.INFO),
    EventKind.NODE_STARTED: ("▲", Role.INFO),
    EventKind.NODE_STOPPED: ("■", Role.WARN),
}
_FIRST: Final = ("reason", "action", "target", "campaign", "seller", "did", "caller")  # told before the others
_MICROS, _MS, _S = "_micros", "_ms", "_s"  # money ends so in older recordings
_DECIMAL: Final = re.compile(r"-?[0-9]+\.[0-9]{6}")  # money as the daemon tells it
_SHORT_ID: Final = 8  # the last characters tell ids apart, `capconduit explain` takes them
_ULID: Final = 26
_LOOKED_THROUGH: Final = 400  # characters of an event that the filter looks through


def value_text(key: str, value: Any) -> str:
    """A value of an event as people read it, by its form and the ending of its key."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        if key.endswith(_MICROS):
            return money(value)
        if key.endswith(_MS):
            return clock(value)
        if key.endswith(_S):
            return clock(value * MS_PER_SECOND)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return money(parse_money(value, signed=True))
    return str(value)


def _name(key: str) -> str:
    for ending in (_MICROS, _MS, _S):
        key = key.removesuffix(ending)
    return key.replace("_", " ")


def summary(event: Event) -> str:
    """All of an event's data in one line, what matters most first."""
    keys = [key for key in _FIRST if key in event.data] + [key for key in event.data if key not in _FIRST]
    said = [(key, event.data[key]) for key in keys if event.data[key] not in ("", None)]
    if event.kind == EventKind.ESTATE_CHANGED:  # `target.add` alone does not say which
        said = [(key, f"{value} {event.subject}" if key == "action" else value) for key, value in said]
    return "  ".join(f"{_name(str(key))} {value_text(str(key), value)}" for key, value in said)


def _role(event: Event) -> Role:
    return _MARKS.get(event.kind, ("", Role.PLAIN))[1]


def _said_role(event: Event) -> Role:
    return Role.DIM if event.kind in (EventKind.HOLD_EXTENDED, EventKind.BALANCE_CHANGED) else Role.PLAIN


def _kind(event: Event, _moment: Moment, _width: int) -> Cell:
    mark, role = _MARKS.get(event.kind, ("·", Role.DIM))
    return safe(f"{mark} {event.kind}", role)


def _subject(event: Event, _moment: Moment, width: int) -> Cell:
    shown = event.subject
    if len(shown) == _ULID and width < _ULID:
        shown = f"…{shown[-_SHORT_ID:]}"
    return safe(shown, Role.DIM)


def reject_sentence(reason: str) -> str:
    """What a reject's reason means; empty for one that is not known."""
    code = reason.partition(":")[0]
    return REJECTS[RejectCode(code)][2] if code in tuple(RejectCode) else ""


def _facts(event: Event, _moment: Moment) -> Iterable[Fact]:
    yield "event", safe(event.id)
    yield "at", cell(date_and_time(event.at_ms))
    yield "kind", safe(event.kind, _role(event))
    yield "subject", safe(event.subject)
    for key, value in event.data.items():
        yield safe(_name(str(key)))[0][0], safe(value_text(str(key), value))
    sentence = reject_sentence(str(event.data.get("reason", "")))
    if sentence:
        yield "", cell(sentence, Role.WARN)


def _handles(event: Event, _moment: Moment) -> Handles:
    def text(key: str) -> str:
        value = event.data.get(key)
        return value if isinstance(value, str) else ""

    call = event.subject if event.kind.startswith(("call.", "attempt.", "hold.", "settlement.")) else text("call")
    return Handles(call=call, campaign=text("campaign"), target=text("target").partition("&")[0], seller=text("seller"))


def _rows(floor: Floor) -> Mapping[str, Event]:
    return {event.id: event for event in floor.events}


VIEW: Final = View[Event](
    key="events",
    title="Events",
    table="events",
    empty="Nothing has happened yet.",
    columns=(
        Column(
            "time",
            "TIME",
            lambda e, _m, _w: cell(time_of_day(e.at_ms), Role.DIM),
            lambda e, _m: (e.at_ms, e.id),
            least=8,
            best=8,
        ),
        Column("kind", "EVENT", _kind, lambda e, _m: e.kind, least=18, best=20),
        Column("subject", "SUBJECT", _subject, lambda e, _m: e.subject, least=9, best=10, drop=1),
        Column(
            "what",
            "WHAT",
            lambda e, _m, _w: safe(summary(e), _said_role(e)),
            lambda e, _m: summary(e),
            least=20,
            best=48,
            grow=1,
            most=1_000,
        ),
    ),
    rows=_rows,
    text=lambda e: f"{e.kind} {e.subject} {summary(e)}"[:_LOOKED_THROUGH],
    facts=_facts,
    handles=_handles,
    order="time",
    tail=True,
)
