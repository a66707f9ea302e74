"""SQLite with synchronous=FULL and one transaction for each decision, on a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from bench.designs import till
from bench.designs.wire import DIAL, ENDED, NOT_ENDED, REJECT, Exchange, serve


class Shop:
    """One connection; its methods run on one thread."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA synchronous = FULL")

    def route(self, uniqueid: str, number: str) -> bytes:
        """Admit a call."""
        execute = self._file.execute
        execute("BEGIN IMMEDIATE")
        found = execute(till.LOOK_UP, (number,)).fetchone()
        taken = found is not None and (
            execute(till.HOLD_MONEY, (till.HOLD, found[1], till.HOLD)).rowcount == 1
            and execute(till.TAKE_CAMPAIGN, (found[0],)).rowcount == 1
            and execute(till.TAKE_TARGET, (found[2],)).rowcount == 1
        )
        if not taken:
            execute("ROLLBACK")
            return REJECT
        execute(till.ADMIT, (uniqueid, *found))
        execute("COMMIT")
        return DIAL

    def settle(self, uniqueid: str) -> bytes:
        """End a call."""
        execute = self._file.execute
        execute("BEGIN IMMEDIATE")
        found = execute(till.FIND_CALL, (uniqueid,)).fetchone()
        if found is None:
            execute("ROLLBACK")
            return NOT_ENDED
        execute(till.PAY, (till.HOLD, till.HOLD, found[1]))
        execute(till.FREE_CAMPAIGN, (found[0],))
        execute(till.FREE_TARGET, (found[2],))
        execute(till.FORGET, (uniqueid,))
        execute("COMMIT")
        return ENDED


class Decision(Exchange):
    """Asks the thread."""

    def __init__(self, shop: Shop, thread: ThreadPoolExecutor) -> None:
        super().__init__()
        self._shop, self._thread = shop, thread

    def decide(self, script: str, args: list[str]) -> None:
        loop = asyncio.get_running_loop()
        if script == "route":
            answer = loop.run_in_executor(self._thread, self._shop.route, args[0], args[2])
        else:
            answer = loop.run_in_executor(self._thread, self._shop.settle, args[0])
        answer.add_done_callback(lambda done: self.reply(done.result()))


async def main(port: int, url: str) -> None:
    """Open the file and listen for ever."""
    shop, thread = Shop(Path(url.removeprefix("sqlite:///"))), ThreadPoolExecutor(1)
    await serve(lambda: Decision(shop, thread), port)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
