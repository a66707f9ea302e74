"""`capconduit user`: who signs in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.vocab import Status, UserRole
from capconduit_cli.names import SELLERS, NewName, UserName, name_option, name_or_none_option, named
from capconduit_cli.office import destroy, emit_change, given, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows
from capconduit_cli.params import NONE, DryRun, Yes
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.users import UserView

app = NounApp(
    "An admin may see and change everything; a user of role seller belongs to one seller account and sees only its"
    " calls, balance and caps. Users reach the HTTP API by tokens (`capconduit token`); this command line is for"
    " whoever may read its configuration."
)

COLUMNS: Final = (
    Column("name"),
    Column("role"),
    Column("status"),
    Column("seller"),
    Column("email"),
    Column("tokens", Kind.INT),
    *ENTITY_COLUMNS,
)

ROLE_HELP: Final = "What the user may do."
SELLER_HELP: Final = "The seller account that the user belongs to."
EMAIL_HELP: Final = "Where notifications go."


def row(view: UserView) -> Row:
    """A user as it is printed."""
    user = view.user
    return {
        "name": user.name,
        "role": user.role,
        "status": user.status,
        "seller": view.seller,
        "email": user.email,
        "tokens": view.tokens,
        **entity_values(user),
    }


@app.verb(
    "add",
    "capconduit user add anna --role admin --email anna@example.com",
    "capconduit user add bob --role seller --seller acme",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    role: Annotated[UserRole, typer.Option("--role", help=ROLE_HELP)],
    seller: Annotated[str | None, name_option("--seller", SELLERS, SELLER_HELP)] = None,
    email: Annotated[str, typer.Option("--email", metavar="ADDRESS", help=EMAIL_HELP)] = "",
    dry_run: DryRun = False,
) -> None:
    """Add a user."""
    from capconduit.services.users import add_user

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(add_user(made, name, role=role, seller=seller or "", email=email)), COLUMNS, out)


@app.verb("list", "capconduit user list", "capconduit user list --filter role=seller --json")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the users."""
    from capconduit.services.users import list_users

    emit_rows((row(view) for view in list_users(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit user show anna")
def show(ctx: typer.Context, name: UserName, out: ShowOutput) -> None:
    """Show one user."""
    from capconduit.services.users import show_user

    emit_one(row(show_user(office(ctx), name)), COLUMNS, out)


@app.verb(
    "set",
    "capconduit user set bob --email bob@example.com",
    "capconduit user set bob --role admin --seller none",
    "capconduit user set bob --status suspended",
)
def set_(
    ctx: typer.Context,
    name: UserName,
    out: ChangeOutput,
    role: Annotated[UserRole | None, typer.Option("--role", help=ROLE_HELP)] = None,
    seller: Annotated[str | None, name_or_none_option("--seller", SELLERS, SELLER_HELP)] = None,
    email: Annotated[str | None, typer.Option("--email", metavar=f"ADDRESS|{NONE}", help=EMAIL_HELP)] = None,
    status: Annotated[Status | None, typer.Option("--status", help="Suspended ones are kept out.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Change a user.

    Tokens are for one role and one seller: they must be revoked before either is changed.
    """
    from capconduit.services.users import set_user

    fields: dict[str, Any] = given("user", name, role=role, seller=named(seller), email=named(email), status=status)
    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_user(made, name, **fields)), COLUMNS, out)


@app.verb("suspend", "capconduit user suspend bob")
def suspend(ctx: typer.Context, name: UserName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Keep a user and its tokens out."""
    _suspend(ctx, name, out, dry_run, suspended=True)


@app.verb("resume", "capconduit user resume bob")
def resume(ctx: typer.Context, name: UserName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Let a user and its tokens in again."""
    _suspend(ctx, name, out, dry_run, suspended=False)


def _suspend(ctx: typer.Context, name: str, out: ChangeOutput, dry_run: bool, *, suspended: bool) -> None:
    from capconduit.services.users import suspend_user

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(suspend_user(made, name, suspended=suspended)), COLUMNS, out)


@app.verb("remove", "capconduit user remove bob --yes")
def remove(ctx: typer.Context, name: UserName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a user with its tokens."""
    from capconduit.services.users import remove_user

    destroy(office(ctx), f"user {name}", lambda made: remove_user(made, name), yes=yes, dry_run=dry_run)
