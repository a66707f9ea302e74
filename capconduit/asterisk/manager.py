"""A small synchronous AMI client for commands that ask a few questions and leave: no events, no reconnecting.

The outside dependency is Asterisk's manager interface. **Fails closed**: whatever is not a complete answer in time is
a PeerError; nothing is asked twice, because an action that was cut off may have happened.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from capconduit.asterisk.ami_codec import (
    BANNER,
    BANNER_BYTES,
    AmiRefused,
    AmiUnavailable,
    MessageBuffer,
    Oversized,
    encode_action,
    parse_message,
)

TIMEOUT_S: Final = 5.0  # for connecting, and for each action as a whole
MESSAGE_BYTES: Final = 1_048_576
REPLY_EVENTS: Final = 100_000  # events of one answer: a dialplan of a large PBX has tens of thousands of priorities
_RECEIVE_BYTES: Final = 65_536
_DOWN_HINT: Final = "is Asterisk running, and [ami] in the configuration right?"


@dataclass(frozen=True, slots=True)
class Reply:
    """What one action was answered: the response's own fields, and the events of its list, where it is a list."""

    fields: Mapping[str, str]
    events: tuple[Mapping[str, str], ...] = ()

    @property
    def message(self) -> str:
        """What Asterisk says about it."""
        return self.fields.get("Message", "")


class Manager:
    """One connection to AMI: `with Manager(host, port, username, secret) as manager: manager.action("Ping")`.

    Entering connects and logs in (events off); leaving logs off. Not for several threads. Raises AmiUnavailable
    (`ami-down`, `ami-lost`, `ami-timeout`, `ami-not-asterisk`) and AmiRefused (`ami-login-refused`, `ami-refused`,
    `ami-value-refused`, `ami-reply-too-large`), both PeerErrors.
    """

    def __init__(self, host: str, port: int, username: str, secret: str, timeout_s: float = TIMEOUT_S) -> None:
        self._address = (host, port)
        self._username = username
        self._secret = secret
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._buffer = MessageBuffer(MESSAGE_BYTES)
        self._asked = 0
        self.version = ""  # of AMI, as its banner says: "9.0.0"

    def __enter__(self) -> Manager:
        host, port = self._address
        self._buffer = MessageBuffer(MESSAGE_BYTES)  # of this connection alone
        try:
            self._socket = socket.create_connection(self._address, self._timeout_s)
        except OSError as error:
            reason = error.strerror or str(error)
            raise AmiUnavailable("ami-down", f"no connection to AMI at {host}:{port}: {reason}", _DOWN_HINT) from None
        try:
            self._read_banner()
            self._log_in()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._socket is not None and error is None:
                self._socket.settimeout(self._timeout_s)
                self._socket.sendall(encode_action({"Action": "Logoff"}))
        except OSError:
            pass  # it is gone already: that is what was wanted
        finally:
            self._close()

    def action(self, name: str, **fields: object) -> Reply:
        """Ask one action and wait for all of its answer. Fields that are None are left out.

        A refusal of Asterisk raises AmiRefused with its words (`ami-refused`: no right, no such thing).
        """
        self._asked += 1
        ours = f"capconduit-{self._asked}"
        given = {key: value for key, value in fields.items() if value is not None}
        data = encode_action({"Action": name, "ActionID": ours, **given})
        deadline = time.monotonic() + self._timeout_s
        self._send(data, deadline)
        response = self._next(ours, name, deadline)
        while "Response" not in response:
            response = self._next(ours, name, deadline)
        if response["Response"] == "Error":
            message = response.get("Message", "no reason given")
            raise AmiRefused(
                "ami-refused", f"AMI refused {name}: {message}", "has the AMI user the right? see manager.conf"
            )
        if response.get("EventList", "").lower() != "start":
            return Reply(response)
        return Reply(response, self._list(ours, name, deadline))

    def _list(self, ours: str, name: str, deadline: float) -> tuple[Mapping[str, str], ...]:
        events: list[Mapping[str, str]] = []
        while True:
            event = self._next(ours, name, deadline)
            ends = event.get("EventList", "").lower()
            if ends == "complete":
                return tuple(events)
            if ends == "cancelled":
                raise AmiUnavailable("ami-lost", f"AMI broke off its answer to {name}", "try again")
            events.append(event)
            if len(events) > REPLY_EVENTS:
                raise AmiRefused("ami-reply-too-large", f"AMI answers {name} with more than {REPLY_EVENTS} events")

    def _log_in(self) -> None:
        try:
            self.action("Login", Username=self._username, Secret=self._secret, Events="off")
        except AmiRefused as error:
            if error.slug != "ami-refused":
                raise
            raise AmiRefused(
                "ami-login-refused",
                f"AMI does not let {self._username!r} in: {error.message.partition(': ')[2]}",
                "are username, secret and permit in manager.conf those of [ami] in the configuration?",
            ) from None

    def _read_banner(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while (line := self._buffer.next_line(BANNER_BYTES)) is None:
            self._receive(deadline, "its banner")
        if not line.startswith(BANNER):
            host, port = self._address
            raise AmiUnavailable(
                "ami-not-asterisk", f"what listens at {host}:{port} is not Asterisk's AMI", "check [ami] port"
            )
        self.version = line[len(BANNER) :].decode(errors="replace").strip()

    def _next(self, ours: str, name: str, deadline: float) -> dict[str, str]:
        """The next message that belongs to our action; all else, such as an event sent at login, is passed over."""
        while True:
            message = self._buffer.next()
            if message is None:
                self._receive(deadline, name)
                continue
            if isinstance(message, Oversized):
                raise AmiRefused("ami-reply-too-large", f"AMI answers {name} with more than {MESSAGE_BYTES} bytes")
            fields = parse_message(message)
            if fields.get("ActionID") == ours:
                return fields

    def _send(self, data: bytes, deadline: float) -> None:
        sock = self._connected()
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            sock.sendall(data)
        except TimeoutError:
            raise self._too_late("an action") from None
        except OSError as error:
            raise AmiUnavailable("ami-lost", f"the connection to AMI broke: {error}", _DOWN_HINT) from None

    def _receive(self, deadline: float, what: str) -> None:
        sock = self._connected()
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise self._too_late(what)
        sock.settimeout(left_s)
        try:
            data = sock.recv(_RECEIVE_BYTES)
        except TimeoutError:
            raise self._too_late(what) from None
        except OSError as error:
            raise AmiUnavailable("ami-lost", f"the connection to AMI broke: {error}", _DOWN_HINT) from None
        if not data:
            raise AmiUnavailable("ami-lost", "Asterisk closed the AMI connection", _DOWN_HINT)
        self._buffer.feed(data)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise AmiUnavailable("ami-down", "there is no connection to AMI", _DOWN_HINT)
        return self._socket

    def _too_late(self, what: str) -> AmiUnavailable:
        return AmiUnavailable(
            "ami-timeout",
            f"AMI did not answer {what} within {self._timeout_s:g} s",
            "is Asterisk overloaded or frozen?",
        )

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
