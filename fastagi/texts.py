"""Text from Asterisk as we keep it: no control characters, bounded, numbers as numbers."""

from __future__ import annotations

import re
from typing import Final

MAX_TEXT: Final = 256
MAX_DIAL: Final = 1_024  # what one leg is dialled with
MAX_UNIQUEID: Final = 150  # AST_MAX_UNIQUEID of Asterisk include/asterisk/channel.h
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"^\s*(\d{1,15})(?:\.\d*)?\s*$")


class BadRequest(ValueError):
    """A request that cannot be understood; the dialplan that sent it is not ours."""


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """`text` without control characters, at most `limit` characters."""
    if not text.isprintable():  # which text with a control character is not, and other text seldom
        text = _CONTROL.sub("", text)
    return text[:limit].strip()


def uniqueid_of(args: tuple[str, ...]) -> str:
    """The channel's uniqueid, the first argument of every request. Raises BadRequest."""
    uniqueid = clean(args[0], MAX_UNIQUEID) if args else ""
    if not uniqueid:
        raise BadRequest("the request names no uniqueid")
    return uniqueid


def argument(args: tuple[str, ...], position: int, limit: int = MAX_TEXT) -> str:
    """The cleaned argument at `position` (0 is the uniqueid); empty where there is none."""
    return clean(args[position], limit) if position < len(args) else ""


def dialled_leg(text: str) -> str:
    """What was dialled for the leg that answered, as in CC_DIAL; the dialplan says `/` where none did."""
    return "" if text.startswith("/") else text


def number(text: str) -> int | None:
    """A non-negative whole number (a fraction is cut), or None where there is none."""
    match = _NUMBER.match(text)
    return int(match[1]) if match else None
