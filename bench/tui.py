"""`tui`: what watching costs. The real `capconduit top` in tmux before a busy floor (1,000 live calls, 50 changes a
second): CPU of the UI, from a key to the screen, how soon it says that the daemon is gone and is live again; the size
of a recording; and the CPU of the real daemon with 0, 1 and 5 viewers under simulated calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.options import parser, workplace
from bench.reports import write_json
from bench.tui_load import CALLS, CHANGES, FLUSH_S, Traffic

WIDTH, HEIGHT = 200, 50
SCREENS: Final = ("Calls", "Caps", "Balances", "Targets", "Events", "Health")
START_S: Final = 20.0  # for the daemon's socket to be there
SETTLE_S: Final = 3.0  # what starting and changing screens cost is no part of what watching costs
LOOK_S: Final = 15.0
PRESSES: Final = 40
WAIT_S: Final = 20.0
RECORDED_MS: Final = 600_000
DAY_MS: Final = 86_400_000
T0_MS: Final = 1_795_000_000_000


class Terminal:
    """`capconduit top` in a tmux server of its own."""

    def __init__(self, directory: Path, config: Path, words: Sequence[str] = ()) -> None:
        self._base = ["tmux", "-S", str(directory / "tmux.sock"), "-f", os.devnull]
        line = shlex.join([sys.executable, "-m", "capconduit_cli", "--config", str(config), "top", *words])
        self.run("new-session", "-d", "-s", "top", "-x", str(WIDTH), "-y", str(HEIGHT), f"exec {line}")
        self.pid = int(self.run("display-message", "-p", "-t", "top", "#{pane_pid}"))

    def run(self, *words: str) -> str:
        """What a tmux command prints."""
        return subprocess.run([*self._base, *words], check=True, capture_output=True, text=True).stdout

    def screen(self) -> str:
        """What stands in the terminal."""
        return self.run("capture-pane", "-p", "-t", "top")

    def press(self, key: str) -> None:
        """A key of the keyboard."""
        self.run("send-keys", "-t", "top", key)

    def until(self, good: Callable[[str], bool], what: str) -> float:
        """Seconds until the screen is as wanted. Raises SystemExit after WAIT_S."""
        began = time.monotonic()
        while time.monotonic() - began < WAIT_S:
            screen = self.screen()
            if good(screen):
                return time.monotonic() - began
        raise SystemExit(f"the screen never showed {what}; it shows:\n{screen}")

    def close(self) -> None:
        """End the server and what runs in it."""
        subprocess.run([*self._base, "kill-server"], check=False, capture_output=True)


@contextmanager
def busy_floor(socket: Path, calls: int, changes: int) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """A function that starts the stand-in; the last one that it started is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        socket.unlink(missing_ok=True)
        line = [sys.executable, "-m", "bench.tui_load", str(socket), "--calls", str(calls), "--changes", str(changes)]
        started.append(subprocess.Popen(line))
        until_s = time.monotonic() + START_S
        while not socket.exists():
            if time.monotonic() > until_s or started[-1].poll() is not None:
                raise SystemExit("the daemon of the bench does not start")
            time.sleep(0.01)
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def write_config(directory: Path) -> Path:
    """A configuration with a socket, and an empty database."""
    path = directory / "capconduit.toml"
    database, socket = directory / "floor.sqlite", directory / "control.sock"
    path.write_text(f'[database]\nurl = "sqlite:///{database}"\n[control]\nsocket = "{socket}"\n')
    run = [sys.executable, "-m", "capconduit_cli", "--config", str(path)]
    subprocess.run([*run, "init", "--yes"], check=True, capture_output=True, cwd=directory)
    return path


def watch(directory: Path, calls: int, changes: int, look_s: float) -> dict[str, Any]:
    """The UI before a busy floor."""
    config = write_config(directory)
    with busy_floor(directory / "control.sock", calls, changes) as start:
        daemon = start()
        began = time.monotonic()
        terminal = Terminal(directory, config)
        try:
            terminal.until(lambda screen: "LIVE" in screen and "+1" in screen, "a live floor")
            report: dict[str, Any] = {"first_picture_s": round(time.monotonic() - began, 2)}
            report["screens"] = [_screen(terminal, number, name, look_s) for number, name in enumerate(SCREENS, 1)]
            report["keys"] = press_keys(terminal)
            report["away"] = go_away(terminal, daemon, start)
            report["rss_mib"] = round(machine.rss_bytes(terminal.pid) / 1_048_576, 1)
            return report
        finally:
            terminal.close()


def _has_left(before: str, screen: str) -> bool:
    return heading(screen) != before


def _screen(terminal: Terminal, number: int, name: str, look_s: float) -> dict[str, Any]:
    """CPU of the UI while it shows one screen."""
    before = heading(terminal.screen())
    terminal.press(str(number))
    if number > 1:  # the first is there already
        terminal.until(lambda screen: heading(screen) != before, f"screen {number}")
    time.sleep(SETTLE_S)
    used_s, began = machine.tree_cpu_s(terminal.pid), time.monotonic()
    time.sleep(look_s)
    cores = (machine.tree_cpu_s(terminal.pid) - used_s) / (time.monotonic() - began)
    return {"screen": name, "cpu_percent": round(cores * 100, 1)}


