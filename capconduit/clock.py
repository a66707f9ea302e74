"""The only readers of the machine's clock and randomness; everything else gets them as arguments."""

from __future__ import annotations

import os
import time
from typing import Protocol

from capconduit.ids import ulid
from capconduit.units import Millis


class Clock(Protocol):
    """Where time and fresh ids come from."""

    def now_ms(self) -> Millis:
        """Wall clock, UTC milliseconds."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds of a clock that never goes back; only differences mean anything."""
        ...

    def new_id(self) -> str:
        """A fresh ULID."""
        ...


class SystemClock:
    """The real thing."""

    def now_ms(self) -> Millis:
        return Millis(time.time_ns() // 1_000_000)

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000

    def new_id(self) -> str:
        return ulid(time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10)))
