"""Runs command lines for tests: inside of this process, or as a process of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from capconduit_cli.__main__ import main

DEADLINE_S = 90


@dataclass(frozen=True)
class Result:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, read as JSON."""
        return json.loads(self.out)


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of this machine's CapConduit is found."""
    foreign = ("CAPCONDUIT_", "XDG_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "COLUMNS": "80", **more}


def run(*argv: str, home: Path, stdin: str = "", env: Mapping[str, str] | None = None) -> Result:
    """Run a command line in this process, without a terminal; `env` adds to a clean environment."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, clean_environment(home, **(env or {})), clear=True),
        mock.patch("sys.stdin", io.StringIO(stdin)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(argv)
    return Result(code, out.getvalue(), err.getvalue())


def run_process(*argv: str, home: Path, env: Mapping[str, str] | None = None, **popen: Any) -> Result:
    """Run a command line as a process; waits for its end."""
    ended = subprocess.run(
        [sys.executable, "-m", "capconduit_cli", *argv],
        env=clean_environment(home, **(env or {})),
        stdin=subprocess.DEVNULL,
        timeout=DEADLINE_S,
        check=False,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen),
    )
    return Result(ended.returncode, (ended.stdout or b"").decode(), (ended.stderr or b"").decode())
