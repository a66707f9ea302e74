"""The event queue: bounded, in order, and the consumer always ends with the truth about the link."""

from __future__ import annotations

import asyncio

import pytest

from fastagi.ami_events import AmiEvent, ChannelHungUp, ChannelList, LinkDown, LinkUp, ResyncNeeded
from fastagi.ami_queue import EventQueue
from tests.protocol.simulator_support import run


def call(number: int) -> ChannelHungUp:
    return ChannelHungUp(str(number), 0, number)


def taken(queue: EventQueue) -> list[AmiEvent]:
    async def scenario() -> list[AmiEvent]:
        return [await queue.get() for _ in range(len(queue))]

    return run(scenario())


def test_events_come_out_in_the_order_they_went_in() -> None:
    queue = EventQueue(10)
    for number in range(5):
        queue.put(call(number))
    assert taken(queue) == [call(number) for number in range(5)]
    assert queue.dropped == 0


def test_a_flood_is_dropped_and_told_once() -> None:
    queue = EventQueue(3)
    for number in range(100):
        queue.put(call(number))
    assert len(queue) == 4
    events = taken(queue)
    assert events[:3] == [call(0), call(1), call(2)]
    assert [type(event) for event in events[3:]] == [ResyncNeeded]
    assert queue.dropped == 97
    queue.put(call(100))
    assert taken(queue) == [call(100)]


def test_the_links_own_words_survive_a_flood_and_the_resync_is_asked_for_last() -> None:
    queue = EventQueue(1)
    events = [
        call(0),
        call(1),
        LinkDown("a"),
        LinkUp(1, True),
        LinkDown("b"),
        LinkUp(1, False),
        ChannelList((), True, 5),
    ]
    for event in [*events, call(2)]:
        queue.put(event)
    got = taken(queue)
    assert got[0] == call(0)
    assert got[-3:-1] == [LinkUp(1, True), ChannelList((), True, 5)]
    assert isinstance(got[-1], ResyncNeeded)


def test_many_reconnects_during_a_flood_do_not_grow_the_queue() -> None:
    queue = EventQueue(1)
    queue.put(call(0))
    for number in range(1_000):
        for event in (LinkUp(number, number == 500), ChannelList((), True, number), LinkDown(str(number))):
            queue.put(event)
    assert len(queue) <= 5
    got = taken(queue)
    assert any(isinstance(event, LinkUp) and event.restarted for event in got)
    assert got[-2] == LinkDown("999")


def test_get_waits_and_a_cancelled_get_loses_nothing() -> None:
    async def scenario() -> None:
        queue = EventQueue(3)
        waiting = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        again = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        assert not again.done()
        queue.put(call(1))
        assert await again == call(1)

    run(scenario())


def test_events_that_come_in_one_breath_are_all_had_by_who_waits() -> None:
    async def scenario() -> None:
        queue = EventQueue(3)
        waiting = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        queue.put(call(1))
        queue.put(call(2))
        assert [await waiting, await queue.get()] == [call(1), call(2)]

    run(scenario())


def test_a_queue_without_room_is_a_mistake() -> None:
    with pytest.raises(ValueError):
        EventQueue(0)
