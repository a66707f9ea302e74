"""Targets and the rules that link campaigns to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from capconduit.domain.agents import Agent
from capconduit.domain.books import Books, Changes
from capconduit.domain.dialing import check_address
from capconduit.domain.model import Campaign, Rate, Rule, RuleState, Schedule, Seller, Target, TargetState
from capconduit.domain.needs import Needs
from capconduit.domain.routing import rest_reason
from capconduit.domain.settings import Settings
from capconduit.domain.targets import told, well
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.services.caps import remove_caps_of
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.rates import check_same_currency, rate_or_none
from capconduit.services.schedules import schedule_or_none
from capconduit.units import MS_PER_SECOND, format_span
from capconduit.vocab import CapScope, TargetKind

DEFAULT_RING_MS: Final = 20_000
RING_MS: Final = (1_000, 300_000)
MAX_PRIORITY: Final = 1_000
MAX_WEIGHT: Final = 1_000_000


class Health(StrEnum):
    """What became of a target's last Dials; see domain/targets.py."""

    WELL = "well"
    FAILING = "failing"  # failed in a row, not often enough to be rested
    RESTING = "resting"
    WAITING = "waiting"  # the rest is over: the next call tries it
    PROBING = "probing"  # a call tries it just now


@dataclass(frozen=True, slots=True)
class TargetView:
    """A target with the names of what it goes by (empty: none), and what it has been through."""

    target: Target
    schedule: str
    rate: str
    payout: str
    state: TargetState
    health: Health
    agent: str = ""


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule with the names it links, and those of its own rates (empty: the target's and the campaign's)."""

    rule: Rule
    campaign: str
    target: str
    rate: str = ""
    payout: str = ""


def check_ring(ring_ms: int) -> int:
    """A ring time within its bounds. Raises UsageError."""
    if not RING_MS[0] <= ring_ms <= RING_MS[1]:
        raise UsageError("ring-invalid", f"{format_span(ring_ms)} is no ring time", "give 1s to 5m")
    return ring_ms


def add_target(
    office: Office,
    name: str,
    *,
    kind: TargetKind,
    address: str = "",
    ring_ms: int = DEFAULT_RING_MS,
    schedule: str = "",
    rate: str = "",
    payout: str = "",
    agent: str = "",
) -> TargetView:
    """A new, enabled target; of kind agent with the name of one, else with an address.

    Raises UsageError, NotFound, Refused.
    """
    check_name("target", name)
    check_address(kind, address)
    check_ring(ring_ms)

    def work(desk: Desk) -> TargetView:
        target = Target(
            **desk.stamp(),
            name=name,
            kind=kind,
            address=address,
            ring_ms=ring_ms,
            enabled=True,
            **_chosen(desk, schedule=schedule, rate=rate, payout=payout),
            agent_id=_agent_id(desk, agent),
        )
        _check_agent(target)
        desk.add("target", target)
        desk.tx.insert(Books().target(desk.tenant_id, target.id))  # there to be locked from the first Dial on
        return _view(desk, target)

    return office.change(work)


def list_targets(office: Office) -> Sequence[TargetView]:
    """All targets by name."""

    def work(desk: Desk) -> Sequence[TargetView]:
        names = _Names(desk)
        states = {s.target_id: s for s in desk.tx.rows(TargetState, desk.tenant_id)}
        targets = sorted(desk.tx.rows(Target, desk.tenant_id), key=lambda t: t.name)
        return [names.view(t, states.get(t.id)) for t in targets]

    return office.read(work)


def show_target(office: Office, name: str) -> TargetView:
    """One target. Raises NotFound."""
    return office.read(lambda desk: _view(desk, desk.named(Target, name)))


def set_target(
    office: Office,
    name: str,
    *,
    schedule: str | None = None,
    rate: str | None = None,
    payout: str | None = None,
    agent: str | None = None,
    **fields: Any,
) -> TargetView:
    """Change kind, address, agent, ring_ms, enabled, schedule or rates (empty: none).

    A target that becomes an agent has no address any more, one that becomes something else no agent.
    Raises UsageError, NotFound, Refused (a campaign that goes there is kept in another currency).
    """
    if "ring_ms" in fields:
        check_ring(fields["ring_ms"])

    def work(desk: Desk) -> TargetView:
        target = desk.named(Target, name)
        chosen = _chosen(desk, schedule=schedule, rate=rate, payout=payout)
        if agent is not None:
            chosen["agent_id"] = _agent_id(desk, agent)
        kind = fields.get("kind", target.kind)
        if kind is not target.kind and target.kind is TargetKind.AGENT:
            chosen.setdefault("agent_id", None)
        given = {"address": "", **fields} if kind is not target.kind and kind is TargetKind.AGENT else fields
        changed = replace(target, **given, **chosen, updated_ms=desk.now_ms)
        check_address(changed.kind, changed.address)
        _check_agent(changed)
        if rate or payout:
            for rule in desk.tx.rows(Rule, desk.tenant_id, target_id=target.id):
                check_currencies(desk, rule, changed)
        desk.change("target", target, changed)
        return _view(desk, changed)

    return office.change(work)


def revive_target(office: Office, name: str) -> tuple[TargetView, bool]:
    """Undo a target's rest and forget its failures; and whether there was anything to undo. Raises NotFound."""

    def work(desk: Desk) -> tuple[TargetView, bool]:
        target, before, books = _locked_state(desk, name)
        after = well(before)
        if after is before:
            return _view(desk, target), False
        _write_state(desk, books, target, before, after, "target.revive")
        return _view(desk, target), True

    return office.change(work)


