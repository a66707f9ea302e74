"""Which rows nobody needs any more, as SQL, and taking them away without changing what caps have used.

Reading and deleting are apart: keys are found in a transaction that only reads and so makes nobody wait; the short one
that writes deletes those of them that are still outdated. Two that prune at once take each row once.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from capconduit.domain.books import CounterKey
from capconduit.domain.model import Attempt, Cdr, Counter, Event, Hold, Place, RecentCaller, Tombstone
from capconduit.store.dialect import Dialect
from capconduit.store.rows import mapping
from capconduit.store.store import Outdated

# By what rows are walked: an id, of which there may be several rows, or a key of two columns.
_WALKED: Final[dict[type, tuple[str, ...]]] = {
    Cdr: ("call_id",),
    Attempt: ("call_id",),
    Hold: ("call_id",),
    Place: ("call_id",),
    Event: ("id",),
    Tombstone: ("node", "uniqueid"),
    RecentCaller: ("campaign_id", "caller"),
    Counter: ("cap_id", "window_start_ms"),
}
_OF_A_CALL: Final = (Attempt, Hold, Place)
# Written so that no index leads to it: ids lead to the rows, and all rows of a tenant would be a detour.
_OF_TENANT: Final = "tenant_id || '' = :tenant_id"


@dataclass(frozen=True, slots=True)
class _Where:
    """Which rows are walked, in the order of their key, and which of those are outdated."""

    walked: str
    outdated: str
    values: dict[str, Any]

    @property
    def both(self) -> str:
        return f"{self.walked} AND {self.outdated}"


def find(db: Dialect, what: Outdated, after: Sequence[Any], limit: int) -> tuple[list[Sequence[Any]], Sequence[Any]]:
    """See store.Transaction.find_outdated. As many rows are read as are walked, whatever the engine thinks of them."""
    where, key = _where(what), _WALKED[what.kind]
    columns, values = ", ".join(key), {**where.values, "row_limit": limit}
    walked = where.walked
    if after:
        condition, key_values = beyond(key, after)
        walked, values = f"{walked} AND {condition}", {**values, **key_values}
    sql = f"SELECT {columns}, {where.outdated} FROM {mapping(what.kind).table} WHERE {walked}"  # noqa: S608
    rows = db.query(f"{sql} ORDER BY {columns} LIMIT :row_limit", values)
    keys = dict.fromkeys(tuple(row[:-1]) for row in rows if row[-1])
    return list(keys), tuple(rows[-1][:-1]) if len(rows) == limit else ()


def drop(db: Dialect, what: Outdated, keys: Sequence[Sequence[Any]]) -> int:
    """See store.Transaction.drop_outdated."""
    if not keys:
        return 0
    where, key = _where(what), _WALKED[what.kind]
    if len(key) == 1:
        ids = sorted(k[0] for k in keys)
        # The range leads to the months that the ids lie in; the list alone would search them all (PostgreSQL).
        these = f"{key[0]} >= :first AND {key[0]} <= :last AND {db.any_of(key[0], 'ids')}"
        values = {"first": ids[0], "last": ids[-1], "ids": db.list_value(ids)}
    else:
        pairs = [(k[0], k[1]) for k in keys]
        if what.kind is Counter:
            lock_counters(db, pairs)
        these = db.any_pair((key[0], key[1]), "keys")
        values = db.pair_values("keys", pairs)
    returned = "tenant_id, cap_id, window_start_ms, counted" if what.kind is Place else "1"
    table = mapping(what.kind).table
    sql = f"DELETE FROM {table} WHERE {where.both} AND {these} RETURNING {returned}"  # noqa: S608
    gone = db.query(sql, {**where.values, **values})
    if what.kind is Place:
        _fold(db, gone)
    return len(gone)


def count(db: Dialect, what: Outdated) -> int:
    """See store.Transaction.count_outdated."""
    where = _where(what)
    sql = f"SELECT count(*) FROM {mapping(what.kind).table} WHERE {where.both}"  # noqa: S608
    return int(db.query(sql, where.values)[0][0])


def beyond(key: Sequence[str], after: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """Condition: the key comes after this one."""
    names = [f"after_{n}" for n in range(len(after))]
    condition = f"({', '.join(key)}) > ({', '.join(f':{n}' for n in names)})"
    return condition, dict(zip(names, after, strict=True))


def lock_counters(db: Dialect, keys: Sequence[CounterKey]) -> None:
    """Lock counters in the store's order, as decisions do."""
    where = f"{db.any_pair(('cap_id', 'window_start_ms'), 'keys')} /* all tenants */"
    order = f"ORDER BY cap_id, window_start_ms{db.for_update}"
    db.query(f"SELECT cap_id FROM counter WHERE {where} {order}", db.pair_values("keys", sorted(keys)))  # noqa: S608


def _fold(db: Dialect, gone: Sequence[Any]) -> None:
    """What deleted places counted goes into the base of their counters: used = base + what places count, as before.

    A counter that is gone (its cap was cleared) needs none of it.
    """
    counted: Tally[tuple[str, int, str]] = Tally()
    for tenant_id, cap_id, window_start_ms, number in gone:
        counted[(cap_id, window_start_ms, tenant_id)] += int(number)
    folded = {key: number for key, number in counted.items() if number}
    if folded:
        lock_counters(db, [(cap_id, start_ms) for cap_id, start_ms, _ in folded])
        db.many(
            "UPDATE counter SET base = base + ? WHERE cap_id = ? AND window_start_ms = ? AND tenant_id = ?",
            [(number, *key) for key, number in sorted(folded.items())],
        )


def _where(what: Outdated) -> _Where:
    """The rows of a kind, and which of them are outdated."""
    kind, values = what.kind, {"tenant_id": what.tenant_id}
    if kind is Tombstone:
        return _Where("1 = 1 /* all tenants */", "created_ms < :before_ms", {"before_ms": what.before_ms})
    if kind is RecentCaller:
        return _Where("1 = 1", f"({_OF_TENANT} AND at_ms < :before_ms)", {**values, "before_ms": what.before_ms})
    if kind is Counter:
        return _of_counters(what, values)
    (key,) = _WALKED[kind]
    outdated = _OF_TENANT
    if kind in _OF_A_CALL:  # those that live are few, if any
        outdated += " AND call_id NOT IN (SELECT id FROM call WHERE id < :before)"
    if kind is Place:
        outdated += " AND state = 'released'"
    return _Where(f"{key} < :before", f"({outdated})", {**values, "before": what.before})


def _of_counters(what: Outdated, values: dict[str, Any]) -> _Where:
    """Counters of windows that are over. The one of instant 0 belongs to windows that never end, and is the lock of
    those that look back."""
    outdated = _OF_TENANT
    if not what.ticks:  # its base is all that it has used: no place counts in it
        outdated += " AND in_flight = 0 AND used = base"
    if not what.cap_id:
        gone = "cap_id NOT IN (SELECT id FROM cap WHERE cap.tenant_id = :tenant_id)"
        return _Where("1 = 1", f"({outdated} AND {gone})", values)
    return _Where(
        "cap_id = :cap_id AND window_start_ms > 0 AND window_start_ms < :before_ms",
        f"({outdated})",
        {**values, "cap_id": what.cap_id, "before_ms": what.before_ms},
    )
