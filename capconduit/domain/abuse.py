"""Abuse in the stream of finished calls: scans, redialling, short calls, junk, spikes; one attack is told of once.

A caller is in abuse when what it did within the window reaches a threshold. It is told of once, whatever else it does,
until half of every threshold that it had reached is left: then the attack is over, and the next one is a new one. What
is remembered is bounded: so many callers, ranges and trunks, the least recent are forgotten first, and of each no more
than the thresholds ask for. A window of a trunk is counted in buckets, because a trunk brings more calls than can be
remembered one by one.

Instants are of a clock that never goes back. A caller that is blocked is dealt with already: its calls count for its
trunk only, so that after the block the attack is a new one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from capconduit.domain.settings import Settings
from capconduit.units import MS_PER_SECOND, parse_duration_ms
from capconduit.vocab import AbuseKind, RejectCode

MAX_COUNTED: Final = 500  # the most a threshold can be: this many instants are remembered of a caller
MAX_CALLERS: Final = 10_000
MAX_RANGES: Final = 10_000
MAX_TRUNKS: Final = 1_000
LEAST_BLOCK_MS: Final = 60_000
MOST_BLOCK_MS: Final = 30 * 86_400_000

BUCKETS: Final = 10  # of a trunk's window
HISTORY_WINDOWS: Final = 12  # that a spike is compared with
LEAST_HISTORY: Final = 3  # windows that must have been seen before anything can be a spike
RANGE_DIGITS: Final = 2  # that neighbouring callers differ in
LEAST_RANGE_CHARS: Final = 9  # of an E.164 number that has neighbours: `+` and eight digits
SEQUENCE_SPARE: Final = 4  # a sequence is found among so many times as many other DIDs
MAX_DID_CHARS: Final = 20  # of a dialled number that can have a next one

# Rejects that tell of the caller or the carrier, not of our caps, money, schedules or failures.
JUNK: Final = frozenset(
    {
        RejectCode.DID_UNKNOWN,
        RejectCode.DID_UNASSIGNED,
        RejectCode.DID_SUSPENDED,
        RejectCode.CALLER_INVALID,
        RejectCode.CALLER_ANONYMOUS,
        RejectCode.ATTESTATION_MISSING,
        RejectCode.ATTESTATION_INVALID,
        RejectCode.DUPLICATE_CALLER,
        RejectCode.CPS_LIMIT,
    }
)

_OF_CALLERS: Final = frozenset(
    {
        AbuseKind.MANY_DIDS,
        AbuseKind.DID_SEQUENCE,
        AbuseKind.REDIALLING,
        AbuseKind.SHORT_CALLS,
        AbuseKind.JUNK,
    }
)


@dataclass(frozen=True, slots=True)
class Limits:
    """From when on calls are abuse; a threshold of 0 is switched off."""

    window_ms: int
    dids: int
    sequence: int
    redials: int
    short_ms: int
    short_calls: int
    junk: int
    range: int
    trunk_calls: int
    trunk_short_percent: int
    trunk_junk_percent: int
    spike_factor: int

    @property
    def watches_callers(self) -> bool:
        """Whether anything that one caller does matters."""
        return bool(self.dids or self.sequence or self.redials or self.short_calls or self.junk)

    @property
    def is_off(self) -> bool:
        """Whether nothing at all is looked for."""
        return not (self.watches_callers or self.range or self.trunk_calls)


def limits_of(settings: Settings) -> Limits:
    """What a tenant's settings ask for."""
    return Limits(
        window_ms=settings.abuse_window_s * MS_PER_SECOND,
        dids=settings.abuse_dids,
        sequence=settings.abuse_sequence,
        redials=settings.abuse_redials,
        short_ms=settings.abuse_short_s * MS_PER_SECOND,
        short_calls=settings.abuse_short_calls,
        junk=settings.abuse_junk,
        range=settings.abuse_range,
        trunk_calls=settings.abuse_trunk_calls,
        trunk_short_percent=settings.abuse_trunk_short_percent,
        trunk_junk_percent=settings.abuse_trunk_junk_percent,
        spike_factor=settings.abuse_spike_factor,
    )


