"""Columns that every entity of the estate has, and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from dataclasses import dataclass

from capconduit_cli.output import Column, Kind, ListOutput

if TYPE_CHECKING:
    from capconduit.domain.model import Entity

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

    @property
    def read_limit(self) -> int | None:
        """How many rows to read: one more than are shown, to know of more; all where they are filtered or sorted."""
        return None if self.filter or self.sort else self.limit + 1
