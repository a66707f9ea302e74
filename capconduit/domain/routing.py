"""The decision: which target, or why none. A pure function of the request, the estate, what is used, and the instant.

The order of the checks is the order of the reject codes: the first that fails on the caller's or seller's side rejects
the call; on a target's side it skips the target. The trace keeps every check with its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from capconduit.domain.books import CounterKey
from capconduit.domain.calls import RouteRequest
from capconduit.domain.estate import Estate, Offer, Way, ZonedCap
from capconduit.domain.model import Account, Campaign, Did, Seller, TargetState, Trunk
from capconduit.domain.numbers import is_anonymous, to_e164
from capconduit.domain.rating import (
    Funding,
    Tariff,
    fund,
    minimum_micros,
    price_of_seconds,
    round_up_to_increment,
)
from capconduit.domain.record import replace, value
from capconduit.domain.schedules import is_open
from capconduit.domain.settings import Settings
from capconduit.domain.stir import gate
from capconduit.domain.strategies import ROTATING, Candidate, order
from capconduit.domain.trace import Check, Noted, checks_of
from capconduit.domain.usage import UNLIMITED, Room, Usage, counter_key, taken, window_text
from capconduit.domain.ways import find_way
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import (
    CampaignStatus,
    CapMetric,
    CapScope,
    DidStatus,
    RejectCode,
    Status,
    Strategy,
)

OF_CAMPAIGN = CapScope.CAMPAIGN  # asked for by each scope; Python 3.11 takes long to find a member of an enum
CapPlace = tuple[ZonedCap, CounterKey]  # a cap with the counter that a place in it belongs to


@dataclass(slots=True)
class Decision:
    """What was decided. `reject` None: dial the first of `candidates` (all of them for ring-all).

    `places` are the call's own, to be taken; `room` is what its caps by minutes and spend leave.
    """

    tenant_id: str
    did_number: str
    caller_e164: str
    did: Did | None = None
    trunk: Trunk | None = None
    seller: Seller | None = None
    campaign: Campaign | None = None
    funding: Funding | None = None
    places: list[CapPlace] = field(default_factory=list)
    room: Room = field(default_factory=Room)
    candidates: list[Candidate] = field(default_factory=list)
    reject: RejectCode | None = None
    reason: str = ""
    trace: list[Noted] = field(default_factory=list)

    @property
    def checks(self) -> list[Check]:
        """What was checked."""
        return checks_of(self.trace)

    def note(self, name: str, ok: bool, **detail: object) -> bool:
        """Keep a check in the trace; returns `ok`."""
        self.trace.append({"check": name, "ok": ok, **detail})
        return ok

    def refuse(self, code: RejectCode, reason: str = "") -> Decision:
        """The call is rejected; `reason` refines the code."""
        self.reject, self.reason = code, reason or code.value
        return self


def cap_reason(zoned: ZonedCap) -> str:
    """`cap_reached:<scope>:<metric>[:<window>]`, or `cps_limit`."""
    if zoned.cap.metric is CapMetric.CPS:
        return RejectCode.CPS_LIMIT.value
    parts: list[str] = [RejectCode.CAP_REACHED, zoned.cap.scope, zoned.cap.metric]
    if window := window_text(zoned.cap):
        parts.append(window)
    return ":".join(parts)


def free_caps(
    decision: Decision, caps: Iterable[ZonedCap], usage: Usage, now_ms: int, need: tuple[int, int], room: Room
) -> tuple[list[CapPlace], ZonedCap | None]:
    """The places that would be taken in `caps`, and the first cap that is full, each noted in the trace.

    `need` is the least that the call wants of caps by minutes and by spend: (seconds, micros). `room` is narrowed to
    what those leave.
    """
    places: list[CapPlace] = []
    full: ZonedCap | None = None
    for zoned in caps:
        cap = zoned.cap
        from_ms, until_ms, key = zoned.recent[0]  # counter_key, but for a call that most do not need
        if not from_ms <= now_ms < until_ms:
            key = counter_key(zoned, now_ms)
        used, in_flight = taken(zoned, key, usage, now_ms)
        free = cap.limit_value - used - in_flight
        is_free = free >= (_least(cap.metric, need) if zoned.reserves else 1)
        noted = {
            "check": zoned.check, "ok": is_free, "subject": zoned.subject, "metric": cap.metric,
            "window": zoned.window, "used": used, "in_flight": in_flight, "limit": cap.limit_value,
        }  # fmt: skip
        decision.trace.append(noted)
        if zoned.reserves:
            room.narrow(cap.metric, free)
        places.append((zoned, key))
        if not is_free and full is None:
            full = zoned
    return places, full


def _least(metric: CapMetric, need: tuple[int, int]) -> int:
    """What must be free in a cap by minutes or spend: the seconds or micros that are needed."""
    return max(need[0] if metric is CapMetric.MINUTES else need[1], 1)


def route(request: RouteRequest, estate: Estate, usage: Usage, now_ms: int, seed: str) -> Decision:
    """Decide about one call. `seed` (the call's id) feeds the strategy. Nothing is taken: see admission."""
    way = find_way(request, estate)
    decision = _identify(request, way)
    seller, campaign = decision.seller, decision.campaign
    if seller is None or campaign is None:
        return decision
    settings = estate.settings(decision.tenant_id)
    if not _caller_allowed(decision, request, seller, campaign, estate, settings, now_ms):
        return decision
    if not _not_again(decision, request, campaign, usage, now_ms):
        return decision
    if not decision.note("seller", seller.status is Status.ACTIVE, seller=seller.name):
        return decision.refuse(RejectCode.SELLER_SUSPENDED)
    if not _funded(decision, seller, campaign, estate, usage):
        return decision
    if not _call_caps_free(decision, campaign, way.caps, estate, usage, now_ms):
        return decision
    return _choose(decision, seller, campaign, estate, usage, now_ms, seed)


def _identify(request: RouteRequest, way: Way) -> Decision:
    """Whose the DID is, where calls may go on."""
    did = way.did
    decision = Decision(
        tenant_id=way.tenant_id,
        did_number=way.number,
        caller_e164=to_e164(request.ani, way.region) or "",
        did=did,
        trunk=way.trunk,
    )
    if not decision.note("did", did is not None, dnid=request.dnid, number=way.number) or did is None:
        return decision.refuse(RejectCode.DID_UNKNOWN)
    if not decision.note("did.status", did.status is not DidStatus.SUSPENDED, status=did.status):
        return decision.refuse(RejectCode.DID_SUSPENDED)
    if not decision.note("did.campaign", did.status is DidStatus.ASSIGNED and way.campaign is not None):
        return decision.refuse(RejectCode.DID_UNASSIGNED)
    decision.campaign, decision.seller = way.campaign, way.seller
    return decision


def caller_of(e164: str, received: str) -> str:
    """Whom a caller is known as: the number, else what was received; empty for anonymous ones."""
    return e164 or ("" if is_anonymous(received) else received.strip())


def _caller_allowed(
    decision: Decision,
    request: RouteRequest,
    seller: Seller,
    campaign: Campaign,
    estate: Estate,
    settings: Settings,
    now_ms: int,
) -> bool:
    """Blocklists, then how often the caller calls, then the policies for callers without a number, then the attestation
    that is asked for."""
    block = estate.blocklist.match(
        decision.tenant_id, seller.id, campaign.id, decision.caller_e164, request.ani.strip(), now_ms
    )
    if block is not None:
        decision.note("caller.blocked", False, pattern=block.pattern, why=block.reason, scope=block.scope)
        decision.refuse(RejectCode.CALLER_BLOCKED)
        return False
    if settings.caller_max_calls and not _rate_allowed(decision, request, settings):
        return False
    if is_anonymous(request.ani):
        policy = campaign.anonymous_callers or settings.anonymous_callers
        if not decision.note("caller.anonymous", policy == "allow", policy=policy):
            decision.refuse(RejectCode.CALLER_ANONYMOUS)
            return False
    elif not decision.caller_e164 and not decision.note(
        "caller.number", settings.invalid_callers == "allow", received=request.ani, policy=settings.invalid_callers
    ):
        decision.refuse(RejectCode.CALLER_INVALID)
        return False
    required = campaign.min_attestation or settings.min_attestation
    refused = gate(required, request.attestation, request.stir_verdict)
    if required and not decision.note(
        "caller.attestation",
        refused is None,
        required=required,
        attestation=request.attestation,
        verdict=request.stir_verdict,
    ):
        decision.refuse(refused or RejectCode.ATTESTATION_MISSING)
        return False
    return True


def _rate_allowed(decision: Decision, request: RouteRequest, settings: Settings) -> bool:
    """Whether the caller's calls, as the daemon counted them, are within the limit; where nobody counted, they are."""
    if request.caller_calls is None or decision.note(
        "caller.rate",
        request.caller_calls <= settings.caller_max_calls,
        calls=request.caller_calls,
        limit=settings.caller_max_calls,
        window_s=settings.caller_window_s,
    ):
        return True
    decision.refuse(RejectCode.CPS_LIMIT)
    return False


def _not_again(decision: Decision, request: RouteRequest, campaign: Campaign, usage: Usage, now_ms: int) -> bool:
    """Whether the caller began no call within the campaign's duplicate window that lives or was connected.

    An instant farther ahead than the window is long was written by another clock and counts for nothing.
    """
    caller = caller_of(decision.caller_e164, request.ani)
    if not campaign.duplicate_window_ms or not caller:
        return True
    last = usage.recent_caller((campaign.id, caller))
    ago_ms = now_ms - last.at_ms if last else None
    fresh = ago_ms is None or abs(ago_ms) >= campaign.duplicate_window_ms
    if decision.note(
        "caller.duplicate",
        fresh,
        window_s=campaign.duplicate_window_ms // MS_PER_SECOND,
        last_call=last.call_id if last else "",
        ago_s=ago_ms // MS_PER_SECOND if ago_ms is not None else None,
    ):
        return True
    decision.refuse(RejectCode.DUPLICATE_CALLER)
    return False


def _funded(decision: Decision, seller: Seller, campaign: Campaign, estate: Estate, usage: Usage) -> bool:
    """Whether the seller's available money pays for the beginning of a call to the cheapest target."""
    account = usage.account(seller.id)
    least = estate.offers(campaign).least_micros
    if decision.note(
        "balance",
        account.available_micros >= least,
        balance=account.balance_micros,
        credit_limit=account.credit_limit_micros,
        held=account.held_micros,
        available=account.available_micros,
        minimum=least,
    ):
        return True
    decision.refuse(_money_code(account, least))
    return False


def _money_code(account: Account, minimum: int) -> RejectCode:
    """What is wrong with an account that cannot pay `minimum`."""
    owned = account.balance_micros + account.credit_limit_micros
    if owned >= minimum:
        return RejectCode.BALANCE_HELD_BY_OTHER_CALLS
    return RejectCode.BALANCE_EXHAUSTED if owned <= 0 else RejectCode.BALANCE_BELOW_FIRST_INCREMENT


def _call_caps_free(
    decision: Decision,
    campaign: Campaign,
    scopes: Sequence[tuple[CapScope, Sequence[ZonedCap]]],
    estate: Estate,
    usage: Usage,
    now_ms: int,
) -> bool:
    """Check the caps of the whole call; the campaign's own status and schedule stand before its caps."""
    offers = estate.offers(campaign)
    need = (min(offers.least_s, _ceiling_s(campaign)), offers.least_micros)
    for scope, caps in scopes:
        if scope is OF_CAMPAIGN and not _campaign_open(decision, campaign, estate, now_ms):
            return False
        if not caps:
            continue
        places, full = free_caps(decision, caps, usage, now_ms, need, decision.room)
        if full is not None:
            code = RejectCode.CPS_LIMIT if full.cap.metric is CapMetric.CPS else RejectCode.CAP_REACHED
            decision.refuse(code, cap_reason(full))
            return False
        decision.places.extend(places)
    return True


def _campaign_open(decision: Decision, campaign: Campaign, estate: Estate, now_ms: int) -> bool:
    active = campaign.status is CampaignStatus.ACTIVE
    if not decision.note("campaign", active, campaign=campaign.name, status=campaign.status):
        decision.refuse(RejectCode.CAMPAIGN_PAUSED)
        return False
    opening = estate.opening(campaign.schedule_id)
    if opening is not None and not decision.note("campaign.schedule", is_open(opening, now_ms), zone=opening.zone):
        decision.refuse(RejectCode.CAMPAIGN_CLOSED)
        return False
    return True


def _choose(
    decision: Decision,
    seller: Seller,
    campaign: Campaign,
    estate: Estate,
    usage: Usage,
    now_ms: int,
    seed: str,
) -> Decision:
    purse = Purse(usage.account(seller.id), 0, decision.room)
    free, why = open_candidates(decision, campaign, estate, usage, now_ms, purse, frozenset())
    if not free:
        return decision.refuse(why)
    decision.candidates = order(campaign.strategy, free, seed)
    decision.note("strategy", True, strategy=campaign.strategy, order=[c.target.name for c in decision.candidates])
    dialled = first_dial(campaign, decision.candidates, campaign.max_attempts)
    decision.funding = fund_dial(dialled, purse, campaign, estate, usage, now_ms)
    if decision.funding is not None:
        decision.note(
            "hold",
            True,
            hold=decision.funding.hold_micros,
            funded_s=decision.funding.funded_s,
            rate=_rates(dialled, estate),
        )
    return decision


def _rates(dialled: Sequence[Candidate], estate: Estate) -> str:
    return ",".join(sorted({estate.rates[c.offer.rate_id].name for c in dialled}))


def first_dial(campaign: Campaign, ordered: Sequence[Candidate], most: int) -> Sequence[Candidate]:
    """The candidates that are dialled at once: the first, or for ring-all as many as may be tried and one dial string
    holds."""
    if campaign.strategy is not Strategy.RING_ALL:
        return ordered[:1]
    chosen: list[Candidate] = []
    room = MAX_DIAL_CHARS
    for candidate in ordered[: max(most, 1)]:
        room -= len(candidate.offer.dial) + len("&")
        if chosen and room < 0:
            break
        chosen.append(candidate)
    return chosen


# Asterisk cuts a variable that goes into an application's arguments at 4,095 bytes (main/pbx_variables.c VAR_BUF_SIZE;
# seen on 22.10): the last leg would be another address.
MAX_DIAL_CHARS = 4_000


@value
class Purse:
    """What there is for a call: the seller's account, what the call holds of it already, what its own caps leave."""

    account: Account
    held_micros: int
    room: Room

    @property
    def available_micros(self) -> int:
        """Money that the call could hold in all."""
        return self.account.available_micros + self.held_micros


def open_candidates(
    decision: Decision,
    campaign: Campaign,
    estate: Estate,
    usage: Usage,
    now_ms: int,
    purse: Purse,
    tried: frozenset[str],
) -> tuple[list[Candidate], RejectCode]:
    """The targets that could take the call now, without those `tried`; and what to reject with where there is none."""
    candidates: list[Candidate] = []
    why = RejectCode.NO_TARGET
    for offer in estate.offers(campaign).all:
        if offer.target.id in tried:
            continue
        state = usage.target(decision.tenant_id, offer.target.id)
        reason, code = _skip(decision, offer, state, campaign, estate, usage, now_ms, purse)
        if not reason:
            candidates.append(Candidate(offer, state, usage.cursor(offer.rule.id)))
            continue
        decision.note("target", False, target=offer.target.name, why=reason)
        why = max(why, code, key=_TELLING.index)
    if campaign.strategy in ROTATING:
        among = frozenset(c.rule.id for c in candidates)
        candidates = [replace(c, among=among) for c in candidates]
    return candidates, why


# What is told where targets were skipped for different reasons: the one that most likely ends first.
_TELLING = (
    RejectCode.NO_TARGET,
    RejectCode.BALANCE_EXHAUSTED,
    RejectCode.BALANCE_BELOW_FIRST_INCREMENT,
    RejectCode.BALANCE_HELD_BY_OTHER_CALLS,
    RejectCode.TARGETS_ALL_CLOSED,
    RejectCode.TARGETS_ALL_CAPPED,
)


def _skip(
    decision: Decision,
    offer: Offer,
    state: TargetState,
    campaign: Campaign,
    estate: Estate,
    usage: Usage,
    now_ms: int,
    purse: Purse,
) -> tuple[str, RejectCode]:
    """Why a target cannot take the call, with the reject that follows where no other can; empty where it can."""
    if not offer.enabled:
        return ("rule disabled" if offer.target.enabled else "disabled"), RejectCode.NO_TARGET
    if offer.opening is not None and not is_open(offer.opening, now_ms):
        return "closed", RejectCode.TARGETS_ALL_CLOSED
    if resting := rest_reason(state, estate.settings(decision.tenant_id), now_ms):
        return resting, RejectCode.TARGETS_ALL_CLOSED
    minimum = minimum_micros(offer.tariff)
    if purse.available_micros < minimum:
        return "its rate is more than the balance", _money_code(purse.account, minimum)
    room = purse.room.copy()
    need = (min(offer.tariff.first_s, _ceiling_s(campaign)), minimum)
    _, full = free_caps(decision, offer.caps, usage, now_ms, need, room)
    if full is not None:
        return cap_reason(full), RejectCode.TARGETS_ALL_CAPPED
    if room.seconds < need[0] or room.micros < need[1]:
        return "its first increment is more than a cap leaves", RejectCode.TARGETS_ALL_CAPPED
    return "", RejectCode.NO_TARGET


def rest_reason(state: TargetState, settings: Settings, now_ms: int) -> str:
    """Why a target is not tried just now: it rests, or one call tries whether it is well again. Empty: it may be.

    Instants farther ahead than a rest is long were written by another clock and count for nothing.
    """
    if not state.rested_until_ms:
        return ""
    rest_ms = settings.breaker_rest_s * MS_PER_SECOND
    if now_ms < state.rested_until_ms <= now_ms + rest_ms:
        return f"rested after {state.failures} failures" if state.failures else "rested by an operator"
    if now_ms < state.probe_until_ms <= now_ms + PROBE_MOST_MS:
        return "rested; one call tries it"
    return ""


PROBE_MOST_MS = 10 * 60 * MS_PER_SECOND  # no Dial rings longer


def _ceiling_s(campaign: Campaign) -> int:
    return max(campaign.max_duration_ms // MS_PER_SECOND, 1)


def fund_dial(
    dialled: Sequence[Candidate], purse: Purse, campaign: Campaign, estate: Estate, usage: Usage, now_ms: int
) -> Funding | None:
    """The hold for a Dial: connect fee and the first funding slice, as far as money and caps allow."""
    legs = []
    for candidate in dialled:
        room = purse.room.copy()
        for zoned in candidate.offer.caps:
            if zoned.reserves:
                used, in_flight = taken(zoned, counter_key(zoned, now_ms), usage, now_ms)
                room.narrow(zoned.cap.metric, zoned.cap.limit_value - used - in_flight)
        legs.append((candidate.offer.tariff, room))
    slice_s = estate.settings(campaign.tenant_id).funding_slice_s
    return fund_legs(legs, purse.available_micros, slice_s, _ceiling_s(campaign))


def fund_legs(
    legs: Sequence[tuple[Tariff, Room]], available_micros: int, want_s: int, ceiling_s: int
) -> Funding | None:
    """The funding of a call that any of `legs` may answer, each within the room that its own caps leave.

    The seconds are those of the leg that gets the fewest, the hold is what they cost at the dearest. None: the first
    increment of one of them cannot be had.
    """
    fundings = [_fund_leg(tariff, room, available_micros, want_s, ceiling_s) for tariff, room in legs]
    if not all(fundings) or not legs:
        return None
    seconds = min([funding.funded_s for funding in fundings if funding])
    return Funding(hold_micros=max([hold_for(tariff, seconds) for tariff, _ in legs]), funded_s=seconds)


def _fund_leg(tariff: Tariff, room: Room, available_micros: int, want_s: int, ceiling_s: int) -> Funding | None:
    """The funding of one leg. Where minutes are counted no more than the slice is reserved, however cheap it is."""
    most_s = min(ceiling_s, room.seconds)
    if most_s <= 0:
        return None
    if room.seconds < UNLIMITED:
        most_s = min(most_s, round_up_to_increment(tariff, want_s))
    return fund(tariff, min(available_micros, room.micros), want_s, most_s)


def hold_for(tariff: Tariff, funded_s: int) -> int:
    """What talking for `funded_s` may cost: the price of the increments that were begun."""
    return price_of_seconds(tariff, round_up_to_increment(tariff, funded_s))
