"""The clock of live calls: sees answers and ends over AMI, keeps calls funded, moves Asterisk's limit with the hold.

Failure policy: fails open towards Asterisk and closed towards money. Without AMI no call is extended: it ends by itself
when what is funded has been talked (the dialplan set that limit). Nothing here ever ends a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from capconduit.domain.calls import AnsweredAnswer, AnswerReport, ExtendAnswer, ExtendRequest, LegTimes, SettleReport
from capconduit.domain.model import Call
from capconduit.errors import CapConduitError
from capconduit.services.engine import EngineBusy
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus
from fastagi.ami_events import (
    AmiEvent,
    ChannelHungUp,
    ChannelList,
    DialBegan,
    DialEnded,
    LegLeftBridge,
    NewChannel,
)
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker

log = logging.getLogger(__name__)

MAX_WATCHED: Final = 20_000
RETRY_LEAST_MS: Final = 500  # between two tries to extend a call that has little time left
# A caller's channel that is gone should be settled by its hangup handler; this long after, AMI's word is taken.
HANDLER_GRACE_S: Final = 5.0


@dataclass(slots=True)
class _Watch:
    """What is known of one call that we admitted."""

    uniqueid: str
    channel: str
    leg: LegTimes = field(default_factory=LegTimes)
    dest_uniqueid: str = ""
    dialled: dict[str, str] = field(default_factory=dict)  # dest uniqueid → dest channel
    ended: asyncio.Event | None = None
    meter: AnsweredAnswer | None = None
    timer: asyncio.TimerHandle | None = None


class Meter:
    """Watches the calls of this node. All methods belong to the loop."""

    def __init__(self, asker: Asker, ami: AmiLink | None, node: str, now_ms: Callable[[], int]) -> None:
        self._asker = asker
        self._ami = ami
        self._node = node
        self._now_ms = now_ms
        self._watched: dict[str, _Watch] = {}
        self._callers: dict[str, str] = {}  # dest uniqueid → caller's uniqueid
        self._tasks: set[asyncio.Task[Any]] = set()
        self.last_event_ms: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._watched)

    # --- the life of a watch ------------------------------------------------------------------------------------------

    def expect(self, uniqueid: str, channel: str) -> None:
        """A call is being decided: what AMI tells of it from now on is ours."""
        if uniqueid not in self._watched and len(self._watched) < MAX_WATCHED:
            self._watched[uniqueid] = _Watch(uniqueid, channel)

    def adopt(self, call: Call) -> None:
        """A call that was admitted before this process began."""
        self.expect(call.uniqueid, call.channel)
        watch = self._watched.get(call.uniqueid)
        if watch is not None and call.answered_ms is not None:
            watch.leg = replace(watch.leg, answered_ms=call.answered_ms)
            self._task(self._record_answer(watch))

    def forget(self, uniqueid: str) -> None:
        """The call is no longer of interest."""
        watch = self._watched.pop(uniqueid, None)
        if watch is None:
            return
        self.last_event_ms.pop(uniqueid, None)
        for dest in watch.dialled:
            self._callers.pop(dest, None)
        if watch.timer is not None:
            watch.timer.cancel()

    settled = forget

    def times(self, uniqueid: str) -> LegTimes:
        """What AMI saw of the target's leg."""
        watch = self._watched.get(uniqueid)
        return watch.leg if watch else LegTimes()

    def dial_over(self, uniqueid: str) -> None:
        """A Dial ended without an answer: what is seen from now on belongs to the next one."""
        watch = self._watched.get(uniqueid)
        if watch is not None and watch.leg.answered_ms is None:
            watch.leg = LegTimes()

    async def wait_for_end(self, uniqueid: str, timeout_s: float) -> None:
        """Wait, at most `timeout_s`, until AMI has told the end of an answered leg; not where AMI told no answer."""
        watch = self._watched.get(uniqueid)
        if watch is None or watch.leg.answered_ms is None or watch.leg.ended_ms is not None:
            return
        if self._ami is None or not self._ami.up:
            return
        watch.ended = watch.ended or asyncio.Event()
        try:
            await asyncio.wait_for(watch.ended.wait(), timeout_s)
        except TimeoutError:
            log.debug("AMI told no end in time", extra={"uniqueid": uniqueid})

    async def close(self) -> None:
        """Stop all timers and tasks; live calls keep what they have."""
        for uniqueid in list(self._watched):
            self.forget(uniqueid)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what AMI tells -----------------------------------------------------------------------------------------------

    def on_event(self, event: AmiEvent) -> None:
        """Take one event of the link."""
        match event:
            case NewChannel() if event.uniqueid in self._watched:
                self._watched[event.uniqueid].channel = event.channel
            case DialBegan() if event.uniqueid in self._watched:
                self._dial_began(self._watched[event.uniqueid], event)
            case DialEnded() if event.uniqueid in self._watched:
                self._dial_ended(self._watched[event.uniqueid], event)
            case ChannelList():
                self._found_up(event)
            case LegLeftBridge() if event.uniqueid in self._callers:
                self._leg_ended(event.uniqueid, event.at_ms)
            case ChannelHungUp():
                if event.uniqueid in self._callers:
                    self._leg_ended(event.uniqueid, event.at_ms)
                elif event.uniqueid in self._watched:
                    self._caller_gone(self._watched[event.uniqueid], event)
            case _:
                pass

    def _dial_began(self, watch: _Watch, event: DialBegan) -> None:
        watch.dialled[event.dest_uniqueid] = event.dest_channel
        self._callers[event.dest_uniqueid] = watch.uniqueid
        self.last_event_ms[watch.uniqueid] = event.at_ms
        if watch.leg.rang_ms is None:
            watch.leg = replace(watch.leg, rang_ms=event.at_ms)

    def _dial_ended(self, watch: _Watch, event: DialEnded) -> None:
        self.last_event_ms[watch.uniqueid] = event.at_ms
        if event.status is not DialStatus.ANSWER or watch.leg.answered_ms is not None:
            return
        watch.dest_uniqueid = event.dest_uniqueid
        watch.channel = event.channel or watch.channel
        watch.leg = replace(watch.leg, answered_ms=event.at_ms)
        self._task(self._record_answer(watch))

    def _found_up(self, listed: ChannelList) -> None:
        """Calls that were answered while AMI was away: they are in a bridge, since when nobody saw."""
        for channel in listed.channels:
            watch = self._watched.get(channel.uniqueid)
            if watch is not None and channel.bridge_id and watch.meter is None and watch.leg.answered_ms is None:
                watch.channel = channel.channel
                self._task(self._record_answer(watch))

    def _leg_ended(self, dest_uniqueid: str, at_ms: int) -> None:
        """The target's leg left the talk: the first such word is the end."""
        watch = self._watched.get(self._callers[dest_uniqueid])
        if watch is None:
            return
        self.last_event_ms[watch.uniqueid] = at_ms
        if watch.dest_uniqueid != dest_uniqueid or watch.leg.ended_ms is not None:
            return
        watch.leg = replace(watch.leg, ended_ms=at_ms)
        if watch.ended is not None:
            watch.ended.set()

    def _caller_gone(self, watch: _Watch, event: ChannelHungUp) -> None:
        """The handler has settled, or is about to; if it does not, AMI's word settles."""
        loop = asyncio.get_running_loop()
        if watch.timer is not None:
            watch.timer.cancel()
        watch.timer = loop.call_later(HANDLER_GRACE_S, lambda: self._task(self._settle_by_ami(watch, event)))

    # --- what we do about it ------------------------------------------------------------------------------------------

    async def _record_answer(self, watch: _Watch) -> None:
        answer: AnsweredAnswer | None = await self._asker.ask(
            AnswerReport(node=self._node, uniqueid=watch.uniqueid, leg=watch.leg)
        )
        if answer is None or watch.uniqueid not in self._watched:
            return
        watch.meter = answer
        watch.channel = watch.channel or answer.channel
        await self._move_limit(watch)
        self._plan_extension(watch)

    async def _settle_by_ami(self, watch: _Watch, event: ChannelHungUp) -> None:
        if watch.uniqueid not in self._watched:
            return
        log.warning("the hangup handler told nothing; settling by AMI", extra={"uniqueid": watch.uniqueid})
        await self._asker.ask(
            SettleReport(
                node=self._node,
                uniqueid=watch.uniqueid,
                dialstatus=DialStatus.ANSWER if watch.leg.answered_ms else None,
                hangup_cause=event.cause,
                ended_ms=event.at_ms,
                leg=watch.leg,
                witness="ami",
            )
        )
        self.forget(watch.uniqueid)

    def _plan_extension(self, watch: _Watch) -> None:
        """Extend when half a slice is left."""
        meter = watch.meter
        if meter is None or meter.funded_s * MS_PER_SECOND >= meter.ceiling_ms:
            return
        left_ms = self._left_ms(meter)
        self._later(watch, left_ms - meter.slice_s * MS_PER_SECOND // 2)

    def _later(self, watch: _Watch, delay_ms: int) -> None:
        if watch.uniqueid not in self._watched:
            return
        if watch.timer is not None:
            watch.timer.cancel()
        delay_s = max(delay_ms, 0) / MS_PER_SECOND
        watch.timer = asyncio.get_running_loop().call_later(delay_s, lambda: self._task(self._extend(watch)))

    async def _extend(self, watch: _Watch) -> None:
        if watch.meter is None or watch.leg.ended_ms is not None or self._ami is None or not self._ami.up:
            return
        answer: ExtendAnswer | None = await self._asker.ask(ExtendRequest(node=self._node, uniqueid=watch.uniqueid))
        if answer is None or watch.uniqueid not in self._watched:
            return
        if answer.extended:
            watch.meter = replace(watch.meter, funded_s=answer.funded_s)
            await self._move_limit(watch)
            self._plan_extension(watch)
            return
        # Nothing to be had now. Money may come (a payment, another call that ends): ask again while the call lasts.
        left_ms = self._left_ms(watch.meter)
        if left_ms > RETRY_LEAST_MS:
            self._later(watch, max(left_ms // 2, RETRY_LEAST_MS))

    async def _move_limit(self, watch: _Watch) -> None:
        """Let Asterisk's own limit of the caller's channel be what is funded now."""
        if self._ami is None or watch.meter is None or not watch.channel:
            return
        left_ms = self._left_ms(watch.meter)
        if left_ms <= 0:
            return
        try:
            await self._ami.absolute_timeout(watch.channel, left_ms / MS_PER_SECOND)
        except CapConduitError as error:
            log.warning("limit not moved: %s", error.message, extra={"uniqueid": watch.uniqueid})

    def _left_ms(self, meter: AnsweredAnswer) -> int:
        return meter.funded_from_ms + meter.funded_s * MS_PER_SECOND - self._now_ms()

    def _task(self, work: Any) -> None:
        """Run `work` and keep it from being lost; what the engine or the database refuse is logged."""
        task = asyncio.get_running_loop().create_task(_guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _guarded(work: Any) -> None:
    try:
        await work
    except (CapConduitError, EngineBusy) as error:
        log.warning("metering: %s", error)
