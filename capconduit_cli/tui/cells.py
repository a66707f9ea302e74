"""Pieces of styled text, and how numbers, instants, bars and curves become them. Hostile text is made safe here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from rich.cells import cell_len, set_cell_size

from capconduit.units import MICROS_PER_UNIT, MS_PER_SECOND, format_micros
from capconduit.vocab import CapMetric
from capconduit_cli.text import printable
from capconduit_cli.tui.themes import Role

Piece = tuple[str, Role]
Cell = Sequence[Piece]
Line = Sequence[Piece]

BLANK: Final[Cell] = (("", Role.PLAIN),)
NOTHING: Final[Cell] = (("–", Role.DIM),)
BLOCKS: Final = " ▁▂▃▄▅▆▇█"
EIGHTHS: Final = len(BLOCKS) - 1
USED, IN_FLIGHT, FREE = "█", "▒", "·"  # told apart without colour
ZERO: Final[Cell] = (("0", Role.DIM),)
CUT: Final = "…"
MAX_TEXT: Final = 2_000  # of one text that is drawn; more is cut before anything is measured

_S, _M, _H, _D = 1, 60, 3_600, 86_400


def cell(text: str, role: Role = Role.PLAIN) -> Cell:
    """One piece of text of our own."""
    return ((text, role),)


def safe(text: str, role: Role = Role.PLAIN) -> Cell:
    """One piece of anybody's text: control characters visible, of a bearable length."""
    return ((printable(text[:MAX_TEXT]), role),)


def fit(text: str, width: int) -> str:
    """`text` in exactly `width` columns; what is cut ends in `…`. Wide characters are never halved."""
    if text.isascii():
        length = len(text)
        if length <= width:
            return text + " " * (width - length)
        return text[: width - 1] + CUT if width > 0 else ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + CUT if width > 0 else ""


def fit_text(text: str, width: int) -> str:
    """Anybody's text in at most `width` columns."""
    said = printable(text[:MAX_TEXT])
    return said if cell_len(said) <= width else fit(said, width)


def fit_cell(pieces: Cell, width: int, *, right: bool = False) -> list[Piece]:
    """Pieces in exactly `width` columns, at their left or right end."""
    if len(pieces) == 1:
        text, role = pieces[0]
        if right:
            room = width - cell_len(text)
            text = " " * room + text if room > 0 else text
        return [(fit(text, width), role)]
    total = sum(cell_len(text) for text, _ in pieces)
    if total <= width:
        blank = (" " * (width - total), Role.PLAIN)
        return [blank, *pieces] if right else [*pieces, blank]
    fitted: list[Piece] = []
    for text, role in pieces:
        if width <= 0:
            break
        length = cell_len(text)
        fitted.append((text if length < width else fit(text + CUT, width), role))
        width -= length
    return fitted


def money(micros: int, *, places: int = 2) -> str:
    """An amount to look at: `places` decimals, cut towards zero, so that no more is shown than there is."""
    text = format_micros(micros)
    return text[: len(text) - 6 + places] if places else text[:-7]


def short_money(micros: int, width: int) -> str:
    """An amount within `width` columns where it can be: decimals go first, then thousands are written `k`, `M`."""
    for text in (format_micros(micros, trim=True), money(micros)):
        if len(text) <= width:
            return text
    whole = money(micros, places=0)
    if len(whole) <= width:
        return whole
    units = abs(micros) // MICROS_PER_UNIT
    sign = "-" if micros < 0 else ""
    for factor, letter in ((1_000, "k"), (1_000_000, "M")):
        if len(f"{sign}{units // factor}{letter}") <= width:
            break
    return f"{sign}{units // factor}{letter}"


def clock(duration_ms: int) -> str:
    """A duration in at most six columns: `0:07`, `12:34`, `3h07m`, `12d05h`."""
    sign, seconds = ("-" if duration_ms < 0 else ""), abs(duration_ms) // MS_PER_SECOND
    if seconds < _H:
        return f"{sign}{seconds // _M}:{seconds % _M:02d}"
    if seconds < _D:
        return f"{sign}{seconds // _H}h{seconds % _H // _M:02d}m"
    if seconds < 100 * _D:
        return f"{sign}{seconds // _D}d{seconds % _D // _H:02d}h"
    return f"{sign}{min(seconds // _D, 99_999)}d"


def time_of_day(instant_ms: int) -> str:
    """`03:00:12` in UTC."""
    return _moment(instant_ms, "%H:%M:%S")


def date_and_time(instant_ms: int) -> str:
    """`2026-03-08 03:00:12Z`."""
    return _moment(instant_ms, "%Y-%m-%d %H:%M:%SZ")


def _moment(instant_ms: int, form: str) -> str:
    try:
        return datetime.fromtimestamp(instant_ms // MS_PER_SECOND, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):  # a daemon may send anything
        return "?"


def quantity(value: int, metric: str) -> str:
    """What a cap counts: calls, talk as minutes and seconds, or money."""
    if metric == CapMetric.SPEND:
        return money(value)
    if metric == CapMetric.MINUTES:
        seconds = abs(value) // MS_PER_SECOND
        return f"{'-' if value < 0 else ''}{seconds // _M}m{seconds % _M:02d}s"
    return str(value)


def per_mille(part: int, whole: int) -> int:
    """`part` of `whole` in thousandths, rounded down; a limit of nothing is full."""
    return part * 1_000 // whole if whole > 0 else 1_000


def fill_role(thousandths: int) -> Role:
    """How full something is: full, nearly full, or fine."""
    return Role.BAD if thousandths >= 1_000 else Role.WARN if thousandths >= 800 else Role.GOOD


def bar(used: int, in_flight: int, limit: int, width: int) -> Cell:
    """`████▒▒····`: used, in flight, free. What is used at all shows; only a full cap has no free column."""
    if width <= 0:
        return BLANK
    taken = max(used, 0) + max(in_flight, 0)
    full = taken >= limit
    columns = width if full else min(-(-taken * width // limit), width - 1)
    solid = columns if in_flight <= 0 else max(min(max(used, 0) * columns // taken if taken else 0, columns - 1), 0)
    role = fill_role(per_mille(taken, limit))
    pieces = ((USED * solid, role), (IN_FLIGHT * (columns - solid), role), (FREE * (width - columns), Role.DIM))
    return tuple(piece for piece in pieces if piece[0]) or BLANK


def spark(counts: Sequence[int], width: int) -> str:
    """The last `width` of `counts` as a curve one line high; what is more than nothing is seen."""
    shown = counts[-width:] if width > 0 else ()
    top = max(shown, default=0)
    curve = "".join(BLOCKS[0 if n <= 0 else max(n * EIGHTHS // top, 1)] for n in shown)
    return curve.rjust(width)


def graph(values: Sequence[float], width: int, height: int, role: Role = Role.INFO) -> list[Line]:
    """The last `width` of `values` as columns `height` lines high, the highest of them as high as the graph."""
    shown = list(values[-width:])
    top = max(shown, default=0)
    levels = [0 if value <= 0 or top <= 0 else max(int(value * height * EIGHTHS / top), 1) for value in shown]
    lines: list[Line] = []
    for row in range(height - 1, -1, -1):
        text = "".join(BLOCKS[min(max(level - row * EIGHTHS, 0), EIGHTHS)] for level in levels)
        lines.append(((text.rjust(width), role),))
    return lines


def width_of(pieces: Iterable[Piece]) -> int:
    """Columns that they take."""
    return sum(cell_len(text) for text, _ in pieces)
