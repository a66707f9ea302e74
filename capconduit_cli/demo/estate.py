"""The demo's estate: two sellers, five DIDs, three campaigns and six targets, with caps for the traffic to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from capconduit.domain.windows import window_end_ms, window_start_ms
from capconduit.services import balances, campaigns, caps, dids, rates, sellers, settings, targets, trunks
from capconduit.services.office import Office
from capconduit.vocab import CapMetric, CapScope, Strategy, TargetKind, TrunkKind, WindowKind

ACME, ZENITH = "acme", "zenith"
SOLAR, ROOFING, LEGAL = "solar", "roofing", "legal"
SUNHAUS, BRIGHTCO, ROOFPRO, SHINGLE, LEXLINE, OVERFLOW = (
    "sunhaus", "brightco", "roofpro", "shingle", "lexline", "overflow",
)  # fmt: skip
CARRIER, BACKUP = "carrier", "backup"
EUR_PLAIN, EUR_STEPS = "eur-second", "eur-six"

# Numbers of the ranges that are kept for fiction: nobody can be called by them.
SOLAR_DID, ROOFING_DID, LEGAL_DID = "+12125550101", "+13125550102", "+442079460103"
TRIAL_DID, SPARE_DID = "+12125550104", "+18005550105"
UNKNOWN_DID = "+18005550199"

OPENING_MICROS: Final = {ACME: 40_000_000, ZENITH: 5_000_000}
SLICE_S: Final = 2  # short, so that holds are seen to grow while a call lasts
THRESHOLD_MS: Final = 1_000  # of solar: shorter calls cost nothing
MIN_RING_MS: Final = 1_000

SYSTEM_CALLS: Final = 14
ACME_CALLS: Final = 10
BACKUP_CALLS: Final = 2
ROOFING_CALLS: Final = 4
LEXLINE_CALLS: Final = 2
OVERFLOW_CONNECTED: Final = 3
TRIAL_ATTEMPTS: Final = 5
SOLAR_BILLABLE: Final = 60

# A day's caps must not begin a new day while the demo runs: each seller is where midnight is far.
_NIGHT_MS: Final = 600_000
_ZONES: Final = {
    ACME: ("America/New_York", "America/Los_Angeles"),
    ZENITH: ("Europe/London", "Asia/Dubai"),
}

# Where the targets are; with a real Asterisk others, where something answers.
INVENTED_TARGETS: Final[Mapping[str, tuple[TargetKind, str]]] = {
    SUNHAUS: (TargetKind.PJSIP, "sip:sales@sunhaus.example"),
    BRIGHTCO: (TargetKind.PJSIP, "sip:queue@brightco.example:5080"),
    ROOFPRO: (TargetKind.PJSIP, "roofpro"),
    SHINGLE: (TargetKind.IAX2, "shingle/300"),
    LEXLINE: (TargetKind.PJSIP, "sip:intake@lexline.example"),
    OVERFLOW: (TargetKind.EXTENSION, "600@overflow"),
}

_RULES: Final = (
    # campaign, target, priority, weight
    (SOLAR, SUNHAUS, 1, 1),
    (SOLAR, BRIGHTCO, 2, 1),
    (SOLAR, OVERFLOW, 3, 1),
    (ROOFING, ROOFPRO, 1, 1),
    (ROOFING, SHINGLE, 1, 3),
    (LEGAL, LEXLINE, 1, 1),
    (LEGAL, OVERFLOW, 2, 1),
)


def awake_zone(zones: Sequence[str], now_ms: int) -> str:
    """The first of `zones` where midnight is far; the last one where none is."""
    for zone in zones:
        since_ms = now_ms - window_start_ms(WindowKind.DAY, now_ms, zone)
        left_ms = window_end_ms(WindowKind.DAY, now_ms, zone) - now_ms
        if min(since_ms, left_ms) > _NIGHT_MS:
            return zone
    return zones[-1]


def build_estate(office: Office, addresses: Mapping[str, tuple[TargetKind, str]] = INVENTED_TARGETS) -> None:
    """Make everything in an empty, prepared database, as an operator would. `addresses`: where each target is."""
    settings.set_setting(office, "funding_slice_s", str(SLICE_S))
    settings.set_setting(office, "anonymous_callers", "reject")
    _sellers(office)
    _selling(office)
    for name, (kind, address) in addresses.items():
        targets.add_target(office, name, kind=kind, address=address, ring_ms=MIN_RING_MS)
    for campaign, target, priority, weight in _RULES:
        targets.add_rule(office, campaign, target, priority=priority, weight=weight)
    _numbers(office)
    _caps(office)


def _sellers(office: Office) -> None:
    for name, currency in ((ACME, "USD"), (ZENITH, "EUR")):
        zone = awake_zone(_ZONES[name], office.clock.now_ms())
        sellers.add_seller(office, name, currency=currency, timezone=zone)
        balances.adjust(office, name, OPENING_MICROS[name], reason="opening payment")


def _selling(office: Office) -> None:
    rates.add_rate(office, "usd-second", per_minute_micros=600_000, increment="1/1")
    rates.add_rate(office, "usd-six", per_minute_micros=1_200_000, connect_fee_micros=50_000, increment="6/6")
    rates.add_rate(office, EUR_PLAIN, per_minute_micros=600_000, increment="1/1", currency="EUR")
    rates.add_rate(
        office, EUR_STEPS, per_minute_micros=1_200_000, connect_fee_micros=50_000, increment="6/6", currency="EUR"
    )
    campaigns.add_campaign(office, SOLAR, seller=ACME, rate="usd-second", billable_threshold_ms=THRESHOLD_MS)
    campaigns.add_campaign(office, ROOFING, seller=ACME, rate="usd-six", strategy=Strategy.WEIGHTED)
    campaigns.add_campaign(office, LEGAL, seller=ZENITH, rate=EUR_PLAIN)


def _numbers(office: Office) -> None:
    trunks.add_trunk(office, CARRIER, kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
    trunks.add_trunk(office, BACKUP, kind=TrunkKind.IAX2, hosts=["127.0.0.1"])
    for number, campaign in (
        (SOLAR_DID, SOLAR),
        (ROOFING_DID, ROOFING),
        (LEGAL_DID, LEGAL),
        (TRIAL_DID, SOLAR),
        (SPARE_DID, ""),
    ):
        dids.add_did(office, number, trunk=CARRIER, campaign=campaign)


def _caps(office: Office) -> None:
    concurrent, none = CapMetric.CONCURRENT, WindowKind.NONE
    for scope, name, metric, window, value in (
        (CapScope.SYSTEM, "", concurrent, none, SYSTEM_CALLS),
        (CapScope.SELLER, ACME, concurrent, none, ACME_CALLS),
        (CapScope.TRUNK, BACKUP, concurrent, none, BACKUP_CALLS),
        (CapScope.CAMPAIGN, ROOFING, concurrent, none, ROOFING_CALLS),
        (CapScope.TARGET, LEXLINE, concurrent, none, LEXLINE_CALLS),
        (CapScope.RULE, f"{LEGAL}/{OVERFLOW}", CapMetric.CONNECTED, WindowKind.DAY, OVERFLOW_CONNECTED),
        (CapScope.DID, TRIAL_DID, CapMetric.ATTEMPTS, WindowKind.TOTAL, TRIAL_ATTEMPTS),
        (CapScope.CAMPAIGN, SOLAR, CapMetric.BILLABLE, WindowKind.DAY, SOLAR_BILLABLE),
    ):
        caps.set_caps(office, scope, name, [caps.Limit(metric, window, value)])
