"""`capconduit trunk`: the carriers that send calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import SipTransport, TrunkAuth, TrunkKind
from capconduit_cli.names import NewName, TrunkName
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import NONE, DryRun, Yes, parse_duration_or_none
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.domain.model import Trunk

app = NounApp(
    "A trunk becomes an endpoint of the rendered Asterisk configuration. How a call is known to be the carrier's: by"
    " the addresses it comes from (--auth ip), by a secret that the carrier proves to know (digest), or by its"
    " addresses, after we have registered there (register). Run `capconduit render` after a change."
)

COLUMNS: Final = (
    Column("name"),
    Column("kind"),
    Column("hosts", Kind.NAMES),
    Column("port", Kind.INT),
    Column("codecs", Kind.NAMES),
    Column("region"),
    Column("auth"),
    Column("username", shown=False),
    Column("secret", shown=False),
    Column("transport"),
    Column("srtp", Kind.BOOL, shown=False),
    Column("nat", Kind.BOOL, shown=False),
    Column("qualify_ms", Kind.DURATION, shown=False),
    Column("permit", Kind.NAMES, shown=False),
    *ENTITY_COLUMNS,
)

HOST_HELP: Final = "Address, network or name that calls come from."
PORT_HELP: Final = "Port of the carrier."
CODECS_HELP: Final = "Codecs as Asterisk names them, the best first."
REGION_HELP: Final = "ISO 3166 region of numbers without a country code."
AUTH_HELP: Final = "How a call is known to be the carrier's."
USERNAME_HELP: Final = "Name that the secret belongs to."
SECRET_HELP: Final = "Where the secret is, never the secret itself: env:NAME or file:/absolute/path."
TRANSPORT_HELP: Final = "What carries SIP; tcp and tls are to be switched on in [asterisk]."
SRTP_HELP: Final = "Encrypt media; with --transport tls, which carries the keys."
NAT_HELP: Final = "The carrier is behind NAT: answer to where its packets come from."
QUALIFY_HELP: Final = "Ask the carrier this often whether it is there, or none."
PERMIT_HELP: Final = "Network that its calls must come from, beside the secret."
NO_USERNAME: Final = f"{USERNAME_HELP[:-1]}, or none."
NO_SECRET: Final = f"{SECRET_HELP[:-1]}; or none."


def row(trunk: Trunk) -> Row:
    """A trunk as it is printed."""
    return {
        "name": trunk.name,
        "kind": trunk.kind,
        "hosts": _listed(trunk.hosts),
        "port": trunk.port,
        "codecs": _listed(trunk.codecs),
        "region": trunk.region,
        "auth": trunk.auth,
        "username": trunk.auth_username,
        "secret": trunk.auth_secret_ref,
        "transport": trunk.transport,
        "srtp": trunk.srtp,
        "nat": trunk.nat,
        "qualify_ms": trunk.qualify_ms or None,
        "permit": _listed(trunk.permit),
        **entity_values(trunk),
    }


def _listed(joined: str) -> list[str]:
    return joined.split(",") if joined else []


def _or_nothing(text: str | None) -> str | None:
    """`none` takes away what was set."""
    return "" if text == NONE else text


def _several(values: list[str] | None) -> list[str] | None:
    return [] if values == [NONE] else values or None


def _render_hint(dry_run: bool) -> None:
    if not dry_run:
        notice("Asterisk does not know it yet: `capconduit render`")


@app.verb(
    "add",
    "capconduit trunk add carrier --kind pjsip --host 127.0.0.1 --port 5070",
    "capconduit trunk add carrier2 --kind iax2 --host 192.0.2.7 --host 192.0.2.8 --region GB",
    "capconduit trunk add carrier3 --host sip.carrier.example --auth register --username 4711 --secret env:CARRIER3",
    "capconduit trunk add carrier4 --auth digest --secret file:/etc/capconduit/carrier4 --transport tls --srtp",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    host: Annotated[list[str] | None, typer.Option("--host", metavar="HOST", help=HOST_HELP)] = None,
    kind: Annotated[TrunkKind, typer.Option("--kind", help="Protocol.")] = TrunkKind.PJSIP,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="PORT", help=PORT_HELP, show_default="5060, tls: 5061, iax2: 4569"),
    ] = None,
    codecs: Annotated[str, typer.Option("--codecs", "--codec", metavar="A,B", help=CODECS_HELP)] = "ulaw,alaw",
    region: Annotated[
        str, typer.Option("--region", metavar="CODE", help=REGION_HELP, show_default="the setting default_region")
    ] = "",
    auth: Annotated[TrunkAuth, typer.Option("--auth", help=AUTH_HELP)] = TrunkAuth.IP,
    username: Annotated[
        str, typer.Option("--username", metavar="NAME", help=USERNAME_HELP, show_default="digest: the trunk's name")
    ] = "",
    secret: Annotated[str, typer.Option("--secret", metavar="REFERENCE", help=SECRET_HELP)] = "",
    transport: Annotated[SipTransport, typer.Option("--transport", help=TRANSPORT_HELP)] = SipTransport.UDP,
    srtp: Annotated[bool, typer.Option("--srtp", help=SRTP_HELP)] = False,
    nat: Annotated[bool, typer.Option("--nat", help=NAT_HELP)] = False,
    qualify: Annotated[
        int,
        typer.Option(
            "--qualify",
            metavar="DURATION|none",
            parser=parse_duration_or_none,
            help=QUALIFY_HELP,
            show_default="none",
        ),
    ] = 0,
    permit: Annotated[list[str] | None, typer.Option("--permit", metavar="NETWORK", help=PERMIT_HELP)] = None,
    dry_run: DryRun = False,
) -> None:
    """Add a trunk."""
    from capconduit.services.trunks import add_trunk

    made = office(ctx, dry_run=dry_run)
    trunk = add_trunk(
        made,
        name,
        kind=kind,
        hosts=host or (),
        port=port,
        codecs=codecs,
        region=region,
        auth=auth,
        auth_username=username,
        auth_secret_ref=secret,
        transport=transport,
        srtp=srtp,
        nat=nat,
        qualify_ms=qualify,
        permit=_several(permit) or (),
    )
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
    "set",
    "capconduit trunk set carrier --host 192.0.2.7 --host 192.0.2.8",
    "capconduit trunk set carrier --port 5062 --qualify 60s",
    "capconduit trunk set carrier --auth ip --username none --secret none",
)
def set_(
    ctx: typer.Context,
    name: TrunkName,
    out: ChangeOutput,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="HOST", help=f"{HOST_HELP} Replaces all; none: none.")
    ] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="PORT", help=PORT_HELP)] = None,
    codecs: Annotated[str | None, typer.Option("--codecs", "--codec", metavar="A,B", help=CODECS_HELP)] = None,
    region: Annotated[str | None, typer.Option("--region", metavar="CODE", help=REGION_HELP)] = None,
    auth: Annotated[TrunkAuth | None, typer.Option("--auth", help=AUTH_HELP)] = None,
    username: Annotated[str | None, typer.Option("--username", metavar="NAME", help=NO_USERNAME)] = None,
    secret: Annotated[str | None, typer.Option("--secret", metavar="REFERENCE", help=NO_SECRET)] = None,
    transport: Annotated[SipTransport | None, typer.Option("--transport", help=TRANSPORT_HELP)] = None,
    srtp: Annotated[bool | None, typer.Option("--srtp/--no-srtp", help=SRTP_HELP)] = None,
    nat: Annotated[bool | None, typer.Option("--nat/--no-nat", help=NAT_HELP)] = None,
    qualify: Annotated[
        int | None,
        typer.Option("--qualify", metavar="DURATION|none", parser=parse_duration_or_none, help=QUALIFY_HELP),
    ] = None,
    permit: Annotated[
        list[str] | None, typer.Option("--permit", metavar="NETWORK", help=f"{PERMIT_HELP} Replaces all; none: any.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a trunk."""
    from capconduit.services.trunks import set_trunk

    fields = given(
        "trunk",
        name,
        hosts=_several(host),
        port=port,
        codecs=codecs,
        region=region,
        auth=auth,
        auth_username=_or_nothing(username),
        auth_secret_ref=_or_nothing(secret),
        transport=transport,
        srtp=srtp,
        nat=nat,
        qualify_ms=qualify,
        permit=_several(permit),
    )
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_trunk(made, name, **fields)), COLUMNS, out)
    _render_hint(dry_run)


@app.verb("remove", "capconduit trunk remove carrier --yes")
def remove(ctx: typer.Context, name: TrunkName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a trunk that no DID names, with its caps."""
    from capconduit.services.trunks import remove_trunk

    destroy(office(ctx), f"trunk {name}", lambda made: remove_trunk(made, name), yes=yes, dry_run=dry_run)
