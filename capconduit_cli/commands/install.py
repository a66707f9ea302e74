"""`capconduit install`: the rendered files into a running Asterisk, whole, seen to be loaded, or undone."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capconduit.errors import DriftError, UsageError
from capconduit_cli.app import state
from capconduit_cli.office import NOTHING_CHANGED, office, well
from capconduit_cli.output import confirm, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.config import Config
    from capconduit.installation.install import Plan
    from capconduit.installation.live import LiveAsterisk
    from capconduit.installation.site import Site, Wanted
    from capconduit.installation.versions import Versions

ConfigDir = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="Asterisk's configuration directory.", show_default="asterisk.config_dir"
    ),
]
NoReload = Annotated[
    bool, typer.Option("--no-reload", help="Only change the files; Asterisk reads them at its next start or reload.")
]


@single(
    "capconduit install --dry-run",
    "capconduit install",
    "capconduit install --yes --files pjsip.conf,iax.conf",
    "capconduit install --freepbx --yes",
    "capconduit install --check",
)
def app(
    ctx: typer.Context,
    directory: ConfigDir = None,
    files: Annotated[
        str | None, typer.Option("--files", metavar="A,B", help="Only these files.", show_default="all")
    ] = None,
    freepbx: Annotated[
        bool, typer.Option("--freepbx", help="FreePBX manages the directory: touch only its _custom files.")
    ] = False,
    templates: Annotated[
        Path | None,
        typer.Option("--templates", metavar="DIR", help="Templates of your own that replace ours by name."),
    ] = None,
    no_reload: NoReload = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 5 where files or what Asterisk has loaded differ.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Put Asterisk's configuration in force: render, show what changes, ask, write, reload, look, or undo.

    Our files are in capconduit/ below Asterisk's configuration directory; your own files get one line each that
    includes them, and keep the say where both have a section. What is in force changes as a whole, at one instant. Only
    modules whose files changed are reloaded; then Asterisk is asked what it has loaded, and if that is not what was
    written, the former state is put in force again (exit code 4). After an install that was cut off, run it again, or
    `capconduit rollback`.
    """
    from capconduit.clock import SystemClock  # --help needs none of these
    from capconduit.installation.install import install, plan_install
    from capconduit.installation.site import Site
    from capconduit.installation.versions import Versions

    config = state(ctx).config
    place = (directory or Path(config.asterisk.config_dir)).absolute()
    site, versions = Site(place, freepbx=freepbx), Versions(place)
    site.check()
    wanted = _wanted(ctx, config, site, templates)
    only = _only(files, wanted)
    peer = None if no_reload else live_asterisk(config, place)
    if dry_run:
        _show(versions, plan_install(versions, site, wanted, only))
        notice(NOTHING_CHANGED)
        return
    if check:
        _check(versions, plan_install(versions, site, wanted, only), peer)
        return
    if peer is not None:
        peer.prepare()
        versions.group = peer.group()
    with versions.locked():
        plan = plan_install(versions, site, wanted, only)
        _show(versions, plan)
        if plan.is_empty:
            notice(f"nothing to do: version {plan.before} is in force and loaded")
            return
        confirm(f"Put this in force in {place}?", yes=yes)
        done = install(versions, site, plan, peer, SystemClock().now_ms())
    tell_notices(peer)
    notice(f"version {done.version} is in force in {place}")
    notice(f"loaded and compared: {', '.join(done.reloaded)}" if done.seen else "Asterisk has not read it yet")


def _check(versions: Versions, plan: Plan, peer: LiveAsterisk | None) -> None:
    """Says nothing where all is as an install would leave it. Raises DriftError, PeerError."""
    stale = dict.fromkeys((*plan.changed, *plan.include, *plan.reload))
    found = [f"not installed or not loaded as rendered: {', '.join(stale)}"] if stale else []
    if not stale and peer is not None:
        peer.prepare()
        found = peer.differences(versions.read(plan.before))
    for line in found:
        notice(line)
    if found:
        raise DriftError(
            "install-drift", "Asterisk has something else than an install would give it", "capconduit install"
        )
    well("Asterisk has loaded what is rendered")


def _wanted(ctx: typer.Context, config: Config, site: Site, templates: Path | None) -> Wanted:
    """The files as they fit into this directory. Raises UsageError, ConfigError, Refused."""
    from capconduit.render import engine  # Jinja is loaded only here
    from capconduit.render.from_config import render_context
    from capconduit.services.trunks import list_trunks

    context = render_context(config, list_trunks(office(ctx)), os.environ)
    own = templates or (Path(config.asterisk.templates_dir) if config.asterisk.templates_dir else None)
    return site.wanted(engine.render_all(context, own), needs_ami=config.ami.enabled)


def _only(files: str | None, wanted: Wanted) -> list[str]:
    """The names that --files gave. Raises UsageError for one that is not installed here."""
    names = [name.strip() for name in (files or "").split(",") if name.strip()]
    for name in names:
        if name not in wanted.files:
            reason = "is left to the file of yours" if name in wanted.left else "is not rendered"
            raise UsageError("file-unknown", f"{name!r} {reason}", f"the files are {', '.join(wanted.files)}")
    return names


def _show(versions: Versions, plan: Plan) -> None:
    """The differences on stdout, secrets starred; what else will happen on stderr."""
    from capconduit.render import engine

    sys.stdout.write(engine.diff(plan.files, versions.link))
    sys.stdout.flush()
    for name, host in plan.include.items():
        notice(f"{versions.config_dir / host} gets a line that includes {versions.link.name}/{name}")
    if plan.reload:
        notice(f"Asterisk has to read: {', '.join(plan.reload)}")
    if plan.left:
        notice(f"left to your own files: {', '.join(plan.left)}")


def live_asterisk(config: Config, place: Path) -> LiveAsterisk:
    """The Asterisk of the configuration. Raises ConfigError where the AMI secret cannot be read."""
    from capconduit.asterisk.console import Console
    from capconduit.config import resolve_secret
    from capconduit.installation.live import AmiLogin, LiveAsterisk

    login = None
    if config.ami.enabled:
        secret = resolve_secret(config.ami.secret, os.environ)
        login = AmiLogin(config.ami.host, config.ami.port, config.ami.username, secret)
    main = Path(config.asterisk.main_config) if config.asterisk.main_config else None
    return LiveAsterisk(Console(config.asterisk.program, main), place, login)


def tell_notices(peer: LiveAsterisk | None) -> None:
    """What the operator should know and was no reason to undo anything; each once."""
    for text in dict.fromkeys(peer.notices) if peer is not None else ():
        notice(text)
