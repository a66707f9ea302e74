"""`capconduit find`: anything by its name, number or id, or a part of it."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from capconduit_cli.office import office
from capconduit_cli.output import Column, ListOutput, emit_rows, notice
from capconduit_cli.typer_seam import single

COLUMNS: Final = (Column("kind"), Column("name"), Column("detail"), Column("command"))


@single(
    "capconduit find acme",
    "capconduit find '(800) 555-01'",
    "capconduit find 1795262400.17 --json",
)
def app(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="A name, number or id, or a part of it.")],
    out: ListOutput,
) -> None:
    """Find anything by its name, number or id, or a part of it, with the command that shows it.

    Looks through DIDs (in any notation of numbers), sellers, campaigns, targets and their addresses, trunks and their
    hosts, rates, schedules, users and their e-mail addresses, tokens, agents, providers, settings, requests, blocks,
    live calls, and the newest 1,000 ended ones; older ones are found by their whole id or Asterisk's. The best comes
    first: what is called so, then what begins so, then the rest.
    """
    from capconduit.services.find import find

    found = find(office(ctx), text)
    emit_rows(
        ({"kind": h.kind, "name": h.name, "detail": h.detail, "command": h.command} for h in found.hits), COLUMNS, out
    )
    for kind, count in found.more.items():
        notice(f"{count} more of kind {kind} are not shown: a longer part finds fewer")
