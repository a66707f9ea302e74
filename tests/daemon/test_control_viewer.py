"""One viewer's buffer: bounded, emptied with a word about it, and given up where nobody reads."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastagi import control_stream
from fastagi.control_stream import BUFFER_BYTES, KERNEL_BYTES, TRANSPORT_BYTES, Viewer

MESSAGE = b"event: call\nid: B-1\ndata: " + b'"%s"' % (b"x" * 1_000) + b"\n\n"
MANY = 5_000


class Floor:
    """Stands for what is watched; its picture is small."""

    def __init__(self, missed: list[bytes] | None = None) -> None:
        self.looking: set[Any] = set()
        self.pictures = 0
        self.missed = missed

    def join(self, viewer: Any) -> None:
        self.looking.add(viewer)

    def leave(self, viewer: Any) -> None:
        self.looking.discard(viewer)

    def since(self, last_id: str) -> list[bytes] | None:
        assert last_id == "B-0"
        return self.missed

    def snapshot(self) -> bytes:
        self.pictures += 1
        return b"event: snapshot\nid: B-9\ndata: {}\n\n"


def with_pair(
    test: Callable[
        [Floor, Viewer, asyncio.StreamReader, asyncio.StreamWriter, asyncio.Task[None]], Coroutine[Any, Any, None]
    ],
    missed: list[bytes] | None = None,
    last_id: str = "",
) -> None:
    """Run `test` with a viewer that writes to one end of a socket pair, whose other end is a reader's."""

    async def whole() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs, limit=4_096)
        _, own = await asyncio.open_connection(sock=ours)
        floor: Any = Floor(missed)
        viewer = Viewer(floor, last_id)
        task = asyncio.create_task(viewer.run(own))
        try:
            await asyncio.wait_for(test(floor, viewer, reader, writer, task), 20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            own.close()
            writer.close()

    asyncio.run(whole())


async def lines_until(reader: asyncio.StreamReader, wanted: bytes) -> list[bytes]:
    """Lines up to the first that begins so."""
    seen: list[bytes] = []
    while not seen or not seen[-1].startswith(wanted):
        seen.append(await reader.readline())
        assert seen[-1], "the stream has ended"
    return seen


def test_it_begins_with_a_snapshot_and_goes_on_with_what_comes() -> None:
    async def test(floor: Floor, viewer: Viewer, reader: Any, _writer: Any, _task: Any) -> None:
        await lines_until(reader, b"event: snapshot")
        viewer.push(MESSAGE)
        await lines_until(reader, b"event: call")
        await lines_until(reader, b": beat")
        assert floor.looking == {viewer}

    with_pair(test)


def test_who_comes_back_is_told_what_was_missed_without_a_snapshot() -> None:
    async def test(floor: Floor, viewer: Viewer, reader: Any, _writer: Any, _task: Any) -> None:
        viewer.push(MESSAGE.replace(b"B-1", b"B-2"))
        seen = await lines_until(reader, b"id: B-2")
        assert b"id: B-1\n" in seen
        assert floor.pictures == 0

    with_pair(test, [MESSAGE], "B-0")


@pytest.mark.parametrize("missed", [None, [MESSAGE] * 600], ids=["too-long-ago", "more-than-a-picture"])
def test_who_missed_too_much_begins_anew(missed: list[bytes] | None) -> None:
    async def test(floor: Floor, _viewer: Viewer, reader: Any, _writer: Any, _task: Any) -> None:
        assert len(await lines_until(reader, b"event: snapshot")) == 1
        assert floor.pictures == 1

    with_pair(test, missed, "B-0")


def test_a_buffer_that_overflows_is_emptied_and_the_viewer_begins_anew() -> None:
    async def test(floor: Floor, viewer: Viewer, reader: Any, _writer: Any, _task: Any) -> None:
        await lines_until(reader, b"data: {}")
        most = 0
        for _ in range(MANY):
            viewer.push(MESSAGE)
            most = max(most, viewer.buffered)
            if viewer.buffered % 7 == 0:
                await asyncio.sleep(0)
        assert BUFFER_BYTES - 2 * len(MESSAGE) < most <= BUFFER_BYTES
        seen = await lines_until(reader, b'data: {"messages"')
        (lost,) = [json.loads(line[6:])["messages"] for line in seen if line.startswith(b'data: {"messages"')]
        told = sum(line.startswith(b"event: call") for line in seen)
        assert lost + told == MANY, "none is forgotten"
        await lines_until(reader, b"event: snapshot")
        assert floor.pictures == 2

    with_pair(test)


def test_who_reads_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_stream, "STUCK_S", 0.2)

    async def test(floor: Floor, viewer: Viewer, reader: Any, _writer: Any, task: asyncio.Task[None]) -> None:
        await lines_until(reader, b"data: {}")
        while not task.done():
            viewer.push(MESSAGE)
            assert viewer.buffered <= BUFFER_BYTES
            await asyncio.sleep(0)
        assert isinstance(task.exception(), TimeoutError)
        assert floor.looking == set()

    with_pair(test)
    assert TRANSPORT_BYTES + KERNEL_BYTES < BUFFER_BYTES, "what waits elsewhere is less than the buffer"
