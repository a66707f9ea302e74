"""Columns that every entity of the estate has, and lists that grow for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from capconduit_cli.output import Column, Kind, ListOutput, Row, emit_rows, notice

if TYPE_CHECKING:
    from capconduit.domain.model import Entity

Item = TypeVar("Item")

RECENT: Final = 50

ENTITY_COLUMNS: Final = (
    Column("id", shown=False),
    Column("created", Kind.INSTANT, source="created_ms", shown=False),
    Column("updated", Kind.INSTANT, source="updated_ms", shown=False),
)


def entity_values(entity: Entity) -> dict[str, object]:
    """Values of ENTITY_COLUMNS."""
    return {"id": entity.id, "created_ms": entity.created_ms, "updated_ms": entity.updated_ms}


@dataclass(frozen=True)
class RecentOutput(ListOutput):
    """Output options of lists that grow for ever: the newest RECENT, unless `--limit` says otherwise."""

    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most N rows, the newest.")] = RECENT


def emit_recent(
    rows: Iterable[Item], to_row: Callable[[Item], Row], columns: Sequence[Column], out: RecentOutput
) -> None:
    """Print the newest rows; says on stderr where there are more. `rows` come newest first, and are read no further
    than needed."""
    source = iter(rows)
    count = 0

    def counted() -> Iterator[Row]:
        nonlocal count
        for item in source:
            count += 1
            yield to_row(item)

    emit_rows(counted(), columns, out)
    if count > out.limit or next(source, None) is not None:
        notice(f"no more than {out.limit} are shown: --limit N shows more")
