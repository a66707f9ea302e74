"""The decision: which target, or why none. A pure function of the request, the estate, what is used, and the instant.

The order of the checks is the order of the reject codes: the first that fails on the caller's or seller's side rejects
the call; on a target's side it skips the target. The trace keeps every check with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from capconduit.domain.books import CounterKey
from capconduit.domain.calls import RouteRequest
from capconduit.domain.estate import Estate, ZonedCap
from capconduit.domain.model import Account, Campaign, Counter, Did, Rate, Rule, Seller, Trunk
from capconduit.domain.numbers import is_anonymous, to_e164
from capconduit.domain.rating import Funding, Tariff, fund, minimum_micros
from capconduit.domain.settings import Settings
from capconduit.domain.strategies import Candidate, order
from capconduit.domain.trace import Check
from capconduit.domain.windows import window_start_ms
from capconduit.vocab import CampaignStatus, CapScope, DidStatus, RejectCode, Status, WindowKind


class Usage(Protocol):
    """What is used, as a decision reads it."""

    def account(self, seller_id: str) -> Account:
        """The seller's account."""
        ...

    def counter(self, tenant_id: str, key: CounterKey) -> Counter:
        """The counter of a cap's window."""
        ...


@dataclass(slots=True)
class Decision:
    """What was decided. `reject` None: dial the first of `candidates`. `places` are the call's own, to be taken."""

    tenant_id: str
    did_number: str
    caller_e164: str
    did: Did | None = None
    trunk: Trunk | None = None
    seller: Seller | None = None
    campaign: Campaign | None = None
    rate: Rate | None = None
    funding: Funding | None = None
    places: list[CounterKey] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    reject: RejectCode | None = None
    reason: str = ""
    checks: list[Check] = field(default_factory=list)

    def note(self, name: str, ok: bool, **detail: object) -> bool:
        """Keep a check in the trace; returns `ok`."""
        self.checks.append(Check(name, ok, detail))
        return ok

    def refuse(self, code: RejectCode, reason: str = "") -> Decision:
        """The call is rejected; `reason` refines the code."""
        self.reject, self.reason = code, reason or code.value
        return self


def tariff_of(rate: Rate, campaign: Campaign) -> Tariff:
    """The numbers that price a call of `campaign`."""
    return Tariff(
        connect_fee_micros=rate.connect_fee_micros,
        per_minute_micros=rate.per_minute_micros,
        first_s=rate.first_s,
        step_s=rate.step_s,
        billable_threshold_ms=campaign.billable_threshold_ms,
    )


def cap_reason(zoned: ZonedCap) -> str:
    """`cap_reached:<scope>:<metric>[:<window>]`."""
    parts = [RejectCode.CAP_REACHED, zoned.cap.scope, zoned.cap.metric]
    if zoned.cap.window_kind is not WindowKind.NONE:
        parts.append(zoned.cap.window_kind)
    return ":".join(parts)


def counter_key(zoned: ZonedCap, now_ms: int) -> CounterKey:
    """The counter of the window of a cap that `now_ms` lies in."""
    return zoned.cap.id, window_start_ms(zoned.cap.window_kind, now_ms, zoned.zone)


def caps_of_call(
    estate: Estate, tenant_id: str, seller: Seller, did: Did, trunk: Trunk | None, campaign: Campaign
) -> list[tuple[CapScope, Sequence[ZonedCap]]]:
    """The caps that hold for a call as a whole, in the order they are checked."""
    return [
        (CapScope.SYSTEM, estate.scoped(CapScope.SYSTEM, tenant_id)),
        (CapScope.SELLER, estate.scoped(CapScope.SELLER, seller.id)),
        (CapScope.DID, estate.scoped(CapScope.DID, did.id)),
        (CapScope.TRUNK, estate.scoped(CapScope.TRUNK, trunk.id if trunk else None)),
        (CapScope.CAMPAIGN, estate.scoped(CapScope.CAMPAIGN, campaign.id)),
    ]


def caps_of_rule(estate: Estate, rule: Rule) -> list[ZonedCap]:
    """The caps that hold for an attempt by `rule`: its target's and its own."""
    return [*estate.scoped(CapScope.TARGET, rule.target_id), *estate.scoped(CapScope.RULE, rule.id)]


