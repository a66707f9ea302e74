"""The live feed against a daemon's stand-in: it follows, says when it does not know, and comes back by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import DatabaseError
from capconduit.vocab import FeedKind
from capconduit_cli.tui.feed import FeedState, LiveFeed, Patience
from capconduit_cli.tui.floor import Floor
from tests.tui.fake_daemon import FakeDaemon, call, event, health, picture, ulid

QUICK = Patience(silence_s=0.15, blocked_s=5.0, give_up_s=0.6, retry_s=0.01, retry_max_s=0.05, last_known_s=0.02)
DEADLINE_S = 20.0
PATIENT = Patience(
    silence_s=DEADLINE_S,
    give_up_s=DEADLINE_S,
    answer_s=DEADLINE_S,
    first_picture_s=DEADLINE_S,
    retry_s=0.01,
    retry_max_s=0.05,
    last_known_s=0.02,
)


class Viewer:
    """Somebody who looks at a feed and remembers every state."""

    def __init__(self, feed: LiveFeed) -> None:
        self.feed = feed
        self.floor = Floor()
        self.states = [FeedState(FeedKind.WAITING, 0)]
        self._changed = asyncio.Event()

    def on_change(self, floor: Floor, state: FeedState) -> None:
        self.floor = floor
        if self.states[-1] != state:
            self.states.append(state)
        self._changed.set()

    @property
    def state(self) -> FeedState:
        return self.states[-1]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a change made `condition` true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_kind(self, kind: FeedKind) -> None:
        await self.until(lambda: self.state.kind is kind)

    async def until_same(self, daemon: FakeDaemon) -> None:
        """Wait until the floor is what the daemon sent."""
        await self.until(lambda: same(self.floor, daemon.floor))


def same(one: Floor, other: Floor) -> bool:
    return all(getattr(one, table) == getattr(other, table) for table in one.versions)


@contextlib.asynccontextmanager
async def viewing(feed: LiveFeed) -> AsyncIterator[Viewer]:
    viewer = Viewer(feed)
    running = asyncio.create_task(feed.run(viewer.on_change))
    try:
        yield viewer
    finally:
        assert not running.done(), "a feed does not end by itself"
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def quick(socket: Path) -> contextlib.AbstractAsyncContextManager[Viewer]:
    """A viewer who tries again soon, and waits for what may take its time on a busy machine."""
    return viewing(LiveFeed(str(socket), "default", patience=PATIENT))


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_the_viewer_has_what_the_daemon_has(socket: Path) -> None:
    async def work() -> None:
        async with FakeDaemon(socket, picture=picture(calls=50)) as daemon, viewing(LiveFeed(str(socket), "a&b")) as me:
            await me.until_kind(FeedKind.LIVE)
            assert daemon.requests[0][1] == "/stream?tenant=a%26b"
            for number in range(51, 90):
                daemon.send("call", call(number, state="dialing"))
                daemon.send("call-gone", {"id": ulid(number - 50)})
                daemon.send("event", event(number))
            daemon.send("health", health(calls=50))
            await me.until_same(daemon)
            assert len(me.floor.calls) == 50

    run(work())


def test_nothing_is_known_until_the_daemon_is_there(socket: Path) -> None:
    async def work() -> None:
        async with quick(socket) as me:
            await me.until(lambda: "no daemon answers" in me.state.message)
            assert me.state.kind is FeedKind.WAITING
            assert str(socket) in me.state.message
            async with FakeDaemon(socket, picture=picture()) as daemon:
                await me.until_same(daemon)
                assert me.state.kind is FeedKind.LIVE
                assert me.state.message == ""

    run(work())


def test_a_killed_daemon_is_noticed_and_its_successor_followed(socket: Path) -> None:
    async def work() -> None:
        async with FakeDaemon(socket, picture=picture()) as daemon, quick(socket) as me:
            await me.until_kind(FeedKind.LIVE)
            await daemon.stop()
            await me.until_kind(FeedKind.STALE)
            assert len(me.floor.calls) == 3, "the last known stays on the screen"
            daemon.picture = picture(calls=1, boot_id="boot2")
            daemon.floor = Floor()
            daemon.floor.apply("snapshot", daemon.picture)
            await daemon.start()
            await me.until_kind(FeedKind.LIVE)
            assert len(me.floor.calls) == 1
            assert me.floor.boot_id == "boot2"

    run(work())


def test_a_cut_stream_goes_on_from_the_last_message(socket: Path) -> None:
    async def work() -> None:
        async with FakeDaemon(socket, picture=picture()) as daemon, quick(socket) as me:
            await me.until_kind(FeedKind.LIVE)
            daemon.send("call", call(10))
            await me.until_same(daemon)
            daemon.drop()
            daemon.send("call", call(11))
            await me.until(lambda: ulid(11) in me.floor.calls)
            assert daemon.last_event_ids == ["", "boot1-1"]
            assert same(me.floor, daemon.floor)

    run(work())


def test_a_resumed_stream_that_has_nothing_new_is_live(socket: Path) -> None:
    async def work() -> None:
        async with FakeDaemon(socket, picture=picture()) as daemon, quick(socket) as me:
            await me.until_kind(FeedKind.LIVE)
            daemon.drop()
            await me.until_kind(FeedKind.STALE)
            await daemon.until(lambda: len(daemon.last_event_ids) == 2)
            daemon.send_raw(b": beat\n\n")
            await me.until_kind(FeedKind.LIVE)

    run(work())


def test_a_silent_daemon_is_stale_until_it_speaks_again(socket: Path) -> None:
    async def work() -> None:
        patience = Patience(silence_s=0.15, blocked_s=5.0, give_up_s=DEADLINE_S)
        async with (
            FakeDaemon(socket, picture=picture()) as daemon,
            viewing(LiveFeed(str(socket), "default", patience=patience)) as me,
        ):
            await me.until_kind(FeedKind.LIVE)
            daemon.silent = True
            await me.until_kind(FeedKind.STALE)
            assert me.state.message == "the daemon is silent"
            daemon.silent = False
            await me.until_kind(FeedKind.LIVE)
            assert daemon.last_event_ids == [""], "the same stream went on"

    run(work())


def test_a_daemon_that_stays_silent_is_asked_anew(socket: Path) -> None:
    async def work() -> None:
        async with (
            FakeDaemon(socket, picture=picture()) as daemon,
            viewing(LiveFeed(str(socket), "default", patience=QUICK)) as me,
        ):
            await me.until_kind(FeedKind.LIVE)
            daemon.silent = True
            await daemon.until(lambda: len(daemon.last_event_ids) > 1)
            daemon.silent = False
            daemon.send("call", call(77))
            await me.until_same(daemon)

    run(work())


def test_a_viewer_that_was_busy_does_not_call_the_daemon_silent(socket: Path) -> None:
    async def work() -> None:
        patience = Patience(silence_s=0.5, blocked_s=0.05, give_up_s=DEADLINE_S)
        async with (
            FakeDaemon(socket, picture=picture()) as daemon,
            viewing(LiveFeed(str(socket), "default", patience=patience)) as me,
        ):
            await me.until_kind(FeedKind.LIVE)
            for number in (10, 11):
                for _ in range(20):
                    await asyncio.sleep(0)  # until the feed waits for the socket
                daemon.send("call", call(number))
                time.sleep(0.8)  # noqa: ASYNC251  # this is the viewer's own loop that stands still, longer than silence_s
                await me.until(lambda number=number: ulid(number) in me.floor.calls)  # type: ignore[misc]
            assert FeedKind.STALE not in {state.kind for state in me.states}

    run(work())


def test_without_a_daemon_the_database_tells_the_last_known(socket: Path) -> None:
    async def work() -> None:
        asked = []

        def last_known() -> dict[str, Any]:
            asked.append(1)
            return picture(calls=len(asked), boot_id="")

        feed = LiveFeed(str(socket), "default", patience=PATIENT, last_known=last_known)
        async with viewing(feed) as me:
            await me.until(lambda: len(me.floor.calls) >= 2)
            assert me.state.kind is FeedKind.STALE
            assert me.state.since_ms == me.floor.at_ms, "as old as the picture"
            async with FakeDaemon(socket, picture=picture(calls=30)) as daemon:
                await me.until_kind(FeedKind.LIVE)
                assert same(me.floor, daemon.floor)
                assert daemon.last_event_ids[-1] == ""
                count = len(asked)
                daemon.send("call", call(31))
                await me.until_same(daemon)
                assert len(asked) <= count + 1, "the database is left alone while the daemon is there"

    run(work())


def test_after_the_databases_picture_the_daemon_is_asked_for_a_whole_one(socket: Path) -> None:
    async def work() -> None:
        feed = LiveFeed(str(socket), "default", patience=PATIENT, last_known=lambda: picture(calls=1, boot_id=""))
        async with FakeDaemon(socket, picture=picture(calls=5)) as daemon, viewing(feed) as me:
            await me.until_kind(FeedKind.LIVE)
            ring = daemon._ring.copy()
            await daemon.stop()
            await me.until(lambda: len(me.floor.calls) == 1)
            daemon._ring = ring  # as if it were the same boot: resuming would be possible, and wrong
            await daemon.start()
            await me.until_kind(FeedKind.LIVE)
            assert same(me.floor, daemon.floor)
            assert daemon.last_event_ids[-1] == ""

    run(work())


def test_a_database_that_is_away_too_changes_nothing(socket: Path) -> None:
    def last_known() -> dict[str, Any]:
        raise DatabaseError("database-down", "the database is away")

    async def work() -> None:
        feed = LiveFeed(str(socket), "default", patience=PATIENT, last_known=last_known)
        async with viewing(feed) as me:
            await me.until(lambda: "the database is away" in me.state.message)
            assert me.state.kind is FeedKind.WAITING
            async with FakeDaemon(socket, picture=picture()) as daemon:
                await me.until_same(daemon)

    run(work())


@pytest.mark.parametrize(
    "garbage",
    [
        b"event: call\ndata: {not json\n\n",
        b'event: call\ndata: {"id": 5}\n\n',
        b"event: call\ndata: \xff\xfe\n\n",
        b"event: snapshot\ndata: []\n\n",
    ],
)
def test_a_message_that_cannot_be_read_is_told_and_the_floor_made_anew(socket: Path, garbage: bytes) -> None:
    async def work() -> None:
        async with FakeDaemon(socket, picture=picture()) as daemon, quick(socket) as me:
            await me.until_kind(FeedKind.LIVE)
            daemon.send_raw(garbage)
            await daemon.until(lambda: len(daemon.last_event_ids) == 2)
            assert daemon.last_event_ids[-1] == "", "something may be missed: no going on"
            await me.until_kind(FeedKind.LIVE)
            assert [state.kind for state in me.states].count(FeedKind.STALE) == 1
            assert same(me.floor, daemon.floor)

    run(work())


def test_a_daemon_that_refuses_says_why(socket: Path) -> None:
    async def work() -> None:
        async with FakeDaemon(socket, picture=picture()) as daemon:
            daemon.refuse = (404, {"error": "tenant-not-found", "message": "no tenant named 'x'", "hint": ""})
            async with viewing(LiveFeed(str(socket), "x", patience=PATIENT)) as me:
                await me.until(lambda: "no tenant named 'x'" in me.state.message)
                daemon.refuse = None
                await me.until_same(daemon)

    run(work())


def test_a_server_that_is_no_daemon_is_told(socket: Path) -> None:
    async def work() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            writer.close()

        server = await asyncio.start_unix_server(answer, socket)
        async with server, quick(socket) as me:
            await me.until(lambda: me.state.message == "the daemon is gone")

    run(work())


def test_a_socket_that_may_not_be_opened_is_told(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    async def work() -> None:
        monkeypatch.setattr("socket.socket.connect", denied)  # root may open everything
        async with FakeDaemon(socket, picture=picture()), quick(socket) as me:
            await me.until(lambda: me.state.message == f"no daemon answers on {socket}: permission denied")

    run(work())


def test_leaving_does_not_wait_for_a_database_that_hangs(socket: Path) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hangs() -> dict[str, Any]:
        asked.set()
        assert answer.wait(DEADLINE_S)
        return picture()

    async def work() -> None:
        async with viewing(LiveFeed(str(socket), "default", patience=PATIENT, last_known=hangs)):
            await asyncio.to_thread(asked.wait, DEADLINE_S)

    run(work())
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "last known")
    answer.set()


def test_a_picture_of_the_database_that_cannot_be_read_is_told(socket: Path) -> None:
    async def work() -> None:
        feed = LiveFeed(str(socket), "default", patience=PATIENT, last_known=lambda: {"calls": [{"id": 5}]})
        async with viewing(feed) as me:
            await me.until(lambda: "id: 5 is not a text" in me.state.message)

    run(work())


def test_a_databases_picture_that_comes_while_the_daemon_thinks_is_not_gone_on_from(socket: Path) -> None:
    """The daemon is asked to go on from a message, and before it answers something else is shown."""

    asked_again = threading.Event()

    def last_known() -> dict[str, Any]:
        assert asked_again.wait(DEADLINE_S)
        return picture(calls=1, boot_id="")

    async def work() -> None:
        feed = LiveFeed(str(socket), "default", patience=PATIENT, last_known=last_known)
        async with FakeDaemon(socket, picture=picture(calls=5)) as daemon, viewing(feed) as me:
            await me.until_kind(FeedKind.LIVE)
            daemon.send("call", call(9))
            await me.until_same(daemon)
            daemon.answering.clear()
            daemon.drop()
            await daemon.until(lambda: len(daemon.last_event_ids) == 2)
            assert daemon.last_event_ids[1] == "boot1-1"
            asked_again.set()
            await me.until(lambda: len(me.floor.calls) == 1)
            daemon.answering.set()
            await me.until_kind(FeedKind.LIVE)
            assert same(me.floor, daemon.floor)

    run(work())


def test_a_databases_picture_that_comes_late_does_not_replace_the_daemons(socket: Path) -> None:
    asked, answer, answered = threading.Event(), threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        asked.set()
        assert answer.wait(DEADLINE_S)
        answered.set()
        return picture(calls=1, boot_id="")

    async def work() -> None:
        feed = LiveFeed(str(socket), "default", patience=PATIENT, last_known=slow)
        async with viewing(feed) as me:
            await asyncio.to_thread(asked.wait, DEADLINE_S)
            async with FakeDaemon(socket, picture=picture(calls=5)) as daemon:
                await me.until_kind(FeedKind.LIVE)
                told = len(me.states)
                answer.set()
                await asyncio.to_thread(answered.wait, DEADLINE_S)
                assert feed._looking is not None
                async with asyncio.timeout(DEADLINE_S):
                    await asyncio.wait({feed._looking})
                daemon.send("call", call(9))
                await me.until_same(daemon)
                assert me.states[told:] == []

    run(work())


def test_changes_before_the_first_picture_are_of_nothing(socket: Path) -> None:
    async def work() -> None:
        go_on = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            writer.write(b'id: b-1\nevent: call\ndata: {"id": "X"}\n\n')
            await go_on.wait()
            writer.write(f"id: b-2\nevent: snapshot\ndata: {json.dumps(picture(calls=2))}\n\n".encode())
            while await reader.read(1_024):  # until the viewer leaves
                pass
            writer.close()

        server = await asyncio.start_unix_server(answer, socket)
        async with server, viewing(LiveFeed(str(socket), "default", patience=PATIENT)) as me:
            async with asyncio.timeout(DEADLINE_S):
                while not me.feed._heard_ms:  # noqa: ASYNC110  # nothing is told of what is ignored
                    await asyncio.sleep(0)
            assert me.state.kind is FeedKind.WAITING
            go_on.set()
            await me.until_kind(FeedKind.LIVE)
            assert sorted(me.floor.calls) == [ulid(1), ulid(2)]

    run(work())


def test_a_daemon_that_thinks_long_is_waited_for_while_the_database_is_shown(socket: Path) -> None:
    async def work() -> None:
        patience = replace(PATIENT, answer_s=0.05)
        feed = LiveFeed(str(socket), "default", patience=patience, last_known=lambda: picture(calls=1, boot_id=""))
        async with FakeDaemon(socket, picture=picture(calls=5)) as daemon:
            daemon.answering.clear()
            async with viewing(feed) as me:
                await me.until(lambda: len(me.floor.calls) == 1)
                assert me.state.kind is FeedKind.STALE
                assert me.state.message == "the daemon does not answer"
                daemon.answering.set()
                await me.until_kind(FeedKind.LIVE)
                assert same(me.floor, daemon.floor)
                assert daemon.last_event_ids == [""], "it was asked once"

    run(work())


def test_a_daemon_that_never_answers_is_asked_again(socket: Path) -> None:
    async def work() -> None:
        patience = replace(PATIENT, answer_s=0.05, first_picture_s=0.2)
        async with FakeDaemon(socket, picture=picture()) as daemon:
            daemon.answering.clear()
            async with viewing(LiveFeed(str(socket), "default", patience=patience)):
                await daemon.until(lambda: len(daemon.last_event_ids) > 1)

    run(work())
