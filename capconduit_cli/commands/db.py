"""`capconduit db`: bring the database up to date and verify it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import typer

from capconduit.errors import DriftError
from capconduit.units import format_micros
from capconduit_cli.app import state
from capconduit_cli.office import NOTHING_CHANGED, office, well
from capconduit_cli.output import Column, ListOutput, Row, emit_rows, notice
from capconduit_cli.params import DryRun
from capconduit_cli.typer_seam import NounApp

if TYPE_CHECKING:
    from capconduit.services.office import Office

app = NounApp("Where it is says database.url in the configuration. `capconduit init` creates it.")

MIGRATION_COLUMNS: Final = (Column("migration"),)
DRIFT_COLUMNS: Final = (
    Column("tenant"),
    Column("check"),
    Column("subject"),
    Column("recorded"),
    Column("recounted"),
)


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


def _drifts(made: Office) -> Iterator[Row]:
    from capconduit.services.balances import verify_balances
    from capconduit.services.caps import verify_caps

    for drift in verify_balances(made):
        yield _row(made, drift.what, drift.seller, format_micros(drift.stands_micros), format_micros(drift.sums_micros))
    for counter in verify_caps(made):
        subject = f"{counter.cap.scope} {counter.subject}" if counter.cap else counter.subject
        if counter.used != counter.counted:
            yield _row(made, "cap used", subject, str(counter.used), str(counter.counted))
        if counter.in_flight != counter.open:
            yield _row(made, "cap in flight", subject, str(counter.in_flight), str(counter.open))


def _row(made: Office, check: str, subject: str, recorded: str, recounted: str) -> Row:
    return {"tenant": made.tenant, "check": check, "subject": subject, "recorded": recorded, "recounted": recounted}