def free_caps(
    decision: Decision, caps: Iterable[ZonedCap], usage: Usage, now_ms: int
) -> tuple[list[CounterKey], ZonedCap | None]:
    """The places that would be taken in `caps`, and the first cap that is full, each noted in the trace."""
    keys: list[CounterKey] = []
    full: ZonedCap | None = None
    for zoned in caps:
        key = counter_key(zoned, now_ms)
        counter = usage.counter(zoned.cap.tenant_id, key)
        free = decision.note(
            f"cap.{zoned.cap.scope}",
            counter.used + counter.in_flight < zoned.cap.limit_value,
            subject=zoned.subject,
            metric=zoned.cap.metric.value,
            window=zoned.cap.window_kind.value,
            used=counter.used,
            in_flight=counter.in_flight,
            limit=zoned.cap.limit_value,
        )
        keys.append(key)
        if not free and full is None:
            full = zoned
    return keys, full


def route(request: RouteRequest, estate: Estate, usage: Usage, now_ms: int, seed: str) -> Decision:
    """Decide about one call. `seed` (the call's id) feeds the strategy. Nothing is taken: see admission."""
    decision = _identify(request, estate)
    if decision.reject or not (decision.did and decision.seller and decision.campaign and decision.rate):
        return decision
    settings = estate.settings(decision.tenant_id)
    if not _caller_allowed(decision, request, settings):
        return decision
    if not decision.note("seller", decision.seller.status is Status.ACTIVE, seller=decision.seller.name):
        return decision.refuse(RejectCode.SELLER_SUSPENDED)
    if not _funded(decision, decision.seller, decision.rate, decision.campaign, usage, settings):
        return decision
    scopes = caps_of_call(estate, decision.tenant_id, decision.seller, decision.did, decision.trunk, decision.campaign)
    if not _call_caps_free(decision, decision.campaign, scopes, usage, now_ms):
        return decision
    return _choose(decision, decision.campaign, estate, usage, now_ms, seed)


def find_did(request: RouteRequest, estate: Estate) -> tuple[str, Did | None, Trunk | None]:
    """The dialled number in E.164 (as received where it is none), the DID it is, and the trunk the call counts for.

    National numbers are read with the region of the trunk the call came on; where several tenants name a trunk so, the
    call counts for that of the DID's tenant. A call that names no trunk counts for the DID's own; one from a trunk that
    the estate does not know counts for none.
    """
    named = estate.trunks_by_name.get(request.trunk, ())
    trunk = named[0] if named else None
    number = to_e164(request.dnid, region_of(trunk, estate)) or request.dnid
    did = estate.dids_by_number.get(number)
    if did is not None and (trunk is None or trunk.tenant_id != did.tenant_id):
        own = estate.trunks[did.trunk_id] if did.trunk_id is not None and not request.trunk else None
        trunk = next((t for t in named if t.tenant_id == did.tenant_id), own)
    return number, did, trunk


def region_of(trunk: Trunk | None, estate: Estate) -> str:
    """The region of national numbers on a trunk (ISO 3166)."""
    tenant_id = trunk.tenant_id if trunk else estate.first_tenant_id()
    return (trunk.region if trunk else "") or estate.settings(tenant_id).default_region


def _identify(request: RouteRequest, estate: Estate) -> Decision:
    """Find the DID and whose it is."""
    number, did, trunk = find_did(request, estate)
    owner = did or trunk
    decision = Decision(
        tenant_id=owner.tenant_id if owner else estate.first_tenant_id(),
        did_number=number,
        caller_e164=to_e164(request.ani, region_of(trunk, estate)) or "",
        did=did,
        trunk=trunk,
    )
    if not decision.note("did", did is not None, dnid=request.dnid, number=decision.did_number) or did is None:
        return decision.refuse(RejectCode.DID_UNKNOWN)
    if not decision.note("did.status", did.status is not DidStatus.SUSPENDED, status=did.status.value):
        return decision.refuse(RejectCode.DID_SUSPENDED)
    assigned = did.status is DidStatus.ASSIGNED and did.campaign_id is not None
    if not decision.note("did.campaign", assigned) or did.campaign_id is None:
        return decision.refuse(RejectCode.DID_UNASSIGNED)
    decision.campaign = estate.campaigns[did.campaign_id]
    decision.seller = estate.sellers[decision.campaign.seller_id]
    decision.rate = estate.rates[decision.campaign.rate_id]
    return decision


