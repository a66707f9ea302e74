"""The house's own rules: who imports whom, rejects complete, no float near money, no statement without its tenant."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.model import Node
from capconduit.services import balances, calls, campaigns, caps, dids, rates, sellers, settings, setup, targets, trunks
from capconduit.services.reports import Ask, make_report
from capconduit.services.rollups import roll_up_all, verify_rollups
from capconduit.services.whatif import what_if
from capconduit.store.open import open_store
from capconduit.store.sqlite import SqliteDialect
from capconduit.vocab import REJECTS, CapMetric, CapScope, RejectCode, ReportBy, TargetKind, TrunkKind
from tests.unit.estate_builder import (
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
)

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "capconduit"

# --- imports ---------------------------------------------------------------------------------------------------------


def test_the_import_rules_hold() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


# --- rejects ---------------------------------------------------------------------------------------------------------

# The table of the specification: cause and SIP code of every reject.
SPECIFIED = {
    "did_unknown": (1, 404),
    "did_unassigned": (1, 404),
    "did_suspended": (1, 404),
    "caller_invalid": (28, 484),
    "caller_blocked": (21, 403),
    "duplicate_caller": (21, 403),
    "caller_anonymous": (21, 433),
    "attestation_missing": (21, 428),
    "attestation_invalid": (21, 438),
    "seller_suspended": (21, 403),
    "balance_exhausted": (21, 403),
    "balance_held_by_other_calls": (21, 403),
    "balance_below_first_increment": (21, 403),
    "campaign_paused": (31, 480),
    "campaign_closed": (31, 480),
    "cap_reached": (17, 486),
    "cps_limit": (31, 480),
    "no_target": (31, 480),
    "targets_all_capped": (17, 486),
    "targets_all_closed": (31, 480),
    "engine_timeout": (38, 500),
    "database_down": (38, 500),
}


def test_every_reject_has_the_cause_and_code_that_are_specified() -> None:
    told = {code.value: (cause, sip) for code, (cause, sip, _) in REJECTS.items()}
    last_leg = told.pop("targets_all_failed")  # the last leg's own; these stand in where there was none
    assert told == SPECIFIED
    assert last_leg == (31, 480)
    assert set(REJECTS) == set(RejectCode)


@pytest.mark.parametrize("code", RejectCode)
def test_every_reject_has_a_sentence_for_operators(code: RejectCode) -> None:
    sentence = REJECTS[code][2]
    assert len(sentence.split()) >= 4
    assert sentence[0].islower()
    assert not sentence.endswith(".")


# --- no float near money ---------------------------------------------------------------------------------------------

MONEY = [
    *(PACKAGE / "domain").glob("*.py"),
    PACKAGE / "units.py",
    *(PACKAGE / "services" / f"{name}.py" for name in ("balances", "caps", "rates", "sellers", "engine", "whatif")),
    *(PACKAGE / "store").glob("*.py"),
]
SECONDS_TO_SLEEP = {("sqlstore.py", 0.01), ("backups.py", 0.005)}  # pauses: before a retry, between steps


@pytest.mark.parametrize("path", MONEY, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_float_comes_near_money(path: Path) -> None:
    """No float literal, no float(), no true division; `timeout=… / 1_000` of SQLite's driver is seconds."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            found.append((path.name, node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("float", "round"):
            found.append((path.name, node.func.id))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and path.name != "sqlite.py":
            found.append((path.name, "/"))
    assert set(found) <= SECONDS_TO_SLEEP


# --- tenants ---------------------------------------------------------------------------------------------------------

NOT_A_TENANT_S = {
    "tenant", "node", "tombstone", "estate_version", "estate_change", "schema_migration", "sqlite_master", "json_each",
}  # fmt: skip


