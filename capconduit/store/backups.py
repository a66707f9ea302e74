"""Backups: one file that has everything of a database at one moment, made while others work on it, and put back whole.

SQLite's own online backup; for PostgreSQL pg_dump, pg_restore and psql, which must be installed. **Fails closed**: a
backup has its name only when it is whole and on the disk, and a restore replaces everything or nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from capconduit.errors import DatabaseError, Refused, UsageError
from capconduit.store.rows import table_names
from capconduit.store.sqlite import SqliteStore
from capconduit.store.sqlstore import MIGRATIONS, SqlStore

PAGES: Final = 2_000  # 8 MB a step: between steps writers have their turn
STEP_PAUSE_S: Final = 0.005
FILE_MODE: Final = 0o600
TOOL_S: Final = 6 * 3_600
ERROR_CHARS: Final = 500
_SQLITE_HEAD: Final = b"SQLite format 3\x00"
_DUMP_HEAD: Final = b"PGDMP"
Tell = Callable[[int, int], None]  # pages done, pages in all; SQLite only


def back_up(store: SqlStore, file: Path, tell: Tell, *, replace: bool = False) -> int:
    """Write everything into `file` (mode 0600); its size in bytes. Raises Refused (it is there), DatabaseError."""
    _refuse_own(store, file)
    if file.exists() and not replace:
        raise Refused("backup-exists", f"{file} is there already", "choose another name, or --force")
    part = file.with_name(f".{file.name}.part")
    with _writing(part, file):
        if isinstance(store, SqliteStore):
            _copy_pages(store.path, part, tell)
            _check_sqlite(part)
        else:
            _tool("pg_dump", store.url, "--format=custom", "--no-owner", "--no-privileges", f"--file={part}")
    return file.stat().st_size


def restore(store: SqlStore, file: Path, keep: Path | None) -> None:
    """Replace everything in `store` by what is in `file`. SQLite keeps what was there under the name `keep`.

    Nobody else may work on the database. Raises UsageError where there is no such file, Refused where it is no backup
    of this engine, or of a newer version; DatabaseError.
    """
    _check_kind(store, file)
    if isinstance(store, SqliteStore):
        _check_sqlite(file)
        _put_back(store, file, keep)
    else:
        store.close()
        _load_dump(store.url, file)


def check(store: SqlStore, file: Path) -> int:
    """Read all of `file` as a restore would, and change nothing; its size in bytes. Raises as `restore` does."""
    _check_kind(store, file)
    if isinstance(store, SqliteStore):
        _check_sqlite(file)
    else:
        _tool("pg_restore", "", "--no-owner", "--no-privileges", f"--file={os.devnull}", str(file))
    return file.stat().st_size


def _check_kind(store: SqlStore, file: Path) -> None:
    _refuse_own(store, file)
    if isinstance(store, SqliteStore):
        _check_head(file, _SQLITE_HEAD, "a SQLite database")
    else:
        _check_head(file, _DUMP_HEAD, "a dump that pg_dump made (format custom)")


def _refuse_own(store: SqlStore, file: Path) -> None:
    if isinstance(store, SqliteStore) and store.path.exists() and file.exists() and store.path.samefile(file):
        raise Refused("backup-is-database", f"{file} is the database itself", "name another file")


@contextmanager
def _writing(part: Path, file: Path) -> Iterator[None]:
    """`part` becomes `file` when it is whole and on the disk; it never has a wider mode than its owner's."""
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE))
        yield
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise DatabaseError("backup-failed", f"{error.filename or part}: {error.strerror}", _ROOM) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


_ROOM: Final = "give a directory that is there, that this user may write, and that has room"


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _copy_pages(source: Path, target: Path, tell: Tell) -> None:
    """A consistent copy of one snapshot, made in steps; writers go on."""
    if not source.exists():
        raise DatabaseError("database-missing", f"there is no database {source}", "run `capconduit init` first")
    try:
        reading = sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)
        with closing(reading), closing(sqlite3.connect(target)) as writing:
            reading.execute("BEGIN")  # one snapshot: without it the copy begins again whenever somebody writes
            reading.execute("SELECT count(*) FROM sqlite_master").fetchone()
            reading.backup(
                writing, pages=PAGES, progress=lambda _, left, whole: tell(whole - left, whole), sleep=STEP_PAUSE_S
            )
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a -wal beside it
    except sqlite3.Error as error:
        raise DatabaseError("backup-failed", f"{target}: {error}", _ROOM) from error


