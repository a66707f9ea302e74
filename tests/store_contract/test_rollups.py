"""Sums of calls: at any moment those of the records, whatever was summed before, however late a call is settled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.model import Attempt, Cdr
from capconduit.domain.periods import Period
from capconduit.domain.rollups import QUARTER_MS, Rollup, Sums
from capconduit.domain.stats import Group
from capconduit.errors import Refused
from capconduit.services.growth import prune
from capconduit.services.office import Office
from capconduit.services.reports import Ask, Filters, _Reads, make_report
from capconduit.services.rollups import CALLS_AT_ONCE, roll_up, roll_up_all, verify_rollups
from capconduit.store.rollups import Wanted, buckets
from capconduit.store.sqlstore import SqlStore
from capconduit.units import format_instant
from capconduit.vocab import ReportBy, RollupGrain, RollupKind
from fastagi.housekeeping import Housekeeping
from tests.store_contract.conftest import Opener
from tests.store_contract.settled import Calls, put
from tests.unit.estate_builder import T0, TENANT, Till

DAY_MS = 86_400_000
MIDNIGHT = T0 + DAY_MS // 2
COLUMNS = ("seller_id", "campaign_id", "did", "trunk", "target_id", "reject_reason")
ASKED = [
    Wanted(),
    Wanted(by=("bucket_ms",)),
    Wanted(by=("seller_id",)),
    Wanted(by=("seller_id", "campaign_id")),
    Wanted(by=("did",)),
    Wanted(by=("trunk",), where={"campaign_id": "solar"}),
    Wanted(by=("reject_reason",)),
    Wanted(by=("reject_reason",), where={"did": "+18005550101"}),
    Wanted(by=("bucket_ms",), where={"campaign_id": "solar"}),
    Wanted(by=("campaign_id",), where={"seller_id": "acme", "trunk": "east"}),
    Wanted(by=("target_id",), dials=True),
    Wanted(by=("target_id",), where={"campaign_id": "wind"}, dials=True),
    Wanted(where={"target_id": "buyer1"}, dials=True),
    Wanted(by=("bucket_ms",), where={"did": "+18005550100"}),
    Wanted(by=("did",), where={"trunk": "east"}),  # of which no sums are kept
    Wanted(by=("trunk",), where={"target_id": "buyer2"}, dials=True),
]


def roll(store: SqlStore, now_ms: int) -> int:
    return sum(roll_up(store, TENANT, now_ms))


# The slow sum, said once more in other words.


def of_call(cdr: Cdr) -> Sums:
    rang = cdr.first_ring_ms is not None and cdr.first_ring_ms >= cdr.arrived_ms
    return Sums(
        calls=1,
        attempted=int(bool(cdr.attempts) and cdr.reject_code != "engine_timeout"),
        connected=int(cdr.answered_ms is not None),
        billable=int(cdr.billable),
        rang=int(rang),
        pdd_ms=cdr.first_ring_ms - cdr.arrived_ms if rang and cdr.first_ring_ms is not None else 0,
        talk_ms=cdr.talk_ms,
        billed_s=cdr.billed_seconds,
        amount_micros=cdr.amount_micros,
        payout_micros=cdr.payout_micros,
        written_off_micros=cdr.written_off_micros,
        rejected=int(bool(cdr.reject_reason)),
    )


def of_dial(cdr: Cdr, attempt: Attempt) -> Sums:
    named = of_call(cdr) if cdr.attempt == attempt.number else Sums()
    rang = attempt.rang_ms is not None and attempt.rang_ms >= attempt.started_ms
    pdd_ms = attempt.rang_ms - attempt.started_ms if rang and attempt.rang_ms is not None else 0
    return replace(named, calls=1, attempted=1, rang=int(rang), pdd_ms=pdd_ms, rejected=0)


def slow_sum(made: Iterable[tuple[Cdr, Sequence[Attempt]]], wanted: Wanted, span: Period) -> list[Group]:
    sums: dict[tuple[tuple[Any, ...], str], Sums] = {}
    for cdr, attempts in made:
        if not span.from_ms <= cdr.arrived_ms < span.until_ms:
            continue
        named = {name: getattr(cdr, name) or "" for name in COLUMNS}
        named |= {"bucket_ms": cdr.arrived_ms - cdr.arrived_ms % QUARTER_MS, "did": cdr.did if cdr.did_id else ""}
        facts = [(named, of_call(cdr))]
        if wanted.dials:
            heard = [a for a in attempts if a.hangup_cause is not None and cdr.reject_code != "engine_timeout"]
            facts = [(named | {"target_id": a.target_id, "reject_reason": ""}, of_dial(cdr, a)) for a in heard]
        for names, fact in facts:
            if all(names[column] == value for column, value in wanted.where.items()):
                key = (tuple(names[column] for column in wanted.by), cdr.currency)
                sums[key] = sums.get(key, Sums()) + fact
    return [Group(key, currency, total) for (key, currency), total in sums.items()]


def told(store: SqlStore, wanted: Wanted, span: Period) -> list[Group]:
    with store.transaction(write=False) as tx:
        return _Reads(tx.rollups(), TENANT).groups(wanted, span)


def in_order(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (str(group.key), group.currency))


def assert_told_right(store: SqlStore, made: Sequence[tuple[Cdr, Sequence[Attempt]]], spans: Iterable[Period]) -> None:
    for span in spans:
        for wanted in ASKED:
            right = in_order(slow_sum(made, wanted, span))
            assert in_order(told(store, wanted, span)) == right, (wanted, span)


def test_a_record_of_a_clock_that_stood_at_1970_does_not_make_us_walk_half_a_century(shop: Till) -> None:
    calls = Calls(0)
    made = [calls.call(T0 + 5_000), calls.call(T0 + 6 * DAY_MS)]
    old, tries = calls.call(T0 + 7_000)
    late_ms = 30 * DAY_MS + 7_000
    made.append((replace(old, arrived_ms=late_ms), tries))
    for cdr, attempts in made:
        put(shop.store, [(cdr, attempts)])
    values = {"tenant_id": TENANT, "from_ms": 30 * DAY_MS, "until_ms": MIDNIGHT + 7 * DAY_MS}
    for width_ms in (QUARTER_MS, DAY_MS):
        with shop.store.transaction(write=False) as tx:
            [(walked,)] = tx.query(buckets(width_ms, "0 AS found", "count(*)"), values)
        assert walked == 3 * DAY_MS // width_ms  # days that have calls
    assert roll(shop.store, MIDNIGHT + 8 * DAY_MS) == 3
    assert roll(shop.store, MIDNIGHT + 8 * DAY_MS) == 0
    assert_told_right(shop.store, made, [Period(0, MIDNIGHT + 8 * DAY_MS), Period(late_ms, T0 + 5_001)])
    assert not verify_rollups(shop.office())


@pytest.mark.parametrize("seed", range(2))
def test_sums_are_those_of_the_records_after_every_step(shop: Till, seed: int) -> None:
    store, calls, now_ms = shop.store, Calls(seed), T0 + 3 * DAY_MS
    chance = calls.random
    spans = [
        Period(T0, now_ms),
        Period(T0 - DAY_MS, T0 + 7_777_777),
        Period(T0 + QUARTER_MS, T0 + 90 * QUARTER_MS),
        Period(T0 + 61_234, T0 + 61_234 + QUARTER_MS // 3),
        Period(0, 10**13),
    ]
    for _ in range(5):
        step = chance.choice(("settle", "settle late", "roll"))
        if step == "settle":
            put(store, calls.many(60, T0, now_ms))
        elif step == "settle late":  # into few quarter hours that are summed already, perhaps twice
            at_ms = chance.randrange(T0, now_ms)
            put(store, calls.many(3, at_ms, at_ms + 1_000))
        else:
            roll(store, chance.choice((now_ms, T0 + DAY_MS)))
        assert_told_right(store, calls.made, [spans[0], chance.choice(spans[1:])])
    roll(store, now_ms + 2 * DAY_MS)
    assert_told_right(store, calls.made, spans)
    assert verify_rollups(shop.office()) == []
    assert roll(store, now_ms + 2 * DAY_MS) == 0, "what is summed is not summed again"


@pytest.mark.parametrize(
    ("grain", "span"),
    [
        (RollupGrain.QUARTER, Period(T0, MIDNIGHT)),
        (RollupGrain.DAY, Period(MIDNIGHT, MIDNIGHT + DAY_MS)),
    ],
)
def test_what_is_kept_is_what_is_told(shop: Till, grain: RollupGrain, span: Period) -> None:
    """Records that are summed are not read again: spoilt sums are told as they are, and found by the check."""
    calls, wanted = Calls(7), Wanted(by=("campaign_id",))
    put(shop.store, calls.many(50, span.from_ms, span.until_ms))
    roll(shop.store, T0 + 3 * DAY_MS)
    assert in_order(told(shop.store, wanted, span)) == in_order(slow_sum(calls.made, wanted, span))
    with shop.store.transaction(write=True) as tx:
        spoilt = next(r for r in tx.rows(Rollup, TENANT) if r.kind is RollupKind.CAMPAIGN and r.grain is grain)
        tx.update(replace(spoilt, talk_ms=spoilt.talk_ms + 1))
    assert in_order(told(shop.store, wanted, span)) != in_order(slow_sum(calls.made, wanted, span))
    drifts = verify_rollups(shop.office())
    assert [(drift.what.rpartition(" ")[2], drift.kept - drift.summed) for drift in drifts] == [("talk_ms", 1)]


def test_a_late_call_makes_its_day_be_summed_again(shop: Till) -> None:
    calls, span = Calls(9), Period(MIDNIGHT, MIDNIGHT + DAY_MS)
    put(shop.store, calls.many(30, span.from_ms, span.until_ms))
    roll(shop.store, T0 + 3 * DAY_MS)
    put(shop.store, calls.many(1, span.from_ms, span.until_ms))
    assert_told_right(shop.store, calls.made, [span])
    roll(shop.store, T0 + 3 * DAY_MS)
    with shop.store.transaction(write=False) as tx:
        (day,) = tx.rollups().days(TENANT, span.from_ms, span.until_ms)
    assert (day.found, day.kept, day.in_quarters) == (31, 31, 31)
    assert_told_right(shop.store, calls.made, [span])


def test_a_quarter_hour_that_goes_on_is_left_alone(shop: Till) -> None:
    calls = Calls(1)
    put(shop.store, calls.many(20, T0, T0 + QUARTER_MS))
    assert roll(shop.store, T0 + QUARTER_MS) == 0
    assert roll(shop.store, T0 + 2 * QUARTER_MS) == 20


def test_what_is_over_for_long_can_be_left_for_later(shop: Till) -> None:
    calls = Calls(11)
    put(shop.store, calls.many(20, T0, T0 + DAY_MS))
    put(shop.store, calls.many(7, T0 + 3 * DAY_MS, T0 + 4 * DAY_MS))
    assert sum(roll_up(shop.store, TENANT, T0 + 5 * DAY_MS, since_ms=T0 + 3 * DAY_MS)) == 7
    assert_told_right(shop.store, calls.made, [Period(T0, T0 + 5 * DAY_MS)])
    assert roll(shop.store, T0 + 5 * DAY_MS) == 20


def test_more_calls_than_are_summed_at_once_are_summed_in_several_steps(
    shop: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capconduit.services.rollups.CALLS_AT_ONCE", 10)
    assert CALLS_AT_ONCE > 10
    calls = Calls(2)
    put(shop.store, calls.many(100, T0, T0 + DAY_MS))
    assert len(list(roll_up(shop.store, TENANT, T0 + 2 * DAY_MS))) > 5
    assert_told_right(shop.store, calls.made, [Period(T0, T0 + DAY_MS)])


def test_two_who_roll_up_at_once_keep_the_larger_set(shop: Till, opened: Opener) -> None:
    """One read before a late call was settled, the other after: whoever writes last, the late call stays summed."""
    calls = Calls(3)
    put(shop.store, calls.many(30, T0, T0 + QUARTER_MS))
    with shop.store.transaction(write=False) as tx:
        early = tx.rollups().fresh_rows(TENANT, T0, T0 + QUARTER_MS, RollupGrain.QUARTER)
    put(shop.store, calls.many(5, T0, T0 + QUARTER_MS))
    with shop.store.transaction(write=False) as tx:
        late = tx.rollups().fresh_rows(TENANT, T0, T0 + QUARTER_MS, RollupGrain.QUARTER)
    for order in ((early, late), (late, early)):
        for rows, names in order:
            with shop.store.transaction(write=True) as tx:
                tx.rollups().put(TENANT, rows, names)
        with shop.store.transaction(write=False) as tx:
            assert [same.kept for same in tx.rollups().equal(TENANT, T0, T0 + QUARTER_MS)] == [35]
        assert verify_rollups(shop.office()) == []
        assert_told_right(shop.store, calls.made, [Period(T0, T0 + QUARTER_MS)])


def test_many_who_roll_up_while_calls_are_settled_never_disagree(shop: Till, opened: Opener) -> None:
    calls, now_ms = Calls(4), T0 + 2 * DAY_MS
    put(shop.store, calls.many(100, T0, T0 + DAY_MS))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            other = opened(shop.store.url)
            for _ in range(3):
                for _ in roll_up_all(other, now_ms):
                    pass
        except BaseException as error:  # told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        put(shop.store, calls.many(5, T0, T0 + DAY_MS))
        span = Period(T0, T0 + DAY_MS)
        assert in_order(told(shop.store, Wanted(), span)) == in_order(slow_sum(calls.made, Wanted(), span))
    for thread in threads:
        thread.join(60)
    assert errors == []
    roll(shop.store, now_ms)
    assert verify_rollups(shop.office()) == []


def test_pruning_changes_no_report(shop: Till) -> None:
    """Sums outlive the records; what was never summed is summed before its records go."""
    calls = Calls(5)
    put(shop.store, calls.many(80, T0 - 100 * DAY_MS, T0))
    cut_ms = T0 - 50 * DAY_MS + 123_456
    list(prune(shop.store, shop.clock, before_ms=cut_ms))
    with shop.store.transaction(write=False) as tx:
        left = len(tx.rows(Cdr, TENANT))
    assert 0 < left < 80
    quarters, days = Period(T0 - 100 * DAY_MS, T0), Period(MIDNIGHT - 70 * DAY_MS, MIDNIGHT - DAY_MS)
    for wanted in ASKED:
        if wanted.kind is None or ("bucket_ms" in wanted.by and not wanted.is_fine):
            with pytest.raises(Refused, match="pruned"):
                told(shop.store, wanted, days)
            continue
        for span in (quarters, days) if wanted.is_fine else (days,):
            assert in_order(told(shop.store, wanted, span)) == in_order(slow_sum(calls.made, wanted, span))
    assert verify_rollups(shop.office()) == []


def test_where_records_are_pruned_a_quarter_hour_belongs_to_the_span_that_it_begins_in(shop: Till) -> None:
    calls, first_ms = Calls(10), T0 - 100 * DAY_MS
    put(shop.store, calls.many(60, first_ms, first_ms + 4 * QUARTER_MS))
    list(prune(shop.store, shop.clock, before_ms=T0 - 50 * DAY_MS))
    asked = Period(first_ms + 60_000, first_ms + 2 * QUARTER_MS + 60_000)
    counted = Period(first_ms + QUARTER_MS, first_ms + 3 * QUARTER_MS)
    assert in_order(told(shop.store, Wanted(), asked)) == in_order(slow_sum(calls.made, Wanted(), counted))


def test_where_records_are_pruned_a_day_by_number_belongs_to_the_span_that_it_begins_in(shop: Till) -> None:
    calls, first_ms = Calls(14), MIDNIGHT - 100 * DAY_MS
    put(shop.store, calls.many(90, first_ms, first_ms + 4 * DAY_MS))
    list(prune(shop.store, shop.clock, before_ms=T0 - 50 * DAY_MS))
    asked = Period(first_ms + 3_600_000, first_ms + 2 * DAY_MS + 3_600_000)
    counted = Period(first_ms + DAY_MS, first_ms + 3 * DAY_MS)
    wanted = Wanted(by=("did",))
    assert in_order(told(shop.store, wanted, asked)) == in_order(slow_sum(calls.made, wanted, counted))


@pytest.mark.parametrize("filters", [Filters(did="+18005550100"), Filters(trunk="east")])
def test_a_day_whose_records_are_pruned_is_told_without_the_course_that_only_they_had(
    shop: Till, filters: Filters
) -> None:
    calls, first_ms = Calls(15), MIDNIGHT - 100 * DAY_MS
    put(shop.store, calls.many(30, first_ms, first_ms + DAY_MS))
    list(prune(shop.store, shop.clock, before_ms=T0 - 50 * DAY_MS))
    day = format_instant(first_ms)[:10]
    report = make_report(shop.office(), Ask(by=ReportBy.NOTHING, period=day, zone="UTC", filters=filters))
    own = [cdr for cdr, _ in calls.made if filters.trunk in ("", cdr.trunk)]
    own = [cdr for cdr in own if not filters.did or (cdr.did_id and cdr.did == filters.did)]
    assert sum(line.sums.calls for line in report.lines if not line.mixed) == len(own)
    assert sum(line.sums.calls for line in report.trend) == 0


def test_other_tenants_calls_are_not_summed(shop: Till) -> None:
    calls = Calls(6)
    put(shop.store, [(replace(cdr, tenant_id="other"), []) for cdr, _ in calls.many(10, T0, T0 + DAY_MS)])
    assert told(shop.store, Wanted(), Period(T0, T0 + DAY_MS)) == []
    assert roll(shop.store, T0 + 3 * DAY_MS) == 0


def test_names_of_what_is_gone_are_kept(shop: Till) -> None:
    calls = Calls(8)
    put(shop.store, calls.many(40, T0, T0 + DAY_MS))
    roll(shop.store, T0 + 3 * DAY_MS)
    with shop.store.transaction(write=False) as tx:
        names = tx.rollups().names(TENANT)
    assert {("seller", "acme"), ("campaign", "wind"), ("target", "buyer2")} <= names.keys()
    assert isinstance(shop.office(), Office)


def test_the_daemon_sums_calls_beside_its_other_work(shop: Till) -> None:
    calls = Calls(12)
    put(shop.store, calls.many(20, T0, T0 + DAY_MS))
    shop.clock.pass_ms(30 * DAY_MS)

    async def work() -> list[int]:
        keeping = Housekeeping(shop.store)
        try:
            return [await keeping.sum_calls(shop.clock, whole=whole) for whole in (False, True, True)]
        finally:
            keeping.close()

    assert asyncio.run(work()) == [0, 20, 0], "what is older than some days is looked at now and then"
