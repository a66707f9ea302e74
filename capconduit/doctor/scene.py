"""Where the checks get their facts: every outside thing is asked once, at most so long, and its answer kept.

The outside dependencies are Asterisk (AMI, its console, its files), the daemon's control socket, the database and
/proc. **Fails closed for itself, open for the others**: what does not answer makes each check that needs it say so
(CannotTell); no other check waits for it a second time.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from capconduit.config import Config
from capconduit.doctor.conffile import ConfFile, read_conf
from capconduit.doctor.findings import SUDO, CannotTell
from capconduit.errors import CapConduitError

if TYPE_CHECKING:
    from capconduit.clock import Clock
    from capconduit.services.office import Office
    from capconduit.store.sqlstore import SqlStore

PROC: Final = Path("/proc")
DEFAULT_RUN_DIR: Final = "/var/run/asterisk"
DEFAULT_CALLS: Final = 100  # where neither the operator nor a cap says how many calls there may be at once

T = TypeVar("T")


class Source(Generic[T]):
    """Something that is asked once; its answer, or why there is none, is the same for every check.

    A check that was given up may still be waiting for it: the next one is told so and does not wait, too.
    """

    def __init__(self, what: str, get: Callable[[], T]) -> None:
        self._what = what
        self._get = get
        self._lock = threading.Lock()
        self._failure: CannotTell | None = None
        self._answer: list[T] = []

    def __call__(self) -> T:
        if not self._lock.acquire(blocking=False):
            raise CannotTell(f"{self._what} has not answered in time", "capconduit doctor --only CHECK, for this one")
        try:
            if self._failure is not None:
                raise CannotTell(self._failure.reason, self._failure.how)
            if not self._answer:
                self._answer.append(self._ask())
            return self._answer[0]
        finally:
            self._lock.release()

    def _ask(self) -> T:
        try:
            return self._get()
        except CannotTell as failure:
            self._failure = failure
        except CapConduitError as error:
            self._failure = CannotTell.of(error)
        except OSError as error:
            self._failure = CannotTell(f"{self._what}: {error.strerror or error}", SUDO)
        raise self._failure


@dataclass(frozen=True, slots=True)
class AmiAnswer:
    """What Asterisk answered to one action: its own fields, and the rows of a list."""

    success: bool
    message: str
    fields: Mapping[str, str]
    rows: Sequence[Mapping[str, str]]


Ask = Callable[[str, Mapping[str, str]], AmiAnswer]


class AmiUser:
    """One logged-in AMI user, asked one action at a time."""

    def __init__(self, name: str, ask: Ask, close: Callable[[], None]) -> None:
        self.name = name
        self._ask = ask
        self._close = close
        self._lock = threading.Lock()

    def ask(self, action: str, **fields: str) -> AmiAnswer:
        """The answer, also a refusal. Raises CannotTell where the link is lost or busy."""
        if not self._lock.acquire(blocking=False):
            raise CannotTell("Asterisk has not answered a former AMI action in time", "capconduit doctor --only CHECK")
        try:
            return self._ask(action, fields)
        except (OSError, CapConduitError) as error:
            raise CannotTell(f"AMI action {action}: {error}", "capconduit doctor --only ami-login") from None
        finally:
            self._lock.release()

    def demand(self, action: str, **fields: str) -> AmiAnswer:
        """The answer of an action that must be allowed. Raises CannotTell where it is refused."""
        answer = self.ask(action, **fields)
        if not answer.success:
            raise CannotTell(
                f"AMI user {self.name} may not do {action}: {answer.message}", "capconduit doctor --only ami-rights"
            )
        return answer

    def close(self) -> None:
        """Log off."""
        self._close()


@dataclass(slots=True)
class Doors:
    """How the outside is reached; the command line gives the real ones, tests their own."""

    config: Config
    env: Mapping[str, str]
    clock: Clock
    ask_daemon: Callable[[str], dict[str, Any]]
    open_store: Callable[[], SqlStore]
    make_office: Callable[[SqlStore], Office]
    open_ami: Callable[[str, str], AmiUser]  # user name and secret; raises CapConduitError or OSError
    console: Callable[[str], str]  # one command of Asterisk's console; raises CapConduitError or OSError
    render: Callable[[Office], Mapping[str, str]]
    differences: Callable[[Mapping[str, str]], Sequence[str]]  # what of rendered files Asterisk has not loaded so
    systemctl: Callable[[str], Mapping[str, str]]  # the properties of a unit
    calls: int | None = None  # that are to be up at the same time
    proc: Path = PROC


@dataclass(slots=True)
class Scene:
    """The facts of one run, gathered when a check first asks for them."""

    doors: Doors
    _sources: dict[str, Source[Any]] = field(default_factory=dict)
    _users: list[AmiUser] = field(default_factory=list)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.doors.config

    def source(self, what: str, get: Callable[[], T]) -> T:
        """The answer of `get`, which is called once for each `what`. Raises CannotTell."""
        found: Source[T] = self._sources.setdefault(what, Source(what, get))
        return found()

    def close(self) -> None:
        """Log off where we are logged in; the database is closed by who opened it."""
        for user in self._users:
            user.close()

    # --- Asterisk

    def ami(self) -> AmiUser:
        """The user that reads."""
        return self._ami(self.config.ami.username, self.config.ami.secret)

    def ami_control(self) -> AmiUser:
        """The user that hangs up and sets limits; the same one where there is no second."""
        ami = self.config.ami
        return self._ami(ami.control_username, ami.control_secret) if ami.has_control else self.ami()

    def _ami(self, name: str, reference: str) -> AmiUser:
        from capconduit.config import resolve_secret

        if not self.config.ami.enabled:
            missing = "ami.secret file:/etc/capconduit/ami.secret" if self.config.ami.host else "ami.host 127.0.0.1"
            raise CannotTell("AMI is off", f"capconduit config set {missing}")

        def log_in() -> AmiUser:
            user = self.doors.open_ami(name, resolve_secret(reference, self.doors.env))
            self._users.append(user)
            return user

        return self.source(f"AMI as {name}", log_in)

    def core_settings(self) -> Mapping[str, str]:
        """AMI CoreSettings: version, system name, open files."""
        return self.source("CoreSettings", lambda: self.ami().demand("CoreSettings").fields)

    def console(self, command: str) -> str:
        """What Asterisk's console says to `command`. Only where Asterisk is on this machine, and for who may use it."""
        self.demand_local_asterisk(f"`asterisk -rx '{command}'`")
        return self.source(f"console: {command}", lambda: self.doors.console(command))

    def conf(self, name: str) -> ConfFile | None:
        """A file of Asterisk's configuration directory with its includes; None where there is none."""
        directory = self.etc(name)
        return self.source(f"file {name}", lambda: read_conf(directory / name))

    def main_conf_path(self) -> Path:
        """Where asterisk.conf is. Raises CannotTell."""
        given = self.config.asterisk.main_config
        return Path(given) if given else self.etc("asterisk.conf") / "asterisk.conf"

    def main_conf(self) -> ConfFile | None:
        """asterisk.conf; None where there is none."""
        path = self.main_conf_path()
        return self.source("file asterisk.conf", lambda: read_conf(path))

    def etc(self, name: str) -> Path:
        """Asterisk's configuration directory, where `name` is wanted of. Raises CannotTell where there is none here."""
        self.demand_local_asterisk(name)
        directory = Path(self.config.asterisk.config_dir)
        if not directory.is_dir():
            raise CannotTell(
                f"there is no directory {directory} to look for {name}",
                "capconduit config set asterisk.config_dir /etc/asterisk   # where Asterisk's files are",
            )
        return directory

    def demand_local_asterisk(self, what: str) -> None:
        """Raises CannotTell where Asterisk is on another machine."""
        if not self.asterisk_is_local():
            raise CannotTell(
                f"Asterisk is on another machine ({self.config.ami.host}): {what} is there",
                f"ssh {self.config.ami.host} capconduit doctor",
            )

    def asterisk_is_local(self) -> bool:
        """Whether Asterisk is on this machine, as far as AMI's address tells."""
        host = self.config.ami.host
        return not host or is_ours(host)

    def asterisk_pid(self) -> int:
        """Asterisk's process id, from its own file. Raises CannotTell."""
        conf = self.main_conf()
        run_dir = (conf.named("directories").get("astrundir") if conf else "") or DEFAULT_RUN_DIR
        path = Path(run_dir) / "asterisk.pid"

        def read() -> int:
            text = path.read_text().strip()
            if not text.isdigit() or not (self.doors.proc / text).exists():
                raise CannotTell(f"{path} names no process that lives", "systemctl status asterisk")
            return int(text)

        return self.source("Asterisk's process", read)

    # --- ours

    def store(self) -> SqlStore:
        """The database, of whatever version it is; nothing has been asked of it yet."""

        def open_store() -> SqlStore:
            path = self.config.database.sqlite_path
            if path is not None and os.path.lexists(path) and not os.access(path, os.R_OK | os.W_OK):
                raise CannotTell(f"{path}: {os.strerror(errno.EACCES)}", SUDO)
            return self.doors.open_store()

        return self.source("the database", open_store)

    def office(self) -> Office:
        """The database at the newest migration, as this command's tenant sees it."""
        from capconduit.services.stores import check_schema

        def enter() -> Office:
            check_schema(self.store())
            return self.doors.make_office(self.store())

        return self.source("the office", enter)

    def rendered(self) -> Mapping[str, str]:
        """Asterisk's files as they are rendered now."""
        return self.source("rendering", lambda: self.doors.render(self.office()))

    def status(self) -> Mapping[str, Any]:
        """What the daemon tells of itself."""
        return self.source("the daemon", lambda: self.doors.ask_daemon("/status"))

    def daemon_pid(self) -> int:
        """The daemon's process id. Raises CannotTell."""
        pid = self.status().get("pid")
        if not isinstance(pid, int) or not (self.doors.proc / str(pid)).exists():
            raise CannotTell(f"the daemon's process {pid!r} is not in {self.doors.proc}", "capconduit status")
        return pid

    def calls(self) -> int:
        """How many calls may be up at the same time: what was said, else the system's cap, else DEFAULT_CALLS."""
        if self.doors.calls is not None:
            return self.doors.calls
        from capconduit.services.doctor import concurrent_calls

        try:
            return self.source("the cap of calls", lambda: concurrent_calls(self.office())) or DEFAULT_CALLS
        except CannotTell:
            return DEFAULT_CALLS


def is_ours(host: str) -> bool:
    """Whether an address, or what a name stands for, belongs to this machine. A name that cannot be found does not."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        except OSError:
            continue
        return True
    return False


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
