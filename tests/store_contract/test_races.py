"""Bursts from several processes and threads against one cap and one balance: never one too many, never below zero.

`RACE_CALLS` sets how many calls each burst has (1,500 in the suite), `RACE_TIMES` how often the bursts of processes and
threads are repeated; `make races` is the full measure: 10,000 calls, twenty times.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.calls import RejectAnswer
from capconduit.domain.model import Call, Cdr, Counter
from capconduit.errors import Refused
from capconduit.services.balances import adjust
from capconduit.services.caps import Limit, set_caps
from capconduit.services.engine import Engine
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.store_contract.burst import fire, process
from tests.store_contract.conftest import Opener, PostgresServer
from tests.unit.estate_builder import (
    DOLLAR,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

CALLS = int(os.environ.get("RACE_CALLS", "1500"))
PROCESSES = 4
again = pytest.mark.parametrize("time_", range(int(os.environ.get("RACE_TIMES", "1"))))
JOIN_S = 90


def capped() -> EstateBuilder:
    """Money without end and 100 places: in the campaign's day, and beside it in every scope of the path."""
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=10**15)
    builder.cap(CapScope.SYSTEM, "T", CapMetric.CONCURRENT, 10**6)
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 100, WindowKind.DAY)
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.ATTEMPTS, 10**6, WindowKind.HOUR)
    return builder


def one_call() -> EstateBuilder:
    """No caps, and money for one first increment."""
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=399_999)
    return builder


def race_processes(url: str, names: list[str]) -> Tally[str]:
    """The burst, dealt to PROCESSES processes that begin together."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(PROCESSES), context.Queue()
    running = [
        context.Process(target=process, args=(url, names[i::PROCESSES], start, results)) for i in range(PROCESSES)
    ]
    for one in running:
        one.start()
    try:
        got = [results.get(timeout=JOIN_S) for _ in running]
    finally:
        for one in running:
            one.join(JOIN_S)
            if one.is_alive():
                one.kill()
                one.join()
    total: Tally[str] = Tally()
    for tally in got:
        assert isinstance(tally, Tally), tally
        total += tally
    return total


def race_threads(till: Till, names: list[str], threads: int = 8) -> Tally[str]:
    """The burst, dealt to threads that share one engine."""
    till.engine.start()
    results: list[Any] = []
    start = threading.Barrier(threads)

    def run(mine: list[str]) -> None:
        start.wait(JOIN_S)
        try:
            results.append(fire(till.engine, [route_of(name) for name in mine]))
        except Exception as error:
            results.append(repr(error))

    running = [threading.Thread(target=run, args=(names[i::threads],)) for i in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join(JOIN_S)
    assert till.engine.stop(JOIN_S)
    total: Tally[str] = Tally()
    for tally in results:
        assert isinstance(tally, Tally), tally
        total += tally
    return total


def assert_exact(till: Till, tally: Tally[str], admitted: int, reason: str) -> None:
    assert tally == {"dial": admitted, reason: CALLS - admitted}
    assert len(till.rows(Call)) == admitted
    assert len(till.rows(Cdr)) == CALLS - admitted
    assert all(c.used + c.in_flight <= 10**6 for c in till.rows(Counter))
    till.verify()


NAMES = [f"race-{i}" for i in range(CALLS)]
FULL = "cap_reached:campaign:billable:day"
HELD = "balance_held_by_other_calls"


@again
@pytest.mark.postgres
def test_a_burst_of_processes_takes_exactly_the_cap(opened: Opener, postgres_url: str, time_: int) -> None:
    till = Till(opened(postgres_url), capped())
    assert_exact(till, race_processes(postgres_url, NAMES), 100, FULL)


@again
@pytest.mark.postgres
def test_a_burst_of_processes_takes_exactly_the_balance(opened: Opener, postgres_url: str, time_: int) -> None:
    till = Till(opened(postgres_url), one_call())
    assert_exact(till, race_processes(postgres_url, NAMES), 1, HELD)
    assert till.account().available_micros == 199_999


@again
def test_a_burst_of_threads_takes_exactly_the_cap(opened: Opener, tmp_path: Path, time_: int) -> None:
    till = Till(opened(f"sqlite:///{tmp_path}/s.sqlite"), capped())
    assert_exact(till, race_threads(till, NAMES), 100, FULL)


@again
def test_a_burst_of_threads_takes_exactly_the_balance(opened: Opener, tmp_path: Path, time_: int) -> None:
    till = Till(opened(f"sqlite:///{tmp_path}/s.sqlite"), one_call())
    assert_exact(till, race_threads(till, NAMES), 1, HELD)


def test_a_burst_of_processes_on_one_file_takes_exactly_the_cap(opened: Opener, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.sqlite"
    till = Till(opened(url), capped())
    assert_exact(till, race_processes(url, NAMES), 100, FULL)


@pytest.mark.postgres
def test_one_channel_told_to_several_daemons_is_one_call(opened: Opener, postgres_url: str) -> None:
    """Each process asks for the same channels: every answer is the same call's, and one call is admitted of each."""
    till = Till(opened(postgres_url), capped())
    names = [f"same-{i // PROCESSES}" for i in range(40 * PROCESSES)]
    assert race_processes(postgres_url, names) == {"dial": len(names)}
    assert len(till.rows(Call)) == 40
    till.verify()


