"""`capconduit call`: calls that are up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import typer

from capconduit_cli.names import LiveCall
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.calls import CallView

app = NounApp("Calls that ended are records: `capconduit cdr`.")

COLUMNS: Final = (
    Column("call_id"),
    Column("uniqueid", shown=False),
    Column("state"),
    Column("did"),
    Column("caller"),
    Column("seller", shown=False),
    Column("campaign"),
    Column("target"),
    Column("attempt", Kind.INT, shown=False),
    Column("arrived", Kind.INSTANT, source="arrived_ms"),
    Column("answered", Kind.INSTANT, source="answered_ms", shown=False),
    Column("talk_ms", Kind.DURATION),
    Column("funded_s", Kind.INT, shown=False),
    Column("held", Kind.MONEY, source="held_micros"),
    Column("currency"),
    Column("node", shown=False),
)


def row(view: CallView, now_ms: int) -> Row:
    """A live call as it is printed; its talk time is counted up to `now_ms`."""
    call = view.call
    return {
        "call_id": call.id,
        "uniqueid": call.uniqueid,
        "state": call.state,
        "did": call.did_number,
        "caller": call.ani_e164 or call.ani,
        "seller": view.seller,
        "campaign": view.campaign,
        "target": view.target,
        "attempt": call.attempt,
        "arrived_ms": call.arrived_ms,
        "answered_ms": call.answered_ms,
        "talk_ms": None if call.answered_ms is None else max(now_ms - call.answered_ms, 0),
        "funded_s": call.funded_s,
        "held_micros": view.hold_micros,
        "currency": call.currency,
        "node": call.node,
    }


@app.verb("list", "capconduit call list", "capconduit call list --json", "capconduit call list --filter campaign=solar")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the live calls, the oldest first."""
    from capconduit.services.calls import list_calls

    made = office(ctx)
    views = list_calls(made)
    now_ms = made.clock.now_ms()
    emit_rows((row(view, now_ms) for view in views), COLUMNS, out)


@app.verb("show", "capconduit call show 01KAH7Z5R3M2C9W8X1Y4T6V0QN")
def show(ctx: typer.Context, call: LiveCall, out: ShowOutput) -> None:
    """Show one live call."""
    from capconduit.services.calls import show_call

    made = office(ctx)
    view = show_call(made, call)
    emit_one(row(view, made.clock.now_ms()), COLUMNS, out)
