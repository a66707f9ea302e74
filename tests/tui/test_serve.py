"""`--serve`: the terminal UI in a browser, for who has the key and for nobody else, and without the network."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import socket
import sys
from collections.abc import Callable, Coroutine
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from capconduit.errors import Refused, UsageError
from capconduit_cli.tui.serve import MAX_VISITORS, Page, check_address, serve
from lab.ports import free_port

KEY = "k" * 32


class Browser:
    """Asks the page for things."""

    def __init__(self, session: aiohttp.ClientSession, page: Page) -> None:
        self._session = session
        self.page = page
        self.base = f"http://127.0.0.1:{page.port}"
        self.cookie = {"Cookie": f"capconduit_top_{page.port}={KEY}"}

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        async with self._session.get(self.base + path, headers=headers, allow_redirects=False) as response:
            return response.status, dict(response.headers), await response.text(errors="replace")

    def visit(self) -> Any:
        """A WebSocket as the page opens it."""
        return self._session.ws_connect(f"{self.base}/ws", headers={**self.cookie, "Origin": self.base})

    async def connect(self, **headers: str) -> int:
        """Open the WebSocket; the status with which it is refused, or 101."""
        try:
            async with self._session.ws_connect(f"{self.base}/ws?width=80&height=24", headers=headers) as opened:
                await opened.close()
                return 101
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status


def browse(work: Callable[[Browser], Coroutine[Any, Any, None]]) -> None:
    """Serve a page and do `work` with it; what it would run is nothing."""

    async def whole() -> None:
        page = Page(["--version"], "127.0.0.1", free_port(), key=KEY)
        runner = web.AppRunner(await page.make(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, page.host, page.port).start()
        try:
            async with aiohttp.ClientSession() as session:
                await work(Browser(session, page))
        finally:
            await runner.cleanup()

    asyncio.run(whole())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "fe80::1", "example.com", "", "local"])
def test_an_address_that_others_reach_is_refused(host: str) -> None:
    with pytest.raises(UsageError) as refused:
        serve(["top"], host, 8873)
    assert refused.value.slug == "address-not-loopback"
    check_address(host, anywhere=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
def test_an_address_of_this_machine_is_taken(host: str) -> None:
    check_address(host)


def test_a_taken_port_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"127.0.0.1 port {port} cannot be listened on: Address already in use"):
            serve(["top"], "127.0.0.1", port, say=lambda _: None)


def test_nothing_is_shown_without_the_key() -> None:
    async def work(me: Browser) -> None:
        for path in ("/", "/?key=", "/?key=wrong", "/?key=%C3%A9", "/static/js/textual.js", "/download/x", "/none"):
            status, _, text = await me.get(path)
            assert status == 403, path
            assert KEY not in text
        assert (await me.get("/", Cookie=f"capconduit_top_{me.page.port}=wrong"))[0] == 403
        assert (await me.get("/static/js/textual.js?key=" + KEY))[0] == 403, "the key opens the page only"
        assert await me.connect(Origin=me.base) == 403

    browse(work)


def test_the_key_becomes_a_cookie_that_scripts_cannot_read() -> None:
    async def work(me: Browser) -> None:
        status, headers, _ = await me.get(f"/?key={KEY}")
        assert (status, headers["Location"]) == (303, "/")
        (cookie,) = SimpleCookie(headers["Set-Cookie"]).values()
        assert cookie.value == KEY
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert (await me.get("/", Cookie=f"{cookie.key}={cookie.value}"))[0] == 200

    browse(work)


def test_the_page_takes_nothing_from_elsewhere() -> None:
    async def work(me: Browser) -> None:
        status, headers, text = await me.get("/", **me.cookie)
        assert status == 200
        places = re.findall(r"""(?:href|src)="([^"]+)"|url\("([^"]+)"\)""", text)
        asked = {place for pair in places for place in pair if place and not place.startswith("data:")}
        assert len(asked) == 4
        for place in asked:
            assert place.startswith("/static/"), place
            assert (await me.get(place, **me.cookie))[0] == 200, place
        assert f'data-session-websocket-url="ws://127.0.0.1:{me.page.port}/ws"' in text
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"

    browse(work)


def test_a_name_that_is_not_ours_is_refused_even_with_the_key() -> None:
    async def work(me: Browser) -> None:
        for host in ("evil.example", f"evil.example:{me.page.port}", "127.0.0.1.evil.example", "192.168.1.5:8873"):
            assert (await me.get("/", **me.cookie, Host=host))[0] == 403, host
        for host in (f"localhost:{me.page.port}", "127.0.0.1:9999", "[::1]:9999"):  # a tunnel may have another port
            assert (await me.get("/", **me.cookie, Host=host))[0] == 200, host

    browse(work)


def test_only_the_page_itself_gets_a_run() -> None:
    async def work(me: Browser) -> None:
        assert await me.connect(**me.cookie) == 403
        for origin in ("http://evil.example", "http://127.0.0.1:1", f"https://127.0.0.1:{me.page.port}", "null"):
            assert await me.connect(**me.cookie, Origin=origin) == 403, origin
        assert await me.connect(**me.cookie, Origin=me.base) == 101

    browse(work)


def test_visitors_are_bounded() -> None:
    async def work(me: Browser) -> None:
        me.page._visitors = MAX_VISITORS
        assert await me.connect(**me.cookie, Origin=me.base) == 503
        me.page._visitors = MAX_VISITORS - 1
        assert await me.connect(**me.cookie, Origin=me.base) == 101

    browse(work)


def test_a_run_ends_with_its_visitor_even_if_it_does_not_want_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("capconduit_cli.tui.serve.END_S", 0.2)
    place = tmp_path / "pid"
    script = f"import os, pathlib, time; pathlib.Path({str(place)!r}).write_text(f'{{os.getpid()}}.'); time.sleep(99)"

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  # another process is waited for
                await asyncio.sleep(0.01)

    async def work(me: Browser) -> None:
        me.page.command = "exec " + shlex.join([sys.executable, "-c", script])
        async with me.visit():
            await until(lambda: place.exists() and place.read_text().endswith("."))
        await until(lambda: not me.page._visitors)
        with pytest.raises(ProcessLookupError):
            os.kill(int(place.read_text().removesuffix(".")), 0)

    browse(work)


def test_a_run_that_ends_is_told_to_its_visitor(tmp_path: Path) -> None:
    async def work(me: Browser) -> None:
        async with asyncio.timeout(60), me.visit() as visit:
            assert (await visit.receive()).type is aiohttp.WSMsgType.CLOSE

    browse(work)


def test_an_argument_is_a_word_of_the_command_whatever_is_in_it(tmp_path: Path) -> None:
    page = Page(["--config", "a b'; touch /tmp/x #", "top"], "127.0.0.1", 1, key=KEY)
    assert page.command.endswith("""--config 'a b'"'"'; touch /tmp/x #' top""")
