"""The daemon with a reader and a second AMI user for what changes calls: either may go away in mid-call."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from asterisk_simulator.behaviours import Answers
from capconduit.errors import ExitCode
from tests.daemon.rig import CONTROL, Rig, until
from tests.daemon.test_daemon import Test, spec
from tests.daemon.test_daemon import run as run_daemon
from tests.daemon.test_faults import answered, until_talked


def run(tmp_path: Path, test: Test) -> None:
    run_daemon(tmp_path, test, with_control=True)


def test_a_call_is_extended_and_settled_by_two_users_with_the_least_rights(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "6")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=8_000))
        outcome = await rig.world.call(spec())
        assert not outcome.cut_by_timeout
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert cdr.witness == "handler+ami"
        assert abs(cdr.talk_ms - outcome.talk_ms) <= 100
        assert rig.status()["ami"]["control"] == {"user": CONTROL, "up": True}

    run(tmp_path, test)


def test_without_the_second_user_a_call_ends_by_the_limit_it_has_and_is_billed_for_that(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "2")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=20_000))
        user = rig.ami.users.pop(CONTROL)
        rig.ami.drop_connections()
        await until(lambda: rig.status().get("reasons") == ["ami control down"])
        outcome = await rig.world.call(spec())
        assert outcome.cut_by_timeout
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert cdr.talk_ms < 6_000
        assert cdr.written_off_micros == 0
        assert cdr.amount_micros == cdr.billed_seconds * 10_000
        rig.ami.users[CONTROL] = user

    run(tmp_path, test)


def test_a_call_outlives_a_break_of_the_second_user(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.setting("funding_slice_s", "20")
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=23_000))
        call = rig.world.start(spec())
        await answered(rig)
        await until_talked(rig, 8_500)
        rig.ami.stop_listening()  # the reader has its connection
        rig.ami.drop_connections(CONTROL)
        await until(lambda: rig.status().get("reasons") == ["ami control down"])
        await until_talked(rig, 10_300)  # the look at half of the slice falls into the break
        await rig.ami.listen_again()  # the daemon may be four seconds late to try again, and two more to look
        outcome = await call
        assert not outcome.cut_by_timeout
        await rig.at_rest()
        assert abs(rig.cdrs()[0].talk_ms - outcome.talk_ms) <= 100

    run(tmp_path, test)


def test_a_kept_settlement_is_deleted_once_the_second_user_is_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.script("buyer1", Answers(talk_ms=4_000))
        call = rig.world.start(spec())
        await answered(rig)
        await rig.stop()
        await call
        assert rig.ami.database
        user = rig.ami.users.pop(CONTROL)
        rig.spawn()
        await until(rig.cdrs)
        assert rig.ami.database, "nobody may delete it"
        rig.ami.users[CONTROL] = user
        await rig.stop()  # a refused login is tried again after a minute: for this test, at once
        await rig.start()
        await until(lambda: not rig.ami.database)
        await rig.at_rest()
        assert len(rig.cdrs()) == 1

    run(tmp_path, test)


def test_half_of_the_second_users_keys_is_a_mistake(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        await rig.stop()
        with mock.patch.dict(os.environ, {"CAPCONDUIT_AMI__CONTROL_USERNAME": "somebody"}):
            rig.spawn()
        process = rig.process
        assert process is not None
        await until(lambda: process.poll() is not None)
        assert process.returncode == ExitCode.USAGE
        assert "[ami-control-incomplete]" in rig.log()

    run_daemon(tmp_path, test)
