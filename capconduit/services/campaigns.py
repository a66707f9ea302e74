"""Campaigns: a seller's streams of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.model import Campaign, Did, Rate, Rule, Schedule, Seller
from capconduit.errors import Refused, UsageError
from capconduit.services.blocks import remove_blocks_of
from capconduit.services.caps import remove_caps_of
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.rates import check_same_currency
from capconduit.services.schedules import schedule_or_none
from capconduit.units import MS_PER_SECOND, format_span
from capconduit.vocab import Attestation, CampaignStatus, CapScope, Strategy

DEFAULT_RING_BUDGET_MS: Final = 90_000
DEFAULT_MAX_DURATION_MS: Final = 4 * 3_600_000
MAX_DURATION_MS: Final = 24 * 3_600_000
MAX_ATTEMPTS: Final = 20
_DAY_MS: Final = 86_400_000
MAX_DUPLICATE_WINDOW_MS: Final = 366 * _DAY_MS
ANONYMOUS_POLICIES: Final = ("allow", "reject")  # of a campaign or a setting; a campaign's may be empty


@dataclass(frozen=True, slots=True)
class CampaignView:
    """A campaign with the names of its seller, rate and schedule (empty: always open), and how many DIDs and rules it
    has."""

    campaign: Campaign
    seller: str
    rate: str
    schedule: str
    dids: int
    rules: int


def check_numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """The campaign's numbers within their bounds. Raises UsageError."""
    bounds: dict[str, tuple[int, int, str, Callable[[int], str]]] = {
        "max_attempts": (1, MAX_ATTEMPTS, "targets to try", str),
        "ring_budget_ms": (1_000, 600_000, "of ringing", format_span),
        "max_duration_ms": (1_000, MAX_DURATION_MS, "of talk", format_span),
        "billable_threshold_ms": (0, 3_600_000, "of talk", format_span),
    }
    for name, (low, high, what, words) in bounds.items():
        if name in fields and not low <= fields[name] <= high:
            raise UsageError(
                "number-out-of-range",
                f"{words(fields[name])} {what} is out of range",
                f"give {words(low)} to {words(high)}",
            )
    window_ms = fields.get("duplicate_window_ms", 0)
    if window_ms and not MS_PER_SECOND <= window_ms <= MAX_DUPLICATE_WINDOW_MS:
        raise UsageError(
            "duplicate-window-invalid",
            f"callers cannot be kept out for {format_span(window_ms)}",
            f"give 1s to {MAX_DUPLICATE_WINDOW_MS // _DAY_MS}d, or none",
        )
    return fields


def check_policies(fields: dict[str, Any]) -> None:
    """Who may call: words that exist, or empty for what the settings say. Raises UsageError."""
    for name, words in (("anonymous_callers", ANONYMOUS_POLICIES), ("min_attestation", tuple(Attestation))):
        if fields.get(name, "") not in ("", *words):
            raise UsageError("policy-invalid", f"{fields[name]!r} is not possible here", f"use {', '.join(words)}")


def add_campaign(
    office: Office,
    name: str,
    *,
    seller: str,
    rate: str,
    strategy: Strategy = Strategy.PRIORITY,
    billable_threshold_ms: int = 0,
    max_attempts: int | None = None,
    ring_budget_ms: int = DEFAULT_RING_BUDGET_MS,
    max_duration_ms: int = DEFAULT_MAX_DURATION_MS,
    schedule: str = "",
    duplicate_window_ms: int = 0,
    anonymous_callers: str = "",
    min_attestation: str = "",
) -> CampaignView:
    """A new, active campaign. Raises UsageError, NotFound, Refused (the rate is kept in another currency)."""
    check_name("campaign", name)
    check_policies({"anonymous_callers": anonymous_callers, "min_attestation": min_attestation})

    def work(desk: Desk) -> CampaignView:
        seller_row, rate_row = desk.named(Seller, seller), desk.named(Rate, rate)
        check_same_currency(seller_row, rate_row)
        schedule_row = schedule_or_none(desk, schedule)
        numbers = check_numbers(
            {
                "billable_threshold_ms": billable_threshold_ms,
                "max_attempts": desk.settings().default_max_attempts if max_attempts is None else max_attempts,
                "ring_budget_ms": ring_budget_ms,
                "max_duration_ms": max_duration_ms,
                "duplicate_window_ms": duplicate_window_ms,
            }
        )
        campaign = Campaign(
            **desk.stamp(),
            name=name,
            seller_id=seller_row.id,
            rate_id=rate_row.id,
            status=CampaignStatus.ACTIVE,
            strategy=strategy,
            schedule_id=schedule_row.id if schedule_row else None,
            anonymous_callers=anonymous_callers,
            min_attestation=min_attestation,
            **numbers,
        )
        desk.add("campaign", campaign)
        return _view(desk, campaign)

    return office.change(work)


