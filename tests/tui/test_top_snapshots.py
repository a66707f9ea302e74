"""How every screen looks at three sizes, and the dialogs, the banners and the pages."""

from __future__ import annotations

import pytest

from capconduit.vocab import FeedKind
from capconduit_cli.tui.themes import ThemeName
from tests.tui.top_rig import NOW_MS, SIZES, Stage, check_snapshot, on_stage

SCREENS = ("calls", "caps", "balances", "targets", "events", "health")


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_screen_at_three_sizes(size: tuple[int, int]) -> None:
    async def play(stage: Stage) -> None:
        for number, name in enumerate(SCREENS, 1):
            await stage.press(str(number))
            await stage.settle()
            check_snapshot(f"{name}-{size[0]}x{size[1]}", stage.text)

    on_stage(play, size=size)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_details_with_the_decision(size: tuple[int, int]) -> None:
    async def play(stage: Stage) -> None:
        await stage.press("enter")
        await stage.until(lambda: "available 90.66" in stage.text)
        check_snapshot(f"details-{size[0]}x{size[1]}", stage.text)

    on_stage(play, size=size)


def test_dialogs_and_pages() -> None:
    async def play(stage: Stage) -> None:
        for key, name in (("k", "hangup"), ("p", "pause"), ("r", "rest"), ("plus", "balance"), ("colon", "commands"),
                          ("question_mark", "help")):  # fmt: skip
            await stage.press(key)
            await stage.settle()
            check_snapshot(f"dialog-{name}-80x24", stage.text)
            await stage.press("escape")

    on_stage(play)


def test_stale_frozen_waiting_and_nodes() -> None:
    async def stale(stage: Stage) -> None:
        stage.feed.become(FeedKind.STALE, NOW_MS - 8_000, "no daemon answers on /run/capconduit/control.sock")
        await stage.settle()
        check_snapshot("stale-80x24", stage.text)

    async def frozen(stage: Stage) -> None:
        await stage.press("space")
        stage.clock.at_ms += 65_000
        await stage.settle()
        check_snapshot("frozen-80x24", stage.text)

    async def waiting(stage: Stage) -> None:
        check_snapshot("waiting-80x24", stage.text)

    on_stage(stale)
    on_stage(frozen)
    on_stage(waiting, waiting=True)


def test_without_colour_nothing_is_lost() -> None:
    """The text of the mono theme is that of the dark one: no state is told by its colour alone."""
    texts = []

    async def play(stage: Stage) -> None:
        for number in range(1, 7):
            await stage.press(str(number))
            await stage.settle()
            texts.append(stage.text)
            strips = stage.app.screen._compositor.render_strips()
            filters = stage.app.get_line_filters()
            del strips, filters

    for theme in (ThemeName.DARK, ThemeName.MONO):
        on_stage(play, theme=theme)
    assert texts[:6] == texts[6:]
