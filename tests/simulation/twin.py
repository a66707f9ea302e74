"""A real database beside the store in memory: every read is compared, every write is done to both, or to neither.

So a seed on SQLite or PostgreSQL is checked twice: by the promises, and statement by statement by another program that
does the same. The invariants look at the tables in memory, which `same` compares with the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from capconduit.domain.books import Books, CallerKey, CallKey, CounterKey
from capconduit.domain.estate import Estate
from capconduit.domain.model import Cap, Counter, Node
from capconduit.domain.needs import Foreseen, Needs
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import SqlStore
from capconduit.store.sqltransaction import SqlTransaction
from capconduit.store.store import Transaction
from tests.simulation.memory import KINDS, MemoryStore, MemoryTransaction, key_of


class Differs(AssertionError):
    """The two stores are not of one mind."""


def agree(what: str, real: Any, memory: Any) -> Any:
    """The real answer, if both are the same."""
    if real != memory:
        raise Differs(f"{what}: the database says {real!r}, memory {memory!r}")
    return real


def _sorted(rows: Iterable[Any]) -> list[Any]:
    return sorted(rows, key=repr)


class TwinTransaction(Transaction):
    """Reads from both, writes to both."""

    def __init__(self, real: SqlTransaction, memory: MemoryTransaction) -> None:
        self._real = real
        self._memory = memory

    # --- configuration and records ------------------------------------------------------------------------------------

    def find(self, kind: type[Any], tenant_id: str, **where: Any) -> Any:
        real, memory = self._real.find(kind, tenant_id, **where), self._memory.find(kind, tenant_id, **where)
        return agree(f"find {kind.__name__} {where}", real, memory)

    def rows(self, kind: type[Any], tenant_id: str, **how: Any) -> Sequence[Any]:
        real, memory = self._real.rows(kind, tenant_id, **how), self._memory.rows(kind, tenant_id, **how)
        agree(f"rows of {kind.__name__}", _sorted(real), _sorted(memory))
        return memory  # in the order of the keys' bytes, whatever the database's collation

    def insert(self, row: object) -> None:
        self._real.insert(row)
        self._memory.insert(row)

    def update(self, row: object) -> None:
        self._real.update(row)
        self._memory.update(row)

    def delete(self, row: object) -> None:
        self._real.delete(row)
        self._memory.delete(row)

    def tenants(self) -> Sequence[Any]:
        return list(agree("tenants", list(self._real.tenants()), list(self._memory.tenants())))

    def nodes(self) -> Sequence[Node]:
        return list(agree("nodes", list(self._real.nodes()), list(self._memory.nodes())))

    def put_node(self, node: Node) -> None:
        self._real.put_node(node)
        self._memory.put_node(node)

    # --- the estate ---------------------------------------------------------------------------------------------------

    def estate_version(self, *, for_change: bool = False) -> int:
        memory = self._memory.estate_version(for_change=for_change)
        return int(agree("version", self._real.estate_version(for_change=for_change), memory))

    def load_estate(self, known: Estate | None = None) -> Estate:
        real, memory = self._real.load_estate(known), self._memory.load_estate()
        for field in fields(real.rows):
            ours, theirs = getattr(real.rows, field.name), getattr(memory.rows, field.name)
            agree(f"estate: {field.name}", _sorted(ours), _sorted(theirs))
        return real

    def bump_estate(self) -> int:
        return int(agree("version", self._real.bump_estate(), self._memory.bump_estate()))

    def finish(self) -> None:
        """See SqlTransaction.finish; the store's own `transaction` calls it for the real one."""
        self._memory.finish()

    # --- the way of a call --------------------------------------------------------------------------------------------

    def begin_decisions(
        self,
        keys: Iterable[CallKey],
        books: Books,
        now_ms: int | None = None,
        *,
        live: bool = False,
        foreseen: Foreseen | None = None,
    ) -> int:
        wanted, other = list(keys), Books()
        real = self._real.begin_decisions(wanted, books, now_ms, live=live, foreseen=foreseen)
        memory = self._memory.begin_decisions(wanted, other, now_ms, live=live, foreseen=foreseen)
        self._same_books("begin_decisions", books, other)
        return int(agree("version", real, memory))

    def lock_calls(self, keys: Iterable[CallKey], books: Books, now_ms: int | None = None) -> None:
        wanted, other = list(keys), Books()
        self._real.lock_calls(wanted, books, now_ms)
        self._memory.lock_calls(wanted, other, now_ms)
        self._same_books("lock_calls", books, other)

    def lock_callers(self, keys: Iterable[CallerKey], books: Books) -> None:
        wanted, other = list(keys), Books()
        self._real.lock_callers(wanted, books)
        self._memory.lock_callers(wanted, other)
        agree("callers", books.callers, other.callers)

    def lock_needs(self, needs: Needs, books: Books) -> None:
        other = Books(
            accounts=dict(books.accounts), targets=dict(books.targets), rules=dict(books.rules),
            counters=dict(books.counters), buckets={cap: set(starts) for cap, starts in books.buckets.items()},
        )  # fmt: skip
        self._real.lock_needs(needs, books)
        self._memory.lock_needs(needs, other)
        for name in ("accounts", "targets", "rules", "counters", "buckets"):
            agree(f"lock_needs: {name}", getattr(books, name), getattr(other, name))

    def lock_accounts(self, seller_ids: Iterable[str], books: Books) -> None:
        self.lock_needs(Needs(sellers=set(seller_ids)), books)

    def lock_counters(self, keys: Mapping[CounterKey, str], books: Books) -> None:
        self.lock_needs(Needs(counters=dict(keys)), books)

    def _same_books(self, what: str, books: Books, other: Books) -> None:
        for name in ("calls", "call_ids", "attempts", "places", "holds", "settled", "buried", "callers"):
            agree(f"{what}: {name}", getattr(books, name), getattr(other, name))

    def send(self, books: Books) -> None:
        """All is left to `write`, where both see it."""

    def write(self, books: Books) -> None:
        self._memory.write(books)  # first: the real one takes what is new out of the books
        self._real.write(books)

    def live_call_keys(self, tenant_id: str, **where: Any) -> Sequence[CallKey]:
        real, memory = self._real.live_call_keys(tenant_id, **where), self._memory.live_call_keys(tenant_id, **where)
        agree("live_call_keys", _sorted(real), _sorted(memory))
        return memory

    def node_calls(self, node: str) -> Sequence[Any]:
        return list(agree("node_calls", list(self._real.node_calls(node)), list(self._memory.node_calls(node))))

    def call_node(self, call_id: str) -> str | None:
        node: str | None = agree("call_node", self._real.call_node(call_id), self._memory.call_node(call_id))
        return node

    def hold_ends(self, node: str) -> Mapping[str, int]:
        return dict(agree("hold_ends", dict(self._real.hold_ends(node)), dict(self._memory.hold_ends(node))))

    # --- recounting ---------------------------------------------------------------------------------------------------

    def recount_cap(self, cap: Cap, start_ms: int, end_ms: int, width_ms: int = 0) -> Mapping[int, int]:
        real = dict(self._real.recount_cap(cap, start_ms, end_ms, width_ms))
        return dict(agree(f"recount of {cap}", real, dict(self._memory.recount_cap(cap, start_ms, end_ms, width_ms))))

    def place_sums(self, tenant_id: str) -> Mapping[CounterKey, tuple[int, int]]:
        real, memory = self._real.place_sums(tenant_id), self._memory.place_sums(tenant_id)
        return dict(agree("place_sums", dict(real), dict(memory)))

    def ledger_sums(self, tenant_id: str) -> Mapping[str, int]:
        return dict(agree("ledger_sums", dict(self._real.ledger_sums(tenant_id)), self._memory.ledger_sums(tenant_id)))

    def find_outdated(self, *_: Any) -> Any:
        """Nothing is pruned in these worlds."""
        raise NotImplementedError

    drop_outdated = count_outdated = find_outdated  # type: ignore[assignment]

    def hold_sums(self, tenant_id: str) -> Mapping[str, int]:
        return dict(agree("hold_sums", dict(self._real.hold_sums(tenant_id)), self._memory.hold_sums(tenant_id)))


