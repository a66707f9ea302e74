"""Ring-all on both databases: places per leg, the winner and the losers, prices, failover, and several daemons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import AnswerReport, DialAnswer, LegTimes
from capconduit.domain.model import Attempt, Call, Cap, Cdr, Place, TargetState
from capconduit.services.caps import parse_limit, set_caps
from capconduit.services.engine import Engine
from capconduit.vocab import (
    CAUSE_ANSWERED_ELSEWHERE,
    CapMetric,
    CapScope,
    DialStatus,
    PlaceState,
    RejectCode,
    Strategy,
    WindowKind,
)
from tests.store_contract.beside import beside
from tests.store_contract.capped import Shop
from tests.store_contract.conftest import Opener, PostgresServer
from tests.unit.estate_builder import (
    DOLLAR,
    NODE,
    EstateBuilder,
    Till,
    answer_of,
    attempt_of,
    extend_of,
    route_of,
    settle_of,
    small_estate,
)

METRICS = [m for m in CapMetric if m is not CapMetric.CPS]


def ringing(targets: int = 3, **campaign: Any) -> EstateBuilder:
    builder = small_estate(strategy=Strategy.RING_ALL, **campaign)
    for i in range(2, targets + 1):
        builder.target(f"buyer{i}")
    return builder


def capped(metric: CapMetric, limit: int = 10**7) -> tuple[EstateBuilder, list[Cap]]:
    """Three targets that ring at once, each with a cap, and the campaign with one."""
    builder = ringing()
    window = WindowKind.NONE if metric is CapMetric.CONCURRENT else WindowKind.DAY
    caps = [builder.cap(CapScope.TARGET, f"buyer{i}", metric, limit, window) for i in (1, 2, 3)]
    caps.append(builder.cap(CapScope.CAMPAIGN, "solar", metric, limit, window))
    return builder, caps


def answered_by(till: Till, target: str, uniqueid: str = "u1") -> AnswerReport:
    dial = f"PJSIP/capconduit-out/sip:{target}@127.0.0.1:5080"
    return AnswerReport(node=NODE, uniqueid=uniqueid, leg=LegTimes(answered_ms=till.clock.now_ms(), dial=dial))


@pytest.mark.parametrize("metric", METRICS)
def test_losers_give_their_places_back_at_the_answer_and_the_winner_keeps_what_counts(
    open_shop: Shop, metric: CapMetric
) -> None:
    builder, caps = capped(metric)
    till = open_shop(builder)
    amount = {CapMetric.MINUTES: 60, CapMetric.SPEND: 200_000}.get(metric, 1)
    till.dial(route_of())
    assert [till.count(c) for c in caps] == [(0, amount)] * 4
    till.verify()
    till.engine = Engine(till.store, till.clock)  # the daemon restarts while it rings
    till.ask(answered_by(till, "buyer2"))
    lost = int(metric is CapMetric.ATTEMPTS)
    assert [till.count(c) for c in caps] == [(lost, 0), (0, amount), (lost, 0), (0, amount)]
    till.verify()
    till.clock.pass_ms(5_000)
    till.ask(settle_of(talk_ms=5_000))
    won = {CapMetric.MINUTES: 5, CapMetric.SPEND: 200_000, CapMetric.CONCURRENT: 0}.get(metric, 1)
    assert [till.count(c) for c in caps] == [(lost, 0), (won, 0), (lost, 0), (won, 0)]
    till.verify()
    attempts = sorted(till.rows(Attempt), key=lambda a: a.number)
    assert [(a.round, a.hangup_cause) for a in attempts] == [
        (1, CAUSE_ANSWERED_ELSEWHERE), (1, 16), (1, CAUSE_ANSWERED_ELSEWHERE),
    ]  # fmt: skip
    cdr = till.rows(Cdr)[0]
    assert (cdr.target, cdr.attempt, cdr.attempts) == ("buyer2", 2, 3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("end", ["left", "failed", "late"])
def test_a_dial_that_nobody_answered_leaves_attempts_only(open_shop: Shop, metric: CapMetric, end: str) -> None:
    builder, caps = capped(metric)
    till = open_shop(builder)
    till.dial(route_of())
    if end == "failed":
        assert till.reject(attempt_of(dialstatus=DialStatus.NOANSWER)).code is RejectCode.TARGETS_ALL_FAILED
        till.verify()
    reject = RejectCode.ENGINE_TIMEOUT if end == "late" else None
    till.ask(settle_of(reject=reject, dialstatus=DialStatus.CANCEL if end == "left" else None))
    used = int(metric is CapMetric.ATTEMPTS and end != "late")
    assert [till.count(c) for c in caps] == [(used, 0)] * 4
    assert [s.active for s in till.rows(TargetState)] == [0, 0, 0]
    till.verify()


@pytest.mark.parametrize("metric", METRICS)
def test_a_cap_that_is_set_later_counts_legs_like_one_that_stood_from_the_start(
    open_shop: Shop, metric: CapMetric
) -> None:
    builder, caps = capped(metric)
    till = open_shop(builder)
    till.dial(route_of("won"))
    till.ask(answered_by(till, "buyer2", "won"))
    till.clock.pass_ms(5_000)
    till.ask(settle_of("won", talk_ms=5_000))
    till.dial(route_of("failed"))
    till.ask(attempt_of("failed", dialstatus=DialStatus.NOANSWER))
    till.dial(route_of("rings"))
    till.dial(route_of("talks"))
    till.ask(answered_by(till, "buyer3", "talks"))
    expected = [till.count(c) for c in caps]
    text = {CapMetric.CONCURRENT: "1000", CapMetric.MINUTES: "50000/day"}.get(metric, "1000000/day")
    limit = parse_limit(metric, text)
    for cap, counted in zip(caps, expected, strict=True):
        set_caps(till.office(), cap.scope, cap.scope_id, [replace(limit, value=None)])
        later = set_caps(till.office(), cap.scope, cap.scope_id, [limit])[0]
        assert (later.used, later.in_flight) == counted
    till.verify()


def test_nobody_knows_which_leg_answered_until_somebody_tells(open_shop: Shop) -> None:
    builder, caps = capped(CapMetric.CONNECTED, 1)
    builder.cap(CapScope.TARGET, "buyer1", CapMetric.CPS, 50)
    till = open_shop(builder)
    till.dial(route_of())
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert [till.count(c) for c in caps] == [(0, 1)] * 4
    till.ask(answered_by(till, "buyer3"))
    till.ask(answered_by(till, "buyer1"))
    assert [till.count(c) for c in caps] == [(0, 0), (0, 0), (0, 1), (0, 1)]
    assert till.rows(Call)[0].leg == 3
    till.verify()
    till.ask(settle_of(talk_ms=1_000))
    assert till.ask(answered_by(till, "buyer1")) is None
    assert [till.count(c) for c in caps] == [(0, 0), (0, 0), (1, 0), (1, 0)]
    till.verify()


def test_the_dearest_leg_is_held_and_the_winner_s_price_is_paid(open_shop: Shop) -> None:
    builder = ringing(1)
    builder.rate("dear", per_minute_micros=DOLLAR, connect_fee_micros=100_000)
    builder.target("buyer2", rate_id="dear")
    cheap = builder.cap(CapScope.TARGET, "buyer1", CapMetric.SPEND, 200_000, WindowKind.DAY)
    dear = builder.cap(CapScope.TARGET, "buyer2", CapMetric.SPEND, 1_100_000, WindowKind.DAY)
    till = open_shop(builder)
    till.dial(route_of("a"))
    assert till.account().held_micros == 1_100_000
    assert [till.count(c) for c in (cheap, dear)] == [(0, 200_000), (0, 1_100_000)]
    till.ask(answered_by(till, "buyer1", "a"))
    till.clock.pass_ms(1_000)
    till.ask(settle_of("a", talk_ms=1_000))
    assert [till.count(c) for c in (cheap, dear)] == [(200_000, 0), (0, 0)]
    assert till.account().balance_micros == 100 * DOLLAR - 200_000
    assert till.dial(route_of("b")).target == "buyer2"
    till.verify()


def test_legs_of_the_next_dial_follow_those_that_failed(open_shop: Shop) -> None:
    builder = ringing(4, max_attempts=6)
    closed = builder.cap(CapScope.TARGET, "buyer4", CapMetric.CONCURRENT, 0)
    till = open_shop(builder)
    assert till.dial(route_of()).target == "buyer1&buyer2&buyer3"
    till.put(replace(closed, limit_value=1))
    second = till.dial(attempt_of(dialstatus=DialStatus.NOANSWER))
    assert (second.target, second.attempt) == ("buyer4", 4)
    assert till.dial(attempt_of(dialstatus=DialStatus.NOANSWER)) == second
    till.ask(answer_of(answered_ms=till.clock.now_ms()))
    assert till.ask(extend_of()).funded_s == 120
    till.clock.pass_ms(70_000)
    till.ask(settle_of(talk_ms=70_000, attempt=4))
    cdr = till.rows(Cdr)[0]
    assert (cdr.target, cdr.attempts, cdr.amount_micros) == ("buyer4", 4, 400_000)
    till.verify()


def test_a_whole_life_in_one_batch_is_the_same_as_in_many(open_shop: Shop) -> None:
    builder, caps = capped(CapMetric.ATTEMPTS)
    till = open_shop(builder)
    till.batch(
        [
            settle_of("early"), route_of("early"), route_of(), route_of("second"), answered_by(till, "buyer2"),
            answered_by(till, "buyer1"), attempt_of(), extend_of(), attempt_of("second"), settle_of(talk_ms=5_000),
            settle_of(), settle_of("second", dialstatus=DialStatus.BUSY), answered_by(till, "buyer3"),
        ]
    )  # fmt: skip
    assert till.rows(Call) == []
    assert [till.count(c) for c in caps] == [(2, 0)] * 4
    assert all(p.state is PlaceState.RELEASED for p in till.rows(Place))
    till.verify()


@pytest.mark.postgres
def test_two_calls_at_two_daemons_share_the_legs_that_are_free(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    builder, caps = capped(CapMetric.CONCURRENT, 1)
    builder.caps.pop()  # the campaign's
    builder.seller("zenith")
    builder.campaign("wind", seller="zenith", strategy=Strategy.RING_ALL)
    builder.did("+18005550101", "wind")
    builder.rule("wind", "buyer1")
    builder.rule("wind", "buyer2")
    builder.target("buyer9", campaign="wind")
    till = Till(opened(postgres_url), builder)
    one, two = beside(till, postgres_server, route_of("a"), route_of("b", dnid="+18005550101"))
    assert isinstance(one, DialAnswer)
    assert (one.target, two.target) == ("buyer1&buyer2&buyer3", "buyer9")
    assert [till.count(c) for c in caps[:3]] == [(0, 1)] * 3
    _, other = beside(till, postgres_server, answered_by(till, "buyer3", "a"), route_of("c", dnid="+18005550101"))
    assert other.target == "buyer1&buyer2&buyer9"
    till.verify()


@pytest.mark.postgres
def test_an_answer_and_a_settlement_at_two_daemons_end_every_leg_once(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str
) -> None:
    builder, caps = capped(CapMetric.CONNECTED)
    till = Till(opened(postgres_url), builder)
    for name, commands in {
        "a": (answered_by(till, "buyer2", "a"), settle_of("a", talk_ms=1_000)),
        "b": (settle_of("b", talk_ms=1_000), answered_by(till, "buyer2", "b")),
    }.items():
        till.dial(route_of(name))
        beside(till, postgres_server, *commands)
    assert till.rows(Call) == []
    assert sum(till.count(c)[0] for c in caps[:3]) == 2
    assert [till.count(c)[1] for c in caps] == [0] * 4
    till.verify()
