"""Server-sent events from bytes as they come in, bounded. Sans-I/O: no socket, no clock.

Source: WHATWG HTML Living Standard, 9.2.6 "Interpreting an event stream". Deviations: data stay bytes (they are JSON,
whose reader refuses bytes that are no UTF-8), and `retry` is ignored, because the reader has its own patience.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from capconduit.errors import PeerError

MAX_EVENT_BYTES: Final = 64 * 1_048_576  # a picture of a floor far larger than one daemon can serve
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class EventStreamError(PeerError):
    """What comes is no event stream, or none that a reader should keep in memory."""

    def __init__(self, message: str) -> None:
        super().__init__("event-stream-invalid", message, "is it a capconduit daemon that listens there?")


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One message; `kind` is its `event` (`message` where it has none), `id` the last that was told."""

    kind: str
    data: bytes
    id: str


class EventStream:
    """A parser of one connection's bytes. `last_id` is where to resume; keep it for the next connection's parser."""

    def __init__(self, last_id: str = "", *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.last_id = last_id
        self._max = max_event_bytes
        self._rest = bytearray()  # the line that is not complete
        self._begun = False  # whether the byte order mark was looked for
        self._skip_lf = False  # whether a line ended with a CR at the very end of what came
        self._kind = ""
        self._id = last_id  # becomes last_id with the message that it came with
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> list[ServerEvent]:
        """The messages that these bytes complete. Raises EventStreamError; then the connection is of no more use."""
        events = [event for line in self._lines(received) if (event := self._line(line)) is not None]
        if self._size + len(self._rest) > self._max:
            raise EventStreamError(f"a message has more than {self._max} bytes")
        return events

    def _lines(self, received: bytes) -> Iterator[bytes]:
        """The complete lines, without their ends: CR LF, LF or CR."""
        if self._skip_lf and received:
            received = received.removeprefix(b"\n")
            self._skip_lf = False
        self._rest += received
        if not self._begun:
            if len(self._rest) < len(_BOM) and _BOM.startswith(self._rest):
                return
            self._begun = True
            if self._rest.startswith(_BOM):
                del self._rest[: len(_BOM)]
        if _LINE_END.search(received) is None:  # the common case of a long message: nothing to look at again
            return
        start = 0
        buffer = bytes(self._rest)
        end = _LINE_END.search(buffer)
        while end is not None:
            yield buffer[start : end.start()]
            start = end.end()
            self._skip_lf = end.group() == b"\r" and start == len(buffer)
            end = _LINE_END.search(buffer, start)
        del self._rest[:start]

    def _line(self, line: bytes) -> ServerEvent | None:
        """Take a line in; the message where an empty line ends one."""
        if not line:
            return self._dispatch()
        if line.startswith(b":"):
            return None
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match field:
            case b"data":
                self._data.append(value)
                self._size += len(value) + 1
                if self._size > self._max:
                    raise EventStreamError(f"a message has more than {self._max} bytes")
            case b"event":
                self._kind = value.decode("utf-8", "replace")
            case b"id" if b"\0" not in value:
                self._id = value.decode("utf-8", "replace")
        return None

    def _dispatch(self) -> ServerEvent | None:
        kind, data = self._kind or "message", self._data
        self._kind, self._data, self._size = "", [], 0
        self.last_id = self._id
        return ServerEvent(kind, b"\n".join(data), self.last_id) if data else None
