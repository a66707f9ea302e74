"""The queue before the engine: what is asked waits a moment for others, so that they can share a transaction.

A transaction costs much, however little is in it. While others have just been decided, more are about to come; and what
nobody waits for rides with whatever comes next. Where little happens, nothing waits; where transactions follow each
other closely, everything waits longer, because what they cost is then missing to all.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

BATCH_MAX: Final = 256
QUEUE_MAX: Final = 4_096
CROWD: Final = 16  # as many do not wait for more
CALLER_WAITS_S: Final = 0.001  # a caller hears nothing until then
CHANNEL_WAITS_S: Final = 0.004  # the call is over, its channel waits
NOBODY_WAITS_S: Final = 0.020
BUSY_S: Final = 0.005  # since the last batch began: who waits must not make the next one wait as well
RUSH_BATCHES: Final = 12  # so many within RUSH_S, and everything waits RUSH_FACTOR times as long
RUSH_S: Final = 0.1
RUSH_FACTOR: Final = 4

Item = TypeVar("Item")


class QueueFull(Exception):
    """QUEUE_MAX wait, or the queue is closed: nothing was taken in."""


class Gathering(Generic[Item]):
    """A queue that any thread puts into and one thread takes batches from.

    patient: things wait as described above; else each is handed out as soon as it is asked for.
    """

    def __init__(self, *, patient: bool, now_s: Callable[[], float] = time.monotonic) -> None:
        self._patient = patient
        self._now_s = now_s
        self._items: deque[Item] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._due_s = math.inf  # when the first of those that wait wants to begin
        self._handed_s = -math.inf  # when the last batch was handed out
        self._batches_s: deque[float] = deque(maxlen=RUSH_BATCHES)  # when the last ones were handed out

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Nothing more is taken in."""
        return self._closed

    def put(self, item: Item, patience_s: float) -> None:
        """Take in something that can wait `patience_s` for others. Raises QueueFull."""
        with self._wake:
            if self._closed or len(self._items) >= QUEUE_MAX:
                raise QueueFull
            self._items.append(item)
            due_s = self._due(patience_s)
            if due_s < self._due_s or len(self._items) == CROWD:
                self._due_s = min(due_s, self._due_s)
                self._wake.notify()

    def _due(self, patience_s: float) -> float:
        """When something that comes now wants to begin."""
        now_s = self._now_s()
        if not self._patient:
            return now_s
        rush = len(self._batches_s) == RUSH_BATCHES and now_s - self._batches_s[0] < RUSH_S
        if not rush and patience_s < NOBODY_WAITS_S and now_s - self._handed_s > BUSY_S:
            return now_s
        return now_s + patience_s * (RUSH_FACTOR if rush else 1)

    def take(self) -> list[Item]:
        """The next batch, in the order it came in; waits for it. Empty: the queue is closed and nothing is left."""
        with self._wake:
            while not self._closed and (wait_s := self._wait_s()) > 0:
                self._wake.wait(wait_s if wait_s < math.inf else None)
            batch = [self._items.popleft() for _ in range(min(len(self._items), BATCH_MAX))]
            self._handed_s = self._now_s()
            self._batches_s.append(self._handed_s)
            self._due_s = self._handed_s if self._items else math.inf  # those that are left begin at once
        return batch

    def _wait_s(self) -> float:
        """How long the next batch waits for more."""
        if len(self._items) >= CROWD:
            return 0.0
        return self._due_s - self._now_s() if self._items else math.inf

    def close(self) -> None:
        """Take nothing more in; what waits is handed out at once."""
        with self._wake:
            self._closed = True
            self._wake.notify()
