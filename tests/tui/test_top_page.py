"""docs/top.md shows the screens as they are, and every key."""

from __future__ import annotations

import re
from pathlib import Path

from capconduit_cli.tui.screens import help as help_page
from capconduit_cli.tui.screens.main import TITLES
from tests.tui.top_rig import SNAPSHOTS

PAGE = (Path(__file__).parents[2] / "docs" / "top.md").read_text("utf-8")


def test_the_pictures_are_those_of_the_snapshots() -> None:
    calls, caps = re.findall(r"^```\n(.*?)```$", PAGE, re.DOTALL | re.MULTILINE)[:2]
    for shown, name in ((calls, "calls-80x24"), (caps, "caps-80x24")):
        lines = (SNAPSHOTS / f"{name}.txt").read_text("utf-8").splitlines()
        assert [line for line in shown.splitlines() if line not in lines] == []


def test_every_screen_and_every_key_of_the_help_is_told() -> None:
    for title in TITLES:
        assert f"**{title}**" in PAGE
    for rows in (help_page._EVERYWHERE, help_page._LIVE, help_page._REPLAY):
        for keys, _ in rows:
            for key in keys.replace("–", " ").split():
                assert f"`{key}`" in PAGE, key
