"""A constant answer from the daemon's own FastAGI server: what the wire alone costs there, limits and deadlines on."""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop

from fastagi.agi_server import AgiLimits, AgiReply, AgiRequest, AgiServer, Endpoint

REPLY = AgiReply(
    (
        ("CC_CALL", "01J00000000000000000000000"),
        ("CC_ATTEMPT", "1"),
        ("CC_DIAL", "PJSIP/cc/sip:b@127.0.0.1:5080"),
        ("CC_RING_S", "20"),
        ("CC_FUNDED_S", "60"),
        ("CC_CEILING_MS", "14400000"),
        ("CC_OPTIONS", ""),
        ("CC_TARGET", "t0"),
        ("CC_VERDICT", "dial"),
    )
)


async def answer(_request: AgiRequest) -> AgiReply:
    """The handler."""
    return REPLY


async def main(port: int) -> None:
    """Listen on loopback for ever."""
    endpoint = Endpoint(handler=answer, late=lambda _request: REPLY)
    await AgiServer({"route": endpoint}, AgiLimits(), logging.getLogger()).start("127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
