"""Database work that is not on the way of a call, on one thread of its own: heartbeats, and which calls live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from capconduit.domain.model import Call, Node
from capconduit.store.store import Store, Transaction

Answer = TypeVar("Answer")


class Housekeeping:
    """Runs small transactions off the loop. Raises DatabaseError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="housekeeping")

    async def node_calls(self, node: str) -> Sequence[Call]:
        """The live calls of a node."""
        return await self._run(lambda: self._read(lambda tx: tx.node_calls(node)))

    async def call_node(self, call_id: str) -> str | None:
        """The node of a call, alive or settled; None where nobody knows it."""
        return await self._run(lambda: self._read(lambda tx: tx.call_node(call_id)))

    async def hold_ends(self, node: str) -> Mapping[str, int]:
        """Until when the holds of a node's live calls pay for them, by call id (UTC ms)."""
        return await self._run(lambda: self._read(lambda tx: tx.hold_ends(node)))

    async def heartbeat(self, node: Node) -> None:
        """Write the node's row."""
        await self._run(lambda: self._store.run(lambda tx: tx.put_node(node)))

    async def nodes(self) -> Sequence[Node]:
        """All daemons as they last wrote of themselves."""
        return await self._run(lambda: self._read(lambda tx: tx.nodes()))

    def close(self) -> None:
        """Take no more work; what waits is dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _read(self, work: Callable[[Transaction], Answer]) -> Answer:
        with self._store.transaction(write=False) as tx:
            return work(tx)

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
