"""Which live calls are known to be over although nobody told us. No witness is not "no call"."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from capconduit.domain.model import Call

EXPIRY_GRACE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Listing:
    """A complete list of the channels that live, by uniqueid, asked for at `at_ms`."""

    uniqueids: Collection[str]
    at_ms: int


def orphans(calls: Sequence[Call], earlier: Listing, later: Listing, last_event_ms: Mapping[str, int]) -> list[Call]:
    """Calls that are in neither of two complete lists in a row, began before the first, and had no event in between.

    `last_event_ms` is by uniqueid. Nothing is concluded from lists that are out of order.
    """
    if later.at_ms <= earlier.at_ms:
        return []
    return [
        call
        for call in calls
        if call.decided_ms < earlier.at_ms
        and call.uniqueid not in earlier.uniqueids
        and call.uniqueid not in later.uniqueids
        and last_event_ms.get(call.uniqueid, 0) < earlier.at_ms
    ]


def of_dead_asterisk(calls: Sequence[Call], asterisk_started_ms: int) -> list[Call]:
    """Calls that were decided before the Asterisk of now began: they ended with the one before it."""
    return [call for call in calls if call.decided_ms < asterisk_started_ms]


def last_known_ms(call: Call, seen_ms: int | None) -> int:
    """The last instant at which a call is known to have lived (UTC ms): what was seen of it, kept or not."""
    return max(seen_ms or 0, call.seen_ms, call.answered_ms or 0, call.decided_ms)


def expired(calls: Sequence[Call], holds_until_ms: Mapping[str, int], now_ms: int) -> list[Call]:
    """Calls whose lease has run out and whose funded time has passed for good: Asterisk's own limit has ended them.

    `holds_until_ms` is by call id.
    """
    return [
        call
        for call in calls
        if call.lease_until_ms < now_ms and holds_until_ms.get(call.id, now_ms) + EXPIRY_GRACE_MS < now_ms
    ]
