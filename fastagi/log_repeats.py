"""Complaints that come again and again: some are told in a while, of the others how many there were."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0
TOLD_PER_WINDOW: Final = 20  # of one complaint
KINDS_MAX: Final = 1_000  # complaints that are told apart; beyond that the counting begins anew

Key = tuple[str, int, str]


class Repeats(logging.Filter):
    """Lets the first TOLD_PER_WINDOW records of a kind through in each window, from warnings up.

    A kind is a logger, a level and a message without its values. What was withheld is told with the next record of its
    kind after the window. Lower levels pass: whoever asks for them wants them all.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._seen: dict[Key, list[float]] = {}  # when the window began, how many came in it

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is told."""
        if record.levelno < logging.WARNING:
            return True
        key, now_s = (record.name, record.levelno, str(record.msg)), self._now_s()
        seen = self._seen.get(key)
        if seen is None or now_s - seen[0] >= WINDOW_S:
            if seen is not None and seen[1] > TOLD_PER_WINDOW:
                withheld = int(seen[1]) - TOLD_PER_WINDOW
                record.msg, record.args = f"{record.getMessage()} ({withheld} more like this were withheld)", None
            if seen is None and len(self._seen) >= KINDS_MAX:
                self._seen.clear()
            self._seen[key] = [now_s, 1]
            return True
        seen[1] += 1
        return seen[1] <= TOLD_PER_WINDOW
