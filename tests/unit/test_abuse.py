"""How often a caller calls as part of the decision, and that whoever watches for abuse never touches a call."""

from __future__ import annotations

from typing import Any

import pytest

from capconduit.domain.abuse import LEAST_BLOCK_MS, MAX_COUNTED, MOST_BLOCK_MS, block_ms_of, limits_of
from capconduit.domain.calls import RouteRequest
from capconduit.domain.settings import Settings
from capconduit.domain.trace import load_trace
from capconduit.errors import DatabaseError
from capconduit.units import format_span
from capconduit.vocab import RejectCode
from fastagi import abuse
from fastagi.abuse import AbuseWatch
from tests.unit.estate_builder import CALLER, EstateBuilder, FakeClock, PureTill, route_of, small_estate


def limited(limit: int = 3, window_s: int = 10) -> EstateBuilder:
    builder = small_estate()
    builder.setting("caller_max_calls", limit)
    builder.setting("caller_window_s", window_s)
    return builder


def rates(till: PureTill, uniqueid: str = "u1") -> list[dict[str, Any]]:
    return [c.detail | {"ok": c.ok} for c in load_trace(till.cdr(uniqueid).trace) if c.name == "caller.rate"]


# --- the decision ----------------------------------------------------------------------------------------------------


def test_a_caller_above_the_limit_is_rejected_and_the_trace_has_the_numbers() -> None:
    till = PureTill(limited())
    answer = till.reject(route_of(caller_calls=4))
    assert (answer.code, answer.reason, answer.cause, answer.sip) == (RejectCode.CPS_LIMIT, "cps_limit", 31, 480)
    assert rates(till) == [{"calls": 4, "limit": 3, "window_s": 10, "ok": False}]
    assert load_trace(till.cdr().trace)[-1].name == "caller.rate"
    assert (till.cdr().reject_code, till.cdr().reject_reason) == ("cps_limit", "cps_limit")


def test_a_caller_at_the_limit_is_let_through() -> None:
    till = PureTill(limited())
    till.dial(route_of(caller_calls=3))


@pytest.mark.parametrize("limit", [0, 3])
def test_where_nobody_counted_or_nothing_is_limited_there_is_no_such_check(limit: int) -> None:
    """`capconduit route` asks without a count."""
    till = PureTill(limited(limit))
    till.dial(route_of(caller_calls=None if limit else 1_000))
    call = till.call()
    assert call is not None
    assert "caller.rate" not in call.trace


def test_a_block_is_told_rather_than_the_rate() -> None:
    builder = limited()
    builder.block(CALLER)
    assert PureTill(builder).reject(route_of(caller_calls=99)).code is RejectCode.CALLER_BLOCKED


def test_the_rate_is_told_rather_than_what_comes_later() -> None:
    builder = limited()
    builder.accounts[0] = type(builder.accounts[0])(
        **{name: getattr(builder.accounts[0], name) for name in builder.accounts[0].__slots__} | {"balance_micros": 0}
    )
    assert PureTill(builder).reject(route_of(caller_calls=99)).code is RejectCode.CPS_LIMIT


# --- the daemon's count ----------------------------------------------------------------------------------------------


class Engine:
    """An engine that only has an estate."""

    def __init__(self, builder: EstateBuilder | None) -> None:
        self.estate = builder.estate() if builder else None
        self.on_cdrs: list[Any] = []


class NoStore:
    """A database that is away."""

    def run(self, _work: Any, **_how: Any) -> Any:
        raise DatabaseError("away", "the database is away", "wait")

    def transaction(self, **_how: Any) -> Any:
        return self.run(None)


def watch(builder: EstateBuilder | None, clock: FakeClock | None = None) -> AbuseWatch:
    return AbuseWatch(Engine(builder), NoStore(), clock or FakeClock())  # type: ignore[arg-type]


def test_calls_of_one_caller_are_counted_however_the_number_is_written() -> None:
    counted = watch(limited()).counted
    written = ["+12125550147", "12125550147", "2125550147", "+12125550147"]
    assert [counted(route_of(ani=ani)).caller_calls for ani in written] == [1, 2, 3, 4]
    assert counted(route_of(ani="+12125550148")).caller_calls == 1


def test_a_count_is_over_with_the_window() -> None:
    clock = FakeClock()
    counted = watch(limited(window_s=10), clock).counted
    assert [counted(route_of()).caller_calls for _ in range(3)] == [1, 2, 3]
    clock.pass_ms(9_999)
    assert counted(route_of()).caller_calls == 4
    clock.pass_ms(11_000)
    assert counted(route_of()).caller_calls == 1


