"""The windows of caps through the engine on both databases: their ends, clocks that go back, changed time zones."""

from __future__ import annotations

import pytest

from capconduit.domain.calls import RejectAnswer
from capconduit.services.caps import (
    cap_usage,
)
from capconduit.services.dids import assign_did, release_did
from capconduit.services.settings import set_setting
from capconduit.vocab import (
    CapMetric,
    CapScope,
    WindowKind,
)
from tests.store_contract.capped import DAY_MS, Shop, capped, utc
from tests.unit.estate_builder import (
    route_of,
    settle_of,
)


def test_a_call_belongs_to_the_day_it_was_admitted_on_even_if_it_ends_later(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.BILLABLE, 1)
    till, cap = open_shop(builder), builder.caps[0]
    midnight = utc("2026-03-09T04:00:00")  # New York, the night after the change
    till.clock.wall_ms = midnight - 1
    till.dial(route_of("yesterday"))
    till.reject(route_of("full"))
    till.clock.wall_ms = midnight
    till.dial(route_of("today"))
    till.reject(route_of("full-again"))
    till.clock.pass_ms(60_000)
    till.ask(settle_of("yesterday", talk_ms=30_000))
    assert till.count(cap, utc("2026-03-08T05:00:00")) == (1, 0)  # the day of 23 hours began in standard time
    assert till.count(cap, midnight) == (0, 1)
    till.reject(route_of("still-full"))
    till.ask(settle_of("today"))
    till.dial(route_of("now-free"))
    till.verify()


@pytest.mark.parametrize(
    ("window", "last", "first"),
    [
        (WindowKind.HOUR, "2026-11-01T05:59:59.999", "2026-11-01T06:00:00"),  # 01:59:59 EDT → 01:00 EST
        (WindowKind.DAY, "2026-11-02T04:59:59.999", "2026-11-02T05:00:00"),  # a day of 25 hours
        (WindowKind.WEEK, "2026-03-09T03:59:59.999", "2026-03-09T04:00:00"),
        (WindowKind.MONTH, "2026-04-01T03:59:59.999", "2026-04-01T04:00:00"),
    ],
)
def test_a_window_ends_with_its_last_millisecond(open_shop: Shop, window: WindowKind, last: str, first: str) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1, window))
    till.clock.wall_ms = utc(last)
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    assert till.reject(route_of("b")).reason == f"cap_reached:campaign:attempts:{window}"
    till.clock.wall_ms = utc(first)
    till.dial(route_of("c"))
    till.verify()


def test_a_total_is_never_free_again(open_shop: Shop) -> None:
    till = open_shop(capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1, WindowKind.TOTAL))
    till.dial(route_of("a"))
    till.ask(settle_of("a"))
    till.clock.pass_ms(400 * DAY_MS)
    till.reject(route_of("b"))


def test_a_clock_that_goes_back_over_midnight_finds_the_day_as_it_was_left(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 1)
    till = open_shop(builder)
    midnight = utc("2026-03-03T05:00:00")
    till.clock.wall_ms = midnight - 1_000
    till.dial(route_of("a"))
    till.clock.wall_ms = midnight + 1_000
    till.dial(route_of("b"))
    till.clock.wall_ms = midnight - 500
    till.reject(route_of("c"))
    till.ask(settle_of("a"))
    till.ask(settle_of("b"))
    till.reject(route_of("d"))
    till.verify()


@pytest.mark.parametrize("scope", [CapScope.SYSTEM, CapScope.TRUNK, CapScope.TARGET])
def test_changing_the_time_zone_makes_no_room_in_a_window_that_is_full(open_shop: Shop, scope: CapScope) -> None:
    """The day has another beginning now, and what was used in it still counts."""
    till = open_shop(capped(scope, CapMetric.ATTEMPTS, 2))
    till.dial(route_of("done"))
    till.ask(settle_of("done"))
    till.dial(route_of("live"))
    assert isinstance(till.ask(route_of("full")), RejectAnswer)
    set_setting(till.office(), "timezone", "Asia/Tokyo")
    assert isinstance(till.ask(route_of("full-still")), RejectAnswer)
    till.ask(settle_of("live"))
    assert isinstance(till.ask(route_of("full-anyway")), RejectAnswer)
    till.verify()


def test_a_did_that_changes_hands_keeps_what_its_day_has_used(open_shop: Shop) -> None:
    """Its day follows its seller's zone: New York here, Tokyo after the change."""
    builder = capped(CapScope.DID, CapMetric.ATTEMPTS, 2)
    builder.seller("tokyo", timezone="Asia/Tokyo")
    builder.campaign("kanto", seller="tokyo")
    builder.rule("kanto", "buyer1")
    till = open_shop(builder)
    till.dial(route_of("done"))
    till.ask(settle_of("done"))
    till.dial(route_of("live"))
    assign_did(till.office(), "+18005550100", "kanto")
    assert till.reject(route_of("full")).reason == "cap_reached:did:attempts:day"
    release_did(till.office(), "+18005550100")
    assign_did(till.office(), "+18005550100", "solar")
    assert till.reject(route_of("full-still")).reason == "cap_reached:did:attempts:day"
    view = cap_usage(till.office(), CapScope.DID, "+18005550100")[0]
    assert (view.used, view.in_flight) == (1, 1)
    till.ask(settle_of("live"))
    till.clock.pass_ms(2 * DAY_MS)
    till.dial(route_of("another-day"))
    till.verify()


@pytest.mark.parametrize(
    ("zone", "next_midnight"), [("Asia/Tokyo", "2026-03-02T15:00:00"), ("America/New_York", "2026-03-03T05:00:00")]
)
def test_a_changed_time_zone_has_its_own_next_window(open_shop: Shop, zone: str, next_midnight: str) -> None:
    till = open_shop(capped(CapScope.SYSTEM, CapMetric.ATTEMPTS, 2))
    till.clock.wall_ms = utc("2026-03-02T04:00:00")  # before midnight in New York, after it in London
    till.dial(route_of("early"))
    till.ask(settle_of("early"))
    till.clock.wall_ms = utc("2026-03-02T12:00:00")
    till.dial(route_of("live"))
    set_setting(till.office(), "timezone", zone)
    till.clock.wall_ms = utc(next_midnight) - 1
    till.reject(route_of("full"))
    till.clock.wall_ms += 1
    till.dial(route_of("new-day"))
    till.ask(settle_of("live"))
    till.dial(route_of("new-day-2"))
    till.reject(route_of("new-day-full"))
    till.verify()
