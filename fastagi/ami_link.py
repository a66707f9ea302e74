"""The link to Asterisk's manager interface: events in through one bounded queue, a few guarded actions out.

One user does all, or two share it: a reader with `read = call,system` and `write = reporting`, which is this
connection, and a second one for whatever changes a call (ami_control.py). Alone it needs `write = call,reporting`,
nothing more (Asterisk main/manager.c, main/db.c): CoreStatus, CoreShowChannels and DBGetTree ask for reporting.

Fails open: AMI is a hint for decisions and the clock for durations. While the link is down the daemon decides and
settles without it; every action raises at once (AmiUnavailable) and nothing is retried here. Where only the second
user is away, what it would have done fails in the same way, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from capconduit.asterisk.ami_codec import AmiRefused, AmiUnavailable
from capconduit.vocab import CAUSE_NORMAL
from fastagi.ami_connection import STEP_ROWS
from fastagi.ami_control import AmiControl, database_path
from fastagi.ami_events import (
    AmiEvent,
    CallEvent,
    ChannelList,
    LinkDown,
    LinkUp,
    LiveChannel,
    ResyncNeeded,
    channel_list,
    live_channels,
    started_ms,
    translate,
    whole_number,
)
from fastagi.ami_guard import AmiSettings, Fields, GuardedManager, LinkCounters
from fastagi.ami_queue import EventQueue

__all__ = ["AmiControl", "AmiLink", "AmiRefused", "AmiSettings", "AmiUnavailable", "LinkCounters"]

log = logging.getLogger(__name__)


class AmiLink(AmiControl):
    """Connects, logs in, keeps alive and reconnects for as long as `run()` runs; one consumer reads the events.

    `now_ms` is the wall clock in UTC ms, `random` gives floats in [0, 1) for the jitter. `known_started_ms` is when the
    Asterisk started that was known before this process began, so that its restart is noticed at the first LinkUp.
    `control` is the second user's connection, which is started and closed with this one.
    """

    title: ClassVar[str] = "AMI link"
    keys: ClassVar[str] = "username and secret"

    def __init__(
        self,
        settings: AmiSettings,
        *,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        known_started_ms: int | None = None,
        control: AmiControl | None = None,
    ) -> None:
        super().__init__(settings, random=random)
        self.control = control
        self.rights = f"`read = call,system` and `write = {'reporting' if control else 'call,reporting'}`"
        self._now_ms = now_ms
        self._queue = EventQueue(settings.queue_limit)
        self._early: list[CallEvent] = []  # what came between the login and LinkUp
        self._early_lost = ""
        self._booted: asyncio.Future[int | None] | None = None  # uptime in s, from FullyBooted
        self._identity = ""
        self._started_ms = known_started_ms
        self._last_event_ms: int | None = None
        self._told_poor = False

    # ----- what others see

    @property
    def can_act(self) -> bool:
        """Whether actions that change a call may be sent."""
        return self.up if self.control is None else self.control.up

    @property
    def asterisk_started_ms(self) -> int | None:
        """When the Asterisk that was last spoken to started, UTC ms; None while that is not known."""
        return self._started_ms

    @property
    def last_event_ms(self) -> int | None:
        """When the last call event came in, by our clock."""
        return self._last_event_ms

    @property
    def dropped_events(self) -> int:
        """Events that found the queue full."""
        return self._queue.dropped

    @property
    def waiting_events(self) -> int:
        """Events that the consumer has not taken yet."""
        return len(self._queue)

    def next_event(self) -> Coroutine[Any, Any, AmiEvent]:
        """The next event, in the order of AMI; waits for one. For one consumer; safe to cancel."""
        return self._queue.get()

    def start(self) -> None:
        """Run the link, and the second user's connection, as tasks of their own, until `close()`."""
        super().start()
        if self.control is not None:
            self.control.start()

    async def close(self) -> None:
        """End the link and its connections. Harmless twice."""
        await super().close()
        if self.control is not None:
            await self.control.close()

    # ----- actions

    async def absolute_timeout(self, channel: str, seconds: float) -> None:
        """As AmiControl's; by the second user where there is one."""
        if self.control is not None:
            await self.control.absolute_timeout(channel, seconds)
        else:
            await super().absolute_timeout(channel, seconds)

    async def hangup(self, channel: str, cause: int = CAUSE_NORMAL) -> None:
        """As AmiControl's; by the second user where there is one."""
        if self.control is not None:
            await self.control.hangup(channel, cause)
        else:
            await super().hangup(channel, cause)

    async def db_del(self, family: str, key: str) -> None:
        """As AmiControl's; by the second user where there is one."""
        if self.control is not None:
            await self.control.db_del(family, key)
        else:
            await super().db_del(family, key)

    async def core_show_channels(self) -> ChannelList:
        """All channels. Slow on Asterisk's side (it walks its container): for a resync, never per call."""
        return await self._channels(self._standing())

    async def db_get_tree(self, family: str, key: str = "") -> dict[str, str]:
        """The values below `family`/`key` in Asterisk's database, by what follows that path.

        At most `reply_limit_items` of them, in the order of their keys: delete them and ask again for the rest.
        """
        path = database_path(f"{family}/{key}" if key else family)
        rows = await self._act({"Action": "DBGetTree", "Family": path})
        if rows[-1].get("Event") != "DBGetTreeComplete":
            log.warning("the AMI reply to DBGetTree %s was cut after %d items", path, len(rows))
        prefix = f"/{path}/"
        return {
            row["Key"].removeprefix(prefix): row.get("Val", "")
            for row in rows
            if row.get("Event") == "DBGetTreeResponse" and row.get("Key", "").startswith(prefix)
        }

    async def _channels(self, manager: GuardedManager) -> ChannelList:
        asked_ms = self._now_ms()
        rows = await self._ask(manager, {"Action": "CoreShowChannels"}, self.settings.action_timeout_s)
        channels: list[LiveChannel] = []
        for at in range(0, len(rows), STEP_ROWS):
            channels += live_channels(rows[at : at + STEP_ROWS])
            await asyncio.sleep(0)
        return channel_list(channels, rows[-1], asked_ms)

    # ----- one connection

    async def _session(self) -> str:
        self._early, self._early_lost = [], ""
        self._booted = asyncio.get_running_loop().create_future()
        return await super()._session()

    async def _logged_in(self, manager: GuardedManager) -> None:
        uptime_s = await self._wait_booted(manager)
        self._announce(manager, await self._restarted(manager, uptime_s))
        await self._list_channels(manager)

    async def _wait_booted(self, manager: GuardedManager) -> int | None:
        """Wait for FullyBooted: its uptime in s, or None where it did not come (no read=system, or still booting)."""
        assert self._booted is not None
        either: set[asyncio.Future[Any]] = {self._booted, manager.lost}
        await asyncio.wait(either, timeout=self.settings.fully_booted_wait_s, return_when=asyncio.FIRST_COMPLETED)
        return self._booted.result() if self._booted.done() else None

    async def _restarted(self, manager: GuardedManager, uptime_s: int | None) -> bool:
        """Ask when Asterisk started, and say whether it is another than the one that was known."""
        now_ms = self._now_ms()
        try:
            (status,) = await self._ask(manager, {"Action": "CoreStatus"}, self.settings.action_timeout_s)
        except AmiRefused as error:
            self._tell_poor(error)
            return False
        began_ms = started_ms(status, uptime_s, now_ms, None)
        identity = f"{status.get('CoreStartupDate')} {status.get('CoreStartupTime')}"
        if self._identity:
            restarted = identity != self._identity
        else:
            restarted = self._started_ms is not None and began_ms is not None and began_ms != self._started_ms
        if restarted or not self._identity:
            self._started_ms = began_ms
        self._identity = identity
        return restarted

    def _announce(self, manager: GuardedManager, restarted: bool) -> None:
        """The link stands: LinkUp first, then what came in while we asked."""
        self._stands(manager)
        self._queue.put(LinkUp(self._started_ms, restarted))
        for event in self._early:
            self._queue.put(event)
        self._early = []
        if self._early_lost:
            self._queue.put(ResyncNeeded(self._early_lost))

    async def _list_channels(self, manager: GuardedManager) -> None:
        asked_ms = self._now_ms()
        try:
            self._queue.put(await self._channels(manager))
        except AmiRefused as error:
            self._tell_poor(error)
            self._queue.put(ChannelList((), False, asked_ms))

    def _on_message(self, message: Fields) -> None:
        """Every wanted message; only enqueues. What it raises is caught where the message was read."""
        name = message.get("Event", "")
        if name == "FullyBooted":
            self._on_booted(message)
        elif name == "Shutdown":
            self._farewell = "Asterisk shut down"  # its last word; every hangup was told before
        elif not name:
            self._lose(message.get("Lost", ""))
        else:
            now_ms = self._now_ms()
            self._on_call_event(translate(message, now_ms), now_ms)

    def _on_call_event(self, event: CallEvent | None, now_ms: int) -> None:
        if event is None:
            self.counters.malformed += 1
            return
        self.counters.events += 1
        self._last_event_ms = now_ms
        if self._manager is not None:
            self._queue.put(event)
        elif len(self._early) < self.settings.queue_limit:
            self._early.append(event)
        else:
            self._lose("too many events came before the link was up")

    def _on_booted(self, message: Fields) -> None:
        assert self._booted is not None
        if not self._booted.done():
            uptime = message.get("Uptime", "")
            self._booted.set_result(whole_number(uptime) if uptime else None)
        if self._manager is not None:
            self._queue.put(ResyncNeeded("Asterisk has only now booted fully"))

    def _lose(self, why: str) -> None:
        if self._manager is not None:
            self._queue.put(ResyncNeeded(why))
        else:
            self._early_lost = why

    # ----- words

    def _on_down(self, reason: str) -> None:
        self._queue.put(LinkDown(reason))

    def _tell_poor(self, error: AmiRefused) -> None:
        """The user has too few rights: the link works, but is blind for restarts or channels. Once."""
        if not self._told_poor:
            self._told_poor = True
            log.warning("AMI user %r: %s (%s)", self.settings.username, error.message, error.hint)
