"""`capconduit setting`: the system settings, kept in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit_cli.names import SettingName
from capconduit_cli.office import emit_change, office
from capconduit_cli.output import ChangeOutput, Column, Kind, ListOutput, Row, ShowOutput, emit_one, emit_rows, notice
from capconduit_cli.params import DryRun
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.settings import SettingView

app = NounApp(
    "Settings belong to the tenant and are in force with the next call, on every node. What belongs to one machine is"
    " in its configuration file: `capconduit config`."
)

COLUMNS: Final = (
    Column("name"),
    Column("value", Kind.ANY),
    Column("default", Kind.ANY),
    Column("type", shown=False),
    Column("description"),
)


def row(view: SettingView) -> Row:
    """A setting as it is printed."""
    return {
        "name": view.name,
        "value": view.value,
        "default": view.default,
        "type": {"int": "integer", "str": "text"}[view.type],
        "description": view.description,
    }


@app.verb("list", "capconduit setting list")
def list_(ctx: typer.Context, out: ListOutput) -> None:
    """List the settings with their values in force."""
    from capconduit.services.settings import list_settings

    emit_rows((row(view) for view in list_settings(office(ctx))), COLUMNS, out)


@app.verb("show", "capconduit setting show timezone", "capconduit setting show funding_slice_s --fields value -o plain")
def show(ctx: typer.Context, name: SettingName, out: ShowOutput) -> None:
    """Show one setting."""
    from capconduit.services.settings import show_setting

    emit_one(row(show_setting(office(ctx), name)), COLUMNS, out)


@app.verb("set", "capconduit setting set funding_slice_s 30", "capconduit setting set anonymous_callers reject")
def set_(
    ctx: typer.Context,
    name: SettingName,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The new value.")],
    out: ChangeOutput,
    dry_run: DryRun = False,
) -> None:
    """Change a setting; in force with the next call."""
    from capconduit.services.settings import set_setting

    made = office(ctx, dry_run=dry_run)
    emit_change(made, row(set_setting(made, name, value)), COLUMNS, out)


@app.verb("reset", "capconduit setting reset funding_slice_s")
def reset(ctx: typer.Context, name: SettingName, out: ChangeOutput, dry_run: DryRun = False) -> None:
    """Let a setting's default be in force again, with the next call.

    It then follows the default of later versions, too. `capconduit audit undo` brings back what was set.
    """
    from capconduit.services.settings import reset_setting

    made = office(ctx, dry_run=dry_run)
    view, was_set = reset_setting(made, name)
    emit_change(made, row(view), COLUMNS, out)
    if not was_set:
        notice(f"{name} has its default already")
