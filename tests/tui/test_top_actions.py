"""What the keys change: each asks, does it off the screen's thread, and says what became of it."""

from __future__ import annotations

import pytest

from capconduit.errors import PeerError, Refused
from tests.tui import fake_daemon as fake
from tests.tui.top_rig import Stage, on_stage

OLDEST = fake.ulid(30)  # the call under the cursor: campaign roofing (paused), target shingle, seller acme


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        (("k", "y"), ("hangup", OLDEST)),
        (("k", "enter"), None),
        (("k", "n"), None),
        (("k", "escape"), None),
        (("p", "y"), ("resume", "roofing")),
        (("p", "enter"), ("resume", "roofing")),
        (("down", "p", "y"), ("pause", "solar")),
        (("p", "escape"), None),
        (("r", "y"), ("rest", "shingle")),
        (("r", "n"), None),
        (("2", "p", "s", "enter"), None),
        (("4", "down", "down", "r", "y"), ("revive", "lexline")),
        (("4", "end", "up", "r", "y"), ("revive", "brightco")),
        (("6", "p", *"legal", "enter", "y"), ("pause", "legal")),
        (("6", "r", *"overfl", "enter", "y"), ("rest", "overflow")),
        (("2", "down", "p", "y"), ("pause", "solar")),
        (("2", "r", "y"), ("revive", "lexline")),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_a_key_asks_and_acts(keys: tuple[str, ...], asked: tuple[str, ...] | None) -> None:
    async def play(stage: Stage) -> None:
        await stage.press(*keys)
        if asked is None:
            await stage.settle()
            assert stage.actions.asked == []
        else:
            await stage.until(lambda: "done:" in stage.text)
            assert stage.actions.asked == [asked]

    on_stage(play)


def test_k_hangs_up_the_call_that_was_asked_about_though_rows_moved() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("k")
        stage.feed.tell("call-gone", {"id": OLDEST})
        await stage.settle()
        await stage.press("y")
        await stage.until(lambda: bool(stage.actions.asked))
        assert stage.actions.asked == [("hangup", OLDEST)]

    on_stage(play)


def test_what_is_refused_is_told_with_its_hint_until_a_key_is_pressed() -> None:
    async def play(stage: Stage) -> None:
        stage.actions.error = PeerError("ami-down", "Asterisk cannot be reached", "see `capconduit doctor`")
        await stage.press("k", "y")
        await stage.until(lambda: "Asterisk cannot be reached [ami-down]" in stage.text)
        assert "capconduit doctor" in stage.lines[-1]
        await stage.press("down")
        assert "ami-down" not in stage.text

    on_stage(play)


def test_plus_adds_money_for_the_seller_of_the_row() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("3", "plus")
        assert "Add balance: acme" in stage.text
        await stage.press(*"25.50", "enter")
        await stage.press(*"wire 12", "enter")
        await stage.until(lambda: "done: add" in stage.text)
        assert stage.actions.asked == [("add", "acme", "25.50", "wire 12", "key-1")]

    on_stage(play)


def test_money_that_is_refused_can_be_mended_and_is_added_once_by_the_same_key() -> None:
    async def play(stage: Stage) -> None:
        stage.actions.error = Refused("amount-invalid", "'25,5' is not an amount", "write it like 25")
        await stage.press("plus", *"25,5", "enter", "x", "enter")
        await stage.until(lambda: "is not an amount" in stage.text)
        stage.actions.error = None
        await stage.press("enter")
        await stage.until(lambda: "done: add" in stage.text)
        assert [key for *_, key in stage.actions.asked] == ["key-1", "key-1"]

    on_stage(play)


def test_money_needs_an_amount_and_a_reason() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("plus", "enter")
        assert "an amount and a reason are needed" in stage.text
        await stage.press("5", "enter", "enter")
        assert stage.actions.asked == []
        await stage.press("escape")
        assert "Add balance" not in stage.text

    on_stage(play)


def test_plus_without_a_seller_offers_all() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("6", "plus", *"zen", "enter")
        assert "Add balance: zenith" in stage.text

    on_stage(play)


def test_readonly_no_key_changes_anything() -> None:
    async def play(stage: Stage) -> None:
        for screen in "16":
            for key in ("k", "p", "r", "plus"):
                await stage.press(screen, key)
                assert "--readonly" in stage.lines[-1]
                await stage.press("y")
        assert stage.actions.asked == []
        await stage.press("1", "down")
        assert "hang up" not in stage.lines[-1]
        await stage.press("colon")
        assert not any("Pause" in line or "Add balance" in line for line in stage.lines)

    on_stage(play, readonly=True)


def test_k_without_a_live_call_says_so() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("3", "k")
        assert "put the cursor on a live call" in stage.lines[-1]

    on_stage(play)
