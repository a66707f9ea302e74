"""The control socket: a Unix socket with a small HTTP interface; who may open the file may use it.

What it answers stands in control_routes.py and docs/control.md. Fails open: a control socket that cannot be made or a
client that misbehaves never touches a call. A request has a deadline, a size and a number of clients beside it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import socket
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Final

from capconduit.errors import CapConduitError, ConfigError, DatabaseError, NotFound, PeerError, UsageError
from fastagi.control_http import HEAD_BYTES, Answer, Fault, Handler, Request, read_request

log = logging.getLogger(__name__)

REQUEST_S: Final = 2.0  # for a request to come in, and for its answer to be taken
HANDLER_S: Final = 15.0
CLIENTS: Final = 64
REFUSED_AT_ONCE: Final = 16  # clients beyond those that are told why
SOCKET_MODE: Final = 0o660
_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


async def _answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), REQUEST_S)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


class ControlServer:
    """Serves `routes`, by method and path, at the socket `path`."""

    def __init__(self, path: Path, routes: Mapping[tuple[str, str], Handler]) -> None:
        self._path = path
        self._clients = HttpClients(routes)
        self._server: asyncio.Server | None = None
        self._inode = 0

    @property
    def routes(self) -> dict[tuple[str, str], Handler]:
        """What is answered; may be added to."""
        return self._clients.routes

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
            self._server = await asyncio.start_unix_server(self._clients.connected, self._path, limit=HEAD_BYTES)
            self._inode = self._path.stat().st_ino
            os.chmod(self._path, SOCKET_MODE)  # noqa: PTH101 - one call, on a socket that is no regular path
        except OSError as error:
            log.warning("no control socket at %s: %s", self._path, error)

    async def close(self) -> None:
        """Stop listening, let go of whoever is connected, and take the socket away."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()
        await self._clients.close()


class HttpClients:
    """Whoever is connected, on whichever listener: at most CLIENTS, each one request by its deadline."""

    def __init__(self, routes: Mapping[tuple[str, str], Handler]) -> None:
        self.routes = dict(routes)
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Let go of everybody."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= CLIENTS + REFUSED_AT_ONCE:
            writer.transport.abort()
            return
        refused = len(self._tasks) >= CLIENTS
        task = asyncio.get_running_loop().create_task(self._client(reader, writer, refused=refused))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, refused: bool) -> None:
        try:
            answer = await self._answer(reader, _peer(writer), refused=refused)
            writer.write(answer.encoded())
            await asyncio.wait_for(writer.drain(), REQUEST_S)
            if answer.stream is not None:
                await answer.stream(writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            log.debug("control client: %s", error)
            writer.transport.abort()  # what it does not read is not kept for it
        except Exception:
            log.exception("a control client could not be served")
            writer.transport.abort()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, peer: str, *, refused: bool) -> Answer:
        try:
            request = await asyncio.wait_for(read_request(reader, peer), REQUEST_S)
            if refused:
                raise Fault(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-clients", f"{CLIENTS} clients are connected")
            return await self._handled(request)
        except Fault as fault:
            return Answer(fault.body, fault.status)
        except CapConduitError as error:
            return Answer({"error": error.slug, "message": error.message, "hint": error.hint}, _status_of(error))

    async def _handled(self, request: Request) -> Answer:
        handler = self._route(request)
        try:
            return await asyncio.wait_for(handler(request), HANDLER_S)
        except TimeoutError:
            raise Fault(
                HTTPStatus.SERVICE_UNAVAILABLE, "answer-late", f"no answer within {HANDLER_S:g} s",
                "is the database, or AMI, slow? what was asked for may be done yet",
            ) from None  # fmt: skip

    def _route(self, request: Request) -> Handler:
        handler = self.routes.get((request.method, request.path))
        if handler is not None:
            return handler
        others = sorted(method for method, path in self.routes if path == request.path)
        if others:
            raise Fault(
                HTTPStatus.METHOD_NOT_ALLOWED, "method-wrong",
                f"{request.path} does not take {request.method}", f"use {' or '.join(others)}",
            )  # fmt: skip
        known = ", ".join(f"{method} {path}" for method, path in sorted(self.routes))
        raise Fault(HTTPStatus.NOT_FOUND, "not-found", f"there is no {request.path}", f"there are {known}")


def _status_of(error: CapConduitError) -> HTTPStatus:
    match error:
        case NotFound():
            return HTTPStatus.NOT_FOUND
        case UsageError():
            return HTTPStatus.BAD_REQUEST
        case DatabaseError() | PeerError():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            return HTTPStatus.CONFLICT


def _peer(writer: asyncio.StreamWriter) -> str:
    """Who is connected: the user that the kernel names (Linux unix(7), SO_PEERCRED)."""
    sock = writer.get_extra_info("socket")
    try:
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except (OSError, AttributeError):
        return "unknown"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
