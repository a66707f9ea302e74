"""Idempotence of everything through both databases: what is told twice, too early, or of what is gone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import RejectAnswer
from capconduit.domain.model import Account, Call, Cdr, Event, Place
from capconduit.errors import DatabaseError
from capconduit.services.balances import adjust
from capconduit.vocab import (
    CapMetric,
    CapScope,
    DialStatus,
    EventKind,
    PlaceState,
    RejectCode,
)
from tests.store_contract.capped import Shop, capped
from tests.unit.estate_builder import (
    CALLER,
    DOLLAR,
    Till,
    route_of,
    settle_of,
    small_estate,
)


def test_a_second_settlement_in_another_transaction_changes_nothing(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.BILLABLE, 10)
    till, cap = open_shop(builder), builder.caps[0]
    till.dial(route_of())
    assert till.ask(settle_of(talk_ms=30_000)).first
    account, cdr = till.account(), till.rows(Cdr)
    again = till.ask(settle_of(talk_ms=600_000))
    assert (again.first, again.disagreement) == (False, "talk_ms=600000 against 30000")
    assert (till.account(), till.rows(Cdr), till.count(cap)) == (account, cdr, (1, 0))
    told = [json.loads(e.data) for e in till.rows(Event) if e.kind is EventKind.SETTLEMENT_DISAGREED]
    assert [t["difference"] for t in told] == ["talk_ms=600000 against 30000"]


def test_a_settlement_before_its_route_leaves_a_tombstone_and_the_route_takes_nothing(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 10)
    till, cap = open_shop(builder), builder.caps[0]
    assert till.ask(settle_of()).first
    assert not till.ask(settle_of()).first
    assert isinstance(till.ask(route_of()), RejectAnswer)
    assert isinstance(till.ask(route_of()), RejectAnswer)
    assert till.count(cap) == (0, 0)
    assert till.rows(Call) == []
    assert till.account() == replace(till.account(), held_micros=0, balance_micros=100 * DOLLAR)


def test_the_same_channel_of_another_node_is_another_call(shop: Till) -> None:
    shop.dial(route_of())
    shop.ask(settle_of(node="node-2"))
    assert shop.dial(route_of(node="node-3")).attempt == 1
    assert len(shop.rows(Call)) == 2


def test_what_is_thrown_in_the_middle_leaves_everything_as_it_was(open_shop: Shop) -> None:
    builder = capped(CapScope.CAMPAIGN, CapMetric.ATTEMPTS, 10)
    till, cap = open_shop(builder), builder.caps[0]
    till.dial(route_of("a"))

    def broken(tx: Any) -> None:
        till.engine.work([settle_of("a", talk_ms=5_000), route_of("b")], tx)
        raise DatabaseError("database-failed", "the plug was pulled")

    with pytest.raises(DatabaseError):
        till.store.run(broken)
    assert till.count(cap) == (0, 1)
    assert till.ask(settle_of("a", talk_ms=5_000)).first
    till.verify()


def test_money_and_places_of_a_call_outlive_the_removal_of_everything_it_used(open_shop: Shop) -> None:
    builder = capped(CapScope.TARGET, CapMetric.ATTEMPTS, 10)
    till = open_shop(builder)
    till.dial(route_of())
    with till.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        for row in (
            *builder.dids,
            *builder.rules,
            *builder.caps,
            *builder.targets,
            *builder.campaigns,
            *builder.trunks,
        ):
            tx.delete(row)
        tx.bump_estate()
    assert till.ask(settle_of(talk_ms=5_000)).first
    assert till.account().held_micros == 0
    assert all(p.state is PlaceState.RELEASED for p in till.rows(Place))
    till.verify()


def test_adjustments_between_admissions_are_seen_by_the_next(open_shop: Shop) -> None:
    builder = small_estate()
    builder.accounts[0] = replace(builder.accounts[0], balance_micros=200_000)
    till = open_shop(builder)
    till.dial(route_of("a"))
    assert till.reject(route_of("b")).code is RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    adjust(till.office(), "acme", 200_000, reason="wire")
    till.dial(route_of("c"))
    assert till.rows(Account)[0].available_micros == 0
    till.verify()


def test_the_caller_s_number_is_kept_in_both_forms(shop: Till) -> None:
    shop.dial(route_of(ani="2125550147"))
    shop.ask(settle_of(dialstatus=DialStatus.NOANSWER))
    cdr = shop.rows(Cdr)[0]
    assert (cdr.caller, cdr.caller_e164) == ("2125550147", CALLER)
