"""Screen 4: the targets: what they have now, how they have done today, and who rests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from capconduit_cli.tui.cells import NOTHING, Cell, cell, clock, date_and_time, safe
from capconduit_cli.tui.floor import Target
from capconduit_cli.tui.screens.base import Column, Fact, Handles, Moment, View, count_column, text_column
from capconduit_cli.tui.themes import Role

ACTIVE: Final = "active"
_STATES: Final[Mapping[str, tuple[str, Role]]] = {
    "failing": ("▼ failing", Role.BAD),
    "waiting": ("? waiting", Role.WARN),  # rested enough: the next call tries it
    "probing": ("? probing", Role.WARN),  # a call tries it now
}
_PER_CENT: Final = 100
_POOR_ASR: Final = 0.3  # of the calls of today; below it a target is worth a look
_ENOUGH: Final = 5  # calls that an ASR must be of before it is called poor


def rested(target: Target, moment: Moment) -> bool:
    """Whether it is left alone at this moment."""
    return target.rested_until_ms is not None and target.rested_until_ms > moment.now_ms


def _state(target: Target, moment: Moment, _width: int = 0) -> Cell:
    """What the daemon says of it; a rest that has just ended is told by our clock."""
    if rested(target, moment):
        return cell("z resting", Role.WARN)
    if target.status in _STATES:
        return cell(*_STATES[target.status])
    if target.status not in (ACTIVE, "resting", ""):
        return safe(f"■ {target.status}", Role.DIM)
    return cell("▼ failing", Role.BAD) if target.failures else cell("● well", Role.GOOD)


def _rest(target: Target, moment: Moment, _width: int) -> Cell:
    if not rested(target, moment) or target.rested_until_ms is None:
        return NOTHING
    return cell(clock(target.rested_until_ms - moment.now_ms), Role.WARN)


def _asr(target: Target, _moment: Moment, _width: int) -> Cell:
    if target.asr is None:
        return NOTHING
    poor = target.asr < _POOR_ASR and target.calls_today >= _ENOUGH
    return cell(f"{int(target.asr * _PER_CENT)}%", Role.WARN if poor else Role.PLAIN)


def _acd(target: Target, _moment: Moment, _width: int) -> Cell:
    return NOTHING if target.acd_ms is None else cell(clock(target.acd_ms))


def _number(value: int, role: Role = Role.PLAIN) -> Cell:
    return cell(str(value), role) if value else cell("0", Role.DIM)


def _facts(target: Target, moment: Moment) -> Iterable[Fact]:
    yield "target", safe(f"{target.name} ({target.kind})")
    yield "state", _state(target, moment)
    yield "active calls", cell(str(target.active))
    yield "calls today", cell(f"{target.calls_today}, {target.answered_today} answered")
    yield "ASR", _asr(target, moment, 0)
    yield "ACD", _acd(target, moment, 0)
    yield "failures", cell(f"{target.failures} in a row")
    if target.rested_until_ms is not None:
        yield "rested until", cell(date_and_time(target.rested_until_ms))


VIEW: Final = View[Target](
    key="targets",
    title="Targets",
    table="targets",
    empty="No targets: `capconduit target add`.",
    columns=(
        text_column("name", "TARGET", lambda t: t.name, role=Role.STRONG, least=11, best=20, grow=2),
        text_column("kind", "KIND", lambda t: t.kind, role=Role.DIM, least=9, best=9),
        Column("state", "STATE", _state, lambda t, m: _state(t, m)[0][0], least=9, best=12, grow=1, timed=True),
        count_column("active", "ACTIVE", lambda t, _m: t.active, role=Role.STRONG, least=7, best=8),
        count_column("calls", "TODAY", lambda t, _m: t.calls_today, least=6, best=8),
        count_column("answered", "ANSWD", lambda t, _m: t.answered_today, least=6, best=8),
        Column("asr", "ASR", _asr, lambda t, _m: t.asr, least=5, best=6, right=True, descending=True),
        Column("acd", "ACD", _acd, lambda t, _m: t.acd_ms, least=6, best=7, right=True, descending=True),
        count_column("failures", "FAILS", lambda t, _m: t.failures, role=Role.BAD, least=6, best=6),
        Column(
            "rest",
            "RESTS",
            _rest,
            lambda t, m: t.rested_until_ms if rested(t, m) else None,
            least=6,
            best=7,
            right=True,
            timed=True,
        ),
    ),
    rows=lambda floor: floor.targets,
    text=lambda t: " ".join((t.name, t.kind, t.status)),
    facts=_facts,
    handles=lambda t, _m: Handles(target=t.name),
    order="active",
    reverse=True,
)
