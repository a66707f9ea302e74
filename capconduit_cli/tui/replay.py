"""A recording played as a feed: at any speed, paused, step by step, from any instant.

What is damaged in the file is left out and said; it never ends the replay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from capconduit.errors import CapConduitError
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import FeedKind, FloorMessage
from capconduit_cli.tui.feed import FeedState, OnChange
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.recording import FEED, Line, Mirror, Recording

SPEEDS: Final = (0.25, 100.0)  # least and most
TICK_S: Final = 0.1  # as often as the daemon tells its viewers
AT_THE_END: Final = "end of the recording"


class ReplayFeed:
    """Plays a recording. Its properties may be set while it runs; what they change is seen at once."""

    def __init__(self, recording: Recording, *, speed: float = 1.0, start_ms: int | None = None) -> None:
        self.floor = Floor()
        self._recording = recording
        self._on_change: OnChange | None = None
        self._speed = _within(speed)
        self._paused = False
        self._position_ms = float(recording.start_ms if start_ms is None else self._inside(start_ms))
        self._told_s = 0.0  # of the loop's clock, when the position was that
        self._mirror = Mirror()
        self._stream = 0
        self._lines: Iterator[Line] = iter(())
        self._next: Line | None = None
        self._message = ""
        self._sought = True  # the floor is to be made anew at the position
        self._wake = asyncio.Event()

    @property
    def start_ms(self) -> int:
        """Instant of the first picture."""
        return self._recording.start_ms

    @property
    def end_ms(self) -> int:
        """Instant of the last message."""
        return self._recording.end_ms

    @property
    def position_ms(self) -> int:
        """The instant that is shown."""
        return int(self._position_ms)

    @property
    def paused(self) -> bool:
        """Whether time stands still."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._wake.set()

    @property
    def speed(self) -> float:
        """Seconds of the recording in a second of ours."""
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        self._speed = _within(speed)
        self._wake.set()

    def seek(self, to_ms: int) -> None:
        """Show another instant; those outside of the recording are its beginning and its end."""
        self._position_ms = float(self._inside(to_ms))
        self._sought = True
        self._wake.set()

    def step(self) -> None:
        """Pause, and show the next change; that the daemon is well, which it says every second, is none."""
        self._paused = True
        self._go_where_sought()
        while (line := self._peek()) is not None:
            self._take(line)
            self._position_ms = max(self._position_ms, line[0])
            if line[1].lstrip("~") not in (FloorMessage.HEALTH, FEED):
                break
        self._tell()
        self._wake.set()

    async def run(self, on_change: OnChange) -> None:
        self._on_change = on_change
        try:
            await self._run()
        finally:
            self._recording.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._told_s = loop.time()
        while True:
            self._go_where_sought()
            now_s = loop.time()
            if not self._paused:
                self._play((now_s - self._told_s) * self._speed * MS_PER_SECOND)
            self._told_s = now_s
            self._tell()
            self._wake.clear()
            stood = self._paused
            with suppress(TimeoutError):
                async with asyncio.timeout(None if stood else TICK_S):
                    await self._wake.wait()
            if stood or self._sought:  # time that went by before is none of what is played
                self._told_s = loop.time()

    def _play(self, passed_ms: float) -> None:
        """Go on by so much of the recording's time; at its end, pause."""
        self._position_ms = min(self._position_ms + passed_ms, float(self.end_ms))
        while (line := self._peek()) is not None and line[0] <= self._position_ms:
            self._take(line)
        if self._position_ms >= self.end_ms:
            self._paused = True

    def _tell(self) -> None:
        if self._on_change is not None:
            message = AT_THE_END if self._position_ms >= self.end_ms and not self._message else self._message
            self._on_change(self.floor, FeedState(FeedKind.REPLAY, self.position_ms, message))

    def _go_where_sought(self) -> None:
        """Make the floor anew at the position, from the last picture before it."""
        if not self._sought:
            return
        self._sought = False
        self._message = ""
        self._mirror = Mirror()
        self._begin(self._recording.whole_stream_at(self.position_ms))
        while (line := self._peek()) is not None and line[0] <= self._position_ms:
            self._restore(line)
        self.floor.forget_events()
        self._apply(FloorMessage.SNAPSHOT, self._mirror.whole(self.position_ms))

    def _begin(self, stream: int) -> None:
        self._stream = stream
        self._lines = self._recording.lines(stream)
        self._next = None

    def _peek(self) -> Line | None:
        """The next line; None at the end of the recording."""
        while self._next is None:
            self._next = next(self._lines, None)
            if self._next is None:
                if self._stream + 1 >= self._recording.streams:
                    return None
                self._begin(self._stream + 1)
        return self._next

    def _take(self, line: Line) -> None:
        """Bring the floor up to date with a line."""
        kind, data = self._restore(line)
        if kind != FEED:
            self._apply(kind, data)

    def _restore(self, line: Line) -> tuple[str, dict[str, Any]]:
        """Use the line up: the message that it stands for."""
        self._next = None
        _, kind, data = line
        if kind == FEED:
            known = data.get("kind") == FeedKind.LIVE
            self._message = "" if known else f"{data.get('kind')}: {data.get('message')}"
            return kind, data
        if kind == FloorMessage.SNAPSHOT:
            self._message = ""
        return self._mirror.restore(kind, data)

    def _apply(self, kind: str, data: dict[str, Any]) -> None:
        try:
            self.floor.apply(kind, data)
        except CapConduitError as error:
            self._message = f"part of the recording cannot be read: {error.message}"

    def _inside(self, at_ms: int) -> int:
        return min(max(at_ms, self._recording.start_ms), self._recording.end_ms)


def _within(speed: float) -> float:
    return min(max(speed, SPEEDS[0]), SPEEDS[1])


def replay_feed(path: Path, *, speed: float = 1.0, start_ms: int | None = None) -> ReplayFeed:
    """A recording as a feed. Raises RecordingError."""
    return ReplayFeed(Recording(path), speed=speed, start_ms=start_ms)
