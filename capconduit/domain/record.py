"""Rows as immutable data: the type checker forbids to change them, at run time nothing is spent on it.

A frozen dataclass sets each field through object.__setattr__: for the widest row that is three times the cost of a
plain one, on the way of every call. Whoever changes a record is found by mypy, not by an exception.

What makes records in numbers, from rows or from each other, is written as source once for each class, as dataclasses
write their __init__: a decision loads, copies and changes dozens of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[Kind]) -> type[Kind]:
    """A keyword-only dataclass with slots that compares by value and is never to be changed."""
    return dataclass(slots=True, kw_only=True)(cls)


@dataclass_transform(frozen_default=True)
def value(cls: type[Kind]) -> type[Kind]:
    """Like a record, for what a decision makes on its way: it takes its fields by position too, and may be a key."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


def _names(kind: type[Any]) -> list[str]:
    return [f.name for f in fields(kind)]


def _written(kind: type[Any], source: str) -> Any:
    """The function that `source` defines; in it `blank_(kind_)` is an object without values."""
    names: dict[str, Any] = {"blank_": object.__new__, "kind_": kind}
    exec(source, names)
    return names["written"]


def maker(kind: type[Kind]) -> type[Kind]:
    """What makes records of `kind` by name like the class itself, in less than half the time: a call of a class first
    puts the names into a dict. For kinds without defaults that are made for every call, and of up to 15 fields: more
    names Python puts into a dict anyway."""
    names = _names(kind)
    lines = "".join(f" new_.{name} = {name}\n" for name in names)
    source = f"def written(*, {', '.join(names)}):\n new_ = blank_(kind_)\n{lines} return new_"
    made: type[Kind] = _written(kind, source)
    return made


def from_values(kind: type[Kind]) -> Callable[[Sequence[Any]], Kind]:
    """A function that makes a record of the values of all its fields, in their order."""
    slots = "".join(f"new.{name}, " for name in _names(kind))
    source = f"def written(values):\n new = blank_(kind_)\n {slots}= values\n return new"
    made: Callable[[Sequence[Any]], Kind] = _written(kind, source)
    return made


@cache
def copier(kind: type[Kind]) -> Callable[[Kind], Kind]:
    """A function that makes a copy of a record."""
    lines = "".join(f" new.{name} = old.{name}\n" for name in _names(kind))
    made: Callable[[Kind], Kind] = _written(kind, f"def written(old):\n new = blank_(kind_)\n{lines} return new")
    return made


if TYPE_CHECKING:
    from dataclasses import replace as replace  # of which mypy knows the fields and their types
else:

    def replace(old: Kind, /, **changed: Any) -> Kind:
        """A copy of a record with some fields changed. dataclasses.replace does the same in ten times the time."""
        new = copier(type(old))(old)
        for name in changed:
            setattr(new, name, changed[name])
        return new
