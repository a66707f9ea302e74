"""Screen 6: the daemon, its peers, how fast it decides, and how many calls are new. Pure."""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from capconduit.vocab import FeedKind
from capconduit_cli.text import printable
from capconduit_cli.tui.cells import Line, Piece, clock, date_and_time, fit, graph
from capconduit_cli.tui.feed import FeedState
from capconduit_cli.tui.floor import Floor, Health, Node
from capconduit_cli.tui.themes import Role

KEY: Final = "health"
TITLE: Final = "Health"
HISTORY: Final = 300  # words of the daemon about itself that are kept: one a second
GRAPH: Final = (3, 8)  # lines of a graph: at least, at most
_NAME: Final = 12
_SLOW_MS: Final = 50.0  # of a decision or the database: no caller hears it, but it is not what it was
_BAD_MS: Final = 1_000.0
_LOST_MS: Final = 10_000  # since a node was seen
_FIXED: Final = 12  # lines that are not graphs


class History:
    """What the daemon said of its latency, kept for the graph."""

    def __init__(self) -> None:
        self.p99: deque[float] = deque(maxlen=HISTORY)
        self._last_ms = 0

    def note(self, health: Health | None) -> None:
        """Keep what is new; after a jump back (a replay) begin anew."""
        if health is None or health.at_ms == self._last_ms:
            return
        if health.at_ms < self._last_ms:
            self.p99.clear()
        self._last_ms = health.at_ms
        self.p99.append(health.p99_ms or 0.0)


def _fact(name: str, *said: Piece) -> Line:
    return ((f" {fit(name, _NAME)}", Role.DIM), *said)


def _sign(well: bool, good: str, bad: str) -> Piece:
    return (f"● {good}", Role.GOOD) if well else (f"✖ {bad}", Role.BAD)


def _ms(value: float | None) -> Piece:
    if value is None:
        return ("–", Role.DIM)
    role = Role.BAD if value >= _BAD_MS else Role.WARN if value >= _SLOW_MS else Role.PLAIN
    return (f"{value:.1f} ms" if value < _BAD_MS else f"{value / 1_000:.1f} s", role)


def _count(value: int, bad: Role = Role.WARN) -> Piece:
    return (str(value), bad if value else Role.DIM)


def lines(floor: Floor, state: FeedState, now_ms: int, history: History, width: int, height: int) -> Sequence[Line]:
    """The whole screen."""
    health = floor.health
    why = [_fact("" if at else "why", (part, Role.WARN)) for at, part in enumerate(_wrapped(state.message, width))]
    if health is None:
        return [((" The daemon has not told how it is.", Role.DIM),), *why]
    told = [_title("DAEMON", width), *_daemon(floor, health, state, now_ms), *_decisions(health), *why]
    nodes = [_title("NODES", width), *(_node(node, now_ms) for node in health.nodes)] if health.nodes else []
    room = (height - len(told) - len(nodes) - 2) // 2
    tall = min(max(room, GRAPH[0]), GRAPH[1])
    per_line = max(width - _NAME - 3, 10)
    return [
        *told,
        _title(f"NEW CALLS A SECOND, last {len(health.cps)} s", width),
        *_graph(_spread(health.cps, per_line), str(max(health.cps, default=0)), tall, Role.INFO),
        _title(f"DECISION p99, last {len(history.p99)} s", width),
        *_graph(list(history.p99), _ms(max(history.p99, default=None))[0], tall, Role.GOOD, per_line),
        *nodes,
    ]


def _wrapped(message: str, width: int) -> list[str]:
    return textwrap.wrap(printable(message), max(width - _NAME - 1, _NAME))


def _title(text: str, width: int) -> Line:
    return ((fit(f" {text}", width), Role.HEAD),)


def _daemon(floor: Floor, health: Health, state: FeedState, now_ms: int) -> Iterable[Line]:
    live = state.kind in (FeedKind.LIVE, FeedKind.REPLAY)
    since = clock(max(now_ms - state.since_ms, 0)) if state.kind is FeedKind.LIVE else date_and_time(health.at_ms)
    yield _fact("node", (printable(floor.node) or "–", Role.STRONG), (f"  boot {printable(floor.boot_id)}", Role.DIM))
    yield _fact("stream", _sign(live, state.kind, state.kind), (f"  since {since}", Role.DIM))
    why = f"  {', '.join(map(printable, health.reasons))}" if health.reasons else ""
    yield _fact("daemon", _sign(health.ready, "ready", "not ready"), (why, Role.WARN))
    ami = _sign(health.ami_up, "up", "down") if health.ami_enabled else ("○ off", Role.DIM)
    yield _fact("AMI", ami)
    yield _fact("database", _sign(health.database_up, "up", "down"), ("  ", Role.PLAIN), _ms(health.database_ms))
    yield _fact("live calls", (str(health.calls), Role.STRONG), ("   journal ", Role.DIM), _count(health.journal))


def _decisions(health: Health) -> Iterable[Line]:
    yield _fact(
        "decisions",
        (f"{health.per_second:.1f}/s", Role.STRONG),
        ("   p50 ", Role.DIM),
        _ms(health.p50_ms),
        ("   p99 ", Role.DIM),
        _ms(health.p99_ms),
    )
    yield _fact(
        "trouble",
        ("timeouts ", Role.DIM),
        _count(health.timeouts),
        ("   failures ", Role.DIM),
        _count(health.failures, Role.BAD),
    )


def _node(node: Node, now_ms: int) -> Line:
    age_ms = max(now_ms - node.seen_ms, 0)
    lost = age_ms > _LOST_MS
    sign = ("✖ ", Role.BAD) if lost or node.state == "stopped" else ("● ", Role.GOOD)
    return (
        (" ", Role.PLAIN),
        sign,
        (f"{fit(printable(node.name), 20)} ", Role.STRONG),
        (f"{fit(printable(node.state), 10)} ", Role.PLAIN),
        (f"seen {clock(age_ms)} ago", Role.WARN if lost else Role.DIM),
    )


def _spread(values: Sequence[int], width: int) -> list[float]:
    """Values drawn as wide as there is room for: each one, two or three columns."""
    times = min(max(width // max(len(values), 1), 1), 3)
    return [float(value) for value in values for _ in range(times)]


def _graph(values: Sequence[float], top: str, tall: int, role: Role, width: int = 0) -> Iterable[Line]:
    """A graph with its highest value at its side."""
    drawn = graph(values, min(len(values), width) if width else len(values), tall, role)
    for number, line in enumerate(drawn):
        label = top if number == 0 else "0" if number == tall - 1 else ""
        yield ((f" {label.rjust(_NAME)} ", Role.DIM), ("▏", Role.DIM), *line)
