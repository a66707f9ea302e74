"""A picture of the floor in a few lines: live calls, the fullest caps, the emptiest accounts, targets not well.

A picture of another version is shown as far as it is understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from capconduit.units import MICROS_PER_UNIT, format_micros
from capconduit.vocab import CapMetric

SHOWN: Final = 3  # of each
FULL_SHARE: Final = Decimal("0.8")  # a cap that is less full matters less

Object = Mapping[str, Any]


def glance(picture: Object) -> Iterator[str]:
    """Lines, none for what there is nothing to say of."""
    if not isinstance(picture.get("calls"), list):
        return
    calls = _objects(picture, "calls")
    up = sum(call.get("state") == "up" for call in calls)
    nodes = {call.get("node") for call in calls}
    yield f"floor     {up} up, {len(calls) - up} dialing" + (f", on {len(nodes)} nodes" if len(nodes) > 1 else "")
    lead = "caps"
    for share, cap in _fullest(_objects(picture, "caps")):
        used, in_flight, limit = (
            _amount(cap.get(name)) if cap.get("metric") == CapMetric.SPEND else cap.get(name)
            for name in ("used", "in_flight", "limit")
        )
        taken = f"{used} used, {in_flight} in flight of {limit}"
        window = "" if cap.get("window") in ("none", None) else f"/{cap.get('window')}"
        what = f"{cap.get('scope')} {cap.get('subject')} {cap.get('metric')}{window}"
        yield f"{lead:10}{int(share * 100)} % {what}: {taken}"
        lead = ""
    lead = "money"
    for balance in _emptiest(_objects(picture, "balances")):
        empty = f", empty at {balance['empty_at']}" if balance.get("empty_at") else ""
        left = f"{_amount(balance.get('available'))} {balance.get('currency')}"
        yield f"{lead:10}{balance.get('seller')} {left} available{empty}"
        lead = ""
    lead = "targets"
    for target in [t for t in _objects(picture, "targets") if t.get("status") not in ("active", "paused")][:SHOWN]:
        until = f" until {target['rested_until']}" if target.get("rested_until") else ""
        yield f"{lead:10}{target.get('name')} {target.get('status')}{until}, {target.get('failures')} failures in a row"
        lead = ""


def _objects(picture: Object, name: str) -> list[Object]:
    found = picture.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _number(value: object) -> Decimal:
    with suppress(InvalidOperation):
        return Decimal(str(value))
    return Decimal(0)


def _amount(value: object) -> str:
    """Money as people read it, `9.40`."""
    return format_micros(int(_number(value) * MICROS_PER_UNIT), trim=True)


def _fullest(caps: list[Object]) -> list[tuple[Decimal, Object]]:
    """Caps that are nearly full, the fullest first; those that are closed (0) are meant to be."""
    shares = []
    for cap in caps:
        limit = _number(cap.get("limit"))
        if limit > 0:
            share = (_number(cap.get("used")) + _number(cap.get("in_flight"))) / limit
            if share >= FULL_SHARE:
                shares.append((share, cap))
    return sorted(shares, key=lambda pair: -pair[0])[:SHOWN]


def _emptiest(balances: list[Object]) -> list[Object]:
    """Accounts that are low, or will be empty soon: those that burn first."""
    low = [b for b in balances if _number(b.get("available")) <= _number(b.get("low_balance")) or b.get("empty_at")]
    return sorted(low, key=lambda b: (b.get("empty_at") or "~", _number(b.get("available"))))[:SHOWN]
