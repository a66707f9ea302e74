"""Which calls are over although nobody told us, where the clock was set between their end and our look."""

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


class _Scene:
    """A reconciler whose Asterisk lists `listed`; `moved` shows a sign of life between two looks."""

    def __init__(self, calls: Sequence[Call], listed: Sequence[str], moved: str = "") -> None:
        self.asked: list[str] = []
        self.lists = 0
        self._listed, self._moved = listed, moved

        async def node_calls(_node: str) -> Sequence[Call]:
            return calls

        meter: Any = SimpleNamespace(
            settled=lambda _: None, times=lambda _: LegTimes(), on_list=lambda _: None, seen_ms=self._seen_ms
        )
        asker: Any = SimpleNamespace(ask=self._ask)
        ami: Any = SimpleNamespace(up=True, core_show_channels=self._list)
        books: Any = SimpleNamespace(node_calls=node_calls)
        journal: Any = SimpleNamespace(holds=lambda *_: False)
        self.reconciler = Reconciler(asker, ami, meter, books, journal, "n", lambda: T0, lambda: True)

    def _seen_ms(self, uniqueid: str) -> int:
        return T0 + self.lists if uniqueid == self._moved else T0 + HOUR_MS

    def _ask(self, report: SettleReport) -> asyncio.Future[Any]:
        self.asked.append(report.uniqueid)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(SettleAnswer(call_id="c", first=True))
        return future

    async def _list(self) -> ChannelList:
        self.lists += 1
        return ChannelList(tuple(LiveChannel(u, u, f"PJSIP/{u}", 6, "Dial", "", 0) for u in self._listed), True, T0)


def _settled_after_restart(calls: Sequence[Call], listed: Sequence[str], began_ms: int) -> list[str]:
    """Which of `calls` are settled when an Asterisk that began at `began_ms` is found, and lists these channels."""

    async def test() -> list[str]:
        scene = _Scene(calls, listed)
        scene.reconciler.on_event(LinkUp(began_ms, restarted=True))
        await scene.reconciler._settle_dead()
        return scene.asked

    return asyncio.run(test())


def _settled_as_missing(calls: Sequence[Call], listed: Sequence[str], moved: str) -> list[str]:
    """Which of `calls` are settled because two lists show these channels only."""

    async def test() -> list[str]:
        scene = _Scene(calls, listed, moved)
        await scene.reconciler._compare()
        return scene.asked

    return asyncio.run(test())


def test_calls_that_were_decided_before_it_began_are_over() -> None:
    assert _settled_after_restart(_calls("u1", "u2"), [], T0 + 1_000) == ["u1", "u2"]


def test_a_call_that_the_new_one_lists_lives_though_a_clock_that_was_set_back_makes_it_older() -> None:
    assert _settled_after_restart(_calls("old", "new"), ["new"], T0 + HOUR_MS) == ["old"]


def test_a_call_that_no_list_shows_is_over_though_a_clock_that_was_set_back_makes_it_one_of_later() -> None:
    """Its channel is gone and nobody told us; by the clock of now it was decided an hour after the lists."""
    till = PureTill(small_estate())
    till.clock.wall_ms = T0 + HOUR_MS
    for uniqueid in ("gone", "there", "moved"):
        till.dial(route_of(uniqueid))
    calls = [call for uniqueid in ("gone", "there", "moved") if (call := till.call(uniqueid)) is not None]
    assert _settled_as_missing(calls, listed=["there"], moved="moved") == ["gone"]
