"""A sheet as one HTML file: styles and drawings are in it, scripts are not, and nothing is fetched from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from capconduit_cli.output import heading, is_right, shown
from capconduit_cli.reporting.sheet import Point, Sheet, bar_of
from capconduit_cli.reporting.text import condensed, group_of, upright_cells
from capconduit_cli.text import printable

CHART_WIDTH: Final = 960
CHART_HEIGHT: Final = 200
AXIS_HEIGHT: Final = 24
MOST_BARS: Final = 192
LABELS: Final = 8  # below the chart
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --dim: #667; --line: #d8dce2; --on: #2f7d4f;
  --off: #c9d3cd; --then: #b0721a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --dim: #9aa3ad; --line: #343a42;
  --on: #53b57b; --off: #3b4a42; --then: #e0a458; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .4rem; } h2 { font-size: 1.1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 1rem; color: var(--dim); }
dd { margin: 0; color: var(--ink); }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } .r { text-align: right; } .dim { color: var(--dim); } .up { color: var(--on); }
.down { color: #c0392b; } .bar { min-width: 8rem; } .wide { overflow-x: auto; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: var(--dim); }
.on { fill: var(--on); background: var(--on); } .off { fill: var(--off); background: var(--off); }
.then { stroke: var(--then); fill: none; stroke-width: 1.5; }
.key { display: inline-block; width: .7em; height: .7em; margin: 0 .3em 0 .8em; }
.track { display: flex; height: .8rem; } .track span { display: block; }
"""


def page(sheet: Sheet) -> str:
    """The sheet as HTML. Every text is escaped; the policy forbids everything but the styles in the file."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width">',
            f"<title>{text(sheet.title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{text(sheet.title)}</h1>",
            _facts(sheet),
            _chart(sheet),
            *_body(sheet),
            *(f'<p class="dim">{text(note)}</p>' for note in sheet.notes),
            "</body></html>",
            "",
        ]
    )


def text(value: str) -> str:
    """`value` as text of HTML, also within quotes; what is invisible is made visible."""
    return escape(printable(value), quote=True)


def _facts(sheet: Sheet) -> str:
    return "<dl>" + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in sheet.facts) + "</dl>"


def _body(sheet: Sheet) -> Iterator[str]:
    if not sheet.rows:
        yield "<p>No calls.</p>"
    elif sheet.upright:
        yield from _upright(sheet)
    else:
        yield from _table(sheet)


def _table(sheet: Sheet) -> Iterator[str]:
    side = [' class="r"' if is_right(column) else "" for column in sheet.columns]
    heads = [f"<th{s}>{text(heading(c).lower())}</th>" for s, c in zip(side, sheet.columns, strict=True)]
    heads.insert(1, "<th></th>")
    yield f'<div class="wide"><table><thead><tr>{"".join(heads)}</tr></thead><tbody>'
    for row in sheet.rows:
        filled = [f"<td{s}>{text(shown(c, c.value(row)))}</td>" for s, c in zip(side, sheet.columns, strict=True)]
        filled.insert(1, f'<td class="bar">{_track(*bar_of(row), sheet.most)}</td>')
        yield f"<tr>{''.join(filled)}</tr>"
    yield "</tbody></table></div>"


def _track(connected: int, calls: int, most: int) -> str:
    """A bar of two pieces, in tenths of a percent."""
    if not most:
        return ""
    on, off = connected * 1_000 // most, (calls - connected) * 1_000 // most
    pieces = f'<span class="on" style="width:{on / 10}%"></span><span class="off" style="width:{off / 10}%"></span>'
    return f'<div class="track">{pieces}</div>'


def _upright(sheet: Sheet) -> Iterator[str]:
    for row in sheet.rows:
        if len(sheet.rows) > 1:
            yield f"<h2>{text(group_of(row))}</h2>"
        told = upright_cells(sheet, row)
        compared = any(line.before or line.change for line in told)
        more = '<th class="r">before</th><th class="r">change</th>' if compared else ""
        yield f'<table><thead><tr><th></th><th class="r">now</th>{more}</tr></thead><tbody>'
        for one in told:
            way = {1: " up", -1: " down"}.get(one.better, "")
            then = f'<td class="r dim">{text(one.before)}</td><td class="r{way}">{text(one.change)}</td>'
            value = f'<td>{text(one.name)}</td><td class="r">{text(one.value)}</td>'
            yield f"<tr>{value}{then if compared else ''}</tr>"
        yield "</tbody></table>"


def _chart(sheet: Sheet) -> str:
    points = condensed(sheet.trend, MOST_BARS)
    most = max((max(point.calls, point.before or 0) for point in points), default=0)
    if not most:
        return ""
    compared = any(point.before is not None for point in points)
    key = '<span class="on key"></span>connected<span class="off key"></span>other calls'
    then = " · line: the period before" if compared else ""
    return "\n".join(
        [
            f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT + AXIS_HEIGHT}" role="img">',
            f"<title>{text(f'Calls by {sheet.trend_step}')}</title>",
            *_bars(points, most),
            *([_line(points, most)] if compared else []),
            *_labels(points, most),
            "</svg>",
            f'<p class="dim">{text(f"Calls by {sheet.trend_step}, most {most}.")} {key}{text(then)}</p>',
        ]
    )


def _bars(points: Sequence[Point], most: int) -> Iterator[str]:
    width = CHART_WIDTH / len(points)
    for number, point in enumerate(points):
        tall, solid = (CHART_HEIGHT * count / most for count in (point.calls, point.connected))
        place = f'x="{number * width:.1f}" width="{max(width * 0.85, 0.5):.1f}"'
        told = f"{point.label}: {point.calls} calls, {point.connected} connected"
        told += f", {point.before} before" if point.before is not None else ""
        yield (
            f"<g><title>{text(told)}</title>"
            f'<rect class="off" {place} y="{CHART_HEIGHT - tall:.1f}" height="{tall - solid:.1f}"/>'
            f'<rect class="on" {place} y="{CHART_HEIGHT - solid:.1f}" height="{solid:.1f}"/></g>'
        )


def _line(points: Sequence[Point], most: int) -> str:
    width = CHART_WIDTH / len(points)
    places = (
        f"{(number + 0.42) * width:.1f},{CHART_HEIGHT - CHART_HEIGHT * (point.before or 0) / most:.1f}"
        for number, point in enumerate(points)
    )
    return f'<polyline class="then" points="{" ".join(places)}"/>'


def _labels(points: Sequence[Point], most: int) -> Iterator[str]:
    yield f'<text x="2" y="11">{most}</text>'
    every = max(-(-len(points) // LABELS), 1)
    for number in range(0, len(points), every):
        at = number * CHART_WIDTH / len(points)
        yield f'<text x="{at:.1f}" y="{CHART_HEIGHT + 16}">{text(points[number].label)}</text>'
