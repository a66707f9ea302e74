"""The floor as a viewer knows it: what messages make of it, and what they cannot do to it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.rating import Tariff, charge
from capconduit.units import format_instant
from capconduit_cli.tui.floor import MAX_EVENTS, Floor, MessageError
from tests.tui.fake_daemon import T0_MS, balance, call, cap, event, health, picture, target, ulid

MONEY_KEYS = ("connect_fee", "per_minute", "held")


def floor_of(**made: Any) -> Floor:
    floor = Floor()
    floor.apply("snapshot", picture(**made))
    return floor


def test_a_picture_is_everything() -> None:
    floor = floor_of(calls=4)
    assert (floor.node, floor.boot_id, floor.tenant, floor.at_ms) == ("n1", "boot1", "default", T0_MS)
    assert list(floor.calls) == [ulid(number) for number in (1, 2, 3, 4)]
    assert list(floor.balances) == ["seller1", "seller2"]
    assert floor.health is not None
    assert (floor.health.database_ms, floor.health.nodes[0].name, len(floor.health.cps)) == (1.25, "n1", 60)
    found = floor.calls[ulid(1)]
    assert (found.caller, found.arrived_ms, found.answered_ms) == ("+12125550001", T0_MS + 1_000, T0_MS + 5_000)
    assert found.held_micros == 1_000_000


def test_a_call_comes_changes_and_goes() -> None:
    floor = floor_of(calls=1)
    floor.apply("call", call(2, state="dialing", answered=None, funded_until=None))
    assert floor.calls[ulid(2)].answered_ms is None
    floor.apply("call", call(2))
    assert floor.calls[ulid(2)].state == "up"
    floor.apply("call-gone", {"id": ulid(2), "outcome": "completed"})
    floor.apply("call-gone", {"id": ulid(2), "outcome": "completed"})
    assert list(floor.calls) == [ulid(1)]


@pytest.mark.parametrize(
    ("kind", "table", "key", "row"),
    [
        ("cap", "caps", ulid(500_001), cap(1)),
        ("balance", "balances", "seller1", balance(1)),
        ("target", "targets", "target1", target(1)),
        ("campaign", "campaigns", "campaign1", {"name": "campaign1", "status": "paused"}),
    ],
)
def test_what_is_taken_from_the_estate_is_gone(kind: str, table: str, key: str, row: dict[str, Any]) -> None:
    floor = floor_of()
    assert key in getattr(floor, table)
    before = floor.versions[table]
    floor.apply(kind, {**row, "gone": True})
    assert key not in getattr(floor, table)
    assert floor.versions[table] == before + 1


def test_only_the_table_that_changed_has_a_new_version() -> None:
    floor = floor_of()
    before = dict(floor.versions)
    floor.apply("cap", cap(1, used=150))
    assert {table for table in before if floor.versions[table] != before[table]} == {"caps"}
    assert floor.caps[ulid(500_001)].used == 150


def test_caps_are_in_the_integers_of_their_metric() -> None:
    floor = floor_of()
    floor.apply("cap", cap(1, metric="minutes", limit=600, used=60, in_flight=30))
    floor.apply("cap", cap(2, metric="spend", limit="25.500000", used="1.000001", in_flight="0.000000", currency="USD"))
    minutes, spend = floor.caps[ulid(500_001)], floor.caps[ulid(500_002)]
    assert (minutes.limit, minutes.used, minutes.in_flight) == (600_000, 60_000, 30_000)
    assert (spend.limit, spend.used, spend.in_flight) == (25_500_000, 1_000_001, 0)


def test_events_are_kept_up_to_a_bound_and_over_pictures() -> None:
    floor = floor_of(events=5)
    for number in range(6, MAX_EVENTS + 50):
        floor.apply("event", event(number))
    assert len(floor.events) == MAX_EVENTS
    newest = picture(events=0)
    newest["events"] = [event(number) for number in range(MAX_EVENTS, MAX_EVENTS + 60)]
    floor.apply("snapshot", newest)
    assert [seen.id for seen in floor.events] == [ulid(800_000 + n) for n in range(60, MAX_EVENTS + 60)]
    floor.apply("snapshot", picture(events=0))
    assert len(floor.events) == MAX_EVENTS, "a picture without events takes none away"


def test_what_another_version_adds_is_ignored_and_what_it_lacks_has_a_default() -> None:
    floor = floor_of(calls=0)
    floor.apply("call", {"id": "X", "new_key": {"deep": [1]}})
    assert (floor.calls["X"].state, floor.calls["X"].attempt, floor.calls["X"].answered_ms) == ("", 0, None)
    assert floor.calls["X"].cost_micros(T0_MS) == 0
    floor.apply("weather", {"rain": True})
    floor.apply("health", {})
    assert floor.health is not None
    assert floor.health.p99_ms is None


@pytest.mark.parametrize(
    ("kind", "data", "named"),
    [
        ("call", {"id": 7}, "id"),
        ("call", {"state": "up"}, "id"),
        ("call", {"id": "X", "attempt": "1"}, "attempt"),
        ("call", {"id": "X", "attempt": True}, "attempt"),
        ("call", {"id": "X", "held": 1.5}, "held"),
        ("call", {"id": "X", "held": "lots"}, "held"),
        ("call", {"id": "X", "arrived": "yesterday"}, "arrived"),
        ("call", {"id": "X", "arrived": "2026-03-07T16:13:20"}, "arrived"),
        ("cap", {"id": "X", "metric": "spend", "limit": 5}, "limit"),
        ("cap", {"id": "X", "gone": "yes"}, "gone"),
        ("target", {"name": "X", "asr": "0.5"}, "asr"),
        ("health", {"ready": 1}, "ready"),
        ("health", {"cps": [1, "2"]}, "cps"),
        ("health", {"cps": 5}, "cps"),
        ("health", {"nodes": ["n1"]}, "nodes"),
        ("snapshot", {"calls": {}}, "calls"),
        ("snapshot", [], "snapshot"),
        ("event", {"id": "X", "data": "text"}, "data"),
        ("lost", {"messages": "many"}, "messages"),
    ],
)
def test_a_wrong_type_is_named_and_changes_nothing(kind: str, data: Any, named: str) -> None:
    floor = floor_of()
    before = (floor.version, dict(floor.calls), dict(floor.caps), floor.health, list(floor.events))
    with pytest.raises(MessageError, match=named):
        floor.apply(kind, data)
    assert before == (floor.version, dict(floor.calls), dict(floor.caps), floor.health, list(floor.events))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_a_picture_with_anything_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever stands in whatever place: no other exception, and a refused picture leaves the floor as it was."""
    whole = json.loads(json.dumps(picture(calls=1, caps=1, events=1)))
    place: Any = whole
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON)
        break
    floor = floor_of(calls=2)
    before = copy.copy(floor.calls)
    try:
        floor.apply("snapshot", whole)
    except MessageError as refused:
        assert refused.message  # noqa: PT017  # that it is a MessageError is the matter
        assert floor.calls == before


