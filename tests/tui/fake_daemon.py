"""A stand-in for the daemon's control socket: pictures and a stream as in docs/control.md, and it can misbehave.

    async with FakeDaemon(path, picture=picture(calls=3)) as daemon:
        ...                                     # a viewer connects to `path`
        await daemon.until(daemon.watched)      # somebody has the stream open
        daemon.send("call", call(1, state="up"))
        daemon.silent = True                    # neither messages nor beats from now on: the daemon hangs
        await daemon.restart()                  # another boot id; every viewer is cut off
        daemon.requests                         # (method, path, body) of all that was asked

What is sent is also kept: `daemon.floor` is a Floor with every message applied, to compare a viewer's with. It answers
`POST /hangup` with 202, or with `daemon.hangup_answer`. Used by the tests of the terminal UI and by bench/tui.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from capconduit.outward.envelope import outward_data
from capconduit.units import format_instant, format_micros
from capconduit_cli.tui.floor import Floor

RING: Final = 2_000
BEAT_S: Final = 1.0
T0_MS: Final = 1_772_900_000_000  # 2026-03-07T16:13:20Z: when everything in a picture begins


def ulid(number: int) -> str:
    """An id that sorts by number."""
    return f"01KKFLOOR{number:017d}"


def call(number: int, **changed: Any) -> dict[str, Any]:
    """CALL `number`: up, of one of three campaigns and five targets."""
    arrived_ms = T0_MS + number * 1_000
    return {
        "id": ulid(number),
        "node": "n1",
        "state": "up",
        "did": f"+1800555{number % 10_000:04d}",
        "from": f"+1212555{number % 10_000:04d}",
        "caller_name": f"Caller {number}",
        "seller": f"seller{number % 2 + 1}",
        "campaign": f"campaign{number % 3 + 1}",
        "target": f"target{number % 5 + 1}",
        "trunk": "carrier",
        "attempt": 1,
        "arrived": format_instant(arrived_ms),
        "answered": format_instant(arrived_ms + 4_000),
        "currency": "USD",
        "connect_fee": "0.000000",
        "per_minute": "0.200000",
        "first_s": 60,
        "further_s": 60,
        "then_after_s": 0,
        "then_per_minute": None,
        "billable_threshold_ms": 0,
        "funded_s": 300,
        "funded_until": format_instant(arrived_ms + 304_000),
        "held": "1.000000",
        **changed,
    }


def cap(number: int, **changed: Any) -> dict[str, Any]:
    """CAP `number` of a campaign, by billable calls a day; `number` of 200 used."""
    return {
        "id": ulid(500_000 + number),
        "scope": "campaign",
        "subject": f"campaign{number}",
        "metric": "billable",
        "window": "day",
        "limit": 200,
        "used": number,
        "in_flight": 1,
        "resets": format_instant(T0_MS + 3_600_000),
        "currency": "",
        **changed,
    }


def balance(number: int, **changed: Any) -> dict[str, Any]:
    """BALANCE of `seller<number>`."""
    return {
        "seller": f"seller{number}",
        "currency": "USD",
        "balance": format_micros(number * 100_000_000),
        "held": "2.000000",
        "available": format_micros(number * 100_000_000 - 2_000_000),
        "credit_limit": "0.000000",
        "low_balance": "10.000000",
        "burn_per_minute": "0.400000",
        "empty_at": format_instant(T0_MS + 7_200_000),
        "status": "active",
        **changed,
    }


def target(number: int, **changed: Any) -> dict[str, Any]:
    """TARGET `target<number>`."""
    return {
        "name": f"target{number}",
        "kind": "pjsip",
        "status": "active",
        "active": 2,
        "rested_until": None,
        "failures": 0,
        "calls_today": 40,
        "answered_today": 30,
        "asr": 0.75,
        "acd_ms": 92_000,
        **changed,
    }


def campaign(number: int, **changed: Any) -> dict[str, Any]:
    """CAMPAIGN `campaign<number>`."""
    return {
        "name": f"campaign{number}",
        "seller": f"seller{number % 2 + 1}",
        "status": "active",
        "strategy": "priority",
        **changed,
    }


def event(number: int, kind: str = "call.rejected", **data: Any) -> dict[str, Any]:
    """EVENT `number`."""
    return {
        "id": ulid(800_000 + number),
        "at": format_instant(T0_MS + number * 1_000),
        "kind": kind,
        "subject": ulid(number),
        "data": outward_data(data)
        or {"did": "+18005550100", "from": "+12125550147", "reason": "cap_reached:campaign:billable:day"},
    }


def health(at_ms: int = T0_MS, **changed: Any) -> dict[str, Any]:
    """HEALTH of a daemon that is well."""
    return {
        "at": format_instant(at_ms),
        "ready": True,
        "reasons": [],
        "ami": {"enabled": True, "up": True},
        "database": {"up": True, "latency_ms": 1.25},
        "decisions": {"per_second": 5.5, "p50_ms": 1.9, "p99_ms": 6.5, "timeouts": 0, "failures": 0},
        "calls": 3,
        "journal": 0,
        "cps": [second % 7 for second in range(60)],
        "nodes": [{"name": "n1", "state": "up", "seen": format_instant(at_ms)}],
        **changed,
    }


def picture(
    calls: int = 3, *, caps: int = 3, events: int = 5, boot_id: str = "boot1", at_ms: int = T0_MS
) -> dict[str, Any]:
    """PICTURE with so many calls and caps, two sellers, five targets and three campaigns."""
    return {
        "at": format_instant(at_ms),
        "node": "n1",
        "boot_id": boot_id,
        "tenant": "default",
        "calls": [call(number) for number in range(1, calls + 1)],
        "caps": [cap(number) for number in range(1, caps + 1)],
        "balances": [balance(number) for number in (1, 2)],
        "targets": [target(number) for number in range(1, 6)],
        "campaigns": [campaign(number) for number in range(1, 4)],
        "events": [event(number) for number in range(1, events + 1)],
        "health": health(at_ms, calls=calls),
    }


_KEYS: Final = {"call": ("calls", "id"), "call-gone": ("calls", "id"), "cap": ("caps", "id"),
                "balance": ("balances", "seller"), "target": ("targets", "name"),
                "campaign": ("campaigns", "name")}  # fmt: skip


class FakeDaemon:
    """Serves one Unix socket. `picture` is kept up to date with what is sent."""

    def __init__(
        self, path: Path, *, picture: dict[str, Any], source: Callable[[], dict[str, Any]] | None = None
    ) -> None:
        """With a `source` of pictures of now, what is sent is not kept: for a floor that is very busy."""
        self.path = path
        self.picture = picture
        self._source = source
        self.floor = Floor()
        self.silent = False
        self.answering = asyncio.Event()  # cleared: streams that are asked for get no answer yet
        self.answering.set()
        self.refuse: tuple[int, dict[str, Any]] | None = (
            None  # status and body of every answer, instead of the right one
        )
        self.hangup_answer: tuple[int, dict[str, Any]] | None = None
        self.requests: list[tuple[str, str, str]] = []
        self.last_event_ids: list[str] = []  # of each stream that was opened; "" where it began anew
        self._boots = 1
        self._number = 0
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=RING)
        self._streams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self.floor.apply("snapshot", picture)

    async def __aenter__(self) -> FakeDaemon:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen. A new boot after a stop: the ring is empty."""
        self._server = await asyncio.start_unix_server(self._client, self.path)

    async def stop(self) -> None:
        """As a daemon that is killed: every connection is cut off and the socket is gone."""
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    async def restart(self) -> None:
        """Killed and started again, at once."""
        await self.stop()
        self._boots += 1
        self.picture["boot_id"] = f"boot{self._boots}"
        self._ring.clear()
        self._number = 0
        await self.start()

    def watched(self) -> bool:
        """Whether somebody has the stream open."""
        return bool(self._streams)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait until something asked or left made `condition` true. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def send(self, kind: str, data: dict[str, Any]) -> None:
        """A message to every viewer, which also changes the picture."""
        if self._source is None:
            self._keep(kind, data)
        self._number += 1
        message = self._message(kind, data)
        self._ring.append((self._number, message))
        self._write(message)

    def send_raw(self, received: bytes) -> None:
        """Any bytes to every viewer, past the ring and the picture."""
        self._write(received)

    def drop(self) -> None:
        """End every stream, as after a viewer was too slow; the socket goes on listening."""
        for writer in list(self._streams):
            writer.close()

    def _write(self, received: bytes) -> None:
        if not self.silent:
            for writer in self._streams:
                writer.write(received)

    def _now(self) -> dict[str, Any]:
        return self.picture if self._source is None else self._source()

    def _message(self, kind: str, data: dict[str, Any]) -> bytes:
        return f"id: {self.picture['boot_id']}-{self._number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()

    def _keep(self, kind: str, data: dict[str, Any]) -> None:
        self.floor.apply(kind, data)
        if kind in _KEYS:
            table, key = _KEYS[kind]
            rows = {row[key]: row for row in self.picture[table]}
            if kind == "call-gone" or data.get("gone"):
                rows.pop(data[key], None)
            else:
                rows[data[key]] = data
            self.picture[table] = list(rows.values())
        elif kind == "event":
            self.picture["events"] = [*self.picture["events"], data][-200:]
        elif kind == "health":
            self.picture["health"] = data

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a viewer that left, or our own end
        finally:
            self._streams.discard(writer)
            self._tasks.discard(task)
            self._changed.set()
            writer.close()
            with suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        method, resource, _ = lines[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((method, resource, body.decode()))
        self._changed.set()
        url = urlsplit(resource)
        if self.refuse is not None:
            await _answer(writer, *self.refuse)
        elif url.path == "/stream":
            since = headers.get("last-event-id") or parse_qs(url.query).get("since", [""])[0]
            await self._stream(reader, writer, since)
        elif url.path == "/snapshot":
            await _answer(writer, 200, self._now())
        elif url.path in ("/status", "/health"):
            await _answer(writer, 200, {"ready": True, "reasons": [], "node": self.picture["node"]})
        elif (method, url.path) == ("POST", "/hangup"):
            await _answer(writer, *(self.hangup_answer or (202, {"call": json.loads(body)["call"]})))
        else:
            await _answer(writer, 404, {"error": "not-found", "message": f"no {method} {url.path}", "hint": ""})

    async def _stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, since: str) -> None:
        self.last_event_ids.append(since)
        self._changed.set()
        await self.answering.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        boot_id, _, number = since.rpartition("-")
        if boot_id == self.picture["boot_id"]:
            for sent, message in self._ring:
                if sent > int(number):
                    writer.write(message)
        else:
            writer.write(self._message("snapshot", self._now()))
        self._streams.add(writer)
        self._changed.set()
        while not writer.is_closing():
            with suppress(TimeoutError):
                if not await asyncio.wait_for(reader.read(1), BEAT_S):
                    return  # the viewer left
            if not self.silent:
                writer.write(b": beat\n\n")


async def _answer(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    text = json.dumps(body).encode()
    writer.write(
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + text
    )
    await writer.drain()
