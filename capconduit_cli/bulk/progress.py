"""How far a long command is, as a bar on standard error; only for a person at a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType
from typing import Final, Self

WIDEST: Final = 40  # characters of the bar
BESIDE: Final = 30  # characters for what stands beside it


class Progress:
    """A bar while the block lasts: `with Progress("reading") as tell: tell(done, total)`. Nothing where stderr is no
    terminal; when the block ends the line is empty again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last:
            sys.stderr.write("\r" + " " * len(self._last) + "\r")
            sys.stderr.flush()

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` are done."""
        if not self._shown or total <= 0:
            return
        width = min(WIDEST, shutil.get_terminal_size().columns - BESIDE - len(self._what))
        full = width * done // total if width > 0 else 0
        bar = f"[{'#' * full}{' ' * (width - full)}] " if width > 0 else ""
        line = f"{self._what} {bar}{done}/{total} {100 * done // total} %"
        if line != self._last:
            sys.stderr.write("\r" + line.ljust(len(self._last)))
            sys.stderr.flush()
            self._last = line
