"""Which live calls are known to be over although nobody told us. No witness is not "no call"."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from capconduit.domain.model import Call

EXPIRY_GRACE_MS = 60_000


def orphans(
    calls: Sequence[Call], earlier: Collection[str], later: Collection[str], moved: Collection[str]
) -> list[Call]:
    """Calls that are in neither of two complete lists in a row, and had no event in between (`moved`); by uniqueid.

    They must have been read before the first list was asked for: no clock says which was first, for it may be set.
    """
    there = {*earlier, *later, *moved}
    return [call for call in calls if call.uniqueid not in there]


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
