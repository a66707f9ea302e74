"""Both ends of FastAGI for tests: an Asterisk that understands commands as its C does, and a server for one test.

`read_command`, `parse_args`, `separate_args` and `apply_mset` are models written from res/res_agi.c (run_agi,
parse_args), main/app.c (__ast_app_separate_args) and main/pbx_variables.c (pbx_builtin_setvar_multiple); the same
texts in 16.28 and 22.10.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

import pytest
import uvloop

from fastagi.agi_server import AgiLimits, AgiReply, AgiRequest, AgiServer, Endpoint

PATIENCE_S: Final = 30.0  # for anything a test waits for
AGI_BUFFER_BYTES: Final = 8_192
AGI_MAX_ARGS: Final = 128
MSET_PLACES: Final = 99


# -- Asterisk's parsers -----------------------------------------------------------------------------------------------


def read_command(stream: bytes) -> tuple[bytes, bytes]:
    """What run_agi takes for one command, without its newline, and what it leaves in the stream."""
    taken = stream[: AGI_BUFFER_BYTES - 1]
    end = taken.find(b"\n")
    if end < 0:
        return taken, stream[len(taken) :]
    return taken[:end], stream[end + 1 :]


def parse_args(line: bytes) -> list[bytes]:
    """The words of an AGI command."""
    words: list[bytearray] = []
    quoted = escaped = False
    whitespace = True
    for byte in line:
        if byte == ord('"') and not escaped:
            quoted = not quoted
            if quoted and whitespace:
                words.append(bytearray())
                whitespace = False
        elif byte in b" \t" and not quoted and not escaped:
            whitespace = True
        elif byte == ord("\\") and not escaped:
            escaped = True
        else:
            if whitespace:
                assert len(words) < AGI_MAX_ARGS - 1
                words.append(bytearray())
                whitespace = False
            words[-1].append(byte)
            escaped = False
    return [bytes(word) for word in words]


def separate_args(text: bytes, delimiter: bytes, places: int) -> list[bytes]:
    """`text` split as an application's arguments, with quotes and backslashes removed."""
    arguments: list[bytes] = []
    scan = 0
    paren = bracket = 0
    quote = False
    ended_by_delimiter = False
    while scan < len(text) and len(arguments) < places - 1:
        argument = bytearray()
        ended_by_delimiter = False
        while scan < len(text):
            byte = text[scan : scan + 1]
            scan += 1
            if byte == b'"':
                quote = not quote
                continue
            if byte == b"\\":
                assert scan < len(text), "a backslash at the end makes Asterisk read beyond its buffer"
                argument += text[scan : scan + 1]
                scan += 1
                continue
            if byte == delimiter and not paren and not quote and not bracket:
                ended_by_delimiter = True
                break
            paren = paren + 1 if byte == b"(" else max(0, paren - 1) if byte == b")" else paren
            bracket += (byte == b"[") - (byte == b"]" and bracket > 0)
            argument += byte
        arguments.append(bytes(argument))
    if scan < len(text) or ended_by_delimiter:
        arguments.append(text[scan:])  # the last place is not looked into
    return arguments


def apply_mset(line: bytes) -> dict[str, str]:
    """The channel variables that a command line sets; the line must be an EXEC MSet of three words."""
    command, left = read_command(line)
    assert left == b"", "Asterisk would take the rest for another command"
    words = parse_args(command)
    assert [word.lower() for word in words[:2]] == [b"exec", b"mset"]
    assert len(words) == 3
    variables: dict[str, str] = {}
    for pair in separate_args(words[2], b",", MSET_PLACES):
        name_and_value = separate_args(pair, b"=", 2)
        assert len(name_and_value) == 2, f"MSet ignores {pair!r}"
        name, value = name_and_value
        variables[name.decode()] = value.decode()
    return variables


# -- a connection -----------------------------------------------------------------------------------------------------


