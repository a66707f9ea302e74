"""Rows that are written together are all there, in whatever packs the engine writes them."""

from __future__ import annotations

import pytest

from capconduit.domain.model import Event, Tenant
from capconduit.store.sqlite import ROWS_AT_ONCE
from capconduit.vocab import EventKind
from tests.unit.estate_builder import Till


@pytest.mark.parametrize("count", [1, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 2 * ROWS_AT_ONCE + 3])
def test_every_row_of_many_is_kept_as_it_is(shop: Till, count: int) -> None:
    with shop.store.transaction(write=True) as tx:
        (tenant,) = tx.tenants()
        assert isinstance(tenant, Tenant)
        made = [
            Event(
                id=shop.clock.new_id(),
                tenant_id=tenant.id,
                at_ms=shop.clock.now_ms() + place,
                kind=EventKind.BALANCE_LOW,
                subject=f"s{place}",
                data=f'{{"place":{place}}}',
            )
            for place in range(count)
        ]
        tx.insert_all(made)
    with shop.store.transaction(write=False) as tx:
        kept = tx.rows(Event, tenant.id, kind=EventKind.BALANCE_LOW)
    assert sorted(kept, key=lambda event: event.at_ms) == made
