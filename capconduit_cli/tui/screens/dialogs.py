"""Dialogs: yes or no, one of many, money for an account, and a page to read."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.strip import Strip

from capconduit.errors import CapConduitError
from capconduit_cli.text import printable
from capconduit_cli.tui.cells import Line, Piece, fit
from capconduit_cli.tui.themes import Role
from capconduit_cli.tui.widgets.field import TextField
from capconduit_cli.tui.widgets.lines import Painted, TextPanel, strip_of

MAX_REASON: Final = 200
MAX_AMOUNT: Final = 40
_WIDTH: Final = 60  # of sentences in a dialog
_CLOSE: Final = " Esc closes"


class Words(Painted):
    """A few lines inside of a dialog; as high as they are many."""

    DEFAULT_CSS = "Words { height: auto; width: 1fr; }"

    def __init__(self, lines: Sequence[Line], *, id: str) -> None:  # Textual's word
        super().__init__(id=id)
        self._lines = list(lines)

    def show(self, lines: Sequence[Line]) -> None:
        """Say something else."""
        if self._lines == list(lines):
            return
        other_height = len(self._lines) != len(lines)
        self._lines = list(lines)
        self.refresh(layout=other_height)

    def get_content_height(self, container: object, viewport: object, width: int) -> int:  # noqa: ARG002  # Textual's call
        """Lines."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One of them."""
        return strip_of(self._lines[y] if y < len(self._lines) else (), self.look, self.size.width)


class Dialog(ModalScreen[str | None]):
    """A box in the middle. Its answer is None where nothing was chosen. It takes every key itself; see FloorScreen."""

    AUTO_FOCUS = ""

    def on_key(self, event: events.Key) -> None:
        """Every key."""
        event.stop()
        top = self.app.screen
        if top is not self:
            top.post_message(events.Key(event.key, event.character))
        elif event.key == "ctrl+c":
            self.app.exit()
        elif event.key == "escape":
            self.dismiss(None)
        else:
            self.take_key(event)

    def take_key(self, event: events.Key) -> None:
        """A key that is not of every dialog."""


