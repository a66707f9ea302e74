"""Gets promtool, which checks metrics and alert rules: the system's, or that of Debian's package prometheus."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from lab.root import APT_TIMEOUT_S, LAB_DIR
from lab.wait import LabUnavailable

PACKAGE: Final = "prometheus"
HOME: Final = LAB_DIR / "promtool"
BINARY: Final = HOME / "usr/bin/promtool"


def ensure_promtool() -> Path:
    """The program, downloaded now if it is not there (20 MB; nothing is installed). Raises LabUnavailable."""
    if found := shutil.which("promtool"):
        return Path(found)
    LAB_DIR.mkdir(exist_ok=True)
    with (LAB_DIR / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once must not unpack into the same place
        if not BINARY.exists():
            _unpack()
    return BINARY


def _unpack() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)  # noqa: PTH101  # apt downloads as a user of its own
        _run(["apt-get", "download", "-q", PACKAGE], directory)
        debs = list(Path(directory).glob("*.deb"))
        if len(debs) != 1:
            raise LabUnavailable(f"apt-get download {PACKAGE} left {len(debs)} packages")
        part = HOME.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        _run(["dpkg", "-x", str(debs[0]), str(part)], directory)
        part.rename(HOME)


def _run(command: list[str], directory: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=APT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabUnavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        raise LabUnavailable(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
