"""Database work of the control socket, on a thread of its own: finding calls, reading the estate anew, the audit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from capconduit.clock import Clock
from capconduit.domain.estate import Estate
from capconduit.domain.events import event
from capconduit.domain.jsontext import compact
from capconduit.domain.model import Audit, Call
from capconduit.store.store import Store, Transaction
from capconduit.vocab import EventKind

Answer = TypeVar("Answer")


class ControlDesk:
    """Small transactions off the loop; the thread begins with the first. Raises DatabaseError."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._thread: ThreadPoolExecutor | None = None

    async def live_call(self, call_id: str) -> Call | None:
        """A live call of any node and tenant."""
        return await self._read(lambda tx: tx.floor().call(call_id))

    async def call_node(self, call_id: str) -> str | None:
        """The node of a call, alive or settled; None where nobody knows it."""
        return await self._read(lambda tx: tx.call_node(call_id))

    async def load_estate(self) -> Estate:
        """The whole estate, read anew."""
        return await self._read(lambda tx: tx.load_estate())

    async def acted(
        self,
        actor: str,
        action: str,
        subject: str,
        after: Mapping[str, Any],
        *,
        tenant_id: str = "",
        told: tuple[EventKind, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write to the audit what somebody did, and an event of it where there is one.

        Without a tenant: for the one the installation began with.
        """
        now_ms, new_id = self._clock.now_ms(), self._clock.new_id

        def work(tx: Transaction) -> None:
            owner = tenant_id or min(tx.tenants(), key=lambda tenant: (tenant.created_ms, tenant.id)).id
            entry = Audit(
                id=new_id(), tenant_id=owner, at_ms=now_ms, actor=actor, action=action, subject=subject,
                before="", after=compact(after),
            )  # fmt: skip
            tx.insert(entry)
            if told is not None:
                tx.insert(event(new_id, owner, now_ms, told[0], subject, **told[1]))

        await self._run(lambda: self._store.run(work))

    def close(self) -> None:
        """Take no more work."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _read(self, work: Callable[[Transaction], Answer]) -> Answer:
        def whole() -> Answer:
            with self._store.transaction(write=False) as tx:
                return work(tx)

        return await self._run(whole)

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="control")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
