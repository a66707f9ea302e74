"""FastAGI on an asyncio Protocol, as little as does the job: what every design but two stands on.

One exchange: read the environment to its blank line, answer one line, half-close. No limits, no deadlines: the daemon's
own server has them, and pays for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

BACKLOG: Final = 1_024
# As long as what the daemon answers.
DIAL: Final = (
    b'EXEC MSet "CC_CALL=01J00000000000000000000000,CC_ATTEMPT=1,CC_DIAL=PJSIP/cc/sip:b@127.0.0.1:5080,CC_RING_S=20,'
    b'CC_FUNDED_S=60,CC_CEILING_MS=14400000,CC_OPTIONS=,CC_TARGET=t0,CC_VERDICT=dial"\n'
)
REJECT: Final = b'EXEC MSet "CC_REASON=cap_reached,CC_CAUSE=17,CC_SIP=486,CC_VERDICT=reject"\n'
ENDED: Final = b'EXEC MSet "CC_ACK=1"\n'
NOT_ENDED: Final = b'EXEC MSet "CC_ACK="\n'


def parse(environment: bytes) -> tuple[str, list[str]]:
    """Script and arguments of a request."""
    lines = [line.partition(": ") for line in environment.decode().split("\n")]
    fields = {name: value for name, _, value in lines}
    return fields["agi_network_script"], [value for name, _, value in lines if name.startswith("agi_arg_")]


class Exchange(asyncio.Protocol):
    """One exchange; `decide` is told of the request and calls `reply`, at once or later."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._received.endswith(b"\n\n"):
            environment, self._received = self._received, b""
            self.decide(*parse(environment))

    def decide(self, script: str, args: list[str]) -> None:
        """Answer a request."""
        raise NotImplementedError

    def reply(self, line: bytes) -> None:
        """Send the answer."""
        if not self._transport.is_closing():
            self._transport.write(line)
            self._transport.write_eof()


async def serve(exchange: Callable[[], Exchange], port: int) -> None:
    """Listen on loopback for ever."""
    listener = await asyncio.get_running_loop().create_server(exchange, "127.0.0.1", port, backlog=BACKLOG)
    await listener.serve_forever()
