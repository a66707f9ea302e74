"""A recording played as a feed: it shows what was at its instant, however it got there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from capconduit.vocab import FeedKind
from capconduit_cli.tui.feed import FeedState, LiveFeed
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.recording import KEY_MS, Recorder, RecordingError, recorded
from capconduit_cli.tui.replay import AT_THE_END, ReplayFeed, replay_feed
from tests.tui.fake_daemon import T0_MS, FakeDaemon, call, event, health, picture, ulid

DEADLINE_S = 20.0
SECONDS = 900  # of the recording: three streams


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording in which every second one call comes, and health and an event with it."""
    path = tmp_path / "floor.rec"
    recorder = Recorder(path)
    recorder.message(T0_MS, "snapshot", picture(calls=0, events=0))
    recorder.state(T0_MS, FeedState(FeedKind.LIVE, T0_MS))
    for second in range(1, SECONDS + 1):
        at_ms = T0_MS + second * 1_000
        recorder.message(at_ms, "health", health(at_ms))
        recorder.message(at_ms, "call", call(second))
        recorder.message(at_ms, "event", event(second))
        if second == 400:
            recorder.state(at_ms, FeedState(FeedKind.STALE, at_ms, "the daemon is silent"))
        if second == 410:
            recorder.state(at_ms, FeedState(FeedKind.LIVE, at_ms))
    recorder.close()
    return path


@contextlib.contextmanager
def replaying(path: Path, *, speed: float = 1.0, start_ms: int | None = None) -> Iterator[ReplayFeed]:
    """A replay that does not run: what its methods do."""
    feed = replay_feed(path, speed=speed, start_ms=start_ms)
    try:
        yield feed
    finally:
        feed._recording.close()


class Watcher:
    """Sees what a running replay tells."""

    def __init__(self) -> None:
        self.state = FeedState(FeedKind.WAITING, 0)
        self.floor = Floor()
        self._changed = asyncio.Event()

    def on_change(self, floor: Floor, state: FeedState) -> None:
        self.floor, self.state = floor, state
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def watching(feed: ReplayFeed) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    running = asyncio.create_task(feed.run(watcher.on_change))
    try:
        yield watcher
    finally:
        assert not running.done()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.mark.parametrize("second", [0, 1, 299, 300, 301, 450, 899, 900])
def test_seeking_shows_what_was_at_that_instant(path: Path, second: int) -> None:
    async def work() -> None:
        feed = replay_feed(path)
        feed.paused = True
        async with watching(feed) as me:
            for to in (T0_MS + 700_000, T0_MS + second * 1_000 + 999, T0_MS + second * 1_000):
                feed.seek(to)
                await me.until(lambda to=to: me.state.since_ms == min(to, feed.end_ms))  # type: ignore[misc]
            assert me.state.kind is FeedKind.REPLAY
            assert list(me.floor.calls) == [ulid(number) for number in range(1, second + 1)]
            assert [seen.id for seen in me.floor.events] == [
                ulid(800_000 + number) for number in range(max(second - 199, 1), second + 1)
            ]

    asyncio.run(work())


def test_seeking_outside_shows_the_beginning_and_the_end(path: Path) -> None:
    with replaying(path) as feed:
        feed.seek(0)
        assert feed.position_ms == feed.start_ms == T0_MS
        feed.seek(2**60)
        assert feed.position_ms == feed.end_ms == T0_MS + SECONDS * 1_000


def test_playing_goes_through_every_instant_and_stops_at_the_end(path: Path) -> None:
    async def work() -> None:
        feed = replay_feed(path, speed=100, start_ms=T0_MS + (SECONDS - 20) * 1_000)
        shown: list[int] = []
        async with watching(feed) as me:
            await me.until(lambda: not shown.append(len(me.floor.calls)) and feed.paused)  # type: ignore[func-returns-value]
            assert me.state.message == AT_THE_END
            assert len(me.floor.calls) == SECONDS
            assert me.state.since_ms == feed.end_ms
            assert shown == sorted(shown)

    asyncio.run(work())


def test_a_paused_replay_stands_still_and_goes_on_from_there(path: Path) -> None:
    async def work() -> None:
        feed = replay_feed(path, speed=1)
        feed.paused = True
        async with watching(feed) as me:
            await me.until(lambda: me.state.kind is FeedKind.REPLAY)
            await asyncio.sleep(0.3)  # time that must not count
            assert feed.position_ms == T0_MS
            began_s = time.monotonic()
            feed.paused = False
            await me.until(lambda: me.state.since_ms > T0_MS)
            assert feed.position_ms <= T0_MS + (time.monotonic() - began_s) * 1_000 + 1

    asyncio.run(work())


