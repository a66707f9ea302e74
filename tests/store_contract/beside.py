"""Two daemons whose transactions are open at once, on PostgreSQL: the second goes as far as the locks let it."""

from __future__ import annotations

import threading
import time
from typing import Any

from capconduit.domain.needs import Command
from capconduit.services.engine import Engine
from tests.store_contract.conftest import PostgresServer
from tests.unit.estate_builder import Till

JOIN_S = 60


def beside(till: Till, server: PostgresServer, first: Command, second: Command, *, wait_ms: int = 0) -> tuple[Any, Any]:
    """The answers of both. The first decides, then the second begins and waits (or is done); `wait_ms` later, by the
    clock of the test, the first commits."""
    other, answers = Engine(till.store, till.clock), []

    def decide() -> None:
        answers.append(till.store.run(lambda tx: other.work([second], tx))[0])

    thread = threading.Thread(target=decide)
    with till.store.transaction(write=True) as tx:
        mine = till.engine.work([first], tx)[0]
        thread.start()
        deadline = time.monotonic() + JOIN_S
        while thread.is_alive() and not _someone_waits(server):
            assert time.monotonic() < deadline
            thread.join(0.01)
        till.clock.pass_ms(wait_ms)
    thread.join(JOIN_S)
    assert not thread.is_alive()
    return mine, answers[0]


def _someone_waits(server: PostgresServer) -> bool:
    return bool(server.admin("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