@pytest.mark.postgres
@pytest.mark.parametrize("settle_first", [True, False])
def test_a_route_and_its_settlement_in_two_daemons_leave_nothing_held(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str, settle_first: bool
) -> None:
    """Both transactions are open at once: the second waits for the first, and sees what it did."""
    store = opened(postgres_url)
    till = Till(store, small_estate())
    other = Engine(store, till.clock)
    first, second = (settle_of(), route_of()) if settle_first else (route_of(), settle_of())
    answers: dict[str, Any] = {}

    def run_second() -> None:
        answers["second"] = store.run(lambda tx: other.work([second], tx))[0]

    def waits() -> bool:
        return bool(postgres_server.admin("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    thread = threading.Thread(target=run_second)
    with store.transaction(write=True) as tx:
        answers["first"] = till.engine.work([first], tx)[0]
        thread.start()
        deadline = time.monotonic() + JOIN_S
        while thread.is_alive() and not waits():  # as far as it comes without the first's commit
            assert time.monotonic() < deadline
            thread.join(0.01)
    thread.join(JOIN_S)
    assert not thread.is_alive()
    assert till.rows(Call) == []
    assert till.account().held_micros == 0
    assert isinstance(answers["second"], RejectAnswer) is settle_first
    assert len(till.rows(Cdr)) == (0 if settle_first else 1)
    with store.transaction(write=False) as tx:
        assert len(tx.query("SELECT 1 FROM tombstone")) == int(settle_first)
    till.verify()


@pytest.mark.postgres
def test_everything_at_once_keeps_every_promise(opened: Opener, postgres_url: str) -> None:
    """Admissions, failovers, answers, extensions and doubled settlements by two engines, while an operator lowers and
    raises a cap and adds and withdraws money."""
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=4 * DOLLAR)
    builder.target("buyer2")
    builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 12)
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.CONNECTED, 60, WindowKind.DAY)
    store = opened(postgres_url)
    till = Till(store, builder)
    engines = [Engine(store, till.clock) for _ in range(2)]
    failures: list[BaseException] = []

    def daemon(number: int) -> None:
        engine = engines[number]
        for i in range(60):
            name = f"u{i}" if i % 3 else f"u{number}-{i}"  # some channels are told to both
            try:
                for command in (route_of(name), attempt_of(name), answer_of(name), extend_of(name)):
                    assert not isinstance(answer := engine.ask(command, JOIN_S), Exception), answer
                for _ in range(2):
                    engine.ask(settle_of(name, talk_ms=5_000 if i % 2 else None), JOIN_S)
            except BaseException as error:
                failures.append(error)

    def operator() -> None:
        for i in range(20):
            try:
                set_caps(
                    till.office(), CapScope.CAMPAIGN, "solar", [Limit(CapMetric.CONCURRENT, WindowKind.NONE, i % 4)]
                )
                adjust(till.office(), "acme", (1 if i % 2 else -1) * 100_000, reason="back and forth")
            except Refused:
                continue
            except BaseException as error:
                failures.append(error)

    for engine in engines:
        engine.start()
    threads = [threading.Thread(target=daemon, args=(n,)) for n in range(2)] + [threading.Thread(target=operator)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_S)
    for engine in engines:
        assert engine.stop(JOIN_S)
    assert failures == []
    assert till.rows(Call) == []
    assert till.account().held_micros == 0
    assert all(c.in_flight == 0 and c.used <= 60 for c in till.rows(Counter))
    till.verify()
