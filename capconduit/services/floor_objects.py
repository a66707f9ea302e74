"""What the control socket shows of calls, caps, balances, targets, campaigns and events: rows as plain JSON objects.

The keys are a contract, see docs/control.md. Money is decimal text with six places beside its currency, instants are
ISO 8601 in UTC, what estates name is told by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from capconduit.domain.estate import Estate, ZonedCap
from capconduit.domain.model import Account, Attempt, Call, Campaign, Cdr, Event, Hold, Seller, Target, TargetState
from capconduit.domain.outcomes import outcome_of
from capconduit.domain.outgoing import data_of
from capconduit.domain.usage import window_text
from capconduit.domain.windows import FOREVER_MS, window_end_ms
from capconduit.outward.envelope import outward_data
from capconduit.services.targets import Health, health_of
from capconduit.store.floor import Tally
from capconduit.units import MS_PER_SECOND, format_instant, format_micros
from capconduit.vocab import CallState, CapMetric, CapScope, RejectCode

Json = dict[str, Any]

MS_PER_MINUTE: Final = 60 * MS_PER_SECOND
FARTHEST_MS: Final = 366 * 86_400 * MS_PER_SECOND  # an account that lasts longer is not told when it is empty
_UNITS: Final = {CapMetric.MINUTES: "seconds", CapMetric.SPEND: "money"}  # as `cap usage` says it; else calls


@dataclass(slots=True)
class Live:
    """A live call as far as it is known. `burns` is what it adds to its seller's burning."""

    call: Call
    legs: dict[int, Attempt] = field(default_factory=dict)
    hold: Hold | None = None
    burns: Burning | None = None


@dataclass(frozen=True, slots=True)
class Burning:
    """Talk that is under way: micros a minute; that times the instants of the answers; and what was paid for at once.

    Sums of these tell how much was used up at any instant, without looking at each call again.
    """

    per_minute_micros: int = 0
    moments: int = 0
    fees_micros: int = 0

    def plus(self, other: Burning, sign: int = 1) -> Burning:
        """Together with another, or without it."""
        return Burning(
            self.per_minute_micros + sign * other.per_minute_micros,
            self.moments + sign * other.moments,
            self.fees_micros + sign * other.fees_micros,
        )

    def empty_ms(self, money_micros: int, now_ms: int) -> int | None:
        """When `money_micros`, what is held included, is used up if nothing changes; None: not within reason."""
        if self.per_minute_micros <= 0:
            return None
        left = (money_micros - self.fees_micros) * MS_PER_MINUTE + self.moments
        at_ms = left // self.per_minute_micros
        return max(at_ms, now_ms) if at_ms - now_ms < FARTHEST_MS else None


def burning(call: Call, now_ms: int) -> Burning | None:
    """What an answered call uses up, at the price of its present step; None for one that rings."""
    if call.state is not CallState.UP:
        return None
    since_ms = call.answered_ms or call.decided_ms
    price = call.per_minute_micros
    if call.then_after_s and now_ms - since_ms > call.then_after_s * MS_PER_SECOND:
        price = call.then_per_minute_micros
    return Burning(price, price * since_ms, call.connect_fee_micros)


def instant(at_ms: int | None) -> str | None:
    """An instant, or null."""
    return None if at_ms is None else format_instant(at_ms)


def target_of(call: Call, legs: Mapping[int, Attempt]) -> str:
    """Where a call talks, or what is dialled: several that ring at once are joined by `&`."""
    won = legs.get(call.leg) if call.leg else None
    if won is not None:
        return won.target_name
    return "&".join(leg.target_name for _, leg in sorted(legs.items()) if call.attempt in (leg.round, leg.number))


def call_object(live: Live, estate: Estate) -> Json:
    """CALL."""
    call, hold = live.call, live.hold
    seller, campaign = estate.sellers.get(call.seller_id), estate.campaigns.get(call.campaign_id)
    up = call.state is CallState.UP
    return {
        "id": call.id,
        "node": call.node,
        "uniqueid": call.uniqueid,
        "state": "up" if up else "dialing",
        "did": call.did_number,
        "from": call.ani_e164 or call.ani,
        "caller_name": call.caller_name,
        "seller": seller.name if seller else "",
        "campaign": campaign.name if campaign else "",
        "target": target_of(call, live.legs),
        "trunk": call.trunk,
        "attempt": call.attempt,
        "arrived": format_instant(call.arrived_ms),
        "answered": instant(call.answered_ms),
        "currency": call.currency,
        "connect_fee": format_micros(call.connect_fee_micros),
        "per_minute": format_micros(call.per_minute_micros),
        "first_s": call.first_s,
        "further_s": call.step_s,
        "then_after_s": call.then_after_s,
        "then_per_minute": format_micros(call.then_per_minute_micros),
        "billable_threshold_ms": call.billable_threshold_ms,
        "funded_s": call.funded_s,
        "funded_until": instant(hold.expires_ms) if up and hold else None,
        "held": format_micros(hold.amount_micros if hold else 0),
    }


def gone_object(call: Call, cdr: Cdr | None) -> Json:
    """What became of a call that is over; without its record only that it is."""
    if cdr is None:
        return {
            "id": call.id,
            "outcome": "ended",
            "reason": "",
            "billed": None,
            "currency": call.currency,
            "talk_ms": None,
        }
    return {
        "id": cdr.call_id,
        "outcome": outcome_of(cdr),
        "reason": cdr.reject_reason,
        "billed": format_micros(cdr.amount_micros),
        "currency": cdr.currency,
        "talk_ms": cdr.talk_ms,
        "target": cdr.target,
        "dialstatus": cdr.dialstatus,
        "hung_up_by": cdr.hung_up_by,
        "ended": format_instant(cdr.ended_ms),
        "node": cdr.node,
    }


