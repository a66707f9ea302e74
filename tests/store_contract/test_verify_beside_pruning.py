"""`cap verify --fix` while a daemon prunes, on PostgreSQL: what was right stays as it is."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from capconduit.domain.books import CounterKey
from capconduit.services.caps import verify_caps
from capconduit.services.growth import prune
from capconduit.store.sqlstore import SqlStore
from capconduit.store.sqltransaction import SqlTransaction
from capconduit.vocab import CapMetric, CapScope, WindowKind
from tests.store_contract.capped import DAY_MS, capped
from tests.store_contract.conftest import PostgresServer
from tests.store_contract.waiting import until_done_or_waiting
from tests.unit.estate_builder import Till, route_of, settle_of

pytestmark = pytest.mark.postgres
JOIN_S = 60


@pytest.mark.parametrize("store", [pytest.param("postgres")], indirect=True)
def test_places_that_are_pruned_meanwhile_are_counted_once(
    store: SqlStore, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.CONNECTED, 10, WindowKind.TOTAL)
    till = Till(store, builder)
    till.dial(route_of())
    till.ask(settle_of(talk_ms=60_000))
    till.clock.pass_ms(40 * DAY_MS)
    pruning = threading.Thread(target=lambda: list(prune(store, till.clock)))
    sums = SqlTransaction.place_sums

    def summed(tx: SqlTransaction, tenant_id: str) -> Mapping[CounterKey, tuple[int, int]]:
        found = sums(tx, tenant_id)
        pruning.start()
        until_done_or_waiting(pruning, postgres_server)
        return found

    monkeypatch.setattr(SqlTransaction, "place_sums", summed)
    assert verify_caps(till.office(), fix=True) == []
    pruning.join(JOIN_S)
    monkeypatch.undo()
    assert till.count(builder.caps[0]) == (1, 0)
    assert verify_caps(till.office()) == []
