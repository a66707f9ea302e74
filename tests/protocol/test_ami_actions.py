"""Actions over the AMI link: refused, unanswered or lost, they end at once, and none is ever sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from fastagi.ami_events import (
    ChannelList,
)
from fastagi.ami_link import AmiLink, AmiRefused, AmiSettings, AmiUnavailable
from tests.protocol.ami_rig import CHANNEL, QUICK, Phone, now_ms, rig
from tests.protocol.simulator_support import run, until


def test_actions_reach_asterisk_with_their_values() -> None:
    async def scenario() -> None:
        async with rig() as r:
            phone = Phone()
            r.ami.channels = phone
            await r.link.absolute_timeout(CHANNEL, 90.5)
            await r.link.hangup(CHANNEL, 21)
            assert phone.done == [("limit", CHANNEL, 90.5), ("hangup", CHANNEL, 21)]
            assert (await r.link.core_show_channels()).channels[0].uniqueid == "u.0"
            r.ami.database = {"/capconduit/unsettled/u.1": "a,b", "/capconduit/unsettled/u.2": "", "/other/x": "y"}
            assert await r.link.db_get_tree("capconduit/unsettled") == {"u.1": "a,b", "u.2": ""}
            assert await r.link.db_get_tree("capconduit", "unsettled") == {"u.1": "a,b", "u.2": ""}
            assert await r.link.db_get_tree("nothing") == {}
            r.ami.database["/capconduit/unsettled/Büro 1-9.9"] = ""
            for key in ("u.1", "u.1", "Büro 1-9.9"):
                await r.link.db_del("capconduit/unsettled", key)
            assert sorted(r.ami.database) == ["/capconduit/unsettled/u.2", "/other/x"]

    run(scenario())


def test_no_action_needs_more_than_the_least_rights() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.faults.denied_actions |= {"dbdel", "dbput", "command", "originate"}
            r.ami.database = {"/capconduit/unsettled/u.1": ""}
            await r.link.db_del("capconduit/unsettled", "u.1")
            assert r.ami.database == {}

    run(scenario())


def test_what_asterisk_refuses_is_a_typed_error_with_a_slug() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.channels = Phone()
            with pytest.raises(AmiRefused) as caught:
                await r.link.hangup("PJSIP/gone-1")
            assert caught.value.slug == "ami-no-such-channel"
            r.ami.faults.denied_actions.add("coreshowchannels")
            with pytest.raises(AmiRefused) as caught:
                await r.link.core_show_channels()
            assert caught.value.slug == "ami-permission-denied"
            assert "reporting" in caught.value.hint

    run(scenario())


@pytest.mark.parametrize(
    "ask",
    [
        lambda link: link.hangup("/PJSIP.*/"),
        lambda link: link.hangup("/"),
        lambda link: link.hangup(""),
        lambda link: link.hangup("PJSIP/x-1\r\nAction: Originate"),
        lambda link: link.hangup("PJSIP/x-1\x00"),
        lambda link: link.hangup("PJSIP/x-1 y"),
        lambda link: link.hangup(CHANNEL, 128),
        lambda link: link.hangup(CHANNEL, -1),
        lambda link: link.absolute_timeout("/.*/", 5),
        lambda link: link.absolute_timeout(CHANNEL, 0),
        lambda link: link.absolute_timeout(CHANNEL, -1),
        lambda link: link.absolute_timeout(CHANNEL, float("nan")),
        lambda link: link.absolute_timeout(CHANNEL, float("inf")),
        lambda link: link.absolute_timeout(CHANNEL, 1e9),
        lambda link: link.db_get_tree("cap%"),
        lambda link: link.db_get_tree(""),
        lambda link: link.db_del("capconduit/unsettled", "x)=1"),
        lambda link: link.db_del("capconduit/unsettled", "x\r\nAction: Originate"),
        lambda link: link.db_del("capconduit/unsettled", ""),
        lambda link: link.db_del("capconduit/unsettled", " x"),
        lambda link: link.db_del("capconduit/unsettled", '"x'),
        lambda link: link.db_del("/capconduit", "x"),
    ],
)
def test_a_value_that_could_do_more_than_it_says_is_never_sent(ask: Callable[[AmiLink], Awaitable[object]]) -> None:
    async def scenario() -> None:
        async with rig() as r:
            before = len(r.ami.requests)
            with pytest.raises(AmiRefused) as caught:
                await ask(r.link)
            assert caught.value.slug == "ami-value-refused"
            await r.link.core_show_channels()
            assert len(r.ami.requests) == before + 1

    run(scenario())


def test_actions_fail_at_once_while_the_link_is_down() -> None:
    async def scenario() -> None:
        link = AmiLink(replace(QUICK, port=1), now_ms=now_ms, random=lambda: 0.5)
        for ask in (link.hangup(CHANNEL), link.core_show_channels(), link.db_get_tree("x"), link.db_del("x", "y")):
            with pytest.raises(AmiUnavailable) as caught:
                await ask
            assert caught.value.slug == "ami-down"
            assert caught.value.exit_code == 4

    run(scenario())


def test_an_action_without_an_answer_times_out_and_a_late_answer_is_ignored() -> None:
    async def scenario() -> None:
        async with rig(action_timeout_s=0.05) as r:
            r.ami.channels = Phone()
            r.ami.faults.mute_actions.add("hangup")
            with pytest.raises(AmiUnavailable) as caught:
                await r.link.hangup(CHANNEL)
            assert caught.value.slug == "ami-no-answer"
            late = r.ami.requests[-1]["actionid"]
            r.ami.send_raw(f"Response: Success\r\nActionID: {late}\r\nMessage: Channel Hungup\r\n\r\n".encode())
            await until(lambda: r.link.counters.strays == 1, "the late answer")
            assert r.link.counters.unanswered == 1
            assert r.link.up

    run(scenario())


def test_a_pending_action_fails_with_the_connection_and_is_never_sent_again() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.channels = Phone()
            r.ami.faults.mute_actions |= {"hangup", "absolutetimeout"}
            asking = [
                asyncio.ensure_future(ask) for ask in (r.link.hangup(CHANNEL), r.link.absolute_timeout(CHANNEL, 5))
            ]
            await until(lambda: r.asked("hangup") and r.asked("absolutetimeout"), "the actions")
            r.ami.drop_connections()
            for failed in await asyncio.gather(*asking, return_exceptions=True):
                assert isinstance(failed, AmiUnavailable)
                assert failed.slug == "ami-down"
            r.ami.faults.mute_actions.clear()
            await r.got_one(ChannelList, 2)
            await r.link.core_show_channels()
            assert (r.asked("hangup"), r.asked("absolutetimeout")) == (1, 1)

    run(scenario())


def test_a_cancelled_action_is_forgotten() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.faults.mute_actions.add("hangup")
            asking = asyncio.ensure_future(r.link.hangup(CHANNEL))
            await until(lambda: r.asked("hangup"), "the action")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            late = r.ami.requests[-1]["actionid"]
            r.ami.send_raw(f"Response: Success\r\nActionID: {late}\r\n\r\n".encode())
            await until(lambda: r.link.counters.strays == 1, "the late answer")

    run(scenario())


def test_closing_the_link_ends_its_task_and_its_connection() -> None:
    async def scenario() -> None:
        async with rig() as r:
            await r.link.close()
            await r.link.close()
            assert not r.link.up
            await until(lambda: not r.ami._sessions, "the connection's end")
            assert not [task for task in asyncio.all_tasks() if task.get_name() == "ami-link"]

    run(scenario())


def test_the_secret_is_not_shown_with_the_settings() -> None:
    assert "hunter2" not in repr(AmiSettings("127.0.0.1", 5038, "u", "hunter2"))
