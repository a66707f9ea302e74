"""The decision trace survives being written and read, and grows by later checks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.trace import Check, Noted, dump_trace, extend_trace, load_trace

VALUES = st.one_of(st.integers(-(10**18), 10**18), st.text(), st.booleans(), st.none(), st.lists(st.text(), max_size=3))
DETAILS = st.dictionaries(st.text().filter(lambda k: k not in ("check", "ok")), VALUES, max_size=4)


def noted(checks: list[Check]) -> list[Noted]:
    return [{"check": c.name, "ok": c.ok, **c.detail} for c in checks]


CHECKS = st.lists(st.builds(Check, name=st.text(), ok=st.booleans(), detail=DETAILS), max_size=5)


@given(CHECKS)
def test_a_trace_written_and_read_is_the_same(checks: list[Check]) -> None:
    assert load_trace(dump_trace(noted(checks))) == checks


@given(CHECKS, CHECKS)
def test_a_failover_appends_to_the_trace(first: list[Check], more: list[Check]) -> None:
    assert load_trace(extend_trace(dump_trace(noted(first)), noted(more))) == [*first, *more]


def test_no_trace_is_an_empty_one() -> None:
    assert load_trace("") == []
    assert load_trace(extend_trace("", noted([Check("did", True, {})]))) == [Check("did", True, {})]
