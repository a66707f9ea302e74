"""One process of a race: an engine of its own on the shared database, and a share of the burst."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

from capconduit.clock import SystemClock
from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.domain.needs import Command
from capconduit.services.engine import Engine
from capconduit.store.open import open_store
from tests.unit.estate_builder import route_of

WAIT_S = 60
IN_FLIGHT = 64  # commands of one process that wait for their answer


def told(answer: Any, error: Exception | None) -> str:
    """An answer as one word: `dial`, the reason of a reject, or the error."""
    if error is not None:
        return f"error: {error}"
    if isinstance(answer, DialAnswer):
        return "dial"
    return answer.reason if isinstance(answer, RejectAnswer) else type(answer).__name__


def fire(engine: Engine, commands: Sequence[Command]) -> Tally[str]:
    """Submit all commands, at most IN_FLIGHT at once; what was answered, counted."""
    tally: Tally[str] = Tally()
    window, over = threading.Semaphore(IN_FLIGHT), threading.Semaphore(0)

    def done(answer: Any, error: Exception | None) -> None:
        tally[told(answer, error)] += 1
        window.release()
        over.release()

    for command in commands:
        if not window.acquire(timeout=WAIT_S):
            raise TimeoutError(f"no answer: {tally}")
        engine.submit(command, done)
    for _ in commands:
        if not over.acquire(timeout=WAIT_S):
            raise TimeoutError(f"no answer: {tally}")
    return tally


def process(url: str, names: Sequence[str], start: Barrier, results: Queue[Any]) -> None:
    """What each process of a race runs: connect, wait for the others, fire, report."""
    store = open_store(url)
    engine = Engine(store, SystemClock())
    try:
        engine.start()
        start.wait(WAIT_S)
        results.put(fire(engine, [route_of(name) for name in names]))
    except Exception as error:
        results.put(repr(error))
    finally:
        engine.stop(WAIT_S)
        store.close()