def _check_sqlite(file: Path) -> None:
    """Whole, ours, and not newer than this program. Raises Refused."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro&immutable=1", uri=True)) as connection:
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = connection.execute("SELECT max(version) FROM schema_migration").fetchone()[0]
    except sqlite3.Error as error:
        raise Refused("backup-unreadable", f"{file} is no backup of CapConduit: {error}", "give another file") from None
    if damage != "ok":
        raise Refused("backup-damaged", f"{file} is damaged: {damage}", "give an older backup")
    _check_version(file, int(version or 0))


def _check_version(file: Path, version: int) -> None:
    newest = MIGRATIONS[-1][0]
    if version > newest:
        raise Refused(
            "backup-newer",
            f"{file} is of migration {version}, this program knows {newest}",
            "install the newer CapConduit",
        )


def _put_back(store: SqliteStore, file: Path, keep: Path | None) -> None:
    """A copy of the backup takes the database's place in one rename; until then the old one is whole."""
    path = store.path
    part = path.with_name(f".{path.name}.part")
    try:
        with file.open("rb") as reading, os.fdopen(os.open(part, _NEW, FILE_MODE), "wb") as writing:
            shutil.copyfileobj(reading, writing)
            writing.flush()
            os.fsync(writing.fileno())
        store.close()
        if path.exists():
            _fold_log(path)
            if keep is not None:
                os.link(path, keep)
        for suffix in ("-wal", "-shm"):  # the log of the old one must not be read with the new one
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise DatabaseError("restore-failed", f"{error.filename or part}: {error.strerror}", _ROOM) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def _fold_log(path: Path) -> None:
    """Bring what stands in the write-ahead log into the file, so that the file alone is whole. Raises Refused."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=1)) as connection:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error:
        return  # it is damaged, which may be why it is replaced: kept as it is
    if busy:
        raise Refused("database-in-use", f"somebody works on {path}", "stop the daemon and other commands first")


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _check_head(file: Path, head: bytes, what: str) -> None:
    try:
        with file.open("rb") as opened:
            found = opened.read(len(head))
    except OSError as error:
        kind = UsageError if isinstance(error, FileNotFoundError) else Refused
        raise kind("backup-unreadable", f"{file}: {error.strerror}", "give a backup that `db backup` made") from None
    if found != head:
        raise Refused(
            "backup-unreadable", f"{file} is not {what}", "give a backup of this engine; `db copy` changes engines"
        )


def _load_dump(url: str, file: Path) -> None:
    """Drop our tables and run the dump's statements, in one transaction.

    (pg_restore --clean cannot drop the partitions of a table one by one: their constraints are inherited.)
    """
    with tempfile.TemporaryDirectory(prefix="capconduit-restore-") as directory:  # for its owner alone
        script = Path(directory).joinpath("dump.sql")
        _tool("pg_restore", "", "--no-owner", "--no-privileges", f"--file={script}", str(file))
        tables = ", ".join(sorted(table_names()))
        _tool(
            "psql", url, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction",
            f"--command=DROP TABLE IF EXISTS {tables} CASCADE", f"--file={script}",
        )  # fmt: skip


def _tool(program: str, url: str, *arguments: str) -> None:
    """Run one of PostgreSQL's tools. A password in the URL goes by the environment, where others cannot see it."""
    found = shutil.which(program)
    if found is None:
        raise DatabaseError(
            "tool-missing", f"{program} is not installed", "install postgresql-client of the server's version or newer"
        )
    shown, env = _without_password(url)
    command = [found, *([f"--dbname={shown}"] if url else []), *arguments]
    try:
        done = subprocess.run(
            command, env=os.environ | env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=TOOL_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatabaseError("tool-failed", f"{program}: {error}", "try again") from error
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-ERROR_CHARS:]
        _refuse_older(program, said)
        hint = f"nothing was changed; is {program} as new as the server, and the database CapConduit's own?"
        raise DatabaseError("tool-failed", f"{program}: {said}", hint)


_VERSIONS: Final = re.compile(r"server version: (([0-9]+)[^;]*); pg_dump version: ([0-9.]+)")


def _refuse_older(program: str, said: str) -> None:
    """A tool that is older than the server or the dump says so in its own way; what helps is the newer package."""
    if found := _VERSIONS.search(said):
        raise DatabaseError(
            "tool-outdated",
            f"{program} is version {found[3]}, the server is {found[1]}: an older one cannot read a newer server",
            f"nothing was changed; install postgresql-client-{found[2]} (from apt.postgresql.org where the system has"
            " none) and put it first in PATH",
        )


def _without_password(url: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    if not parts.password:
        return url, {}
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{host}")), {"PGPASSWORD": unquote(parts.password)}
