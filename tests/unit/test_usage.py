"""Counting: what caps that look back have used and leave, around now and around what was admitted before."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.books import Books
from capconduit.domain.estate import ZonedCap, zone_cap
from capconduit.domain.model import Cap, Counter
from capconduit.domain.usage import counter_key, left, taken
from capconduit.domain.windows import CPS_BUCKET_MS, bucket_ms, window_start_ms
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.unit.estate_builder import T0, TENANT

HOUR_MS, BUCKET_MS = 3_600_000, 60_000


def cap_of(limit: int, metric: CapMetric = CapMetric.ATTEMPTS, window: WindowKind = WindowKind.ROLLING) -> ZonedCap:
    return zone_cap(
        Cap(
            id="cap", tenant_id=TENANT, created_ms=T0, updated_ms=T0, scope=CapScope.CAMPAIGN, scope_id="solar",
            metric=metric, window_kind=window, limit_value=limit,
            window_ms=HOUR_MS if window is WindowKind.ROLLING else 0,
        ),
        "America/New_York",
        "solar",
    )  # fmt: skip


def books_of(counts: Mapping[int, int]) -> Books:
    """Buckets by their start, with what was used in each."""
    counters = {
        ("cap", start): Counter(tenant_id=TENANT, cap_id="cap", window_start_ms=start, used=used, in_flight=0, base=0)
        for start, used in counts.items()
    }
    return Books(counters=counters, buckets={"cap": set(counts)})


@pytest.mark.parametrize(
    ("window_ms", "width_ms"), [(10_000, 1_000), (60_000, 1_000), (60_001, 1_001), (HOUR_MS, 60_000)]
)
def test_a_rolling_window_counts_in_at_most_sixty_buckets_of_a_second_or_more(window_ms: int, width_ms: int) -> None:
    assert bucket_ms(window_ms) == width_ms


def test_a_bucket_counts_as_long_as_any_part_of_it_lies_in_the_window() -> None:
    zoned, start = cap_of(10), T0 // BUCKET_MS * BUCKET_MS
    books = books_of({start: 3})
    for now_ms, used in [
        (start, 3),
        (start + HOUR_MS, 3),
        (start + HOUR_MS + BUCKET_MS - 1, 3),
        (start + HOUR_MS + BUCKET_MS, 0),
    ]:
        assert taken(zoned, counter_key(zoned, now_ms), books, now_ms) == (used, 0), now_ms


def test_a_bucket_that_a_clock_set_back_left_in_the_future_counts_no_farther_than_a_window() -> None:
    zoned, start = cap_of(10), T0 // BUCKET_MS * BUCKET_MS
    books = books_of({start: 3})
    assert taken(zoned, counter_key(zoned, start - HOUR_MS), books, start - HOUR_MS) == (3, 0)
    before_ms = start - HOUR_MS - 1
    assert taken(zoned, counter_key(zoned, before_ms), books, before_ms) == (0, 0)


# Around both changes of New York's clock in 2026, the end of a year, and any time.
INSTANTS = st.one_of(
    st.integers(1_772_928_000_000, 1_773_100_800_000),
    st.integers(1_793_404_800_000, 1_793_664_000_000),
    st.integers(1_798_675_200_000, 1_798_848_000_000),
    st.integers(0, 4_000_000_000_000),
)


@given(st.sampled_from(WindowKind), st.lists(INSTANTS, min_size=2, max_size=12))
def test_a_cap_counts_in_the_window_of_the_instant_whatever_was_asked_before(
    window: WindowKind, instants: list[int]
) -> None:
    """Clocks are set back and windows end: what a cap remembers of the last one is never given for another."""
    zoned = cap_of(10, window=window)
    for now_ms in instants:
        start_ms = now_ms // BUCKET_MS * BUCKET_MS
        if window is not WindowKind.ROLLING:
            start_ms = window_start_ms(window, now_ms, "America/New_York")
        assert counter_key(zoned, now_ms) == ("cap", start_ms)
        assert counter_key(zoned, now_ms) == ("cap", start_ms)


def test_calls_per_second_look_back_a_second_in_small_buckets() -> None:
    zoned = cap_of(10, CapMetric.CPS, WindowKind.NONE)
    assert (zoned.rolling_ms, zoned.bucket_ms) == (1_000, CPS_BUCKET_MS)
    books = books_of({T0: 3})
    for now_ms, used in [(T0 + 1_049, 3), (T0 + 1_050, 0), (T0 - 1_000, 3), (T0 - 1_001, 0)]:
        assert taken(zoned, counter_key(zoned, now_ms), books, now_ms) == (used, 0), now_ms


def test_what_is_left_for_an_older_call_is_that_of_the_fullest_window_it_lies_in() -> None:
    """Not what the window that ends now leaves: the call belongs to the windows around its admission."""
    zoned, at = cap_of(100), T0 // BUCKET_MS * BUCKET_MS
    now_ms = at + 3 * HOUR_MS
    books = books_of({at - HOUR_MS: 40, at: 10, at + HOUR_MS // 2: 25, at + HOUR_MS: 30, now_ms: 100})
    assert left(zoned, ("cap", at), books) == 100 - (10 + 25 + 30)
    assert left(zoned, ("cap", now_ms), books) == 0
    books = books_of({at - HOUR_MS: 80, at: 10, at + HOUR_MS // 2: 25})
    assert left(zoned, ("cap", at), books) == 100 - (80 + 10)


def test_windows_that_do_not_hold_the_call_leave_it_alone() -> None:
    zoned, at = cap_of(100), T0 // BUCKET_MS * BUCKET_MS
    far = HOUR_MS + BUCKET_MS
    books = books_of({at - far: 100, at: 10, at + far: 100})
    assert left(zoned, ("cap", at), books) == 90


def test_what_is_left_is_negative_where_the_cap_was_lowered_below_its_use() -> None:
    zoned = cap_of(5)
    assert left(zoned, ("cap", 0), books_of({0: 9})) == -4
