"""The forms of a statement: text for a mail, a page that stands alone and prints well, and one JSON object."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from capconduit.units import format_micros
from capconduit.vocab import LedgerKind
from capconduit_cli.output import NO_VALUE, json_object
from capconduit_cli.statement import content
from capconduit_cli.text import cells, printable

if TYPE_CHECKING:
    from capconduit.domain.statements import CallLine
    from capconduit.services.statements import MonthStatement

TEXT_WIDTH: Final = 78  # of a mail
NBSP: Final = "\u00a0"
_REASON: Final = 44  # characters of a reason on one line of text

# Nothing is loaded from anywhere: no script, no font, no image. `@page` is what a printer goes by.
_STYLE: Final = """\
@page { size: A4; margin: 18mm 16mm }
:root { color-scheme: light }
body { font: 14px/1.45 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #1b1f24; background: #fff;
  max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .2rem } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem }
p { margin: .2rem 0; color: #57606a }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .5rem; border-bottom: 1px solid #d8dee4; vertical-align: top }
th { font-weight: 600; border-bottom: 2px solid #8c959f } thead { display: table-header-group }
.n { text-align: right; white-space: nowrap } tfoot td, .sum td { font-weight: 600; border-top: 2px solid #8c959f }
tr { break-inside: avoid } h2 { break-after: avoid } td { overflow-wrap: anywhere }
@media print { body { margin: 0; max-width: none; padding: 0; font-size: 11px } }
"""


def money(micros: int) -> str:
    """As people read it: two decimals, more where there are any."""
    return format_micros(micros, trim=True)


def as_json(made: MonthStatement) -> dict[str, Any]:
    """The statement as one object, its groups and entries in arrays."""
    return {
        **json_object(content.head(made), content.HEAD_COLUMNS),
        "call_groups": [json_object(row, content.CALL_COLUMNS) for row in content.call_rows(made)],
        "entries": [json_object(row, content.ENTRY_COLUMNS) for row in content.entry_rows(made)],
    }


def as_text(made: MonthStatement) -> Iterator[str]:
    """The statement as lines of text."""
    told, statement = content.words(made), made.statement
    yield told.title
    yield f"{told.period}, {made.seller.currency}"
    yield ""
    yield _summed("Opening balance", statement.opening_micros)
    if statement.calls:
        yield ""
        yield from _text_calls(made)
    for kind, title in content.TITLES.items():
        entries = [entry for entry in statement.others if entry.kind is kind]
        if entries:
            yield ""
            yield _summed(title, statement.sum_of(kind))
            for entry in entries:
                when = content.local_time(entry.created_ms, made)[:10]
                reason = _cut(entry.reason, _REASON)
                yield f"  {when}  {_padded(reason, _REASON)}  {money(entry.amount_micros):>16}"
    yield ""
    yield _summed("Closing balance", statement.closing_micros)
    written_off = statement.total_calls.written_off_micros
    if written_off:
        yield f"(calls of another {money(written_off)} were not charged: written off)"
    yield ""
    yield from textwrap.wrap(told.note, TEXT_WIDTH)


def _text_calls(made: MonthStatement) -> Iterator[str]:
    total = made.statement.total_calls
    yield _summed("Calls", -total.amount_micros)
    yield f"  {'':<34}{'calls':>8}  {'minutes':>12}  {'amount':>16}"
    for line in made.statement.calls:
        name = _cut(content.group_name(line, made.by), 33)
        yield f"  {_padded(name, 34)}{_counts(line)}"
    if len(made.statement.calls) > 1:
        yield f"  {'all':<34}{_counts(total)}"


def _counts(line: CallLine) -> str:
    return f"{line.calls:>8}  {_minutes(line):>12}  {money(-line.amount_micros):>16}"


def _minutes(line: CallLine) -> str:
    return line.billed_minutes if line.known else NO_VALUE


def _summed(what: str, micros: int) -> str:
    amount = money(micros)
    return f"{what}{amount:>{TEXT_WIDTH - len(what)}}"


def _cut(text: str, width: int) -> str:
    """As much as fits: every character of a line is a statement's own."""
    safe = printable(text)
    if cells(safe) <= width:
        return safe
    while cells(safe) > width - 1:
        safe = safe[:-1]
    return safe + "…"


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


# A page --------------------------------------------------------------------------------------------------------------


def as_html(made: MonthStatement) -> str:
    """The statement as a page that needs nothing else and prints on paper."""
    told, statement = content.words(made), made.statement
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{_safe(told.title)}</title>",
        f"<style>\n{_STYLE}</style></head><body>",
        f"<h1>{_safe(told.title)}</h1>",
        f"<p>{_safe(told.period)} · {_safe(made.seller.currency)}</p>",
        _summary(made),
    ]
    if statement.calls:
        parts.append(_page_calls(made))
    for kind, title in content.TITLES.items():
        rows = [
            [content.local_time(e.created_ms, made).replace(" ", NBSP), e.reason, money(e.amount_micros)]
            for e in statement.others
            if e.kind is kind
        ]
        if rows:
            foot = ["", "sum", money(statement.sum_of(kind))]
            parts.append(f"<h2>{_safe(title)}</h2>" + _table(["When", "What", "Amount"], rows, foot, numbers=1))
    written_off = statement.total_calls.written_off_micros
    if written_off:
        parts.append(f"<p>Calls of another {money(written_off)} were not charged: written off.</p>")
    parts.append(f"<p>{_safe(told.note)}</p><p>Made {content.stamp(made)} by CapConduit.</p></body></html>\n")
    return "\n".join(parts)


def _summary(made: MonthStatement) -> str:
    statement = made.statement
    rows = [["Opening balance", money(statement.opening_micros)]]
    titles = {LedgerKind.CALL: "Calls", **content.TITLES}
    rows += [[title, money(statement.sum_of(kind))] for kind, title in titles.items() if _moved(made, kind)]
    return _table(["", "Amount"], rows, ["Closing balance", money(statement.closing_micros)], numbers=1)


def _moved(made: MonthStatement, kind: LedgerKind) -> bool:
    if kind is LedgerKind.CALL:
        return bool(made.statement.calls)
    return any(entry.kind is kind for entry in made.statement.others)


def _page_calls(made: MonthStatement) -> str:
    def cells_of(name: str, line: CallLine) -> list[str]:
        return [name, str(line.calls), _minutes(line), money(-line.amount_micros)]

    rows = [cells_of(content.group_name(line, made.by), line) for line in made.statement.calls]
    headings = [made.by.capitalize(), "Calls", "Minutes", "Amount"]
    return "<h2>Calls</h2>" + _table(headings, rows, cells_of("all", made.statement.total_calls), numbers=3)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], foot: Sequence[str], *, numbers: int) -> str:
    """A table whose last `numbers` columns are numbers."""
    first = len(headings) - numbers

    def line(tag: str, texts: Sequence[str]) -> str:
        opened = [f"<{tag} class='n'>" if place >= first else f"<{tag}>" for place in range(len(texts))]
        inner = "".join(f"{tag_of}{_safe(text)}</{tag}>" for tag_of, text in zip(opened, texts, strict=True))
        return f"<tr>{inner}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return (
        f"<table><thead>{line('th', headings)}</thead>\n<tbody>\n{body}\n</tbody>"
        f"<tfoot>{line('td', foot)}</tfoot></table>"
    )


def _safe(text: str) -> str:
    """Text that is nothing but text on a page."""
    return escape(printable(text), quote=True)
