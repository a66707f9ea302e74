"""AGI exchanges: Asterisk's end of a connection whose other end is the daemon's own protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asterisk_simulator.agi_client import mset_pairs, parse_agi_args
from fastagi.agi_server import _Connection

if TYPE_CHECKING:
    from tests.simulation.asterisk import Line
    from tests.simulation.daemons import Process

LOST_S = 0.003  # the end of a connection comes behind everything that was said on it


class Exchange:
    """One AGI exchange: Asterisk's end of a connection whose other end is the daemon's own protocol."""

    def __init__(self, line: Line, script: str, args: Sequence[str], then: Callable[[], None]) -> None:
        self.line = line
        self.then = then
        self._world = line.world
        self._asterisk = line.asterisk
        self.script, self._args = script, args
        self._connection: Any = None
        self._process: Process | None = None
        self._over = False
        self._fate = ""
        self.open = False  # as the daemon sees it

    def begin(self) -> None:
        """Connect and write the environment."""
        self._fate = self._world.messages.agi_fate(self.script)
        process = self._asterisk.machine.process
        if self._fate == "refused" or process is None or process.boot.dead or not process.listening:
            self._world.after(self._world.messages.net_s(), self.reset)
            return
        self._process = process
        self._asterisk.exchanges.add(self)
        self._world.loop.call_later(self._world.messages.net_s(), self._connect, context=process.context)

    def _connect(self) -> None:
        """In the daemon's process: somebody has connected and sent all of its header."""
        assert self._process is not None
        if self._over or self._process.daemon is None or not self._process.listening:
            self._world.after(0.0, self.reset)
            return
        self._connection = _Connection(self._process.daemon.agi, self._world.loop)
        self.open = True
        self._connection.connection_made(Wire(self))
        self._connection.data_received(self._header())

    def _header(self) -> bytes:
        lines = [
            f"agi_request: agi://127.0.0.1:4573/{self.script}",
            f"agi_channel: {self.line.channel}",
            f"agi_uniqueid: {self.line.uniqueid}",
            *(f"agi_arg_{n}: {value}" for n, value in enumerate(self._args, 1)),
        ]
        return "\n".join([*lines, "", ""]).encode()

    def answered(self, sent: bytes) -> None:
        """The daemon's answer is on its way."""
        self._world.after(self._world.messages.net_s(), self._read, sent)

    def _read(self, sent: bytes) -> None:
        """What the daemon has sent, line by line; then both ends close."""
        if self._over:
            return
        if self._fate == "answer lost":
            self.reset()
            return
        variables: dict[str, str] = {}
        for text in sent.decode().split("\n"):
            if text.startswith("failure"):
                break
            if text.startswith("EXEC MSet "):
                variables.update(pairs_of(text))
                if self._fate != "unheard":
                    self._at_daemon(self._world.messages.net_s(), self._say)
        self._finish(variables)

    def _say(self) -> None:
        if self.open:
            self._connection.data_received(b"200 result=0\n")

    def close(self) -> None:
        """Asterisk goes away from the exchange without another word."""
        self._over = True
        self._hang_up()

    def reset(self) -> None:
        """The connection was refused or lost: nothing was set."""
        if not self._over:
            self._finish({})

    def _finish(self, variables: dict[str, str]) -> None:
        self._over = True
        self._hang_up()
        self.line.exchanged(self, variables)

    def _hang_up(self) -> None:
        self._asterisk.exchanges.discard(self)
        self._at_daemon(LOST_S, self.lost)

    def lost(self) -> None:
        """The daemon's end sees that the connection is over."""
        if self.open:
            self.open = False
            self._connection.connection_lost(None)

    def _at_daemon(self, delay_s: float, work: Callable[[], None]) -> None:
        if self._process is not None and self._connection is not None:
            self._world.loop.call_later(delay_s, work, context=self._process.context)


class Wire:
    """The daemon's end of a connection, as its protocol uses an asyncio.Transport."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._sent = b""
        self._closing = False

    def write(self, data: bytes) -> None:
        """See asyncio.Transport."""
        self._sent += data

    def write_eof(self) -> None:
        """See asyncio.Transport: the answer is complete."""
        self._exchange.answered(self._sent)

    def abort(self) -> None:
        """See asyncio.Transport."""
        if not self._closing and self._exchange.open:
            self._closing = True
            exchange = self._exchange
            exchange._world.loop.call_soon(exchange.lost)
            exchange._world.after(exchange._world.messages.net_s(), exchange.reset)

    close = abort

    def is_closing(self) -> bool:
        """See asyncio.Transport."""
        return self._closing or not self._exchange.open


def pairs_of(line: str) -> dict[str, str]:
    """The variables that `EXEC MSet "…"` sets; the plain case is read quickly, the others as Asterisk does."""
    if "\\" in line:
        return mset_pairs(parse_agi_args(line)[2])
    return dict(pair.split("=", 1) for pair in line[len('EXEC MSet "') : -1].split(","))
