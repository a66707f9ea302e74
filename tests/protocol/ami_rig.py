"""A link to a simulated Asterisk, with everything its consumer got: for the tests of the AMI link."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from asterisk_simulator.ami_server import AmiServer, User
from fastagi.ami_events import AmiEvent, ChannelList
from fastagi.ami_guard import NO_EVENTS
from fastagi.ami_link import AmiControl, AmiLink, AmiSettings
from tests.protocol.simulator_support import until

E = TypeVar("E")
CHANNEL = "PJSIP/carrier-00000001"
ACTING = "acting"  # the second user
QUICK = AmiSettings(
    "127.0.0.1",
    0,
    "sim",
    "sim",
    connect_timeout_s=20.0,
    login_timeout_s=20.0,
    fully_booted_wait_s=20.0,
    action_timeout_s=20.0,
    ping_interval_s=30.0,
    ping_timeout_s=20.0,
    backoff_first_s=0.001,
    backoff_max_s=0.01,
    refused_backoff_s=30.0,
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Rig:
    """A link, its Asterisk, and everything that the consumer got."""

    def __init__(self, link: AmiLink, ami: AmiServer) -> None:
        self.link, self.ami = link, ami
        self.got: list[AmiEvent] = []
        self.consuming = True

    async def consume(self) -> None:
        while True:
            event = await self.link.next_event()
            self.got.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.got if isinstance(event, kind)]

    async def got_one(self, kind: type[E], number: int = 1) -> E:
        await until(lambda: len(self.of(kind)) >= number, f"{number} {kind.__name__}")
        return self.of(kind)[number - 1]

    def tell(self, uniqueid: str, **fields: str) -> None:
        self.ami.publish("Hangup", [("Channel", CHANNEL), *fields.items(), ("Uniqueid", uniqueid)])

    def asked(self, action: str) -> int:
        return sum(1 for request in self.ami.requests if request.get("action", "").lower() == action)


@asynccontextmanager
async def rig(
    *,
    consume: bool = True,
    wait: bool = True,
    known_started_ms: int | None = None,
    control: Mapping[str, Any] | None = None,
    **changes: Any,
) -> AsyncIterator[Rig]:
    """`control`: a second user acts, and the first one only reads; with these changes of its settings."""
    async with AmiServer() as ami:
        settings = replace(QUICK, port=ami.port, **changes)
        acting = None
        if control is not None:
            ami.users = {
                "sim": User("sim", write=frozenset({"reporting"})),
                ACTING: User("act", False, frozenset({"call"})),
            }
            second = replace(settings, **{"username": ACTING, "secret": "act", "events": NO_EVENTS, **control})
            acting = AmiControl(second, random=lambda: 0.5)
        link = AmiLink(settings, now_ms=now_ms, random=lambda: 0.5, known_started_ms=known_started_ms, control=acting)
        made = Rig(link, ami)
        tasks = [asyncio.ensure_future(made.consume())] if consume else []
        link.start()
        try:
            if wait:
                await until(lambda: link.up and link.can_act and (not consume or made.of(ChannelList)), "the link")
            yield made
        finally:
            await link.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Phone:
    """A source of channels that remembers what was asked of it."""

    def __init__(self, count: int = 1, padding: int = 0) -> None:
        self.count, self.padding = count, padding
        self.done: list[tuple[object, ...]] = []

    def channel_rows(self) -> list[list[tuple[str, str]]]:
        filler = "x" * self.padding
        return [
            [("Channel", f"PJSIP/x-{n:08x}"), ("CallerIDName", filler), ("Uniqueid", f"u.{n}"), ("ChannelState", "6")]
            for n in range(self.count)
        ]

    def hang_up(self, channel: str, cause: int) -> bool:
        self.done.append(("hangup", channel, cause))
        return channel == CHANNEL

    def move_limit(self, channel: str, seconds: float) -> bool:
        self.done.append(("limit", channel, seconds))
        return channel == CHANNEL