def rest_target(office: Office, name: str, *, rest_ms: int | None = None) -> TargetView:
    """Leave a target alone for a while, as if it had failed; then one call tries it. Default: breaker_rest_s.

    Decisions take no rest for one that is longer than that setting. Raises UsageError, NotFound.
    """

    def work(desk: Desk) -> TargetView:
        target, before, books = _locked_state(desk, name)
        most_ms = desk.settings().breaker_rest_s * MS_PER_SECOND
        wanted_ms = most_ms if rest_ms is None else rest_ms
        if not MS_PER_SECOND <= wanted_ms <= most_ms:
            raise UsageError(
                "rest-invalid",
                f"{format_span(wanted_ms)} is no rest: one lasts 1s to {format_span(most_ms)}, as the setting"
                " breaker_rest_s says (what ends later counts as another clock's mistake)",
                f"for longer: `capconduit target pause {name}` and later `capconduit target resume {name}`; for every"
                " rest: `capconduit setting set breaker_rest_s SECONDS`",
            )
        after = replace(before, rested_until_ms=desk.now_ms + wanted_ms, probe_until_ms=0)
        _write_state(desk, books, target, before, after, "target.rest")
        return _view(desk, target)

    return office.change(work)


def _locked_state(desk: Desk, name: str) -> tuple[Target, TargetState, Books]:
    """A target with its state, locked. The estate is locked for a change too: of an older target there may be no row
    to lock."""
    target, books = desk.named(Target, name), Books()
    desk.tx.lock_needs(Needs(targets={target.id}), books)
    return target, books.target(desk.tenant_id, target.id), books


def _write_state(
    desk: Desk, books: Books, target: Target, before: TargetState, after: TargetState, action: str
) -> None:
    """The new state, told and audited. The estate is as it was."""
    events = told(before, after, target.name, desk.now_ms, desk.new_id)
    books.apply(Changes(targets=[after], events=events))
    desk.tx.write(books)
    desk.changed(action, target.name, before, after, estate=False)


