"""A real daemon with the demo's estate and calls of a simulated Asterisk, for the tests that look at it in a terminal.

    async with live_floor() as floor:
        await floor.ring(estate.SOLAR_DID, talk_ms=60_000)   # one more call, which is up when this returns
        await floor.kill()                                   # SIGKILL
        await floor.start()                                  # and back

As a program it keeps a floor busy until it is interrupted: `python -m tests.tui.live_floor DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from asterisk_simulator.ami_server import AmiServer
from asterisk_simulator.behaviours import Answers, Busy, CallSpec, NoAnswer
from capconduit.services import balances, calls, caps
from capconduit.vocab import CapMetric, CapScope, WindowKind
from capconduit_cli.demo import estate, traffic
from capconduit_cli.demo.stage import AMI_USER, NODE, Stage, open_stage

DEADLINE_S = 60.0
_NAMES = ("Ada Lovelace", "", "GÖDEL, KURT", "\x1b[31mred\x1b[0m", "[bold]markup[/]", "数学 太郎", "Sales")


class LiveFloor:
    """The stage, the simulated Asterisk, and what is done to them."""

    def __init__(self, stage: Stage, ami: AmiServer) -> None:
        self.stage = stage
        self.ami = ami
        self.world: traffic.DemoWorld | None = None
        self._callers = 0
        self._agi_port = 0

    async def start(self) -> None:
        """Start the daemon, where it was before."""
        if self._agi_port:
            text = self.stage.config_file.read_text(encoding="utf-8")
            self.stage.config_file.write_text(text.replace("127.0.0.1:0", f"127.0.0.1:{self._agi_port}"))
        await self.stage.start_daemon()
        await self.stage.wait_ready()
        self._agi_port = self.stage.agi_port
        if self.world is None:
            self.world = traffic.make_world(self.ami, self._agi_port, 7)

    async def kill(self) -> None:
        """End the daemon without warning."""
        daemon = self.stage._daemon
        assert daemon is not None
        daemon.kill()
        await daemon.wait()

    def place(self, did: str, behaviour: Any, *, name: str = "") -> None:
        """A call comes in."""
        assert self.world is not None
        self._callers += 1
        caller = f"+1212555{self._callers % 10_000:04d}"
        ring = traffic.Ring(0, CallSpec(dnid=did, ani=caller, caller_name=name, trunk=estate.CARRIER), (behaviour,))
        task = asyncio.get_running_loop().create_task(self.world.place(ring))
        self.world._tasks.add(task)
        task.add_done_callback(self.world._tasks.discard)

    async def ring(self, did: str, *, talk_ms: int, name: str = "") -> None:
        """A call comes in and is answered."""
        before = await asyncio.to_thread(self._up)
        self.place(did, Answers(after_ms=20, talk_ms=talk_ms), name=name)
        await self.until(lambda: self._up() > before)

    def _up(self) -> int:
        return sum(view.call.answered_ms is not None for view in calls.list_calls(self.stage.office))

    async def until(self, good: Callable[[], bool]) -> None:
        """Wait on a condition of the database, with a deadline."""
        async with asyncio.timeout(DEADLINE_S):
            while not await asyncio.to_thread(good):  # noqa: ASYNC110  # a database tells no one
                await asyncio.sleep(0.05)


@asynccontextmanager
async def live_floor(directory: Path | None = None) -> AsyncIterator[LiveFloor]:
    """A daemon with an estate, its Asterisk, and no calls yet."""
    async with open_stage(directory) as stage:
        await asyncio.to_thread(estate.build_estate, stage.office)
        async with AmiServer(username=AMI_USER, secret=stage.secret, systemname=NODE) as ami:
            stage.configure(ami.port)
            floor = LiveFloor(stage, ami)
            await floor.start()
            try:
                yield floor
            finally:
                if floor.world is not None:
                    await floor.world.close()


async def _busy(directory: Path) -> None:
    """Calls without end, some of them rejected, busy or not answered."""
    rng = random.Random(11)
    async with live_floor(directory) as floor:
        office = floor.stage.office
        for seller, more in ((estate.ACME, 60), (estate.ZENITH, 20)):
            balances.adjust(office, seller, more * 1_000_000, reason="to look at")
        caps.set_caps(office, CapScope.SYSTEM, "", [caps.Limit(CapMetric.CONCURRENT, WindowKind.NONE, 40)])
        caps.set_caps(office, CapScope.SELLER, estate.ACME, [caps.Limit(CapMetric.CONCURRENT, WindowKind.NONE, 30)])
        print("ready", flush=True)  # noqa: T201  # whoever started it waits for it
        while True:
            did = rng.choice(
                (estate.SOLAR_DID, estate.SOLAR_DID, estate.ROOFING_DID, estate.LEGAL_DID, estate.UNKNOWN_DID)
            )
            answers = Answers(after_ms=rng.randint(300, 900), talk_ms=rng.randint(5_000, 90_000))
            floor.place(
                did, rng.choice((answers, answers, answers, answers, Busy(), NoAnswer())), name=rng.choice(_NAMES)
            )
            await asyncio.sleep(rng.random() * 1.6)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_busy(Path(sys.argv[1])))
