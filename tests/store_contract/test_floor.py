"""The live picture of a floor, fed by commits and by readings, on both engines; and events as they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.events import event
from capconduit.domain.model import Cap, Cdr, Event
from capconduit.domain.needs import Command
from capconduit.errors import NotFound
from capconduit.services.caps import cap_usage
from capconduit.services.engine import Committed, Engine
from capconduit.services.events import Wish, check_kinds, each_event, events_from, list_events, show_event
from capconduit.services.floor import Floor
from capconduit.services.floor_reading import EVENTS, Reading, read
from capconduit.vocab import CapMetric, CapScope, EventKind, RejectCode, WindowKind
from capconduit_cli.commands.cap import USAGE_COLUMNS, row
from capconduit_cli.output import json_object
from tests.unit.estate_builder import (
    CALLER,
    DOLLAR,
    MINUTE_MS,
    NODE,
    TENANT,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    route_of,
    settle_of,
    small_estate,
)

ALL = 10_000
HOUR_MS = 60 * MINUTE_MS
Shop = Callable[[EstateBuilder], Till]


class Watching:
    """A floor beside a till, as `node` sees it: what the till commits is `NODE`'s."""

    def __init__(self, till: Till, node: str = "elsewhere") -> None:
        self.till = till
        with till.store.transaction(write=False) as tx:
            tenant = next(tenant for tenant in tx.tenants() if tenant.id == TENANT)
        self.floor = Floor(tenant, node)
        self.told: list[tuple[str, Any]] = []

    def begin(self, *, whole: bool = False, recount: bool = False) -> Reading:
        """Read, and keep what was read for later."""
        wanted = self.floor.begin(self.till.clock.now_ms(), whole=whole, estate=None, recount=recount)
        with self.till.store.transaction(write=False) as tx:
            return read(tx, wanted)

    def put(self, reading: Reading) -> list[str]:
        self.floor.put(reading, self.till.clock.now_ms())
        return self.flush()

    def look(self, **how: bool) -> list[str]:
        """A whole look; the types of what it changed."""
        return self.put(self.begin(**how))

    def ask(self, command: Command) -> Any:
        """Decide on this floor's own node: it is told of the commit."""
        answer = self.till.ask(command)
        engine = self.till.engine
        self.floor.take(Committed(engine._books, list(engine._changes)), self.till.clock.now_ms())
        return answer

    def flush(self) -> list[str]:
        fresh = [(kind, json.loads(text)) for kind, text in self.floor.flush(self.till.clock.now_ms(), ALL)]
        self.told += fresh
        return [kind for kind, _ in fresh]

    def picture(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.floor.picture(self.till.clock.now_ms(), "boot", b"null"))
        return told

    def objects(self) -> dict[str, Any]:
        picture = self.picture()
        return {name: picture[name] for name in ("calls", "caps", "balances", "targets", "campaigns")}

    def same_as_fresh(self) -> None:
        """What is shown is what a first look shows."""
        self.floor.tick(self.till.clock.now_ms())
        self.flush()
        fresh = Watching(self.till)
        fresh.look()
        assert self.objects() == fresh.objects()

    def gone(self) -> list[Any]:
        return [data for kind, data in self.told if kind == "call-gone"]


def capped() -> EstateBuilder:
    """The small estate with a cap of every kind of window."""
    builder = small_estate()
    builder.target("second")
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 10)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONNECTED, 200, WindowKind.DAY)
    builder.cap(CapScope.SELLER, "acme", CapMetric.SPEND, 50 * DOLLAR, WindowKind.TOTAL)
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.MINUTES, 6_000, WindowKind.HOUR)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CPS, 50)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.ATTEMPTS, 100, WindowKind.ROLLING, 10 * MINUTE_MS)
    return builder


@pytest.fixture
def till(open_shop: Shop) -> Till:
    return open_shop(capped())


