"""A WebSocket server in the place of the voice agent's process: takes Asterisk's connection and does as it is told."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
import threading
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Final

from lab.ports import LOOPBACK

_MAGIC: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TEXT, _CLOSE = 1, 8
WAIT_S: Final = 30.0


class Manner(StrEnum):
    """What it does with a connection."""

    ANSWER = "answer"  # says that it is ready
    SILENT = "silent"  # takes it and says nothing
    LEAVE = "leave"  # takes it and closes it
    REFUSE = "refuse"  # answers 503
    DROP = "drop"  # closes it before it says anything
    DEAF = "deaf"  # never says anything at all


class VoicePeer:
    """`with VoicePeer(Manner.ANSWER) as peer:` listens on `peer.url`; `requests` has the request lines it got."""

    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.requests: list[str] = []
        self.texts: list[str] = []
        self._socket = socket.create_server((LOOPBACK, 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"ws://{LOOPBACK}:{self._socket.getsockname()[1]}/media"

    def __enter__(self) -> VoicePeer:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nobody listens any more, and no connection is left."""
        for one in [self._socket, *self._connections]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._socket.accept()
                connection.settimeout(WAIT_S)
                self._connections.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as reader:
            if self.manner is Manner.DROP:
                return
            head = [reader.readline().decode().strip()]
            while head[-1]:
                head.append(reader.readline().decode().strip())
            self.requests.append(head[0])
            if self.manner is Manner.DEAF:
                reader.read()
                return
            if self.manner is Manner.REFUSE:
                connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
                return
            self._shake_hands(connection, dict(line.split(": ", 1) for line in head[1:] if ": " in line))
            if self.manner is Manner.LEAVE:
                self._send(connection, _CLOSE, struct.pack("!H", 1001))
                return
            while frame := self._read(reader):
                if frame[0] == _TEXT:
                    self.texts.append(frame[1].decode())
                    # Not before: what comes in one packet with the handshake, Asterisk does not see in time.
                    if self.manner is Manner.ANSWER and "MEDIA_START" in self.texts[-1]:
                        self._send(connection, _TEXT, b'{"command":"ANSWER"}')
                if frame[0] == _CLOSE:
                    return

    def _shake_hands(self, connection: socket.socket, headers: dict[str, str]) -> None:
        key = {name.lower(): value for name, value in headers.items()}["sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()).decode()
        connection.sendall(
            f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: media\r\n\r\n".encode()
        )

    @staticmethod
    def _send(connection: socket.socket, kind: int, payload: bytes) -> None:
        connection.sendall(bytes([0x80 | kind, len(payload)]) + payload)

    @staticmethod
    def _read(reader: object) -> tuple[int, bytes] | None:
        """(opcode, payload) of the next frame, unmasked; None at the end."""
        read = reader.read  # type: ignore[attr-defined]
        head = read(2)
        if len(head) < 2:
            return None
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", read(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", read(8))
        mask = read(4) if head[1] & 0x80 else b"\0\0\0\0"
        return head[0] & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(read(length)))
