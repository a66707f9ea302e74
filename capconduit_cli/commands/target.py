"""`capconduit target`: where calls are forwarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import TargetKind
from capconduit_cli.names import NewName, TargetName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import DryRun, Yes, duration_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Target

app = NounApp(
    "The address is what Asterisk dials: for pjsip sip:user@host:port or the name of an endpoint, for iax2 peer/number,"
    " for extension number@context. Campaigns reach a target by `capconduit rule`."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("address"),
    Column("ring_ms", Kind.DURATION),
    Column("enabled", Kind.BOOL),
    *ENTITY_COLUMNS,
)

ADDRESS_HELP: Final = "What to dial, by kind."
RING_HELP: Final = "How long it may ring before the next target is tried."


def row(target: Target) -> Row:
    """A target as it is printed."""
    return {
        "name": target.name,
        "kind": target.kind,
        "address": target.address,
        "ring_ms": target.ring_ms,
        "enabled": target.enabled,
        **entity_values(target),
    }


@app.verb(
    "add",
    "capconduit target add buyer1 --kind pjsip --address sip:buyer@127.0.0.1:5080 --ring 20s",
    "capconduit target add desk --kind extension --address 100@internal",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    address: Annotated[str, typer.Option("--address", metavar="ADDRESS", help=ADDRESS_HELP)],
    kind: Annotated[TargetKind, typer.Option("--kind", help="How it is dialled.")] = TargetKind.PJSIP,
    ring: Annotated[int, duration_option("--ring", help=RING_HELP, show_default="20s")] = 20_000,
    dry_run: DryRun = False,
) -> None:
    """Add a target."""
    from capconduit.services.targets import add_target

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(add_target(made, name, kind=kind, address=address, ring_ms=ring)), COLUMNS, out)


@app.verb("list", "capconduit target list", "capconduit target list --filter enabled=no")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the targets."""
    from capconduit.services.targets import list_targets

    emit_rows((row(target) for target in list_targets(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit target show buyer1")
def show(ctx: typer.Context, name: TargetName, out: ShowOutput) -> None:
    """Show one target."""
    from capconduit.services.targets import show_target

    emit_one(row(show_target(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set", "capconduit target set buyer1 --ring 30s", "capconduit target set buyer1 --address sip:buyer@192.0.2.9"
)
def set_(
    ctx: typer.Context,
    name: TargetName,
    out: ChangeOutput,
    address: Annotated[str | None, typer.Option("--address", metavar="ADDRESS", help=ADDRESS_HELP)] = None,
    kind: Annotated[TargetKind | None, typer.Option("--kind", help="How it is dialled.")] = None,
    ring: Annotated[int | None, duration_option("--ring", help=RING_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a target; calls that are being dialled keep the old address."""
    from capconduit.services.targets import set_target

    fields = given("target", name, address=address, kind=kind, ring_ms=ring)
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_target(made, name, **fields)), COLUMNS, out)


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


@app.verb("remove", "capconduit target remove buyer1 --yes")
def remove(ctx: typer.Context, name: TargetName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a target that no rule uses, with its caps."""
    from capconduit.services.targets import remove_target

    destroy(office(ctx), f"target {name}", lambda made: remove_target(made, name), yes=yes, dry_run=dry_run)