class Heard:
    """Every statement that a store was given."""

    def __init__(self) -> None:
        self.statements: set[str] = set()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    listener = Heard()
    query, many = SqliteDialect.query, SqliteDialect.many

    def tell_query(self: SqliteDialect, sql: str, values: Mapping[str, Any]) -> list[Any]:
        listener.statements.add(sql)
        return query(self, sql, values)

    def tell_many(self: SqliteDialect, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        listener.statements.add(sql)
        many(self, sql, rows)

    monkeypatch.setattr(SqliteDialect, "query", tell_query)
    monkeypatch.setattr(SqliteDialect, "many", tell_many)
    return listener


def tables_of(sql: str) -> set[str]:
    return set(re.findall(r"(?:FROM|JOIN|INTO|UPDATE)\s+([a-z_]+)", sql)) - {"set"}


def names_its_tenant(sql: str) -> bool:
    """An INSERT has the column; everything else says it in its conditions, or that it serves all tenants."""
    if sql.startswith("INSERT"):
        return "tenant_id" in sql.split("VALUES")[0]
    return "all tenants" in sql or "tenant_id" in sql.partition(" WHERE ")[2]


def one_of_everything(till: Till) -> None:
    """Every use case once, so that every statement is heard."""
    office = till.office()
    setup.prepare_database(till.store, till.clock)
    sellers.add_seller(office, "acme", timezone="America/New_York")
    balances.adjust(office, "acme", 5_000_000, reason="wire")
    rates.add_rate(office, "std", per_minute_micros=200_000)
    trunks.add_trunk(office, "carrier", kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
    campaigns.add_campaign(office, "solar", seller="acme", rate="std")
    dids.add_did(office, "+18005550100", trunk="carrier", campaign="solar")
    for name in ("buyer1", "buyer2"):
        targets.add_target(office, name, kind=TargetKind.PJSIP, address=f"sip:{name}@127.0.0.1")
        targets.add_rule(office, "solar", name)
    names = {
        CapScope.SYSTEM: "", CapScope.SELLER: "acme", CapScope.CAMPAIGN: "solar", CapScope.TARGET: "buyer1",
        CapScope.RULE: "solar/buyer1", CapScope.DID: "+18005550100", CapScope.TRUNK: "carrier",
    }  # fmt: skip
    for uniqueid in ("u1", "u2", "u3"):
        till.ask(route_of(uniqueid))
    for command in (attempt_of("u1"), answer_of("u1"), extend_of("u1"), settle_of("u1", talk_ms=5_000), settle_of("?")):
        till.ask(command)
    for scope in CapScope:
        limits = [
            caps.parse_limit(m, "50" if m in (CapMetric.CONCURRENT, CapMetric.CPS) else "50/day") for m in CapMetric
        ]
        limits.append(caps.parse_limit(CapMetric.BILLABLE, "50/rolling:1h"))
        caps.set_caps(office, scope, names[scope], limits)
    till.ask(settle_of("u2"))
    till.batch([route_of("u4"), route_of("u5", dnid="+18005559999")])
    settings.set_setting(office, "timezone", "Asia/Tokyo")
    what_if(office, "+18005550100")
    caps.cap_usage(office)
    caps.verify_caps(office, fix=True)
    balances.verify_balances(office)
    balances.ledger(office, "acme", since_ms=0, until_ms=10**15, limit=5)
    calls.list_calls(office)
    calls.find_cdrs(office, since_ms=0, until_ms=10**15, limit=5, seller="acme")
    calls.tell(office, "u1")
    calls.tell(office, "u3")
    for listing in (
        sellers.list_sellers, rates.list_rates, trunks.list_trunks, campaigns.list_campaigns, dids.list_dids,
        targets.list_targets, targets.list_rules, settings.list_settings,
    ):  # fmt: skip
        listing(office)
    campaigns.pause_campaign(office, "solar", paused=True)
    for uniqueid in ("u3", "u4"):
        till.ask(settle_of(uniqueid))
    for scope in CapScope:
        caps.clear_caps(office, scope, names[scope])
    dids.release_did(office, "+18005550100")
    dids.remove_did(office, "+18005550100")
    for name in ("buyer1", "buyer2"):
        targets.remove_rule(office, "solar", name)
        targets.remove_target(office, name)
    campaigns.remove_campaign(office, "solar")
    trunks.remove_trunk(office, "carrier")
    rates.remove_rate(office, "std")
    sellers.add_seller(office, "brief")
    sellers.remove_seller(office, "brief")
    list(roll_up_all(till.store, till.clock.now_ms() + 10**8))
    verify_rollups(office)
    for by in ReportBy:
        make_report(office, Ask(by=by, period="2026", compare=True))
    with till.store.transaction(write=True) as tx:
        tx.put_node(Node(name="n", boot_id="b", started_ms=0, seen_ms=0, asterisk_started_ms=None, state="up"))
        tx.nodes()
        tx.node_calls("n")
        tx.call_node("u1")
        tx.hold_ends("n")


def test_no_statement_on_a_tenant_s_table_is_without_its_tenant(tmp_path: Path, heard: Heard) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite", create=True)
    till = Till(store)
    store.upgrade(till.clock.now_ms())
    one_of_everything(till)
    store.close()
    on_tenants = {sql for sql in heard.statements if tables_of(sql) - NOT_A_TENANT_S}
    assert [sql for sql in sorted(on_tenants) if not names_its_tenant(sql)] == []
    assert len(on_tenants) > 60
    assert all(tables_of(sql) for sql in heard.statements)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT id, tenant_id FROM seller", False),
        ("SELECT id, tenant_id FROM seller WHERE id = :id", False),
        ("SELECT id FROM seller WHERE id = :id AND tenant_id = :tenant_id", True),
        ("SELECT id FROM seller /* all tenants */", True),
        ("UPDATE seller SET tenant_id = ? WHERE id = ?", False),
        ("INSERT INTO seller (id) VALUES (?)", False),
    ],
)
def test_the_look_at_statements_can_fail(sql: str, named: bool) -> None:
    assert names_its_tenant(sql) is named
    assert tables_of(sql) == {"seller"}


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PACKAGE.rglob("*.py")], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_file_says_its_purpose_and_can_be_held_in_mind(path: Path) -> None:
    text = path.read_text()
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), path
    assert len(text.splitlines()) <= 620
