"""Whether everything in a database adds up: the schema, references, money, places against live calls and counters, and
the sums that reports are made of.

Each check reads one snapshot, so calls that come and end meanwhile are no drift. Nothing is changed. The same questions
are asked of a copy (services/growth.py) and, in short, by `capconduit doctor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.clock import Clock
from capconduit.domain.books import Books
from capconduit.domain.estate import Estate, ZonedCap
from capconduit.domain.model import Attempt, Call, Cap, Trunk
from capconduit.errors import DriftError
from capconduit.services.balances import verify_balances
from capconduit.services.caps import verify_caps
from capconduit.services.office import Desk, Office
from capconduit.services.rollups import verify_rollups
from capconduit.services.setup import tenant_names
from capconduit.store import checking
from capconduit.store.checking import Wrong
from capconduit.store.copying import COPIED
from capconduit.store.sqlstore import SqlStore
from capconduit.units import format_instant, format_micros
from capconduit.vocab import CapMetric, CapScope

NAMED: Final = 3  # rows that a finding names
_RESTORE: Final = "restore a backup (`capconduit db restore`), or ask for help with a copy of the database"
_BALANCE: Final = "the ledger is the truth (`capconduit balance ledger {subject}`): restore a backup, or ask for help"
_HELD: Final = "restart the daemon; if it stays, restore a backup"
_COUNTERS: Final = "capconduit --tenant {tenant} cap verify --fix"
_SUMS: Final = "reports differ from the records of calls, money does not; restore a backup, or ask for help"
_ORPHANS: Final = "start the daemon: it gives back what calls that are over still hold"


@dataclass(frozen=True, slots=True)
class Finding:
    """What does not add up: what stands there, what it should be, and what to do about it."""

    tenant: str
    check: str
    subject: str
    recorded: str
    recounted: str
    fix: str


def verify(store: SqlStore, clock: Clock, actor: str) -> Iterator[Finding]:
    """Everything that does not add up, of all tenants. Raises DatabaseError, and DriftError where the tables are not
    those of this version: then nothing else can be asked."""
    yield from _schema(store)
    broken = list(_references(store))
    yield from broken
    for name in tenant_names(store):
        made = Office(store, clock, tenant=name, actor=actor)
        yield from _loose_ends(made, store)
        if not broken:  # an estate whose parts are missing cannot be read, so nothing can be counted by it
            yield from _money(made)
            yield from _caps(made)
            yield from _places(made)
            yield from _sums(made)


def _schema(store: SqlStore) -> Iterator[Finding]:
    with store.transaction(write=False) as tx:
        damaged = checking.damaged_pages(tx, store.engine)
        missing = checking.missing_tables(tx, COPIED, store.engine)
        ours, applied = checking.migrations_applied(tx)
    for text in damaged:
        yield Finding("", "file", store.url, text, "ok", _RESTORE)
    if missing:
        raise DriftError(
            "schema-differs",
            f"the database says that it is current and has no {', '.join(missing[:NAMED])}",
            _RESTORE,
        )
    if ours != applied:
        yield Finding("", "migrations", "schema_migration", ", ".join(applied), ", ".join(ours), _RESTORE)


def _references(store: SqlStore) -> Iterator[Finding]:
    with store.transaction(write=False) as tx:
        found = list(checking.foreign_keys(tx, store.engine))
    yield from (_finding("", wrong, _RESTORE) for wrong in found)


def _finding(tenant: str, wrong: Wrong, fix: str) -> Finding:
    more = ", …" if wrong.rows > NAMED else ""
    subject = f"{wrong.table} {', '.join(wrong.keys[:NAMED])}{more}"
    return Finding(
        tenant, wrong.check, subject, f"{wrong.rows} {'rows' if wrong.rows > 1 else 'row'}: {wrong.what}", "0", fix
    )


def _money(made: Office) -> Iterator[Finding]:
    for drift in verify_balances(made):
        fix = (_BALANCE if drift.what == "balance" else _HELD).format(subject=drift.seller)
        stands, sums = format_micros(drift.stands_micros), format_micros(drift.sums_micros)
        yield Finding(made.tenant, drift.what, drift.seller, stands, sums, fix)


def _caps(made: Office) -> Iterator[Finding]:
    fix = _COUNTERS.format(tenant=made.tenant)
    for counter in verify_caps(made):
        subject = f"{counter.cap.scope} {counter.subject}" if counter.cap else counter.subject
        if counter.of_target:
            in_flight, still_open = str(counter.in_flight), str(counter.open)
            yield Finding(made.tenant, "target active", f"target {subject}", in_flight, still_open, fix)
            continue
        if counter.used != counter.counted:
            yield Finding(made.tenant, "cap used", subject, str(counter.used), str(counter.counted), fix)
        if counter.in_flight != counter.open:
            yield Finding(made.tenant, "cap in flight", subject, str(counter.in_flight), str(counter.open), fix)


def _sums(made: Office) -> Iterator[Finding]:
    for drift in verify_rollups(made):
        subject = f"{format_instant(drift.bucket_ms)} {drift.what}"
        yield Finding(made.tenant, "rollup", subject, str(drift.kept), str(drift.summed), _SUMS)


def _loose_ends(made: Office, store: SqlStore) -> Iterator[Finding]:
    """Holds and places of calls that are over, calls without a hold, records that the ledger contradicts."""
    tenant_id = made.read(lambda desk: desk.tenant_id)
    with store.transaction(write=False) as tx:
        found = list(checking.loose_ends(tx, tenant_id))
    yield from (_finding(made.tenant, w, _ORPHANS if w.check in ("hold", "place") else _RESTORE) for w in found)


def _places(made: Office) -> Iterator[Finding]:
    for call, cap in made.read(lambda desk: list(_calls_without_places(desk))):
        recorded = f"no place in its cap by {cap.cap.metric} on {cap.cap.scope} {cap.subject}"
        fix = "set the cap anew (`capconduit cap clear`, `capconduit cap set`): that counts the calls that are up"
        yield Finding(made.tenant, "place", f"call {call.id}", recorded, "1", fix)


def _calls_without_places(desk: Desk) -> Iterator[tuple[Call, ZonedCap]]:
    """Live calls that count in no place of a cap on their path: that cap would let one call too many through."""
    books = Books()
    desk.tx.lock_calls(desk.tx.live_call_keys(desk.tenant_id), books, desk.now_ms)
    estate = desk.tx.load_estate()
    for call in books.calls.values():
        taken = books.places.get(call.id, {})
        for attempt, zoned in _path(call, _under_way(books, call), estate, desk):
            if (attempt, zoned.cap.id) not in taken:
                yield call, zoned


def _under_way(books: Books, call: Call) -> Sequence[Attempt]:
    return [attempt for attempt in books.attempts.get(call.id, {}).values() if attempt.ended_ms is None]


def _path(call: Call, attempts: Sequence[Attempt], estate: Estate, desk: Desk) -> Iterator[tuple[int, ZonedCap]]:
    """The caps that a live call must have places in, each with the number of the attempt (0: of the whole call)."""
    whole = [
        (CapScope.SYSTEM, call.tenant_id),
        (CapScope.SELLER, call.seller_id),
        (CapScope.CAMPAIGN, call.campaign_id),
        (CapScope.DID, call.did_id),
        (CapScope.TRUNK, _trunk_id(call, desk)),
    ]
    for scope, scope_id in whole:
        yield from ((0, zoned) for zoned in estate.scoped(scope, scope_id) if _holds_places(zoned.cap))
    for attempt in attempts:
        for scope, scope_id in ((CapScope.TARGET, attempt.target_id), (CapScope.RULE, attempt.rule_id)):
            yield from ((attempt.number, zoned) for zoned in estate.scoped(scope, scope_id) if _holds_places(zoned.cap))


def _trunk_id(call: Call, desk: Desk) -> str | None:
    """The trunk a call counts for; None where it was renamed since, and the name is another's now."""
    trunk = desk.tx.find(Trunk, desk.tenant_id, name=call.trunk) if call.trunk else None
    return trunk.id if trunk and trunk.updated_ms < call.decided_ms else None


def _holds_places(cap: Cap) -> bool:
    return cap.metric is not CapMetric.CPS
