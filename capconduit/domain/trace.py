"""The decision trace: every check with its numbers, in the order they were made; what `explain` tells from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from capconduit.domain.jsontext import compact

# A check as the trace keeps it: `check` (its name), `ok`, and its numbers. A decision makes a dozen and reads none.
Noted = dict[str, Any]


class Check(NamedTuple):
    """One check. `ok` False on the caller's side rejects the call, on a target's side skips the target."""

    name: str
    ok: bool
    detail: dict[str, Any]


def checks_of(trace: Iterable[Noted]) -> list[Check]:
    """The checks to look at."""
    return [
        Check(noted["check"], noted["ok"], {name: noted[name] for name in noted if name not in ("check", "ok")})
        for noted in trace
    ]


def dump_trace(trace: Sequence[Noted]) -> str:
    """JSON of what was noted."""
    return compact(trace)


def load_trace(text: str) -> list[Check]:
    """The checks of `dump_trace`."""
    return checks_of(json.loads(text or "[]"))


def extend_trace(text: str, more: Sequence[Noted]) -> str:
    """The trace with later checks appended (a failover decides again)."""
    return dump_trace([*json.loads(text or "[]"), *more])
