"""`soak`: an hour of calls from a simulated Asterisk against the real daemon while an operator changes things.

Every minute the books are verified and the daemon's memory and files are looked at; at the end nothing may be held, and
nothing may have leaked. Exit code 1 where anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from asterisk_simulator.ami_server import AmiServer
from bench import machine
from bench.generator import pin
from bench.looking import Look
from bench.options import parser, workplace
from bench.reports import finish, write_json
from bench.servers import Installation
from bench.soaking import MAX_CALLS, Operator, Soaked, prepare

MINUTES: Final = 60.0
MAX_MINUTES: Final = 24 * 60.0
RATE: Final = 50.0
MAX_RATE: Final = 500.0
LOOK_S: Final = 60.0
CHANGE_S: Final = 3.0
REST_S: Final = 240.0  # for the last calls to end and to be settled
POLL_S: Final = 0.25
SECRET: Final = "soak-secret"

Answer = TypeVar("Answer")


def main(argv: Sequence[str]) -> int:
    """Run, write, judge."""
    made = parser("soak", __doc__)
    made.add_argument("--minutes", type=float, default=MINUTES, help=f"how long (default {MINUTES:.0f})")
    made.add_argument("--rate", type=float, default=RATE, help=f"calls per second (default {RATE:.0f})")
    made.add_argument("--seed", type=int, default=1, help="of the calls and of what the operator does")
    options = made.parse_args(argv)
    if not (0 < options.minutes <= MAX_MINUTES and 0 < options.rate <= MAX_RATE):
        made.error(f"--minutes is at most {MAX_MINUTES:.0f}, --rate at most {MAX_RATE:.0f}")
    with workplace(options) as directory:
        pin()
        report = asyncio.run(Soak(options, directory).run())
    finish("soak", report, options)
    return 1 if report["faults"] else 0


class Soak:
    """One soak. The books are read and changed on a thread of its own: calls must not wait for it."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._thread = ThreadPoolExecutor(1)
        self._about = machine.describe(directory)
        self._series: list[dict[str, Any]] = []
        self._faults: list[str] = []
        self._began_s = 0.0

    async def run(self) -> dict[str, Any]:
        """From an empty database to rest; the report."""
        async with AmiServer(username="capconduit", secret=SECRET) as ami:
            shop = await self._aside(lambda: self._install(ami.port))
            world = Soaked(shop.port, ami, random.Random(self._options.seed))
            operator = Operator(shop.office, random.Random(self._options.seed))
            try:
                daemon = await self._aside(shop.daemon)
                try:
                    await self._run(Look(shop, daemon, world), world, operator)
                finally:
                    await world.close()
                    await self._aside(daemon.stop)
            finally:
                await self._aside(shop.close)
                self._thread.shutdown()
        return self._report(world, operator)

    def _install(self, ami_port: int) -> Installation:
        secret = self._directory / "ami.secret"
        secret.touch(mode=0o600)
        secret.write_text(SECRET)
        ami: dict[str, str | int] = {
            "host": "127.0.0.1", "port": ami_port, "username": "capconduit", "secret": f"file:{secret}",
        }  # fmt: skip
        shop = Installation(self._directory / "soak", None, more={"ami": ami}, deadline_ms=None)
        prepare(shop.office)
        return shop

    async def _run(self, look: Look, world: Soaked, operator: Operator) -> None:
        self._began_s = time.monotonic()
        files = machine.open_files(look.pid)
        work = [
            asyncio.create_task(world.keep_calling(self._options.rate)),
            asyncio.create_task(self._keep_changing(operator)),
            asyncio.create_task(self._keep_looking(look, world, operator)),
        ]
        try:
            await asyncio.wait(work, timeout=self._options.minutes * 60, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            ended = await asyncio.gather(*work, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error
        await self._rest(look, world, files)

    async def _keep_changing(self, operator: Operator) -> None:
        while True:
            await asyncio.sleep(CHANGE_S)
            await self._aside(operator.change)

    async def _keep_looking(self, look: Look, world: Soaked, operator: Operator) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._look(look)
            write_json(self._part(), self._report(world, operator))

    async def _look(self, look: Look) -> None:
        """One more row of the series; what is wrong is said at once."""
        minute = round((time.monotonic() - self._began_s) / 60, 2)
        row, faults = await self._aside(look.take)
        self._series.append({"minute": minute, **row})
        self._faults += [f"minute {minute:g}: {fault}" for fault in faults]
        print(f"minute {minute:g}: {row}", *faults, sep="\n  ", file=sys.stderr)

    async def _rest(self, look: Look, world: Soaked, files: int) -> None:
        """Let the last calls end, then look whether anything is left."""
        print("coming to rest", file=sys.stderr)
        deadline_s = time.monotonic() + REST_S
        while time.monotonic() < deadline_s:
            if not world.live_calls and await self._aside(look.is_at_rest):
                break
            await asyncio.sleep(POLL_S)
        await self._look(look)
        world.sum_up()
        self._faults += [f"at rest: {fault}" for fault in await self._aside(lambda: look.left_over(files))]
        self._faults += look.leaks(self._series)

    async def _aside(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _part(self) -> Path:
        """Where the series is kept while the soak lasts."""
        out: Path = self._options.out
        out.mkdir(parents=True, exist_ok=True)
        return out / "soak.json"

    def _report(self, world: Soaked, operator: Operator) -> dict[str, Any]:
        world.sum_up()
        return {
            "machine": self._about,
            "options": {
                "rate": self._options.rate, "seed": self._options.seed, "forced": self._options.force,
                "cores": os.cpu_count(), "calls_at_most": MAX_CALLS,
            },
            "minutes": self._options.minutes,
            "calls": dict(world.tally),
            "rejects": dict(world.rejects.most_common()),
            "changes": operator.changes,
            "refused": operator.refused,
            "series": self._series,
            "faults": self._faults,
        }  # fmt: skip
