"""The duplicate window: the same caller in the same campaign, again within a while."""

from __future__ import annotations

from typing import Any

import pytest

from capconduit.domain.calls import DialAnswer, SettleReport
from capconduit.domain.trace import load_trace
from capconduit.vocab import DialStatus, RejectCode
from tests.unit.estate_builder import NODE, PureTill, attempt_of, route_of, settle_of, small_estate

WINDOW_MS = 600_000


def till_of(window_ms: int = WINDOW_MS, **campaign: Any) -> PureTill:
    return PureTill(small_estate(duplicate_window_ms=window_ms, **campaign))


def duplicate(till: PureTill, name: str, **fields: Any) -> None:
    answer = till.reject(route_of(name, **fields))
    assert (answer.code, answer.cause, answer.sip) == (RejectCode.DUPLICATE_CALLER, 21, 403)


def test_a_caller_whose_call_lives_is_refused() -> None:
    till = till_of()
    till.dial(route_of("a"))
    duplicate(till, "b")
    check = load_trace(till.cdr("b").trace)[-1]
    call = till.call("a")
    assert call is not None
    assert (check.name, check.detail) == (
        "caller.duplicate",
        {"window_s": 600, "last_call": call.id, "ago_s": 0},
    )


def test_a_caller_who_was_connected_is_refused_until_the_window_is_over() -> None:
    till = till_of()
    till.dial(route_of("a"))
    till.ask(settle_of("a", talk_ms=1_000))
    till.clock.pass_ms(WINDOW_MS - 1)
    duplicate(till, "b")
    till.clock.pass_ms(1)
    till.dial(route_of("c"))


def test_a_caller_who_was_not_connected_may_come_again_at_once() -> None:
    till = till_of()
    till.dial(route_of("left"))
    till.ask(settle_of("left"))
    till.dial(route_of("failed"))
    till.reject(attempt_of("failed"))
    duplicate(till, "too-early")  # the channel still lives
    till.ask(settle_of("failed", dialstatus=DialStatus.BUSY))
    till.dial(route_of("late"))
    till.ask(SettleReport(node=NODE, uniqueid="late", reject=RejectCode.ENGINE_TIMEOUT, witness="late"))
    till.dial(route_of("again"))


def test_a_refused_call_does_not_begin_the_window_anew() -> None:
    till = till_of()
    till.dial(route_of("a"))
    till.ask(settle_of("a", talk_ms=1_000))
    for i in range(5):
        till.clock.pass_ms(WINDOW_MS // 5 - 1)
        duplicate(till, f"b{i}")
    till.clock.pass_ms(5)
    till.dial(route_of("c"))


def test_two_at_once_in_one_batch_are_one_call() -> None:
    till = till_of()
    answers = till.batch([route_of("a"), route_of("b"), route_of("c")])
    assert [isinstance(a, DialAnswer) for a in answers] == [True, False, False]


def test_an_end_and_a_beginning_in_one_batch_are_seen_in_their_order() -> None:
    till = till_of()
    till.dial(route_of("a"))
    first, _, third = till.batch([route_of("b"), settle_of("a"), route_of("c")])
    assert [isinstance(a, DialAnswer) for a in (first, third)] == [False, True]
    duplicate(till, "d")


def test_an_end_that_is_told_late_does_not_forget_a_newer_call() -> None:
    till = till_of(window_ms=1_000)
    till.dial(route_of("old"))
    till.clock.pass_ms(1_000)
    till.dial(route_of("new"))
    till.ask(settle_of("old"))
    duplicate(till, "another")


@pytest.mark.parametrize("ani", ["", "anonymous", "Restricted"])
def test_callers_without_a_number_are_not_the_same_caller(ani: str) -> None:
    till = till_of()
    till.dial(route_of("a", ani=ani))
    till.dial(route_of("b", ani=ani))


def test_one_number_in_two_spellings_is_one_caller_and_what_is_no_number_is_compared_as_it_came() -> None:
    till = till_of()
    till.dial(route_of("a", ani="+12125550147"))
    duplicate(till, "b", ani="(212) 555-0147")
    till.dial(route_of("c", ani="+12125550148"))
    till.dial(route_of("d", ani="1001"))
    duplicate(till, "e", ani=" 1001 ")
    till.dial(route_of("f", ani="1002"))


def test_without_a_window_callers_may_come_as_they_like() -> None:
    till = till_of(window_ms=0)
    till.dial(route_of("a"))
    till.dial(route_of("b"))
    assert till.books.callers == {}


def test_each_campaign_has_its_own_callers() -> None:
    builder = small_estate(duplicate_window_ms=WINDOW_MS)
    builder.campaign("wind", duplicate_window_ms=WINDOW_MS)
    builder.did("+18005550101", "wind")
    builder.rule("wind", "buyer1")
    till = PureTill(builder)
    till.dial(route_of("a"))
    till.dial(route_of("b", dnid="+18005550101"))
    duplicate(till, "c")


@pytest.mark.parametrize("back_ms", [WINDOW_MS, 24 * 3_600_000, 365 * 86_400_000])
def test_a_clock_that_is_set_back_refuses_nobody_for_longer_than_the_window(back_ms: int) -> None:
    till = till_of()
    till.dial(route_of("a"))
    till.ask(settle_of("a", talk_ms=1_000))
    till.clock.pass_ms(-back_ms)
    till.dial(route_of("b"))


def test_the_same_channel_asking_again_is_no_duplicate() -> None:
    till = till_of()
    assert till.ask(route_of("a")) == till.ask(route_of("a"))
