"""A viewer of the control socket for tests: keeps the picture as the stream tells it, as the terminal UI does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import httpx

KEYS = {"call": "id", "cap": "id", "balance": "seller", "target": "name", "campaign": "name"}
PLURAL = {"call": "calls", "cap": "caps", "balance": "balances", "target": "targets", "campaign": "campaigns"}


def client(socket: str) -> httpx.AsyncClient:
    """Speaks to a control socket."""
    transport = httpx.AsyncHTTPTransport(uds=socket)
    return httpx.AsyncClient(transport=transport, base_url="http://daemon", timeout=40)


class Viewer:
    """`async with Viewer(socket) as viewer:` follows the stream in a task of its own."""

    def __init__(self, socket: str, query: str = "", headers: Mapping[str, str] | None = None) -> None:
        self._client = client(socket)
        self._query, self._headers = query, headers
        self.objects: dict[str, dict[str, Any]] = {kind: {} for kind in KEYS}
        self.gone: dict[str, Any] = {}
        self.events: list[Any] = []
        self.told: list[str] = []  # types of the messages
        self.ids: list[str] = []
        self.health: Any = None
        self.snapshots = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Viewer:
        self._task = asyncio.create_task(self._follow())
        await self.until(lambda: self.told)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    async def until(self, condition: Callable[[], Any], timeout_s: float = 40.0) -> None:
        """Wait for what the stream shall bring; fails where it ends or is too slow."""
        assert self._task is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not condition():
            assert loop.time() < deadline, f"the viewer did not see it: {self.told[-20:]}"
            if self._task.done():
                self._task.result()
                raise AssertionError("the stream has ended")
            await asyncio.sleep(0.01)

    async def _follow(self) -> None:
        kind = data = ""
        async with self._client.stream("GET", f"/stream{self._query}", headers=self._headers) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream"
            async for line in response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "id":
                    self.ids.append(value)
                elif name == "data":
                    data = value
                elif not line and kind:
                    self._take(kind, json.loads(data))
                    kind = ""

    def _take(self, kind: str, data: Any) -> None:
        self.told.append(kind)
        if kind == "snapshot":
            self.snapshots += 1
            for one, many in PLURAL.items():
                self.objects[one] = {each[KEYS[one]]: each for each in data[many]}
            self.events = data["events"]
            self.health = data["health"]
        elif kind in KEYS:
            own = self.objects[kind]
            if data.get("gone"):
                own.pop(data[KEYS[kind]])
            else:
                own[data[KEYS[kind]]] = data
        elif kind == "call-gone":
            self.objects["call"].pop(data["id"])
            self.gone[data["id"]] = data
        elif kind == "event":
            self.events.append(data)
        elif kind == "health":
            self.health = data

    def picture(self) -> dict[str, list[Any]]:
        """What it shows, in the form of a PICTURE."""
        return {PLURAL[kind]: [own[key] for key in sorted(own)] for kind, own in self.objects.items()}


def comparable(picture: dict[str, Any]) -> dict[str, list[Any]]:
    """The objects of a PICTURE in an order of their keys, to be compared."""
    return {many: sorted(picture[many], key=lambda each: each[KEYS[one]]) for one, many in PLURAL.items()}
