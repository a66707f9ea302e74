"""The running Asterisk that an install is for: reloads by its console, and what is loaded by AMI, else by the console.

AMI's `Reload` and `PJSIPShow…` want rights that our AMI user has no other use for, so the console does those. The
outside dependencies are Asterisk's console and AMI. **Fails closed**: no answer is a PeerError.
"""

from __future__ import annotations

import grp
import pwd
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capconduit.asterisk.ami_codec import AmiRefused
from capconduit.asterisk.console import Console
from capconduit.asterisk.manager import Manager
from capconduit.errors import PeerError
from capconduit.installation import loaded
from capconduit.installation.install import RELOAD_FAILED
from capconduit.installation.parts import sections_of
from capconduit.render.files import BY_NAME

RELOAD_TRIES: Final = 40
RELOAD_PAUSE_S: Final = 0.25
# `dialplan show` cuts a line; what comes before is compared.
CONSOLE_CUT: Final = 800
# Without a configuration file these are not running, and a reload does not start them.
MODULES: Final[Mapping[str, str]] = {
    "extensions.conf": "pbx_config.so",
    "pjsip.conf": "res_pjsip.so",
    "iax.conf": "chan_iax2.so",
    "cdr_custom.conf": "cdr_custom.so",
}
_DIRECTORY: Final = re.compile(r"^ *Configuration directory: *(.*?) *$", re.MULTILINE)
_RUNS_AS: Final = re.compile(r"^ *User name and group: *([^/\s]*)/([^/\s]*) *$", re.MULTILINE)
_BUSY: Final = re.compile(r"already in progress|try again later|please be patient", re.IGNORECASE)
_NOT_THERE: Final = re.compile(r"No such (command|module)|not properly initialized|not running", re.IGNORECASE)
_FAILED: Final = re.compile(r"reload failure|failed|unable to", re.IGNORECASE)
_PORTS: Final = re.compile(r"Port (start|end): *([0-9]+)")
_LOGGING: Final = re.compile(r"^ *Logging: *(\w+)", re.MULTILINE)
_IMMOVABLE: Final = "transport"


@dataclass(frozen=True, slots=True)
class AmiLogin:
    """Where the daemon logs in to AMI, and as whom. An install does the same: that it can is part of the proof."""

    host: str
    port: int
    username: str
    secret: str


