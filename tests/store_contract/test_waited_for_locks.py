"""What a decision counts in a bucket that another daemon began while it waited for its locks, on PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from capconduit.domain.books import Books
from capconduit.domain.calls import DialAnswer
from capconduit.domain.needs import Command
from capconduit.services.engine import Engine
from capconduit.store.sqlstore import SqlStore
from capconduit.units import Millis
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.store_contract.capped import HOUR_MS
from tests.store_contract.conftest import PostgresServer
from tests.store_contract.waiting import until_done_or_waiting
from tests.unit.estate_builder import EstateBuilder, FakeClock, Till, answer_of, route_of, settle_of, small_estate

pytestmark = pytest.mark.postgres
BUCKET_MS = HOUR_MS // 60
JOIN_S = 60


class _WaitingClock(FakeClock):
    """A clock that stands still until the locks were waited for."""

    def __init__(self, instants: Iterator[int], now_ms: int) -> None:
        super().__init__(now_ms, seed=7)
        self._instants = instants

    def now_ms(self) -> Millis:
        self.wall_ms = next(self._instants, self.wall_ms)
        return Millis(self.wall_ms)


def _two_sellers() -> EstateBuilder:
    """They share nothing but the trunk, which takes 50 connected calls in any hour."""
    builder = small_estate()
    builder.seller("beta")
    builder.campaign("wind", seller="beta")
    builder.did("+18005550101", campaign="wind", trunk="carrier")
    builder.target("buyer2", campaign="wind")
    builder.cap(CapScope.TRUNK, "carrier", CapMetric.CONNECTED, 50, WindowKind.ROLLING, HOUR_MS)
    return builder


@pytest.mark.parametrize("store", [pytest.param("postgres")], indirect=True)
def test_an_end_is_not_forgotten_by_who_waited_into_the_bucket_of_the_call(
    postgres_server: PostgresServer, store: SqlStore
) -> None:
    builder = _two_sellers()
    till, cap = Till(store, builder), builder.caps[0]
    next_ms = (builder.now_ms // BUCKET_MS + 1) * BUCKET_MS
    till.clock.wall_ms = next_ms + 20
    till.dial(route_of("of-beta", dnid="+18005550101"))
    till.ask(answer_of("of-beta", answered_ms=next_ms + 20))
    # Another daemon began a little before the new bucket and had its locks a little after.
    late = Engine(store, _WaitingClock(iter([next_ms - 100, next_ms - 100, next_ms + 30]), next_ms - 100))
    till.clock.wall_ms = next_ms + 30

    ended = threading.Thread(target=lambda: till.ask(settle_of("of-beta", talk_ms=5)))
    with store.transaction(write=True) as tx:
        write = tx.write

        def write_after_the_end(books: Books) -> None:
            ended.start()
            until_done_or_waiting(ended, postgres_server)
            write(books)

        tx.write = write_after_the_end  # type: ignore[method-assign]
        commands: list[Command] = [route_of("of-acme")]
        (answer,) = late.work(commands, tx)
    ended.join(JOIN_S)
    assert isinstance(answer, DialAnswer)
    assert till.count(cap) == (1, 1)
    till.verify()
