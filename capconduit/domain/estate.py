"""The estate as one immutable snapshot, indexed the way a decision reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from capconduit.domain.model import Campaign, Cap, Did, Rate, Rule, Seller, Setting, Target, Tenant, Trunk
from capconduit.domain.settings import Settings, settings_of
from capconduit.vocab import CapScope


@dataclass(frozen=True, slots=True)
class ZonedCap:
    """A cap with the time zone its windows follow and the name of what it limits."""

    cap: Cap
    zone: str
    subject: str


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows an estate is built from."""

    tenants: Sequence[Tenant] = ()
    sellers: Sequence[Seller] = ()
    trunks: Sequence[Trunk] = ()
    rates: Sequence[Rate] = ()
    campaigns: Sequence[Campaign] = ()
    dids: Sequence[Did] = ()
    targets: Sequence[Target] = ()
    rules: Sequence[Rule] = ()
    caps: Sequence[Cap] = ()
    settings: Sequence[Setting] = ()


@dataclass(frozen=True, slots=True)
class Estate:
    """A snapshot of everything configured; `version` changes with every change of configuration."""

    version: int
    tenants: Mapping[str, Tenant]
    sellers: Mapping[str, Seller]
    trunks_by_name: Mapping[str, Sequence[Trunk]]  # names are unique within a tenant
    trunks: Mapping[str, Trunk]
    rates: Mapping[str, Rate]
    campaigns: Mapping[str, Campaign]
    dids_by_number: Mapping[str, Did]
    targets: Mapping[str, Target]
    rules_by_campaign: Mapping[str, Sequence[Rule]]
    caps: Mapping[str, ZonedCap]
    caps_by_scope: Mapping[tuple[CapScope, str], Sequence[ZonedCap]]
    settings_by_tenant: Mapping[str, Settings] = field(default_factory=dict)

    def settings(self, tenant_id: str) -> Settings:
        """The settings in force for a tenant."""
        return self.settings_by_tenant.get(tenant_id) or Settings()

    def first_tenant_id(self) -> str:
        """Whom calls belong to that nobody's DID or trunk claims."""
        return min(self.tenants.values(), key=lambda t: (t.created_ms, t.id)).id

    def scoped(self, scope: CapScope, scope_id: str | None) -> Sequence[ZonedCap]:
        """The caps on one entity, in the order they are checked."""
        return self.caps_by_scope.get((scope, scope_id), ()) if scope_id else ()


@dataclass(frozen=True, slots=True)
class _Index:
    sellers: Mapping[str, Seller]
    campaigns: Mapping[str, Campaign]
    dids: Mapping[str, Did]
    rules: Mapping[str, Rule]
    targets: Mapping[str, Target]
    trunks: Mapping[str, Trunk]


def _settings_by_tenant(rows: Iterable[Setting]) -> dict[str, Settings]:
    grouped: dict[str, list[Setting]] = defaultdict(list)
    for row in rows:
        grouped[row.tenant_id].append(row)
    return {tenant_id: settings_of(group) for tenant_id, group in grouped.items()}


def _subject_and_zone(cap: Cap, rows: _Index, settings: Settings) -> tuple[str, str]:
    """Name of the limited entity, and the zone of its windows: the seller's where there is one."""
    match cap.scope:
        case CapScope.SELLER:
            seller = rows.sellers[cap.scope_id]
            return seller.name, seller.timezone
        case CapScope.CAMPAIGN:
            campaign = rows.campaigns[cap.scope_id]
            return campaign.name, rows.sellers[campaign.seller_id].timezone
        case CapScope.DID:
            did = rows.dids[cap.scope_id]
            return did.number, rows.sellers[did.seller_id].timezone if did.seller_id else settings.timezone
        case CapScope.RULE:
            rule = rows.rules[cap.scope_id]
            campaign = rows.campaigns[rule.campaign_id]
            name = f"{campaign.name}/{rows.targets[rule.target_id].name}"
            return name, rows.sellers[campaign.seller_id].timezone
        case CapScope.TARGET:
            return rows.targets[cap.scope_id].name, settings.timezone
        case CapScope.TRUNK:
            return rows.trunks[cap.scope_id].name, settings.timezone
        case CapScope.SYSTEM:
            return "system", settings.timezone


def build_estate(version: int, rows: Rows) -> Estate:
    """The snapshot of `rows`. Caps keep one order everywhere: by metric, window, id."""
    settings = _settings_by_tenant(rows.settings)
    index = _Index(
        sellers={s.id: s for s in rows.sellers},
        campaigns={c.id: c for c in rows.campaigns},
        dids={d.id: d for d in rows.dids},
        rules={r.id: r for r in rows.rules},
        targets={t.id: t for t in rows.targets},
        trunks={t.id: t for t in rows.trunks},
    )
    caps_by_scope: dict[tuple[CapScope, str], list[ZonedCap]] = defaultdict(list)
    caps: dict[str, ZonedCap] = {}
    for cap in sorted(rows.caps, key=lambda c: (c.metric, c.window_kind, c.id)):
        subject, zone = _subject_and_zone(cap, index, settings.get(cap.tenant_id) or Settings())
        caps[cap.id] = ZonedCap(cap=cap, zone=zone, subject=subject)
        caps_by_scope[(cap.scope, cap.scope_id)].append(caps[cap.id])
    rules_by_campaign: dict[str, list[Rule]] = defaultdict(list)
    for rule in sorted(rows.rules, key=lambda r: (r.priority, r.id)):
        rules_by_campaign[rule.campaign_id].append(rule)
    trunks_by_name: dict[str, list[Trunk]] = defaultdict(list)
    for trunk in sorted(rows.trunks, key=lambda t: (t.created_ms, t.id)):
        trunks_by_name[trunk.name].append(trunk)
    return Estate(
        version=version,
        tenants={t.id: t for t in rows.tenants},
        sellers=index.sellers,
        trunks_by_name=trunks_by_name,
        trunks=index.trunks,
        rates={r.id: r for r in rows.rates},
        campaigns=index.campaigns,
        dids_by_number={d.number: d for d in rows.dids},
        targets=index.targets,
        rules_by_campaign=rules_by_campaign,
        caps=caps,
        caps_by_scope=caps_by_scope,
        settings_by_tenant=settings,
    )
