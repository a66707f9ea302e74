"""The engine's thread: batches, answers after the commit, and that nothing one caller does stops it for the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer, SettleReport
from capconduit.domain.model import Call, Cdr
from capconduit.errors import DatabaseError, Refused
from capconduit.services import engine as engine_module
from capconduit.services import gathering
from capconduit.services.campaigns import pause_campaign
from capconduit.services.engine import Engine, EngineBusy
from capconduit.vocab import RejectCode
from tests.unit.estate_builder import Till, route_of, settle_of

WAIT_S = 30


class Answers:
    """Collects what the engine answers; `wait` is over when `expected` have come."""

    def __init__(self, expected: int) -> None:
        self.got: dict[str, Any] = {}
        self._left = expected
        self._all = threading.Event()

    def take(self, name: str) -> Callable[[Any, Exception | None], None]:
        def done(answer: Any, error: Exception | None) -> None:
            assert name not in self.got, "answered twice"
            self.got[name] = answer if error is None else error
            self._left -= 1
            if self._left == 0:
                self._all.set()

        return done

    def wait(self) -> None:
        assert self._all.wait(WAIT_S), self.got


@pytest.fixture
def started(shop: Till) -> Any:
    """Starts the shop's engine after what the test queued, and stops it."""
    yield shop
    assert shop.engine.stop(WAIT_S)


def test_what_is_queued_together_is_decided_in_one_transaction(started: Till) -> None:
    answers = Answers(10)
    for i in range(10):
        started.engine.submit(route_of(f"u{i}"), answers.take(f"u{i}"))
    assert started.engine.queued == 10
    started.engine.start()
    answers.wait()
    assert all(isinstance(a, DialAnswer) for a in answers.got.values())
    assert (started.engine.batches, started.engine.commands) == (1, 10)
    assert len(started.rows(Call)) == 10


def test_an_answer_is_given_after_its_commit(started: Till) -> None:
    seen: list[int] = []
    over = threading.Event()

    def look(answer: Any, error: Exception | None) -> None:
        seen.append(len(started.rows(Call)))  # the engine's own thread: its transaction is over
        over.set()

    started.engine.submit(route_of(), look)
    started.engine.start()
    assert over.wait(WAIT_S)
    assert seen == [1]


def test_a_caller_that_fails_at_its_answer_stops_nobody(started: Till) -> None:
    def broken(answer: Any, error: Exception | None) -> None:
        raise RuntimeError("the loop is closed")

    answers = Answers(1)
    started.engine.submit(route_of("a"), broken)
    started.engine.submit(route_of("b"), answers.take("b"))
    started.engine.start()
    answers.wait()
    assert started.engine.ask(route_of("c"), WAIT_S).attempt == 1


def test_a_value_that_cannot_be_kept_fails_its_own_call_only(started: Till) -> None:
    answers = Answers(3)
    for name, caller_name in (("a", "Zoë"), ("odd", "\ud800"), ("b", "")):
        started.engine.submit(route_of(name, caller_name=caller_name), answers.take(name))
    started.engine.start()
    answers.wait()
    assert isinstance(answers.got["odd"], Refused)
    assert isinstance(answers.got["a"], DialAnswer)
    assert isinstance(answers.got["b"], DialAnswer)
    assert len(started.rows(Call)) == 2
    started.verify()


