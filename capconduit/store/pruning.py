"""Which rows nobody needs any more, as SQL, and taking them away without changing what caps have used.

Reading and deleting are apart: keys are found in a transaction that only reads and so makes nobody wait; the short one
that writes deletes those of them that are still outdated. Two that prune at once take each row once.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Sequence
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
_LIVE: Final = "EXISTS (SELECT 1 FROM call WHERE call.id = {table}.call_id)"


def find(db: Dialect, what: Outdated, after: Sequence[Any], limit: int) -> list[Sequence[Any]]:
    """See store.Transaction.find_outdated."""
    key = _WALKED[what.kind]
    where, values = _condition(what)
    if after:
        condition, key_values = beyond(key, after)
        where, values = f"{where} AND {condition}", {**values, **key_values}
    columns, table = ", ".join(key), mapping(what.kind).table
    sql = f"SELECT DISTINCT {columns} FROM {table} WHERE {where} ORDER BY {columns} LIMIT :row_limit"  # noqa: S608
    return [tuple(row) for row in db.query(sql, {**values, "row_limit": limit})]


def drop(db: Dialect, what: Outdated, keys: Sequence[Sequence[Any]]) -> int:
    """See store.Transaction.drop_outdated."""
    if not keys:
        return 0
    key = _WALKED[what.kind]
    where, values = _condition(what)
    if len(key) == 1:
        ids = sorted(k[0] for k in keys)
        # The range leads to the months that the ids lie in; the list alone would search them all (PostgreSQL).
        where += f" AND {key[0]} >= :first AND {key[0]} <= :last AND {db.any_of(key[0], 'ids')}"
        values.update(first=ids[0], last=ids[-1], ids=db.list_value(ids))
    else:
        pairs = [(k[0], k[1]) for k in keys]
        if what.kind is Counter:
            lock_counters(db, pairs)
        where += f" AND {db.any_pair((key[0], key[1]), 'keys')}"
        values.update(db.pair_values("keys", pairs))
    returned = "tenant_id, cap_id, window_start_ms, counted" if what.kind is Place else "1"
    gone = db.query(f"DELETE FROM {mapping(what.kind).table} WHERE {where} RETURNING {returned}", values)  # noqa: S608
    if what.kind is Place:
        _fold(db, gone)
    return len(gone)


def count(db: Dialect, what: Outdated) -> int:
    """See store.Transaction.count_outdated."""
    where, values = _condition(what)
    return int(db.query(f"SELECT count(*) FROM {mapping(what.kind).table} WHERE {where}", values)[0][0])  # noqa: S608


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


def _condition(what: Outdated) -> tuple[str, dict[str, Any]]:
    """Which rows of its kind are outdated."""
    kind, values = what.kind, {"tenant_id": what.tenant_id}
    if kind is Tombstone:
        return "created_ms < :before_ms /* all tenants */", {"before_ms": what.before_ms}
    if kind is RecentCaller:
        return "tenant_id = :tenant_id AND at_ms < :before_ms", {**values, "before_ms": what.before_ms}
    if kind is Counter:
        return _counters(what, values)
    (key,) = _WALKED[kind]
    where = f"tenant_id = :tenant_id AND {key} < :before"
    if kind in (Attempt, Hold, Place):
        where += f" AND NOT {_LIVE.format(table=mapping(kind).table)}"
    if kind is Place:
        where += " AND state = 'released'"
    return where, {**values, "before": what.before}


def _counters(what: Outdated, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Counters of windows that are over. The one of instant 0 belongs to windows that never end, and is the lock of
    those that look back."""
    unused = "" if what.ticks else " AND in_flight = 0 AND used = base"  # base is all: no place counts in it
    if not what.cap_id:
        gone = "cap_id NOT IN (SELECT id FROM cap WHERE cap.tenant_id = :tenant_id)"
        return f"tenant_id = :tenant_id AND {gone}{unused}", values
    over = "window_start_ms > 0 AND window_start_ms < :before_ms"
    return (
        f"tenant_id = :tenant_id AND cap_id = :cap_id AND {over}{unused}",
        {**values, "cap_id": what.cap_id, "before_ms": what.before_ms},
    )
