"""Caps that look back, at random instants and with clocks that are set: never more than the limit in any interval, and
never refused while the interval, and a bucket more, has room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from capconduit.domain.calls import DialAnswer
from capconduit.domain.model import Cap
from capconduit.domain.windows import CPS_BUCKET_MS, CPS_WINDOW_MS, bucket_ms
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.unit.estate_builder import SCOPE_IDS, PureTill, answer_of, extend_of, route_of, settle_of, small_estate

SCOPES = st.sampled_from(CapScope)
STEPS_MS = st.lists(
    st.one_of(st.integers(0, 60), st.integers(0, 1_200), st.sampled_from([950, 999, 1_000, 1_001, 1_049, 1_050])),
    min_size=1,
    max_size=60,
)
WINDOW_MS = 60_000
ROLLING_STEPS_MS = st.lists(
    st.one_of(st.integers(0, 3_000), st.integers(0, 70_000), st.sampled_from([59_999, 60_000, 60_001, 61_000])),
    min_size=1,
    max_size=40,
)


def capped(scope: CapScope, metric: CapMetric, limit: int) -> tuple[PureTill, Cap]:
    builder = small_estate()
    if metric is CapMetric.CPS:
        cap = builder.cap(scope, SCOPE_IDS[scope], metric, limit)
    else:
        cap = builder.cap(scope, SCOPE_IDS[scope], metric, limit, WindowKind.ROLLING, WINDOW_MS)
    return PureTill(builder), cap


def most_within(instants: Sequence[int], width_ms: int) -> int:
    """The most of `instants` that any interval of this length holds, both ends included."""
    return max((sum(at <= other <= at + width_ms for other in instants) for at in instants), default=0)


def around(instants: Sequence[int], at_ms: int, width_ms: int, bucket: int) -> int:
    """How many of `instants` lie within an interval, and a bucket more, on either side."""
    return sum(abs(at_ms - other) < width_ms + bucket for other in instants)


@settings(max_examples=150, deadline=None)
@given(SCOPES, st.integers(1, 5), STEPS_MS)
@example(CapScope.SYSTEM, 1, [0, 1_000, 1, 1_049, 1])
def test_never_more_new_calls_than_the_limit_in_any_second(scope: CapScope, limit: int, steps: list[int]) -> None:
    till, _ = capped(scope, CapMetric.CPS, limit)
    admitted: list[int] = []
    for i, step_ms in enumerate(steps):
        till.clock.pass_ms(step_ms)
        now_ms = till.clock.now_ms()
        answer = till.ask(route_of(f"u{i}"))
        if isinstance(answer, DialAnswer):
            admitted.append(now_ms)
        else:
            assert around(admitted, now_ms, CPS_WINDOW_MS, CPS_BUCKET_MS) >= limit
        till.ask(settle_of(f"u{i}"))
    assert most_within(admitted, CPS_WINDOW_MS) <= limit


@settings(max_examples=150, deadline=None)
@given(SCOPES, st.integers(1, 4), st.lists(st.integers(-3_000, 3_000), min_size=1, max_size=60), st.integers(1, 3))
def test_a_clock_that_is_set_breaks_no_second_that_it_shows(
    scope: CapScope, limit: int, steps: list[int], batch: int
) -> None:
    till, _ = capped(scope, CapMetric.CPS, limit)
    admitted: list[int] = []
    for i, step_ms in enumerate(steps):
        till.clock.pass_ms(step_ms)
        now_ms = till.clock.now_ms()
        for answer in till.batch([route_of(f"u{i}-{n}") for n in range(batch)]):
            if isinstance(answer, DialAnswer):
                admitted.append(now_ms)
            else:
                assert around(admitted, now_ms, CPS_WINDOW_MS, CPS_BUCKET_MS) >= limit
    assert most_within(admitted, CPS_WINDOW_MS) <= limit


@settings(max_examples=120, deadline=None)
@given(SCOPES, st.integers(1, 4), ROLLING_STEPS_MS, st.lists(st.sampled_from(["keep", "drop", "hold"]), min_size=40))
def test_a_rolling_window_never_holds_more_than_its_limit_and_refuses_only_where_it_is_full(
    scope: CapScope, limit: int, steps: list[int], ends: list[str]
) -> None:
    """Kept calls are billable, dropped ones give their tentative place back, the others still live."""
    till, _ = capped(scope, CapMetric.BILLABLE, limit)
    counted: dict[str, int] = {}
    for i, (step_ms, end) in enumerate(zip(steps, ends, strict=False)):
        till.clock.pass_ms(step_ms)
        now_ms, name = till.clock.now_ms(), f"u{i}"
        answer = till.ask(route_of(name))
        if not isinstance(answer, DialAnswer):
            assert around([*counted.values()], now_ms, WINDOW_MS, bucket_ms(WINDOW_MS)) >= limit
            continue
        counted[name] = now_ms
        assert most_within([*counted.values()], WINDOW_MS) <= limit
        if end == "keep":
            till.ask(settle_of(name, talk_ms=5_000))
        elif end == "drop":
            till.ask(settle_of(name))
            del counted[name]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([CapMetric.MINUTES, CapMetric.SPEND]),
    st.lists(
        st.tuples(st.integers(0, 90_000), st.sampled_from(["new", "extend", "end"]), st.integers(0, 9)), max_size=50
    ),
)
def test_what_calls_of_any_interval_use_or_reserve_is_never_more_than_a_rolling_limit(
    metric: CapMetric, steps: list[Any]
) -> None:
    """They extend and end long after it, too."""
    limit = 600 if metric is CapMetric.MINUTES else 2_000_000
    till, cap = capped(CapScope.CAMPAIGN, metric, limit)
    began: dict[str, int] = {}
    for i, (step_ms, what, pick) in enumerate(steps):
        till.clock.pass_ms(step_ms)
        live = [call.uniqueid for call in till.books.calls.values()]
        if what == "new" or not live:
            if isinstance(till.ask(route_of(f"u{i}")), DialAnswer):
                began[f"u{i}"] = till.clock.now_ms()
                till.ask(answer_of(f"u{i}", answered_ms=till.clock.now_ms()))
        elif what == "extend":
            till.ask(extend_of(live[pick % len(live)]))
        else:
            till.ask(settle_of(live[pick % len(live)], talk_ms=pick * 100_000))
        uses = {
            p.call_id: p.amount if p.state == "held" else p.counted
            for own in till.books.places.values()
            for p in own.values()
            if p.cap_id == cap.id
        }
        of = {cdr.call_id: uniqueid for (_, uniqueid), cdr in till.books.settled.items()}
        of |= {call.id: call.uniqueid for call in till.books.calls.values()}
        instants = [(began[of[call_id]], amount) for call_id, amount in uses.items()]
        for at_ms, _ in instants:
            assert sum(amount for other, amount in instants if at_ms <= other <= at_ms + WINDOW_MS) <= limit
