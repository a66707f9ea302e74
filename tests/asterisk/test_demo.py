"""`capconduit demo --asterisk`: real SIP calls through a real Asterisk, a report that adds up, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WHOLE_S = 200
DEADLINE_S = 90


def processes_of(directory: Path) -> list[int]:
    """Processes that have something below `directory` in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(directory) in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


@pytest.fixture
def temp() -> Iterator[Path]:
    """Everything that the demo makes is below this directory; its path is short, for Asterisk's socket."""
    directory = Path(tempfile.mkdtemp(prefix="cc-"))
    yield directory
    for pid in processes_of(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory)


def start(temp: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPCONDUIT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "capconduit_cli", "demo", "--asterisk", "--no-live"],
        env=kept | {"TMPDIR": str(temp)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_demo_on_a_real_asterisk_adds_up(asterisk_tree: Path, temp: Path) -> None:
    with start(temp) as demo:
        out, err = demo.communicate(timeout=WHOLE_S)
    assert demo.returncode == 0, out + err
    assert "24 calls" in out
    assert "WRONG" not in out
    assert "not met" not in out
    assert out.count("adds up") == 2
    assert processes_of(temp) == []
    assert list(temp.iterdir()) == []


def test_ctrl_c_ends_asterisk_and_sipp(asterisk_tree: Path, temp: Path) -> None:
    with start(temp) as demo:
        deadline = time.monotonic() + DEADLINE_S
        while not any(b"outcome" in log.read_bytes() for log in temp.glob("capconduit-demo-*/daemon.log")):
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=DEADLINE_S)
    assert (demo.returncode, out) == (130, ""), err
    assert processes_of(temp) == []
    assert list(temp.iterdir()) == []
