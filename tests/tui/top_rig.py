"""What the tests of the screens have in common: a floor to look at, a feed and actions that obey, and text of screens.

A snapshot is the text of a screen. `UPDATE_SNAPSHOTS=1 pytest tests/tui` writes them anew; look at the difference.
"""

from __future__ import annotations

import asyncio
import os
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from textual import events
from textual.keys import REPLACED_KEYS, _character_to_key, _get_unicode_name_from_key
from textual.pilot import Pilot

from capconduit.errors import CapConduitError
from capconduit.units import Millis, format_instant
from capconduit.vocab import FeedKind
from capconduit_cli.tui.app import TopApp
from capconduit_cli.tui.feed import FeedState, OnChange
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.themes import ThemeName
from tests.tui import fake_daemon as fake

NOW_MS: Final = fake.T0_MS + 600_000  # ten minutes into the picture
SIZES: Final = ((80, 24), (120, 40), (200, 60))
SNAPSHOTS: Final = Path(__file__).parent / "snapshots"
DEADLINE_S: Final = 60.0
TURNS: Final = 200  # of the loop, until what a key began is done and drawn; it takes some ten
HOSTILE: Final = "\x1b]0;owned\x07\x1b[31m[bold]x[/bold] \u202eevil"


def instant(after_ms: int) -> str:
    """An instant of the picture, from NOW_MS."""
    return format_instant(NOW_MS + after_ms)