def list_campaigns(office: Office) -> Sequence[CampaignView]:
    """All campaigns by name."""

    def work(desk: Desk) -> Sequence[CampaignView]:
        names = _Names(desk)
        return [names.view(c) for c in sorted(desk.tx.rows(Campaign, desk.tenant_id), key=lambda c: c.name)]

    return office.read(work)


def show_campaign(office: Office, name: str) -> CampaignView:
    """One campaign. Raises NotFound."""
    return office.read(lambda desk: _view(desk, desk.named(Campaign, name)))


def set_campaign(
    office: Office, name: str, *, rate: str | None = None, schedule: str | None = None, **fields: Any
) -> CampaignView:
    """Change the rate, schedule (empty: none), strategy, status, numbers or policies; live calls keep what they began
    with."""
    check_numbers(fields)
    check_policies(fields)

    def work(desk: Desk) -> CampaignView:
        campaign = desk.named(Campaign, name)
        changed = replace(campaign, **fields, updated_ms=desk.now_ms)
        if rate is not None:
            rate_row = desk.named(Rate, rate)
            seller = desk.tx.find(Seller, desk.tenant_id, id=campaign.seller_id)
            assert seller is not None  # a foreign key holds it
            check_same_currency(seller, rate_row)
            changed = replace(changed, rate_id=rate_row.id)
        if schedule is not None:
            schedule_row = schedule_or_none(desk, schedule)
            changed = replace(changed, schedule_id=schedule_row.id if schedule_row else None)
        desk.change("campaign", campaign, changed)
        return _view(desk, changed)

    return office.change(work)


def pause_campaign(office: Office, name: str, *, paused: bool) -> CampaignView:
    """Stop a campaign from taking new calls, or let it again; live calls go on."""
    return set_campaign(office, name, status=CampaignStatus.PAUSED if paused else CampaignStatus.ACTIVE)


def remove_campaign(office: Office, name: str) -> None:
    """Remove a campaign without DIDs, rules and live calls. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        campaign = desk.named(Campaign, name)
        if desk.tx.live_call_keys(desk.tenant_id, campaign_id=campaign.id):
            raise Refused("campaign-in-use", f"campaign {name!r} has live calls", "pause it and wait for their end")
        remove_caps_of(desk, CapScope.CAMPAIGN, campaign.id)
        remove_blocks_of(desk, CapScope.CAMPAIGN, campaign.id)
        desk.remove("campaign", campaign, "release its DIDs and remove its rules first")

    office.change(work)


class _Names:
    """What campaigns (or `one`) refer to and what refers to them, read once."""

    def __init__(self, desk: Desk, one: Campaign | None = None) -> None:
        of: dict[str, Any] = {"campaign_id": one.id} if one else {}
        rows = desk.tx.rows
        self._sellers = {s.id: s.name for s in rows(Seller, desk.tenant_id, **_by_id(one.seller_id if one else ""))}
        self._rates = {r.id: r.name for r in rows(Rate, desk.tenant_id, **_by_id(one.rate_id if one else ""))}
        self._schedules = {s.id: s.name for s in rows(Schedule, desk.tenant_id)}
        self._dids: dict[str | None, int] = {}
        self._rules: dict[str | None, int] = {}
        for did in rows(Did, desk.tenant_id, **of):
            self._dids[did.campaign_id] = self._dids.get(did.campaign_id, 0) + 1
        for rule in rows(Rule, desk.tenant_id, **of):
            self._rules[rule.campaign_id] = self._rules.get(rule.campaign_id, 0) + 1

    def view(self, campaign: Campaign) -> CampaignView:
        return CampaignView(
            campaign,
            self._sellers[campaign.seller_id],
            self._rates[campaign.rate_id],
            self._schedules.get(campaign.schedule_id or "", ""),
            self._dids.get(campaign.id, 0),
            self._rules.get(campaign.id, 0),
        )


def _by_id(row_id: str) -> dict[str, Any]:
    return {"id": row_id} if row_id else {}


def _view(desk: Desk, campaign: Campaign) -> CampaignView:
    return _Names(desk, campaign).view(campaign)
