"""`capconduit call`: calls that are up: list, show, watch, hang up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import typer

from capconduit.units import format_duration, format_instant, format_micros
from capconduit_cli.app import state
from capconduit_cli.names import LiveCall
from capconduit_cli.office import NOTHING_CHANGED, actor, office
from capconduit_cli.output import (
    ChangeOutput,
    Column,
    Kind,
    ListOutput,
    OutputFormat,
    Row,
    ShowOutput,
    confirm,
    emit_one,
    emit_rows,
    emit_text,
    notice,
)
from capconduit_cli.params import DryRun, Yes
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
WATCH_COLUMNS: Final = (
    Column("at", Kind.INSTANT, source="at_ms"),
    Column("call_id"),
    Column("state"),
    Column("target"),
    Column("attempt", Kind.INT),
    Column("answered", Kind.INSTANT, source="answered_ms"),
    Column("funded_s", Kind.INT),
    Column("held", Kind.MONEY, source="held_micros"),
    Column("talk_ms", Kind.DURATION),
    Column("billed", Kind.MONEY, source="billed_micros"),
    Column("currency"),
    Column("outcome"),
    Column("reason"),
    Column("node"),
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


@app.verb(
    "hangup",
    "capconduit call hangup 01KAH7Z5R3M2C9W8X1Y4T6V0QN",
    "capconduit call hangup 01KAH7Z5R3M2C9W8X1Y4T6V0QN --yes",
)
def hangup(ctx: typer.Context, call: LiveCall, out: ChangeOutput, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Hang up one live call.

    The daemon of the call's node lets Asterisk hang up the caller's channel; the call is settled for what was talked,
    like any other. A call of another node is hung up on that machine.
    """
    from capconduit.services.calls import show_call
    from capconduit_cli.control import tell_daemon

    made = office(ctx, dry_run=dry_run)
    view = show_call(made, call)
    told = row(view, made.clock.now_ms())
    if not dry_run:
        confirm(f"Hang up {_in_words(view, told)}?", yes=yes)
        tell_daemon(state(ctx).config.control.socket, "/hangup", {"call": view.call.id, "actor": actor(os.environ)})
    emit_one(told, COLUMNS, out)
    notice(NOTHING_CHANGED if dry_run else f"call {view.call.id} is being hung up")


def _in_words(view: CallView, told: Row) -> str:
    """Enough of a call to know it by."""
    talk_ms = told["talk_ms"]
    stands = f"up for {format_duration(talk_ms)}" if isinstance(talk_ms, int) else "ringing"
    return f"the call of {told['caller']} to {told['did']}, {stands} at {view.target or 'no target'}"


@app.verb(
    "watch",
    "capconduit call watch 01KAH7Z5R3M2C9W8X1Y4T6V0QN",
    "capconduit call watch 01KAH7Z5R3M2C9W8X1Y4T6V0QN --json",
)
def watch(ctx: typer.Context, call: LiveCall, out: ShowOutput) -> None:
    """Follow one live call till its end: each target it is offered to, its answer, its funding, its outcome.

    From the daemon as it happens; where it is away, from the database. --json gives one object a line.
    """
    from capconduit_cli.control_watch import begin

    made = office(ctx)
    following = begin(made, state(ctx).config.control.socket, call)
    if out.format is OutputFormat.TABLE and not out.fields:
        for step in following.steps():
            emit_text([step_line(step)])
            sys.stdout.flush()
        return

    def flushed() -> Iterator[Row]:
        for step in following.steps():
            yield step
            sys.stdout.flush()

    form = OutputFormat.JSONL if out.format is OutputFormat.JSON else out.format
    emit_rows(flushed(), WATCH_COLUMNS, ListOutput(output=form, fields=out.fields))


def step_line(step: dict[str, Any]) -> str:
    """One step of a call as people read it."""
    at, state_, target = format_instant(step["at_ms"]), step["state"], step["target"] or "no target"
    if state_ == "ended":
        money = f"{format_micros(step['billed_micros'], trim=True)} {step['currency']}"
        what = f"{step['outcome']}, {step['reason']}"
        if step["outcome"] == "completed":
            what = f"completed at {target}: talked {format_duration(step['talk_ms'])}, billed {money}"
        return f"{at}  ended    {what}"
    held = f"{format_micros(step['held_micros'] or 0, trim=True)} {step['currency']} held"
    if state_ == "up":
        return f"{at}  up       {target}, funded for {format_duration(step['funded_s'] * 1_000)}, {held}"
    return f"{at}  dialing  {target}, attempt {step['attempt']}, {held}"
