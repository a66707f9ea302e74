"""What a server has as its default changes nothing: decisions see what was committed before, and are durable."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, RejectAnswer
from capconduit.services.engine import Engine
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.store_contract.capped import HOUR_MS
from tests.store_contract.conftest import Opener, PostgresServer
from tests.store_contract.waiting import until_done_or_waiting
from tests.unit.estate_builder import TENANT, FakeClock, Till, route_of, small_estate

pytestmark = pytest.mark.postgres
BUCKET_MS = HOUR_MS // 60
JOIN_S = 60
OTHER_DID = "+18005550101"


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("hurry", [False, True])
def test_a_default_of_the_database_lets_no_call_in_beyond_a_cap(
    postgres_server: PostgresServer, opened: Opener, level: str, hurry: bool
) -> None:
    """Two daemons whose clocks lie in two buckets of one window, and who share nothing else."""
    name = postgres_server.empty_database()
    postgres_server.admin(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    builder = small_estate()
    builder.seller("beta")
    builder.campaign("wind", seller="beta")
    builder.did(OTHER_DID, campaign="wind")
    builder.target("buyer2", campaign="wind")
    builder.cap(CapScope.SYSTEM, TENANT, CapMetric.ATTEMPTS, 2, WindowKind.ROLLING, HOUR_MS)
    till = Till(opened(postgres_server.url(name)), builder)
    till.dial(route_of("first"))
    later = Engine(till.store, FakeClock(till.clock.wall_ms + BUCKET_MS, seed=9))
    answers: list[Any] = []

    def decide() -> None:
        work = [route_of("third", dnid=OTHER_DID)]
        answers.extend(till.store.run(lambda tx: later.work(work, tx), hurry=hurry))

    beside = threading.Thread(target=decide)
    with till.store.transaction(write=True) as tx:
        (second,) = till.engine.work([route_of("second")], tx)
        beside.start()
        until_done_or_waiting(beside, postgres_server)
    beside.join(JOIN_S)
    assert isinstance(second, DialAnswer)
    assert isinstance(answers[0], RejectAnswer)


@pytest.mark.parametrize(("default", "ours"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")])
def test_what_is_committed_is_on_the_disk_whatever_the_default(
    postgres_server: PostgresServer, opened: Opener, default: str, ours: str
) -> None:
    name = postgres_server.empty_database()
    postgres_server.admin(f"ALTER DATABASE {name} SET synchronous_commit = {default}")
    store = opened(postgres_server.url(name))
    for hurry in (False, True):
        with store.transaction(write=True, hurry=hurry) as tx:
            assert tx.query("SHOW synchronous_commit") == [(ours,)]
