"""What comes in over the AMI link: cut anywhere, hostile, too much or too large, it costs only itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import pytest

from asterisk_simulator.behaviours import Answers, CallSpec
from asterisk_simulator.world import World
from capconduit.asterisk.ami_codec import pick_fields
from capconduit.vocab import DialStatus
from fastagi.ami_events import (
    CallEvent,
    ChannelHungUp,
    DialEnded,
    LegLeftBridge,
    LinkDown,
    LinkUp,
    ResyncNeeded,
)
from fastagi.ami_guard import SLICE_MESSAGES, GuardedProtocol
from fastagi.ami_link import AmiRefused, LinkCounters
from tests.protocol.ami_rig import CHANNEL, QUICK, Phone, rig
from tests.protocol.simulator_support import agi_server, run, says, until


def test_a_connection_lost_in_the_middle_of_a_message_loses_only_that_message() -> None:
    async def scenario() -> None:
        async with rig() as r:
            received = r.link.counters.received_bytes
            r.ami.send_raw(b"Event: Hangup\r\nUniqueid: ha")
            await until(lambda: r.link.counters.received_bytes > received, "the first half")
            r.ami.drop_connections()
            await r.got_one(LinkUp, 2)
            r.tell("whole")
            assert (await r.got_one(ChannelHungUp)).uniqueid == "whole"

    run(scenario())


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_that_is_split_over_two_segments_survives(cut: int) -> None:
    async def scenario() -> None:
        async with rig() as r:
            name = "中\U0001f600-1".encode()
            at = name.index("\U0001f600".encode()) + cut
            head = b"Event: Hangup\r\nUniqueid: "
            received = r.link.counters.received_bytes
            r.ami.send_raw(head + name[:at])
            await until(lambda: r.link.counters.received_bytes > received, "the first half")
            r.ami.send_raw(name[at:] + b"\r\n\r\n")
            assert (await r.got_one(ChannelHungUp)).uniqueid == "中\U0001f600-1"

    run(scenario())


def test_latin_1_and_rubbish_cost_nothing_but_themselves() -> None:
    async def scenario() -> None:
        async with rig() as r:
            r.ami.send_raw(b"Event: Hangup\r\nUniqueid: Caf\xe9\r\n\r\n")
            r.ami.send_raw(b"\r\n\r\nrubbish\r\n\r\nEvent: Hangup\r\n\r\nResponse: Success\r\n\r\n: \r\n\r\n")
            r.tell("next")
            assert (await r.got_one(ChannelHungUp)).uniqueid == "Caf\ufffd"
            assert (await r.got_one(ChannelHungUp, 2)).uniqueid == "next"
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
            assert (await r.got_one(ChannelHungUp)).uniqueid == "good"
            assert r.of(LinkDown) == []
            assert r.link.counters.malformed == 1

    run(scenario())


def test_a_flood_is_bounded_told_once_and_followed_by_fresh_events() -> None:
    async def scenario() -> None:
        async with rig(consume=False, queue_limit=50) as r:
            await until(lambda: r.link.waiting_events == 2, "LinkUp and ChannelList")
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
            assert isinstance(event, ChannelHungUp)
            assert event.uniqueid == "fresh"

    run(scenario())


def test_events_that_nobody_wants_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastagi.ami_guard as module

    parsed: list[bytes] = []

    def counting(data: bytes, starts: Iterable[tuple[str, str]]) -> dict[str, str]:
        parsed.append(data)
        return pick_fields(data, starts)

    monkeypatch.setattr(module, "pick_fields", counting)

    async def scenario() -> None:
        async with rig() as r:
            parsed.clear()
            for _ in range(100):
                r.ami.publish("VarSet", [("Channel", CHANNEL), ("Uniqueid", "u"), ("Variable", "X")])
            r.tell("u1")
            await r.got_one(ChannelHungUp)
            assert r.link.counters.ignored == 100
            assert len(parsed) == 1

    run(scenario())


def test_an_oversized_event_is_thrown_away_and_asks_for_a_resync() -> None:
    async def scenario() -> None:
        async with rig(message_limit_bytes=4_096) as r:
            r.tell("big", CallerIDName="x" * 100_000)
            r.tell("small")
            assert (await r.got_one(ChannelHungUp)).uniqueid == "small"
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


def test_reading_is_paused_while_a_slice_waits_for_its_turn() -> None:
    class Transport(asyncio.Transport):
        reading = True

        def pause_reading(self) -> None:
            self.reading = False

        def resume_reading(self) -> None:
            self.reading = True

        def is_closing(self) -> bool:
            return False

    async def scenario() -> None:
        transport, counters = Transport(), LinkCounters()
        protocol = GuardedProtocol(QUICK, counters)
        protocol.connection_made(transport)
        protocol.data_received(
            b"Asterisk Call Manager/11.0.0\r\n" + b"Event: VarSet\r\n\r\n" * (SLICE_MESSAGES * 3 - 1)
        )
        assert (counters.ignored, transport.reading) == (SLICE_MESSAGES, False)
        await asyncio.sleep(0)
        assert (counters.ignored, transport.reading) == (SLICE_MESSAGES * 2, False)
        await asyncio.sleep(0)
        assert (counters.ignored, transport.reading) == (SLICE_MESSAGES * 3 - 1, True)

    run(scenario())


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
            assert {event.uniqueid for event in r.of(ChannelHungUp)} == {outcome.uniqueid, answered.dest_uniqueid}

    run(scenario())
