"""Recordings: what is written comes back, a kill at any byte loses only the end, and a strange file is refused."""

from __future__ import annotations

import errno
import random
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.errors import Refused
from capconduit.vocab import FeedKind, FloorMessage
from capconduit_cli.tui import recording as module
from capconduit_cli.tui.feed import FeedState
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.recording import CHANGED, FEED, FIRST_LINE, KEY_MS, Mirror, Recorder, Recording, RecordingError
from tests.tui.fake_daemon import T0_MS, balance, call, campaign, cap, event, health, picture, target, ulid

Message = tuple[int, str, dict[str, Any]]


def messages(seed: int, count: int, *, every_ms: int = 200) -> Iterator[Message]:
    """A picture and what happens after it, of every kind; the same for the same seed."""
    chance = random.Random(seed)
    yield T0_MS, "snapshot", picture(calls=5)
    for number in range(count):
        at_ms = T0_MS + (number + 1) * every_ms
        which = chance.randrange(1, 40)
        yield at_ms, *chance.choice([
            ("call", call(which, state=chance.choice(["dialing", "up"]), held=f"{chance.randrange(9)}.500000")),
            ("call-gone", {"id": ulid(which), "outcome": "completed"}),
            ("cap", cap(which % 5, used=chance.randrange(200))),
            ("cap", {"id": ulid(500_000 + which % 5), "gone": True}),
            ("balance", balance(which % 3, available=f"{chance.randrange(99)}.000000")),
            ("target", target(which % 6, active=chance.randrange(9), new_key=["kept", chance.randrange(3)])),
            ("campaign", campaign(which % 4, status=chance.choice(["active", "paused"]))),
            ("event", event(number)),
            ("health", health(at_ms, cps=[chance.randrange(9) for _ in range(60)])),
            ("lost", {"messages": 3}),
            ("snapshot", picture(calls=which, at_ms=at_ms)),
        ])  # fmt: skip


def write(path: Path, sent: list[Message], *, flush_every: int = 7) -> None:
    recorder = Recorder(path)
    for number, (at_ms, kind, data) in enumerate(sent):
        recorder.message(at_ms, kind, data)
        if number % flush_every == 0:
            recorder.flush()
    recorder.close()


WORDS = ("id", "name", "seller", "gone", "calls", "caps", "balances", "targets", "campaigns", "events", "health", "at")
KINDS = tuple(mark + kind for kind in FloorMessage for mark in ("", CHANGED))
Seen = tuple[int, dict[str, Any]]


def tables(floor: Floor) -> dict[str, Any]:
    """A copy of what a viewer sees. Events are another matter: a picture has few of them, a floor many."""
    return {
        "health": floor.health,
        **{name: dict(getattr(floor, name)) for name in ("calls", "caps", "balances", "targets", "campaigns")},
    }


def floors_of(sent: list[Message]) -> list[Seen]:
    """What a viewer saw after each message."""
    floor, seen = Floor(), []
    for at_ms, kind, data in sent:
        floor.apply(kind, data)
        seen.append((at_ms, tables(floor)))
    return seen


def messages_in(path: Path) -> list[Message]:
    """The messages of a recording."""
    found = []
    with Recording(path) as recording:
        for stream in range(recording.streams):
            mirror = Mirror()
            for at_ms, kind, data in recording.lines(stream):
                if kind != FEED:
                    found.append((at_ms, *mirror.restore(kind, data)))
    return found


