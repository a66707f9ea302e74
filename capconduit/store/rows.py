"""Rows of SQL and objects of the domain: the same names on both sides, so one small mapping serves every table."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, get_type_hints

from capconduit.domain import model
from capconduit.domain.record import from_values
from capconduit.store.dialect import Shape

# Of classes that every command loads; the others say it themselves, in KEY. What neither has is kept by its id.
KEYS: Final[dict[type, tuple[str, ...]]] = {
    model.Account: ("seller_id",),
    model.Setting: ("tenant_id", "name"),
    model.Counter: ("cap_id", "window_start_ms"),
    model.TargetState: ("target_id",),
    model.RuleState: ("rule_id",),
    model.RecentCaller: ("campaign_id", "caller"),
    model.LedgerKey: ("tenant_id", "idempotency_key"),
    model.Attempt: ("call_id", "number"),
    model.Place: ("call_id", "attempt", "cap_id"),
    model.Hold: ("call_id",),
    model.Cdr: ("call_id",),
    model.Node: ("name",),
    model.Tombstone: ("node", "uniqueid"),
}
# Written many times for each call, and made by decisions only: what is an enum by its type is one indeed. (Records may
# come back from an archive, with texts.)
_OFTEN: Final = frozenset({model.Call, model.Hold, model.Place})
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
TABLE_NAMES: Final[dict[type, str]] = {model.User: "users", model.LedgerEntry: "ledger"}


@dataclass(frozen=True, slots=True)
class RowMapping:
    """How one class of the domain is kept."""

    table: str
    columns: tuple[str, ...]
    types: dict[str, str]  # of each column in SQL
    key: tuple[str, ...]
    shape: Shape  # of whole rows
    select: str  # of all columns, without a condition
    load: Callable[[Sequence[Any]], Any]
    values: Callable[[Any], tuple[Any, ...]]


_MAPPINGS: dict[type[Any], RowMapping] = {}


def mapping(kind: type[Any]) -> RowMapping:
    """The mapping of a class of domain/model.py."""
    known = _MAPPINGS.get(kind)
    if known is None:
        known = _MAPPINGS[kind] = _make_mapping(kind)
    return known


def _make_mapping(kind: type[Any]) -> RowMapping:
    columns = tuple(f.name for f in fields(kind))
    hints = get_type_hints(kind)
    table = TABLE_NAMES.get(kind) or _WORD.sub("_", kind.__name__).lower()
    sql_types = {name: _sql_type(hints[name]) for name in columns}
    key = KEYS.get(kind) or tuple(getattr(kind, "KEY", ("id",)))
    return RowMapping(
        table=table,
        columns=columns,
        types=sql_types,
        select=f"SELECT {', '.join(columns)} FROM {table}",  # noqa: S608 - names from our own classes
        key=key,
        shape=Shape(table, tuple(sql_types.items()), tuple((name, sql_types[name]) for name in key)),
        load=_loader(kind, hints),
        values=kept_values(kind, columns, hints),
    )


def kept_values(
    kind: type[Any], columns: Sequence[str], hints: dict[str, Any] | None = None
) -> Callable[[Any], tuple[Any, ...]]:
    """What of a row is kept in these columns (several). Enums of `_OFTEN` are handed over as the plain texts that they
    are: of any other class sqlite3 asks each time whether somebody adapts it."""
    known = hints or get_type_hints(kind)
    plain = kind in _OFTEN
    return attrgetter(*(f"{name}._value_" if plain and _is_enum(known[name]) else name for name in columns))


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, StrEnum)


def _sql_type(hint: Any) -> str:
    return {bool: "boolean", int: "bigint"}.get(_without_none(hint), "text")


class _Members(dict[Any, Any]):
    """What each kept value of an enum or a boolean stands for; to look it up is quicker than to make it."""

    def __init__(self, kind: type[Any]) -> None:
        members: dict[Any, Any] = {0: False, 1: True} if kind is bool else {str(member): member for member in kind}
        super().__init__({None: None, **members})
        self._kind = kind

    def __missing__(self, value: object) -> Any:
        return self._kind(value)  # whose error says what is wrong with the value


def _loader(kind: type, hints: dict[str, Any]) -> Callable[[Sequence[Any]], Any]:
    """Builds an object from a row; enums and booleans get their types back."""
    make: Callable[[Sequence[Any]], Any] = from_values(kind)
    members: list[tuple[int, _Members]] = []
    for position, f in enumerate(fields(kind)):
        hint = _without_none(hints[f.name])
        if hint is bool or _is_enum(hint):
            members.append((position, _Members(hint)))
    if not members:
        return make

    def load(row: Sequence[Any]) -> Any:
        values = list(row)
        for position, member in members:
            values[position] = member[values[position]]
        return make(values)

    return load


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        return next(arm for arm in hint.__args__ if arm is not type(None))
    return hint


def table_names() -> list[str]:
    """Every table there is; those of single months belong to theirs."""
    from capconduit.store.copying import COPIED

    return [*(mapping(kind).table for kind in COPIED), "schema_migration", "estate_version", "estate_change"]
