"""`capconduit render`: Asterisk's configuration files from the configuration and the estate's trunks."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from capconduit.errors import ExitCode, UsageError
from capconduit_cli.app import state
from capconduit_cli.office import office
from capconduit_cli.output import notice
from capconduit_cli.typer_seam import single


@single(
    "capconduit render --out ./etc-asterisk",
    "capconduit render extensions.conf",
    "capconduit render --diff",
    "capconduit render --check --out /etc/asterisk",
    "capconduit render --all --out ./etc-asterisk",
)
def app(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Only this file; printed without --out.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write into this directory, each file at once.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show what would change in the directory; secrets starred.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 5 where a file differs.")] = False,
    every: Annotated[
        bool,
        typer.Option("--all", help="Also logger.conf, http.conf and others of an Asterisk that does nothing else."),
    ] = False,
    templates: Annotated[
        Path | None,
        typer.Option(
            "--templates",
            metavar="DIR",
            help="Templates of your own that replace ours by name.",
            show_default="asterisk.templates_dir",
        ),
    ] = None,
) -> None:
    """Write Asterisk's configuration files from the estate.

    The dialplan is generic: only trunks, addresses and secrets stand in the files, so it is rendered again after those
    changed, not after every change of the estate. --diff and --check look at asterisk.config_dir unless --out says
    otherwise. Files that are not ours are left alone. Without --all those are rendered that asterisk.files says.
    """
    from capconduit.render import engine  # Jinja is loaded only here
    from capconduit.render.from_config import render_context, templates_dir
    from capconduit.services.trunks import list_trunks

    config = state(ctx).config
    context = render_context(config, list_trunks(office(ctx)), os.environ)
    if every:
        context = replace(context, all_files=True)
    files = engine.render_all(context, templates or templates_dir(config))
    if file is not None:
        if file not in files:
            raise UsageError("file-unknown", f"{file!r} is not rendered", f"the files are {', '.join(files)}")
        files = {file: files[file]}
    directory = out or Path(config.asterisk.config_dir)
    if check or diff:
        differing = engine.check(files, directory)
        if diff:
            sys.stdout.write(engine.diff(files, directory))
        elif differing:
            notice(f"differs in {directory}: {', '.join(differing)}")
        if check and differing:
            raise typer.Exit(ExitCode.DRIFT)
        return
    if out is None:
        if file is None:
            raise UsageError(
                "out-missing",
                "several files need a directory",
                f"add --out ./etc-asterisk, or name one of {', '.join(files)}",
            )
        sys.stdout.write(files[file])
        return
    written = engine.write_all(files, out)
    for name in written:
        sys.stdout.write(f"{out / name}\n")
    notice(f"{len(written)} written, {len(files) - len(written)} already as they should be, in {out}")