def floors_in(path: Path) -> list[Seen]:
    """What a viewer of the recording sees after each message."""
    return floors_of(messages_in(path))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 80), st.sampled_from([200, KEY_MS // 3]))
def test_what_was_seen_is_seen_again(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, every_ms: int
) -> None:
    path = tmp_path_factory.mktemp("rec") / "floor.rec"
    sent = list(messages(seed, count, every_ms=every_ms))
    write(path, sent)
    assert floors_in(path) == floors_of(sent)


def test_a_kill_at_any_byte_loses_only_the_end(tmp_path: Path) -> None:
    whole = tmp_path / "whole.rec"
    write(whole, list(messages(1, 12)), flush_every=2)
    written, expected = whole.read_bytes(), messages_in(whole)
    path, most = tmp_path / "cut.rec", 0
    for length in range(len(written)):
        path.write_bytes(written[:length])
        try:
            seen = messages_in(path)
        except RecordingError:
            assert most == 0, "what could be read once can be read with more of it"
            continue
        assert seen == expected[: len(seen)]
        assert len(seen) >= most
        most = len(seen)
    assert len(expected) == 13
    assert most >= 11


@pytest.mark.parametrize("cut", [1, 10, 30, 200, 1_500])
def test_a_recording_goes_on_where_the_last_whole_block_ended(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "floor.rec"
    sent = list(messages(2, 60))
    write(path, sent)
    original = path.read_bytes()
    path.write_bytes(original[:-cut])
    kept = floors_in(path)
    more = [(at_ms + 3_600_000, kind, data) for at_ms, kind, data in messages(3, 20)]
    Recorder(path).close()
    whole = path.read_bytes()
    assert whole == original[: len(whole)], "what is left are whole blocks"
    write(path, more)
    assert path.read_bytes().startswith(whole)
    assert floors_in(path) == kept + floors_of(more)
    assert kept


@pytest.mark.parametrize("beginning", [b"", FIRST_LINE[:5], FIRST_LINE])
def test_a_file_with_nothing_in_it_yet_is_begun(tmp_path: Path, beginning: bytes) -> None:
    path = tmp_path / "floor.rec"
    path.write_bytes(beginning)
    sent = list(messages(4, 5))
    write(path, sent)
    assert floors_in(path) == floors_of(sent)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    Recorder(tmp_path / "floor.rec").close()
    assert stat.S_IMODE((tmp_path / "floor.rec").stat().st_mode) == 0o600


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "accounts.csv"
    path.write_text("seller,amount\n")
    with pytest.raises(RecordingError, match="no recording"):
        Recorder(path)
    assert path.read_text() == "seller,amount\n"


def test_a_file_that_is_damaged_far_from_its_end_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "floor.rec"
    write(path, list(messages(5, 60)))
    damaged = bytearray(path.read_bytes())
    damaged[len(FIRST_LINE)] ^= 1
    path.write_bytes(damaged)
    monkeypatch.setattr(module, "MAX_PACKED", 100)
    with pytest.raises(RecordingError, match="damaged"):
        Recorder(path)
    assert path.read_bytes() == damaged


def test_two_do_not_record_to_one_file(tmp_path: Path) -> None:
    first = Recorder(tmp_path / "floor.rec")
    with pytest.raises(Refused, match="being recorded"):
        Recorder(tmp_path / "floor.rec")
    first.close()
    Recorder(tmp_path / "floor.rec").close()


def test_a_full_disk_ends_the_recording_and_says_so(tmp_path: Path) -> None:
    class Full:
        def write(self, text: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    recorder = Recorder(tmp_path / "floor.rec")
    recorder._file.close()
    recorder._file = Full()  # type: ignore[assignment]
    for message in messages(6, 5):
        recorder.message(*message)
    recorder.flush()
    assert recorder.trouble == "recording ended: No space left on device"
    for message in messages(6, 5):
        recorder.message(*message)
    recorder.flush()
    recorder.close()


def test_a_write_that_takes_only_a_part_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "floor.rec"
    recorder = Recorder(path)
    real = recorder._file

    class Slow:
        def write(self, text: bytes) -> int:
            return real.write(text[:7])

        def close(self) -> None:
            real.close()

    recorder._file = Slow()  # type: ignore[assignment]
    sent = list(messages(7, 20))
    for message in sent:
        recorder.message(*message)
    recorder.close()
    assert floors_in(path) == floors_of(sent)


def test_a_clock_that_is_set_back_begins_a_stream_that_is_found_by_its_instant(tmp_path: Path) -> None:
    path = tmp_path / "floor.rec"
    recorder = Recorder(path)
    recorder.message(T0_MS, "snapshot", picture(calls=1))
    recorder.message(T0_MS - 500, "call", call(2))
    recorder.message(T0_MS - 3_600_000, "call", call(3))
    recorder.close()
    with Recording(path) as found:
        assert (found.start_ms, found.end_ms, found.streams) == (T0_MS - 3_600_000, T0_MS, 2)
        assert found.stream_at(T0_MS - 1) == 0
        assert found.stream_at(T0_MS) == 1


def test_what_the_viewer_knew_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "floor.rec"
    recorder = Recorder(path)
    recorder.state(T0_MS, FeedState(FeedKind.WAITING, T0_MS))
    recorder.message(T0_MS, "snapshot", picture())
    recorder.state(T0_MS, FeedState(FeedKind.LIVE, T0_MS))
    recorder.state(T0_MS + 9_000, FeedState(FeedKind.STALE, T0_MS, "the daemon is silent"))
    recorder.close()
    with Recording(path) as found:
        assert [(at_ms, data) for at_ms, kind, data in found.lines(0) if kind == FEED] == [
            (T0_MS, {"kind": "live", "message": ""}),
            (T0_MS + 9_000, {"kind": "stale", "message": "the daemon is silent"}),
        ]


def test_nothing_is_written_before_the_first_picture(tmp_path: Path) -> None:
    path = tmp_path / "floor.rec"
    recorder = Recorder(path)
    recorder.message(T0_MS, "call", call(1))
    recorder.close()
    with pytest.raises(RecordingError, match="nothing in it"):
        Recording(path)


def block(kind: bytes, lines: bytes, *, at_ms: int = T0_MS, length: int | None = None) -> bytes:
    """A block as anybody could write it."""
    packed = zlib.compress(lines)
    size = len(packed) if length is None else length
    return module._HEADER.pack(module._MARK, kind, at_ms, 0, size, module._sum(kind, at_ms, 0, packed)) + packed


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "nothing in it"),
        (b"\x7fELF" + bytes(500), "no recording"),
        (b"SQLite format 3\0" + bytes(5_000), "no recording"),
        (b"capconduit-recording 9\n", "version 9"),
        (FIRST_LINE, "nothing in it"),
        (FIRST_LINE + bytes(5_000), "nothing in it"),
        (FIRST_LINE + block(b"D", b'[0,"snapshot",{}]'), "nothing in it"),
        (FIRST_LINE + block(b"K", b'[0,"snapshot",{}]', length=2**32 - 1), "nothing in it"),
        (FIRST_LINE + block(b"K", b'[0,"snapshot",{}]', at_ms=2**63), "nothing in it"),
        (FIRST_LINE + block(b"K", b'[0,"call",{"id":"X"}]'), "first picture"),
        (FIRST_LINE + block(b"K", b"[" * 100_000), "first picture"),
        (FIRST_LINE + block(b"K", b'[-5,"snapshot",{}]'), "first picture"),
        (FIRST_LINE + block(b"K", b'[0,"snapshot",[]]'), "first picture"),
        (FIRST_LINE + block(b"K", b'[%d,"snapshot",{}]' % 2**62), "first picture"),
        (FIRST_LINE + block(b"K", b'[1e300,"snapshot",{}]'), "first picture"),
        (FIRST_LINE + block(b"K", b"\n" * 10_000_000), "first picture"),
        (FIRST_LINE + block(b"K", bytes(100_000_000)), "first picture"),
    ],
)  # fmt: skip
def test_a_strange_file_is_refused(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "strange"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=why):
        Recording(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="No such file"):
        Recording(tmp_path / "none")


def test_a_message_is_read_as_it_was_written_with_keys_that_nobody_knows() -> None:
    written, read = Mirror(), Mirror()
    for kind, data in (
        ("snapshot", picture(calls=2)),
        ("call", call(1, mood="fine", state="dialing")),
        ("call", call(1, mood="fine")),
        ("call", call(1)),  # the mood is gone
        ("target", {"name": "target1"}),
        ("health", health(nodes=[], new={"deep": [1]})),
        ("health", health()),
        ("call-gone", {"id": ulid(2), "why": "?"}),
        ("weather", {"rain": True}),
        ("weather", {"rain": False}),
    ):
        assert read.restore(*written.keep(kind, data)) == (kind, data)
        assert read.whole(T0_MS) == written.whole(T0_MS)


def test_more_in_a_block_than_it_may_unpack_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "floor.rec"
    line = b'[0,"snapshot",{"at":"2026-03-07T16:13:20.000Z"}]\n'
    path.write_bytes(FIRST_LINE + block(b"K", line + b" " * 5_000))
    monkeypatch.setattr(module, "MAX_UNPACKED", len(line))
    with pytest.raises(RecordingError, match="first picture"):
        Recording(path)


def test_pictures_that_come_again_and_again_take_little_room(tmp_path: Path) -> None:
    """As while the daemon is away and the database is looked into."""
    sizes = []
    for times in (1, 50):
        path = tmp_path / f"{times}.rec"
        recorder = Recorder(path)
        for number in range(times):
            recorder.message(T0_MS + number * 5_000, "snapshot", picture(calls=300, at_ms=T0_MS + number * 5_000))
            recorder.flush()
        recorder.close()
        sizes.append(path.stat().st_size)
    assert sizes[1] < sizes[0] * 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(WORDS), JSON, max_size=5)), max_size=5)
)
def test_lines_with_anything_in_them_do_no_harm(lines: list[tuple[str, dict[str, Any]]]) -> None:
    mirror = Mirror()
    for kind, data in lines:
        mirror.restore(kind, data)
        assert isinstance(mirror.whole(T0_MS), dict)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 100_000), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_left_out(tmp_path_factory: pytest.TempPathFactory, place: int, garbage: bytes) -> None:
    path = tmp_path_factory.mktemp("rec") / "floor.rec"
    write(path, list(messages(8, 40, every_ms=KEY_MS // 9)))
    whole = [repr(message) for message in messages_in(path)]
    damaged = bytearray(path.read_bytes())
    place %= len(damaged)
    damaged[place : place + len(garbage)] = garbage
    path.write_bytes(damaged)
    try:
        found = messages_in(path)
    except RecordingError:
        return
    assert {repr(message) for message in found} <= set(whole)
