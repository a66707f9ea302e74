"""Estate files on the command line: reading them, and showing what they would change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import UsageError
from capconduit_cli.output import Column, Row

if TYPE_CHECKING:
    from capconduit.estate_file.plan import Change, Plan
    from capconduit.estate_file.schema import Document

STDIN: Final = "-"
NAMED: Final = 5  # of what a file does not say
_BOM: Final = "\ufeff"  # some editors begin a file with it
FileOption = Annotated[
    Path, typer.Option("--file", "-f", metavar="FILE", help="The estate file; - reads it from stdin.")
]
Prune = Annotated[bool, typer.Option("--prune", help="Remove what the estate has and the file does not say.")]

COLUMNS: Final = (Column("action"), Column("what"), Column("field"), Column("before"), Column("after"))


def read_text(path: Path) -> str:
    """The text of a file, or of stdin for `-`; no more of it than can be an estate. Raises UsageError."""
    from capconduit.estate_file.document import MAX_BYTES

    try:
        if str(path) == STDIN:
            return sys.stdin.read(MAX_BYTES + 1).removeprefix(_BOM)
        with path.open(encoding="utf-8") as file:
            return file.read(MAX_BYTES + 1).removeprefix(_BOM)
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or no name of a file
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError("estate-unreadable", f"{path}: {why}", "give a readable UTF-8 file") from None


def read_document(path: Path) -> Document:
    """The estate that a file says. Raises UsageError."""
    from capconduit.estate_file.document import parse

    return parse(read_text(path), str(path))


def rows(plan: Plan) -> Iterator[Row]:
    """A plan as rows: one for each field that changes."""
    for change in plan.changes:
        yield from _rows(change)


def _rows(change: Change) -> Iterator[Row]:
    """One for each field; a thing that goes, or comes without a field, is one row."""
    row = {"action": change.action.value, "what": change.path}
    fields = [] if change.action == "remove" else sorted({**change.before, **change.after})
    told = [(name, *(_shown(change, name, values) for values in (change.before, change.after))) for name in fields]
    for name, before, after in [entry for entry in told if entry[1:] != ("", "")] or [("", "", "")]:
        yield {**row, "field": name, "before": before, "after": after}


def _shown(change: Change, name: str, values: dict[str, Any]) -> str:
    """A value as the file would write it."""
    from capconduit.estate_file.schema import BY_NAME, CAPS

    if name not in values or values[name] is None:
        return ""
    if change.noun == "system":
        return ", ".join(CAPS.write(values[name]))
    if change.noun == "settings" or name not in BY_NAME[change.noun].fields:
        return str(values[name])
    written = BY_NAME[change.noun].fields[name].form.write(values[name])
    if isinstance(written, list):
        return ", ".join(written)
    return str(written).lower() if isinstance(written, bool) else str(written)


def told_of_unlisted(plan: Plan) -> str:
    """`not in the file, left as they are: 2 (rate.std, seller.acme)`; empty where there is nothing of it."""
    if not plan.unlisted:
        return ""
    more = ", …" if len(plan.unlisted) > NAMED else ""
    return (
        f"not in the file, left as they are: {len(plan.unlisted)} ({', '.join(plan.unlisted[:NAMED])}{more});"
        " --prune removes them"
    )


def told(plan: Plan) -> str:
    """`2 to add, 1 to set, 0 to remove`."""
    from capconduit.estate_file.plan import Action

    parts = [f"{plan.count(action)} to {action}" for action in Action if action is not Action.RENAME]
    renamed = plan.count(Action.RENAME)
    return ", ".join([*parts, *([f"{renamed} to rename"] if renamed else [])])
