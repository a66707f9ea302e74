"""Asterisk holds the limit of a call by the wall clock, we count funded time by ours: what follows when it is set."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from capconduit.vocab import DialStatus
from fastagi.ami_events import ChannelList, LegLeftBridge
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker
from fastagi.meter import Meter
from tests.daemon.rig import until
from tests.daemon.test_meter import CALLER, FUNDED_S, LEGS, NOW_MS, FakeAmi, FakeAsker, began, ended, live

HOUR_MS = 3_600_000
LEG = "leg-2"


@pytest.mark.parametrize("set_by_ms", [-HOUR_MS, HOUR_MS])
def test_a_clock_that_is_set_moves_the_limit_back_to_what_is_funded(set_by_ms: int) -> None:
    """With the next channel list at the latest, which comes every few seconds."""

    async def test() -> None:
        ami, wall_ms, loop = FakeAmi(), int(NOW_MS), asyncio.get_running_loop()
        began_s = loop.time()
        meter = Meter(
            cast(Asker, FakeAsker()), cast(AmiLink, ami), "node",
            lambda: wall_ms + round((loop.time() - began_s) * 1_000),
        )  # fmt: skip
        meter.expect("u-1", CALLER)
        listed = ChannelList((live("u-1", CALLER), live(LEG, LEGS[LEG][0])), True, NOW_MS)
        try:
            meter.on_event(began(LEG, *LEGS[LEG]))
            meter.on_event(ended(LEG, LEGS[LEG][0], DialStatus.ANSWER))
            await until(lambda: ami.limits)
            meter.on_event(listed)
            await asyncio.sleep(0.1)
            assert len(ami.limits) == 1
            wall_ms += set_by_ms
            meter.on_event(listed)
            await until(lambda: len(ami.limits) > 1)
            assert ami.limits[1] == pytest.approx(FUNDED_S, abs=20)
            assert ami.limits[1] < ami.limits[0]
        finally:
            await meter.close()

    asyncio.run(test())


def test_a_clock_that_is_set_forward_at_the_end_makes_no_talk_negative() -> None:
    async def test() -> None:
        now_ms = int(NOW_MS)
        meter = Meter(cast(Asker, FakeAsker()), None, "node", lambda: now_ms)
        meter.expect("u-1", CALLER)
        try:
            meter.on_event(began(LEG, *LEGS[LEG]))
            meter.on_event(ended(LEG, LEGS[LEG][0], DialStatus.ANSWER))
            now_ms += HOUR_MS
            meter.on_event(LegLeftBridge(LEG, NOW_MS + 900))
            assert meter.times("u-1").clock_talk_ms == 0
        finally:
            await meter.close()

    asyncio.run(test())
