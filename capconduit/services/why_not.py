"""Why a call would not go to one target: the check that ruled it out, its numbers, and what would have to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from capconduit.domain.estate import Estate, Offer
from capconduit.domain.model import Campaign, Target
from capconduit.domain.rating import minimum_micros
from capconduit.domain.routing import Decision, first_dial, rest_reason
from capconduit.domain.schedules import is_open, next_change_ms
from capconduit.domain.stir import level_of
from capconduit.domain.trace import Check
from capconduit.domain.usage import Usage
from capconduit.vocab import RejectCode, Strategy


class Outcome(StrEnum):
    """What becomes of a target in a decision."""

    DIALLED = "dialled"  # first, or one of those that ring at once
    LATER = "later"  # when those before it have failed
    SKIPPED = "skipped"
    NO_RULE = "no-rule"
    REJECTED = "rejected"  # before any target was looked at


@dataclass(frozen=True, slots=True)
class WhyNot:
    """`check` is the one that ruled it out (None: nothing did), `change` what would have to be otherwise: commands are
    in backquotes. `place` counts from 1 among those that would be dialled."""

    target: str
    outcome: Outcome
    place: int | None
    check: Check | None
    change: Sequence[str]


# What lets a call through that was rejected for this. {did}, {seller}, {campaign}, {caller} are of the call.
_REJECTED: Final[Mapping[RejectCode, str]] = {
    RejectCode.DID_UNKNOWN: "`capconduit did add {did} --campaign NAME`",
    RejectCode.DID_UNASSIGNED: "`capconduit did assign {did} CAMPAIGN`",
    RejectCode.DID_SUSPENDED: "`capconduit did resume {did}`",
    RejectCode.CALLER_INVALID: "`capconduit setting set invalid_callers allow`",
    RejectCode.CALLER_BLOCKED: "`capconduit block remove {pattern}`",
    RejectCode.DUPLICATE_CALLER: "wait, or `capconduit campaign set {campaign} --duplicate-window 0s`",
    RejectCode.CALLER_ANONYMOUS: "`capconduit campaign set {campaign} --anonymous allow`",
    RejectCode.ATTESTATION_MISSING: "the carrier signs it, or {unsigned}",
    RejectCode.ATTESTATION_INVALID: "ask the carrier why it does not verify",
    RejectCode.SELLER_SUSPENDED: "`capconduit seller resume {seller}`",
    RejectCode.BALANCE_EXHAUSTED: "`capconduit balance add {seller} AMOUNT --reason TEXT`",
    RejectCode.BALANCE_HELD_BY_OTHER_CALLS: "wait for calls to end, or `capconduit balance add {seller} AMOUNT --reason"
    " TEXT`",
    RejectCode.BALANCE_BELOW_FIRST_INCREMENT: "`capconduit balance add {seller} AMOUNT --reason TEXT`",
    RejectCode.CAMPAIGN_PAUSED: "`capconduit campaign resume {campaign}`",
    RejectCode.CAMPAIGN_CLOSED: "wait until it opens, or `capconduit campaign set {campaign} --schedule none`",
    RejectCode.CPS_LIMIT: "wait a second, or raise the cap: `capconduit cap set {cap} --cps N`",
    RejectCode.CAP_REACHED: "wait for room in it, or raise the cap: `capconduit cap set {cap} --{metric} {limit}`",
}


def why_not(target: Target, decision: Decision, estate: Estate, usage: Usage, now_ms: int, request_did: str) -> WhyNot:
    """What becomes of `target` in a decision that was made by `usage` at `now_ms`."""
    campaign = decision.campaign
    reached = any(check.name in ("target", "strategy") for check in decision.checks)
    if campaign is None or (decision.reject is not None and not reached and decision.reject in _REJECTED):
        failed = next((check for check in reversed(decision.checks) if not check.ok), None)
        return WhyNot(target.name, Outcome.REJECTED, None, failed, [_for_all(decision, failed, request_did, estate)])
    offer = next((o for o in estate.offers(campaign).all if o.target.id == target.id), None)
    if offer is None:
        rules = [o.target.name for o in estate.offers(campaign).all]
        check = Check("rule", False, {"campaign": campaign.name, "target": target.name, "targets": rules})
        return WhyNot(
            target.name, Outcome.NO_RULE, None, check, [f"`capconduit rule add {campaign.name} {target.name}`"]
        )
    names = [c.target.id for c in decision.candidates]
    if target.id in names:
        return _in_line(target, names.index(target.id), decision, campaign)
    skipped, change = _skipped(offer, decision, campaign, estate, usage, now_ms)
    return WhyNot(target.name, Outcome.SKIPPED, None, skipped, change)


def _for_all(decision: Decision, failed: Check | None, request_did: str, estate: Estate) -> str:
    detail = failed.detail if failed else {}
    code = decision.reject or RejectCode.DID_UNKNOWN
    return _REJECTED[code].format(
        did=decision.did_number or request_did,
        seller=decision.seller.name if decision.seller else "",
        campaign=decision.campaign.name if decision.campaign else "",
        pattern=detail.get("pattern", ""),
        cap=_cap_words(failed),
        metric=detail.get("metric", ""),
        limit=_limit_words(detail),
        unsigned=_unsigned(decision, detail, estate) if code is RejectCode.ATTESTATION_MISSING else "",
    )


def _unsigned(decision: Decision, detail: Mapping[str, object], estate: Estate) -> str:
    """What lets the call in with the attestation that it has: its level is asked for, or none."""
    campaign = decision.campaign
    assert campaign is not None  # only what belongs to one is asked for an attestation
    level = level_of(str(detail.get("attestation", "")), str(detail.get("verdict", "")))
    if level:
        return f"`capconduit campaign set {campaign.name} --min-attestation {level}`"
    own = f"`capconduit campaign set {campaign.name} --min-attestation default`" if campaign.min_attestation else ""
    everybodys = estate.settings(decision.tenant_id).min_attestation
    return " and ".join(filter(None, [own, "`capconduit setting set min_attestation none`" if everybodys else ""]))


def _cap_words(check: Check | None) -> str:
    """`campaign solar`: what a cap is on, as `cap set` takes it."""
    if check is None or not check.name.startswith("cap."):
        return ""
    scope, subject = check.name.removeprefix("cap."), check.detail.get("subject", "")
    return "system" if scope == "system" else f"{scope} {subject}"


def _limit_words(detail: Mapping[str, object]) -> str:
    window = detail.get("window")
    return "N" if window in (None, "none", "") else f"N/{window}"


def _in_line(target: Target, place: int, decision: Decision, campaign: Campaign) -> WhyNot:
    dialled = first_dial(campaign, decision.candidates, campaign.max_attempts)
    if place < len(dialled):
        return WhyNot(target.name, Outcome.DIALLED, place + 1, None, [])
    first, own = decision.candidates[0], decision.candidates[place]
    detail = {
        "strategy": campaign.strategy, "place": place + 1, "first": first.target.name,
        "priority": own.rule.priority, "weight": own.rule.weight, "first_priority": first.rule.priority,
        "first_weight": first.rule.weight, "max_attempts": campaign.max_attempts,
    }  # fmt: skip
    change = [f"those before it fail: {', '.join(c.target.name for c in decision.candidates[:place])}"]
    if place >= campaign.max_attempts:
        change.append(f"`capconduit campaign set {campaign.name} --max-attempts {place + 1}`")
    if campaign.strategy is Strategy.PRIORITY and own.rule.priority >= first.rule.priority:
        rule = f"{campaign.name} {target.name}"
        change.append(f"`capconduit rule set {rule} --priority {max(first.rule.priority - 1, 0)}`")
    return WhyNot(target.name, Outcome.LATER, place + 1, Check("strategy", False, detail), change)


def _skipped(
    offer: Offer, decision: Decision, campaign: Campaign, estate: Estate, usage: Usage, now_ms: int
) -> tuple[Check | None, list[str]]:
    """The check that skipped a target, in the order in which the decision makes them."""
    name = offer.target.name
    if not offer.target.enabled:
        return Check("target.paused", False, {"target": name}), [f"`capconduit target resume {name}`"]
    if not offer.rule.enabled:
        rule = f"{campaign.name} {name}"
        return Check("rule.paused", False, {"rule": f"{campaign.name}/{name}"}), [f"`capconduit rule resume {rule}`"]
    if offer.opening is not None and not is_open(offer.opening, now_ms):
        opens_ms = next_change_ms(offer.opening, now_ms)
        closed = Check("target.schedule", False, {"target": name, "zone": offer.opening.zone, "opens_ms": opens_ms})
        return closed, [f"wait until it opens, or `capconduit target set {name} --schedule none`"]
    state = usage.target(decision.tenant_id, offer.target.id)
    if why := rest_reason(state, estate.settings(decision.tenant_id), now_ms):
        until_ms = state.rested_until_ms or state.probe_until_ms
        rested = Check("target.rest", False, {"target": name, "why": why, "until_ms": until_ms})
        return rested, [f"wait, or `capconduit target revive {name}`"]
    minimum, seller_id = minimum_micros(offer.tariff), campaign.seller_id
    account = usage.account(seller_id)
    if account.available_micros < minimum:
        detail = {"available": account.available_micros, "minimum": minimum, "balance": account.balance_micros,
                  "credit_limit": account.credit_limit_micros, "held": account.held_micros}  # fmt: skip
        seller = estate.sellers[seller_id].name
        return Check("balance", False, detail), [f"`capconduit balance add {seller} AMOUNT --reason TEXT`"]
    check = _full_cap(decision, name)
    if check is not None:
        words = f"`capconduit cap set {_cap_words(check)} --{check.detail.get('metric')} {_limit_words(check.detail)}`"
        return check, [f"wait for room in it, or raise the cap: {words}"]
    skipped = next((c for c in decision.checks if c.name == "target" and c.detail.get("target") == name), None)
    return skipped, ["raise the caps by minutes and spend on its way: `capconduit cap list`"]


def _full_cap(decision: Decision, target: str) -> Check | None:
    """The full cap that stands right before the note that the target was skipped."""
    end = next(
        (n for n, c in enumerate(decision.checks) if c.name == "target" and c.detail.get("target") == target), None
    )
    if end is None:
        return None
    full = None
    for check in reversed(decision.checks[:end]):
        if not check.name.startswith(("cap.target", "cap.rule")):
            break
        if not check.ok:
            full = check
    return full