def remove_target(office: Office, name: str) -> None:
    """Remove a target that no rule uses. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        target, state, books = _locked_state(desk, name)
        remove_caps_of(desk, CapScope.TARGET, target.id)
        desk.remove("target", target, "remove its rules first")
        if target.id in books.targets and not state.active:  # calls that are up there still count down
            desk.tx.delete(state)

    office.change(work)


def health_of(state: TargetState, settings: Settings, now_ms: int) -> Health:
    """How a target is, as decisions see it."""
    if not state.rested_until_ms:
        return Health.FAILING if state.failures else Health.WELL
    if not rest_reason(state, settings, now_ms):
        return Health.WAITING
    return Health.RESTING if now_ms < state.rested_until_ms else Health.PROBING


class _Names:
    """What targets and rules, or `one` of them, refer to, read once."""

    def __init__(self, desk: Desk, one: Target | Rule | None = None) -> None:
        rates = (one.rate_id, one.payout_rate_id) if one else None
        schedules = (one.schedule_id if isinstance(one, Target) else None,) if one else None
        self._rates: Mapping[str | None, str] = _names_of(desk, Rate, rates)
        self._schedules: Mapping[str | None, str] = _names_of(desk, Schedule, schedules)
        agents = ((one.agent_id,) if isinstance(one, Target) else ()) if one else None
        self._agents: Mapping[str | None, str] = _names_of(desk, Agent, agents)
        self._settings = desk.settings()
        self._desk = desk

    def view(self, target: Target, state: TargetState | None) -> TargetView:
        """A target with its names; one that was never dialled has no state."""
        known = state or Books().target(target.tenant_id, target.id)
        return TargetView(
            target=target,
            schedule=self._schedules.get(target.schedule_id, ""),
            rate=self._rates.get(target.rate_id, ""),
            payout=self._rates.get(target.payout_rate_id, ""),
            state=known,
            health=health_of(known, self._settings, self._desk.now_ms),
            agent=self._agents.get(target.agent_id, ""),
        )

    def rule(self, rule: Rule, campaign: str, target: str) -> RuleView:
        """A rule with its names."""
        return RuleView(
            rule, campaign, target, self._rates.get(rule.rate_id, ""), self._rates.get(rule.payout_rate_id, "")
        )


def _names_of(
    desk: Desk, kind: type[Rate] | type[Schedule] | type[Agent], ids: Sequence[str | None] | None
) -> Mapping[str | None, str]:
    """Names by ids; of all, where no ids are given."""
    if ids is None:
        return {row.id: row.name for row in desk.tx.rows(kind, desk.tenant_id)}
    found = [desk.tx.find(kind, desk.tenant_id, id=row_id) for row_id in ids if row_id]
    return {row.id: row.name for row in found if row is not None}


def _view(desk: Desk, target: Target) -> TargetView:
    return _Names(desk, target).view(target, desk.tx.find(TargetState, desk.tenant_id, target_id=target.id))


def _chosen(desk: Desk, *, rate: str | None, payout: str | None, schedule: str | None = None) -> dict[str, Any]:
    """The ids of what is chosen by name; empty: none, None: not said. Raises NotFound."""
    rows: dict[str, Rate | Schedule | None] = {}
    if schedule is not None:
        rows["schedule_id"] = schedule_or_none(desk, schedule)
    if rate is not None:
        rows["rate_id"] = rate_or_none(desk, rate)
    if payout is not None:
        rows["payout_rate_id"] = rate_or_none(desk, payout)
    return {column: row.id if row else None for column, row in rows.items()}


def _agent_id(desk: Desk, name: str) -> str | None:
    """The id of the agent of that name; None for an empty one. Raises NotFound."""
    return desk.named(Agent, name).id if name else None


def _check_agent(target: Target) -> None:
    """An agent's target leads to one, and no other does. Raises UsageError."""
    if target.kind is TargetKind.AGENT and target.agent_id is None:
        raise UsageError(
            "agent-missing", f"target {target.name!r} is an agent's, and none is named", "add --agent NAME"
        )
    if target.kind is not TargetKind.AGENT and target.agent_id is not None:
        raise UsageError(
            "not-of-kind", f"target {target.name!r} is of kind {target.kind} and has no agent", "use --kind agent"
        )


def check_currencies(desk: Desk, rule: Rule, target: Target) -> None:
    """The rates that a rule's calls go by, its own before its target's, are in the seller's currency. Raises Refused.

    (Decisions pass another currency by: it would be the campaign's price that is charged, and no payout, in silence.)
    """
    campaign = desk.tx.find(Campaign, desk.tenant_id, id=rule.campaign_id)
    seller = desk.tx.find(Seller, desk.tenant_id, id=campaign.seller_id) if campaign else None
    if campaign is None or seller is None:  # foreign keys hold both
        return
    for what, own, otherwise in (
        ("rate", rule.rate_id, target.rate_id),
        ("payout", rule.payout_rate_id, target.payout_rate_id),
    ):
        rate_id = own or otherwise
        rate = desk.tx.find(Rate, desk.tenant_id, id=rate_id) if rate_id else None
        use = f"use a {what} in {seller.currency}"
        rule_name = f"{campaign.name}/{target.name}"
        of_target = f"{use} for target {target.name!r}, or give rule {rule_name} one of its own: --{what} NAME"
        check_same_currency(seller, rate, hint=use if own else of_target)


