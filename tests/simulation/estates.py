"""Random estates: small enough to be full often, with everything that can be configured somewhere in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from capconduit.domain.model import Campaign
from capconduit.services.caps import Limit
from capconduit.vocab import ATTEMPT_SCOPES, CapMetric, CapScope, DidStatus, Strategy, WindowKind
from tests.simulation.reference import HOURS
from tests.unit.estate_builder import DOLLAR, TENANT, EstateBuilder

HOUR_MS = 3_600_000
WIDE = 10**12
ZONES = ("America/New_York", "America/New_York", "America/Havana", "Asia/Kolkata", "Australia/Lord_Howe")
CALENDAR = (WindowKind.HOUR, WindowKind.DAY, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH, WindowKind.TOTAL)
COUNTING = (CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)
ROLLING_MS = (10_000, 60_000, 600_000, HOUR_MS)
# Callers that come again: numbers, a withheld one, one that is no number.
CALLERS = (*(f"+1212555{n:04}" for n in range(120, 160)), "anonymous", "", "1001", "+442071838750", "2125550121")
PATTERNS = ("+12125550121", "+4420*", "+121255501?1", "+1212555012*", "+121255501?5", "anonymous", "1001")
ATTESTATIONS = (
    ("A", ""), ("B", "TN-Validation-Passed"), ("C", ""), ("", ""), ("", "TN-Validation-Passed-A"),
    ("A", "TN-Validation-Failed"), ("", "No-TN-Validation"),
)  # fmt: skip


@dataclass(frozen=True)
class Scoped:
    """Something that can be limited: its scope, the name the operator uses, its id."""

    scope: CapScope
    name: str
    id: str


def scopes(b: EstateBuilder) -> list[Scoped]:
    """Everything that can be limited."""
    return [
        Scoped(CapScope.SYSTEM, "", TENANT),
        *(Scoped(CapScope.SELLER, s.name, s.id) for s in b.sellers),
        *(Scoped(CapScope.CAMPAIGN, c.name, c.id) for c in b.campaigns),
        *(Scoped(CapScope.TARGET, t.name, t.id) for t in b.targets),
        *(Scoped(CapScope.RULE, r.id, r.id) for r in b.rules),
        *(Scoped(CapScope.DID, d.number, d.id) for d in b.dids),
        *(Scoped(CapScope.TRUNK, t.name, t.id) for t in b.trunks),
    ]


def some_limit(rng: random.Random) -> Limit:
    """A limit of any kind; often one that fills at once."""
    metric = rng.choice([CapMetric.CONCURRENT, CapMetric.CONCURRENT, *CapMetric])
    if metric is CapMetric.CONCURRENT:
        return Limit(metric, WindowKind.NONE, rng.choice([0, 1, 2, 4, 8, 8, 20, 20, 50, 50]))
    if metric is CapMetric.CPS:
        return Limit(metric, WindowKind.NONE, rng.choice([1, 2, 3, 5, 9]))
    value = {
        CapMetric.MINUTES: rng.choice([29, 60, 200, 1_000, 1_000, 10_000, 10_000]),
        CapMetric.SPEND: rng.choice([99_999, DOLLAR, 5 * DOLLAR, 50 * DOLLAR, 500 * DOLLAR]),
    }.get(metric, rng.choice([0, 1, 3, 9, 30, 30, 80, 80]))
    if rng.random() < 0.35:
        return Limit(metric, WindowKind.ROLLING, value, rng.choice(ROLLING_MS))
    return Limit(metric, rng.choice(CALENDAR), value)


Wide = tuple[CapScope, CapMetric, WindowKind]  # a cap on everything of a scope that is hardly ever full


def make_estate(rng: random.Random, now_ms: int, wide: Sequence[Wide] = ()) -> EstateBuilder:
    """An estate. Ids are names; see EstateBuilder."""
    b = EstateBuilder(now_ms=now_ms)
    b.setting("funding_slice_s", rng.choice([6, 30, 60, 60, 180]))
    b.setting("timezone", rng.choice(["UTC", "America/New_York", "America/Havana"]))
    b.setting("breaker_failures", rng.choice([0, 2, 3, 5]))
    b.setting("breaker_rest_s", rng.choice([5, 30, 60]))
    for policy in ("anonymous_callers", "invalid_callers"):
        b.setting(policy, rng.choice(["allow", "allow", "allow", "reject"]))
    b.setting("min_attestation", rng.choice([*[""] * 9, "C"]))
    b.trunk("carrier")
    b.trunk("spare", region="US")
    for hours in rng.sample(sorted(HOURS), 3):
        b.schedule(f"s{len(b.schedules)}", hours=hours, timezone=rng.choice(ZONES))
    for name in ("acme", "zenith", "apex"):
        b.seller(
            name,
            balance=rng.choice([0, 150_000, DOLLAR, 20 * DOLLAR, *[10_000 * DOLLAR] * 6]),
            credit=rng.choice([0, 0, DOLLAR]),
            timezone=rng.choice(ZONES),
            low_balance_micros=rng.choice([0, DOLLAR]),
        )
    _rates(rng, b)
    schedules = [*[None] * 15, *(s.id for s in b.schedules)]
    overrides = [None, None, None, "rate0", "rate1", "rate2", "euro"]
    for i in range(5):
        b.target(
            f"buyer{i}", campaign=None, ring_ms=rng.choice([3_000, 8_000, 20_000]),
            address=rng.choice([f"sip:buyer{i}@127.0.0.1:5080", f"buyer{i}"]),
            schedule_id=rng.choice(schedules), rate_id=rng.choice(overrides), payout_rate_id=rng.choice(overrides),
            enabled=rng.random() < 0.95,
        )  # fmt: skip
    for i, seller in enumerate(("acme", "acme", "zenith", "apex")):
        _campaign(rng, b, f"campaign{i}", seller, schedules, overrides)
    b.did("+18005550198", None)
    b.did("+18005550199", "campaign0", status=DidStatus.SUSPENDED)
    for pattern in rng.sample(PATTERNS, rng.randrange(4)):
        scoped = rng.choice([s for s in scopes(b) if s.scope in (CapScope.SYSTEM, CapScope.SELLER, CapScope.CAMPAIGN)])
        b.block(pattern, scoped.scope, scoped.id, expires_ms=rng.choice([None, now_ms + 120_000]))
    limited = rng.choice([0, 1, 2, 4, 6, 8])
    for per_attempt in (False, True):
        side = [s for s in scopes(b) if (s.scope in ATTEMPT_SCOPES) is per_attempt]
        for scoped in rng.sample(side, min(limited, len(side))):
            _cap(rng, b, scoped)
    for scope, metric, window in wide:
        for scoped in (s for s in scopes(b) if s.scope is scope):
            if (scope, scoped.id, metric, window) not in {
                (c.scope, c.scope_id, c.metric, c.window_kind) for c in b.caps
            }:
                row = b.cap(scope, scoped.id, metric, WIDE, window)
                b.caps[-1] = replace(row, id=f"wide:{scope}:{scoped.id}:{metric}:{window}")
    return b


def _rates(rng: random.Random, b: EstateBuilder) -> None:
    for i, (first_s, step_s) in enumerate(rng.sample([(60, 60), (30, 6), (6, 6), (1, 1)], 3)):
        b.rate(
            f"rate{i}", first_s=first_s, step_s=step_s,
            per_minute_micros=rng.choice([0, 59, 200_000, 333_333, DOLLAR]),
            connect_fee_micros=rng.choice([0, 0, 50_000]),
            then_after_s=rng.choice([0, 0, 20, 60, 90]),
            then_per_minute_micros=rng.choice([0, 100_000, 2 * DOLLAR]),
        )  # fmt: skip
    b.rate("euro", currency="EUR", per_minute_micros=DOLLAR)


def _campaign(
    rng: random.Random, b: EstateBuilder, name: str, seller: str, schedules: list[str | None], rates: list[str | None]
) -> Campaign:
    campaign = b.campaign(
        name, seller, rng.choice(["rate0", "rate1", "rate2"]),
        strategy=rng.choice([*Strategy, Strategy.RING_ALL]),
        billable_threshold_ms=rng.choice([0, 0, 10_000, 30_000]),
        max_attempts=rng.choice([1, 2, 3, 5, 5]),
        ring_budget_ms=rng.choice([10_000, 90_000]),
        max_duration_ms=rng.choice([45_000, 90_000, HOUR_MS // 3, HOUR_MS // 3]),
        schedule_id=rng.choice(schedules),
        duplicate_window_ms=rng.choice([0, 0, 0, 0, 20_000, 600_000]),
        anonymous_callers=rng.choice(["", "", "allow", "reject"]),
        min_attestation=rng.choice([*[""] * 8, "A", "B"]),
    )  # fmt: skip
    b.did(f"+1800555010{name[-1]}", name, trunk="carrier")
    for target in rng.sample([t.name for t in b.targets], rng.choice([1, 2, 3, 4])):
        b.rule(
            name, target, priority=rng.randrange(3), weight=rng.randrange(4),
            rate_id=rng.choice(rates), payout_rate_id=rng.choice(rates),
        )  # fmt: skip
    return campaign


def _cap(rng: random.Random, b: EstateBuilder, scoped: Scoped) -> None:
    limit = some_limit(rng)
    row = b.cap(scoped.scope, scoped.id, limit.metric, limit.value or 0, limit.window, limit.window_ms)
    b.caps[-1] = replace(row, id=f"c{len(b.caps)}:{scoped.scope}:{scoped.id}:{limit.metric}:{limit.window}")
