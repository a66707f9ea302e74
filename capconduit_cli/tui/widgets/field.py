"""A line to type into. Whoever owns it gives it the keys, so that none is lost or goes elsewhere while focus moves."""

from __future__ import annotations

from typing import Final

from textual import events
from textual.strip import Strip

from capconduit_cli.text import printable
from capconduit_cli.tui.cells import CUT, Piece, cell
from capconduit_cli.tui.themes import Role
from capconduit_cli.tui.widgets.lines import Painted, strip_of

MAX_LENGTH: Final = 200


class TextField(Painted):
    """`value` is what was typed. Only the active one shows a cursor."""

    DEFAULT_CSS = "TextField { height: 1; width: 1fr; }"

    def __init__(self, *, id: str, before: str = "", hint: str = "", longest: int = MAX_LENGTH) -> None:  # its word
        super().__init__(id=id)
        self.value = ""
        self.at = 0  # where the cursor is
        self.active = True
        self._before = before
        self._hint = hint
        self._longest = longest

    def set(self, value: str) -> None:
        """Begin with this."""
        self.value, self.at = value[: self._longest], len(value[: self._longest])
        self.refresh()

    def activate(self, active: bool) -> None:
        """Show the cursor, or not."""
        self.active = active
        self.refresh()

    def insert(self, text: str) -> None:
        """Type it; of what is pasted only what can be typed, and no more than has room."""
        said = "".join(c for c in text if c.isprintable())[: self._longest - len(self.value)]
        self.value = self.value[: self.at] + said + self.value[self.at :]
        self.at += len(said)
        self.refresh()

    def take_key(self, event: events.Key) -> bool:
        """Type or edit; whether it was a key for that."""
        match event.key:
            case "backspace":
                self.value = self.value[: max(self.at - 1, 0)] + self.value[self.at :]
                self.at = max(self.at - 1, 0)
            case "delete":
                self.value = self.value[: self.at] + self.value[self.at + 1 :]
            case "left":
                self.at = max(self.at - 1, 0)
            case "right":
                self.at = min(self.at + 1, len(self.value))
            case "home" | "ctrl+a":
                self.at = 0
            case "end" | "ctrl+e":
                self.at = len(self.value)
            case "ctrl+u":
                self.value, self.at = self.value[self.at :], 0
            case _:
                if not event.is_printable or event.character is None:
                    return False
                self.insert(event.character)
        self.refresh()
        return True

    def render_line(self, y: int) -> Strip:  # noqa: ARG002  # there is one
        """What was typed, its end where it is too long; the cursor is reverse, in every theme."""
        width = max(self.size.width - len(self._before) - 2, 1)
        skipped = max(self.at - width + 1, 0)
        seen = self.value[skipped : skipped + width]
        at = self.at - skipped
        pieces: list[Piece] = [(f"{self._before}{CUT if skipped else ' '}", Role.FIELD)]
        if not self.value and self._hint:
            pieces += [(" ", Role.FIELD_CURSOR if self.active else Role.FIELD), *cell(self._hint, Role.FIELD_DIM)]
        elif self.active:
            under = printable(seen[at : at + 1]) or " "
            pieces += [
                (printable(seen[:at]), Role.FIELD),
                (under, Role.FIELD_CURSOR),
                (printable(seen[at + 1 :]), Role.FIELD),
            ]
        else:
            pieces.append((printable(seen), Role.FIELD))
        return strip_of(pieces, self.look, self.size.width, Role.FIELD)
