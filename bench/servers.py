"""Server processes pinned to one core, and installations of CapConduit: a database, an estate and a daemon on it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from bench.shapes import Shape, make_estate
from capconduit.clock import SystemClock
from capconduit.errors import PeerError
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit_cli.control import ask_daemon
from lab.ports import free_port
from lab.wait import LabError, wait_for

SERVER_CORE: Final = 0
START_S: Final = 120  # a daemon reads an estate of 100,000 numbers
STOP_S: Final = 60
LOG_TAIL: Final = 4_000
# The machine is saturated on purpose, and what is answered late would be a reject: longer than the default.
DEADLINE_MS: Final = 5_000
REPOSITORY: Final = Path(__file__).parents[1]
TCP_LISTEN: Final = "0A"
_FOREIGN: Final = ("CAPCONDUIT_", "NOTIFY_SOCKET", "WATCHDOG_")


class Process:
    """A server on the server's core, ended by its pid. `ready` says whether it can be asked."""

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], bool]) -> None:
        self._log, env = log, environment(log.parent)
        began_s = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                preexec_fn=pin,
            )  # fmt: skip
        try:
            wait_for(lambda: self._alive() and ready(), "server that is ready", START_S)
        except BaseException:
            self.stop()
            raise
        self.start_s = time.monotonic() - began_s

    @property
    def pid(self) -> int:
        """Of the server; what it forks are its children."""
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end, wait for it; safe twice."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _alive(self) -> bool:
        if self._process.poll() is not None:
            raise LabError(f"the server ended with {self._process.returncode}: {self.log_tail()}")
        return True

    def log_tail(self) -> str:
        """The end of what it logged."""
        return self._log.read_text(errors="replace")[-LOG_TAIL:]

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Installation:
    """A database with an estate and a configuration file in `directory`; SQLite where no `url` is given.

    `more` are further sections of the configuration; without `deadline_ms` the daemon has its default.
    """

    def __init__(
        self,
        directory: Path,
        shape: Shape | None,
        url: str = "",
        more: Mapping[str, Mapping[str, str | int]] | None = None,
        deadline_ms: int | None = DEADLINE_MS,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.url = url or f"sqlite:///{directory}/capconduit.sqlite"
        self.port = free_port()
        self.config = directory / "capconduit.toml"
        self.store = open_store(self.url, create=True)
        prepare_database(self.store, SystemClock())
        self.office = Office(self.store, SystemClock(), actor="bench")
        if shape is not None:
            make_estate(self.office, shape)
        self._configure(more or {}, deadline_ms)

    def _configure(self, more: Mapping[str, Mapping[str, str | int]], deadline_ms: int | None) -> None:
        deadline = {"deadline_ms": deadline_ms} if deadline_ms is not None else {}
        sections: dict[str, Mapping[str, str | int]] = {
            "database": {"url": self.url},
            "fastagi": {"listen": f"127.0.0.1:{self.port}", **deadline},
            "ami": {"host": ""},
            "node": {"name": "bench"},
            "control": {"socket": f"{self.directory}/c.sock"},
            "log": {"level": "warning"},
            **more,
        }
        self.config.write_text(
            "".join(
                f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
                for name, keys in sections.items()
            )
        )

    def daemon(self) -> Process:
        """Start the daemon as an operator does."""
        return Process(self.command("serve"), self.directory / "daemon.log", lambda: bool(self.status().get("ready")))

    def command(self, *words: str) -> list[str]:
        """A command line of `capconduit` on this installation."""
        return [sys.executable, "-m", "capconduit_cli", "--config", str(self.config), *words]

    def status(self) -> dict[str, Any]:
        """What the daemon's control socket tells; empty while nobody answers there."""
        try:
            return ask_daemon(f"{self.directory}/c.sock", "/status")
        except PeerError:
            return {}

    def close(self) -> None:
        """Give the database back."""
        self.store.close()

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def listens(port: int) -> bool:
    """Whether somebody listens there. Looked up, not tried: a probe that says nothing hangs panoramisk's server."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return any(line.split()[1:4:2] == [f"0100007F:{port:04X}", TCP_LISTEN] for line in lines)


def environment(state: Path) -> dict[str, str]:
    """Ours, without what would turn a program to another installation; what it keeps, it keeps in `state`."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    return {**ours, "XDG_STATE_HOME": str(state)}


def pin() -> None:
    """Stay on the server's core, where there is more than one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[SERVER_CORE % len(cores)]})
