"""Sums of settled calls for reports: kept by quarter hours and days, always equal to the sum of the records.

What is kept. `rollup` has, for each day (UTC) that is over, the sums of the calls that arrived in it, by several kinds
(vocab.RollupKind); and for each quarter of an hour those of two kinds (FINE_KINDS), for days of other time zones and
for hours. Settling a call writes nothing of it, so it costs the way of a call nothing.

Why it is right. Records of calls and their attempts are only ever added, whole and in one transaction, and taken away
by pruning; none is changed. So what a transaction sees of a quarter hour is one of a chain of sets, each of which
contains the one before: two of them with the same number of calls are the same set. A rollup is the sum of one of these
sets, and knows the number of its calls (kind `all`). A reader counts the records of each quarter hour (an index alone
answers that) in the same snapshot in which it reads the rollups: where it finds more than was summed, a call was
settled late or the quarter hour was never summed, and it is *stale*: the records are summed instead. Equal numbers are
equal sets, so the answer is the sum of the records, at any moment, whoever rolls up meanwhile, whatever clocks say, and
however late a call is settled. Fewer than were summed are what pruning left: the rollup stays, it is all that is known.
The same holds of days, which count their calls likewise.

Rolling up reads the stale quarter hours in a transaction that only reads, and writes their sums in a short one: there
it takes a lock that only others who roll up for this tenant take, and replaces what is kept only where that sums fewer
calls. Under READ COMMITTED the statement after the lock sees what the one before us wrote, so of two who roll up at
once the larger set stays, in any order. Whoever prunes rolls up first (services.growth), so nothing goes unsummed.

Failure policy: fails open. What is not rolled up is summed from the records, which takes longer and says the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from capconduit.domain.rollups import (
    CALL_KINDS,
    DAY_MS,
    FINE_KINDS,
    QUARTER_MS,
    SUM_COLUMNS,
    WIDTH_MS,
    Fact,
    Rollup,
    RollupName,
    Sums,
    rolled,
)
from capconduit.domain.stats import Group
from capconduit.store.dialect import CALLER_LOCK, Dialect, insert_sql
from capconduit.store.rows import mapping
from capconduit.vocab import RollupGrain, RollupKind

_LOCK_NAME: Final = "rollup"  # with the tenant: no campaign has this id
_NO_TEXT: Final = "''"
_SUBJECT: Final = {RollupKind.DID: "did", RollupKind.TRUNK: "trunk", RollupKind.TARGET: "target_id"}
_TOTALS: Final = ", ".join(f"sum({name})" for name in SUM_COLUMNS)
_REJECTED: Final = "sum(CASE WHEN reject_reason <> '' THEN calls ELSE 0 END)"

_FOUND: Final = (
    "(SELECT count(*) FROM cdr WHERE cdr.tenant_id = :tenant_id"
    " AND cdr.arrived_ms >= start_ms AND cdr.arrived_ms < start_ms + {})"
)
_KEPT: Final = (
    "(SELECT coalesce(sum(calls), 0) FROM rollup WHERE rollup.tenant_id = :tenant_id AND rollup.kind = 'all'"
    " AND rollup.grain = '{}' AND rollup.bucket_ms >= start_ms AND rollup.bucket_ms < start_ms + {})"
)

_OF_A_CALL: Final = """
    coalesce(cdr.seller_id, '') AS seller_id, cdr.seller AS seller,
    coalesce(cdr.campaign_id, '') AS campaign_id, cdr.campaign AS campaign,
    CASE WHEN cdr.did_id IS NULL THEN '' ELSE cdr.did END AS did, cdr.trunk AS trunk,
    cdr.currency AS currency, 1 AS calls,"""
# A call as what is summed of it. Nobody dialled for one whose admission came too late.
_CALLS: Final = f"""
    SELECT cdr.arrived_ms AS arrived_ms, cdr.arrived_ms / {QUARTER_MS} * {QUARTER_MS} AS bucket_ms, {_OF_A_CALL}
    coalesce(cdr.target_id, '') AS target_id, cdr.target AS target, cdr.reject_reason AS reject_reason,
    CASE WHEN cdr.attempts > 0 AND cdr.reject_code <> 'engine_timeout' THEN 1 ELSE 0 END AS attempted,
    CASE WHEN cdr.answered_ms IS NULL THEN 0 ELSE 1 END AS connected,
    CASE WHEN cdr.billable THEN 1 ELSE 0 END AS billable,
    CASE WHEN cdr.first_ring_ms >= cdr.arrived_ms THEN 1 ELSE 0 END AS rang,
    CASE WHEN cdr.first_ring_ms >= cdr.arrived_ms THEN cdr.first_ring_ms - cdr.arrived_ms ELSE 0 END AS pdd_ms,
    cdr.talk_ms AS talk_ms, cdr.billed_seconds AS billed_s, cdr.amount_micros AS amount_micros,
    cdr.payout_micros AS payout_micros, cdr.written_off_micros AS written_off_micros
    FROM cdr
    WHERE cdr.tenant_id = :tenant_id AND cdr.arrived_ms >= :from_ms AND cdr.arrived_ms < :until_ms"""  # noqa: S608
# A Dial likewise, with what its call came to where it is the one that the record names (see recount_cap).
_NAMED: Final = "cdr.attempt = attempt.number"
_DIALS: Final = f"""
    SELECT cdr.arrived_ms AS arrived_ms, cdr.arrived_ms / {QUARTER_MS} * {QUARTER_MS} AS bucket_ms, {_OF_A_CALL}
    attempt.target_id AS target_id, attempt.target_name AS target, '' AS reject_reason,
    1 AS attempted,
    CASE WHEN {_NAMED} AND cdr.answered_ms IS NOT NULL THEN 1 ELSE 0 END AS connected,
    CASE WHEN {_NAMED} AND cdr.billable THEN 1 ELSE 0 END AS billable,
    CASE WHEN attempt.rang_ms >= attempt.started_ms THEN 1 ELSE 0 END AS rang,
    CASE WHEN attempt.rang_ms >= attempt.started_ms THEN attempt.rang_ms - attempt.started_ms ELSE 0 END AS pdd_ms,
    CASE WHEN {_NAMED} THEN cdr.talk_ms ELSE 0 END AS talk_ms,
    CASE WHEN {_NAMED} THEN cdr.billed_seconds ELSE 0 END AS billed_s,
    CASE WHEN {_NAMED} THEN cdr.amount_micros ELSE 0 END AS amount_micros,
    CASE WHEN {_NAMED} THEN cdr.payout_micros ELSE 0 END AS payout_micros,
    CASE WHEN {_NAMED} THEN cdr.written_off_micros ELSE 0 END AS written_off_micros
    FROM cdr JOIN attempt ON attempt.call_id = cdr.call_id AND attempt.tenant_id = cdr.tenant_id
    WHERE cdr.tenant_id = :tenant_id AND cdr.arrived_ms >= :from_ms AND cdr.arrived_ms < :until_ms
    AND attempt.hangup_cause IS NOT NULL AND cdr.reject_code <> 'engine_timeout'"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Stale:
    """A quarter hour of which more calls are settled (`found`) than its rollup sums (`kept`)."""

    bucket_ms: int
    found: int
    kept: int


