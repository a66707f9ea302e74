"""Targets that ring at once, with the daemon as a process: whose call it is, what it costs, and that nothing leaks."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from asterisk_simulator.behaviours import (
    Answers,
    Behaviour,
    Busy,
    CallerCancels,
    CallOutcome,
    CallSpec,
    Congested,
    NoAnswer,
    Side,
    Unavailable,
)
from capconduit.domain.calls import LegTimes
from capconduit.domain.model import Attempt, Cdr
from capconduit.services import balances, calls, campaigns, caps, rates, targets
from capconduit.vocab import CAUSE_ANSWERED_ELSEWHERE, CallState, CapMetric, CapScope, Strategy, TargetKind
from fastagi.spool import read_entry, report_of
from tests.daemon.rig import CALLER, NUMBER, Rig, until

Test = Callable[[Rig], Coroutine[Any, Any, None]]

# By the target: what a second costs the seller, and what its side gets for it (micros).
PRICES = {"buyer1": 10_000, "buyer2": 100_000, "buyer3": 20_000}
PAYOUTS = {"buyer1": 5_000, "buyer2": 70_000, "buyer3": 0}
FUNDS = 100_000_000
COUNTED = (CapMetric.CONCURRENT, CapMetric.ATTEMPTS, CapMetric.CONNECTED)
IPV6 = "PJSIP/capconduit-out/sip:b@[2001:db8::1]:5060;transport=udp"
MARGIN_MS = 50  # between what AMI told and what the simulated Asterisk measured


def run(tmp_path: Path, test: Test, **options: Any) -> None:
    """Run `test` with a rig whose campaign rings three targets at once, each at prices of its own."""

    async def whole() -> None:
        async with Rig(tmp_path, **options) as rig:
            _prepare(rig)
            await test(rig)

    asyncio.run(whole())


def _prepare(rig: Rig) -> None:
    office = rig.office
    rig.fund(str(FUNDS // 1_000_000))
    rig.setting("breaker_failures", "0")
    campaigns.set_campaign(office, "solar", strategy=Strategy.RING_ALL)
    targets.add_target(office, "buyer3", kind=TargetKind.PJSIP, address="sip:buyer3@127.0.0.1:5080", ring_ms=1_000)
    targets.add_rule(office, "solar", "buyer3", priority=3)
    for name, micros in PRICES.items():
        rates.add_rate(office, f"price-{name}", per_minute_micros=micros * 60, increment="1/1")
        rates.add_rate(office, f"payout-{name}", per_minute_micros=PAYOUTS[name] * 60, increment="1/1")
        payout = f"payout-{name}" if PAYOUTS[name] else ""
        targets.set_target(office, name, rate=f"price-{name}", payout=payout, ring_ms=1_000)
        limits = [caps.parse_limit(CapMetric.CONCURRENT, "200")]
        limits += [caps.parse_limit(m, "1000/total") for m in (CapMetric.ATTEMPTS, CapMetric.CONNECTED)]
        caps.set_caps(office, CapScope.TARGET, name, limits)


def spec() -> CallSpec:
    return CallSpec(dnid=NUMBER, ani=CALLER)


def script(rig: Rig, *behaviours: Behaviour) -> None:
    """What buyer1, buyer2, … do; a target without a behaviour rings."""
    for position, name in enumerate(PRICES):
        rig.script(name, behaviours[position] if position < len(behaviours) else NoAnswer())


def counts(rig: Rig) -> dict[str, tuple[tuple[int, int], ...]]:
    """By target: (used, in flight) of its concurrent, attempts and connected caps."""
    told = {}
    for name in PRICES:
        views = {view.cap.metric: view for view in caps.cap_usage(rig.office, CapScope.TARGET, name)}
        told[name] = tuple((views[metric].used, views[metric].in_flight) for metric in COUNTED)
    return told


def active(rig: Rig) -> list[int]:
    """Attempts under way, by target."""
    return [view.state.active for view in targets.list_targets(rig.office)]


def attempts(rig: Rig, cdr: Cdr) -> Sequence[Attempt]:
    """The call's attempts."""
    return calls.tell(rig.office, cdr.call_id).attempts


async def is_up(rig: Rig) -> calls.CallView:
    """The live call, once the daemon knows that it was answered."""
    return (await until(lambda: [view for view in rig.live() if view.call.state is CallState.UP]))[0]


