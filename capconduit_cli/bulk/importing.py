"""What `import` does for every noun: read the list, carry it out, tell every line that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit_cli.office import emit_change, office
from capconduit_cli.output import ChangeOutput, Column, Kind, notice

if TYPE_CHECKING:
    from capconduit.services.bulk import Columns, Outcome

IMPORT_COLUMNS: Final = (
    Column("lines", Kind.INT),
    Column("added", Kind.INT),
    Column("changed", Kind.INT),
    Column("unchanged", Kind.INT),
)
ListFile = Annotated[Path, typer.Argument(metavar="FILE|-", help="The list as CSV; - reads standard input.")]
Update = Annotated[
    bool,
    typer.Option("--update", help="Change those that exist to what their line says; without it they are refused."),
]


def carry_out(
    ctx: typer.Context,
    source: Path,
    columns: Columns,
    work: Callable[..., Outcome],
    out: ChangeOutput,
    *,
    update: bool,
    dry_run: bool,
) -> None:
    """Import a list by `work`, a service of capconduit.services.bulk_…; prints how many lines did what."""
    from capconduit.services.bulk import SHOWN, BadLines, Problems
    from capconduit_cli.bulk.progress import Progress  # --help needs none of these
    from capconduit_cli.bulk.reader import read_list

    made = office(ctx, dry_run=dry_run)
    problems = Problems()
    lines = read_list(source, columns, problems)
    try:
        with Progress("importing") as tell:
            outcome = work(made, lines, update=update, problems=problems, tell=tell)
    except BadLines as error:
        for problem in error.problems[:SHOWN]:
            hint = f" ({problem.error.hint})" if problem.error.hint else ""
            notice(f"line {problem.line}: {problem.error.message}{hint}")
        if len(error.problems) > SHOWN:
            notice(f"... and {len(error.problems) - SHOWN} lines more")
        raise
    row: dict[str, Any] = {
        "lines": outcome.lines,
        "added": outcome.added,
        "changed": outcome.changed,
        "unchanged": outcome.same,
    }
    emit_change(made, row, IMPORT_COLUMNS, out)
