"""`capconduit status`: whether the daemon is well, and what it is doing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.errors import CapConduitError, ExitCode, PeerError, UsageError
from capconduit.units import format_duration, format_instant
from capconduit_cli.app import state
from capconduit_cli.office import office
from capconduit_cli.output import ChangeOutput, Column, Kind, OutputFormat, emit_one, emit_text, notice
from capconduit_cli.params import duration_option
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.clock import Clock

POLL_S: Final = 0.1
MAX_WAIT_MS: Final = 600_000

# The daemon's answer is printed as it is; these are its parts, for CSV and plain output.
COLUMNS: Final = (
    Column("node"),
    Column("boot_id"),
    Column("pid", Kind.INT),
    Column("version"),
    Column("started"),
    Column("ready", Kind.BOOL),
    Column("reasons", Kind.ANY),
    Column("fastagi", Kind.ANY),
    Column("ami", Kind.ANY),
    Column("engine", Kind.ANY),
    Column("journal", Kind.ANY),
    Column("decisions", Kind.ANY),
    Column("database", Kind.ANY),
    Column("viewers", Kind.INT),
    Column("calls", Kind.INT),
    Column("zombies", Kind.ANY),
)


@single("capconduit status", "capconduit status --json", "capconduit status --wait-ready 30s")
def app(
    ctx: typer.Context,
    out: ChangeOutput,
    wait_ready: Annotated[
        int | None, duration_option("--wait-ready", help="Wait until the daemon is ready, at most this long.")
    ] = None,
) -> None:
    """Ask the daemon of this machine how it is.

    It is asked over its control socket, never over the database. The exit code is 0 where it is ready, else 4. One
    that is not ready tells why; where none answers, what the database last heard of daemons goes to standard error.
    --wait-ready gives it time. The text ends with what matters on the floor: the caps that are nearest to full, the
    accounts that are nearest to empty, the targets that are not well.
    """
    from capconduit.clock import SystemClock
    from capconduit_cli.control import ask_daemon

    if wait_ready is not None and wait_ready > MAX_WAIT_MS:
        raise UsageError(
            "wait-too-long",
            f"--wait-ready: {format_duration(wait_ready)} is too long",
            f"at most {MAX_WAIT_MS // 60_000}m",
        )
    socket = state(ctx).config.control.socket
    try:
        answer = ask_daemon(socket, "/status") if wait_ready is None else _when_ready(socket, wait_ready, SystemClock())
    except PeerError as error:
        if error.slug == "daemon-unreachable":
            _tell_nodes(ctx)
        raise
    if out.format is OutputFormat.JSON:
        emit_text(json.dumps(answer, indent=2).splitlines())
    elif out.format is OutputFormat.TABLE:
        emit_text(lines(answer))
        emit_text(_floor(socket, state(ctx).tenant))
    else:
        emit_one({column.key: answer.get(column.key) for column in COLUMNS}, COLUMNS, out)
    if answer.get("ready") is not True:
        raise typer.Exit(ExitCode.PEER)


def _floor(socket: str, tenant: str) -> Iterator[str]:
    """What matters on the floor. Decoration: nothing where the daemon has no picture."""
    from urllib.parse import urlencode

    from capconduit_cli.control import PICTURE_BYTES, ask_daemon
    from capconduit_cli.control_glance import glance

    try:
        picture = ask_daemon(socket, f"/snapshot?{urlencode({'tenant': tenant})}", most_bytes=PICTURE_BYTES)
    except CapConduitError:
        return
    yield from glance(picture)


def _when_ready(socket: str, wait_ms: int, clock: Clock) -> dict[str, Any]:
    """Ask again and again until the daemon is ready. Raises PeerError when the time is over."""
    from capconduit_cli.control import ask_daemon

    until_ms = clock.monotonic_ms() + wait_ms
    while True:
        try:
            answer = ask_daemon(socket, "/status")
            if answer.get("ready") is True:
                return answer
            reasons = ", ".join(str(reason) for reason in answer.get("reasons") or ()) or "it does not say why"
            error = PeerError("daemon-not-ready", f"the daemon is not ready: {reasons}", "see `capconduit status`")
        except PeerError as unreachable:
            error = unreachable
        if clock.monotonic_ms() >= until_ms:
            raise error
        time.sleep(POLL_S)


def _tell_nodes(ctx: typer.Context) -> None:
    """Say on stderr what the database last heard of daemons. Decoration: without the database nothing is said."""
    from capconduit.services.nodes import list_nodes

    try:
        nodes = list_nodes(office(ctx))
    except CapConduitError as error:
        notice(f"the last known daemons cannot be told: {error.message}")
        return
    for node in nodes:
        notice(f"last known: node {node.name} was {node.state} at {format_instant(node.seen_ms)}")


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The daemon's answer as people read it; parts that another version does not send are left out."""
    ready = "ready" if answer.get("ready") else f"not ready: {', '.join(map(str, answer.get('reasons') or ['?']))}"
    yield f"{ready}"
    yield f"node      {answer.get('node')}, pid {answer.get('pid')}, version {answer.get('version')}"
    yield f"started   {answer.get('started')}"
    yield f"calls     {answer.get('calls')}"
    fastagi = _part(answer, "fastagi")
    if fastagi:
        requests = ", ".join(f"{name} {count}" for name, count in sorted(_part(fastagi, "requests").items()))
        yield f"fastagi   on {fastagi.get('listen')}, {fastagi.get('connections')} connections"
        yield f"          answered: {requests or 'nothing yet'}"
        yield f"          {fastagi.get('timeouts')} too late, {fastagi.get('failures')} failed"
    ami = _part(answer, "ami")
    if ami:
        since = f", Asterisk started {ami.get('asterisk_started')}" if ami.get("asterisk_started") else ""
        yield f"ami       {('up' if ami.get('up') else 'down') if ami.get('enabled') else 'off'}{since}"
    control = _part(ami, "control")
    if control:
        yield f"          {'up' if control.get('up') else 'down'} for actions, as {control.get('user')}"
    engine = _part(answer, "engine")
    if engine:
        yield (
            f"engine    {engine.get('commands')} commands in {engine.get('batches')} transactions,"
            f" {engine.get('queued')} waiting"
        )
    decisions = _part(answer, "decisions")
    if decisions.get("p50_ms") is not None:
        yield (
            f"decisions {decisions.get('per_second')} a second, half of them within {decisions['p50_ms']} ms,"
            f" 99 % within {decisions.get('p99_ms')} ms"
        )
    journal = _part(answer, "journal")
    if journal.get("waiting") or journal.get("trouble"):
        trouble = f": {journal['trouble']}" if journal.get("trouble") else ""
        yield f"journal   {journal.get('waiting')} ends wait for the database{trouble}"
    zombies = _part(answer, "zombies")
    if zombies.get("channels"):
        shown = zombies.get("shown")
        names = [str(_each(channel).get("channel")) for channel in shown] if isinstance(shown, list) else []
        yield f"zombies   {zombies['channels']} channels without a call: {', '.join(names)}"
    if zombies.get("calls_found"):
        yield f"zombies   {zombies['calls_found']} calls without a channel, since the start"


def _part(answer: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _each(answer.get(name))


def _each(part: object) -> Mapping[str, Any]:
    return part if isinstance(part, Mapping) else {}