class Confirm(Dialog):
    """Asks yes or no; its answer is "yes" or None. `safe`: Enter means yes, because it can be undone with a key."""

    def __init__(self, question: str, details: Sequence[str] = (), *, safe: bool) -> None:
        super().__init__()
        self._question = question
        self._details = details
        self._safe = safe

    def compose(self) -> ComposeResult:
        """The question, what will happen, and the keys."""
        yes, no = ("y or Enter", "n or Esc") if self._safe else ("y", "n, Enter or Esc")
        lines: list[Line] = [((printable(self._question), Role.STRONG),)]
        lines += [((part, Role.PLAIN),) for text in self._details for part in textwrap.wrap(printable(text), _WIDTH)]
        lines += [(), (("[", Role.DIM), (yes, Role.INFO), ("] yes   [", Role.DIM), (no, Role.INFO), ("] no", Role.DIM))]
        with Vertical(classes="box"):
            yield Words(lines, id="words")

    def take_key(self, event: events.Key) -> None:
        """Yes or no."""
        match event.key:
            case "y":
                self.dismiss("yes")
            case "enter":
                self.dismiss("yes" if self._safe else None)
            case "n" | "q":
                self.dismiss(None)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of many: what is answered, what is shown, and what is said about it."""

    value: str
    label: str
    about: str = ""
    role: Role = Role.PLAIN


class Choices(Painted):
    """Those that fit what is typed, one of them chosen."""

    DEFAULT_CSS = "Choices { height: 1fr; width: 1fr; }"

    def __init__(self, choices: Sequence[Choice], *, id: str) -> None:  # Textual's word
        super().__init__(id=id)
        self._all = choices
        self.fitting = list(choices)
        self.index = 0

    def look_for(self, text: str) -> None:
        """Only those that have every word of `text`."""
        words = text.lower().split()
        self.fitting = [c for c in self._all if all(word in f"{c.label} {c.about}".lower() for word in words)]
        self.index = 0
        self.refresh()

    def move(self, by: int) -> None:
        """Choose another."""
        self.index = max(min(self.index + by, len(self.fitting) - 1), 0)
        self.refresh()

    @property
    def _top(self) -> int:
        return max(self.index - self.size.height + 1, 0)

    def render_line(self, y: int) -> Strip:
        """One choice."""
        at, width = self._top + y, self.size.width
        if at >= len(self.fitting):
            said: Line = ((" nothing fits", Role.DIM),) if not self.fitting and y == 0 else ()
            return strip_of(said, self.look, width)
        choice = self.fitting[at]
        label = printable(choice.label)
        pieces: list[Piece] = [(f" {label}", choice.role)]
        if choice.about:
            pieces.append((f"  {printable(choice.about)}", Role.DIM))
        over = self.look.style(Role.CURSOR) if at == self.index else None
        return strip_of(pieces, self.look, width, over=over)

    def on_click(self, event: events.Click) -> None:
        """Take the one that is clicked."""
        at = self._top + event.y
        if at < len(self.fitting):
            self.index = at
            self.screen.dismiss(self.fitting[at].value)


class Pick(Dialog):
    """Asks for one of many: type to narrow, Enter takes. Its answer is the value of the choice."""

    def __init__(self, title: str, choices: Sequence[Choice]) -> None:
        super().__init__()
        self._title = title
        self._field = TextField(id="narrow", hint="type to narrow")
        self._choices = Choices(choices, id="choices")

    def compose(self) -> ComposeResult:
        """What is typed, and what fits it."""
        with Vertical(classes="box tall"):
            yield Words([((self._title, Role.STRONG),)], id="words")
            yield self._field
            yield self._choices

    def take_key(self, event: events.Key) -> None:
        """Type, choose, take."""
        choices = self._choices
        page = max(choices.size.height, 1)
        steps = {"up": -1, "down": 1, "pageup": -page, "pagedown": page}
        if event.key in steps:
            choices.move(steps[event.key])
        elif event.key == "enter":
            if choices.fitting:
                self.dismiss(choices.fitting[choices.index].value)
        elif self._field.take_key(event):
            choices.look_for(self._field.value)

    def on_paste(self, event: events.Paste) -> None:
        """As if it was typed."""
        self._field.insert(event.text)
        self._choices.look_for(self._field.value)


class AddBalance(Dialog):
    """Asks how much is added to an account, and why. It stays open, and says why not, until `submit` was done.

    Who leaves it while that is under way stops nothing: `late` is told what came of it.
    """

    def __init__(
        self, seller: str, about: str, submit: Callable[[str, str], str], late: Callable[[str, Role], None]
    ) -> None:
        super().__init__()
        self._seller = seller
        self._about = about
        self._submit = submit
        self._late = late
        self._busy = False
        self._amount = TextField(id="amount", longest=MAX_AMOUNT)
        self._reason = TextField(id="reason", longest=MAX_REASON)
        self._reason.active = False

    def compose(self) -> ComposeResult:
        """Amount and reason."""
        head: list[Line] = [
            ((f"Add balance: {printable(self._seller)}", Role.STRONG),),
            ((printable(self._about), Role.DIM),),
        ]
        with Vertical(classes="box"):
            yield Words(head, id="words")
            yield Words([(), (("Amount, like 25 or 25.50", Role.DIM),)], id="amount-label")
            yield self._amount
            yield Words([(), (("Reason, for the ledger", Role.DIM),)], id="reason-label")
            yield self._reason
            yield Words(self._foot(), id="foot")

    @staticmethod
    def _foot(error: str = "", hint: str = "") -> list[Line]:
        keys: Line = (
            ("[", Role.DIM),
            ("Enter", Role.INFO),
            ("] add   [", Role.DIM),
            ("Esc", Role.INFO),
            ("] leave", Role.DIM),
        )
        told: list[Line] = [((part, Role.BAD),) for part in textwrap.wrap(error, _WIDTH)]
        told += [((part, Role.WARN),) for part in textwrap.wrap(hint, _WIDTH)]
        return [(), *told, keys]

    @property
    def _field(self) -> TextField:
        """The one that is typed into."""
        return self._amount if self._amount.active else self._reason

    def _go_to(self, field: TextField) -> None:
        for one in (self._amount, self._reason):
            one.activate(one is field)

    def take_key(self, event: events.Key) -> None:
        """Type, go to the other field, add."""
        if event.key in ("tab", "shift+tab", "up", "down"):
            self._go_to(self._reason if self._amount.active else self._amount)
        elif event.key == "enter":
            self._enter()
        else:
            self._field.take_key(event)

    def on_paste(self, event: events.Paste) -> None:
        """As if it was typed."""
        self._field.insert(event.text)

    def _enter(self) -> None:
        """Go to what is still empty; with both given, the money is added."""
        amount, reason = self._amount.value.strip(), self._reason.value.strip()
        if not amount or not reason:
            empty = self._reason if amount else self._amount
            if empty is self._field:
                self.tell("an amount and a reason are needed")
            self._go_to(empty)
        elif not self._busy:
            self._busy = True
            # The application's, for one of this screen would be forgotten with it.
            self.app.run_worker(lambda: self._work(amount, reason), thread=True, exit_on_error=False, group="actions")

    def _work(self, amount: str, reason: str) -> None:
        tell = self.app.call_from_thread
        try:
            done = self._submit(amount, reason)
        except CapConduitError as error:
            tell(self._failed, error.message, error.hint)
        except Exception as error:  # noqa: BLE001  # in a thread: what is not told here is told nowhere
            tell(self._failed, f"this is a bug in CapConduit: {type(error).__name__}: {error}")
        else:
            tell(self._added, done)

    def _added(self, done: str) -> None:
        if self.is_current:
            self.dismiss(done)
        else:
            self._late(done, Role.BAR_GOOD)

    def _failed(self, error: str, hint: str = "") -> None:
        self._busy = False
        if self.is_current:
            self.tell(error, hint)
        else:
            self._late(f"{error} – {hint}" if hint else error, Role.BANNER_BAD)

    def tell(self, error: str, hint: str = "") -> None:
        """Say why not."""
        self.query_one("#foot", Words).show(self._foot(printable(error), printable(hint)))


class Page(Dialog):
    """Something to read. `lines` is asked again at every `refill`, so that what is live stays so."""

    def __init__(self, title: str, lines: Callable[[int], Sequence[Line]]) -> None:
        super().__init__()
        self._title = printable(title)
        self._lines = lines
        self._head = Words([()], id="title")
        self._panel = TextPanel(id="page")

    def compose(self) -> ComposeResult:
        """Title and text."""
        with Vertical(classes="box page"):
            yield self._head
            yield self._panel

    def take_key(self, event: events.Key) -> None:
        """Close, or scroll."""
        if event.key in ("q", "enter"):
            self.dismiss(None)
        else:
            self._panel.take_key(event.key)

    def on_mount(self) -> None:
        """Fill it as soon as its width is known."""
        self.call_after_refresh(self.refill)

    def on_resize(self) -> None:
        """Lines are broken anew."""
        self.call_after_refresh(self.refill)

    def refill(self) -> None:
        """Ask for the lines again."""
        width = self._panel.size.width
        if width:
            room = max(width - len(_CLOSE), 0)
            self._head.show([((fit(self._title, room), Role.STRONG), (_CLOSE, Role.DIM))])
            self._panel.show(self._lines(width))
