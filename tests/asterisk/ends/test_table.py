"""docs/call-ends.md tells every scenario, and nothing that is not played."""

from __future__ import annotations

import re

from tests.asterisk.ends.catalogue import ENDS, ROOMS
from tests.asterisk.ends.table import BEGIN, FINISH, PAGE, page_with, tables


def test_the_page_has_the_scenarios_as_they_are_played() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(FINISH) == 1
    assert page == page_with(page, tables()), "run: python -m tests.asterisk.ends.table"


def _made() -> str:
    return PAGE.read_text().partition(BEGIN)[2].partition(FINISH)[0]


def test_every_scenario_has_one_row_and_every_row_a_scenario() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", _made(), re.MULTILINE)
    assert sorted(rows) == sorted(ENDS)
    assert {end.play.__module__ for end in ENDS.values()} == {room.__name__ for room in ROOMS.values()}
