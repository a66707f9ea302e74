"""The live picture for viewers of the control socket: begun by the first, ended a minute after the last has left.

For each tenant that somebody looks at: a Floor (services/floor.py) fed by the engine's commits and by readings of the
database, flushed ten times a second into a ring of messages and to every viewer. What a viewer has not read yet is its
own affair (control_stream.py): nothing here waits for one.

Failure policy: fails open. Without the database what is shown stays as it was and health says so; no call waits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

import orjson

from capconduit.clock import Clock
from capconduit.domain.model import Node, Tenant
from capconduit.errors import CapConduitError, DatabaseError, NotFound
from capconduit.services.engine import Committed, Engine
from capconduit.services.floor import Floor, Message
from capconduit.services.floor_reading import Reading, Wanted, read
from capconduit.store.store import Store
from capconduit.units import format_instant
from fastagi.floor_pulse import Pulse

log = logging.getLogger(__name__)

FLUSH_S: Final = 0.1
TICK_S: Final = 1.0  # health, and what changes by itself
READ_S: Final = 0.5  # between two readings of what others change
READ_SHARE: Final = 50  # at most one part in so many of the time is spent reading
WHOLE_S: Final = 10.0  # between two readings of everything
WHOLE_SHARE: Final = 100
RECOUNT_S: Final = 300.0  # between two counts of today's Dials
RETRY_S: Final = 1.0  # after a reading that failed
FIRST_S: Final = 10.0  # a viewer waits for the first picture
LINGER_S: Final = 60.0  # after the last viewer has left
GLANCE_S: Final = 5.0  # after a single picture
RING: Final = 2_000  # messages that are kept for viewers who come back
FLUSH_OBJECTS: Final = 250  # of one flush; a change of the whole estate comes in several
HANDED_OVER: Final = 10_000  # commits that wait for the loop; more, and everything is read anew


Answer = TypeVar("Answer")


class Watcher(Protocol):
    """Whoever is told of every message."""

    def push(self, message: bytes) -> None:
        """Take one message; must not wait or raise."""
        ...

    def end(self) -> None:
        """There will be no more."""
        ...


class Watched:
    """One tenant's floor while somebody looks. All methods belong to the loop."""

    def __init__(self, hub: FloorHub, tenant: Tenant) -> None:
        self._hub = hub
        self.floor = Floor(tenant, hub.node)
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=RING)
        self._floor_seq = hub.seq  # messages up to this one were never in the ring
        self._viewers: set[Watcher] = set()
        self._over = False
        self.ready = asyncio.Event()
        self.trouble: DatabaseError | None = None  # why there is no first picture yet
        self._until_s = hub.now_s() + FIRST_S  # it is kept until then, and as long as somebody looks
        self._reading: asyncio.Future[Reading] | None = None
        self._next_read_s = self._next_whole_s = self._next_recount_s = 0.0
        self._health = b"null"

    # --- viewers ------------------------------------------------------------------------------------------------------

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def join(self, viewer: Watcher) -> None:
        """Tell a viewer of everything from now on; one who comes too late is sent away, and comes again."""
        self._viewers.add(viewer)
        if self._over:
            viewer.end()

    def leave(self, viewer: Watcher) -> None:
        """Harmless twice."""
        self._viewers.discard(viewer)
        self.keep(LINGER_S)

    def keep(self, seconds: float) -> None:
        """Keep it for so long at least, also when nobody looks."""
        self._until_s = max(self._until_s, self._hub.now_s() + seconds)

    def picture(self) -> bytes:
        """PICTURE as JSON, as it is now."""
        self.keep(GLANCE_S)
        self._publish(FLUSH_OBJECTS)
        return self.floor.picture(self._hub.now_ms(), self._hub.boot_id, self._health)

    def snapshot(self) -> bytes:
        """The message `snapshot`."""
        picture = self.picture()
        return self._message("snapshot", picture, self._hub.seq)

    def since(self, last_id: str) -> Sequence[bytes] | None:
        """The messages after the one with this id; None where they are not all in the ring."""
        boot, _, seq = last_id.rpartition("-")
        if boot != self._hub.boot_id or not (seq.isascii() and seq.isdigit()) or len(seq) > 18:
            return None
        after = int(seq)
        oldest = self._ring[0][0] if len(self._ring) == RING else self._floor_seq + 1
        if not oldest - 1 <= after <= self._hub.seq:
            return None
        return [text for number, text in self._ring if number > after]

    # --- its life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until some time after the last viewer has left."""
        next_tick_s = 0.0
        while self._viewers or self._hub.now_s() < self._until_s:
            self._read_on()
            if self.floor.estate is not None and not self.ready.is_set():
                await self._fill()
            if self.ready.is_set():
                if self._hub.now_s() >= next_tick_s:
                    next_tick_s = self._hub.now_s() + TICK_S
                    self.floor.tick(self._hub.now_ms())
                    self._tell_health()
                if self.floor.dirty:
                    self._publish(FLUSH_OBJECTS)
            if self._reading is not None and not self.ready.is_set():
                await asyncio.wait({self._reading}, timeout=FLUSH_S)  # somebody waits for it
            else:
                await asyncio.sleep(FLUSH_S)

    async def _fill(self) -> None:
        """The first picture, a part at a time: calls go on meanwhile."""
        while self.floor.dirty:
            self._publish(FLUSH_OBJECTS)
            await asyncio.sleep(0)
        self._ring.clear()  # nobody was told
        self._floor_seq = self._hub.seq
        self._tell_health()
        self.ready.set()

    def close(self) -> None:
        """A reading that is under way comes to nothing; who still looks comes again."""
        self._over = True
        if self._reading is not None:
            self._reading.cancel()
        for viewer in tuple(self._viewers):
            viewer.end()

    def take(self, committed: Sequence[Committed]) -> None:
        """What the engine has committed."""
        now_ms = self._hub.now_ms()
        try:
            for each in committed:
                self.floor.take(each, now_ms)
        except Exception:
            log.exception("the floor did not understand a commit: it is read anew")
            self.lost()

    def lost(self) -> None:
        """Commits were not handed over: everything is read anew, and what is read now is not to be trusted."""
        self._next_whole_s = self._next_read_s = 0.0
        if self._reading is not None:
            self._reading.cancel()

    def _read_on(self) -> None:
        """Take what was read, and begin the next reading where it is time."""
        now_s = self._hub.now_s()
        if self._reading is not None:
            if not self._reading.done():
                return
            self._take_reading(self._reading, now_s)
            self._reading = None
        if now_s >= self._next_read_s:
            whole, recount = now_s >= self._next_whole_s, now_s >= self._next_recount_s
            wanted = self.floor.begin(self._hub.now_ms(), whole=whole, estate=self._hub.engine.estate, recount=recount)
            self._reading = self._hub.read(wanted)

    def _take_reading(self, done: asyncio.Future[Reading], now_s: float) -> None:
        if done.cancelled():
            self.floor.give_up()
            return
        error = done.exception()
        if error is not None:
            self.floor.give_up()
            self._next_read_s, self._next_whole_s = now_s + RETRY_S, 0.0
            if isinstance(error, DatabaseError):
                self.trouble = error
            else:
                log.error("reading the floor failed", exc_info=error)
            return
        if self.floor.overrun:
            self.floor.give_up()
            self._next_read_s = self._next_whole_s = 0.0
            return
        reading, took_s = done.result(), self._hub.took_s
        self.floor.put(reading, self._hub.now_ms())
        self.trouble = None
        self._next_read_s = now_s + max(READ_S, took_s * READ_SHARE)
        if reading.whole:
            self._next_whole_s = now_s + max(WHOLE_S, took_s * WHOLE_SHARE)
        if reading.day_ms is not None:
            self._next_recount_s = now_s + max(RECOUNT_S, took_s * WHOLE_SHARE)

    # --- messages -----------------------------------------------------------------------------------------------------

    def _publish(self, limit: int) -> None:
        for told in self.floor.flush(self._hub.now_ms(), limit):
            self._tell(told)

    def _tell_health(self) -> None:
        self._health = orjson.dumps(self._hub.health(self.floor.calls, self.floor.nodes))
        text = self._message("health", self._health, self._hub.seq)  # not of the ring: the next one replaces it
        for viewer in tuple(self._viewers):
            viewer.push(text)

    def _tell(self, told: Message) -> None:
        kind, data = told
        self._hub.seq += 1
        text = self._message(kind, data, self._hub.seq)
        self._ring.append((self._hub.seq, text))
        for viewer in tuple(self._viewers):
            viewer.push(text)

    def _message(self, kind: str, data: bytes, seq: int) -> bytes:
        return b"event: %b\nid: %b-%d\ndata: %b\n\n" % (kind.encode(), self._hub.boot_id.encode(), seq, data)


