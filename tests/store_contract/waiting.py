"""Waiting, in a test of two transactions on PostgreSQL, until the other one is done or waits for ours."""

from __future__ import annotations

import threading
import time

from tests.store_contract.conftest import PostgresServer

DEADLINE_S = 30


def until_done_or_waiting(thread: threading.Thread, server: PostgresServer) -> None:
    """Returns when `thread` has ended, or somebody waits for a lock."""
    deadline = time.monotonic() + DEADLINE_S
    while thread.is_alive() and not server.admin("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        assert time.monotonic() < deadline
        thread.join(0.01)
