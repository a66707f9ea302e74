"""A constant answer from panoramisk's FastAGI server, as its documentation shows it."""

from __future__ import annotations

import asyncio
import sys

from panoramisk import fast_agi

from bench.designs.wire import BACKLOG, DIAL

COMMAND = DIAL.decode().rstrip("\n")


async def route(request: fast_agi.Request) -> None:
    """The handler."""
    await request.send_command(COMMAND)


async def main(port: int) -> None:
    """Listen on loopback for ever."""
    app = fast_agi.Application(loop=asyncio.get_running_loop())
    app.add_route("route", route)
    server = await asyncio.start_server(app.handler, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
