"""Targets and the rules that link campaigns to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.dialing import check_address
from capconduit.domain.model import Campaign, Rule, Target
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.services.caps import remove_caps_of
from capconduit.services.office import Desk, Office, check_name
from capconduit.vocab import CapScope, TargetKind

DEFAULT_RING_MS: Final = 20_000
RING_MS: Final = (1_000, 300_000)
MAX_PRIORITY: Final = 1_000
MAX_WEIGHT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule with the names it links."""

    rule: Rule
    campaign: str
    target: str


def check_ring(ring_ms: int) -> int:
    """A ring time within its bounds. Raises UsageError."""
    if not RING_MS[0] <= ring_ms <= RING_MS[1]:
        raise UsageError("ring-invalid", f"{ring_ms} ms is no ring time", "give 1s to 5m")
    return ring_ms


def add_target(office: Office, name: str, *, kind: TargetKind, address: str, ring_ms: int = DEFAULT_RING_MS) -> Target:
    """A new, enabled target. Raises UsageError, Refused."""
    check_name("target", name)
    check_address(kind, address)
    check_ring(ring_ms)

    def work(desk: Desk) -> Target:
        target = Target(
            **desk.stamp(),
            name=name,
            kind=kind,
            address=address,
            ring_ms=ring_ms,
            enabled=True,
            schedule_id=None,
            rate_id=None,
            payout_rate_id=None,
        )
        desk.add("target", target)
        return target

    return office.change(work)


def list_targets(office: Office) -> Sequence[Target]:
    """All targets by name."""
    return office.read(lambda desk: sorted(desk.tx.rows(Target, desk.tenant_id), key=lambda t: t.name))


def show_target(office: Office, name: str) -> Target:
    """One target. Raises NotFound."""
    return office.read(lambda desk: desk.named(Target, name))


def set_target(office: Office, name: str, **fields: Any) -> Target:
    """Change kind, address, ring_ms or enabled. Raises UsageError, NotFound."""
    if "ring_ms" in fields:
        check_ring(fields["ring_ms"])

    def work(desk: Desk) -> Target:
        target = desk.named(Target, name)
        changed = replace(target, **fields, updated_ms=desk.now_ms)
        check_address(changed.kind, changed.address)
        desk.change("target", target, changed)
        return changed

    return office.change(work)


def remove_target(office: Office, name: str) -> None:
    """Remove a target that no rule uses. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        target = desk.named(Target, name)
        remove_caps_of(desk, CapScope.TARGET, target.id)
        desk.remove("target", target, "remove its rules first")

    office.change(work)


def _check_rule(priority: int, weight: int) -> None:
    if not 0 <= priority <= MAX_PRIORITY:
        raise UsageError("priority-invalid", f"{priority} is no priority", f"give 0 (first) to {MAX_PRIORITY}")
    if not 0 <= weight <= MAX_WEIGHT:
        raise UsageError("weight-invalid", f"{weight} is no weight", f"give 0 (last resort) to {MAX_WEIGHT}")


def add_rule(office: Office, campaign: str, target: str, *, priority: int = 1, weight: int = 1) -> RuleView:
    """Let a campaign's calls go to a target. Raises UsageError, NotFound, Refused."""
    _check_rule(priority, weight)

    def work(desk: Desk) -> RuleView:
        campaign_row, target_row = desk.named(Campaign, campaign), desk.named(Target, target)
        rule = Rule(
            **desk.stamp(),
            campaign_id=campaign_row.id,
            target_id=target_row.id,
            priority=priority,
            weight=weight,
            enabled=True,
            rate_id=None,
            payout_rate_id=None,
        )
        name = f"{campaign}/{target}"
        try:
            desk.tx.insert(rule)
        except Refused:
            raise Refused(
                "rule-exists", f"rule {name!r} exists already", f"change it: capconduit rule set {campaign} {target}"
            ) from None
        desk.changed("rule.add", name, None, rule)
        return RuleView(rule, campaign, target)

    return office.change(work)


def list_rules(office: Office, campaign: str = "") -> Sequence[RuleView]:
    """Rules by campaign, priority and target; of one campaign where it is named."""

    def work(desk: Desk) -> Sequence[RuleView]:
        campaigns = {c.id: c.name for c in desk.tx.rows(Campaign, desk.tenant_id)}
        targets = {t.id: t.name for t in desk.tx.rows(Target, desk.tenant_id)}
        where: dict[str, Any] = {"campaign_id": desk.named(Campaign, campaign).id} if campaign else {}
        views = [
            RuleView(r, campaigns[r.campaign_id], targets[r.target_id])
            for r in desk.tx.rows(Rule, desk.tenant_id, **where)
        ]
        return sorted(views, key=lambda v: (v.campaign, v.rule.priority, v.target))

    return office.read(work)


def show_rule(office: Office, campaign: str, target: str) -> RuleView:
    """One rule. Raises NotFound."""
    return office.read(lambda desk: RuleView(_rule(desk, campaign, target), campaign, target))


def set_rule(office: Office, campaign: str, target: str, **fields: Any) -> RuleView:
    """Change priority, weight or enabled. Raises UsageError, NotFound."""

    def work(desk: Desk) -> RuleView:
        rule = _rule(desk, campaign, target)
        changed = replace(rule, **fields, updated_ms=desk.now_ms)
        _check_rule(changed.priority, changed.weight)
        desk.tx.update(changed)
        desk.changed("rule.set", f"{campaign}/{target}", rule, changed)
        return RuleView(changed, campaign, target)

    return office.change(work)


def remove_rule(office: Office, campaign: str, target: str) -> None:
    """Let a campaign's calls no longer go to a target; live calls go on. Raises NotFound."""

    def work(desk: Desk) -> None:
        rule = _rule(desk, campaign, target)
        remove_caps_of(desk, CapScope.RULE, rule.id)
        desk.tx.delete(rule)
        desk.changed("rule.remove", f"{campaign}/{target}", rule, None)

    office.change(work)


def _rule(desk: Desk, campaign: str, target: str) -> Rule:
    rule = desk.tx.find(
        Rule,
        desk.tenant_id,
        campaign_id=desk.named(Campaign, campaign).id,
        target_id=desk.named(Target, target).id,
    )
    if rule is None:
        raise NotFound("rule", f"{campaign}/{target}")
    return rule
