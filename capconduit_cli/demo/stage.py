"""The demo's stage: a directory with a database and a configuration, and the daemon on it; gone when the demo ends.

The outside dependencies are the file system and the daemon's process. **Fails closed**: a daemon that does not become
ready, or ends by itself, raises PeerError with its last log lines, and what was made is taken away all the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import capconduit
from capconduit.clock import SystemClock
from capconduit.config import Config, load_config, toml_value
from capconduit.config_rules import MAX_SOCKET_PATH_BYTES, Value
from capconduit.errors import PeerError, UsageError
from capconduit.services import calls
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store

Answer = TypeVar("Answer")

READY_S: Final = 30.0  # from the daemon's start to its first `ready`
DRAIN_S: Final = 15.0  # from SIGTERM to its end; then it is killed
KILLED_S: Final = 5.0
POLL_S: Final = 0.05
STATUS_S: Final = 2.0
SETTLED_S: Final = 20.0  # the daemon looks for kept settlements every 15 s
STATUS_BYTES: Final = 65_536
LOG_LINES: Final = 12
LOG_TAIL_BYTES: Final = 16_384
# A demo must not fail because a disk is slow: the daemon's own default is 250 ms.
DEADLINE_MS: Final = 2_000
SOCKET: Final = "control.sock"
NODE: Final = "demo"
AMI_USER: Final = "capconduit"

# Variables that would turn the demo's daemon to another installation, or let it speak in the name of a service.
_FOREIGN: Final = ("CAPCONDUIT_", "NOTIFY_SOCKET", "WATCHDOG_")


class Stage:
    """One directory and one daemon. Made by `open_stage`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config_file = directory / "capconduit.toml"
        self.log_file = directory / "daemon.log"
        self.secret = secrets.token_urlsafe(24)
        self.agi_port = 0
        self._socket = directory / SOCKET
        self._daemon: asyncio.subprocess.Process | None = None
        self._kill = asyncio.Event()
        self._store = open_store(f"sqlite:///{directory / 'capconduit.sqlite'}", create=True)
        clock = SystemClock()
        prepare_database(self._store, clock)
        self.office = Office(self._store, clock, actor="demo")

    def configure(self, ami_port: int, more: Mapping[str, Mapping[str, Value]] | None = None) -> Config:
        """Write the configuration and the AMI secret; `more` are sections to add. Raises ConfigError."""
        secret_file = self.directory / "ami.secret"
        secret_file.touch(mode=0o600)
        secret_file.write_text(self.secret + "\n", encoding="ascii")
        sections: dict[str, Mapping[str, Value]] = {
            "database": {"url": f"sqlite:///{self.directory / 'capconduit.sqlite'}"},
            "fastagi": {"listen": "127.0.0.1:0", "deadline_ms": DEADLINE_MS},
            "ami": {"host": "127.0.0.1", "port": ami_port, "username": AMI_USER, "secret": f"file:{secret_file}"},
            "node": {"name": NODE},
            "control": {"socket": str(self._socket)},
            "log": {"format": "console"},
            **(more or {}),
        }
        text = "".join(
            f"[{name}]\n" + "".join(f"{key} = {toml_value(value)}\n" for key, value in keys.items()) + "\n"
            for name, keys in sections.items()
        )
        self.config_file.write_text("# Written by `capconduit demo`.\n" + text, encoding="utf-8")
        return load_config(self.config_file, {})

    # --- the daemon

    async def start_daemon(self) -> None:
        """Start the daemon and wait until it takes calls, AMI apart; `agi_port` is known then. Raises PeerError."""
        program_dir = Path(capconduit.__file__).parents[1]  # a checkout, or where it is installed
        with self.log_file.open("ab") as log:
            self._daemon = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "fastagi", "--config", str(self.config_file),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, cwd=program_dir, env=_environment(),
                start_new_session=True,  # Ctrl-C is for us; we end it in order
            )  # fmt: skip
        status = await self._wait_for(bool, "answering")
        self.agi_port = int(str(status["fastagi"]["listen"]).rpartition(":")[2])

    async def wait_ready(self) -> None:
        """Wait until the daemon is ready, AMI included. Raises PeerError."""
        await self._wait_for(lambda told: told.get("ready") is True, "ready")

    async def _wait_for(self, good: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                while not self._died():
                    told = await self.status()
                    if good(told):
                        return told
                    await asyncio.sleep(POLL_S)
        if self._died():
            raise self._fault("ended before it was " + what)
        reasons = ", ".join(told.get("reasons", ())) or "no answer on its control socket"
        raise self._fault(f"was not {what} within {READY_S:.0f} s ({reasons})")

    async def status(self) -> dict[str, Any]:
        """What the daemon's control socket tells; empty where it does not answer."""
        try:
            async with asyncio.timeout(STATUS_S):
                reader, writer = await asyncio.open_unix_connection(self._socket)
                try:
                    writer.write(b"GET /status HTTP/1.1\r\n\r\n")
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                    length = int(head.partition("content-length:")[2].split("\r\n")[0])
                    told: dict[str, Any] = json.loads(await reader.readexactly(min(length, STATUS_BYTES)))
                finally:
                    writer.close()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return {}
        return told

    async def while_daemon_lives(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The answer of `work`, which is cancelled when the daemon ends before it. Raises PeerError."""
        assert self._daemon is not None
        loop = asyncio.get_running_loop()
        working, dying = loop.create_task(work), loop.create_task(self._daemon.wait())
        try:
            await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise self._fault("ended in the middle")
            return working.result()
        finally:
            working.cancel()
            dying.cancel()
            await asyncio.gather(working, dying, return_exceptions=True)

    async def all_settled(self) -> None:
        """Wait until no call is live any more: settlements that Asterisk kept are read every few seconds."""
        with suppress(TimeoutError):  # what is left is for the report to tell
            async with asyncio.timeout(SETTLED_S):
                while await asyncio.to_thread(calls.list_calls, self.office):  # noqa: ASYNC110  # a database tells no one
                    await asyncio.sleep(POLL_S)

    def _fault(self, what: str) -> PeerError:
        code = self._daemon.returncode if self._daemon is not None else None
        ended = "" if code is None else f" with exit code {code}"
        return PeerError("demo-daemon", f"the demo's daemon {what}{ended}", "its last log lines stand above")

    def log_tail(self) -> list[str]:
        """The last lines of the daemon's log."""
        with suppress(OSError), self.log_file.open("rb") as file:
            file.seek(max(self.log_file.stat().st_size - LOG_TAIL_BYTES, 0))
            return file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        return []

    def _died(self) -> bool:
        return self._daemon is None or self._daemon.returncode is not None

    def hurry(self) -> None:
        """Do not wait for the daemon to drain: somebody asked twice."""
        self._kill.set()

    async def stop_daemon(self) -> int:
        """End the daemon: it drains, or is killed when that takes too long; its exit code. Safe twice."""
        daemon = self._daemon
        if daemon is None:
            return 0
        if daemon.returncode is None:
            with suppress(ProcessLookupError):
                daemon.terminate()
            end, kill = asyncio.ensure_future(daemon.wait()), asyncio.ensure_future(self._kill.wait())
            try:
                await asyncio.wait({end, kill}, timeout=DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
            finally:
                kill.cancel()
                if daemon.returncode is None:
                    with suppress(ProcessLookupError):
                        daemon.kill()
            await asyncio.wait({end}, timeout=KILLED_S)
        return daemon.returncode if daemon.returncode is not None else -1

    def close(self) -> None:
        """Give the database back."""
        self._store.close()


@asynccontextmanager
async def open_stage(keep: Path | None) -> AsyncIterator[Stage]:
    """A stage in a temporary directory, or in `keep`, which must be new or empty and stays. Raises UsageError.

    However the block is left, the daemon has ended and a temporary directory is gone afterwards.
    """
    directory = Path(tempfile.mkdtemp(prefix="capconduit-demo-")) if keep is None else _kept(keep)
    try:
        stage = Stage(directory)
        try:
            yield stage
        finally:
            try:
                await stage.stop_daemon()
            finally:
                stage.close()
    finally:
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)


def _kept(keep: Path) -> Path:
    directory = keep.expanduser().absolute()
    if len(os.fsencode(directory / SOCKET)) > MAX_SOCKET_PATH_BYTES:
        raise UsageError("demo-directory", f"{directory} is too long for a socket in it", "name a shorter one")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError("demo-directory", f"{directory} is there already", "name a directory that is new or empty")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
