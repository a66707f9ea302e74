"""A sheet as text: bars and sparklines of block characters, no boxes; colours only where a terminal has them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit_cli.output import GAP, Column, Row, heading, is_right, shown
from capconduit_cli.reporting.sheet import BEFORE, CHANGE, MEASURE_COLUMNS, Point, Sheet, bar_of
from capconduit_cli.text import cells, printable

BAR: Final = 20  # characters of the longest bar
LEAST_BAR: Final = 6  # where there is less room there are no bars
TREND: Final = 60  # characters of a sparkline at most
PIPE_WIDTH: Final = 0  # no width: nothing is left out
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
# What narrow terminals do without, the first first.
_SPARED: Final = (
    "seller", "payout", "pdd_ms", "billable", "rejected", "margin", "acd_ms", "minutes", "meaning", "revenue",
    "currency", "calls_change",
)  # fmt: skip

Segment = tuple[str, str]  # text and rich style
Text = list[list[Segment]]


@dataclass(frozen=True)
class Paper:
    """What is written on: its width (0: any), and whether it knows block characters."""

    width: int = PIPE_WIDTH
    blocks: bool = True


def print_sheet(sheet: Sheet, *, all_columns: bool) -> None:
    """Write a sheet to stdout: fitted and coloured on a terminal (NO_COLOR and TERM=dumb are respected), plain in a
    pipe."""
    encoding = (sys.stdout.encoding or "utf-8").lower().replace("-", "")
    blocks = encoding.startswith(("utf", "cp65001"))
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        sys.stdout.write(plain(lines_of(sheet, Paper(blocks=blocks))))
        return
    from rich.console import Console  # only people on a terminal need it
    from rich.text import Text as RichText

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    for line in lines_of(sheet, Paper(PIPE_WIDTH if all_columns else console.width, blocks)):
        console.print(RichText.assemble(*line), soft_wrap=True)


def plain(text: Text) -> str:
    """The text without styles."""
    return "".join("".join(part for part, _ in line).rstrip() + "\n" for line in text)


def lines_of(sheet: Sheet, paper: Paper) -> Text:
    """The lines of a sheet."""
    text: Text = [[(printable(sheet.title), "bold")]]
    text += [[(f"{printable(label)}: ", "dim"), (printable(value), "")] for label, value in sheet.facts]
    if any(point.calls or point.before for point in sheet.trend):
        text += _trend(sheet, paper)
    text.append([])
    if not sheet.rows:
        text.append([("no calls", "")])
    elif sheet.upright:
        text += _upright(sheet, paper)
    else:
        text += _table(sheet, paper)
    text += [[(printable(note), "dim")] for note in sheet.notes]
    return text


# Drawing -----------------------------------------------------------------------------------------------------------


def sparkline(values: Sequence[int], *, blocks: bool = True) -> str:
    """A character for each value, as high as it is; the smallest that is not 0 is still seen."""
    most = max(values, default=0)
    if not blocks:
        return "".join(".:-=+*#%@"[-(-value * 8 // most) if most else 0] for value in values)
    return "".join(_EIGHTHS[-(-value * 8 // most) if most else 0] for value in values)


def bar(part: int, whole: int, most: int, width: int, *, blocks: bool = True) -> tuple[str, str]:
    """A bar for `whole` of `most` in two pieces: `part` of it, and the rest."""
    length = -(-whole * width // most) if most > 0 else 0
    solid = part * length // whole if whole > 0 else 0
    full, light = ("█", "░") if blocks else ("#", ".")
    return full * solid, light * (length - solid)


def condensed(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: neighbours are added."""
    size = -(-len(points) // most) if points else 1
    return [
        Point(
            group[0].label,
            sum(point.calls for point in group),
            sum(point.connected for point in group),
            None if group[0].before is None else sum(point.before or 0 for point in group),
        )
        for group in (points[at : at + size] for at in range(0, len(points), size))
    ]


def _trend(sheet: Sheet, paper: Paper) -> Iterator[list[Segment]]:
    room = min(paper.width or TREND + 20, TREND + 20) - 20
    points = condensed(sheet.trend, max(room, 10))
    most = max(sheet.trend, key=lambda point: point.calls)
    yield [
        (f"calls by {sheet.trend_step}: ", "dim"),
        (sparkline([point.calls for point in points], blocks=paper.blocks), "green"),
        (f" most {most.calls} ({most.label})", "dim"),
    ]
    if any(point.before for point in points):
        before = sparkline([point.before or 0 for point in points], blocks=paper.blocks)
        yield [(f"{'before'.rjust(len(f'calls by {sheet.trend_step}'))}: ", "dim"), (before, "cyan")]


def _table(sheet: Sheet, paper: Paper) -> Iterator[list[Segment]]:
    columns, room = _fitted(sheet, paper)
    left_out = [heading(c) for c in sheet.columns if c not in columns]
    table = [[shown(c, c.value(row)) for c in columns] for row in sheet.rows]
    heads = [heading(c) for c in columns]
    widths = [max(map(cells, column)) for column in zip(heads, *table, strict=True)]
    yield [(_aligned(heads, widths, columns), "bold")]
    for line, row in zip(table, sheet.rows, strict=True):
        solid, light = bar(*bar_of(row), sheet.most, room, blocks=paper.blocks)
        yield [(_aligned(line, widths, columns) + GAP, ""), (solid, "green"), (light, "dim")]
    if left_out:
        yield [(f"not shown for want of room: {', '.join(left_out).lower()}; see --fields", "dim")]


def _fitted(sheet: Sheet, paper: Paper) -> tuple[list[Column], int]:
    """The columns that fit, and the room for bars."""
    columns = list(sheet.columns)
    widths = {
        c.key: max([cells(heading(c)), *(cells(shown(c, c.value(row))) for row in sheet.rows)]) + len(GAP)
        for c in columns
    }
    if not any(bar_of(row)[1] for row in sheet.rows) or not any(c.key == "calls" for c in columns):
        return columns, 0
    if not paper.width:
        return columns, BAR
    for key in _SPARED:
        if sum(widths[c.key] for c in columns) <= paper.width:
            break
        columns = [c for c in columns if c.key != key]
    room = paper.width - sum(widths[c.key] for c in columns)
    return columns, min(room, BAR) if room >= LEAST_BAR else 0


def _aligned(line: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = []
    for text, width, column in zip(line, widths, columns, strict=True):
        space = " " * (width - cells(text))
        padded.append(space + text if is_right(column) else text + space)
    return GAP.join(padded)


@dataclass(frozen=True)
class Told:
    """A number of a row on a line of its own. `better`: 1 where the change is for the better, -1 for the worse."""

    name: str
    value: str
    before: str
    change: str
    better: int

    @property
    def texts(self) -> tuple[str, str, str, str]:
        """What is written of it."""
        return self.name, self.value, self.before, self.change


def upright_cells(sheet: Sheet, row: Row) -> list[Told]:
    """A row as one number a line; those that have no meaning are left out."""
    from capconduit.domain.stats import MEASURES

    found: list[Told] = []
    chosen = {column.key: column for column in sheet.columns}
    for column in MEASURE_COLUMNS:
        if column.key not in chosen or row.get(column.key) is None:
            continue
        name = column.key.removesuffix("_ms")
        before, change = row.get(column.key + BEFORE), row.get(column.key + CHANGE)
        sign = change * MEASURES[name].better if isinstance(change, int) else 0
        points = MEASURES[name].unit == "percent"
        found.append(
            Told(
                name=name.replace("_", " "),
                value=shown(column, row[column.key]),
                before=shown(column, before) if before is not None else "",
                change=change_text(change, points=points) if isinstance(change, int) else "",
                better=(sign > 0) - (sign < 0),
            )
        )
    return found


def change_text(change: int, *, points: bool) -> str:
    """`+12.3%`, or `+1.2 points` of what is a percentage itself."""
    shown_change = f"{change / 100:+.1f}".replace("-0.0", "+0.0")
    return shown_change + (" points" if points else "%")


def group_of(row: Row) -> str:
    """What the calls of a row that stands beside rows of other currencies are."""
    return "all calls" if row.get("currency") is None else str(row["currency"]) or "without currency"


def _upright(sheet: Sheet, paper: Paper) -> Iterator[list[Segment]]:
    """Rows one number a line; where there is no room, without what was before."""
    blocks = [(row, upright_cells(sheet, row)) for row in sheet.rows]
    every = [line for _, told in blocks for line in told]
    widths = [max((cells(line.texts[n]) for line in every), default=0) for n in range(4)]
    compared = any(line.before or line.change for line in every)
    widths[2:] = [max(widths[2], len("BEFORE")), max(widths[3], len("CHANGE"))]
    roomy = not paper.width or sum(widths) + 3 * len(GAP) <= paper.width
    for row, told in blocks:
        if len(blocks) > 1:
            yield [(printable(group_of(row)), "bold")]
        if compared:
            heads = [" " * widths[0], "NOW".rjust(widths[1])]
            heads += ["BEFORE".rjust(widths[2])] if roomy else []
            yield [(GAP.join([*heads, "CHANGE".rjust(widths[3])]), "bold")]
        for one in told:
            line: list[Segment] = [(f"{one.name.ljust(widths[0])}{GAP}", ""), (one.value.rjust(widths[1]), "bold")]
            if compared:
                style = {1: "green", -1: "red"}.get(one.better, "dim")
                line += [(GAP + one.before.rjust(widths[2]), "dim")] if roomy else []
                line.append((GAP + one.change.rjust(widths[3]), style))
            yield line
