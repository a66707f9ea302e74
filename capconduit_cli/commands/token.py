"""`capconduit token`: keys to the HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.vocab import TokenScope
from capconduit_cli.names import USERS, NewName, TokenName, name_option
from capconduit_cli.office import destroy, emit_change, office
from capconduit_cli.output import (
    ChangeOutput,
    Column,
    Kind,
    ListOutput,
    Row,
    ShowOutput,
    confirm,
    emit_one,
    emit_rows,
    notice,
)
from capconduit_cli.params import DryRun, Expiry, Yes, expiry_option
from capconduit_cli.rows import ENTITY_COLUMNS, entity_values
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.tokens import TokenView

app = NounApp(
    "A token is shown once, when it is made: only its hash is kept. One of a seller's user may do what its scopes say"
    " for that seller and nobody else. It opens nothing once it is revoked or over, or while its user is suspended."
)

COLUMNS: Final = (
    Column("name"),
    Column("user"),
    Column("scopes", Kind.NAMES),
    Column("valid", Kind.BOOL),
    Column("expires", Kind.INSTANT),
    Column("used", Kind.INSTANT),
    Column("revoked", Kind.INSTANT, shown=False),
    *ENTITY_COLUMNS,
)
NEW_COLUMNS: Final = (Column("token"), *COLUMNS)


def row(view: TokenView) -> Row:
    """A token as it is printed."""
    token = view.token
    return {
        "name": token.name,
        "user": view.user,
        "scopes": view.scopes,
        "valid": view.valid,
        "expires": token.expires_ms,
        "used": token.used_ms,
        "revoked": token.revoked_ms,
        **entity_values(token),
    }


@app.verb(
    "add",
    "capconduit token add bob-laptop --user bob --expires 90d",
    "capconduit token add dashboard --user bob --scope calls:read --scope balance:read --json",
)
def add(
    ctx: typer.Context,
    name: NewName,
    out: ChangeOutput,
    user: Annotated[str, name_option("--user", USERS, "Whose token it is.")],
    scope: Annotated[
        list[TokenScope] | None, typer.Option("--scope", help="What it may do; without it, all that the user may.")
    ] = None,
    expires: Annotated[
        Expiry | None, expiry_option("--expires", help="Until when it opens anything.", show_default="never")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Make a token and print it, this once."""
    from capconduit.services.tokens import add_token

    made = office(ctx, dry_run=dry_run)
    expires_ms = (expires or Expiry(None)).at(made.clock.now_ms())
    view, text = add_token(made, name, user=user, scopes=scope or (), expires_ms=expires_ms)
    emit_change(made, {**row(view), "token": None if dry_run else text}, NEW_COLUMNS, out)
    if not dry_run:
        notice("keep the token now: it is not shown again")


@app.verb("list", "capconduit token list", "capconduit token list --user bob --filter valid=yes")
def list_(
    ctx: typer.Context,
    out: ListOutput,
    user: Annotated[str | None, name_option("--user", USERS, "Only those of this user.")] = None,
) -> None:
    """List the tokens, without their texts."""
    from capconduit.services.tokens import list_tokens

    emit_rows((row(view) for view in list_tokens(office(ctx), user or "")), COLUMNS, out)


@app.verb("show", "capconduit token show bob-laptop")
def show(ctx: typer.Context, name: TokenName, out: ShowOutput) -> None:
    """Show one token, without its text."""
    from capconduit.services.tokens import show_token

    emit_one(row(show_token(office(ctx), name)), COLUMNS, out)


@app.verb("revoke", "capconduit token revoke bob-laptop --yes")
def revoke(ctx: typer.Context, name: TokenName, out: ChangeOutput, yes: Yes = False, dry_run: DryRun = False) -> None:
    """From now on the token opens nothing; it stays in the list, to be seen."""
    from capconduit.services.tokens import revoke_token

    made = office(ctx, dry_run=True)
    view = revoke_token(made, name)  # what cannot be done is refused before anybody is asked
    if not dry_run:
        confirm(f"Revoke token {name}? It cannot be made valid again.", yes=yes)
        made.dry_run = False
        view = revoke_token(made, name)
    emit_change(made, row(view), COLUMNS, out)


@app.verb("remove", "capconduit token remove bob-laptop --yes")
def remove(ctx: typer.Context, name: TokenName, yes: Yes = False, dry_run: DryRun = False) -> None:
    """Remove a token: it opens nothing any more, and is not listed any more."""
    from capconduit.services.tokens import remove_token

    destroy(office(ctx), f"token {name}", lambda made: remove_token(made, name), yes=yes, dry_run=dry_run)
