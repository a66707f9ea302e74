"""`capconduit cdr`: the settled records of calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import Refused, UsageError
from capconduit_cli import story
from capconduit_cli.archives import PRUNED_COLUMNS, ArchiveChoice, ExportForm, ExportTo, chosen_archive, emit_pruned
from capconduit_cli.names import CAMPAIGNS, DIDS, SELLERS, TARGETS, EndedCall, name_option
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, ListOutput, OutputFormat, Row, ShowOutput, confirm, emit_one, emit_rows
from capconduit_cli.params import DryRun, Yes, instant_option
from capconduit_cli.rows import RecentOutput, emit_recent
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Cdr

__all__ = ["PRUNED_COLUMNS", "app"]  # its keys are documented with the noun

app = NounApp("Rejected calls have a record too. `capconduit explain` tells the whole story of one call.")

COLUMNS: Final = (
    Column("call_id"),
    Column("uniqueid", shown=False),
    Column("linkedid", shown=False),
    Column("sip_call_id", shown=False),
    Column("node", shown=False),
    Column("boot_id", shown=False),
    Column("schema_version", Kind.INT, shown=False),
    Column("arrived", Kind.INSTANT, source="arrived_ms"),
    Column("did"),
    Column("caller", shown=False),
    Column("caller_e164"),
    Column("caller_name", shown=False),
    Column("trunk", shown=False),
    Column("attestation", shown=False),
    Column("stir_verdict", shown=False),
    Column("seller", shown=False),
    Column("campaign"),
    Column("target"),
    Column("strategy", shown=False),
    Column("attempts", Kind.INT, shown=False),
    Column("attempt", Kind.INT, shown=False),
    Column("decided", Kind.INSTANT, source="decided_ms", shown=False),
    Column("first_ring", Kind.INSTANT, source="first_ring_ms", shown=False),
    Column("answered", Kind.INSTANT, source="answered_ms", shown=False),
    Column("ended", Kind.INSTANT, source="ended_ms", shown=False),
    Column("decision_ms", Kind.DURATION, shown=False),
    Column("ring_ms", Kind.DURATION, shown=False),
    Column("talk_ms", Kind.DURATION),
    Column("billed_seconds", Kind.INT, shown=False),
    Column("dialstatus"),
    Column("hangup_cause", Kind.INT, shown=False),
    Column("sip_code", Kind.INT, shown=False),
    Column("hung_up_by", shown=False),
    Column("reject_code", shown=False),
    Column("reject_reason"),
    Column("witness", shown=False),
    Column("billable", Kind.BOOL, shown=False),
    Column("amount", Kind.MONEY, source="amount_micros"),
    Column("written_off", Kind.MONEY, source="written_off_micros", shown=False),
    Column("balance_after", Kind.MONEY, source="balance_after_micros", shown=False),
    Column("payout", Kind.MONEY, shown=False),
    Column("margin", Kind.MONEY, shown=False),
    Column("currency"),
    Column("rate", Kind.ANY, shown=False),
    Column("payout_rate", Kind.ANY, shown=False),
)
_MADE: Final = frozenset({"rate", "payout", "margin", "payout_rate"})  # not fields of the record as it is kept
Since = Annotated[int | None, instant_option("--since", help="Calls that arrived at this time or later.")]
Until = Annotated[int | None, instant_option("--until", help="Calls that arrived before this time.")]
OfSeller = Annotated[str | None, name_option("--seller", SELLERS, "Only calls of this seller.")]
OfCampaign = Annotated[str | None, name_option("--campaign", CAMPAIGNS, "Only calls of this campaign.")]
OfTarget = Annotated[str | None, name_option("--target", TARGETS, "Only calls that this target took, or failed last.")]
OnNumber = Annotated[str | None, name_option("--did", DIDS, "Only calls on this number.")]
RejectedFor = Annotated[
    str | None,
    typer.Option("--reject", metavar="CODE", help="Only calls rejected for this: a code, or a whole reason."),
]
SHOW_COLUMNS: Final = (*COLUMNS, Column("trace", Kind.ANY, shown=False), Column("attempt_list", Kind.ANY, shown=False))


def row(cdr: Cdr) -> dict[str, Any]:
    """A CDR as it is printed: its own columns, the rate it was priced with (none where no seller was found), and what
    the target's side is paid (none where that has no rate) with what is left of the amount."""
    values: dict[str, Any] = {column.source or column.key: None for column in COLUMNS}
    values |= {name: getattr(cdr, name) for name in values if name not in _MADE}
    if cdr.currency:
        values["rate"] = story.tariff_json(story.rate_of(cdr))
    if cdr.payout_tariff:
        values["payout_rate"] = story.tariff_json(story.payout_of(cdr))
        values["payout"] = cdr.payout_micros
        values["margin"] = cdr.amount_micros - cdr.payout_micros
    return values


class ExportedForm(StrEnum):
    """Forms of exports: those of all output, and Parquet."""

    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PLAIN = "plain"
    TABLE = "table"
    PARQUET = "parquet"


@dataclass(frozen=True)
class ExportOutput(ListOutput):
    """Output options of exports: CSV where nothing else is asked for."""

    output: Annotated[
        ExportedForm | None,
        typer.Option("--output", "-o", help="Form of the output; parquet needs pyarrow.", show_default="csv"),
    ] = None  # type: ignore[assignment]  # one form more than elsewhere

    @property
    def format(self) -> OutputFormat:
        """The form that was asked for; of Parquet, which `parquet` tells, any."""
        if self.json:
            return OutputFormat.JSON
        return OutputFormat.CSV if self.output is None or self.parquet else OutputFormat(self.output.value)

    @property
    def parquet(self) -> bool:
        """Whether Parquet was asked for."""
        return self.output is not None and self.output.value == ExportedForm.PARQUET


