"""What a decision reads, with some numbers supposed: a balance, the use of a cap, whether a target rests. Pure.

Everything that nothing is supposed of is as it is; nothing is written through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from capconduit.domain.books import CallerKey, CounterKey
from capconduit.domain.model import Account, Counter, RecentCaller, TargetState
from capconduit.domain.usage import Usage


@dataclass(frozen=True, slots=True)
class Supposed:
    """Numbers that are to stand in place of those of now.

    `balances` by seller id (micros; nothing is held of them), `used` by cap id (calls, seconds or micros, in flight or
    not), `rested_until_ms` by target id (0: it does not rest).
    """

    balances: Mapping[str, int] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    rested_until_ms: Mapping[str, int] = field(default_factory=dict)


class SupposedUsage:
    """Usage (see domain/usage.py) with what is supposed; everything else is that of `real`."""

    def __init__(self, real: Usage, supposed: Supposed) -> None:
        self._real, self._supposed = real, supposed

    def account(self, seller_id: str) -> Account:
        """See Usage."""
        account, balance = self._real.account(seller_id), self._supposed.balances.get(seller_id)
        return account if balance is None else replace(account, balance_micros=balance, held_micros=0)

    def counter(self, tenant_id: str, key: CounterKey) -> Counter:
        """See Usage."""
        counter, used = self._real.counter(tenant_id, key), self._supposed.used.get(key[0])
        return counter if used is None else replace(counter, used=used, in_flight=0)

    def looking_back(self, cap_id: str, after_ms: int, until_ms: int) -> tuple[int, int]:
        """See Usage."""
        used = self._supposed.used.get(cap_id)
        return self._real.looking_back(cap_id, after_ms, until_ms) if used is None else (used, 0)

    def buckets_between(self, cap_id: str, after_ms: int, until_ms: int) -> list[tuple[int, int]]:
        """See Usage."""
        used = self._supposed.used.get(cap_id)
        return self._real.buckets_between(cap_id, after_ms, until_ms) if used is None else [(until_ms, used)]

    def target(self, tenant_id: str, target_id: str) -> TargetState:
        """See Usage."""
        state, until_ms = self._real.target(tenant_id, target_id), self._supposed.rested_until_ms.get(target_id)
        return state if until_ms is None else replace(state, rested_until_ms=until_ms, probe_until_ms=0, failures=0)

    def cursor(self, rule_id: str) -> int:
        """See Usage."""
        return self._real.cursor(rule_id)

    def recent_caller(self, key: CallerKey) -> RecentCaller | None:
        """See Usage."""
        return self._real.recent_caller(key)
