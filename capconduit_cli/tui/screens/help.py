"""The page of keys."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Final

from capconduit_cli.tui.cells import Line
from capconduit_cli.tui.themes import Role

_EVERYWHERE: Final = (
    ("1 – 6", "the screens: calls, caps, balances, targets, events, health; Tab goes through them"),
    ("↑ ↓ PgUp PgDn", "move; g and G, Home and End go to the first and the last row"),
    ("/", "filter by a regular expression in any column; !text shows what does not fit; Esc takes it away"),
    ("s  S", "order by the next column; the other way round. A click on a heading orders by it"),
    ("Enter", "details; of a call with the whole decision"),
    ("?", "this page"),
    (":", "all commands, by name"),
    ("q", "quit"),
)
_LIVE: Final = (
    ("space", "freeze what is shown, and go on"),
    ("k", "hang up the call under the cursor; asks"),
    ("p", "pause or resume the campaign of the row, or one of your choice; asks"),
    ("r", "rest or revive the target of the row, or one of your choice; asks"),
    ("+", "add money to the account of the row's seller, or of one of your choice"),
)
_REPLAY: Final = (
    ("space", "stop and go on"),
    ("← →", "10 seconds back and on; with Shift a minute, with Ctrl ten minutes"),
    ("+ -", "twice and half as fast"),
    (".", "one change on"),
    ("0", "to the beginning"),
)
_SIGNS: Final = (
    ("●  ~  ·", "call: up, ringing, just admitted"),
    ("█ ▒ ·", "cap: used, in flight (FLY: reserved by live calls), free; ! is full; ~30m is a rolling window"),
    ("● ▼ ✖ ■", "well, needs a look, wrong, paused or suspended"),
    ("‖solar", "a campaign that is paused"),
    ("FUNDED", "how long the money that is held for the call lasts; it is topped up while it talks"),
)
_NAME: Final = 16
_NOTE: Final = "Times are UTC. Money is cut, never rounded up; details show all six decimals."


def lines(width: int, *, replay: bool, readonly: bool) -> Sequence[Line]:
    """All keys that do something."""
    told: list[Line] = []
    groups: list[tuple[str, Sequence[tuple[str, str]]]] = [("Everywhere", _EVERYWHERE)]
    if replay:
        groups.append(("Replay", _REPLAY))
    else:
        groups.append(("Live", _LIVE[:1] if readonly else _LIVE))
    groups.append(("Signs", _SIGNS))
    for title, rows in groups:
        told.append(((title, Role.HEAD),))
        for key, what in rows:
            parts = textwrap.wrap(what, max(width - _NAME, _NAME))
            told.extend(
                ((label.ljust(_NAME), Role.INFO), (part, Role.PLAIN))
                for label, part in zip_longest((key,), parts, fillvalue="")
            )
        told.append(())
    told.extend(((part, Role.DIM),) for part in textwrap.wrap(_NOTE, width))
    return told
