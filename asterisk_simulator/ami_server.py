"""A simulated Asterisk manager interface: a real socket that answers actions, sends events, and fails on demand.

Messages, field order and texts are those of Asterisk 22 (main/manager.c, main/manager_channels.c, main/db.c) for a user
with `read = call,system` and `write = call,reporting`, and for others that a test adds with less. Loopback only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

BANNER: Final = b"Asterisk Call Manager/11.0.0\r\n"
REQUEST_LINES: Final = 128  # manager.h AST_MAX_MANHEADERS
REQUEST_LINE_BYTES: Final = 1_025  # manager.c: inbuf
UNSENT_BYTES: Final = 8 * 1024 * 1024  # a reader this far behind is dropped, as `writetimeout` does
REMEMBERED_REQUESTS: Final = 1_000
SPOOL_FAMILY: Final = "capconduit/unsettled"

Fields = Sequence[tuple[str, str]]


# What a user must be allowed to write for an action, where it is not `system` (manager.c, db.c): any of them.
ACTION_RIGHTS: Final = {
    "corestatus": "reporting", "coresettings": "reporting", "coreshowchannels": "reporting", "dbgettree": "reporting",
    "hangup": "call", "absolutetimeout": "call", "setvar": "call",
}  # fmt: skip
RESTRICTED: Final = ACTION_RIGHTS.keys() | {"dbdel", "dbput", "command", "originate"}


@dataclass(frozen=True)
class User:
    """One section of manager.conf. `read`: whether it is sent events; `write`: what its actions may do."""

    secret: str
    read: bool = True
    write: frozenset[str] = frozenset({"call", "reporting"})

    def may(self, action: str) -> bool:
        """Whether its rights are enough for this action (in lower case); one that is unknown is refused elsewhere."""
        return action not in RESTRICTED or ACTION_RIGHTS.get(action, "system") in self.write


class ChannelSource(Protocol):
    """Who owns the simulated channels: the world. Every method is called from the event loop."""

    def channel_rows(self) -> Iterable[Fields]:
        """One row of fields for each live channel, as CoreShowChannel has them."""

    def hang_up(self, channel: str, cause: int) -> bool:
        """End the call of this channel; False where there is no such channel."""

    def move_limit(self, channel: str, seconds: float) -> bool:
        """Set the absolute timeout of this channel, counted from now; False where there is no such channel."""


@dataclass
class AmiFaults:
    """Switches that may be turned at any time; all off is a healthy Asterisk."""

    refuse_login: bool = False  # answer "Authentication failed" and close
    close_on_accept: bool = False  # close every new connection before the banner
    mute: bool = False  # read everything, answer nothing (a frozen Asterisk); events go on
    mute_actions: set[str] = field(default_factory=set)  # lower-case names of actions that get no answer
    denied_actions: set[str] = field(default_factory=set)  # lower-case names answered "Permission denied"
    hide_fully_booted: bool = False  # as for a user without read=system


class _Session:
    """One connected manager."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.user: User | None = None  # logged in
        self.wants_events = True

    @property
    def logged_in(self) -> bool:
        return self.user is not None

    def send(self, data: bytes) -> None:
        transport = self.writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > UNSENT_BYTES:
            transport.abort()
            return
        self.writer.write(data)


