"""What a call costs, and how long an amount of money pays for it. Integer arithmetic only."""

from __future__ import annotations

from dataclasses import dataclass

from capconduit.units import ceil_div, floor_div, seconds_from_ms_ceil

SECONDS_PER_MINUTE = 60


@dataclass(frozen=True, slots=True)
class Tariff:
    """The numbers of a rate that pricing needs, as they stood when the call was admitted."""

    connect_fee_micros: int
    per_minute_micros: int
    first_s: int
    step_s: int
    billable_threshold_ms: int = 0


@dataclass(frozen=True, slots=True)
class Charge:
    """The price of a call. `billable` says whether it reached the threshold; if not, everything is 0."""

    billable: bool
    billed_seconds: int
    price_micros: int


@dataclass(frozen=True, slots=True)
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
    """Micros of a connected call billed for `billed_seconds`; the minute's part is rounded up to a whole micro."""
    return tariff.connect_fee_micros + ceil_div(billed_seconds * tariff.per_minute_micros, SECONDS_PER_MINUTE)


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

    Never funds more than `max_s` (the ceiling of the call) rounded up to its increment. None: not even the first
    increment can be paid.
    """
    wanted = round_up_to_increment(tariff, min(want_s, max_s))
    full = price_of_seconds(tariff, wanted)
    if full <= available_micros:
        return Funding(hold_micros=full, funded_s=min(wanted, max_s) if tariff.per_minute_micros else max_s)
    if minimum_micros(tariff) > available_micros:
        return None
    # per_minute > 0 here: with a price of zero the whole want costs no more than the minimum.
    payable = floor_div((available_micros - tariff.connect_fee_micros) * SECONDS_PER_MINUTE, tariff.per_minute_micros)
    seconds = tariff.first_s + floor_div(payable - tariff.first_s, tariff.step_s) * tariff.step_s
    return Funding(hold_micros=price_of_seconds(tariff, seconds), funded_s=min(seconds, max_s))
