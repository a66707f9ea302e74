"""`capconduit top`: the floor live in the terminal: calls, caps, balances, targets, events, health."""

from __future__ import annotations

import itertools
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from capconduit.errors import ExitCode, UsageError
from capconduit.units import format_instant
from capconduit_cli.app import CliState, state
from capconduit_cli.output import OutputFormat
from capconduit_cli.params import instant_option
from capconduit_cli.typer_seam import single

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8873
SPEED: Final = "1"
_EXCLUDE: Final = {
    ("--once", "--serve"), ("--once", "--record"), ("--once", "--replay"), ("--record", "--replay")
}  # fmt: skip


class Theme(StrEnum):
    """How it looks."""

    DARK = "dark"
    LIGHT = "light"
    CONTRAST = "contrast"
    MONO = "mono"


def _speed(text: str) -> float:
    """`4`, `0.5`, `10x`. Raises UsageError."""
    from capconduit_cli.tui.replay import SPEEDS

    try:
        speed = float(text.strip().lower().removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise UsageError(
            "speed-invalid", f"{text!r} is no speed of a replay", f"give {SPEEDS[0]:g} to {SPEEDS[1]:g}, like 4"
        )
    return speed


@single(
    "capconduit top",
    "capconduit top --readonly --theme light",
    "capconduit top --record monday.floor",
    "capconduit top --replay monday.floor --from 2026-03-08T03:00 --speed 4",
    "capconduit top --once -o json",
    "capconduit top --serve --port 8873",
)
def app(
    ctx: typer.Context,
    readonly: Annotated[bool, typer.Option("--readonly", help="Only look: no key changes anything.")] = False,
    theme: Annotated[
        Theme | None, typer.Option("--theme", help="How it looks.", show_default="dark; mono where NO_COLOR is set")
    ] = None,
    record: Annotated[Path | None, typer.Option("--record", metavar="FILE", help="Keep all that happens.")] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="FILE", help="Show what was kept instead of what happens.")
    ] = None,
    speed: Annotated[
        float, typer.Option("--speed", metavar="N", parser=_speed, help="How fast to replay.", show_default=SPEED)
    ] = 1.0,
    from_: Annotated[int | None, instant_option("--from", help="Where to begin the replay.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what there is now, and end; for scripts.")] = False,
    output: Annotated[
        OutputFormat | None,
        typer.Option("--output", "-o", metavar="json", help="Form of --once.", show_default="json"),
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Show it in a browser of this machine.")] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=65_535, help="Port of --serve.", show_default=str(PORT)),
    ] = None,
) -> None:
    """Watch the floor live, and act on it.

    Six screens: 1 the calls, 2 the caps filling, 3 the balances draining, 4 the targets, 5 the events, 6 the health of
    the daemon. `?` shows the keys: `/` filters, `s` sorts, Enter explains a call, `k` hangs up, `p` pauses a campaign,
    `r` rests a target, `+` adds money. What it shows is pushed by the daemon over its control socket; while that is
    away, the last known is shown as stale and the rest comes back by itself.
    """
    run = state(ctx)
    _check(ctx, once=once, serve=serve, record=record, replay=replay, output=output, port=port)
    if once:
        _once(run)
    elif serve:
        _serve(
            run, port or PORT, readonly=readonly, theme=theme, record=record, replay=replay, speed=speed, from_=from_
        )
    else:
        _show(run, readonly=readonly, theme=theme, record=record, replay=replay, speed=speed, from_=from_)


