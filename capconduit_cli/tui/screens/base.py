"""What a table screen is: its columns, what is read of them at a moment, and how its rows are ordered. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

from capconduit.vocab import CampaignStatus
from capconduit_cli.tui.cells import NOTHING, ZERO, Cell, safe
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.themes import Role

Item = TypeVar("Item")
Fact = tuple[str, Cell]

PAUSED: Final = "‖"
GAP: Final = 1  # columns between columns


@dataclass(frozen=True)
class Moment:
    """When the floor is looked at, and what of it a row must know that is not its own."""

    now_ms: int
    floor: Floor
    several_nodes: bool = False

    @cached_property
    def _calls(self) -> Counter[str]:
        return Counter(call.seller for call in self.floor.calls.values())

    def campaign_cell(self, name: str) -> Cell:
        """A campaign's name, marked where it is paused."""
        campaign = self.floor.campaigns.get(name)
        if campaign is not None and campaign.status == CampaignStatus.PAUSED:
            return safe(f"{PAUSED}{name}", Role.WARN)
        return safe(name, Role.STRONG) if name else NOTHING

    def calls_of_seller(self, seller: str) -> int:
        """Live calls of a seller; counted once for all rows of a moment."""
        return self._calls[seller]


@dataclass(frozen=True, slots=True)
class Column(Generic[Item]):
    """One column. `least` and `best` are its widths; `grow` its share of what is left over, up to `most`.

    Where not all have their best width, those of the highest `drop` go first; 0 never goes, but becomes narrower.
    `timed`: what it says changes by itself.
    `sort` gives what rows are ordered by, None for what comes last in either direction.
    """

    key: str
    title: str
    cell: Callable[[Item, Moment, int], Cell]
    sort: Callable[[Item, Moment], Any]
    least: int
    best: int
    grow: int = 0
    most: int = 40
    drop: int = 0
    right: bool = False
    timed: bool = False
    descending: bool = False  # which direction is asked for first
    shown: Callable[[Moment], bool] = lambda _moment: True


def text_column(
    key: str, title: str, read: Callable[[Item], str], *, role: Role = Role.PLAIN, **shape: Any
) -> Column[Item]:
    """A column of anybody's text; what is empty is a dash and comes last."""

    def cell(item: Item, _moment: Moment, _width: int) -> Cell:
        return safe(text, role) if (text := read(item)) else NOTHING

    return Column(key, title, cell, lambda item, _moment: read(item) or None, **shape)


def count_column(
    key: str, title: str, read: Callable[[Item, Moment], int], *, role: Role = Role.PLAIN, **shape: Any
) -> Column[Item]:
    """A column of counts, the highest first when it is sorted by; none is dim."""

    def cell(item: Item, moment: Moment, _width: int) -> Cell:
        return ((str(count), role),) if (count := read(item, moment)) else ZERO

    return Column(key, title, cell, read, right=True, descending=True, **shape)


@dataclass(frozen=True, slots=True)
class Handles:
    """What the keys act on in a row; empty where there is no such thing."""

    call: str = ""
    campaign: str = ""
    target: str = ""
    seller: str = ""


@dataclass(frozen=True)
class View(Generic[Item]):
    """A table screen."""

    key: str
    title: str
    table: str  # the table of Floor.versions whose change makes the rows anew
    empty: str  # what is said where there are no rows
    columns: Sequence[Column[Item]]
    rows: Callable[[Floor], Mapping[str, Item]]
    text: Callable[[Item], str]  # what the filter looks through
    facts: Callable[[Item, Moment], Iterable[Fact]]  # for the details
    handles: Callable[[Item, Moment], Handles]
    order: str  # the column that rows are ordered by at first
    reverse: bool = False
    tail: bool = False  # the newest row is the last, and is followed

    def column(self, key: str) -> Column[Item]:
        """The column of that key."""
        return next(column for column in self.columns if column.key == key)


def layout(columns: Sequence[Column[Any]], moment: Moment, width: int) -> list[tuple[Column[Any], int, int]]:
    """Which columns are shown in `width`, each with where it begins and how wide it is."""
    shown = [column for column in columns if column.shown(moment)]
    while sum(c.best for c in shown) + GAP * (len(shown) - 1) > width:
        last = max(shown, key=lambda c: c.drop)
        if not last.drop:
            break
        shown.remove(last)
    widths = {c.key: c.least for c in shown}
    spare = width - sum(widths.values()) - GAP * (len(shown) - 1)
    spare = _widen(shown, widths, spare, lambda c: c.best - widths[c.key])
    if spare > 0 and (growing := [c for c in shown if c.grow]):
        total = sum(c.grow for c in growing)
        for column in growing:
            widths[column.key] = min(widths[column.key] + spare * column.grow // total, max(column.most, column.best))
    placed, x = [], 0
    for column in shown:
        placed.append((column, x, min(widths[column.key], max(width - x, 0))))
        x += widths[column.key] + GAP
    return placed


def _widen(
    columns: Sequence[Column[Any]], widths: dict[str, int], spare: int, lacking: Callable[[Column[Any]], int]
) -> int:
    """Give columns one by one what they lack, as long as there is some; returns what is left."""
    while spare > 0 and (wanting := [c for c in columns if lacking(c) > 0]):
        for column in wanting[:spare]:
            widths[column.key] += 1
        spare -= len(wanting[:spare])
    return max(spare, 0)


def ordered(items: Mapping[str, Item], column: Column[Item], moment: Moment, *, reverse: bool) -> list[str]:
    """Keys in the order of a column; equal ones in the order of their keys, those without a value last."""
    with_value, without = [], []
    for key, item in items.items():
        value = column.sort(item, moment)
        if value is None:
            without.append(key)
        else:
            with_value.append((value, key))
    with_value.sort(key=lambda pair: pair[1])
    with_value.sort(key=lambda pair: pair[0], reverse=reverse)
    return [key for _, key in with_value] + sorted(without)
