"""Database work that is not on the way of a call, on threads of its own: heartbeats, which calls live, growth, sums.

Failure policy: growth fails open. What could not be made or taken away today is tried again; no call waits for it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from capconduit.clock import Clock
from capconduit.domain.model import Call, Event, Node
from capconduit.errors import CapConduitError
from capconduit.services.growth import REST_S, prune
from capconduit.services.nodes import keep_node
from capconduit.services.retention import Archive
from capconduit.services.rollups import roll_up_all
from capconduit.store.store import Store, Transaction

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

GROWTH_FIRST_S: Final = 60.0  # after the start, when there is other work to do
GROWTH_EVERY_S: Final = 86_400.0
GROWTH_RETRY_S: Final = 600.0
SUMS_FIRST_S: Final = 30.0
SUMS_EVERY_S: Final = 300.0
SUMS_BACK_MS: Final = 3 * 86_400_000
SUMS_WHOLE_EVERY: Final = 288  # times: once a day, for calls that were settled very late


class Housekeeping:
    """Runs small transactions off the loop. `archive`: where what is pruned is written before it goes. Raises
    DatabaseError."""

    def __init__(self, store: Store, archive: Archive | None = None) -> None:
        self._store = store
        self._archive = archive
        self._told = ""  # the node's state that was told last
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="housekeeping")
        self._aside = ThreadPoolExecutor(max_workers=1, thread_name_prefix="growth")  # heartbeats do not wait for it

    async def node_calls(self, node: str) -> Sequence[Call]:
        """The live calls of a node."""
        return await self._run(lambda: self._read(lambda tx: tx.node_calls(node)))

    async def all_calls(self) -> Sequence[Call]:
        """The live calls of all nodes that were ever seen."""

        def work(tx: Transaction) -> list[Call]:
            return [call for node in tx.nodes() for call in tx.node_calls(node.name)]

        return await self._run(lambda: self._read(work))

    async def tell(self, make: Callable[[str], Event], tenant_id: str = "") -> None:
        """Write the event that `make` makes for a tenant; where that is "", for the one the installation began with."""

        def work(tx: Transaction) -> None:
            tx.insert(make(tenant_id or min(tx.tenants(), key=lambda tenant: tenant.created_ms).id))

        await self._run(lambda: self._store.run(work))

    async def call_node(self, call_id: str) -> str | None:
        """The node of a call, alive or settled; None where nobody knows it."""
        return await self._run(lambda: self._read(lambda tx: tx.call_node(call_id)))

    async def hold_ends(self, node: str) -> Mapping[str, int]:
        """Until when the holds of a node's live calls pay for them, by call id (UTC ms)."""
        return await self._run(lambda: self._read(lambda tx: tx.hold_ends(node)))

    async def heartbeat(self, node: Node, new_id: Callable[[], str]) -> Sequence[Node]:
        """Write the node's row, and tell of its first and its last one; the rows of all daemons as they were before."""
        tell = node.state != self._told
        before = await self._run(lambda: self._store.run(lambda tx: keep_node(tx, node, new_id, tell=tell)))
        self._told = node.state
        return before

    async def nodes(self) -> Sequence[Node]:
        """All daemons as they last wrote of themselves."""
        return await self._run(lambda: self._read(lambda tx: tx.nodes()))

    async def grow(self, clock: Clock) -> Mapping[str, int | None]:
        """Make the months to come and take away what is over, in small transactions with rests between them; the rows
        that went by table, or None for a month that went as a whole."""
        loop = asyncio.get_running_loop()
        made = await loop.run_in_executor(self._aside, lambda: self._store.ensure_partitions(clock.now_ms()))
        gone: dict[str, int | None] = {}
        steps = prune(self._store, clock, exact=False, archive=self._archive)
        while (step := await loop.run_in_executor(self._aside, lambda: next(steps, None))) is not None:
            if step.file is not None:
                log.info("growth: archived %d rows in %s", step.file.rows, step.file.file)
            if step.rows != 0:
                gone[step.table] = None if step.rows is None else (gone.get(step.table) or 0) + step.rows
            await asyncio.sleep(REST_S)
        if made or gone:
            log.info("growth: made %s, took away %s", ", ".join(made) or "nothing", gone or "nothing")
        return gone

    async def sum_calls(self, clock: Clock, *, whole: bool) -> int:
        """Sum the settled calls that are not summed yet, in small transactions with rests between them; how many.

        Of the last days alone, or of all time (`whole`), which looks at an index of all records.
        """
        loop, calls, now_ms = asyncio.get_running_loop(), 0, clock.now_ms()
        steps = roll_up_all(self._store, now_ms, 0 if whole else now_ms - SUMS_BACK_MS)
        while (step := await loop.run_in_executor(self._aside, lambda: next(steps, None))) is not None:
            calls += step
            await asyncio.sleep(REST_S)
        return calls

    def close(self) -> None:
        """Take no more work; what waits is dropped. A step of growth is waited for: it is short, and uses a connection
        that is closed next."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._aside.shutdown(wait=True, cancel_futures=True)

    def _read(self, work: Callable[[Transaction], Answer]) -> Answer:
        with self._store.transaction(write=False) as tx:
            return work(tx)

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def look_after_growth(housekeeping: Housekeeping, clock: Clock) -> None:
    """Once a day, and again soon where it failed, until cancelled. A bug in it is logged and stops no call."""
    wait_s = GROWTH_FIRST_S
    while True:
        await asyncio.sleep(wait_s)
        wait_s = GROWTH_RETRY_S
        try:
            await housekeeping.grow(clock)
            wait_s = GROWTH_EVERY_S
        except CapConduitError as error:
            log.warning("growth: %s", error)
        except Exception:
            log.exception("growth failed")


async def look_after_sums(housekeeping: Housekeeping, clock: Clock) -> None:
    """Every few minutes, until cancelled, so that reports find the sums of calls made. Fails open: reports sum the
    records themselves where they must."""
    wait_s = SUMS_FIRST_S
    for number in itertools.count():
        await asyncio.sleep(wait_s)
        wait_s = SUMS_EVERY_S
        try:
            await housekeeping.sum_calls(clock, whole=number % SUMS_WHOLE_EVERY == 0)
        except CapConduitError as error:
            log.warning("summing calls: %s", error)
        except Exception:
            log.exception("summing calls failed")
