"""`capconduit report`: what calls came to, for people, for cron and for other programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import UsageError
from capconduit_cli.app import state
from capconduit_cli.errors import ThresholdCrossed
from capconduit_cli.names import CAMPAIGNS, DIDS, SELLERS, TARGETS, TRUNKS, name_option
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, ListOutput, OutputFormat, Row, notice, select_rows, write_rows
from capconduit_cli.reporting.sheet import (
    MEASURE_COLUMNS,
    Sheet,
    compared_columns,
    local,
    measure_of,
    points_of,
    span_text,
    values_of,
)
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.stats import Line
    from capconduit.domain.thresholds import Threshold
    from capconduit.services.reports import Report
    from capconduit.vocab import ReportBy

app = NounApp(
    "PERIOD is today (which is meant where none is given), yesterday, 7d, week, last-week, month, last-month, monday,"
    " november, 2026-10 or 2026-10-31; --from and --to take times. Calls belong to the instant they arrived at. Amounts"
    " of different currencies are never added. docs/reports.md defines each measure: ASR is the share of calls"
    " connected among those that were forwarded, ACD the mean talk time, PDD the mean time until it rings."
)

CURRENCY: Final = Column("currency")
SPAN_COLUMNS: Final = (
    Column("from", Kind.INSTANT, shown=False),
    Column("to", Kind.INSTANT, shown=False),
    Column("timezone", shown=False),
)
SUMMARY_COLUMNS: Final = (*MEASURE_COLUMNS, CURRENCY, *SPAN_COLUMNS)
STEP_COLUMNS: Final = (Column("local"), Column("start", Kind.INSTANT, shown=False), *SUMMARY_COLUMNS)
SELLER_COLUMNS: Final = (Column("seller"), *SUMMARY_COLUMNS)
CAMPAIGN_COLUMNS: Final = (Column("campaign"), Column("seller"), *SUMMARY_COLUMNS)
TARGET_COLUMNS: Final = (Column("target"), *SUMMARY_COLUMNS)
DID_COLUMNS: Final = (Column("did"), Column("campaign"), Column("seller", shown=False), *SUMMARY_COLUMNS)
TRUNK_COLUMNS: Final = (Column("trunk"), *SUMMARY_COLUMNS)
REJECT_COLUMNS: Final = (
    Column("reason"),
    Column("code", shown=False),
    Column("meaning"),
    Column("calls", Kind.INT),
    Column("share", Kind.PERCENT),
    *SPAN_COLUMNS,
)
_MONEY_FIRST: Final = ("revenue", "payout", "margin", "margin_percent", "minutes", "billable", "calls")
_BY_KEY: Final = {column.key: column for column in MEASURE_COLUMNS}
MARGIN_COLUMNS: Final = (
    Column("name"),
    *(replace(_BY_KEY[key], shown=True) for key in _MONEY_FIRST),
    Column("written_off", Kind.MONEY, shown=False),
    CURRENCY,
    *SPAN_COLUMNS,
)
NO_NAME: Final = "-"
TOLD_CROSSINGS: Final = 5


class ReportFormat(StrEnum):
    """Forms of a report."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PLAIN = "plain"
    MARKDOWN = "markdown"
    HTML = "html"


class MarginBy(StrEnum):
    """What margins are told of."""

    CAMPAIGN = "campaign"
    SELLER = "seller"
    TARGET = "target"
    DID = "did"
    TRUNK = "trunk"
    DAY = "day"


