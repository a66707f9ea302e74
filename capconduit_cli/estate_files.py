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
FileOption = Annotated[
    Path, typer.Option("--file", "-f", metavar="FILE", help="The estate file; - reads it from stdin.")
]
Prune = Annotated[bool, typer.Option("--prune", help="Remove what the estate has and the file does not say.")]

COLUMNS: Final = (Column("action"), Column("what"), Column("field"), Column("before"), Column("after"))


def read_text(path: Path) -> str:
    """The text of a file, or of stdin for `-`. Raises UsageError."""
    try:
        return sys.stdin.read() if str(path) == STDIN else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("estate-unreadable", f"{path}: {error}", "give a readable UTF-8 file") from None


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


def told(plan: Plan) -> str:
    """`2 to add, 1 to set, 0 to remove`."""
    from capconduit.estate_file.plan import Action

    parts = [f"{plan.count(action)} to {action}" for action in Action if action is not Action.RENAME]
    renamed = plan.count(Action.RENAME)
    return ", ".join([*parts, *([f"{renamed} to rename"] if renamed else [])])
