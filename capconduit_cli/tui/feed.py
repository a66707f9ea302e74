"""Where the terminal UI has its floor from: the daemon's stream, and while it is away what the database knows.

Failure policy: fails open and says so. A daemon that is away, silent or not understood makes what is shown stale,
within two seconds; the feed goes on trying, and is live again as soon as the daemon answers. It never ends by itself,
and a peer's fault raises nothing.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import orjson

from capconduit.clock import Clock, SystemClock
from capconduit.config import Config
from capconduit.errors import CapConduitError, PeerError
from capconduit.vocab import FeedKind, FloorMessage
from capconduit_cli.event_stream import EventStream, ServerEvent
from capconduit_cli.tui.floor import Floor, MessageError

LOOKS_SHARE: Final = 10  # a look into the database is followed by so many times its length without one
MAX_ERROR_BYTES: Final = 4_096  # of what a daemon says when it refuses

OnChange = Callable[["Floor", "FeedState"], None]
LastKnown = Callable[[], dict[str, Any]]  # PICTURE of the database; raises CapConduitError


@dataclass(frozen=True, slots=True)
class FeedState:
    """How true the floor is, and since when.

    `since_ms`: waiting and live, since when; stale, when the last true word came; replay, the instant that is shown.
    """

    kind: FeedKind
    since_ms: int
    message: str = ""


class Feed(Protocol):
    """Something that keeps a floor up to date."""

    async def run(self, on_change: OnChange) -> None:
        """Tell of every change, until cancelled. The floor is always the same object, changed in place."""
        ...


class Listener(Protocol):
    """Who wants each message besides (a recorder). It may not raise."""

    def message(self, at_ms: int, kind: str, data: dict[str, Any]) -> None:
        """A message that the floor took in."""
        ...

    def state(self, at_ms: int, state: FeedState) -> None:
        """The feed became live or stale."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the feed waits for what, in seconds. A daemon says something every second."""

    silence_s: float = 1.5  # then it says so: within 2 s of the last word
    blocked_s: float = 0.5  # a timer that is late by this: we were busy, and what came meanwhile is still to be read
    give_up_s: float = 8.0  # then the connection is no more waited for
    answer_s: float = 1.5  # of the head of the answer: then it says so, and looks into the database
    first_picture_s: float = 12.0  # then it is no more waited for; the daemon gives itself 10 s for a large floor
    retry_s: float = 0.1  # the first try again; doubles
    retry_max_s: float = 0.8  # a daemon that is back is seen within this
    last_known_s: float = 5.0  # between looks into the database


