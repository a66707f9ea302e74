"""Database work that is not on the way of a call, on one thread of its own: heartbeats, and which calls live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from capconduit.domain.model import Call, Node
from capconduit.store.store import Store

Answer = TypeVar("Answer")


class Housekeeping:
    """Runs small transactions off the loop. Raises DatabaseError."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="housekeeping")

    async def node_calls(self, node: str) -> Sequence[Call]:
        """The live calls of a node."""
        return await self._run(lambda: self._read_calls(node))

    async def heartbeat(self, node: Node) -> None:
        """Write the node's row."""
        await self._run(lambda: self._store.run(lambda tx: tx.put_node(node)))

    async def known_node(self, name: str) -> Node | None:
        """The node's row as it was last written."""
        return await self._run(lambda: self._read_node(name))

    def close(self) -> None:
        """Wait for what runs."""
        self._thread.shutdown(wait=True)

    def _read_calls(self, node: str) -> Sequence[Call]:
        with self._store.transaction(write=False) as tx:
            return tx.node_calls(node)

    def _read_node(self, name: str) -> Node | None:
        with self._store.transaction(write=False) as tx:
            return next((n for n in tx.nodes() if n.name == name), None)

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
