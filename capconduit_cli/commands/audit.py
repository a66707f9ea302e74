"""`capconduit audit`: who changed what, and taking a change back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.units import format_micros
from capconduit_cli.office import NOTHING_CHANGED, office
from capconduit_cli.output import Column, Kind, Row, ShowOutput, confirm, emit_one, notice
from capconduit_cli.params import DryRun, Yes, instant_option
from capconduit_cli.rows import RecentOutput, emit_recent
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Audit

app = NounApp(
    "Every change of configuration and every movement of money by hand is kept, with who did it: the OS user, and who"
    " called sudo. Calls are not changes; see `capconduit cdr`."
)

COLUMNS: Final = (
    Column("id"),
    Column("at", Kind.INSTANT, source="at_ms"),
    Column("actor"),
    Column("action"),
    Column("subject"),
    Column("changed"),
)
SHOW_COLUMNS: Final = (*COLUMNS, Column("before", Kind.ANY), Column("after", Kind.ANY))
EntryId = Annotated[str, typer.Argument(metavar="ID", help="From `capconduit audit list`.")]
SHOWN_CHARS: Final = 40
MICROS: Final = "_micros"


def row(entry: Audit) -> Row:
    """An entry as it is printed; `changed` tells the fields with their values."""
    from capconduit.services.audit import as_json, changes

    told = as_json(entry)
    fields = [_change(name, a, b) for name, (a, b) in changes(entry).items()]
    return {
        "id": entry.id, "at_ms": entry.at_ms, "actor": entry.actor, "action": entry.action, "subject": entry.subject,
        "changed": "; ".join(fields) if entry.before and entry.after else "", "before": told["before"],
        "after": told["after"],
    }  # fmt: skip


def _change(name: str, before: object, after: object) -> str:
    """`ring_ms 20000 → 25000`; money in units instead of micros."""
    if name.endswith(MICROS):
        name = name.removesuffix(MICROS)
        before, after = (format_micros(v, trim=True) if isinstance(v, int) else v for v in (before, after))
    return f"{name} {_short(before)} → {_short(after)}"


def _short(value: object) -> str:
    text = "-" if value in (None, "") else str(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"


@app.verb(
    "list",
    "capconduit audit list --since yesterday",
    "capconduit audit list --subject solar --json",
    "capconduit audit list --action cap.set --limit 20",
)
def list_(
    ctx: typer.Context,
    out: RecentOutput,
    since: Annotated[int | None, instant_option("--since", help="Changes at this time or later.")] = None,
    until: Annotated[int | None, instant_option("--until", help="Changes before this time.")] = None,
    action: Annotated[str | None, typer.Option("--action", metavar="ACTION", help="Like campaign.set.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", metavar="NAME", help="What was changed.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="USER", help="Who did it.")] = None,
) -> None:
    """List changes, the newest first."""
    from capconduit.services.audit import list_audit

    where = {name: text for name, text in (("action", action), ("subject", subject), ("actor", actor)) if text}
    limit = None if out.filter or out.sort else out.limit + 1  # one more than is shown, to know of more
    found = list_audit(office(ctx), since_ms=since, until_ms=until, limit=limit, **where)
    emit_recent(found, row, COLUMNS, out)


@app.verb("show", "capconduit audit show 01J9ZC3V9KQ5J7T1D2X8W4M6NB")
def show(ctx: typer.Context, entry: EntryId, out: ShowOutput) -> None:
    """Show one change: what it was before and after."""
    from capconduit.services.audit import show_audit

    emit_one(row(show_audit(office(ctx), entry)), SHOW_COLUMNS, out)


@app.verb(
    "undo",
    "capconduit audit undo 01J9ZC3V9KQ5J7T1D2X8W4M6NB --dry-run",
    "capconduit audit undo 01J9ZC3V9KQ5J7T1D2X8W4M6NB --yes",
)
def undo(ctx: typer.Context, entry: EntryId, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Take a change back, as a change of its own: what was added goes, what was removed comes back.

    Values are as they were before. What was changed again since is left alone and named. Money is not undone but
    corrected (`capconduit balance correct`). What was removed comes back without its caps and blocks, a seller without
    its credit limit. What does not go with the rest of the estate any more is refused.
    """
    from capconduit.services.audit import undo as take_back

    made = office(ctx, dry_run=True)
    undone = take_back(made, entry)  # what cannot be undone is refused before anybody is asked
    what = f"{undone.action} of {undone.subject}"
    if dry_run:
        notice(f"{what} can be undone; {NOTHING_CHANGED}")
        return
    confirm(f"Undo {what}?", yes=yes)
    made.dry_run = False
    take_back(made, entry)
    notice(f"{what} is undone")