@pytest.mark.parametrize("own", [True, False], ids=["commits", "readings"])
def test_a_call_is_followed_by_commits_and_by_readings_alike(till: Till, own: bool) -> None:
    watching = Watching(till, NODE if own else "elsewhere")
    watching.look()
    step = watching.flush if own else watching.look
    ask = watching.ask if own else till.ask
    ask(route_of())
    assert {"call", "balance", "cap", "target", "event"} <= set(step())
    (call,) = watching.picture()["calls"]
    assert (call["state"], call["node"], call["from"], call["answered"]) == ("dialing", NODE, CALLER, None)
    watching.same_as_fresh()
    till.clock.pass_ms(2_000)
    ask(attempt_of())
    step()
    assert watching.picture()["calls"][0]["target"] == "second"
    watching.same_as_fresh()
    till.clock.pass_ms(2_000)
    ask(answer_of(answered_ms=till.clock.now_ms()))
    step()
    (balance,) = watching.picture()["balances"]
    assert balance["burn_per_minute"] == "0.200000"
    assert balance["empty_at"] == "2026-03-02T20:20:04.000Z", "100 dollars at 0.20 a minute last 500 minutes"
    watching.same_as_fresh()
    till.clock.pass_ms(30_000)
    ask(settle_of(talk_ms=30_000, attempt=2))
    step()
    assert watching.picture()["calls"] == []
    (gone,) = watching.gone()
    assert (gone["outcome"], gone["talk_ms"], gone["billed"]) == ("completed", 30_000, "0.200000")
    by_name = {target["name"]: target for target in watching.picture()["targets"]}
    assert (by_name["second"]["calls_today"], by_name["second"]["acd_ms"], by_name["second"]["asr"]) == (1, 30_000, 1.0)
    assert (by_name["buyer1"]["calls_today"], by_name["buyer1"]["answered_today"]) == (1, 0)
    watching.same_as_fresh()
    watching.look()
    watching.look(whole=True)
    watching.look(recount=True)
    watching.same_as_fresh()
    assert len(watching.gone()) == 1
    kinds = [data["kind"] for kind, data in watching.told if kind == "event"]
    assert sorted(kinds) == sorted(row.kind for row in till.rows(Event)), "each event once"


def test_a_reading_does_not_undo_what_was_committed_meanwhile(till: Till) -> None:
    watching = Watching(till, NODE)
    watching.look()
    watching.ask(route_of("u1"))
    watching.flush()
    reading = watching.begin(whole=True)
    watching.ask(settle_of("u1"))
    watching.ask(route_of("u2"))
    watching.flush()
    watching.put(reading)
    assert [call["uniqueid"] for call in watching.picture()["calls"]] == ["u2"]
    assert len(watching.gone()) == 1
    ids = [data["id"] for kind, data in watching.told if kind == "event"]
    assert sorted(ids) == sorted(row.id for row in till.rows(Event)), "each event once"
    watching.same_as_fresh()


def test_a_call_of_another_node_that_was_there_already_is_seen_to_end(till: Till) -> None:
    till.ask(route_of())
    watching = Watching(till)
    watching.look()
    till.ask(settle_of(talk_ms=1_000))
    watching.look()
    assert [gone["outcome"] for gone in watching.gone()] == ["completed"]
    watching.same_as_fresh()


def test_a_target_that_was_taken_and_never_dialled_counts_no_dial(till: Till) -> None:
    watching = Watching(till, NODE)
    watching.look()
    watching.ask(route_of())
    watching.ask(settle_of(reject=RejectCode.ENGINE_TIMEOUT, dialstatus=None, hangup_cause=0))
    watching.flush()
    for how in ({}, {"recount": True}):
        watching.look(**how)
        assert [target["calls_today"] for target in watching.picture()["targets"]] == [0, 0]


def test_what_was_committed_before_the_first_reading_is_there_is_not_lost(till: Till) -> None:
    watching = Watching(till, NODE)
    watching.ask(route_of("u1"))
    reading = watching.begin()
    watching.ask(route_of("u2"))
    watching.ask(settle_of("u1"))
    watching.put(reading)
    assert [call["uniqueid"] for call in watching.picture()["calls"]] == ["u2"]
    watching.same_as_fresh()


def test_a_call_that_came_and_went_between_two_readings_is_counted(till: Till) -> None:
    watching = Watching(till)
    watching.look()
    till.ask(route_of())
    till.ask(settle_of(talk_ms=1_000))
    watching.look()
    assert next(t for t in watching.picture()["targets"] if t["name"] == "buyer1")["calls_today"] == 1
    assert watching.gone() == []
    watching.same_as_fresh()


def test_a_call_is_counted_once_whoever_tells_of_it(till: Till) -> None:
    watching = Watching(till, NODE)
    watching.look()
    watching.ask(route_of())
    watching.ask(settle_of(talk_ms=1_000))
    for how in ({}, {"whole": True}, {"recount": True}):
        watching.look(**how)
        assert next(t for t in watching.picture()["targets"] if t["name"] == "buyer1")["calls_today"] == 1