def _check(
    ctx: typer.Context,
    *,
    once: bool,
    serve: bool,
    record: Path | None,
    replay: Path | None,
    output: OutputFormat | None,
    port: int | None,
) -> None:
    """Options that exclude each other, or mean nothing alone. Raises UsageError."""
    given = [n for n, value in (("once", once), ("serve", serve), ("record", record), ("replay", replay)) if value]
    for one, other in itertools.combinations([f"--{name}" for name in given], 2):
        if (one, other) in _EXCLUDE:
            raise UsageError("options-conflict", f"{one} and {other} exclude each other", f"leave {other} away")
    if output is not None and not once:
        raise UsageError("output-without-once", "--output is the form of --once", "add --once")
    if output not in (None, OutputFormat.JSON):
        raise UsageError("output-not-possible", f"--once is not printed as {output}", "use -o json")
    if port is not None and not serve:
        raise UsageError("port-without-serve", "--port is that of --serve", "add --serve")
    if replay is None and (_given(ctx, "speed") or _given(ctx, "from_")):
        raise UsageError("replay-missing", "--speed and --from are of a replay", "name the recording with --replay")
    if not once and not serve and not _has_screen():
        raise UsageError(
            "terminal-missing", "this is no terminal", "use `capconduit top --once -o json` in scripts and pipes"
        )


def _has_screen() -> bool:
    """Whether there is a terminal, or a browser at the other end of pipes: Textual's driver for it is named there."""
    return (sys.stdin.isatty() and sys.stdout.isatty()) or "TEXTUAL_DRIVER" in os.environ


def _given(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _once(run: CliState) -> None:
    import json

    from capconduit_cli.output import emit_text, notice
    from capconduit_cli.tui.once import once

    found = once(run.config, run.tenant)
    if found.get("stale"):
        notice(f"not live but from the database: {found.get('stale_reason') or 'the daemon is away'}")
    emit_text(json.dumps(found, indent=2, ensure_ascii=True).splitlines())


def _show(
    run: CliState,
    *,
    readonly: bool,
    theme: Theme | None,
    record: Path | None,
    replay: Path | None,
    speed: float,
    from_: int | None,
) -> None:
    """The terminal UI, until `q`."""
    from capconduit.clock import SystemClock
    from capconduit_cli.tui.actions import OfficeActions
    from capconduit_cli.tui.app import TopApp
    from capconduit_cli.tui.themes import ThemeName

    clock = SystemClock()
    name = ThemeName(theme) if theme else ThemeName.MONO if os.environ.get("NO_COLOR") else ThemeName.DARK
    feed = _feed(run, record=record, replay=replay, speed=speed, from_=from_)
    actions = OfficeActions(run.config, run.tenant, clock)
    app = TopApp(feed, actions, clock, theme=name, readonly=readonly)
    app.run()
    if app.return_code:  # it has printed what went wrong
        raise typer.Exit(ExitCode.BUG)


def _feed(run: CliState, *, record: Path | None, replay: Path | None, speed: float, from_: int | None) -> Any:
    """Where the floor comes from. Raises CapConduitError: a recording that cannot be read or written."""
    if replay is not None:
        from capconduit_cli.tui.replay import replay_feed

        return replay_feed(replay, speed=speed, start_ms=from_)
    from capconduit_cli.tui.feed import live_feed

    feed = live_feed(run.config, run.tenant)
    if record is None:
        return feed
    from capconduit_cli.tui.recording import recorded

    return recorded(feed, record)


def _serve(run: CliState, port: int, *, readonly: bool, theme: Theme | None, **files: Any) -> None:
    """The same in a browser: every visitor is given a run of this command of its own."""
    from capconduit_cli.tui.serve import serve

    words: list[str] = []
    if run.config_path is not None:
        words += ["--config", str(run.config_path)]
    words += ["--tenant", run.tenant, "top"]
    words += ["--readonly"] if readonly else []
    words += ["--theme", theme] if theme else []
    if files["replay"] is not None:
        words += ["--replay", str(files["replay"]), "--speed", f"{files['speed']:g}"]
        words += ["--from", format_instant(files["from_"])] if files["from_"] is not None else []
    if files["record"] is not None:
        raise UsageError("options-conflict", "--serve keeps no recording", "run `capconduit top --record` beside it")
    serve(words, LOOPBACK, port)
