"""The screens over a recording: pause, seek, speed, step, and nothing that could change anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from capconduit.vocab import FeedKind
from capconduit_cli.tui.app import TopApp
from capconduit_cli.tui.feed import FeedState
from capconduit_cli.tui.recording import Recorder
from capconduit_cli.tui.replay import ReplayFeed, replay_feed
from tests.tui import fake_daemon as fake
from tests.tui.top_rig import DEADLINE_S, FakeActions, StillClock, check_snapshot, done_and_drawn, screen_text

SECONDS = 900


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A quarter of an hour in which every second a call comes."""
    path = tmp_path / "floor.rec"
    recorder = Recorder(path)
    recorder.message(fake.T0_MS, "snapshot", fake.picture(calls=0, events=0))
    recorder.state(fake.T0_MS, FeedState(FeedKind.LIVE, fake.T0_MS))
    for second in range(1, SECONDS + 1):
        at_ms = fake.T0_MS + second * 1_000
        recorder.message(at_ms, "health", fake.health(at_ms))
        recorder.message(at_ms, "call", fake.call(second))
    recorder.close()
    return path


def over(path: Path, play: Callable[[TopApp, ReplayFeed, Pilot[None]], Awaitable[None]]) -> None:
    """Run the app over a recording that stands at its 600th second."""

    async def run() -> None:
        feed = replay_feed(path, start_ms=fake.T0_MS + 600_000)
        feed.paused = True
        app = TopApp(feed, FakeActions(), StillClock())
        async with app.run_test(size=(80, 24)) as pilot:
            await until(app, pilot, lambda: "of 600" in screen_text(app))
            await play(app, feed, pilot)

    asyncio.run(run())


async def until(app: TopApp, pilot: Pilot[None], good: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not good():
            await pilot.pause(0.01)
            app.refresh_now()


def test_arrows_seek_and_zero_goes_to_the_beginning(recording: Path) -> None:
    async def play(app: TopApp, feed: ReplayFeed, pilot: Pilot[None]) -> None:
        for key, second in (("left", 590), ("shift+left", 530), ("right", 540), ("ctrl+right", 900), ("ctrl+left", 300),
                            ("0", 0)):  # fmt: skip
            await pilot.press(key)
            await done_and_drawn(pilot)
            assert feed.position_ms == fake.T0_MS + second * 1_000
            wanted = f"of {second}"
            await until(app, pilot, lambda wanted=wanted: wanted in screen_text(app))

    over(recording, play)


def test_plus_and_minus_change_the_speed_and_space_the_pause(recording: Path) -> None:
    async def play(app: TopApp, feed: ReplayFeed, pilot: Pilot[None]) -> None:
        for keys, speed in ((["plus", "plus"], 4.0), (["minus"], 2.0), (["minus"] * 9, 0.25)):
            await pilot.press(*keys)
            await done_and_drawn(pilot)
            assert feed.speed == speed
        await until(app, pilot, lambda: "PAUSED 0.25×" in screen_text(app))
        await pilot.press("space")
        await until(app, pilot, lambda: not feed.paused)
        await until(app, pilot, lambda: "REPLAY 0.25×" in screen_text(app))
        await pilot.press("space")
        await until(app, pilot, lambda: feed.paused)

    over(recording, play)


def test_a_step_shows_the_next_change(recording: Path) -> None:
    async def play(app: TopApp, feed: ReplayFeed, pilot: Pilot[None]) -> None:
        await pilot.press("full_stop")
        await until(app, pilot, lambda: "of 601" in screen_text(app))

    over(recording, play)


def test_it_says_where_it_is_and_times_are_those_of_the_recording(recording: Path) -> None:
    async def play(app: TopApp, feed: ReplayFeed, pilot: Pilot[None]) -> None:
        await until(app, pilot, lambda: "2026-03-07 16:28:20Z" in screen_text(app))  # the end of the recording
        check_snapshot("replay-80x24", screen_text(app))

    over(recording, play)


@pytest.mark.parametrize("key", ["k", "p", "r"])
def test_nothing_can_be_changed(recording: Path, key: str) -> None:
    async def play(app: TopApp, feed: ReplayFeed, pilot: Pilot[None]) -> None:
        await pilot.press(key)
        await until(app, pilot, lambda: "nothing can be changed in a replay" in screen_text(app))
        await pilot.press("y")
        await done_and_drawn(pilot)
        assert app.actions is not None
        assert app.actions.asked == []  # type: ignore[attr-defined]

    over(recording, play)
