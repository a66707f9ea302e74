"""Growth: months made in time, what nobody needs any more taken away, and the move to another database.

Pruning changes no balance and no count: the ledger is kept for ever, a live call is left alone, and what places counted
stays in their counters. It goes in small transactions, and whoever prunes rests between them, so that decisions wait a
few milliseconds at most. Where months have tables of their own, the daemon drops whole months, which costs next to
nothing and keeps a record up to a month longer than the settings say; `exact` takes away the rest of a month, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from capconduit.clock import Clock
from capconduit.domain.estate import Estate
from capconduit.domain.model import Attempt, Cdr, Counter, Event, Hold, Node, Place, RecentCaller, Tombstone
from capconduit.domain.settings import Settings
from capconduit.domain.windows import window_start_ms
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.ids import ulid
from capconduit.services.balances import Drift, verify_balances
from capconduit.services.caps import CapDrift, verify_caps
from capconduit.services.office import Office
from capconduit.services.retention import Archive, Archived, drop
from capconduit.services.rollups import roll_up_all
from capconduit.services.setup import tenant_names
from capconduit.store import archiving
from capconduit.store.copying import Copied, Tell, copy_everything
from capconduit.store.sqlstore import SqlStore
from capconduit.store.store import Outdated, Store
from capconduit.units import format_instant
from capconduit.vocab import CapMetric, WindowKind

DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
# A new cap counts its past from the records: a month, or the longest rolling window. Decisions look back 35 days.
CDR_DAYS_LEAST: Final = 40
TOMBSTONE_DAYS: Final = 2  # a route comes seconds after its end, if at all
CALLER_SLACK_MS: Final = DAY_MS  # beyond the longest duplicate window, for clocks that differ and windows made longer
COUNTER_DAYS: Final = 40  # a calendar window is over then, in any zone and whatever happened to its zone
LOOKING_BACK_SLACK_MS: Final = DAY_MS  # beyond a rolling window and its bucket
ROWS_AT_ONCE: Final = 500  # looked at in one transaction that only reads
CALLS_AT_ONCE: Final = 50  # deleted in one that writes: calls with all their rows, or rows of what belongs to no call
REST_S: Final = 0.01  # between two transactions
ARCHIVED: Final = (Cdr, Event)  # what is written to files before it goes, where there is an archive
FRESH_MS: Final = 15_000  # a daemon writes of itself every three seconds
_TABLES: Final = {
    Cdr: "cdr", Attempt: "attempt", Hold: "hold", Place: "place", Event: "event", Tombstone: "tombstone",
    RecentCaller: "recent_caller", Counter: "counter",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was taken away of a table in one transaction; `rows` None: a whole month's table. 0 with a
    `file`: this archive is whole now; 0 without: it is being written."""

    table: str
    rows: int | None
    file: Archived | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is over now: months by kind, and rows."""

    months: Sequence[tuple[type, int]]
    rows: Sequence[Outdated]
    tenants: Mapping[str, str]  # names by id


# --- pruning ----------------------------------------------------------------------------------------------------------


def prune(
    store: Store, clock: Clock, *, before_ms: int | None = None, exact: bool = True, archive: Archive | None = None
) -> Iterator[Pruned]:
    """Take away what is over by the settings of each tenant, or (records, events, places) what is older than
    `before_ms`; yields after each transaction, for the caller to rest.

    With an `archive`, records and events are in files before they go (see services/retention.py). Raises UsageError for
    a `before_ms` too young, Refused where the archive cannot be written, DatabaseError.
    """
    plan = _plan(store, clock.now_ms(), before_ms, exact=exact)
    _sum_records(store, clock, plan)
    rows = plan.rows
    if archive is not None:
        yield from _archive(store, plan, archive)
        rows = [what for what in rows if what.kind not in (*ARCHIVED, Attempt)]
    for kind, over_ms in plan.months:
        if archive is None or not _has_older(store, kind, over_ms):
            for name in store.drop_months(kind, over_ms):
                yield Pruned(name, None)
    for what in rows:
        yield from _drop(store, what)


def prune_records(
    store: Store, clock: Clock, tenant: str, *, before_ms: int | None = None, archive: Archive | None = None
) -> Iterator[Pruned]:
    """The same for the records of calls of one tenant only, with their attempts and holds."""
    plan = _records_of(store, clock, tenant, before_ms)
    _sum_records(store, clock, plan)
    rows = plan.rows
    if archive is not None:
        yield from _archive(store, plan, archive)
        rows = [what for what in rows if what.kind is Hold]
    for what in rows:
        yield from _drop(store, what)


def would_prune_records(store: Store, clock: Clock, tenant: str, *, before_ms: int | None = None) -> Sequence[Pruned]:
    """How many records, attempts and holds of a tenant are over."""
    return _counted(store, _records_of(store, clock, tenant, before_ms))


def _records_of(store: Store, clock: Clock, tenant: str, before_ms: int | None) -> _Plan:
    plan = _plan(store, clock.now_ms(), before_ms, exact=True)
    ids = {name: id_ for id_, name in plan.tenants.items()}
    if tenant not in ids:
        raise NotFound("tenant", tenant, tuple(get_close_matches(tenant, ids, n=2)))
    rows = [what for what in plan.rows if what.kind in (Cdr, Attempt, Hold) and what.tenant_id == ids[tenant]]
    return _Plan((), rows, plan.tenants)


def note_pruned(office: Office, noun: str, gone: Mapping[str, int | None], before_ms: int | None) -> None:
    """Keep in the audit that somebody took rows away by hand: how many of which table (None: a month's as a whole)."""
    subject = "what is over" if before_ms is None else f"before {format_instant(before_ms)}"
    office.change(lambda desk: desk.changed(f"{noun}.prune", subject, None, dict(gone), estate=False), estate=False)


def _sum_records(store: Store, clock: Clock, plan: _Plan) -> None:
    """Sum the calls whose records are about to go, so that reports stay as they are. Little is left to sum: the daemon
    does it all the time."""
    if any(kind is Cdr for kind, _ in plan.months) or any(what.kind in (Cdr, Attempt) for what in plan.rows):
        for _ in roll_up_all(store, clock.now_ms()):
            time.sleep(REST_S)


def _archive(store: Store, plan: _Plan, archive: Archive) -> Iterator[Pruned]:
    """Write records and events to files, and take those away that are in whole ones."""
    assert isinstance(store, SqlStore)  # whoever archives has a database
    with archive.open():
        for what in plan.rows:
            if what.kind not in ARCHIVED:
                continue
            for batch in archive.batches(store, plan.tenants[what.tenant_id], what):
                if batch.file is not None or not batch.keys:
                    yield Pruned(_TABLES[batch.kind], 0, batch.file)
                for first in range(0, len(batch.keys), CALLS_AT_ONCE):
                    gone = drop(store, what, batch.keys[first : first + CALLS_AT_ONCE])
                    yield from (Pruned(_TABLES[kind], rows) for kind, rows in gone.items() if rows)


def _has_older(store: Store, kind: type, over_ms: int) -> bool:
    """Whether a month that would be dropped has rows that no archive has: of a call that was settled just now."""
    assert isinstance(store, SqlStore)
    with store.transaction(write=False) as tx:
        return archiving.has_below(tx, kind, ulid(window_start_ms(WindowKind.MONTH, over_ms, "UTC"), 0))


def would_prune(store: Store, clock: Clock, *, before_ms: int | None = None) -> Sequence[Pruned]:
    """How many rows of each table are over; counters that only become free by pruning places are not among them."""
    return _counted(store, _plan(store, clock.now_ms(), before_ms, exact=True))


def _counted(store: Store, plan: _Plan) -> Sequence[Pruned]:
    sums = dict.fromkeys(_TABLES.values(), 0)
    with store.transaction(write=False) as tx:
        for what in plan.rows:
            sums[_TABLES[what.kind]] += tx.count_outdated(what)
    return [Pruned(table, rows) for table, rows in sums.items() if rows]


def _drop(store: Store, what: Outdated) -> Iterator[Pruned]:
    """Keys are found without making anybody wait, and deleted some at a time."""
    after: Sequence[object] = ()
    while True:
        with store.transaction(write=False) as tx:
            keys, after = tx.find_outdated(what, after, ROWS_AT_ONCE)
        for first in range(0, len(keys), CALLS_AT_ONCE):
            yield Pruned(_TABLES[what.kind], _drop_keys(store, what, keys[first : first + CALLS_AT_ONCE]))
        if not after:
            return


def _drop_keys(store: Store, what: Outdated, keys: Sequence[Sequence[object]]) -> int:
    return store.run(lambda tx: tx.drop_outdated(what, keys))


def _plan(store: Store, now_ms: int, before_ms: int | None, *, exact: bool) -> _Plan:
    if before_ms is not None and before_ms > now_ms - CDR_DAYS_LEAST * DAY_MS:
        raise UsageError(
            "before-too-young",
            f"what is younger than {CDR_DAYS_LEAST} days is kept: new caps count their past from it",
            f"give a day that is at least {CDR_DAYS_LEAST} days ago",
        )
    with store.transaction(write=False) as tx:
        tenants, estate = {tenant.id: tenant.name for tenant in tx.tenants()}, tx.load_estate()
    rows: list[Outdated] = []
    months: dict[type, list[int | None]] = {Cdr: [], Event: []}
    for tenant_id in tenants:
        cuts = _cuts(estate.settings(tenant_id), now_ms, before_ms)
        for kind, cut_ms in cuts.items():
            if cut_ms is not None and store.monthly and not exact and kind is not Place:
                cut_ms = window_start_ms(WindowKind.MONTH, cut_ms, "UTC")
            months.get(kind, []).append(cut_ms)
            if cut_ms is not None and cut_ms > 0:
                rows.append(Outdated(kind, tenant_id, before=ulid(cut_ms, 0)))
        rows += _states(estate, tenant_id, now_ms)
    rows.append(Outdated(Tombstone, before_ms=now_ms - TOMBSTONE_DAYS * DAY_MS))
    # A month goes as a whole where no tenant wants anything of it any more.
    over = [(kind, min(c for c in cuts if c is not None)) for kind, cuts in months.items() if cuts and None not in cuts]
    return _Plan(over, rows, tenants)


def _cuts(settings: Settings, now_ms: int, before_ms: int | None) -> dict[type, int | None]:
    """The instant before which rows of each kind are over; None: never."""

    def kept(days: int, least: int = 0) -> int | None:
        if before_ms is not None:
            return before_ms
        return now_ms - max(days, least) * DAY_MS if days else None

    records = kept(settings.cdr_keep_days, CDR_DAYS_LEAST)
    return {
        Place: kept(settings.place_keep_days),
        Attempt: records,
        Hold: records,
        Cdr: records,
        Event: kept(settings.event_keep_days),
    }


def _states(estate: Estate, tenant_id: str, now_ms: int) -> Iterator[Outdated]:
    """Callers and counters, which no setting keeps: they are over when nothing can ask for them any more."""
    windows_ms = (c.duplicate_window_ms for c in estate.campaigns.values() if c.tenant_id == tenant_id)
    longest_ms = max(windows_ms, default=0)
    yield Outdated(RecentCaller, tenant_id, before_ms=now_ms - longest_ms - CALLER_SLACK_MS)
    yield Outdated(Counter, tenant_id)  # of caps that are gone
    for zoned in estate.caps.values():
        cap = zoned.cap
        if cap.tenant_id != tenant_id:
            continue
        if cap.metric is CapMetric.CPS:
            yield Outdated(Counter, tenant_id, cap_id=cap.id, before_ms=now_ms - HOUR_MS, ticks=True)
        elif zoned.bucket_ms:
            over_ms = now_ms - zoned.rolling_ms - zoned.bucket_ms - LOOKING_BACK_SLACK_MS
            yield Outdated(Counter, tenant_id, cap_id=cap.id, before_ms=over_ms)
        elif cap.window_kind not in (WindowKind.NONE, WindowKind.TOTAL):
            yield Outdated(Counter, tenant_id, cap_id=cap.id, before_ms=now_ms - COUNTER_DAYS * DAY_MS)


# --- copying ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verified:
    """What does not add up in a copy; the original has the same differences, for the copy is exact."""

    tenant: str
    balances: Sequence[Drift]
    caps: Sequence[CapDrift]


def running_daemons(store: Store, now_ms: int) -> Sequence[Node]:
    """The daemons that have just written that they are up; a clock that is ahead counts as just."""
    with store.transaction(write=False) as tx:
        return [n for n in tx.nodes() if n.state == "up" and now_ms - n.seen_ms < FRESH_MS]


def copy_database(
    source: SqlStore, target: SqlStore, clock: Clock, tell: Tell, *, force: bool = False
) -> Sequence[Copied]:
    """Copy everything into an empty database; each table with its number of rows and a checksum that both agree on.

    `force`: though a daemon runs on the source; what it decides after the copy has begun is not in it.
    Raises Refused (a daemon runs, the target is not empty), DriftError (the copy is not the same), DatabaseError.
    """
    running = running_daemons(source, clock.now_ms())
    if running and not force:
        names = ", ".join(node.name for node in running)
        raise Refused(
            "daemon-running",
            f"a daemon runs on this database: {names}",
            f"stop it (a daemon that was killed counts as running for {FRESH_MS // 1_000} s); calls that are up go on",
        )
    return copy_everything(source, target, clock.now_ms(), tell)


def verify_copy(target: Store, clock: Clock, actor: str) -> Sequence[Verified]:
    """Of each tenant what does not add up: balances against ledger and holds, counters against places."""
    offices = [Office(target, clock, tenant=name, actor=actor) for name in tenant_names(target)]
    found = [Verified(one.tenant, verify_balances(one), verify_caps(one)) for one in offices]
    return [one for one in found if one.balances or one.caps]
