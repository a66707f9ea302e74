"""One viewer of the live picture: server-sent events from a buffer of its own, bounded, that nobody else waits for.

Messages are made once and shared by all viewers; a buffer holds references to them. One that overflows is emptied; the
viewer is told how much it missed, and begins again with a fresh snapshot as soon as it reads. A viewer that reads
nothing for STUCK_S is disconnected.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from typing import Final

from fastagi.floor import Watched

BUFFER_BYTES: Final = 1_048_576  # of messages that one viewer has not taken
TRANSPORT_BYTES: Final = 65_536  # of them that are on their way
KERNEL_BYTES: Final = 65_536  # and that the kernel holds
CHUNK_BYTES: Final = 65_536
BEAT_S: Final = 1.0
STUCK_S: Final = 10.0
BEAT: Final = b": beat\n\n"


class Viewer:
    """Belongs to the loop. `last_id`: of the last message it has seen; empty, or too long ago: it begins anew."""

    def __init__(self, watched: Watched, last_id: str = "") -> None:
        self._watched = watched
        self._last_id = last_id
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._writing = 0  # bytes of messages that the transport is being given
        self._lost = 0
        self._anew = True
        self._wake = asyncio.Event()
        self._over = False

    @property
    def buffered(self) -> int:
        """Bytes of messages that were not taken yet; a snapshot is beside them."""
        return self._bytes + self._writing

    def push(self, message: bytes) -> None:
        """See floor.Watcher. While a snapshot is due there is nothing to keep: it will tell the same."""
        if self._lost or self.buffered + len(message) > BUFFER_BYTES:
            self._lost += 1 + len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
        elif not self._anew:
            self._waiting.append(message)
            self._bytes += len(message)
        self._wake.set()

    def end(self) -> None:
        """See floor.Watcher."""
        self._over = True
        self._wake.set()

    async def run(self, writer: asyncio.StreamWriter) -> None:
        """Write until the viewer goes or is stuck. Raises TimeoutError, OSError."""
        writer.transport.set_write_buffer_limits(high=TRANSPORT_BYTES)
        with suppress(OSError):  # what the kernel takes for one who does not read is bounded, too
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        self._catch_up()
        self._watched.join(self)  # in the same breath: nothing falls in between
        try:
            while not (self._over or writer.is_closing()):
                await self._write(writer, self._next())
                self._writing = 0
                await self._something()
        finally:
            self._watched.leave(self)

    def _catch_up(self) -> None:
        """Begin with what was missed, unless that is more than a new picture."""
        missed = self._watched.since(self._last_id) if self._last_id else None
        if missed is not None and sum(map(len, missed)) <= BUFFER_BYTES // 2:
            self._anew = False
            self._waiting.extend(missed)
            self._bytes = sum(map(len, missed))

    def _next(self) -> bytes:
        """What is to be written now."""
        if self._lost or self._anew:
            lost, self._lost, self._anew = self._lost, 0, False
            self._waiting.clear()
            self._bytes = 0
            snapshot = self._watched.snapshot()  # this tells the others, and us, what it flushes: it is in there
            self._waiting.clear()
            self._bytes = 0
            told = b'event: lost\ndata: {"messages":%d}\n\n' % lost if lost else b""
            return told + snapshot
        if not self._waiting:
            return BEAT
        ready = b"".join(self._waiting)
        self._waiting.clear()
        self._bytes, self._writing = 0, len(ready)
        return ready

    async def _something(self) -> None:
        """Until there is something to write, at most BEAT_S."""
        if self._waiting or self._lost:
            return
        self._wake.clear()
        try:
            await asyncio.wait_for(self._wake.wait(), BEAT_S)
        except TimeoutError:
            return

    async def _write(self, writer: asyncio.StreamWriter, text: bytes) -> None:
        """In parts, each taken by the viewer before the next: what waits is never copied as a whole."""
        view = memoryview(text)
        for start in range(0, len(view), CHUNK_BYTES):
            writer.write(view[start : start + CHUNK_BYTES])
            await asyncio.wait_for(writer.drain(), STUCK_S)
