"""The estate brought up to date row by row is the estate read as a whole, after every kind of change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from capconduit.domain.estate import Estate, Rows
from capconduit.domain.model import Setting
from capconduit.services import campaigns, caps, dids, rates, sellers, settings, targets, trunks
from capconduit.store import estates
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope, TargetKind, TrunkKind
from tests.unit.estate_builder import TENANT, Till, route_of, small_estate

Step = Callable[[Any], object]
STEPS: list[Step] = [
    lambda o: sellers.add_seller(o, "zenith", currency="USD", timezone="America/New_York"),
    lambda o: rates.add_rate(o, "dear", per_minute_micros=900_000),
    lambda o: trunks.add_trunk(o, "second", kind=TrunkKind.PJSIP, hosts=["127.0.0.2"]),
    lambda o: campaigns.add_campaign(o, "lunar", seller="zenith", rate="dear"),
    lambda o: dids.add_did(o, "+18005550199", trunk="second", campaign="lunar"),
    lambda o: targets.add_target(o, "buyer9", kind=TargetKind.PJSIP, address="sip:nine@127.0.0.1"),
    lambda o: targets.add_rule(o, "lunar", "buyer9"),
    lambda o: caps.set_caps(o, CapScope.CAMPAIGN, "lunar", [caps.parse_limit(CapMetric.BILLABLE, "5/day")]),
    lambda o: caps.set_caps(o, CapScope.CAMPAIGN, "lunar", [caps.parse_limit(CapMetric.BILLABLE, "7/day")]),
    lambda o: campaigns.pause_campaign(o, "lunar", paused=True),
    lambda o: sellers.set_seller(o, "zenith", timezone="Asia/Tokyo"),  # its caps get new ids
    lambda o: settings.set_setting(o, "funding_slice_s", "30"),
    lambda o: settings.set_setting(o, "timezone", "Europe/Berlin"),
    lambda o: dids.release_did(o, "+18005550199"),
    lambda o: caps.clear_caps(o, CapScope.CAMPAIGN, "lunar"),
    lambda o: targets.remove_rule(o, "lunar", "buyer9"),
    lambda o: targets.remove_target(o, "buyer9"),
    lambda o: campaigns.remove_campaign(o, "lunar"),
]


SLICE = Setting(tenant_id=TENANT, name="funding_slice_s", value="30", updated_ms=0)


def contents(estate: Estate) -> dict[str, list[str]]:
    """All rows of a snapshot, in one order."""
    return {f.name: sorted(map(repr, getattr(estate.rows, f.name))) for f in fields(Rows)}


def both(store: SqlStore, known: Estate) -> tuple[Estate, Estate]:
    with store.transaction(write=False) as tx:
        return tx.load_estate(known), tx.load_estate()


def test_after_every_change_the_two_ways_to_read_the_estate_agree(open_shop: Callable[..., Till]) -> None:
    shop = open_shop(small_estate())
    _, known = both(shop.store, small_estate().estate())
    for step in STEPS:
        version = known.version
        step(shop.office())
        updated, whole = both(shop.store, known)
        assert updated.version == whole.version > version
        assert contents(updated) == contents(whole) != contents(known)
        assert updated.caps.keys() == whole.caps.keys()
        known = updated


def test_an_engine_that_was_far_behind_reads_everything(
    open_shop: Callable[..., Till], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = open_shop(small_estate())
    shop.dial(route_of("before"))
    monkeypatch.setattr(estates, "KEPT_VERSIONS", 3)
    for step in STEPS:
        step(shop.office())
    shop.dial(route_of("after"))
    assert shop.engine.estate is not None
    _, whole = both(shop.store, shop.engine.estate)
    assert contents(shop.engine.estate) == contents(whole)


class Broken(Exception):
    """Thrown into a transaction."""


def test_what_is_rolled_back_was_never_told(open_shop: Callable[..., Till]) -> None:
    shop = open_shop(small_estate())
    _, known = both(shop.store, small_estate().estate())

    def broken() -> None:
        with shop.store.transaction(write=True) as tx:
            tx.insert(SLICE)
            tx.bump_estate()
            raise Broken

    with pytest.raises(Broken):
        broken()
    updated, whole = both(shop.store, known)
    assert contents(updated) == contents(whole) == contents(known)


def test_a_change_that_nobody_announces_is_announced(open_shop: Callable[..., Till]) -> None:
    """Whoever touches the estate makes a new version of it, told or not."""
    shop = open_shop(small_estate())
    _, known = both(shop.store, small_estate().estate())
    with shop.store.transaction(write=True) as tx:
        tx.insert(SLICE)
    updated, _ = both(shop.store, known)
    assert updated.version > known.version
    assert updated.settings(TENANT).funding_slice_s == 30