def test_a_step_is_the_next_change_and_health_is_none(path: Path) -> None:
    with replaying(path, start_ms=T0_MS + 10_500) as feed:
        feed.step()
        assert feed.paused
        assert feed.position_ms == T0_MS + 11_000
        assert list(feed.floor.calls)[-1] == ulid(11)
        assert feed.floor.events[-1].id == ulid(800_010)
        feed.step()
        assert feed.floor.events[-1].id == ulid(800_011)
        feed.step()
        assert feed.position_ms == T0_MS + 12_000


def test_steps_go_on_into_the_next_stream_and_end_at_the_end(path: Path) -> None:
    with replaying(path, start_ms=T0_MS + KEY_MS - 500) as feed:
        for _ in range(4):
            feed.step()
        assert feed.position_ms == T0_MS + KEY_MS + 1_000
        feed.seek(feed.end_ms)
        feed.step()
        feed.step()
        assert feed.position_ms == feed.end_ms
        assert len(feed.floor.calls) == SECONDS


def test_what_the_viewer_did_not_know_then_is_said(path: Path) -> None:
    async def work() -> None:
        feed = replay_feed(path)
        feed.paused = True
        async with watching(feed) as me:
            feed.seek(T0_MS + 405_000)
            await me.until(lambda: me.state.message == "stale: the daemon is silent")
            feed.seek(T0_MS + 411_000)
            await me.until(lambda: me.state.message == "")

    asyncio.run(work())


@pytest.mark.parametrize(("asked", "got"), [(0.0, 0.25), (-5, 0.25), (3, 3), (1e9, 100), (float("inf"), 100)])
def test_speed_is_kept_within_bounds(path: Path, asked: float, got: float) -> None:
    with replaying(path) as feed:
        feed.speed = asked
        assert feed.speed == got


def test_a_damaged_part_is_said_and_left_out(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"\xcc\x0aRBK", 1_000) + 60] ^= 1  # in the second stream's first block
    path.write_bytes(damaged)
    with replaying(path, start_ms=T0_MS) as feed:
        feed.seek(T0_MS + 350_000)
        feed._go_where_sought()
        assert feed._message.startswith("damaged: ")
        assert len(feed.floor.calls) == 299, "the last that is known"
        feed.step()
        assert len(feed.floor.calls) == 599, "the step is the next picture"
        assert feed._message == ""


def test_a_message_of_another_version_does_not_end_the_replay(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "floor.rec")
    recorder.message(T0_MS, "snapshot", picture())
    recorder.message(T0_MS + 1_000, "call", {"id": "X", "attempt": "first"})
    recorder.message(T0_MS + 2_000, "weather", {"rain": True})
    recorder.message(T0_MS + 3_000, "call", call(9))
    recorder.close()
    with replaying(tmp_path / "floor.rec") as feed:
        shown = []
        feed._on_change = lambda floor, state: shown.append(state.message)
        for _ in range(3):
            feed.step()
        assert "attempt" in shown[0]
        assert ulid(9) in feed.floor.calls


def test_what_is_watched_live_is_recorded_and_seen_again(tmp_path: Path) -> None:
    async def work() -> None:
        socket, path = tmp_path / "control.sock", tmp_path / "floor.rec"
        async with FakeDaemon(socket, picture=picture(calls=20)) as daemon:
            me = Watcher()
            running = asyncio.create_task(recorded(LiveFeed(str(socket), "default"), path).run(me.on_change))
            await me.until(lambda: me.state.kind is FeedKind.LIVE)
            for number in range(21, 60):
                daemon.send("call", call(number))
                daemon.send("call-gone", {"id": ulid(number - 20)})
            await me.until(lambda: me.floor.calls == daemon.floor.calls)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        with replaying(path) as feed:
            feed.seek(feed.end_ms)
            feed._go_where_sought()
            assert feed.floor.calls == daemon.floor.calls
            assert feed.floor.caps == daemon.floor.caps

    asyncio.run(work())


def test_a_recording_that_ended_is_said_while_watching_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        socket = tmp_path / "control.sock"
        async with FakeDaemon(socket, picture=picture()) as daemon:
            me, recording = Watcher(), recorded(LiveFeed(str(socket), "default"), tmp_path / "floor.rec")
            running = asyncio.create_task(recording.run(me.on_change))
            await me.until(lambda: me.state.kind is FeedKind.LIVE)
            recording._recorder.trouble = "recording ended: No space left on device"
            daemon.send("call", call(9))
            await me.until(lambda: ulid(9) in me.floor.calls)
            assert me.state.kind is FeedKind.LIVE
            assert me.state.message == recording.trouble
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    asyncio.run(work())


def test_a_file_that_is_no_recording_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    with pytest.raises(RecordingError):
        replay_feed(tmp_path / "x")
    with pytest.raises(RecordingError):
        recorded(LiveFeed("/nowhere", "default"), tmp_path / "x")
