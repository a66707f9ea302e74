"""The clock of live calls: sees answers and ends over AMI, keeps calls funded, moves Asterisk's limit with the hold.

Failure policy: fails open towards Asterisk and closed towards money. What cannot be had now (AMI, the database, money)
is tried again as long as funded time is left; then the call ends by itself, by the limit that Asterisk has. Nothing
here ever ends a call. Funded time is counted on the loop's monotonic clock: a wall clock that is set moves no limit.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from capconduit.domain.calls import AnsweredAnswer, AnswerReport, ExtendAnswer, ExtendRequest, LegTimes, SettleReport
from capconduit.domain.model import Call
from capconduit.domain.record import replace
from capconduit.errors import CapConduitError
from capconduit.services.engine import EngineBusy
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import CallState, DialStatus
from fastagi.ami_events import (
    AmiEvent,
    ChannelHungUp,
    ChannelList,
    DialBegan,
    DialEnded,
    LegLeftBridge,
    LinkDown,
    LinkUp,
    LiveChannel,
    RingingBegan,
)
from fastagi.ami_guard import AMI_DOWN
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker

log = logging.getLogger(__name__)

MAX_WATCHED: Final = 20_000
RETRY_S: Final = (0.5, 2.0)  # least and most between two tries of what failed
EVENT_LAG_MS: Final = 5_000  # an event is not older than this, whatever the two clocks say
# A caller's channel that is gone should be settled by its hangup handler; this long after, AMI's word is taken.
HANDLER_GRACE_S: Final = 5.0
FIRST_MOVE_S: Final = 1.0  # after the answer
CLOCK_SET_S: Final = 1.0  # a wall clock that has moved so much against ours since was set
_NEVER_MOVED: Final = (0.0, 0)


@dataclass(slots=True)
class _Watch:
    """What is known of one call that we admitted. `funded_from_s` and `answered_s` are on the loop's clock."""

    uniqueid: str
    channel: str
    leg: LegTimes = field(default_factory=LegTimes)
    dest_uniqueid: str = ""
    dialled: dict[str, str] = field(default_factory=dict)  # targets' legs: uniqueid → what was dialled, "" unknown
    seen_ms: int = 0
    answered: bool = False
    answered_s: float | None = None
    ended: asyncio.Event | None = None
    meter: AnsweredAnswer | None = None
    funded_from_s: float = 0.0  # where nobody saw the answer: since the Dial began
    limit: tuple[float, int] = _NEVER_MOVED  # what Asterisk's limit stands for: funded_from_s and funded seconds
    limit_by_s: float = 0.0  # by how much the wall clock, which Asterisk holds it by, was ahead of ours then
    timer: asyncio.TimerHandle | None = None
    tending: bool = False
    gone: asyncio.TimerHandle | None = None


