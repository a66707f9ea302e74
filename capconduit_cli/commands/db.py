"""`capconduit db`: bring the database up to date, verify it, prune it, back it up, move it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from capconduit.errors import DriftError, PeerError, Refused, UsageError
from capconduit.units import format_instant, format_micros
from capconduit_cli.app import state
from capconduit_cli.office import NOTHING_CHANGED, office, well
from capconduit_cli.output import Column, Kind, ListOutput, Row, confirm, emit_rows, notice
from capconduit_cli.params import DryRun, Yes, instant_option
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.growth import Verified
    from capconduit.services.office import Office
    from capconduit.store.copying import Tell

app = NounApp("Where it is says database.url in the configuration. `capconduit init` creates it.")

MIGRATION_COLUMNS: Final = (Column("migration"),)
DRIFT_COLUMNS: Final = (
    Column("tenant"),
    Column("check"),
    Column("subject"),
    Column("recorded"),
    Column("recounted"),
)
PRUNED_COLUMNS: Final = (Column("table"), Column("rows", Kind.INT))
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
    emit_rows(({"migration": name} for name in names), MIGRATION_COLUMNS, out)
    if not names:
        notice("the database is up to date")
    elif dry_run:
        notice(NOTHING_CHANGED)


@app.verb("verify", "capconduit db verify")
def verify(ctx: typer.Context, out: ListOutput) -> None:
    """Check the version of the schema, and of all tenants that balances and counters of caps add up.

    Lists what does not, with exit code 5; says nothing where all is well.
    """
    from capconduit.services.office import Office
    from capconduit.services.setup import tenant_names

    made = office(ctx)
    tenants = tenant_names(made.store)
    offices = [Office(made.store, made.clock, tenant=name, actor=made.actor) for name in tenants]
    drifts = [row for one in offices for row in _drifts(one)]
    emit_rows(drifts, DRIFT_COLUMNS, out)
    if drifts:
        raise DriftError(
            "database-drift",
            f"{len(drifts)} numbers do not add up",
            "`capconduit balance verify` and `capconduit cap verify --fix`",
        )
    well("the schema is current, balances and counters add up")


@app.verb(
    "prune", "capconduit db prune", "capconduit db prune --dry-run", "capconduit db prune --before 2026-01-01 --yes"
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
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Take away what is over, of all tenants; lists the rows that went, or a month's table that went as a whole.

    How long records, events and places are kept say the settings cdr_keep_days, event_keep_days and place_keep_days.
    Balances, the ledger, what caps have used, and calls that are up do not change. The daemon does the same once a day;
    with PostgreSQL it leaves a month alone until all of it is over. Calls go on meanwhile.
    """
    from capconduit.services import growth

    made = office(ctx)
    if dry_run:
        gone = {step.table: step.rows for step in growth.would_prune(made.store, made.clock, before_ms=before)}
    else:
        if before is not None:
            confirm(f"Take away all records and events from before {format_instant(before)}?", yes=yes)
        gone = {}
        for step in growth.prune(made.store, made.clock, before_ms=before):
            gone[step.table] = None if step.rows is None else (gone.get(step.table) or 0) + step.rows
            time.sleep(growth.REST_S)
    emit_rows(({"table": table, "rows": rows} for table, rows in gone.items()), PRUNED_COLUMNS, out)
    if dry_run:
        notice(NOTHING_CHANGED)
    elif not gone:
        well("nothing is over")


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
    "capconduit db restore /var/backups/capconduit.backup",
    "capconduit db restore /var/backups/capconduit.backup --yes",
)
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `db backup` wrote.")],
    yes: Yes = False,
) -> None:
    """Replace everything by what is in a backup, all or nothing; then bring it to this version and verify it.

    Stop the daemon before. A SQLite file that was there is kept beside it. Calls that began after the backup are not in
    it: the daemon finds those that are still up in Asterisk and says so, and charges nothing for them.
    """
    from capconduit.clock import SystemClock
    from capconduit.services import backups
    from capconduit.services.stores import open_store
    from capconduit_cli.office import actor

    config = state(ctx).config
    _refuse_running(config.control.socket)
    store = open_store(config.database.url)
    ctx.call_on_close(store.close)
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


def _drifts(made: Office) -> Iterator[Row]:
    from capconduit.services.balances import verify_balances
    from capconduit.services.caps import verify_caps

    for drift in verify_balances(made):
        yield _row(made, drift.what, drift.seller, format_micros(drift.stands_micros), format_micros(drift.sums_micros))
    for counter in verify_caps(made):
        subject = f"{counter.cap.scope} {counter.subject}" if counter.cap else counter.subject
        if counter.of_target:
            yield _row(made, "target active", f"target {subject}", str(counter.in_flight), str(counter.open))
            continue
        if counter.used != counter.counted:
            yield _row(made, "cap used", subject, str(counter.used), str(counter.counted))
        if counter.in_flight != counter.open:
            yield _row(made, "cap in flight", subject, str(counter.in_flight), str(counter.open))


def _row(made: Office, check: str, subject: str, recorded: str, recounted: str) -> Row:
    return {"tenant": made.tenant, "check": check, "subject": subject, "recorded": recorded, "recounted": recounted}
