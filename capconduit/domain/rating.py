"""What a call costs, and how long an amount of money pays for it. Integer arithmetic only.

A tariff has one price a minute, or two: one for the first `then_after_s` billed seconds, another for those beyond.
"""

from __future__ import annotations

from capconduit.domain.record import value
from capconduit.units import ceil_div, floor_div, seconds_from_ms_ceil

SECONDS_PER_MINUTE = 60


@value
class Tariff:
    """The numbers of a rate that pricing needs, as they stood when the call was admitted; none is negative.

    `then_after_s` 0: one price for the whole call, and `then_per_minute_micros` means nothing. Otherwise billed seconds
    beyond `then_after_s` cost `then_per_minute_micros` a minute; an increment that straddles it is split there.
    """

    connect_fee_micros: int
    per_minute_micros: int
    first_s: int
    step_s: int
    billable_threshold_ms: int = 0
    then_after_s: int = 0
    then_per_minute_micros: int = 0


@value
class Charge:
    """The price of a call. `billable` says whether it reached the threshold; if not, everything is 0."""

    billable: bool
    billed_seconds: int
    price_micros: int


@value
class Funding:
    """Money to reserve, and the seconds of talk that it pays for."""

    hold_micros: int
    funded_s: int


def round_up_to_increment(tariff: Tariff, seconds: int) -> int:
    """Billed seconds of `seconds` of talk: `first_s`, then whole steps."""
    if seconds <= tariff.first_s:
        return tariff.first_s
    return tariff.first_s + ceil_div(seconds - tariff.first_s, tariff.step_s) * tariff.step_s


def price_of_seconds(tariff: Tariff, billed_seconds: int) -> int:
    """Micros of a connected call billed for `billed_seconds`; the minutes' part is rounded up to a whole micro, once.

    Two prices are added before they are rounded: rounding each would charge a micro that nobody used.
    """
    before = min(billed_seconds, tariff.then_after_s)
    beyond = billed_seconds - before
    sixtieths = before * tariff.per_minute_micros + beyond * _last_per_minute_micros(tariff)
    return tariff.connect_fee_micros + ceil_div(sixtieths, SECONDS_PER_MINUTE)


def _last_per_minute_micros(tariff: Tariff) -> int:
    """The price a minute beyond `then_after_s`; where there is one price only, that is all of the call."""
    return tariff.then_per_minute_micros if tariff.then_after_s else tariff.per_minute_micros


def charge(tariff: Tariff, talk_ms: int) -> Charge:
    """The price of an answered call that talked for `talk_ms`. At the threshold exactly, it is billable."""
    if talk_ms < tariff.billable_threshold_ms:
        return Charge(billable=False, billed_seconds=0, price_micros=0)
    billed = round_up_to_increment(tariff, seconds_from_ms_ceil(talk_ms))
    return Charge(billable=True, billed_seconds=billed, price_micros=price_of_seconds(tariff, billed))


def minimum_micros(tariff: Tariff) -> int:
    """The least a call can be admitted with: connect fee and first increment."""
    return price_of_seconds(tariff, tariff.first_s)


def fund(tariff: Tariff, available_micros: int, want_s: int, max_s: int) -> Funding | None:
    """The hold that pays for at least `want_s` seconds, or for as many whole increments as `available_micros` allows.

    Never funds more than `max_s` (the ceiling of the call) rounded up to its increment. A hold that pays for whatever
    may come, because all beyond is free, funds the call to `max_s` at once. The hold is exactly the price of talking
    for `funded_s`. None: not even the first increment can be paid.
    """
    seconds = round_up_to_increment(tariff, min(want_s, max_s))
    hold = price_of_seconds(tariff, seconds)
    if hold > available_micros:
        if minimum_micros(tariff) > available_micros:
            return None
        seconds = _payable_s(tariff, available_micros)
        hold = price_of_seconds(tariff, seconds)
    return Funding(hold_micros=hold, funded_s=max_s if _pays_for_all(tariff, hold) else min(seconds, max_s))


def _payable_s(tariff: Tariff, available_micros: int) -> int:
    """The most billed seconds, in whole increments, that `available_micros` pays for.

    The caller has seen that it pays for the first increment and not for every length of call. So the price that ends
    the payable time is not zero: where money runs out before `then_after_s`, it is the first; else it is the last.
    """
    sixtieths = (available_micros - tariff.connect_fee_micros) * SECONDS_PER_MINUTE
    rest = sixtieths - tariff.then_after_s * tariff.per_minute_micros
    if rest < 0:
        payable = floor_div(sixtieths, tariff.per_minute_micros)
    else:
        payable = tariff.then_after_s + floor_div(rest, _last_per_minute_micros(tariff))
    return tariff.first_s + floor_div(payable - tariff.first_s, tariff.step_s) * tariff.step_s


def _pays_for_all(tariff: Tariff, hold_micros: int) -> bool:
    """Whether the price of no call, however long, is above `hold_micros`: the last price is zero and the first paid."""
    return _last_per_minute_micros(tariff) == 0 and hold_micros >= price_of_seconds(tariff, tariff.then_after_s)
