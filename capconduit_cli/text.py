"""Makes hostile text safe to show: control characters visible, widths known."""

from __future__ import annotations

import re
from typing import Final

# C0, DEL and C1 move the cursor or ring; bidirectional marks reorder what is read; U+2028/2029 break lines; lone
# surrogates cannot be encoded; U+FEFF and U+200B..F are invisible.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with every character that a terminal obeys or hides written as `\x1b` or `\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escape, text)


def json_safe(text: str) -> str:
    """JSON `text` with such characters as JSON escapes; JSON has them only inside of strings."""
    if text.isascii():
        return text
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}" if match[0] != "\n" else "\n", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def cells(text: str) -> int:
    """Columns that `text` takes on a terminal: wide East Asian characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata  # most names are ASCII

    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)
