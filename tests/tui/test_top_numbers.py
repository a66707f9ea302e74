"""When the dust has settled, the numbers on the screens are those of the database."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from textual.pilot import Pilot

from asterisk_simulator.behaviours import Answers, Busy, Congested, NoAnswer
from capconduit.clock import SystemClock
from capconduit.config import load_config
from capconduit.services import balances, calls, caps
from capconduit_cli.demo import estate
from capconduit_cli.tui.app import TopApp
from capconduit_cli.tui.cells import quantity, short_money
from capconduit_cli.tui.feed import live_feed
from tests.tui.live_floor import LiveFloor, live_floor
from tests.tui.top_rig import DEADLINE_S, FakeActions, done_and_drawn, key_event, screen_text

CALLS = 40
DIDS = (estate.SOLAR_DID, estate.ROOFING_DID, estate.LEGAL_DID, estate.TRIAL_DID, estate.UNKNOWN_DID)
MONEY_WIDTH = 14


async def _random_calls(floor: LiveFloor) -> None:
    """Calls of every kind, most of them at once; returns when all are settled."""
    rng = random.Random(4711)
    assert floor.world is not None
    for _ in range(CALLS):
        answers = Answers(after_ms=rng.randint(5, 60), talk_ms=rng.randint(200, 2_500))
        floor.place(rng.choice(DIDS), rng.choice((answers, answers, answers, Busy(), NoAnswer(), Congested())))
        await asyncio.sleep(0.02)  # they come one after the other
    await floor.world.settle_down()
    await floor.until(lambda: not calls.list_calls(floor.stage.office))


async def _rows(app: TopApp, pilot: Pilot[None], screen: str) -> list[list[str]]:
    """The rows of a screen, split into words."""
    app.floor_screen.on_key(key_event(screen, app))
    await done_and_drawn(pilot)
    return [line.split() for line in screen_text(app).splitlines()[3:-1] if line.strip()]


def _caps_of_the_database(floor: LiveFloor) -> list[tuple[str, str, str, str]]:
    """Of every cap its name, use, in flight and limit, as the screen prints them."""
    told = []
    for view in caps.cap_usage(floor.stage.office):
        numbers = (view.used, view.in_flight, view.cap.limit_value)
        used, flying, limit = (quantity(number, view.cap.metric) for number in numbers)
        told.append((view.subject, used, flying if view.in_flight else "–", limit))
    return sorted(told)


async def _compare(app: TopApp, pilot: Pilot[None], floor: LiveFloor) -> list[str]:
    """What differs between the screens and the database."""
    app.refresh_now()
    differing = []
    if not any("No call is up." in " ".join(row) for row in await _rows(app, pilot, "1")):
        differing.append("calls")
    shown = [(row[1] if row[0] != "system" else "system", *row[-4:-1]) for row in await _rows(app, pilot, "2")]
    if sorted(shown) != _caps_of_the_database(floor):
        differing.append(f"caps: {sorted(shown)} and {_caps_of_the_database(floor)}")
    money = {row[0]: (row[3], row[5]) for row in await _rows(app, pilot, "3")}
    for name in (estate.ACME, estate.ZENITH):
        account = balances.show_balance(floor.stage.office, name).account
        wanted = tuple(short_money(n, MONEY_WIDTH) for n in (account.available_micros, account.balance_micros))
        if money[name] != wanted:
            differing.append(f"{name}: {money[name]} and {wanted}")
    differing += [f"target {row[0]} has calls" for row in await _rows(app, pilot, "4") if row[4] != "0"]
    return differing


async def _play(tmp_path: Path) -> None:
    async with live_floor(tmp_path / "floor") as floor:
        feed = live_feed(load_config(floor.stage.config_file, {}), "default")
        app = TopApp(feed, FakeActions(), SystemClock())
        async with app.run_test(size=(160, 40)) as pilot:
            await _random_calls(floor)
            differing = ["nothing was compared"]
            async with asyncio.timeout(DEADLINE_S):
                while differing:
                    try:
                        differing = await _compare(app, pilot, floor)
                        await asyncio.sleep(0.1)  # the daemon looks into the database twice a second
                    except asyncio.CancelledError:
                        raise AssertionError("; ".join(differing)) from None
            ended = {event.kind for event in app.floor.events}
            assert {"call.ended", "call.rejected", "balance.changed"} <= ended


def test_the_screens_are_the_database_when_the_dust_has_settled(tmp_path: Path) -> None:
    asyncio.run(_play(tmp_path))