def _check_rule(priority: int, weight: int) -> None:
    if not 0 <= priority <= MAX_PRIORITY:
        raise UsageError("priority-invalid", f"{priority} is no priority", f"give 0 (first) to {MAX_PRIORITY}")
    if not 0 <= weight <= MAX_WEIGHT:
        raise UsageError("weight-invalid", f"{weight} is no weight", f"give 0 (last resort) to {MAX_WEIGHT}")


def add_rule(
    office: Office,
    campaign: str,
    target: str,
    *,
    priority: int = 1,
    weight: int = 1,
    rate: str = "",
    payout: str = "",
) -> RuleView:
    """Let a campaign's calls go to a target. Raises UsageError, NotFound, Refused (a rate is in another currency)."""
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
            **_chosen(desk, rate=rate, payout=payout),
        )
        check_currencies(desk, rule, target_row)
        name = f"{campaign}/{target}"
        try:
            desk.tx.insert(rule)
        except Refused:
            raise Refused(
                "rule-exists", f"rule {name!r} exists already", f"change it: capconduit rule set {campaign} {target}"
            ) from None
        desk.tx.insert(RuleState(rule_id=rule.id, tenant_id=desk.tenant_id, cursor=0))  # to be locked from now on
        desk.changed("rule.add", name, None, rule)
        return _Names(desk, rule).rule(rule, campaign, target)

    return office.change(work)


def list_rules(office: Office, campaign: str = "") -> Sequence[RuleView]:
    """Rules by campaign, priority and target; of one campaign where it is named."""

    def work(desk: Desk) -> Sequence[RuleView]:
        campaigns = {c.id: c.name for c in desk.tx.rows(Campaign, desk.tenant_id)}
        targets = {t.id: t.name for t in desk.tx.rows(Target, desk.tenant_id)}
        names = _Names(desk)
        where: dict[str, Any] = {"campaign_id": desk.named(Campaign, campaign).id} if campaign else {}
        views = [
            names.rule(r, campaigns[r.campaign_id], targets[r.target_id])
            for r in desk.tx.rows(Rule, desk.tenant_id, **where)
        ]
        return sorted(views, key=lambda v: (v.campaign, v.rule.priority, v.target))

    return office.read(work)


def show_rule(office: Office, campaign: str, target: str) -> RuleView:
    """One rule. Raises NotFound."""
    return office.read(lambda desk: _Names(desk).rule(_rule(desk, campaign, target), campaign, target))


def set_rule(
    office: Office, campaign: str, target: str, *, rate: str | None = None, payout: str | None = None, **fields: Any
) -> RuleView:
    """Change priority, weight, enabled or rates (empty: none of its own). Raises UsageError, NotFound, Refused."""

    def work(desk: Desk) -> RuleView:
        rule = _rule(desk, campaign, target)
        changed = replace(rule, **fields, **_chosen(desk, rate=rate, payout=payout), updated_ms=desk.now_ms)
        _check_rule(changed.priority, changed.weight)
        check_currencies(desk, changed, desk.named(Target, target))
        desk.tx.update(changed)
        desk.changed("rule.set", f"{campaign}/{target}", rule, changed)
        return _Names(desk, changed).rule(changed, campaign, target)

    return office.change(work)


def remove_rule(office: Office, campaign: str, target: str) -> None:
    """Let a campaign's calls no longer go to a target; live calls go on. Raises NotFound."""

    def work(desk: Desk) -> None:
        rule = _rule(desk, campaign, target)
        remove_caps_of(desk, CapScope.RULE, rule.id)
        desk.tx.delete(rule)
        state = desk.tx.find(RuleState, desk.tenant_id, rule_id=rule.id)
        if state is not None:
            desk.tx.delete(state)
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
