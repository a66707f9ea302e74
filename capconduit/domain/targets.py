"""What a target has been through, and its rest after failures in a row (a circuit breaker with a half-open probe)."""

from __future__ import annotations

from dataclasses import replace

from capconduit.domain.model import TargetState
from capconduit.domain.settings import Settings
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus

# A target that is busy or refuses a caller works; these say that it could not be reached or did not react.
FAILURES = frozenset({DialStatus.CHANUNAVAIL, DialStatus.CONGESTION, DialStatus.NOANSWER})


def began(state: TargetState, until_ms: int) -> TargetState:
    """A Dial of the target began. After a rest it is the one that tries it, until `until_ms`."""
    probe_ms = until_ms if state.rested_until_ms else 0
    return replace(state, active=state.active + 1, probe_until_ms=probe_ms)


def failed(state: TargetState, status: DialStatus | None, settings: Settings, now_ms: int) -> tuple[TargetState, bool]:
    """A Dial ended without an answer; and whether the target is rested for it from now on."""
    state = replace(state, active=max(state.active - 1, 0), probe_until_ms=0)
    if status not in FAILURES:
        return state, False
    state = replace(state, failures=state.failures + 1)
    if not settings.breaker_failures or state.failures < settings.breaker_failures:
        return state, False
    return replace(state, rested_until_ms=now_ms + settings.breaker_rest_s * MS_PER_SECOND), True


def well(state: TargetState) -> TargetState:
    """The target took a call, or an operator revives it: nothing stands against it any more."""
    if not (state.failures or state.rested_until_ms or state.probe_until_ms):
        return state
    return replace(state, failures=0, rested_until_ms=0, probe_until_ms=0)


def ended(state: TargetState, ended_ms: int, *, talked: bool) -> TargetState:
    """An attempt is over: the target is idle since the end of the last call that it answered."""
    idle_ms = max(ended_ms, state.idle_since_ms) if talked else state.idle_since_ms
    return replace(state, active=max(state.active - 1, 0), probe_until_ms=0, idle_since_ms=idle_ms)
