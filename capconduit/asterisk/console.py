"""Asterisk's console from outside: `asterisk -rx COMMAND`, its output and its time bounded.

The outside dependency is the `asterisk` program and the control socket of the one that runs. **Fails closed**: no
answer, a failed one, or one that is too long is a PeerError.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capconduit.errors import PeerError

PROGRAM: Final = "asterisk"
TIMEOUT_S: Final = 15.0
OUTPUT_BYTES: Final = 4_194_304
COMMAND_CHARS: Final = 512
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_READ_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Console:
    """How the console of one Asterisk is reached; `main_config` is its asterisk.conf where it is not the usual one."""

    program: str = PROGRAM
    main_config: Path | None = None
    timeout_s: float = TIMEOUT_S

    def ask(self, command: str) -> str:
        """What Asterisk prints for `command`, without colours. Raises PeerError."""
        if not command or len(command) > COMMAND_CHARS or _CONTROL.search(command):
            raise PeerError("console-command-invalid", f"{command!r} is no console command", "this is a bug: report it")
        chosen = [] if self.main_config is None else ["-C", str(self.main_config)]
        status, output = _run([self.program, *chosen, "-rx", command], self.timeout_s)
        text = _ESCAPES.sub("", output.decode(errors="replace"))
        if status != 0:
            raise PeerError(
                "asterisk-unreachable",
                f"Asterisk's console does not answer: {_last_line(text) or f'{self.program} ended with {status}'}",
                "is Asterisk running here, and may you use its control socket (root, or the user it runs as)?",
            )
        return text


def _run(argv: list[str], timeout_s: float) -> tuple[int, bytes]:
    """Exit status and output, both streams together. Raises PeerError."""
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise PeerError(
            "asterisk-not-found", f"cannot run {argv[0]!r}: {error.strerror}", "where is Asterisk? set asterisk.program"
        ) from None
    try:
        output = _read(process, timeout_s)
        return process.wait(timeout_s), output
    except subprocess.TimeoutExpired:
        raise _too_late(argv, timeout_s) from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _read(process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
    assert process.stdout is not None
    deadline, size = time.monotonic() + timeout_s, 0
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not selector.select(left_s):
                raise _too_late(process.args, timeout_s)
            data = os.read(process.stdout.fileno(), _READ_BYTES)
            if not data:
                return b"".join(parts)
            parts.append(data)
            size += len(data)
            if size > OUTPUT_BYTES:
                raise PeerError("console-output-too-long", f"Asterisk prints more than {OUTPUT_BYTES} bytes", "")


def _too_late(args: object, timeout_s: float) -> PeerError:
    command = args[-1] if isinstance(args, list) and args else "a command"
    return PeerError(
        "asterisk-timeout",
        f"Asterisk's console did not answer {str(command)!r} within {timeout_s:g} s",
        "is Asterisk overloaded or frozen?",
    )


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
