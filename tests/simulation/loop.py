"""An asyncio loop whose time is the world's: nothing ever waits, the next timer is now. Everything is in one order.

Each handle belongs to the process (a `Boot`) in whose context it was made. What belongs to a process that was killed is
never run; what belongs to one that is stopped waits until it goes on.
"""

from __future__ import annotations

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any

DISK_S = 0.001  # what an executor's work (a small transaction, a flush) takes


class Killed(BaseException):
    """The process under whose feet this is raised is gone (kill -9)."""


class Boot:
    """One life of a process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.stopped_until_s = 0.0
        self.tasks: list[Any] = []  # of a dead process they must not be collected, which would run their `finally`

    def context(self) -> Context:
        """A context whose handles are this process's."""
        context = Context()
        context.run(BOOT.set, self)
        return context


BOOT: ContextVar[Boot | None] = ContextVar("BOOT", default=None)


class VirtualLoop(asyncio.AbstractEventLoop):
    """The loop. `run_once` runs one handle; exceptions of callbacks go to `on_error`."""

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._order = 0
        self._time_s = 0.0
        self._on_error = on_error
        self.steps = 0

    @contextmanager
    def running(self) -> Any:
        """While this lasts, it is the loop that runs."""
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(None)

    def run_once(self) -> bool:
        """Run the next handle; False where there is none."""
        if self._ready:
            handle = self._ready.popleft()
        elif self._timers:
            when, _, handle = heapq.heappop(self._timers)
            self._time_s = max(self._time_s, when)
        else:
            return False
        if handle._cancelled:
            return True
        context: Context = handle._context  # type: ignore[attr-defined]  # there is no other way to know whose it is
        boot = context.get(BOOT)
        if boot is not None:
            if boot.dead:
                return True
            if boot.stopped_until_s > self._time_s:
                self._push(boot.stopped_until_s, handle)
                return True
        self.steps += 1
        try:
            context.run(handle._callback, *handle._args)  # type: ignore[attr-defined]
        except Killed:
            assert boot is not None
            boot.dead = True
        except BaseException as error:
            self._on_error(error)
        return True

    @property
    def idle(self) -> bool:
        """Nothing is ready and no timer is set."""
        return not self._ready and not self._timers

    def _push(self, when: float, handle: asyncio.Handle) -> None:
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, handle))

    # --- what asyncio and the daemon ask of a loop --------------------------------------------------------------------

    def time(self) -> float:
        return self._time_s

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._time_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._push(when, handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        boot = BOOT.get()
        if boot is not None:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if len(boot.tasks) > 200:
                boot.tasks = [t for t in boot.tasks if not t.done()]
            boot.tasks.append(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """The work is done a little later, at once and undisturbed, as a thread would that waits for nobody."""
        if getattr(executor, "_shutdown", False):
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self.create_future()

        def work() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self.call_later(DISK_S, work)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._on_error(context.get("exception") or AssertionError(str(context.get("message"))))

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