def picture(**changed: Any) -> dict[str, Any]:
    """A floor with a bit of everything: calls that ring and talk, caps in all units, accounts that run dry."""
    calls = [
        fake.call(
            n,
            seller=("acme", "zenith")[n % 4 == 0],
            campaign=("solar", "roofing", "solar", "legal")[n % 4 - 1],
            target=("sunhaus", "shingle", "brightco", "lexline")[n % 4 - 1],
            caller_name=("Ada Lovelace", "", "GÖDEL, KURT", "数学 太郎", HOSTILE)[n % 5],
            arrived=instant(-n * 47_000 - 6_000),
            answered=instant(-n * 47_000),
            funded_until=instant(25_000 * n - 40_000),
            currency=("USD", "EUR")[n % 4 == 0],
            per_minute=f"0.{n % 7 + 1}00000",
        )
        for n in range(1, 31)
    ]
    calls += [
        fake.call(
            31,
            state="dialing",
            answered=None,
            funded_until=None,
            seller="acme",
            campaign="solar",
            target="sunhaus",
            arrived=instant(-4_000),
        ),
        fake.call(
            32,
            state="held",
            answered=None,
            funded_until=None,
            seller="acme",
            campaign="solar",
            target="",
            attempt=0,
            arrived=instant(-500),
        ),
    ]
    caps = [
        fake.cap(1, scope="campaign", subject="solar", used=150, in_flight=12, resets=instant(7_260_000)),
        fake.cap(
            2,
            scope="system",
            subject="system",
            metric="concurrent",
            window="none",
            limit=40,
            used=0,
            in_flight=32,
            resets=None,
        ),
        fake.cap(
            3,
            scope="target",
            subject="lexline",
            metric="concurrent",
            window="none",
            limit=2,
            used=0,
            in_flight=2,
            resets=None,
        ),
        fake.cap(
            4,
            scope="seller",
            subject="acme",
            metric="spend",
            window="month",
            limit="500.000000",
            used="123.456789",
            in_flight="7.500000",
            currency="USD",
            resets=instant(12 * 86_400_000),
        ),
        fake.cap(
            5,
            scope="rule",
            subject="legal/overflow",
            metric="minutes",
            window="rolling:30m",
            limit=6_000,
            used=3_660,
            in_flight=60,
            resets=None,
        ),
        fake.cap(
            6,
            scope="did",
            subject="+12125550104",
            metric="attempts",
            window="total",
            limit=5,
            used=0,
            in_flight=0,
            resets=None,
        ),
        fake.cap(
            7, scope="trunk", subject="carrier", metric="cps", window="none", limit=20, used=3, in_flight=0, resets=None
        ),
    ]
    balances = [
        fake.balance(
            1,
            seller="acme",
            balance="98.000000",
            held="7.340000",
            available="90.660000",
            burn_per_minute="13.800000",
            empty_at=instant(394_000),
        ),
        fake.balance(
            2,
            seller="zenith",
            currency="EUR",
            balance="4.530000",
            held="1.180000",
            available="3.350000",
            burn_per_minute="2.400000",
            empty_at=instant(4_000_000),
        ),
        fake.balance(
            3,
            seller="dry",
            balance="0.000000",
            held="0.000000",
            available="0.000000",
            burn_per_minute="0.000000",
            empty_at=None,
        ),
        fake.balance(
            4,
            seller="rich",
            balance="123456789.123456",
            held="0.000000",
            available="123456789.123456",
            burn_per_minute="0.000000",
            empty_at=None,
            credit_limit="1000.000000",
        ),
        fake.balance(
            5,
            seller="gone",
            balance="5.000000",
            held="0.000000",
            available="5.000000",
            status="suspended",
            burn_per_minute="0.000000",
            empty_at=None,
        ),
    ]
    targets = [
        fake.target(1, name="sunhaus", active=15, calls_today=220, answered_today=80, asr=0.3636, acd_ms=84_000),
        fake.target(2, name="shingle", kind="iax2", active=4),
        fake.target(3, name="brightco", active=0, status="failing", failures=3, asr=0.1, acd_ms=None),
        fake.target(4, name="lexline", active=2, status="resting", failures=5, rested_until=instant(42_000)),
        fake.target(
            5,
            name="overflow",
            kind="extension",
            status="paused",
            active=0,
            calls_today=0,
            answered_today=0,
            asr=None,
            acd_ms=None,
        ),
    ]
    campaigns = [
        fake.campaign(1, name="solar", seller="acme"),
        fake.campaign(2, name="roofing", seller="acme", status="paused"),
        fake.campaign(3, name="legal", seller="zenith"),
    ]
    events = [
        fake.event(
            1,
            "call.started",
            did="+18005550001",
            caller="+12125550001",
            seller="acme",
            campaign="solar",
            target="sunhaus",
            hold_micros=1_000_000,
            funded_s=300,
        ),
        fake.event(2, "call.answered", target="sunhaus"),
        fake.event(3, "hold.extended", hold_micros=2_000_000, funded_s=600),
        fake.event(4, "attempt.failed", attempt=1, target="lexline", dialstatus="BUSY", cause=17),
        fake.event(
            5,
            "call.rejected",
            did="+18005550002",
            caller=HOSTILE,
            reason="cap_reached:campaign:billable:day",
            sip=486,
            seller="acme",
            campaign="solar",
        ),
        fake.event(6, "cap.reached", scope="campaign", limited="solar", metric="billable", window="day", limit=200),
        fake.event(7, "balance.low", seller="zenith", balance_micros=4_530_000, threshold_micros=10_000_000),
        fake.event(
            8,
            "call.ended",
            dialstatus="ANSWER",
            target="sunhaus",
            talk_ms=84_000,
            amount_micros=280_000,
            written_off_micros=0,
            hung_up_by="caller",
            reason="",
        ),
        fake.event(9, "target.rested", target="lexline", failures=5),
        fake.event(10, "something.new", what="of another version"),
    ]
    return {
        **fake.picture(0),
        "calls": calls,
        "caps": caps,
        "balances": balances,
        "targets": targets,
        "campaigns": campaigns,
        "events": events,
        "health": fake.health(NOW_MS, calls=len(calls)),
        **changed,
    }


class StillClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at_ms = NOW_MS
        self._ids = 0

    def now_ms(self) -> Millis:
        return Millis(self.at_ms)

    def monotonic_ms(self) -> int:
        return self.at_ms

    def new_id(self) -> str:
        self._ids += 1
        return fake.ulid(900_000 + self._ids)


class ObedientFeed:
    """Tells what it is told to tell."""

    def __init__(self, first: dict[str, Any] | None) -> None:
        self.floor = Floor()
        self.state = FeedState(FeedKind.WAITING, NOW_MS, "asking the daemon")
        self._on_change: OnChange = lambda _floor, _state: None
        if first is not None:
            self.floor.apply("snapshot", first)
            self.state = FeedState(FeedKind.LIVE, NOW_MS - 192_000)

    async def run(self, on_change: OnChange) -> None:
        self._on_change = on_change
        on_change(self.floor, self.state)
        await asyncio.Event().wait()

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """A message of the daemon."""
        self.floor.apply(kind, data)
        self._on_change(self.floor, self.state)

    def become(self, kind: FeedKind, since_ms: int, message: str = "") -> None:
        """Live, stale, …"""
        self.state = FeedState(kind, since_ms, message)
        self._on_change(self.floor, self.state)


