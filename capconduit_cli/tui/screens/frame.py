"""What stands around every screen: the line at the top, the tabs, what must not be overlooked, the keys. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.units import MS_PER_SECOND
from capconduit.vocab import FeedKind
from capconduit_cli.text import printable
from capconduit_cli.tui.cells import Line, Piece, clock, date_and_time, fit, spark, time_of_day, width_of
from capconduit_cli.tui.feed import FeedState
from capconduit_cli.tui.floor import Floor, Health
from capconduit_cli.tui.screens.base import Moment
from capconduit_cli.tui.themes import Role

NAME: Final = "capconduit"
DEFAULT_TENANT: Final = "default"
SPARK: Final = (8, 60)  # columns of the curve of new calls: at least, at most
_WIDE: Final = 100  # from this width on our name is shown
_KEPT_FREE: Final = 2
_RATE_S: Final = 10  # seconds that the rate of new calls is told for
_SLOW_DATABASE_MS: Final = 50.0


@dataclass(frozen=True, slots=True)
class Replay:
    """Where a replay is."""

    position_ms: int
    start_ms: int
    end_ms: int
    speed: float
    paused: bool


def several_nodes(floor: Floor) -> bool:
    """Whether calls or daemons of more than one node are known."""
    if floor.health is not None and len(floor.health.nodes) > 1:
        return True
    return len({call.node for call in floor.calls.values()}) > 1


def header(
    floor: Floor,
    state: FeedState,
    now_ms: int,
    width: int,
    *,
    frozen_ms: int | None,
    replay: Replay | None,
    recording: bool,
) -> tuple[Line, Line]:
    """The line at the top: whose floor, how true it is, and how busy; the curve takes what room there is."""
    health = floor.health
    nodes = len(health.nodes) if health else 0
    where = printable(floor.node) + (f"+{nodes - 1}" if nodes > 1 else "")
    if floor.tenant not in ("", DEFAULT_TENANT):
        where = f"{where}/{printable(floor.tenant)}"
    left: list[Piece] = [(f" {NAME} " if width >= _WIDE else " ", Role.KEY)]
    if where:
        left.append((f"{fit(where, min(len(where), 20))} ", Role.BAR_STRONG))
    left.extend(_truth(state, now_ms, frozen_ms, replay))
    if recording:
        left.append(("◉ REC ", Role.BAR_BAD))
    right: list[Piece] = [(f"{len(floor.calls)} calls ", Role.BAR_STRONG)]
    if health:
        right.extend(_health(health))
    right.append((f" {time_of_day(now_ms)}Z ", Role.BAR_DIM))
    room = width - width_of(left) - width_of(right) - _KEPT_FREE
    if health and room >= SPARK[0]:
        right.insert(1, (f" CPS {spark(health.cps, min(room - 5, SPARK[1]))} ", Role.BAR))
    return tuple(left), tuple(right)


def _truth(state: FeedState, now_ms: int, frozen_ms: int | None, replay: Replay | None) -> list[Piece]:
    """Whether it is live. Each has its sign and its word besides its colour."""
    if replay is not None:
        sign, word = ("‖", "PAUSED") if replay.paused else ("▶", "REPLAY")
        return [(f"{sign} {word} {replay.speed:g}× ", Role.BAR_GOOD)]
    if frozen_ms is not None:
        return [("‖ FROZEN ", Role.BAR_BAD)]
    match state.kind:
        case FeedKind.LIVE:
            return [(f"● LIVE {clock(max(now_ms - state.since_ms, 0))} ", Role.BAR_GOOD)]
        case FeedKind.STALE:
            return [("■ STALE ", Role.BAR_BAD)]
    return [("○ connecting ", Role.BAR_DIM)]


def new_calls(health: Health) -> float:
    """New calls a second, over the last seconds that are over: the last one told is still under way."""
    over = health.cps[:-1][-_RATE_S:]
    return sum(over) / len(over) if over else 0.0


def _health(health: Health) -> list[Piece]:
    pieces: list[Piece] = [(f"{new_calls(health):.1f}/s ", Role.BAR)]
    if health.ami_enabled:
        pieces.append(("AMI up " if health.ami_up else "AMI DOWN ", Role.BAR if health.ami_up else Role.BAR_BAD))
    if not health.database_up:
        pieces.append(("DB DOWN ", Role.BAR_BAD))
    elif health.database_ms is None:
        pieces.append(("DB up ", Role.BAR))
    else:
        slow = health.database_ms >= _SLOW_DATABASE_MS
        pieces.append((f"DB {health.database_ms:.1f}ms ", Role.BAR_BAD if slow else Role.BAR))
    if not health.ready:
        pieces.append(("NOT READY ", Role.BAR_BAD))
    return pieces


def tabs(titles: Sequence[tuple[str, int | None]], chosen: int, width: int) -> tuple[Line, list[tuple[int, int]]]:
    """The names of the screens with their keys and how much is on each, and from where to where each goes."""
    short = sum(len(title) + 4 + (len(str(n)) + 1 if n is not None else 0) for title, n in titles) > width * 3 // 4
    line: list[Piece] = []
    spans: list[tuple[int, int]] = []
    at = 0
    for number, (title, count) in enumerate(titles):
        said = f" {number + 1} {title}{'' if count is None or short else f' {count}'} "
        line.append((said, Role.TAB_ON if number == chosen else Role.TAB))
        spans.append((at, at + len(said)))
        at += len(said)
    return tuple(line), spans


def banner(
    state: FeedState, now_ms: int, *, stale_ms: int, frozen_ms: int | None, replay: Replay | None, width: int
) -> tuple[Line, Role] | None:
    """What must not be overlooked; None where all is live. `stale_ms`: since when it is not."""
    if replay is not None:
        return _replay_line(replay, state, width), Role.BANNER_INFO if state.message else Role.TAB
    if state.kind is FeedKind.STALE:
        age, known = clock(max(now_ms - stale_ms, 0)), time_of_day(state.since_ms)
        text = f" STALE for {age}: what was known at {known}Z. {sentence(state.message)}"
        return ((text, Role.BANNER_BAD),), Role.BANNER_BAD
    if state.kind is FeedKind.WAITING:
        return ((f" {sentence(state.message or 'asking the daemon')}", Role.BANNER_INFO),), Role.BANNER_INFO
    if state.message:  # live, but something is not well: a recording that cannot be written
        return ((f" {sentence(state.message)}", Role.BANNER_INFO),), Role.BANNER_INFO
    if frozen_ms is not None:
        text = f" FROZEN at {time_of_day(frozen_ms)}Z, {clock(max(now_ms - frozen_ms, 0))} ago; space goes on."
        return ((text, Role.BANNER_INFO),), Role.BANNER_INFO
    return None


def sentence(text: str) -> str:
    """Anybody's words as a sentence."""
    said = printable(text.strip())
    return f"{said[:1].upper()}{said[1:]}." if said and not said.endswith(".") else said


