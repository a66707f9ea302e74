"""The daemon as Asterisk sees it: the FastAGI contract, deadlines, crashes, and money while calls last."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from asterisk_simulator.behaviours import Answers, Busy, CallerCancels, CallSpec, NoAnswer, Unavailable
from capconduit.domain.settlement import CUT_TOLERANCE_MS
from capconduit.services.campaigns import pause_campaign, set_campaign
from capconduit.vocab import CallState, CapMetric, CapScope, HungUpBy
from lab.ports import free_port
from tests.daemon.rig import CALLER, NUMBER, Rig, until

Test = Callable[[Rig], Coroutine[Any, Any, None]]


def run(tmp_path: Path, test: Test, **options: Any) -> None:
    """Run `test` with a rig."""

    async def whole() -> None:
        async with Rig(tmp_path, **options) as rig:
            await test(rig)

    asyncio.run(whole())


def spec(**more: Any) -> CallSpec:
    return CallSpec(dnid=more.pop("dnid", NUMBER), ani=more.pop("ani", CALLER), **more)


def test_route_answers_every_variable_of_the_contract_with_the_verdict_last(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        told = (await rig.route("u-1")).variables
        assert list(told) == [
            "CC_CALL", "CC_ATTEMPT", "CC_DIAL", "CC_RING_S", "CC_FUNDED_S", "CC_CEILING_MS", "CC_OPTIONS", "CC_TARGET",
            "CC_VERDICT",
        ]  # fmt: skip
        assert told["CC_DIAL"] == "PJSIP/capconduit-out/sip:buyer1@127.0.0.1:5080"
        assert (told["CC_ATTEMPT"], told["CC_RING_S"], told["CC_FUNDED_S"]) == ("1", "2", "60")
        assert (told["CC_TARGET"], told["CC_VERDICT"]) == ("buyer1", "dial")
        again = (await rig.route("u-1")).variables
        assert again == told, "the same channel asking again gets the answer it has"
        following = (await rig.exchange("attempt", "u-1", "1", "BUSY", "17")).variables
        assert (following["CC_TARGET"], following["CC_ATTEMPT"]) == ("buyer2", "2")
        last = (await rig.exchange("attempt", "u-1", "2", "NOANSWER", "0")).variables
        assert last == {"CC_REASON": "targets_all_failed", "CC_CAUSE": "19", "CC_SIP": "480", "CC_VERDICT": "reject"}
        assert (await rig.settle("u-1", "NOANSWER", cause="0")).variables == {"CC_ACK": "1"}
        await rig.at_rest()

    run(tmp_path, test)


def test_a_reject_tells_reason_cause_and_sip(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        told = (await rig.route("u-1", dnid="+18005550999")).variables
        assert told == {"CC_REASON": "did_unknown", "CC_CAUSE": "1", "CC_SIP": "404", "CC_VERDICT": "reject"}
        told = (await rig.route("u-2")).variables
        assert told == {"CC_REASON": "balance_exhausted", "CC_CAUSE": "21", "CC_SIP": "403", "CC_VERDICT": "reject"}
        rig.fund("1")
        pause_campaign(rig.office, "solar", paused=True)
        assert (await rig.route("u-3")).variables["CC_REASON"] == "campaign_paused"
        pause_campaign(rig.office, "solar", paused=False)
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "0")
        assert (await rig.route("u-4")).variables["CC_REASON"] == "cap_reached:campaign:concurrent"

    run(tmp_path, test)


def test_settle_before_route_leaves_nothing_held(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        assert (await rig.settle("u-1", attempt="")).variables == {"CC_ACK": "1"}
        assert (await rig.route("u-1")).variables["CC_VERDICT"] == "reject"
        await rig.at_rest()

    run(tmp_path, test)


def test_the_end_of_a_call_that_is_not_in_the_database_stays_with_asterisk(tmp_path: Path) -> None:
    """Admitted under another name of this node, or after the backup that was put back: the dialplan keeps it."""

    async def test(rig: Rig) -> None:
        assert (await rig.settle("u-1", "ANSWER", "5000")).variables == {"CC_ACK": ""}
        await until(lambda: "not in the database" in rig.log())  # a thread writes it

    run(tmp_path, test)


def test_settling_twice_bills_once_and_tells_the_disagreement(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        await rig.route("u-1")
        assert (await rig.settle("u-1", "ANSWER", "1")).variables == {"CC_ACK": "1"}
        before = rig.account().balance_micros
        assert before < 10_000_000
        assert (await rig.settle("u-1", "NOANSWER")).variables == {"CC_ACK": "1"}
        assert rig.account().balance_micros == before
        await until(lambda: "settled before with other numbers" in rig.log())
        await rig.at_rest()

    run(tmp_path, test, with_ami=False)


def test_a_request_that_is_not_ours_fails_and_harms_nobody(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        assert (await rig.exchange("route")).failed
        assert (await rig.exchange("teapot", "u-1")).failed
        assert (await rig.route("u-1", name='a,b"c${D}\t(x)')).variables["CC_VERDICT"] == "dial"
        await rig.settle("u-1")
        await rig.at_rest()

    run(tmp_path, test)


def test_a_locked_database_is_engine_timeout_and_the_late_decision_is_given_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        blocker = sqlite3.connect(tmp_path / "rig.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            told = (await rig.route("u-1")).variables
        finally:
            blocker.rollback()
            blocker.close()
        assert told == {"CC_REASON": "engine_timeout", "CC_CAUSE": "38", "CC_SIP": "500", "CC_VERDICT": "reject"}
        await until(lambda: [c for c in rig.cdrs() if c.reject_reason == "engine_timeout"])
        await rig.at_rest()
        assert (await rig.route("u-2")).variables["CC_VERDICT"] == "dial"

    run(tmp_path, test, deadline_ms=200)


def test_a_call_is_extended_while_there_is_money_and_cut_when_there_is_none(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "5")
        rig.fund("0.12")
        rig.script("buyer1", Answers(after_ms=50, talk_ms=40_000))
        outcome = await rig.world.call(spec())
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert outcome.cut_by_timeout
        assert outcome.settled_ack
        # Twelve seconds; what was talked beyond them is written off, where the simulated Asterisk was late to cut it.
        seconds = 12 if outcome.talk_ms <= 12_000 + CUT_TOLERANCE_MS else ceil(cdr.talk_ms / 1_000)
        assert (cdr.billed_seconds, cdr.amount_micros) == (seconds, 120_000)
        assert cdr.written_off_micros == (seconds - 12) * 10_000
        assert abs(cdr.talk_ms - outcome.talk_ms) <= 50
        assert cdr.hung_up_by is HungUpBy.SYSTEM
        assert rig.account().balance_micros == 0

    run(tmp_path, test)


def test_calls_of_every_kind_are_recorded_as_they_were(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "10")
        kinds: dict[str, tuple[Any, Any]] = {
            "answered": (Answers(talk_ms=300), Busy()),
            "target hung up": (Answers(talk_ms=200, hung_up_by="target"), Busy()),
            "second answers": (Busy(), Answers(talk_ms=100)),
            "nobody": (NoAnswer(), Unavailable()),
            "cancelled": (CallerCancels(after_ms=60), Busy()),
        }
        for first, second in kinds.values():
            rig.script("buyer1", first)
            rig.script("buyer2", second)
            outcome = await rig.world.call(spec())
            await rig.at_rest()
            cdr = rig.cdrs()[-1]
            assert cdr.dialstatus == outcome.dialstatus
            assert cdr.attempts == len(outcome.attempts)
            assert cdr.target == outcome.target
            assert abs(cdr.talk_ms - outcome.talk_ms) <= 50
            assert cdr.hung_up_by == outcome.ended_by
            assert outcome.settled_ack

    run(tmp_path, test)


def test_a_burst_takes_exactly_the_places_there_are(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("100")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "7")
        answers = await asyncio.gather(*(rig.route(f"u-{n}") for n in range(150)))
        verdicts = Counter(a.variables["CC_VERDICT"] for a in answers)
        assert verdicts == {"dial": 7, "reject": 143}
        assert len(rig.live()) == 7
        assert rig.drift() == []

    run(tmp_path, test)


def test_a_call_survives_the_daemon_and_is_settled_from_the_spool(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=4_000))
        call = rig.world.start(spec())
        await until(lambda: [c for c in rig.live() if c.call.state is CallState.UP])
        await rig.stop(signal.SIGKILL)
        outcome = await call
        assert outcome.spooled
        assert len(rig.live()) == 1
        await rig.start()
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert abs(cdr.talk_ms - outcome.talk_ms) <= 100
        assert cdr.witness.startswith("spool")
        await until(lambda: not rig.ami.database)

    run(tmp_path, test)


def test_calls_of_an_asterisk_that_died_are_settled_at_their_last_known_life(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=60_000))
        call = rig.world.start(spec())
        await until(lambda: [c for c in rig.live() if c.call.state is CallState.UP])
        call.cancel()  # SIGKILL: no handler runs
        await asyncio.gather(call, return_exceptions=True)
        rig.ami.restart()
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert cdr.witness.startswith(("asterisk-restart", "reconciler", "ami"))
        assert cdr.written_off_micros == 0

    run(tmp_path, test)


def policies_of(pid: int) -> list[int]:
    """How the kernel schedules each thread of a process."""
    return [os.sched_getscheduler(int(thread.name)) for thread in Path(f"/proc/{pid}/task").iterdir()]


def test_no_thread_of_the_daemon_interrupts_asterisk(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        await rig.route("u-1")  # the engine's thread is there
        assert rig.process is not None
        policies = policies_of(rig.process.pid)
        assert len(policies) > 1
        assert set(policies) == {os.SCHED_BATCH}

    run(tmp_path, test)


def test_sigterm_drains_and_ends_with_zero(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        assert await rig.stop() == 0
        assert "stopped" in rig.log()
        assert not (tmp_path / "c.sock").exists()

    run(tmp_path, test)


def test_a_second_daemon_on_the_same_port_says_what_to_do(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        first, rig.socket, rig.node = rig.process, "other.sock", "other"
        rig.spawn()
        second, rig.process, rig.socket = rig.process, first, "c.sock"
        assert second is not None
        await until(lambda: second.poll() is not None)
        assert second.returncode == 2
        assert "[listen-failed]" in rig.log()

    run(tmp_path, test)


@pytest.mark.parametrize("noise", [b"", b"agi_network: yes\n", b"\xff" * 20_000, b"agi_request: agi://x/route\n\n\n"])
def test_noise_on_the_port_does_not_disturb_calls(tmp_path: Path, noise: bytes) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(noise)
            writer.close()
        assert (await rig.route("u-1")).variables["CC_VERDICT"] == "dial"

    run(tmp_path, test)


def test_a_verdict_that_asterisk_did_not_take_is_given_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        arguments = ("u-1", "u-1", NUMBER, CALLER, "", "carrier", "", "", "")
        lines = [f"agi_arg_{n}: {a}" for n, a in enumerate(arguments, 1)]
        header = "\n".join(["agi_network_script: route", "agi_request: agi://127.0.0.1/route", *lines, "", ""])
        writer.write(header.encode())
        await reader.readline()
        writer.close()  # the dialplan waited no longer: no 200, and no settle will come
        assert len(rig.live()) == 1
        await until(lambda: not rig.live())
        assert [c.witness for c in rig.cdrs()] == ["undelivered"]
        await rig.at_rest()

    run(tmp_path, test)


def test_no_report_bills_more_than_a_call_can_last(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10000")
        set_campaign(rig.office, "solar", max_duration_ms=60_000)
        await rig.route("u-1")
        await rig.settle("u-1", "ANSWER", "999999999")
        (cdr,) = rig.cdrs()
        assert cdr.talk_ms <= 62_000
        assert cdr.answered_ms is not None
        assert cdr.answered_ms >= cdr.arrived_ms
        assert cdr.amount_micros <= 620_000

    run(tmp_path, test, with_ami=False)


def test_a_call_from_a_trunk_that_the_estate_does_not_know_is_recorded_as_it_came(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.cap(CapScope.TRUNK, "carrier", CapMetric.CONCURRENT, "0")
        told = await rig.exchange("route", "u-1", "u-1", NUMBER, CALLER, "", "nope", "", "", "")
        assert told.variables["CC_VERDICT"] == "dial"
        await rig.settle("u-1")
        assert rig.cdrs()[0].trunk == "nope"
        told = await rig.exchange("route", "u-2", "u-2", NUMBER, CALLER, "", "", "", "", "")
        assert told.variables["CC_REASON"] == "cap_reached:trunk:concurrent"

    run(tmp_path, test)


def test_a_second_daemon_does_not_take_the_control_socket(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        first, port = rig.process, rig.port
        rig.port = free_port()
        rig.spawn()
        second, rig.process, rig.port = rig.process, first, port
        assert second is not None
        await until(lambda: second.poll() is not None)
        assert second.returncode == 2
        assert "[control-socket-taken]" in rig.log()
        assert rig.status()["ready"]

    run(tmp_path, test)
