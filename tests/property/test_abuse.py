"""Abuse in random streams of calls, against a reference that remembers everything; nothing below the thresholds, more
where the thresholds are lower, and memory that is bounded whatever comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capconduit.domain import abuse
from capconduit.domain.abuse import Detector, Fact, Finding, Limits
from capconduit.vocab import AbuseKind, RejectCode
from fastagi.abuse import CALLERS_MAX, CallerWindow

WINDOW_MS = 10_000
OFF = Limits(
    window_ms=WINDOW_MS, dids=0, sequence=0, redials=0, short_ms=6_000, short_calls=0, junk=0, range=0, trunk_calls=0,
    trunk_short_percent=0, trunk_junk_percent=0, spike_factor=0,
)  # fmt: skip
CALLERS = ["+12125550101", "+12125550102", "+12125550103", "1001"]
DIDS = [f"+1800555{number:04d}" for number in (98, 99, 100, 101, 102, 200, 201)]
REJECTS = ["", "did_unknown", "cap_reached", "caller_blocked", "balance_exhausted", "cps_limit"]


MANY = settings(max_examples=200, deadline=None)


class At(NamedTuple):
    """A call at an instant."""

    ms: int
    fact: Fact


FACTS = st.builds(
    Fact,
    caller=st.sampled_from(CALLERS),
    did=st.sampled_from(DIDS),
    trunk=st.just("carrier"),
    answered=st.booleans(),
    talk_ms=st.sampled_from([0, 5_999, 6_000, 60_000]),
    reject=st.sampled_from(REJECTS),
)
STEPS_MS = st.one_of(st.integers(0, 400), st.sampled_from([0, 0, 2_500, 5_000, 9_999, 10_000, 10_001]))


@st.composite
def streams(draw: st.DrawFn) -> list[At]:
    calls, now_ms = [], 0
    for step_ms, fact in draw(st.lists(st.tuples(STEPS_MS, FACTS), min_size=1, max_size=60)):
        now_ms += step_ms
        calls.append(At(now_ms, fact))
    return calls


LIMITS = st.builds(
    Limits,
    window_ms=st.just(WINDOW_MS),
    dids=st.sampled_from([0, 2, 3, 4]),
    sequence=st.sampled_from([0, 2, 3, 4]),
    redials=st.sampled_from([0, 2, 5, 8]),
    short_ms=st.just(6_000),
    short_calls=st.sampled_from([0, 2, 4]),
    junk=st.sampled_from([0, 2, 4]),
    range=st.sampled_from([0, 2, 3]),
    trunk_calls=st.just(0),
    trunk_short_percent=st.just(0),
    trunk_junk_percent=st.just(0),
    spike_factor=st.just(0),
)


def found(stream: Sequence[At], limits: Limits) -> list[tuple[int, Finding]]:
    """What a detector finds, with the number of the call that it was found at."""
    detector = Detector(limits, 0)
    return [(number, one) for number, call in enumerate(stream) for one in detector.observe(call.fact, call.ms)]


# --- the reference ---------------------------------------------------------------------------------------------------


def longest_run(dids: set[str], around: str) -> int:
    numbers = {int(did) for did in dids}
    low = high = int(around)
    while low - 1 in numbers:
        low -= 1
    while high + 1 in numbers:
        high += 1
    return high - low + 1


def reached(past: Sequence[At], limits: Limits) -> dict[AbuseKind, tuple[int, int, int]]:
    """(count, threshold, what is left of it) of each kind for the caller of the last call, by looking at everything."""
    now_ms, caller = past[-1].ms, past[-1].fact.caller
    own = [
        c.fact for c in past
        if c.fact.caller == caller and c.ms > now_ms - limits.window_ms and c.fact.reject != RejectCode.CALLER_BLOCKED
    ]  # fmt: skip
    dids = {fact.did for fact in own}
    short = sum(fact.answered and fact.talk_ms < limits.short_ms for fact in own)
    junk = sum(fact.reject in abuse.JUNK for fact in own)
    run = longest_run(dids, past[-1].fact.did)
    return {
        AbuseKind.DID_SEQUENCE: (run, limits.sequence, len(dids)),
        AbuseKind.MANY_DIDS: (len(dids), limits.dids, len(dids)),
        AbuseKind.SHORT_CALLS: (short, limits.short_calls, short),
        AbuseKind.JUNK: (junk, limits.junk, junk),
        AbuseKind.REDIALLING: (len(own), limits.redials, len(own)),
    }


def expected(stream: Sequence[At], limits: Limits) -> list[tuple[int, AbuseKind, str]]:
    alarms: dict[str, set[AbuseKind]] = {}
    told = []
    for number, call in enumerate(stream):
        if call.fact.reject == RejectCode.CALLER_BLOCKED:
            continue
        own = alarms.setdefault(call.fact.caller, set())
        if not any(
            c.fact.caller == call.fact.caller and c.fact.reject != RejectCode.CALLER_BLOCKED
            and c.ms > call.ms - limits.window_ms
            for c in stream[:number]
        ):  # fmt: skip
            own.clear()
        levels = reached(stream[: number + 1], limits)
        own -= {kind for kind, (_, limit, left) in levels.items() if left * 2 <= limit}
        for kind, (count, limit, _) in levels.items():
            if limit and count >= limit and kind not in own:
                if not own:
                    told.append((number, kind, call.fact.caller))
                own.add(kind)
    return told


# --- callers ---------------------------------------------------------------------------------------------------------


@MANY
@given(streams(), LIMITS)
def test_what_is_found_is_what_a_memory_of_everything_finds(stream: list[At], limits: Limits) -> None:
    of_callers = [(number, f.kind, f.caller) for number, f in found(stream, limits) if f.caller]
    assert of_callers == expected(stream, limits)


@MANY
@given(streams(), LIMITS)
def test_nothing_is_found_below_the_thresholds_in_any_order(stream: list[At], limits: Limits) -> None:
    """What each caller does in any window is counted over all calls; the thresholds are one more."""

    def most(calls: Sequence[At]) -> int:
        return max((sum(a.ms - WINDOW_MS < b.ms <= a.ms for b in calls) for a in calls), default=0)

    calls = max(most([c for c in stream if c.fact.caller == caller]) for caller in CALLERS)
    above = max(calls + 1, 2)
    quiet = replace(limits, dids=above, sequence=above, redials=above, short_calls=above, junk=above, range=0)
    assert found(stream, quiet) == []
    many = replace(OFF, range=len(CALLERS) + 1)
    assert found(stream, many) == []


@MANY
@given(streams(), LIMITS, st.sampled_from(["dids", "sequence", "redials", "short_calls", "junk"]))
def test_a_lower_threshold_finds_no_later(stream: list[At], limits: Limits, name: str) -> None:
    strict = replace(OFF, **{name: 2})
    loose = replace(OFF, **{name: getattr(limits, name) or 3})
    first: dict[str, int] = {}
    for number, finding in found(stream, strict):
        first.setdefault(finding.subject, number)
    for number, finding in found(stream, loose):
        assert first[finding.subject] <= number


@MANY
@given(streams(), LIMITS)
def test_other_callers_change_nothing(stream: list[At], limits: Limits) -> None:
    own = [call for call in stream if call.fact.caller == CALLERS[0]]
    alone = [f for _, f in found(own, limits) if f.caller]
    assert [f for _, f in found(stream, limits) if f.caller == CALLERS[0]] == alone


@MANY
@given(streams(), LIMITS)
def test_more_junk_hides_nothing(stream: list[At], limits: Limits) -> None:
    """Who is found is found all the same when further calls of the same caller come among them."""
    doubled = [call for call in stream for _ in range(2)]
    callers = {f.caller for _, f in found(stream, limits) if f.caller}
    assert callers <= {f.caller for _, f in found(doubled, limits)}


KINDS = {
    AbuseKind.MANY_DIDS: (replace(OFF, dids=10), lambda n: Fact(CALLERS[0], f"+1800555{n * 7 % 1000:04d}")),
    AbuseKind.DID_SEQUENCE: (replace(OFF, sequence=5), lambda n: Fact(CALLERS[0], f"{n:05d}")),
    AbuseKind.REDIALLING: (replace(OFF, redials=30), lambda _n: Fact(CALLERS[0], DIDS[0])),
    AbuseKind.SHORT_CALLS: (replace(OFF, short_calls=10), lambda _n: Fact(CALLERS[0], DIDS[0], "", True, 5_999)),
    AbuseKind.JUNK: (replace(OFF, junk=20), lambda _n: Fact(CALLERS[0], DIDS[0], reject="did_unknown")),
    AbuseKind.CALLER_RANGE: (replace(OFF, range=10), lambda n: Fact(f"+121255501{n % 100:02d}", DIDS[0])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_that_lasts_is_one_finding_and_one_that_comes_back_another(kind: AbuseKind) -> None:
    limits, make = KINDS[kind]
    attack = [At(number * 100, make(number)) for number in range(3_000)]
    again = [At(call.ms + 300_000 + WINDOW_MS, call.fact) for call in attack]
    assert [f.kind for _, f in found(attack, limits)] == [kind]
    assert [f.kind for _, f in found([*attack, *again], limits)] == [kind, kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_slower_than_the_thresholds_is_never_found(kind: AbuseKind) -> None:
    limits, make = KINDS[kind]
    threshold = max(limits.dids, limits.sequence, limits.redials, limits.short_calls, limits.junk, limits.range)
    every_ms = -(-WINDOW_MS // (threshold - 1))
    assert found([At(number * every_ms, make(number)) for number in range(500)], limits) == []


@pytest.mark.parametrize("kind", KINDS)
def test_calls_a_window_apart_are_in_no_window_together(kind: AbuseKind) -> None:
    limits, make = KINDS[kind]
    (name,) = (n for n in ("dids", "sequence", "redials", "short_calls", "junk", "range") if getattr(limits, n))
    two = replace(OFF, **{name: 2})
    calls = [make(number) for number in range(20)]
    assert found([At(number * WINDOW_MS, fact) for number, fact in enumerate(calls)], two) == []
    assert found([At(number * (WINDOW_MS - 1), fact) for number, fact in enumerate(calls)], two)


def test_an_attack_of_every_kind_at_once_is_one_finding() -> None:
    limits = replace(OFF, dids=10, sequence=5, redials=30, short_calls=10, junk=20)
    scan = [At(number * 10, Fact(CALLERS[0], f"{number:04d}", reject="did_unknown")) for number in range(1_000)]
    (one,) = found(scan, limits)
    assert (one[1].kind, one[1].caller, one[1].count, one[1].limit) == (AbuseKind.DID_SEQUENCE, CALLERS[0], 5, 5)


def test_a_blocked_caller_who_goes_on_is_found_again_only_after_the_block() -> None:
    limits = replace(OFF, redials=5)
    calls = [Fact(CALLERS[0], DIDS[0])] * 5
    blocked = [Fact(CALLERS[0], DIDS[0], reject="caller_blocked")] * 300
    stream = [At(number * 100, fact) for number, fact in enumerate([*calls, *blocked, *calls])]
    assert [number for number, _ in found(stream, limits)] == [4, 309]


def test_a_caller_without_a_number_is_nobody() -> None:
    limits = replace(OFF, dids=2, redials=2, junk=2, short_calls=2, range=2)
    assert found([At(number, Fact("", DIDS[number % 7], "", True, 0)) for number in range(500)], limits) == []


# --- trunks ----------------------------------------------------------------------------------------------------------


def minutes(*calls_per_minute: int) -> list[At]:
    """So many calls in each minute, evenly."""
    return [
        At(minute * 60_000 + number * 60_000 // count, Fact("", "", "carrier", True, 60_000))
        for minute, count in enumerate(calls_per_minute)
        for number in range(count)
    ]


MINUTE = replace(OFF, window_ms=60_000, trunk_calls=100, spike_factor=5)


def kinds(stream: Sequence[At], limits: Limits) -> list[AbuseKind]:
    return [finding.kind for _, finding in found(stream, limits)]


def test_a_spike_is_one_finding_with_its_average() -> None:
    ((_, spike),) = found(minutes(*[100] * 15, 1_000, 1_000), MINUTE)
    assert (spike.kind, spike.subject, spike.caller) == (AbuseKind.TRUNK_SPIKE, "carrier", "")
    assert 495 <= spike.count <= 505
    assert 90 <= spike.detail["average"] <= 110
    assert spike.window_s == 60


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 300), st.integers(4, 20))
def test_traffic_that_grows_less_than_the_factor_is_no_spike(calls: int, before: int) -> None:
    assert kinds(minutes(*[calls] * before, calls * 3, calls * 4), MINUTE) == []


def test_a_daemon_that_began_a_moment_ago_knows_no_spike() -> None:
    assert kinds(minutes(1, 5_000, 5_000), MINUTE) == []


def test_few_calls_are_no_spike_however_few_there_were_before() -> None:
    assert kinds(minutes(*[1] * 20, 99), MINUTE) == []
    assert kinds(minutes(*[1] * 20, 200), MINUTE) == [AbuseKind.TRUNK_SPIKE]


@pytest.mark.parametrize("share", [30, 49, 51, 100])
def test_a_trunk_is_told_of_from_its_share_on_and_once(share: int) -> None:
    percent = replace(MINUTE, spike_factor=0, trunk_short_percent=50, trunk_junk_percent=50)
    marks = [(number * share) % 100 < share for number in range(2_000)]  # spread evenly
    junk = [At(n * 200, Fact("", "", "t", reject="did_unknown" if mark else "")) for n, mark in enumerate(marks)]
    short = [At(n * 200, Fact("", "", "t", True, 5_999 if mark else 6_000)) for n, mark in enumerate(marks)]
    assert kinds(junk, percent) == ([AbuseKind.TRUNK_JUNK] if share > 50 else [])
    assert kinds(short, percent) == ([AbuseKind.TRUNK_SHORT_CALLS] if share > 50 else [])


# --- memory ----------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_callers_are_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abuse, "MAX_CALLERS", 100)
    monkeypatch.setattr(abuse, "MAX_RANGES", 50)
    monkeypatch.setattr(abuse, "MAX_TRUNKS", 10)
    limits = replace(OFF, dids=10, sequence=5, redials=30, short_calls=10, junk=20, range=10, trunk_calls=200)
    detector = Detector(limits, 0)
    for number in range(100_000):
        detector.observe(Fact(f"+1{number * 7919 % 10**10:010d}", DIDS[0], f"trunk{number % 50}", True, 1_000), 1)
        assert detector.remembered <= 160


def test_the_one_who_calls_again_and_again_is_found_among_a_hundred_thousand_others() -> None:
    detector = Detector(replace(OFF, redials=30), 0)
    found_at = []
    for number in range(100_000):
        detector.observe(Fact(f"+1{number:010d}", DIDS[0]), number // 100)
        if number % 100 == 0 and detector.observe(Fact(CALLERS[3], DIDS[0]), number // 100):
            found_at.append(number)
    assert found_at == [2_900]


def test_who_was_not_seen_for_a_window_is_forgotten() -> None:
    detector = Detector(replace(OFF, redials=30, range=5), 0)
    for number in range(1_000):
        detector.observe(Fact(f"+1{number * 7919 % 10**10:010d}", DIDS[0]), 0)
    detector.observe(Fact(CALLERS[0], DIDS[0]), WINDOW_MS)
    assert detector.remembered == 2


# --- how often a caller calls ----------------------------------------------------------------------------------------


@MANY
@given(st.lists(st.tuples(STEPS_MS, st.sampled_from(CALLERS)), max_size=80), st.sampled_from([10, 1_000, 10_000]))
def test_a_caller_is_counted_over_the_window_and_a_tenth_of_it(steps: list[tuple[int, str]], window_ms: int) -> None:
    window, past, now_ms = CallerWindow(window_ms), [], 0
    for step_ms, caller in steps:
        now_ms += step_ms
        past.append((now_ms, caller))
        own = [at_ms for at_ms, who in past if who == caller]
        least = sum(at_ms > now_ms - window_ms for at_ms in own)
        most = sum(at_ms > now_ms - window_ms - window_ms // 10 for at_ms in own)
        assert least <= window.count(caller, now_ms) <= most


def test_a_hundred_thousand_callers_leave_bounded_counts() -> None:
    window = CallerWindow(10_000)
    counts = set()
    for number in range(100_000):
        window.count(f"+1{number:010d}", number // 100)
        counts.add(len(window))
    assert max(counts) == len(window) == CALLERS_MAX
    assert window.count("+10000099999", 1_000) == 2
    assert window.count("+10000000000", 1_000) == 1, "the first was forgotten"
