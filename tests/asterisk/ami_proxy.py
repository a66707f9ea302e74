"""A TCP proxy between the daemon and Asterisk's manager interface that cuts, stalls, delays and trickles; and a flood.

Loopback only, on a loop of its own in a thread. What it does is asked for by attributes, at any time, from the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from lab.ports import LOOPBACK, free_port

CHUNK_BYTES: Final = 4_096
TICK_S: Final = 0.02
CLOSE_S: Final = 10.0


class AmiProxy:
    """`with AmiProxy(port) as proxy:` listens on `proxy.port` and passes everything on, both ways.

    `delay_s`: what Asterisk says arrives so much later, in order. `bytes_s`: and no faster than this, in small pieces;
    0 is at once. `stalled`: nothing goes either way, and nobody is told.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ami-proxy")
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        self.bytes_s = 0
        self.stalled = False
        self._closed = False
        self.passed_bytes = 0  # from Asterisk to the daemon
        self.port = free_port()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_S)
        self._loop.close()

    def cut(self) -> None:
        """Reset every connection, and each new one at once, until `mend`."""
        self._closed = True
        self._do(self._reset())

    def mend(self) -> None:
        """All is well again."""
        self._closed = self.stalled = False
        self.delay_s, self.bytes_s = 0.0, 0

    # --- in the thread

    def _do(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CLOSE_S)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _end(self) -> None:
        self._server.close()
        await self._reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reset(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            if self._closed:
                return
            far_reader, far = await asyncio.open_connection(LOOPBACK, self._target_port)
            self._writers.add(far)
            ways = (
                asyncio.ensure_future(self._pass(reader, far, is_answer=False)),
                asyncio.ensure_future(self._pass(far_reader, writer, is_answer=True)),
            )
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            pass  # Asterisk is away: so are we
        finally:
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool) -> None:
        """One way: a reader that notes when each piece came, and a writer that lets it go when its time has come."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            while data := await reader.read(CHUNK_BYTES):
                waiting.put_nowait((loop.time(), data))
            waiting.put_nowait((loop.time(), b""))

        reading = asyncio.ensure_future(read())
        try:
            while True:
                came_s, data = await waiting.get()
                while self.stalled or (is_answer and loop.time() < came_s + self.delay_s):  # noqa: ASYNC110 - other thread
                    await asyncio.sleep(TICK_S)
                if not data:
                    return
                if is_answer:
                    self.passed_bytes += len(data)
                await self._write(writer, data, is_answer=is_answer)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _write(self, writer: asyncio.StreamWriter, data: bytes, *, is_answer: bool) -> None:
        while data:
            slow = is_answer and self.bytes_s
            piece = max(int(self.bytes_s * TICK_S), 1) if slow else len(data)
            writer.write(data[:piece])
            await writer.drain()
            data = data[piece:]
            if slow:
                await asyncio.sleep(TICK_S)


class AmiClient:
    """A manager of the test: logs in, and sends actions without waiting for their answers.

    It reads what comes, so that Asterisk does not leave it.
    """

    def __init__(self, port: int, username: str, secret: str) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), CLOSE_S)
        self._closing = False
        self.heard_bytes = 0
        self.sent = 0
        self.send([("Action", "Login"), ("Username", username), ("Secret", secret), ("Events", "off")])
        self._thread = threading.Thread(target=self._read, name="ami-client")
        self._thread.start()

    def send(self, fields: Sequence[tuple[str, str]]) -> None:
        """One action."""
        text = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._socket.sendall(f"{text}\r\n".encode())
        self.sent += 1

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(CHUNK_BYTES * 16):
                self.heard_bytes += len(data)

    def close(self) -> None:
        """End it. Harmless twice."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(CLOSE_S)
        self._socket.close()


class Flood:
    """`with Flood(client, actions):` sends these actions over and over, `per_s` a second, until the block ends."""

    def __init__(
        self, client: AmiClient, action: Callable[[int], Mapping[str, str]], *, per_s: int, in_all: int
    ) -> None:
        self._client, self._action, self._per_s, self._in_all = client, action, per_s, in_all
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ami-flood")

    def _run(self) -> None:
        a_tick = max(int(self._per_s * TICK_S), 1)
        number = 0
        with contextlib.suppress(OSError):
            while number < self._in_all and not self._over.wait(TICK_S):
                for _ in range(a_tick):
                    self._client.send([*self._action(number).items()])
                    number += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(CLOSE_S)
        self._client.close()