def _replay_line(replay: Replay, state: FeedState, width: int) -> Line:
    """`2026-03-08 03:00:12Z ━━━━●──── 7h12m`, and what was wrong then."""
    before = f" {date_and_time(replay.position_ms)} "
    after = f" {date_and_time(replay.end_ms)} "
    wrong = f"{printable(state.message)} " if state.message else ""
    room = max(width - len(before) - len(after) - len(wrong), 1)
    length = max(replay.end_ms - replay.start_ms, 1)
    done = min(max((replay.position_ms - replay.start_ms) * (room - 1) // length, 0), room - 1)
    role = Role.BANNER_INFO if wrong else Role.TAB
    track = "━" * done + "●" + "─" * (room - 1 - done)
    return ((before, role), (track, role), (after, role), (wrong, role))


def keys(hints: Sequence[tuple[str, str]], width: int) -> Line:
    """`k hang up  p pause …`: those that fit, the first first."""
    line: list[Piece] = [(" ", Role.BAR)]
    at = 1
    for key, what in hints:
        length = len(key) + len(what) + 3
        if at + length - 2 > width:
            break
        line.extend(((key, Role.KEY), (f" {what}", Role.BAR), ("  ", Role.BAR)))
        at += length
    return tuple(line[:-1] if len(line) > 1 else line)


def moment_of(floor: Floor, now_ms: int) -> Moment:
    """The floor as rows are made from it: at a whole second, so that all that time changes is drawn once a second."""
    return Moment(now_ms // MS_PER_SECOND * MS_PER_SECOND, floor, several_nodes(floor))
