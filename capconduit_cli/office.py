"""How a command reaches the services: the store of the configuration, who acts, rehearsing and telling changes.

Failure policy: fail closed. Without the database, or with one of another version, no command begins.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from capconduit.errors import UsageError
from capconduit_cli.app import CliState, state
from capconduit_cli.output import ChangeOutput, Column, ListOutput, Row, emit_one, emit_rows, notice
from capconduit_cli.output import confirm as ask

if TYPE_CHECKING:
    from capconduit.services.office import Office
    from capconduit_cli.params import Offer

_LOGIN = re.compile(r"[A-Za-z0-9_.\-@\\]{1,64}")
NOTHING_CHANGED: Final = "dry run: nothing was changed"


def actor(env: Mapping[str, str]) -> str:
    """Who acts, for the audit: the OS user, and who called sudo where it was used: `root(sudo alice)`."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container may run under an id without a name
        user = f"uid {os.geteuid()}"
    caller = env.get("SUDO_USER", "")
    return f"{user}(sudo {caller})" if _LOGIN.fullmatch(caller) and caller != user else user


def office(ctx: typer.Context, *, dry_run: bool = False) -> Office:
    """The office of this run's tenant; its store is closed when the command ends. Raises ConfigError, DatabaseError."""
    made = _open(state(ctx), dry_run=dry_run)
    ctx.call_on_close(made.store.close)
    return made


def _open(run: CliState, *, dry_run: bool = False) -> Office:
    from capconduit.clock import SystemClock  # --help needs none of these
    from capconduit.services.office import Office
    from capconduit.services.stores import check_schema, open_store

    store = open_store(run.config.database.url)
    try:
        check_schema(store)
    except BaseException:
        store.close()
        raise
    return Office(store, SystemClock(), tenant=run.tenant, actor=actor(os.environ), dry_run=dry_run)


def names_in_office(read: Callable[[Office], Iterable[Offer]]) -> Callable[[CliState], Iterable[Offer]]:
    """Names to complete, read by `read` from the database."""

    def names(run: CliState) -> Iterable[Offer]:
        made = _open(run)
        try:
            return list(read(made))
        finally:
            made.store.close()

    return names


def emit_change(made: Office, row: Row, columns: Sequence[Column], out: ChangeOutput) -> None:
    """Print what a change made; with `--dry-run`, what it would have made, and say so."""
    emit_one(row, columns, out)
    if made.dry_run:
        notice(NOTHING_CHANGED)


def emit_changes(made: Office, rows: Iterable[Row], columns: Sequence[Column], out: ChangeOutput) -> None:
    """The same for several things, as a list."""
    emit_rows(rows, columns, ListOutput(output=out.output, json=out.json))
    if made.dry_run:
        notice(NOTHING_CHANGED)


def destroy(made: Office, what: str, work: Callable[[Office], object], *, yes: bool, dry_run: bool) -> None:
    """Do `work`, which removes `what`, after it was rehearsed and asked for.

    The rehearsal comes first, so that what cannot be done is refused before anybody is asked.
    """
    made.dry_run = True
    work(made)
    if dry_run:
        notice(f"{what} can be removed; {NOTHING_CHANGED}")
        return
    ask(f"Remove {what}?", yes=yes)
    made.dry_run = False
    work(made)
    notice(f"{what} is removed")


def given(noun: str, name: str, **fields: Any) -> dict[str, Any]:
    """Those fields that were given on the command line. Raises UsageError where there is none."""
    kept = {field: value for field, value in fields.items() if value is not None}
    if not kept:
        raise UsageError(
            "nothing-to-set", f"nothing was said to change on {noun} {name!r}", f"see `capconduit {noun} set --help`"
        )
    return kept


def well(text: str) -> None:
    """Say that a check found nothing; only to a person at a terminal, so that cron stays silent when all is well."""
    if sys.stderr.isatty():
        notice(text)
