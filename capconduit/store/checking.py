"""What a database that is whole never has: rows that refer to nothing, holds and places of calls that are over, records
that the ledger contradicts. Reads only; each question is one statement in a transaction of the caller's.

Foreign keys are asked of the engine's own catalogue, because a database that was repaired by hand, or restored with its
triggers off, may have rows that no statement of ours could have written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.store.rows import mapping
from capconduit.store.sqlstore import MIGRATIONS
from capconduit.store.sqltransaction import SqlTransaction

SHOWN: Final = 20  # rows named for each question; how many there are is counted to the end


@dataclass(frozen=True, slots=True)
class Wrong:
    """Rows that should not be: of which table, what is wrong with them, how many, and the keys of the first ones.

    `tenant_id` is empty where the question is of the whole installation.
    """

    check: str
    table: str
    what: str
    rows: int
    keys: Sequence[str]
    tenant_id: str = ""


# What no foreign key watches, because it would cost a look-up and a lock for every row on the way of a call.
# (check, table, key, what is wrong, condition)
_LOOSE: Final = (
    ("hold", "hold", "call_id", "open, but its call is over",
     "state = 'open' AND NOT EXISTS (SELECT 1 FROM call WHERE call.id = hold.call_id)"),
    ("hold", "call", "id", "up, but nothing is held for it",
     "NOT EXISTS (SELECT 1 FROM hold WHERE hold.call_id = call.id AND hold.state = 'open')"),
    ("place", "place", "call_id", "taken, but its call is over",
     "state <> 'released' AND NOT EXISTS (SELECT 1 FROM call WHERE call.id = place.call_id)"),
    ("call", "call", "id", "up and settled at once",
     "EXISTS (SELECT 1 FROM cdr WHERE cdr.call_id = call.id)"),
    ("call", "call", "id", "dials, but has no attempt",
     "NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.call_id = call.id AND attempt.number = call.attempt)"),
    ("account", "seller", "id", "has no account",
     "NOT EXISTS (SELECT 1 FROM account WHERE account.seller_id = seller.id)"),
    ("ledger", "ledger", "id", "belongs to no seller",
     "NOT EXISTS (SELECT 1 FROM seller WHERE seller.id = ledger.seller_id AND seller.tenant_id = ledger.tenant_id)"),
    ("ledger", "ledger", "id", "corrects an entry that is not there",
     "corrects_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM ledger AS wrong WHERE wrong.id = ledger.corrects_id)"),
    ("ledger", "ledger_key", "ledger_id", "is the key of an entry that is not there",
     "NOT EXISTS (SELECT 1 FROM ledger WHERE ledger.id = ledger_key.ledger_id)"),
)  # fmt: skip


def loose_ends(tx: SqlTransaction, tenant_id: str) -> Iterator[Wrong]:
    """Rows of a tenant that contradict each other."""
    for check, table, key, what, condition in _LOOSE:
        yield from _asked(tx, Wrong(check, table, what, 0, (), tenant_id), key, condition)
    yield from _uncharged(tx, tenant_id)
    yield from _charged_twice(tx, tenant_id)


def foreign_keys(tx: SqlTransaction, engine: str) -> Iterator[Wrong]:
    """Rows that refer to what is not there, of all tenants."""
    for table, columns, parent, parent_columns in _references(tx, engine):
        pairs = " AND ".join(f"parent.{p} = child.{c}" for c, p in zip(columns, parent_columns, strict=True))
        given = " AND ".join(f"child.{c} IS NOT NULL" for c in columns)
        sql = (
            f"SELECT {', '.join(f'child.{c}' for c in columns)} FROM {table} AS child WHERE {given}"  # noqa: S608 - the catalogue's names
            f" AND NOT EXISTS (SELECT 1 FROM {parent} AS parent WHERE {pairs}) /* all tenants */"
        )
        rows = tx.query(sql)
        if rows:
            keys = tuple("/".join(str(value) for value in row) for row in rows[:SHOWN])
            yield Wrong("foreign key", table, f"{', '.join(columns)} name no {parent}", len(rows), keys)


def missing_tables(tx: SqlTransaction, kinds: Sequence[type], engine: str) -> list[str]:
    """Tables and columns that this program reads and the database has not: `cdr`, `cdr.payout_micros`."""
    found: dict[str, set[str]] = {}
    for table, column in tx.query(_COLUMNS[engine]):
        found.setdefault(str(table), set()).add(str(column))
    missing = []
    for kind in kinds:
        m = mapping(kind)
        if m.table not in found:
            missing.append(m.table)
        else:
            missing += [f"{m.table}.{column}" for column in m.columns if column not in found[m.table]]
    return missing


def migrations_applied(tx: SqlTransaction) -> tuple[list[str], list[str]]:
    """Names of the migrations that this program has and those that were applied, in their order."""
    ours = [f"{version:04d}_{name}" for version, name in MIGRATIONS]
    rows = tx.query("SELECT version, name FROM schema_migration ORDER BY version")
    return ours, [f"{int(version):04d}_{name}" for version, name in rows]


def damaged_pages(tx: SqlTransaction, engine: str) -> list[str]:
    """What the engine itself finds wrong with its file; PostgreSQL has its own tool for that (pg_amcheck)."""
    if engine != "sqlite":
        return []
    return [str(row[0]) for row in tx.query(f"PRAGMA quick_check({SHOWN})") if row[0] != "ok"]


_COLUMNS: Final = {
    "sqlite": "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c"
    " WHERE m.type = 'table'",
    "postgres": "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()",
}
_FOREIGN_SQLITE: Final = (
    'SELECT m.name, f.id, f."from", f."table", f."to" FROM sqlite_master AS m'
    " JOIN pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table' ORDER BY m.name, f.id, f.seq"
)
_FOREIGN_POSTGRES: Final = (
    "SELECT child.relname, con.conname, a.attname, parent.relname, b.attname FROM pg_constraint AS con"
    " JOIN pg_class AS child ON child.oid = con.conrelid JOIN pg_class AS parent ON parent.oid = con.confrelid"
    " CROSS JOIN LATERAL unnest(con.conkey, con.confkey) WITH ORDINALITY AS pair(here, there, n)"
    " JOIN pg_attribute AS a ON a.attrelid = child.oid AND a.attnum = pair.here"
    " JOIN pg_attribute AS b ON b.attrelid = parent.oid AND b.attnum = pair.there"
    " WHERE con.contype = 'f' AND con.conparentid = 0"
    " AND child.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
    " ORDER BY child.relname, con.conname, pair.n"
)

_Reference = tuple[str, list[str], str, list[str]]


def _references(tx: SqlTransaction, engine: str) -> list[_Reference]:
    """The foreign keys there are: table, its columns, the table they name, its columns."""
    found: dict[tuple[str, str], _Reference] = {}
    for table, name, column, parent, there in tx.query(_FOREIGN_SQLITE if engine == "sqlite" else _FOREIGN_POSTGRES):
        _, columns, _, parents = found.setdefault((str(table), str(name)), (str(table), [], str(parent), []))
        columns.append(str(column))
        parents.append(str(there or column))
    return list(found.values())


def _uncharged(tx: SqlTransaction, tenant_id: str) -> Iterator[Wrong]:
    """Records whose amount is not what the ledger took for the call. Both sides are summed once: a look-up for each
    record would take minutes where there are millions."""
    sql = (
        "SELECT cdr.call_id FROM cdr LEFT JOIN (SELECT call_id, sum(amount_micros) AS taken FROM ledger"
        " WHERE tenant_id = :tenant_id AND kind = 'call' GROUP BY call_id) AS posted ON posted.call_id = cdr.call_id"
        " WHERE cdr.tenant_id = :tenant_id AND cdr.amount_micros <> -COALESCE(posted.taken, 0) ORDER BY cdr.call_id"
    )
    keys = [str(row[0]) for row in tx.query(sql, {"tenant_id": tenant_id})]
    if keys:
        yield Wrong("cdr", "cdr", "its amount is not what the ledger took", len(keys), keys[:SHOWN], tenant_id)


def _charged_twice(tx: SqlTransaction, tenant_id: str) -> Iterator[Wrong]:
    sql = (
        "SELECT call_id FROM ledger WHERE tenant_id = :tenant_id AND kind = 'call' GROUP BY call_id"
        " HAVING count(*) > 1 ORDER BY call_id"
    )
    keys = [str(row[0]) for row in tx.query(sql, {"tenant_id": tenant_id})]
    if keys:
        yield Wrong("ledger", "ledger", "a call was charged more than once", len(keys), keys[:SHOWN], tenant_id)


def _asked(tx: SqlTransaction, wrong: Wrong, key: str, condition: str) -> Iterator[Wrong]:
    sql = f"SELECT {key} FROM {wrong.table} WHERE tenant_id = :tenant_id AND {condition} ORDER BY {key}"  # noqa: S608
    keys = [str(row[0]) for row in tx.query(sql, {"tenant_id": wrong.tenant_id})]
    if keys:
        yield Wrong(wrong.check, wrong.table, wrong.what, len(keys), keys[:SHOWN], wrong.tenant_id)
