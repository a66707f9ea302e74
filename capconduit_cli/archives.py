"""What `db prune` and `cdr prune` share: where archives go, and telling what was written and what went."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.units import format_micros
from capconduit_cli.app import state
from capconduit_cli.office import NOTHING_CHANGED, well
from capconduit_cli.output import Column, Kind, ListOutput, emit_rows, notice

if TYPE_CHECKING:
    from capconduit.services.growth import Pruned
    from capconduit.services.retention import Archive, Archived

PRUNED_COLUMNS: Final = (Column("table"), Column("rows", Kind.INT))


class ArchiveChoice(StrEnum):
    """Forms of archives; those of services.retention, which --help does not import."""

    JSONL = "jsonl"
    PARQUET = "parquet"


ExportTo = Annotated[
    Path | None,
    typer.Option(
        "--export-to",
        metavar="DIR",
        help="Write records and events there before they go; readable for you alone.",
        show_default="database.archive of the configuration",
    ),
]
ExportForm = Annotated[
    ArchiveChoice,
    typer.Option("--export-form", help="Form of these files: compressed JSON lines, or Parquet (needs pyarrow)."),
]


def chosen_archive(ctx: typer.Context, directory: Path | None, form: ArchiveChoice) -> Archive | None:
    """The archive that was asked for, or that of the configuration. Raises UsageError."""
    from capconduit.services.retention import Archive, ArchiveForm

    configured = state(ctx).config.database.archive
    place = directory or (Path(configured) if configured else None)
    return Archive(place.absolute(), ArchiveForm(form.value)) if place else None


def emit_pruned(
    steps: Iterable[Pruned], out: ListOutput, *, dry_run: bool, note: Callable[[Mapping[str, int | None]], None]
) -> None:
    """Carry the steps out, with rests between them, and print what went of each table; files are told as they come.

    `note` keeps what went in the audit, also where something stopped it halfway.
    """
    from capconduit.services.growth import REST_S

    gone: dict[str, int | None] = {}
    try:
        for step in steps:
            if step.file is not None:
                notice(_words(step.file))
            if step.rows != 0:
                gone[step.table] = None if step.rows is None else (gone.get(step.table) or 0) + step.rows
            if not dry_run:
                time.sleep(REST_S)
    finally:
        if gone and not dry_run:
            note(gone)
    emit_rows(({"table": table, "rows": rows} for table, rows in gone.items()), PRUNED_COLUMNS, out, empty="")
    if dry_run:
        notice(NOTHING_CHANGED)
    elif not gone:
        well("nothing is over")


def _words(file: Archived) -> str:
    amount = f", {format_micros(file.amount_micros, trim=True)} in amounts" if file.amount_micros else ""
    return f"{file.file}: {file.rows:,} rows{amount}"
