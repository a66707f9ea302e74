"""The pure parts: money and time that fit, bars that do not lie, columns that fit a width, orders and filters."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from capconduit_cli.tui import cells
from capconduit_cli.tui.floor import Event, Floor
from capconduit_cli.tui.screens.base import GAP, Moment, layout, ordered
from capconduit_cli.tui.screens.events import summary
from capconduit_cli.tui.screens.main import VIEWS
from capconduit_cli.tui.themes import LOOKS, Role
from capconduit_cli.tui.widgets.table import Filter, FilterError
from tests.tui.top_rig import NOW_MS, picture


@pytest.mark.parametrize(
    ("micros", "width", "text"),
    [
        (1_234_567, 9, "1.234567"),
        (1_234_567, 6, "1.23"),
        (1_999_999, 4, "1.99"),
        (-1_500_000, 6, "-1.50"),
        (123_456_789_123_456, 12, "123456789.12"),
        (123_456_789_123_456, 9, "123456789"),
        (123_456_789_123_456, 6, "123M"),
        (0, 6, "0.00"),
    ],
)
def test_money_fits_and_is_never_more_than_there_is(micros: int, width: int, text: str) -> None:
    assert cells.short_money(micros, width) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0:00"), (59_999, "0:59"), (61_000, "1:01"), (3_600_000, "1h00m"), (90_000_000, "1d01h"), (-5_000, "-0:05"),
     (10**18, "99999d")],
)  # fmt: skip
def test_durations_are_at_most_six_columns(ms: int, text: str) -> None:
    assert cells.clock(ms) == text


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 200))
def test_a_bar_fills_its_width_and_only_a_full_cap_has_no_free_column(
    used: int, flying: int, limit: int, width: int
) -> None:
    text = "".join(text for text, _ in cells.bar(used, flying, limit, width))
    assert len(text) == width
    assert (cells.FREE not in text) == (used + flying >= limit)
    if flying and used + flying <= limit:
        assert cells.IN_FLIGHT in text or width == 1


@given(st.text(max_size=50), st.integers(1, 40))
def test_any_text_fits_any_width(text: str, width: int) -> None:
    pieces = cells.fit_cell(cells.safe(text), width)
    assert sum(cell_len(said) for said, _ in pieces) == width


@given(st.lists(st.text(max_size=9), min_size=2, max_size=4), st.integers(1, 30), st.booleans())
def test_any_pieces_fit_any_width(texts: list[str], width: int, right: bool) -> None:
    pieces = [cells.safe(text)[0] for text in texts]
    fitted = cells.fit_cell(pieces, width, right=right)
    assert sum(cell_len(said) for said, _ in fitted) == width


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("width", [80, 81, 99, 120, 200, 400])
def test_the_columns_of_every_screen_fit_from_80_on(width: int, several: bool) -> None:
    moment = Moment(NOW_MS, Floor(), several)
    for view in VIEWS:
        placed = layout(view.columns, moment, width)
        assert placed[-1][1] + placed[-1][2] <= width
        for (_, start, length), (_, following, _) in pairwise(placed):
            assert start + length + GAP <= following
        assert all(length >= column.least for column, _, length in placed)
        needed = {column.key for column in view.columns if not column.drop and column.shown(moment)}
        assert needed <= {column.key for column, _, _ in placed}


def test_every_column_orders_every_row_without_failing() -> None:
    floor = Floor()
    floor.apply("snapshot", picture())
    moment = Moment(NOW_MS, floor)
    for view in VIEWS:
        rows = view.rows(floor)
        for column in view.columns:
            for reverse in (False, True):
                order = ordered(rows, column, moment, reverse=reverse)
                assert sorted(order) == sorted(rows)
                without = [key for key in order if column.sort(rows[key], moment) is None]
                assert order[len(order) - len(without) :] == without


def test_a_filter_that_is_no_expression_is_an_error_and_an_empty_one_is_none() -> None:
    for text in ("(", "*", "!(", "a{99999999999}", "x" * 500):
        with pytest.raises(FilterError):
            Filter.parse(text)
    assert Filter.parse("") is None
    assert Filter.parse("!") is None


def test_a_change_of_the_estate_says_of_what() -> None:
    changed = Event("1", NOW_MS, "estate.changed", "buyer1", {"action": "target.add", "actor": "root"})
    assert summary(changed) == "action target.add buyer1  actor root"


@pytest.mark.parametrize("data", [{"amount": "-0.280000"}, {"amount_micros": -280_000}])
def test_money_of_an_event_is_read_from_a_daemon_and_from_an_older_recording(data: dict[str, object]) -> None:
    assert summary(Event("1", NOW_MS, "call.ended", "x", data)) == "amount -0.28"


def test_every_theme_styles_every_role() -> None:
    for look in LOOKS.values():
        assert set(look.styles) == set(Role)
    mono = next(look for look in LOOKS.values() if not look.colours)
    assert all(s.color is None or s.color.is_default for s in mono.styles.values())
