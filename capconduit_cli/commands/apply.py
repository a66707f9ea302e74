"""`capconduit apply`: make the estate what a file says."""

from __future__ import annotations

from typing import Annotated

import typer

from capconduit_cli.estate_files import COLUMNS, FileOption, Prune, read_document, rows, told
from capconduit_cli.office import NOTHING_CHANGED, office
from capconduit_cli.output import ListOutput, confirm, emit_rows, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.typer_seam import single


@single("capconduit apply -f estate.toml", "capconduit apply -f estate.toml --prune --yes")
def app(
    ctx: typer.Context,
    file: FileOption,
    out: ListOutput,
    prune: Prune = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also change what others changed after the file was exported.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Make the estate what a file says, all or nothing, in one transaction; twice changes nothing.

    Shows the plan and asks. A field that the file does not name stays as it is, and so does a thing, unless --prune.
    Somebody else's change since the file was exported, or since the plan was shown, is not overwritten: it is refused
    and named.
    """
    from capconduit.estate_file.plan import Action
    from capconduit.services.estate_file import apply_estate, plan_estate

    document = read_document(file)
    made = office(ctx, dry_run=True)
    found, version = plan_estate(made, document, prune=prune)
    if not found.changes:
        emit_rows(rows(found), COLUMNS, out, empty="")
        notice("the estate is as the file says")
        return
    apply_estate(made, document, prune=prune, version=version, force=force)  # what is refused is refused before asking
    emit_rows(rows(found), COLUMNS, out)
    notice(told(found))
    if dry_run:
        notice(NOTHING_CHANGED)
        return
    removed = found.count(Action.REMOVE)
    many = f"{len(found.changes)} changes" if found.changes[1:] else "1 change"
    confirm(f"Apply {many}{f', {removed} removals among them' if removed else ''}?", yes=yes)
    made.dry_run = False
    apply_estate(made, document, prune=prune, version=version, force=force)
    notice(f"{many} applied")
