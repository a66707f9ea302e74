"""`capconduit rollback`: what was in force before the last install, loaded and looked at like an install."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capconduit_cli.app import state
from capconduit_cli.commands.install import ConfigDir, NoReload, live_asterisk, tell_notices
from capconduit_cli.office import NOTHING_CHANGED
from capconduit_cli.output import confirm, emit_text, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.installation.versions import Versions


@single(
    "capconduit rollback",
    "capconduit rollback --list",
    "capconduit rollback --to 3 --yes",
    "capconduit rollback --to none --yes",
)
def app(
    ctx: typer.Context,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="VERSION", help="This version; none takes away all that `install` did."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the versions that are kept, oldest first.")] = False,
    directory: ConfigDir = None,
    no_reload: NoReload = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Put the version in force that was before the last install, or nothing of ours where there was none.

    Asterisk reloads what differs and is asked what it has loaded; if that is not what was written, the rollback is
    undone (exit code 4). After an install that was cut off it puts back what was there before it.
    """
    from capconduit.installation.install import rollback, rollback_target
    from capconduit.installation.site import Site
    from capconduit.installation.versions import Versions

    config = state(ctx).config
    place = (directory or Path(config.asterisk.config_dir)).absolute()
    site, versions = Site(place), Versions(place)
    if list_:
        emit_text(_lines(versions))
        return
    now = versions.in_force() or "nothing of ours"
    target = rollback_target(versions, to)
    words = "nothing of ours" if target is None else f"version {target}"
    if dry_run:
        notice(f"would put {words} in force in {place}, after {now}; {NOTHING_CHANGED}")
        return
    if target == versions.in_force() and versions.is_loaded():
        notice(f"nothing to do: {words} is in force and loaded")
        return
    peer = None if no_reload else live_asterisk(config, place)
    if peer is not None:
        peer.prepare()
    confirm(f"Put {words} in force in {place}, after {now}?", yes=yes)
    with versions.locked():
        done = rollback(versions, site, rollback_target(versions, to), peer)
    tell_notices(peer)
    notice(f"{words} is in force in {place}")
    if not done.seen:
        notice("Asterisk has not read it yet")
    elif done.reloaded:
        notice(f"loaded and compared: {', '.join(done.reloaded)}")


def _lines(versions: Versions) -> list[str]:
    now, history = versions.in_force(), versions.history()
    lines = []
    for name in versions.names():
        notes = [
            *(["in force"] if name == now else []),
            *(["not loaded yet"] if name == now and not versions.is_loaded() else []),
            *(["before it"] if len(history) > 1 and name == history[-2] else []),
        ]
        lines.append(f"{name}  {', '.join(notes)}".rstrip())
    return lines
