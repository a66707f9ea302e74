"""Which calls ended with an Asterisk that is gone, where the clock was set between its end and our look."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from capconduit.domain.calls import LegTimes, SettleAnswer, SettleReport
from capconduit.domain.model import Call
from fastagi.ami_events import ChannelList, LinkUp, LiveChannel
from fastagi.reconciler import Reconciler
from tests.unit.estate_builder import T0, PureTill, route_of, small_estate

HOUR_MS = 3_600_000


def _calls(*uniqueids: str) -> list[Call]:
    till = PureTill(small_estate())
    for uniqueid in uniqueids:
        till.dial(route_of(uniqueid))
    return [call for uniqueid in uniqueids if (call := till.call(uniqueid)) is not None]


def _settled_after_restart(calls: Sequence[Call], listed: Sequence[str], began_ms: int) -> list[str]:
    """Which of `calls` are settled when an Asterisk that began at `began_ms` is found, and lists these channels."""
    asked: list[SettleReport] = []

    async def test() -> None:
        def ask(report: SettleReport) -> asyncio.Future[Any]:
            asked.append(report)
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_result(SettleAnswer(call_id="c", first=True))
            return future

        async def core_show_channels() -> ChannelList:
            return ChannelList(tuple(LiveChannel(u, u, f"PJSIP/{u}", 6, "Dial", "", 0) for u in listed), True, T0)

        async def node_calls(_node: str) -> Sequence[Call]:
            return calls

        reconciler = Reconciler(
            SimpleNamespace(ask=ask),  # type: ignore[arg-type]
            SimpleNamespace(up=True, core_show_channels=core_show_channels),  # type: ignore[arg-type]
            SimpleNamespace(settled=lambda _: None, times=lambda _: LegTimes(), seen_ms=lambda _: 0),  # type: ignore[arg-type]
            SimpleNamespace(node_calls=node_calls),  # type: ignore[arg-type]
            SimpleNamespace(holds=lambda *_: False),  # type: ignore[arg-type]
            "n", lambda: T0, lambda: True,
        )  # fmt: skip
        reconciler.on_event(LinkUp(began_ms, restarted=True))
        await reconciler._settle_dead()

    asyncio.run(test())
    return [report.uniqueid for report in asked]


def test_calls_that_were_decided_before_it_began_are_over() -> None:
    assert _settled_after_restart(_calls("u1", "u2"), [], T0 + 1_000) == ["u1", "u2"]


def test_a_call_that_the_new_one_lists_lives_though_a_clock_that_was_set_back_makes_it_older() -> None:
    assert _settled_after_restart(_calls("old", "new"), ["new"], T0 + HOUR_MS) == ["old"]
