"""`capconduit explain`: why a call was decided as it was, and what became of it."""

from __future__ import annotations

from typing import Final

import typer

from capconduit_cli.names import AnyCall
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, OutputFormat, ShowOutput, emit_one, emit_text, json_object
from capconduit_cli.typer_seam import single

COLUMNS: Final = (
    Column("call_id"),
    Column("uniqueid"),
    Column("node"),
    Column("state"),
    Column("summary"),
    Column("currency"),
    *(Column(key, Kind.ANY) for key in ("call", "cdr", "checks", "attempts", "places", "hold", "ledger", "events")),
)


@single("capconduit explain 01KAH7Z5R3M2C9W8X1Y4T6V0QN", "capconduit explain 1763726400.17 --json")
def app(ctx: typer.Context, call: AnyCall, out: ShowOutput) -> None:
    """Explain a call, alive or ended.

    The story as a timeline: every check of the decision with its numbers, every attempt, what it cost and what was
    written into the ledger. Instants are counted from the arrival of the call; of caps it says used/in flight/limit.
    """
    from capconduit.services.calls import tell
    from capconduit_cli import story
    from capconduit_cli.commands import call as call_noun
    from capconduit_cli.commands import cdr as cdr_noun

    made = office(ctx)
    told = tell(made, call)
    if out.format is OutputFormat.TABLE and out.fields is None:
        emit_text(story.story_lines(told, made.clock.now_ms()))
        return
    live = json_object(call_noun.row(told.call, made.clock.now_ms()), call_noun.COLUMNS) if told.call else None
    cdr = json_object(cdr_noun.row(told.cdr), cdr_noun.COLUMNS) if told.cdr else None
    emit_one(story.story_json(told, live, cdr), COLUMNS, out)
