"""`capconduit target`: where calls are forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import PeerError
from capconduit.vocab import TargetKind
from capconduit_cli.app import state
from capconduit_cli.bulk.importing import ListFile, Update, carry_out
from capconduit_cli.names import AGENTS, RATES, SCHEDULES, NewName, TargetName, name_option, name_or_none_option, named
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Yes, duration_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.targets import TargetView
    from capconduit_cli.reaching import Reached

app = NounApp(
    "The address is what Asterisk dials: for pjsip sip:user@host:port or the name of an endpoint, for iax2 peer/number,"
    " for extension number@context; one of kind agent names an agent instead (--agent). Campaigns reach a target by"
    " `capconduit rule`. One that fails several times in a row (the setting breaker_failures) is rested for a while"
    " (breaker_rest_s), then one call tries it again."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("address"),
    Column("agent", shown=False),
    Column("ring_ms", Kind.DURATION, shown=False),
    Column("enabled", Kind.BOOL),
    Column("health"),
    Column("active", Kind.INT),
    Column("failures", Kind.INT),
    Column("rested_until", Kind.INSTANT),
    Column("schedule", shown=False),
    Column("rate", shown=False),
    Column("payout", shown=False),
    *ENTITY_COLUMNS,
)
TEST_COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("address"),
    Column("ok", Kind.BOOL),
    Column("reason"),
    Column("detail"),
    Column("asked"),
    Column("status", Kind.INT),
    Column("state"),
    Column("latency_ms", Kind.INT),
    Column("enabled", Kind.BOOL),
    Column("health"),
    Column("active", Kind.INT),
    Column("failures", Kind.INT),
    Column("rested_until", Kind.INSTANT),
)
_TIMEOUT_MS: Final = 2_000

ADDRESS_HELP: Final = "What to dial, by kind."
RING_HELP: Final = "How long it may ring before the next target is tried."
SCHEDULE_HELP: Final = "When it takes calls; without one, always."
RATE_HELP: Final = "What sellers pay for calls there, instead of the campaign's rate."
PAYOUT_HELP: Final = "What its side is paid for them."
AGENT_HELP: Final = "Of kind agent: whose profile answers."
AgentOption = Annotated[str | None, name_option("--agent", AGENTS, AGENT_HELP)]
OwnSchedule = Annotated[str | None, name_or_none_option("--schedule", SCHEDULES, SCHEDULE_HELP)]
OwnRate = Annotated[str | None, name_or_none_option("--rate", RATES, RATE_HELP)]
Payout = Annotated[str | None, name_or_none_option("--payout", RATES, PAYOUT_HELP)]


def row(view: TargetView) -> Row:
    """A target as it is printed."""
    target, state = view.target, view.state
    return {
        "name": target.name,
        "kind": target.kind,
        "address": target.address,
        "agent": view.agent,
        "ring_ms": target.ring_ms,
        "enabled": target.enabled,
        "health": view.health,
        "active": state.active,
        "failures": state.failures,
        "rested_until": state.rested_until_ms or None,
        "schedule": view.schedule,
        "rate": view.rate,
        "payout": view.payout,
        **entity_values(target),
    }


def tested_row(view: TargetView, found: Reached) -> Row:
    """What a test found, with what the target has been through, as it is printed."""
    own = row(view)
    return {
        **{key: own[key] for key in ("name", "kind", "address", "enabled", "health", "active", "failures")},
        "rested_until": own["rested_until"],
        "ok": found.ok,
        "reason": found.fault or "",
        "detail": found.words,
        "asked": found.asked,
        "status": found.status,
        "state": found.state,
        "latency_ms": found.latency_ms,
    }


@app.verb(
    "add",
    "capconduit target add buyer1 --kind pjsip --address sip:buyer@127.0.0.1:5080 --ring 20s",
    "capconduit target add desk --kind extension --address 100@internal",
    "capconduit target add buyer2 --address sip:buyer@192.0.2.9 --schedule office --payout buyer2-pay",
    "capconduit target add night --kind agent --agent reception --ring 10s",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    address: Annotated[str, typer.Option("--address", metavar="ADDRESS", help=ADDRESS_HELP)] = "",
    kind: Annotated[TargetKind, typer.Option("--kind", help="How it is dialled.")] = TargetKind.PJSIP,
    agent: AgentOption = None,
    ring: Annotated[int, duration_option("--ring", help=RING_HELP, show_default="20s")] = 20_000,
    schedule: OwnSchedule = None,
    rate: OwnRate = None,
    payout: Payout = None,
    dry_run: DryRun = False,
) -> None:
    """Add a target."""
    from capconduit.services.targets import add_target

    made = office(ctx, dry_run=dry_run)
    view = add_target(
        made,
        name,
        kind=kind,
        address=address,
        ring_ms=ring,
        schedule=named(schedule) or "",
        rate=named(rate) or "",
        payout=named(payout) or "",
        agent=agent or "",
    )
    emit_change(made, row(view), COLUMNS, out)
    _tell_without_voice(ctx, view)


def _tell_without_voice(ctx: typer.Context, view: TargetView) -> None:
    """An agent without the process that speaks for it takes no call."""
    if view.target.kind is TargetKind.AGENT and not state(ctx).config.voice.url:
        notice("voice.url is not configured: until it is, calls go on to the next target")


@app.verb(
    "import",
    "capconduit target import targets.csv --dry-run",
    "capconduit target import targets.csv --update",
)
def import_(
    ctx: typer.Context, source: ListFile, out: ChangeOutput, update: Update = False, dry_run: DryRun = False
) -> None:
    """Add the targets of a list: name, kind, address (or agent), and if wanted ring, enabled, schedule, rate, payout.

    The first line names the columns, in any order; a list that `target list -o csv` wrote is one. All or nothing: where
    any line is wrong, all that are wrong are told and nothing changes. With --update columns that are not there stay
    as they are, and an empty schedule, rate or payout takes it away.
    """
    from capconduit.services.bulk_selling import TARGET_COLUMNS, import_targets

    carry_out(ctx, source, TARGET_COLUMNS, import_targets, out, update=update, dry_run=dry_run)


@app.verb(
    "list",
    "capconduit target list",
    "capconduit target list --filter enabled=no",
    "capconduit target list --filter health=resting --json",
)
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the targets, with the calls that are there now and how they are.

    Health is well, failing (some Dials in a row failed), resting, waiting (the next call tries it) or probing (a call
    tries it now).
    """
    from capconduit.services.targets import list_targets

    emit_rows((row(view) for view in list_targets(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit target show buyer1")
def show(ctx: typer.Context, name: TargetName, out: ShowOutput) -> None:
    """Show one target."""
    from capconduit.services.targets import show_target

    emit_one(row(show_target(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit target set buyer1 --ring 30s",
    "capconduit target set buyer1 --address sip:buyer@192.0.2.9",
    "capconduit target set buyer1 --schedule office --rate premium --payout none",
)
def set_(
    ctx: typer.Context,
    name: TargetName,
    out: ChangeOutput,
    address: Annotated[str | None, typer.Option("--address", metavar="ADDRESS", help=ADDRESS_HELP)] = None,
    kind: Annotated[TargetKind | None, typer.Option("--kind", help="How it is dialled.")] = None,
    agent: AgentOption = None,
    ring: Annotated[int | None, duration_option("--ring", help=RING_HELP)] = None,
    schedule: OwnSchedule = None,
    rate: OwnRate = None,
    payout: Payout = None,
    dry_run: DryRun = False,
) -> None:
    """Change a target; calls that are being dialled keep what they began with.

    A rate in another currency than that of a seller whose calls go there is refused. One that becomes an agent loses
    its address, and one that becomes something else its agent.
    """
    from capconduit.services.targets import set_target

    fields = given(
        "target",
        name,
        address=address,
        kind=kind,
        agent=agent,
        ring_ms=ring,
        schedule=named(schedule),
        rate=named(rate),
        payout=named(payout),
    )
    made = office(ctx, dry_run=dry_run)
    view = set_target(made, name, **fields)
    emit_change(made, row(view), COLUMNS, out)
    _tell_without_voice(ctx, view)


@app.verb(
    "test",
    "capconduit target test buyer1",
    "capconduit target test buyer1 --timeout 5s --json",
)
def ask(
    ctx: typer.Context,
    name: TargetName,
    out: ShowOutput,
    timeout: Annotated[
        int, duration_option("--timeout", help="How long an answer may take.", show_default="2s")
    ] = _TIMEOUT_MS,
) -> None:
    """Ask whether a call would find somebody there, and say how the target is; nothing is changed.

    A SIP URI gets OPTIONS from this machine over UDP, and any final response is an answer; an endpoint or IAX2 peer is
    as Asterisk has it; an extension is looked for in the dialplan in force; an agent's voice.url gets a handshake. Exit
    code 4 where nobody is found. Where nobody can tell, because Asterisk does not qualify it, ok is empty (JSON null);
    so it is with exit code 4 where the URI wants TCP or TLS, which are not asked.
    """
    from capconduit.services.targets import show_target
    from capconduit_cli.reaching import NEXT, check_timeout, reach

    check_timeout(timeout)
    view = show_target(office(ctx), name)
    found = reach(view.target, state(ctx).config, timeout)
    emit_one(tested_row(view, found), TEST_COLUMNS, out)
    if found.fault is not None:
        raise PeerError(f"target-{found.fault}", f"target {name}: {found.words}", NEXT[found.fault])


@app.verb("pause", "capconduit target pause buyer1")
def pause(ctx: typer.Context, name: TargetName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Offer no more calls to a target; live calls go on."""
    _enable(ctx, name, out, dry_run, enabled=False)


@app.verb("resume", "capconduit target resume buyer1")
def resume(ctx: typer.Context, name: TargetName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Offer calls to a target again."""
    _enable(ctx, name, out, dry_run, enabled=True)


def _enable(ctx: typer.Context, name: str, out: ChangeOutput, dry_run: bool, *, enabled: bool) -> None:
    from capconduit.services.targets import set_target

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_target(made, name, enabled=enabled)), COLUMNS, out)


@app.verb("revive", "capconduit target revive buyer1")
def revive(ctx: typer.Context, name: TargetName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """End a target's rest and forget its failures: it is tried again at once."""
    from capconduit.services.targets import revive_target

    made = office(ctx, dry_run=dry_run)
    view, rested = revive_target(made, name)
    emit_change(made, row(view), COLUMNS, out)
    if not rested:
        notice(f"target {name} did not rest and had no failures")


@app.verb("rest", "capconduit target rest buyer1", "capconduit target rest buyer1 --for 30s")
def rest(
    ctx: typer.Context,
    name: TargetName,
    out: ChangeOutput,
    for_: Annotated[
        int | None,
        duration_option(
            "--for", help="How long, at most what the setting breaker_rest_s says.", show_default="breaker_rest_s"
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Leave a target alone for a while, then let one call try it; live calls go on.

    A rest is as short as that of a target that fails. For longer: `capconduit target pause`, and `resume`.
    """
    from capconduit.services.targets import rest_target

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(rest_target(made, name, rest_ms=for_)), COLUMNS, out)


@app.verb("remove", "capconduit target remove buyer1 --yes")
def remove(ctx: typer.Context, name: TargetName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a target that no rule uses, with its caps."""
    from capconduit.services.targets import remove_target

    destroy(office(ctx), f"target {name}", lambda made: remove_target(made, name), yes=yes, dry_run=dry_run)
