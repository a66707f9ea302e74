"""The forms of log lines, for people and for machines, and the masking of telephone numbers in them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Final

from capconduit.units import format_instant

# What a record may carry beside its message: names, and under `fields` whatever else belongs to this line.
CONTEXT: Final = ("call", "uniqueid", "did")
NUMBERS: Final = ("did", "caller")  # of those, and of `fields`, the ones that are telephone numbers
DIGITS_SHOWN: Final = 2
# In free text: a plus and digits, wherever they stand (`sip:+…@`, `PJSIP/+…-0000001a`, at the end of a sentence); or as
# many digits as a national number has and an instant in milliseconds has not.
_NUMBER: Final = re.compile(r"\+\d{7,15}(?!\d)|(?<![\w.:/-])\d{7,11}(?![\w.:])")


def masked(number: str) -> str:
    """A telephone number of which only the last digits are shown."""
    return "*" * max(len(number) - DIGITS_SHOWN, 0) + number[-DIGITS_SHOWN:]


def context_of(record: logging.LogRecord) -> dict[str, object]:
    """What a record carries beside its message, without what is empty."""
    told = {name: record.__dict__[name] for name in CONTEXT if record.__dict__.get(name)}
    more = record.__dict__.get("fields")
    if isinstance(more, Mapping):
        told |= more
    return told


class Masking(logging.Filter):
    """Masks telephone numbers: in the fields that hold them, and wherever a text looks like one."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _NUMBER.sub(lambda found: masked(found[0]), record.getMessage()), None
        if record.exc_text:
            record.exc_text = _NUMBER.sub(lambda found: masked(found[0]), record.exc_text)
        for name in NUMBERS:
            if record.__dict__.get(name):
                record.__dict__[name] = masked(str(record.__dict__[name]))
        more = record.__dict__.get("fields")
        if isinstance(more, Mapping):
            record.fields = {k: masked(str(v)) if k in NUMBERS and v else v for k, v in more.items()}
        return True


def _error_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_text:
        return record.exc_text
    return formatter.formatException(record.exc_info) if record.exc_info else ""


_JSON: Final = json.JSONEncoder(ensure_ascii=False, default=str)  # once: json.dumps would make one for each line


class JsonFormatter(logging.Formatter):
    """One JSON object a record: at, level, logger, message, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "at": format_instant(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **context_of(record),
        }
        if error := _error_of(self, record):
            told["error"] = error
        return _JSON.encode(told)


class ConsoleFormatter(logging.Formatter):
    """`12:00:00.123Z info  message  uniqueid=…`."""

    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f"  {name}={value}" for name, value in context_of(record).items() if value not in ("", None))
        at = format_instant(int(record.created * 1000))[11:]
        text = f"{at} {record.levelname.lower():7} {record.getMessage()}{context}"
        error = _error_of(self, record)
        return f"{text}\n{error}" if error else text
