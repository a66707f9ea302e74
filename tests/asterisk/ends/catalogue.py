"""All ends, from the rooms where they are played."""

from __future__ import annotations

from tests.asterisk.ends import by_caller, by_target, by_us, crossing, disasters, media, transfers
from tests.asterisk.ends.scenario import ENDS

# In the order of the table.
ROOMS = {
    "By the caller": by_caller,
    "By the target": by_target,
    "Crossing": crossing,
    "Transfers": transfers,
    "Media and session timers": media,
    "By us and the operator": by_us,
    "When something dies": disasters,
}

__all__ = ["ENDS", "ROOMS"]
