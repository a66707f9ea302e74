"""`capconduit reload`: let the daemon read the estate anew."""

from __future__ import annotations

import os
from typing import Final

import typer

from capconduit_cli.app import state
from capconduit_cli.office import actor
from capconduit_cli.output import ChangeOutput, Column, Kind, emit_one
from capconduit_cli.typer_seam import single

COLUMNS: Final = (Column("node"), Column("estate_version", Kind.INT))


@single("capconduit reload", "capconduit reload --json")
def app(ctx: typer.Context, out: ChangeOutput) -> None:
    """Let the daemon of this machine read the whole estate anew, and tell its version.

    Commands need no reload: what they change is in force with the next call. This is for rows that were changed by
    hand, behind the program's back. The configuration file is read at the start only.
    """
    from capconduit_cli.control import ask_daemon, tell_daemon

    socket = state(ctx).config.control.socket
    told = tell_daemon(socket, "/reload", {"actor": actor(os.environ)})
    emit_one(
        {"node": ask_daemon(socket, "/status").get("node"), "estate_version": told.get("estate_version")}, COLUMNS, out
    )