def test_a_decision_that_fails_harms_no_other_of_its_batch(started: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    real = engine_module.decide

    def sometimes(command: Any, *rest: Any) -> Any:
        if command.uniqueid == "bug":
            raise ZeroDivisionError
        return real(command, *rest)

    monkeypatch.setattr(engine_module, "decide", sometimes)
    answers = Answers(3)
    for name in ("a", "bug", "b"):
        started.engine.submit(route_of(name), answers.take(name))
    started.engine.start()
    answers.wait()
    assert isinstance(answers.got["bug"], ZeroDivisionError)
    assert [answers.got[n].attempt for n in ("a", "b")] == [1, 1]
    started.verify()


def test_a_database_that_fails_is_told_to_all_and_nothing_was_taken(
    started: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(work: Any, **_: Any) -> Any:
        raise DatabaseError("database-failed", "away", "wait")

    answers = Answers(3)
    with monkeypatch.context() as patch:
        patch.setattr(started.store, "run", away)
        for i in range(3):
            started.engine.submit(route_of(f"u{i}"), answers.take(f"u{i}"))
        started.engine.start()
        answers.wait()
    assert all(isinstance(a, DatabaseError) for a in answers.got.values())
    assert started.rows(Call) == []
    assert started.engine.ask(route_of("later"), WAIT_S).attempt == 1


def test_a_full_queue_refuses_and_takes_nothing(started: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "QUEUE_MAX", 2)
    answers = Answers(2)
    started.engine.submit(route_of("a"), answers.take("a"))
    started.engine.submit(route_of("b"), answers.take("b"))
    with pytest.raises(EngineBusy):
        started.engine.submit(route_of("c"), answers.take("c"))
    started.engine.start()
    answers.wait()
    assert len(started.rows(Call)) == 2


def test_stopping_finishes_what_is_queued_and_refuses_more(shop: Till) -> None:
    answers = Answers(5)
    for i in range(5):
        shop.engine.submit(route_of(f"u{i}"), answers.take(f"u{i}"))
    shop.engine.start()
    assert shop.engine.stop(WAIT_S)
    answers.wait()
    assert len(shop.rows(Call)) == 5
    with pytest.raises(EngineBusy):
        shop.engine.submit(route_of("late"), answers.take("late"))


def test_a_change_of_the_estate_is_seen_by_the_next_decision(started: Till) -> None:
    started.engine.start()
    assert started.engine.ask(route_of("a"), WAIT_S).attempt == 1
    pause_campaign(started.office(), "solar", paused=True)
    assert started.engine.ask(route_of("b"), WAIT_S).code is RejectCode.CAMPAIGN_PAUSED
    pause_campaign(started.office(), "solar", paused=False)
    assert started.engine.ask(route_of("c"), WAIT_S).attempt == 1


def test_two_engines_on_one_database_share_every_count(shop: Till) -> None:
    other = Engine(shop.store, shop.clock)
    for i in range(6):
        engine = (shop.engine, other)[i % 2]
        shop.store.run(lambda tx, e=engine, i=i: e.work([route_of(f"u{i}")], tx))
    first = shop.store.run(lambda tx: other.work([settle_of("u0", talk_ms=1_000)], tx))[0]
    again = shop.store.run(lambda tx: shop.engine.work([settle_of("u0", talk_ms=1_000)], tx))[0]
    assert (first.first, again.first) == (True, False)
    same = shop.store.run(lambda tx: other.work([route_of("u2")], tx))[0]
    assert same.call_id == shop.dial(route_of("u2")).call_id
    shop.verify()


def test_a_request_that_nobody_waits_for_takes_nothing_and_is_recorded_once(shop: Till) -> None:
    stale = route_of(until_mono_ms=shop.clock.monotonic_ms() + 250)
    shop.clock.pass_ms(251)
    first = shop.reject(stale)
    assert (first.code, first.sip) == (RejectCode.ENGINE_TIMEOUT, 500)
    assert shop.reject(stale) == first
    assert shop.batch([stale, stale]) == [first, first]
    assert not shop.ask(settle_of()).first
    assert [c.reject_code for c in shop.rows(Cdr)] == ["engine_timeout"]
    assert shop.account().held_micros == 0


def test_a_stale_request_of_a_channel_that_is_known_changes_nothing(shop: Till) -> None:
    for name in ("live", "over", "buried"):
        stale = route_of(name, until_mono_ms=shop.clock.monotonic_ms() - 1)
        if name != "buried":
            shop.dial(route_of(name))
        if name != "live":
            shop.ask(settle_of(name, talk_ms=1_000 if name == "over" else None))
        answer = shop.ask(stale)
        assert isinstance(answer, DialAnswer if name == "live" else RejectAnswer)
    assert len(shop.rows(Cdr)) == 1
    assert len(shop.rows(Call)) == 1
    shop.verify()


def test_a_request_in_time_is_decided(shop: Till) -> None:
    assert shop.dial(route_of(until_mono_ms=shop.clock.monotonic_ms())).attempt == 1


def test_an_admission_that_came_too_late_is_given_back(shop: Till) -> None:
    shop.dial(route_of())
    late = SettleReport(node="node-1", uniqueid="u1", reject=RejectCode.ENGINE_TIMEOUT, witness="late")
    assert shop.ask(late).first
    assert not shop.ask(settle_of()).first
    assert isinstance(shop.ask(route_of()), RejectAnswer)
    assert shop.account().held_micros == 0
    shop.verify()


def test_a_reload_beside_a_batch_leaves_its_decision_on_the_estate_that_is_locked(
    started: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another thread puts there between loading and deciding is older; the batch does not look at it."""
    engine, till = started.engine, started
    with till.store.transaction(write=False) as tx:
        old = engine.estate = tx.load_estate()
    till.office().change(lambda desk: desk.tx.bump_estate())
    held: dict[str, Any] = {"estate": old}
    seen: list[int] = []
    real = engine_module.decide

    def watching(command: Any, estate: Any, *rest: Any) -> Any:
        seen.append(estate.version)
        return real(command, estate, *rest)

    def put(_engine: Any, _estate: Any) -> None:
        held["estate"] = old  # the other thread is a moment later than the engine's own

    monkeypatch.setattr(engine_module, "decide", watching)
    monkeypatch.setattr(engine_module.Engine, "estate", property(lambda _: held["estate"], put), raising=False)
    till.store.run(lambda tx: engine.work([route_of("u-1")], tx), hurry=True)
    assert seen == [old.version + 1]
