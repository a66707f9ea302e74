"""A report as a sheet: title, columns, rows and trend, which each form of output then writes in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from capconduit_cli.output import Column, Kind, Row

if TYPE_CHECKING:
    from capconduit.domain.stats import Line
    from capconduit.services.reports import Report

BEFORE: Final = "_before"  # ends the key of a measure of the period before
CHANGE: Final = "_change"

# The columns of measures, in the order in which they are told. The key is the measure's, with its unit.
MEASURE_COLUMNS: Final = (
    Column("calls", Kind.INT),
    Column("attempted", Kind.INT, shown=False),
    Column("connected", Kind.INT),
    Column("billable", Kind.INT),
    Column("rejected", Kind.INT),
    Column("unanswered", Kind.INT, shown=False),
    Column("asr", Kind.PERCENT),
    Column("abr", Kind.PERCENT, shown=False),
    Column("acd_ms", Kind.DURATION),
    Column("pdd_ms", Kind.DURATION),
    Column("minutes", Kind.HUNDREDTHS),
    Column("billed_minutes", Kind.HUNDREDTHS, shown=False),
    Column("revenue", Kind.MONEY),
    Column("payout", Kind.MONEY),
    Column("margin", Kind.MONEY),
    Column("margin_percent", Kind.PERCENT, shown=False),
    Column("written_off", Kind.MONEY, shown=False),
)
_PLACES: Final = {"percent": 2, "minutes": 2}


@dataclass(frozen=True)
class Point:
    """One step of the trend."""

    label: str
    calls: int
    connected: int
    before: int | None = None


@dataclass(frozen=True)
class Sheet:
    """`upright`: few rows of many numbers, told one number a line. `bars` has (connected, calls) of each row, by its
    place in `rows`; `words` the names that narrow tables keep."""

    title: str
    facts: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    rows: Sequence[Row]
    trend: Sequence[Point] = ()
    trend_step: str = ""
    upright: bool = False
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def most(self) -> int:
        """The calls of the largest row."""
        return max((bar_of(row)[1] for row in self.rows), default=0)


def bar_of(row: Row) -> tuple[int, int]:
    """Connected calls and calls of a row."""
    calls, connected = row.get("calls"), row.get("connected")
    return (connected if isinstance(connected, int) else 0), (calls if isinstance(calls, int) else 0)


def measure_of(column: Column) -> str:
    """The measure that a column shows."""
    return column.key.removesuffix("_ms")


def values_of(line: Line, columns: Sequence[Column], *, compared: bool) -> dict[str, Any]:
    """The measures of a line as rows have them; amounts are empty where there is no currency, or several."""
    values: dict[str, Any] = {"currency": None if line.mixed else line.currency}
    for column in columns:
        values[column.key] = _shown(line, column, before=False)
        if compared:
            values[column.key + BEFORE] = _shown(line, column, before=True)
            values[column.key + CHANGE] = _change(line, column)
    return values


def _shown(line: Line, column: Column, *, before: bool) -> int | None:
    from capconduit.domain.stats import MEASURES, rounded, value_of

    name = measure_of(column)
    if not line.currency and (MEASURES[name].unit == "money" or name == "margin_percent"):
        return None
    value = value_of(name, line, before=before)
    return None if value is None else rounded(value, _PLACES.get(MEASURES[name].unit, 0))


def _change(line: Line, column: Column) -> int | None:
    """By how many percent; of what is a percentage itself, by how many points."""
    from capconduit.domain.stats import MEASURES, change_percent, rounded, value_of

    name = measure_of(column)
    if not line.currency and MEASURES[name].unit == "money":
        return None
    now, then = value_of(name, line), value_of(name, line, before=True)
    if MEASURES[name].unit == "percent":
        return rounded(now - then, 2) if now is not None and then is not None else None
    change = change_percent(now, then)
    return None if change is None else rounded(change, 2)


def compared_columns(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The same columns and, for each measure, that of the period before and the change; tables show the change of the
    number of calls alone."""
    measures = [column for column in columns if column in MEASURE_COLUMNS]
    then = [Column(column.key + BEFORE, column.kind, shown=False) for column in measures]
    change = [Column(column.key + CHANGE, Kind.PERCENT, shown=column.key == "calls") for column in measures]
    return (*columns, *then, *change)


def local(at_ms: int, zone: str, form: str = "%Y-%m-%d %H:%M") -> str:
    """An instant as people in `zone` write it."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return moment.astimezone(ZoneInfo(zone)).strftime(form)


def span_text(from_ms: int, until_ms: int, zone: str) -> str:
    """`2026-11-20` for a whole day, else `2026-11-20 09:00 to 2026-11-21 00:00`."""
    start, end = local(from_ms, zone), local(until_ms, zone)
    if start.endswith("00:00") and end.endswith("00:00"):
        last = local(until_ms - 1, zone, "%Y-%m-%d")
        return start[:10] if last == start[:10] else f"{start[:10]} to {last}"
    return f"{start} to {end}"


_LABELS: Final[Mapping[str, str]] = {"hour": "%m-%d %H:%M", "day": "%Y-%m-%d", "month": "%Y-%m"}


def points_of(report: Report) -> list[Point]:
    """The trend of a report, all currencies together: it counts calls."""
    form = _LABELS[str(report.trend_kind)]
    sums: dict[tuple[str | int, ...], tuple[int, int, int | None]] = {}
    for line in report.trend:
        calls, connected, before = sums.get(line.key, (0, 0, None))
        was = line.before.calls + (before or 0) if line.before is not None else before
        sums[line.key] = (calls + line.sums.calls, connected + line.sums.connected, was)
    return [
        Point(local(int(key[0]), report.zone, form), calls, connected, before)
        for key, (calls, connected, before) in sums.items()
    ]
