"""Reads a list as CSV, from a file or standard input: any usual dialect, bounded, nothing hostile let through.

What other programs write is taken as it is: UTF-8 with or without a byte order mark, any line ends, commas, semicolons
or tabs, quotes where they are needed (RFC 4180), Excel's `sep=;` in front. The first line names the columns, in any
order. Lines that are empty or begin with # are passed by.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capconduit.errors import UsageError
from capconduit_cli.text import csv_plain, printable

if TYPE_CHECKING:
    from capconduit.services.bulk import Columns, Line, Problems

STDIN: Final = "-"
MAX_BYTES: Final = 64 << 20
MAX_CELL: Final = 2_000  # characters
DELIMITERS: Final = ",;\t|"
_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")  # UTF-16
_SEPARATOR: Final = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)


def read_text(source: Path) -> str:
    """The whole of a file, or of standard input for `-`, as text. Raises UsageError, OSError."""
    if str(source) == STDIN:
        raw: bytes | str = getattr(sys.stdin, "buffer", sys.stdin).read(MAX_BYTES + 1)
    else:
        with source.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    name = "standard input" if str(source) == STDIN else str(source)
    if len(raw) > MAX_BYTES:
        raise UsageError("file-too-large", f"{name} is larger than {MAX_BYTES >> 20} MiB", "import it in parts")
    if isinstance(raw, str):
        return raw.removeprefix("\ufeff")
    if raw.startswith(_BOMS):
        raise UsageError("file-invalid", f"{name} is in UTF-16", "save it as CSV in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(
            "file-invalid", f"{name} is no text in UTF-8: line {line} is not", "save it as CSV in UTF-8"
        ) from None


def read_list(source: Path, columns: Columns, problems: Problems) -> Sequence[Line]:
    """The lines of a list that can be read; what is wrong with the others goes to `problems`.

    Raises UsageError where it is no list at all: no text, too large, without a first line that names the columns.
    """
    from capconduit.services.bulk import MAX_LINES, Line

    text = read_text(source)
    separator = _SEPARATOR.match(text)
    skipped = 1 if separator else 0
    if separator:
        text = text[separator.end() :]
    head = next((line for line in io.StringIO(text) if line.strip() and not line.startswith("#")), "")
    delimiter = separator[1] if separator else _delimiter(head, columns)
    if delimiter not in DELIMITERS:
        raise UsageError("file-invalid", f"{delimiter!r} cannot stand between columns", "use commas or semicolons")
    names: list[str] = []
    lines: list[Line] = []
    for place, (number, cells) in enumerate(_records(text, delimiter, skipped, problems)):
        if place > MAX_LINES:  # before they fill the memory
            raise UsageError("list-too-long", f"more than {MAX_LINES} lines are too many", "import them in parts")
        if not names:
            names = _header(cells, columns, number)
            continue
        error = _wrong(cells, names)
        if error:
            problems.add(number, error)
            continue
        values = {n: csv_plain(c.strip()) for n, c in zip(names, cells, strict=True) if n in columns.read}
        lines.append(Line(number, values))
    if not names:
        raise UsageError("list-empty", "the list is empty", f"the first line names the columns: {_example(columns)}")
    return lines


def _records(text: str, delimiter: str, skipped: int, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """The records with the line that each begins on. After a broken quote nothing can be told apart any more."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    began = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(began + skipped, UsageError("line-broken", f"it is no CSV: {error}", "mind the quotes"))
            return
        if any(cell.strip() for cell in cells) and not cells[0].startswith("#"):
            yield began + skipped, cells
        began = reader.line_num + 1


def _delimiter(head: str, columns: Columns) -> str:
    """What stands between the columns: that which splits the first line into the most names that are known."""
    known = {*columns.read, *columns.passed_by}

    def names(delimiter: str) -> int:
        return sum(_name(cell) in known for cell in head.replace('"', "").split(delimiter))

    return max(DELIMITERS, key=lambda delimiter: (names(delimiter), head.count(delimiter)))


def _name(cell: str) -> str:
    return cell.strip().lower().replace(" ", "_").replace("-", "_")


def _header(cells: Sequence[str], columns: Columns, line: int) -> list[str]:
    """The columns that the first line names. Raises UsageError."""
    known = (*columns.read, *columns.passed_by)
    names = [_name(cell) for cell in cells]
    hint = f"the first line names the columns: {_example(columns)}"
    if not set(names) & set(known):
        raise UsageError("header-missing", f"line {line} names none of the columns", hint)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            offer = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(columns.read)}"
            raise UsageError("column-unknown", f"line {line}: no column {printable(name)!r}", offer)
        if names.count(name) > 1:
            raise UsageError("column-twice", f"line {line}: column {name!r} is there twice", "leave one out")
    for name in columns.required:
        if name not in names:
            raise UsageError("column-missing", f"line {line}: there is no column {name!r}", hint)
    return names


def _example(columns: Columns) -> str:
    return ",".join(columns.read)


def _wrong(cells: Sequence[str], names: Sequence[str]) -> UsageError | None:
    """What is wrong with a line before anybody reads it."""
    if len(cells) != len(names):
        return UsageError(
            "cells-miscounted", f"it has {len(cells)} cells, the first line names {len(names)}", "mind the quotes"
        )
    for name, cell in zip(names, cells, strict=True):
        if len(cell) > MAX_CELL:
            return UsageError("cell-too-long", f"{name} has {len(cell)} characters", f"{MAX_CELL} at most")
        if printable(cell) != cell:
            return UsageError("cell-hostile", f"{name} has control characters: {cell!r}", "write plain text")
    return None
