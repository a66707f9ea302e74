"""What every key does: screens, moving, order, filter, freeze, details, help, commands, quit."""

from __future__ import annotations

import pytest
from textual import events

from capconduit.units import format_instant
from capconduit.vocab import FeedKind
from capconduit_cli.tui.screens.main import TITLES
from capconduit_cli.tui.themes import ThemeName
from tests.tui import fake_daemon as fake
from tests.tui.top_rig import HOSTILE, NOW_MS, Stage, on_stage, picture


def first_row(stage: Stage) -> str:
    """The first row of the table."""
    return stage.lines[3]


def where(stage: Stage) -> str:
    """What stands at the right of the tabs."""
    return stage.lines[1].rpartition("Health")[2].strip()


def test_keys_1_to_6_and_tab_show_the_screens() -> None:
    heads = ("STATE", "CAP ", "SELLER", "TARGET", "TIME", " DAEMON")

    async def play(stage: Stage) -> None:
        for number, head in enumerate(heads, 1):
            await stage.press(str(number))
            assert stage.lines[2].startswith(head)
        await stage.press("tab")
        assert stage.lines[2].startswith(heads[0])
        await stage.press("shift+tab")
        assert stage.lines[2].startswith(heads[5])

    assert len(TITLES) == len(heads)
    on_stage(play)


def test_a_click_on_a_tab_shows_its_screen() -> None:
    async def play(stage: Stage) -> None:
        await stage.pilot.click("#tabs", offset=(stage.lines[1].index("Balances"), 0))
        await stage.pause()
        assert stage.lines[2].startswith("SELLER")

    on_stage(play)


def test_moving_goes_through_all_rows() -> None:
    async def play(stage: Stage) -> None:
        table = stage.app.floor_screen.table
        assert where(stage) == "1–20 of 32"
        await stage.press("end")
        assert (table.place.index, where(stage)) == (31, "13–32 of 32")
        await stage.press("home", "down", "down", "up")
        assert table.place.index == 1
        await stage.press("pagedown", "pagedown")
        assert table.place.index == 31
        await stage.press("g")
        assert table.place.index == 0
        await stage.press("G")
        assert table.place.index == 31

    on_stage(play)


def test_the_cursor_stays_on_its_row_when_rows_move_and_goes_on_when_it_is_gone() -> None:
    async def play(stage: Stage) -> None:
        table = stage.app.floor_screen.table
        await stage.press("down", "down")
        chosen = table.selected.id
        for number in range(40, 44):  # these have talked longer than all others
            stage.feed.tell("call", fake.call(number, answered=format_instant(NOW_MS - 9_000_000)))
        await stage.settle()
        assert table.selected.id == chosen
        assert table.place.index == 6
        stage.feed.tell("call-gone", {"id": chosen})
        await stage.settle()
        assert table.selected.id != chosen
        assert table.place.index == 6

    on_stage(play)


def test_s_orders_by_the_next_column_and_capital_s_the_other_way_round() -> None:
    async def play(stage: Stage) -> None:
        assert "TALK▼" in stage.lines[2]
        await stage.press("s")
        assert "COST▼" in stage.lines[2]
        assert "15.40" in first_row(stage)
        await stage.press("S")
        assert "COST▲" in stage.lines[2]
        assert " 0.20" in first_row(stage)
        await stage.press("s", "s")
        assert "STAT▲" in stage.lines[2]

    on_stage(play)


def test_a_click_on_a_heading_orders_by_it_and_a_second_one_reverses() -> None:
    async def play(stage: Stage) -> None:
        at = (stage.lines[2].index("DID") + 1, 0)
        await stage.pilot.click("#table", offset=at)
        await stage.pause()
        assert "DID▲" in stage.lines[2]
        assert "+18005550001" in first_row(stage)
        await stage.pilot.click("#table", offset=at)
        await stage.pause()
        assert "DID▼" in stage.lines[2]
        assert "+18005550032" in first_row(stage)

    on_stage(play)


