"""`capconduit serve`: become the daemon that answers Asterisk."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated

import typer

from capconduit_cli.app import state
from capconduit_cli.office import office
from capconduit_cli.typer_seam import single


class LogLevel(StrEnum):
    """How much the daemon logs."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@single(
    "capconduit serve",
    "capconduit --config /etc/capconduit/config.toml serve --log-level debug",
    "capconduit serve --print-unit",
)
def app(
    ctx: typer.Context,
    log_level: Annotated[
        LogLevel | None, typer.Option("--log-level", help="How much is logged; log.level where not given.")
    ] = None,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Start although another daemon seems to live under this node's name.")
    ] = False,
    print_unit: Annotated[
        bool, typer.Option("--print-unit", help="Print the systemd unit for this program and configuration, and exit.")
    ] = False,
) -> None:
    """Run the daemon in the foreground until it is told to stop.

    The configuration and the database are checked first. The daemon serves all tenants; it takes the place of this
    process, so that signals reach it: SIGTERM and SIGINT end it after the exchanges that have begun. Where another
    daemon writes heartbeats under the same node.name, it does not start.
    """
    config = state(ctx).config
    if print_unit:
        from capconduit_cli.systemd_unit import this_program, unit  # only asked for once

        sys.stdout.write(unit(config, this_program()))
        return
    office(ctx).store.close()  # it was checked; the daemon opens its own
    command = [sys.executable, "-m", "fastagi"]
    if config.origin is not None:
        command += ["--config", str(config.origin)]
    if log_level is not None:
        command += ["--log-level", log_level.value]
    if take_over:
        command += ["--take-over"]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command)
