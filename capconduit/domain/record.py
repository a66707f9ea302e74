"""Rows as immutable data: the type checker forbids to change them, at run time nothing is spent on it.

A frozen dataclass sets each field through object.__setattr__: for the widest row that is three times the cost of a
plain one, on the way of every call. Whoever changes a record is found by mypy, not by an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: type[Kind]) -> type[Kind]:
    """A keyword-only dataclass with slots that compares by value and is never to be changed."""
    return dataclass(slots=True, kw_only=True)(cls)
