"""Two sellers that share nothing share no row: what sharding by seller stands on (docs/scaling.md).

Every row that a batch reads, locks or writes is recorded: reads at the dialect, writes by triggers of the database.
Each must belong to the seller of the batch, or be one of the few that all share. With a target that both sell to, the
rows of that target are shared, and no others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from capconduit.domain.model import Cdr
from capconduit.domain.needs import Command
from capconduit.services.growth import prune
from capconduit.store.postgres import PostgresDialect
from capconduit.store.rows import mapping
from capconduit.store.sqlite import SqliteDialect, SqliteStore
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric, CapScope, DialStatus, Strategy, WindowKind
from tests.store_contract.conftest import ENGINES, Opener
from tests.store_contract.costs import rows_left, walk
from tests.store_contract.test_books_written import KINDS
from tests.unit.estate_builder import (
    DOLLAR,
    T0,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
)

SELLERS = ("acme", "zeta")
# Read by every batch, written by changes of configuration only: a reference table on every shard.
REFERENCE = {"estate_version"}
# Of a channel of which nobody knows whose it is.
NOBODY_S = {"tombstone"}
Row = tuple[str, Mapping[str, Any]]  # table, columns


# --- recording -------------------------------------------------------------------------------------------------------


def columns_of(sql: str) -> tuple[str, list[str]] | None:
    """The table and the columns of a plain SELECT; None for what reads no row of ours."""
    match = re.match(r"SELECT (.+?) FROM (\w+)", sql, re.DOTALL)
    if match is None or "advisory" in match[1] or match[2] == "pg_inherits":
        return None
    return match[2], [column.strip() for column in match[1].split(",")]


def read_rows(sql: str, rows: Sequence[Any]) -> Iterator[Row]:
    found = columns_of(sql)
    if found is None:
        return
    table, columns = found
    if columns[0] == "'call'":  # the look-up of channels: each row names its table
        for what, node, uniqueid in rows:
            yield what, {"node": node, "uniqueid": uniqueid}
        return
    for row in rows:
        yield table, dict(zip(columns, row, strict=True))


class Recorder:
    """What a store's transactions touch."""

    def __init__(self, store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self._read: list[Row] = []
        self._listen(SqliteDialect if isinstance(store, SqliteStore) else PostgresDialect, monkeypatch)
        (self._watch_file if isinstance(store, SqliteStore) else self._watch_server)()

    def _listen(self, dialect: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        query, queries = dialect.query, dialect.queries

        def heard(own: Any, sql: str, values: Mapping[str, Any]) -> list[Any]:
            rows: list[Any] = query(own, sql, values)
            self._read += read_rows(sql, rows)
            return rows

        def all_heard(own: Any, statements: Sequence[tuple[str, Mapping[str, Any]]]) -> list[list[Any]]:
            found: list[list[Any]] = queries(own, statements)
            for (sql, _), rows in zip(statements, found, strict=True):
                self._read += read_rows(sql, rows)
            return found

        monkeypatch.setattr(dialect, "query", heard)
        monkeypatch.setattr(dialect, "queries", all_heard)

    def _watch_file(self) -> None:
        assert isinstance(self.store, SqliteStore)
        connection = self.store._connection()
        connection.execute("CREATE TEMP TABLE touched (name TEXT, row TEXT)")
        for m in map(mapping, KINDS):
            for event, which in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
                row = ", ".join(f"'{c}', {which}.{c}" for c in m.columns)
                connection.execute(
                    f"CREATE TEMP TRIGGER touch_{m.table}_{event} AFTER {event} ON main.{m.table} BEGIN"
                    f" INSERT INTO touched VALUES ('{m.table}', json_object({row})); END"
                )

    def _watch_server(self) -> None:
        with self.store.transaction(write=True) as tx:
            tx.query("CREATE TABLE touched (name TEXT, row TEXT)")
            tx.query(
                "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO touched VALUES (TG_ARGV[0], CASE WHEN TG_OP = 'DELETE' THEN row_to_json(OLD)"
                " ELSE row_to_json(NEW) END); RETURN NULL; END $$"
            )
            for m in map(mapping, KINDS):
                tx.query(
                    f"CREATE TRIGGER touch AFTER INSERT OR UPDATE OR DELETE ON {m.table}"
                    f" FOR EACH ROW EXECUTE FUNCTION touch('{m.table}')"
                )

    def touched(self) -> list[Row]:
        """What was touched since the last time."""
        with self.store.transaction(write=True) as tx:
            written = [(row[0], json.loads(row[1])) for row in tx.query("SELECT name, row FROM touched")]
            tx.query("DELETE FROM touched RETURNING 1")
        rows = [*self._read, *written]
        self._read.clear()
        return [row for row in rows if row[0] != "touched"]


class Owners:
    """Whose a row is, by the estate and by the calls that were seen."""

    def __init__(self, builder: EstateBuilder) -> None:
        self.campaigns = {c.id: c.seller_id for c in builder.campaigns}
        self.targets: dict[str, set[str]] = {}
        for rule in builder.rules:
            self.targets.setdefault(rule.target_id, set()).add(self.campaigns[rule.campaign_id])
        self.rules = {r.id: self.campaigns[r.campaign_id] for r in builder.rules}
        dids = {d.id: str(d.seller_id) for d in builder.dids}
        self.caps = {c.id: self._limited(c.scope, c.scope_id, dids) for c in builder.caps}
        self.calls: dict[str, str] = {}

    def _limited(self, scope: CapScope, scope_id: str, dids: Mapping[str, str]) -> set[str]:
        match scope:
            case CapScope.SELLER:
                return {scope_id}
            case CapScope.CAMPAIGN:
                return {self.campaigns[scope_id]}
            case CapScope.DID:
                return {dids[scope_id]}
            case CapScope.RULE:
                return {self.rules[scope_id]}
            case CapScope.TARGET:
                return self.targets[scope_id]
            case _:
                return set(SELLERS)

    def learn(self, rows: Sequence[Row]) -> None:
        for table, row in rows:
            if table in ("call", "cdr") and row.get("seller_id"):
                self.calls[row["id" if table == "call" else "call_id"]] = row["seller_id"]

    def of(self, table: str, row: Mapping[str, Any]) -> set[str]:
        """The sellers a row belongs to; two for what they share."""
        if table in ("call", "cdr") and "seller_id" not in row:  # found by its channel, whose name says it here
            return {str(row["uniqueid"]).partition("-")[0]}
        match table:
            case "account" | "call" | "cdr" | "hold" | "ledger":
                return {row["seller_id"]}
            case "attempt" | "place":
                return {self.calls[row["call_id"]]}
            case "counter":
                return self.caps[row["cap_id"]]
            case "target_state":
                return self.targets[row["target_id"]]
            case "rule_state":
                return {self.rules[row["rule_id"]]}
            case "recent_caller":
                return {self.campaigns[row["campaign_id"]]}
            case "event":
                return self._told_of(row["subject"])
            case _:
                return set(SELLERS)

    def _told_of(self, subject: str) -> set[str]:
        if subject in self.calls:
            return {self.calls[subject]}
        return {subject} if subject in SELLERS else self.caps.get(subject) or self.targets[subject]


# --- the estate and the day ------------------------------------------------------------------------------------------


def two_sellers() -> EstateBuilder:
    """Two sellers, each with a campaign, a DID, two targets and caps of every kind; one trunk without caps for all."""
    builder = EstateBuilder()
    builder.trunk()
    for seller, number in zip(SELLERS, ("+18005550100", "+18005550200"), strict=True):
        campaign = f"{seller}-leads"
        builder.seller(seller, low_balance_micros=99 * DOLLAR)
        builder.rate(f"{seller}-rate")
        builder.campaign(
            campaign, seller=seller, rate=f"{seller}-rate", strategy=Strategy.ROUND_ROBIN, duplicate_window_ms=1
        )
        did = builder.did(number, campaign=campaign)
        scopes = [(CapScope.SELLER, seller), (CapScope.CAMPAIGN, campaign), (CapScope.DID, did.id)]
        for name in (f"{seller}-buyer1", f"{seller}-buyer2"):
            builder.target(name, campaign=campaign)
            scopes += [(CapScope.TARGET, name), (CapScope.RULE, f"{campaign}/{name}")]
        for scope, scope_id in scopes:
            builder.cap(scope, scope_id, CapMetric.CONCURRENT, 3)
            builder.cap(scope, scope_id, CapMetric.BILLABLE, 3, WindowKind.DAY)
            builder.cap(scope, scope_id, CapMetric.MINUTES, 6_000, WindowKind.TOTAL)
            builder.cap(scope, scope_id, CapMetric.ATTEMPTS, 50, WindowKind.ROLLING, 3_600_000)
            builder.cap(scope, scope_id, CapMetric.CPS, 40)
    return builder


def day_of(seller: str) -> list[list[Command]]:
    """Batches of one seller: calls that are answered, extended, fail over, are cancelled, rejected and told twice."""
    number = {"acme": "+18005550100", "zeta": "+18005550200"}[seller]

    def route(n: int, **fields: Any) -> Command:
        return route_of(f"{seller}-{n}", dnid=number, ani=f"+1212555010{n}", **fields)

    return [
        [route(1), route(2)],
        [route(1), attempt_of(f"{seller}-2", 1, DialStatus.BUSY), answer_of(f"{seller}-1", answered_ms=T0)],
        [extend_of(f"{seller}-1"), route(3), route(4)],  # the fourth finds the caps filled
        [settle_of(f"{seller}-1", talk_ms=90_000), settle_of(f"{seller}-2"), route(5)],
        [settle_of(f"{seller}-3", talk_ms=61_000), settle_of(f"{seller}-1", talk_ms=90_000), settle_of(f"{seller}-9")],
        [attempt_of(f"{seller}-5", 1), attempt_of(f"{seller}-5", 2)],
        [settle_of(f"{seller}-5"), route(6)],
    ]


@pytest.fixture(params=ENGINES)
def shared(request: pytest.FixtureRequest, tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs both sellers' days, batch by batch in turn; the rows that each batch touched, with their owners."""
    in_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/s.sqlite" if in_file else request.getfixturevalue("empty_postgres_url")

    def run(builder: EstateBuilder) -> dict[str, list[tuple[Row, set[str]]]]:
        till = Till(opened(url), builder)
        recorder, owners = Recorder(till.store, monkeypatch), Owners(builder)
        till.ask(settle_of("nobody-1"))  # the estate is read by this one
        recorder.touched()
        seen: dict[str, list[tuple[Row, set[str]]]] = {seller: [] for seller in SELLERS}
        for batches in zip(*(day_of(seller) for seller in SELLERS), strict=True):
            for seller, batch in zip(SELLERS, batches, strict=True):
                assert [a for a in till.batch(batch) if isinstance(a, Exception)] == []
                rows = recorder.touched()
                owners.learn(rows)
                seen[seller] += [(row, owners.of(*row)) for row in rows]
                till.clock.pass_ms(20)
        till.verify()
        return seen

    return run


def tables_of(seen: Sequence[tuple[Row, set[str]]]) -> set[str]:
    return {table for (table, _), _ in seen}


Run = Callable[[EstateBuilder], dict[str, list[tuple[Row, set[str]]]]]


# --- what is shared --------------------------------------------------------------------------------------------------


def test_a_batch_of_one_seller_touches_rows_of_that_seller_alone(shared: Run) -> None:
    seen = shared(two_sellers())
    for seller in SELLERS:
        foreign = [row for row, owners in seen[seller] if owners != {seller} and row[0] not in REFERENCE | NOBODY_S]
        assert foreign == []
        # A day that touches everything on the way of a call: else this would say little.
        assert tables_of(seen[seller]) == {
            "account", "attempt", "call", "cdr", "counter", "estate_version", "event", "hold", "ledger", "place",
            "recent_caller", "rule_state", "target_state", "tombstone",
        }  # fmt: skip


def test_what_all_share_is_only_read(shared: Run) -> None:
    for rows in shared(two_sellers()).values():
        versions = {row["version"] for (table, row), _ in rows if table in REFERENCE}
        assert len(versions) == 1
        channels = {row["uniqueid"] for (table, row), _ in rows if table in NOBODY_S}
        assert all(uniqueid.endswith("-9") for uniqueid in channels)  # ends of calls that nobody knows


def test_with_a_target_that_both_sell_to_its_rows_are_shared_and_no_others(shared: Run) -> None:
    builder = two_sellers()
    builder.target("both", campaign="acme-leads", rule={"priority": 0})
    builder.rule("zeta-leads", "both", priority=0)
    caps = [
        builder.cap(CapScope.TARGET, "both", CapMetric.CONCURRENT, 5),
        builder.cap(CapScope.TARGET, "both", CapMetric.BILLABLE, 50, WindowKind.DAY),
    ]
    seen = shared(builder)
    for seller in SELLERS:
        foreign = {
            (table, row.get("target_id") or row.get("cap_id"))
            for (table, row), owners in seen[seller]
            if owners != {seller} and table not in REFERENCE | NOBODY_S
        }
        assert foreign == {("target_state", "both"), *(("counter", cap.id) for cap in caps)}


def test_a_cap_on_everything_shares_its_counters(shared: Run) -> None:
    """The recorder can see what is shared: a cap of the system is on every shard's way."""
    builder = two_sellers()
    cap = builder.cap(CapScope.SYSTEM, builder.tenant_id, CapMetric.CONCURRENT, 50)
    for seller, rows in shared(builder).items():
        foreign = {
            (table, row.get("cap_id"))
            for (table, row), owners in rows
            if owners != {seller} and table not in REFERENCE | NOBODY_S
        }
        assert foreign == {("counter", cap.id)}


@pytest.mark.postgres
def test_groups_of_sellers_lie_side_by_side_as_schemas(empty_postgres_url: str, opened: Opener) -> None:
    """Each a whole installation of its own: what schema-based sharding moves to another server as it is."""
    with psycopg.connect(empty_postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA one")
        connection.execute("CREATE SCHEMA two")
    sign = "&" if "?" in empty_postgres_url else "?"
    urls = [f"{empty_postgres_url}{sign}options=-csearch_path%3D{name}" for name in ("one", "two")]
    tills = [Till(opened(url), two_sellers()) for url in urls]
    for batches in zip(day_of("acme"), day_of("zeta"), strict=True):
        for till, batch in zip(tills, batches, strict=True):
            till.batch(batch)
    for till, seller in zip(tills, SELLERS, strict=True):
        till.verify()
        assert {cdr.seller_id for cdr in till.rows(Cdr)} == {seller}
    kept = tills[1].rows(Cdr)
    tills[0].clock.pass_ms(100 * 86_400_000)
    list(prune(tills[0].store, tills[0].clock, before_ms=T0 + 86_400_000))
    assert (tills[0].rows(Cdr), tills[1].rows(Cdr)) == ([], kept)


# --- what the page says ----------------------------------------------------------------------------------------------


def test_the_page_tells_how_many_rows_a_call_leaves(store: SqlStore) -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    costs = page.partition("## What a call costs")[2].partition("## ")[0]
    told = {name: int(rows) for name, rows in re.findall(r"^\| `(\w+)` \| (\d+) \|", costs, re.MULTILINE)}
    assert told == rows_left(Till(store, walk()), 24)


def test_the_page_names_every_table_on_the_way_of_a_call() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    tables = {mapping(kind).table for kind in KINDS}
    sharding = page.partition("## Sharding by seller")[2]
    assert [table for table in sorted(tables) if f"`{table}`" not in sharding] == []
