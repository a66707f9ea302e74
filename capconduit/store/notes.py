"""Events noted in the outbox, in the transaction that writes them, for those who want them.

Nothing is noted where nobody does. What becomes of what is noted stands in sqloutward.py.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

from capconduit.domain.model import Event
from capconduit.store.dialect import Dialect, Shape

POSITION_BITS: Final = 16  # of a position, below the instant
FEEDING: Final = "SELECT feeding FROM estate_version WHERE id = 1"
_OUTBOX: Final = Shape("outbox", (("event_id", "text"), ("tenant_id", "text"), ("position", "bigint")))


class _Positions:
    """Numbers that only grow, about the instant of what they number: the order in which this process noted events.

    A call's transactions follow each other, each notes after it has its locks: so its events are numbered in their
    order, though two of them may be of one millisecond, or the clock was set back between them.
    """

    def __init__(self) -> None:
        self._last = 0
        self._guard = threading.Lock()

    def take(self, at_ms: int, count: int) -> range:
        with self._guard:
            first = max(at_ms << POSITION_BITS, self._last + 1)
            self._last = first + count - 1
        return range(first, first + count)


_POSITIONS: Final = _Positions()


class Notes:
    """The outbox of one transaction that writes: notes events for those who want them, and does nothing where nobody
    does. Whether somebody does comes with the estate's version, which decisions read anyway."""

    def __init__(self, db: Dialect) -> None:
        self._db = db
        self._feeding: bool | None = None  # None: not looked at yet

    def look(self, row: Sequence[Any]) -> int:
        """The version in a row of estates.VERSION_SQL; remembers what else stands there."""
        self._feeding = bool(row[1])
        return int(row[0])

    def take(self, rows: Sequence[Any]) -> None:
        """Note new rows of one class, where they are events."""
        if not rows or not isinstance(rows[0], Event):
            return
        if self._feeding is None:
            self._feeding = bool(self._db.query(FEEDING, {})[0][0])
        if self._feeding:
            positions = _POSITIONS.take(rows[0].at_ms, len(rows))
            noted = [(event.id, event.tenant_id, position) for event, position in zip(rows, positions, strict=True)]
            self._db.insert(_OUTBOX, noted)
