"""Keeping the sums of settled calls: summing what is not summed yet, and proving that what is kept is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.domain.rollups import DAY_MS, QUARTER_MS, SUM_COLUMNS, Rollup
from capconduit.services.office import Office
from capconduit.store.store import Store
from capconduit.vocab import RollupGrain

SETTLING_MS: Final = 900_000  # after its end a quarter hour is left alone, as most of its calls have not ended yet
CALLS_AT_ONCE: Final = 2_000  # of which the records are summed in one go
DRIFTS: Final = 1_000  # that a check tells of at most

_NAMED: Final = ("kind", "bucket_ms", "grain", "seller_id", "campaign_id", "subject", "currency", "reject_reason")


@dataclass(frozen=True, slots=True)
class RollupDrift:
    """A sum that is not that of the records: `what` names the row and the column."""

    bucket_ms: int
    what: str
    kept: int
    summed: int


def roll_up(store: Store, tenant_id: str, now_ms: int, since_ms: int = 0) -> Iterator[int]:
    """Sum the quarter hours that are over and lack calls, the oldest first, and then days, in small transactions.

    Looks at those from the day of `since_ms` on. Yields after each how many calls it has summed, for the caller to
    rest. Raises DatabaseError.
    """
    with store.transaction(write=False) as tx:
        reads = tx.rollups()
        extent = reads.extent(tenant_id)
        over_ms = (now_ms - SETTLING_MS) // QUARTER_MS * QUARTER_MS
        from_ms = max(extent[0] if extent else 0, since_ms) // DAY_MS * DAY_MS
        stale = reads.stale(tenant_id, from_ms, min(extent[1], over_ms)) if extent else []
    first = 0
    while first < len(stale):
        beyond, calls = first, 0
        while (
            beyond < len(stale)
            and calls < CALLS_AT_ONCE
            and stale[beyond].bucket_ms - stale[first].bucket_ms < DAY_MS
            and (beyond == first or stale[beyond].bucket_ms == stale[beyond - 1].bucket_ms + QUARTER_MS)
        ):
            calls += stale[beyond].found
            beyond += 1
        until_ms = stale[beyond - 1].bucket_ms + QUARTER_MS
        _roll(store, tenant_id, stale[first].bucket_ms, until_ms, RollupGrain.QUARTER)
        yield calls
        first = beyond
    if extent:
        yield from _roll_days(store, tenant_id, from_ms, over_ms // DAY_MS * DAY_MS)


def _roll_days(store: Store, tenant_id: str, from_ms: int, until_ms: int) -> Iterator[int]:
    """Sum the days that lack calls; yields after each."""
    with store.transaction(write=False) as tx:
        days = [day.bucket_ms for day in tx.rollups().days(tenant_id, from_ms, until_ms) if day.is_stale]
    for day_ms in days:
        _roll(store, tenant_id, day_ms, day_ms + DAY_MS, RollupGrain.DAY)
        yield 0


def roll_up_all(store: Store, now_ms: int, since_ms: int = 0) -> Iterator[int]:
    """The same for all tenants."""
    with store.transaction(write=False) as tx:
        tenants = [tenant.id for tenant in tx.tenants()]
    for tenant_id in tenants:
        yield from roll_up(store, tenant_id, now_ms, since_ms)


def _roll(store: Store, tenant_id: str, from_ms: int, until_ms: int, grain: RollupGrain) -> None:
    with store.transaction(write=False) as tx:
        rows, names = tx.rollups().fresh_rows(tenant_id, from_ms, until_ms, grain)
    store.run(lambda tx: tx.rollups().put(tenant_id, rows, names))


def verify_rollups(office: Office) -> Sequence[RollupDrift]:
    """Sums that are not those of the records, in all quarter hours that claim to be complete; empty where all is well.

    Reads every record there is. Of quarter hours that were pruned nothing is left to compare with.
    """
    drifts: list[RollupDrift] = []
    tenant_id = office.read(lambda desk: desk.tenant_id)
    extent = office.read(lambda desk: desk.tx.rollups().extent(tenant_id))
    if extent is None:
        return []
    first, last = extent[0] // DAY_MS * DAY_MS, -(-extent[1] // DAY_MS) * DAY_MS
    days = office.read(lambda desk: desk.tx.rollups().days(tenant_id, first, last))
    for day in days:
        if day.found and len(drifts) < DRIFTS:
            drifts += _compared(office, tenant_id, day.bucket_ms)
    return drifts[:DRIFTS]


def _compared(office: Office, tenant_id: str, day_ms: int) -> list[RollupDrift]:
    """What differs in a day and its quarter hours."""
    drifts: list[RollupDrift] = []
    with office.store.transaction(write=False) as tx:
        reads = tx.rollups()
        whole = [day.bucket_ms for day in reads.days(tenant_id, day_ms, day_ms + DAY_MS) if 0 < day.found == day.kept]
        complete = {same.bucket_ms for same in reads.equal(tenant_id, day_ms, day_ms + DAY_MS)}
        for grain, buckets in ((RollupGrain.QUARTER, complete), (RollupGrain.DAY, set(whole))):
            if buckets:
                kept = reads.rolled_rows(tenant_id, day_ms, day_ms + DAY_MS, grain)
                summed = reads.fresh_rows(tenant_id, day_ms, day_ms + DAY_MS, grain)[0]
                drifts += _differences(kept, summed, buckets)
    return drifts


def _differences(kept: Sequence[Rollup], summed: Sequence[Rollup], buckets: set[int]) -> Iterator[RollupDrift]:
    ours, theirs = _by_name(kept), _by_name(summed)
    for name in sorted(ours.keys() | theirs.keys()):
        for column in SUM_COLUMNS:
            was, is_ = (getattr(rows.get(name), column, 0) for rows in (ours, theirs))
            if was != is_ and int(name[1]) in buckets:
                words = " ".join(str(part) for part in (name[0], *name[2:]) if part)
                yield RollupDrift(int(name[1]), f"{words}: {column}", was, is_)


def _by_name(rows: Sequence[Rollup]) -> dict[tuple[str | int, ...], Rollup]:
    return {tuple(getattr(row, name) for name in _NAMED): row for row in rows}
