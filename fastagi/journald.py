"""Log records for systemd's journal, each with fields of its own, in its native protocol.

Source: systemd's "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL) and systemd.journal-fields(7). A value
with a line break is written with its length. Failure policy: fails open. Where the journal does not take a record, it
is written to standard error, which leads to the journal as well.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final, TextIO

from fastagi.log_lines import ConsoleFormatter, context_of

IDENTIFIER: Final = "capconduit"
TEXT_MAX: Final = 32_768  # of one value; more than a datagram takes would need a file to be passed
# syslog(3)'s severities.
_PRIORITY: Final = {
    logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2,
}  # fmt: skip


def leads_to_the_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `stream` is the one that systemd connected to the journal: $JOURNAL_STREAM is its device and inode."""
    try:
        told = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM", "") == f"{told.st_dev}:{told.st_ino}"


def encode(fields: Mapping[str, object]) -> bytes:
    """A datagram of the native protocol."""
    parts = []
    for name, value in fields.items():
        data = str(value)[:TEXT_MAX].encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class JournalHandler(logging.Handler):
    """Sends each record to the journal's socket at `path`; `fallback` gets what it does not take."""

    def __init__(self, path: str, fallback: TextIO) -> None:
        super().__init__()
        self._path = path
        self._fallback = fallback
        self._plain = ConsoleFormatter()
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Send; connected anew where the journal was started again."""
        datagram = encode(_fields(record))
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.connect(self._path)
                self._socket.send(datagram)
            except OSError:
                self._drop()
            else:
                return
        try:
            self._fallback.write(self._plain.format(record) + "\n")
            self._fallback.flush()
        except (OSError, ValueError):  # standard error is gone as well: nobody is left to tell
            return

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Give the socket back."""
        self._drop()
        super().close()


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record: the journal's own, and what it is about as CAPCONDUIT_*."""
    told: dict[str, object] = {
        "MESSAGE": record.getMessage(),
        "PRIORITY": _PRIORITY.get(record.levelno, 6),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "LOGGER": record.name,
    }
    for name, value in context_of(record).items():
        if value not in ("", None):
            told[f"CAPCONDUIT_{name.upper()}"] = value
    if record.exc_text:
        told["CAPCONDUIT_ERROR"] = record.exc_text
    elif record.exc_info:
        told["CAPCONDUIT_ERROR"] = logging.Formatter().formatException(record.exc_info)
    return told