class FakeActions:
    """Remembers what was asked; refuses where `error` is set."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.error: CapConduitError | None = None
        self.story: Sequence[str] = ("call 01X", "up, attempt 1", "  ok    balance    available 90.66 USD")

    def _ask(self, *what: Any) -> str:
        self.asked.append(what)
        if self.error is not None:
            raise self.error
        return f"done: {' '.join(map(str, what))}"

    def explain(self, call_id: str) -> Sequence[str]:
        self._ask("explain", call_id)
        return self.story

    def hangup(self, call_id: str) -> str:
        return self._ask("hangup", call_id)

    def pause_campaign(self, name: str, *, paused: bool) -> str:
        return self._ask("pause" if paused else "resume", name)

    def rest_target(self, name: str) -> str:
        return self._ask("rest", name)

    def revive_target(self, name: str) -> str:
        return self._ask("revive", name)

    def add_balance(self, seller: str, amount: str, reason: str, key: str) -> str:
        return self._ask("add", seller, amount, reason, key)

    def new_key(self) -> str:
        return "key-1"


class Stage:
    """A running app and what it is fed."""

    def __init__(self, app: TopApp, feed: ObedientFeed, actions: FakeActions, clock: StillClock, pilot: Pilot[None]):
        self.app, self.feed, self.actions, self.clock, self.pilot = app, feed, actions, clock, pilot

    async def press(self, *keys: str) -> None:
        """Keys, all at once as somebody types who does not wait, and what they do is drawn."""
        driver = self.app._driver
        assert driver is not None
        for name in keys:
            driver.send_message(key_event(name, self.app))
        await self.pause()

    async def pause(self) -> None:
        """What is under way is done and drawn."""
        await done_and_drawn(self.pilot)

    async def settle(self) -> None:
        """Paint what changed, until nothing does: what appears takes room, and then others are painted anew."""
        self.app.refresh_now()
        before = None
        async with asyncio.timeout(DEADLINE_S):
            while before != (before := self.text):
                await self.pause()

    async def until(self, good: Callable[[], bool]) -> None:
        """Wait for something a thread does."""
        async with asyncio.timeout(DEADLINE_S):
            while not good():
                await self.pilot.pause(0.01)

    @property
    def text(self) -> str:
        """The screen as text, without the blanks at the ends of lines."""
        return screen_text(self.app)

    @property
    def lines(self) -> list[str]:
        """The same by line."""
        return self.text.splitlines()


async def done_and_drawn(pilot: Pilot[None]) -> None:
    """What is under way is done and drawn.

    A pause of Textual's ends as soon as this process got little of the processor, also where it wanted more.
    """
    await pilot.pause()
    for _ in range(2):
        for _ in range(TURNS):
            await asyncio.sleep(0)
        pilot.app.screen._on_timer_update()


def key_event(name: str, app: TopApp) -> events.Key:
    """A key by Textual's name, or a character."""
    key = _character_to_key(name) if len(name) == 1 and not name.isalnum() else name
    try:
        character: str | None = unicodedata.lookup(_get_unicode_name_from_key(REPLACED_KEYS.get(key, key)))
    except KeyError:
        character = key if len(key) == 1 else None
    event = events.Key(key, character)
    event.set_sender(app)
    return event


def screen_text(app: TopApp) -> str:
    """What stands on the terminal."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips) + "\n"


def on_stage(
    play: Callable[[Stage], Awaitable[None]],
    *,
    size: tuple[int, int] = (80, 24),
    first: dict[str, Any] | None = None,
    readonly: bool = False,
    waiting: bool = False,
    theme: ThemeName = ThemeName.DARK,
) -> None:
    """Run the app over the picture `first` and play with it."""

    async def run() -> None:
        feed = ObedientFeed(None if waiting else first or picture())
        actions, clock = FakeActions(), StillClock()
        app = TopApp(feed, actions, clock, theme=theme, readonly=readonly)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            stage = Stage(app, feed, actions, clock, pilot)
            await stage.settle()
            await play(stage)

    asyncio.run(run())


def check_snapshot(name: str, text: str) -> None:
    """Compare with the kept text of that name."""
    file = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    kept = file.read_text(encoding="utf-8") if file.exists() else ""
    assert text == kept, f"{file.name} differs; UPDATE_SNAPSHOTS=1 writes it anew\n{text}"
