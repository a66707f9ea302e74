"""One Asterisk of the lab: its own directory, its own ports, the tree's own loader; stopped or killed by its pid only.

The base configuration in lab/etc is what any Asterisk needs (NAME.in has @NAMES@ replaced); the rendered files come
over it. The outside dependency is the unpacked tree. **Fails closed**: an Asterisk that does not come up is killed and
its log is in the LabError.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lab.ports import LabPorts
from lab.wait import LabError, wait_for

ETC: Final = Path(__file__).parent / "etc"
BOOT_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 15.0
CLI_TIMEOUT_S: Final = 30.0
MAX_FILES: Final = 20_000
LOG_TAIL_CHARS: Final = 12_000
_CHANNEL_STATE: Final = 4  # in a line of `core show channels concise`
_MULTIARCH: Final = Path("usr/lib/x86_64-linux-gnu")

# Instances that were made and not yet closed, for whoever reports a failure.
ALIVE: weakref.WeakSet[Asterisk] = weakref.WeakSet()


class Asterisk:
    """A running Asterisk; `with Asterisk(tree, files, ports) as asterisk:` starts it and ends it.

    files: rendered configuration by name. ports: the ones that were rendered. node_name becomes `systemname`, the
    prefix of every uniqueid. run_dir: kept afterwards; without it a directory of its own that goes away. The path must
    be short: Asterisk's control socket is in it, and a socket's path holds 107 characters.
    """

    def __init__(
        self,
        tree: Path,
        files: Mapping[str, str] | None,
        ports: LabPorts,
        node_name: str = "lab",
        run_dir: Path | None = None,
    ) -> None:
        self.tree = tree
        self.ports = ports
        self.node_name = node_name
        self._keeps_dir = run_dir is not None
        self.dir = run_dir or Path(tempfile.mkdtemp(prefix="cc-ast-"))
        self._process: subprocess.Popen[bytes] | None = None
        if files is not None:
            self._configure(files)
        ALIVE.add(self)

    @classmethod
    def attach(cls, tree: Path, ports: LabPorts, run_dir: Path) -> Asterisk:
        """One that somebody else started in `run_dir`: to ask it, not to end it."""
        return cls(tree, None, ports, run_dir=run_dir)

    def _configure(self, files: Mapping[str, str]) -> None:
        for name in ("etc", "cache", "varlib/keys", "spool", "run", "log/cdr-csv", "log/cdr-custom", "agi-bin"):
            (self.dir / name).mkdir(parents=True, exist_ok=True)
        modules = self.tree / _MULTIARCH / "asterisk/modules"
        if not modules.is_dir():
            modules = self.tree / "usr/lib/asterisk/modules"  # Debian 11
        hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        words = {
            "ROOT": self.tree, "RUN": self.dir, "MODULES": modules, "NODE": self.node_name,
            "RTP_START": self.ports.rtp_start, "RTP_END": self.ports.rtp_end,
            "FILES": MAX_FILES if hard_limit == resource.RLIM_INFINITY else min(MAX_FILES, hard_limit),
        }  # fmt: skip
        for source in ETC.iterdir():
            text = re.sub(r"@([A-Z_]+)@", lambda match: str(words[match[1]]), source.read_text())
            if source.name == "modules.conf":  # what this Asterisk lacks is left out: 16 and 22 have different modules
                loads = (line.partition("load = ") for line in text.splitlines(keepends=True))
                text = "".join(
                    "".join(parts) for parts in loads if not parts[2] or (modules / parts[2].strip()).exists()
                )
            self._write(source.name.removesuffix(".in"), text)
        for name, text in files.items():
            self._write(name, text)

    def _write(self, name: str, text: str) -> None:
        path = self.dir / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def put(self, name: str, text: str) -> None:
        """Writes one more configuration file, such as capconduit.d/hooks.conf; `cli("dialplan reload")` reads it."""
        self._write(name, text)

    def leave_out(self, module: str) -> None:
        """Does not load this module at the next start."""
        path = self.dir / "etc/modules.conf"
        path.write_text(path.read_text().replace(f"load = {module}\n", ""))

    # --- life

    def __enter__(self) -> Asterisk:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id. Raises LabError when nothing runs."""
        if self._process is None:
            raise LabError("Asterisk is not running")
        return self._process.pid

    def start(self) -> None:
        """Starts Asterisk and waits until it is fully booted (half a second). Raises LabError with its log."""
        (self.dir / "run/asterisk.ctl").unlink(missing_ok=True)
        self._name_program(self.tree / "usr/sbin/asterisk")
        with (self.dir / "log/stdout").open("ab") as out:
            self._process = subprocess.Popen(
                [*self._loader(), str(self._program_name()), *self._options(), "-f"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        (self.dir / "pid").write_text(f"{self._process.pid}\n")
        try:
            wait_for(self._is_booted, "fully booted Asterisk", BOOT_TIMEOUT_S)
        except LabError as error:
            log = self.log_tail()
            self.kill9()
            raise LabError(f"{error}\n{log}") from error

    def _is_booted(self) -> bool:
        process = self._process
        if process is None or process.poll() is not None:
            raise LabError(f"Asterisk ended with {process and process.returncode}")
        return (self.dir / "run/asterisk.ctl").exists() and "fully booted" in self._cli("core waitfullybooted").stdout

    def stop(self) -> None:
        """`core stop now`: the calls end, their hangup handlers run. Killed when it is still there afterwards."""
        if self._process is None:
            return
        self._cli("core stop now")
        self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def kill9(self) -> None:
        """SIGKILL: nothing of Asterisk runs any more, no handler, no CDR, no BYE."""
        if self._process is not None:
            self._process.kill()
            self._end(signal.SIGKILL, STOP_TIMEOUT_S)

    def _end(self, last_resort: signal.Signals, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(last_resort)
            process.wait(timeout_s)
        (self.dir / "pid").unlink(missing_ok=True)

    def restart_now(self) -> None:
        """`core restart now`: the calls end, and Asterisk executes itself again in the same process.

        It does so by the name that it was started with, without the tree's own loader: a program that brings the loader
        stands there for that moment. Raises LabError.
        """
        socket = self.dir / "run/asterisk.ctl"
        before = socket.stat().st_ctime_ns
        loader = " ".join(f"'{word}'" for word in self._loader())
        real, name = self.tree / "usr/sbin/asterisk", self._program_name()
        script = self.dir / "again"
        script.write_text(
            f"#!/bin/sh\nln -sfn '{real}' '{name}.new' && mv -fT '{name}.new' '{name}'\nexec {loader} '{name}' \"$@\"\n"
        )
        script.chmod(0o755)
        self._name_program(script)
        self._cli("core restart now")

        def is_another() -> bool:
            return socket.exists() and socket.stat().st_ctime_ns != before and self._is_booted()

        wait_for(is_another, "restarted Asterisk", BOOT_TIMEOUT_S)

    def _program_name(self) -> Path:
        return self.dir / "asterisk"

    def _name_program(self, program: Path) -> None:
        """Lets the name that Asterisk is started with stand for this program."""
        new = self.dir / "asterisk.new"
        new.unlink(missing_ok=True)
        new.symlink_to(program)
        new.replace(self._program_name())

    def restart(self) -> None:
        """Stops if it runs, and starts again with the same directory: the database and the logs stay."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends the process and removes the directory, unless it was given."""
        try:
            self.stop()
        finally:
            ALIVE.discard(self)
            if not self._keeps_dir:
                shutil.rmtree(self.dir, ignore_errors=True)

    # --- what a test asks

    def _program(self) -> list[str]:
        return [*self._loader(), f"{self.tree}/usr/sbin/asterisk", *self._options()]

    def _options(self) -> list[str]:
        return ["-C", f"{self.dir}/etc/asterisk.conf"]

    def _loader(self) -> list[str]:
        """The tree's own loader with the tree's own libraries."""
        lib = self.tree / _MULTIARCH
        loader = lib / "ld-linux-x86-64.so.2"
        if not loader.exists():
            loader = self.tree / "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"  # Debian 11
        path = f"{lib}:{self.tree}/lib/x86_64-linux-gnu:{self.tree}/usr/lib"
        return [str(loader), "--library-path", path]

    def _cli(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._program(), "-rx", command], capture_output=True, text=True, errors="replace",
            timeout=CLI_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def cli(self, command: str) -> str:
        """The output of one CLI command. Raises LabError when Asterisk cannot be reached."""
        done = self._cli(command)
        if done.returncode != 0:
            ended = self._process.poll() if self._process is not None else None
            gone = "" if ended is None else f"; Asterisk itself ended with {ended}"
            raise LabError(f"asterisk -rx {command!r} ended with {done.returncode}: {done.stdout}{done.stderr}{gone}")
        return done.stdout

    def channels(self) -> list[str]:
        """The names of the channels that exist now."""
        return [fields[0] for fields in self._channel_fields()]

    def channels_up(self) -> list[str]:
        """The names of the channels that have been answered; those that still ring are not among them."""
        return [fields[0] for fields in self._channel_fields() if fields[_CHANNEL_STATE] == "Up"]

    def _channel_fields(self) -> list[list[str]]:
        return [line.split("!") for line in self.cli("core show channels concise").splitlines() if "!" in line]

    def wait_idle(self, timeout_s: float = 30.0) -> None:
        """Waits until no channel is left, and their records are written. Raises LabError with the channels that are."""
        try:
            wait_for(lambda: not self.channels(), "end of all channels", timeout_s)
        except LabError as error:
            raise LabError(f"{error}: {self.cli('core show channels verbose')}") from error
        wait_for(lambda: not self._recorded(), "end of all records", timeout_s)

    def _recorded(self) -> list[str]:
        """The channels whose records are not written yet: Asterisk does so after they are gone, on another thread."""
        return re.findall(r"^\S+/\S+", self._cli("cdr show active").stdout, re.MULTILINE)

    def database(self, family: str) -> dict[str, str]:
        """Asterisk's own database below `family`: key without the family → value."""
        rows = (line.split(": ", 1) for line in self.cli(f"database show {family}").splitlines() if ": " in line)
        prefix = f"/{family}/"
        return {key.strip().removeprefix(prefix): value.strip() for key, value in rows if key.startswith(prefix)}

    def log(self) -> str:
        """Everything that Asterisk logged so far: notices, warnings, errors."""
        path = self.dir / "log/messages"
        return path.read_text(errors="replace") if path.exists() else ""

    def log_warnings(self) -> list[str]:
        """The lines with warnings and errors."""
        return [line for line in self.log().splitlines() if re.search(r"\] (WARNING|ERROR)\[", line)]

    def log_tail(self) -> str:
        """The last of the log and of what Asterisk printed, for a failing test."""
        parts = []
        for name in ("log/stdout", "log/messages"):
            path = self.dir / name
            if path.exists():
                parts.append(f"--- {name}\n{path.read_text(errors='replace')[-LOG_TAIL_CHARS:]}")
        return "\n".join(parts)

    def cdr_rows(self, file: str) -> list[str]:
        """The lines of a cdr_custom file."""
        path = self.dir / "log/cdr-custom" / file
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def freeze(self) -> None:
        """SIGSTOP; `thaw` goes on."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
