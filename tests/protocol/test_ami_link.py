"""The AMI link against a simulated Asterisk that misbehaves: it reports, recovers, and never repeats an action."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from asterisk_simulator.ami_server import AmiServer
from asterisk_simulator.behaviours import Answers, CallSpec
from asterisk_simulator.world import World
from capconduit.vocab import DialStatus
from fastagi.ami_events import (
    AmiEvent,
    CallEvent,
    ChannelHungUp,
    ChannelList,
    DialEnded,
    HangupRequested,
    LegLeftBridge,
    LinkDown,
    LinkUp,
    NewChannel,
    ResyncNeeded,
)
from fastagi.ami_guard import SLICE_MESSAGES
from fastagi.ami_link import AmiLink, AmiRefused, AmiSettings, AmiUnavailable
from tests.protocol.simulator_support import agi_server, run, says, until

E = TypeVar("E")
CHANNEL = "PJSIP/carrier-00000001"
QUICK = AmiSettings(
    "127.0.0.1",
    0,
    "sim",
    "sim",
    connect_timeout_s=2.0,
    login_timeout_s=2.0,
    fully_booted_wait_s=2.0,
    action_timeout_s=2.0,
    ping_interval_s=30.0,
    ping_timeout_s=2.0,
    backoff_first_s=0.001,
    backoff_max_s=0.01,
    refused_backoff_s=30.0,
)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Rig:
    """A link, its Asterisk, and everything that the consumer got."""

    def __init__(self, link: AmiLink, ami: AmiServer) -> None:
        self.link, self.ami = link, ami
        self.got: list[AmiEvent] = []
        self.consuming = True

    async def consume(self) -> None:
        async for event in self.link.events():
            self.got.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.got if isinstance(event, kind)]

    async def got_one(self, kind: type[E], number: int = 1) -> E:
        await until(lambda: len(self.of(kind)) >= number, f"{number} {kind.__name__}")
        return self.of(kind)[number - 1]

    def tell(self, uniqueid: str, **fields: str) -> None:
        self.ami.publish("Newchannel", [("Channel", CHANNEL), *fields.items(), ("Uniqueid", uniqueid)])

    def asked(self, action: str) -> int:
        return sum(1 for request in self.ami.requests if request.get("action", "").lower() == action)


@asynccontextmanager
async def rig(
    *, consume: bool = True, wait: bool = True, known_started_ms: int | None = None, **changes: Any
) -> AsyncIterator[Rig]:
    async with AmiServer() as ami:
        settings = replace(QUICK, port=ami.port, **changes)
        link = AmiLink(settings, now_ms=now_ms, random=lambda: 0.5, known_started_ms=known_started_ms)
        made = Rig(link, ami)
        tasks = [asyncio.ensure_future(made.consume())] if consume else []
        link.start()
        try:
            if wait:
                await until(lambda: link.up and (not consume or made.of(ChannelList)), "the link")
            yield made
        finally:
            await link.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Phone:
    """A source of channels that remembers what was asked of it."""

    def __init__(self, count: int = 1, padding: int = 0) -> None:
        self.count, self.padding = count, padding
        self.done: list[tuple[object, ...]] = []

    def channel_rows(self) -> list[list[tuple[str, str]]]:
        filler = "x" * self.padding
        return [
            [("Channel", f"PJSIP/x-{n:08x}"), ("CallerIDName", filler), ("Uniqueid", f"u.{n}"), ("ChannelState", "6")]
            for n in range(self.count)
        ]

    def hang_up(self, channel: str, cause: int) -> bool:
        self.done.append(("hangup", channel, cause))
        return channel == CHANNEL

    def move_limit(self, channel: str, seconds: float) -> bool:
        self.done.append(("limit", channel, seconds))
        return channel == CHANNEL


# ----- the life of a link


def test_a_link_says_up_then_lists_the_channels_then_tells_the_calls() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.tell("u1", Linkedid="u1")
            event = await r.got_one(NewChannel)
            assert [type(e) for e in r.got] == [LinkUp, ChannelList, NewChannel]
            assert (event.uniqueid, event.channel) == ("u1", CHANNEL)
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
            assert [type(e) for e in r.got] == [LinkUp, NewChannel, ChannelList]

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
            await r.got_one(NewChannel)

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
        async with rig(ping_interval_s=0.02, ping_timeout_s=0.1) as r:
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


# ----- what comes in


def test_a_connection_lost_in_the_middle_of_a_message_loses_only_that_message() -> None:
    async def scenario() -> None:
        async with rig() as r:
            received = r.link.counters.received_bytes
            r.ami.send_raw(b"Event: Newchannel\r\nUniqueid: ha")
            await until(lambda: r.link.counters.received_bytes > received, "the first half")
            r.ami.drop_connections()
            await r.got_one(LinkUp, 2)
            r.tell("whole")
            assert (await r.got_one(NewChannel)).uniqueid == "whole"

    run(scenario())


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_that_is_split_over_two_segments_survives(cut: int) -> None:
    async def scenario() -> None:
        async with rig() as r:
            name = "PJSIP/中\U0001f600-1".encode()
            at = name.index("\U0001f600".encode()) + cut
            head = b"Event: Newchannel\r\nUniqueid: u\r\nChannel: "
            received = r.link.counters.received_bytes
            r.ami.send_raw(head + name[:at])
            await until(lambda: r.link.counters.received_bytes > received, "the first half")
            r.ami.send_raw(name[at:] + b"\r\n\r\n")
            assert (await r.got_one(NewChannel)).channel == "PJSIP/中\U0001f600-1"

    run(scenario())


def test_latin_1_and_rubbish_cost_nothing_but_themselves() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.send_raw(b"Event: Newchannel\r\nUniqueid: u\r\nChannel: Caf\xe9\r\n\r\n")
            r.ami.send_raw(b"\r\n\r\nrubbish\r\n\r\nEvent: Hangup\r\n\r\nResponse: Success\r\n\r\n: \r\n\r\n")
            r.tell("next")
            assert (await r.got_one(NewChannel)).channel == "Caf\ufffd"
            assert (await r.got_one(NewChannel, 2)).uniqueid == "next"
            assert r.of(LinkDown) == []

    run(scenario())


def test_a_fault_in_handling_one_message_does_not_drop_the_link(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastagi.ami_link as module

    real: Callable[..., CallEvent | None] = module.translate

    def broken(message: dict[str, str], received_ms: int) -> CallEvent | None:
        if message.get("Uniqueid") == "bad":
            raise RuntimeError("a fault of ours")
        return real(message, received_ms)

    monkeypatch.setattr(module, "translate", broken)

    async def scenario() -> None:
        async with rig() as r:
            r.tell("bad")
            r.tell("good")
            assert (await r.got_one(NewChannel)).uniqueid == "good"
            assert r.of(LinkDown) == []
            assert r.link.counters.malformed == 1

    run(scenario())


def test_a_flood_is_bounded_told_once_and_followed_by_fresh_events() -> None:
    async def scenario() -> None:
        async with rig(consume=False, queue_limit=50) as r:
            for number in range(500):
                r.tell(f"u{number}")
            await until(lambda: r.link.counters.events == 500, "the flood")
            assert r.link.waiting_events <= 51
            assert r.link.dropped_events >= 440
            got = [await r.link.next_event() for _ in range(r.link.waiting_events)]
            assert [type(e) for e in got].count(ResyncNeeded) == 1
            assert isinstance(got[-1], ResyncNeeded)
            r.tell("fresh")
            event = await r.link.next_event()
            assert isinstance(event, NewChannel)
            assert event.uniqueid == "fresh"

    run(scenario())


def test_events_that_nobody_wants_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastagi.ami_guard as module

    parsed: list[bytes] = []
    real = module.parse_message

    def counting(data: bytes) -> dict[str, str]:
        parsed.append(data)
        return real(data)

    monkeypatch.setattr(module, "parse_message", counting)

    async def scenario() -> None:
        async with rig() as r:
            parsed.clear()
            for _ in range(100):
                r.ami.publish("VarSet", [("Channel", CHANNEL), ("Uniqueid", "u"), ("Variable", "X")])
            r.tell("u1")
            await r.got_one(NewChannel)
            assert r.link.counters.ignored == 100
            assert len(parsed) == 1

    run(scenario())


def test_an_oversized_event_is_thrown_away_and_asks_for_a_resync() -> None:
    async def scenario() -> None:
        async with rig(message_limit_bytes=4_096) as r:
            r.tell("big", CallerIDName="x" * 100_000)
            r.tell("small")
            assert (await r.got_one(NewChannel)).uniqueid == "small"
            assert len(r.of(ResyncNeeded)) == 1
            assert r.link.counters.oversized == 1

    run(scenario())


def test_other_tasks_run_while_a_huge_reply_comes_in() -> None:
    turns: list[int] = []

    async def scenario() -> None:
        async with rig() as r:
            r.ami.channels = Phone(count=4_000)
            before = r.link.counters.received_bytes

            async def clock() -> None:
                while True:
                    turns.append(r.link.counters.received_bytes - before)
                    await asyncio.sleep(0)

            ticking = asyncio.ensure_future(clock())
            listed = await r.link.core_show_channels()
            ticking.cancel()
            assert listed.complete
            assert len(listed.channels) == 4_000

    run(scenario())
    assert len(turns) >= 4_000 // SLICE_MESSAGES


def test_a_reply_of_too_many_parts_is_cut_and_says_so() -> None:
    async def scenario() -> None:
        async with rig(reply_limit_items=10) as r:
            r.ami.channels = Phone(count=300)
            listed = await r.link.core_show_channels()
            assert not listed.complete
            assert 0 < len(listed.channels) <= 10
            await until(lambda: r.link.counters.strays >= 290, "the rest")
            r.ami.channels = Phone(count=3)
            assert (await r.link.core_show_channels()).complete

    run(scenario())


def test_a_reply_of_one_huge_message_is_refused_at_once() -> None:
    async def scenario() -> None:
        async with rig(message_limit_bytes=4_096) as r:
            r.ami.faults.mute_actions.add("hangup")
            asking = asyncio.ensure_future(r.link.hangup(CHANNEL))
            await until(lambda: r.asked("hangup"), "the action")
            action_id = r.ami.requests[-1]["actionid"].encode()
            r.ami.send_raw(
                b"Response: Success\r\nActionID: " + action_id + b"\r\nMessage: " + b"x" * 200_000 + b"\r\n\r\n"
            )
            with pytest.raises(AmiRefused) as caught:
                await asking
            assert caught.value.slug == "ami-reply-too-large"
            assert r.link.up

    run(scenario())


def test_a_simulated_call_becomes_its_events() -> None:
    limits = "CC_RING_S=9,CC_FUNDED_S=9,CC_CEILING_MS=9000"
    route = f"CC_CALL=c,CC_ATTEMPT=a,CC_DIAL=PJSIP/b,{limits},CC_VERDICT=dial"
    responder = says({"route": route, "settle": "CC_ACK=1"})

    async def scenario() -> None:
        async with rig() as r, agi_server(responder) as port:
            world = World("127.0.0.1", port, r.ami, random.Random(1), otherwise=Answers(5, 30, "target"))
            outcome = await world.call(CallSpec("1800", "1212"))
            await r.got_one(ChannelHungUp, 2)
            (answered,) = r.of(DialEnded)
            left = next(event for event in r.of(LegLeftBridge) if event.uniqueid == answered.dest_uniqueid)
            assert answered.status is DialStatus.ANSWER
            assert answered.uniqueid == outcome.uniqueid
            assert abs(left.at_ms - answered.at_ms - outcome.talk_ms) <= 1_000
            first = r.of(HangupRequested)[0]
            assert (first.uniqueid, first.soft) == (answered.dest_uniqueid, False)
            assert {event.linkedid for event in r.of(ChannelHungUp)} == {outcome.uniqueid}

    run(scenario())


# ----- actions


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
