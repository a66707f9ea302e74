"""`capconduit trunk`: the carriers that send calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import TrunkKind
from capconduit_cli.names import NewName, TrunkName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Trunk

app = NounApp(
    "A trunk becomes an endpoint of the rendered Asterisk configuration, identified by its hosts. Run"
    " `capconduit render` after a change."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("hosts", Kind.NAMES),
    Column("port", Kind.INT),
    Column("codecs", Kind.NAMES),
    Column("region"),
    *ENTITY_COLUMNS,
)

HOST_HELP: Final = "Address, network or name that calls come from."
PORT_HELP: Final = "Port of the carrier."
CODECS_HELP: Final = "Codecs as Asterisk names them, the best first."
REGION_HELP: Final = "ISO 3166 region of numbers without a country code."


def row(trunk: Trunk) -> Row:
    """A trunk as it is printed."""
    return {
        "name": trunk.name,
        "kind": trunk.kind,
        "hosts": trunk.hosts.split(","),
        "port": trunk.port,
        "codecs": trunk.codecs.split(","),
        "region": trunk.region,
        **entity_values(trunk),
    }


def _render_hint(dry_run: bool) -> None:
    if not dry_run:
        notice("Asterisk does not know it yet: `capconduit render`")


@app.verb(
    "add",
    "capconduit trunk add carrier --kind pjsip --host 127.0.0.1 --port 5070",
    "capconduit trunk add carrier2 --kind iax2 --host 192.0.2.7 --host 192.0.2.8 --region GB",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    host: Annotated[list[str], typer.Option("--host", metavar="HOST", help=HOST_HELP)],
    kind: Annotated[TrunkKind, typer.Option("--kind", help="Protocol.")] = TrunkKind.PJSIP,
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", help=PORT_HELP, show_default="5060, iax2: 4569")
    ] = None,
    codecs: Annotated[str, typer.Option("--codecs", metavar="A,B", help=CODECS_HELP)] = "ulaw,alaw",
    region: Annotated[
        str, typer.Option("--region", metavar="CODE", help=REGION_HELP, show_default="the setting default_region")
    ] = "",
    dry_run: DryRun = False,
) -> None:
    """Add a trunk."""
    from capconduit.services.trunks import add_trunk

    made = office(ctx, dry_run=dry_run)
    trunk = add_trunk(made, name, kind=kind, hosts=host, port=port, codecs=codecs, region=region)
    emit_change(made, row(trunk), COLUMNS, out)
    _render_hint(dry_run)


@app.verb("list", "capconduit trunk list", "capconduit trunk list --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the trunks."""
    from capconduit.services.trunks import list_trunks

    emit_rows((row(trunk) for trunk in list_trunks(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit trunk show carrier")
def show(ctx: typer.Context, name: TrunkName, out: ShowOutput) -> None:
    """Show one trunk."""
    from capconduit.services.trunks import show_trunk

    emit_one(row(show_trunk(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set", "capconduit trunk set carrier --host 192.0.2.7 --host 192.0.2.8", "capconduit trunk set carrier --port 5062"
)
def set_(
    ctx: typer.Context,
    name: TrunkName,
    out: ChangeOutput,
    host: Annotated[list[str] | None, typer.Option("--host", metavar="HOST", help=f"{HOST_HELP} Replaces all.")] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help=PORT_HELP)] = None,
    codecs: Annotated[str | None, typer.Option("--codecs", metavar="A,B", help=CODECS_HELP)] = None,
    region: Annotated[str | None, typer.Option("--region", metavar="CODE", help=REGION_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a trunk."""
    from capconduit.services.trunks import set_trunk

    fields = given("trunk", name, hosts=host or None, port=port, codecs=codecs, region=region)
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_trunk(made, name, **fields)), COLUMNS, out)
    _render_hint(dry_run)


@app.verb("remove", "capconduit trunk remove carrier --yes")
def remove(ctx: typer.Context, name: TrunkName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a trunk that no DID names, with its caps."""
    from capconduit.services.trunks import remove_trunk

    destroy(office(ctx), f"trunk {name}", lambda made: remove_trunk(made, name), yes=yes, dry_run=dry_run)
