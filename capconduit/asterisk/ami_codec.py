"""The bytes of AMI: one function that encodes an action, one buffer that cuts a stream into whole messages. No I/O.

AMI ends each line with CR LF and each message with an empty line (Asterisk main/manager.c). A line is at most 1,024
bytes and a message 128 lines, or Asterisk refuses it. Untrusted text is refused here, never repaired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from capconduit.errors import PeerError

LINE_BYTES: Final = 1_023  # manager.c: inbuf[1025], less CR LF
BANNER: Final = b"Asterisk Call Manager/"
BANNER_BYTES: Final = 256
_END: Final = b"\r\n\r\n"


class AmiRefused(PeerError):
    """AMI, or this side of it, refused an action: no such channel, no right, a value that may not be sent."""


class AmiUnavailable(PeerError):
    """AMI cannot be used now: not connected, lost midway, no answer in time. What was asked may have happened."""


def encode_action(fields: Mapping[str, object]) -> bytes:
    """One action as Asterisk reads it. Raises AmiRefused on a control character, an empty or odd name, a long line."""
    lines = []
    for name, value in fields.items():
        text = str(value)
        if not (name.isascii() and name.isalnum()):
            raise AmiRefused("ami-value-refused", f"{name!r} is not the name of an AMI field")
        if any(ord(char) < 0x20 or ord(char) == 0x7F or 0x80 <= ord(char) < 0xA0 for char in text):
            raise AmiRefused("ami-value-refused", f"the AMI field {name} has a control character in it", _HINT)
        try:
            line = f"{name}: {text}".encode()
        except UnicodeEncodeError as error:
            raise AmiRefused("ami-value-refused", f"the AMI field {name} is not valid text", _HINT) from error
        if len(line) > LINE_BYTES:
            raise AmiRefused("ami-value-refused", f"the AMI field {name} is longer than {LINE_BYTES} bytes", _HINT)
        lines.append(line)
    return b"\r\n".join(lines) + _END


_HINT: Final = "nothing was sent; look at where this value came from"


def parse_message(data: bytes) -> dict[str, str]:
    """The fields of one whole message. Of a repeated field the first stays: a later one may be somebody's text."""
    fields: dict[str, str] = {}
    for line in reversed(data.decode(errors="replace").split("\r\n")):  # the first is put last, and stays
        name, colon, value = line.partition(":")
        if colon:
            fields[name] = value[1:] if value[:1] == " " else value
    return fields


def line_starts(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Fields and how their lines begin, for `pick_fields`."""
    return tuple((name, f"\r\n{name}:") for name in names)


def pick_fields(data: bytes, starts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """What `parse_message` gives, but these fields only: an event has thirty, of which a few are read."""
    text = f"\r\n{data.decode(errors='replace')}\r\n"
    fields: dict[str, str] = {}
    for name, start in starts:
        at = text.find(start)
        if at >= 0:
            at += len(start)
            fields[name] = text[at + 1 if text[at] == " " else at : text.find("\r\n", at)]
    return fields


class Oversized(bytes):
    """The first bytes of a message that was longer than the limit; the rest was thrown away."""


class MessageBuffer:
    """Cuts a byte stream into messages, wherever the segments end, in time linear in what comes in.

    Bytes are kept until a message is whole, so a character that is split over two segments survives. A message of more
    than `limit_bytes` is not kept: its head comes out as Oversized.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._at = 0  # where the next message begins
        self._searched = 0  # no end before here
        self._skipping: bytes | None = None  # the head of the message that is thrown away

    def feed(self, data: bytes) -> None:
        """Take in what came from the socket."""
        if self._at:
            del self._data[: self._at]
            self._searched -= self._at
            self._at = 0
        self._data += data

    def next_line(self, limit_bytes: int) -> bytes | None:
        """The next line, without its end: for the banner. A line that is too long comes out cut."""
        end = self._data.find(b"\n", self._at, self._at + limit_bytes)
        if end < 0:
            if len(self._data) - self._at < limit_bytes:
                return None
            end = self._at + limit_bytes
        line = bytes(self._data[self._at : end]).rstrip(b"\r")
        self._at = self._searched = end + 1
        return line

    def next(self) -> bytes | None:
        """The next whole message without its end, an Oversized one, or None until more bytes come."""
        end = self._data.find(_END, max(self._at, self._searched))
        if end < 0:
            self._searched = max(self._at, len(self._data) - len(_END) + 1)
            self._throw_away()
            return None
        message = bytes(self._data[self._at : end])
        self._at = self._searched = end + len(_END)
        if self._skipping is not None:
            head, self._skipping = self._skipping, None
            return Oversized(head)
        if len(message) > self._limit_bytes:
            return Oversized(message[: self._limit_bytes])
        return message.lstrip(b"\r\n")

    def _throw_away(self) -> None:
        """Forget all but the tail of a message that is already too long, so that memory stays bounded."""
        if len(self._data) - self._at <= self._limit_bytes:
            return
        if self._skipping is None:
            self._skipping = bytes(self._data[self._at : self._at + self._limit_bytes])
        del self._data[: self._searched]
        self._at = self._searched = 0
