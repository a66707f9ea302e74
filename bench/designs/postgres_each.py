"""PostgreSQL with one transaction for each decision, on a pool of ten psycopg connections."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import psycopg
import uvloop

from bench.designs import till
from bench.designs.wire import DIAL, ENDED, NOT_ENDED, REJECT, Exchange, serve

POOL: Final = 10
LOOK_UP, HOLD_MONEY, TAKE_CAMPAIGN, TAKE_TARGET, ADMIT, FIND_CALL, PAY, FREE_CAMPAIGN, FREE_TARGET, FORGET = map(
    till.for_postgres,
    (
        till.LOOK_UP, till.HOLD_MONEY, till.TAKE_CAMPAIGN, till.TAKE_TARGET, till.ADMIT, till.FIND_CALL, till.PAY,
        till.FREE_CAMPAIGN, till.FREE_TARGET, till.FORGET,
    ),
)  # fmt: skip

Connection = psycopg.AsyncConnection[Any]


async def route(connection: Connection, uniqueid: str, number: str) -> bytes:
    """Admit a call."""
    answer = REJECT
    async with connection.transaction() as transaction:
        execute = connection.execute
        found = await (await execute(LOOK_UP, (number,))).fetchone()
        taken = found is not None and (
            (await execute(HOLD_MONEY, (till.HOLD, found[1], till.HOLD))).rowcount == 1
            and (await execute(TAKE_CAMPAIGN, (found[0],))).rowcount == 1
            and (await execute(TAKE_TARGET, (found[2],))).rowcount == 1
        )
        if found is None or not taken:
            raise psycopg.Rollback(transaction)
        await execute(ADMIT, (uniqueid, *found))
        answer = DIAL
    return answer  # noqa: RET504 - the transaction swallows the rollback


async def settle(connection: Connection, uniqueid: str) -> bytes:
    """End a call."""
    async with connection.transaction():
        execute = connection.execute
        found = await (await execute(FIND_CALL, (uniqueid,))).fetchone()
        if found is None:
            return NOT_ENDED
        await execute(PAY, (till.HOLD, till.HOLD, found[1]))
        await execute(FREE_CAMPAIGN, (found[0],))
        await execute(FREE_TARGET, (found[2],))
        await execute(FORGET, (uniqueid,))
    return ENDED


class Decision(Exchange):
    """Waits for a connection of the pool."""

    def __init__(self, pool: asyncio.Queue[Connection], tasks: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self._pool, self._tasks = pool, tasks

    def decide(self, script: str, args: list[str]) -> None:
        task = asyncio.get_running_loop().create_task(self._work(script, args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, script: str, args: list[str]) -> None:
        connection = await self._pool.get()
        try:
            done = route(connection, args[0], args[2]) if script == "route" else settle(connection, args[0])
            self.reply(await done)
        finally:
            self._pool.put_nowait(connection)


async def main(port: int, url: str) -> None:
    """Connect and listen for ever."""
    pool: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(POOL):
        pool.put_nowait(await psycopg.AsyncConnection.connect(url, autocommit=True))
    tasks: set[asyncio.Task[None]] = set()
    await serve(lambda: Decision(pool, tasks), port)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
