"""The decision trace: every check with its numbers, in the order they were made; what `explain` tells from."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from capconduit.domain.jsontext import compact


class Check(NamedTuple):
    """One check. `ok` False on the caller's side rejects the call, on a target's side skips the target."""

    name: str
    ok: bool
    detail: dict[str, Any]


def dump_trace(checks: list[Check]) -> str:
    """JSON of the checks: a list of objects with `check`, `ok` and the numbers."""
    return compact([{"check": name, "ok": ok, **detail} for name, ok, detail in checks])


def load_trace(text: str) -> list[Check]:
    """The checks of `dump_trace`."""
    checks = []
    for item in json.loads(text or "[]"):
        name, ok = item.pop("check"), item.pop("ok")
        checks.append(Check(name, ok, item))
    return checks


def extend_trace(text: str, more: list[Check]) -> str:
    """The trace with later checks appended (a failover decides again)."""
    return dump_trace([*load_trace(text), *more])
