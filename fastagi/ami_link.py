"""The link to Asterisk's manager interface: events in through one bounded queue, a few guarded actions out.

Built on panoramisk, guarded in ami_guard.py. The link connects again by itself, with exponential backoff and jitter;
after a wrong password slowly, and said once. A ping that is not answered ends the connection.

Fails open: AMI is a hint for decisions and the clock for durations. While the link is down the daemon decides and
settles without it; every action raises at once (AmiUnavailable) and nothing is retried here.

The AMI user needs `read = call,system` and `write = call,reporting`, nothing more (Asterisk main/manager.c, main/db.c):
CoreStatus, CoreShowChannels and DBGetTree ask for reporting; Hangup, AbsoluteTimeout and Setvar for call. DBDel would
need system, so a key is deleted by Setvar of the dialplan function DB_DELETE (Asterisk funcs/func_db.c).
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

from panoramisk.actions import Action
from panoramisk.message import Message

from capconduit.vocab import CAUSE_NORMAL
from fastagi.ami_codec import AmiRefused, AmiUnavailable
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
from fastagi.ami_guard import AmiSettings, Fields, GuardedManager, LinkCounters, LoginRefused, down
from fastagi.ami_queue import EventQueue

__all__ = ["AmiLink", "AmiRefused", "AmiSettings", "AmiUnavailable", "LinkCounters"]

log = logging.getLogger(__name__)

MAX_LIMIT_S: Final = 7 * 24 * 3600  # no call lasts longer; a greater absolute timeout is a mistake
MAX_CAUSE: Final = 127
STEP_ROWS: Final = 500  # rows of a long list that are converted before other tasks get their turn

# Hangup takes a Channel that begins with a slash as a pattern over all channels: nothing but TECH/name may pass.
_CHANNEL: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*/[^\s,]+")
# What DB_DELETE(…) could read as anything else than a path (app.c __ast_app_separate_args) may not stand in one.
_DB_PART: Final = r"""[^\s"'\\()\[\]{}$%/,]+(?: [^\s"'\\()\[\]{}$%/,]+)*"""
_DB_PATH: Final = re.compile(f"{_DB_PART}(?:/{_DB_PART})*")


class AmiLink:
    """Connects, logs in, keeps alive and reconnects for as long as `run()` runs; one consumer reads the events.

    `now_ms` is the wall clock in UTC ms, `random` gives floats in [0, 1) for the jitter. `known_started_ms` is when the
    Asterisk started that was known before this process began, so that its restart is noticed at the first LinkUp.
    """

    def __init__(
        self,
        settings: AmiSettings,
        *,
        now_ms: Callable[[], int],
        random: Callable[[], float],
        known_started_ms: int | None = None,
    ) -> None:
        self.settings = settings
        self.counters = LinkCounters()
        self._now_ms, self._random = now_ms, random
        self._queue = EventQueue(settings.queue_limit)
        self._manager: GuardedManager | None = None  # only while the link is up
        self._task: asyncio.Task[None] | None = None
        self._early: list[CallEvent] = []  # what came between the login and LinkUp
        self._early_lost = ""
        self._booted: asyncio.Future[int | None] | None = None  # uptime in s, from FullyBooted
        self._farewell = ""
        self._identity = ""
        self._started_ms = known_started_ms
        self._last_event_ms: int | None = None
        self._told_down = self._told_refused = self._told_poor = False

    # ----- what others see

    @property
    def up(self) -> bool:
        """Logged in, and actions may be sent."""
        return self._manager is not None

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

    async def next_event(self) -> AmiEvent:
        """The next event, in the order of AMI; waits for one. For one consumer; safe to cancel."""
        return await self._queue.get()

    async def events(self) -> AsyncIterator[AmiEvent]:
        """Every event from now on, without end."""
        while True:
            yield await self.next_event()

    def start(self) -> None:
        """Run the link as a task of its own, until `close()`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self.run(), name="ami-link")

    async def close(self) -> None:
        """End the link and its connection. Harmless twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            refused = False
            try:
                reason = await self._session()
            except LoginRefused as error:
                refused, reason = True, error.message
                self._tell_refused(error)
            except AmiUnavailable as error:
                reason = error.message
            except Exception as error:  # a fault in here or in panoramisk costs the connection, never the link
                log.exception("the AMI link failed")
                reason = f"{type(error).__name__}: {error}"
            self._telldown(reason)
            stood_s = asyncio.get_running_loop().time() - began
            failures = 0 if stood_s >= self.settings.stable_after_s else failures + 1
            await asyncio.sleep(self._pause_s(failures, refused))

    # ----- actions

    async def absolute_timeout(self, channel: str, seconds: float) -> None:
        """Let this channel live `seconds` from now at most (ms are kept). Replaces the limit it had.

        Raises AmiRefused (no such channel, a value out of range) or AmiUnavailable (it may have been done).
        """
        if not (math.isfinite(seconds) and 0 < seconds <= MAX_LIMIT_S):
            raise AmiRefused("ami-value-refused", f"{seconds!r} s is not a limit for a call")
        await self._act({"Action": "AbsoluteTimeout", "Channel": _channel(channel), "Timeout": f"{seconds:.3f}"})

    async def hangup(self, channel: str, cause: int = CAUSE_NORMAL) -> None:
        """Hang up this one channel with a Q.850 cause. Raises AmiRefused or AmiUnavailable (it may have been done)."""
        if not 0 <= cause <= MAX_CAUSE:
            raise AmiRefused("ami-value-refused", f"{cause!r} is not a hangup cause")
        await self._act({"Action": "Hangup", "Channel": _channel(channel), "Cause": str(cause)})

    async def core_show_channels(self) -> ChannelList:
        """All channels. Slow on Asterisk's side (it walks its container): for a resync, never per call."""
        return await self._channels(self._standing())

    async def db_get_tree(self, family: str, key: str = "") -> dict[str, str]:
        """The values below `family`/`key` in Asterisk's database, by what follows that path.

        At most `reply_limit_items` of them, in the order of their keys: delete them and ask again for the rest.
        """
        path = _db_path(f"{family}/{key}" if key else family)
        rows = await self._act({"Action": "DBGetTree", "Family": path})
        if rows[-1].get("Event") != "DBGetTreeComplete":
            log.warning("the AMI reply to DBGetTree %s was cut after %d items", path, len(rows))
        prefix = f"/{path}/"
        return {
            row["Key"].removeprefix(prefix): row.get("Val", "")
            for row in rows
            if row.get("Event") == "DBGetTreeResponse" and row.get("Key", "").startswith(prefix)
        }

    async def db_del(self, family: str, key: str) -> None:
        """Delete one key of Asterisk's database; one that is not there is no error (DB_DELETE does not tell)."""
        path = _db_path(f"{family}/{key}")
        await self._act({"Action": "Setvar", "Variable": f"DB_DELETE({path})", "Value": "1"})

    async def _act(self, fields: Mapping[str, str]) -> list[Fields]:
        return await self._ask(self._standing(), fields, self.settings.action_timeout_s)

    def _standing(self) -> GuardedManager:
        if self._manager is None:
            raise down("the AMI link is down")
        return self._manager

    async def _ask(self, manager: GuardedManager, fields: Mapping[str, str], timeout_s: float) -> list[Fields]:
        """Send one action, once, and return every message of its answer."""
        action = Action(dict(fields))
        future = manager.send_action(action)
        self.counters.actions += 1
        try:
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError:
            self.counters.unanswered += 1
            message = f"Asterisk did not answer {fields['Action']} within {timeout_s:g} s"
            raise AmiUnavailable("ami-no-answer", message, "it may have been done all the same") from None
        finally:
            manager.protocol.responses.pop(action.id, None)
        rows: list[Fields] = []
        for number, part in enumerate(answer if isinstance(answer, list) else [answer]):
            if number % STEP_ROWS == STEP_ROWS - 1:
                await asyncio.sleep(0)
            rows.append(_plain(part))
        if rows[0].get("Response") not in {"Success", "Goodbye"}:
            raise _refusal(fields["Action"], rows[0].get("Message", ""))
        return rows

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
        """Connect, log in and stay until the link is lost; why it was. Raises AmiUnavailable or LoginRefused."""
        self._early, self._early_lost, self._farewell = [], "", ""
        self._booted = asyncio.get_running_loop().create_future()
        manager = GuardedManager(self.settings, self.counters, self._on_message)
        try:
            await self._log_in(manager)
            uptime_s = await self._wait_booted(manager)
            self._announce(manager, await self._restarted(manager, uptime_s))
            await self._list_channels(manager)
            return await self._watch(manager)
        finally:
            self._manager = None
            manager.close()

    async def _log_in(self, manager: GuardedManager) -> None:
        settings = self.settings
        where = f"{settings.host}:{settings.port}"
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                await manager.connect()
        except TimeoutError:
            raise down(f"no connection to {where} within {settings.connect_timeout_s:g} s") from None
        except OSError as error:
            raise down(f"no connection to {where}: {error.strerror or error}") from error
        self.counters.connects += 1
        if manager.authenticated_future is None:
            raise down(manager.lost.result() if manager.lost.done() else f"{where} closed the connection at once")
        try:
            async with asyncio.timeout(settings.login_timeout_s):
                answer = _plain(await manager.authenticated_future)
        except TimeoutError:
            raise down(f"{where} did not answer the login within {settings.login_timeout_s:g} s") from None
        except AmiUnavailable:
            raise down(manager.lost.result() if manager.lost.done() else "the connection was lost") from None
        if answer.get("Response") != "Success":
            self.counters.login_refusals += 1
            said = answer.get("Message", "no reason given")
            hint = "compare [ami] username and secret with manager.conf, then `manager reload` in Asterisk"
            raise LoginRefused("ami-login-refused", f"{where} refused {settings.username!r}: {said}", hint)
        self.counters.logins += 1
        self._told_refused = False

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
        self._manager, self._told_down = manager, False
        log.info("AMI link to %s:%d is up", self.settings.host, self.settings.port)
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

    async def _watch(self, manager: GuardedManager) -> str:
        """Ping until the connection is lost or a ping stays unanswered."""
        while True:
            await asyncio.wait({manager.lost}, timeout=self.settings.ping_interval_s)
            if manager.lost.done():
                return self._farewell or manager.lost.result()
            try:
                await self._ask(manager, {"Action": "Ping"}, self.settings.ping_timeout_s)
            except AmiUnavailable as error:
                return self._farewell or error.message

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
            self._on_call_event(translate(message, self._now_ms()))

    def _on_call_event(self, event: CallEvent | None) -> None:
        if event is None:
            self.counters.malformed += 1
            return
        self.counters.events += 1
        self._last_event_ms = self._now_ms()
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

    # ----- words and pauses

    def _pause_s(self, failures: int, refused: bool) -> float:
        """How long to wait before the next try: exponential, bounded, with jitter of a half."""
        settings = self.settings
        longest = settings.refused_backoff_s if refused else settings.backoff_max_s
        steps = min(max(failures - 1, 0), 30)
        full = longest if refused else min(longest, settings.backoff_first_s * 2.0**steps)
        return full * (0.5 + self._random() / 2)

    def _telldown(self, reason: str) -> None:
        """LinkDown once for each time it goes down, the first failed try included."""
        if self._told_down:
            return
        self._told_down = True
        self.counters.losses += 1
        log.warning("AMI link to %s:%d is down: %s", self.settings.host, self.settings.port, reason)
        self._queue.put(LinkDown(reason))

    def _tell_refused(self, error: LoginRefused) -> None:
        """Once, clearly, until a login succeeds."""
        if not self._told_refused:
            self._told_refused = True
            log.error("AMI login: %s (%s)", error.message, error.hint)

    def _tell_poor(self, error: AmiRefused) -> None:
        """The user has too few rights: the link works, but is blind for restarts or channels. Once."""
        if not self._told_poor:
            self._told_poor = True
            log.warning("AMI user %r: %s (%s)", self.settings.username, error.message, error.hint)


def _refusal(action: str, message: str) -> AmiRefused:
    """What Asterisk said no to, by a stable slug."""
    if message == "Permission denied":
        hint = "the AMI user needs `read = call,system` and `write = call,reporting` in manager.conf"
        return AmiRefused("ami-permission-denied", f"Asterisk does not permit {action} to this AMI user", hint)
    if message == "No such channel":
        return AmiRefused("ami-no-such-channel", f"{action}: there is no such channel", "the call may just have ended")
    return AmiRefused("ami-refused", f"Asterisk refused {action}: {message or 'no reason given'}")


def _channel(name: str) -> str:
    if not _CHANNEL.fullmatch(name):
        raise AmiRefused("ami-value-refused", f"{name!r} is not the name of a channel", "it looks like PJSIP/name-0000")
    return name


def _db_path(path: str) -> str:
    if not _DB_PATH.fullmatch(path):
        raise AmiRefused("ami-value-refused", f"{path!r} is not a path in Asterisk's database")
    return path


def _plain(message: Message) -> Fields:
    """A panoramisk message as a plain dict; of a repeated field the first."""
    return {
        name: str(value[0] if isinstance(value, list) else value)
        for name, value in message.items()
        if name != "content"
    }