@given(st.integers(0, 10_000_000), st.integers(0, 3_000_000), st.integers(1, 120), st.integers(1, 120))
def test_cost_so_far_is_what_the_call_would_be_billed(
    talk_ms: int, per_minute: int, first_s: int, further_s: int
) -> None:
    floor = floor_of(calls=0)
    price = f"{per_minute // 1_000_000}.{per_minute % 1_000_000:06d}"
    floor.apply("call", call(1, per_minute=price, connect_fee="0.050000", first_s=first_s, further_s=further_s))
    found = floor.calls[ulid(1)]
    assert found.answered_ms is not None
    expected = charge(Tariff(50_000, per_minute, first_s, further_s), talk_ms).price_micros
    assert found.cost_micros(found.answered_ms + talk_ms) == expected


def test_cost_so_far_knows_thresholds_and_second_prices() -> None:
    floor = floor_of(calls=0)
    floor.apply("call", call(1, billable_threshold_ms=30_000, then_after_s=60, then_per_minute="0.100000"))
    found, answered_ms = floor.calls[ulid(1)], T0_MS + 5_000
    assert found.cost_micros(answered_ms + 29_999) == 0
    assert found.cost_micros(answered_ms + 30_000) == 200_000
    assert found.cost_micros(answered_ms + 61_000) == 300_000


def test_a_call_that_nobody_answered_costs_nothing_and_a_clock_behind_shows_no_negative_time() -> None:
    floor = floor_of(calls=0)
    floor.apply("call", call(1, answered=None, connect_fee="1.000000"))
    floor.apply("call", call(2, answered=format_instant(T0_MS)))
    assert floor.calls[ulid(1)].cost_micros(T0_MS + 999_999) == 0
    assert floor.calls[ulid(2)].talk_ms(T0_MS - 5_000) == 0


def test_health_moves_the_daemons_instant_only_forward() -> None:
    floor = floor_of()
    floor.apply("health", health(T0_MS + 5_000))
    floor.apply("health", health(T0_MS + 3_000))
    assert floor.at_ms == T0_MS + 5_000
