"""A FastAGI server that does what a test tells it: answer, reset, freeze, or not listen at all."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from lab.ports import LOOPBACK, free_port
from lab.wait import wait_for

HEADER_TIMEOUT_S: Final = 15.0
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


@dataclass(frozen=True, slots=True)
class AgiCall:
    """What Asterisk sent: the script's name, its arguments in order, and the whole environment."""

    script: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One MSet and half-close. `then_deaf`: stop listening before answering, so that the next exchange is refused."""

    variables: Mapping[str, str] = field(default_factory=dict)
    then_deaf: bool = False


class Reset:
    """Read the header, then reset the connection."""


class Freeze:
    """Read the header, then neither answer nor close, until `release`."""


Act = Answer | Reset | Freeze


class ScriptedAgi:
    """Listens on `port`. `on[script]` is what happens; `calls` is what happened. One thread per connection."""

    def __init__(self) -> None:
        self.calls: list[AgiCall] = []
        self.on: dict[str, Act | Callable[[AgiCall], Act]] = {}
        self.replies: list[str] = []
        self._held: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.listen()

    def listen(self) -> None:
        """Listens (again) on the same port."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, self.port or free_port()))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._start(self._accept, listener)

    def deafen(self) -> None:
        """Closes the port: connections are refused from now on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            listener.close()

    def _start(self, target: Callable[[socket.socket], None], argument: socket.socket) -> None:
        thread = threading.Thread(target=target, args=(argument,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(HEADER_TIMEOUT_S)
        header = b""
        with contextlib.suppress(OSError):
            while b"\n\n" not in header and (piece := connection.recv(65_536)):
                header += piece
        if b"\n\n" not in header:
            connection.close()
            return
        lines = header.decode(errors="replace").split("\n\n")[0].splitlines()
        environment = dict(line.partition(": ")[::2] for line in lines)
        arguments = tuple(v for k, v in environment.items() if k.startswith("agi_arg_"))
        call = AgiCall(environment["agi_network_script"], arguments, environment)
        act = self.on.get(call.script, Answer())
        if callable(act):
            act = act(call)
        self.calls.append(call)
        self._perform(act, connection)

    def _perform(self, act: Act, connection: socket.socket) -> None:
        if isinstance(act, Freeze):
            self._held.append(connection)
            return
        if isinstance(act, Reset):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            return
        if act.then_deaf:
            self.deafen()
        with contextlib.suppress(OSError), connection:
            if act.variables:
                pairs = ",".join(f"{name}={value}" for name, value in act.variables.items())
                connection.sendall(f'EXEC MSet "{pairs}"\n'.encode())
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(4096):
                self.replies.append(piece.decode(errors="replace"))

    def release(self) -> None:
        """Closes the frozen connections, as the kernel does when a daemon is killed."""
        while self._held:
            self._held.pop().close()

    def arguments(self, script: str, count: int = 1) -> tuple[str, ...]:
        """The arguments of the `count`-th call of a script, waited for. Raises LabError."""

        def found() -> list[AgiCall] | None:
            calls = [call for call in self.calls if call.script == script]
            return calls if len(calls) >= count else None

        calls = wait_for(found, f"AGI call {count} of {script}; there are {[c.script for c in self.calls]}")
        assert calls is not None
        return calls[count - 1].arguments

    def reset(self) -> None:
        """Forgets what was told and what happened, closes what is held, and listens."""
        self.release()
        self.on.clear()
        self.calls.clear()
        self.replies.clear()
        self.listen()

    def close(self) -> None:
        """Ends every thread and connection."""
        self.deafen()
        self.release()
        for thread in self._threads:
            thread.join(HEADER_TIMEOUT_S)
