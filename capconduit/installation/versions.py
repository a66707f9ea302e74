"""The versions of our files on disk: written whole, put in force by one rename, remembered, pruned.

Below Asterisk's configuration directory: `capconduit.versions/NNNN-TIME/` holds one version each, `capconduit` is a
symbolic link to the one in force. `state.json` lists the versions that Asterisk was seen to have loaded, newest last;
`journal.json` is there while one is being put in force. The lock is exclusive.

The outside dependency is the file system. **Fails closed**: what cannot be read or written is a ConfigError; a state
that cannot be understood is refused, never guessed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from capconduit.errors import ConfigError, Refused
from capconduit.installation.disk import Owner, point, read_file, sync_directory, telling, write_file
from capconduit.installation.parts import DIRECTORY

VERSIONS: Final = "capconduit.versions"
KEEP: Final = 10  # versions kept on disk, the one in force and the one before it always among them
HISTORY: Final = 50
LOCK_WAIT_S: Final = 60.0
STATE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o750
_LOCK_PAUSE_S: Final = 0.05
_NAME: Final = re.compile(r"[0-9]{4,9}-[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True, slots=True)
class Journal:
    """A change that has begun, by `install` or `rollback` (`verb`). `before` is the version that Asterisk had loaded,
    `after` the one to be loaded, None for nothing of ours.

    `files`: what Asterisk may have read of either. `added`: those of ours whose line the operator's files got for it.
    """

    verb: str
    before: str | None
    after: str | None
    files: tuple[str, ...]
    added: tuple[str, ...] = ()


class Versions:
    """The versions below one configuration directory of Asterisk."""

    def __init__(self, config_dir: Path) -> None:
        self.config_dir = config_dir
        self.link = config_dir / DIRECTORY
        self.directory = config_dir / VERSIONS
        self.group: int | None = None  # of the user that Asterisk runs as, where the directory is not that user's

    # --- what is there

    def in_force(self) -> str | None:
        """The version that the link names; None without one. Raises ConfigError where it is no link of ours."""
        with telling(self.link):
            if not self.link.is_symlink():
                if self.link.exists():
                    raise ConfigError(
                        "install-path-taken",
                        f"{self.link} is there and is not ours",
                        "move it away: mv it to another name",
                    )
                return None
            target = self.link.readlink()
        if str(target.parent) != VERSIONS or not _NAME.fullmatch(target.name):
            raise ConfigError(
                "install-path-taken", f"{self.link} points to {target}, which is not ours", "move it away"
            )
        return target.name

    def names(self) -> list[str]:
        """All versions on disk, oldest first."""
        with telling(self.directory):
            if not self.directory.is_dir():
                return []
            return sorted((p.name for p in self.directory.iterdir() if _NAME.fullmatch(p.name)), key=_number)

    def read(self, name: str | None) -> dict[str, str]:
        """The files of a version by name; nothing for None."""
        if name is None:
            return {}
        place = self.directory / name
        with telling(place):
            if not place.is_dir():
                raise ConfigError("version-missing", f"{place} is gone", "install again")
            return {p.name: read_file(p) or "" for p in sorted(place.iterdir()) if p.suffix == ".conf"}

    def history(self) -> list[str]:
        """Versions that Asterisk was seen to have loaded, the newest last; those that are gone are left out."""
        found = self._json("state.json").get("history", [])
        there = set(self.names())
        return [name for name in found if isinstance(name, str) and name in there]

    def is_loaded(self) -> bool:
        """Whether the last install or rollback was finished and seen by Asterisk."""
        history = self.history()
        return self.journal() is None and self.in_force() == (history[-1] if history else None)

    def journal(self) -> Journal | None:
        """The change that has begun and was not finished; None without one."""
        found = self._json("journal.json")
        if not found:
            return None
        return Journal(
            found["verb"], found.get("before"), found.get("after"), tuple(found["files"]), tuple(found.get("added", ()))
        )

    # --- what changes it

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time. Raises Refused when another one still works after LOCK_WAIT_S."""
        with telling(self.directory):
            self.directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
            with contextlib.suppress(PermissionError):  # not root: it stays ours
                os.chown(self.directory, *self._owner())
            handle = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, STATE_MODE)
        try:
            self._take(handle)
            yield
        finally:
            os.close(handle)

    def _take(self, handle: int) -> None:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Refused(
                        "install-running", f"another install or rollback works in {self.config_dir}", "wait for its end"
                    ) from None
                time.sleep(_LOCK_PAUSE_S)
            else:
                return

    def write(self, files: Mapping[str, str], modes: Mapping[str, int], now_ms: int) -> str:
        """A new version, whole: it appears under its name only when every file of it is on the disk."""
        with telling(self.directory):
            owner = self._owner()
            part = Path(tempfile.mkdtemp(dir=self.directory, prefix=".part-"))
            for name, text in files.items():
                write_file(part / name, text, self._readable(modes[name], owner), owner)
            part.chmod(DIRECTORY_MODE)
            with contextlib.suppress(PermissionError):
                os.chown(part, *owner)
            names = self.names()
            stamp = datetime.fromtimestamp(now_ms // 1_000, UTC).strftime("%Y%m%dT%H%M%SZ")
            name = f"{(_number(names[-1]) if names else 0) + 1:04d}-{stamp}"
            part.rename(self.directory / name)
            sync_directory(self.directory)
        return name

    def _owner(self) -> Owner:
        owner = Owner.of(self.config_dir)
        return owner if self.group is None else Owner(owner.uid, self.group)

    def _readable(self, mode: int, owner: Owner) -> int:
        """Where root owns the directory and Asterisk reads it by its group, files with secrets are the group's, too."""
        by_group = self.group is not None or (owner.uid == 0 and owner.gid != 0)
        return mode | 0o040 if by_group and mode & 0o077 == 0 else mode

    def put_in_force(self, name: str | None) -> None:
        """From one rename to the next all of it is the old version or all of it the new one."""
        with telling(self.link):
            point(self.link, None if name is None else f"{VERSIONS}/{name}")

    def begin(self, journal: Journal) -> None:
        """From now on, until `finish`, a change is under way."""
        self._write_json("journal.json", asdict(journal))

    def finish(self, history: Sequence[str]) -> None:
        """The change is over, and Asterisk has loaded the last of `history` (or nothing of ours)."""
        self._write_json("state.json", {"history": list(history)[-HISTORY:]})
        with telling(self.directory):
            (self.directory / "journal.json").unlink(missing_ok=True)
            sync_directory(self.directory)

    def prune(self) -> list[str]:
        """Takes away what was never finished and versions beyond KEEP, oldest first; the names of those."""
        needed = {self.in_force(), *self.history()[-2:]}
        journal = self.journal()
        if journal is not None:
            needed |= {journal.before, journal.after}
        names = self.names()
        old = [name for name in names[:-KEEP] if name not in needed]
        with telling(self.directory):
            for place in [*(self.directory / name for name in old), *self.directory.glob(".part-*")]:
                shutil.rmtree(place)
        return old

    # --- the small files

    def _json(self, name: str) -> dict[str, Any]:
        path = self.directory / name
        with telling(path):
            text = read_file(path)
        if text is None:
            return {}
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise TypeError
        except (ValueError, TypeError):
            raise ConfigError(
                "install-state-broken", f"{path} is not what an install writes", "move it away, and install again"
            ) from None
        return found

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        with telling(self.directory):
            text = json.dumps(content, indent=1) + "\n"
            write_file(self.directory / name, text, STATE_MODE, Owner.of(self.config_dir))


def _number(name: str) -> int:
    return int(name.partition("-")[0])
