"""The terminal UI in a browser: textual-serve on a loopback address, for who has the key that is in the URL.

Whoever opens the page acts as the user who started it. A loopback address is open to every user of the machine and to
every web page that is open in its browsers, so an address is not enough: the first visit needs the key and gets a
cookie of this browser, the Host must be ours (DNS rebinding), and a WebSocket must come from our own page. Nothing is
loaded from elsewhere; the page's Content-Security-Policy says so.

Failure policy: fail closed. An address that is not allowed or not free ends the command.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import aiohttp_jinja2
from aiohttp import web
from aiohttp.typedefs import Handler
from textual_serve.app_service import AppService
from textual_serve.server import Server

from capconduit.errors import Refused, UsageError
from capconduit_cli.output import notice

TITLE: Final = "capconduit top"
PAGES: Final = Path(__file__).parent / "web"
FONT_SIZE: Final = 15
SHUTDOWN_S: Final = 2.0
END_S: Final = 3.0  # a run has to end when its visitor has left
HEARTBEAT_S: Final = 15.0
MAX_MESSAGE_BYTES: Final = 65_536  # what is pasted
MAX_CELLS: Final = 1_000  # of a terminal's side
MAX_VISITORS: Final = 16  # each is a process of its own
KEY_BYTES: Final = 24

Notice = Callable[[str], None]


def check_address(host: str, *, anywhere: bool = False) -> None:
    """Raises UsageError for an address that others than this machine can reach, unless that is what is wanted."""
    if not anywhere and not is_loopback(host):
        raise UsageError(
            "address-not-loopback",
            f"{host!r} can be reached from other machines",
            "use 127.0.0.1 and a tunnel: ssh -L 8873:127.0.0.1:8873 HOST",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; of names only `localhost` is trusted."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Run(AppService):
    """A visitor's run of the command, which is over when the visitor leaves, whatever it does."""

    async def run(self) -> None:
        """Until it ends; then the visitor is told."""
        await super().run()
        await self.remote_close()

    async def stop(self) -> None:
        """Ask it to end; after END_S, make it."""
        process, self._process = self._process, None
        if process is None:
            return
        asking, ending = asyncio.ensure_future(super().stop()), asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({ending}, timeout=END_S)  # a timeout that cancels is swallowed by what is asked
        finally:
            if process.returncode is None:
                process.kill()
        await ending
        await asking


class Page(Server):
    """The server of one command line: each visitor gets a run of it."""

    def __init__(self, argv: Sequence[str], host: str, port: int, *, key: str) -> None:
        shown = f"[{host}]" if ":" in host else host
        super().__init__(
            "exec " + shlex.join([sys.executable, "-m", "capconduit_cli", *argv]),
            host=host,
            port=port,
            title=TITLE,
            public_url=f"http://{shown}:{port}",
            templates_path=PAGES,
        )
        self._key = key
        self._cookie = f"capconduit_top_{port}"  # cookies do not know ports
        self._visitors = 0

    @property
    def url(self) -> str:
        """What to open."""
        return f"{self.public_url}/?key={self._key}"

    async def on_startup(self, app: web.Application) -> None:
        """Nothing is printed by textual-serve."""

    async def make(self) -> web.Application:
        """The application, guarded."""
        app = await self._make_app()
        app.middlewares.append(self._guard)
        return app

    @aiohttp_jinja2.template("app_index.html")
    async def handle_index(self, request: web.Request) -> dict[str, Any]:
        """The page; all its addresses are those by which it was asked for, which a tunnel may have changed."""
        return {
            "font_size": FONT_SIZE,
            "app_websocket_url": f"ws://{request.host}/ws",
            "config": {"static": {"url": "/static/"}},
            "application": {"name": self.title},
        }

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A visitor: what comes of the run goes there, what is pressed there goes to the run."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES)
        await socket.prepare(request)
        run = Run(
            self.command,
            write_bytes=socket.send_bytes,
            write_str=socket.send_str,
            close=socket.close,  # type: ignore[arg-type]  # that it returns something does not matter
            download_manager=self.download_manager,
        )
        try:
            await run.start(_cells(request, "width", 80), _cells(request, "height", 24))
            await self._process_messages(socket, run)
        finally:
            await run.stop()
        return socket

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who has the key, and nobody else."""
        if not self._is_ours(request.host):
            raise web.HTTPForbidden(text="This is not an address of this page.\n")
        given = request.query.get("key")
        if request.path == "/" and given is not None and self._is_key(given):
            return self._welcome(request)
        if not self._is_key(request.cookies.get(self._cookie, "")):
            raise web.HTTPForbidden(text="Open the address that `capconduit top --serve` printed.\n")
        if request.path == "/ws":
            return await self._visit(request, handler)
        return _protected(request, await handler(request))

    def _is_ours(self, host: str) -> bool:
        """Whether a browser may know us by this Host. One that listens everywhere has names that we do not know."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return not is_loopback(self.host) or is_loopback(name)

    def _is_key(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._key.encode())

    def _welcome(self, request: web.Request) -> web.StreamResponse:
        """The key becomes a cookie, so that it does not stay in the address bar."""
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(self._cookie, self._key, httponly=True, samesite="Lax", path="/")
        return _protected(request, response)

    async def _visit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A run for one visitor, if it is our own page that asks."""
        if request.headers.get("Origin") != f"http://{request.host}":
            raise web.HTTPForbidden(text="Only the page itself may ask for this.\n")
        if self._visitors >= MAX_VISITORS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_VISITORS} are looking already.\n")
        self._visitors += 1
        try:
            return await handler(request)
        finally:
            self._visitors -= 1


def _cells(request: web.Request, name: str, otherwise: int) -> int:
    """A side of the visitor's terminal."""
    text = request.query.get(name, "")
    return min(max(int(text), 1), MAX_CELLS) if text.isascii() and text.isdigit() and len(text) < 6 else otherwise


def _protected(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Nothing from elsewhere, in nobody's frame, in no cache."""
    response.headers["Content-Security-Policy"] = (
        "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        f" connect-src 'self' ws://{request.host}; frame-ancestors 'none'; form-action 'none'"
    )
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def serve(argv: Sequence[str], host: str, port: int, *, anywhere: bool = False, say: Notice = notice) -> None:
    """Serve `capconduit ARGV` on an address until it is interrupted; what to open is said.

    Raises UsageError (the address is not of this machine alone, and not `anywhere`), Refused (it is taken).
    """
    check_address(host, anywhere=anywhere)
    logging.getLogger("textual-serve").setLevel(logging.CRITICAL)
    page = Page(argv, host, port, key=secrets.token_urlsafe(KEY_BYTES))
    if not is_loopback(host):
        say("warning: whoever has this URL acts as you, from any machine that reaches it, and nothing is encrypted")
    try:
        with redirect_stdout(sys.stderr):  # textual-serve prints there what a run that failed had to say
            asyncio.run(_serve(page, say))
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise Refused(
            "address-taken", f"{host} port {port} cannot be listened on: {why}", "use another --port"
        ) from None


async def _serve(page: Page, say: Notice) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    runner = web.AppRunner(await page.make(), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, page.host.strip("[]"), page.port).start()
        say(f"open {page.url}")
        say("Ctrl+C ends it")
        await ended.wait()
    finally:
        await runner.cleanup()
