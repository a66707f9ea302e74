"""What a demo shows while it runs: a live picture on a terminal, lines of progress elsewhere. All on standard error.

The outside dependencies are the terminal and the database. Fails open: what cannot be read or drawn for a moment is
drawn the next time, and the calls go on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from rich.cells import set_cell_size
from rich.console import Console
from rich.live import Live
from rich.text import Text

from capconduit.domain.model import Cdr
from capconduit.domain.usage import window_text
from capconduit.errors import DatabaseError
from capconduit.services import calls, caps, sellers
from capconduit.services.calls import CallView
from capconduit.services.caps import CapView
from capconduit.services.office import Office
from capconduit.services.sellers import SellerView
from capconduit.units import ceil_div, floor_div, format_micros
from capconduit.vocab import CallState, CapScope
from capconduit_cli.demo.traffic import Progress
from capconduit_cli.text import printable

PAUSE_S: Final = 0.2  # between two pictures
LINES_PAUSE_S: Final = 0.1
CDRS_READ: Final = 1_000
SMALLEST: Final = (80, 22)  # columns and lines; a smaller terminal gets lines of progress
MOST_CALLS: Final = 16  # lines of live calls on a high terminal
WIDE: Final = 110  # columns from which callers' names are shown
_GAP: Final = "  "


@dataclass(frozen=True)
class Look:
    """What the database and the clock said at one instant."""

    at_ms: int
    elapsed_s: float
    live: Sequence[CallView]
    caps: Sequence[CapView]
    money: Sequence[SellerView]
    ended: Sequence[Cdr]  # the newest first


def look(office: Office, began: float) -> Look:
    """Read everything that is shown. `began`: of the demo, on the monotonic clock (s). Raises DatabaseError."""
    return Look(
        at_ms=office.clock.now_ms(),
        elapsed_s=time.monotonic() - began,
        live=calls.list_calls(office),
        caps=caps.cap_usage(office),
        money=sellers.list_sellers(office),
        ended=calls.find_cdrs(office, limit=CDRS_READ),
    )


# --- the picture: lines that fit, whatever the calls are named


def picture(seen: Look, progress: Progress, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """At most `height` lines of `width` columns."""
    below = max(len(seen.caps), 4) + 1
    rows = min(max(height - below - 6, 2), MOST_CALLS)
    lines = [
        *_head(seen, progress, width, ascii_only),
        Text(),
        *_live_calls(seen, width, rows),
        Text(),
        *_caps_and_money(seen, width, height - rows - 6, ascii_only),
    ]
    for line in lines:
        line.truncate(width)
    return lines[:height]


def _head(seen: Look, progress: Progress, width: int, ascii_only: bool) -> list[Text]:
    title = Text("CapConduit demo", style="bold")
    title.append(f"   {progress.phase}/{progress.phases} {progress.title}", style="not bold cyan")
    clock = f"{int(seen.elapsed_s) // 60}:{int(seen.elapsed_s) % 60:02d}"
    title.append(clock.rjust(max(width - title.cell_len, len(clock) + 1)), style="not bold dim")
    answered = sum(cdr.answered_ms is not None for cdr in seen.ended)
    rejected = sum(bool(cdr.reject_code) for cdr in seen.ended)
    numbers = f"  {len(seen.live):2} live  {answered:3} answered  {rejected:3} rejected"
    line = Text(f"call {progress.placed:3}/{progress.total} ")
    bar_cells = max(width - line.cell_len - len(numbers), 5)
    line.append_text(_bar(progress.placed, 0, progress.total, bar_cells, "cyan", ascii_only))
    line.append(numbers)
    return [title, line, Text(progress.note, style="italic")]


def _columns(width: int) -> list[tuple[str, int, bool]]:
    """Headings of the live calls with their widths, and whether they are numbers."""
    columns = [
        ("STATE", 5, False), ("CALLER", 13, False), ("DID", 13, False), ("CAMPAIGN", 8, False), ("TARGET", 8, False),
        ("TALK", 5, True), ("HELD", 8, True),
    ]  # fmt: skip
    if width >= WIDE:
        columns.insert(2, ("NAME", min(width - 82, 40), False))
        columns.insert(4, ("TRUNK", 7, False))
    return columns


def _live_calls(seen: Look, width: int, rows: int) -> list[Text]:
    columns = _columns(width)
    lines = [_row({name: name for name, _, _ in columns}, columns, "bold")]
    shown = seen.live if len(seen.live) <= rows else seen.live[: rows - 1]
    for view in shown:
        call = view.call
        up = call.state is CallState.UP and call.answered_ms is not None
        talk = f"{max(seen.at_ms - (call.answered_ms or 0), 0) / 1000:.1f}s" if up else ""
        told = {
            "STATE": "up" if up else "rings" if not call.reject_reason else "fails",
            "CALLER": call.ani,
            "NAME": call.caller_name,
            "DID": call.did_number,
            "TRUNK": call.trunk,
            "CAMPAIGN": view.campaign,
            "TARGET": view.target,
            "TALK": talk,
            "HELD": format_micros(view.hold_micros, trim=True),
        }
        lines.append(_row(told, columns, "green" if up else "yellow"))
    if len(shown) < len(seen.live):
        lines.append(Text(f"and {len(seen.live) - len(shown)} more", style="dim"))
    return lines + [Text()] * (rows + 1 - len(lines))


def _row(told: dict[str, str], columns: Sequence[tuple[str, int, bool]], style: str) -> Text:
    cells = []
    for name, size, is_number in columns:
        text = printable(told[name])
        cells.append(text.rjust(size) if is_number else set_cell_size(text, size))
    return Text(_GAP.join(cells), style=style)


def _caps_and_money(seen: Look, width: int, lines: int, ascii_only: bool) -> list[Text]:
    """Two columns: caps on the left; balances and the last rejects on the right."""
    left_size = width * 11 // 20
    left = [Text("CAPS", style="bold"), *(_cap(view, left_size, ascii_only) for view in seen.caps)]
    right = [Text("BALANCES", style="bold"), *(_balance(view) for view in seen.money)]
    right += [Text(), Text("LAST REJECTS", style="bold")]
    rejected = [cdr for cdr in seen.ended if cdr.reject_code][: max(lines - len(right), 0)]
    right += [_reject(cdr, width) for cdr in rejected]
    both = []
    for number in range(min(max(len(left), len(right)), lines)):
        line = left[number].copy() if number < len(left) else Text()
        line.truncate(left_size)
        line.append(" " * (left_size - line.cell_len) + _GAP)
        if number < len(right):
            line.append_text(right[number])
        both.append(line)
    return both


def _cap(view: CapView, size: int, ascii_only: bool) -> Text:
    cap = view.cap
    # a DID and a rule are known by their looks, and the system has no name
    plain = cap.scope in (CapScope.DID, CapScope.RULE, CapScope.SYSTEM)
    label = view.subject if plain else f"{cap.scope} {view.subject}"
    window = window_text(cap)
    label += f" {cap.metric}/{window}" if window else f" {cap.metric}"
    count = view.used + view.in_flight
    style = "bold red" if count >= cap.limit_value else "yellow" if count * 5 >= cap.limit_value * 4 else "green"
    numbers = f" {count:3}/{cap.limit_value:<3}"
    bar_cells = 8 if size < 60 else 20
    text = Text(set_cell_size(label, size - bar_cells - len(numbers) - 1) + " ")
    text.append_text(_bar(view.used, view.in_flight, cap.limit_value, bar_cells, style, ascii_only))
    return text.append(numbers, style=style)


def _bar(used: int, in_flight: int, limit: int, size: int, style: str, ascii_only: bool) -> Text:
    """What is used for good, what is in flight, what is free. Something that is not nothing shows."""
    solid, moving, free = "#+." if ascii_only else "█▓░"
    full = min(ceil_div((used + in_flight) * size, limit) if limit else size, size)
    fixed = min(floor_div(used * size, limit), full) if in_flight and limit else full
    text = Text(solid * fixed + moving * (full - fixed), style=style)
    return text.append(free * (size - full), style="dim")


def _balance(view: SellerView) -> Text:
    account = view.account
    text = Text(f"{set_cell_size(view.seller.name, 8)}{format_micros(account.balance_micros, trim=True):>8}")
    text.append(f" {view.seller.currency}")
    if account.held_micros:
        text.append(f"  held {format_micros(account.held_micros, trim=True)}", style="yellow")
    if account.available_micros <= 0:
        text.stylize("bold red")
    return text


def _reject(cdr: Cdr, width: int) -> Text:
    """Who called, where there is room, else the last digits; and why it was rejected."""
    caller = cdr.caller_e164 or "anonymous"
    who = set_cell_size(caller, 13) if width >= WIDE else f"{cdr.caller_e164[-4:]:->4}"
    reason = cdr.reject_reason.replace("cap_reached:", "cap ")
    return Text(printable(who) + " ").append(printable(reason), style="red")


# --- showing it


def terminal() -> Console | None:
    """Where a live picture can be drawn: standard error, if it is a terminal that can and is large enough."""
    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    size = console.size
    able = sys.stderr.isatty() and not console.is_dumb_terminal and os.environ.get("TERM", "dumb") != "dumb"
    return console if able and size.width >= SMALLEST[0] and size.height >= SMALLEST[1] else None


@asynccontextmanager
async def showing(office: Office, progress: Progress, *, live: bool) -> AsyncIterator[float]:
    """Show how the demo goes on for as long as the block lasts; gives its beginning (monotonic clock, s)."""
    began = time.monotonic()
    console = terminal() if live else None
    work = _lines(progress, began) if console is None else _draw(console, office, progress, began)
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield began
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, OSError):  # a terminal that is gone takes nothing else with it
            await task


async def _draw(console: Console, office: Office, progress: Progress, began: float) -> None:
    """Draw until cancelled. Reading and drawing have a thread of their own, so that the calls are not kept waiting."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="view") as thread:
        live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        live.start()
        try:
            while True:
                await asyncio.get_running_loop().run_in_executor(thread, _draw_once, live, office, progress, began)
                await asyncio.sleep(PAUSE_S)
        finally:
            thread.shutdown(wait=True)
            live.stop()


def _draw_once(live: Live, office: Office, progress: Progress, began: float) -> None:
    with suppress(DatabaseError):
        seen = look(office, began)
        size = live.console.size
        lines = picture(seen, progress, size.width, size.height, ascii_only=live.console.options.ascii_only)
        live.update(Text("\n", no_wrap=True, overflow="crop").join(lines), refresh=True)


async def _lines(progress: Progress, began: float) -> None:
    """Say each part of the day as it begins, and what the operator does, until cancelled."""
    phase, acts = 0, 0
    while True:
        if progress.phase > phase:
            phase = progress.phase
            _say(began, f"{phase}/{progress.phases} {progress.title}")
        for act in progress.acts[acts:]:
            _say(began, act)
        acts = len(progress.acts)
        await asyncio.sleep(LINES_PAUSE_S)


def _say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:5.1f}s  {printable(text)}", file=sys.stderr, flush=True)  # noqa: T201  # for people
