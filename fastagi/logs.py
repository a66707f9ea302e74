"""Log lines: for people on a terminal, or JSON, one object a line, for machines. Always on standard error."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final, TextIO

from capconduit.units import format_instant

CONTEXT: Final = ("uniqueid", "did")  # what a record may carry beside its message


class JsonFormatter(logging.Formatter):
    """One JSON object a record: at, level, logger, message, and the call it is about."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "at": format_instant(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_context(record),
        }
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.123Z info  message  uniqueid=…`."""

    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f"  {name}={value}" for name, value in _context(record).items())
        at = format_instant(int(record.created * 1000))[11:]
        text = f"{at} {record.levelname.lower():7} {record.getMessage()}{context}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _context(record: logging.LogRecord) -> dict[str, object]:
    return {name: record.__dict__[name] for name in CONTEXT if record.__dict__.get(name)}


def set_up_logging(level: str, form: str, stream: TextIO | None = None) -> None:
    """Configure the root logger. `form`: console, json, or auto (console on a terminal)."""
    out = stream or sys.stderr
    console = form == "console" or (form == "auto" and out.isatty())
    handler = logging.StreamHandler(out)
    handler.setFormatter(ConsoleFormatter() if console else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("panoramisk").setLevel(logging.WARNING)
