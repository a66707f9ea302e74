"""One AMI user's login, kept up for as long as it is run: connect, log in, ping, come back, and ask guarded questions.

Built on panoramisk, guarded in ami_guard.py. It connects again by itself, with exponential backoff and jitter; after a
wrong password slowly, and said once. A ping that is not answered ends the connection.

Fails open: while the login is away every action raises at once (AmiUnavailable), and nothing is retried here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from panoramisk.actions import Action
from panoramisk.message import Message

from capconduit.asterisk.ami_codec import AmiRefused, AmiUnavailable
from fastagi.ami_guard import AmiSettings, Fields, GuardedManager, LinkCounters, LoginRefused, down

log = logging.getLogger(__name__)

STEP_ROWS: Final = 500  # rows of a long list that are converted before other tasks get their turn


class AmiConnection:
    """Connects, logs in, keeps alive and reconnects for as long as `run()` runs.

    `random` gives floats in [0, 1) for the jitter.
    """

    title: ClassVar[str] = "AMI connection"
    keys: ClassVar[str] = "username and secret"  # of the section [ami], for the hint after a wrong password
    rights: str = ""  # what the user needs in manager.conf

    def __init__(self, settings: AmiSettings, *, random: Callable[[], float]) -> None:
        self.settings = settings
        self.counters = LinkCounters()
        self._random = random
        self._manager: GuardedManager | None = None  # only while the login stands
        self._task: asyncio.Task[None] | None = None
        self._farewell = ""
        self._told_down = self._told_refused = False

    @property
    def up(self) -> bool:
        """Logged in, and actions may be sent."""
        return self._manager is not None

    def start(self) -> None:
        """Run as a task of its own, until `close()`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self.run(), name=self.title.lower().replace(" ", "-"))

    async def close(self) -> None:
        """End the connection. Harmless twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def run(self) -> None:
        """Keep the login up until cancelled."""
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
                log.exception("the %s failed", self.title)
                reason = f"{type(error).__name__}: {error}"
            self._tell_down(reason)
            stood_s = asyncio.get_running_loop().time() - began
            failures = 0 if stood_s >= self.settings.stable_after_s else failures + 1
            await asyncio.sleep(self._pause_s(failures, refused))

    # ----- what kinds of connections do in their own way

    async def _logged_in(self, manager: GuardedManager) -> None:
        """The login was accepted: make the connection known with `_stands`."""
        self._stands(manager)

    def _on_message(self, message: Fields) -> None:
        """Every wanted event; must not block. What it raises is caught where the message was read."""

    def _on_down(self, reason: str) -> None:
        """The login is away, said once for each time."""

    # ----- one connection

    async def _session(self) -> str:
        """Connect, log in and stay until the connection is lost; why it was. Raises AmiUnavailable or LoginRefused."""
        self._farewell = ""
        manager = GuardedManager(self.settings, self.counters, self._on_message)
        try:
            await self._log_in(manager)
            await self._logged_in(manager)
            return await self._watch(manager)
        finally:
            self._manager = None
            manager.close()

    def _stands(self, manager: GuardedManager) -> None:
        self._manager, self._told_down = manager, False
        log.info("%s to %s:%d is up", self.title, self.settings.host, self.settings.port)

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
                answer = plain(await manager.authenticated_future)
        except TimeoutError:
            raise down(f"{where} did not answer the login within {settings.login_timeout_s:g} s") from None
        except AmiUnavailable:
            raise down(manager.lost.result() if manager.lost.done() else "the connection was lost") from None
        if answer.get("Response") != "Success":
            self.counters.login_refusals += 1
            said = answer.get("Message", "no reason given")
            hint = f"compare [ami] {self.keys} with manager.conf, then `manager reload` in Asterisk"
            raise LoginRefused("ami-login-refused", f"{where} refused {settings.username!r}: {said}", hint)
        self.counters.logins += 1
        self._told_refused = False

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

    # ----- asking

    async def _act(self, fields: Mapping[str, str]) -> list[Fields]:
        return await self._ask(self._standing(), fields, self.settings.action_timeout_s)

    def _standing(self) -> GuardedManager:
        if self._manager is None:
            raise down(f"the {self.title} is down")
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
            rows.append(plain(part))
        if rows[0].get("Response") not in {"Success", "Goodbye"}:
            raise self._refusal(fields["Action"], rows[0].get("Message", ""))
        return rows

    # ----- words and pauses

    def _pause_s(self, failures: int, refused: bool) -> float:
        """How long to wait before the next try: exponential, bounded, with jitter of a half."""
        settings = self.settings
        longest = settings.refused_backoff_s if refused else settings.backoff_max_s
        steps = min(max(failures - 1, 0), 30)
        full = longest if refused else min(longest, settings.backoff_first_s * 2.0**steps)
        return full * (0.5 + self._random() / 2)

    def _tell_down(self, reason: str) -> None:
        """Once for each time it goes down, the first failed try included."""
        if self._told_down:
            return
        self._told_down = True
        self.counters.losses += 1
        log.warning("%s to %s:%d is down: %s", self.title, self.settings.host, self.settings.port, reason)
        self._on_down(reason)

    def _tell_refused(self, error: LoginRefused) -> None:
        """Once, clearly, until a login succeeds."""
        if not self._told_refused:
            self._told_refused = True
            log.error("AMI login: %s (%s)", error.message, error.hint)

    def _refusal(self, action: str, message: str) -> AmiRefused:
        """What Asterisk said no to, by a stable slug."""
        if message == "Permission denied":
            hint = f"the AMI user {self.settings.username!r} needs {self.rights} in manager.conf"
            return AmiRefused("ami-permission-denied", f"Asterisk does not permit {action} to this AMI user", hint)
        if message == "No such channel":
            hint = "the call may just have ended"
            return AmiRefused("ami-no-such-channel", f"{action}: there is no such channel", hint)
        return AmiRefused("ami-refused", f"Asterisk refused {action}: {message or 'no reason given'}")


def plain(message: Message) -> Fields:
    """A panoramisk message as a plain dict; of a repeated field the first."""
    return {
        name: str(value[0] if isinstance(value, list) else value)
        for name, value in message.items()
        if name != "content"
    }
