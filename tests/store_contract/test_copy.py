"""Moving to another database: everything, exactly, in one piece; calls that are up go on there with exact books."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain import model
from capconduit.domain.calls import ExtendAnswer
from capconduit.domain.model import Call, Cdr, Hold, Node, Place
from capconduit.errors import DriftError, Refused
from capconduit.services.engine import Engine
from capconduit.services.growth import copy_database, running_daemons, verify_copy
from capconduit.store import copying
from capconduit.store.copying import COPIED
from capconduit.store.open import check_schema
from capconduit.store.sqlstore import SqlStore
from capconduit.store.sqltransaction import SqlTransaction
from capconduit.vocab import CapMetric, CapScope, DialStatus, Strategy, WindowKind
from tests.store_contract.conftest import Opener
from tests.store_contract.test_books_written import KINDS, dump, sample
from tests.unit.estate_builder import (
    DOLLAR,
    T0,
    FakeClock,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

DAY_MS = 86_400_000
Pair = tuple[SqlStore, SqlStore]


@pytest.fixture(params=["there", "back"])
def pair(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str, opened: Opener) -> Pair:
    """A source and a target with tables and no rows: from SQLite to PostgreSQL, and back."""
    urls = [f"sqlite:///{tmp_path}/store.sqlite", postgres_url]
    source, target = (opened(url) for url in (urls if request.param == "there" else urls[::-1]))
    source.upgrade(T0)
    return source, target


pytestmark = pytest.mark.postgres


def copy(pair: Pair, **how: Any) -> Sequence[copying.Copied]:
    return copy_database(*pair, how.pop("clock", FakeClock()), how.pop("tell", lambda table, rows: None), **how)


def moved(till: Till, target: SqlStore) -> Till:
    """The installation on another database: copied, and asked there from now on."""
    copy((till.store, target), clock=till.clock)
    there = Till(target)
    there.clock = till.clock
    there.engine = Engine(target, till.clock)
    return there


# --- exactly everything ----------------------------------------------------------------------------------------------


def test_every_kind_there_is_is_copied() -> None:
    assert set(COPIED) == set(KINDS)


@pytest.mark.parametrize(("full", "flip"), [(True, False), (True, True), (False, False)])
def test_every_row_arrives_as_it_was(pair: Pair, full: bool, flip: bool) -> None:
    source, target = pair
    with source.transaction(write=True) as tx:
        for kind in KINDS:
            tx.insert(sample(kind, full=full, flip=flip))
        tx.bump_estate()
    told: dict[str, int] = {}
    copied = copy(pair, tell=told.__setitem__)
    assert dump(target) == dump(source)
    assert [c.rows for c in copied] == [1] * len(KINDS)
    assert told == {c.table: 1 for c in copied}
    with source.transaction(write=False) as here, target.transaction(write=False) as there:
        assert there.estate_version() == here.estate_version() == 2


def test_a_target_without_tables_gets_them(empty_postgres_url: str, tmp_path: Path, opened: Opener) -> None:
    source, target = opened(f"sqlite:///{tmp_path}/store.sqlite"), opened(empty_postgres_url)
    till = Till(source, small_estate())
    till.dial(route_of("u1"))
    copy((source, target))
    check_schema(target)
    assert dump(target) == dump(source)


def test_tables_of_many_pages_arrive_whole(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PAGE", 3)
    source, target = pair
    base = sample(model.Event, full=False)
    place = sample(Place, full=False)
    with source.transaction(write=True) as tx:
        for n in range(9):
            tx.insert(replace(base, id=f"{n}é", subject="abc"[n % 3]))
            tx.insert(replace(place, call_id=f"c{n % 2}", attempt=n))
    copied = {c.table: c.rows for c in copy(pair)}
    assert (copied["event"], copied["place"]) == (9, 9)
    assert dump(target) == dump(source)


def test_a_copy_of_a_copy_has_the_same_checksums(pair: Pair, tmp_path: Path, opened: Opener) -> None:
    source, target = pair
    till = Till(source, small_estate())
    for n in range(3):
        till.dial(route_of(f"u{n}"))
    first = copy(pair)
    second = copy((target, opened(f"sqlite:///{tmp_path}/third.sqlite")))
    assert first == second
    assert len({c.checksum for c in first if c.rows}) == len([c for c in first if c.rows])


def test_older_records_lie_in_their_months_on_postgres(empty_postgres_url: str, tmp_path: Path, opened: Opener) -> None:
    source, target = opened(f"sqlite:///{tmp_path}/store.sqlite"), opened(empty_postgres_url)
    till = Till(source, small_estate())
    till.clock.wall_ms = T0 - 300 * DAY_MS
    till.dial(route_of("old"))
    till.ask(settle_of("old", talk_ms=60_000))
    till.clock.wall_ms = T0
    copy((source, target))
    with target.transaction(write=False) as tx:
        assert [str(r[0]) for r in tx.query("SELECT tableoid::regclass FROM cdr")] == ["cdr_202505"]


# --- calls that are up -----------------------------------------------------------------------------------------------


def test_calls_that_are_up_go_on_in_the_other_database_with_exact_books(pair: Pair) -> None:
    builder = small_estate(strategy=Strategy.ROUND_ROBIN)
    builder.target("buyer2")
    day = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 5, WindowKind.DAY)
    minutes = builder.cap(CapScope.SELLER, "acme", CapMetric.MINUTES, 60 * 60, WindowKind.TOTAL)
    here = Till(pair[0], builder)
    here.dial(route_of("over"))
    here.ask(settle_of("over", talk_ms=60_000))
    for name in ("up", "ringing", "failing"):
        here.dial(route_of(name))
    here.ask(answer_of("up", answered_ms=T0))
    here.ask(settle_of("early"))  # a tombstone: its route comes later
    here.verify()
    held, calls, counts = here.account(), here.rows(Call), here.count(day)

    there = moved(here, pair[1])
    there.verify()
    assert (there.account(), there.rows(Call), there.count(day)) == (held, calls, counts)
    assert held.held_micros == 3 * 200_000
    assert there.engine.estate is None
    there.clock.pass_ms(30_000)
    extended = there.ask(extend_of("up"))
    assert isinstance(extended, ExtendAnswer)
    assert extended.funded_s == 120
    again = there.dial(attempt_of("failing", 1, DialStatus.BUSY))
    assert again.attempt == 2
    there.dial(route_of("new"))
    assert there.reject(route_of("one too many")).code == "cap_reached"
    there.reject(route_of("early"))
    there.clock.pass_ms(61_000)
    there.ask(settle_of("up", talk_ms=90_000))
    there.ask(settle_of("ringing"))
    there.ask(settle_of("failing", attempt=2, talk_ms=10_000))
    there.ask(settle_of("new", talk_ms=61_000))
    there.ask(settle_of("up", talk_ms=90_000))  # told twice
    there.ask(settle_of("over", talk_ms=60_000))  # settled before the move
    minutes_talked = 1 + 2 + 1 + 2
    assert there.account().balance_micros == 100 * DOLLAR - minutes_talked * 200_000
    assert there.account().held_micros == 0
    assert there.count(day) == (4, 0)
    assert there.count(minutes) == (60 + 90 + 10 + 61, 0)
    assert len(there.rows(Cdr)) == 6
    assert there.rows(Call) == []
    there.verify()
    assert len(here.rows(Call)) == 3  # the original is as it was


def test_whoever_admitted_a_call_finds_it_again(pair: Pair) -> None:
    here = Till(pair[0], small_estate())
    here.dial(route_of("u1"))
    there = moved(here, pair[1])
    with there.store.transaction(write=False) as tx:
        assert [c.uniqueid for c in tx.node_calls("node-1")] == ["u1"]
        assert set(tx.hold_ends("node-1").values()) == {here.rows(Hold)[0].expires_ms}


def test_what_did_not_add_up_before_is_told_of_the_copy(pair: Pair) -> None:
    till = Till(pair[0], small_estate())
    wrong = replace(till.account(), balance_micros=7)
    with pair[0].transaction(write=True) as tx:
        tx.update(wrong)
    copy(pair)
    (found,) = verify_copy(pair[1], till.clock, "test")
    assert (found.tenant, found.balances[0].stands_micros, found.caps) == ("default", 7, [])


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [model.Tenant, model.Node, model.Event])
def test_a_target_that_is_not_empty_is_refused_and_left_alone(pair: Pair, kind: type) -> None:
    target = pair[1]
    target.upgrade(T0)
    with target.transaction(write=True) as tx:
        tx.insert(sample(kind, full=False))
    before = dump(target)
    with pytest.raises(Refused) as caught:
        copy(pair)
    assert caught.value.slug == "target-not-empty"
    assert dump(target) == before


def test_a_target_of_another_version_is_refused(pair: Pair) -> None:
    pair[1].upgrade(T0)
    with pair[1].transaction(write=True) as tx:
        tx.query("INSERT INTO schema_migration (version, name, applied_ms) VALUES (999, 'later', 0) RETURNING 1")
    with pytest.raises(Refused) as caught:
        copy(pair)
    assert caught.value.slug == "target-of-another-version"


def node(state: str = "up", seen_ms: int = T0) -> Node:
    return Node(name="pbx1", boot_id="b", started_ms=0, seen_ms=seen_ms, asterisk_started_ms=None, state=state)


@pytest.mark.parametrize(
    ("row", "runs"),
    [
        (node(), True),
        (node(seen_ms=T0 - 14_999), True),
        (node(seen_ms=T0 + DAY_MS), True),  # its clock is ahead
        (node(seen_ms=T0 - 15_000), False),  # it was killed
        (node(state="down"), False),
    ],
)
def test_a_daemon_that_runs_is_seen(pair: Pair, row: Node, runs: bool) -> None:
    with pair[0].transaction(write=True) as tx:
        tx.put_node(row)
    assert bool(running_daemons(pair[0], T0)) is runs
    if runs:
        with pytest.raises(Refused) as caught:
            copy(pair)
        assert caught.value.slug == "daemon-running"
        assert "pbx1" in caught.value.message
    copy(pair, force=True)
    assert dump(pair[1]) == dump(pair[0])


def test_what_is_written_meanwhile_is_not_half_in_the_copy(pair: Pair, opened: Opener) -> None:
    """One snapshot: a call that is settled while we copy is alive in the copy, with its hold."""
    till = Till(opened(pair[0].url), small_estate())
    till.dial(route_of("u1"))
    before = dump(pair[0])
    settled = iter([lambda: till.ask(settle_of("u1", talk_ms=60_000))])

    def tell(table: str, rows: int) -> None:
        for settle in settled:
            settle()

    copy(pair, tell=tell)
    assert till.rows(Call) == []
    assert dump(pair[1]) == before


@pytest.mark.parametrize("spoil", ["lost", "changed"])
def test_a_copy_that_is_not_the_same_is_not_kept(pair: Pair, monkeypatch: pytest.MonkeyPatch, spoil: str) -> None:
    till = Till(pair[0], small_estate())
    till.dial(route_of("u1"))
    put = SqlTransaction.put
    spoiled: dict[str, Callable[[list[Any]], list[Any]]] = {
        "lost": lambda rows: rows[:-1],
        "changed": lambda rows: [(*row[:-1], row[-1] + 1) for row in rows],
    }

    def spoiling(tx: SqlTransaction, kind: type, rows: Sequence[Any]) -> None:
        wrong = spoiled[spoil](list(rows)) if kind is Hold else rows
        put(tx, kind, wrong) if wrong else None

    monkeypatch.setattr(SqlTransaction, "put", spoiling)
    with pytest.raises(DriftError) as caught:
        copy(pair)
    assert "hold" in caught.value.message
    assert not any(itertools.chain(*dump(pair[1]).values()))
    monkeypatch.undo()
    copy(pair)  # tried again, it goes
    assert dump(pair[1]) == dump(pair[0])
