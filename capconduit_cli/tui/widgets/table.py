"""A table of any number of live rows that makes and draws only those that are seen, and of them what changed.

The cursor holds on to a row, not to a place: when rows move, it goes with the one it was put on. Until it is moved it
stays at the top (of a log: at the end).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip

from capconduit_cli.tui.cells import Piece, fit, fit_cell
from capconduit_cli.tui.screens.base import Column, Moment, View, layout, ordered
from capconduit_cli.tui.themes import Role
from capconduit_cli.tui.widgets.lines import WHEEL_LINES, Painted, strip_of

HEADER: Final = 1  # lines
ASCENDING, DESCENDING = "▲", "▼"
MAX_PATTERN: Final = 200  # characters of a filter

DrawnCell = tuple[int, int, tuple[Piece, ...]]  # where it begins, its width, what it says
DrawnLine = tuple[DrawnCell, ...]


class FilterError(ValueError):
    """A filter that is no regular expression."""


@dataclass(frozen=True)
class Filter:
    """Which rows are wanted: those in which `pattern` is found, or with `inverted` those in which it is not."""

    text: str
    pattern: re.Pattern[str]
    inverted: bool

    @classmethod
    def parse(cls, text: str) -> Filter | None:
        """`solar`, `!^~ ring`; None where it is empty. Upper and lower case are the same. Raises FilterError."""
        inverted = text.startswith("!")
        wanted = text[1:] if inverted else text
        if not wanted:
            return None
        if len(text) > MAX_PATTERN:
            raise FilterError(f"longer than {MAX_PATTERN} characters")
        try:
            return cls(text, re.compile(wanted, re.IGNORECASE), inverted)
        except (re.error, OverflowError, RecursionError) as error:
            raise FilterError(str(error)) from None

    def wants(self, text: str) -> bool:
        """Whether a row that says `text` is wanted."""
        return (self.pattern.search(text) is None) is self.inverted


@dataclass
class Place:
    """How a screen was left: order, filter, cursor. `pinned`: the cursor was put on `key` and stays on it."""

    sort: str
    reverse: bool
    filter: Filter | None = None
    key: str = ""
    index: int = 0
    pinned: bool = False
    top: int = 0


class LiveTable(Painted):
    """See the module. `update` is called whenever the floor may have changed."""

    DEFAULT_CSS = "LiveTable { height: 1fr; width: 1fr; }"

    class Opened(Message):
        """The row under the cursor is asked for by a double click."""

    class Sorted(Message):
        """The order was changed by a click."""

    class Fitted(Message):
        """Another number of rows has room: a banner came or went, or the terminal has another size."""

    def __init__(self, views: Sequence[View[Any]], *, id: str) -> None:  # Textual's word
        super().__init__(id=id)
        self.places = {view.key: Place(view.order, view.reverse) for view in views}
        self.view: View[Any] = views[0]
        self._items: Mapping[str, Any] = {}
        self._order: list[str] = []
        self._made: tuple[Any, ...] = ()  # what _order was made from
        self._matched: dict[str, tuple[Any, bool]] = {}
        self._moment: Moment | None = None
        self._drawn: list[DrawnLine] = []
        self._cursor_line = -1
        self._dim = False
        self.total = 0

    # What is shown

    @property
    def place(self) -> Place:
        """Order, filter and cursor of this screen."""
        return self.places[self.view.key]

    @property
    def shown_rows(self) -> int:
        """Rows that pass the filter."""
        return len(self._order)

    @property
    def span(self) -> tuple[int, int]:
        """The first and last row that are seen, counted from 1."""
        return (min(self.place.top + 1, len(self._order)), min(self.place.top + self._height, len(self._order)))

    @property
    def selected(self) -> Any | None:
        """The item under the cursor."""
        return self._items.get(self._order[self.place.index]) if self._order else None

    @property
    def _height(self) -> int:
        return max(self.size.height - HEADER, 1)

    def choose(self, view: View[Any], moment: Moment, *, dim: bool = False) -> None:
        """Show another screen as it was left."""
        self.view = view
        self._made, self._matched = (), {}
        self.update(moment, dim=dim)

    def update(self, moment: Moment, *, dim: bool = False) -> None:
        """Make the rows that are seen anew and draw what is not as it was. `dim`: the data are not live."""
        self._moment = moment
        if dim is not self._dim:
            self._dim = dim
            self._drawn = []
        self._make_order(moment)
        self._move_with_rows()
        self._paint(moment)

    def _make_order(self, moment: Moment) -> None:
        place = self.place
        column = self.view.column(place.sort)
        second = moment.now_ms // 1_000 if column.timed else 0
        made = (
            id(moment.floor),
            moment.floor.versions[self.view.table],
            place.sort,
            place.reverse,
            place.filter,
            second,
        )
        if made == self._made:
            return
        self._made = made
        rows = self.view.rows(moment.floor)
        self.total = len(rows)
        self._items = self._filtered(rows, place.filter) if place.filter else dict(rows)  # the floor's own is changed
        self._order = ordered(self._items, column, moment, reverse=place.reverse)

    def _filtered(self, rows: Mapping[str, Any], wanted: Filter) -> Mapping[str, Any]:
        """Those that are wanted; a row that did not change is not looked through again."""
        before, self._matched = self._matched, {}
        kept = {}
        for key, item in rows.items():
            known = before.get(key)
            match = known[1] if known is not None and known[0] is item else wanted.wants(self.view.text(item))
            self._matched[key] = (item, match)
            if match:
                kept[key] = item
        return kept

    def _move_with_rows(self) -> None:
        """Keep the cursor on its row; where that is gone, on the one that took its place."""
        place, last = self.place, len(self._order) - 1
        if not place.pinned:
            place.index = last if self.view.tail else 0
        elif 0 <= place.index <= last and self._order[place.index] == place.key:
            pass
        elif place.key in self._items:
            place.index = self._order.index(place.key)
        place.index = max(min(place.index, last), 0)
        place.key = self._order[place.index] if self._order else ""
        self._scroll_to_cursor()

    def _scroll_to_cursor(self) -> None:
        place, height = self.place, self._height
        if place.index < place.top:
            place.top = place.index
        elif place.index >= place.top + height:
            place.top = place.index - height + 1
        place.top = max(min(place.top, len(self._order) - height), 0)

    # Keys and mouse

    def move(self, rows: int) -> None:
        """Move the cursor down, or up where it is negative."""
        self.move_to(self.place.index + rows)

    def move_to(self, index: int) -> None:
        """Put the cursor on a row."""
        if not self._order or self._moment is None:
            return
        place, last = self.place, len(self._order) - 1
        place.index = max(min(index, last), 0)
        place.key = self._order[place.index]
        place.pinned = place.index != (last if self.view.tail else 0)
        top_before = place.top
        self._scroll_to_cursor()
        if place.top == top_before and self._drawn:
            self._draw_cursor()  # the rows are as they were
        else:
            self._paint(self._moment)

    def sort_by(self, key: str, *, reverse: bool | None = None) -> None:
        """Order the rows by a column; by the one they are ordered by already: the other way round."""
        place = self.place
        if reverse is None:
            reverse = not place.reverse if key == place.sort else self.view.column(key).descending
        place.sort, place.reverse = key, reverse
        if self._moment is not None:
            self.update(self._moment, dim=self._dim)

    def sort_next(self) -> None:
        """Order by the next column that is seen."""
        if self._moment is None:
            return
        keys = [column.key for column, _, _ in layout(self.view.columns, self._moment, self.size.width)]
        at = keys.index(self.place.sort) if self.place.sort in keys else -1
        key = keys[(at + 1) % len(keys)]
        self.sort_by(key, reverse=self.view.column(key).descending)

    def set_filter(self, wanted: Filter | None) -> None:
        """Show only rows that are wanted."""
        self.place.filter = wanted
        self._matched = {}
        if self._moment is not None:
            self.update(self._moment, dim=self._dim)

    def take_key(self, key: str) -> bool:
        """Move about; whether it was a key for that."""
        page, end = max(self._height - 1, 1), len(self._order)
        match key:
            case "up":
                self.move(-1)
            case "down":
                self.move(1)
            case "pageup":
                self.move(-page)
            case "pagedown":
                self.move(page)
            case "home" | "g":
                self.move_to(0)
            case "end" | "G" | "upper_g":
                self.move_to(end)
            case _:
                return False
        return True

    def on_click(self, event: events.Click) -> None:
        """A heading: order by it. A row: the cursor; twice: its details."""
        if event.y < HEADER:
            self._click_heading(event.x)
            return
        index = self.place.top + event.y - HEADER
        if index < len(self._order):
            self.move_to(index)
            if event.chain > 1:
                self.post_message(self.Opened())

    def _click_heading(self, x: int) -> None:
        if self._moment is None:
            return
        for column, start, width in layout(self.view.columns, self._moment, self.size.width):
            if start <= x <= start + width:
                self.sort_by(column.key)
                self.post_message(self.Sorted())
                return

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel."""
        self.move(WHEEL_LINES)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel."""
        self.move(-WHEEL_LINES)
        event.stop()

    def on_resize(self) -> None:
        """Another size: other columns, other rows."""
        self._drawn = []
        if self._moment is not None:
            self._scroll_to_cursor()
            self._paint(self._moment)
            self.post_message(self.Fitted())

    def repaint(self) -> None:
        """Draw everything anew."""
        self._drawn = []
        if self._moment is not None:
            self._paint(self._moment)

    # Drawing

    def _paint(self, moment: Moment) -> None:
        """Make the lines that are seen and mark what differs from what was drawn."""
        if not self.size.width:
            return
        before, cursor_before = self._drawn, self._cursor_line
        self._drawn = self._make_lines(moment)
        self._cursor_line = HEADER + self.place.index - self.place.top if self._order else -1
        if len(before) != len(self._drawn):
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, self._drawn, strict=True)):
            if (y == cursor_before) is not (y == self._cursor_line):
                self.refresh(Region(0, y, self.size.width, 1))
            elif old != new:
                first, last = _changed(old, new, self.size.width)
                self.refresh(Region(first, y, last - first, 1))

    def _draw_cursor(self) -> None:
        """Only the row that it was on and the one that it is on now."""
        before, self._cursor_line = self._cursor_line, HEADER + self.place.index - self.place.top
        for y in {before, self._cursor_line}:
            self.refresh(Region(0, y, self.size.width, 1))

    def _make_lines(self, moment: Moment) -> list[DrawnLine]:
        placed = layout(self.view.columns, moment, self.size.width)
        lines = [self._heading(placed)]
        top = self.place.top
        for key in self._order[top : top + self._height]:
            item = self._items[key]
            cells = []
            for column, x, width in placed:
                pieces = fit_cell(column.cell(item, moment, width), width, right=column.right)
                cells.append((x, width, tuple(pieces)))
            lines.append(tuple(cells))
        if not self._order:
            said = self.view.empty if not self.total else f"None of {self.total} fits the filter. Esc takes it away."
            if not moment.floor.version:
                said = "Nothing is known yet."
            lines.append(((0, self.size.width, ((fit(f" {said}", self.size.width), Role.DIM),)),))
        lines.extend(() for _ in range(self.size.height - len(lines)))
        return lines

    def _heading(self, placed: Sequence[tuple[Column[Any], int, int]]) -> DrawnLine:
        place = self.place
        cells = []
        for column, x, width in placed:
            title = column.title
            if column.key == place.sort:
                arrow = DESCENDING if place.reverse else ASCENDING
                title = f"{title[: width - 1]}{arrow}"
            text = title[:width].rjust(width) if column.right else title[:width].ljust(width)
            cells.append((x, width, ((text, Role.HEAD),)))
        return tuple(cells)

    def render_line(self, y: int) -> Strip:
        """A line that was made by the last _paint."""
        ground = Role.HEAD if y == 0 else Role.PLAIN
        pieces: list[Piece] = []
        at = 0
        for x, width, said in self._drawn[y] if y < len(self._drawn) else ():
            if x > at:
                pieces.append((" " * (x - at), ground))
            pieces.extend(said)
            at = x + width
        over = self.look.style(Role.CURSOR) if y == self._cursor_line else None
        if self._dim and y:
            over = (over or self.look.style(Role.STALE)) + self.look.style(Role.STALE)
        return strip_of(pieces, self.look, self.size.width, ground, over)


def _changed(old: DrawnLine, new: DrawnLine, width: int) -> tuple[int, int]:
    """The columns between which a line differs."""
    if len(old) != len(new) or any(a[:2] != b[:2] for a, b in zip(old, new, strict=True)):
        return 0, width
    differing = [cell for cell, was in zip(new, old, strict=True) if cell != was]
    return differing[0][0], differing[-1][0] + differing[-1][1]
