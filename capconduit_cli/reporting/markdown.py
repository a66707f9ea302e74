"""A sheet as Markdown: a heading, facts, and tables that GitHub's flavour knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from capconduit_cli.output import heading, is_right, shown
from capconduit_cli.reporting.sheet import Sheet
from capconduit_cli.reporting.text import TREND, condensed, group_of, sparkline, upright_cells
from capconduit_cli.text import printable

# What Markdown or the HTML in it would take for its own (CommonMark 0.31, 2.4), and the bar of tables.
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|~&$])")


def markdown(sheet: Sheet) -> str:
    """The sheet as Markdown; text in it stays text."""
    lines = [f"# {escaped(sheet.title)}", ""]
    lines += [f"- {escaped(label)}: {escaped(value)}" for label, value in sheet.facts]
    if any(point.calls for point in sheet.trend):
        drawn = sparkline([point.calls for point in condensed(sheet.trend, TREND)])
        lines += [f"- calls by {sheet.trend_step}: `{drawn}`"]
    lines.append("")
    if not sheet.rows:
        lines.append("No calls.")
    elif sheet.upright:
        lines += _upright(sheet)
    else:
        right = [is_right(column) for column in sheet.columns]
        rows = [[shown(c, c.value(row)) for c in sheet.columns] for row in sheet.rows]
        lines += _table([heading(column).lower() for column in sheet.columns], rows, right)
    lines += [line for note in sheet.notes for line in ("", escaped(note))]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """`text` so that Markdown shows it as it is."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def _upright(sheet: Sheet) -> Iterator[str]:
    for row in sheet.rows:
        if len(sheet.rows) > 1:
            yield from ("", f"## {escaped(group_of(row))}", "")
        told = upright_cells(sheet, row)
        compared = any(line.before or line.change for line in told)
        heads = ["measure", "value", *(["before", "change"] if compared else [])]
        yield from _table(heads, [line.texts[: len(heads)] for line in told], [n > 0 for n in range(len(heads))])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> Iterator[str]:
    yield "| " + " | ".join(escaped(head) for head in heads) + " |"
    yield "|" + "|".join("---:" if r else "---" for r in right) + "|"
    for row in rows:
        yield "| " + " | ".join(escaped(cell) for cell in row) + " |"
