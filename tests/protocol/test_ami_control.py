"""Two AMI users: one reads, one acts; each has the least rights, and neither needs the other to do its own part."""

from __future__ import annotations

import logging

import pytest

from fastagi.ami_events import ChannelHungUp, ChannelList, LinkDown, LinkUp
from fastagi.ami_link import AmiRefused, AmiUnavailable
from tests.protocol.ami_rig import ACTING, CHANNEL, Phone, rig
from tests.protocol.simulator_support import run, until


def test_each_user_does_what_only_it_may() -> None:
    async def scenario() -> None:
        async with rig(control={}) as r:
            phone = Phone()
            r.ami.channels = phone
            r.ami.database = {"/capconduit/unsettled/u.1": "kept"}
            await r.link.absolute_timeout(CHANNEL, 90.5)
            await r.link.hangup(CHANNEL, 21)
            assert phone.done == [("limit", CHANNEL, 90.5), ("hangup", CHANNEL, 21)]
            assert len((await r.link.core_show_channels()).channels) == 1
            assert await r.link.db_get_tree("capconduit/unsettled") == {"u.1": "kept"}
            await r.link.db_del("capconduit/unsettled", "u.1")
            assert r.ami.database == {}

    run(scenario())


def test_the_one_who_acts_is_sent_no_events() -> None:
    async def scenario() -> None:
        async with rig(control={}) as r:
            assert r.link.control is not None
            r.tell("u1")
            await r.got_one(ChannelHungUp)
            r.ami.channels = Phone()
            await r.link.hangup(CHANNEL)  # its answer comes after whatever was sent before
            counters = r.link.control.counters
            assert (counters.events, counters.ignored, counters.strays) == (0, 0, 0)
            logins = {q["username"]: q["events"] for q in r.ami.requests if q["action"].lower() == "login"}
            assert logins == {"sim": "call,system", ACTING: "off"}

    run(scenario())


def test_while_the_one_who_acts_is_away_actions_fail_at_once_and_events_go_on() -> None:
    async def scenario() -> None:
        async with rig(control={"backoff_first_s": 30.0, "backoff_max_s": 30.0}) as r:
            r.ami.channels = Phone()
            r.ami.drop_connections(ACTING)
            await until(lambda: not r.link.can_act, "its end")
            for ask in (r.link.hangup(CHANNEL), r.link.absolute_timeout(CHANNEL, 5), r.link.db_del("x", "y")):
                with pytest.raises(AmiUnavailable) as caught:
                    await ask
                assert caught.value.slug == "ami-down"
                assert "control" in caught.value.message
            r.tell("u1")
            await r.got_one(ChannelHungUp)
            assert (await r.link.core_show_channels()).complete
            assert r.link.up
            assert r.of(LinkDown) == []

    run(scenario())


def test_the_one_who_acts_comes_back_by_itself() -> None:
    async def scenario() -> None:
        async with rig(control={}) as r:
            assert r.link.control is not None
            r.ami.channels = Phone()
            r.ami.drop_connections(ACTING)
            await until(lambda: r.link.can_act and r.link.control.counters.logins == 2, "its second login")  # type: ignore[union-attr]
            await r.link.hangup(CHANNEL)
            assert len(r.of(LinkUp)) == 1

    run(scenario())


def test_while_the_reader_is_away_the_other_still_acts() -> None:
    async def scenario() -> None:
        async with rig(control={}, backoff_first_s=30.0, backoff_max_s=30.0) as r:
            r.ami.channels = Phone()
            r.ami.drop_connections("sim")
            await r.got_one(LinkDown)
            await until(lambda: r.link.can_act, "the other")
            await r.link.hangup(CHANNEL)

    run(scenario())


def test_a_wrong_secret_of_the_one_who_acts_is_told_once_with_its_keys(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with rig(control={"secret": "wrong-one", "refused_backoff_s": 0.02}, wait=False) as r:
            assert r.link.control is not None
            await r.got_one(ChannelList)
            await until(lambda: r.link.control.counters.login_refusals >= 3, "three refusals")  # type: ignore[union-attr]
            assert r.link.up
            assert not r.link.can_act

    with caplog.at_level(logging.DEBUG):
        run(scenario())
    [error] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "control_username and control_secret" in error
    assert repr(ACTING) in error
    assert "wrong-one" not in caplog.text


def test_a_right_that_is_lacking_is_named_with_its_user() -> None:
    async def scenario() -> None:
        async with rig(control={}) as r:
            r.ami.faults.denied_actions |= {"hangup", "coreshowchannels"}
            with pytest.raises(AmiRefused) as caught:
                await r.link.hangup(CHANNEL)
            assert "`write = call` " in caught.value.hint
            assert ACTING in caught.value.hint
            with pytest.raises(AmiRefused) as caught:
                await r.link.core_show_channels()
            assert "`write = reporting` " in caught.value.hint

    run(scenario())


def test_closing_the_link_ends_both_connections() -> None:
    async def scenario() -> None:
        async with rig(control={}) as r:
            await r.link.close()
            assert not r.link.can_act
            await until(lambda: not r.ami._sessions, "the connections' end")

    run(scenario())
