"""ULIDs: the form, the order of time, and that the parts come from the caller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.ids import ULID_LENGTH, is_ulid, ulid

INSTANTS = st.integers(0, (1 << 48) - 1)
RANDOM = st.integers(0, (1 << 80) - 1)


def test_the_published_example_comes_out() -> None:
    """The time part of the example of the ULID specification: 1469918176385 is 01ARYZ6S41."""
    assert ulid(1_469_918_176_385, 0) == "01ARYZ6S41" + "0" * 16


@given(INSTANTS, RANDOM)
def test_every_id_has_the_form(now_ms: int, randomness: int) -> None:
    text = ulid(now_ms, randomness)
    assert len(text) == ULID_LENGTH
    assert is_ulid(text)


@given(INSTANTS, RANDOM, INSTANTS, RANDOM)
def test_ids_sort_by_the_instant_they_were_made(a_ms: int, a: int, b_ms: int, b: int) -> None:
    assert ((a_ms, a) < (b_ms, b)) == (ulid(a_ms, a) < ulid(b_ms, b))


@given(INSTANTS, RANDOM, RANDOM)
def test_different_randomness_gives_different_ids(now_ms: int, a: int, b: int) -> None:
    assert (a == b) == (ulid(now_ms, a) == ulid(now_ms, b))


@pytest.mark.parametrize(
    "text", ["", "01ARYZ6S41", "01ARYZ6S41000000000000000U", "01aryz6s410000000000000000", "x" * 26]
)
def test_what_is_no_ulid_is_told(text: str) -> None:
    assert not is_ulid(text)
