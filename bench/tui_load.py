"""A daemon's stand-in with a busy floor: 1,000 live calls and 50 changes a second, sent as the daemon sends them.

    python -m bench.tui_load SOCKET [--calls N] [--changes N]

`Traffic` alone is a source of messages with instants of its own, for recordings.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from capconduit.units import format_instant, format_micros
from tests.tui import fake_daemon

CALLS: Final = 1_000
CHANGES: Final = 50
FLUSH_S: Final = 0.1  # the daemon tells its viewers ten times a second
CAPS: Final = 150
SELLERS: Final = 40
TARGETS: Final = 60
CAMPAIGNS: Final = 80
MINUTE_MS: Final = 60_000

Message = tuple[str, dict[str, Any]]


class Traffic:
    """Calls that come, are answered, are extended and go, and what that changes; `calls` stay about as many."""

    def __init__(self, calls: int, changes: int, now_ms: int, *, seed: int = 1) -> None:
        self._chance = random.Random(seed)
        self._changes = changes
        self._number = 0
        self._told = 0
        self._live: dict[str, dict[str, Any]] = {}
        self._second = 0
        for _ in range(calls):
            made = self._call(now_ms - self._chance.randrange(5 * MINUTE_MS))
            self._live[made["id"]] = self._answered(made, now_ms)

    def picture(self, now_ms: int) -> dict[str, Any]:
        """PICTURE of now."""
        return {
            "at": format_instant(now_ms),
            "node": "n1",
            "boot_id": "boot1",
            "tenant": "default",
            "calls": list(self._live.values()),
            "caps": [self._cap(number) for number in range(CAPS)],
            "balances": [self._balance(number) for number in range(SELLERS)],
            "targets": [self._target(number) for number in range(TARGETS)],
            "campaigns": [
                fake_daemon.campaign(number, seller=f"seller{number % SELLERS}") for number in range(CAMPAIGNS)
            ],
            "events": [],
            "health": fake_daemon.health(now_ms, calls=len(self._live)),
        }

    def flush(self, now_ms: int) -> Iterator[Message]:
        """What changed in a tenth of a second; and once a second how the daemon is."""
        for _ in range(round(self._changes * FLUSH_S)):
            yield from self._change(now_ms)
        self._second = (self._second + 1) % round(1 / FLUSH_S)
        if not self._second:
            cps = [self._chance.randrange(12) for _ in range(60)]
            yield "health", fake_daemon.health(now_ms, calls=len(self._live), cps=cps)

    def _change(self, now_ms: int) -> Iterator[Message]:
        """One change, in the proportions of a floor where a call lasts some minutes."""
        kind = self._chance.choices(
            ("new", "up", "extended", "gone", "cap", "balance", "target", "event"), (10, 10, 25, 10, 15, 10, 10, 10)
        )[0]
        match kind:
            case "new":
                made = self._call(now_ms)
                self._live[made["id"]] = made
                yield "call", made
            case "gone":
                oldest = next(iter(self._live))
                del self._live[oldest]
                yield "call-gone", self._gone(oldest, now_ms)
            case "up" | "extended":
                call_id = self._chance.choice(list(self._live)) if kind == "extended" else list(self._live)[-1]
                self._live[call_id] = self._answered(self._live[call_id], now_ms)
                yield "call", self._live[call_id]
            case "cap":
                yield "cap", self._cap(self._chance.randrange(CAPS))
            case "balance":
                yield "balance", self._balance(self._chance.randrange(SELLERS))
            case "target":
                yield "target", self._target(self._chance.randrange(TARGETS))
            case _:
                yield "event", self._event(now_ms)

    def _call(self, at_ms: int) -> dict[str, Any]:
        self._number += 1
        number = self._chance.randrange(10_000)
        return {
            **fake_daemon.call(self._number),
            "id": f"{self._number:06X}{self._chance.getrandbits(80):020X}",
            "node": f"n{number % 2 + 1}",
            "state": "dialing",
            "did": f"+1800555{number:04d}",
            "from": f"+1{self._chance.randrange(2_000_000_000, 9_999_999_999)}",
            "seller": f"seller{number % SELLERS}",
            "campaign": f"campaign{number % CAMPAIGNS}",
            "target": f"target{self._chance.randrange(TARGETS)}",
            "arrived": format_instant(at_ms),
            "answered": None,
            "funded_until": None,
        }

    def _answered(self, call: dict[str, Any], now_ms: int) -> dict[str, Any]:
        """The call answered, or with its hold extended."""
        answered = call["answered"] or format_instant(now_ms - 3_000)
        funded_s = call["funded_s"] + (60 if call["answered"] else 0)
        return {
            **call,
            "state": "up",
            "answered": answered,
            "funded_s": funded_s,
            "funded_until": format_instant(now_ms + 300_000),
            "held": format_micros(funded_s * 20_000 // 6),
        }

    def _gone(self, call_id: str, now_ms: int) -> dict[str, Any]:
        return {
            "id": call_id, "outcome": "completed", "reason": "", "dialstatus": "ANSWER", "hung_up_by": "caller",
            "billed": format_micros(self._chance.randrange(2_000_000)), "currency": "USD",
            "talk_ms": self._chance.randrange(5 * MINUTE_MS), "ended": format_instant(now_ms),
            "target": "target1", "node": "n1",
        }  # fmt: skip

    def _cap(self, number: int) -> dict[str, Any]:
        return fake_daemon.cap(
            number, subject=f"campaign{number % CAMPAIGNS}", limit=1_000, used=self._chance.randrange(1_000)
        )

    def _balance(self, number: int) -> dict[str, Any]:
        left = self._chance.randrange(10**9)
        return fake_daemon.balance(
            number, balance=format_micros(left + 5_000_000), available=format_micros(left), held="5.000000"
        )

    def _target(self, number: int) -> dict[str, Any]:
        return fake_daemon.target(number, active=self._chance.randrange(30), calls_today=self._chance.randrange(5_000))

    def _event(self, now_ms: int) -> dict[str, Any]:
        self._told += 1
        return {
            **fake_daemon.event(self._told),
            "id": f"{now_ms:010X}{self._chance.getrandbits(64):016X}",
            "at": format_instant(now_ms),
            "subject": self._chance.choice(list(self._live)),
        }


async def serve(socket: Path, calls: int, changes: int) -> None:
    """Serve it until interrupted."""
    from capconduit.clock import SystemClock

    clock = SystemClock()
    traffic = Traffic(calls, changes, clock.now_ms())
    loop = asyncio.get_running_loop()
    daemon = fake_daemon.FakeDaemon(
        socket, picture=traffic.picture(clock.now_ms()), source=lambda: traffic.picture(clock.now_ms())
    )
    async with daemon:
        due = loop.time()
        while True:
            due += FLUSH_S
            await asyncio.sleep(max(due - loop.time(), 0))
            for kind, data in traffic.flush(clock.now_ms()):
                daemon.send(kind, data)


if __name__ == "__main__":
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("socket", type=Path)
    made.add_argument("--calls", type=int, default=CALLS)
    made.add_argument("--changes", type=int, default=CHANGES)
    options = made.parse_args()
    asyncio.run(serve(options.socket, options.calls, options.changes))
