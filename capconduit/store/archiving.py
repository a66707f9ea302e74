"""Reading what is to be archived before it is pruned: records with their attempts, and events, in the order of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from capconduit.domain.model import Attempt, Cdr, Event
from capconduit.store.rows import mapping
from capconduit.store.sqltransaction import SqlTransaction

KEYS: Final[Mapping[type, str]] = {Cdr: "call_id", Event: "id"}
_BEFORE_ANY: Final = ""  # sorts before every id


def page(tx: SqlTransaction, kind: type, tenant_id: str, after: str, before: str, limit: int) -> list[Any]:
    """Rows (Cdr, Event) of a tenant whose id lies between `after` and `before`, both exclusive."""
    m, key = mapping(kind), KEYS[kind]
    # Written so that ids lead to the rows: those of a tenant would be looked up, and then sorted, for every page.
    sql = (
        f"{m.select} WHERE {key} > :after AND {key} < :before AND tenant_id || '' = :tenant_id"
        f" ORDER BY {key} LIMIT :row_limit"
    )
    values = {"after": after or _BEFORE_ANY, "before": before, "tenant_id": tenant_id, "row_limit": limit}
    return [m.load(row) for row in tx.query(sql, values)]


def attempts(tx: SqlTransaction, calls: Sequence[Cdr]) -> Mapping[str, Sequence[Attempt]]:
    """The attempts of calls that `page` gave, by the call's id."""
    if not calls:
        return {}
    m = mapping(Attempt)
    sql = (
        f"{m.select} WHERE call_id >= :first AND call_id <= :last AND tenant_id || '' = :tenant_id"
        " ORDER BY call_id, number"
    )
    values = {"first": calls[0].call_id, "last": calls[-1].call_id, "tenant_id": calls[0].tenant_id}
    found: dict[str, list[Attempt]] = {}
    for row in tx.query(sql, values):
        one: Attempt = m.load(row)
        found.setdefault(one.call_id, []).append(one)
    return found


def has_below(tx: SqlTransaction, kind: type, before: str) -> bool:
    """Whether there is a row of any tenant whose id is below `before`."""
    sql = f"SELECT 1 FROM {mapping(kind).table} WHERE {KEYS[kind]} < :before /* all tenants */ LIMIT 1"  # noqa: S608 - our own names
    return bool(tx.query(sql, {"before": before}))
