"""Reports: what settled calls came to, over any span in any time zone, by what they have in common.

Sums come from the rollups where those are complete and from the records where they are not, in one snapshot, so that
they are those of the records at any moment (capconduit.store.rollups says why).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from capconduit.domain.model import Audit, Campaign, Did, Seller, Target, Trunk
from capconduit.domain.numbers import to_e164
from capconduit.domain.periods import Period, before, parse_period, parse_span, steps
from capconduit.domain.rollups import DAY_MS, QUARTER_MS, Sums
from capconduit.domain.stats import Group, Line, lines_of, merged, rekeyed
from capconduit.domain.windows import window_start_ms
from capconduit.errors import DatabaseError, NotFound, Refused, UsageError
from capconduit.services.office import Desk, Office
from capconduit.services.rollups import roll_up
from capconduit.services.sellers import check_timezone
from capconduit.store.rollups import Day, Rollups, Wanted
from capconduit.units import MAX_INSTANT_MS, format_instant
from capconduit.vocab import ReportBy, RollupGrain, WindowKind

MAX_STEPS: Final = 10_000  # hours or days of one report
SUM_FIRST: Final = 20_000  # calls that are not summed yet, from which on a report sums some for all who come after it
SUM_FOR_MS: Final = 3_000  # for so long; what is left is summed from the records for this report
HOURS_OF_TREND: Final = 2 * 86_400_000  # spans up to this long are drawn by hours, longer ones by days
DAYS_OF_TREND: Final = 120 * 86_400_000  # and longer ones by months

_COLUMNS: Final[Mapping[ReportBy, tuple[str, ...]]] = {
    ReportBy.NOTHING: (),
    ReportBy.HOUR: ("bucket_ms",),
    ReportBy.DAY: ("bucket_ms",),
    ReportBy.SELLER: ("seller_id",),
    ReportBy.CAMPAIGN: ("seller_id", "campaign_id"),
    ReportBy.TARGET: ("target_id",),
    ReportBy.DID: ("seller_id", "campaign_id", "did"),
    ReportBy.TRUNK: ("trunk",),
    ReportBy.REASON: ("reject_reason",),
}
_STEPS: Final = {ReportBy.HOUR: WindowKind.HOUR, ReportBy.DAY: WindowKind.DAY}

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Filters:
    """Only calls of these, by name or number."""

    seller: str = ""
    campaign: str = ""
    target: str = ""
    did: str = ""
    trunk: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a report is asked for. A `period` by name, or a span from `start` to `end`; a `zone` "": the seller's, or
    the tenant's."""

    by: ReportBy
    period: str = ""
    start: str | None = None
    end: str | None = None
    zone: str = ""
    compare: bool = False
    filters: Filters = field(default_factory=Filters)


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. `lines` have names in their keys, instants for hours and days; `trend` the calls and connected
    calls of each step of the span (and of the one before), for drawing."""

    ask: Ask
    zone: str
    period: Period
    earlier: Period | None
    lines: Sequence[Line]
    trend_kind: WindowKind
    trend: Sequence[Line]


def make_report(office: Office, ask: Ask, tell: Tell = lambda _: None) -> Report:
    """Sum what is asked for. Raises UsageError, NotFound, Refused (the records are pruned), DatabaseError."""
    now_ms = office.clock.now_ms()
    zone, where = office.read(lambda desk: (_zone(desk, ask), _where(desk, ask.filters)))
    period = _period(ask, now_ms, zone)
    earlier = before(period, zone) if ask.compare else None
    spans = [period, *([earlier] if earlier else [])]
    # A Dial has no reason: rejects of a target are the calls that were tried there last.
    dials = ask.by is ReportBy.TARGET or (bool(ask.filters.target) and ask.by is not ReportBy.REASON)
    wanted = Wanted(by=_COLUMNS[ask.by], where=where, dials=dials)
    _sum_first(office, spans, tell)

    def work(desk: Desk) -> Report:
        reads = _Reads(desk.tx.rollups(), desk.tenant_id)
        trend_kind = _trend_kind(period)
        groups = [reads.groups(wanted, span) for span in spans]
        drawn = Wanted(by=("bucket_ms",), where=where, dials=bool(ask.filters.target))
        series = reads.course(drawn, spans)
        named = _Named(desk, ask.by)
        return Report(
            ask=ask,
            zone=zone,
            period=period,
            earlier=earlier,
            lines=_lines(ask, named, groups, spans, zone),
            trend_kind=trend_kind,
            trend=_stepped(series, spans, trend_kind, zone),
        )

    return office.read(work)


def _lines(
    ask: Ask, named: _Named, groups: Sequence[Sequence[Group]], spans: Sequence[Period], zone: str
) -> Sequence[Line]:
    """The lines in the order that people expect: steps by time, all else by calls, most first."""
    if ask.by in _STEPS:
        return _stepped(groups, spans, _STEPS[ask.by], zone)
    chosen = [rekeyed(found, named.key) for found in groups]
    if ask.by is ReportBy.REASON:  # a reject has no amount, so no currency either
        chosen = [merged(Group(g.key, "", g.sums) for g in found if g.key != ("",)) for found in chosen]
    lines = lines_of(chosen[0], chosen[1] if len(chosen) > 1 else None, overall=ask.by is ReportBy.NOTHING)
    if ask.by is ReportBy.NOTHING:
        return lines or [Line((), "", Sums(), Sums() if len(spans) > 1 else None)]
    return sorted(lines, key=lambda line: (-line.sums.calls, [str(part) for part in line.key], line.currency))


def _stepped(groups: Sequence[Sequence[Group]], spans: Sequence[Period], kind: WindowKind, zone: str) -> Sequence[Line]:
    """A line for each step of the span, without calls too; the first, second, … of the span before beside it."""
    found: list[list[Group]] = []
    starts = _steps(spans[0], kind, zone)
    for one, span in zip(groups, spans, strict=True):
        own = _steps(span, kind, zone) if span is not spans[0] else starts
        places = {start: starts[min(n, len(starts) - 1)] for n, start in enumerate(own)}
        first = own[0] if own else 0

        def key(
            old: tuple[str | int, ...], places: Mapping[int, int] = places, first: int = first
        ) -> tuple[str | int, ...]:
            return (places[max(window_start_ms(kind, int(old[0]), zone), first)],)

        found.append(rekeyed(one, key))
    known = {group.key for group in found[0]}
    currency = next((group.currency for group in found[0] if group.currency), "")
    empty = [Group((start,), currency, Sums()) for start in starts if (start,) not in known]
    ordered = sorted([*found[0], *empty], key=lambda group: group.key)
    return sorted(lines_of(ordered, found[1] if len(found) > 1 else None), key=lambda line: (line.key, line.currency))


def _steps(span: Period, kind: WindowKind, zone: str) -> list[int]:
    found = []
    for start_ms in steps(span, kind, zone):
        found.append(start_ms)
        if len(found) > MAX_STEPS:
            raise UsageError(
                "period-too-long", f"there are more than {MAX_STEPS} {kind}s in this period", "choose a shorter one"
            )
    return found


def _trend_kind(period: Period) -> WindowKind:
    length_ms = period.until_ms - period.from_ms
    if length_ms <= HOURS_OF_TREND:
        return WindowKind.HOUR
    return WindowKind.DAY if length_ms <= DAYS_OF_TREND else WindowKind.MONTH


# --- what is asked for ------------------------------------------------------------------------------------------------


def _zone(desk: Desk, ask: Ask) -> str:
    """The time zone: the one given, else that of the seller who is asked about, else the tenant's."""
    if ask.zone:
        return check_timezone(ask.zone)
    seller = desk.tx.find(Seller, desk.tenant_id, name=ask.filters.seller) if ask.filters.seller else None
    if seller is None and ask.filters.campaign:
        campaign = desk.tx.find(Campaign, desk.tenant_id, name=ask.filters.campaign)
        seller = desk.tx.find(Seller, desk.tenant_id, id=campaign.seller_id) if campaign else None
    return seller.timezone if seller else desk.settings().timezone