@pytest.mark.parametrize("ani", ["", "anonymous", "Restricted"])
def test_withheld_numbers_are_many_callers_and_not_counted(ani: str) -> None:
    assert watch(limited()).counted(route_of(ani=ani)).caller_calls is None


def test_a_request_goes_on_untouched_where_nothing_is_limited() -> None:
    request = route_of()
    assert watch(small_estate()).counted(request) is request
    assert watch(None).counted(request) is request


def test_a_new_limit_keeps_the_count_and_a_new_window_begins_again() -> None:
    watched = watch(limited(3, 10))
    engine = watched._engine
    assert [watched.counted(route_of()).caller_calls for _ in range(2)] == [1, 2]
    engine.estate = limited(5, 10).estate(2)
    assert watched.counted(route_of()).caller_calls == 3
    engine.estate = limited(5, 20).estate(3)
    assert watched.counted(route_of()).caller_calls == 1
    engine.estate = limited(0, 20).estate(4)
    assert watched.counted(route_of()).caller_calls is None


def test_counting_that_fails_lets_the_call_through_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_request: RouteRequest, _estate: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(abuse, "find_way", broken)
    watched = watch(limited())
    request = route_of()
    assert [watched.counted(request) is request for _ in range(5)] == [True] * 5
    assert len(caplog.records) == 1


# --- after the calls -------------------------------------------------------------------------------------------------


def ended(builder: EstateBuilder, count: int) -> list[Any]:
    """Records of calls to numbers that nobody has."""
    till = PureTill(builder)
    for number in range(count):
        till.reject(route_of(f"u{number}", dnid=f"+1900555{number * 7:04d}"))
    return [till.cdr(f"u{number}") for number in range(count)]


def test_what_cannot_be_told_waits_and_nothing_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    builder = small_estate()
    watched = watch(builder)
    watched._engine.on_cdrs[0](ended(builder, 25))
    watched.look()
    watched.look()
    assert "the database is away" in caplog.text
    assert [f.caller for _, f in watched._untold] == [CALLER]


def test_a_bug_in_looking_is_logged_and_the_next_round_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    builder = small_estate()
    watched = watch(builder)
    monkeypatch.setattr(abuse, "tell", broken)
    watched._engine.on_cdrs[0](ended(builder, 25))
    watched.look()
    assert "looking for abuse failed" in caplog.text
    caplog.clear()
    watched.look()
    assert not caplog.records


def test_what_an_outage_kept_is_no_attack_of_now() -> None:
    builder = small_estate()
    clock = FakeClock()
    watched = watch(builder, clock)
    cdrs = ended(builder, 25)
    clock.pass_ms(301_000)
    watched._engine.on_cdrs[0](cdrs)
    watched.look()
    assert not watched._untold


def test_records_that_nobody_looks_at_are_bounded() -> None:
    builder = small_estate()
    watched = watch(builder)
    one = ended(builder, 1)
    for _ in range(abuse.WAITING_MAX + 5_000):
        watched._engine.on_cdrs[0](one)
    assert len(watched._waiting) == abuse.WAITING_MAX


# --- settings --------------------------------------------------------------------------------------------------------


def test_callers_are_not_limited_and_not_blocked_unless_somebody_says_so() -> None:
    assert Settings().caller_max_calls == 0
    assert block_ms_of(Settings()) == 0
    assert not limits_of(Settings()).is_off


def test_every_threshold_of_nothing_is_off() -> None:
    off = Settings(abuse_dids=0, abuse_sequence=0, abuse_redials=0, abuse_short_calls=0, abuse_junk=0, abuse_range=0,
                   abuse_trunk_calls=0)  # fmt: skip
    assert limits_of(off).is_off


@pytest.mark.parametrize("block_ms", [LEAST_BLOCK_MS, 3_600_000, MOST_BLOCK_MS])
def test_the_time_of_a_block_is_read_as_it_is_kept(block_ms: int) -> None:
    assert block_ms_of(Settings(abuse_block=format_span(block_ms))) == block_ms


def test_default_thresholds_are_possible_ones() -> None:
    limits = limits_of(Settings())
    for threshold in (limits.dids, limits.sequence, limits.redials, limits.short_calls, limits.junk, limits.range):
        assert 2 <= threshold <= MAX_COUNTED
