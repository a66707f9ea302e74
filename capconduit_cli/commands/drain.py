"""`capconduit drain`: let the daemon finish and end."""

from __future__ import annotations

import os
import time
from typing import Annotated, Final

import typer

from capconduit.errors import PeerError
from capconduit.units import format_duration
from capconduit_cli.app import state
from capconduit_cli.office import NOTHING_CHANGED, actor
from capconduit_cli.output import ChangeOutput, Column, Kind, confirm, emit_one, notice
from capconduit_cli.params import DryRun, Yes, duration_option
from capconduit_cli.typer_seam import single

COLUMNS: Final = (
    Column("node"),
    Column("boot_id"),
    Column("pid", Kind.INT),
    Column("calls", Kind.INT),
    Column("draining", Kind.BOOL),
)
POLL_S: Final = 0.1


@single("capconduit drain", "capconduit drain --yes --wait 30s", "capconduit drain --dry-run --json")
def app(
    ctx: typer.Context,
    out: ChangeOutput,
    wait: Annotated[int | None, duration_option("--wait", help="Wait until it has ended, at most this long.")] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Let the daemon of this machine answer what it has begun, and end.

    New calls are not answered from then on: the dialplan's fallback takes them, until a daemon is started again. Calls
    that are up go on: Asterisk carries them, their limits stand, and their ends are kept for the next daemon.
    """
    from capconduit_cli.control import ask_daemon, tell_daemon

    socket = state(ctx).config.control.socket
    told = ask_daemon(socket, "/status")
    row = {column.key: told.get(column.key) for column in COLUMNS} | {"draining": not dry_run}
    if not dry_run:
        confirm(f"Drain the daemon of node {told.get('node')}, which has {told.get('calls')} live calls?", yes=yes)
        tell_daemon(socket, "/drain", {"actor": actor(os.environ)})
        if wait is not None:
            _wait_gone(socket, wait, told.get("boot_id"))
    emit_one(row, COLUMNS, out)
    if dry_run:
        notice(NOTHING_CHANGED)


def _wait_gone(socket: str, wait_ms: int, boot_id: object) -> None:
    """Until this daemon answers no more, or another one does. Raises PeerError."""
    from capconduit.clock import SystemClock
    from capconduit_cli.control import ask_daemon

    clock = SystemClock()
    until_ms = clock.monotonic_ms() + wait_ms
    while clock.monotonic_ms() < until_ms:
        try:
            if ask_daemon(socket, "/status").get("boot_id") != boot_id:
                return
        except PeerError:
            return
        time.sleep(POLL_S)
    raise PeerError(
        "daemon-still-there", f"the daemon has not ended within {format_duration(wait_ms)}", "see `capconduit status`"
    )
