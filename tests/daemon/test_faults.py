"""What breaks while calls live: AMI, daemon, Asterisk, clock, names. Money and places stay right."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from asterisk_simulator.behaviours import Answers
from capconduit.clock import SystemClock
from capconduit.domain.calls import AnsweredAnswer, AnswerReport, ExtendAnswer, ExtendRequest
from capconduit.errors import ExitCode
from capconduit.vocab import CallState, CapMetric, CapScope, DialStatus
from fastagi.ami_events import DialBegan, DialEnded
from fastagi.meter import Meter
from lab.ports import free_port
from tests.daemon.rig import Rig, until
from tests.daemon.test_daemon import run, spec


@asynccontextmanager
async def second_machine(rig: Rig) -> AsyncIterator[Rig]:
    """A machine of the same node name, without a daemon: with its own port, socket and journal; the same database."""
    other = Rig.__new__(Rig)
    other.__dict__.update(rig.__dict__)
    other.dir = rig.dir / "other"
    other.dir.mkdir()
    other.process = None
    other.port = free_port()
    with mock.patch.dict(os.environ, {"CAPCONDUIT_NODE__JOURNAL": f"{other.dir}/settlements.journal"}):
        try:
            yield other
        finally:
            if other.process is not None and other.process.poll() is None:
                other.process.kill()
                other.process.wait()


async def answered(rig: Rig) -> None:
    """Wait until a call is up."""
    await until(lambda: [c for c in rig.live() if c.call.state is CallState.UP])


async def until_talked(rig: Rig, talk_ms: int) -> None:
    """Wait until the only call has talked for so long."""
    (view,) = rig.live()
    answered_ms = view.call.answered_ms or 0
    await until(lambda: SystemClock().now_ms() >= answered_ms + talk_ms)


def test_a_long_call_of_an_asterisk_that_died_is_billed_for_what_it_is_known_to_have_talked(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "6")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=60_000))
        call = rig.world.start(spec())
        await until(lambda: [c for c in rig.live() if c.call.funded_s >= 12])
        call.cancel()  # SIGKILL: no handler runs
        await asyncio.gather(call, return_exceptions=True)
        rig.ami.restart()
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert cdr.talk_ms >= 2_900
        assert cdr.amount_micros == cdr.billed_seconds * 10_000

    run(tmp_path, test)


def test_a_call_with_money_outlives_a_break_of_the_link(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "20")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=23_000))
        call = rig.world.start(spec())
        await answered(rig)
        await until_talked(rig, 8_500)
        rig.ami.stop_listening()
        rig.ami.drop_connections()
        await until(lambda: not rig.status()["ami"]["up"])
        await until_talked(rig, 10_300)  # the look at half of the slice falls into the break
        await rig.ami.listen_again()  # the daemon may be four seconds late to try again, and two more to look
        outcome = await call
        assert not outcome.cut_by_timeout
        await rig.at_rest()
        assert abs(rig.cdrs()[0].talk_ms - outcome.talk_ms) <= 100

    run(tmp_path, test)


def test_a_call_with_money_outlives_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "16")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=18_000))
        call = rig.world.start(spec())
        await answered(rig)
        await rig.stop(signal.SIGKILL)
        await rig.start()
        outcome = await call
        assert not outcome.cut_by_timeout
        await rig.at_rest()
        assert abs(rig.cdrs()[0].talk_ms - outcome.talk_ms) <= 100

    run(tmp_path, test)


def test_a_call_with_money_outlives_a_database_that_is_locked_for_a_while(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "12")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=14_000))
        call = rig.world.start(spec())
        await answered(rig)
        blocker = sqlite3.connect(tmp_path / "rig.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        await until_talked(rig, 6_500)  # the look at half of the slice finds it locked
        blocker.rollback()
        blocker.close()
        outcome = await call
        assert not outcome.cut_by_timeout
        await rig.at_rest()

    run(tmp_path, test)


def test_a_settlement_that_was_kept_under_another_node_name_is_settled(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=4_000))
        call = rig.world.start(spec())
        await answered(rig)
        await rig.stop(signal.SIGKILL)
        assert (await call).spooled
        rig.node = "renamed"
        await rig.start()
        await rig.at_rest()
        assert rig.cdrs()[0].amount_micros > 0
        await until(lambda: not rig.ami.database)

    run(tmp_path, test)


def test_a_kept_settlement_that_cannot_be_read_stays_and_stops_nothing(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=4_000))
        call = rig.world.start(spec())
        await answered(rig)
        await rig.stop(signal.SIGKILL)
        await call
        family = "/capconduit/unsettled"
        poison = {
            f"{family}/0-a": "nonsense",
            f"{family}/0-b": "01NOSUCHCALL|1|ANSWER|5|5|16|||1",
            f"{family}/0-c": "01NOSUCHCALL|1|ANSWER|5|5|16|||Infinity",
            f"{family}/0-d": "01NOSUCHCALL|1|ANSWER|5|5|16|||1e999999999",
        }
        rig.ami.database.update(poison)
        await rig.start()
        await rig.at_rest()
        await until(lambda: set(rig.ami.database) == set(poison))
        assert rig.status()["ready"]

    run(tmp_path, test)


def test_two_daemons_of_one_name_leave_each_others_calls_alone_and_say_so(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        await rig.route("ours-1")  # a call that is in nobody's channel list
        async with second_machine(rig) as other:
            other.spawn("--take-over")
            for daemon in (rig, other):
                await until(lambda d=daemon: "another daemon runs as this node" in d.status().get("reasons", ()))  # type: ignore[misc]
                await until(lambda d=daemon: "another daemon runs as node" in d.log())  # type: ignore[misc]
            assert len(rig.live()) == 1

    run(tmp_path, test)


def test_a_second_daemon_of_a_name_that_lives_does_not_start(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        async with second_machine(rig) as other:
            other.spawn()
            process = other.process
            assert process is not None
            await until(lambda: process.poll() is not None)
            assert process.returncode == ExitCode.USAGE
            assert "[node-name-taken]" in other.log()
            assert rig.status()["ready"]
            assert "another daemon runs" not in rig.log()

    run(tmp_path, test)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_machine_takes_the_name_of_one_that_is_gone(tmp_path: Path, how: signal.Signals) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        async with second_machine(rig) as other:
            await rig.stop(how)
            await other.start()
            assert (await other.route("first-1")).variables["CC_VERDICT"] == "dial"

    run(tmp_path, test)


def test_requests_that_nobody_waits_for_take_no_place_of_a_fresh_call(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "1")
        blocker = sqlite3.connect(tmp_path / "rig.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            await asyncio.gather(*(rig.route(f"late-{n}") for n in range(5)))
        finally:
            blocker.rollback()
            blocker.close()
        await until(lambda: [c for c in rig.cdrs() if c.uniqueid == "late-4"])
        assert (await rig.route("fresh")).variables["CC_VERDICT"] == "dial"

    run(tmp_path, test, deadline_ms=200)


# --- the meter alone, on clocks that jump -----------------------------------------------------------------------------


class Ami:
    """Takes every limit."""

    up = True

    def __init__(self) -> None:
        self.limits: list[float] = []

    async def absolute_timeout(self, _channel: str, seconds: float) -> None:
        self.limits.append(seconds)


class Asker:
    """An engine with plenty of money: 60 s at first, 60 s more at each extension."""

    def __init__(self) -> None:
        self.funded_s = 60
        self.extensions = 0

    def ask(self, command: object) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if isinstance(command, AnswerReport):
            at_ms = command.leg.answered_ms or 0
            answer = AnsweredAnswer(
                call_id="call",
                channel="PJSIP/a-1",
                funded_from_ms=at_ms,
                funded_s=self.funded_s,
                ceiling_ms=3_600_000,
                slice_s=60,
            )
            future.set_result(answer)
        else:
            assert isinstance(command, ExtendRequest)
            self.extensions += 1
            self.funded_s += 60
            future.set_result(ExtendAnswer(call_id="call", funded_s=self.funded_s, extended=True))
        return future


def with_clock(test: Callable[[Meter, Ami, Asker, list[int]], Coroutine[Any, Any, None]]) -> None:
    """Run `test` with a meter whose wall clock is the list's only number."""

    async def whole() -> None:
        wall, ami, asker = [1_000_000_000_000], Ami(), Asker()
        meter = Meter(asker, ami, "n", lambda: wall[0])  # type: ignore[arg-type]
        meter.expect("u-1", "PJSIP/a-1")
        meter.on_event(DialBegan("u-1", "u-2", "PJSIP/b-1", "b", wall[0]))
        try:
            await test(meter, ami, asker, wall)
        finally:
            await meter.close()

    asyncio.run(whole())


