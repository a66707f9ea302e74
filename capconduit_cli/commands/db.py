"""`capconduit db`: bring the database up to date, verify it, prune it, back it up, move it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError, PeerError, Refused, UsageError
from capconduit.units import format_instant
from capconduit_cli.app import state
from capconduit_cli.archives import PRUNED_COLUMNS, ArchiveChoice, ExportForm, ExportTo, chosen_archive, emit_pruned
from capconduit_cli.office import NOTHING_CHANGED, actor, office, well
from capconduit_cli.output import Column, Kind, ListOutput, confirm, emit_rows, notice
from capconduit_cli.params import DryRun, Yes, instant_option
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.growth import Verified
    from capconduit.store.copying import Tell

app = NounApp("Where it is says database.url in the configuration. `capconduit init` creates it.")

__all__ = ["PRUNED_COLUMNS", "app"]  # its keys are documented with the noun

MIGRATION_COLUMNS: Final = (Column("migration"),)
DRIFT_COLUMNS: Final = (
    Column("tenant"),
    Column("check"),
    Column("subject"),
    Column("recorded"),
    Column("recounted"),
    Column("fix"),
)
COPIED_COLUMNS: Final = (Column("table"), Column("rows", Kind.INT), Column("checksum"))


@app.verb("upgrade", "capconduit db upgrade", "capconduit db upgrade --dry-run")
def upgrade(ctx: typer.Context, out: ListOutput, dry_run: DryRun = False) -> None:
    """Apply the migrations that are missing, all or none; lists them.

    Stop the daemons before: one of the old version refuses the new database when it is started again.
    """
    from capconduit.clock import SystemClock
    from capconduit.services.setup import prepare_database
    from capconduit.services.stores import open_store, pending_migrations

    store = open_store(state(ctx).config.database.url)
    ctx.call_on_close(store.close)
    names = pending_migrations(store) if dry_run else prepare_database(store, SystemClock())
    emit_rows(({"migration": name} for name in names), MIGRATION_COLUMNS, out, empty="")
    if not names:
        notice("the database is up to date")
    elif dry_run:
        notice(NOTHING_CHANGED)


@app.verb("verify", "capconduit db verify", "capconduit db verify --json")
def verify(ctx: typer.Context, out: ListOutput) -> None:
    """Check that everything in the database adds up, of all tenants.

    That is: the file and the version of its tables; that nothing refers to what is not there; balances against the
    ledger and holds against live calls; what the ledger took against the records of calls; places against live calls,
    and counters of caps against places; and the sums of reports against the records. Nothing is changed, and calls may
    go on meanwhile.

    Lists what does not add up and what to do about it, with exit code 5; says nothing where all is well.
    """
    from capconduit.clock import SystemClock
    from capconduit.services.stores import check_schema, open_store
    from capconduit.services.verifying import verify as findings

    store = open_store(state(ctx).config.database.url)
    ctx.call_on_close(store.close)
    check_schema(store)
    found = list(findings(store, SystemClock(), actor(os.environ)))
    emit_rows((asdict(one) for one in found), DRIFT_COLUMNS, out, empty="")
    if found:
        many = f"{len(found)} things do" if len(found) > 1 else "one thing does"
        raise DriftError("database-drift", f"{many} not add up", "the column `fix` says what to do")
    well("the schema is current, nothing is missing, and everything adds up")


@app.verb(
    "prune",
    "capconduit db prune",
    "capconduit db prune --dry-run",
    "capconduit db prune --before 2026-01-01 --export-to /var/lib/capconduit/archive --yes",
)
def prune(
    ctx: typer.Context,
    out: ListOutput,
    before: Annotated[
        int | None,
        instant_option(
            "--before",
            metavar="DATE",
            help="What is older than this, whatever the settings say; a day at least 40 days ago.",
        ),
    ] = None,
    export_to: ExportTo = None,
    export_form: ExportForm = ArchiveChoice.JSONL,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take away what is over, of all tenants; lists the rows that went, or a month's table that went as a whole.

    How long records, events and places are kept say the settings cdr_keep_days, event_keep_days and place_keep_days.
    Balances, the ledger, what caps have used, and calls that are up do not change. The daemon does the same once a day;
    with PostgreSQL it leaves a month alone until all of it is over. Calls go on meanwhile.

    With --export-to, or database.archive in the configuration, records and events are first written to files, one for
    each month; what is in a file that is whole and was read back is taken away, nothing else. Interrupted, it goes on
    where it was when it is run again: nothing is lost, nothing is written twice.
    """
    from capconduit.services import growth

    made, archive = office(ctx), chosen_archive(ctx, export_to, export_form)
    if dry_run:
        steps: Iterable[growth.Pruned] = growth.would_prune(made.store, made.clock, before_ms=before)
    else:
        if before is not None:
            confirm(f"Take away all records and events from before {format_instant(before)}?", yes=yes)
        steps = growth.prune(made.store, made.clock, before_ms=before, archive=archive)
    emit_pruned(steps, out, dry_run=dry_run, note=lambda gone: growth.note_pruned(made, "db", gone, before))