def cap_of(watching: Watching, window: str) -> tuple[Any, Any]:
    cap = next(cap for cap in watching.picture()["caps"] if cap["window"] == window)
    return cap["used"], cap["in_flight"]


def test_windows_begin_anew_without_a_reading(till: Till) -> None:
    watching = Watching(till, NODE)
    watching.look()
    watching.ask(route_of())
    watching.ask(settle_of(talk_ms=90_000))
    watching.flush()
    assert (cap_of(watching, "day"), cap_of(watching, "hour")) == ((1, 0), (90, 0))
    assert cap_of(watching, "rolling:10m") == (1, 0)
    till.clock.pass_ms(11 * MINUTE_MS)
    watching.floor.tick(till.clock.now_ms())
    watching.flush()
    assert cap_of(watching, "rolling:10m") == (0, 0)
    assert cap_of(watching, "hour") == (90, 0)
    till.clock.pass_ms(HOUR_MS)
    watching.floor.tick(till.clock.now_ms())
    watching.flush()
    assert (cap_of(watching, "day"), cap_of(watching, "hour")) == ((1, 0), (0, 0))
    till.clock.pass_ms(24 * HOUR_MS)
    watching.floor.tick(till.clock.now_ms())
    watching.flush()
    assert (cap_of(watching, "day"), cap_of(watching, "total")) == ((0, 0), ("0.400000", "0.000000"))
    watching.look()
    watching.same_as_fresh()
    assert next(t for t in watching.picture()["targets"] if t["name"] == "buyer1")["calls_today"] == 0


def test_caps_are_shown_as_the_command_prints_them(open_shop: Shop) -> None:
    builder = capped()
    for scope, name in (
        (CapScope.RULE, "solar/buyer1"), (CapScope.CAMPAIGN, "solar"), (CapScope.DID, "did+18005550100"),
        (CapScope.SYSTEM, TENANT), (CapScope.TARGET, "second"), (CapScope.TRUNK, "carrier"),
    ):  # fmt: skip
        builder.cap(scope, name, CapMetric.SPEND, 7 * DOLLAR, WindowKind.WEEK)
    till = open_shop(builder)
    till.ask(route_of())
    watching = Watching(till)
    watching.look()
    shown = {cap["id"]: cap for cap in watching.picture()["caps"]}
    views = cap_usage(till.office(tenant=tenant_name(till)))
    assert len(views) == len(shown) == 12
    for view in views:
        printed = json_object(row(view), USAGE_COLUMNS)
        mine = shown[view.cap.id]
        for key in ("scope", "metric", "used", "in_flight", "limit", "free", "resets", "unit", "currency"):
            assert mine[key] == printed[key], (view.cap.id, key)
        assert (mine["subject"], mine["window"]) == (printed["name"], printed["window"] or "none")


def test_calls_per_second_are_over_after_a_second(till: Till) -> None:
    watching = Watching(till, NODE)
    watching.look()
    till.clock.pass_ms(5_000)
    watching.floor.tick(till.clock.now_ms())  # so that no minute begins below
    watching.ask(route_of())
    for expected in (1, 0):
        watching.floor.tick(till.clock.now_ms())
        watching.flush()
        (cap,) = [cap for cap in watching.picture()["caps"] if cap["metric"] == "cps"]
        assert cap["used"] == expected
        till.clock.pass_ms(2_000)


def test_what_is_as_it_was_is_not_told_again(till: Till) -> None:
    watching = Watching(till)
    watching.look()
    watching.told.clear()
    assert watching.look(whole=True, recount=True) == []


def test_what_is_removed_is_gone(till: Till) -> None:
    watching = Watching(till)
    watching.look()
    (cap,) = [cap for cap in watching.picture()["caps"] if cap["window"] == "day"]
    with till.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        tx.delete(tx.find(Cap, TENANT, id=cap["id"]))
        tx.bump_estate()
    watching.look()
    (told,) = [data for kind, data in watching.told if kind == "cap" and data.get("gone")]
    assert told["id"] == cap["id"]
    watching.same_as_fresh()


