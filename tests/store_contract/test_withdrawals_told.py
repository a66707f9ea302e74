"""What an operator is told who takes back more than there is."""

from __future__ import annotations

import pytest

from capconduit.errors import Refused
from capconduit.services.balances import adjust
from tests.unit.estate_builder import DOLLAR, Till, route_of


def test_who_takes_back_too_much_is_told_of_calls_only_where_there_are_any(shop: Till) -> None:
    with pytest.raises(Refused) as idle:
        adjust(shop.office(), "acme", -101 * DOLLAR, reason="refund")
    assert "calls" not in idle.value.hint
    assert "seller set acme --credit-limit" in idle.value.hint
    shop.dial(route_of())
    with pytest.raises(Refused) as busy:
        adjust(shop.office(), "acme", -100 * DOLLAR, reason="refund")
    assert "live calls hold the rest" in busy.value.hint
