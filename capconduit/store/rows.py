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
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
TABLE_NAMES: Final[dict[type, str]] = {model.User: "users", model.LedgerEntry: "ledger"}


@dataclass(frozen=True, slots=True)
class RowMapping:
    """How one class of the domain is kept."""

    table: str
    columns: tuple[str, ...]
    types: dict[str, str]  # of each column in SQL
    key: tuple[str, ...]
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
    return RowMapping(
        table=table,
        columns=columns,
        types={name: _sql_type(hints[name]) for name in columns},
        select=f"SELECT {', '.join(columns)} FROM {table}",  # noqa: S608 - names from our own classes
        key=KEYS.get(kind) or tuple(getattr(kind, "KEY", ("id",))),
        load=_loader(kind, columns, hints),
        values=attrgetter(*columns),
    )


def _sql_type(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        hint = next(arm for arm in hint.__args__ if arm is not type(None))
    return {bool: "boolean", int: "bigint"}.get(hint, "text")


def _loader(kind: type, columns: tuple[str, ...], hints: dict[str, Any]) -> Callable[[Sequence[Any]], Any]:
    """Builds an object from a row; enums and booleans get their types back."""
    conversions: list[tuple[int, Callable[[Any], Any]]] = []
    for position, name in enumerate(columns):
        hint = hints[name]
        if isinstance(hint, types.UnionType):
            hint = next(arm for arm in hint.__args__ if arm is not type(None))
        if hint is bool or (isinstance(hint, type) and issubclass(hint, StrEnum)):
            conversions.append((position, hint))

    def load(row: Sequence[Any]) -> Any:
        values = list(row)
        for position, convert in conversions:
            if values[position] is not None:
                values[position] = convert(values[position])
        return kind(**dict(zip(columns, values, strict=True)))

    return load


def table_names() -> list[str]:
    """Every table there is; those of single months belong to theirs."""
    from capconduit.store.copying import COPIED

    return [*(mapping(kind).table for kind in COPIED), "schema_migration", "estate_version", "estate_change"]
