"""The cascade of checks: which comes first, what each tells, and that a decision takes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain.books import Books
from capconduit.domain.model import Account, Counter, Tenant
from capconduit.domain.routing import Decision, route
from capconduit.domain.windows import window_start_ms
from capconduit.vocab import (
    CampaignStatus,
    CapMetric,
    CapScope,
    DidStatus,
    RejectCode,
    Status,
    Strategy,
    WindowKind,
)
from tests.unit.estate_builder import DOLLAR, T0, TENANT, EstateBuilder, route_of, small_estate

DAY = WindowKind.DAY


def decide(builder: EstateBuilder, now_ms: int = T0, **request: Any) -> Decision:
    books = Books(accounts={a.seller_id: a for a in builder.accounts})
    decision = route(route_of(**request), builder.estate(), books, now_ms, "seed")
    assert [books.dirty_accounts, books.dirty_counters, books.places, books.new_events] == [set(), set(), {}, []]
    return decision


def reject_of(builder: EstateBuilder, **request: Any) -> str:
    decision = decide(builder, **request)
    assert decision.reject is not None, decision.checks
    assert not decision.candidates
    return decision.reason


def test_a_call_that_meets_no_obstacle_goes_to_its_target() -> None:
    decision = decide(small_estate())
    assert decision.reject is None
    assert [c.target.name for c in decision.candidates] == ["buyer1"]
    assert [c.name for c in decision.checks] == [
        "did", "did.status", "did.campaign", "seller", "balance", "campaign", "strategy", "hold",
    ]  # fmt: skip
    assert all(c.ok for c in decision.checks)


# --- the DID ---------------------------------------------------------------------------------------------------------


def test_an_unknown_number_is_told_so() -> None:
    assert reject_of(small_estate(), dnid="+18005559999") == "did_unknown"
    assert reject_of(small_estate(), dnid="") == "did_unknown"
    assert reject_of(small_estate(), dnid="not a number") == "did_unknown"


def test_a_did_without_a_campaign_is_unassigned() -> None:
    builder = EstateBuilder()
    builder.did(campaign=None)
    assert reject_of(builder) == "did_unassigned"


def test_a_suspended_did_is_suspended_before_it_is_unassigned() -> None:
    builder = EstateBuilder()
    builder.did(campaign=None, status=DidStatus.SUSPENDED)
    assert reject_of(builder) == "did_suspended"


def test_the_number_is_found_in_every_notation_of_the_trunk_s_region() -> None:
    builder = small_estate()
    builder.trunk("british", region="GB")
    builder.did("+442071838750")
    for dnid, trunk in [("02071838750", "british"), ("442071838750", "british"), ("+442071838750", "nobody")]:
        decision = decide(builder, dnid=dnid, trunk=trunk)
        assert decision.did_number == "+442071838750", (dnid, trunk)
        assert decision.reject is None
    assert reject_of(builder, dnid="02071838750", trunk="nobody") == "did_unknown"


def test_a_call_that_names_no_trunk_counts_for_the_did_s_own() -> None:
    builder = small_estate()
    builder.trunk("other")
    assert decide(builder, trunk="").trunk == builder.trunks[0]
    assert decide(builder, trunk="other").trunk == builder.trunks[1]


# --- the caller ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ani", ["", "anonymous", "Restricted"])
def test_anonymous_callers_are_taken_or_refused_by_the_setting(ani: str) -> None:
    builder = small_estate()
    assert decide(builder, ani=ani).reject is None
    builder.setting("anonymous_callers", "reject")
    assert reject_of(builder, ani=ani) == "caller_anonymous"


@pytest.mark.parametrize("ani", ["1001", "bob", "5550100"])
def test_callers_with_no_number_that_is_one_are_taken_or_refused_by_the_setting(ani: str) -> None:
    builder = small_estate()
    assert decide(builder, ani=ani).reject is None
    assert decide(builder, ani=ani).caller_e164 == ""
    builder.setting("invalid_callers", "reject")
    builder.setting("anonymous_callers", "allow")
    assert reject_of(builder, ani=ani) == "caller_invalid"


# --- the order of the cascade ----------------------------------------------------------------------------------------

CASCADE = [
    ("did_suspended", lambda b: _change(b.dids, status=DidStatus.SUSPENDED)),
    ("caller_anonymous", lambda b: b.setting("anonymous_callers", "reject")),
    ("seller_suspended", lambda b: _change(b.sellers, status=Status.SUSPENDED)),
    ("balance_exhausted", lambda b: _change(b.accounts, balance_micros=0)),
    ("cap_reached:system:attempts:day", lambda b: b.cap(CapScope.SYSTEM, TENANT, CapMetric.ATTEMPTS, 0, DAY)),
    ("cap_reached:seller:concurrent", lambda b: b.cap(CapScope.SELLER, "acme", CapMetric.CONCURRENT, 0)),
    ("cap_reached:did:billable:day", lambda b: b.cap(CapScope.DID, "did+18005550100", CapMetric.BILLABLE, 0, DAY)),
    ("cap_reached:trunk:connected:day", lambda b: b.cap(CapScope.TRUNK, "carrier", CapMetric.CONNECTED, 0, DAY)),
    ("campaign_paused", lambda b: _change(b.campaigns, status=CampaignStatus.PAUSED)),
    (
        "cap_reached:campaign:billable:month",
        lambda b: b.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 0, WindowKind.MONTH),
    ),
    ("no_target", lambda b: _change(b.targets, enabled=False)),
]


def _change(rows: list[Any], **fields: Any) -> None:
    rows[0] = replace(rows[0], **fields)


@pytest.mark.parametrize("first", range(len(CASCADE)))
def test_the_first_obstacle_of_the_cascade_is_the_reason(first: int) -> None:
    """Everything from `first` on fails; the reason is the first, whatever follows."""
    builder = small_estate()
    for _, spoil in CASCADE[first:]:
        spoil(builder)
    decision = decide(builder, ani="anonymous")
    assert decision.reason == CASCADE[first][0]
    assert decision.reject is RejectCode(CASCADE[first][0].split(":")[0])
    assert not decision.checks[-1].ok


# --- money -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("balance", "credit", "held", "reason"),
    [
        (0, 0, 0, "balance_exhausted"),
        (-1, 0, 0, "balance_exhausted"),
        (-DOLLAR, DOLLAR, 0, "balance_exhausted"),
        (199_999, 0, 0, "balance_below_first_increment"),
        (1, 0, 1, "balance_below_first_increment"),
        (200_000, 0, 1, "balance_held_by_other_calls"),
        (DOLLAR, 0, DOLLAR, "balance_held_by_other_calls"),
        (0, 200_000, 200_000, "balance_held_by_other_calls"),
    ],
)
def test_want_of_money_has_three_reasons(balance: int, credit: int, held: int, reason: str) -> None:
    builder = small_estate()
    builder.accounts[0] = Account(
        seller_id="acme", tenant_id=TENANT, balance_micros=balance, held_micros=held, credit_limit_micros=credit
    )
    assert reject_of(builder) == reason


@pytest.mark.parametrize(
    ("balance", "credit", "held"), [(200_000, 0, 0), (0, 200_000, 0), (-DOLLAR, 2 * DOLLAR, 800_000)]
)
def test_money_for_exactly_the_first_increment_is_enough(balance: int, credit: int, held: int) -> None:
    builder = small_estate()
    builder.accounts[0] = Account(
        seller_id="acme", tenant_id=TENANT, balance_micros=balance, held_micros=held, credit_limit_micros=credit
    )
    decision = decide(builder)
    assert decision.funding is not None
    assert (decision.funding.hold_micros, decision.funding.funded_s) == (200_000, 60)


# --- caps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "in_flight", "rings"),
    [(99, 0, True), (98, 1, True), (99, 1, False), (100, 0, False), (0, 100, False), (150, 3, False)],
)
def test_calls_in_flight_count_beside_those_that_ended(used: int, in_flight: int, rings: bool) -> None:
    builder = small_estate()
    cap = builder.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, 100, DAY)
    start = window_start_ms(DAY, T0, "America/New_York")
    books = Books(accounts={a.seller_id: a for a in builder.accounts})
    books.counters[(cap.id, start)] = Counter(
        tenant_id=TENANT, cap_id=cap.id, window_start_ms=start, used=used, in_flight=in_flight, base=0
    )
    decision = route(route_of(), builder.estate(), books, T0, "seed")
    assert (decision.reject is None) is rings
    check = next(c for c in decision.checks if c.name == "cap.campaign")
    assert check.detail == {
        "subject": "solar", "metric": "billable", "window": "day", "used": used, "in_flight": in_flight, "limit": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scope", "zone"),
    [
        (CapScope.SELLER, "America/New_York"),
        (CapScope.CAMPAIGN, "America/New_York"),
        (CapScope.DID, "America/New_York"),
        (CapScope.RULE, "America/New_York"),
        (CapScope.SYSTEM, "Asia/Tokyo"),
        (CapScope.TRUNK, "Asia/Tokyo"),
        (CapScope.TARGET, "Asia/Tokyo"),
    ],
)
def test_windows_follow_the_zone_of_what_is_limited(scope: CapScope, zone: str) -> None:
    builder = small_estate()
    builder.setting("timezone", "Asia/Tokyo")
    ids = {
        CapScope.SYSTEM: TENANT,
        CapScope.SELLER: "acme",
        CapScope.CAMPAIGN: "solar",
        CapScope.DID: "did+18005550100",
        CapScope.TRUNK: "carrier",
        CapScope.TARGET: "buyer1",
        CapScope.RULE: "solar/buyer1",
    }
    cap = builder.cap(scope, ids[scope], CapMetric.BILLABLE, 100, DAY)
    assert builder.estate().caps[cap.id].zone == zone


def test_targets_that_are_full_are_skipped_and_told_when_none_is_left() -> None:
    builder = small_estate()
    builder.target("buyer2")
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.CONCURRENT, 0)
    assert [c.target.name for c in decide(builder).candidates] == ["buyer2"]
    builder.cap(CapScope.RULE, "solar/buyer2", CapMetric.CONCURRENT, 0)
    assert reject_of(builder) == "targets_all_capped"


def test_a_campaign_without_an_enabled_target_has_none() -> None:
    builder = small_estate()
    builder.rules[0] = replace(builder.rules[0], enabled=False)
    assert reject_of(builder) == "no_target"
    builder.rules.clear()
    assert reject_of(builder) == "no_target"


def test_another_campaign_s_targets_are_not_offered() -> None:
    builder = small_estate()
    builder.campaign("roof")
    builder.target("roofer", campaign="roof")
    assert [c.target.name for c in decide(builder).candidates] == ["buyer1"]


# --- two tenants -----------------------------------------------------------------------------------------------------


def test_a_trunk_of_the_same_name_is_the_one_of_the_did_s_tenant() -> None:
    """Names are unique within a tenant only: the other tenant's trunk, with its caps, is not this call's."""
    builder = small_estate()
    builder.tenants.append(Tenant(id="other", name="other", created_ms=T0 + 1, updated_ms=T0 + 1))
    mine = builder.trunks[0]
    builder.trunks.append(replace(mine, id="theirs", tenant_id="other"))
    for trunks in (builder.trunks, builder.trunks[::-1]):
        builder.trunks = list(trunks)
        assert decide(builder, trunk="carrier").trunk == mine


# --- properties ------------------------------------------------------------------------------------------------------

TARGETS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2), st.integers(0, 3)),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(TARGETS, st.sampled_from(Strategy), st.text(max_size=6))
def test_a_closed_target_is_never_offered(targets: list[Any], strategy: Strategy, seed: str) -> None:
    builder = EstateBuilder()
    builder.seller()
    builder.rate()
    builder.campaign(strategy=strategy)
    builder.did()
    books = Books(accounts={a.seller_id: a for a in builder.accounts})
    open_ones = set()
    for i, (target_on, rule_on, used, in_flight, priority, limit) in enumerate(targets):
        builder.target(f"t{i}", enabled=target_on, rule={"enabled": rule_on, "priority": priority})
        cap = builder.cap(CapScope.TARGET, f"t{i}", CapMetric.CONNECTED, limit, WindowKind.TOTAL)
        books.counters[(cap.id, 0)] = Counter(
            tenant_id=TENANT, cap_id=cap.id, window_start_ms=0, used=used, in_flight=in_flight, base=0
        )
        if target_on and rule_on and used + in_flight < limit:
            open_ones.add(f"t{i}")
    estate = builder.estate()
    decision = route(route_of(), estate, books, T0, seed)
    assert {c.target.name for c in decision.candidates} == open_ones
    assert (decision.reject is None) is bool(open_ones)
    again = route(route_of(), estate, books, T0, seed)
    assert [c.target.name for c in again.candidates] == [c.target.name for c in decision.candidates]
    assert again.checks == decision.checks
