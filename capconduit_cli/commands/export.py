"""`capconduit export`: the whole estate as a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from capconduit_cli.estate_files import read_text
from capconduit_cli.office import office
from capconduit_cli.typer_seam import single


@single(
    "capconduit export > estate.toml",
    "capconduit export --comments-of estate.toml > new.toml",
)
def app(
    ctx: typer.Context,
    comments_of: Annotated[
        Path | None,
        typer.Option("--comments-of", metavar="FILE", help="Keep the comments of this file at what they stand at."),
    ] = None,
) -> None:
    """Print the whole estate as a file, all that `apply` makes.

    That is settings, rates, schedules, trunks, sellers, providers, agents, targets, campaigns, rules, DIDs, blocks, and
    the caps of all these.

    Names stand for ids and the order is always the same, so that two exports can be compared line by line. Secrets are
    in it as references only; balances, calls and the ledger are not part of it (see db backup). `capconduit plan` and
    `capconduit apply` read the file; capconduit-estate(5) describes it.
    """
    from capconduit.estate_file.document import render
    from capconduit.services.estate_file import export

    former = read_text(comments_of) if comments_of else ""
    sys.stdout.write(render(export(office(ctx)), former=former))