class LiveFeed:
    """The stream of the daemon that listens on `socket`, for one tenant."""

    def __init__(
        self,
        socket: str,
        tenant: str,
        *,
        last_known: LastKnown | None = None,
        clock: Clock | None = None,
        patience: Patience | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.floor = Floor()
        self.listener: Listener | None = None
        self._socket = socket
        self._tenant = tenant
        self._last_known = last_known
        self._clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._jitter = jitter
        self._on_change: OnChange = _nobody
        self._state = FeedState(FeedKind.WAITING, self._clock.now_ms(), "asking the daemon")
        self._heard_ms = 0  # when the last true word came
        self._resume_id = ""  # "": begin with a picture
        self._whole = False  # whether the floor is what the messages that come are about
        self._why = ""  # the daemon is away
        self._database_says = ""  # why it does not tell the last known
        self._following = False  # a stream that answered: what the database knows is of no use
        self._failures = 0
        self._silence: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None  # into the database

    async def run(self, on_change: OnChange) -> None:
        self._on_change = on_change
        on_change(self.floor, self._state)
        try:
            while True:
                await self._away(await self._watch())
        finally:
            self._hush()
            if self._looking is not None:
                self._looking.cancel()
                with suppress(asyncio.CancelledError):
                    await self._looking

    async def _watch(self) -> str:
        """Follow one connection to its end; why it ended."""
        try:
            transport = httpx.AsyncHTTPTransport(uds=self._socket)
            async with httpx.AsyncClient(transport=transport, timeout=None, trust_env=False) as client:
                await self._follow(client)
        except MessageError as error:
            self._resume_id = ""  # the floor may have missed something: begin anew
            return error.message
        except PeerError as error:
            self._resume_id = ""
            return error.message
        except TimeoutError:
            return "the daemon does not answer"
        except httpx.ConnectError as error:
            why = ": permission denied" if _is_denied(error) else ""
            return f"no daemon answers on {self._socket}{why}"
        except (httpx.HTTPError, OSError):
            return "the daemon is gone"
        finally:
            self._following = False
            self._hush()
        return "the daemon ended the stream"

    async def _follow(self, client: httpx.AsyncClient) -> None:
        """Ask for the stream and take in what comes. Raises TimeoutError when it stays silent too long."""
        loop = asyncio.get_running_loop()
        patience = self._patience
        resume_id = self._resume_id
        self._silence = loop.call_later(patience.answer_s, self._unanswered)
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": resume_id} if resume_id else {})
        async with (
            asyncio.timeout(patience.first_picture_s) as limit,
            client.stream("GET", "http://daemon/stream", params={"tenant": self._tenant}, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise PeerError("daemon-refuses", await _refusal(response))
            if resume_id != self._resume_id:  # what the database knows came first
                return
            self._following, self._whole = True, bool(resume_id)
            parser = EventStream(resume_id)
            async for chunk in response.aiter_raw():
                limit.reschedule(loop.time() + patience.give_up_s)
                self._listen()
                self._take(parser, chunk)

    def _take(self, parser: EventStream, chunk: bytes) -> None:
        """Bring the floor up to date with some bytes of the stream."""
        events = parser.feed(chunk)
        self._heard_ms = self._clock.now_ms()
        for event in events:
            self._whole = self._whole or event.kind == FloorMessage.SNAPSHOT
            if self._whole:
                self._message(event)
        if self._whole:
            self._resume_id = parser.last_id
            self._failures = 0
            self._become_live(changed=bool(events))

    def _message(self, event: ServerEvent) -> None:
        try:
            data = orjson.loads(event.data)
        except orjson.JSONDecodeError as error:
            raise MessageError(f"{event.kind}: what the daemon sends is no JSON: {error}") from None
        self.floor.apply(event.kind, data)
        if self.listener is not None:
            self.listener.message(self._heard_ms, event.kind, data)

    def _become_live(self, *, changed: bool) -> None:
        """What is shown is of now: the first word after a silence is enough, where the floor is whole."""
        if self._state.kind is not FeedKind.LIVE:
            self._become(FeedState(FeedKind.LIVE, self._heard_ms))
        elif changed:
            self._on_change(self.floor, self._state)

    def _become(self, state: FeedState) -> None:
        """Tell a new state, where it is one."""
        if state == self._state:
            return
        self._state = state
        if self.listener is not None:
            self.listener.state(self._clock.now_ms(), state)
        self._on_change(self.floor, state)

    def _listen(self) -> None:
        """Something came: the silence begins again."""
        self._hush()
        self._watch_silence(self._patience.silence_s)

    def _watch_silence(self, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + wait_s
        self._silence = loop.call_at(due, self._silent, due)

    def _silent(self, due: float) -> None:
        """Nothing came for too long; unless it was us who did not look."""
        if asyncio.get_running_loop().time() - due > self._patience.blocked_s:
            self._watch_silence(self._patience.blocked_s)
        else:
            self._become_stale("the daemon is silent")

    def _hush(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _become_stale(self, why: str) -> None:
        """Say that what is shown is not of now; where nothing is known yet, that we wait."""
        if self._database_says:
            why = f"{why}; {self._database_says}"
        if self.floor.version == 0:
            self._become(FeedState(FeedKind.WAITING, self._state.since_ms, why))
        else:
            self._become(FeedState(FeedKind.STALE, self._heard_ms, why))

    async def _away(self, why: str) -> None:
        """The daemon is away: say so, look into the database, and wait a little before the next try."""
        if self._looking is not None and self._looking.done():
            self._looking.result()  # a bug of ours does not go by in silence
            self._looking = None
        self._without_daemon(why)
        patience = self._patience
        wait_s = min(patience.retry_s * 2 ** min(self._failures, 10), patience.retry_max_s)
        self._failures += 1
        await asyncio.sleep(wait_s * (0.5 + self._jitter() / 2))

    def _unanswered(self) -> None:
        """The daemon has taken our question and thinks, or hangs."""
        self._without_daemon("the daemon does not answer")

    def _without_daemon(self, why: str) -> None:
        self._why = why
        self._become_stale(why)
        if self._last_known is not None and self._looking is None:
            self._looking = asyncio.create_task(self._look(self._last_known))

    async def _look(self, last_known: LastKnown) -> None:
        """Show what the database knows, until the daemon is back; a database that is away changes nothing."""
        loop = asyncio.get_running_loop()
        while self._state.kind is not FeedKind.LIVE:
            began = loop.time()
            try:
                picture = await _on_a_thread(last_known)
                self._database_says = ""
                if not self._following:
                    self._show_last_known(picture)
            except CapConduitError as error:
                self._database_says = error.message
            took_s = loop.time() - began
            await asyncio.sleep(max(self._patience.last_known_s, took_s * LOOKS_SHARE))

    def _show_last_known(self, picture: dict[str, Any]) -> None:
        self.floor.apply(FloorMessage.SNAPSHOT, picture)
        self._resume_id = ""  # what the floor shows is not what the daemon would go on from
        self._whole = False
        self._heard_ms = self.floor.at_ms
        if self.listener is not None:
            self.listener.message(self._clock.now_ms(), FloorMessage.SNAPSHOT, picture)
        self._become_stale(self._why)
        self._on_change(self.floor, self._state)


def _nobody(floor: Floor, state: FeedState) -> None:
    """Who is told before anybody listens."""
    del floor, state


def _is_denied(error: BaseException | None) -> bool:
    """Whether we may not open the socket: the one reason that waiting does not mend."""
    while error is not None and not isinstance(error, PermissionError):
        error = error.__cause__ or error.__context__
    return error is not None


async def _on_a_thread(work: LastKnown) -> dict[str, Any]:
    """What `work` returns or raises. Its thread is none of the loop's: whoever quits does not wait for a database."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[dict[str, Any]] = loop.create_future()

    def tell(set_it: Callable[..., None], value: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if done.done() else set_it(value))

    def run() -> None:
        try:
            tell(done.set_result, work())
        except BaseException as error:  # noqa: BLE001  # it is raised where it is waited for
            tell(done.set_exception, error)

    threading.Thread(target=run, name="last known", daemon=True).start()
    return await done


async def _refusal(response: httpx.Response) -> str:
    """What the daemon says instead of a stream."""
    body = b""
    async for chunk in response.aiter_raw(MAX_ERROR_BYTES):
        body += chunk
        if len(body) >= MAX_ERROR_BYTES:
            break
    try:
        told = orjson.loads(body[:MAX_ERROR_BYTES])
        words = told.get("message") or told.get("error") if isinstance(told, dict) else None
    except orjson.JSONDecodeError:
        words = None
    return str(words) if words else f"the daemon answers HTTP {response.status_code} to /stream"


def live_feed(config: Config, tenant: str) -> LiveFeed:
    """The feed of this machine's daemon; while it is away, of the database."""
    from capconduit_cli.tui.stale import last_known

    return LiveFeed(str(Path(config.control.socket)), tenant, last_known=last_known(config, tenant))