def block_ms_of(settings: Settings) -> int:
    """How long a caller in abuse is blocked; 0: not at all."""
    return 0 if settings.abuse_block == "off" else parse_duration_ms(settings.abuse_block)


@dataclass(frozen=True, slots=True)
class Fact:
    """A finished call as far as abuse is concerned. `caller` is empty for one that withheld its number; `reject` is the
    code, empty for a call that was admitted."""

    caller: str = ""
    did: str = ""
    trunk: str = ""
    answered: bool = False
    talk_ms: int = 0
    reject: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """An attack that began: `count` of what `limit` allows, within `window_s`.

    `subject` is the caller, the name of the trunk, or for a range of callers the pattern that a block would have.
    """

    kind: AbuseKind
    subject: str
    count: int
    limit: int
    window_s: int
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def caller(self) -> str:
        """The one caller who does it; empty where there is none to be blocked."""
        return self.subject if self.kind in _OF_CALLERS else ""


# --- what is remembered ----------------------------------------------------------------------------------------------


class _Caller:
    """What one caller did within the window: instants, and for each DID when it was dialled last."""

    __slots__ = ("alarms", "calls", "dids", "junk", "seen_ms", "short")

    def __init__(self, limits: Limits) -> None:
        self.calls: deque[int] = deque(maxlen=limits.redials)
        self.short: deque[int] = deque(maxlen=limits.short_calls)
        self.junk: deque[int] = deque(maxlen=limits.junk)
        self.dids: OrderedDict[str, int] = OrderedDict()
        self.alarms: set[AbuseKind] = set()
        self.seen_ms = 0


class _Range:
    """The neighbouring callers of one DID, each with its last call."""

    __slots__ = ("alarm", "callers", "seen_ms")

    def __init__(self, _limits: Limits) -> None:
        self.callers: OrderedDict[str, int] = OrderedDict()
        self.alarm = False
        self.seen_ms = 0


class _Flow:
    """The calls of one trunk by bucket: [bucket, calls, answered, short, junk], their sums, and the calls before."""

    __slots__ = ("alarms", "answered", "before", "buckets", "calls", "calls_before", "junk", "seen_ms", "short")

    def __init__(self, _limits: Limits) -> None:
        self.buckets: deque[list[int]] = deque()
        self.before: deque[tuple[int, int]] = deque()
        self.calls = self.answered = self.short = self.junk = self.calls_before = 0
        self.alarms: set[AbuseKind] = set()
        self.seen_ms = 0

    def add(self, bucket: int, answered: bool, short: bool, junk: bool) -> None:
        """Count one call, and move on what has left the window."""
        if not self.buckets or self.buckets[-1][0] != bucket:
            self._roll(bucket)
            self.buckets.append([bucket, 0, 0, 0, 0])
        last = self.buckets[-1]
        for place, one in enumerate((1, answered, short, junk), 1):
            last[place] += one
        self.calls += 1
        self.answered += answered
        self.short += short
        self.junk += junk

    def _roll(self, bucket: int) -> None:
        while self.buckets and self.buckets[0][0] <= bucket - BUCKETS:
            number, calls, answered, short, junk = self.buckets.popleft()
            self.calls -= calls
            self.answered -= answered
            self.short -= short
            self.junk -= junk
            self.before.append((number, calls))
            self.calls_before += calls
        while self.before and self.before[0][0] <= bucket - BUCKETS * (1 + HISTORY_WINDOWS):
            self.calls_before -= self.before.popleft()[1]


_State = TypeVar("_State", _Caller, _Range, _Flow)


def _touch(states: OrderedDict[Any, _State], key: Any, make: type[_State], limits: Limits, now_ms: int) -> _State:
    """The state of `key`, now the most recent one."""
    state = states.get(key)
    if state is None:
        state = states[key] = make(limits)
    else:
        states.move_to_end(key)
    state.seen_ms = now_ms
    return state


def _trim(states: OrderedDict[Any, _State], most: int, after_ms: int) -> None:
    """Forget whoever was not seen for a window (there is nothing left to know), and the least recent of too many."""
    while len(states) > most or states[next(iter(states))].seen_ms <= after_ms:
        states.popitem(last=False)