@dataclass(frozen=True, slots=True)
class Day:
    """A day (UTC): the calls that are settled, summed in its rollup, and summed in those of its quarter hours."""

    bucket_ms: int
    found: int
    kept: int
    in_quarters: int

    @property
    def is_summed(self) -> bool:
        """Whether nothing knows of more calls than the day's rollup."""
        return self.kept >= max(self.found, self.in_quarters)

    @property
    def has_quarters(self) -> bool:
        """Whether each of its quarter hours is complete: together they are, or no record is left to know of more."""
        return self.in_quarters == self.found or not self.found

    @property
    def is_stale(self) -> bool:
        """Whether its rollup lacks calls."""
        return self.found > self.kept


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a report sums: calls, or Dials (`dials`), by which columns, and of which values.

    Columns are bucket_ms, seller_id, campaign_id, did, trunk, target_id, reject_reason.
    """

    by: tuple[str, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    dials: bool = False

    @property
    def kind(self) -> RollupKind | None:
        """The rollups that have it; None where only the records have."""
        used = {*self.by, *self.where}
        subjects = used & {"did", "trunk", "target_id"}
        if self.dials:
            return None if subjects - {"target_id"} else RollupKind.TARGET
        if len(subjects) > 1 or "target_id" in subjects:
            return None
        if subjects:
            return RollupKind.DID if "did" in subjects else RollupKind.TRUNK
        return RollupKind.CAMPAIGN if used & {"seller_id", "campaign_id"} else RollupKind.ALL

    @property
    def is_fine(self) -> bool:
        """Whether there are rollups of quarter hours that have it."""
        return self.kind in FINE_KINDS


class Rollups:
    """What a transaction does with sums of calls. All spans are from inclusive, until exclusive, UTC ms."""

    def __init__(self, db: Dialect) -> None:
        self._db = db

    # --- reading ------------------------------------------------------------------------------------------------------

    def extent(self, tenant_id: str) -> tuple[int, int] | None:
        """From the first to beyond the last call that is kept or summed, in whole quarter hours; None without any."""
        ends = [
            f"(SELECT {column} FROM {table} WHERE tenant_id = :tenant_id{more} ORDER BY {column}{order} LIMIT 1)"  # noqa: S608
            for table, column, more in (
                ("cdr", "arrived_ms", ""),
                ("rollup", "bucket_ms", " AND kind = 'all' AND grain = 'quarter'"),
            )
            for order in ("", " DESC")
        ]  # each by an index; min and max together would read all of it
        found = self._db.query(f"SELECT {', '.join(ends)}", {"tenant_id": tenant_id})[0]
        rows = [found[:2], found[2:]]
        known = [row for row in rows if row[0] is not None]
        if not known:
            return None
        first, last = min(int(row[0]) for row in known), max(int(row[1]) for row in known)
        return first // QUARTER_MS * QUARTER_MS, last // QUARTER_MS * QUARTER_MS + QUARTER_MS

    def stale(self, tenant_id: str, from_ms: int, until_ms: int) -> list[Stale]:
        """The quarter hours in a span of whole ones whose rollups lack calls, in order."""
        return [stale for stale in self._counts(tenant_id, from_ms, until_ms, "<>") if stale.found > stale.kept]

    def pruned(self, tenant_id: str, from_ms: int, until_ms: int) -> list[Stale]:
        """The quarter hours in a span of whole ones of which records have been taken away."""
        return [stale for stale in self._counts(tenant_id, from_ms, until_ms, "<>") if stale.found < stale.kept]

    def equal(self, tenant_id: str, from_ms: int, until_ms: int) -> list[Stale]:
        """The quarter hours in a span of whole ones that have calls, all of them summed."""
        return [stale for stale in self._counts(tenant_id, from_ms, until_ms, "=") if stale.found]

    def _counts(self, tenant_id: str, from_ms: int, until_ms: int, relation: str) -> Iterator[Stale]:
        if from_ms >= until_ms:
            return
        sql = buckets(
            QUARTER_MS, f"{_FOUND.format(QUARTER_MS)} AS found, {_KEPT.format('quarter', QUARTER_MS)} AS kept"
        )
        rows = self._db.query(
            f"{sql} WHERE found {relation} kept ORDER BY start_ms",
            {"tenant_id": tenant_id, "from_ms": from_ms, "until_ms": until_ms},
        )
        yield from (Stale(int(row[0]), int(row[1]), int(row[2])) for row in rows)

    def days(self, tenant_id: str, from_ms: int, until_ms: int) -> list[Day]:
        """The days of a span of whole ones, in order."""
        if from_ms >= until_ms:
            return []
        columns = (
            f"{_FOUND.format(DAY_MS)} AS found, {_KEPT.format('day', DAY_MS)} AS kept,"
            f" {_KEPT.format('quarter', DAY_MS)} AS in_quarters"
        )
        rows = self._db.query(
            f"{buckets(DAY_MS, columns, 'start_ms, found, kept, in_quarters')} ORDER BY start_ms",
            {"tenant_id": tenant_id, "from_ms": from_ms, "until_ms": until_ms},
        )
        known = {int(row[0]): Day(*map(int, row)) for row in rows}
        return [known.get(day_ms) or Day(day_ms, 0, 0, 0) for day_ms in range(from_ms, until_ms, DAY_MS)]

    def kept(
        self,
        tenant_id: str,
        wanted: Wanted,
        from_ms: int,
        until_ms: int,
        grain: RollupGrain = RollupGrain.QUARTER,
    ) -> list[Group]:
        """Sums of the rollups of a span of whole quarter hours, or days; `wanted` must have a kind."""
        kind = wanted.kind
        assert kind is not None, "no rollups have what is wanted"
        renamed = {_SUBJECT[kind]: "subject"} if kind in _SUBJECT else {}
        where = " AND ".join(
            [
                "tenant_id = :tenant_id AND kind = :kind AND grain = :grain",
                "bucket_ms >= :from_ms AND bucket_ms < :until_ms",
                *(f"{renamed.get(name, name)} = :w_{name}" for name in wanted.where),
            ]
        )
        values = {"kind": str(kind), "grain": str(grain), **self._span(tenant_id, wanted, from_ms, until_ms)}
        return self._grouped("rollup", [renamed.get(name, name) for name in wanted.by], where, values)

    def summed(self, tenant_id: str, wanted: Wanted, from_ms: int, until_ms: int) -> list[Group]:
        """The same of any span, summed from the records."""
        source = f"({_DIALS if wanted.dials else _CALLS}) AS fact"
        where = " AND ".join([":tenant_id = :tenant_id", *(f"{name} = :w_{name}" for name in wanted.where)])
        return self._grouped(source, list(wanted.by), where, self._span(tenant_id, wanted, from_ms, until_ms))

    @staticmethod
    def _span(tenant_id: str, wanted: Wanted, from_ms: int, until_ms: int) -> dict[str, Any]:
        filters = {f"w_{name}": value for name, value in wanted.where.items()}
        return {"tenant_id": tenant_id, "from_ms": from_ms, "until_ms": until_ms, **filters}

    def _grouped(self, source: str, by: Sequence[str], where: str, values: Mapping[str, Any]) -> list[Group]:
        columns = ", ".join([*by, "currency"])
        rows = self._db.query(
            f"SELECT {columns}, {_TOTALS}, {_REJECTED} FROM {source} WHERE {where}"  # noqa: S608 - our own words
            f" GROUP BY {columns} ORDER BY {columns}",
            values,
        )
        width = len(by)
        return [
            Group(tuple(row[:width]), str(row[width]), Sums(*(int(value) for value in row[width + 1 :])))
            for row in rows
        ]

    def names(self, tenant_id: str) -> dict[tuple[str, str], str]:
        """How sellers, campaigns and targets were called when their calls were summed, by (`seller`, id) …"""
        rows = self._db.query(
            "SELECT kind, id, name FROM rollup_name WHERE tenant_id = :tenant_id", {"tenant_id": tenant_id}
        )
        return {(row[0], row[1]): row[2] for row in rows}

    # --- rolling up ---------------------------------------------------------------------------------------------------

    def facts(
        self, tenant_id: str, from_ms: int, until_ms: int, grain: RollupGrain, *, dials: bool
    ) -> tuple[list[Fact], list[RollupName]]:
        """What is to be summed of a span of whole quarter hours or days, and how things were called then."""
        width_ms = WIDTH_MS[grain]
        # What no kind of this grain asks for is not told apart; the target is told by the Dials.
        left_out = {"did", "trunk"} if grain is RollupGrain.QUARTER else set()
        left_out |= set() if dials else {"target_id"}
        columns = ["bucket_ms", "seller_id", "campaign_id", "did", "trunk", "target_id", "reject_reason", "currency"]
        grouped = [name for name in columns[1:] if name not in left_out]
        told = ", ".join("''" if name in left_out else name for name in columns[1:])
        rows = self._db.query(
            f"SELECT bucket_ms / {width_ms} * {width_ms}, {told}, {_TOTALS},"  # noqa: S608 - our own words
            f" max(seller), max(campaign), {'max(target)' if dials else _NO_TEXT}"
            f" FROM ({_DIALS if dials else _CALLS}) AS fact"
            f" GROUP BY bucket_ms / {width_ms} * {width_ms}, {', '.join(grouped)}",
            {"tenant_id": tenant_id, "from_ms": from_ms, "until_ms": until_ms},
        )
        facts, names = [], {}
        for row in rows:
            bucket, seller_id, campaign_id, did, trunk, target_id, reason, currency = row[:8]
            values = tuple(map(int, row[8 : 8 + len(SUM_COLUMNS)]))
            facts.append(Fact(int(bucket), seller_id, campaign_id, did, trunk, target_id, currency, reason, values))
            for kind, id_, name in zip(
                ("seller", "campaign", "target"), (seller_id, campaign_id, target_id), row[-3:], strict=True
            ):
                if id_:
                    names[(kind, id_)] = name
        return facts, [RollupName(tenant_id=tenant_id, kind=k, id=i, name=n) for (k, i), n in names.items()]

    def put(self, tenant_id: str, rows: Sequence[Rollup], names: Sequence[RollupName]) -> int:
        """Replace the rollups of the quarter hours, or days, that `rows` sum, where they sum more calls than is kept;
        how many. All are of one grain.

        Locked against others who roll up for this tenant; see the module.
        """
        for sql, values in self._db.name_locks(CALLER_LOCK, [(_LOCK_NAME, tenant_id)]):
            self._db.query(sql, values)
        counted: dict[int, int] = {}
        for row in rows:
            if row.kind is RollupKind.ALL:
                counted[row.bucket_ms] = counted.get(row.bucket_ms, 0) + row.calls
        if not counted:
            return 0
        grain, first, last = str(rows[0].grain), min(counted), max(counted)
        kept = {
            int(row[0]): int(row[1])
            for row in self._db.query(
                "SELECT bucket_ms, sum(calls) FROM rollup WHERE tenant_id = :tenant_id AND kind = 'all'"
                " AND grain = :grain AND bucket_ms >= :first AND bucket_ms <= :last GROUP BY bucket_ms",
                {"tenant_id": tenant_id, "grain": grain, "first": first, "last": last},
            )
        }
        better = {bucket for bucket, calls in counted.items() if calls > kept.get(bucket, 0)}
        self._drop(tenant_id, grain, sorted(better & kept.keys()))
        m = mapping(Rollup)
        chosen = [m.values(row) for row in rows if row.bucket_ms in better]
        if chosen:
            self._db.insert(m.shape, chosen)
        self._put_names(names)
        return len(better)

    def _drop(self, tenant_id: str, grain: str, buckets: Sequence[int]) -> None:
        if buckets:
            self._db.many(
                "DELETE FROM rollup WHERE tenant_id = ? AND kind = ? AND grain = ? AND bucket_ms = ?",
                [(tenant_id, str(kind), grain, bucket) for bucket in buckets for kind in RollupKind],
            )

    def _put_names(self, names: Sequence[RollupName]) -> None:
        if names:
            known = self.names(names[0].tenant_id)
            new = [name for name in names if known.get((name.kind, name.id)) != name.name]
            m = mapping(RollupName)
            if new:
                self._db.many(
                    f"{insert_sql(m.table, m.columns)} ON CONFLICT (tenant_id, kind, id)"
                    " DO UPDATE SET name = excluded.name",
                    [m.values(name) for name in new],
                )

    # --- checking -----------------------------------------------------------------------------------------------------

    def rolled_rows(self, tenant_id: str, from_ms: int, until_ms: int, grain: RollupGrain) -> list[Rollup]:
        """The rollups of a span of whole quarter hours, or days, as they are kept."""
        m = mapping(Rollup)
        where = "tenant_id = :tenant_id AND bucket_ms >= :from_ms AND bucket_ms < :until_ms"
        # The key begins with the kind: each is looked for by itself.
        return [
            m.load(row)
            for kind in RollupKind
            for row in self._db.query(
                f"{m.select} WHERE {where} AND kind = :kind AND grain = :grain",
                {
                    "kind": str(kind),
                    "grain": str(grain),
                    "tenant_id": tenant_id,
                    "from_ms": from_ms,
                    "until_ms": until_ms,
                },
            )
        ]

    def fresh_rows(
        self, tenant_id: str, from_ms: int, until_ms: int, grain: RollupGrain
    ) -> tuple[list[Rollup], list[RollupName]]:
        """The rollups of a span of whole quarter hours, or days, as the records say, and what they are called."""
        calls, names = self.facts(tenant_id, from_ms, until_ms, grain, dials=False)
        if grain is RollupGrain.QUARTER:
            return rolled(tenant_id, calls, FINE_KINDS, grain), names
        dials, targets = self.facts(tenant_id, from_ms, until_ms, grain, dials=True)
        rows = rolled(tenant_id, calls, CALL_KINDS, grain) + rolled(tenant_id, dials, (RollupKind.TARGET,), grain)
        return rows, [*names, *(name for name in targets if name.kind == "target")]


def buckets(width_ms: int, columns: str, wanted: str = "start_ms, found, kept") -> str:
    """SELECT of the quarter hours or days, with something of each, of those days of a span of whole ones that have
    calls, kept or summed. From each such day an index leads to the next one: a record of a clock that stood at 1970
    costs no more than another.
    """
    return (
        f"WITH RECURSIVE day(day_ms) AS (SELECT {_next_day(':from_ms')} UNION ALL"  # noqa: S608 - our own words
        f" SELECT {_next_day(f'day_ms + {DAY_MS}')} FROM day WHERE day_ms IS NOT NULL),"
        f" part(part_ms) AS (SELECT 0 UNION ALL SELECT part_ms + {width_ms} FROM part"
        f" WHERE part_ms + {width_ms} < {DAY_MS}),"
        " bucket AS (SELECT day_ms + part_ms AS start_ms FROM day CROSS JOIN part"
        " WHERE day_ms + part_ms >= :from_ms AND day_ms + part_ms < :until_ms)"
        f" SELECT {wanted} FROM (SELECT start_ms, {columns} FROM bucket) AS counted"
    )


def _next_day(at_ms: str) -> str:
    """The first day that has a call from `at_ms` on; NULL where none has."""
    nearest = [
        f"SELECT near_ms FROM (SELECT {column} AS near_ms FROM {table} WHERE tenant_id = :tenant_id{more}"  # noqa: S608
        f" AND {column} >= {at_ms} AND {column} < :until_ms ORDER BY {column} LIMIT 1) AS {name}"
        for name, table, column, more in (
            ("settled", "cdr", "arrived_ms", ""),
            ("by_quarter", "rollup", "bucket_ms", " AND kind = 'all' AND grain = 'quarter'"),
            ("by_day", "rollup", "bucket_ms", " AND kind = 'all' AND grain = 'day'"),
        )
    ]
    return f"(SELECT min(near_ms) / {DAY_MS} * {DAY_MS} FROM ({' UNION ALL '.join(nearest)}) AS nearest)"  # noqa: S608
