"""A dialog that is left while what it began is still under way: what came of it is told, and no other is closed."""

from __future__ import annotations

import threading

import pytest

from capconduit.errors import Refused
from tests.tui.top_rig import DEADLINE_S, FakeActions, Stage, on_stage

MONEY = ("3", "plus", *"25", "enter", *"wire", "enter")


class Slow:
    """Lets an account be added to only when it is told to."""

    def __init__(self, actions: FakeActions) -> None:
        self.go_on = threading.Event()
        self.asked = threading.Event()
        self._add = actions.add_balance
        actions.add_balance = self.add

    def add(self, seller: str, amount: str, reason: str, key: str) -> str:
        self.asked.set()
        assert self.go_on.wait(DEADLINE_S)
        return self._add(seller, amount, reason, key)


def test_money_that_is_added_after_its_dialog_was_left_is_told() -> None:
    async def play(stage: Stage) -> None:
        slow = Slow(stage.actions)
        await stage.press(*MONEY)
        await stage.until(slow.asked.is_set)
        await stage.press("escape")
        assert "Add balance" not in stage.text
        slow.go_on.set()
        await stage.until(lambda: "done: add acme 25 wire" in stage.lines[-1])

    on_stage(play)


def test_money_that_is_refused_after_its_dialog_was_left_is_told() -> None:
    async def play(stage: Stage) -> None:
        slow = Slow(stage.actions)
        stage.actions.error = Refused("amount-invalid", "that is too much", "give less")
        await stage.press(*MONEY)
        await stage.until(slow.asked.is_set)
        await stage.press("escape")
        slow.go_on.set()
        await stage.until(lambda: "that is too much – give less" in stage.lines[-1])

    on_stage(play)


@pytest.mark.parametrize("after", [("plus",), ("question_mark",), ("k",)], ids="-".join)
def test_money_that_is_added_closes_no_dialog_but_its_own(after: tuple[str, ...]) -> None:
    async def play(stage: Stage) -> None:
        slow = Slow(stage.actions)
        await stage.press(*MONEY)
        await stage.until(slow.asked.is_set)
        await stage.press("escape", "1", *after)
        stack = list(stage.app.screen_stack)
        assert len(stack) == 2
        slow.go_on.set()
        await stage.until(lambda: "done: add" in str(stage.app.floor_screen._message))
        assert stage.app.screen_stack == stack

    on_stage(play)
