"""The circuit breaker: which ends of a Dial count, when a target rests, and that only one call tries it afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, SettleReport
from capconduit.domain.routing import PROBE_MOST_MS
from capconduit.domain.trace import load_trace
from capconduit.vocab import DialStatus, EventKind, RejectCode
from tests.unit.estate_builder import NODE, PureTill, answer_of, attempt_of, route_of, settle_of, small_estate

REST_MS = 60_000


def till_of(failures: int = 3, **campaign: Any) -> PureTill:
    """One target that is rested for a minute after `failures` failures in a row."""
    builder = small_estate(**campaign)
    builder.setting("breaker_failures", failures)
    builder.setting("breaker_rest_s", REST_MS // 1_000)
    return PureTill(builder)


def fail(till: PureTill, name: str, status: DialStatus = DialStatus.CHANUNAVAIL) -> None:
    """A call whose one Dial ends so."""
    assert isinstance(till.ask(route_of(name)), DialAnswer), name
    till.ask(attempt_of(name, dialstatus=status, cause=20))
    till.ask(settle_of(name, dialstatus=status))


def rested(till: PureTill) -> None:
    for i in range(3):
        fail(till, f"failure{i}")
    assert till.state("buyer1").rested_until_ms == till.clock.now_ms() + REST_MS


def half_open(till: PureTill) -> None:
    rested(till)
    till.clock.pass_ms(REST_MS)


def skipped(till: PureTill, name: str) -> str:
    """Why the only target was passed by."""
    answer = till.reject(route_of(name))
    assert answer.code is RejectCode.TARGETS_ALL_CLOSED
    return str(load_trace(till.cdr(name).trace)[-1].detail["why"])


# --- into the rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [DialStatus.CHANUNAVAIL, DialStatus.CONGESTION, DialStatus.NOANSWER])
def test_failures_in_a_row_rest_a_target_for_exactly_its_rest(status: DialStatus) -> None:
    till = till_of()
    for i in range(3):
        fail(till, f"u{i}", status)
    assert skipped(till, "resting") == "rested after 3 failures"
    till.clock.pass_ms(REST_MS - 1)
    assert skipped(till, "resting-still") == "rested after 3 failures"
    till.clock.pass_ms(1)
    till.dial(route_of("tries"))


def test_the_rest_is_told_once_with_its_numbers() -> None:
    till = till_of()
    began_ms = till.clock.now_ms()
    rested(till)
    assert till.told(EventKind.TARGET_RESTED) == [
        {"target": "buyer1", "failures": 3, "until_ms": began_ms + REST_MS},
    ]


def test_an_answer_between_failures_begins_the_row_anew() -> None:
    till = till_of()
    fail(till, "a")
    fail(till, "b")
    till.dial(route_of("c"))
    till.ask(answer_of("c", answered_ms=till.clock.now_ms()))
    till.ask(settle_of("c", talk_ms=1_000))
    fail(till, "d")
    fail(till, "e")
    till.dial(route_of("f"))
    assert till.told(EventKind.TARGET_RESTED) == []


def test_an_answer_that_only_the_settlement_tells_begins_the_row_anew() -> None:
    till = till_of()
    fail(till, "a")
    fail(till, "b")
    till.dial(route_of("c"))
    till.ask(settle_of("c", talk_ms=1_000))
    assert till.state("buyer1").failures == 0


def test_a_busy_target_works() -> None:
    """It was reached and said so: it breaks the row, and is never rested for it."""
    till = till_of()
    for i in range(6):
        fail(till, f"busy{i}", DialStatus.BUSY)
    fail(till, "a")
    fail(till, "b")
    fail(till, "busy", DialStatus.BUSY)
    fail(till, "c")
    fail(till, "d")
    till.dial(route_of("e"))


def test_a_caller_who_leaves_says_nothing_about_the_target() -> None:
    till = till_of()
    fail(till, "a")
    fail(till, "b")
    till.dial(route_of("left"))
    till.ask(settle_of("left"))
    assert till.state("buyer1").failures == 2
    fail(till, "c")
    assert skipped(till, "d")


def test_with_the_setting_at_zero_no_target_is_rested() -> None:
    till = till_of(failures=0)
    for i in range(12):
        fail(till, f"u{i}")
    till.dial(route_of("on"))


def test_dials_that_were_under_way_when_the_rest_began_neither_lengthen_nor_retell_it() -> None:
    till = till_of()
    for i in range(8):
        till.dial(route_of(f"u{i}"))
    for i in range(3):
        till.ask(attempt_of(f"u{i}", dialstatus=DialStatus.NOANSWER))
    until_ms = till.state("buyer1").rested_until_ms
    till.clock.pass_ms(10_000)
    for i in range(3, 8):
        till.ask(attempt_of(f"u{i}", dialstatus=DialStatus.NOANSWER))
    assert till.state("buyer1").rested_until_ms == until_ms
    assert len(till.told(EventKind.TARGET_RESTED)) == 1


def test_other_targets_take_the_calls_of_one_that_rests() -> None:
    builder = small_estate()
    builder.setting("breaker_failures", 1)
    builder.target("buyer2")
    till = PureTill(builder)
    assert till.dial(route_of("a")).target == "buyer1"
    assert till.dial(attempt_of("a", dialstatus=DialStatus.CHANUNAVAIL)).target == "buyer2"
    answer = till.dial(route_of("b"))
    assert answer.target == "buyer2"
    call = till.call("b")
    assert call is not None
    skips = [c.detail for c in load_trace(call.trace) if c.name == "target"]
    assert skips == [{"target": "buyer1", "why": "rested after 1 failures"}]


# --- the probe -------------------------------------------------------------------------------------------------------


def test_after_the_rest_one_call_tries_it_and_no_other() -> None:
    till = till_of()
    half_open(till)
    till.dial(route_of("probe"))
    assert skipped(till, "second") == "rested; one call tries it"
    one, other = till.batch([route_of("third"), route_of("fourth")])
    assert not isinstance(one, DialAnswer)
    assert not isinstance(other, DialAnswer)


def test_two_calls_in_one_batch_are_one_probe() -> None:
    till = till_of()
    half_open(till)
    answers = till.batch([route_of(f"u{i}") for i in range(5)])
    assert [isinstance(a, DialAnswer) for a in answers] == [True, False, False, False, False]


def test_a_probe_that_is_answered_revives_and_that_is_told() -> None:
    till = till_of()
    half_open(till)
    till.dial(route_of("probe"))
    till.ask(answer_of("probe", answered_ms=till.clock.now_ms()))
    assert till.told(EventKind.TARGET_REVIVED) == [{"target": "buyer1", "failures": 3}]
    for i in range(5):
        till.dial(route_of(f"u{i}"))
    till.ask(settle_of("probe", talk_ms=5_000))
    assert len(till.told(EventKind.TARGET_REVIVED)) == 1
    state = till.state("buyer1")
    assert (state.failures, state.rested_until_ms, state.probe_until_ms) == (0, 0, 0)


def test_a_probe_whose_answer_only_the_settlement_tells_revives_and_that_is_told() -> None:
    till = till_of()
    half_open(till)
    till.dial(route_of("probe"))
    till.ask(settle_of("probe", talk_ms=5_000))
    assert till.told(EventKind.TARGET_REVIVED) == [{"target": "buyer1", "failures": 3}]


def test_a_probe_that_is_busy_revives() -> None:
    till = till_of()
    half_open(till)
    fail(till, "probe", DialStatus.BUSY)
    assert len(till.told(EventKind.TARGET_REVIVED)) == 1
    assert all(isinstance(a, DialAnswer) for a in till.batch([route_of("a"), route_of("b")]))


def test_a_probe_that_fails_rests_again_and_that_is_told_again() -> None:
    till = till_of()
    half_open(till)
    fail(till, "probe")
    assert till.state("buyer1").rested_until_ms == till.clock.now_ms() + REST_MS
    assert [told["failures"] for told in till.told(EventKind.TARGET_RESTED)] == [3, 4]
    assert skipped(till, "a") == "rested after 4 failures"


def test_a_probe_whose_caller_leaves_makes_room_for_another() -> None:
    till = till_of()
    half_open(till)
    till.dial(route_of("probe"))
    till.ask(settle_of("probe"))
    till.dial(route_of("next"))
    assert skipped(till, "other") == "rested; one call tries it"


def test_a_probe_that_came_too_late_makes_room_for_another() -> None:
    till = till_of()
    half_open(till)
    till.dial(route_of("probe"))
    till.ask(SettleReport(node=NODE, uniqueid="probe", reject=RejectCode.ENGINE_TIMEOUT, witness="late"))
    till.dial(route_of("next"))


def test_a_probe_of_which_nobody_hears_any_more_is_followed_by_another() -> None:
    """Its Dial rings 20 s and its lease is 15 s longer."""
    till = till_of()
    half_open(till)
    till.dial(route_of("lost"))
    till.clock.pass_ms(34_999)
    skipped(till, "waits")
    till.clock.pass_ms(1)
    till.dial(route_of("second"))
    skipped(till, "waits-again")
    till.ask(settle_of("lost"))  # found at last: not the end of the second
    skipped(till, "waits-still")
    till.ask(settle_of("second", talk_ms=1_000))
    till.dial(route_of("well"))


def test_an_older_dial_that_ends_while_a_probe_rings_is_not_the_probe() -> None:
    till = till_of()
    for name in ("old-busy", "old-failing", "old-left"):
        till.dial(route_of(name))
    half_open(till)
    till.dial(route_of("probe"))
    till.ask(settle_of("old-left"))
    skipped(till, "second")
    till.ask(attempt_of("old-failing", dialstatus=DialStatus.NOANSWER))
    skipped(till, "third")
    assert len(till.told(EventKind.TARGET_RESTED)) == 1


def test_a_rest_that_another_clock_wrote_far_ahead_counts_for_nothing() -> None:
    till = till_of()
    rested(till)
    till.clock.pass_ms(-24 * 3_600_000)
    till.dial(route_of("tries"))
    skipped(till, "second")
    till.clock.pass_ms(-PROBE_MOST_MS - 60_000)
    till.dial(route_of("tries-too"))


def test_a_shorter_rest_of_the_setting_ends_one_that_is_longer() -> None:
    till = till_of()
    rested(till)
    till.builder.settings[-1] = replace(till.builder.settings[-1], value="10")
    till.rebuild()
    till.dial(route_of("tries"))


# --- how many are under way ------------------------------------------------------------------------------------------


def test_attempts_under_way_are_counted_once_each_whatever_is_told_twice() -> None:
    till = till_of(max_attempts=1)
    for i in range(4):
        till.dial(route_of(f"u{i}"))
    assert till.state("buyer1").active == till.active("buyer1") == 4
    for _ in range(2):
        till.ask(attempt_of("u0"))
        till.ask(settle_of("u0", dialstatus=DialStatus.BUSY))
        till.ask(settle_of("u1"))
        till.ask(answer_of("u2", answered_ms=till.clock.now_ms()))
        till.ask(settle_of("u2", talk_ms=1_000))
    assert till.state("buyer1").active == till.active("buyer1") == 1
    till.ask(settle_of("u3"))
    assert till.state("buyer1").active == till.active("buyer1") == 0


def test_idle_is_counted_from_the_last_answered_end_and_not_from_a_failure() -> None:
    till = till_of(max_attempts=1)
    assert till.state("buyer1").idle_since_ms == 0
    fail(till, "failed")
    till.dial(route_of("left"))
    till.ask(settle_of("left"))
    assert till.state("buyer1").idle_since_ms == 0
    till.dial(route_of("talked"))
    till.clock.pass_ms(7_000)
    till.ask(settle_of("talked", talk_ms=5_000))
    ended_ms = till.clock.now_ms()
    till.clock.pass_ms(7_000)
    fail(till, "failed-later")
    assert till.state("buyer1").idle_since_ms == ended_ms


def test_an_end_that_is_told_late_does_not_make_a_target_idle_for_longer() -> None:
    till = till_of()
    till.dial(route_of("late"))
    till.dial(route_of("prompt"))
    till.clock.pass_ms(60_000)
    till.ask(settle_of("prompt", talk_ms=1_000))
    ended_ms = till.clock.now_ms()
    till.ask(settle_of("late", talk_ms=1_000, ended_ms=ended_ms - 30_000))
    assert till.state("buyer1").idle_since_ms == ended_ms


def test_an_end_in_the_future_is_forgotten_when_the_clock_is_set_right() -> None:
    till = till_of()
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    till.clock.pass_ms(24 * 3_600_000)
    till.ask(settle_of("a", talk_ms=1_000))
    till.clock.pass_ms(-24 * 3_600_000)
    till.ask(settle_of("b", talk_ms=1_000))
    assert till.state("buyer1").idle_since_ms == till.clock.now_ms()
