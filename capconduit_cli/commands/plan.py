"""`capconduit plan`: what a file would change of the estate."""

from __future__ import annotations

import typer

from capconduit_cli.estate_files import COLUMNS, FileOption, Prune, read_document, rows, told, told_of_unlisted
from capconduit_cli.office import office
from capconduit_cli.output import ListOutput, emit_rows, notice
from capconduit_cli.typer_seam import single

CHANGES = 2  # the exit code where there is something to do, as the documentation promises


@single("capconduit plan -f estate.toml", "capconduit plan -f estate.toml --prune --json")
def app(ctx: typer.Context, file: FileOption, out: ListOutput, prune: Prune = False) -> None:
    """Show what `capconduit apply` would change, field by field; changes nothing.

    Exit code 0: the estate is as the file says; 2: there are changes. What the estate has and the file does not say
    stays as it is, unless --prune.
    """
    from capconduit.services.estate_file import conflict_of, plan_estate

    made, document = office(ctx), read_document(file)
    found, _ = plan_estate(made, document, prune=prune)
    emit_rows(rows(found), COLUMNS, out, empty="the estate is as the file says")
    if found.unlisted:
        notice(told_of_unlisted(found))
    if found.changes:
        notice(told(found))
        conflict = conflict_of(made, found, document)
        if conflict:
            notice(f"`capconduit apply` will refuse this: {conflict}")
        raise typer.Exit(CHANGES)
