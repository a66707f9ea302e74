"""Books that show a decision only what was locked for it: what it needs and did not ask for is found by every test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from capconduit.domain.books import Books, CallerKey, CallKey, Changes, CounterKey
from capconduit.domain.model import Counter, RecentCaller, TargetState
from capconduit.domain.needs import Needs


class LockedBooks(Books):
    """Books that were loaded for some needs: what was not locked can neither be read nor changed.

    (The store would take a row that is not there for an empty one, and its changes would be lost.)
    """

    def __init__(self, whole: Books, keys: Iterable[CallKey], callers: Iterable[CallerKey], needs: Needs) -> None:
        super().__init__()
        self.needs = needs
        for key in keys:
            if (call := whole.call_of(key)) is not None:
                self.calls[call.id], self.call_ids[key] = call, call.id
                self.attempts[call.id] = dict(whole.attempts[call.id])
                self.places[call.id] = dict(whole.places.get(call.id, {}))
                self.holds[call.id] = whole.holds[call.id]
        self.settled = {k: whole.settled[k] for k in keys if k in whole.settled}
        self.buried = {k for k in keys if k in whole.buried}
        self.locked_callers = set(callers)
        self.callers = {k: whole.callers[k] for k in callers if k in whole.callers}

    def lock(self, whole: Books) -> None:
        """Load what is needed."""
        needs = self.needs
        self.accounts = {i: whole.accounts[i] for i in needs.sellers}
        self.targets = {i: whole.targets[i] for i in needs.targets if i in whole.targets}
        self.rules = {i: whole.rules[i] for i in needs.rules if i in whole.rules}
        self.counters = {k: replace(whole.counter(tenant, k)) for k, tenant in needs.counters.items()}
        for cap_id, after_ms, until_ms in needs.buckets():
            starts = {s for c, s in whole.counters if c == cap_id and after_ms < s <= until_ms}
            self.buckets.setdefault(cap_id, set()).update(starts)
            for start in starts:
                self.counters.setdefault((cap_id, start), replace(whole.counters[(cap_id, start)]))

    def counter(self, tenant_id: str, key: CounterKey) -> Counter:
        assert key in self.counters, f"counter {key} was not locked"
        return super().counter(tenant_id, key)

    def looking_back(self, cap_id: str, after_ms: int, until_ms: int) -> tuple[int, int]:
        self._sees(cap_id, after_ms, until_ms)
        return super().looking_back(cap_id, after_ms, until_ms)

    def buckets_between(self, cap_id: str, after_ms: int, until_ms: int) -> list[tuple[int, int]]:
        self._sees(cap_id, after_ms, until_ms)
        return super().buckets_between(cap_id, after_ms, until_ms)

    def _sees(self, cap_id: str, after_ms: int, until_ms: int) -> None:
        loaded = [(low, high) for known, low, high in self.needs.buckets() if known == cap_id]
        whole = any(low <= after_ms and until_ms <= high for low, high in loaded)
        assert whole, f"{cap_id}: ({after_ms}, {until_ms}] is not all loaded"
        assert (cap_id, 0) in self.needs.counters, f"{cap_id} is not locked as a whole"

    def recent_caller(self, key: CallerKey) -> RecentCaller | None:
        assert key in self.locked_callers, f"caller {key} was not locked"
        return super().recent_caller(key)

    def apply(self, changes: Changes) -> None:
        assert {t.target_id for t in changes.targets} <= self.needs.targets
        assert {r.rule_id for r in changes.rules} <= self.needs.rules
        assert {(c.campaign_id, c.caller) for c in changes.callers} <= self.locked_callers
        super().apply(changes)

    def target(self, tenant_id: str, target_id: str) -> TargetState:
        assert target_id in self.needs.targets, f"target {target_id} was not locked"
        return super().target(tenant_id, target_id)

    def _count(self, tenant_id: str, key: CounterKey, used: int, in_flight: int) -> None:
        assert key in self.needs.counters, f"counter {key} was not locked"
        super()._count(tenant_id, key, used, in_flight)
