"""The estate read from the database: as a whole, or only what changed since a snapshot that is there already.

Every writing verb notes which rows of the estate it touched; the next version of the estate names them. So a snapshot
of 10,000 numbers is brought up to date by reading one row, and no decision waits longer than it has to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from capconduit.domain import model

if TYPE_CHECKING:
    from capconduit.domain.estate import Estate, Rows
from capconduit.store.dialect import Dialect
from capconduit.store.rows import mapping

KINDS: Final = {
    "tenants": model.Tenant,
    "sellers": model.Seller,
    "trunks": model.Trunk,
    "rates": model.Rate,
    "campaigns": model.Campaign,
    "dids": model.Did,
    "targets": model.Target,
    "rules": model.Rule,
    "caps": model.Cap,
    "settings": model.Setting,
    "schedules": model.Schedule,
    "blocks": model.Block,
}
ESTATE_ROWS: Final = frozenset(KINDS.values())
VERSION_SQL: Final = "SELECT version, feeding FROM estate_version WHERE id = 1"
KEPT_VERSIONS: Final = 1_000  # of which it is known what changed; whoever is farther behind reads everything
MOST_CHANGES: Final = 2_000  # more than these are not read one by one
_CHANGES: Final = "SELECT DISTINCT kind, row_key FROM estate_change WHERE version > :known LIMIT :most"
_NOTE: Final = "INSERT INTO estate_change (version, kind, row_key) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"

Touched = tuple[str, str]  # table, key


def touched(row: object) -> Touched:
    """How a row of the estate is named among the changes."""
    m = mapping(type(row))
    return m.table, "\n".join(str(getattr(row, name)) for name in m.key)


def note(db: Dialect, version: int, rows: Iterable[Touched]) -> None:
    """Tell what has changed with `version`; of more than anybody reads one by one, only that they are more."""
    changes = [(version, kind, key) for kind, key in sorted(rows)[: MOST_CHANGES + 1]]
    if changes:
        db.many(_NOTE, changes)


def forget(db: Dialect, version: int) -> None:
    """Drop what nobody reads one by one any more."""
    db.many("DELETE FROM estate_change WHERE version <= ?", [(version - KEPT_VERSIONS,)])


def load(db: Dialect, known: Estate | None) -> Estate:
    """The estate as it is in this transaction."""
    from capconduit.domain.estate import Rows, build_estate

    version = int(db.query(VERSION_SQL, {})[0][0])
    if known is not None and 0 < version - known.version < KEPT_VERSIONS:
        changes = db.query(_CHANGES, {"known": known.version, "most": MOST_CHANGES + 1})
        if len(changes) <= MOST_CHANGES:
            return build_estate(version, _changed(db, known.rows, changes))
    return build_estate(version, Rows(**{name: _all(db, kind) for name, kind in KINDS.items()}))


def _all(db: Dialect, kind: type[Any]) -> Sequence[Any]:
    m = mapping(kind)
    return [m.load(row) for row in db.query(f"{m.select} /* all tenants */", {})]


def _changed(db: Dialect, rows: Rows, changes: Sequence[Any]) -> Rows:
    """`rows` with those read again that changed; one that is not there any more is gone."""
    by_table: dict[str, set[str]] = {}
    for table, key in changes:
        by_table.setdefault(table, set()).add(key)
    fresh: dict[str, Sequence[Any]] = {}
    for name, kind in KINDS.items():
        m = mapping(kind)
        ids = by_table.get(m.table)
        if not ids:
            continue
        if len(m.key) > 1:  # settings: a handful
            fresh[name] = _all(db, kind)
            continue
        where = f"{db.any_of(m.key[0], 'ids')} /* all tenants */"
        read = db.query(f"{m.select} WHERE {where}", {"ids": db.list_value(sorted(ids))})
        kept = [row for row in getattr(rows, name) if getattr(row, m.key[0]) not in ids]
        fresh[name] = kept + [m.load(row) for row in read]
    return replace(rows, **fresh)
