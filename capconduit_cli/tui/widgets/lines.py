"""Widgets that draw lines of styled pieces and repaint only those that changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, cast

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from capconduit_cli.tui.cells import Line, Piece, fit, fit_cell, width_of
from capconduit_cli.tui.themes import Look, Role

if TYPE_CHECKING:
    from textual.app import RenderResult

WHEEL_LINES: Final = 3


class HasLook(Protocol):
    """The application, as far as what draws needs it."""

    look: Look


def strip_of(
    line: Iterable[Piece], look: Look, width: int, ground: Role = Role.PLAIN, over: Style | None = None
) -> Strip:
    """A line in exactly `width` columns on `ground`; `over` is laid over every piece."""
    runs: list[tuple[str, Style]] = []  # neighbours of one style are written as one: a slow link pays for each
    room = width
    for text, role in [*line, (" " * width, ground)]:
        if room <= 0:
            break
        length = cell_len(text)
        said = text if length <= room else fit(text, room) if text.strip() else " " * room
        style = look.style(role) + over if over else look.style(role)
        if runs and runs[-1][1] == style:
            runs[-1] = (runs[-1][0] + said, style)
        elif said:
            runs.append((said, style))
        room -= min(length, room)
    return Strip([Segment(text, style) for text, style in runs], width)


class Painted(Widget):
    """What draws itself line by line in the styles of the application's theme."""

    @property
    def look(self) -> Look:
        """The theme in force."""
        return cast("HasLook", self.app).look

    def render(self) -> RenderResult:
        """Never asked: all is drawn by render_line."""
        return ""

    def repaint(self) -> None:
        """Draw everything anew, as after a change of theme."""
        self.refresh()


class LineBar(Painted):
    """One line: something at its left, something at its right; the right one gives way last."""

    DEFAULT_CSS = "LineBar { height: 1; width: 1fr; }"

    def __init__(self, ground: Role, *, id: str) -> None:  # Textual's word
        super().__init__(id=id)
        self._ground = ground
        self._left: Line = ()
        self._right: Line = ()

    def show(self, left: Line, right: Line = (), *, ground: Role | None = None) -> None:
        """Say this; what is not as it was is drawn."""
        if (left, right, ground or self._ground) == (self._left, self._right, self._ground):
            return
        before = self._columns()
        self._left, self._right, self._ground = left, right, ground or self._ground
        after = self._columns()
        differing = [x for x, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        if differing:
            self.refresh(Region(differing[0], 0, differing[-1] - differing[0] + 1, 1))

    def _pieces(self) -> list[Piece]:
        """Left, what is between, right."""
        width = self.size.width
        right_width = min(width_of(self._right), width)
        left = (
            fit_cell(self._left, width - right_width) if self._left else [(" " * (width - right_width), self._ground)]
        )
        blank = [(text, self._ground if role is Role.PLAIN and not text.strip() else role) for text, role in left]
        return [*blank, *self._right]

    def _columns(self) -> list[tuple[str, Role]]:
        """What stands in each column; a wide character stands in two."""
        columns: list[tuple[str, Role]] = []
        for text, role in self._pieces():
            for char in text:
                columns.extend([(char, role)] * (1 if char.isascii() else cell_len(char)))
        width = self.size.width
        return [*columns[:width], *([(" ", self._ground)] * (width - len(columns)))]

    def render_line(self, y: int) -> Strip:
        """The line."""
        return strip_of(() if y else self._pieces(), self.look, self.size.width, self._ground)


class TextPanel(Painted):
    """Lines to read, as many as there are; scrolled by keys and wheel."""

    DEFAULT_CSS = "TextPanel { height: 1fr; width: 1fr; }"

    def __init__(self, *, id: str) -> None:  # Textual's word
        super().__init__(id=id)
        self._lines: Sequence[Line] = ()
        self.top = 0

    def show(self, lines: Sequence[Line]) -> None:
        """Draw these lines; only those that are not what they were."""
        before, self._lines = self._lines, lines
        top = min(self.top, self._last_top())
        if top != self.top:
            self.top = top
            self.refresh()
            return
        for y in range(self.size.height):
            at = self.top + y
            old = before[at] if at < len(before) else ()
            new = lines[at] if at < len(lines) else ()
            if old != new:
                self.refresh(Region(0, y, self.size.width, 1))

    def _last_top(self) -> int:
        return max(len(self._lines) - self.size.height, 0)

    def scroll_by(self, lines: int) -> None:
        """Further down, or up where it is negative."""
        top = min(max(self.top + lines, 0), self._last_top())
        if top != self.top:
            self.top = top
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One of the lines that are seen."""
        at = self.top + y
        return strip_of(self._lines[at] if at < len(self._lines) else (), self.look, self.size.width)

    def take_key(self, key: str) -> bool:
        """Scroll; whether it was a key for that."""
        page, whole = max(self.size.height - 1, 1), len(self._lines)
        steps = {"up": -1, "down": 1, "pageup": -page, "pagedown": page, "home": -whole, "end": whole}
        self.scroll_by(steps.get(key, 0))
        return key in steps

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel."""
        self.scroll_by(WHEEL_LINES)
        event.stop()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel."""
        self.scroll_by(-WHEEL_LINES)
        event.stop()
