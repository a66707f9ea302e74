"""The order of the checks with every kind of them, what is told where targets are skipped for different reasons, and
that a decision is a pure function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.model import RecentCaller, TargetState
from capconduit.domain.routing import Decision, route
from capconduit.domain.trace import load_trace
from capconduit.vocab import (
    REJECTS,
    CampaignStatus,
    CapMetric,
    CapScope,
    DidStatus,
    RejectCode,
    Status,
    Strategy,
    WindowKind,
)
from tests.unit.estate_builder import (
    CALLER,
    DOLLAR,
    T0,
    TENANT,
    EstateBuilder,
    PureTill,
    attempt_of,
    route_of,
    small_estate,
)

DAY, HOUR_MS = WindowKind.DAY, 3_600_000
CLOSED = "Sun 03:00-03:01"  # T0 is a Monday
DID = "did+18005550100"


def change(rows: list[Any], **fields: Any) -> None:
    rows[0] = replace(rows[0], **fields)


def remember(builder: EstateBuilder) -> None:
    change(builder.campaigns, duplicate_window_ms=HOUR_MS)


def close_campaign(builder: EstateBuilder) -> None:
    builder.schedule("never", hours=CLOSED)
    change(builder.campaigns, schedule_id="never")


def attest(builder: EstateBuilder) -> None:
    change(builder.campaigns, min_attestation="A")


Spoil = Callable[[EstateBuilder], Any]
# As 4-routing.md has it: each code, and what brings it about.
CASCADE: list[tuple[str, Spoil]] = [
    ("did_suspended", lambda b: change(b.dids, status=DidStatus.SUSPENDED)),
    ("caller_blocked", lambda b: b.block(CALLER)),
    ("attestation_missing", attest),
    ("duplicate_caller", remember),
    ("seller_suspended", lambda b: change(b.sellers, status=Status.SUSPENDED)),
    ("balance_exhausted", lambda b: change(b.accounts, balance_micros=0)),
    ("cps_limit", lambda b: b.cap(CapScope.SYSTEM, TENANT, CapMetric.CPS, 0)),
    ("cap_reached:seller:spend:day", lambda b: b.cap(CapScope.SELLER, "acme", CapMetric.SPEND, 0, DAY)),
    (
        "cap_reached:did:attempts:rolling:1h",
        lambda b: b.cap(CapScope.DID, DID, CapMetric.ATTEMPTS, 0, WindowKind.ROLLING, HOUR_MS),
    ),
    ("cap_reached:trunk:minutes:day", lambda b: b.cap(CapScope.TRUNK, "carrier", CapMetric.MINUTES, 0, DAY)),
    ("campaign_paused", lambda b: change(b.campaigns, status=CampaignStatus.PAUSED)),
    ("campaign_closed", close_campaign),
    ("cap_reached:campaign:concurrent", lambda b: b.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, 0)),
    ("no_target", lambda b: change(b.targets, enabled=False)),
]


@pytest.mark.parametrize("first", range(len(CASCADE)))
def test_the_first_obstacle_of_the_cascade_is_the_reason(first: int) -> None:
    """Everything from `first` on fails; the reason is the first, whatever follows, with its cause and SIP code."""
    builder = small_estate()
    for _, spoil in CASCADE[first:]:
        spoil(builder)
    till = PureTill(builder)
    recent = RecentCaller(campaign_id="solar", caller=CALLER, tenant_id=TENANT, call_id="earlier", at_ms=T0)
    till.books.callers[("solar", CALLER)] = recent
    answer = till.reject(route_of())
    code = RejectCode(CASCADE[first][0].split(":")[0])
    assert answer.reason == CASCADE[first][0]
    assert (answer.code, answer.cause, answer.sip) == (code, *REJECTS[code][:2])
    trace = load_trace(till.cdr().trace)
    assert not trace[-1].ok
    assert all(c.ok for c in trace[:-1] if c.name != "target")


def test_nothing_is_taken_by_a_call_that_is_refused_at_any_step() -> None:
    for first in range(len(CASCADE)):
        builder = small_estate()
        builder.cap(CapScope.SYSTEM, TENANT, CapMetric.CONCURRENT, 5)
        CASCADE[first][1](builder)
        till = PureTill(builder)
        if CASCADE[first][0] == "duplicate_caller":
            till.dial(route_of("earlier"))
        before = {k: (c.used, c.in_flight) for k, c in till.books.counters.items()}
        held = till.account().held_micros
        till.reject(route_of())
        assert {k: (c.used, c.in_flight) for k, c in till.books.counters.items()} == before
        assert till.account().held_micros == held
        assert not till.changes.targets + till.changes.rules + till.changes.callers + till.changes.ticks


# --- the caller ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "scope_id", "blocked"),
    [
        (CapScope.SYSTEM, TENANT, True),
        (CapScope.SELLER, "acme", True),
        (CapScope.CAMPAIGN, "solar", True),
        (CapScope.SELLER, "other", False),
        (CapScope.CAMPAIGN, "wind", False),
    ],
)
def test_a_block_holds_for_the_calls_of_its_scope(scope: CapScope, scope_id: str, blocked: bool) -> None:
    builder = small_estate()
    builder.block("+1212*", scope, scope_id)
    till = PureTill(builder)
    answer = till.ask(route_of())
    assert (getattr(answer, "code", None) is RejectCode.CALLER_BLOCKED) is blocked
    if blocked:
        check = load_trace(till.cdr().trace)[-1]
        assert check.detail == {"pattern": "+1212*", "why": "spam", "scope": scope.value}


def test_a_block_that_expires_holds_until_that_instant() -> None:
    builder = small_estate()
    builder.block(CALLER, expires_ms=T0 + 1_000)
    till = PureTill(builder)
    till.clock.pass_ms(999)
    assert till.reject(route_of("a")).code is RejectCode.CALLER_BLOCKED
    till.clock.pass_ms(1)
    till.dial(route_of("b"))


def test_a_blocked_word_for_withheld_numbers_stands_before_the_policy_that_lets_them_in() -> None:
    builder = small_estate(anonymous_callers="allow")
    builder.block("anonymous")
    assert PureTill(builder).reject(route_of(ani="Restricted")).code is RejectCode.CALLER_BLOCKED


@pytest.mark.parametrize(
    ("setting", "campaign", "taken"),
    [("allow", "", True), ("reject", "", False), ("allow", "reject", False), ("reject", "allow", True)],
)
def test_the_campaign_s_policy_for_anonymous_callers_stands_before_the_setting(
    setting: str, campaign: str, taken: bool
) -> None:
    builder = small_estate(anonymous_callers=campaign)
    builder.setting("anonymous_callers", setting)
    answer = PureTill(builder).ask(route_of(ani="anonymous"))
    assert (getattr(answer, "code", None) is not RejectCode.CALLER_ANONYMOUS) is taken
    if not taken:
        assert (answer.cause, answer.sip) == (21, 433)


@pytest.mark.parametrize(
    ("setting", "campaign", "attestation", "verdict", "code"),
    [
        ("", "", "", "", None),
        ("B", "", "A", "TN-Validation-Passed", None),
        ("B", "", "C", "TN-Validation-Passed", RejectCode.ATTESTATION_MISSING),
        ("", "B", "B", "", None),
        ("C", "A", "B", "", RejectCode.ATTESTATION_MISSING),
        ("A", "C", "B", "", None),
        ("", "C", "", "", RejectCode.ATTESTATION_MISSING),
        ("", "C", "A", "TN-Validation-Failed", RejectCode.ATTESTATION_INVALID),
        ("", "", "A", "TN-Validation-Failed", None),
    ],
)
def test_the_attestation_that_is_asked_for(
    setting: str, campaign: str, attestation: str, verdict: str, code: RejectCode | None
) -> None:
    builder = small_estate(min_attestation=campaign)
    builder.setting("min_attestation", setting)
    answer = PureTill(builder).ask(route_of(attestation=attestation, stir_verdict=verdict))
    assert getattr(answer, "code", None) is code
    if code is not None:
        assert (answer.cause, answer.sip) == {
            RejectCode.ATTESTATION_MISSING: (21, 428), RejectCode.ATTESTATION_INVALID: (21, 438),
        }[code]  # fmt: skip


# --- schedules -------------------------------------------------------------------------------------------------------


def test_a_campaign_and_a_target_open_and_close_with_their_schedules_to_the_millisecond() -> None:
    """T0 is Monday 07:00 in New York; the schedule opens at 09:00."""
    for part in ("campaign", "target"):
        builder = small_estate()
        builder.schedule()
        change(builder.campaigns if part == "campaign" else builder.targets, schedule_id="office")
        till = PureTill(builder)
        till.clock.pass_ms(2 * HOUR_MS - 1)
        code = RejectCode.CAMPAIGN_CLOSED if part == "campaign" else RejectCode.TARGETS_ALL_CLOSED
        answer = till.reject(route_of("a"))
        assert (answer.code, answer.cause, answer.sip) == (code, 31, 480)
        till.clock.pass_ms(1)
        till.dial(route_of("b"))
        till.clock.pass_ms(8 * HOUR_MS)
        assert till.reject(route_of("c")).code is code


def test_a_call_that_was_admitted_goes_on_and_over_when_its_campaign_closes_but_not_to_a_target_that_is_closed() -> (
    None
):
    builder = small_estate()
    builder.schedule("early", hours="Mon 06:00-07:01")
    change(builder.campaigns, schedule_id="early")
    builder.target("buyer2", schedule_id="early")
    builder.target("buyer3")
    till = PureTill(builder)
    assert till.dial(route_of()).target == "buyer1"
    till.clock.pass_ms(60_000)
    assert till.dial(attempt_of()).target == "buyer3"


# --- targets that are skipped for different reasons ------------------------------------------------------------------


def close(builder: EstateBuilder, name: str, how: str) -> None:
    """Spoil one target in the way `how`."""
    at = next(i for i, t in enumerate(builder.targets) if t.id == name)
    match how:
        case "disabled":
            builder.targets[at] = replace(builder.targets[at], enabled=False)
        case "rule-off":
            builder.rules[at] = replace(builder.rules[at], enabled=False)
        case "closed":
            builder.targets[at] = replace(builder.targets[at], schedule_id="never")
        case "full":
            builder.cap(CapScope.TARGET, name, CapMetric.CONCURRENT, 0)
        case "too-quick":
            builder.cap(CapScope.RULE, f"solar/{name}", CapMetric.CPS, 0)
        case "dear":
            builder.targets[at] = replace(builder.targets[at], rate_id="dear")


WHY = {
    "disabled": "disabled",
    "rule-off": "rule disabled",
    "closed": "closed",
    "rested": "rested after 9 failures",
    "full": "cap_reached:target:concurrent",
    "too-quick": "cps_limit",
    "dear": "its rate is more than the balance",
}


@pytest.mark.parametrize(
    ("ways", "code", "cause", "sip"),
    [
        (("disabled", "rule-off"), "no_target", 31, 480),
        (("closed", "closed"), "targets_all_closed", 31, 480),
        (("closed", "disabled"), "targets_all_closed", 31, 480),
        (("rested", "disabled"), "targets_all_closed", 31, 480),
        (("rested", "closed"), "targets_all_closed", 31, 480),
        (("full", "full"), "targets_all_capped", 17, 486),
        (("full", "closed"), "targets_all_capped", 17, 486),
        (("full", "rested", "disabled"), "targets_all_capped", 17, 486),
        (("too-quick", "disabled"), "targets_all_capped", 17, 486),
        (("dear", "closed"), "targets_all_closed", 31, 480),
        (("dear", "full"), "targets_all_capped", 17, 486),
    ],
)
def test_what_is_told_where_targets_are_skipped_for_different_reasons(
    ways: tuple[str, ...], code: str, cause: int, sip: int
) -> None:
    for turn in range(len(ways)):
        order = ways[turn:] + ways[:turn]
        builder = small_estate()
        builder.accounts[0] = replace(builder.accounts[0], balance_micros=DOLLAR)
        builder.rate("dear", per_minute_micros=50 * DOLLAR)
        builder.schedule("never", hours=CLOSED)
        for i in range(2, len(order) + 1):
            builder.target(f"buyer{i}")
        for i, how in enumerate(order, 1):
            close(builder, f"buyer{i}", how)
        till = PureTill(builder)
        for i, how in enumerate(order, 1):
            if how == "rested":
                till.books.targets[f"buyer{i}"] = TargetState(
                    target_id=f"buyer{i}", tenant_id=TENANT, active=0, failures=9, rested_until_ms=T0 + 30_000,
                    probe_until_ms=0, idle_since_ms=0,
                )  # fmt: skip
        if "dear" in ways:  # the cheapest that is enabled is what the balance is asked for first
            builder.target("cheap", schedule_id="never")
            till.rebuild()
        answer = till.reject(route_of())
        assert (answer.code, answer.cause, answer.sip) == (code, cause, sip)
        told = [c.detail["why"] for c in load_trace(till.cdr().trace) if c.name == "target"]
        assert told[: len(order)] == [WHY[how] for how in order]


def test_balance_codes_where_only_the_money_for_a_dear_target_is_missing() -> None:
    """The one target costs more than the campaign's rate."""
    for balance, held, code in [
        (DOLLAR, 0, RejectCode.BALANCE_BELOW_FIRST_INCREMENT),
        (60 * DOLLAR, 59 * DOLLAR, RejectCode.BALANCE_HELD_BY_OTHER_CALLS),
    ]:
        builder = small_estate()
        builder.rate("dear", per_minute_micros=50 * DOLLAR)
        change(builder.targets, rate_id="dear")
        builder.accounts[0] = replace(builder.accounts[0], balance_micros=balance, held_micros=held)
        answer = PureTill(builder).reject(route_of())
        assert (answer.code, answer.cause, answer.sip) == (code, 21, 403)