def heading(screen: str) -> str:
    """The line with the names of columns: it changes with the screen and with nothing else."""
    lines = screen.splitlines()
    return lines[2] if len(lines) > 2 else ""


def press_keys(terminal: Terminal) -> dict[str, Any]:
    """Milliseconds from a key to what it changes on the screen; what looking itself takes is told beside it."""
    looks = []
    for _ in range(PRESSES):
        began = time.monotonic()
        terminal.screen()
        looks.append((time.monotonic() - began) * 1e3)
    took = []
    terminal.press("1")
    time.sleep(SETTLE_S)
    for press in range(PRESSES):
        key, before = "2345"[press % 4], heading(terminal.screen())
        began = time.monotonic()
        terminal.press(key)
        terminal.until(partial(_has_left, before), f"what key {key} does")
        took.append((time.monotonic() - began) * 1e3)
        time.sleep(0.05 + 0.013 * (press % 10))  # at any instant between two repaints
    took.sort()
    return {
        "presses": PRESSES,
        "p50_ms": round(median(took), 1),
        "p95_ms": round(took[int(len(took) * 0.95) - 1], 1),
        "max_ms": round(took[-1], 1),
        "of_which_looking_ms": round(median(looks), 1),
    }


def go_away(
    terminal: Terminal, daemon: subprocess.Popen[bytes], start: Callable[[], subprocess.Popen[bytes]]
) -> dict[str, Any]:
    """How soon it says that the daemon is gone, hangs, and is back."""
    terminal.press("1")
    terminal.until(lambda screen: "LIVE" in screen, "a live floor")
    daemon.kill()
    daemon.wait()
    killed_s = terminal.until(lambda screen: "LIVE" not in screen, "that the daemon is gone")
    daemon = start()
    back_s = terminal.until(lambda screen: "LIVE" in screen, "that the daemon is back")
    daemon.send_signal(signal.SIGSTOP)
    hangs_s = terminal.until(lambda screen: "LIVE" not in screen, "that the daemon hangs")
    daemon.send_signal(signal.SIGCONT)
    goes_on_s = terminal.until(lambda screen: "LIVE" in screen, "that the daemon goes on")
    return {
        "killed_noticed_s": round(killed_s, 2),
        "live_after_restart_s": round(back_s, 2),
        "hang_noticed_s": round(hangs_s, 2),
        "live_after_hang_s": round(goes_on_s, 2),
    }


def record(directory: Path, calls: int, changes: int) -> dict[str, Any]:
    """The size of ten minutes recorded, and of a day like that; what recording and seeking take."""
    from capconduit_cli.tui.recording import FLUSH_S as BLOCK_S
    from capconduit_cli.tui.recording import Recorder, Recording
    from capconduit_cli.tui.replay import ReplayFeed

    traffic, path, cpu_s = Traffic(calls, changes, T0_MS), directory / "floor.rec", 0.0
    recorder, step_ms = Recorder(path), round(FLUSH_S * 1_000)
    recorder.message(T0_MS, "snapshot", traffic.picture(T0_MS))
    for at_ms in range(T0_MS + step_ms, T0_MS + RECORDED_MS, step_ms):
        messages = list(traffic.flush(at_ms))
        began = time.process_time()
        for kind, data in messages:
            recorder.message(at_ms, kind, data)
        if not at_ms % round(BLOCK_S * 1_000):
            recorder.flush()
        cpu_s += time.process_time() - began
    recorder.close()
    size, seeks = path.stat().st_size, []
    with Recording(path) as recording:
        for at_ms in range(recording.start_ms, recording.end_ms, RECORDED_MS // 20):
            feed = ReplayFeed(recording, start_ms=at_ms)
            began = time.perf_counter()
            feed._go_where_sought()
            seeks.append((time.perf_counter() - began) * 1e3)
    return {
        "day_mb": round(size * DAY_MS / RECORDED_MS / 1e6, 1),
        "cpu_percent": round(cpu_s / (RECORDED_MS / 1e3) * 100, 2),
        "seek_p50_ms": round(median(seeks), 1),
        "seek_max_ms": round(max(seeks), 1),
    }


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    made = parser("tui", __doc__)
    made.add_argument("--calls", type=int, default=CALLS, help=f"live (default {CALLS})")
    made.add_argument("--changes", type=int, default=CHANGES, help=f"a second (default {CHANGES})")
    made.add_argument("--look", type=float, default=LOOK_S, metavar="S", help="how long each number is looked at")
    made.add_argument("--only", choices=("ui", "recording", "daemon"), help="only a part")
    options = made.parse_args(argv)
    if options.update:
        made.error("docs/bench.md has no place for these numbers")
    if shutil.which("tmux") is None:
        made.error("tmux is not installed")
    report: dict[str, Any] = {"options": {"calls": options.calls, "changes": options.changes, "forced": options.force}}
    with workplace(options) as directory:
        report["machine"] = {**machine.describe(directory), "load": os.getloadavg()[0]}
        if options.only in (None, "ui"):
            report["ui"] = watch(directory, options.calls, options.changes, options.look)
        if options.only in (None, "recording"):
            report["recording"] = record(directory, options.calls, options.changes)
        if options.only in (None, "daemon"):
            from bench.tui_daemon import measure

            report["daemon"] = asyncio.run(measure(directory, options.calls, options.look))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "tui.json", report)
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
