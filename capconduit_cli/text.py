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


# What a spreadsheet takes for a formula; apostrophes before it are those of `csv_safe`, or look like them.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def csv_safe(text: str) -> str:
    """A text as CSV has it: one that a spreadsheet would compute (`=HYPERLINK(…)`, `@SUM(…)`) gets an apostrophe before
    it. Numbers keep their sign, telephone numbers in E.164 too: a spreadsheet reads them, and computes nothing.

    `csv_plain` takes the apostrophe away again.
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def csv_plain(text: str) -> str:
    """The text that `csv_safe` made safe; any other text as it is."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text
