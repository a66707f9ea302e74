"""Screen 1: the calls that are up or on their way to a target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from capconduit.units import format_micros
from capconduit_cli.tui.cells import NOTHING, Cell, cell, clock, date_and_time, safe, short_money
from capconduit_cli.tui.floor import Call
from capconduit_cli.tui.screens.base import Column, Fact, Handles, Moment, View, text_column
from capconduit_cli.tui.themes import Role

UP: Final = "up"
_NAME_ROOM: Final = 4  # a blank and the beginning of a name
SOON_MS: Final = 30_000  # the money of a call that is funded no longer than this is running out
_STATES: Final[Mapping[str, tuple[str, Role]]] = {
    "held": ("· new", Role.DIM),
    "dialing": ("~ ring", Role.INFO),
    UP: ("● up", Role.GOOD),
}


def _state(call: Call, _moment: Moment, width: int) -> Cell:
    if call.state not in _STATES:
        return safe(call.state)
    text, role = _STATES[call.state]
    return cell(text if width >= len(text) else text[2:], role)


def _talk(call: Call, moment: Moment, _width: int) -> Cell:
    return NOTHING if call.answered_ms is None else cell(clock(call.talk_ms(moment.now_ms)))


def _wait(call: Call, moment: Moment, _width: int) -> Cell:
    """From the arrival to the answer, or to now."""
    until = moment.now_ms if call.answered_ms is None else call.answered_ms
    return cell(clock(max(until - call.arrived_ms, 0)), Role.DIM)


def _cost(call: Call, moment: Moment, width: int) -> Cell:
    return NOTHING if call.answered_ms is None else cell(short_money(call.cost_micros(moment.now_ms), width))


def funded_left_ms(call: Call, moment: Moment) -> int | None:
    """How long its money lasts; None before the answer."""
    return None if call.funded_until_ms is None else call.funded_until_ms - moment.now_ms


def _funded(call: Call, moment: Moment, _width: int) -> Cell:
    left = funded_left_ms(call, moment)
    if left is None:
        return cell(clock(call.funded_s * 1_000), Role.DIM)
    return cell(clock(left), Role.BAD if left <= 0 else Role.WARN if left <= SOON_MS else Role.PLAIN)


def _caller(call: Call) -> str:
    return f"{call.caller} {call.caller_name}" if call.caller_name and call.caller_name != call.caller else call.caller


def _caller_cell(call: Call, _moment: Moment, width: int) -> Cell:
    """The number, and the name where at least the beginning of it has room."""
    return safe(_caller(call) if width >= len(call.caller) + _NAME_ROOM else call.caller)


def _facts(call: Call, moment: Moment) -> Iterable[Fact]:
    cost = call.cost_micros(moment.now_ms)
    yield "call", safe(call.id)
    yield "state", safe(f"{call.state}, attempt {call.attempt}" if call.attempt else call.state)
    yield "number", safe(f"{call.did}  over trunk {call.trunk}" if call.trunk else call.did)
    yield "caller", safe(_caller(call))
    yield "seller", safe(call.seller)
    yield "campaign", safe(call.campaign)
    yield "target", safe(call.target) if call.target else NOTHING
    yield "arrived", cell(date_and_time(call.arrived_ms))
    yield "answered", cell(date_and_time(call.answered_ms)) if call.answered_ms is not None else NOTHING
    yield "talk", _talk(call, moment, 0)
    yield "cost so far", safe(f"{format_micros(cost, trim=True)} {call.currency}")
    held = f"{format_micros(call.held_micros, trim=True)} {call.currency}"
    yield "held", safe(f"{held}, pays for {clock(call.funded_s * 1_000)}")
    if call.funded_until_ms is not None:
        yield "funded until", cell(date_and_time(call.funded_until_ms))
    yield "node", safe(call.node)


VIEW: Final = View[Call](
    key="calls",
    title="Calls",
    table="calls",
    empty="No call is up.",
    columns=(
        Column("state", "STATE", _state, lambda c, _m: c.state, least=4, best=6),
        text_column("did", "DID", lambda c: c.did, least=12, best=13),
        Column(
            "caller",
            "CALLER",
            _caller_cell,
            lambda c, _m: _caller(c),
            least=12,
            best=24,
            grow=3,
            most=60,
        ),
        text_column("seller", "SELLER", lambda c: c.seller, least=5, best=12, grow=1),
        Column(
            "campaign",
            "CAMPAIGN",
            lambda c, m, _w: m.campaign_cell(c.campaign),
            lambda c, _m: c.campaign or None,
            least=8,
            best=14,
            grow=1,
        ),
        text_column("target", "TARGET", lambda c: c.target, least=8, best=14, grow=1),
        Column(
            "talk",
            "TALK",
            _talk,
            lambda c, _m: None if c.answered_ms is None else -c.answered_ms,
            least=5,
            best=6,
            right=True,
            timed=True,
            descending=True,
        ),
        Column(
            "cost",
            "COST",
            _cost,
            lambda c, m: None if c.answered_ms is None else c.cost_micros(m.now_ms),
            least=6,
            best=9,
            right=True,
            timed=True,
            descending=True,
        ),
        text_column("currency", "CUR", lambda c: c.currency, role=Role.DIM, least=3, best=3, drop=5),
        Column("funded", "FUNDED", _funded, funded_left_ms, least=6, best=6, right=True, timed=True),
        Column(
            "wait",
            "WAIT",
            _wait,
            lambda c, m: (m.now_ms if c.answered_ms is None else c.answered_ms) - c.arrived_ms,
            least=5,
            best=6,
            right=True,
            timed=True,
            descending=True,
            drop=7,
        ),
        Column(
            "attempt",
            "TRY",
            lambda c, _m, _w: cell(str(c.attempt or "–"), Role.DIM),
            lambda c, _m: c.attempt,
            least=3,
            best=3,
            right=True,
            descending=True,
            drop=6,
        ),
        text_column("trunk", "TRUNK", lambda c: c.trunk, role=Role.DIM, least=7, best=10, drop=8),
        Column(
            "age",
            "ARRIVED",
            lambda c, _m, _w: cell(date_and_time(c.arrived_ms)[11:19], Role.DIM),
            lambda c, _m: c.arrived_ms,
            least=8,
            best=8,
            descending=True,
            drop=9,
        ),
        text_column("node", "NODE", lambda c: c.node, least=5, best=8, shown=lambda m: m.several_nodes),
    ),
    rows=lambda floor: floor.calls,
    text=lambda c: " ".join(
        (c.id, c.state, c.did, c.caller, c.caller_name, c.seller, c.campaign, c.target, c.trunk, c.node)
    ),
    facts=_facts,
    handles=lambda c, _m: Handles(call=c.id, campaign=c.campaign, target=c.target.partition("&")[0], seller=c.seller),
    order="talk",
    reverse=True,
)
