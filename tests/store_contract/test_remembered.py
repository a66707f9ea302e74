"""What decisions on SQLite remember of the database is what stands there, and forgotten as soon as it may not be."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from capconduit.domain.calls import RejectAnswer
from capconduit.domain.model import Account, Call, Counter, Hold, Place, RuleState, TargetState
from capconduit.errors import DatabaseError
from capconduit.services.balances import adjust
from capconduit.store import remembered as remembered_module
from capconduit.store.estates import VERSION_SQL
from capconduit.store.remembered import Remembered
from capconduit.store.sqlite import SqliteStore
from capconduit.units import MICROS_PER_UNIT
from capconduit.vocab import CapMetric, CapScope, PlaceState, RejectCode
from tests.store_contract.conftest import Opener
from tests.store_contract.test_foreseeing import trips
from tests.store_contract.test_same_as_pure import Twin
from tests.unit.estate_builder import NODE, TENANT, Till, answer_of, attempt_of, route_of, settle_of, small_estate

STEPS = 40
FUNDS = 100 * MICROS_PER_UNIT


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/s.sqlite"


@pytest.fixture
def till(url: str, opened: Opener) -> Till:
    return Till(opened(url), small_estate())


def known(till: Till) -> Remembered:
    """What the connection of this thread remembers."""
    assert isinstance(till.store, SqliteStore)
    return till.store._connection().remembered


def assert_stands(till: Till) -> int:
    """Everything that is remembered is what the database says; how much that is."""
    memory = known(till)
    with till.store.transaction(write=False) as tx:
        for kind, key in ((Account, "seller_id"), (TargetState, "target_id"), (RuleState, "rule_id")):
            stand = {getattr(row, key): row for row in tx.rows(kind, TENANT)}
            assert memory.rows[kind].items() <= stand.items()
        counters = {(c.cap_id, c.window_start_ms): c for c in tx.rows(Counter, TENANT)}
        for counter_key, counter in memory.counters.items():
            assert counters[counter_key] == counter
        calls = {(c.node, c.uniqueid): c for c in tx.rows(Call, TENANT)}
        for channel, live in memory.calls.items():
            assert calls[channel] == live.call
            places = {(p.attempt, p.cap_id): p for p in tx.rows(Place, TENANT, call_id=live.call.id)}
            assert places == live.places
            assert tx.find(Hold, TENANT, call_id=live.call.id) == live.hold
    return sum(map(len, memory.rows.values())) + len(memory.counters) + len(memory.calls)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_stands_in_the_database(url: str, opened: Opener, seed: int) -> None:
    twin = Twin(seed, opened(url))
    most = 0
    for _ in range(STEPS):
        twin.step()
        most = max(most, assert_stands(twin.twin))
    twin.compare()
    assert most > 10


def test_what_is_remembered_is_not_read(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    till.dial(route_of("u1"))
    with trips(monkeypatch) as asked:
        till.ask(answer_of("u1", till.clock.now_ms()))
    assert asked == [[VERSION_SQL]]
    with trips(monkeypatch) as asked:
        till.dial(route_of("u2"))
    assert [sql.split()[1] for sql in asked[0]] == ["version,", "'call',"]  # the estate, and whether the channel is new


def test_what_another_connection_wrote_is_read_again(till: Till, url: str, opened: Opener) -> None:
    till.dial(route_of("u1"))
    assert known(till).rows[Account]
    other = Till(opened(url), seed=7)
    adjust(other.office(), "acme", -FUNDS + 10 * MICROS_PER_UNIT, reason="spent elsewhere")
    answers = till.batch([route_of(f"more{number}") for number in range(100)])
    assert isinstance(answers[-1], RejectAnswer)
    assert answers[-1].code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    assert assert_stands(till)
    till.verify()


def test_a_call_that_another_connection_settled_is_not_live(till: Till, url: str, opened: Opener) -> None:
    till.dial(route_of("u1"))
    assert known(till).calls
    other = Till(opened(url), seed=7)
    assert other.ask(settle_of("u1", 60_000)).first
    assert not till.ask(settle_of("u1", 30_000)).first
    till.verify()


def test_what_the_same_connection_wrote_otherwise_is_read_again(till: Till) -> None:
    till.dial(route_of("u1"))
    adjust(till.office(), "acme", -FUNDS + till.account().held_micros, reason="spent by hand")
    assert till.reject(route_of("u2")).code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    till.verify()


def test_what_was_not_committed_is_not_remembered(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    till.dial(route_of("u1"))
    before = till.account()
    assert isinstance(till.store, SqliteStore)

    def fail() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(till.store._connection(), "commit", fail)
        with pytest.raises(DatabaseError):
            till.ask(route_of("u2"))
    till.ask(settle_of("u1"))
    assert till.account().held_micros == 0
    assert till.account().balance_micros == before.balance_micros
    till.dial(route_of("u2"))
    assert assert_stands(till)
    till.verify()


def test_rows_change_in_the_books_of_their_own_transaction_only(url: str, opened: Opener) -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.SELLER, "acme", CapMetric.CONCURRENT, 10)
    till = Till(opened(url), builder)
    told = []
    for number in range(3):
        till.dial(route_of(f"u{number}"))
        told.append(till.engine._books)
    assert [books.counters[(cap.id, 0)].in_flight for books in told] == [1, 2, 3]
    assert [len(books.calls) for books in told] == [1, 1, 1]
    till.ask(attempt_of("u0"))
    assert [leg.dialstatus for own in told[0].attempts.values() for leg in own.values()] == [None]
    assert [place.state for own in told[0].places.values() for place in own.values()] == [PlaceState.HELD]


def test_no_more_is_remembered_than_there_is_room_for(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_module, "CALLS_MAX", 3)
    for number in range(9):
        till.dial(route_of(f"u{number}"))
        assert assert_stands(till)
    assert [uniqueid for _, uniqueid in known(till).calls] == ["u6", "u7", "u8"]
    assert known(till).rows[Account]
    monkeypatch.setattr(remembered_module, "ROWS_MAX", 0)
    till.dial(route_of("u9"))
    assert assert_stands(till)
    assert list(known(till).calls) == [(NODE, "u9")]
    for number in range(10):
        assert till.ask(settle_of(f"u{number}")).first
    till.verify()
