"""The control socket: a Unix socket with a small HTTP interface; who may open the file may use it.

`GET /status` and `GET /health` (200 when ready, else 503), `POST /drain`. Fails open: a control socket that cannot be
made or a client that misbehaves never touches a call.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from capconduit.errors import ConfigError

log = logging.getLogger(__name__)

REQUEST_S: Final = 2.0
REQUEST_BYTES: Final = 8_192
CLIENTS: Final = 32
SOCKET_MODE: Final = 0o660


async def _answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), REQUEST_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


class ControlServer:
    """Serves the control socket at `path`."""

    def __init__(self, path: Path, status: Callable[[], dict[str, Any]], drain: Callable[[], None]) -> None:
        self._path = path
        self._status = status
        self._drain = drain
        self._server: asyncio.Server | None = None
        self._clients = 0
        self._inode = 0

    async def refuse_if_taken(self) -> None:
        """Raises ConfigError where another daemon answers on our socket."""
        if await _answers(self._path):
            raise ConfigError(
                "control-socket-taken",
                f"another daemon answers on {self._path}",
                "stop it, or give this one another control.socket (and node.name)",
            )

    async def start(self) -> None:
        """Listen; a socket that a dead daemon left is replaced. Only logs where it cannot be made."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and stat.S_ISSOCK(self._path.stat().st_mode):
                self._path.unlink()
            self._server = await asyncio.start_unix_server(self._client, self._path, limit=REQUEST_BYTES)
            self._inode = self._path.stat().st_ino
            os.chmod(self._path, SOCKET_MODE)  # noqa: PTH101 - one call, on a socket that is no regular path
        except OSError as error:
            log.warning("no control socket at %s: %s", self._path, error)

    async def close(self) -> None:
        """Stop listening and take the socket away."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients > CLIENTS:
                return
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_S)
            method, path, *_ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            code, body = self._answer(method, path)
            text = json.dumps(body).encode()
            writer.write(
                f"HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
                "Connection: close\r\n\r\n".encode()
                + text
            )
            await asyncio.wait_for(writer.drain(), REQUEST_S)
        except (TimeoutError, ValueError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            log.debug("control client: %s", error)
        finally:
            self._clients -= 1
            writer.close()

    def _answer(self, method: str, path: str) -> tuple[str, dict[str, Any]]:
        match method, path:
            case "GET", "/status":
                return "200 OK", self._status()
            case "GET", "/health":
                status = self._status()
                told = {"ready": status["ready"], "reasons": status["reasons"]}
                return ("200 OK" if status["ready"] else "503 Service Unavailable"), told
            case "POST", "/drain":
                self._drain()
                return "202 Accepted", {"draining": True}
            case _:
                return "404 Not Found", {"error": f"no {method} {path}", "known": ["GET /status", "GET /health"]}
