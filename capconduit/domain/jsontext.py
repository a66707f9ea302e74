"""JSON as it is kept with calls and events: compact, made thousands of times a second."""

from __future__ import annotations

import json

import orjson

_encode = json.JSONEncoder(separators=(",", ":")).encode


def compact(value: object) -> str:
    """JSON of plain data, without spaces. Half a character is escaped: JSON has a way to say it, UTF-8 has not."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # orjson takes what UTF-8 takes, and numbers of 64 bits
        return _encode(value)