async def only_cdr(rig: Rig) -> Cdr:
    """The only record, once nothing lives any more."""
    await rig.at_rest()
    assert not any(active(rig))
    (cdr,) = rig.cdrs()
    return cdr


def is_billed_as(cdr: Cdr, target: str) -> None:
    """The record names this target, with its own prices."""
    assert cdr.target == target
    assert cdr.amount_micros == cdr.billed_seconds * PRICES[target] > 0
    assert cdr.payout_micros == cdr.billed_seconds * PAYOUTS[target]
    assert cdr.written_off_micros == 0


# --- whose call it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("winner", PRICES)
def test_the_first_that_answers_gets_the_call_at_its_own_prices(tmp_path: Path, winner: str) -> None:
    async def test(rig: Rig) -> None:
        script(rig, *(Answers(after_ms=50, talk_ms=1_200) if name == winner else NoAnswer() for name in PRICES))
        outcome = await rig.world.call(spec())
        cdr = await only_cdr(rig)
        is_billed_as(cdr, winner)
        assert outcome.target == winner
        assert (cdr.attempts, cdr.dialstatus, cdr.hung_up_by) == (3, "ANSWER", "caller")
        assert abs(cdr.talk_ms - outcome.talk_ms) <= MARGIN_MS
        causes = {a.target_name: a.hangup_cause for a in attempts(rig, cdr)}
        assert causes == {name: 16 if name == winner else CAUSE_ANSWERED_ELSEWHERE for name in PRICES}
        assert rig.account().balance_micros == FUNDS - cdr.amount_micros

    run(tmp_path, test)


def test_the_others_are_free_again_while_the_call_lasts(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, Answers(after_ms=5_000), Answers(after_ms=300, talk_ms=5_000), Busy(after_ms=50))
        call = rig.world.start(spec())
        await until(lambda: rig.live())
        assert counts(rig) == dict.fromkeys(PRICES, ((0, 1), (0, 1), (0, 1)))
        assert active(rig) == [1, 1, 1]
        view = await is_up(rig)
        assert view.target == "buyer2"
        lost, won = ((0, 0), (1, 0), (0, 0)), ((0, 1), (0, 1), (0, 1))
        assert counts(rig) == {"buyer1": lost, "buyer2": won, "buyer3": lost}
        assert active(rig) == [0, 1, 0]
        await call
        await only_cdr(rig)
        assert counts(rig) == {"buyer1": lost, "buyer2": ((0, 0), (1, 0), (1, 0)), "buyer3": lost}

    run(tmp_path, test)


def test_a_caller_who_leaves_while_all_ring_pays_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, NoAnswer(), CallerCancels(after_ms=100))
        await rig.world.call(spec())
        cdr = await only_cdr(rig)
        assert (cdr.dialstatus, cdr.hung_up_by, cdr.amount_micros, cdr.attempts) == ("CANCEL", "caller", 0, 3)
        assert counts(rig) == dict.fromkeys(PRICES, ((0, 0), (1, 0), (0, 0)))

    run(tmp_path, test)


def test_when_all_fail_those_ring_that_did_not_yet(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, Busy(after_ms=50), NoAnswer(), Answers(after_ms=20, talk_ms=100))
        rig.cap(CapScope.TARGET, "buyer3", CapMetric.CONCURRENT, "0")
        call = rig.world.start(spec())
        await until(lambda: rig.live())
        rig.cap(CapScope.TARGET, "buyer3", CapMetric.CONCURRENT, "9")
        outcome = await call
        assert [(a.attempt, a.target, a.dialstatus) for a in outcome.attempts] == [
            ("1", "buyer1&buyer2", "NOANSWER"),
            ("3", "buyer3", "ANSWER"),
        ]
        is_billed_as(await only_cdr(rig), "buyer3")

    run(tmp_path, test)


def test_when_all_have_failed_the_caller_hears_the_cause_of_the_last(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, Busy(after_ms=50), Congested(after_ms=20), Unavailable())
        outcome = await rig.world.call(spec())
        assert (outcome.reject_reason, outcome.cause, outcome.sip) == ("targets_all_failed", 17, 486)
        cdr = await only_cdr(rig)
        assert (cdr.reject_reason, cdr.amount_micros, cdr.attempts) == ("targets_all_failed", 0, 3)
        assert counts(rig) == dict.fromkeys(PRICES, ((0, 0), (1, 0), (0, 0)))

    run(tmp_path, test)


