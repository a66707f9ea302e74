"""A receiver of events on the loopback: as good or as bad as a test wants it, by a seed."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

JOIN_S = 30


@dataclass
class Got:
    """One request as it came: its headers (names in lower case) and body, and what was answered."""

    headers: dict[str, str]
    body: bytes
    answer: str

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


# What a receiver may do with a request; "ok" takes it.
Behaviour = Callable[[Got], str]
ANSWERS = {
    "ok": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: 0\r\n\r\n",
    "wait": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: 30\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    "half": b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf",
    "nonsense": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "endless": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


def flaky(seed: int, bad: float = 0.15, hangs: float = 0.002) -> Behaviour:
    """Fails at random: answers 500 or 429, cuts before or after it has taken the event, hangs."""
    chance = random.Random(seed)

    def behave(_: Got) -> str:
        roll = chance.random()
        if roll < hangs:
            return "hang"
        if roll < hangs + bad:
            return chance.choice(("500", "429", "cut", "half", "nonsense"))
        return "ok"

    return behave


class LoopbackReceiver:
    """`with LoopbackReceiver(behaviour) as receiver:` serves `receiver.url` on a thread of its own."""

    def __init__(self, behave: Behaviour = lambda _: "ok") -> None:
        self.behave = behave
        self.got: list[Got] = []
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="receiver")
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def taken(self) -> list[Got]:
        """What it took in, in the order it came."""
        return [got for got in list(self.got) if got.answer == "ok"]

    def __enter__(self) -> LoopbackReceiver:
        self._thread.start()
        assert self._ready.wait(JOIN_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(JOIN_S)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # for the transports to hear that they are closed

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._client(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._request(reader, writer):
                    pass
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = [line.partition(":") for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value.strip() for name, _, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        got = Got(headers, body, "")
        got.answer = self.behave(got)
        self.got.append(got)
        if got.answer == "hang":
            await asyncio.sleep(JOIN_S)
        if got.answer == "endless":
            writer.write(ANSWERS["endless"])
            while True:
                writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
                await writer.drain()
        if got.answer not in ANSWERS:
            return False
        writer.write(ANSWERS[got.answer])
        await writer.drain()
        return got.answer in ("ok", "500", "429")


@dataclass
class Deadline:
    """Waits for conditions, no longer than this in all."""

    seconds: float = 60
    _event: threading.Event = field(default_factory=threading.Event)

    def until(self, condition: Callable[[], Any]) -> Any:
        """The first true value of `condition`."""
        import time

        end = time.monotonic() + self.seconds
        while True:
            is_last = time.monotonic() >= end  # asked once more then: nothing went on where the machine stood still
            if value := condition():
                return value
            assert not is_last, "the condition did not come about"
            self._event.wait(0.01)