def test_an_event_whose_id_is_older_is_told_when_it_is_there(till: Till) -> None:
    """Two nodes' clocks differ, and ids are made before they are committed."""
    watching = Watching(till)
    watching.look()

    def happened(ago_ms: int) -> Event:
        at_ms = till.clock.now_ms() - ago_ms
        clock = type(till.clock)(at_ms, seed=ago_ms)
        made = event(clock.new_id, TENANT, at_ms, EventKind.TARGET_RESTED, "buyer", failures=3)
        with till.store.transaction(write=True) as tx:
            tx.insert(made)
        return made

    till.clock.pass_ms(HOUR_MS)
    for ago_ms, how in ((0, {}), (2_000, {}), (50_000, {"whole": True})):
        made = happened(ago_ms)
        watching.look(**how)
        assert watching.told[-1][1]["id"] == made.id
    assert [told["id"] for told in watching.picture()["events"]] == sorted(row.id for row in till.rows(Event))


def test_a_picture_has_the_last_events_only(till: Till) -> None:
    with till.store.transaction(write=True) as tx:
        for _ in range(EVENTS + 20):
            till.clock.pass_ms(1)
            tx.insert(event(till.clock.new_id, TENANT, till.clock.now_ms(), EventKind.CAP_REACHED, "c"))
    watching = Watching(till)
    watching.look()
    ids = sorted(row.id for row in till.rows(Event))
    assert [told["id"] for told in watching.picture()["events"]] == ids[-EVENTS:]
    assert watching.look() == [], "and those before are not news"


def test_another_tenants_floor_is_not_shown(till: Till) -> None:
    other = EstateBuilder(tenant_id="other")
    other.tenants[0] = replace(other.tenants[0], name="other")
    other.seller("theirs", balance=5 * DOLLAR)
    other.rate("their-rate")
    other.campaign("their-campaign", seller="theirs", rate="their-rate")
    other.did("+18005550199", campaign="their-campaign")
    other.target("their-target", campaign="their-campaign")
    other.insert_into(till.store)
    watching = Watching(till, NODE)
    watching.look()
    watching.ask(route_of("theirs", dnid="+18005550199"))
    assert watching.flush() == []
    assert watching.look(whole=True) == []
    assert [target["name"] for target in watching.picture()["targets"]] == ["buyer1", "second"]


# --- the engine's word ------------------------------------------------------------------------------------------------


def test_a_listener_is_told_after_the_commit_and_its_failure_harms_nobody(till: Till) -> None:
    engine = Engine(till.store, till.clock)
    seen: list[int] = []

    def listen(committed: Committed) -> None:
        assert [changes.calls or changes.cdrs for changes in committed.changes]
        seen.append(len(till.rows(Event)))
        raise RuntimeError("a bug of whoever listens")

    engine.start()
    try:
        engine.ask(route_of("u1"), 10)
        engine.on_commit = listen
        engine.ask(route_of("u2"), 10)
        engine.ask(settle_of("u2"), 10)
        engine.on_commit = None
        engine.ask(settle_of("u1"), 10)
    finally:
        assert engine.stop(10)
    assert len(seen) == 2
    assert seen[0] >= 2, "what is told is in the database already"
    assert len(till.rows(Cdr)) == 2


# --- events -----------------------------------------------------------------------------------------------------------


def test_events_are_read_both_ways_in_pages_and_filtered(till: Till) -> None:
    for number in range(7):
        till.clock.pass_ms(1_000)
        till.ask(route_of(f"u{number}"))
        till.ask(settle_of(f"u{number}"))
    office = till.office(tenant=tenant_name(till))
    rows = sorted(till.rows(Event), key=lambda row: row.id)
    assert list(list_events(office, Wish(), page=3)) == rows[::-1]
    assert list(each_event(office, Wish(), "", page=3)) == rows
    assert list(each_event(office, Wish(), rows[4].id, page=2)) == rows[4:]
    assert list(events_from(office, rows[4].id, 2)) == rows[4:6]
    started = [row for row in rows if row.kind is EventKind.CALL_STARTED]
    assert list(each_event(office, Wish(("call.started",)), "", page=3)) == started
    assert list(list_events(office, Wish(("call.*", "x"), (started[2].subject, "nobody")), page=1))[-1] == started[2]
    later = list(list_events(office, Wish(), since_ms=started[3].at_ms, until_ms=started[5].at_ms))
    assert {row.at_ms for row in later} == {started[3].at_ms, started[4].at_ms}
    assert show_event(office, rows[0].id.lower()) == rows[0]
    with pytest.raises(NotFound):
        show_event(office, "nothing")
    assert check_kinds(["call.*"]) == ["call.*"]


def tenant_name(till: Till) -> str:
    with till.store.transaction(write=False) as tx:
        return next(tenant.name for tenant in tx.tenants() if tenant.id == TENANT)
