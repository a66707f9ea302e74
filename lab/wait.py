"""Waiting for a condition with a deadline; the only place of the lab that pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

PAUSE_S: Final = 0.01
BEAT_S: Final = 0.02

T = TypeVar("T")


class LabError(Exception):
    """The lab did not do its part: something did not start, did not end, or did not come about in time."""


class LabUnavailable(LabError):
    """The lab cannot be set up on this machine, and why."""


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 30.0) -> T:
    """The first true value of `condition`, asked again and again. Raises LabError naming `what` after `timeout_s`.

    It is asked once more when the time is over: a machine that stood still meanwhile has not answered with no.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() > deadline
        if result := condition():
            return result
        if is_last:
            raise LabError(f"after {timeout_s} s still no {what}")
        time.sleep(PAUSE_S)


class Watch:
    """`with Watch() as watch:` notes how long this machine stood still at most, for who judges what was in time.

    What is later than it may be by no more than `stood_still_ms` is the machine's doing: nobody ran meanwhile.
    """

    def __init__(self) -> None:
        self.stood_still_ms = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def _run(self) -> None:
        while not self._is_over.is_set():
            began_s = time.monotonic()
            self._is_over.wait(BEAT_S)
            self.stood_still_ms = max(self.stood_still_ms, round((time.monotonic() - began_s - BEAT_S) * 1_000))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


def pause(seconds: float) -> None:
    """Let the traffic of a soak go on for so long. Tests wait for a condition instead."""
    time.sleep(seconds)
