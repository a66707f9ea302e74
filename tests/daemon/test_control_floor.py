"""What a viewer ends up with who follows changes, next to one who looks anew: names that others take, second prices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.model import Campaign, Seller, Target
from capconduit.services import balances, campaigns, dids, rates, sellers, targets, trunks
from capconduit.services.engine import Engine
from capconduit.services.floor import Floor
from capconduit.services.floor_reading import read
from capconduit.services.office import Desk, Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit.vocab import TargetKind, TrunkKind
from fastagi import floor as live_floor
from fastagi.floor_pulse import Pulse
from tests.daemon.rig import until
from tests.daemon.test_control_hub import told
from tests.daemon.viewer import KEYS, PLURAL
from tests.unit.estate_builder import FakeClock, answer_of, route_of

OBJECTS = 500
ENGINE_S = 40


class Follower:
    """A floor of a database, and what a viewer makes of its messages."""

    def __init__(self, office: Office, clock: FakeClock, at_once: int = OBJECTS) -> None:
        self._office = office
        self._clock = clock
        self._at_once = at_once
        (tenant,) = office.read(lambda desk: desk.tx.tenants())
        self.floor = Floor(tenant, "")
        self.seen: dict[str, dict[str, Any]] = {kind: {} for kind in KEYS}

    def look(self) -> None:
        """A reading, and all messages of it."""

        def work(desk: Desk) -> None:
            now_ms = self._clock.now_ms()
            wanted = self.floor.begin(now_ms, whole=True, estate=None, recount=False)
            self.floor.put(read(desk.tx, wanted), now_ms)

        self._office.read(work)
        self.take()

    def take(self) -> None:
        """All messages that there are."""
        while self.floor.dirty:
            for kind, data in self.floor.flush(self._clock.now_ms(), self._at_once):
                if kind not in KEYS:
                    continue
                told = json.loads(data)
                if told.get("gone"):
                    self.seen[kind].pop(told[KEYS[kind]], None)
                else:
                    self.seen[kind][told[KEYS[kind]]] = told

    def fresh(self) -> dict[str, dict[str, Any]]:
        """The same as somebody sees it who comes now."""
        picture = json.loads(self.floor.picture(self._clock.now_ms(), "", b"null"))
        return {kind: {row[KEYS[kind]]: row for row in picture[PLURAL[kind]]} for kind in KEYS}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def office(tmp_path: Path, clock: FakeClock) -> Any:
    store = open_store(f"sqlite:///{tmp_path}/f.sqlite", create=True)
    prepare_database(store, clock)
    office = Office(store, clock, actor="test")
    sellers.add_seller(office, "acme", timezone="UTC")
    rates.add_rate(office, "std", per_minute_micros=600_000, increment="1/1")
    campaigns.add_campaign(office, "solar", seller="acme", rate="std")
    for name in ("one", "two"):
        add(office, name)
    yield office
    store.close()


def add(office: Office, name: str, ring_ms: int = 2_000) -> None:
    targets.add_target(office, name, kind=TargetKind.PJSIP, address=f"sip:{name}@127.0.0.1:5080", ring_ms=ring_ms)


def rename(office: Office, kind: Any, noun: str, name: str, other: str) -> None:
    """As an estate file does it."""

    def work(desk: Desk) -> None:
        row = desk.named(kind, name)
        desk.change(noun, row, replace(row, name=other))

    office.change(work)


def swap(office: Office) -> None:
    rename(office, Target, "target", "one", "three")
    rename(office, Target, "target", "two", "one")
    rename(office, Target, "target", "three", "two")


def again(office: Office) -> None:
    targets.remove_target(office, "one")
    add(office, "one", ring_ms=9_000)


@pytest.mark.parametrize("at_once", [1, OBJECTS])
@pytest.mark.parametrize(
    "change",
    [
        lambda office: rename(office, Target, "target", "one", "three"),
        lambda office: rename(office, Seller, "seller", "acme", "apex"),
        lambda office: rename(office, Campaign, "campaign", "solar", "lunar"),
        lambda office: targets.remove_target(office, "one"),
        swap,
        again,
    ],
    ids=["target", "seller", "campaign", "removed", "swapped", "removed-and-added"],
)
def test_a_name_that_is_given_up_or_taken_by_another_is_seen(
    office: Office, clock: FakeClock, change: Callable[[Office], None], at_once: int
) -> None:
    follower = Follower(office, clock, at_once)
    follower.look()
    assert follower.seen == follower.fresh()
    change(office)
    follower.look()
    assert follower.seen == follower.fresh()


def test_a_second_price_burns_from_its_second_on(office: Office, clock: FakeClock) -> None:
    rates.set_rate(office, "std", then_per_minute_micros=60_000, then_after_ms=10_000)
    trunks.add_trunk(office, "carrier", kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
    dids.add_did(office, "+18005550100", trunk="carrier", campaign="solar")
    targets.add_rule(office, "solar", "one", priority=1)
    balances.adjust(office, "acme", 10_000_000, reason="wire")
    engine = Engine(office.store, clock)
    engine.start()
    try:
        engine.ask(route_of("u1"), ENGINE_S)
        engine.ask(answer_of("u1", answered_ms=clock.now_ms()), ENGINE_S)
    finally:
        assert engine.stop(ENGINE_S)
    follower = Follower(office, clock)
    for passed_ms, burns in ((0, "0.600000"), (9_000, "0.600000"), (2_000, "0.060000")):
        clock.pass_ms(passed_ms)
        follower.look()
        follower.floor.tick(clock.now_ms())
        follower.take()
        assert follower.seen["balance"]["acme"]["burn_per_minute"] == burns


def test_who_joins_a_picture_that_has_just_ended_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "FLUSH_S", "GLANCE_S", "LINGER_S"):
        monkeypatch.setattr(live_floor, name, 0.05)

    class Looking:
        ended = False

        def push(self, message: bytes) -> None:
            raise AssertionError(message)

        def end(self) -> None:
            self.ended = True

    async def test() -> None:
        store, clock = open_store(f"sqlite:///{tmp_path}/f.sqlite", create=True), FakeClock()
        prepare_database(store, clock)
        hub = live_floor.FloorHub(Engine(store, clock), store, clock, "node", "B", Pulse(), told)
        try:
            watched = await hub.look("default")
            await until(lambda: not hub._watched)
            viewer = Looking()
            watched.join(viewer)
            assert viewer.ended
        finally:
            await hub.close()
            store.close()

    asyncio.run(test())
