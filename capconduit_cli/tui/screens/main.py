"""The screen of the floor: header, tabs, one table or the health panel, filter, keys. It draws; the app decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from textual import events, on
from textual.app import ComposeResult
from textual.screen import Screen

from capconduit_cli.text import printable
from capconduit_cli.tui.cells import Line, Piece, width_of
from capconduit_cli.tui.screens import balances, calls, caps, frame, health, targets
from capconduit_cli.tui.screens import events as events_view
from capconduit_cli.tui.screens.base import Handles, Moment, View
from capconduit_cli.tui.themes import Role
from capconduit_cli.tui.widgets.field import TextField
from capconduit_cli.tui.widgets.lines import LineBar, TextPanel
from capconduit_cli.tui.widgets.table import MAX_PATTERN, Filter, FilterError, LiveTable

if TYPE_CHECKING:
    from capconduit_cli.tui.app import TopApp

VIEWS: Final[tuple[View[Any], ...]] = (calls.VIEW, caps.VIEW, balances.VIEW, targets.VIEW, events_view.VIEW)
TITLES: Final = (*(view.title for view in VIEWS), health.TITLE)
HEALTH: Final = len(VIEWS)
_FILTER_HINT: Final = "a regular expression, or !one to leave out"
_ALWAYS: Final = (("?", "help"), ("q", "quit"))  # at the right of the keys, however narrow it is


class Tabs(LineBar):
    """The line of tabs: a click on one shows its screen."""

    def __init__(self, ground: Role, *, id: str) -> None:  # Textual's word
        super().__init__(ground, id=id)
        self.spans: list[tuple[int, int]] = []

    def on_click(self, event: events.Click) -> None:
        """Show the screen that is clicked."""
        for number, (start, end) in enumerate(self.spans):
            if start <= event.x < end:
                cast("FloorScreen", self.screen).show(number)


class FloorScreen(Screen[None]):
    """All six screens: one table that becomes each, and a panel for the health."""

    AUTO_FOCUS = ""  # nothing is focused: keys are taken by the screen

    def __init__(self) -> None:
        super().__init__()
        self.number = 0
        self.table = LiveTable(VIEWS, id="table")
        self._header = LineBar(Role.BAR, id="header")
        self._tabs = Tabs(Role.TAB, id="tabs")
        self._banner = LineBar(Role.BANNER_BAD, id="banner")
        self._health = TextPanel(id="health")
        self._field = TextField(id="filter", before=" /", hint=_FILTER_HINT, longest=MAX_PATTERN)
        self._keys = LineBar(Role.BAR, id="keys")
        self._banner.display = self._health.display = self._field.display = False
        self._message: tuple[str, Role] | None = None
        self._acts = self._actions()
        self._filter_error = ""

    @property
    def top_app(self) -> TopApp:
        """The application."""
        return cast("TopApp", self.app)

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield self._header
        yield self._tabs
        yield self._banner
        yield self.table
        yield self._health
        yield self._field
        yield self._keys

    def on_mount(self) -> None:
        """Begin with the calls."""
        self.top_app.refresh_now()

    @property
    def is_health(self) -> bool:
        """Whether the health is shown and not the table."""
        return self.number == HEALTH

    @property
    def handles(self) -> Handles:
        """What the keys act on."""
        item, moment = self.table.selected, self.top_app.shown
        return Handles() if self.is_health or item is None else self.table.view.handles(item, moment)

    # Screens

    def show_next(self, by: int) -> None:
        """The screen after this one, or before it."""
        self.show((self.number + by) % len(TITLES))

    def show(self, number: int) -> None:
        """Show a screen as it was left."""
        self._close_filter()
        self.number = number
        panel = self._health
        self.table.display = not self.is_health
        panel.display = self.is_health
        if not self.is_health:
            self.table.choose(VIEWS[number], self.top_app.shown, dim=self.top_app.dim)
        self.top_app.refresh_now()

    def paint(self, moment: Moment, *, dim: bool) -> None:
        """Bring everything up to date that changed."""
        app, width = self.top_app, self.size.width
        if not width:
            return
        if self.is_health:
            panel = self._health
            shape = (panel.size.width or width, panel.size.height)
            panel.show(health.lines(moment.floor, app.feed_state, moment.now_ms, app.history, *shape))
        else:
            self.table.update(moment, dim=dim)
        self.paint_frame(moment)

    def paint_frame(self, moment: Moment) -> None:
        """Header, tabs, banner and keys."""
        app, width = self.top_app, self.size.width
        frozen, replay, state = app.frozen_ms, app.replay, app.feed_state
        wall_ms = app.wall_ms
        floor = moment.floor
        left, right = frame.header(
            floor, state, moment.now_ms, width, frozen_ms=frozen, replay=replay, recording=app.is_recording
        )
        self._header.show(left, right)
        counts = [len(getattr(floor, view.table)) for view in VIEWS]
        bar = self._tabs
        line, spans = frame.tabs([*zip(TITLES, [*counts, None], strict=True)], self.number, width)
        bar.spans = spans
        bar.show(line, self._where())
        told = frame.banner(state, wall_ms, stale_ms=app.stale_ms, frozen_ms=frozen, replay=replay, width=width)
        banner = self._banner
        if told is not None:
            banner.show(told[0], ground=told[1])
        if banner.display is not (told is not None):
            banner.display = told is not None
        self._paint_keys(width)

    @on(LiveTable.Fitted)
    def tell_span(self) -> None:
        """Which rows are seen is known only once the table has its size."""
        self.paint_frame(self.top_app.shown)

    def _where(self) -> Line:
        """At the right of the tabs: order, filter, rows."""
        if self.is_health:
            return ()
        table = self.table
        first, last = table.span
        pieces: list[Piece] = []
        if table.place.filter is not None:
            pieces.append((f"/{printable(table.place.filter.text)[:24]} ", Role.TAB_STRONG))
        pieces.append((f"{first}–{last} of {table.shown_rows} ", Role.TAB))
        return tuple(pieces)

    def _paint_keys(self, width: int) -> None:
        bar = self._keys
        if self._filter_error:
            bar.show(((f" {self._filter_error}", Role.BANNER_BAD),), ground=Role.BANNER_BAD)
        elif self._message is not None:
            text, role = self._message
            bar.show(((f" {text}", role),), ground=role)
        else:
            always = frame.keys(() if self._field.display else _ALWAYS, width)
            hints = frame.keys(self._hints(), width - width_of(always) - 1)
            bar.show(hints, (*always, (" ", Role.BAR)), ground=Role.BAR)

    def _hints(self) -> list[tuple[str, str]]:
        app = self.top_app
        if self._field.display:
            return [("Enter", "keep"), ("Esc", "take away"), ("!", "leaves out what fits")]
        hints: list[tuple[str, str]] = [] if self.is_health else [("↵", "info")]
        if app.replay is not None:
            hints += [("space", "stop"), ("←→", "10 s"), ("⇧←→", "1 min"), ("+-", "speed")]
        else:
            if not app.readonly:
                hints += [("k", "hang up"), ("p", "pause"), ("r", "rest"), ("+", "money")]
            hints.append(("space", "go on" if app.frozen_ms is not None else "freeze"))
        if not self.is_health:
            hints[1:1] = [("/", "filter"), ("s", "sort")]
        return [*hints, (":", "commands"), ("1-6", "screens")]

    # Messages

    def tell(self, text: str, role: Role) -> None:
        """Say something where the keys are, until another key is pressed or it is taken back."""
        self._message = (printable(text), role)
        self._paint_keys(self.size.width)

    def hush(self) -> None:
        """Take back what was said."""
        if self._message is not None:
            self._message = None
            self._paint_keys(self.size.width)

    # Order and filter

    def sort_next(self) -> None:
        """Order by the next column."""
        if not self.is_health:
            self.table.sort_next()
            self.tell_order()

    def sort_reverse(self) -> None:
        """The other way round."""
        if not self.is_health:
            self.table.sort_by(self.table.place.sort)
            self.tell_order()

    @on(LiveTable.Sorted)
    def tell_order(self) -> None:
        """Say what rows are ordered by: the column may be narrow."""
        place = self.table.place
        title = self.table.view.column(place.sort).title
        self.tell(f"ordered by {title}, {'from high to low' if place.reverse else 'from low to high'}", Role.BAR)

    def open_filter(self) -> None:
        """Ask for a filter."""
        if self.is_health:
            return
        kept = self.table.place.filter
        self._field.set(kept.text if kept else "")
        self._field.display = True
        self._paint_keys(self.size.width)

    def _type_filter(self, event: events.Key) -> None:
        """What is typed is in force at once; what is no expression is told, and the last that was one stays."""
        match event.key:
            case "enter":
                if not self._filter_error:
                    self._close_filter()
            case "escape":
                self.clear()
            case "ctrl+c":
                self.app.exit()
            case _:
                if self._field.take_key(event):
                    self._try_filter()
        self.paint_frame(self.top_app.shown)

    def _try_filter(self) -> None:
        try:
            wanted = Filter.parse(self._field.value)
        except FilterError as error:
            self._filter_error = f"not a regular expression: {printable(str(error))}"
        else:
            self._filter_error = ""
            self.table.set_filter(wanted)

    def on_paste(self, event: events.Paste) -> None:
        """Text for the filter."""
        if self._field.display:
            self._field.insert(event.text)
            self._try_filter()
            self.paint_frame(self.top_app.shown)

    def _close_filter(self) -> None:
        self._filter_error = ""
        self._field.display = False

    def clear(self) -> None:
        """Take away the filter."""
        self._close_filter()
        if not self.is_health:
            self.table.set_filter(None)
        self.paint_frame(self.top_app.shown)

    @on(LiveTable.Opened)
    def open_details(self) -> None:
        """Enter, or a double click on a row."""
        if not self.is_health:
            self.top_app.open_details()

    def on_key(self, event: events.Key) -> None:
        """Every key, in the order in which they were pressed, whatever has been opened meanwhile.

        That is why they are no bindings: those are looked up when the next key may have gone elsewhere already. Any key
        takes back what was said. What comes after one that opened a dialog is for the dialog.
        """
        event.stop()
        self.hush()
        top = self.app.screen
        if top is not self:
            top.post_message(events.Key(event.key, event.character))
        elif self._field.display:
            self._type_filter(event)
        elif (self._health if self.is_health else self.table).take_key(event.key):
            self.paint_frame(self.top_app.shown)
        elif act := self._acts.get(event.character or "") or self._acts.get(event.key):
            act()

    def _actions(self) -> Mapping[str, Callable[[], object]]:
        """What keys do that do not move; those that are typed by their character."""
        return {
            **{str(number + 1): partial(self.show, number) for number in range(len(TITLES))},
            "tab": partial(self.show_next, 1),
            "shift+tab": partial(self.show_next, -1),
            "enter": self.open_details,
            "/": self.open_filter,
            "s": self.sort_next,
            "S": self.sort_reverse,
            "escape": self.clear,
            "k": lambda: self.top_app.hang_up(),
            "p": lambda: self.top_app.pause_or_resume(),
            "r": lambda: self.top_app.rest_or_revive(),
            "+": lambda: self.top_app.plus(),
            "-": lambda: self.top_app.slower(),
            ".": lambda: self.top_app.step(),
            "0": lambda: self.top_app.rewind(),
            "left": lambda: self.top_app.seek(-10),
            "right": lambda: self.top_app.seek(10),
            "shift+left": lambda: self.top_app.seek(-60),
            "shift+right": lambda: self.top_app.seek(60),
            "ctrl+left": lambda: self.top_app.seek(-600),
            "ctrl+right": lambda: self.top_app.seek(600),
            " ": lambda: self.top_app.freeze(),
            "?": lambda: self.top_app.open_help(),
            ":": lambda: self.top_app.open_commands(),
            "q": lambda: self.top_app.exit(),
            "ctrl+c": lambda: self.top_app.exit(),
        }

    def on_resize(self) -> None:
        """Another size: everything anew."""
        self.call_after_refresh(self.top_app.refresh_now)
