"""The database: reached, current, adding up, and its daemons of one time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.clock import SystemClock
from capconduit.doctor import database
from capconduit.doctor.checks import chosen
from capconduit.doctor.findings import Severity
from capconduit.doctor.run import examine
from capconduit.domain.model import Account, Node
from capconduit.services import caps, sellers
from capconduit.services.doctor import Drifted, concurrent_calls, drifted, newest_migration
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope
from tests.doctor.facts import NOW_MS, FixedClock, config, ids, scene

NODE = Node(name="pbx1", boot_id="b", started_ms=1, seen_ms=NOW_MS, asterisk_started_ms=None, state="up")


@pytest.mark.parametrize(
    ("pending", "version", "expected"),
    [
        ([], 3, []),
        (["0003_x"], 2, ["migrations-pending"]),
        (["0001_x"], 0, ["migrations-pending"]),
        ([], 4, ["migrations-newer"]),
    ],
)
def test_migrations(pending: list[str], version: int, expected: list[str]) -> None:
    assert ids(database.judge_migrations(pending, version, 3)) == expected


def test_the_fix_depends_on_whether_there_are_tables() -> None:
    assert next(iter(database.judge_migrations(["0003_x"], 2, 3))).fix == "capconduit db upgrade"
    assert next(iter(database.judge_migrations(["0001_x"], 0, 3))).fix == "capconduit init"


def test_what_does_not_add_up_names_tenant_and_seller() -> None:
    found = list(database.judge_drifted([Drifted("default", ["acme"], 2)]))
    assert ids(found) == ["balances-differ", "caps-differ"]
    assert "acme" in found[0].found
    assert found[1].fix == "capconduit --tenant default cap verify --fix"
    assert ids(database.judge_drifted([])) == []


def test_a_heartbeat_of_later_than_now_is_a_clock_that_is_wrong() -> None:
    assert ids(database.judge_nodes_clock([NODE], NOW_MS)) == []
    assert ids(database.judge_nodes_clock([replace(NODE, seen_ms=NOW_MS + 60_000)], NOW_MS)) == ["clock-nodes-differ"]
    assert ids(database.judge_nodes_clock([replace(NODE, seen_ms=NOW_MS - 60_000)], NOW_MS)) == []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    made = open_store(f"sqlite://{tmp_path}/x.sqlite", create=True)
    prepare_database(made, SystemClock())
    yield made
    made.close()


def run(store: SqlStore, *slugs: str) -> list[str]:
    made = scene(
        config(database={"url": store.url}),
        clock=SystemClock(),
        open_store=lambda: store,
        make_office=lambda s: Office(s, SystemClock(), actor="test"),
    )
    return ids(examine(made, chosen(slugs, [])))


def test_a_database_as_init_leaves_it_is_well(store: SqlStore) -> None:
    assert run(store, "database-current", "numbers", "clock-nodes", "nodes") == []


def test_a_balance_that_was_tampered_with_is_found(store: SqlStore) -> None:
    office = Office(store, SystemClock(), actor="test")
    sellers.add_seller(office, "acme", currency="USD", timezone="UTC")
    with store.transaction(write=True) as tx:
        (account,) = tx.rows(Account, tx.tenants()[0].id)
        tx.update(replace(account, balance_micros=5_000_000))
    assert run(store, "numbers") == ["balances-differ"]
    assert [one.sellers for one in drifted(office)] == [["acme"]]


def test_a_database_that_is_not_there_is_an_error_and_what_needs_it_unknown(tmp_path: Path) -> None:
    made = scene(open_store=lambda: open_store(f"sqlite://{tmp_path}/absent.sqlite"))
    findings = list(examine(made, chosen(["database-current", "numbers"], [])))
    assert findings[0].severity is Severity.ERROR
    assert findings[0].fix == "capconduit init"
    assert {f.severity for f in findings[1:]} == {Severity.UNKNOWN}


def test_a_database_that_this_user_may_not_open_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.sqlite").touch()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may open anything
    made = scene(config(database={"url": f"sqlite://{tmp_path}/x.sqlite"}), open_store=lambda: None)
    (finding,) = examine(made, chosen(["database-current"], []))
    assert (finding.severity, finding.fix) == (Severity.UNKNOWN, "sudo capconduit doctor")


def test_a_server_that_is_away_is_an_error_within_the_time() -> None:
    url = "postgresql://capconduit:hunter2@127.0.0.1:1/x"
    made = scene(config(database={"url": url}), open_store=lambda: open_store(url))
    (finding,) = examine(made, chosen(["database-current"], []))
    assert finding.id == "database-away"
    assert "hunter2" not in str(finding)


def test_the_expected_calls_are_the_cap_of_the_system(store: SqlStore) -> None:
    office = Office(store, SystemClock(), actor="test")
    assert concurrent_calls(office) is None
    caps.set_caps(office, CapScope.SYSTEM, "", [caps.parse_limit(CapMetric.CONCURRENT, "250")])
    assert concurrent_calls(office) == 250
    made = scene(open_store=lambda: store, make_office=lambda s: office, clock=FixedClock())
    assert made.calls() == 250
    assert scene(calls=7).calls() == 7
    assert scene().calls() == 100


def test_our_newest_migration_is_what_an_upgrade_ends_at(store: SqlStore) -> None:
    assert store.schema_version() == newest_migration()
