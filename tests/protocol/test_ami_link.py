"""The AMI link comes up, goes down and comes back against a simulated Asterisk that misbehaves."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from asterisk_simulator.ami_server import AmiServer
from fastagi.ami_events import (
    ChannelHungUp,
    ChannelList,
    LinkDown,
    LinkUp,
    ResyncNeeded,
)
from fastagi.ami_link import AmiLink
from tests.protocol.ami_rig import CHANNEL, QUICK, now_ms, rig
from tests.protocol.simulator_support import run, until


def test_a_link_says_up_then_lists_the_channels_then_tells_the_calls() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.tell("u1", Linkedid="u1")
            event = await r.got_one(ChannelHungUp)
            assert [type(e) for e in r.got] == [LinkUp, ChannelList, ChannelHungUp]
            assert event.uniqueid == "u1"
            assert abs(event.at_ms - now_ms()) < 60_000
            assert r.of(ChannelList)[0].complete
            up = r.of(LinkUp)[0]
            assert up == LinkUp(r.link.asterisk_started_ms, False)
            assert up.asterisk_started_ms == r.ami.started_us // 1_000_000 * 1_000
            assert r.link.last_event_ms is not None
            assert r.link.counters.events == 1

    run(scenario())


def test_events_between_the_login_and_linkup_are_told_after_linkup() -> None:
    async def scenario() -> None:
        async with rig(wait=False) as r:
            r.ami.faults.mute_actions.add("corestatus")
            await until(lambda: r.asked("corestatus"), "the question")
            r.tell("early")
            await until(lambda: r.link.counters.events == 1, "the event")
            assert r.got == []
            r.ami.faults.mute_actions.clear()
            request = next(q for q in r.ami.requests if q["action"] == "CoreStatus")
            r.ami.send_raw(f"Response: Success\r\nActionID: {request['actionid']}\r\n\r\n".encode())
            await r.got_one(ChannelList)
            assert [type(e) for e in r.got] == [LinkUp, ChannelHungUp, ChannelList]

    run(scenario())


def test_a_lost_link_says_down_and_comes_back_with_a_new_list() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.drop_connections()
            await r.got_one(ChannelList, 2)
            assert [type(e) for e in r.got] == [LinkUp, ChannelList, LinkDown, LinkUp, ChannelList]
            assert not r.of(LinkUp)[1].restarted
            assert r.link.up

    run(scenario())


def test_a_restarted_asterisk_is_told_from_a_lost_connection() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.started_us += 90_000_000
            r.ami.drop_connections()
            assert (await r.got_one(LinkUp, 2)).restarted
            r.ami.drop_connections()
            assert not (await r.got_one(LinkUp, 3)).restarted

    run(scenario())


@pytest.mark.parametrize(("earlier_ms", "restarted"), [(0, False), (60_000, True)])
def test_a_restart_while_this_process_was_away_is_noticed(earlier_ms: int, restarted: bool) -> None:
    async def scenario() -> None:
        async with rig() as first:
            known = first.link.asterisk_started_ms
            assert known is not None
            link = AmiLink(first.link.settings, now_ms=now_ms, random=lambda: 0.5, known_started_ms=known - earlier_ms)
            link.start()
            try:
                assert await link.next_event() == LinkUp(known, restarted)
            finally:
                await link.close()

    run(scenario())


def test_an_asterisk_that_is_away_is_told_once_and_found_when_it_comes() -> None:
    async def scenario() -> None:
        async with rig(wait=False) as r:
            r.ami.stop_listening()
            r.ami.drop_connections()
            await r.got_one(LinkDown)
            tries = r.link.counters.connects
            await until(lambda: not r.link.up, "down")
            await r.ami.listen_again()
            await r.got_one(ChannelList)
            assert len(r.of(LinkDown)) == 1
            assert r.link.counters.connects > tries

    run(scenario())


def test_a_shutdown_is_named_as_the_reason() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.publish("Shutdown", [("Shutdown", "Cleanly"), ("Restart", "False")], privilege="system,all")
            r.ami.publish("Hangup", [("Channel", CHANNEL), ("Uniqueid", "u1"), ("Cause", "16")])
            await r.got_one(ChannelHungUp)
            r.ami.drop_connections()
            assert (await r.got_one(LinkDown)).reason == "Asterisk shut down"

    run(scenario())


def test_without_fully_booted_the_link_comes_up_after_its_wait_and_resyncs_when_it_comes() -> None:
    async def scenario() -> None:
        async with rig(wait=False, fully_booted_wait_s=0.05) as r:
            r.ami.faults.hide_fully_booted = True
            await r.got_one(ChannelList)
            r.ami.publish("FullyBooted", [("Status", "Fully Booted"), ("Uptime", "1")], privilege="system,all")
            await r.got_one(ResyncNeeded)

    run(scenario())


def test_a_user_without_reporting_still_gets_events_but_no_list() -> None:
    async def scenario() -> None:
        async with rig(wait=False) as r:
            r.ami.faults.denied_actions |= {"corestatus", "coreshowchannels"}
            listed = await r.got_one(ChannelList)
            assert (listed.channels, listed.complete) == ((), False)
            assert r.of(LinkUp) == [LinkUp(None, False)]
            r.tell("u1")
            await r.got_one(ChannelHungUp)

    run(scenario())


def test_a_wrong_password_is_reported_once_and_tried_slowly(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with rig(wait=False, secret="hunter2-wrong", refused_backoff_s=0.02) as r:
            await until(lambda: r.link.counters.login_refusals >= 3, "three refusals")
            assert len(r.of(LinkDown)) == 1
            assert not r.link.up

    with caplog.at_level(logging.DEBUG):
        run(scenario())
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "'sim'" in errors[0]
    assert "hunter2" not in caplog.text


def test_a_wrong_password_waits_for_the_long_backoff() -> None:
    class Recording(AmiLink):
        pauses: list[float]

        def _pause_s(self, failures: int, refused: bool) -> float:
            self.pauses.append(super()._pause_s(failures, refused))
            return self.pauses[-1]

    async def scenario() -> None:
        async with AmiServer(secret="right") as ami:
            link = Recording(replace(QUICK, port=ami.port), now_ms=now_ms, random=lambda: 0.0)
            link.pauses = []
            link.start()
            try:
                await until(lambda: link.pauses, "the first pause")
                assert link.counters.login_refusals == 1
                assert link.pauses == [QUICK.refused_backoff_s / 2]
            finally:
                await link.close()

    run(scenario())


def test_the_pause_grows_to_its_bound_with_jitter() -> None:
    settings = replace(QUICK, backoff_first_s=0.5, backoff_max_s=30.0, refused_backoff_s=60.0)
    low = AmiLink(settings, now_ms=now_ms, random=lambda: 0.0)
    high = AmiLink(settings, now_ms=now_ms, random=lambda: 0.999)
    assert [low._pause_s(n, False) for n in (0, 1, 2, 3)] == [0.25, 0.25, 0.5, 1.0]
    assert low._pause_s(10_000, False) == 15.0
    assert 29.9 < high._pause_s(10_000, False) <= 30.0
    assert low._pause_s(1, True) == 30.0


def test_an_unanswered_ping_ends_the_link() -> None:
    async def scenario() -> None:
        async with rig(ping_interval_s=0.02, ping_timeout_s=3.5) as r:
            await until(lambda: r.asked("ping") >= 3, "pings")
            assert r.of(LinkDown) == []
            r.ami.faults.mute = True
            down = await r.got_one(LinkDown)
            assert "Ping" in down.reason
            assert not r.link.up
            r.ami.faults.mute = False
            await r.got_one(LinkUp, 2)

    run(scenario())


def test_something_that_is_no_manager_interface_is_left() -> None:
    async def scenario() -> None:
        async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(smtp, "127.0.0.1", 0)
        settings = replace(QUICK, port=server.sockets[0].getsockname()[1], backoff_first_s=30.0, backoff_max_s=30.0)
        link = AmiLink(settings, now_ms=now_ms, random=lambda: 0.5)
        link.start()
        try:
            event = await link.next_event()
            assert isinstance(event, LinkDown)
            assert "not an Asterisk manager interface" in event.reason
        finally:
            await link.close()
            server.close()

    run(scenario())


def test_a_connection_that_is_closed_at_once_is_tried_again() -> None:
    async def scenario() -> None:
        async with rig(wait=False) as r:
            r.ami.faults.close_on_accept = True
            await until(lambda: r.ami.connections >= 3, "tries")
            r.ami.faults.close_on_accept = False
            await r.got_one(ChannelList)
            assert len(r.of(LinkDown)) == 1

    run(scenario())
