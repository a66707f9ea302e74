"""Files that are replaced whole and are on the disk when the call returns.

The outside dependency is the file system. **Fails closed**: an OSError becomes a ConfigError naming the path.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from capconduit.errors import ConfigError


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Failures of the file system, in our words. Raises ConfigError."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise ConfigError(
            "not-written", f"{where}: {error.strerror or error}", "check the path, its permissions and the disk's room"
        ) from error


def sync_directory(path: Path) -> None:
    """What was made, renamed or removed in `path` survives a loss of power from now on."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Owner(NamedTuple):
    """To whom a file belongs."""

    uid: int
    gid: int

    @classmethod
    def of(cls, path: Path) -> Owner:
        """Whose `path` is."""
        status = path.stat()
        return cls(status.st_uid, status.st_gid)


def write_file(path: Path, text: str, mode: int, owner: Owner) -> None:
    """Replaces `path` at once; it belongs to the user and group of `owner` where we may give files away.

    The temporary file never has a wider mode than the final one.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode(errors="surrogateescape"))
            file.flush()
            with contextlib.suppress(PermissionError):  # not root: the file stays ours
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def read_file(path: Path) -> str | None:
    """The text of a file; bytes that are no UTF-8 come back as they were. None where there is none."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return None


def point(link: Path, target: str | None) -> None:
    """Makes `link` a symbolic link to `target` by one rename; None takes it away. Before, or after, nothing between."""
    if target is None:
        link.unlink(missing_ok=True)
    else:
        temporary = link.with_name(f".{link.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)
    sync_directory(link.parent)
