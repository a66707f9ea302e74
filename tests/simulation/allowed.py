"""Whether what was decided is right: an admission breaks no rule, and a reject is true and explained by its trace.

Rules of the estate are looked up in the tables as they stand at the commit, which is what a decision must see. What
other decisions of the same batch may have moved meanwhile is looked at only where a batch had one command.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capconduit.domain.model import (
    Account,
    Attempt,
    Block,
    Call,
    Campaign,
    Cap,
    Cdr,
    Did,
    Rate,
    Rule,
    Schedule,
    Seller,
    Setting,
    Target,
    TargetState,
    Trunk,
)
from capconduit.vocab import CampaignStatus, CapMetric, DidStatus, RejectCode, Status, Strategy, WindowKind
from tests.simulation import reference
from tests.simulation.reference import Uses, zone_of

if TYPE_CHECKING:
    from tests.simulation.world import World

# The check that says no, by reject code; codes of the target's side are explained target by target.
CHECKS = {
    RejectCode.DID_UNKNOWN: "did",
    RejectCode.DID_SUSPENDED: "did.status",
    RejectCode.DID_UNASSIGNED: "did.campaign",
    RejectCode.CALLER_BLOCKED: "caller.blocked",
    RejectCode.CALLER_ANONYMOUS: "caller.anonymous",
    RejectCode.CALLER_INVALID: "caller.number",
    RejectCode.ATTESTATION_MISSING: "caller.attestation",
    RejectCode.ATTESTATION_INVALID: "caller.attestation",
    RejectCode.DUPLICATE_CALLER: "caller.duplicate",
    RejectCode.SELLER_SUSPENDED: "seller",
    RejectCode.CAMPAIGN_PAUSED: "campaign",
    RejectCode.CAMPAIGN_CLOSED: "campaign.schedule",
}
MONEY = (
    RejectCode.BALANCE_EXHAUSTED, RejectCode.BALANCE_HELD_BY_OTHER_CALLS, RejectCode.BALANCE_BELOW_FIRST_INCREMENT,
)  # fmt: skip
TARGETS = (RejectCode.NO_TARGET, RejectCode.TARGETS_ALL_CAPPED, RejectCode.TARGETS_ALL_CLOSED)
DAYS_MS = 10 * 86_400_000
BUCKETS = 60  # of a rolling window; one that lies in it partly counts as a whole


class Allowed:
    """Looks at decisions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows = world.tables.rows

    # --- admissions ---------------------------------------------------------------------------------------------------

    def admitted(self, call: Call) -> None:
        """A call that was admitted may be."""
        rows, at_ms, name = self._rows, call.decided_ms, call.uniqueid
        did: Did = rows[Did][call.did_id]
        assert did.status is DidStatus.ASSIGNED, f"{name}: its DID is {did.status}"
        assert did.campaign_id == call.campaign_id, f"{name}: its DID is another campaign's"
        assert rows[Seller][call.seller_id].status is Status.ACTIVE, f"{name}: its seller is suspended"
        campaign: Campaign = rows[Campaign][call.campaign_id]
        assert campaign.status is CampaignStatus.ACTIVE, f"{name}: its campaign is paused"
        assert self._is_open(campaign.schedule_id, at_ms), f"{name}: its campaign is closed"
        assert not reference.is_blocked(rows[Block].values(), call, at_ms), f"{name}: its caller is blocked"
        assert self._caller_is_known(call, campaign), f"{name}: its caller is not taken"
        required = campaign.min_attestation or self._setting("min_attestation")
        assert reference.is_vouched_for(required, call.attestation, call.stir_verdict), f"{name}: not vouched for"
        self._is_in_order(call)
        if self._is_alone() and not self._world.clocks_were_set:
            assert not self._came_before(call, 0), f"{name}: its caller called a moment ago"

    def dialled(self, attempt: Attempt, campaign_id: str, before: TargetState | None) -> None:
        """A target that is dialled may be."""
        rows, name = self._rows, f"{attempt.call_id}/{attempt.number}"
        target: Target = rows[Target][attempt.target_id]
        rule: Rule | None = rows[Rule].get(attempt.rule_id)
        assert target.enabled, f"{name}: {target.name} is disabled"
        assert rule is not None, f"{name}: rule {attempt.rule_id} is gone"
        assert rule.enabled, f"{name}: rule {attempt.rule_id} is disabled"
        assert rule.campaign_id == campaign_id
        assert self._is_open(target.schedule_id, attempt.started_ms), f"{name}: {target.name} is closed"
        self._is_priced(attempt, rule, target)
        if self._is_alone() and before is not None:
            rest_ms = int(self._setting("breaker_rest_s")) * 1_000
            rests = attempt.started_ms < before.rested_until_ms <= attempt.started_ms + rest_ms
            assert not rests, f"{name}: {target.name} rests"

    def _is_priced(self, attempt: Attempt, rule: Rule, target: Target) -> None:
        """A rule's own rate stands before its target's, that before the campaign's; other currencies are passed by."""
        rows = self._rows
        campaign: Campaign = rows[Campaign][rule.campaign_id]
        currency = rows[Seller][campaign.seller_id].currency

        def first(*rate_ids: str | None) -> str | None:
            return next((r for r in rate_ids if r and rows[Rate][r].currency == currency), None)

        rate_id = first(rule.rate_id, target.rate_id, campaign.rate_id)
        paid_id = first(rule.payout_rate_id, target.payout_rate_id)
        assert attempt.rate_id == rate_id, f"{attempt.call_id}: at rate {attempt.rate_id}, not {rate_id}"
        for kept, named in ((attempt.tariff, rate_id), (attempt.payout, paid_id)):
            assert bool(kept) == bool(named), f"{attempt.call_id}: {kept!r} kept for rate {named}"
            if named:
                prices, rate = reference.tariff_of(kept), rows[Rate][named]
                for name in reference.PRICES:
                    assert getattr(prices, name) == getattr(rate, name), f"{attempt.call_id}: {name} is not {named}'s"

    def _is_in_order(self, call: Call) -> None:
        """The first Dial goes to the best of those that were open, as the strategy says."""
        order: list[str] = next((c["order"] for c in json.loads(call.trace) if c["check"] == "strategy"), [])
        rules = {
            self._rows[Target][r.target_id].name: r
            for r in self._rows[Rule].values()
            if r.campaign_id == call.campaign_id
        }
        ranked_by: dict[Strategy, Callable[[str], int]] = {
            Strategy.PRIORITY: lambda name: rules[name].priority,
            Strategy.LEAST_COST: lambda name: self._minute(rules[name], "rate_id"),
            Strategy.HIGHEST_PAYOUT: lambda name: -self._minute(rules[name], "payout_rate_id"),
        }
        rank = ranked_by.get(call.strategy)
        if rank is not None:
            ranks = [rank(name) for name in order]
            assert ranks == sorted(ranks), f"{call.uniqueid}: {call.strategy} gives {order}"

    def _minute(self, rule: Rule, column: str) -> int:
        """What a call of a minute costs, or pays out, by a rule."""
        rows = self._rows
        target, campaign = rows[Target][rule.target_id], rows[Campaign][rule.campaign_id]
        currency = rows[Seller][campaign.seller_id].currency
        named = [getattr(rule, column), getattr(target, column), campaign.rate_id if column == "rate_id" else None]
        chosen = next((r for r in named if r and rows[Rate][r].currency == currency), None)
        return reference.price(rows[Rate][chosen], 60) if chosen else 0

    def _is_alone(self) -> bool:
        return len(self._world.batch) == 1

    def _is_open(self, schedule_id: str | None, at_ms: int) -> bool:
        if schedule_id is None:
            return True
        schedule: Schedule = self._rows[Schedule][schedule_id]
        return reference.is_open(schedule.hours, schedule.timezone, at_ms)

    def _setting(self, name: str) -> str:
        return str(self._rows[Setting][(self._world.tenant_id, name)].value)

    def _caller_is_known(self, call: Call, campaign: Campaign) -> bool:
        if reference.is_withheld(call.ani):
            return (campaign.anonymous_callers or self._setting("anonymous_callers")) == "allow"
        return bool(call.ani_e164) or self._setting("invalid_callers") == "allow"

    def _came_before(self, call: Any, least_ms: int) -> bool:
        """Whether the caller has another call in the campaign, alive or connected, within its duplicate window.

        `least_ms`: one that seems to come later, by another machine's clock, by at most so much less.
        """
        campaign: Campaign = self._rows[Campaign][call.campaign_id]
        live = isinstance(call, Call)
        e164, ani = (call.ani_e164, call.ani) if live else (call.caller_e164, call.caller)
        call_id = call.id if live else call.call_id
        caller = reference.known_as(e164, ani)
        if not campaign.duplicate_window_ms or not caller:
            return False
        others = [
            c.decided_ms
            for c in self._rows[Call].values()
            if c.campaign_id == campaign.id and c.id != call_id and reference.known_as(c.ani_e164, c.ani) == caller
        ]
        others += [
            c.decided_ms
            for c in self._rows[Cdr].values()
            if c.campaign_id == campaign.id
            and c.answered_ms is not None
            and c.call_id != call_id
            and reference.known_as(c.caller_e164, c.caller) == caller
        ]
        if live:  # of those before the window was set nobody is remembered
            others = [at_ms for at_ms in others if at_ms >= campaign.updated_ms]
        return any(least_ms <= call.decided_ms - at_ms < campaign.duplicate_window_ms for at_ms in others)

    # --- rejects ------------------------------------------------------------------------------------------------------

    def rejected(self, cdr: Cdr) -> None:
        """A reject says why, and that is true."""
        code = RejectCode(cdr.reject_code)
        if code is RejectCode.ENGINE_TIMEOUT:
            return  # nothing was decided
        checks = json.loads(cdr.trace)
        failed = [c for c in checks if not c["ok"]]
        if code is RejectCode.NO_TARGET and not any(
            r.campaign_id == cdr.campaign_id for r in self._rows[Rule].values()
        ):
            return  # there is nothing to look at
        assert failed, f"{cdr.uniqueid}: {code} without a check that says no"
        if code in CHECKS:
            assert [c["check"] for c in failed] == [CHECKS[code]], f"{cdr.uniqueid}: {code} by {failed}"
            assert self._is_so(code, cdr), f"{cdr.uniqueid}: {code} is not true"
        elif code in (RejectCode.CAP_REACHED, RejectCode.CPS_LIMIT):
            self._is_capped(cdr, failed)
        elif code in MONEY or code in TARGETS:
            self._has_no_target(cdr, code, checks, failed)
        else:
            raise AssertionError(f"{cdr.uniqueid}: {code} is no decision")

    def _is_so(self, code: RejectCode, cdr: Cdr) -> bool:
        rows = self._rows
        dids = [d for d in rows[Did].values() if d.number == cdr.did]
        campaign: Campaign | None = rows[Campaign].get(cdr.campaign_id)
        match code:
            case RejectCode.DID_UNKNOWN:
                return not dids
            case RejectCode.DID_SUSPENDED:
                return dids[0].status is DidStatus.SUSPENDED
            case RejectCode.DID_UNASSIGNED:
                return dids[0].status is DidStatus.AVAILABLE or dids[0].campaign_id is None
            case RejectCode.SELLER_SUSPENDED:
                return rows[Seller][cdr.seller_id].status is Status.SUSPENDED
            case RejectCode.CALLER_BLOCKED:
                return reference.is_blocked(rows[Block].values(), cdr, cdr.decided_ms)
            case RejectCode.CALLER_INVALID:
                return not cdr.caller_e164 and not reference.is_withheld(cdr.caller)
            case RejectCode.CALLER_ANONYMOUS:
                return reference.is_withheld(cdr.caller)
            case _:
                pass
        assert campaign is not None
        match code:
            case RejectCode.CAMPAIGN_PAUSED:
                return campaign.status is CampaignStatus.PAUSED
            case RejectCode.CAMPAIGN_CLOSED:
                return not self._is_open(campaign.schedule_id, cdr.decided_ms)
            case RejectCode.DUPLICATE_CALLER:
                return not self._is_alone() or self._came_before(cdr, -DAYS_MS)
            case _:
                required = campaign.min_attestation or self._setting("min_attestation")
                return not reference.is_vouched_for(required, cdr.attestation, cdr.stir_verdict)

    def _is_capped(self, cdr: Cdr, failed: list[dict[str, Any]]) -> None:
        """The cap that is named stands, its check says no with numbers that add up, and it is really full."""
        words = cdr.reject_reason.split(":")
        scope = failed[0]["check"].partition(".")[2]
        if words[0] == "cap_reached":
            assert scope == words[1], f"{cdr.uniqueid}: {cdr.reject_reason} by {failed}"
            assert failed[0]["metric"] == words[2], f"{cdr.uniqueid}: {cdr.reject_reason} by {failed}"
        else:
            assert failed[0]["metric"] == CapMetric.CPS, f"{cdr.uniqueid}: {cdr.reject_reason} by {failed}"
        numbers = failed[0]
        free = numbers["limit"] - numbers["used"] - numbers["in_flight"]
        if numbers["metric"] not in (CapMetric.MINUTES, CapMetric.SPEND):
            assert free <= 0, f"{cdr.uniqueid}: rejected with {free} free"
            if self._is_alone():
                self._is_really_full(cdr, scope, numbers)

    def _is_really_full(self, cdr: Cdr, scope: str, numbers: dict[str, Any]) -> None:
        world, at_ms = self._world, cdr.decided_ms
        for cap in self._rows[Cap].values():
            same = (cap.scope, cap.metric, cap.limit_value) == (scope, numbers["metric"], numbers["limit"])
            if not same or cap.id not in world.caps_of_the_beginning:
                continue
            uses = Uses(world.tables)
            if cap.metric is CapMetric.CPS:
                near = [1 for at in uses.admissions(cap) if at_ms - 1_050 < at <= at_ms + 1_000]
                total = sum(near)
            elif cap.window_kind is WindowKind.ROLLING:
                bucket_ms = max(-(-cap.window_ms // BUCKETS), 1_000)
                since = at_ms - cap.window_ms - bucket_ms
                total = sum(u + h for at, u, h in uses.of(cap) if since < at <= at_ms + cap.window_ms)
            else:
                zone = zone_of(cap, world.tables)
                here = reference.window_name(cap.window_kind, at_ms, zone)
                inside = [
                    u + h for at, u, h in uses.of(cap) if reference.window_name(cap.window_kind, at, zone) == here
                ]
                total = sum(inside)
            if total >= cap.limit_value:
                return
            if cap.id in world.carried or self._is_other(cap, numbers):
                continue
            raise AssertionError(f"{cdr.uniqueid}: {cdr.reject_reason}, and {cap.id} has {total}")

    def _is_other(self, cap: Cap, numbers: dict[str, Any]) -> bool:
        """Whether a cap of the same scope, metric and limit limits something else."""
        window = numbers["window"].partition(":")[0]
        names = {
            row.id: getattr(row, "name", "") or getattr(row, "number", "")
            for kind in (Seller, Campaign, Did, Trunk)
            for row in self._rows[kind].values()
        }
        subject: str = numbers["subject"]
        return cap.window_kind != window or names.get(cap.scope_id, subject) != subject

    def _has_no_target(
        self, cdr: Cdr, code: RejectCode, checks: list[dict[str, Any]], failed: list[dict[str, Any]]
    ) -> None:
        """Every rule of the campaign was looked at and is told; or the money does not even pay the cheapest."""
        if failed[-1]["check"] == "balance":
            assert code in MONEY
            assert failed[-1]["available"] < failed[-1]["minimum"], f"{cdr.uniqueid}: {code} with money"
            if self._is_alone():
                account: Account = self._rows[Account][cdr.seller_id]
                assert account.available_micros == failed[-1]["available"]
            return
        told = {c["target"]: c["why"] for c in checks if c["check"] == "target"}
        rules = [r for r in self._rows[Rule].values() if r.campaign_id == cdr.campaign_id]
        names = {self._rows[Target][r.target_id].name for r in rules}
        assert set(told) == names, f"{cdr.uniqueid}: {code}, told of {sorted(told)}, there are {sorted(names)}"
        for rule in rules:
            target: Target = self._rows[Target][rule.target_id]
            why = told[target.name]
            assert ("disabled" in why) == (not (rule.enabled and target.enabled)), f"{target.name}: {why}"
            if why == "closed":
                assert not self._is_open(target.schedule_id, cdr.decided_ms), f"{target.name} is open"
