"""Estates to measure on: one hot campaign, many campaigns, or any size, made by the services.

The first of each noun is made by its service; the many are copies of that row with a name of their own, inserted in one
transaction, so that making 100,000 numbers takes seconds and a column that is new is right in all of them.

DID i belongs to campaign i % campaigns, which belongs to seller i % sellers and has `targets` targets of its own. Six
caps are on the way of every call: calls at once and billable calls a day, on seller, campaign and target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.model import Campaign, Cap, Did, Rule, Seller, Target
from capconduit.services import balances, campaigns, caps, dids, rates, sellers, targets, trunks
from capconduit.services.office import Desk, Office
from capconduit.vocab import CapMetric, CapScope, TargetKind, TrunkKind, WindowKind

FIRST_NUMBER: Final = 2_000_000
MAX_DIDS: Final = 1_000_000
PLENTY_MICROS: Final = 10**15 // 2
PLENTY_CALLS: Final = 1_000_000_000
TRUNK: Final = "carrier"


@dataclass(frozen=True)
class Shape:
    """How large an estate is. `targets` are of each campaign."""

    dids: int = 1
    campaigns: int = 1
    sellers: int = 1
    targets: int = 1


HOT: Final = Shape()
SPREAD: Final = Shape(dids=1_000, campaigns=200, sellers=50)


def number_of(did: int) -> str:
    """The number of a DID, E.164."""
    return f"+1800{FIRST_NUMBER + did}"


def dnid_pattern(shape: Shape) -> str:
    """What the load generator dials: every DID in turn."""
    return f"+1800{{n%{shape.dids}+{FIRST_NUMBER}}}"


def make_estate(office: Office, shape: Shape) -> None:
    """Fill a prepared database."""
    assert 1 <= shape.dids <= MAX_DIDS
    rates.add_rate(office, "std", per_minute_micros=200_000)
    trunks.add_trunk(office, TRUNK, kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
    for place in range(shape.sellers):
        sellers.add_seller(office, f"s{place}", timezone="America/New_York")
        balances.adjust(office, f"s{place}", PLENTY_MICROS, reason="bench")
        caps.set_caps(office, CapScope.SELLER, f"s{place}", _limits())
    campaigns.add_campaign(office, "c0", seller="s0", rate="std")
    dids.add_did(office, number_of(0), trunk=TRUNK, campaign="c0")
    for place in range(shape.targets):
        targets.add_target(office, target_of(0, place), kind=TargetKind.PJSIP, address="sip:b@127.0.0.1:5080")
        targets.add_rule(office, "c0", target_of(0, place))
        caps.set_caps(office, CapScope.TARGET, target_of(0, place), _limits())
    caps.set_caps(office, CapScope.CAMPAIGN, "c0", _limits())
    office.change(lambda desk: _copy(desk, shape))


def target_of(campaign: int, place: int) -> str:
    """The name of a campaign's target."""
    return f"t{campaign}-{place}"


def _limits() -> list[caps.Limit]:
    return [
        caps.Limit(CapMetric.CONCURRENT, WindowKind.NONE, PLENTY_CALLS),
        caps.Limit(CapMetric.BILLABLE, WindowKind.DAY, PLENTY_CALLS),
    ]


def _copy(desk: Desk, shape: Shape) -> None:
    """All campaigns but the first, with their targets, rules and caps; then all DIDs but the first."""
    owners = [desk.named(Seller, f"s{place}") for place in range(shape.sellers)]
    campaign, did = desk.named(Campaign, "c0"), desk.named(Did, number_of(0))
    models = [desk.named(Target, target_of(0, place)) for place in range(shape.targets)]
    rules = {rule.target_id: rule for rule in desk.tx.rows(Rule, desk.tenant_id, campaign_id=campaign.id)}
    all_campaigns = [campaign]
    for place in range(1, shape.campaigns):
        made = _insert(desk, campaign, name=f"c{place}", seller_id=owners[place % shape.sellers].id)
        _copy_caps(desk, campaign.id, made.id)
        for position, model in enumerate(models):
            target = _insert(desk, model, name=target_of(place, position))
            _copy_caps(desk, model.id, target.id)
            _insert(desk, rules[model.id], campaign_id=made.id, target_id=target.id)
        all_campaigns.append(made)
    for place in range(1, shape.dids):
        owner = all_campaigns[place % shape.campaigns]
        _insert(desk, did, number=number_of(place), campaign_id=owner.id, seller_id=owner.seller_id)
    desk.tx.bump_estate()


def _insert(desk: Desk, model: Any, **fields: Any) -> Any:
    """A copy of a row, with its own id, in the database."""
    made = replace(model, id=desk.new_id(), **fields)
    desk.tx.insert(made)
    return made


def _copy_caps(desk: Desk, model_id: str, scope_id: str) -> None:
    found: Sequence[Cap] = desk.tx.rows(Cap, desk.tenant_id, scope_id=model_id)
    for cap in found:
        _insert(desk, cap, scope_id=scope_id)