# --- purity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", Strategy)
def test_the_same_inputs_give_the_same_decision_and_nothing_is_changed_by_deciding(strategy: Strategy) -> None:
    builder = small_estate(strategy=strategy, duplicate_window_ms=HOUR_MS)
    for i in range(2, 6):
        builder.target(f"buyer{i}", rule={"weight": i, "priority": i % 2})
    for scope, scope_id in ((CapScope.SYSTEM, TENANT), (CapScope.TARGET, "buyer2"), (CapScope.RULE, "solar/buyer3")):
        builder.cap(scope, scope_id, CapMetric.CPS, 50)
        builder.cap(scope, scope_id, CapMetric.MINUTES, 6_000, WindowKind.ROLLING, HOUR_MS)
    till = PureTill(builder)
    for i in range(7):
        till.ask(route_of(f"u{i}", ani=f"+1212555014{i}"))
    books = till.books
    for cap in builder.caps:
        books.buckets[cap.id] = {start for cap_id, start in books.counters if cap_id == cap.id}
    before = copy.deepcopy(books)
    first = route(route_of("x", ani="+12125550199"), till.estate, books, till.clock.now_ms(), "seed")
    again = route(route_of("x", ani="+12125550199"), builder.estate(), copy.deepcopy(before), T0, "seed")
    assert shown(first) == shown(again)
    assert first.reject is None
    assert books == before


def shown(decision: Decision) -> Any:
    """Everything that a decision says."""
    return (
        decision.reject,
        decision.reason,
        [c.target.id for c in decision.candidates],
        decision.funding,
        [key for _, key in decision.places],
        decision.room,
        decision.checks,
    )