@app.verb(
    "copy",
    "capconduit db copy --to postgresql://capconduit@db.example.net/capconduit",
    "capconduit db copy --to sqlite:///var/lib/capconduit/copy.sqlite",
)
def copy(
    ctx: typer.Context,
    out: ListOutput,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="An empty database, of either engine.")],
    force: Annotated[
        bool, typer.Option("--force", help="Though a daemon runs: what it decides meanwhile is not in the copy.")
    ] = False,
) -> None:
    """Copy everything into another database, to move there: from SQLite to PostgreSQL, or back.

    Stop the daemon before; calls that are up go on, and the daemon finds them again when it is started on the copy. The
    copy is compared with the original and only then kept; lists the tables with their rows and checksums. Where
    balances or counters do not add up, it says so with exit code 5: they did not before either.
    """
    from capconduit.services import growth
    from capconduit.services.stores import check_schema, open_store

    config = state(ctx).config
    _check_url(to, config.database.url)
    if not force:
        _refuse_running(config.control.socket)
    made = office(ctx)
    source, target = open_store(config.database.url), open_store(to, create=True)
    ctx.call_on_close(source.close)
    ctx.call_on_close(target.close)
    check_schema(source)
    copied = growth.copy_database(source, target, made.clock, _progress(), force=force)
    emit_rows(({"table": c.table, "rows": c.rows, "checksum": c.checksum} for c in copied), COPIED_COLUMNS, out)
    wrong = growth.verify_copy(target, made.clock, made.actor)
    notice(f"to use it, set in the configuration, in [database]: url = {_quoted(to)}")
    if wrong:
        _tell_wrong(wrong)


@app.verb(
    "backup",
    "capconduit db backup /var/backups/capconduit.backup",
    "capconduit db backup --force /var/backups/latest.backup",
)
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes; readable for you alone.")],
    force: Annotated[bool, typer.Option("--force", help="Replace FILE where it is there.")] = False,
) -> None:
    """Write everything into one file while calls go on: a SQLite database, or what pg_dump makes of PostgreSQL.

    It is the state of one moment. FILE appears when it is whole and on the disk, never before. It has callers' numbers
    and money in it: keep it where you keep those.
    """
    from capconduit.services import backups
    from capconduit.services.stores import check_schema, open_store

    store = open_store(state(ctx).config.database.url)
    ctx.call_on_close(store.close)
    check_schema(store)
    tell = _progress()
    size = backups.back_up(store, file, lambda done, whole: tell("pages of", whole - done), replace=force)
    notice(f"{file}: {size:,} bytes")


@app.verb(
    "restore",
    "capconduit db restore /var/backups/capconduit.backup --dry-run",
    "capconduit db restore /var/backups/capconduit.backup --yes",
)
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `db backup` wrote.")],
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Replace everything by what is in a backup, all or nothing; then bring it to this version and verify it.

    Stop the daemon before. A SQLite file that was there is kept beside it. Calls that began after the backup are not in
    it: the daemon finds those that are still up in Asterisk and says so, and charges nothing for them.
    """
    from capconduit.clock import SystemClock
    from capconduit.services import backups
    from capconduit.services.stores import open_store

    config = state(ctx).config
    _refuse_running(config.control.socket)
    store = open_store(config.database.url)
    ctx.call_on_close(store.close)
    if dry_run:
        size, would_keep = backups.rehearse(store, file, SystemClock())
        notice(f"{file} can be read to its end: {size:,} bytes")
        keeping = f"; what is there would be kept in {would_keep}" if would_keep else ""
        notice(f"would replace everything in {_quoted(config.database.url)}{keeping}")
        notice(NOTHING_CHANGED)
        return
    confirm(f"Replace everything in {_quoted(config.database.url)} by {file}?", yes=yes)
    kept, wrong = backups.restore(store, file, SystemClock(), actor(os.environ))
    notice(f"everything is as it was in {file}" + (f"; what was there is in {kept}" if kept else ""))
    if wrong:
        _tell_wrong(wrong)


def _check_url(to: str, current: str) -> None:
    from capconduit.config_rules import Invalid, database_url

    try:
        database_url(to)
    except Invalid as error:
        raise UsageError("database-url-invalid", f"--to {to!r} {error.reason}", error.hint) from None
    if not to or to == current:
        raise UsageError("database-url-same", f"--to {to!r} is where everything is now", "name another, empty database")


def _refuse_running(socket: str) -> None:
    """A daemon that answers on our control socket must be stopped first. Raises Refused."""
    from capconduit_cli.control import ask_daemon

    try:
        answer = ask_daemon(socket, "/status")
    except PeerError as error:
        if error.slug == "daemon-unreachable":
            return
        raise
    raise Refused(
        "daemon-running",
        f"a daemon runs here: node {answer.get('node')}, pid {answer.get('pid')}",
        "stop it first; calls that are up go on",
    )


def _progress() -> Tell:
    """Says to a person how far it is."""
    if not sys.stderr.isatty():
        return lambda _table, _rows: None

    def tell(table: str, rows: int) -> None:
        sys.stderr.write(f"\r\x1b[K{table} {rows}\r")
        sys.stderr.flush()

    return tell


def _quoted(url: str) -> str:
    """A URL as the configuration has it; a password in it is not shown."""
    from urllib.parse import urlsplit

    password = urlsplit(url).password
    shown = url.replace(f":{password}@", ":…@", 1) if password else url
    return f'"{shown}"'


def _tell_wrong(wrong: Sequence[Verified]) -> None:
    for one in wrong:
        notice(f"tenant {one.tenant}: {len(one.balances)} balances and {len(one.caps)} counters do not add up")
    raise DriftError(
        "copy-drift",
        "the copy is exact, and numbers in it do not add up",
        "see `capconduit db verify`; `capconduit cap verify --fix` sets counters right",
    )
