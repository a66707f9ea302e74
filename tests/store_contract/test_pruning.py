"""Pruning: what is over goes, no count and no balance changes, live calls are left alone, decisions go on meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.model import (
    Account,
    Attempt,
    Call,
    Campaign,
    Cdr,
    Counter,
    Event,
    Hold,
    LedgerEntry,
    Place,
    RecentCaller,
    Seller,
    Setting,
    Tenant,
    Tombstone,
)
from capconduit.errors import DatabaseError, UsageError
from capconduit.services import growth
from capconduit.services.caps import clear_caps
from capconduit.services.growth import Pruned, prune, would_prune
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope, DialStatus, PlaceState, WindowKind
from fastagi import housekeeping
from tests.unit.estate_builder import (
    CALLER,
    T0,
    TENANT,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

DAY_MS = 86_400_000
Open = Callable[[EstateBuilder], Till]


def settings(till: Till, **values: object) -> None:
    with till.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        for name, value in values.items():
            tx.insert(Setting(tenant_id=TENANT, name=name, value=str(value), updated_ms=T0))
        tx.bump_estate()


def talked(till: Till, *names: str, **route: Any) -> None:
    """Calls of a minute each, one after the other."""
    for name in names:
        till.dial(route_of(name, **route))
        till.ask(settle_of(name, talk_ms=60_000))


def pruned(till: Till, **how: Any) -> dict[str, int | None]:
    """Prune; what went, by table."""
    return summed(list(prune(till.store, till.clock, **how)))


def summed(steps: Sequence[Pruned]) -> dict[str, int | None]:
    sums: dict[str, int | None] = {}
    for step in steps:
        sums[step.table] = None if step.rows is None else (sums.get(step.table) or 0) + step.rows
    return sums


def everything(till: Till) -> dict[str, Sequence[Any]]:
    kinds = (Account, Attempt, Call, Cdr, Counter, Event, Hold, LedgerEntry, Place, RecentCaller)
    return {kind.__name__: till.rows(kind) for kind in kinds}


def buried(store: SqlStore) -> list[str]:
    with store.transaction(write=False) as tx:
        return [row[1] for row in tx.query(mapping(Tombstone).select)]


def capped() -> EstateBuilder:
    """The small estate with a cap of every kind of window on the seller, and attempts on the target."""
    builder = small_estate()
    for window in (WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH, WindowKind.TOTAL):
        builder.cap(CapScope.SELLER, "acme", CapMetric.BILLABLE, 100, window)
    builder.cap(CapScope.SELLER, "acme", CapMetric.BILLABLE, 100, WindowKind.ROLLING, 3_600_000)
    builder.cap(CapScope.SELLER, "acme", CapMetric.MINUTES, 60_000, WindowKind.TOTAL)
    builder.cap(CapScope.SELLER, "acme", CapMetric.SPEND, 90_000_000, WindowKind.TOTAL)
    builder.cap(CapScope.SELLER, "acme", CapMetric.CPS, 50)
    builder.cap(CapScope.SELLER, "acme", CapMetric.CONCURRENT, 50)
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.ATTEMPTS, 100, WindowKind.TOTAL)
    return builder


# --- records ---------------------------------------------------------------------------------------------------------


def test_by_default_records_events_and_money_are_kept_for_ever(shop: Till) -> None:
    talked(shop, "u1", "u2")
    before = everything(shop)
    shop.clock.pass_ms(5_000 * DAY_MS)
    assert pruned(shop) == {}
    assert everything(shop) == before


def test_records_go_with_their_attempts_and_holds_when_their_days_are_over(shop: Till) -> None:
    settings(shop, cdr_keep_days=45)
    talked(shop, "old")
    shop.clock.pass_ms(45 * DAY_MS)
    talked(shop, "young")
    money = shop.rows(LedgerEntry), shop.rows(Account)
    assert pruned(shop) == {}  # not a millisecond too early
    shop.clock.pass_ms(1)
    assert pruned(shop) == {"attempt": 1, "hold": 1, "cdr": 1}
    assert [c.uniqueid for c in shop.rows(Cdr)] == ["young"]
    kept = shop.rows(Cdr)[0].call_id
    assert {a.call_id for a in [*shop.rows(Attempt), *shop.rows(Hold)]} == {kept}
    assert (shop.rows(LedgerEntry), shop.rows(Account)) == money
    shop.verify()
    assert pruned(shop) == {}


def test_records_are_kept_for_as_long_as_new_caps_count_from_them(shop: Till) -> None:
    settings(shop, cdr_keep_days=1)
    talked(shop, "u1")
    shop.clock.pass_ms(growth.CDR_DAYS_LEAST * DAY_MS)
    assert pruned(shop) == {}
    shop.clock.pass_ms(1)
    assert pruned(shop) == {"attempt": 1, "hold": 1, "cdr": 1}


def test_events_have_days_of_their_own(shop: Till) -> None:
    settings(shop, event_keep_days=10)
    talked(shop, "u1")
    told = len(shop.rows(Event))
    shop.clock.pass_ms(10 * DAY_MS + 1)
    talked(shop, "u2")
    assert pruned(shop) == {"event": told}
    assert len(shop.rows(Event)) == told
    assert len(shop.rows(Cdr)) == 2


def test_a_day_that_is_given_stands_instead_of_the_settings(shop: Till) -> None:
    talked(shop, "old")
    told = len(shop.rows(Event))
    shop.clock.pass_ms(60 * DAY_MS)
    talked(shop, "young")
    before_ms = T0 + 10 * DAY_MS
    assert would_prune(shop.store, shop.clock, before_ms=before_ms) == [
        Pruned("cdr", 1), Pruned("attempt", 1), Pruned("hold", 1), Pruned("event", told),
    ]  # fmt: skip
    pruned(shop, before_ms=before_ms)
    assert [c.uniqueid for c in shop.rows(Cdr)] == ["young"]
    shop.verify()


def test_a_day_that_is_too_young_is_refused(shop: Till) -> None:
    with pytest.raises(UsageError) as caught:
        pruned(shop, before_ms=T0 - 39 * DAY_MS)
    assert caught.value.slug == "before-too-young"


def test_an_end_that_comes_again_after_its_record_is_gone_charges_nothing(shop: Till) -> None:
    talked(shop, "u1")
    shop.clock.pass_ms(100 * DAY_MS)
    pruned(shop, before_ms=shop.clock.now_ms() - 50 * DAY_MS)
    before = shop.account(), shop.rows(LedgerEntry)
    shop.ask(settle_of("u1", talk_ms=60_000))
    assert (shop.account(), shop.rows(LedgerEntry)) == before
    assert buried(shop.store) == ["u1"]


# --- places and counters ---------------------------------------------------------------------------------------------


def test_what_places_counted_stays_in_their_counters(open_shop: Open) -> None:
    till = open_shop(capped())
    talked(till, "u1", "u2")
    till.dial(route_of("u3"))
    till.ask(settle_of("u3"))  # cancelled: counts as an attempt only
    used = {(c.cap_id, c.window_start_ms): (c.used, c.in_flight) for c in till.rows(Counter)}
    till.clock.pass_ms(35 * DAY_MS + 1)
    till.verify()
    gone = pruned(till)
    assert gone["place"]
    assert till.rows(Place) == []
    till.verify()
    left = {(c.cap_id, c.window_start_ms): (c.used, c.in_flight) for c in till.rows(Counter)}
    assert left.items() <= used.items()
    assert {c.cap_id for c in till.rows(Counter) if c.used} == {
        "cap:seller:acme:billable:hour", "cap:seller:acme:billable:day", "cap:seller:acme:billable:week",
        "cap:seller:acme:billable:month", "cap:seller:acme:billable:total", "cap:seller:acme:minutes:total",
        "cap:seller:acme:spend:total", "cap:target:buyer1:attempts:total",
    }  # fmt: skip  # rolling windows and seconds are over
    assert all(c.base == c.used for c in till.rows(Counter))


def test_a_total_that_was_folded_still_closes_its_cap(open_shop: Open) -> None:
    builder = small_estate()
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 2, WindowKind.TOTAL)
    till = open_shop(builder)
    talked(till, "u1", "u2")
    till.clock.pass_ms(50 * DAY_MS)
    assert pruned(till)["place"] == 2
    assert till.reject(route_of("u3")).code == "cap_reached"
    till.verify()


def test_places_are_kept_while_they_are_to_be_recounted_and_for_ever_where_that_is_wanted(open_shop: Open) -> None:
    till = open_shop(capped())
    talked(till, "u1")
    places = till.rows(Place)
    till.clock.pass_ms(35 * DAY_MS)
    pruned(till)
    assert till.rows(Place) == places
    settings(till, place_keep_days=0)
    till.clock.pass_ms(500 * DAY_MS)
    pruned(till)
    assert till.rows(Place) == places
    till.verify()


def test_counters_go_when_their_window_is_long_over_and_no_place_counts_in_it(open_shop: Open) -> None:
    till = open_shop(capped())
    talked(till, "u1")
    till.clock.pass_ms(80 * DAY_MS)
    talked(till, "u2")
    pruned(till)
    of_first = [c for c in till.rows(Counter) if c.base]
    assert {c.window_start_ms for c in of_first} == {0}  # totals alone remember it
    starts = {c.window_start_ms for c in till.rows(Counter) if c.window_start_ms}
    assert starts
    assert min(starts) > till.clock.now_ms() - 31 * DAY_MS
    till.verify()


def test_seconds_that_are_over_go_and_the_one_of_now_stays(open_shop: Open) -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.SYSTEM, TENANT, CapMetric.CPS, 1)
    till = open_shop(builder)
    talked(till, "u1")
    till.clock.pass_ms(growth.HOUR_MS + 100)
    till.dial(route_of("u2"))
    assert pruned(till) == {"counter": 1}
    assert len([c for c in till.rows(Counter, cap_id=cap.id) if c.window_start_ms]) == 1
    assert till.reject(route_of("u3")).code == "cps_limit"


def test_buckets_that_are_over_go_and_those_in_the_window_still_count(open_shop: Open) -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.SELLER, "acme", CapMetric.BILLABLE, 3, WindowKind.ROLLING, 30 * DAY_MS)
    till = open_shop(builder)
    talked(till, "u1")
    till.clock.pass_ms(20 * DAY_MS)
    talked(till, "u2")
    till.clock.pass_ms(20 * DAY_MS)
    talked(till, "u3", "u4")
    assert pruned(till) == {"place": 1, "counter": 1}
    assert sorted(c.used for c in till.rows(Counter, cap_id=cap.id) if c.window_start_ms) == [1, 2]
    assert till.reject(route_of("u5")).code == "cap_reached"  # u2, u3 and u4 lie in the window
    till.verify()


@pytest.mark.parametrize(
    ("window", "window_ms"),
    [(WindowKind.MONTH, 0), (WindowKind.WEEK, 0), (WindowKind.TOTAL, 0), (WindowKind.ROLLING, 10 * DAY_MS)],
)
def test_a_window_that_is_not_over_counts_on_without_its_places(
    open_shop: Open, window: WindowKind, window_ms: int
) -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.SELLER, "acme", CapMetric.BILLABLE, 2, window, window_ms)
    till = open_shop(builder)
    settings(till, place_keep_days=1)
    talked(till, "u1")
    till.clock.pass_ms(2 * DAY_MS)
    talked(till, "u2")
    till.clock.pass_ms(2 * DAY_MS)  # from Monday to Friday
    assert pruned(till) == {"place": 2}
    assert till.count(cap) == (2, 0)
    assert till.reject(route_of("u3")).code == "cap_reached"
    till.verify()


def test_counters_of_a_cap_that_is_gone_go_with_its_last_place(open_shop: Open) -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.SELLER, "acme", CapMetric.BILLABLE, 9, WindowKind.TOTAL)
    till = open_shop(builder)
    talked(till, "u1")
    till.dial(route_of("live"))
    clear_caps(till.office(), CapScope.SELLER, "acme")
    till.clock.pass_ms(36 * DAY_MS)
    pruned(till)
    (counter,) = till.rows(Counter, cap_id=cap.id)
    assert (counter.used, counter.in_flight, counter.base) == (1, 1, 1)
    till.ask(settle_of("live"))
    till.verify()
    pruned(till)
    assert till.rows(Counter, cap_id=cap.id) == []
    till.verify()


# --- what else is over -----------------------------------------------------------------------------------------------


def test_tombstones_go_after_their_days(shop: Till) -> None:
    shop.ask(settle_of("early"))
    shop.clock.pass_ms(growth.TOMBSTONE_DAYS * DAY_MS)
    shop.ask(settle_of("later"))
    assert pruned(shop) == {}
    shop.clock.pass_ms(1)
    assert pruned(shop) == {"tombstone": 1}
    assert buried(shop.store) == ["later"]


def test_callers_are_forgotten_when_no_duplicate_window_can_reach_them(open_shop: Open) -> None:
    builder = small_estate(duplicate_window_ms=2 * DAY_MS)
    till = open_shop(builder)
    talked(till, "u1")
    till.clock.pass_ms(2 * DAY_MS + growth.CALLER_SLACK_MS)
    talked(till, "u2", ani="+12125550148")
    assert pruned(till) == {}
    till.clock.pass_ms(1)
    assert pruned(till) == {"recent_caller": 1}
    assert [c.caller for c in till.rows(RecentCaller)] == ["+12125550148"]
    assert till.reject(route_of("u3", ani="+12125550148")).code == "duplicate_caller"
    till.dial(route_of("u4", ani=CALLER))


def test_a_call_that_is_alive_for_long_is_left_alone(open_shop: Open) -> None:
    """Its attempts, places and hold are older than anything that is kept; it goes on and is settled exactly."""
    builder = capped()
    builder.target("buyer2")
    till = open_shop(builder)
    settings(till, cdr_keep_days=40)
    till.dial(route_of("live"))
    till.dial(attempt_of("live", 1, DialStatus.BUSY))
    till.ask(answer_of("live", answered_ms=T0 + 1_000))
    talked(till, "over")
    live = till.rows(Call)[0]
    kinds = (Attempt, Place, Hold)
    mine = [till.rows(kind, call_id=live.id) for kind in kinds]
    assert any(p.counted for p in mine[1])  # the attempt that failed over
    till.clock.pass_ms(400 * DAY_MS)
    pruned(till, before_ms=till.clock.now_ms() - 50 * DAY_MS)
    assert till.rows(Cdr) == []
    assert [till.rows(kind, call_id=live.id) for kind in kinds] == mine
    assert till.rows(Call) == [live]
    till.verify()
    till.ask(extend_of("live"))
    balance = till.account().balance_micros
    till.ask(settle_of("live", attempt=2, talk_ms=60_000))
    assert till.account().balance_micros == balance - 200_000
    assert till.account().held_micros == 0
    till.verify()
    pruned(till)  # it was admitted so long ago that it goes at once
    assert (till.rows(Attempt), till.rows(Place), till.rows(Hold), till.rows(Cdr)) == ([], [], [], [])
    till.verify()


# --- how it is done --------------------------------------------------------------------------------------------------


def test_transactions_are_small_and_decisions_go_on_between_them(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "CALLS_AT_ONCE", 2)
    till = open_shop(capped())
    settings(till, cdr_keep_days=40)
    talked(till, *(f"u{n}" for n in range(5)))
    places = len(till.rows(Place))
    till.clock.pass_ms(41 * DAY_MS)
    steps = []
    for step in prune(till.store, till.clock):
        steps.append(step)
        talked(till, f"v{len(steps)}")
        till.verify()  # at every moment
    assert [s.rows for s in steps if s.table == "cdr"] == [2, 2, 1]
    assert summed(steps)["place"] == places
    assert max(s.rows or 0 for s in steps if s.table == "place") <= 2 * places // 5
    assert len(till.rows(Cdr)) == len(steps)


def test_pruning_that_is_broken_off_leaves_everything_adding_up(
    open_shop: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "CALLS_AT_ONCE", 1)
    till = open_shop(capped())
    talked(till, "u1", "u2", "u3")
    till.clock.pass_ms(41 * DAY_MS)
    assert next(prune(till.store, till.clock)).table == "place"
    till.verify()
    assert len({p.call_id for p in till.rows(Place)}) == 2
    pruned(till)
    assert till.rows(Place) == []
    till.verify()


def test_two_that_prune_at_once_fold_each_place_once(open_shop: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "CALLS_AT_ONCE", 3)
    till = open_shop(capped())
    talked(till, *(f"u{n}" for n in range(20)))
    till.clock.pass_ms(36 * DAY_MS)
    errors: list[BaseException] = []
    start = threading.Barrier(3)

    def work(job: Callable[[], object]) -> None:
        start.wait(30)
        try:
            job()
        except BaseException as error:
            errors.append(error)

    def decide() -> None:
        talked(till, *(f"v{n}" for n in range(15)))

    jobs: list[Callable[[], object]] = [decide, lambda: pruned(till), lambda: pruned(till)]
    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len({p.call_id for p in till.rows(Place)}) == 15
    till.verify()


def test_a_place_that_nobody_gave_back_is_left_for_verifying_to_find(open_shop: Open) -> None:
    till = open_shop(capped())
    talked(till, "u1")
    place = next(p for p in till.rows(Place) if p.counted)
    with till.store.transaction(write=True) as tx:
        tx.update(replace(place, state=PlaceState.HELD))
    till.clock.pass_ms(50 * DAY_MS)
    pruned(till)
    assert [(p.cap_id, p.state) for p in till.rows(Place)] == [(place.cap_id, PlaceState.HELD)]
    with pytest.raises(AssertionError):
        till.verify()


def test_a_rehearsal_counts_and_changes_nothing(open_shop: Open) -> None:
    till = open_shop(capped())
    settings(till, cdr_keep_days=40, event_keep_days=40)
    talked(till, "u1", "u2")
    till.clock.pass_ms(41 * DAY_MS)
    before = everything(till)
    told = {p.table: p.rows for p in would_prune(till.store, till.clock)}
    assert everything(till) == before
    done = pruned(till)
    done.pop("counter")  # more become free when their places are pruned
    told.pop("counter")
    assert done == told
    assert done["cdr"] == 2


# --- months ----------------------------------------------------------------------------------------------------------


def test_the_daemon_drops_whole_months_and_leaves_the_rest_of_one_where_there_are_months(shop: Till) -> None:
    settings(shop, cdr_keep_days=40, event_keep_days=40)
    talked(shop, "march")  # T0 is 2026-03-02
    shop.clock.pass_ms(31 * DAY_MS)
    talked(shop, "april")
    april = {e.id for e in shop.rows(Event) if e.at_ms > T0}
    shop.clock.pass_ms(43 * DAY_MS)  # 2026-05-15: April is in part over
    shop.store.ensure_partitions(shop.clock.now_ms())
    gone = pruned(shop, exact=False)
    if shop.store.monthly:
        assert gone == {"cdr_202603": None, "event_202603": None, "attempt": 1, "hold": 1}
        assert [c.uniqueid for c in shop.rows(Cdr)] == ["april"]
        assert {e.id for e in shop.rows(Event)} == april
        assert {h.call_id for h in shop.rows(Hold)} == {shop.rows(Cdr)[0].call_id}
        gone = pruned(shop)
    assert gone["cdr"] == (1 if shop.store.monthly else 2)
    assert (shop.rows(Cdr), shop.rows(Event), shop.rows(Attempt), shop.rows(Hold)) == ([], [], [], [])
    shop.verify()


def test_a_month_that_one_tenant_wants_stays_and_the_others_rows_go(shop: Till) -> None:
    settings(shop, cdr_keep_days=40)
    talked(shop, "u1")
    own = shop.rows(Cdr)[0]
    other = replace(own, call_id=own.call_id[:-1] + ("0" if own.call_id[-1] != "0" else "1"), tenant_id="X", node="n2")
    with shop.store.transaction(write=True) as tx:
        tx.insert(Tenant(id="X", name="other", created_ms=T0, updated_ms=T0))
        tx.insert(other)
        tx.bump_estate()
    shop.clock.pass_ms(100 * DAY_MS)
    assert pruned(shop, exact=False) == {"attempt": 1, "hold": 1, "cdr": 1}
    with shop.store.transaction(write=False) as tx:
        assert tx.rows(Cdr, "X") == [other]


def test_a_seller_that_is_gone_leaves_nothing_to_stumble_over(open_shop: Open) -> None:
    """Pruning needs no campaign, no cap and no target."""
    builder = EstateBuilder()
    builder.seller()
    till = open_shop(builder)
    assert pruned(till) == {}
    assert till.rows(Campaign) == []
    assert len(till.rows(Seller)) == 1


# --- the daemon's part -----------------------------------------------------------------------------------------------


def test_the_daemon_makes_months_and_prunes_by_itself(shop: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look fails: it is tried again."""
    monkeypatch.setattr(housekeeping, "GROWTH_FIRST_S", 0)
    monkeypatch.setattr(housekeeping, "GROWTH_RETRY_S", 0)
    settings(shop, cdr_keep_days=40)
    talked(shop, "u1")
    shop.clock.pass_ms(80 * DAY_MS)
    talked(shop, "u2")
    tries = iter([DatabaseError("database-busy", "busy"), ValueError("a bug")])
    ensure = type(shop.store).ensure_partitions

    def failing_first(store: SqlStore, now_ms: int) -> list[str]:
        for error in tries:
            raise error
        return ensure(store, now_ms)

    monkeypatch.setattr(type(shop.store), "ensure_partitions", failing_first)

    async def until_pruned() -> None:
        house = housekeeping.Housekeeping(shop.store)
        looking = asyncio.create_task(housekeeping.look_after_growth(house, shop.clock))
        try:
            async with asyncio.timeout(30):
                while len(shop.rows(Cdr)) > 1 or shop.rows(Hold, call_id=old.call_id):  # noqa: ASYNC110 - a database
                    await asyncio.sleep(0.01)
                assert await house.grow(shop.clock) == {}  # all of it was done
        finally:
            looking.cancel()
            house.close()

    old = next(c for c in shop.rows(Cdr) if c.uniqueid == "u1")
    asyncio.run(until_pruned())
    assert [c.uniqueid for c in shop.rows(Cdr)] == ["u2"]
    if shop.store.monthly:
        with shop.store.transaction(write=False) as tx:
            assert tx.query("SELECT to_regclass('cdr_202607') IS NOT NULL")[0][0]  # two months ahead of 2026-05-21
    shop.verify()
