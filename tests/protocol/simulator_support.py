"""Helpers of the simulator's and the AMI link's tests: a scripted AGI server, an AMI reader, waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from asterisk_simulator.ami_server import AmiServer
from asterisk_simulator.world import World

T = TypeVar("T")
Request = dict[str, str]
Responder = Callable[[Request, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DEADLINE_S = 30.0


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a loop of its own, with a deadline."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S * 3):
            return await work

    return asyncio.run(bounded())


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until `condition()` is true; fails the test where it does not become so."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come about"
        await asyncio.sleep(0.002)


async def read_environment(reader: asyncio.StreamReader) -> Request:
    """The agi_* lines up to the empty one."""
    request: Request = {}
    while (line := (await reader.readline()).decode()) not in {"", "\n"}:
        name, _, value = line.rstrip("\n").partition(": ")
        request[name] = value
    return request


@asynccontextmanager
async def agi_server(respond: Responder) -> AsyncIterator[int]:
    """Listen on a free port and give each request to `respond`; yields the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await respond(await read_environment(reader), reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        if tasks:
            await asyncio.wait(tasks, timeout=1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(answers: dict[str, str | Callable[[Request], str]], seen: list[Request] | None = None) -> Responder:
    """A daemon that answers each script with one MSet of the given pairs and half-closes, as ours does."""

    async def respond(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if seen is not None:
            seen.append(request)
        answer = answers[request["agi_network_script"]]
        pairs = answer if isinstance(answer, str) else answer(request)
        quoted = pairs.replace("\\", "\\\\").replace('"', '\\"')
        writer.write(f'EXEC MSet "{quoted}"\n'.encode())
        writer.write_eof()
        await reader.read()

    return respond


@asynccontextmanager
async def simulated(respond: Responder, **world: Any) -> AsyncIterator[tuple[World, AmiServer]]:
    """A world whose daemon is `respond`."""
    async with agi_server(respond) as port, AmiServer() as ami:
        made = World("127.0.0.1", port, ami, random.Random(7), **world)
        try:
            yield made, ami
        finally:
            await made.close()


class AmiReader:
    """A manager that logs in and keeps every message."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.messages: list[dict[str, str]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> AmiReader:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._task = asyncio.get_running_loop().create_task(self._read(reader))
        self.send(Action="Login", Username="sim", Secret="sim")
        await until(lambda: any("FullyBooted" in m.values() for m in self.messages), "login")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        self._writer.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def send(self, **fields: str) -> None:
        assert self._writer is not None
        self._writer.write("".join(f"{k}: {v}\r\n" for k, v in fields.items()).encode() + b"\r\n")

    async def ask(self, **fields: str) -> dict[str, str]:
        """Send an action and wait for its response."""
        before = len(self.messages)
        self.send(**fields)
        await until(lambda: any("Response" in m for m in self.messages[before:]), fields["Action"])
        return next(m for m in self.messages[before:] if "Response" in m)

    def events(self, *names: str) -> list[dict[str, str]]:
        return [m for m in self.messages if m.get("Event") in names or (not names and "Event" in m)]

    async def _read(self, reader: asyncio.StreamReader) -> None:
        await reader.readline()
        message: dict[str, str] = {}
        while line := await reader.readline():
            text = line.decode().rstrip("\r\n")
            if text:
                name, _, value = text.partition(": ")
                message[name] = value
            elif message:
                self.messages.append(message)
                message = {}


@asynccontextmanager
async def told(respond: Responder, **world: Any) -> AsyncIterator[tuple[World, AmiReader]]:
    """A world and a manager that listens to it."""
    async with simulated(respond, **world) as (made, ami), AmiReader(ami.port) as reader:
        yield made, reader
