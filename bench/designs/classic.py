"""The classic: an AGI process for each call, which asks a web application over HTTP, which asks PostgreSQL.

Asterisk forks the process itself; here a small parent does it for each connection and gives it the socket as standard
input and output, so that the same load generator measures all designs. `classic_agi.py` is the script, `classic_app.py`
the application under gunicorn with two workers for each core and one more, which is what gunicorn advises.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType

from bench.designs.wire import BACKLOG
from lab.ports import free_port
from lab.wait import wait_for

HERE = Path(__file__).parent


def main(port: int, url: str) -> None:
    """Start gunicorn and fork for each connection."""
    http_port = free_port()
    workers = 2 * len(os.sched_getaffinity(0)) + 1
    gunicorn = subprocess.Popen(
        [
            sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{http_port}", "--workers", str(workers),
            "--no-control-socket", "--log-level", "warning", "bench.designs.classic_app:app",
        ],
        env={**os.environ, "DATABASE_URL": url},
    )  # fmt: skip
    wait_for(lambda: _listens(http_port), "gunicorn", 30)
    signal.signal(signal.SIGCHLD, _reap)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
            while True:
                connection, _ = listener.accept()
                command = [sys.executable, str(HERE / "classic_agi.py"), f"http://127.0.0.1:{http_port}"]
                subprocess.Popen(command, stdin=connection.fileno(), stdout=connection.fileno())
                connection.close()
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gunicorn.terminate()
        gunicorn.wait(10)


def _reap(_number: int, _frame: FrameType | None) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
