"""Tariffs as they are kept: made from a rate, and written with an attempt so that later changes do not touch it."""

from __future__ import annotations

import json
from functools import lru_cache

from capconduit.domain.model import Rate
from capconduit.domain.rating import Tariff


def tariff_of(rate: Rate, threshold_ms: int = 0) -> Tariff:
    """The numbers of a rate that pricing needs; `threshold_ms` is the campaign's billable threshold."""
    return Tariff(
        connect_fee_micros=rate.connect_fee_micros,
        per_minute_micros=rate.per_minute_micros,
        first_s=rate.first_s,
        step_s=rate.step_s,
        billable_threshold_ms=threshold_ms,
        then_after_s=rate.then_after_s,
        then_per_minute_micros=rate.then_per_minute_micros,
    )


def dump_tariff(tariff: Tariff) -> str:
    """A JSON list in the order of Tariff's fields."""
    return json.dumps(
        [
            tariff.connect_fee_micros,
            tariff.per_minute_micros,
            tariff.first_s,
            tariff.step_s,
            tariff.billable_threshold_ms,
            tariff.then_after_s,
            tariff.then_per_minute_micros,
        ],
        separators=(",", ":"),
    )


@lru_cache(maxsize=1_024)  # an installation has few
def load_tariff(text: str) -> Tariff:
    """The tariff of `dump_tariff`."""
    return Tariff(*json.loads(text))