def _fresh(instants: deque[int], after_ms: int) -> int:
    """How many instants are later; the others are forgotten."""
    while instants and instants[0] <= after_ms:
        instants.popleft()
    return len(instants)


def _note(last: OrderedDict[str, int], key: str, now_ms: int, after_ms: int, most: int) -> int:
    """Remember that `key` was seen; how many different ones the window holds, `most` at most."""
    last[key] = now_ms
    last.move_to_end(key)
    while len(last) > most or last[next(iter(last))] <= after_ms:
        last.popitem(last=False)
    return len(last)


def _sequence(dids: Mapping[str, int], did: str, most: int) -> int:
    """How many DIDs in a row around `did` are among `dids`; `most` is enough."""
    sign, digits = ("+", did[1:]) if did.startswith("+") else ("", did)
    if not (digits.isascii() and digits.isdigit()) or len(digits) > MAX_DID_CHARS:
        return 1
    number, run = int(digits), 1
    for step in (-1, 1):
        neighbour = number + step
        while run < most and neighbour >= 0 and f"{sign}{neighbour:0{len(digits)}d}" in dids:
            run, neighbour = run + 1, neighbour + step
    return run


# --- the detector ----------------------------------------------------------------------------------------------------


class Detector:
    """Looks at the calls of one tenant, one after the other; remembers what it must. `since_ms` is when it began."""

    def __init__(self, limits: Limits, since_ms: int) -> None:
        self.limits = limits
        self._callers: OrderedDict[str, _Caller] = OrderedDict()  # the least recent first, like the others
        self._ranges: OrderedDict[tuple[str, str], _Range] = OrderedDict()
        self._trunks: OrderedDict[str, _Flow] = OrderedDict()
        self._bucket_ms = max(limits.window_ms // BUCKETS, 1)
        self._first_bucket = since_ms // self._bucket_ms + 1  # the first that is seen as a whole
        self._dids_kept = max(limits.dids, limits.sequence * SEQUENCE_SPARE)

    @property
    def remembered(self) -> int:
        """How many callers, ranges and trunks are remembered."""
        return len(self._callers) + len(self._ranges) + len(self._trunks)

    def observe(self, fact: Fact, now_ms: int) -> list[Finding]:
        """The attacks that begin with this call. `now_ms` is never before that of the call before."""
        found: list[Finding] = []
        limits = self.limits
        if fact.caller and fact.reject != RejectCode.CALLER_BLOCKED:
            if limits.watches_callers:
                self._look_at_caller(fact, now_ms, found)
            if limits.range:
                self._look_at_range(fact, now_ms, found)
        if fact.trunk and limits.trunk_calls:
            self._look_at_trunk(fact, now_ms, found)
        return found

    def _finding(self, kind: AbuseKind, subject: str, count: int, limit: int, **detail: object) -> Finding:
        return Finding(kind, subject, count, limit, self.limits.window_ms // MS_PER_SECOND, detail)

    def _is_short(self, fact: Fact) -> bool:
        return fact.answered and fact.talk_ms < self.limits.short_ms

    def _look_at_caller(self, fact: Fact, now_ms: int, found: list[Finding]) -> None:
        limits, after_ms = self.limits, now_ms - self.limits.window_ms
        state = _touch(self._callers, fact.caller, _Caller, limits, now_ms)
        _trim(self._callers, MAX_CALLERS, after_ms)
        state.calls.append(now_ms)
        if self._is_short(fact):
            state.short.append(now_ms)
        if fact.reject in JUNK:
            state.junk.append(now_ms)
        dids = _note(state.dids, fact.did, now_ms, after_ms, self._dids_kept) if fact.did and self._dids_kept else 0
        in_a_row = _sequence(state.dids, fact.did, limits.sequence) if dids and limits.sequence else 0
        # (kind, what counts, threshold, what must have become less for the attack to be over)
        levels = (
            (AbuseKind.DID_SEQUENCE, in_a_row, limits.sequence, dids),
            (AbuseKind.MANY_DIDS, dids, limits.dids, dids),
            (AbuseKind.SHORT_CALLS, short := _fresh(state.short, after_ms), limits.short_calls, short),
            (AbuseKind.JUNK, junk := _fresh(state.junk, after_ms), limits.junk, junk),
            (AbuseKind.REDIALLING, calls := _fresh(state.calls, after_ms), limits.redials, calls),
        )
        state.alarms.difference_update([kind for kind, _, limit, left in levels if left * 2 <= limit])
        for kind, count, limit, _ in levels:
            if limit and count >= limit and kind not in state.alarms:
                if not state.alarms:
                    found.append(self._finding(kind, fact.caller, count, limit, did=fact.did, trunk=fact.trunk))
                state.alarms.add(kind)

    def _look_at_range(self, fact: Fact, now_ms: int, found: list[Finding]) -> None:
        caller = fact.caller
        if not caller.startswith("+") or len(caller) < LEAST_RANGE_CHARS or not fact.did:
            return
        limits, after_ms, prefix = self.limits, now_ms - self.limits.window_ms, caller[:-RANGE_DIGITS]
        state = _touch(self._ranges, (fact.did, prefix), _Range, limits, now_ms)
        _trim(self._ranges, MAX_RANGES, after_ms)
        count = _note(state.callers, caller, now_ms, after_ms, limits.range)
        if count * 2 <= limits.range:
            state.alarm = False
        elif count >= limits.range and not state.alarm:
            state.alarm = True
            pattern = prefix + "?" * RANGE_DIGITS
            found.append(
                self._finding(AbuseKind.CALLER_RANGE, pattern, count, limits.range, did=fact.did, trunk=fact.trunk)
            )

    def _look_at_trunk(self, fact: Fact, now_ms: int, found: list[Finding]) -> None:
        limits, bucket = self.limits, now_ms // self._bucket_ms
        flow = _touch(self._trunks, fact.trunk, _Flow, limits, now_ms)
        _trim(self._trunks, MAX_TRUNKS, now_ms - limits.window_ms * (1 + HISTORY_WINDOWS))
        flow.add(bucket, fact.answered, self._is_short(fact), fact.reject in JUNK)
        self._share(flow, fact, AbuseKind.TRUNK_SHORT_CALLS, flow.short, flow.answered, found)
        self._share(flow, fact, AbuseKind.TRUNK_JUNK, flow.junk, flow.calls, found)
        self._spike(flow, fact, bucket, found)

    def _share(self, flow: _Flow, fact: Fact, kind: AbuseKind, part: int, whole: int, found: list[Finding]) -> None:
        """Whether `part` is too much of `whole`, in percent."""
        limits = self.limits
        percent = limits.trunk_short_percent if kind is AbuseKind.TRUNK_SHORT_CALLS else limits.trunk_junk_percent
        if not percent:
            return
        if whole * 2 <= limits.trunk_calls or part * 200 <= percent * whole:
            flow.alarms.discard(kind)
        elif whole >= limits.trunk_calls and part * 100 >= percent * whole and kind not in flow.alarms:
            flow.alarms.add(kind)
            found.append(self._finding(kind, fact.trunk, part, whole * percent // 100, of=whole, percent=percent))

    def _spike(self, flow: _Flow, fact: Fact, bucket: int, found: list[Finding]) -> None:
        """Whether the window has `factor` times the calls of an average window before it."""
        limits, kind = self.limits, AbuseKind.TRUNK_SPIKE
        seen = min(bucket - BUCKETS + 1 - self._first_bucket, HISTORY_WINDOWS * BUCKETS)
        if not limits.spike_factor or seen < LEAST_HISTORY * BUCKETS:
            return
        now, usual = flow.calls * seen, limits.spike_factor * flow.calls_before * BUCKETS  # both by `seen`
        if flow.calls * 2 <= limits.trunk_calls or now * 2 <= usual:
            flow.alarms.discard(kind)
        elif flow.calls >= limits.trunk_calls and now >= usual and kind not in flow.alarms:
            flow.alarms.add(kind)
            limit = max(usual // seen, limits.trunk_calls)
            average = flow.calls_before * BUCKETS // seen
            found.append(
                self._finding(kind, fact.trunk, flow.calls, limit, average=average, factor=limits.spike_factor)
            )
