"""A constant answer from asyncio's streams on asyncio's own loop: what most FastAGI servers in Python are."""

from __future__ import annotations

import asyncio
import sys

from bench.designs.wire import BACKLOG, DIAL, parse


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One exchange."""
    parse(await reader.readuntil(b"\n\n"))
    writer.write(DIAL)
    writer.write_eof()
    await reader.read()
    writer.close()


async def main(port: int) -> None:
    """Listen on loopback for ever."""
    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