class AmiServer:
    """Start with `await start()`, end with `await close()`, or use `async with`.

    `database` is Asterisk's own database (AstDB): keys as `database show` prints them, with the leading slash.
    `requests` holds the last requests that arrived, newest last, keys in lower case.
    """

    def __init__(
        self,
        *,
        username: str = "sim",
        secret: str = "sim",
        systemname: str = "sim",
        faults: AmiFaults | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self.users = {username: User(secret)}
        self.systemname = systemname
        self.faults = faults or AmiFaults()
        self.now_us = now_us
        self.database: dict[str, str] = {}
        self.requests: deque[dict[str, str]] = deque(maxlen=REMEMBERED_REQUESTS)
        self.channels: ChannelSource | None = None
        self.started_us = now_us()
        self.logins = 0
        self.connections = 0
        self._sessions: set[_Session] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._host = "127.0.0.1"
        self._port = 0

    @property
    def host(self) -> str:
        """The address that is listened on."""
        return self._host

    @property
    def port(self) -> int:
        """The port that is listened on; kept over `stop_listening` and `listen_again`."""
        return self._port

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on `host` and `port` (0: a free one). Raises OSError where that is not possible."""
        self._server = await asyncio.start_server(self._accept, host, port)
        self._host = host
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, drop every connection and wait for their tasks."""
        self.stop_listening()
        self.drop_connections()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> AmiServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def stop_listening(self) -> None:
        """Refuse new connections; those that exist live on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def listen_again(self) -> None:
        """Listen on the same port as before."""
        await self.start(self._host, self._port)

    def drop_connections(self, username: str = "") -> None:
        """Reset every connection, or those of one user, at once, even in the middle of a message."""
        for session in list(self._sessions):
            if not username or session.user is self.users.get(username):
                session.writer.transport.abort()

    def restart(self) -> None:
        """A restarted Asterisk: another start time, every connection lost, the database kept."""
        self.started_us = self.now_us()
        self.drop_connections()

    def send_raw(self, data: bytes) -> None:
        """Send these bytes as they are to everybody who is logged in."""
        for session in list(self._sessions):
            if session.logged_in:
                session.send(data)

    def publish(self, event: str, fields: Fields, *, privilege: str = "call,all", at_us: int | None = None) -> None:
        """Send one event to everybody who is logged in and wants events, with a Timestamp in s with µs."""
        at_us = self.now_us() if at_us is None else at_us
        head = [
            ("Event", event),
            ("Privilege", privilege),
            ("Timestamp", f"{at_us // 1_000_000}.{at_us % 1_000_000:06d}"),
            ("SystemName", self.systemname),
        ]
        data = encode([*head, *fields])
        for session in list(self._sessions):
            if session.logged_in and session.wants_events:
                session.send(data)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        session = _Session(writer)
        self._sessions.add(session)
        try:
            if not self.faults.close_on_accept:
                session.send(BANNER)
                await self._serve(session, reader)
        except (ConnectionError, asyncio.LimitOverrunError, ValueError):
            pass  # a peer that reset, or wrote a line without an end: only this connection is lost
        finally:
            self._sessions.discard(session)
            with contextlib.suppress(OSError):
                writer.close()

    async def _serve(self, session: _Session, reader: asyncio.StreamReader) -> None:
        request: dict[str, str] = {}
        while True:
            line = await reader.readline()
            if not line or len(line) > REQUEST_LINE_BYTES or len(request) > REQUEST_LINES:
                return
            text = line.decode(errors="replace").rstrip("\r\n")
            if text:
                name, _, value = text.partition(":")
                request.setdefault(name.strip().lower(), value.lstrip(" "))
                continue
            if request and not self._answer(session, request):
                return
            request = {}

    def _answer(self, session: _Session, request: dict[str, str]) -> bool:
        """Answer one request; False where Asterisk would close the connection."""
        self.requests.append(request)
        action = request.get("action", "").lower()
        if self.faults.mute or action in self.faults.mute_actions:
            return True
        if action == "logoff":
            session.send(_reply(request, "Goodbye", "Thanks for all the fish."))
            return False
        if action == "login":
            return self._login(session, request)
        if session.user is None or action in self.faults.denied_actions or not session.user.may(action):
            session.send(_reply(request, "Error", "Permission denied"))
            return True
        session.send(self._act(action, request))
        return True

    def _login(self, session: _Session, request: dict[str, str]) -> bool:
        user = self.users.get(request.get("username", ""))
        if self.faults.refuse_login or user is None or request.get("secret") != user.secret:
            session.send(_reply(request, "Error", "Authentication failed"))
            return False
        session.user = user
        session.wants_events = user.read and request.get("events", "on").lower() not in {"off", "false", "no", "0"}
        self.logins += 1
        session.send(_reply(request, "Success", "Authentication accepted"))
        if session.wants_events and not self.faults.hide_fully_booted:
            uptime_s = (self.now_us() - self.started_us) // 1_000_000
            session.send(
                encode(
                    [
                        ("Event", "FullyBooted"),
                        ("Privilege", "system,all"),
                        ("Uptime", str(uptime_s)),
                        ("LastReload", str(uptime_s)),
                        ("Status", "Fully Booted"),
                    ]
                )
            )
        return True

    def _act(self, action: str, request: Mapping[str, str]) -> bytes:
        """The whole reply to one action of a manager that is logged in."""
        match action:
            case "ping":
                now = self.now_us()
                return _reply(request, "Success", None, [("Ping", "Pong"), ("Timestamp", f"{now / 1e6:.6f}")])
            case "corestatus":
                return self._core_status(request)
            case "coresettings":
                return _reply(
                    request,
                    "Success",
                    None,
                    [("AMIversion", "11.0.0"), ("AsteriskVersion", "22.10.1"), ("SystemName", self.systemname)],
                )
            case "coreshowchannels":
                rows = [] if self.channels is None else list(self.channels.channel_rows())
                return _listing(request, "Channels will follow", "CoreShowChannel", rows)
            case "hangup" | "absolutetimeout":
                return self._on_channel(action, request)
            case "dbgettree" | "dbdel" | "setvar":
                return self._on_database(action, request)
        return _reply(
            request,
            "Error",
            f"Invalid/unknown command: {request.get('action', '')}."
            " Use Action: ListCommands to show available commands.",
        )

    def _core_status(self, request: Mapping[str, str]) -> bytes:
        started = time.localtime(self.started_us // 1_000_000)
        date, clock = time.strftime("%Y-%m-%d", started), time.strftime("%H:%M:%S", started)
        live = 0 if self.channels is None else sum(1 for _ in self.channels.channel_rows())
        return _reply(
            request,
            "Success",
            None,
            [
                ("CoreStartupDate", date),
                ("CoreStartupTime", clock),
                ("CoreReloadDate", date),
                ("CoreReloadTime", clock),
                ("CoreCurrentCalls", str(live)),
                ("CoreProcessedCalls", str(live)),
            ],
        )

    def _on_channel(self, action: str, request: Mapping[str, str]) -> bytes:
        channel = request.get("channel", "")
        if not channel:
            return _reply(request, "Error", "No channel specified")
        found = False
        if action == "hangup":
            cause = request.get("cause", "")
            if self.channels is not None:
                found = self.channels.hang_up(channel, int(cause) if cause.isdecimal() else 0)
            done = "Channel Hungup"
        else:
            seconds = _seconds(request.get("timeout", ""))
            if seconds <= 0:
                return _reply(request, "Error", "No timeout specified")
            if self.channels is not None:
                found = self.channels.move_limit(channel, seconds)
            done = "Timeout Set"
        return _reply(request, "Success", done) if found else _reply(request, "Error", "No such channel")

    def _on_database(self, action: str, request: Mapping[str, str]) -> bytes:
        family, key = request.get("family", ""), request.get("key", "")
        prefix = "/" + "/".join(part.strip("/") for part in (family, key) if part)
        if action == "dbgettree":
            rows = [
                [("Key", name), ("Val", value)]
                for name, value in sorted(self.database.items())
                if not family or name == prefix or name.startswith(prefix + "/")
            ]
            return _listing(request, "Result will follow", "DBGetTreeResponse", rows, "DBGetTreeComplete")
        if action == "dbdel":
            if self.database.pop(prefix, None) is None:
                return _reply(request, "Error", "Database entry could not be deleted")
            return _reply(request, "Success", "Key deleted successfully")
        return self._setvar(request)

    def _setvar(self, request: Mapping[str, str]) -> bytes:
        """Only what needs no channel: the dialplan function DB_DELETE, which write=call may call (func_db.c)."""
        variable = request.get("variable", "")
        if variable.startswith("DB_DELETE(") and variable.endswith(")"):
            self.database.pop("/" + variable[len("DB_DELETE(") : -1], None)
            return _reply(request, "Success", "Variable Set")
        return _reply(request, "Error", "Variable not set")


def encode(fields: Fields) -> bytes:
    """One AMI message. Values go out as they are: what Asterisk would send, hostile or not."""
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode(errors="replace") + b"\r\n"


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _id_of(request: Mapping[str, str]) -> list[tuple[str, str]]:
    return [("ActionID", request["actionid"])] if "actionid" in request else []


def _reply(request: Mapping[str, str], response: str, message: str | None, fields: Fields = ()) -> bytes:
    text = [("Message", message)] if message is not None else []
    return encode([("Response", response), *_id_of(request), *text, *fields])


def _listing(request: Mapping[str, str], message: str, event: str, rows: Sequence[Fields], end: str = "") -> bytes:
    identity = _id_of(request)
    parts = [encode([("Response", "Success"), *identity, ("EventList", "start"), ("Message", message)])]
    parts += [encode([("Event", event), *identity, *row]) for row in rows]
    complete = [("Event", end or f"{event}sComplete"), *identity, ("EventList", "Complete")]
    return b"".join([*parts, encode([*complete, ("ListItems", str(len(rows)))])])
