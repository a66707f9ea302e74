"""Whatever a daemon sends and whatever is pressed: the screens go on, and every line is as wide as the terminal."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capconduit.units import format_instant
from capconduit.vocab import FeedKind
from capconduit_cli.tui.app import TopApp
from capconduit_cli.tui.floor import MessageError
from tests.tui import fake_daemon as fake
from tests.tui.top_rig import NOW_MS, FakeActions, ObedientFeed, StillClock, picture, screen_text

TEXT = st.text(max_size=40)
INSTANT = st.one_of(st.none(), st.integers(0, 7_000_000_000_000).map(format_instant))
NUMBER = st.integers(-(2**63), 2**63)
MONEY = st.integers(-(10**15), 10**15).map(lambda n: f"{n}.{abs(n) % 1_000_000:06d}")
FEW = st.integers(1, 40)

CALLS = st.builds(
    fake.call, FEW, state=TEXT, did=TEXT, caller_name=TEXT, seller=TEXT, campaign=TEXT, target=TEXT, node=TEXT,
    arrived=INSTANT, answered=INSTANT, funded_until=INSTANT, funded_s=NUMBER, per_minute=MONEY, held=MONEY,
    attempt=NUMBER, first_s=NUMBER, further_s=NUMBER, currency=TEXT,
)  # fmt: skip
CAPS = st.builds(
    fake.cap, FEW, scope=TEXT, subject=TEXT, metric=st.sampled_from(("billable", "minutes", "concurrent", "?")),
    limit=NUMBER, used=NUMBER, in_flight=NUMBER, window=TEXT, resets=INSTANT,
)  # fmt: skip
BALANCES = st.builds(
    fake.balance, FEW, balance=MONEY, held=MONEY, available=MONEY, burn_per_minute=MONEY, empty_at=INSTANT, status=TEXT,
    low_balance=MONEY, currency=TEXT,
)  # fmt: skip
TARGETS = st.builds(
    fake.target, FEW, status=TEXT, active=NUMBER, failures=NUMBER, rested_until=INSTANT, acd_ms=NUMBER,
    asr=st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False, width=32)),
)  # fmt: skip
DATA = st.dictionaries(
    TEXT, st.one_of(st.none(), st.booleans(), NUMBER, TEXT, st.lists(NUMBER, max_size=2)), max_size=5
)
EVENTS = st.builds(
    lambda number, kind, data, at: {**fake.event(number, kind), "data": data, "at": at},
    FEW, st.one_of(TEXT, st.sampled_from(("call.rejected", "call.ended"))), DATA, INSTANT,
)  # fmt: skip
HEALTH = st.builds(
    fake.health, st.integers(0, 7_000_000_000_000), cps=st.lists(st.integers(-5, 10**9), max_size=70), journal=NUMBER,
    calls=NUMBER, ready=st.booleans(), reasons=st.lists(TEXT, max_size=3),
)  # fmt: skip
MESSAGES = st.one_of(
    st.tuples(st.just("call"), CALLS),
    st.tuples(st.just("call-gone"), FEW.map(lambda n: {"id": fake.ulid(n)})),
    st.tuples(st.just("cap"), CAPS),
    st.tuples(st.just("balance"), BALANCES),
    st.tuples(st.just("target"), TARGETS),
    st.tuples(st.just("event"), EVENTS),
    st.tuples(st.just("health"), HEALTH),
)
KEYS = st.sampled_from(
    (
        *("1", "2", "3", "4", "5", "6", "down", "up", "end", "home", "pageup", "pagedown", "s", "S", "space", "enter"),
        *(
            "escape",
            "slash",
            "k",
            "p",
            "r",
            "plus",
            "colon",
            "question_mark",
            "tab",
            "left",
            "right",
            "g",
            "G",
            "a",
            "y",
        ),
    )
)
STATES = st.tuples(st.sampled_from(list(FeedKind)), st.integers(0, 2 * NOW_MS), TEXT)
STEPS = st.lists(st.one_of(MESSAGES, KEYS, STATES, st.integers(0, 10**9)), max_size=25)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.sampled_from(((80, 24), (40, 10), (200, 50))))
def test_any_feed_and_any_keys(steps: list[Any], size: tuple[int, int]) -> None:
    async def run() -> None:
        feed, clock = ObedientFeed(picture()), StillClock()
        app = TopApp(feed, FakeActions(), clock)
        async with app.run_test(size=size) as pilot:
            for step in steps:
                match step:
                    case str():
                        await pilot.press(step)
                    case int():
                        clock.at_ms += step
                        app.refresh_now()
                    case (str() as kind, dict() as data):
                        with contextlib.suppress(MessageError):  # the feed would say so
                            feed.tell(kind, data)
                        app.refresh_now()
                    case (kind, since_ms, message):
                        feed.become(kind, since_ms, message)
            await pilot.pause()
            app.refresh_now()
            await pilot.pause()
            assert app._exception is None
            assert all(ord(c) >= 32 or c == "\n" for c in screen_text(app))

    asyncio.run(run())