class LiveAsterisk:
    """One Asterisk on this machine. `notices`: what the operator should know and is no reason to undo anything."""

    def __init__(self, console: Console, config_dir: Path, login: AmiLogin | None = None) -> None:
        self._console = console
        self._config_dir = config_dir
        self._login = login
        self.notices: list[str] = []

    def prepare(self) -> None:
        """Asterisk answers, and reads the directory that is written to. Raises PeerError."""
        match = _DIRECTORY.search(self._console.ask("core show settings"))
        if match is None:
            raise PeerError(
                "asterisk-unreachable",
                "Asterisk's console does not say where its configuration is",
                "is it started yet?",
            )
        if Path(match[1]).resolve() != self._config_dir.resolve():
            raise PeerError(
                "other-config-dir",
                f"the Asterisk that runs here reads {match[1]}, not {self._config_dir}",
                "name its directory with --dir, or write without it: --no-reload",
            )

    def group(self) -> int | None:
        """The group that has to read our files: of the user Asterisk runs as, where the directory is not that user's.

        None where the directory's own owner or group will do. Raises PeerError.
        """
        match = _RUNS_AS.search(self._console.ask("core show settings"))
        if match is None or not match[1]:
            return None
        try:
            user = pwd.getpwnam(match[1])
            group = grp.getgrnam(match[2]).gr_gid if match[2] else user.pw_gid
        except KeyError:
            return None
        status = self._config_dir.stat()
        return None if user.pw_uid in (0, status.st_uid) or status.st_gid == group else group

    # --- reloading

    def reload(self, name: str) -> None:
        """The narrowest reload after which this file's new content is known. Raises PeerError."""
        file = BY_NAME.get(name)
        if file is None:
            return
        answer = self._asked_again(file.reload)
        if _NOT_THERE.search(answer):
            module = MODULES.get(name)
            if module is None or not self._wants(module):
                self.notices.append(f"{name}: its module does not run in this Asterisk, which leaves the file unread")
                return
            answer = self._console.ask(f"module load {module}")
            if _NOT_THERE.search(answer) or _FAILED.search(answer):
                self.notices.append(f"{name}: {module} does not run in this Asterisk and cannot be loaded")
        elif _FAILED.search(answer):
            raise PeerError(RELOAD_FAILED, f"`{file.reload}`: {answer.strip()}", "look at Asterisk's log")

    def _wants(self, module: str) -> bool:
        """Whether Asterisk tried to start this module, and it declined for want of its file: not one under noload."""
        return module in self._console.ask(f"module show like {module}")

    def _asked_again(self, command: str) -> str:
        """The answer to a reload; Asterisk refuses one while another is under way."""
        answer = self._console.ask(command)
        for _ in range(RELOAD_TRIES):
            if not _BUSY.search(answer):
                return answer
            time.sleep(RELOAD_PAUSE_S)
            answer = self._console.ask(command)
        raise PeerError("reload-busy", f"`{command}`: another reload is under way", "try again when it is over")

    # --- what is loaded

    def differences(self, files: Mapping[str, str]) -> list[str]:
        """What of `files` Asterisk has not loaded, or otherwise than it was written. Raises PeerError."""
        found: list[str] = []
        for name, look in self._looks().items():
            if name in files:
                found += look(files[name])
        return found

    def _looks(self) -> dict[str, Callable[[str], list[str]]]:
        return {
            "manager.conf": self._users,
            "pjsip.conf": self._objects,
            "iax.conf": self._peers,
            "rtp.conf": self._ports,
            "cdr.conf": self._records,
            "extensions.conf": self._dialplan,
        }

    def _dialplan(self, text: str) -> list[str]:
        found: list[str] = []
        manager, cut_at = self._manager(), 0
        for section in loaded.contexts_of(text):
            ours, odd = loaded.rendered_dialplan(section)
            found += [f"{section.name}: Asterisk does not understand {line!r}" for line in odd]
            if not ours:
                continue
            if manager is None:
                theirs, cut_at = self._shown(section.name), CONSOLE_CUT
            else:
                theirs = self._listed(manager, section.name)
            found += loaded.dialplan_differences(section.name, ours, theirs, cut_at=cut_at)
        return found

    def _manager(self) -> Manager | None:
        """How to log in to AMI, where it may be asked for the dialplan; else the console is."""
        if self._login is None:
            return None
        login = self._login
        manager = Manager(login.host, login.port, login.username, login.secret)
        try:
            with manager:
                manager.action("ShowDialPlan", Context="default")
        except AmiRefused as error:
            if error.slug == "ami-refused" and "denied" in error.message:
                return None
            if error.slug != "ami-refused":  # else: no such context, which is an answer
                raise
        return manager

    def _listed(self, manager: Manager, context: str) -> loaded.Dialplan:
        with manager:
            try:
                return loaded.loaded_dialplan(manager.action("ShowDialPlan", Context=context).events)
            except AmiRefused as error:
                if error.slug != "ami-refused":
                    raise
                return {}  # no such context

    def _shown(self, context: str) -> loaded.Dialplan:
        return loaded.shown_dialplan(self._console.ask(f"dialplan show {context}"))

    def _objects(self, text: str) -> list[str]:
        found: list[str] = []
        for section in sections_of(text):
            kind = section.option("type")
            if kind not in loaded.SHOWN_TYPES:
                continue
            differences = loaded.object_differences(section, self._console.ask(f"pjsip show {kind} {section.name}"))
            if differences and kind == _IMMOVABLE and loaded.MISSING not in differences[0]:
                # res_pjsip keeps a transport as it is until Asterisk restarts: calls are on it.
                self.notices.append(f"{'; '.join(differences)}: changed when Asterisk restarts")
                continue
            found += differences
        return found

    def _users(self, text: str) -> list[str]:
        found: list[str] = []
        for section in sections_of(text):
            if section.name.lower() == "general":
                continue
            found += loaded.user_differences(section, self._console.ask(f"manager show user {section.name}"))
        if self._login is not None and not found:
            login = self._login
            try:
                with Manager(login.host, login.port, login.username, login.secret) as manager:
                    manager.action("Ping")
            except PeerError as error:
                found.append(error.message)
        return found

    def _peers(self, text: str) -> list[str]:
        found: list[str] = []
        for section in sections_of(text):
            if section.name.lower() == "general" or section.option("type") not in ("friend", "peer"):
                continue
            found += loaded.peer_differences(section, self._console.ask(f"iax2 show peer {section.name}"))
        return found

    def _ports(self, text: str) -> list[str]:
        shown = dict(_PORTS.findall(self._console.ask("rtp show settings")))
        options = loaded.options_of(sections_of(text)[0])
        return [
            f"rtp.conf: port {end} is {shown.get(end)} in Asterisk"
            for end in ("start", "end")
            if f"rtp{end}" in options and end in shown and options[f"rtp{end}"][-1] != shown[end]
        ]

    def _records(self, _text: str) -> list[str]:
        match = _LOGGING.search(self._console.ask("cdr show status"))
        return [] if match is None or match[1] == "Enabled" else ["cdr.conf: call records are switched off in Asterisk"]
