"""What a target has been through, and its rest after failures in a row (a circuit breaker with a half-open probe).

A target whose rest is over is tried by one call, the probe; any sign of life revives it, a failed probe rests it again.
Dials that were under way when the rest began prove nothing but life: their failures are of the row that led to it.
"""

from __future__ import annotations

from capconduit.domain.events import Ids, event
from capconduit.domain.model import Attempt, Event, TargetState
from capconduit.domain.record import replace
from capconduit.domain.settings import Settings
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus, EventKind

# These say that a target could not be reached or did not react. One that is busy was reached: it works.
FAILURES = frozenset({DialStatus.CHANUNAVAIL, DialStatus.CONGESTION, DialStatus.NOANSWER})


def dial_lease_ms(settings: Settings, ring_s: int, started_ms: int) -> int:
    """Until when a Dial that began at `started_ms` lives without news."""
    return started_ms + (ring_s + settings.lease_dial_extra_s) * MS_PER_SECOND


def began(state: TargetState, until_ms: int) -> TargetState:
    """A Dial of the target began. After a rest it is the probe, until `until_ms` (its lease)."""
    probe_ms = until_ms if state.rested_until_ms else 0
    return replace(state, active=state.active + 1, probe_until_ms=probe_ms)


def failed(
    state: TargetState, attempt: Attempt, status: DialStatus | None, settings: Settings, now_ms: int
) -> TargetState:
    """A Dial ended without an answer, which may rest the target from now on."""
    probing = _is_probe(state, attempt, settings)
    state = _over(state, probing=probing)
    if status is DialStatus.BUSY:
        return well(state)
    if status not in FAILURES or (state.rested_until_ms and not probing):
        return state
    failures = state.failures + 1
    if not settings.breaker_failures:
        return replace(state, failures=failures, rested_until_ms=0)
    until_ms = now_ms + settings.breaker_rest_s * MS_PER_SECOND
    resting = probing or failures >= settings.breaker_failures
    return replace(state, failures=failures, rested_until_ms=until_ms if resting else 0)


def ended(
    state: TargetState, attempt: Attempt, settings: Settings, now_ms: int, *, talked_until_ms: int | None
) -> TargetState:
    """A Dial is over for another reason: one that was answered (None: not) was a sign of life, and its end begins the
    target's idle time. An earlier end that lies in the future was told by another clock."""
    state = _over(state, probing=_is_probe(state, attempt, settings))
    if talked_until_ms is None:
        return state
    before_ms = state.idle_since_ms if state.idle_since_ms <= now_ms else 0
    return well(replace(state, idle_since_ms=max(talked_until_ms, before_ms)))


def well(state: TargetState) -> TargetState:
    """The target took a call, or an operator revives it: nothing stands against it any more."""
    if not (state.failures or state.rested_until_ms or state.probe_until_ms):
        return state
    return replace(state, failures=0, rested_until_ms=0, probe_until_ms=0)


def told(before: TargetState, after: TargetState, name: str, now_ms: int, ids: Ids) -> list[Event]:
    """The events of a change of the target `name`: that it rests now, or rests no more."""
    if after.rested_until_ms == before.rested_until_ms:
        return []
    if after.rested_until_ms:
        numbers = {"failures": after.failures, "until_ms": after.rested_until_ms}
        kind = EventKind.TARGET_RESTED
    else:
        numbers, kind = {"failures": before.failures}, EventKind.TARGET_REVIVED
    return [event(ids, after.tenant_id, now_ms, kind, after.target_id, target=name, **numbers)]


def _over(state: TargetState, *, probing: bool) -> TargetState:
    """One attempt less is under way; the probe makes room for another."""
    return replace(state, active=max(state.active - 1, 0), probe_until_ms=0 if probing else state.probe_until_ms)


def _is_probe(state: TargetState, attempt: Attempt, settings: Settings) -> bool:
    """Whether an attempt is the one that tries the target after its rest: known by its lease. (Where the setting was
    changed meanwhile it is not known again, and the next call waits for the end of the lease.)"""
    return bool(state.probe_until_ms) and state.probe_until_ms == dial_lease_ms(
        settings, attempt.ring_s, attempt.started_ms
    )
