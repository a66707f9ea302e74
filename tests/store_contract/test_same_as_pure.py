"""The engine over a database answers and counts exactly as the pure domain over books in memory, whatever is asked.

The walk of tests/property/test_every_decision.py, told to both: the same commands in the same batches, the same clock
and the same ids.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.model import Account, Attempt, Call, Cap, Counter, Event, Hold, RuleState, TargetState
from capconduit.domain.needs import Command
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CapMetric
from tests.property.test_every_decision import Walk
from tests.unit.estate_builder import TENANT, Till

STEPS = 60


class Twin(Walk):
    """A walk whose every batch a database takes, too."""

    def __init__(self, seed: int, store: SqlStore) -> None:
        super().__init__(seed)
        self.twin = Till(store, self.till.builder, seed)
        self.rows = self._rows()

    def say(self, commands: list[Command]) -> None:
        self.twin.clock.wall_ms = self.till.clock.wall_ms
        before = len(self.till.answers)
        super().say(commands)
        told = self.twin.batch(commands)
        assert told == self.till.answers[before:]

    def _rows(self) -> dict[str, Any]:
        """Everything of the estate that a walk's operators change."""
        b = self.till.builder
        return {
            f"{type(r).__name__} {getattr(r, 'id', '') or r.name}": r
            for r in (*b.caps, *b.rates, *b.targets, *b.settings)
        }

    def _operate(self) -> None:
        super()._operate()
        now = self._rows()
        with self.twin.store.transaction(write=True) as tx:
            tx.estate_version(for_change=True)
            for name, row in self.rows.items():
                if name not in now:
                    tx.delete(row)
                    for counter in tx.rows(Counter, TENANT, cap_id=row.id) if row.metric is CapMetric.CPS else ():
                        tx.delete(counter)
                elif now[name] != row:
                    tx.update(now[name])
            tx.bump_estate()
        self.rows = now

    def compare(self) -> None:
        """What the database holds is what the books say."""
        books, twin = self.till.books, self.twin
        assert {a.seller_id: a for a in twin.rows(Account)} == books.accounts
        assert {c.id: c for c in twin.rows(Call)} == books.calls
        assert {(a.call_id, a.number): a for a in twin.rows(Attempt)} == {
            (call_id, n): a for call_id, own in books.attempts.items() for n, a in own.items()
        }
        assert {h.call_id: h for h in twin.rows(Hold)} == books.holds
        stands = {(c.cap_id, c.window_start_ms): (c.used, c.in_flight) for c in twin.rows(Counter)}
        counted = {key: (c.used, c.in_flight) for key, c in books.counters.items()}
        assert {k: v for k, v in stands.items() if v != (0, 0)} == {k: v for k, v in counted.items() if v != (0, 0)}
        assert {t.target_id: t for t in twin.rows(TargetState) if moved(t)} == {
            i: t for i, t in books.targets.items() if moved(t)
        }
        cursors = {r.rule_id: r.cursor for r in twin.rows(RuleState) if r.cursor}
        assert cursors == {i: r.cursor for i, r in books.rules.items() if r.cursor}
        told = sorted((e.kind, e.subject, json.dumps(json.loads(e.data))) for e in twin.rows(Event))
        assert told == sorted((e.kind, e.subject, json.dumps(json.loads(e.data))) for e in self.till.events)
        assert {c.id for c in twin.rows(Cap)} == {c.id for c in self.till.builder.caps}


def moved(state: TargetState) -> bool:
    return replace(state, target_id="", tenant_id="") != replace(
        state, target_id="", tenant_id="", active=0, failures=0, rested_until_ms=0, probe_until_ms=0, idle_since_ms=0
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_database_answers_and_counts_as_the_books_in_memory_do(store: SqlStore, seed: int) -> None:
    twin = Twin(seed, store)
    for step in range(STEPS):
        twin.step()
        twin.check()
        if step % 10 == 9:
            twin.compare()
            twin.twin.verify()
    twin.rest()
    twin.compare()
    twin.twin.verify()