def test_no_more_legs_ring_than_one_dial_string_can_hold(tmp_path: Path) -> None:
    """Asterisk cuts a variable that it puts into an application's arguments at 4,095 bytes: the last leg would be
    another address."""

    async def test(rig: Rig) -> None:
        campaigns.set_campaign(rig.office, "solar", max_attempts=20)
        host = ".".join(["h" * 60] * 4)
        for number in range(17):
            address = f"sip:{'u' * 60}@{host}:{5_000 + number}"
            targets.add_target(rig.office, f"far{number}", kind=TargetKind.PJSIP, address=address)
            targets.add_rule(rig.office, "solar", f"far{number}", priority=9)
        told = (await rig.route("u-1")).variables
        assert len(told["CC_DIAL"]) < 4_096
        names = told["CC_TARGET"].split("&")
        assert len(names) == len(told["CC_DIAL"].split("&")) > 10
        following = (await rig.exchange("attempt", "u-1", told["CC_ATTEMPT"], "NOANSWER", "0")).variables
        assert not set(following["CC_TARGET"].split("&")) & set(names), "the rest rings next"
        assert (await rig.settle("u-1", "NOANSWER", cause="0")).variables == {"CC_ACK": "1"}
        await only_cdr(rig)

    run(tmp_path, test)


# --- without a word of AMI --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hung_up_by", ["caller", "target"])
def test_without_ami_the_dialplan_tells_which_leg_answered(tmp_path: Path, hung_up_by: Side) -> None:
    async def test(rig: Rig) -> None:
        script(rig, NoAnswer(), Answers(after_ms=50, talk_ms=1_200, hung_up_by=hung_up_by))
        outcome = await rig.world.call(spec())
        cdr = await only_cdr(rig)
        is_billed_as(cdr, "buyer2")
        assert (cdr.hung_up_by, cdr.witness) == (hung_up_by, "handler")
        assert abs(cdr.talk_ms - outcome.talk_ms) <= MARGIN_MS
        lost = ((0, 0), (1, 0), (0, 0))
        assert counts(rig) == {"buyer1": lost, "buyer2": ((0, 0), (1, 0), (1, 0)), "buyer3": lost}

    run(tmp_path, test, with_ami=False)


def test_ami_that_is_away_while_it_is_answered_tells_the_leg_when_it_is_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, NoAnswer(), Answers(after_ms=700, talk_ms=9_000))
        call = rig.world.start(spec())
        await until(lambda: len(list(rig.world.channel_rows())) == 4)
        rig.ami.stop_listening()
        rig.ami.drop_connections()  # what was said before is heard before the end of the connection
        await until(lambda: any(dict(row)["BridgeId"] for row in rig.world.channel_rows()))
        await rig.ami.listen_again()
        assert (await is_up(rig)).target == "buyer2"
        assert [in_flight for (_, in_flight), *_ in counts(rig).values()] == [0, 1, 0]
        await call
        is_billed_as(await only_cdr(rig), "buyer2")

    run(tmp_path, test)


