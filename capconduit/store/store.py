"""The Store protocol: everything the services may ask of a database, in the domain's words, and the lock order.

**Lock order**, the same for everyone who writes: the estate's version (shared by decisions, exclusive for changes of
configuration) → channels by the hash of (node, uniqueid) → callers by the hash of (campaign, caller) → accounts by
seller id → states of targets and rules by id → counters by (cap id, window). Within each kind they are locked sorted.
Whoever keeps to it cannot deadlock; PostgreSQL's 40P01 and 40001 are retried all the same, a bounded number of times.
SQLite has one writer at a time (`BEGIN IMMEDIATE`), which is the same promise.

**Failure policy**: fail closed. A transaction that cannot be had or kept raises DatabaseError and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

if TYPE_CHECKING:  # quick commands start without the deciding half
    from capconduit.domain.books import Books, CallerKey, CallKey, CounterKey
    from capconduit.domain.estate import Estate
    from capconduit.domain.model import Call, Cap, Node, Tenant
    from capconduit.domain.needs import Foreseen, Needs
    from capconduit.store.floor import FloorReads
    from capconduit.store.rollups import Rollups
    from capconduit.store.sqloutward import Outward
    from capconduit.store.statements import StatementReads
    from capconduit.store.tokens import Tokens

Row = TypeVar("Row")
Answer = TypeVar("Answer")

# How far back decisions look for a channel's settled call, so that they do not search every month there is. An end that
# is told a second time later than that finds no call, charges nothing and leaves a tombstone.
LONGEST_CALL_MS: Final = 86_400_000  # an attempt begins no later than this after its call's id was made
LOOK_BACK_MS: Final = 35 * 86_400_000


@dataclass(frozen=True, slots=True)
class Outdated:
    """Rows of one kind that nobody needs any more, of a tenant (tombstones: of the installation).

    Cdr, Attempt, Hold, Place and Event by their (call's) id, below `before`; never those of a live call, and of places
    only released ones. Tombstone and RecentCaller: older than `before_ms`. Counter: of the cap `cap_id`, of windows
    that began before `before_ms`, as long as no place counts in them (`ticks`: or whatever they count); with an empty
    `cap_id` those of caps that are gone.
    """

    kind: type
    tenant_id: str = ""
    before: str = ""
    before_ms: int = 0
    cap_id: str = ""
    ticks: bool = False


class Transaction(Protocol):
    """One transaction; everything seen and done in it holds together."""

    # --- configuration and records: rows are the classes of domain/model.py -------------------------------------------

    def find(self, kind: type[Row], tenant_id: str, /, **where: Any) -> Row | None:
        """The one row of a tenant with these values, or None."""
        ...

    def rows(
        self,
        kind: type[Row],
        tenant_id: str,
        /,
        *,
        since: tuple[str, int | str] | None = None,
        until: tuple[str, int | str] | None = None,
        newest_first: str = "",
        limit: int | None = None,
        **where: Any,
    ) -> Sequence[Row]:
        """Rows of a tenant. `since`/`until` bound a column (from inclusive, to exclusive)."""
        ...

    def insert(self, row: object) -> None:
        """Add a row. Raises Refused (`exists`) where a unique key is taken."""
        ...

    def insert_all(self, rows: Sequence[object]) -> None:
        """Insert rows of one class in one go. Raises Refused as `insert`, for all of them."""
        ...

    def update(self, row: object) -> None:
        """Replace the row of the same key."""
        ...

    def update_all(self, rows: Sequence[object]) -> None:
        """Replace the rows of the same keys, of one class, in one go."""
        ...

    def delete(self, row: object) -> None:
        """Remove a row. Raises Refused (`in-use`) where something refers to it."""
        ...

    def tenants(self) -> Sequence[Tenant]:
        """All tenants of the installation, the first one first."""
        ...

    def nodes(self) -> Sequence[Node]:
        """All daemons ever seen; they belong to the installation, not to a tenant."""
        ...

    def put_node(self, node: Node) -> None:
        """Add or replace a daemon's row."""
        ...

    # --- the estate ---------------------------------------------------------------------------------------------------

    def estate_version(self, *, for_change: bool = False) -> int:
        """The configuration's version, locked: shared, or for a change exclusively."""
        ...

    def load_estate(self, known: Estate | None = None) -> Estate:
        """The whole configuration of all tenants as one snapshot; of an earlier one, only what changed is read."""
        ...

    def bump_estate(self) -> int:
        """The configuration has changed: every decision from the commit on sees it. Returns the new version."""
        ...

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
        """The estate's version, locked shared, and these channels as by lock_calls, in as few round trips as can be.

        `live`: some are expected to have calls. `foreseen`: callers and needs that are locked and loaded with them;
        what is missing of those is made by lock_needs.
        """
        ...

    def lock_calls(self, keys: Iterable[CallKey], books: Books, now_ms: int | None = None) -> None:
        """Lock these channels, known or not; load their live calls with all parts, or what is settled or buried.

        What was settled is looked for as far back as LOOK_BACK_MS before `now_ms`; without it, in everything there is.
        """
        ...

    def lock_callers(self, keys: Iterable[CallerKey], books: Books) -> None:
        """Lock these callers of campaigns, known or not, and load their last calls."""
        ...

    def lock_needs(self, needs: Needs, books: Books) -> None:
        """Lock and load accounts, states of targets and rules, and counters; counters of windows that nobody used yet,
        and states of targets that were never dialled, are made. What `books` has already is not loaded again."""
        ...

    def lock_accounts(self, seller_ids: Iterable[str], books: Books) -> None:
        """Lock and load accounts."""
        ...

    def lock_counters(self, keys: Mapping[CounterKey, str], books: Books) -> None:
        """Lock and load counters (key → tenant id); those of windows that nobody used yet are made where needed."""
        ...

    def send(self, books: Books) -> None:
        """Write what is new in `books` already, where the database works on it while the next are decided; an engine
        that gains nothing by it leaves all to `write`."""
        ...

    def write(self, books: Books) -> None:
        """Write what is dirty in `books`."""
        ...

    def live_call_keys(self, tenant_id: str, **where: Any) -> Sequence[CallKey]:
        """The channels of the live calls with these values."""
        ...

    def node_calls(self, node: str) -> Sequence[Call]:
        """The live calls of one node, of all tenants."""
        ...

    def call_node(self, call_id: str) -> str | None:
        """The node of a call, alive or settled, of any tenant; None where nobody knows the call."""
        ...

    def hold_ends(self, node: str) -> Mapping[str, int]:
        """Until when the open holds of a node's calls pay for them, by call id (UTC ms)."""
        ...

    def floor(self) -> FloorReads:
        """The reads of whoever looks at the floor."""
        ...

    def tokens(self) -> Tokens:
        """Tokens by what is brought of them, of any tenant."""
        ...

    def statements(self) -> StatementReads:
        """The sums of a seller's statement."""
        ...

    def rollups(self) -> Rollups:
        """What reports are summed from."""
        ...

    # --- recounting ---------------------------------------------------------------------------------------------------

    def recount_cap(self, cap: Cap, start_ms: int, end_ms: int, width_ms: int = 0) -> Mapping[int, int]:
        """What settled calls admitted in [start, end) have used of a cap, counted from the records in one go.

        By the start of each `width_ms` (0: all in one) that has any.
        """
        ...

    def place_sums(self, tenant_id: str) -> Mapping[CounterKey, tuple[int, int]]:
        """(counted, open) of every cap window, summed from the places."""
        ...

    def ledger_sums(self, tenant_id: str) -> Mapping[str, int]:
        """The sum of each account's ledger, by seller id."""
        ...

    def hold_sums(self, tenant_id: str) -> Mapping[str, int]:
        """The sum of each account's open holds, by seller id."""
        ...

    # --- growth -------------------------------------------------------------------------------------------------------

    def find_outdated(
        self, what: Outdated, after: Sequence[Any], limit: int
    ) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
        """Walk `limit` rows in the order of their keys, beyond the key `after` (empty: from the first): the keys of
        those that are outdated, and the key to go on after (empty: that was all)."""
        ...

    def drop_outdated(self, what: Outdated, keys: Sequence[Sequence[Any]]) -> int:
        """Delete the rows of these keys that are still outdated; how many there were.

        What places counted is folded into the base of their counters, so that what a cap has used stays as it is.
        """
        ...

    def count_outdated(self, what: Outdated) -> int:
        """How many outdated rows there are."""
        ...

    # --- outwards -----------------------------------------------------------------------------------------------------

    @property
    def outward(self) -> Outward:
        """What goes out: the outbox, deliveries, notifications."""
        ...


class Store(Protocol):
    """A database. Safe to use from several threads: each transaction has its own connection or waits for it."""

    url: str

    def transaction(self, *, write: bool, hurry: bool = False) -> AbstractContextManager[Transaction]:
        """Begin; commit at the end, roll back on any exception. Raises DatabaseError.

        `hurry`: in as few round trips as can be; what a change is refused for may be heard only at the end.
        """
        ...

    def run(self, work: Callable[[Transaction], Answer], *, hurry: bool = False) -> Answer:
        """`work` in a writing transaction, again (a bounded number of times) where the engine asks for a retry."""
        ...

    def schema_version(self) -> int:
        """The newest migration applied; 0 for an empty database."""
        ...

    def upgrade(self, now_ms: int) -> list[str]:
        """Apply the migrations that are missing, all or none; their names."""
        ...

    @property
    def monthly(self) -> bool:
        """Whether settled calls, events and the ledger are kept in one table for each month."""
        ...

    def ensure_partitions(self, now_ms: int) -> list[str]:
        """Make the tables of this month and the next two that are missing; their names. Nothing where not `monthly`.

        Rows that waited for them in the default partition are moved. Raises DatabaseError where that cannot be done
        now; nothing else fails for it, and it is to be tried again.
        """
        ...

    def drop_months(self, kind: type, before_ms: int) -> list[str]:
        """Drop the tables of the months of Cdr or Event that were over at `before_ms`; their names.

        Raises DatabaseError where that cannot be done now.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
