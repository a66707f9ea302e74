"""What commands print: stdout is data in the form that was asked for, stderr is everything else."""

from __future__ import annotations

import difflib
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from capconduit.errors import Refused, UsageError
from capconduit.units import format_duration, format_instant, format_micros, parse_duration_ms, parse_money
from capconduit_cli.text import cells, csv_safe, json_safe, printable
from capconduit_cli.typer_seam import Bundle

Row = Mapping[str, object]

# Above this many rows a terminal gets the plain table: rich needs a second for every few thousand rows.
RICH_ROWS: Final = 500
NARROW: Final = 8  # texts of a drawn table are not cut below this
NO_VALUE: Final = "-"
NOTHING: Final = "nothing to show"
GAP: Final = "  "


class OutputFormat(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PLAIN = "plain"


class Kind(StrEnum):
    """What a column holds, and so how it is written.

    | kind | the row's value | JSON, CSV, plain | table |
    |---|---|---|---|
    | text | str | as it is | as it is |
    | money | int, micros | "24.800000" | 24.80 |
    | instant | int, UTC ms | "2026-03-08T06:59:59.999Z" | 2026-03-08 06:59:59Z |
    | duration | int, ms | 90000 | 1m30s |
    | int | int | 5 | 5 |
    | bool | bool | true | yes |
    | names | sequence of str | ["a", "b"] (CSV: a b) | a, b |
    | quantity | Quantity | 5, or "25.500000" of money | 5, 8m20s, 25.50 USD |
    | percent | int, hundredths of a percent | 41.67 | 41.7% |
    | hundredths | int, hundredths | 12.35 | 12.35 |
    | any | whatever JSON has | as it is (CSV: JSON) | as it is |
    """

    TEXT = "text"
    MONEY = "money"
    INSTANT = "instant"
    DURATION = "duration"
    INT = "int"
    BOOL = "bool"
    NAMES = "names"
    QUANTITY = "quantity"
    PERCENT = "percent"
    HUNDREDTHS = "hundredths"
    ANY = "any"


class Unit(StrEnum):
    """What a Quantity counts."""

    CALLS = "calls"
    SECONDS = "seconds"
    MONEY = "money"


@dataclass(frozen=True, order=True)
class Quantity:
    """How much a cap counts or allows: calls, seconds of talk or micros. Rows say `unit` and `currency` beside it."""

    value: int
    unit: Unit = Unit.CALLS
    currency: str = ""

    @property
    def plain(self) -> int | str:
        """As JSON has it: a number, money as decimal text."""
        return format_micros(self.value) if self.unit is Unit.MONEY else self.value

    @property
    def words(self) -> str:
        """As people read it: talk in minutes and seconds, money with its currency where it has one."""
        if self.unit is Unit.MONEY:
            return f"{format_micros(self.value, trim=True)} {self.currency}".rstrip()
        if self.unit is Unit.SECONDS:
            sign, seconds = ("-" if self.value < 0 else ""), abs(self.value)
            return f"{sign}{seconds // 60}m{seconds % 60:02d}s"
        return str(self.value)


_RIGHT: Final = frozenset({Kind.MONEY, Kind.INT, Kind.DURATION, Kind.QUANTITY, Kind.PERCENT, Kind.HUNDREDTHS})
_CUTTABLE: Final = frozenset({Kind.TEXT, Kind.NAMES, Kind.ANY})


@dataclass(frozen=True)
class Column:
    """One field of the output. `key` is its stable JSON name, `source` the row's key where that differs.

    `shown` says whether a table shows it unasked; JSON, JSON lines and CSV always have every column, in this order.
    A money column needs a `currency` column beside it.
    """

    key: str
    kind: Kind = Kind.TEXT
    source: str = ""
    shown: bool = True

    def value(self, row: Row) -> Any:
        """The row's raw value; None where it has none."""
        return row[self.source or self.key]


# Options -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChangeOutput(Bundle):
    """`-o` and `--json` for commands that change something and print what they made."""

    output: Annotated[
        OutputFormat | None,
        typer.Option("--output", "-o", help="Form of the output.", show_default="table"),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Short for --output json.")] = False

    def __post_init__(self) -> None:
        if self.json and self.output not in (None, OutputFormat.JSON):
            raise UsageError("output-conflict", f"--json and --output {self.output} exclude each other", "give one")

    @property
    def format(self) -> OutputFormat:
        """The form that was asked for."""
        return OutputFormat.JSON if self.json else self.output or OutputFormat.TABLE


@dataclass(frozen=True)
class ShowOutput(ChangeOutput):
    """`-o`, `--json` and `--fields` for commands that show one thing."""

    fields: Annotated[str | None, typer.Option("--fields", metavar="A,B", help="Only these fields, in this order.")] = (
        None
    )


@dataclass(frozen=True)
class ListOutput(ShowOutput):
    """All output options, for commands that list."""

    sort: Annotated[
        str | None, typer.Option("--sort", metavar="[-]FIELD", help="Sort by a field; with - from high to low.")
    ] = None
    filter: Annotated[
        list[str],
        typer.Option(
            "--filter", metavar="FIELD=VALUE", help="Only rows whose field is VALUE; FIELD~PART: contains it."
        ),
    ] = field(default_factory=list)
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most N rows.")] = None


Writer = Callable[[Iterable[Row], Sequence[Column]], None]


def pick(columns: Sequence[Column], name: str) -> Column:
    """The column called `name`; UsageError with the nearest one otherwise."""
    for column in columns:
        if column.key == name:
            return column
    known = [column.key for column in columns]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(known)}"
    raise UsageError("field-unknown", f"no field {name!r}", hint)


def _chosen(columns: Sequence[Column], fields: str | None, form: OutputFormat) -> list[Column]:
    """The columns to print. A table leaves out those that are not `shown`."""
    if fields is not None:
        return [pick(columns, name.strip()) for name in fields.split(",")]
    return [column for column in columns if column.shown or form is not OutputFormat.TABLE]


# Rows --------------------------------------------------------------------------------------------------------------


def emit_rows(
    rows: Iterable[Row],
    columns: Sequence[Column],
    opts: ListOutput,
    write: Writer | None = None,
    *,
    empty: str = NOTHING,
) -> None:
    """Print rows to stdout in the form asked for (or by `write`), filtered, then sorted, then limited.

    A table without a row says `empty` to a person at a terminal; empty text where the command says so itself.

    Rows are read one by one except where sorting or a table needs them all. Raises UsageError for unknown fields
    before the first row is read.
    """
    kept, chosen = select_rows(rows, columns, opts)
    if empty and opts.format is OutputFormat.TABLE and write is None and sys.stdout.isatty() and sys.stderr.isatty():
        kept = list(kept)  # a table needs them all in any case
        if not kept:
            notice(empty)
    (write or _WRITERS[opts.format])(kept, chosen)


def write_rows(rows: Iterable[Row], columns: Sequence[Column], form: OutputFormat) -> None:
    """Print rows and columns to stdout that `select_rows` chose already."""
    _WRITERS[form](rows, columns)


def select_rows(
    rows: Iterable[Row], columns: Sequence[Column], opts: ListOutput
) -> tuple[Iterable[Row], Sequence[Column]]:
    """The rows and columns that `opts` choose: filtered, then sorted, then limited. Raises UsageError."""
    _check_columns(columns)
    chosen = _chosen(columns, opts.fields, opts.format)
    order = pick(columns, opts.sort.removeprefix("-")) if opts.sort else None
    tests = [_test(columns, text) for text in opts.filter]
    kept: Iterable[Row] = (row for row in rows if all(test(row) for test in tests)) if tests else rows
    if order is not None:
        kept = _sorted(kept, order, descending=(opts.sort or "").startswith("-"))
    if opts.limit is not None:
        kept = itertools.islice(kept, opts.limit)
    return kept, chosen


def emit_one(row: Row, columns: Sequence[Column], opts: ChangeOutput) -> None:
    """Print one thing to stdout: a JSON object, or as a table one field a line."""
    _check_columns(columns)
    fields = opts.fields if isinstance(opts, ShowOutput) else None
    # One thing has room for all of it: what a list hides for its width is shown here.
    whole = opts.format is OutputFormat.TABLE and not fields
    chosen = columns if whole else _chosen(columns, fields, opts.format)
    if opts.format is OutputFormat.JSON:
        _write(json_safe(_json_object(row, chosen, indent=2)) + "\n")
    elif opts.format is OutputFormat.TABLE:
        width = max(len(column.key) for column in chosen)
        _write("".join(f"{c.key.ljust(width)}{GAP}{_cell(c, c.value(row))}\n" for c in chosen))
    else:
        _WRITERS[opts.format]([row], chosen)


def emit_text(lines: Iterable[str]) -> None:
    """Print lines for people to stdout; control characters in them are made visible."""
    for line in lines:
        _write(printable(line) + "\n")


def _check_columns(columns: Sequence[Column]) -> None:
    keys = {column.key for column in columns}
    assert len(keys) == len(columns), "two columns have the same key"
    has_money = any(column.kind is Kind.MONEY for column in columns)
    assert not has_money or "currency" in keys, "money needs its currency beside it"


def _sorted(rows: Iterable[Row], column: Column, *, descending: bool) -> list[Row]:
    """Rows in the order of a column's raw values; rows without a value come last either way."""
    valued: list[Row] = []
    empty: list[Row] = []
    for row in rows:
        (empty if column.value(row) is None else valued).append(row)

    def key(row: Row) -> Any:
        value = column.value(row)
        return value.casefold() if isinstance(value, str) else str(value) if column.kind is Kind.ANY else value

    return sorted(valued, key=key, reverse=descending) + empty


def _test(columns: Sequence[Column], text: str) -> Callable[[Row], bool]:
    """What `field=value` demands of a row, or `field~part`; an empty value demands that there is none."""
    sign = min("=~", key=lambda s: text.find(s) % (len(text) + 1))  # whichever comes first
    name, found, wanted = text.partition(sign)
    if not found:
        raise UsageError(
            "filter-invalid", f"{text!r} is not a filter", "write it like --filter status=active or --filter name~sol"
        )
    column = pick(columns, name.strip())
    if sign == "~":
        part = wanted.casefold()
        return lambda row: part in _text(column, column.value(row)).casefold()
    if not wanted:
        return lambda row: column.value(row) in (None, "", (), [])
    match column.kind:
        case Kind.MONEY:
            micros = parse_money(wanted, signed=True)
            return lambda row: column.value(row) == micros
        case Kind.DURATION:
            # The machine form is milliseconds; the human form has a unit.
            wanted_ms = int(wanted) if wanted.isascii() and wanted.isdigit() else parse_duration_ms(wanted)
            return lambda row: column.value(row) == wanted_ms
        case Kind.INSTANT:
            return lambda row: column.value(row) is not None and _text(column, column.value(row)).startswith(wanted)
        case Kind.BOOL:
            return lambda row: wanted.casefold() in (("yes", "true") if column.value(row) else ("no", "false"))
        case Kind.NAMES:
            return lambda row: wanted in (column.value(row) or ())
        case _:
            return lambda row: _text(column, column.value(row)).casefold() == wanted.casefold()


# Values ------------------------------------------------------------------------------------------------------------


def _json(column: Column, value: Any) -> object:
    """The value as JSON has it."""
    if value is None:
        return None
    match column.kind:
        case Kind.MONEY:
            return format_micros(value)
        case Kind.INSTANT:
            return format_instant(value)
        case Kind.BOOL:
            return bool(value)
        case Kind.NAMES:
            return list(value)
        case Kind.QUANTITY:
            return value.plain
        case Kind.PERCENT | Kind.HUNDREDTHS:
            return value / 100
        case _:
            return value


def _text(column: Column, value: Any) -> str:
    """The value as CSV and plain output have it: exact, for machines; nothing where there is no value."""
    plain = _json(column, value)
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if column.kind is Kind.NAMES:
        return " ".join(value)
    if isinstance(plain, list | dict | tuple):
        return _dumps(plain)
    return str(plain)


def _cell(column: Column, value: Any) -> str:
    """The value as a table shows it to people; control characters are made visible."""
    if value is None or value == "":
        return NO_VALUE
    if column.kind is Kind.TEXT and isinstance(value, str):
        return printable(value)  # most cells; lists of ten thousand rows are to be quick
    match column.kind:
        case Kind.MONEY:
            return format_micros(value, trim=True)
        case Kind.INSTANT:
            return format_instant(value)[:19].replace("T", " ") + "Z"
        case Kind.DURATION:
            return format_duration(value)
        case Kind.BOOL:
            return "yes" if value else "no"
        case Kind.NAMES:
            return printable(", ".join(value)) or NO_VALUE
        case Kind.QUANTITY:
            return str(value.words)
        case Kind.PERCENT:
            return f"{value / 100:.1f}%"
        case Kind.HUNDREDTHS:
            return f"{value / 100:.2f}"
        case _:
            return printable(_text(column, value))


def shown(column: Column, value: Any) -> str:
    """The value as a table shows it to people."""
    return _cell(column, value)


def heading(column: Column) -> str:
    """The column's heading in a table."""
    return _heading(column)


def is_right(column: Column) -> bool:
    """Whether tables align it to the right, as numbers are."""
    return column.kind in _RIGHT


def _dumps(value: object, indent: int | None = None) -> str:
    import json  # tables do not need it

    return json.dumps(value, ensure_ascii=False, indent=indent)


def json_object(row: Row, columns: Sequence[Column]) -> dict[str, object]:
    """A row as JSON has it, to stand inside of another object."""
    return {column.key: _json(column, column.value(row)) for column in columns}


def _json_object(row: Row, columns: Sequence[Column], indent: int | None = None) -> str:
    return _dumps(json_object(row, columns), indent)


# Writers -----------------------------------------------------------------------------------------------------------


def _write(text: str) -> None:
    sys.stdout.write(text)


def _write_json(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    """One array, one row a line, written as the rows come."""
    lead = "[\n"
    for row in rows:
        _write(lead + json_safe(_json_object(row, columns)))
        lead = ",\n"
    _write("\n]\n" if lead != "[\n" else "[]\n")


def _write_jsonl(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    for row in rows:
        _write(json_safe(_json_object(row, columns)) + "\n")


def _write_csv(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    import csv  # only here

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    for row in rows:
        writer.writerow([csv_safe(printable(_text(column, column.value(row)))) for column in columns])


def _write_plain(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    """Tab separated, no header; a tab in a value is written as `\\t`."""
    for row in rows:
        _write("\t".join(printable(_text(column, column.value(row))) for column in columns) + "\n")


def _write_table(rows: Iterable[Row], columns: Sequence[Column]) -> None:
    table = [[_cell(column, column.value(row)) for column in columns] for row in rows]
    if sys.stdout.isatty() and len(table) <= RICH_ROWS and os.environ.get("TERM") != "dumb":
        _draw(table, columns)
    else:
        _write("".join(_aligned(table, columns)))


def _heading(column: Column) -> str:
    return column.key.removesuffix("_ms").upper()


def _aligned(table: Sequence[Sequence[str]], columns: Sequence[Column]) -> Iterator[str]:
    """Lines of columns two spaces apart; nothing is cut, nothing is drawn."""
    if not table:
        return
    headings = [_heading(column) for column in columns]
    widths = [max(map(cells, column)) for column in zip(headings, *table, strict=True)]
    right = [column.kind in _RIGHT for column in columns]
    template = GAP.join(f"{{:{'>' if r else '<'}{width}}}" for width, r in zip(widths, right, strict=True))
    for line in [headings, *table]:
        if all(map(str.isascii, line)):
            yield template.format(*line).rstrip() + "\n"  # three times as fast, and most lines are
            continue
        padded = []
        for text, width, to_right in zip(line, widths, right, strict=True):
            space = " " * (width - cells(text))
            padded.append(space + text if to_right else text + space)
        yield GAP.join(padded).rstrip() + "\n"


def _draw(table: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    """The table as rich draws it on a terminal: fitted to its width, the header bold unless NO_COLOR."""
    if not table:
        return
    from rich.console import Console  # 60 ms, and only people on a terminal need it
    from rich.table import Table
    from rich.text import Text

    headings = [_heading(column) for column in columns]
    widest = [max(map(cells, column)) for column in zip(headings, *table, strict=True)]
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    gaps = len(GAP) * (len(columns) - 1)
    widths = _fitted(widest, columns, console.width - gaps)
    # Where even that does not fit, the terminal breaks the lines: no column disappears.
    console.width = max(console.width, sum(widths) + gaps)
    drawn = Table.grid(padding=(0, len(GAP), 0, 0), pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        side: Any = "right" if column.kind in _RIGHT else "left"
        drawn.add_column(justify=side, no_wrap=True, overflow="ellipsis", width=width)
    drawn.add_row(*(Text(heading, style="bold") for heading in headings))
    for line in table:
        drawn.add_row(*(Text(cell) for cell in line))
    console.print(drawn, soft_wrap=False, crop=False)


def _fitted(widths: Sequence[int], columns: Sequence[Column], space: int) -> list[int]:
    """Widths that fit into `space`, the widest texts cut first.

    The first column names the row and numbers are read to the last digit: these are never cut.
    """
    cuttable = [number > 0 and column.kind in _CUTTABLE for number, column in enumerate(columns)]
    cut = list(widths)
    for cap in range(max(widths), NARROW - 1, -1):
        cut = [min(width, cap) if may else width for width, may in zip(widths, cuttable, strict=True)]
        if sum(cut) <= space:
            break
    return cut


_WRITERS: Final[Mapping[OutputFormat, Callable[[Iterable[Row], Sequence[Column]], None]]] = {
    OutputFormat.TABLE: _write_table,
    OutputFormat.JSON: _write_json,
    OutputFormat.JSONL: _write_jsonl,
    OutputFormat.CSV: _write_csv,
    OutputFormat.PLAIN: _write_plain,
}


# Talking -----------------------------------------------------------------------------------------------------------


def notice(text: str) -> None:
    """Say something to the person, on stderr."""
    sys.stdout.flush()  # what was printed before stays before
    print(printable(text), file=sys.stderr)  # noqa: T201  # stderr is for people


def confirm(question: str, *, yes: bool, default: bool = False) -> None:
    """Ask before something is destroyed. Returns when the answer is yes or `--yes` was given.

    `default` is what Enter alone says; the end of the input is never a yes.

    Raises UsageError without a terminal to ask on, Refused when the answer is anything else.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("confirmation-needed", f"{question} There is no terminal to ask on", "give --yes to do it")
    sys.stderr.write(f"{printable(question)} [{'Y/n' if default else 'y/N'}] ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    answer = line.strip().casefold() or ("y" if default and line else "")
    if answer not in ("y", "yes"):
        raise Refused("not-confirmed", "nothing was changed")
