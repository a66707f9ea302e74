"""The load generator as a process on a core of its own: agi_load.c where there is a C compiler, else agi_load.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.agi_load import MAX_COUNT, request_text

HERE: Final = Path(__file__).parent
LOAD_CORE: Final = 1
COMPILE_S: Final = 60
SPARE_S: Final = 60  # that a slice may take beyond its time: slow answers, a busy machine


@dataclass(frozen=True)
class Load:
    """How exchanges begin: `clients` at a time, or with `rate` so many a second, at most `clients` at a time."""

    name: str
    clients: int
    rate: float | None = None


@dataclass(frozen=True)
class Slice:
    """What became of one run of the generator."""

    begun: int
    count: int
    unexpected: int
    errors: Counter[str]
    seconds: float
    cpu_s: float
    latencies_ms: array[float]


@dataclass(frozen=True)
class Request:
    """One kind of exchange; `{n}` in the arguments becomes a number. Answers without `expect` are counted."""

    script: str
    args: Sequence[str]
    expect: str


class Generator:
    """Makes slices of load. Compiles what it needs into `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._latencies = directory / "latencies"
        self._program = directory / "agi_load"
        compiler = shutil.which("cc") or shutil.which("gcc")
        self.compiled = compiler is not None
        if compiler is None:
            print("no C compiler: the generator in Python may be the limit itself", file=sys.stderr)
            return
        command = [compiler, "-std=gnu11", "-O2", "-o", str(self._program), str(HERE / "agi_load.c")]
        subprocess.run(command, check=True, timeout=COMPILE_S)

    def run(
        self, port: int, request: Request, load: Load, *, first: int, seconds: float, count: int = MAX_COUNT
    ) -> Slice:
        """Send requests number `first` and up for `seconds`, at most `count`."""
        command = self._command(port, request, load, first, seconds, count)
        done = subprocess.run(
            command,
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            text=True,
            timeout=seconds + SPARE_S,
            check=False,
            preexec_fn=pin,
        )
        if not done.stdout:
            raise SystemExit(f"the load generator failed with exit code {done.returncode}")
        told, latencies = json.loads(done.stdout), array("f")
        latencies.frombytes(self._latencies.read_bytes())
        return Slice(
            begun=told["begun"],
            count=told["count"],
            unexpected=told["unexpected"],
            errors=Counter(told["errors"]),
            seconds=told["seconds"],
            cpu_s=told["cpu_s"],
            latencies_ms=latencies,
        )

    def _command(self, port: int, request: Request, load: Load, first: int, seconds: float, count: int) -> list[str]:
        if not self.compiled:
            return [
                sys.executable, "-m", "bench.agi_load", "--port", str(port), "--script", request.script,
                *(word for argument in request.args for word in ("--arg", argument)),
                "--latencies", str(self._latencies), "--first", str(first), "--count", str(count),
                "--seconds", str(seconds), "--clients", str(load.clients), "--expect", request.expect,
                *(("--rate", str(load.rate)) if load.rate else ()),
            ]  # fmt: skip
        template = self._directory / "request"
        template.write_bytes(request_text(request.script, request.args, f"127.0.0.1:{port}"))
        return [
            str(self._program), str(port), str(template), str(self._latencies), str(first), str(count), str(seconds),
            str(load.clients), str(load.rate or 0), request.expect,
        ]  # fmt: skip


def pin() -> None:
    """Stay on the generator's core, where there is more than one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[LOAD_CORE % len(cores)]})
