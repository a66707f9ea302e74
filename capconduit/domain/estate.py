"""The estate as one immutable snapshot, indexed the way a decision reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from capconduit.domain.blocklist import Blocklist
from capconduit.domain.books import CounterKey
from capconduit.domain.dialing import dial_string
from capconduit.domain.model import (
    Block,
    Campaign,
    Cap,
    Did,
    Rate,
    Rule,
    Schedule,
    Seller,
    Setting,
    Target,
    Tenant,
    Trunk,
)
from capconduit.domain.rating import Tariff, minimum_micros
from capconduit.domain.schedules import Opening, parse_holidays, parse_hours
from capconduit.domain.settings import Settings, settings_of
from capconduit.domain.tariffs import dump_tariff, tariff_of
from capconduit.domain.windows import CPS_BUCKET_MS, CPS_WINDOW_MS, bucket_ms
from capconduit.units import format_span
from capconduit.vocab import RESERVED_METRICS, CapMetric, CapScope, WindowKind

_DEFAULTS = Settings()


@dataclass(frozen=True, slots=True)
class ZonedCap:
    """A cap with the time zone its windows follow and the name of what it limits; `check` and `window` are how a
    decision's trace names it. One that `reserves` counts minutes or spend, one that `ticks` calls per second.

    One that looks back from now (a rolling window, calls per second) counts in buckets of `bucket_ms` and looks back
    `rolling_ms`; both are 0 for the others.
    """

    cap: Cap
    zone: str
    subject: str
    check: str
    window: str
    rolling_ms: int = 0
    bucket_ms: int = 0
    reserves: bool = False
    ticks: bool = False
    # Its window, or bucket, that was asked for last, from inclusive, to exclusive, with the key of the counter: most
    # decisions of a day lie in the same one.
    recent: list[tuple[int, int, CounterKey]] = field(default_factory=lambda: [(0, 0, ("", 0))], compare=False)


@dataclass(frozen=True, slots=True)
class Offer:
    """A rule made ready for decisions: its target, what a call there costs and pays out, how it is dialled, its caps.

    `priced` and `paid` are the tariffs as they are kept with an attempt.
    """

    rule: Rule
    target: Target
    dial: str
    rate_id: str
    tariff: Tariff
    payout: Tariff | None
    priced: str
    paid: str
    opening: Opening | None
    caps: Sequence[ZonedCap]

    @property
    def enabled(self) -> bool:
        """Whether the operator wants calls to go here."""
        return self.rule.enabled and self.target.enabled


@dataclass(frozen=True, slots=True)
class Offers:
    """A campaign's offers in the order of their rules, and the least that a call to any enabled one needs."""

    all: Sequence[Offer]
    least_micros: int
    least_s: int


@dataclass(frozen=True, slots=True)
class Way:
    """Where a number that is dialled on a trunk leads; see ways.py.

    `number` is in E.164, or as received where it is none; `region` is that of national numbers on the trunk; `trunk` is
    the one that the call counts for. `caps` hold for the call as a whole, in the order they are checked; `every_cap`
    has those of the campaign's targets, too. A number that is nobody's, or is assigned to nobody, has no more.
    """

    number: str
    region: str
    tenant_id: str
    did: Did | None
    trunk: Trunk | None
    campaign: Campaign | None = None
    seller: Seller | None = None
    caps: Sequence[tuple[CapScope, Sequence[ZonedCap]]] = ()
    every_cap: Sequence[ZonedCap] = ()


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
    schedules: Sequence[Schedule] = ()
    blocks: Sequence[Block] = ()


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
    openings: Mapping[str, Opening]  # by the schedule's id
    blocklist: Blocklist[Block]
    rows: Rows  # what it was built from
    settings_by_tenant: Mapping[str, Settings] = field(default_factory=dict)
    ways: dict[tuple[str, str], Way] = field(default_factory=dict)  # by trunk and number, made when first asked for
    _offers: dict[str, Offers] = field(default_factory=dict)  # likewise

    def opening(self, schedule_id: str | None) -> Opening | None:
        """A schedule made ready; None: always open."""
        return self.openings[schedule_id] if schedule_id else None

    def offers(self, campaign: Campaign) -> Offers:
        """What a campaign's calls can be forwarded to."""
        known = self._offers.get(campaign.id)
        if known is None:
            known = self._offers[campaign.id] = _make_offers(self, campaign)
        return known

    def settings(self, tenant_id: str) -> Settings:
        """The settings in force for a tenant."""
        return self.settings_by_tenant.get(tenant_id, _DEFAULTS)

    def first_tenant_id(self) -> str:
        """Whom calls belong to that nobody's DID or trunk claims."""
        return min(self.tenants.values(), key=lambda t: (t.created_ms, t.id)).id

    def scoped(self, scope: CapScope, scope_id: str | None) -> Sequence[ZonedCap]:
        """The caps on one entity, in the order they are checked."""
        return self.caps_by_scope.get((scope, scope_id), ()) if scope_id else ()


