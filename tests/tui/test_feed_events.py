"""Server-sent events from bytes: whatever pieces they come in, and bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit_cli.event_stream import EventStream, EventStreamError, ServerEvent

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=30)
MESSAGE = st.tuples(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12),
    st.lists(LINE, min_size=1, max_size=3),
    st.text("abcdef0123456789-", min_size=1, max_size=12),
)
END = st.sampled_from(["\n", "\r\n", "\r"])


def in_pieces(stream: EventStream, whole: bytes, cuts: list[int]) -> list[ServerEvent]:
    """What a stream makes of bytes that come cut at these places."""
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [event for start, end in pairwise(places) for event in stream.feed(whole[start:end])]


@given(st.lists(st.tuples(MESSAGE, END), max_size=5), st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_messages_are_the_same_in_whatever_pieces_they_come(
    sent: list[tuple[tuple[str, list[str], str], str]], cuts: list[int], marked: bool
) -> None:
    whole, expected = b"\xef\xbb\xbf" if marked else b"", []
    for (kind, lines, last_id), end in sent:
        text = (
            f": beat{end}event: {kind}{end}" + "".join(f"data: {line}{end}" for line in lines) + f"id: {last_id}{end}"
        )
        whole += (text + end).encode()
        expected.append(ServerEvent(kind, "\n".join(lines).encode(), last_id))
    assert in_pieces(EventStream(), whole, cuts) == expected


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=10))
def test_any_bytes_are_read_alike_in_one_piece_and_in_many(garbage: bytes, cuts: list[int]) -> None:
    assert in_pieces(EventStream(), garbage, cuts) == EventStream().feed(garbage)


def test_a_message_that_is_cut_off_changes_nothing() -> None:
    stream = EventStream("boot-1")
    assert stream.feed(b"id: boot-2\nevent: call\ndata: {}\n") == []
    assert stream.last_id == "boot-1", "it is to be asked for again"
    assert stream.feed(b"\n") == [ServerEvent("call", b"{}", "boot-2")]
    assert stream.last_id == "boot-2"


def test_a_field_without_a_space_and_a_message_without_a_kind() -> None:
    assert EventStream().feed(b"data:x\nunknown: y\nid\n\n") == [ServerEvent("message", b"x", "")]


def test_comments_and_messages_without_data_are_none() -> None:
    assert EventStream().feed(b": beat\n\nevent: call\n\n:\n\n") == []


@pytest.mark.parametrize(
    "endless", [b"data: " + b"x" * 30 + b"\n", b"data: " + b"x" * 30, b"x" * 30], ids=["lines", "one line", "no field"]
)
def test_a_message_without_an_end_is_given_up(endless: bytes) -> None:
    stream = EventStream(max_event_bytes=100)
    with pytest.raises(EventStreamError) as refused:
        [stream.feed(endless) for _ in range(10)]
    assert refused.value.slug == "event-stream-invalid"


def test_many_small_messages_are_not_one_large_one() -> None:
    stream = EventStream(max_event_bytes=100)
    assert sum(len(stream.feed(b"data: x\n\n" * 50)) for _ in range(20)) == 1_000