class Meter:
    """Watches the calls of this node. All methods belong to the loop."""

    def __init__(self, asker: Asker, ami: AmiLink | None, node: str, now_ms: Callable[[], int]) -> None:
        self._asker = asker
        self._ami = ami
        self._node = node
        self._now_ms = now_ms
        self._loop = asyncio.get_running_loop()
        self._watched: dict[str, _Watch] = {}
        self._callers: dict[str, str] = {}  # dest uniqueid → caller's uniqueid
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._watched)

    # --- the life of a watch ------------------------------------------------------------------------------------------

    def expect(self, uniqueid: str, channel: str) -> None:
        """A call is being decided: what AMI tells of it from now on is ours."""
        if uniqueid in self._watched:
            return
        if len(self._watched) >= MAX_WATCHED:
            log.error("%d calls are watched, no more are metered", MAX_WATCHED, extra={"uniqueid": uniqueid})
            return
        self._watched[uniqueid] = _Watch(uniqueid, channel)

    def adopt(self, call: Call) -> None:
        """A call that was admitted before this process began. It is tended as soon as AMI is there."""
        self.expect(call.uniqueid, call.channel)
        watch = self._watched.get(call.uniqueid)
        if watch is None:
            return
        watch.seen_ms = call.seen_ms
        if call.state is CallState.UP:
            watch.answered = True
            watch.leg = replace(watch.leg, answered_ms=call.answered_ms)
            self._soon(watch)

    def forget(self, uniqueid: str) -> None:
        """The call is no longer of interest."""
        watch = self._watched.pop(uniqueid, None)
        if watch is None:
            return
        for dest in watch.dialled:
            self._callers.pop(dest, None)
        for timer in (watch.timer, watch.gone):
            if timer is not None:
                timer.cancel()

    settled = forget

    def times(self, uniqueid: str) -> LegTimes:
        """What AMI saw of the target's leg."""
        watch = self._watched.get(uniqueid)
        return watch.leg if watch else LegTimes()

    def channel(self, uniqueid: str) -> str:
        """The caller's channel as it is called now; empty where the call is not watched."""
        watch = self._watched.get(uniqueid)
        return watch.channel if watch else ""

    def seen_ms(self, uniqueid: str) -> int:
        """When the call last showed a sign of life (UTC ms); 0 for never."""
        watch = self._watched.get(uniqueid)
        return watch.seen_ms if watch else 0

    def knows_undialled(self, uniqueid: str) -> bool:
        """Whether AMI was there all the time and saw no Dial of this call. Without AMI nothing is known."""
        watch = self._watched.get(uniqueid)
        return watch is not None and not watch.dialled and self._ami is not None and self._ami.up

    def dial_over(self, uniqueid: str) -> None:
        """A Dial ended without an answer: what is seen from now on belongs to the next one."""
        watch = self._watched.get(uniqueid)
        if watch is not None and not watch.answered:
            watch.leg = LegTimes()

    async def wait_for_end(self, uniqueid: str, timeout_s: float) -> None:
        """Wait, at most `timeout_s`, until AMI has told the end of an answered leg; not where AMI told no answer."""
        watch = self._watched.get(uniqueid)
        if watch is None or not watch.dest_uniqueid or watch.leg.ended_ms is not None:
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
            case DialBegan() if event.uniqueid in self._watched:
                self._dial_began(self._watched[event.uniqueid], event)
            case RingingBegan() if event.uniqueid in self._watched:
                self._ringing(self._watched[event.uniqueid], event)
            case DialEnded() if event.uniqueid in self._watched:
                self._dial_ended(self._watched[event.uniqueid], event)
            case LegLeftBridge() if event.uniqueid in self._callers:
                self._leg_ended(event.uniqueid, event.at_ms)
            case ChannelHungUp() if event.uniqueid in self._callers:
                self._leg_ended(event.uniqueid, event.at_ms)
            case ChannelHungUp() if event.uniqueid in self._watched:
                self._caller_gone(self._watched[event.uniqueid], event)
            case ChannelList():
                self.on_list(event)
            case LinkUp():
                for watch in self._watched.values():
                    if watch.answered:
                        self._soon(watch)
            case LinkDown():
                self._link_down()
            case _:
                pass

    def on_list(self, listed: ChannelList) -> None:
        """Every listed channel lives; one in a bridge talks, also where its answer or its leg was not seen."""
        bridges: dict[str, list[LiveChannel]] = {}
        for channel in listed.channels:
            if channel.bridge_id:
                bridges.setdefault(channel.bridge_id, []).append(channel)
        for channel in listed.channels:
            watch = self._watched.get(channel.uniqueid)
            if watch is None:
                continue
            watch.seen_ms = max(watch.seen_ms, listed.at_ms)
            watch.channel = channel.channel
            others = [c for c in bridges.get(channel.bridge_id, ()) if c.uniqueid != channel.uniqueid]
            if len(others) == 1 and not watch.dest_uniqueid:
                self._link_leg(watch, others[0].uniqueid)
                watch.dest_uniqueid = others[0].uniqueid
                watch.leg = replace(watch.leg, dial=watch.dialled[watch.dest_uniqueid])
            if channel.bridge_id and not watch.answered:
                watch.answered = True
            if watch.answered:
                self._soon(watch)

    def _link_down(self) -> None:
        """What lived when the link was lost, lived until then: an Asterisk that dies takes the link with it."""
        now_ms = self._now_ms()
        for watch in self._watched.values():
            if watch.gone is None and watch.leg.ended_ms is None:
                watch.seen_ms = max(watch.seen_ms, now_ms)

    def _link_leg(self, watch: _Watch, dest_uniqueid: str, dial: str = "") -> None:
        watch.dialled[dest_uniqueid] = dial or watch.dialled.get(dest_uniqueid, "")
        self._callers[dest_uniqueid] = watch.uniqueid

    def _dial_began(self, watch: _Watch, event: DialBegan) -> None:
        technology = event.dest_channel.partition("/")[0]
        self._link_leg(watch, event.dest_uniqueid, f"{technology}/{event.dial_string}")
        watch.seen_ms = event.at_ms

    def _ringing(self, watch: _Watch, event: RingingBegan) -> None:
        watch.seen_ms = event.at_ms
        if watch.leg.rang_ms is None:
            watch.leg = replace(watch.leg, rang_ms=event.at_ms)

    def _dial_ended(self, watch: _Watch, event: DialEnded) -> None:
        watch.seen_ms = event.at_ms
        if event.status is not DialStatus.ANSWER or watch.leg.answered_ms is not None:
            return
        self._link_leg(watch, event.dest_uniqueid)
        watch.dest_uniqueid = event.dest_uniqueid
        watch.channel = event.channel or watch.channel
        watch.leg = replace(watch.leg, answered_ms=event.at_ms, dial=watch.dialled[event.dest_uniqueid])
        watch.answered = True
        watch.answered_s = self._loop.time() - self._lag_s(event.at_ms)
        if watch.meter is not None:  # a channel list was quicker: until now funding was counted from the Dial
            watch.funded_from_s = watch.answered_s
        self._soon(watch)

    def _leg_ended(self, dest_uniqueid: str, at_ms: int) -> None:
        """The target's leg left the talk: the first such word is the end."""
        watch = self._watched.get(self._callers[dest_uniqueid])
        if watch is None:
            return
        watch.seen_ms = at_ms
        if watch.dest_uniqueid != dest_uniqueid or watch.leg.ended_ms is not None:
            return
        talk_ms = None
        if watch.answered_s is not None:
            talk_ms = max(round((self._loop.time() - self._lag_s(at_ms) - watch.answered_s) * MS_PER_SECOND), 0)
        watch.leg = replace(watch.leg, ended_ms=at_ms, clock_talk_ms=talk_ms)
        if watch.ended is not None:
            watch.ended.set()

    def _lag_s(self, at_ms: int) -> float:
        """How long ago an event happened, by the wall clock, within reason."""
        return min(max(self._now_ms() - at_ms, 0), EVENT_LAG_MS) / MS_PER_SECOND

    def _caller_gone(self, watch: _Watch, event: ChannelHungUp) -> None:
        """The handler has settled, or is about to; if it does not, AMI's word settles."""
        if watch.gone is None:
            watch.seen_ms = event.at_ms
            watch.gone = self._loop.call_later(HANDLER_GRACE_S, self._begin_settling, watch, event)

    def _begin_settling(self, watch: _Watch, event: ChannelHungUp) -> None:
        self._spawn(self._settle_by_ami(watch, event))

    async def _settle_by_ami(self, watch: _Watch, event: ChannelHungUp) -> None:
        if watch.uniqueid not in self._watched:
            return
        log.warning("the hangup handler told nothing; settling by AMI", extra={"uniqueid": watch.uniqueid})
        report = SettleReport(
            node=self._node,
            uniqueid=watch.uniqueid,
            dialstatus=DialStatus.ANSWER if watch.answered else None,
            hangup_cause=event.cause,
            ended_ms=event.at_ms,
            leg=watch.leg,
            witness="ami",
        )
        try:
            await self._asker.ask(report)
        except (CapConduitError, EngineBusy) as error:
            log.warning("not settled yet: %s", error, extra={"uniqueid": watch.uniqueid})
            watch.gone = self._loop.call_later(RETRY_S[1], self._begin_settling, watch, event)
            return
        self.forget(watch.uniqueid)

    # --- keeping a call funded ----------------------------------------------------------------------------------------

    def _soon(self, watch: _Watch) -> None:
        self._later(watch, 0.0)

    def _later(self, watch: _Watch, delay_s: float) -> None:
        if watch.uniqueid not in self._watched or watch.gone is not None or watch.tending:
            return
        if watch.timer is not None:
            watch.timer.cancel()
        watch.timer = self._loop.call_later(max(delay_s, 0.0), self._begin_tending, watch)

    def _begin_tending(self, watch: _Watch) -> None:
        watch.tending = True
        self._spawn(self._tend(watch))

    async def _tend(self, watch: _Watch) -> None:
        """One look at an answered call: record its answer, move Asterisk's limit, extend; then plan the next look."""
        try:
            next_s = await self._tended(watch)
        except (CapConduitError, EngineBusy) as error:
            said = getattr(error, "slug", "") == AMI_DOWN  # the link told it, once for all calls
            level = logging.DEBUG if said else logging.WARNING
            log.log(level, "metering: %s", error, extra={"uniqueid": watch.uniqueid})
            next_s = min(max(self._left_s(watch) / 4, RETRY_S[0]), RETRY_S[1])
        finally:
            watch.tending = False
        if next_s is not None:
            self._later(watch, next_s)

    async def _tended(self, watch: _Watch) -> float | None:
        """Seconds to the next look; None where there is nothing more to do. Raises what AMI or the database refuse."""
        if watch.meter is None and not await self._record_answer(watch):
            return None
        if watch.meter is None or watch.leg.ended_ms is not None or self._ami is None:
            return None
        if not self._ami.up:
            return RETRY_S[1] if self._left_s(watch) > 0 else None
        if (early_s := self._too_early_s(watch)) > 0:
            return early_s
        await self._move_limit(watch)
        slice_s, left_s = watch.meter.slice_s, self._left_s(watch)
        if left_s <= 0 or watch.meter.funded_s * MS_PER_SECOND >= watch.meter.ceiling_ms:
            return None
        if left_s > slice_s / 2:
            return left_s - slice_s / 2
        answer: ExtendAnswer | None = await self._asker.ask(
            ExtendRequest(node=self._node, uniqueid=watch.uniqueid, beyond_s=watch.meter.funded_s)
        )
        if answer is None or watch.uniqueid not in self._watched:
            return None
        if answer.extended:
            watch.meter = replace(watch.meter, funded_s=answer.funded_s)
            await self._move_limit(watch)
            return max(self._left_s(watch) - slice_s / 2, 0.0)
        # Nothing to be had now. Money may come (a payment, another call that ends): ask again while the call lasts.
        return max(left_s / 2, RETRY_S[0]) if left_s > RETRY_S[0] else None

    async def _record_answer(self, watch: _Watch) -> bool:
        """Tell the engine; False where it knows no such live call."""
        report = AnswerReport(node=self._node, uniqueid=watch.uniqueid, leg=watch.leg)
        answer: AnsweredAnswer | None = await self._asker.ask(report)
        if answer is None or watch.uniqueid not in self._watched:
            return False
        watch.meter = answer
        watch.channel = watch.channel or answer.channel
        if watch.answered_s is not None:
            watch.funded_from_s = watch.answered_s
        else:  # adopted, or its answer was not seen: by the wall clock, and never more than what is funded
            elapsed_ms = min(max(self._now_ms() - answer.funded_from_ms, 0), answer.funded_s * MS_PER_SECOND)
            watch.funded_from_s = self._loop.time() - elapsed_ms / MS_PER_SECOND
        return True

    def _too_early_s(self, watch: _Watch) -> float:
        """Until when the limit that the dialplan has set at the answer may stand; most short calls need no other."""
        if watch.meter is None or watch.answered_s is None or watch.limit != _NEVER_MOVED:
            return 0.0
        if watch.meter.funded_s < FIRST_MOVE_S * 3:
            return 0.0
        return watch.answered_s + FIRST_MOVE_S - self._loop.time()

    async def _move_limit(self, watch: _Watch) -> None:
        """Let Asterisk's own limit of the caller's channel be what is funded. Raises what AMI refuses.

        Asterisk keeps it as an instant of the wall clock: one that was set back would let the call go on unpaid.
        """
        if self._ami is None or watch.meter is None or not watch.channel or watch.leg.ended_ms is not None:
            return
        limit, left_s = (watch.funded_from_s, watch.meter.funded_s), self._left_s(watch)
        ahead_s = self._now_ms() / MS_PER_SECOND - self._loop.time()
        if (limit != watch.limit or abs(ahead_s - watch.limit_by_s) > CLOCK_SET_S) and left_s > 0:
            await self._ami.absolute_timeout(watch.channel, left_s)
            watch.limit, watch.limit_by_s = limit, ahead_s
            watch.seen_ms = max(watch.seen_ms, self._now_ms())

    def _left_s(self, watch: _Watch) -> float:
        """Seconds of funded talk that are left."""
        if watch.meter is None:
            return 0.0
        return min(watch.funded_from_s + watch.meter.funded_s - self._loop.time(), float(watch.meter.funded_s))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("metering failed", exc_info=task.exception())
