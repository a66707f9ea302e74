"""A constant decision for our dialplan: every call is dialled to one target, every end acknowledged, nothing kept."""

from __future__ import annotations

import asyncio
import logging
import sys

import uvloop

from fastagi.agi_server import AgiLimits, AgiReply, AgiRequest, AgiServer, Endpoint

ACKNOWLEDGED = AgiReply((("CC_ACK", "1"),))
REFUSED = AgiReply(
    (("CC_REASON", "targets_all_failed"), ("CC_CAUSE", "19"), ("CC_SIP", "480"), ("CC_VERDICT", "reject"))
)


def dialled(uri: str) -> AgiReply:
    """The verdict that dials `uri`."""
    return AgiReply(
        (
            ("CC_CALL", "01J00000000000000000000000"),
            ("CC_ATTEMPT", "1"),
            ("CC_DIAL", f"PJSIP/capconduit-out/{uri}"),
            ("CC_RING_S", "20"),
            ("CC_FUNDED_S", "60"),
            ("CC_CEILING_MS", "14400000"),
            ("CC_OPTIONS", ""),
            ("CC_TARGET", "t0"),
            ("CC_VERDICT", "dial"),
        )
    )


def always(reply: AgiReply) -> Endpoint:
    """A script that has one answer."""

    async def answer(_request: AgiRequest) -> AgiReply:
        return reply

    return Endpoint(handler=answer, late=lambda _request: reply)


async def main(port: int, uri: str) -> None:
    """Listen on loopback for ever."""
    scripts = {"route": always(dialled(uri)), "attempt": always(REFUSED), "settle": always(ACKNOWLEDGED)}
    await AgiServer(scripts, AgiLimits(), logging.getLogger()).start("127.0.0.1", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
