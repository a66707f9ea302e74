"""Waiting for a condition with a deadline; the only place of the lab that pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

PAUSE_S: Final = 0.01

T = TypeVar("T")


class LabError(Exception):
    """The lab did not do its part: something did not start, did not end, or did not come about in time."""


class LabUnavailable(LabError):
    """The lab cannot be set up on this machine, and why."""


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """The first true value of `condition`, asked again and again. Raises LabError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if result := condition():
            return result
        if time.monotonic() > deadline:
            raise LabError(f"after {timeout_s} s still no {what}")
        time.sleep(PAUSE_S)


def pause(seconds: float) -> None:
    """Let the traffic of a soak go on for so long. Tests wait for a condition instead."""
    time.sleep(seconds)
