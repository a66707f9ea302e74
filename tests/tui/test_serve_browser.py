"""`capconduit top --serve` in a real browser (headless Chromium), driven over its DevTools WebSocket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from lab.ports import free_port
from tests.tui.fake_daemon import FakeDaemon, call, picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DEADLINE_S = 60.0
POLL_S = 0.1
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
    "--window-size=1400,800",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # there is no network
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="NOT RUN: chromium is not installed (Debian: chromium)")


class Tab:
    """A tab of the browser: what it asked for, and what came over its WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.asked: list[str] = []
        self.received = ""
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._changed = asyncio.Event()

    async def read(self) -> None:
        """Take in what the browser tells."""
        async for message in self._socket:
            told = message.json()
            match told.get("method"):
                case "Network.requestWillBeSent":
                    self.asked.append(told["params"]["request"]["url"])
                case "Network.webSocketCreated":
                    self.asked.append(told["params"]["url"])
                case "Network.webSocketFrameReceived":
                    frame = told["params"]["response"]
                    if frame["opcode"] == 2:
                        self.received += base64.b64decode(frame["payloadData"]).decode("utf-8", "replace")
                case None:
                    self._answers.pop(told["id"]).set_result(told)
            self._changed.set()

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser for something."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        answer = self._answers[number]
        await self._socket.send_json({"id": number, "method": method, "params": params})
        told = await answer
        assert "error" not in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def value(self, script: str) -> Any:
        """What a script gives."""
        told = await self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return told["result"].get("value")

    async def press(self, key: str) -> None:
        """A key of the keyboard."""
        await self.do("Input.dispatchKeyEvent", type="keyDown", text=key, key=key)
        await self.do("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what came makes `condition` true."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"asked: {self.asked}; the last that came: {self.received[-500:]!r}") from None

    async def until_value(self, script: str) -> None:
        """Wait until a script gives something true."""
        await self.value(
            f"new Promise(done => {{ (function look() {{ ({script}) ? done(1) : setTimeout(look, 20) }})() }})"
        )


@asynccontextmanager
async def browser(directory: Path) -> AsyncIterator[Tab]:
    """A browser of its own with one tab."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, *FLAGS, f"--user-data-dir={directory}", "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        port = 0
        async for line in process.stderr:
            if line.startswith(b"DevTools listening on "):
                port = urlsplit(line.split()[-1].decode()).port or 0
                break
        drain = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                page = next(target for target in await answer.json() if target["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                reading = asyncio.create_task(tab.read())
                yield tab
                reading.cancel()
        drain.cancel()
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    """The command itself; the address that it says is to be opened."""
    config = directory / "capconduit.toml"
    database, control = directory / "none.sqlite", directory / "control.sock"
    config.write_text(f'[database]\nurl = "sqlite:///{database}"\n[control]\nsocket = "{control}"\n')
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CAPCONDUIT_", "TEXTUAL"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "capconduit_cli", "--config", str(config), "top", "--serve", "--port", str(free_port()),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environment,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        said = (await process.stderr.readline()).decode()
        assert said.startswith("open http://127.0.0.1:"), said + (await process.stderr.read()).decode()
        yield said.removeprefix("open ").strip()
    finally:
        process.terminate()
        assert await process.wait() == 0
        assert await process.stdout.read() == b""


def test_the_floor_is_seen_and_steered_in_a_browser_without_a_network(tmp_path: Path) -> None:
    async def work() -> None:
        async with (
            asyncio.timeout(3 * DEADLINE_S),
            FakeDaemon(tmp_path / "control.sock", picture=picture(calls=3)) as daemon,
            served(tmp_path) as url,
            browser(tmp_path / "profile") as tab,
        ):
            await tab.do("Network.enable")
            await tab.do("Page.enable")
            await tab.do("Page.navigate", url=url)
            await tab.until(lambda: "LIVE" in tab.received and "+12125550003" in tab.received)
            assert await tab.value("location.pathname + location.search") == "/", "the key does not stay in sight"
            # The page gets what came after the browser told of it.
            await tab.until_value("document.body.classList.contains('-first-byte')")
            await tab.until_value("(document.querySelector('.xterm-screen canvas') || {}).width > 400")
            assert await tab.value("document.fonts.load('15px \"Roboto Mono\"').then(found => found.length > 0)")
            calls_seen = (await tab.do("Page.captureScreenshot"))["data"]

            daemon.send("call", call(77))
            await tab.until(lambda: "+12125550077" in tab.received)

            before = len(tab.received)
            await tab.press("5")
            await tab.until(lambda: "call.rejected" in tab.received[before:] or "cap_reached" in tab.received[before:])
            # Until it is drawn, or the time is up: nobody tells when.
            while (await tab.do("Page.captureScreenshot"))["data"] == calls_seen:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

            await tab.press("q")
            await tab.until_value("document.body.classList.contains('-closed')")
            await daemon.until(lambda: not daemon.watched())

            hosts = {urlsplit(place).netloc for place in tab.asked if not place.startswith("data:")}
            assert hosts == {urlsplit(url).netloc}, json.dumps(tab.asked)

    asyncio.run(work())
