"""Screen 2: the caps, the nearest to full first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from capconduit.vocab import CapMetric, CapScope
from capconduit_cli.tui.cells import (
    NOTHING,
    Cell,
    bar,
    cell,
    clock,
    date_and_time,
    fill_role,
    fit_text,
    per_mille,
    quantity,
    safe,
    short_money,
)
from capconduit_cli.tui.floor import Cap
from capconduit_cli.tui.screens.base import Column, Fact, Handles, Moment, View, text_column
from capconduit_cli.tui.themes import Role

_FULL: Final = 1_000
_WINDOWS: Final = ("", "none", "hour", "day", "week", "month", "total")  # the order in which windows are sorted


def fullness(cap: Cap) -> int:
    """Used and in flight, in thousandths of the limit."""
    return per_mille(cap.used + cap.in_flight, cap.limit)


def _full(cap: Cap, _moment: Moment, _width: int) -> Cell:
    thousandths = fullness(cap)
    text = f"{min(thousandths // 10, 999)}%"
    return cell(f"!{text}" if thousandths >= _FULL else text, fill_role(thousandths))


def _window(cap: Cap, _moment: Moment, _width: int) -> Cell:
    """`day`; a rolling window of 30 minutes is `~30m`."""
    return safe(cap.window.replace("rolling:", "~")) if cap.window not in ("", "none") else NOTHING


def _short(value: int, cap: Cap, width: int) -> str:
    """What it counts in a narrow column."""
    match cap.metric:
        case CapMetric.SPEND:
            return short_money(value, width)
        case CapMetric.MINUTES:
            return clock(value)
    return str(value)


def _window_order(cap: Cap, _moment: Moment) -> tuple[int, str]:
    return (_WINDOWS.index(cap.window) if cap.window in _WINDOWS else len(_WINDOWS), cap.window)


def _resets(cap: Cap, moment: Moment, _width: int) -> Cell:
    return NOTHING if cap.resets_ms is None else cell(clock(max(cap.resets_ms - moment.now_ms, 0)), Role.DIM)


def _cap(cap: Cap, moment: Moment, width: int) -> Cell:
    """`campaign solar`; the system has no name."""
    if not cap.subject or cap.subject == cap.scope:
        return safe(cap.scope, Role.STRONG)
    scope = f"{cap.scope} "
    if cap.scope == CapScope.CAMPAIGN:
        return (*safe(scope, Role.DIM), *moment.campaign_cell(cap.subject))
    return (*safe(scope, Role.DIM), *safe(fit_text(cap.subject, width - len(scope)), Role.STRONG))


def _in_unit(value: int, cap: Cap) -> str:
    return (
        f"{quantity(value, cap.metric)} {cap.currency}"
        if cap.metric == CapMetric.SPEND
        else quantity(value, cap.metric)
    )


def _facts(cap: Cap, moment: Moment) -> Iterable[Fact]:
    yield "cap", safe(f"{cap.scope} {cap.subject}".strip())
    yield "counts", safe(cap.metric if cap.window in ("", "none") else f"{cap.metric} a {cap.window}")
    yield "", bar(cap.used, cap.in_flight, cap.limit, 40)
    yield "used", safe(_in_unit(cap.used, cap))
    yield "in flight", safe(_in_unit(cap.in_flight, cap))
    yield "limit", safe(_in_unit(cap.limit, cap))
    yield "free", safe(_in_unit(max(cap.limit - cap.used - cap.in_flight, 0), cap))
    if cap.resets_ms is not None:
        yield "resets", cell(f"{date_and_time(cap.resets_ms)}, in {clock(max(cap.resets_ms - moment.now_ms, 0))}")
    yield "id", safe(cap.id)


def _handles(cap: Cap, _moment: Moment) -> Handles:
    campaign, _, target = cap.subject.partition("/")
    match cap.scope:
        case CapScope.CAMPAIGN:
            return Handles(campaign=cap.subject)
        case CapScope.TARGET:
            return Handles(target=cap.subject)
        case CapScope.SELLER:
            return Handles(seller=cap.subject)
        case CapScope.RULE:
            return Handles(campaign=campaign, target=target)
    return Handles()


VIEW: Final = View[Cap](
    key="caps",
    title="Caps",
    table="caps",
    empty="No caps are set: `capconduit cap set`.",
    columns=(
        Column("cap", "CAP", _cap, lambda c, _m: (c.scope, c.subject), least=20, best=26, grow=1),
        text_column("metric", "METRIC", lambda c: c.metric, least=10, best=10),
        Column("window", "WINDOW", _window, _window_order, least=6, best=8),
        Column(
            "bar",
            "USE",
            lambda c, _m, w: bar(c.used, c.in_flight, c.limit, w),
            lambda c, _m: fullness(c),
            least=8,
            best=12,
            grow=3,
            most=100,
            descending=True,
        ),
        Column("full", "FULL", _full, lambda c, _m: fullness(c), least=5, best=5, right=True, descending=True),
        Column(
            "used",
            "USED",
            lambda c, _m, w: cell(_short(c.used, c, w)),
            lambda c, _m: c.used,
            least=6,
            best=9,
            right=True,
            descending=True,
        ),
        Column(
            "flight",
            "FLY",
            lambda c, _m, w: cell(_short(c.in_flight, c, w)) if c.in_flight else NOTHING,
            lambda c, _m: c.in_flight,
            least=4,
            best=8,
            right=True,
            descending=True,
        ),
        Column(
            "limit",
            "LIMIT",
            lambda c, _m, w: cell(_short(c.limit, c, w)),
            lambda c, _m: c.limit,
            least=6,
            best=9,
            right=True,
            descending=True,
        ),
        Column(
            "currency",
            "CUR",
            lambda c, _m, _w: safe(c.currency if c.metric == CapMetric.SPEND else "", Role.DIM),
            lambda c, _m: c.currency or None,
            least=3,
            best=3,
            drop=2,
        ),
        Column("resets", "RESETS", _resets, lambda c, _m: c.resets_ms, least=6, best=6, right=True, timed=True),
    ),
    rows=lambda floor: floor.caps,
    text=lambda c: " ".join((c.scope, c.subject, c.metric, c.window)),
    facts=_facts,
    handles=_handles,
    order="full",
    reverse=True,
)
