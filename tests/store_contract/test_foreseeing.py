"""What new calls need is asked for before anything is read: in two round trips, by keys, and never wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.services.campaigns import pause_campaign
from capconduit.services.engine import Engine
from capconduit.store.dialect import Dialect
from capconduit.store.postgres import PostgresDialect
from capconduit.store.sqlite import SqliteDialect
from capconduit.vocab import CapMetric, CapScope, RejectCode, Strategy, WindowKind
from tests.unit.estate_builder import EstateBuilder, Till, route_of, settle_of, small_estate

LOCKED = ("estate_version", "recent_caller", "account", "target_state", "rule_state", "counter")  # in this order


@contextmanager
def trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The statements of each reading round trip."""
    asked: list[list[str]] = []
    for kind in (PostgresDialect, SqliteDialect):
        queries = kind.queries

        def heard(
            own: Dialect, statements: Sequence[tuple[str, Mapping[str, Any]]], queries: Any = queries
        ) -> list[list[Any]]:
            asked.append([sql for sql, _ in statements])
            found: list[list[Any]] = queries(own, statements)
            return found

        monkeypatch.setattr(kind, "queries", heard)
    yield asked
    monkeypatch.undo()


def forget(till: Till) -> None:
    """Another kind of transaction: what SQLite remembers for decisions is good no more, everything is read again."""
    with till.store.transaction(write=True):
        pass


def busy_estate() -> EstateBuilder:
    """Callers are remembered, targets take turns, caps on all sides: everything there is to lock."""
    builder = small_estate(strategy=Strategy.ROUND_ROBIN, duplicate_window_ms=60_000)
    builder.cap(CapScope.SELLER, "acme", CapMetric.BILLABLE, 100, WindowKind.DAY)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 100)
    return builder


def test_new_calls_are_read_for_in_one_round_trip(shop: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.batch([route_of("warm")])  # counters and states of this day are made, the estate is loaded
    forget(shop)
    with trips(monkeypatch) as asked:
        answers = shop.batch([route_of("u1"), route_of("u2")])
    assert all(isinstance(answer, DialAnswer) for answer in answers)
    assert len(asked) == 1
    assert any("FROM account" in sql for sql in asked[0])


def test_ends_of_calls_are_read_for_in_two(shop: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.batch([route_of("u1"), route_of("u2")])
    forget(shop)
    with trips(monkeypatch) as asked:
        shop.batch([settle_of("u1"), settle_of("u2")])
    assert len(asked) == 2
    shop.verify()


def test_a_channel_that_asks_again_among_new_ones_gets_the_answer_it_has(shop: Till) -> None:
    (first,) = shop.batch([route_of("u1")])
    again, other = shop.batch([route_of("u1"), route_of("u2")])
    assert again == first
    assert isinstance(other, DialAnswer)
    assert other.call_id != first.call_id
    shop.verify()


def test_a_channel_that_is_over_is_not_taken_in_again_among_new_ones(shop: Till) -> None:
    shop.batch([route_of("u1")])
    shop.batch([settle_of("u1")])
    again, other = shop.batch([route_of("u1"), route_of("u2")])
    assert isinstance(again, RejectAnswer)
    assert isinstance(other, DialAnswer)
    shop.verify()


def test_a_change_that_this_engine_has_not_seen_is_in_force(shop: Till) -> None:
    shop.batch([route_of("u1")])
    pause_campaign(shop.office(), "solar", paused=True)
    (answer,) = shop.batch([route_of("u2")])
    assert isinstance(answer, RejectAnswer)
    assert answer.code is RejectCode.CAMPAIGN_PAUSED
    shop.verify()


def test_what_was_foreseen_wrongly_is_decided_in_a_new_transaction(shop: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[bool] = []
    work = Engine.work

    def counted(own: Engine, commands: Any, tx: Any, *, foresees: bool = False) -> list[Any]:
        tries.append(foresees)
        return work(own, commands, tx, foresees=foresees)

    monkeypatch.setattr(Engine, "work", counted)
    shop.batch([route_of("u1")])
    pause_campaign(shop.office(), "solar", paused=True)
    shop.batch([route_of("u2")])
    shop.batch([route_of("u2"), route_of("u1")])
    assert tries == [True, True, False, True, False]


def test_everything_that_is_locked_is_foreseen(open_shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    till = open_shop(busy_estate())
    till.batch([route_of("warm", ani="+12125550199")])
    forget(till)
    with trips(monkeypatch) as asked:
        till.batch([route_of("u1", ani="+12125550101"), route_of("u2", ani="+12125550102")])
    assert len(asked) == 1
    assert any("FROM recent_caller" in sql for sql in asked[0])
    assert any("FROM rule_state" in sql for sql in asked[0])
    places = [next(at for at, sql in enumerate(asked[0]) if f"FROM {table} " in sql) for table in LOCKED]
    assert places == sorted(places), "locks are taken in one order"
    till.verify()


@pytest.mark.postgres
def test_decisions_never_read_a_table_whole(postgres_url: str, opened: Any) -> None:
    till = Till(opened(postgres_url), busy_estate())
    tables = ("account", "counter", "target_state", "rule_state", "call", "attempt", "place", "hold", "recent_caller")

    def scans() -> dict[str, int]:
        till.store._connection(hurry=True).execute("SELECT pg_stat_force_next_flush()")
        with till.store.transaction(write=False) as tx:
            rows = tx.query("SELECT relname, seq_scan FROM pg_stat_user_tables")
        return {name: int(count) for name, count in rows if name in tables}

    for name in ("a", "b", "c", "d", "e", "f"):  # prepared, and with a plan for all values
        till.batch([route_of(name), route_of(f"{name}2")])
        till.batch([settle_of(name), settle_of(f"{name}2")])
    before = scans()
    till.batch([route_of("u1"), route_of("u2")])
    till.batch([settle_of("u1"), settle_of("u2")])
    assert scans() == before