def answer(meter: Meter, at_ms: int) -> None:
    meter.on_event(DialEnded("u-1", "u-2", DialStatus.ANSWER, "PJSIP/a-1", at_ms))


def test_a_wall_clock_that_is_set_back_gives_no_credit() -> None:
    async def test(meter: Meter, ami: Ami, asker: Asker, wall: list[int]) -> None:
        answered_at = wall[0]
        wall[0] -= 3_600_000
        answer(meter, answered_at)
        await until(lambda: ami.limits)
        assert ami.limits == [limit for limit in ami.limits if 50 < limit <= 60]

    with_clock(test)


def test_a_wall_clock_that_is_set_forward_reserves_no_hour_at_once() -> None:
    async def test(meter: Meter, ami: Ami, asker: Asker, wall: list[int]) -> None:
        answered_at = wall[0]
        wall[0] += 3_600_000
        answer(meter, answered_at)
        await until(lambda: ami.limits)
        await asyncio.sleep(0.2)
        assert asker.extensions <= 1
        assert 50 < ami.limits[0] <= 60

    with_clock(test)


def test_a_limit_is_moved_no_more_once_the_target_has_left() -> None:
    """The dialplan has set the guard's own limit then, for whoever may have taken the target's place."""

    async def test(meter: Meter, ami: Ami, asker: Asker, wall: list[int]) -> None:
        answer(meter, wall[0])
        await until(lambda: ami.limits)
        watch = meter._watched["u-1"]
        watch.leg = replace(watch.leg, ended_ms=wall[0])
        watch.limit = (0.0, 0)  # an extension that was under way is through
        before = list(ami.limits)
        await meter._move_limit(watch)
        assert ami.limits == before

    with_clock(test)
