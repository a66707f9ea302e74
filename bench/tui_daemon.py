"""What viewers cost the real daemon: its CPU with none, one and five of them under simulated calls."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any, Final

from asterisk_simulator.ami_server import AmiServer
from asterisk_simulator.behaviours import Answers, CallSpec
from bench import machine
from capconduit.services import balances, campaigns, caps, dids, rates, sellers, targets, trunks
from capconduit.services.office import Office
from capconduit.vocab import CapMetric, CapScope, TargetKind, TrunkKind, WindowKind
from capconduit_cli.demo.stage import AMI_USER, NODE, SOCKET, Stage, open_stage
from capconduit_cli.demo.traffic import DemoWorld, Ring, make_world

CAMPAIGNS: Final = 20
VIEWERS: Final = (0, 1, 5, 0)
TALK_S: Final = 60
RAMP_S: Final = 30  # in which the first calls come
SETTLE_S: Final = 4.0
MICROS: Final = 1_000_000


def build_estate(office: Office) -> list[str]:
    """Sellers with money enough, and caps that count and never bite; the DIDs."""
    rates.add_rate(office, "std", per_minute_micros=200_000)
    trunks.add_trunk(office, "carrier", kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
    concurrent, billable = CapMetric.CONCURRENT, CapMetric.BILLABLE
    numbers = [f"+1800555{number:04d}" for number in range(100, 100 + CAMPAIGNS)]
    for index, number in enumerate(numbers):
        seller, campaign, target = f"seller{index // 2}", f"campaign{index}", f"target{index}"
        if not index % 2:
            sellers.add_seller(office, seller)
            balances.adjust(office, seller, 1_000_000 * MICROS, reason="bench")
            caps.set_caps(office, CapScope.SELLER, seller, [caps.Limit(concurrent, WindowKind.NONE, 5_000)])
        campaigns.add_campaign(office, campaign, seller=seller, rate="std")
        targets.add_target(office, target, kind=TargetKind.PJSIP, address=f"sip:{target}@127.0.0.1:5080")
        targets.add_rule(office, campaign, target)
        dids.add_did(office, number, trunk="carrier", campaign=campaign)
        caps.set_caps(
            office, CapScope.CAMPAIGN, campaign,
            [caps.Limit(concurrent, WindowKind.NONE, 5_000), caps.Limit(billable, WindowKind.DAY, 900_000)],
        )  # fmt: skip
        caps.set_caps(office, CapScope.TARGET, target, [caps.Limit(concurrent, WindowKind.NONE, 5_000)])
    return numbers


class Callers:
    """Calls that come at the rate at which so many are live."""

    def __init__(self, world: DemoWorld, numbers: list[str], calls: int) -> None:
        self._world, self._numbers, self._calls = world, numbers, calls
        self._chance = random.Random(1)
        self._placed: set[asyncio.Task[Any]] = set()
        self._count = 0

    def _place(self, talk_s: float) -> None:
        self._count += 1
        spec = CallSpec(
            dnid=self._chance.choice(self._numbers), ani=f"+1212{self._count % 10_000_000:07d}", trunk="carrier"
        )
        ring = Ring(0, spec, (Answers(after_ms=2_000, talk_ms=round(talk_s * 1_000)),))
        task = asyncio.get_running_loop().create_task(self._world.place(ring))
        self._placed.add(task)
        task.add_done_callback(self._placed.discard)

    async def run(self) -> None:
        """First as many as are to be live, with what is left of their talk; then as many as end."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in range(self._calls):
            due += RAMP_S / self._calls
            await asyncio.sleep(max(due - loop.time(), 0))
            self._place(RAMP_S * (1 - number / self._calls) + self._chance.random() * TALK_S)
        while True:
            due += self._chance.expovariate(self._calls / TALK_S)
            await asyncio.sleep(max(due - loop.time(), 0))
            self._place(self._chance.uniform(0.5, 1.5) * TALK_S)


class Viewer:
    """Reads the stream and counts."""

    def __init__(self) -> None:
        self.messages = self.received = 0

    async def run(self, socket: Path) -> None:
        """Until cancelled."""
        reader, writer = await asyncio.open_unix_connection(socket)
        try:
            writer.write(b"GET /stream?tenant=default HTTP/1.1\r\nHost: daemon\r\n\r\n")
            while received := await reader.read(1_048_576):
                self.received += len(received)
                self.messages += received.count(b"event: ")
        finally:
            writer.close()


async def measure(directory: Path, calls: int, look_s: float) -> dict[str, Any]:
    """CPU of the daemon by the number of viewers, with so many calls live."""
    place = directory / "daemon"
    place.mkdir()
    async with open_stage(place) as stage:
        numbers = await asyncio.to_thread(build_estate, stage.office)
        async with AmiServer(username=AMI_USER, secret=stage.secret, systemname=NODE) as ami:
            stage.configure(ami.port)
            await stage.start_daemon()
            await stage.wait_ready()
            world = make_world(ami, stage.agi_port, 1)
            calling = asyncio.create_task(Callers(world, numbers, calls).run())
            try:
                await asyncio.sleep(RAMP_S + SETTLE_S)
                rows = [await _look(stage, place / SOCKET, count, look_s) for count in VIEWERS]
            finally:
                calling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await calling
                await world.close()
    alone = sum(row["cpu_percent"] for row in rows if not row["viewers"]) / VIEWERS.count(0)
    for row in rows:
        if row["viewers"]:
            row["each_viewer_percent"] = round((row["cpu_percent"] - alone) / row["viewers"], 2)
    return {"calls": calls, "looks": rows}


async def _look(stage: Stage, socket: Path, count: int, look_s: float) -> dict[str, Any]:
    viewers = [Viewer() for _ in range(count)]
    watching = [asyncio.create_task(viewer.run(socket)) for viewer in viewers]
    await asyncio.sleep(SETTLE_S)
    assert stage._daemon is not None
    pid, loop = stage._daemon.pid, asyncio.get_running_loop()
    before, began = machine.tree_cpu_s(pid), loop.time()
    told = sum(viewer.messages for viewer in viewers)
    await asyncio.sleep(look_s)
    passed = loop.time() - began
    row = {
        "viewers": count,
        "live": (await stage.status()).get("calls"),
        "cpu_percent": round((machine.tree_cpu_s(pid) - before) / passed * 100, 2),
        "messages_per_s": round((sum(viewer.messages for viewer in viewers) - told) / passed / max(count, 1), 1),
    }
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return row
