"""The line to type into: editing, pasting, bounds, and a cursor that is seen."""

from __future__ import annotations

from tests.tui.top_rig import Stage, on_stage


def test_a_filter_is_edited_in_place() -> None:
    async def play(stage: Stage) -> None:
        field = stage.app.floor_screen._field
        await stage.press("slash", *"solr", "left", "a", "end", "x", "backspace", "home", "delete", "S")
        assert field.value == "Solar"
        await stage.press("end", "ctrl+u")
        assert field.value == ""

    on_stage(play)


def test_only_what_can_be_typed_is_pasted_and_no_more_than_has_room() -> None:
    from textual import events

    async def play(stage: Stage) -> None:
        field = stage.app.floor_screen._field
        await stage.press("slash")
        stage.app.floor_screen.post_message(events.Paste("so\x1b[31mlar\n" + "x" * 500))
        await stage.pause()
        assert field.value.startswith("so[31mlarx")
        assert len(field.value) == 200
        assert stage.lines[-2].endswith("x")

    on_stage(play)


def test_keys_that_are_pressed_before_a_dialog_is_there_are_for_the_dialog() -> None:
    async def play(stage: Stage) -> None:
        await stage.press("plus", *"125.50", "enter", *"quick", "enter")
        await stage.until(lambda: "done: add" in stage.text)
        assert stage.actions.asked == [("add", "acme", "125.50", "quick", "key-1")]
        assert stage.app.floor_screen.number == 0

    on_stage(play)