@dataclass(frozen=True)
class ReportOutput(ListOutput):
    """What every report can be asked."""

    output: Annotated[
        ReportFormat | None, typer.Option("--output", "-o", help="Form of the output.", show_default="table")
    ] = None  # type: ignore[assignment]  # two forms more
    start: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Calls that arrived then or later.")] = (
        None
    )
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="The same as --from: monday, -2h, 2026-10-31T08:00.")
    ] = None
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Calls that arrived before.")] = None
    timezone: Annotated[
        str,
        typer.Option(
            "--timezone",
            metavar="ZONE",
            help="IANA name.",
            show_default="that of the seller asked about, or the tenant's",
        ),
    ] = ""
    compare: Annotated[bool, typer.Option("--compare", help="Beside the period before.")] = False
    seller: Annotated[str, name_option("--seller", SELLERS, "Only calls of this seller.")] = ""
    campaign: Annotated[str, name_option("--campaign", CAMPAIGNS, "Only calls of this campaign.")] = ""
    target: Annotated[str, name_option("--target", TARGETS, "Only Dials of this target.")] = ""
    did: Annotated[str, name_option("--did", DIDS, "Only calls on this number.")] = ""
    trunk: Annotated[str, name_option("--trunk", TRUNKS, "Only calls of this trunk.")] = ""
    fail_if: Annotated[
        list[str],
        typer.Option(
            "--fail-if",
            metavar="'MEASURE<VALUE'",
            help="Exit code 6 where a line of the report is so. A measure without a value never is: of no calls tells"
            " `report summary` with 'calls<1'.",
        ),
    ] = field(default_factory=list)
    mail_to: Annotated[
        list[str], typer.Option("--mail-to", metavar="ADDRESS", help="Mail it instead of printing it.")
    ] = field(default_factory=list)
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing unless a --fail-if is so.")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is not None and self.since is not None:
            raise UsageError("period-twice", "--from and --since are the same", "give one")
        if self.quiet and not self.fail_if:
            raise UsageError("quiet-alone", "--quiet without --fail-if would never say anything", "add --fail-if")
        if self.mail_to and (self.output is not None or self.json):
            raise UsageError("output-conflict", "a mail has its own forms: text, HTML and CSV", "leave out --output")
        if self.mail_to:
            from capconduit_cli.reporting.mailing import check_addresses

            check_addresses(self.mail_to)

    @property
    def format(self) -> OutputFormat:
        """The form that data have; text for people has the columns of a table."""
        if self.json:
            return OutputFormat.JSON
        if self.output in (None, ReportFormat.MARKDOWN, ReportFormat.HTML):
            return OutputFormat.TABLE
        return OutputFormat(str(self.output))


PeriodText = Annotated[str, typer.Argument(metavar="PERIOD", help="Which calls, by when they arrived.")]


@dataclass(frozen=True)
class Form:
    """How a report's lines become rows: what they are about, and its columns; `name` turns a key into values."""

    by: ReportBy
    title: str
    columns: Sequence[Column]
    name: Callable[[Line, str], dict[str, Any]]
    upright: bool = False
    data: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows


def _parts(*keys: str) -> Callable[[Line, str], dict[str, Any]]:
    return lambda line, _: dict(zip(keys, line.key, strict=True))


def _emit(ctx: typer.Context, period: str, out: ReportOutput, form: Form) -> None:
    """Make a report and print or mail it. Raises ThresholdCrossed."""
    from capconduit.domain.thresholds import crossings, parse_threshold
    from capconduit.services.reports import Ask, Filters, make_report

    thresholds = [parse_threshold(text) for text in out.fail_if]
    ask = Ask(
        by=form.by,
        period=period,
        start=out.start if out.start is not None else out.since,
        end=out.end,
        zone=out.timezone,
        compare=out.compare,
        filters=Filters(out.seller, out.campaign, out.target, out.did, out.trunk),
    )
    made = office(ctx)
    report = make_report(made, ask, notice)
    crossed = list(crossings(thresholds, report.lines))
    if not out.quiet or crossed:
        sheet = _sheet(report, form, out)
        if out.mail_to:
            numbers = _sheet(report, form, replace(out, output=ReportFormat.CSV, mail_to=[]))
            _mail(ctx, out, sheet, numbers, made.clock.now_ms(), [threshold.text for threshold, _ in crossed])
        else:
            _print(sheet, out)
    if crossed:
        raise _crossed(crossed, form, report.zone)


