"""Columns that every entity of the estate has, and lists that grow for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from capconduit_cli.output import Column, Kind, ListOutput, Row, emit_rows, notice, select_rows

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
    found, _ = select_rows(map(to_row, rows), columns, replace(out, limit=out.limit + 1))
    more = False

    def newest() -> Iterator[Row]:
        nonlocal more
        for count, row in enumerate(found):
            if count == out.limit:
                more = True
                return
            yield row

    emit_rows(newest(), columns, ListOutput(output=out.format, fields=out.fields))
    if more:
        notice(f"no more than {out.limit} are shown: --limit N shows more")