def _period(ask: Ask, now_ms: int, zone: str) -> Period:
    if ask.period and (ask.start is not None or ask.end is not None):
        raise UsageError(
            "period-twice", f"{ask.period!r} and --from or --to exclude each other", "give a period, or a span"
        )
    if ask.start is None and ask.end is None:
        return parse_period(ask.period or "today", now_ms, zone)
    return parse_span(ask.start, ask.end, now_ms, zone)


def _where(desk: Desk, filters: Filters) -> dict[str, str]:
    """The columns that calls are chosen by. Raises NotFound for a name that neither is there nor has calls."""
    where: dict[str, str] = {}
    for kind, column, name in (
        (Seller, "seller_id", filters.seller),
        (Campaign, "campaign_id", filters.campaign),
        (Target, "target_id", filters.target),
    ):
        if name:
            where[column] = _id_of(desk, kind, name)
    if filters.did:
        number = to_e164(filters.did, desk.settings().default_region) or filters.did
        where["did"] = number
        _known(desk, Did, "did", number)
    if filters.trunk:
        where["trunk"] = filters.trunk
        _known(desk, Trunk, "trunk", filters.trunk)
    return where


def _id_of(desk: Desk, kind: type[Any], name: str) -> str:
    found = desk.tx.find(kind, desk.tenant_id, name=name)
    if found is not None:
        return str(found.id)
    noun = kind.__name__.lower()
    known = desk.tx.rollups().names(desk.tenant_id) | _removed(desk, noun)
    gone = [id_ for (of, id_), called in known.items() if (of, called) == (noun, name)]
    return gone[0] if gone else str(desk.named(kind, name).id)  # which raises, with what is near