def _sheet(report: Report, form: Form, out: ReportOutput) -> Sheet:
    compared = report.earlier is not None
    measures = [column for column in MEASURE_COLUMNS if column in form.columns or column.key in _BY_KEY]
    span = {"from": report.period.from_ms, "to": report.period.until_ms, "timezone": report.zone}
    rows: Sequence[Row] = [
        {**span, **values_of(line, measures, compared=compared), **form.name(line, report.zone)}
        for line in report.lines
    ]
    columns = compared_columns(form.columns) if compared else form.columns
    if form.upright and out.format is OutputFormat.TABLE and not out.fields:
        columns = [replace(column, shown=True) for column in columns]
    found, chosen = select_rows(form.data(rows), columns, out)
    kept = list(found)
    currencies = {row["currency"] for row in kept if row["currency"]}
    if out.format is OutputFormat.TABLE and not out.fields and len(currencies) <= 1 and not form.upright:
        chosen = [column for column in chosen if column.key != "currency"]
    return Sheet(
        title=f"{form.title}, {span_text(report.period.from_ms, report.period.until_ms, report.zone)}",
        facts=_facts(report, sorted(map(str, currencies))),
        columns=chosen,
        rows=kept,
        trend=points_of(report),
        trend_step=str(report.trend_kind),
        upright=form.upright and not out.fields,
    )


def _facts(report: Report, currencies: Sequence[str]) -> list[tuple[str, str]]:
    filters = report.ask.filters
    asked = [(name, getattr(filters, name)) for name in ("seller", "campaign", "target", "did", "trunk")]
    facts = [("time zone", report.zone), *((name, value) for name, value in asked if value)]
    if report.earlier:
        facts.append(("compared with", span_text(report.earlier.from_ms, report.earlier.until_ms, report.zone)))
    if currencies:
        facts.append(("amounts in", ", ".join(currencies)))
    if filters.target or report.ask.by == "target":
        facts.append(("counted", "Dials of targets: a call that was tried at two targets counts at both"))
    return facts


def _print(sheet: Sheet, out: ReportOutput) -> None:
    if out.output is ReportFormat.HTML and not out.json:
        from capconduit_cli.reporting.page import page

        sys.stdout.write(page(sheet))
    elif out.output is ReportFormat.MARKDOWN and not out.json:
        from capconduit_cli.reporting.markdown import markdown

        sys.stdout.write(markdown(sheet))
    elif out.format is OutputFormat.TABLE:
        from capconduit_cli.reporting.text import print_sheet

        print_sheet(sheet, all_columns=out.fields is not None)
    else:
        _print_data(sheet, out.format)


def _print_data(sheet: Sheet, form: OutputFormat) -> None:
    """Rows that were chosen already; in CSV no cell begins a formula."""
    rows = [_harmless(row) for row in sheet.rows] if form is OutputFormat.CSV else sheet.rows
    write_rows(rows, sheet.columns, form)


def _harmless(row: Row) -> Row:
    """Texts that a spreadsheet would calculate get an apostrophe; a telephone number calculates to nothing else.

    (OWASP, "CSV Injection".)
    """
    return {key: f"'{value}" if isinstance(value, str) and _is_formula(value) else value for key, value in row.items()}


def _is_formula(text: str) -> bool:
    return text[:1] in ("=", "+", "-", "@", "\t", "\r") and not (text[0] == "+" and text[1:].isdigit())


