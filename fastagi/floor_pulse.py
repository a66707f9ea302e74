"""How the daemon's heart beats: new calls per second, decisions and how long they took. A few additions per decision.

The last minute only, and kept always, so that whoever looks sees at once how it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from fastagi.agi_server import AgiReply, Endpoint

SECONDS: Final = 60
RECENT_S: Final = 10  # over which decisions per second are told
SAMPLES: Final = 2_000  # decisions whose time is remembered


class Pulse:
    """Belongs to the loop."""

    def __init__(self, now_s: Callable[[], float] = monotonic) -> None:
        self._now_s = now_s
        self._arrived = [0] * SECONDS  # by second; the one of `_second` is under way
        self._decided = [0] * SECONDS
        self._second = int(now_s())
        self._took: deque[tuple[float, float]] = deque(maxlen=SAMPLES)  # when, ms

    def timed(self, endpoint: Endpoint, *, arrives: bool = False) -> Endpoint:
        """The same endpoint, its decisions counted and timed. `arrives`: each is a new call."""
        on_request = (*endpoint.on_request, self._asked) if arrives else endpoint.on_request
        return replace(endpoint, on_request=on_request, on_answer=(*endpoint.on_answer, self._answered))

    def _asked(self) -> None:
        self._arrived[self._place(self._now_s())] += 1

    def _answered(self, _reply: AgiReply | None, took_s: float) -> None:
        now_s = self._now_s()
        self._decided[self._place(now_s)] += 1
        self._took.append((now_s, took_s * 1_000))

    def _place(self, now_s: float) -> int:
        """Where the second of `now_s` counts; those that nobody counted in are emptied."""
        second = int(now_s)
        if second > self._second:
            for passed in range(self._second + 1, min(second, self._second + SECONDS) + 1):
                self._arrived[passed % SECONDS] = self._decided[passed % SECONDS] = 0
            self._second = second
        return second % SECONDS

    def cps(self) -> list[int]:
        """New calls in each of the last 60 seconds, the oldest first; the last one is still under way."""
        place = self._place(self._now_s())
        return self._arrived[place + 1 :] + self._arrived[: place + 1]

    def decisions(self) -> dict[str, Any]:
        """Decisions per second of the last ten, and how long those of the last minute took."""
        now_s = self._now_s()
        place = self._place(now_s)
        whole = [self._decided[(place - back) % SECONDS] for back in range(1, RECENT_S + 1)]
        took = sorted(ms for at_s, ms in self._took if now_s - at_s <= SECONDS)
        return {
            "per_second": sum(whole) / RECENT_S,
            "p50_ms": _share(took, 0.50),
            "p99_ms": _share(took, 0.99),
        }


def _share(took: list[float], share: float) -> float | None:
    """The time that this share of decisions kept within."""
    return round(took[min(int(len(took) * share), len(took) - 1)], 2) if took else None