class FloorHub:
    """The floors of all tenants that somebody looks at. `told` are the daemon's own parts of HEALTH."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        clock: Clock,
        node: str,
        boot_id: str,
        pulse: Pulse,
        told: Callable[[], dict[str, Any]],
    ) -> None:
        self.engine = engine
        self.node = node
        self.boot_id = boot_id
        self.now_ms = clock.now_ms
        self.seq = 0
        self.took_s = 0.0  # the last reading
        self._store = store
        self._pulse = pulse
        self._told = told
        self._loop = asyncio.get_running_loop()
        self.now_s = self._loop.time
        self._watched: dict[str, Watched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._thread: ThreadPoolExecutor | None = None
        self._latency_ms: float | None = None
        self._database_up = True
        self._committed: deque[Committed] = deque()
        self._waking = False
        self._overflowed = False

    @property
    def viewers(self) -> int:
        """How many look, over all tenants."""
        return sum(watched.viewers for watched in self._watched.values())

    async def look(self, tenant_name: str) -> Watched:
        """The floor of a tenant, with a picture. Raises NotFound, DatabaseError."""
        watched = self._watched.get(tenant_name)
        if watched is None:
            tenant = await self._tenant(tenant_name)
            watched = self._watched.get(tenant_name) or self._begin(tenant)
        watched.keep(FIRST_S)
        try:
            await asyncio.wait_for(watched.ready.wait(), FIRST_S)
        except TimeoutError:
            raise watched.trouble or DatabaseError(
                "picture-late", "the database gave no picture of the floor in time", "try again"
            ) from None
        return watched

    async def _tenant(self, name: str) -> Tenant:
        def work() -> Sequence[Tenant]:
            with self._store.transaction(write=False) as tx:
                return tx.tenants()

        tenants = {tenant.name: tenant for tenant in await self._run(work)}
        if name not in tenants:
            raise NotFound("tenant", name, tuple(tenants)[:2])
        return tenants[name]

    def _begin(self, tenant: Tenant) -> Watched:
        self.engine.on_commit = self._on_commit  # before the first reading begins
        watched = self._watched[tenant.name] = Watched(self, tenant)
        task = self._loop.create_task(watched.run(), name=f"floor {tenant.name}")
        self._tasks[tenant.name] = task
        task.add_done_callback(lambda done: self._ended(tenant.name, done))
        log.info("somebody looks at the floor of tenant %s", tenant.name)
        return watched

    def _ended(self, tenant_name: str, task: asyncio.Task[None]) -> None:
        watched = self._watched.pop(tenant_name)
        watched.close()
        del self._tasks[tenant_name]
        if not task.cancelled() and task.exception() is not None:
            log.error("the floor of tenant %s failed", tenant_name, exc_info=task.exception())
        if not self._watched:
            self.engine.on_commit = None
            self._committed.clear()

    async def close(self) -> None:
        """Show nothing any more."""
        self.engine.on_commit = None
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    # --- from the engine ----------------------------------------------------------------------------------------------

    def _on_commit(self, committed: Committed) -> None:
        """On the engine's thread: hand over, and wake the loop once."""
        if len(self._committed) >= HANDED_OVER:
            self._overflowed = True
            return
        self._committed.append(committed)
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:  # the loop is closed
                self._committed.clear()

    def _take(self) -> None:
        self._waking = False  # before emptying, so that what comes meanwhile wakes us again
        committed = []
        while self._committed:
            committed.append(self._committed.popleft())
        for watched in self._watched.values():
            watched.take(committed)
            if self._overflowed:
                watched.lost()
        self._overflowed = False

    # --- from the database --------------------------------------------------------------------------------------------

    def read(self, wanted: Wanted) -> asyncio.Future[Reading]:
        """A reading on the thread for it. Raises DatabaseError in the future."""

        def work() -> Reading:
            began_s = time.monotonic()
            try:
                with self._store.transaction(write=False) as tx:
                    tx.estate_version()
                    self._latency_ms = round((time.monotonic() - began_s) * 1_000, 2)
                    reading = read(tx, wanted)
            except CapConduitError:
                self._database_up = False
                raise
            self._database_up = True
            self.took_s = time.monotonic() - began_s
            return reading

        return asyncio.ensure_future(self._run(work))

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="floor")
        return await self._loop.run_in_executor(self._thread, work)

    # --- health -------------------------------------------------------------------------------------------------------

    def health(self, calls: int, nodes: Sequence[Node]) -> dict[str, Any]:
        """HEALTH."""
        told = self._told()
        decisions = self._pulse.decisions()
        decisions |= {"timeouts": told["timeouts"], "failures": told["failures"]}
        return {
            "at": format_instant(self.now_ms()),
            "ready": told["ready"],
            "reasons": told["reasons"],
            "ami": told["ami"],
            "database": {"up": told["database_up"] and self._database_up, "latency_ms": self._latency_ms},
            "decisions": decisions,
            "calls": calls,
            "journal": told["journal"],
            "cps": self._pulse.cps(),
            "viewers": self.viewers,
            "nodes": [{"name": n.name, "state": n.state, "seen": format_instant(n.seen_ms)} for n in nodes],
        }