def _mail(
    ctx: typer.Context, out: ReportOutput, sheet: Sheet, numbers: Sheet, now_ms: int, crossed: Sequence[str]
) -> None:
    """Mail a sheet; `numbers` is the same as it is for programs, with every field."""
    from capconduit_cli.reporting.mailing import mail_sheet

    attached = io.StringIO()
    with redirect_stdout(attached):
        _print_data(numbers, OutputFormat.CSV)
    mail_sheet(state(ctx).config, out.mail_to, sheet, attached.getvalue(), now_ms, list(dict.fromkeys(crossed)))
    if sys.stderr.isatty():
        notice(f"mailed to {', '.join(out.mail_to)}")


def _crossed(crossed: Sequence[tuple[Threshold, Line]], form: Form, zone: str) -> ThresholdCrossed:
    """What is told of the lines that are beyond a threshold."""
    from capconduit_cli.output import shown

    told = []
    for threshold, line in crossed[:TOLD_CROSSINGS]:
        column = next(c for c in MEASURE_COLUMNS if measure_of(c) == threshold.measure.name)
        found = shown(column, values_of(line, [column], compared=False)[column.key])
        named = [str(value) for value in form.name(line, zone).values() if isinstance(value, str) and value][:1]
        of = [line.currency] if line.currency and threshold.measure.unit == "money" else []
        told.append(" ".join([*named, threshold.measure.name.replace("_", " "), found, *of, f"({threshold.text})"]))
    more = len(crossed) - len(told)
    words = "; ".join(told) + (f"; and {more} more" if more > 0 else "")
    return ThresholdCrossed("threshold-crossed", words, "")


# Verbs -------------------------------------------------------------------------------------------------------------