def cap_currencies(estate: Estate, tenant_id: str) -> Mapping[str, str]:
    """The currency of each cap by spend, by its id; empty where that has none (the system, a target, a trunk)."""
    campaign_of = {rule.id: rule.campaign_id for rules in estate.rules_by_campaign.values() for rule in rules}
    found = {}
    for cap_id, zoned in estate.caps.items():
        cap = zoned.cap
        if cap.tenant_id != tenant_id or cap.metric is not CapMetric.SPEND:
            continue
        seller_id: str | None = None
        match cap.scope:
            case CapScope.SELLER:
                seller_id = cap.scope_id
            case CapScope.CAMPAIGN | CapScope.RULE:
                campaign = estate.campaigns.get(campaign_of.get(cap.scope_id, cap.scope_id))
                seller_id = campaign.seller_id if campaign else None
            case CapScope.DID:
                did = estate.dids_by_number.get(zoned.subject)
                seller_id = did.seller_id if did else None
            case _:
                pass
        seller = estate.sellers.get(seller_id) if seller_id else None
        found[cap_id] = seller.currency if seller else ""
    return found


def cap_object(zoned: ZonedCap, used: int, in_flight: int, now_ms: int, currency: str) -> Json:
    """CAP: numbers as `cap usage --json` prints them."""
    cap = zoned.cap
    money = cap.metric is CapMetric.SPEND

    def quantity(value: int) -> int | str:
        return format_micros(value) if money else value

    end_ms = window_end_ms(cap.window_kind, now_ms, zoned.zone)
    return {
        "id": cap.id,
        "scope": cap.scope,
        "subject": zoned.subject,
        "metric": cap.metric,
        "window": window_text(cap) or "none",
        "limit": quantity(cap.limit_value),
        "used": quantity(used),
        "in_flight": quantity(in_flight),
        "free": quantity(max(cap.limit_value - used - in_flight, 0)),
        "resets": None if end_ms == FOREVER_MS else format_instant(end_ms),
        "unit": _UNITS.get(cap.metric, "calls"),
        "currency": currency,
    }


def balance_object(seller: Seller, account: Account, burns: Burning, now_ms: int) -> Json:
    """BALANCE."""
    money = account.balance_micros + account.credit_limit_micros
    return {
        "seller": seller.name,
        "currency": seller.currency,
        "balance": format_micros(account.balance_micros),
        "held": format_micros(account.held_micros),
        "available": format_micros(account.available_micros),
        "credit_limit": format_micros(account.credit_limit_micros),
        "low_balance": format_micros(seller.low_balance_micros),
        "burn_per_minute": format_micros(burns.per_minute_micros),
        "empty_at": instant(burns.empty_ms(money, now_ms)),
        "status": seller.status,
    }


def target_object(target: Target, state: TargetState, tally: Tally, now_ms: int, estate: Estate) -> Json:
    """TARGET. Its status is `paused`, or `active`, or how it fares: failing, resting, waiting, probing."""
    health = health_of(state, estate.settings(target.tenant_id), now_ms)
    status = "paused" if not target.enabled else "active" if health is Health.WELL else health.value
    rested = state.rested_until_ms if state.rested_until_ms > now_ms else None
    return {
        "name": target.name,
        "kind": target.kind,
        "status": status,
        "active": state.active,
        "rested_until": instant(rested),
        "failures": state.failures,
        "calls_today": tally.dials,
        "answered_today": tally.answered,
        "asr": round(tally.answered / tally.dials, 4) if tally.dials else None,
        "acd_ms": tally.talk_ms // tally.answered if tally.answered else None,
    }


def campaign_object(campaign: Campaign, estate: Estate) -> Json:
    """CAMPAIGN."""
    seller = estate.sellers.get(campaign.seller_id)
    return {
        "name": campaign.name,
        "seller": seller.name if seller else "",
        "status": campaign.status,
        "strategy": campaign.strategy,
    }


def event_object(event: Event) -> Json:
    """EVENT; its data as a webhook has them."""
    return {
        "id": event.id,
        "at": format_instant(event.at_ms),
        "kind": str(event.kind),
        "subject": event.subject,
        "data": outward_data(data_of(event.data)),
    }


def tallied(cdr: Cdr, attempts: Sequence[Attempt]) -> Mapping[str, Tally]:
    """What one settled call adds to the tallies of its targets."""
    made: dict[str, Tally] = {}
    for attempt in attempts:
        too_late = cdr.reject_code == RejectCode.ENGINE_TIMEOUT and cdr.attempt == attempt.number
        if attempt.hangup_cause is None or too_late:  # taken, and never dialled
            continue
        talked = cdr.answered_ms is not None and cdr.attempt == attempt.number
        one = Tally(1, int(talked), cdr.talk_ms if talked else 0)
        made[attempt.target_id] = sum_of(made.get(attempt.target_id, Tally()), one)
    return made


def sum_of(one: Tally, other: Tally) -> Tally:
    """Both together."""
    return Tally(one.dials + other.dials, one.answered + other.answered, one.talk_ms + other.talk_ms)
