"""`db verify` finds each kind of damage, on both engines, names it and says what to do; a busy database has none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from capconduit.errors import DriftError
from capconduit.services.rollups import roll_up_all
from capconduit.services.verifying import Finding, verify
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.unit.estate_builder import EstateBuilder, Till, route_of, settle_of, small_estate

Open = Callable[[EstateBuilder], Till]


def found(till: Till) -> list[Finding]:
    return list(verify(_store(till), till.clock, "test"))


def _store(till: Till) -> SqlStore:
    assert isinstance(till.store, SqlStore)
    return till.store


def spoil(till: Till, sql: str) -> None:
    """Change what no statement of ours would; foreign keys are looked away from."""
    store = _store(till)
    if store.engine == "sqlite":
        with store.transaction(write=False) as tx:
            tx.query("SELECT 1 FROM tenant")
        connection = store._connection()  # type: ignore[attr-defined]  # to switch its foreign keys off
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(sql)
        connection.commit()
        connection.execute("PRAGMA foreign_keys = ON")
        return
    with store.transaction(write=True) as tx:
        tx.query("SELECT set_config('session_replication_role', 'replica', true)")
        assert tx.query(f"{sql} RETURNING 1")


@pytest.fixture
def busy(open_shop: Open) -> Till:
    """A shop with a cap of each kind on the way, a call that was paid for, one that is up, and a reject."""
    builder = small_estate()
    for scope, name in ((CapScope.SELLER, "acme"), (CapScope.CAMPAIGN, "solar"), (CapScope.TARGET, "buyer1")):
        builder.cap(scope, name, CapMetric.CONCURRENT, 5)
        builder.cap(scope, name, CapMetric.MINUTES, 60_000, WindowKind.TOTAL)
    builder.cap(CapScope.SELLER, "acme", CapMetric.CPS, 50)
    till = open_shop(builder)
    till.dial(route_of("paid"))
    till.ask(settle_of("paid", talk_ms=60_000))
    till.dial(route_of("up"))
    till.ask(route_of("rejected", dnid="+18005559999"))
    for _ in roll_up_all(till.store, till.clock.now_ms() + 3_600_000):
        pass
    return till


def test_a_busy_database_adds_up(busy: Till) -> None:
    assert found(busy) == []


@pytest.mark.parametrize(
    ("sql", "check", "subject", "fix"),
    [
        ("UPDATE account SET balance_micros = balance_micros + 1", "balance", "acme", "balance ledger acme"),
        ("UPDATE account SET held_micros = held_micros + 1", "held", "acme", "restart the daemon"),
        ("UPDATE target_state SET active = active + 1", "target active", "target buyer", "cap verify --fix"),
        ("DELETE FROM place WHERE state <> 'released'", "place", "call ", "counts the calls that are up"),
        ("DELETE FROM call", "hold", "hold ", "start the daemon"),
        ("DELETE FROM call", "place", "place ", "start the daemon"),
        ("DELETE FROM hold WHERE state = 'open'", "hold", "call ", "start the daemon"),
        ("DELETE FROM attempt WHERE ended_ms IS NULL", "call", "call ", "restore a backup"),
        ("DELETE FROM account", "account", "seller ", "restore a backup"),
        ("UPDATE ledger SET amount_micros = amount_micros - 1 WHERE kind = 'call'", "cdr", "cdr ", "restore a backup"),
        ("UPDATE cdr SET amount_micros = 7 WHERE amount_micros = 0", "cdr", "cdr ", "restore a backup"),
        ("DELETE FROM trunk", "foreign key", "did ", "restore a backup"),
        ("DELETE FROM rate", "foreign key", "campaign ", "restore a backup"),
        ("DELETE FROM seller", "ledger", "ledger ", "restore a backup"),
        ("UPDATE rollup SET amount_micros = amount_micros + 1", "rollup", "20", "ask for help"),
        ("UPDATE schema_migration SET name = 'another' WHERE version = 2", "migrations", "schema_migration", "restore"),
    ],
)
def test_damage_is_named_with_what_to_do(busy: Till, sql: str, check: str, subject: str, fix: str) -> None:
    spoil(busy, sql)
    told = found(busy)
    hits = [one for one in told if one.check == check and one.subject.startswith(subject)]
    assert hits, told
    assert all(fix in one.fix for one in hits), hits
    assert all(one.recorded != one.recounted for one in hits)


def test_tables_that_are_gone_are_told_before_anything_is_asked_of_them(busy: Till) -> None:
    store = _store(busy)
    with store.transaction(write=True) as tx:
        tx.query("ALTER TABLE cdr RENAME COLUMN payout_micros TO gone_micros")
    try:
        with pytest.raises(DriftError, match=r"has no cdr\.payout_micros"):
            found(busy)
    finally:
        with store.transaction(write=True) as tx:
            tx.query("ALTER TABLE cdr RENAME COLUMN gone_micros TO payout_micros")