@app.verb(
    "summary",
    "capconduit report summary yesterday --compare",
    "capconduit report summary last-month --seller acme --timezone America/New_York --json",
    "capconduit report summary -7d --quiet --fail-if 'asr<40' --fail-if 'calls<1'",
    "capconduit report summary month -o html > november.html",
)
def summary(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """All calls of a period in one: how many, how they went, what they brought.

    With several currencies, the first row counts all calls and has no amounts; the others have one currency each.
    """
    from capconduit.vocab import ReportBy

    _emit(ctx, _given(period, out), out, Form(ReportBy.NOTHING, "Calls", SUMMARY_COLUMNS, _parts(), upright=True))


@app.verb(
    "hourly",
    "capconduit report hourly",
    "capconduit report hourly yesterday --campaign solar -o csv",
    "capconduit report hourly --since -12h --fields local,calls,asr",
)
def hourly(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Each hour of a period, those without calls too.

    Hours are those of the clock in the time zone: where clocks are set back there are two of the same name.
    """
    from capconduit.vocab import ReportBy

    _emit(ctx, _given(period, out), out, Form(ReportBy.HOUR, "Calls by hour", STEP_COLUMNS, _step("%m-%d %H:%M")))


@app.verb(
    "daily", "capconduit report daily month", "capconduit report daily --since 2026-10-01 --seller acme -o markdown"
)
def daily(ctx: typer.Context, out: ReportOutput, period: PeriodText = "month") -> None:
    """Each day of a period, those without calls too."""
    from capconduit.vocab import ReportBy

    form = Form(ReportBy.DAY, "Calls by day", STEP_COLUMNS, _step("%Y-%m-%d"))
    _emit(ctx, _given(period, out, "month"), out, form)


@app.verb(
    "campaigns",
    "capconduit report campaigns yesterday",
    "capconduit report campaigns week --sort -margin --limit 10",
    "capconduit report campaigns yesterday --fail-if 'asr<40' --quiet --mail-to ops@example.net",
)
def campaigns(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Each campaign, most calls first."""
    from capconduit.vocab import ReportBy

    form = Form(ReportBy.CAMPAIGN, "Campaigns", CAMPAIGN_COLUMNS, _parts("campaign", "seller"))
    _emit(ctx, _given(period, out), out, form)


@app.verb("sellers", "capconduit report sellers last-month", "capconduit report sellers 2026-10 --json")
def sellers(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Each seller, most calls first."""
    from capconduit.vocab import ReportBy

    _emit(ctx, _given(period, out), out, Form(ReportBy.SELLER, "Sellers", SELLER_COLUMNS, _parts("seller")))


@app.verb(
    "targets",
    "capconduit report targets yesterday",
    "capconduit report targets week --campaign solar --sort asr",
)
def targets(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Each target, most Dials first.

    Counted are Dials: a call that was tried at two targets counts at both, and its money at the one that answered. Its
    PDD is from the Dial until it rings.
    """
    from capconduit.vocab import ReportBy

    _emit(ctx, _given(period, out), out, Form(ReportBy.TARGET, "Targets", TARGET_COLUMNS, _parts("target")))


@app.verb("dids", "capconduit report dids week", "capconduit report dids yesterday --campaign solar --limit 20")
def dids(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Each number that was called, most calls first. Calls on numbers that are none of ours are one line."""
    from capconduit.vocab import ReportBy

    _emit(
        ctx, _given(period, out), out, Form(ReportBy.DID, "Numbers", DID_COLUMNS, _parts("did", "campaign", "seller"))
    )


@app.verb("trunks", "capconduit report trunks yesterday --compare")
def trunks(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Each trunk that calls came by, most calls first."""
    from capconduit.vocab import ReportBy

    _emit(ctx, _given(period, out), out, Form(ReportBy.TRUNK, "Trunks", TRUNK_COLUMNS, _parts("trunk")))


@app.verb("rejects", "capconduit report rejects yesterday", "capconduit report rejects week --campaign solar --json")
def rejects(ctx: typer.Context, out: ReportOutput, period: PeriodText = "today") -> None:
    """Why calls were rejected, the most frequent reason first."""
    from capconduit.vocab import REJECTS, RejectCode, ReportBy

    meanings = {code.value: sentence for code, (_, _, sentence) in REJECTS.items()}
    assert len(meanings) == len(RejectCode)

    def name(line: Line, _: str) -> dict[str, Any]:
        code = str(line.key[0]).partition(":")[0]
        return {"reason": line.key[0], "code": code, "meaning": meanings.get(code, "")}

    _emit(ctx, _given(period, out), out, Form(ReportBy.REASON, "Rejects", REJECT_COLUMNS, name, data=_with_share))


@app.verb(
    "margin",
    "capconduit report margin last-month",
    "capconduit report margin week --by target --sort margin_percent",
    "capconduit report margin yesterday --fail-if 'margin_percent<10' --quiet",
)
def margin(
    ctx: typer.Context,
    out: ReportOutput,
    period: PeriodText = "today",
    by: Annotated[MarginBy, typer.Option("--by", help="Of what.")] = MarginBy.CAMPAIGN,
) -> None:
    """What is left of the revenue when the targets' side is paid, by campaign or something else."""
    from capconduit.vocab import ReportBy

    step = _step("%Y-%m-%d")

    def name(line: Line, zone: str) -> dict[str, Any]:
        return {"name": step(line, zone)["local"] if by is MarginBy.DAY else line.key[0]}

    title = f"Margin by {'number' if by is MarginBy.DID else by}"
    _emit(ctx, _given(period, out), out, Form(ReportBy(by.value), title, MARGIN_COLUMNS, name))


def _given(period: str, out: ReportOutput, default: str = "today") -> str:
    """The period, or nothing where a span is given instead of the default one."""
    spanned = out.start is not None or out.since is not None or out.end is not None
    return "" if spanned and period == default else period


def _step(form: str) -> Callable[[Line, str], dict[str, Any]]:
    return lambda line, zone: {"local": local(int(line.key[0]), zone, form), "start": int(line.key[0])}


def _with_share(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows with their share of all rejects, in hundredths of a percent."""
    total = sum(int(str(row["calls"])) for row in rows)
    return [
        {**row, "share": (int(str(row["calls"])) * 20_000 + total) // (2 * total) if total else None} for row in rows
    ]