class TwinStore(MemoryStore):
    """A MemoryStore whose every transaction is one of a real database, too."""

    def __init__(self, real: SqlStore, now_ms: int) -> None:
        super().__init__()
        self.real = real
        self.engine = real.engine
        real.upgrade(now_ms)

    @contextmanager
    def transaction(self, *, write: bool, hurry: bool = False) -> Iterator[Any]:
        """See store.Store."""
        self.tables.begin()
        try:
            with self.real.transaction(write=write, hurry=hurry) as real:
                memory = MemoryTransaction(self.tables, write=write, on_statement=lambda: self.on_statement())
                both = TwinTransaction(real, memory)
                yield both
                both.finish()
        except BaseException:
            self.tables.roll_back()
            raise
        self.committed(self.tables.commit())

    def same(self) -> None:
        """Compare every row of every table. Raises Differs."""
        with self.real.transaction(write=False) as tx:
            for kind in KINDS:
                m = mapping(kind)
                real = {key_of(kind)(row): row for row in map(m.load, tx.query(m.select))}
                memory = self.tables.rows[kind]
                if real == memory:
                    continue
                for key in sorted(real.keys() | memory.keys(), key=repr):
                    agree(f"{kind.__name__} {key}", real.get(key), memory.get(key))

    def close(self) -> None:
        self.real.close()


__all__ = ["Counter", "Differs", "TwinStore"]