def test_a_click_on_a_row_chooses_it_and_two_open_it() -> None:
    async def play(stage: Stage) -> None:
        await stage.pilot.click("#table", offset=(5, 4))
        await stage.pause()
        assert stage.app.floor_screen.table.place.index == 3
        await stage.pilot.click("#table", offset=(5, 2), times=2)
        await stage.until(lambda: "cost so far" in stage.text)

    on_stage(play)


def test_the_wheel_moves() -> None:
    async def play(stage: Stage) -> None:
        table = stage.app.floor_screen.table
        await stage.pilot._post_mouse_events([events.MouseScrollDown], "#table")
        await stage.pause()
        assert table.place.index == 3

    on_stage(play)


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        ("legal", 7),
        ("!legal", 25),
        ("LEGAL", 7),
        ("^01KKFLOOR.*30 ", 1),
        ("nowhere", 0),
        ("!", 32),
        (r"\+1800555000[1-3]", 3),
    ],
)
def test_the_filter_is_a_regular_expression_that_can_be_inverted(typed: str, left: int) -> None:
    async def play(stage: Stage) -> None:
        await stage.press("slash", *typed, "enter")
        assert stage.app.floor_screen.table.shown_rows == left
        await stage.press("escape")
        assert stage.app.floor_screen.table.shown_rows == 32

    on_stage(play)


def test_a_bad_expression_is_told_and_the_last_good_one_stays() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("slash", *"legal")
        await stage.press("left_parenthesis")
        assert "not a regular expression" in stage.lines[-1]
        assert stage.app.floor_screen.table.shown_rows == 7
        await stage.press("enter")
        assert stage.app.floor_screen._field.display
        await stage.press("backspace", "enter")
        assert "not a regular" not in stage.text
        assert "/legal" in stage.lines[1]
        assert stage.app.floor_screen.table.shown_rows == 7

    on_stage(play)


def test_each_screen_keeps_its_own_filter_and_order() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("slash", *"legal", "enter", "s", "2")
        assert stage.app.floor_screen.table.shown_rows == 7  # all caps
        assert "FULL▼" in stage.lines[2]
        await stage.press("1")
        assert stage.app.floor_screen.table.shown_rows == 7  # calls of legal
        assert "COST▼" in stage.lines[2]

    on_stage(play)


def test_keys_are_letters_while_a_filter_is_typed() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("slash", "q", "k", "2", "space")
        assert stage.app.floor_screen._field.value == "qk2 "
        assert stage.actions.asked == []

    on_stage(play)


def test_space_freezes_all_and_goes_on() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("space")
        before = stage.lines[4:]
        stage.feed.tell("call-gone", {"id": fake.ulid(30)})
        stage.clock.at_ms += 7_000
        await stage.settle()
        assert stage.lines[4:] == before
        assert "FROZEN" in stage.lines[0]
        assert "0:07 ago" in stage.lines[2]
        await stage.press("space")
        assert "of 31" in stage.lines[1]
        assert "FROZEN" not in stage.text

    on_stage(play)


def test_time_goes_on_without_a_word_of_the_daemon() -> None:
    async def play(stage: Stage) -> None:
        assert "23:30" in first_row(stage)
        stage.clock.at_ms += 1_000
        await stage.until(lambda: "23:31" in first_row(stage))

    on_stage(play)


def test_stale_is_told_at_once_and_talk_times_stand() -> None:
    async def play(stage: Stage) -> None:
        stage.feed.become(FeedKind.STALE, NOW_MS, "the daemon is silent")
        await stage.pause()
        assert "STALE" in stage.lines[0]
        assert "The daemon is silent." in stage.lines[2]
        stage.clock.at_ms += 30_000
        await stage.settle()
        assert "STALE for 0:30" in stage.lines[2]
        assert "23:30" in stage.lines[4]
        stage.feed.become(FeedKind.LIVE, NOW_MS + 30_000)
        await stage.settle()
        assert "LIVE 0:00" in stage.lines[0]
        assert "24:00" in first_row(stage)

    on_stage(play)