def environment(script: str, *args: str, name: bytes = b"Bob", newline: bytes = b"\n") -> bytes:
    """What Asterisk sends for AGI(agi://…/script,args…), its empty line included."""
    lines = [
        b"agi_network: yes",
        b"agi_network_script: " + script.encode(),
        b"agi_request: agi://127.0.0.1:4573/" + script.encode(),
        b"agi_channel: PJSIP/trunk-00000001",
        b"agi_language: en",
        b"agi_type: PJSIP",
        b"agi_uniqueid: lab-1700000000.1",
        b"agi_version: 22.10.1",
        b"agi_callerid: 15557654321",
        b"agi_calleridname: " + name,
        b"agi_callingpres: 0",
        b"agi_callingani2: 0",
        b"agi_callington: 0",
        b"agi_callingtns: 0",
        b"agi_dnid: 15551230000",
        b"agi_rdnis: unknown",
        b"agi_context: from-trunk",
        b"agi_extension: 15551230000",
        b"agi_priority: 3",
        b"agi_enhanced: 0.0",
        b"agi_accountcode: ",
        b"agi_threadid: 140212345678912",
        *(f"agi_arg_{place}: {arg}".encode() for place, arg in enumerate(args, 1)),
        b"",
        b"",
    ]
    return newline.join(lines)


@dataclass(slots=True)
class AgiPeer:
    """One connection to the server under test; every wait has a deadline."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, port: int) -> AgiPeer:
        async with asyncio.timeout(PATIENCE_S):
            return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(PATIENCE_S):
            await self.writer.drain()

    async def line(self) -> bytes:
        """The next line with its newline; b"" at EOF."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readline()

    async def rest(self) -> bytes:
        """All that comes until the server's EOF; a reset ends it too."""
        collected = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while data := await self.reader.read(65_536):
                    collected += data
        except ConnectionError:
            pass
        return collected

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.writer.wait_closed()
        except ConnectionError:
            pass

    async def reset(self) -> None:
        """Close with RST instead of FIN."""
        sock = cast(socket.socket, self.writer.get_extra_info("socket"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        await self.close()


@dataclass(slots=True)
class Outcome:
    """What the dialplan finds after the exchange."""

    variables: dict[str, str] = field(default_factory=dict)
    failed: bool = False  # AGISTATUS is FAILURE


async def exchange(port: int, script: str, *args: str, name: bytes = b"Bob") -> Outcome:
    """A whole exchange as Asterisk leads it: command for command until the server's EOF or its failure line."""
    peer = await AgiPeer.connect(port)
    outcome = Outcome()
    try:
        await peer.send(environment(script, *args, name=name))
        while line := await peer.line():
            if line[:7].lower() == b"failure":
                outcome.failed = True
                break
            outcome.variables |= apply_mset(line)
            await peer.send(b"200 result=0\n")
    finally:
        await peer.close()
    return outcome


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds; TimeoutError where it never does."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is a plain attribute of the code under test
            await asyncio.sleep(0)


# -- the server under test --------------------------------------------------------------------------------------------

Runner = Callable[[Coroutine[Any, Any, None]], None]

LATE: Final = (("CC_REASON", "engine_timeout"), ("CC_VERDICT", "reject"))
# Long enough that no test meets a bound that it does not set itself.
PATIENT: Final = AgiLimits(header_ms=60_000, deadline_ms=60_000, applied_wait_ms=60_000)


async def dial(request: AgiRequest) -> AgiReply:
    """A handler that admits at once."""
    return AgiReply((("CC_VERDICT", "dial"),))


def reject_late(request: AgiRequest) -> AgiReply:
    """The stand-in for a handler that is late or failed."""
    return AgiReply(LATE)


@pytest.fixture(params=["asyncio", "uvloop"])
def loops(request: pytest.FixtureRequest) -> Runner:
    """Runs a coroutine on the loop of the parameter."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(scene: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(scene)

    return run


@asynccontextmanager
async def serving(
    endpoints: Mapping[str, Endpoint], limits: AgiLimits = PATIENT
) -> AsyncIterator[tuple[AgiServer, int]]:
    """A server and its port; on the way out it is closed and must hold nothing any more."""
    server = AgiServer(endpoints, limits, logging.getLogger("agi"))
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.close()
    assert (server.live_connections, server.handlers_at_work) == (0, 0)
