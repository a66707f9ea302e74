"""Asking the engine from the event loop: a command becomes a future, answers of one batch come over together."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from capconduit.domain.needs import Command
from capconduit.services.engine import Engine


class Asker:
    """Bridges the loop and the engine's thread. Belongs to the loop that made it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._done: deque[tuple[asyncio.Future[Any], Any, Exception | None]] = deque()
        self._waking = False

    def ask(self, command: Command) -> asyncio.Future[Any]:
        """The answer to come. The future raises DatabaseError, or what the decision raised; here EngineBusy is raised.

        A future that nobody waits for any more is answered into the void; what its command took stays taken.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._engine.submit(command, lambda answer, error: self._take(future, answer, error))
        return future

    def _take(self, future: asyncio.Future[Any], answer: Any, error: Exception | None) -> None:
        """On the engine's thread: keep the answer; wake the loop once for all answers of a batch."""
        self._done.append((future, answer, error))
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._give)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._done.clear()

    def _give(self) -> None:
        """On the loop: resolve what has come."""
        self._waking = False  # before emptying, so that what comes meanwhile wakes us again
        while self._done:
            future, answer, error = self._done.popleft()
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer)