def test_health_tells_the_whole_of_why_it_is_stale() -> None:
    async def play(stage: Stage) -> None:
        stage.feed.become(FeedKind.STALE, NOW_MS, "no daemon answers on " + "/very/long/path" * 6)
        await stage.press("6")
        assert "".join("".join(stage.lines).split()).count("/very/long/path") >= 6

    on_stage(play)


def test_the_log_follows_its_end_until_the_cursor_is_moved() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("5")
        for number in range(20, 60):
            stage.feed.tell("event", fake.event(number))
        await stage.settle()
        assert "50 of 50" in stage.lines[1]
        await stage.press("up")
        stage.feed.tell("event", fake.event(70))
        await stage.settle()
        assert "–50 of 51" in stage.lines[1]
        await stage.press("end")
        stage.feed.tell("event", fake.event(71))
        await stage.settle()
        assert "52 of 52" in stage.lines[1]

    on_stage(play)


def test_details_are_live_and_tell_when_the_call_is_over() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("enter")
        await stage.until(lambda: "available 90.66" in stage.text)
        assert stage.actions.asked == [("explain", fake.ulid(30))]
        stage.clock.at_ms += 60_000
        await stage.settle()
        assert "24:30" in stage.text
        stage.feed.tell("call-gone", {"id": fake.ulid(30)})
        await stage.settle()
        assert "This is over" in stage.text
        await stage.press("escape")
        assert "STATE" in stage.lines[2]

    on_stage(play)


def test_details_say_why_there_is_no_story() -> None:
    from capconduit.errors import DatabaseError

    async def play(stage: Stage) -> None:
        stage.actions.error = DatabaseError("database-unreachable", "the database is away", "")
        await stage.press("enter")
        await stage.until(lambda: "the database is away" in stage.text)

    on_stage(play)


@pytest.mark.parametrize(("screen", "said"), [("2", "in flight"), ("3", "burn a minute"), ("4", "ASR"), ("5", "kind")])
def test_every_table_has_details(screen: str, said: str) -> None:
    async def play(stage: Stage) -> None:
        await stage.press(screen, "enter")
        await stage.settle()
        assert said in stage.text

    on_stage(play)


def test_hostile_text_is_only_text() -> None:
    async def play(stage: Stage) -> None:
        for screen in "12345":
            await stage.press(screen)
            await stage.settle()
            shown = stage.text
            await stage.press("enter")
            await stage.settle()
            shown += stage.text
            await stage.press("escape")
            assert not any(ord(c) < 32 and c != "\n" for c in shown)
            assert "\u202e" not in shown
        assert "[bold]x[/bold]" in shown

    on_stage(
        play, size=(200, 60), first=picture(calls=[fake.call(1, caller_name=HOSTILE, did=HOSTILE, target=HOSTILE)])
    )


def test_commands_are_found_by_typing() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("colon", *"theme light")
        await stage.press("enter")
        assert stage.app.theme_name is ThemeName.LIGHT
        await stage.press("colon", *"show ev", "enter")
        assert stage.lines[2].startswith("TIME")
        await stage.press("colon", *"pause campaign solar", "enter")
        await stage.settle()
        assert "Pause campaign solar?" in stage.text

    on_stage(play)


def test_q_quits() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("q")
        assert not stage.app.is_running or stage.app._exit

    on_stage(play)


def test_the_node_column_comes_with_a_second_node() -> None:
    async def play(stage: Stage) -> None:
        assert "NODE" not in stage.lines[2]
        stage.feed.tell("call", fake.call(40, node="n2", answered=format_instant(NOW_MS - 9_000_000)))
        await stage.settle()
        assert "NODE" in stage.lines[2]
        assert first_row(stage).endswith("n2")

    on_stage(play)