def _known(desk: Desk, kind: type[Any], noun: str, name: str) -> None:
    """Raises NotFound where there is no such number or trunk, and none of its calls either."""
    try:
        desk.named(kind, name, noun)
    except NotFound:
        reads = _Reads(desk.tx.rollups(), desk.tenant_id)
        if not reads.groups(Wanted(where={noun: name}), Period(0, MAX_INSTANT_MS)):
            raise


def _removed(desk: Desk, noun: str) -> dict[tuple[str, str], str]:
    """How things that are gone were called, by (noun, id): sums know it only when their calls are summed."""
    entries = desk.tx.rows(Audit, desk.tenant_id, action=f"{noun}.remove")
    return {(noun, str(json.loads(entry.before)["id"])): entry.subject for entry in entries}


class _Named:
    """Ids of sums as the names that people know; those that are gone as they were called then."""

    def __init__(self, desk: Desk, by: ReportBy) -> None:
        self._desk = desk
        self._by = by
        self._looked: set[str] = set()  # nouns whose removals were looked through
        self._names: dict[tuple[str, str], str] = {}
        if {"seller_id", "campaign_id", "target_id"} & {*_COLUMNS[by]}:
            self._names = dict(desk.tx.rollups().names(desk.tenant_id))
            for kind, noun in ((Seller, "seller"), (Campaign, "campaign"), (Target, "target")):
                rows: Sequence[Any] = desk.tx.rows(kind, desk.tenant_id)
                self._names.update({(noun, row.id): row.name for row in rows})

    def key(self, old: tuple[str | int, ...]) -> tuple[str | int, ...]:
        """The key in names. The first is what the report is by."""
        columns = _COLUMNS[self._by]
        named = [
            self._name(column.removesuffix("_id"), str(value)) if column.endswith("_id") else value
            for column, value in zip(columns, old, strict=True)
        ]
        return tuple(reversed(named))

    def _name(self, noun: str, row_id: str) -> str:
        if row_id and (noun, row_id) not in self._names and noun not in self._looked:
            self._looked.add(noun)
            self._names = _removed(self._desk, noun) | self._names
        return self._names.get((noun, row_id), row_id)


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reads:
    """Sums of a tenant's calls from what is kept and, where that lacks calls, from the records; all in one snapshot."""

    rollups: Rollups
    tenant_id: str
    counted: dict[tuple[int, int], list[Day]] = field(default_factory=dict)  # days that were counted once

    def groups(self, wanted: Wanted, span: Period) -> list[Group]:
        """The sums of a span. Raises Refused where only the records would have them, and these are pruned."""
        extent = self.rollups.extent(self.tenant_id)
        if extent is None:
            return []
        from_ms = max(span.from_ms, extent[0] // DAY_MS * DAY_MS)  # whole days stay whole
        until_ms = min(span.until_ms, -(-extent[1] // DAY_MS) * DAY_MS)
        if from_ms >= until_ms:
            return []
        if wanted.kind is None or ("bucket_ms" in wanted.by and not wanted.is_fine):
            self._refuse_pruned(from_ms, until_ms)
            return self.rollups.summed(self.tenant_id, wanted, from_ms, until_ms)
        return merged(
            self._parts(wanted, from_ms, until_ms) if wanted.is_fine else self._coarse(wanted, from_ms, until_ms)
        )

    def course(self, wanted: Wanted, spans: Sequence[Period]) -> list[list[Group]]:
        """What is drawn of each span: nothing where it would take long, or the records it needs are pruned."""
        is_quick = wanted.is_fine or spans[0].until_ms - spans[0].from_ms <= HOURS_OF_TREND
        with suppress(Refused):
            if is_quick:
                return [self.groups(wanted, span) for span in spans]
        return [[] for _ in spans]

    def _coarse(self, wanted: Wanted, from_ms: int, until_ms: int) -> Iterator[Group]:
        """Whole days (UTC) by their sums, the rest by the records; where those are pruned, a day belongs to the span
        that it begins in."""
        first, last = from_ms // DAY_MS * DAY_MS, -(-until_ms // DAY_MS) * DAY_MS
        summed = []
        for day in self._counted(first, last):
            is_whole = from_ms <= day.bucket_ms and day.bucket_ms + DAY_MS <= until_ms
            if day.is_summed and (is_whole or day.found < day.kept):
                summed.append(day.bucket_ms)
        at_ms = from_ms
        for day_from, day_until in _joined(summed, DAY_MS):
            yield from self._records(wanted, at_ms, day_from)
            begins = max(day_from, -(-from_ms // DAY_MS) * DAY_MS)
            yield from self.rollups.kept(self.tenant_id, wanted, begins, day_until, RollupGrain.DAY)
            at_ms = day_until
        yield from self._records(wanted, at_ms, until_ms)

    def _counted(self, first: int, last: int) -> list[Day]:
        if (first, last) not in self.counted:
            self.counted[(first, last)] = self.rollups.days(self.tenant_id, first, last)
        return self.counted[(first, last)]

    def _records(self, wanted: Wanted, from_ms: int, until_ms: int) -> Iterator[Group]:
        if from_ms < until_ms:
            yield from self.rollups.summed(self.tenant_id, wanted, from_ms, until_ms)

    def _parts(self, wanted: Wanted, from_ms: int, until_ms: int) -> Iterator[Group]:
        """Edges that begin or end within a quarter hour come from the records; where those are pruned, a quarter hour
        belongs to the span that it begins in."""
        first, last = -(-from_ms // QUARTER_MS) * QUARTER_MS, until_ms // QUARTER_MS * QUARTER_MS
        if first > last:
            first = last = until_ms
        for edge_from, edge_until, begins_inside in ((from_ms, first, False), (last, until_ms, True)):
            if edge_from >= edge_until:
                continue
            bucket = edge_from // QUARTER_MS * QUARTER_MS
            if not self.rollups.pruned(self.tenant_id, bucket, bucket + QUARTER_MS):
                yield from self.rollups.summed(self.tenant_id, wanted, edge_from, edge_until)
            elif begins_inside:
                yield from self.rollups.kept(self.tenant_id, wanted, bucket, bucket + QUARTER_MS)
        yield from self._days(wanted, first, last)

    def _days(self, wanted: Wanted, first: int, last: int) -> Iterator[Group]:
        """Whole days (UTC) that are complete by their sums, the rest by quarter hours."""
        fine = "bucket_ms" in wanted.by  # wants the quarter hours
        days = self._counted(-(-first // DAY_MS) * DAY_MS, last // DAY_MS * DAY_MS)
        complete = [day.bucket_ms for day in days if (day.has_quarters if fine else day.is_summed)]
        at_ms = first
        for from_ms, until_ms in _joined(complete, DAY_MS):
            yield from self._quarters(wanted, at_ms, from_ms)
            grain = RollupGrain.QUARTER if fine else RollupGrain.DAY
            yield from self.rollups.kept(self.tenant_id, wanted, from_ms, until_ms, grain)
            at_ms = until_ms
        yield from self._quarters(wanted, at_ms, last)

    def _quarters(self, wanted: Wanted, first: int, last: int) -> Iterator[Group]:
        """Quarter hours by their sums where those are complete, the others by their records."""
        at_ms = first
        stale = self.rollups.stale(self.tenant_id, first, last)
        for from_ms, until_ms in _joined([one.bucket_ms for one in stale], QUARTER_MS):
            if at_ms < from_ms:
                yield from self.rollups.kept(self.tenant_id, wanted, at_ms, from_ms)
            yield from self.rollups.summed(self.tenant_id, wanted, from_ms, until_ms)
            at_ms = until_ms
        if at_ms < last:
            yield from self.rollups.kept(self.tenant_id, wanted, at_ms, last)

    def _refuse_pruned(self, from_ms: int, until_ms: int) -> None:
        first, last = from_ms // QUARTER_MS * QUARTER_MS, -(-until_ms // QUARTER_MS) * QUARTER_MS
        pruned = self.rollups.pruned(self.tenant_id, first, last)
        if pruned:
            since = format_instant(pruned[-1].bucket_ms + QUARTER_MS)
            raise Refused(
                "records-pruned",
                f"records from before {since} are pruned, and no sums are kept of this choice",
                f"ask for --from {since[:16]}Z, or leave out --target, --did or --trunk",
            )


def _joined(buckets: Sequence[int], width_ms: int) -> Iterator[tuple[int, int]]:
    """Quarter hours or days that follow each other as one span."""
    first = None
    for number, bucket in enumerate(buckets):
        first = bucket if first is None else first
        if number + 1 == len(buckets) or buckets[number + 1] != bucket + width_ms:
            yield first, bucket + width_ms
            first = None


def _sum_first(office: Office, spans: Sequence[Period], tell: Tell) -> None:
    """Where very many calls are not summed yet (an old database, and no daemon), sum some of them for good.

    Fails open: whoever may not write sums for himself.
    """

    def lacking(desk: Desk) -> tuple[str, int]:
        reads, extent = desk.tx.rollups(), desk.tx.rollups().extent(desk.tenant_id)
        if extent is None:
            return desk.tenant_id, 0
        days = [
            day
            for span in spans
            for day in reads.days(
                desk.tenant_id,
                max(span.from_ms, extent[0]) // DAY_MS * DAY_MS,
                -(-min(span.until_ms, extent[1]) // DAY_MS) * DAY_MS,
            )
        ]
        return desk.tenant_id, sum(max(day.found - day.in_quarters, 0) for day in days)

    tenant_id, calls = office.read(lacking)
    if calls < SUM_FIRST:
        return
    tell(f"{calls} calls are not summed yet: this takes longer (the daemon sums them while it runs)")
    until_ms = office.clock.monotonic_ms() + SUM_FOR_MS
    with suppress(DatabaseError):
        for _ in roll_up(office.store, tenant_id, office.clock.now_ms()):
            if office.clock.monotonic_ms() > until_ms:
                return