def _caller_allowed(decision: Decision, request: RouteRequest, settings: Settings) -> bool:
    anonymous = is_anonymous(request.ani)
    if anonymous:
        if not decision.note(
            "caller.anonymous", settings.anonymous_callers == "allow", policy=settings.anonymous_callers
        ):
            decision.refuse(RejectCode.CALLER_ANONYMOUS)
            return False
    elif not decision.caller_e164 and not decision.note(
        "caller.number", settings.invalid_callers == "allow", received=request.ani, policy=settings.invalid_callers
    ):
        decision.refuse(RejectCode.CALLER_INVALID)
        return False
    return True


def _funded(
    decision: Decision, seller: Seller, rate: Rate, campaign: Campaign, usage: Usage, settings: Settings
) -> bool:
    """Whether the seller's available money pays for the beginning of the call; keeps the funding in the decision."""
    account = usage.account(seller.id)
    tariff = tariff_of(rate, campaign)
    decision.funding = fund(
        tariff, account.available_micros, settings.funding_slice_s, max(campaign.max_duration_ms // 1_000, 1)
    )
    minimum = minimum_micros(tariff)
    decision.note(
        "balance",
        decision.funding is not None,
        balance=account.balance_micros,
        credit_limit=account.credit_limit_micros,
        held=account.held_micros,
        available=account.available_micros,
        minimum=minimum,
        hold=decision.funding.hold_micros if decision.funding else 0,
        funded_s=decision.funding.funded_s if decision.funding else 0,
    )
    if decision.funding is not None:
        return True
    owned = account.balance_micros + account.credit_limit_micros
    if owned >= minimum:
        decision.refuse(RejectCode.BALANCE_HELD_BY_OTHER_CALLS)
    elif owned <= 0:
        decision.refuse(RejectCode.BALANCE_EXHAUSTED)
    else:
        decision.refuse(RejectCode.BALANCE_BELOW_FIRST_INCREMENT)
    return False


def _call_caps_free(
    decision: Decision,
    campaign: Campaign,
    scopes: Sequence[tuple[CapScope, Sequence[ZonedCap]]],
    usage: Usage,
    now_ms: int,
) -> bool:
    """Check the caps of the whole call; the campaign's own status stands before its caps."""
    for scope, caps in scopes:
        if scope is CapScope.CAMPAIGN:
            active = campaign.status is CampaignStatus.ACTIVE
            if not decision.note("campaign", active, campaign=campaign.name, status=campaign.status.value):
                decision.refuse(RejectCode.CAMPAIGN_PAUSED)
                return False
        keys, full = free_caps(decision, caps, usage, now_ms)
        if full is not None:
            decision.refuse(RejectCode.CAP_REACHED, cap_reason(full))
            return False
        decision.places.extend(keys)
    return True


def _choose(decision: Decision, campaign: Campaign, estate: Estate, usage: Usage, now_ms: int, seed: str) -> Decision:
    free, capped = open_candidates(decision, campaign, estate, usage, now_ms, frozenset())
    if not free:
        return decision.refuse(RejectCode.TARGETS_ALL_CAPPED if capped else RejectCode.NO_TARGET)
    decision.candidates = order(campaign.strategy, free, seed)
    decision.note(
        "strategy", True, strategy=campaign.strategy.value, order=[c.target.name for c in decision.candidates]
    )
    return decision


def open_candidates(
    decision: Decision, campaign: Campaign, estate: Estate, usage: Usage, now_ms: int, tried: frozenset[str]
) -> tuple[list[Candidate], bool]:
    """The targets that could take the call now, without those `tried`; and whether any was skipped for a cap."""
    candidates: list[Candidate] = []
    capped = False
    for rule in estate.rules_by_campaign.get(campaign.id, ()):
        target = estate.targets[rule.target_id]
        if target.id in tried:
            continue
        if not (rule.enabled and target.enabled):
            decision.note("target", False, target=target.name, why="rule disabled" if target.enabled else "disabled")
            continue
        _, full = free_caps(decision, caps_of_rule(estate, rule), usage, now_ms)
        if full is not None:
            capped = True
            decision.note("target", False, target=target.name, why=cap_reason(full))
            continue
        candidates.append(Candidate(rule, target))
    return candidates, capped
