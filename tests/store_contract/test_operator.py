"""What operators change, on both engines: schedules, blocks, rates of targets, corrections, keys, targets that rest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from capconduit.domain.model import Cdr, Event, LedgerEntry, LedgerKey, TargetState
from capconduit.errors import Refused
from capconduit.services import balances, blocks, calls, campaigns, caps, rates, schedules, targets
from capconduit.services.blocks import Entry, Where
from capconduit.services.find import find
from capconduit.vocab import CapScope, EventKind, LedgerKind, RejectCode
from tests.store_contract.settled import Calls, put
from tests.unit.estate_builder import T0, EstateBuilder, Till, answer_of, route_of, settle_of, small_estate

Shop = Callable[[EstateBuilder], Till]


def test_a_key_is_unique_and_a_correction_names_its_entry(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    first = balances.post_adjustment(office, "acme", 5_000_000, reason="wire", key="w1")
    again = balances.post_adjustment(office, "acme", 5_000_000, reason="wire", key="w1")
    assert (first.fresh, again.fresh, again.entry) == (True, False, first.entry)
    with pytest.raises(Refused):
        balances.post_adjustment(office, "acme", 6_000_000, reason="wire", key="w1")
    correction = balances.correct(office, first.entry.id, -1_000_000, reason="4", key="c1")
    assert correction.sum_micros == -1_000_000
    assert not balances.correct(office, first.entry.id, -1_000_000, reason="4", key="c1").posted.fresh
    with pytest.raises(Refused):
        balances.correct(office, correction.posted.entry.id, 1, reason="x")
    assert len(till.rows(LedgerKey)) == 2
    assert [e.corrects_id for e in till.rows(LedgerEntry) if e.kind is LedgerKind.CORRECTION] == [first.entry.id]
    assert balances.view_ledger(office, "acme").corrections == {first.entry.id: -1_000_000}
    assert balances.check_balances(office, below_micros=10**15)
    till.verify()


def test_schedules_and_blocks_are_in_force_with_the_next_decision(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    campaign = campaigns.list_campaigns(office)[0].campaign.name
    schedules.add_schedule(office, "never", hours="never")
    campaigns.set_campaign(office, campaign, schedule="never")
    assert till.reject(route_of("a")).code is RejectCode.CAMPAIGN_CLOSED
    with pytest.raises(Refused):
        schedules.remove_schedule(office, "never")
    campaigns.set_campaign(office, campaign, schedule="")
    schedules.remove_schedule(office, "never")
    assert blocks.add_blocks(office, [Entry(1, "+1*"), Entry(2, "+1*"), Entry(3, "+44*")], Where()) == (2, 1)
    assert till.reject(route_of("b")).code is RejectCode.CALLER_BLOCKED
    blocks.remove_block(office, "+1*", Where())
    till.dial(route_of("c"))
    till.verify()


def test_a_rest_and_its_end_are_in_force_at_once(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    names = [view.target.name for view in targets.list_targets(office)]
    for name in names:
        targets.rest_target(office, name)
    assert till.reject(route_of("a")).code is RejectCode.TARGETS_ALL_CLOSED
    for name in names:
        assert targets.revive_target(office, name)[1]
        assert not targets.revive_target(office, name)[1]
    till.dial(route_of("b"))
    kinds = [e.kind for e in till.rows(Event)]
    assert kinds.count(EventKind.TARGET_RESTED) == kinds.count(EventKind.TARGET_REVIVED) == len(names)
    assert sum(s.active for s in till.rows(TargetState)) == 1
    assert list(caps.verify_caps(office)) == []
    till.ask(settle_of("b"))
    assert list(caps.verify_caps(office, fix=True)) == []
    till.verify()


def test_a_new_target_with_prices_of_its_own_is_dialled(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    office = till.office()
    campaign = campaigns.list_campaigns(office)[0].campaign.name
    rates.add_rate(office, "two", per_minute_micros=300_000, then_per_minute_micros=100_000, then_after_ms=60_000)
    rates.add_rate(office, "pay", per_minute_micros=60_000, increment="1/1")
    targets.add_target(office, "fresh", kind=targets.TargetKind.PJSIP, address="sip:f@127.0.0.1", payout="pay")
    targets.add_rule(office, campaign, "fresh", priority=0, rate="two")
    assert till.dial(route_of("a")).target == "fresh"
    till.ask(answer_of("a"))
    till.ask(settle_of("a", talk_ms=60_000))
    cdr = next(c for c in till.rows(Cdr) if c.uniqueid == "a")
    assert (cdr.amount_micros, cdr.payout_micros, cdr.then_after_s) == (300_000, 60_000, 60)
    caps.set_caps(office, CapScope.TARGET, "fresh", [caps.parse_limit(caps.CapMetric.SPEND, "1/day")])
    assert caps.cap_usage(office, CapScope.TARGET, "fresh")[0].used == 300_000
    targets.remove_rule(office, campaign, "fresh")
    targets.remove_target(office, "fresh")
    till.verify()


def test_a_call_older_than_the_newest_is_found_however_its_id_is_written(shop: Till) -> None:
    made = Calls(21)
    old, _ = made.call(T0 - 86_400_000, uniqueid="PBX1-1795262400.5")
    made.many(calls.RECENT_CALLS, T0, T0 + 60_000)
    put(shop.store, made.made)
    office = shop.office()
    for text in (old.call_id.lower(), f" {old.call_id} ", old.uniqueid):
        told = calls.tell(office, text).cdr
        assert told is not None
        assert told.call_id == old.call_id
        assert [hit.name for hit in find(office, text).hits] == [old.call_id]
