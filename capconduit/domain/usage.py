"""How much of a cap is used, and what it leaves: the counting side of decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from capconduit.domain.books import CallerKey, CounterKey
from capconduit.domain.estate import Estate, ZonedCap
from capconduit.domain.estate import window_text as window_text  # it is known by this name
from capconduit.domain.model import Account, Counter, Place, RecentCaller, TargetState
from capconduit.domain.record import replace
from capconduit.domain.windows import window_end_ms, window_start_ms
from capconduit.vocab import CapMetric, PlaceState

UNLIMITED = 1 << 62


class Usage(Protocol):
    """What is used, as a decision reads it."""

    def account(self, seller_id: str) -> Account:
        """The seller's account."""
        ...

    def counter(self, tenant_id: str, key: CounterKey) -> Counter:
        """The counter of a cap's window."""
        ...

    def looking_back(self, cap_id: str, after_ms: int, until_ms: int) -> tuple[int, int]:
        """(used, in flight) of a cap that looks back."""
        ...

    def buckets_between(self, cap_id: str, after_ms: int, until_ms: int) -> list[tuple[int, int]]:
        """(start, used and in flight) of the buckets that begin in (after, until], in their order."""
        ...

    def target(self, tenant_id: str, target_id: str) -> TargetState:
        """What a target has been through."""
        ...

    def cursor(self, rule_id: str) -> int:
        """Where a rule stands in its campaign's rotation."""
        ...

    def recent_caller(self, key: CallerKey) -> RecentCaller | None:
        """The last call of a caller in a campaign."""
        ...


def counter_key(zoned: ZonedCap, now_ms: int) -> CounterKey:
    """The counter of the window, or of the bucket, of a cap that `now_ms` lies in."""
    from_ms, until_ms, key = zoned.recent[0]
    if not from_ms <= now_ms < until_ms:
        from_ms, until_ms = _window_ms(zoned, now_ms)
        key = zoned.cap.id, from_ms
        zoned.recent[0] = from_ms, until_ms, key
    return key


def _window_ms(zoned: ZonedCap, now_ms: int) -> tuple[int, int]:
    """Start and end of the window, or of the bucket, of a cap."""
    if zoned.bucket_ms:
        start_ms = now_ms // zoned.bucket_ms * zoned.bucket_ms
        return start_ms, start_ms + zoned.bucket_ms
    kind = zoned.cap.window_kind
    return window_start_ms(kind, now_ms, zoned.zone), window_end_ms(kind, now_ms, zoned.zone)


def taken(zoned: ZonedCap, key: CounterKey, usage: Usage, now_ms: int) -> tuple[int, int]:
    """(used, in flight) of a cap now, or of the window that `key` names.

    One that looks back counts every bucket of which any part lies in the window that ends now; and those that a clock
    set back has left in the future, as far as the window is long.
    """
    if zoned.bucket_ms:
        after_ms = now_ms - zoned.rolling_ms - zoned.bucket_ms
        return usage.looking_back(zoned.cap.id, after_ms, now_ms + zoned.rolling_ms)
    counter = usage.counter(zoned.cap.tenant_id, key)
    return counter.used, counter.in_flight


def left(zoned: ZonedCap, key: CounterKey, usage: Usage) -> int:
    """What a cap still lets through for a call that has its place in the window of `key`: calls, seconds or micros.

    Negative where the cap was lowered below its use. One that looks back leaves what the fullest window leaves of all
    that the call's bucket lies in: those around its admission, not the one that ends now.
    """
    if zoned.bucket_ms:
        return zoned.cap.limit_value - _fullest(zoned, key[1], usage)
    counter = usage.counter(zoned.cap.tenant_id, key)
    return zoned.cap.limit_value - counter.used - counter.in_flight


def _fullest(zoned: ZonedCap, at_ms: int, usage: Usage) -> int:
    """The most that any window which touches the bucket at `at_ms` holds."""
    span_ms = zoned.rolling_ms + zoned.bucket_ms
    known = dict(usage.buckets_between(zoned.cap.id, at_ms - span_ms, at_ms + span_ms - 1))
    counts = sorted({at_ms: 0, **known}.items())
    most = held = oldest = 0
    for start, count in counts:
        held += count
        while counts[oldest][0] <= start - span_ms:
            held -= counts[oldest][1]
            oldest += 1
        if start >= at_ms:
            most = max(most, held)
    return most


@dataclass(slots=True)
class Room:
    """What caps by minutes and spend leave for one call: seconds of talk and micros."""

    seconds: int = UNLIMITED
    micros: int = UNLIMITED

    def narrow(self, metric: CapMetric, free: int) -> None:
        """Take one more cap into account."""
        if metric is CapMetric.MINUTES:
            self.seconds = min(self.seconds, free)
        elif metric is CapMetric.SPEND:
            self.micros = min(self.micros, free)

    def copy(self) -> Room:
        """The same room, to be narrowed on its own."""
        return Room(self.seconds, self.micros)


def amount_of(metric: CapMetric, funded_s: int, hold_micros: int) -> int:
    """What a call reserves of a cap: a call, or what its funding covers."""
    if metric is CapMetric.MINUTES:
        return funded_s
    if metric is CapMetric.SPEND:
        return hold_micros
    return 1


def room_around(places: Iterable[Place], estate: Estate, usage: Usage) -> Room:
    """What caps leave for a call under way, its own `places` in them included. A cap that is gone leaves all."""
    room = Room()
    for place in places:
        zoned = estate.caps.get(place.cap_id)
        if zoned is not None and zoned.reserves:
            key = (place.cap_id, place.window_start_ms)
            room.narrow(zoned.cap.metric, place.amount + max(left(zoned, key, usage), 0))
    return room


def resized(
    places: Iterable[Place], estate: Estate, funded_s: int, hold_micros: int, legs: Mapping[int, int]
) -> list[Place]:
    """The places of a call in caps by minutes and spend, when its funding has changed; those that changed.

    `legs` are what the attempts that are under way may cost of the hold, each at its own prices.
    """
    changed = []
    for place in places:
        zoned = estate.caps.get(place.cap_id)
        if zoned is None or not zoned.reserves or place.state is PlaceState.RELEASED:
            continue
        amount = amount_of(zoned.cap.metric, funded_s, legs.get(place.attempt, hold_micros))
        if amount != place.amount:
            changed.append(replace(place, amount=amount))
    return changed