def _where(
    seller: str | None, campaign: str | None, target: str | None, did: str | None, reject: str | None
) -> dict[str, Any]:
    """The columns that calls are chosen by. Raises UsageError."""
    named = (("seller", seller), ("campaign", campaign), ("target", target), ("did", did))
    where: dict[str, Any] = {name: value for name, value in named if value}
    return where if reject is None else where | _reject_filter(reject)


def _reject_filter(reject: str) -> dict[str, str]:
    """The column that a reject code, or a refined reason, is looked for in. Raises UsageError for an unknown code."""
    import difflib  # only where it is asked for

    from capconduit.vocab import RejectCode

    code = reject.partition(":")[0]
    known = [member.value for member in RejectCode]
    if code not in known:
        near = difflib.get_close_matches(code, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the codes are {', '.join(known)}"
        raise UsageError("reject-unknown", f"no reject code {code!r}", hint)
    return {"reject_reason": reject} if reject != code else {"reject_code": code}


@app.verb(
    "list",
    "capconduit cdr list --json",
    "capconduit cdr list --since yesterday --until today --campaign solar",
    "capconduit cdr list --reject cap_reached",
)
def list_(
    ctx: typer.Context,
    out: RecentOutput,
    since: Since = None,
    until: Until = None,
    seller: OfSeller = None,
    campaign: OfCampaign = None,
    target: OfTarget = None,
    did: OnNumber = None,
    reject: RejectedFor = None,
) -> None:
    """List ended calls, the newest first."""
    from capconduit.services.calls import CDR_PAGE, each_cdr

    where = _where(seller, campaign, target, did, reject)
    page = CDR_PAGE if out.filter or out.sort else min(out.limit + 1, CDR_PAGE)
    emit_recent(each_cdr(office(ctx), since_ms=since, until_ms=until, page=page, **where), row, COLUMNS, out)


@app.verb(
    "export",
    "capconduit cdr export --since 2026-11-01 --until 2026-12-01 > november.csv",
    "capconduit cdr export --campaign solar -o jsonl --fields call_id,arrived,amount,payout,margin,currency",
    "capconduit cdr export --target buyer1 --since monday",
)
def export(
    ctx: typer.Context,
    out: ExportOutput,
    since: Since = None,
    until: Until = None,
    seller: OfSeller = None,
    campaign: OfCampaign = None,
    target: OfTarget = None,
    did: OnNumber = None,
    reject: RejectedFor = None,
) -> None:
    """Write all ended calls, the newest first, for other programs: CSV unless another form is asked for.

    The fields are those of `list`. Any number of calls is written as they are read. In CSV a text that a spreadsheet
    would take for a formula has an apostrophe before it; numbers and telephone numbers have none.
    """
    from capconduit.services.calls import each_cdr

    found = each_cdr(office(ctx), since_ms=since, until_ms=until, **_where(seller, campaign, target, did, reject))
    writer = None
    if out.parquet:
        from capconduit_cli.parquet import write_parquet

        writer = write_parquet
    emit_rows((row(cdr) for cdr in found), COLUMNS, out, writer)


@app.verb(
    "prune",
    "capconduit cdr prune --dry-run",
    "capconduit cdr prune --before 2026-01-01 --export-to /var/lib/capconduit/archive --yes",
)
def prune(
    ctx: typer.Context,
    out: ListOutput,
    before: Annotated[
        int | None,
        instant_option(
            "--before",
            metavar="DATE",
            help="Records older than this, whatever cdr_keep_days says; a day at least 40 days ago.",
        ),
    ] = None,
    export_to: ExportTo = None,
    export_form: ExportForm = ArchiveChoice.JSONL,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take away old records of this tenant's calls, with their attempts; lists the rows that went.

    Balances, the ledger, statements of money and what caps have used do not change. With --export-to, or
    database.archive in the configuration, records are first written to files, one for each month, with their attempts
    and traces; only what is in a file that is whole and was read back is taken away. `capconduit db prune` does it for
    all tenants, and for events.
    """
    from capconduit.services import growth

    made, archive = office(ctx), chosen_archive(ctx, export_to, export_form)
    would = growth.would_prune_records(made.store, made.clock, made.tenant, before_ms=before)

    def note(gone: Mapping[str, int | None]) -> None:
        growth.note_pruned(made, "cdr", gone, before)

    if dry_run:
        emit_pruned(would, out, dry_run=True, note=note)
        return
    records = next((step.rows for step in would if step.table == "cdr"), 0)
    if records:
        kept = f"after writing them to {archive.directory}" if archive else "without a copy"
        confirm(f"Take away {records:,} records of calls, {kept}?", yes=yes)
    steps = growth.prune_records(made.store, made.clock, made.tenant, before_ms=before, archive=archive)
    emit_pruned(steps, out, dry_run=False, note=note)


@app.verb("show", "capconduit cdr show 01KAH7Z5R3M2C9W8X1Y4T6V0QN --json")
def show(ctx: typer.Context, call: EndedCall, out: ShowOutput) -> None:
    """Show the record of one ended call.

    The decision trace and the attempts are in JSON only; `capconduit explain` has them as text.
    """
    from capconduit.services.calls import tell

    told = tell(office(ctx), call)
    if told.cdr is None:
        raise Refused("call-alive", f"call {call!r} has not ended", f"see `capconduit call show {call}`")
    values: Row = row(told.cdr) | {
        "trace": [story.check_json(check) for check in told.checks],
        "attempt_list": [story.attempt_json(attempt) for attempt in told.attempts],
    }
    emit_one(values, SHOW_COLUMNS, out)
