"""A store with a tenant, events in it, and workers that give them out on threads of their own."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from capconduit.clock import SystemClock
from capconduit.domain.deliveries import Delivery
from capconduit.domain.events import event
from capconduit.domain.model import Event
from capconduit.domain.outgoing import Patience
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.webhooks import add_webhook
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import EventKind
from fastagi.outwards import Outwards, Place

SECRET = "not-so-secret"
ENV = {"HOOK_SECRET": SECRET, "PATH": "/usr/bin:/bin"}
QUICK = Patience(first_ms=20, most_ms=200, tries=50, give_up_ms=3_600_000)
LIFE = (
    EventKind.CALL_STARTED, EventKind.ATTEMPT_FAILED, EventKind.CALL_ANSWERED, EventKind.HOLD_EXTENDED,
    EventKind.CALL_ENDED,
)  # fmt: skip
JOIN_S = 60


class OutwardRig:
    """An installation with one tenant, without calls."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.clock = SystemClock()
        prepare_database(store, self.clock)
        self.office = Office(store, self.clock, actor="rig")
        with store.transaction(write=False) as tx:
            self.tenant_id = tx.tenants()[0].id

    def hook(self, url: str, name: str = "hook", kinds: Sequence[str] = ("*",), **more: Any) -> str:
        """A webhook; its id."""
        return add_webhook(self.office, name, url=url, kinds=kinds, secrets=["env:HOOK_SECRET"], **more).webhook.id

    def happen(self, kind: EventKind, subject: str, **data: Any) -> Event:
        """An event, written as the services write them."""
        told = event(self.clock.new_id, self.tenant_id, self.clock.now_ms(), kind, subject, **data)
        self.store.run(lambda tx: tx.insert(told))
        return told

    def calls(self, count: int, seed: int = 0, at_once: int = 500) -> dict[str, list[str]]:
        """The events of so many calls, mixed, those of each call in their order; ids by call."""
        chance = random.Random(seed)
        left = {f"call{number:05}": list(LIFE) for number in range(count)}
        order = [call for call in left for _ in LIFE]
        chance.shuffle(order)
        told: dict[str, list[str]] = {call: [] for call in left}
        for first in range(0, len(order), at_once):
            rows = []
            for call in order[first : first + at_once]:
                kind = left[call].pop(0)
                rows.append(
                    event(self.clock.new_id, self.tenant_id, self.clock.now_ms(), kind, call, seen=len(told[call]))
                )
                told[call].append(rows[-1].id)
            self.write(rows)
        return told

    def write(self, rows: Sequence[Event]) -> None:
        """In one transaction."""
        self.store.run(lambda tx: tx.insert_all(rows))

    def deliveries(self, **where: Any) -> Sequence[Delivery]:
        with self.store.transaction(write=False) as tx:
            return tx.rows(Delivery, self.tenant_id, **where)

    def left(self) -> tuple[int, int]:
        """What is in the outbox, and what waits in lanes."""
        with self.store.transaction(write=False) as tx:
            outbox = tx.query("SELECT count(*) FROM outbox")[0][0]
            return outbox, tx.query("SELECT count(*) FROM delivery WHERE state = 'waiting'")[0][0]

    def worker(self, node: str = "n1", store: SqlStore | None = None, **more: Any) -> Outwards:
        chance = random.Random(node)
        place = more.pop("place", None) or Place(node, self.clock.new_id())
        more.setdefault("patience", QUICK)
        more.setdefault("trouble", QUICK)
        more.setdefault("pace", 0)
        return Outwards(
            store or self.store, self.clock, place, luck=lambda: chance.getrandbits(32), env=ENV, watch_s=0.05, **more
        )


@contextmanager
def working(*workers: Outwards) -> Iterator[None]:
    """Workers at work on threads of their own, and stopped at the end."""
    threads = [threading.Thread(target=worker.work) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()
        for thread in threads:
            thread.join(JOIN_S)
        assert not any(thread.is_alive() for thread in threads)
