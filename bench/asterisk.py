"""`asterisk`: calls a second through a real Asterisk with our decisions and with constant ones on the same dialplan."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.options import parser, workplace
from bench.reports import finish
from bench.servers import listens
from bench.sipp_load import SipRun, answering, call
from lab.floor import NUMBER, Floor
from lab.root import DEFAULT_SUITE, ensure_tree
from lab.wait import LabError, wait_for

OURS, CONSTANT = "capconduit", "constant"
CROWD: Final = 30  # calls under way in the closed loop that finds the maximum
CROWD_RATE: Final = 2_000  # begun every second there, as far as CROWD lets
STEPS: Final = (0.25, 0.5, 0.75, 0.9)  # of the constant answer's maximum
AT_ONCE: Final = 95  # media ports of the lab's Asterisk
SETTLE_S: Final = 30.0
FUNDS: Final = "1000000"
STASIS: Final = "[declined_message_types]\ndecline = ast_channel_varset_type\n"  # as docs/install.md advises


@dataclass(frozen=True, slots=True)
class Scene:
    """A running Asterisk whose dialplan asks `pid`."""

    floor: Floor
    pid: int


def main(argv: list[str]) -> int:
    """Run it; 1 where a call was lost or is still held."""
    options = _options(argv)
    with workplace(options) as directory, answering(directory) as uri:
        maxima, steps, left = _measure(options, directory, uri)
    finish("asterisk", _report(options, maxima, steps, left), options)
    if left:
        print(f"not settled: {left}", file=sys.stderr)
    return 1 if left else 0


def _options(argv: list[str]) -> argparse.Namespace:
    made = parser("asterisk", __doc__)
    made.add_argument("--seconds", type=float, default=10.0, help="of each run (default 10)")
    made.add_argument("--rounds", type=int, default=3, help="of each run (default 3)")
    made.add_argument("--suite", default=DEFAULT_SUITE, help=f"Debian suite of the Asterisk (default {DEFAULT_SUITE})")
    return made.parse_args(argv)


def _measure(
    options: argparse.Namespace, directory: Path, uri: str
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[float, list[dict[str, Any]]]], list[str]]:
    """Maxima in a closed loop, then an open loop at shares of the constant answer's maximum, both designs in turn."""
    tree = ensure_tree(options.suite)
    maxima: dict[str, list[dict[str, Any]]] = {CONSTANT: [], OURS: []}
    steps: dict[str, dict[float, list[dict[str, Any]]]] = {name: {s: [] for s in STEPS} for name in maxima}
    left: list[str] = []
    guess = 200.0
    for number in range(options.rounds):
        for name in maxima if number % 2 == 0 else reversed(list(maxima)):
            with _scene(name, tree, directory, uri) as scene:
                run(scene, directory, rate=50, calls=100)  # warm
                calls = int(guess * options.seconds)
                maxima[name].append(run(scene, directory, rate=CROWD_RATE, calls=calls, at_once=CROWD))
                guess = maxima[name][-1]["per_s"]
                top = median(found["per_s"] for found in maxima[CONSTANT] or maxima[name])
                for share in STEPS:
                    rate = max(int(top * share), 1)
                    made = run(scene, directory, rate=rate, calls=int(rate * options.seconds))
                    steps[name][share].append({"rate": rate, **made})
                    print(f"{name} at {rate}/s: {made}", file=sys.stderr)
                if name == OURS:
                    left += _left(scene)
    return maxima, steps, left


def run(scene: Scene, directory: Path, *, rate: int, calls: int, at_once: int = AT_ONCE) -> dict[str, Any]:
    """One run; answered calls a second, those that failed, ms to 180 Ringing, CPU of the decider for each call."""
    before_s, asterisk_s = machine.tree_cpu_s(scene.pid), machine.tree_cpu_s(scene.floor.asterisk.pid)
    done: SipRun = call(directory, NUMBER, scene.floor.ports.sip, rate=rate, calls=calls, at_once=at_once)
    cpu_s, asterisk_cpu_s = (
        machine.tree_cpu_s(scene.pid) - before_s,
        machine.tree_cpu_s(scene.floor.asterisk.pid) - asterisk_s,
    )
    count = max(done.answered, 1)
    return {
        "per_s": round(done.per_s, 1),
        "answered": done.answered,
        "failed": done.failed,
        "p50_ms": done.percentile(0.50),
        "p95_ms": done.percentile(0.95),
        "p99_ms": done.percentile(0.99),
        "cpu_ms": round(cpu_s / count * 1e3, 3),
        "asterisk_ms": round(asterisk_cpu_s / count * 1e3, 3),
    }


@contextmanager
def _scene(name: str, tree: Path, directory: Path, uri: str) -> Iterator[Scene]:
    """A fresh Asterisk with our dialplan and the daemon, or with the constant decider on the daemon's port."""
    floor = Floor(tree)
    decider: subprocess.Popen[bytes] | None = None
    try:
        floor.asterisk.put("stasis.conf", STASIS)
        floor.fund(FUNDS)
        floor.target(uri, ring_s=20)
        floor.asterisk.start()
        if name == OURS:
            floor.start_daemon()
            pid = floor.daemon_pid
        else:
            command = [sys.executable, "-m", "bench.designs.constant_dialplan", str(floor.agi_port), uri]
            with (directory / "constant.log").open("ab") as log:
                decider = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            pid = decider.pid
            wait_for(lambda: listens(floor.agi_port), "constant decider")
        yield Scene(floor, pid)
    finally:
        if decider is not None:
            decider.kill()
            decider.wait()
        floor.close()


def _left(scene: Scene) -> list[str]:
    """What is still held when the dust has settled, and what does not add up."""
    with suppress(LabError):  # what lives then is told below
        wait_for(lambda: not scene.floor.live(), "end of all calls", SETTLE_S)
    found = [f"call {one.call.id}" for one in scene.floor.live()] + [str(drift) for drift in scene.floor.drift()]
    try:
        scene.floor.asterisk.wait_idle()
    except LabError as error:
        found.append(str(error))
    return found


def _report(
    options: argparse.Namespace,
    maxima: dict[str, list[dict[str, Any]]],
    steps: dict[str, dict[float, list[dict[str, Any]]]],
    left: list[str],
) -> dict[str, Any]:
    """Medians of the rounds."""
    return {
        "machine": machine.describe(options.dir),
        "options": {"suite": options.suite, "rounds": options.rounds, "seconds": options.seconds},
        "maximum": {name: _medians(runs) for name, runs in maxima.items()},
        "steps": {name: {str(share): _medians(runs) for share, runs in by.items()} for name, by in steps.items()},
        "left": left,
    }


def _medians(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: median(run[key] for run in runs) for key in runs[0]}
