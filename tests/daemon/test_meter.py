"""The meter alone: whose leg answered, and since when the funded time of a call counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.calls import AnsweredAnswer, AnswerReport
from capconduit.vocab import DialStatus
from fastagi.ami_events import ChannelList, DialBegan, DialEnded, LiveChannel
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker
from fastagi.meter import Meter
from tests.daemon.rig import until

NOW_MS = SystemClock().now_ms()
FUNDED_S = 60
RANG_S = 20
CALLER = "PJSIP/carrier-00000001"


class FakeAsker:
    """An engine that knows the call, which began to be dialled RANG_S ago."""

    def __init__(self) -> None:
        self.reports: list[AnswerReport] = []

    def ask(self, report: AnswerReport) -> asyncio.Future[AnsweredAnswer]:
        self.reports.append(report)
        future: asyncio.Future[AnsweredAnswer] = asyncio.get_running_loop().create_future()
        future.set_result(
            AnsweredAnswer(
                call_id="c", channel=CALLER, funded_from_ms=NOW_MS - RANG_S * 1_000, funded_s=FUNDED_S,
                ceiling_ms=3_600_000, slice_s=FUNDED_S,
            )
        )  # fmt: skip
        return future


class FakeAmi:
    """A link that is up and keeps the limits it was asked for."""

    up = True

    def __init__(self) -> None:
        self.limits: list[float] = []

    async def absolute_timeout(self, channel: str, seconds: float) -> None:
        assert channel == CALLER
        self.limits.append(seconds)


Test = Callable[[Meter, FakeAsker, FakeAmi], Coroutine[Any, Any, None]]


def run(test: Test) -> None:
    """Run `test` with a meter that watches the call u-1."""

    async def whole() -> None:
        asker, ami = FakeAsker(), FakeAmi()
        meter = Meter(cast(Asker, asker), cast(AmiLink, ami), "node", lambda: NOW_MS)
        meter.expect("u-1", CALLER)
        try:
            await test(meter, asker, ami)
        finally:
            await meter.close()

    asyncio.run(whole())


def began(leg: str, channel: str, dialled: str) -> DialBegan:
    return DialBegan("u-1", leg, channel, dialled, NOW_MS)


def ended(leg: str, channel: str, status: DialStatus) -> DialEnded:
    return DialEnded("u-1", leg, status, CALLER, NOW_MS)


def live(uniqueid: str, channel: str) -> LiveChannel:
    return LiveChannel(uniqueid, "u-1", channel, 6, "Dial", "bridge-1", RANG_S)


LEGS = {
    "leg-1": ("PJSIP/capconduit-out-00000002", "capconduit-out/sip:target@127.0.0.1:5060;transport=udp"),
    "leg-2": ("PJSIP/bureau-00000003", "4711@bureau"),
    "leg-3": ("Local/100@own-00000000;1", "100@own/n"),
    "leg-4": ("IAX2/loop-8582", "127.0.0.1:4569/200"),
}
DIALLED = {
    "leg-1": "PJSIP/capconduit-out/sip:target@127.0.0.1:5060;transport=udp",
    "leg-2": "PJSIP/4711@bureau",
    "leg-3": "Local/100@own/n",
    "leg-4": "IAX2/127.0.0.1:4569/200",
}


@pytest.mark.parametrize("winner", LEGS)
def test_the_leg_that_answered_is_known_by_what_was_dialled(winner: str) -> None:
    """Events in the order of Asterisk: all legs begin, the others end, then the answer is told."""

    async def test(meter: Meter, asker: FakeAsker, ami: FakeAmi) -> None:
        for leg, (channel, dialled) in LEGS.items():
            meter.on_event(began(leg, channel, dialled))
        for leg, (channel, _) in LEGS.items():
            if leg != winner:
                meter.on_event(ended(leg, channel, DialStatus.CANCEL))
        meter.on_event(ended(winner, LEGS[winner][0], DialStatus.ANSWER))
        await until(lambda: ami.limits)
        assert [report.leg.dial for report in asker.reports] == [DIALLED[winner]]
        assert meter.times("u-1").dial == DIALLED[winner]

    run(test)


def test_an_answer_that_a_channel_list_overtook_counts_from_the_answer_all_the_same() -> None:
    """The list shows the bridge some milliseconds before the answer is told: what rang is no talk."""

    async def test(meter: Meter, asker: FakeAsker, ami: FakeAmi) -> None:
        channel, dialled = LEGS["leg-2"]
        meter.on_event(began("leg-2", channel, dialled))
        meter.on_event(ChannelList((live("u-1", CALLER), live("leg-2", channel)), True, NOW_MS))
        await until(lambda: ami.limits)
        assert ami.limits == [pytest.approx(FUNDED_S - RANG_S, abs=5)]
        meter.on_event(ended("leg-2", channel, DialStatus.ANSWER))
        await until(lambda: len(ami.limits) > 1)
        assert ami.limits[1:] == [pytest.approx(FUNDED_S, abs=5)]
        assert [report.leg.dial for report in asker.reports] == ["PJSIP/4711@bureau"]

    run(test)
