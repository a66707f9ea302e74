"""A command line on a terminal of its own: what it shows is waited for, and keys are typed, Ctrl-C among them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from tests.cli.runner import clean_environment

DEADLINE_S = 60.0
INTERRUPT = "\x03"
END_OF_FILE = "\x04"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A running command; `seen` is everything it showed."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self._expected = 0  # characters of `plain` that were waited for
        self.seen = ""

    @property
    def plain(self) -> str:
        """What was shown, without colours."""
        return _CONTROL.sub("", self.seen).replace("\r\n", "\n")

    def expect(self, text: str) -> None:
        """Wait until `text` is shown, after what was expected before."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.plain[self._expected :]:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} was not shown: {self.plain!r}")
        self._expected = self.plain.index(text, self._expected) + len(text)

    def type(self, text: str) -> None:
        """Type something; a line ends with Enter."""
        os.write(self._descriptor, text.encode())

    def end(self) -> int:
        """Wait for the end; the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        return self._process.wait(DEADLINE_S)

    def _read(self, deadline: float) -> bool:
        """More of what is shown; False at its end. Raises AssertionError at the deadline."""
        ready, _, _ = select.select([self._descriptor], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise AssertionError(f"nothing more was shown: {self.plain!r}")
        try:
            part = os.read(self._descriptor, 65_536)
        except OSError:  # EIO: the other side is closed
            return False
        self.seen += part.decode(errors="replace")
        return bool(part)


@contextlib.contextmanager
def terminal(home: Path, *argv: str, columns: int = 80, **env: str) -> Iterator[Terminal]:
    """Run a command line on a terminal of `columns`."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = clean_environment(home, TERM="xterm-256color", PYTHONPATH=os.pathsep.join(sys.path), **env)
    environment = {k: v for k, v in environment.items() if k not in ("COLUMNS", "NO_COLOR") or k in env}
    code = "import sys; from capconduit_cli.__main__ import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: _own(theirs),
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(DEADLINE_S)
        os.close(ours)


def _own(descriptor: int) -> None:
    """The terminal controls the command, so that Ctrl-C reaches it."""
    os.setsid()
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
