"""What /proc tells of the machine and of processes: CPU time of a process tree, memory, files, who else is busy."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, Final

TICKS: Final = os.sysconf("SC_CLK_TCK")
NS: Final = 1e9
IDLE_LOOK_S: Final = 2.0
IDLE_CORES: Final = 0.15  # busier than this without us, and we do not measure
SYNCS: Final = 200
PROC: Final = Path("/proc")


def children_of() -> dict[int, list[int]]:
    """Every process's children, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    return children


def tree_of(root: int) -> list[int]:
    """A process and all that came of it."""
    children, tree = children_of(), [root]
    for pid in tree:
        tree += children.get(pid, ())
    return tree


def tree_cpu_s(root: int) -> float:
    """CPU time of a process and its children so far, those that have ended and were waited for included.

    Living threads count by the nanosecond (schedstat), ended children by the tick.
    """
    total = 0.0
    for pid in tree_of(root):
        for task in _entries(PROC / str(pid) / "task"):
            text = _read(task / "schedstat")
            total += int(text.split()[0]) / NS if text else 0.0
        fields = _stat(pid)
        total += (int(fields[13]) + int(fields[14])) / TICKS if fields else 0.0
    return total


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    return _status_kib(pid, "VmRSS") * 1024


def peak_rss_bytes(pid: int) -> int:
    """The most it ever was."""
    return _status_kib(pid, "VmHWM") * 1024


def open_files(pid: int) -> int:
    """Open file descriptors of one process."""
    return len(_entries(PROC / str(pid) / "fd"))


def busy_s() -> float:
    """CPU time that all processes of the machine have used, or that was stolen from it; interrupts are left out."""
    user, nice, system, _idle, _iowait, _irq, _softirq, steal = map(int, _read(PROC / "stat").split()[1:9])
    return (user + nice + system + steal) / TICKS


def busy_cores(seconds: float = IDLE_LOOK_S) -> float:
    """How many cores were busy while we only looked."""
    began, busy = time.monotonic(), busy_s()
    time.sleep(seconds)
    return (busy_s() - busy) / (time.monotonic() - began)


def refuse_if_busy(*, force: bool) -> None:
    """Exit where something else uses the machine; with `force` only say so."""
    cores = busy_cores()
    if cores <= IDLE_CORES:
        return
    told = f"{cores:.2f} cores are busy without us"
    if not force:
        raise SystemExit(f"{told}: numbers of now would mean nothing; try again later, or measure with --force")
    print(f"{told}: numbers of now mean little", file=sys.stderr)


def describe(directory: Path) -> dict[str, Any]:
    """What the numbers depend on. Reports of the same `kind` may be compared."""
    version = ".".join(platform.python_version_tuple()[:2])
    kind = f"{platform.machine()}, {_cpu_model()}, {os.cpu_count()} cores, Python {version}, {_filesystem(directory)}"
    return {
        "kind": kind,
        "python": platform.python_version(),
        "kernel": platform.release().split("-")[0],
        "fdatasync_us": round(fdatasync_us(directory), 1),
    }


def fdatasync_us(directory: Path) -> float:
    """What making 4 KiB durable takes in this directory (the median)."""
    path, took = directory / "fdatasync.probe", []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(descriptor, bytes(4096))
            os.fdatasync(descriptor)
            took.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(descriptor)
        path.unlink()
    return median(took)


def _cpu_model() -> str:
    names = [line.partition(":")[2] for line in _read(PROC / "cpuinfo").splitlines() if line.startswith("model name")]
    return " ".join(names[0].split()) if names else "unknown CPU"


def _filesystem(directory: Path) -> str:
    device = directory.stat().st_dev
    for line in _read(PROC / "self" / "mountinfo").splitlines():
        fields = line.split()
        if fields[2] == f"{os.major(device)}:{os.minor(device)}":
            return fields[fields.index("-") + 1]
    return "unknown file system"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (its third); none where the process is gone."""
    return _read(PROC / str(pid) / "stat").rpartition(")")[2].split()


def _status_kib(pid: int, name: str) -> int:
    for line in _read(PROC / str(pid) / "status").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it is gone
        return ""


def _entries(path: Path) -> list[Path]:
    try:
        found: Iterable[Path] = list(path.iterdir())
    except OSError:
        return []
    return list(found)
