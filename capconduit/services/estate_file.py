"""The estate as a document, and documents carried out: read, plan, apply; every change by the service of its noun."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from capconduit.domain.agents import Agent, Provider, chain_of, listed
from capconduit.domain.model import (
    Account,
    Block,
    Campaign,
    Cap,
    Did,
    Entity,
    Rate,
    Rule,
    Schedule,
    Seller,
    Setting,
    Target,
    Trunk,
)
from capconduit.errors import CapConduitError, Refused
from capconduit.estate_file.document import EVERYBODY
from capconduit.estate_file.plan import Action, Change, Plan, plan
from capconduit.estate_file.schema import CapLimit, Document, Key, Values
from capconduit.services import (
    agents,
    blocks,
    campaigns,
    caps,
    dids,
    providers,
    rates,
    schedules,
    sellers,
    settings,
    targets,
    trunks,
)
from capconduit.services.estate_conflicts import APPLIED, check_conflicts, last_change_ms, summary
from capconduit.services.estate_normal import normal
from capconduit.services.office import Desk, Office
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import (
    CampaignStatus,
    CapMetric,
    CapScope,
    DidStatus,
    ProviderKind,
    SipTransport,
    Status,
    Strategy,
    TargetKind,
    TrunkAuth,
    TrunkKind,
    WindowKind,
)

_KINDS: Final[dict[str, type[Entity]]] = {
    "rate": Rate, "schedule": Schedule, "trunk": Trunk, "seller": Seller, "target": Target, "campaign": Campaign,
    "provider": Provider, "agent": Agent,
}  # fmt: skip


def export(office: Office) -> Document:
    """The whole estate of the tenant. Balances, calls and secrets are not part of it."""
    return office.read(_document)


def plan_estate(office: Office, wanted: Document, *, prune: bool = False) -> tuple[Plan, int]:
    """What `apply` would do now, and the version of the estate that it was seen at. Raises UsageError."""

    def work(desk: Desk) -> tuple[Plan, int]:
        return _plan(desk, wanted, prune=prune), desk.tx.estate_version()

    return office.read(work)


def conflict_of(office: Office, found: Plan, wanted: Document) -> str:
    """Why `apply` without `force` would refuse the plan: what others changed meanwhile; empty where they did not."""
    try:
        office.read(lambda desk: check_conflicts(desk, found, wanted))
    except Refused as conflict:
        return conflict.message
    return ""


def apply_estate(
    office: Office, wanted: Document, *, prune: bool = False, version: int | None = None, force: bool = False
) -> Plan:
    """Carry out a document, all or nothing, in one transaction.

    version: that of the estate when the plan was shown; another one now is refused, because something else would happen
    than what was agreed to. A thing that somebody else changed after the file was exported is refused as well, unless
    `force`. Raises what the services raise, with the thing it was about.
    """

    def work(desk: Desk) -> Plan:
        if version is not None and desk.tx.estate_version() != version:
            raise Refused(
                "estate-changed",
                "the estate has changed since the plan was made",
                "look at it again: `capconduit plan`",
            )
        found = _plan(desk, wanted, prune=prune)
        if not force:
            check_conflicts(desk, found, wanted)
        inner = Office.within(desk)
        for change in found.changes:
            try:
                _carry_out(inner, desk, change)
            except CapConduitError as error:
                raise _about(change, error) from None
        _check_renamed(desk, found)
        if found.changes:
            desk.changed(APPLIED, f"{len(found.changes)} changes", None, summary(wanted, found))
        return found

    return office.change(work)


def _plan(desk: Desk, wanted: Document, *, prune: bool) -> Plan:
    current = _document(desk)
    return plan(current, normal(wanted, current, desk.settings().default_region, desk.now_ms), prune=prune)


def _check_renamed(desk: Desk, found: Plan) -> None:
    """A trunk may be known by its name; at the end of all changes it is whole again, or everything is refused."""
    for change in found.changes:
        if change.action is Action.RENAME and change.noun == "trunk":
            try:
                trunks.check_whole(desk.named(Trunk, change.key[0]))
            except CapConduitError as error:
                raise _about(change, error) from None


def _about(change: Change, error: CapConduitError) -> CapConduitError:
    """The same error, told of the thing in the file."""
    error.message = f"{change.action} {change.path}: {error.message}"
    error.args = (error.message,)
    return error


# --- reading ----------------------------------------------------------------------------------------------------------


def _document(desk: Desk) -> Document:
    names = _Names(desk)
    document = Document(exported_ms=desk.now_ms, changed_ms=last_change_ms(desk))
    document.settings = {row.name: row.value for row in desk.tx.rows(Setting, desk.tenant_id)}
    document.system_caps = names.caps(CapScope.SYSTEM, desk.tenant_id)
    rows = document.nouns
    for rate in names.of(Rate):
        rows["rate"][(rate.name,)] = _rate(rate)
    for schedule in names.of(Schedule):
        rows["schedule"][(schedule.name,)] = {
            "hours": schedule.hours, "timezone": schedule.timezone, "holidays": schedule.holidays,
        }  # fmt: skip
    for trunk in names.of(Trunk):
        rows["trunk"][(trunk.name,)] = _trunk(trunk) | {"caps": names.caps(CapScope.TRUNK, trunk.id)}
    accounts = {account.seller_id: account for account in desk.tx.rows(Account, desk.tenant_id)}
    for seller in names.of(Seller):
        rows["seller"][(seller.name,)] = {
            "currency": seller.currency, "timezone": seller.timezone, "status": seller.status.value,
            "credit_limit": accounts[seller.id].credit_limit_micros, "low_balance": seller.low_balance_micros,
            "caps": names.caps(CapScope.SELLER, seller.id),
        }  # fmt: skip
    for provider in names.of(Provider):
        rows["provider"][(provider.name,)] = _provider(provider)
    for agent in names.of(Agent):
        rows["agent"][(agent.name,)] = _agent(agent, names)
    for target in names.of(Target):
        rows["target"][(target.name,)] = {
            "kind": target.kind.value, "address": target.address, "agent": names.name(target.agent_id),
            "ring": target.ring_ms, "enabled": target.enabled,
            "schedule": names.name(target.schedule_id), "rate": names.name(target.rate_id),
            "payout": names.name(target.payout_rate_id), "caps": names.caps(CapScope.TARGET, target.id),
        }  # fmt: skip
    for campaign in names.of(Campaign):
        rows["campaign"][(campaign.name,)] = _campaign(campaign, names)
    for rule in desk.tx.rows(Rule, desk.tenant_id):
        rows["rule"][(names.name(rule.campaign_id), names.name(rule.target_id))] = {
            "priority": rule.priority, "weight": rule.weight, "enabled": rule.enabled,
            "rate": names.name(rule.rate_id), "payout": names.name(rule.payout_rate_id),
            "caps": names.caps(CapScope.RULE, rule.id),
        }  # fmt: skip
    for did in names.of(Did):
        rows["did"][(did.number,)] = {
            "trunk": names.name(did.trunk_id), "campaign": names.name(did.campaign_id),
            "seller": "" if did.campaign_id else names.name(did.seller_id),
            "suspended": did.status is DidStatus.SUSPENDED, "caps": names.caps(CapScope.DID, did.id),
        }  # fmt: skip
    for block in desk.tx.rows(Block, desk.tenant_id):
        if block.expires_ms is None or block.expires_ms > desk.now_ms:
            rows["block"][(names.whose(block), block.pattern)] = {"reason": block.reason, "expires": block.expires_ms}
    return document


def _rate(rate: Rate) -> Values:
    return {
        "currency": rate.currency,
        "per_minute": rate.per_minute_micros,
        "connect_fee": rate.connect_fee_micros,
        "increment": f"{rate.first_s}/{rate.step_s}",
        "then_per_minute": rate.then_per_minute_micros,
        "then_after": rate.then_after_s * MS_PER_SECOND,
    }


def _trunk(trunk: Trunk) -> Values:
    return {
        "kind": trunk.kind.value, "hosts": _split(trunk.hosts), "port": trunk.port, "codecs": _split(trunk.codecs),
        "region": trunk.region, "auth": trunk.auth.value, "username": trunk.auth_username,
        "secret": trunk.auth_secret_ref, "transport": trunk.transport.value, "srtp": trunk.srtp, "nat": trunk.nat,
        "qualify": trunk.qualify_ms, "permit": _split(trunk.permit),
    }  # fmt: skip


def _provider(provider: Provider) -> Values:
    return {
        "kind": provider.kind.value, "url": provider.base_url, "key": provider.key_ref, "model": provider.model,
        "text_model": provider.text_model, "voice": provider.voice, "deployment": provider.deployment,
        "api_version": provider.api_version,
    }  # fmt: skip


def _agent(agent: Agent, names: _Names) -> Values:
    return {
        "providers": tuple(names.name(one) for one in chain_of(agent)), "voice": agent.voice,
        "language": agent.language, "instructions": agent.instructions, "greeting": agent.greeting,
        "tools": tuple(listed(agent.tools)), "max_duration": agent.max_duration_ms,
        "max_cost": agent.max_cost_micros, "silence": agent.silence_ms, "transcripts": agent.transcripts,
        "retention_days": agent.retention_days,
    }  # fmt: skip


def _campaign(campaign: Campaign, names: _Names) -> Values:
    return {
        "seller": names.name(campaign.seller_id), "rate": names.name(campaign.rate_id),
        "status": campaign.status.value, "strategy": campaign.strategy.value,
        "billable_threshold": campaign.billable_threshold_ms, "max_attempts": campaign.max_attempts,
        "ring_budget": campaign.ring_budget_ms, "max_duration": campaign.max_duration_ms,
        "schedule": names.name(campaign.schedule_id), "duplicate_window": campaign.duplicate_window_ms,
        "anonymous_callers": campaign.anonymous_callers, "min_attestation": campaign.min_attestation,
        "caps": names.caps(CapScope.CAMPAIGN, campaign.id),
    }  # fmt: skip


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


class _Names:
    """Everything of a tenant by its id, and its caps by what they limit; read once."""

    def __init__(self, desk: Desk) -> None:
        self._rows: dict[type, Sequence[Any]] = {
            kind: desk.tx.rows(kind, desk.tenant_id) for kind in (*_KINDS.values(), Did)
        }
        self._names = {row.id: row.name for kind in _KINDS.values() for row in self._rows[kind]}
        self._caps: dict[tuple[CapScope, str], list[CapLimit]] = {}
        for cap in desk.tx.rows(Cap, desk.tenant_id):
            limit = CapLimit(cap.metric.value, cap.window_kind.value, cap.window_ms, cap.limit_value)
            self._caps.setdefault((cap.scope, cap.scope_id), []).append(limit)

    def of(self, kind: type[Any]) -> Sequence[Any]:
        """All of a kind."""
        return self._rows[kind]

    def name(self, row_id: str | None) -> str:
        """The name behind an id; empty for none."""
        return self._names[row_id] if row_id else ""

    def caps(self, scope: CapScope, scope_id: str) -> tuple[CapLimit, ...]:
        """The caps of one thing, in their order."""
        return tuple(sorted(self._caps.get((scope, scope_id), ())))

    def whose(self, block: Block) -> str:
        """For whose calls a block holds, as a file says it."""
        return EVERYBODY if block.scope is CapScope.SYSTEM else f"{block.scope} {self._names[block.scope_id]}"


# --- carrying out -----------------------------------------------------------------------------------------------------


def _carry_out(office: Office, desk: Desk, change: Change) -> None:
    if change.noun == "settings":
        for name, value in change.after.items():
            settings.set_setting(office, name, value)
        return
    if change.noun == "system":
        _set_caps(office, CapScope.SYSTEM, "", change)
        return
    if change.action is Action.RENAME:
        _rename(desk, change)
        return
    if change.action is Action.REMOVE:
        _REMOVE[change.noun](office, change)
        return
    values = dict(change.after)
    has_caps = "caps" in values
    values.pop("caps", None)
    if change.noun == "rate" and values.get("then_after"):  # both begin the second step, also where one is as it was
        values |= {name: change.wanted[name] for name in ("then_per_minute",) if name in change.wanted}
    if change.action is Action.ADD:
        _ADD[change.noun](office, change.key, values)
    elif values:
        _SET[change.noun](office, change.key, values)
    if has_caps:
        _set_caps(office, CapScope(change.noun), "/".join(change.key), change)


def _rename(desk: Desk, change: Change) -> None:
    """The same thing under another name: whatever refers to it does so by its id."""
    kind, (name,) = _KINDS[change.noun], change.key
    if kind is Trunk:
        trunks.check_free_name(name)
    if kind in (Rate, Schedule):
        rates.check_not_none(change.noun, name)
    before: Any = desk.named(kind, change.before["name"])
    desk.change(change.noun, before, replace(before, name=name, updated_ms=desk.now_ms))


def _set_caps(office: Office, scope: CapScope, name: str, change: Change) -> None:
    before = {(c.metric, c.window, c.window_ms): c for c in change.before.get("caps") or ()}
    after = {(c.metric, c.window, c.window_ms): c for c in change.after["caps"]}
    limits = [_limit(cap, cap.value) for kind, cap in after.items() if before.get(kind) != cap]
    limits += [_limit(cap, None) for kind, cap in before.items() if kind not in after]
    if limits:
        caps.set_caps(office, scope, name, limits)


def _limit(cap: CapLimit, value: int | None) -> caps.Limit:
    return caps.Limit(CapMetric(cap.metric), WindowKind(cap.window), value, cap.window_ms)


def _named(values: Values, **names: str) -> dict[str, Any]:
    """`values` under the names that a service has for them; those that are not mentioned keep theirs."""
    return {names.get(name, name): value for name, value in values.items()}


def _rate_values(values: Values) -> dict[str, Any]:
    named = _named(
        values, per_minute="per_minute_micros", connect_fee="connect_fee_micros",
        then_per_minute="then_per_minute_micros", then_after="then_after_ms",
    )  # fmt: skip
    if "then_after_ms" in named and named["then_after_ms"] == 0:  # one price
        del named["then_after_ms"]
        named.pop("then_per_minute_micros", None)
    return named


def _set_rate(office: Office, key: Key, values: Values) -> None:
    named = _rate_values(values)
    rates.set_rate(office, key[0], one_price=values.get("then_after") == 0, **named)


def _trunk_values(values: Values) -> dict[str, Any]:
    named = _named(values, username="auth_username", secret="auth_secret_ref", qualify="qualify_ms")
    if "codecs" in named:
        named["codecs"] = ",".join(named["codecs"])
    for name, kind in (("kind", TrunkKind), ("auth", TrunkAuth), ("transport", SipTransport)):
        if name in named:
            named[name] = kind(named[name])
    return named


def _add_seller(office: Office, key: Key, values: Values) -> None:
    status = values.pop("status", Status.ACTIVE)
    sellers.add_seller(
        office, key[0], **_named(values, credit_limit="credit_limit_micros", low_balance="low_balance_micros")
    )
    if status != Status.ACTIVE:
        sellers.set_seller(office, key[0], status=Status(status))


def _set_seller(office: Office, key: Key, values: Values) -> None:
    named = _named(values, credit_limit="credit_limit_micros", low_balance="low_balance_micros")
    if "status" in named:
        named["status"] = Status(named["status"])
    sellers.set_seller(office, key[0], **named)


def _provider_values(values: Values) -> dict[str, Any]:
    named = _named(values, url="base_url", key="key_ref")
    if "kind" in named:
        named["kind"] = ProviderKind(named["kind"])
    return named


def _agent_values(values: Values) -> dict[str, Any]:
    return _named(
        values, max_duration="max_duration_ms", max_cost="max_cost_micros", silence="silence_ms"
    )  # fmt: skip


def _target_values(values: Values) -> dict[str, Any]:
    named = _named(values, ring="ring_ms")
    if "kind" in named:
        named["kind"] = TargetKind(named["kind"])
    return named


def _add_target(office: Office, key: Key, values: Values) -> None:
    enabled = values.pop("enabled", True)
    targets.add_target(office, key[0], **_target_values(values))
    if not enabled:
        targets.set_target(office, key[0], enabled=False)


_CAMPAIGN: Final = {
    "billable_threshold": "billable_threshold_ms", "ring_budget": "ring_budget_ms", "max_duration": "max_duration_ms",
    "duplicate_window": "duplicate_window_ms",
}  # fmt: skip


def _campaign_values(values: Values) -> dict[str, Any]:
    named = _named(values, **_CAMPAIGN)
    if "strategy" in named:
        named["strategy"] = Strategy(named["strategy"])
    if "status" in named:
        named["status"] = CampaignStatus(named["status"])
    return named


def _add_campaign(office: Office, key: Key, values: Values) -> None:
    named = _campaign_values(values)
    status = named.pop("status", CampaignStatus.ACTIVE)
    campaigns.add_campaign(office, key[0], **named)
    if status is not CampaignStatus.ACTIVE:
        campaigns.set_campaign(office, key[0], status=status)


def _add_rule(office: Office, key: Key, values: Values) -> None:
    enabled = values.pop("enabled", True)
    targets.add_rule(office, *key, **values)
    if not enabled:
        targets.set_rule(office, *key, enabled=False)


def _add_did(office: Office, key: Key, values: Values) -> None:
    suspended, seller = values.pop("suspended", False), values.pop("seller", "")
    dids.add_did(office, key[0], **values)
    if seller:
        dids.give_did_to_seller(office, key[0], seller)
    if suspended:
        dids.suspend_did(office, key[0], suspended=True)


def _set_did(office: Office, key: Key, values: Values) -> None:
    if "trunk" in values:
        if not values["trunk"]:
            raise Refused("did-needs-trunk", "its trunk cannot be taken away", "name another one, or leave trunk out")
        dids.set_did_trunk(office, key[0], values["trunk"])
    if "campaign" in values:
        if values["campaign"]:
            dids.assign_did(office, key[0], values["campaign"])
        else:
            dids.release_did(office, key[0])
    if "seller" in values and not values.get("campaign"):
        if values["seller"]:
            dids.give_did_to_seller(office, key[0], values["seller"])
        elif "campaign" not in values:
            dids.release_did(office, key[0])
    if "suspended" in values:
        dids.suspend_did(office, key[0], suspended=values["suspended"])


def _remove_did(office: Office, change: Change) -> None:
    if change.before["campaign"]:
        dids.release_did(office, change.key[0])
    dids.remove_did(office, change.key[0])


def _where(whose: str) -> blocks.Where:
    scope, _, name = whose.partition(" ")
    return blocks.Where(**{scope: name}) if name else blocks.Where()


def _add_block(office: Office, key: Key, values: Values) -> None:
    blocks.add_block(office, key[1], _where(key[0]), **_named(values, expires="expires_ms"))


def _set_block(office: Office, key: Key, values: Values) -> None:
    blocks.set_block(office, key[1], _where(key[0]), **_named(values, expires="expires_ms"))


def _by_name(remove: Callable[..., None]) -> Callable[[Office, Change], None]:
    return lambda office, change: remove(office, *change.key)


_ADD: Final[Mapping[str, Callable[[Office, Key, Values], Any]]] = {
    "rate": lambda office, key, values: rates.add_rate(office, key[0], **_rate_values(values)),
    "schedule": lambda office, key, values: schedules.add_schedule(office, key[0], **values),
    "trunk": lambda office, key, values: trunks.add_trunk(office, key[0], **_trunk_values(values)),
    "seller": _add_seller,
    "provider": lambda office, key, values: providers.add_provider(office, key[0], **_provider_values(values)),
    "agent": lambda office, key, values: agents.add_agent(office, key[0], **_agent_values(values)),
    "target": _add_target,
    "campaign": _add_campaign,
    "rule": _add_rule,
    "did": _add_did,
    "block": _add_block,
}
_SET: Final[Mapping[str, Callable[[Office, Key, Values], Any]]] = {
    "rate": _set_rate,
    "schedule": lambda office, key, values: schedules.set_schedule(office, key[0], **values),
    "trunk": lambda office, key, values: trunks.set_trunk(office, key[0], **_trunk_values(values)),
    "seller": _set_seller,
    "provider": lambda office, key, values: providers.set_provider(office, key[0], **_provider_values(values)),
    "agent": lambda office, key, values: agents.set_agent(office, key[0], **_agent_values(values)),
    "target": lambda office, key, values: targets.set_target(office, key[0], **_target_values(values)),
    "campaign": lambda office, key, values: campaigns.set_campaign(office, key[0], **_campaign_values(values)),
    "rule": lambda office, key, values: targets.set_rule(office, *key, **values),
    "did": _set_did,
    "block": _set_block,
}
_REMOVE: Final[Mapping[str, Callable[[Office, Change], None]]] = {
    "rate": _by_name(rates.remove_rate),
    "schedule": _by_name(schedules.remove_schedule),
    "trunk": _by_name(trunks.remove_trunk),
    "seller": _by_name(sellers.remove_seller),
    "provider": _by_name(providers.remove_provider),
    "agent": _by_name(agents.remove_agent),
    "target": _by_name(targets.remove_target),
    "campaign": _by_name(campaigns.remove_campaign),
    "rule": _by_name(targets.remove_rule),
    "did": _remove_did,
    "block": lambda office, change: blocks.remove_block(office, change.key[1], _where(change.key[0])),
}
