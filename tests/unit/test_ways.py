"""Where dialled numbers lead, remembered within one estate."""

from __future__ import annotations

import pytest

from capconduit.domain import ways
from capconduit.domain.ways import find_way
from capconduit.vocab import CapMetric, CapScope
from tests.unit.estate_builder import EstateBuilder, route_of, small_estate


def two_trunks() -> EstateBuilder:
    """The small estate with a second trunk, which has a cap of its own."""
    builder = small_estate()
    builder.trunk("other")
    builder.cap(CapScope.TRUNK, "other", CapMetric.CONCURRENT, 5)
    return builder


def test_one_number_leads_over_each_trunk_through_the_caps_of_that_trunk() -> None:
    estate = two_trunks().estate()
    for _ in range(2):  # worked out, then remembered
        carrier, other = (find_way(route_of(trunk=trunk), estate) for trunk in ("carrier", "other"))
        assert [way.trunk.name if way.trunk else "" for way in (carrier, other)] == ["carrier", "other"]
        assert [z.subject for z in other.every_cap if z.cap.scope is CapScope.TRUNK] == ["other"]
        assert not any(z.cap.scope is CapScope.TRUNK for z in carrier.every_cap)


def test_a_way_is_remembered_with_its_estate_only() -> None:
    builder = two_trunks()
    estate = builder.estate(1)
    assert find_way(route_of(), estate) is find_way(route_of(), estate)
    builder.cap(CapScope.TRUNK, "carrier", CapMetric.CONCURRENT, 5)
    assert any(z.cap.scope is CapScope.TRUNK for z in find_way(route_of(), builder.estate(2)).every_cap)


def test_numbers_that_are_nobody_s_are_not_remembered() -> None:
    estate = two_trunks().estate()
    for number in range(50):
        assert find_way(route_of(dnid=f"+1900555{number:04d}"), estate).did is None
    assert estate.ways == {}


def test_no_more_are_remembered_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "WAYS_MAX", 3)
    estate = two_trunks().estate()
    for number in range(20):
        assert find_way(route_of(trunk=f"unknown-{number}"), estate).did is not None
        assert len(estate.ways) <= 3