def _make_offers(estate: Estate, campaign: Campaign) -> Offers:
    offers = [_make_offer(estate, campaign, rule) for rule in estate.rules_by_campaign.get(campaign.id, ())]
    tariffs = [o.tariff for o in offers if o.enabled]
    if not tariffs:
        tariffs = [tariff_of(estate.rates[campaign.rate_id])]
    return Offers(offers, min(minimum_micros(t) for t in tariffs), min(t.first_s for t in tariffs))


def _make_offer(estate: Estate, campaign: Campaign, rule: Rule) -> Offer:
    """A rule's own rates stand before its target's, those before the campaign's; another currency than the seller's is
    passed by (a target may serve sellers of several)."""
    target, currency = estate.targets[rule.target_id], estate.sellers[campaign.seller_id].currency

    def chosen(*rate_ids: str | None) -> Rate | None:
        rates = (estate.rates[rate_id] for rate_id in rate_ids if rate_id)
        return next((rate for rate in rates if rate.currency == currency), None)

    rate = chosen(rule.rate_id, target.rate_id) or estate.rates[campaign.rate_id]
    paid = chosen(rule.payout_rate_id, target.payout_rate_id)
    tariff = tariff_of(rate, campaign.billable_threshold_ms)
    payout = tariff_of(paid, campaign.billable_threshold_ms) if paid else None
    return Offer(
        rule=rule,
        target=target,
        dial=dial_string(target),
        rate_id=rate.id,
        tariff=tariff,
        payout=payout,
        priced=dump_tariff(tariff),
        paid=dump_tariff(payout) if payout else "",
        opening=estate.opening(target.schedule_id),
        caps=(*estate.scoped(CapScope.TARGET, rule.target_id), *estate.scoped(CapScope.RULE, rule.id)),
    )


def zone_cap(cap: Cap, zone: str, subject: str) -> ZonedCap:
    """A cap made ready for counting."""
    rolling_ms = width_ms = 0
    if cap.metric is CapMetric.CPS:
        rolling_ms, width_ms = CPS_WINDOW_MS, CPS_BUCKET_MS
    elif cap.window_kind is WindowKind.ROLLING:
        rolling_ms, width_ms = cap.window_ms, bucket_ms(cap.window_ms)
    check, window = f"cap.{cap.scope}", window_text(cap) or cap.window_kind
    return ZonedCap(
        cap, zone, subject, check, window, rolling_ms, width_ms,
        reserves=cap.metric in RESERVED_METRICS, ticks=cap.metric is CapMetric.CPS,
    )  # fmt: skip


def window_text(cap: Cap) -> str:
    """The window as operators write it: `day`, `rolling:1h`; empty for concurrent and cps."""
    if cap.window_kind is WindowKind.ROLLING:
        return f"{WindowKind.ROLLING}:{format_span(cap.window_ms)}"
    return "" if cap.window_kind is WindowKind.NONE else cap.window_kind


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
    for cap in sorted(rows.caps, key=lambda c: (c.metric, c.window_kind, c.window_ms, c.id)):
        subject, zone = _subject_and_zone(cap, index, settings.get(cap.tenant_id) or Settings())
        caps[cap.id] = zone_cap(cap, zone, subject)
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
        openings={s.id: Opening(s.timezone, parse_hours(s.hours), parse_holidays(s.holidays)) for s in rows.schedules},
        blocklist=Blocklist(rows.blocks),
        rows=rows,
        settings_by_tenant=settings,
    )
