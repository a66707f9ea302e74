"""The lines of a details page: the facts of a row, and the story of its call as `capconduit explain` tells it. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

from rich.cells import cell_len

from capconduit_cli.text import printable
from capconduit_cli.tui.cells import Line, Piece, cell, width_of
from capconduit_cli.tui.screens.base import Fact
from capconduit_cli.tui.themes import Role

_NAME: Final = 14
_TWO_COLUMNS: Final = 100  # from this width on facts stand in two columns
_SIGNS: Final = (("✔", Role.GOOD), ("✘", Role.BAD), ("✗", Role.BAD), ("✖", Role.BAD))
_KEPT: Final = 600  # lines of a story


def fact_lines(facts: Iterable[Fact], width: int) -> list[Line]:
    """Names and values, in two columns where there is room."""
    made: list[list[Piece]] = []
    for name, value in facts:
        made.append([(f"{name.ljust(_NAME)[:_NAME]} ", Role.DIM), *value])
    half = width // 2
    if width < _TWO_COLUMNS or any(width_of(line) >= half for line in made):
        return [tuple(line) for line in made]
    rows = -(-len(made) // 2)
    lines: list[Line] = []
    for left, right in zip(made[:rows], [*made[rows:], *([[]] * (2 * rows - len(made)))], strict=True):
        lines.append((*left, (" " * (half - width_of(left)), Role.PLAIN), *right))
    return lines


def story_lines(story: Sequence[str], width: int) -> list[Line]:
    """A story, its lines broken at `width` with their indent kept."""
    lines: list[Line] = []
    for text in story[:_KEPT]:
        said = printable(text)
        if cell_len(said) <= width:
            lines.append(cell(said, _role(said)))
            continue
        indent = " " * min(len(said) - len(said.lstrip()) + 2, width // 2)
        wrapped = textwrap.wrap(said, width, subsequent_indent=indent, drop_whitespace=False) or [""]
        lines.extend(cell(part, _role(said)) for part in wrapped)
    return lines


def _role(text: str) -> Role:
    start = text.strip()[:1]
    return next((role for sign, role in _SIGNS if start == sign), Role.PLAIN)


def heading(text: str) -> Line:
    """Above the story."""
    return ((text, Role.HEAD),)
