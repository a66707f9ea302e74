"""Rates: what sellers pay, and what targets are paid."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from capconduit.domain.model import Rate, Seller
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.sellers import check_currency
from capconduit.units import MS_PER_SECOND, format_micros, format_span

MAX_INCREMENT_S: Final = 86_400
MAX_THEN_AFTER_S: Final = 86_400
# A minute, or being connected at all. With it the dearest call, two days in one increment, is far below 64 bits.
MAX_PRICE_MICROS: Final = 10**15
NO_NAME: Final = "none"  # on the command line it takes a rate or a schedule away, so nothing may be called so
_INCREMENT = re.compile(r"^([0-9]{1,5})/([0-9]{1,5})$")


def parse_increment(text: str) -> tuple[int, int]:
    """`60/60`, `30/6`: seconds of the first and of each further increment. Raises UsageError."""
    match = _INCREMENT.match(text.strip())
    first_s, step_s = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= first_s <= MAX_INCREMENT_S and 1 <= step_s <= MAX_INCREMENT_S):
        raise UsageError("increment-invalid", f"{text!r} is no increment", "write it like 60/60, 30/6 or 1/1 (seconds)")
    return first_s, step_s


def check_not_none(noun: str, name: str) -> str:
    """A name that is not the word for nothing. Raises UsageError."""
    if name.lower() == NO_NAME:
        raise UsageError("name-reserved", f"{name!r} means that there is no {noun}", "choose another name")
    return name


def check_price(what: str, micros: int) -> int:
    """A price of a minute, or of being connected. Raises UsageError."""
    if not 0 <= micros <= MAX_PRICE_MICROS:
        most = format_micros(MAX_PRICE_MICROS)
        raise UsageError("amount-invalid", f"{format_micros(micros)} is no {what}", f"give 0 to {most}")
    return micros


def check_then_after(after_ms: int) -> int:
    """Seconds after which the second price begins. Raises UsageError."""
    after_s, rest_ms = divmod(after_ms, MS_PER_SECOND)
    if rest_ms or not 1 <= after_s <= MAX_THEN_AFTER_S:
        raise UsageError(
            "then-after-invalid",
            f"a second price cannot begin after {format_span(after_ms)}",
            f"give whole seconds, 1s to {MAX_THEN_AFTER_S}s",
        )
    return after_s


def add_rate(
    office: Office,
    name: str,
    *,
    per_minute_micros: int,
    connect_fee_micros: int = 0,
    increment: str = "60/60",
    currency: str = "USD",
    then_per_minute_micros: int | None = None,
    then_after_ms: int | None = None,
) -> Rate:
    """A new rate. With a second step, the seconds billed beyond `then_after_ms` cost `then_per_minute_micros` a minute.

    Raises UsageError, Refused.
    """
    check_not_none("rate", check_name("rate", name))
    first_s, step_s = parse_increment(increment)
    code = check_currency(currency)
    check_price("price of a minute", per_minute_micros)
    check_price("connect fee", connect_fee_micros)
    second = _second_step(name, 0, then_per_minute_micros, then_after_ms)

    def work(desk: Desk) -> Rate:
        rate = Rate(
            **desk.stamp(),
            name=name,
            currency=code,
            connect_fee_micros=connect_fee_micros,
            per_minute_micros=per_minute_micros,
            first_s=first_s,
            step_s=step_s,
            **({"then_after_s": 0, "then_per_minute_micros": 0} | second),
        )
        desk.add("rate", rate)
        return rate

    return office.change(work)


def _second_step(name: str, known_s: int, price_micros: int | None, after_ms: int | None) -> dict[str, Any]:
    """What is to be changed of a rate's second step; one that has none (`known_s` 0) gets both or nothing."""
    changed: dict[str, Any] = {}
    if price_micros is not None:
        changed["then_per_minute_micros"] = check_price("price of a minute", price_micros)
    if after_ms is not None:
        changed["then_after_s"] = check_then_after(after_ms)
    if changed and not known_s and len(changed) == 1:
        missing = "after how long" if "then_after_s" not in changed else "to which price"
        raise UsageError(
            "second-step-incomplete",
            f"{missing} does the second step of rate {name!r} begin?",
            "give both, like --then 0.10 --then-after 60s",
        )
    return changed


def list_rates(office: Office) -> Sequence[Rate]:
    """All rates by name."""
    return office.read(lambda desk: sorted(desk.tx.rows(Rate, desk.tenant_id), key=lambda r: r.name))


def show_rate(office: Office, name: str) -> Rate:
    """One rate. Raises NotFound."""
    return office.read(lambda desk: desk.named(Rate, name))


def set_rate(
    office: Office,
    name: str,
    *,
    increment: str | None = None,
    then_per_minute_micros: int | None = None,
    then_after_ms: int | None = None,
    one_price: bool = False,
    **fields: Any,
) -> Rate:
    """Change `per_minute_micros`, `connect_fee_micros`, the increment or the second step (`one_price` takes it away);
    live calls keep what they began with."""
    for field, micros in fields.items():
        check_price(field.removesuffix("_micros").replace("_", " "), micros)
    if increment is not None:
        fields["first_s"], fields["step_s"] = parse_increment(increment)
    if one_price:
        if then_per_minute_micros is not None or then_after_ms is not None:
            raise UsageError(
                "second-step-conflict", f"rate {name!r} cannot have one price and two", "leave --then-after out"
            )
        fields |= {"then_after_s": 0, "then_per_minute_micros": 0}

    def work(desk: Desk) -> Rate:
        rate = desk.named(Rate, name)
        second = _second_step(name, rate.then_after_s, then_per_minute_micros, then_after_ms)
        changed = replace(rate, **fields, **second, updated_ms=desk.now_ms)
        desk.change("rate", rate, changed)
        return changed

    return office.change(work)


def remove_rate(office: Office, name: str) -> None:
    """Remove a rate that no campaign, target or rule uses. Raises NotFound, Refused."""
    office.change(
        lambda desk: desk.remove(
            "rate", desk.named(Rate, name), "give the campaigns, targets and rules that use it another rate first"
        )
    )


def rate_or_none(desk: Desk, name: str) -> Rate | None:
    """The rate of that name; None for an empty one. Raises NotFound."""
    return desk.named(Rate, name) if name else None


def check_same_currency(seller: Seller, rate: Rate | None, *, hint: str = "") -> None:
    """A rate is in the currency of the seller whose calls it prices. Raises Refused."""
    if rate is not None and seller.currency != rate.currency:
        raise Refused(
            "currency-mismatch",
            f"seller {seller.name!r} is kept in {seller.currency}, rate {rate.name!r} in {rate.currency}",
            hint or f"use a rate in {seller.currency}",
        )