def test_while_nobody_tells_the_leg_all_keep_their_places_and_nothing_leaks(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        script(rig, NoAnswer(), Answers(after_ms=50, talk_ms=9_000))
        rig.ami.stop_listening()
        rig.ami.drop_connections()
        call = rig.world.start(spec())
        await until(lambda: any(dict(row)["BridgeId"] for row in rig.world.channel_rows()))
        await rig.ami.listen_again()
        await is_up(rig)
        assert [in_flight for (_, in_flight), *_ in counts(rig).values()] == [1, 1, 1]
        await call
        is_billed_as(await only_cdr(rig), "buyer2")
        assert counts(rig)["buyer1"] == ((0, 0), (1, 0), (0, 0))

    run(tmp_path, test)


@pytest.mark.parametrize("moment", ["ringing", "talking"])
def test_a_daemon_that_dies_knows_the_leg_from_the_spool(tmp_path: Path, moment: str) -> None:
    async def test(rig: Rig) -> None:
        script(rig, NoAnswer(), Answers(after_ms=500, talk_ms=4_000))
        call = rig.world.start(spec())
        await (is_up(rig) if moment == "talking" else until(lambda: len(list(rig.world.channel_rows())) == 4))
        await rig.stop(signal.SIGKILL)
        outcome = await call
        assert outcome.spooled
        await rig.start()
        cdr = await only_cdr(rig)
        is_billed_as(cdr, "buyer2")
        assert abs(cdr.talk_ms - outcome.talk_ms) <= 100
        await until(lambda: not rig.ami.database)

    run(tmp_path, test)


def test_a_daemon_that_comes_back_while_they_ring_loses_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        for name in PRICES:
            targets.set_target(rig.office, name, ring_ms=20_000)
        script(rig, NoAnswer(), Answers(after_ms=3_000, talk_ms=1_000))
        call = rig.world.start(spec())
        await until(lambda: len(list(rig.world.channel_rows())) == 4)
        await rig.stop(signal.SIGKILL)
        await rig.start()
        await call
        is_billed_as(await only_cdr(rig), "buyer2")

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("dialled", "dial"),
    [
        (f"|{IPV6}", IPV6),
        ("|/", ""),  # nobody answered
        ("", ""),  # of a dialplan that was rendered before it told
    ],
)
def test_a_kept_settlement_tells_what_was_dialled(dialled: str, dial: str) -> None:
    text = f"01CALL|1|ANSWER|2000|2500|16|PJSIP/carrier-00000001|capconduit-inbound|1795278138.123{dialled}"
    entry = read_entry("/capconduit/unsettled/rig-1.1", text)
    assert entry is not None
    told = report_of(entry, "rig", LegTimes())
    assert (told.leg.dial, told.ended_ms, told.answered_for_ms) == (dial, 1_795_278_138_123, 2_000)
    seen = LegTimes(dial="PJSIP/seen-by-ami")
    assert report_of(entry, "rig", seen).leg == seen


# --- many at once -----------------------------------------------------------------------------------------------------


def _behaviour(rng: random.Random) -> Behaviour:
    kinds: Sequence[Behaviour] = (
        Answers(rng.randrange(20, 400), rng.randrange(50, 1_500), rng.choice(("caller", "target"))),
        Answers(rng.randrange(20, 400), rng.randrange(50, 1_500), rng.choice(("caller", "target"))),
        Busy(rng.randrange(5, 200)),
        Congested(rng.randrange(5, 200)),
        NoAnswer(),
        Unavailable(),
        CallerCancels(rng.randrange(50, 600)),
    )
    return rng.choice(kinds)


def _is_recorded_as_it_was(outcome: CallOutcome, cdr: Cdr) -> None:
    assert outcome.settled_ack
    if outcome.dialstatus != "ANSWER":
        assert (cdr.amount_micros, cdr.answered_ms) == (0, None)
        assert cdr.dialstatus == outcome.dialstatus
        return
    is_billed_as(cdr, outcome.target)
    assert cdr.hung_up_by == outcome.ended_by
    assert abs(cdr.talk_ms - outcome.talk_ms) <= 5 * MARGIN_MS


@pytest.mark.parametrize("with_ami", [True, False])
def test_many_calls_that_ring_all_are_recorded_as_they_were(tmp_path: Path, with_ami: bool) -> None:
    async def test(rig: Rig) -> None:
        rng = random.Random(26)
        for name in PRICES:
            rig.script(name, *(_behaviour(rng) for _ in range(200)))
        outcomes = await asyncio.gather(*(rig.world.start(spec()) for _ in range(60)))
        await rig.at_rest()
        cdrs = {cdr.uniqueid: cdr for cdr in rig.cdrs()}
        assert len(cdrs) == len(rig.cdrs()) == 60
        for outcome in outcomes:
            _is_recorded_as_it_was(outcome, cdrs[outcome.uniqueid])
        assert {cdr.target for cdr in cdrs.values() if cdr.answered_ms} == set(PRICES)
        assert rig.account().balance_micros == FUNDS - sum(cdr.amount_micros for cdr in cdrs.values())
        assert active(rig) == [0, 0, 0]
        dialled = dict.fromkeys(PRICES, 0)
        for cdr in cdrs.values():
            for attempt in attempts(rig, cdr):
                dialled[attempt.target_name] += 1
        assert {name: told[1] for name, told in counts(rig).items()} == {n: (d, 0) for n, d in dialled.items()}
        assert balances.verify_balances(rig.office) == []

    run(tmp_path, test, with_ami=with_ami)
