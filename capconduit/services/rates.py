"""Rates: what sellers pay."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from capconduit.domain.model import Rate
from capconduit.errors import UsageError
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.sellers import check_amounts, check_currency

MAX_INCREMENT_S = 86_400
_INCREMENT = re.compile(r"^(\d{1,5})/(\d{1,5})$")


def parse_increment(text: str) -> tuple[int, int]:
    """`60/60`, `30/6`: seconds of the first and of each further increment. Raises UsageError."""
    match = _INCREMENT.match(text.strip())
    first_s, step_s = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= first_s <= MAX_INCREMENT_S and 1 <= step_s <= MAX_INCREMENT_S):
        raise UsageError("increment-invalid", f"{text!r} is no increment", "write it like 60/60, 30/6 or 1/1 (seconds)")
    return first_s, step_s


def add_rate(
    office: Office,
    name: str,
    *,
    per_minute_micros: int,
    connect_fee_micros: int = 0,
    increment: str = "60/60",
    currency: str = "USD",
) -> Rate:
    """A new rate. Raises UsageError, Refused."""
    check_name("rate", name)
    first_s, step_s = parse_increment(increment)
    code = check_currency(currency)
    check_amounts({"per_minute_micros": per_minute_micros, "connect_fee_micros": connect_fee_micros})

    def work(desk: Desk) -> Rate:
        rate = Rate(
            **desk.stamp(),
            name=name,
            currency=code,
            connect_fee_micros=connect_fee_micros,
            per_minute_micros=per_minute_micros,
            first_s=first_s,
            step_s=step_s,
            then_after_s=0,
            then_per_minute_micros=0,
        )
        desk.add("rate", rate)
        return rate

    return office.change(work)


def list_rates(office: Office) -> Sequence[Rate]:
    """All rates by name."""
    return office.read(lambda desk: sorted(desk.tx.rows(Rate, desk.tenant_id), key=lambda r: r.name))


def show_rate(office: Office, name: str) -> Rate:
    """One rate. Raises NotFound."""
    return office.read(lambda desk: desk.named(Rate, name))


def set_rate(office: Office, name: str, *, increment: str | None = None, **fields: Any) -> Rate:
    """Change `per_minute_micros`, `connect_fee_micros` or the increment; live calls keep what they began with."""
    check_amounts(fields)
    if increment is not None:
        fields["first_s"], fields["step_s"] = parse_increment(increment)

    def work(desk: Desk) -> Rate:
        rate = desk.named(Rate, name)
        changed = replace(rate, **fields, updated_ms=desk.now_ms)
        desk.change("rate", rate, changed)
        return changed

    return office.change(work)


def remove_rate(office: Office, name: str) -> None:
    """Remove a rate that no campaign uses. Raises NotFound, Refused."""
    office.change(lambda desk: desk.remove("rate", desk.named(Rate, name), "give its campaigns another rate first"))
