"""The local journal: ends of calls that the database could not take, on this machine's disk until it can.

JSON lines, one settlement each, the oldest first. Only whole settlements that reached the disk (fsync) are told as
kept; they leave the file when whoever replays it says that they are durable elsewhere. Replaying twice is the same as
once, so a daemon that is killed in the middle of it begins again. A line that was cut by a crash was never told as
kept and is dropped; one that cannot be read, or whose call nobody knows, is put aside in `<file>.aside`.

Beside it `<file>.lock` is held locked as long as the daemon lives, and names it: two daemons never share a journal.

Failure policy: fails closed. What cannot be written and flushed raises JournalFailed, is not acknowledged, and stays
in Asterisk's own database. Files are written on a thread of their own; the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_type_hints

from capconduit.domain.books import CallKey
from capconduit.domain.calls import SettleReport

log = logging.getLogger(__name__)

FORMAT: Final = 1
MAX_ENTRIES: Final = 20_000  # as many as calls are watched; what comes beyond stays with Asterisk
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_ASIDE_BYTES: Final = 4 * 1024 * 1024
READ_BYTES: Final = 256 * 1024  # read at once; a line that is longer is none of ours
MAX_OWNER_BYTES: Final = 64
CLOSE_S: Final = 2.0  # a disk that hangs does not hold the daemon's end
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o750
_OPEN: Final = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW

Answer = TypeVar("Answer")


class JournalFailed(Exception):
    """It could not be kept, or the journal cannot be read; the text says why."""


# --- a settlement as a line -------------------------------------------------------------------------------------------


def encode(report: SettleReport) -> bytes:
    """The line of a settlement, with its newline."""
    return json.dumps({"format": FORMAT, **_plain(asdict(report))}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> SettleReport:
    """The settlement of a line. Raises ValueError where it is none."""
    data = json.loads(line)
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ValueError("is no settlement of a format that this version knows")
    return _made(SettleReport, data)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value.value if isinstance(value, Enum) else value


_hints = cache(get_type_hints)


def _made(kind: Callable[..., Answer], data: dict[str, Any]) -> Answer:
    hints = _hints(kind)
    try:
        return kind(**{name: _value(hints[name], raw) for name, raw in data.items() if name in hints})
    except TypeError as error:  # a field without a default is missing
        raise ValueError(str(error)) from error


def _value(hint: Any, raw: Any) -> Any:
    """`raw` as one of the types that a field may have."""
    for kind in get_args(hint) or (hint,):
        if is_dataclass(kind) and isinstance(raw, dict):
            return _made(kind, raw)  # type: ignore[arg-type]  # a class, not one of its objects
        if issubclass(kind, Enum) and isinstance(raw, str | int):
            return kind(raw)
        if type(raw) is kind:
            return raw
    raise ValueError(f"{raw!r} is not {hint}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal; `report` is None where it cannot be read."""

    line: bytes
    report: SettleReport | None

    @property
    def key(self) -> CallKey | None:
        """The channel it settles."""
        return (self.report.node, self.report.uniqueid) if self.report else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The oldest entries. In the file they end at byte `end`; `opened` tells which file that is."""

    entries: Sequence[Entry]
    end: int
    opened: int


def _entries(data: bytes) -> Iterator[Entry]:
    for line in data.splitlines(keepends=True):
        try:
            yield Entry(line, decode(line))
        except (ValueError, RecursionError):
            yield Entry(line, None)


# --- the files --------------------------------------------------------------------------------------------------------


class _Files:
    """Journal, lock and what was put aside. Belongs to one thread at a time; raises OSError.

    `size` is where the last whole entry ends. What is behind it was never told as kept.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.owner = owner
        self.previous_owner = ""
        self.size = 0
        self.opened = 0  # how often a file was opened: an offset is of one of them
        self._lock = -1
        self._file = -1

    @property
    def is_open(self) -> bool:
        """Whether there is a file to write to."""
        return self._file >= 0

    def ensure(self) -> list[CallKey] | None:
        """Have the lock and the file open, and still be the ones under their names.

        Where the file was opened just now: the channels of its entries; else None.
        """
        if self._lock < 0:
            self._take_lock()
        if self._file >= 0 and self._is_under_its_name():
            return None
        self._close_file()
        return self._open_file()

    def _take_lock(self) -> None:
        self.path.parent.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        lock = os.open(f"{self.path}.lock", os.O_RDWR | _OPEN, FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise OSError(errno.EBUSY, "another daemon has it; give each its own node.journal") from None
        self._lock = lock
        self.previous_owner = os.pread(lock, MAX_OWNER_BYTES, 0).decode(errors="replace").strip()
        with suppress(OSError):  # a full disk: the next one will only not know who was before it
            os.pwrite(lock, self.owner.encode(), 0)
            os.ftruncate(lock, len(self.owner.encode()))

    def _open_file(self) -> list[CallKey]:
        file = os.open(self.path, os.O_RDWR | _OPEN, FILE_MODE)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            os.fchmod(file, FILE_MODE)
            _flush_directory(self.path.parent)
            self.size = _end_of_whole_lines(file)
            self._file = file
            self.opened += 1
            return [key for entry in self._all() if (key := entry.key)]
        except BaseException:
            self._file = -1
            os.close(file)
            raise

    def _all(self) -> Iterator[Entry]:
        at = 0
        while data := self.read(at):
            yield from _entries(data)
            at += len(data)

    def _is_under_its_name(self) -> bool:
        ours = os.fstat(self._file)
        try:
            named = self.path.lstat()
        except FileNotFoundError:
            return False
        return (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)

    def append(self, data: bytes) -> None:
        """Durable when it returns; else nothing was kept."""
        if self.size + len(data) > MAX_BYTES:
            raise OSError(errno.EFBIG, f"it holds {self.size} bytes already")
        try:
            _write(self._file, data, self.size)
            os.fsync(self._file)
            if not self._is_under_its_name():
                raise OSError(errno.ESTALE, "it was taken away")
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, self.size)
            raise
        self.size += len(data)

    def read(self, offset: int) -> bytes:
        """Whole lines from `offset` on, at most READ_BYTES of them; empty at the end."""
        data = os.pread(self._file, min(READ_BYTES, self.size - offset), offset)
        return data[: data.rfind(b"\n") + 1] or data

    def chunk(self, taken: int, opened: int) -> Chunk:
        """The entries behind `taken`; all of them where that is of another file than the one that is open."""
        start = taken if opened == self.opened else 0
        data = self.read(start)
        return Chunk(tuple(_entries(data)), start + len(data), self.opened)

    def empty(self, upto: int, opened: int) -> bool:
        """Forget everything, if nothing came behind `upto` of that file."""
        if (upto, opened) != (self.size, self.opened):
            return False
        os.ftruncate(self._file, 0)
        self.size = 0
        os.fsync(self._file)
        return True

    def put_aside(self, data: bytes) -> None:
        """Keep lines for a person to look at, durably."""
        aside = os.open(f"{self.path}.aside", os.O_WRONLY | _OPEN, FILE_MODE)
        try:
            end = os.fstat(aside).st_size
            if end + len(data) > MAX_ASIDE_BYTES:
                raise OSError(errno.EFBIG, f"{self.path}.aside is full: look at it and take it away")
            _write(aside, data, end)
            os.fsync(aside)
        finally:
            os.close(aside)

    def close(self) -> None:
        """Give the lock back."""
        self._close_file()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _write(file: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _flush_directory(directory: Path) -> None:
    """A new file's name is durable, too."""
    opened = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _end_of_whole_lines(file: int) -> int:
    """Where the last whole line ends; a torn one behind it, which was never told as kept, is cut off."""
    size = at = os.fstat(file).st_size
    whole = 0
    while at and not whole:
        start = max(at - READ_BYTES, 0)
        newline = os.pread(file, at - start, start).rfind(b"\n")
        whole, at = (start + newline + 1 if newline >= 0 else 0), start
    if whole == size:
        return size
    tail = os.pread(file, READ_BYTES, whole)
    if next(_entries(tail)).report is not None:  # all of it is there but the newline, as an editor leaves it
        _write(file, b"\n", size)
        whole = size + 1
    else:
        log.warning("the journal's last line was cut by a crash and is dropped: it was never acknowledged")
        os.ftruncate(file, whole)
    os.fsync(file)
    return whole


# --- the journal ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Wanted:
    """A settlement that waits to be written."""

    line: bytes
    key: CallKey
    kept: asyncio.Future[None]


class Journal:
    """The journal at `path`; `owner` is this daemon's boot id. All methods belong to the loop."""

    def __init__(self, path: Path, owner: str) -> None:
        self.path = path
        self.trouble = ""  # why it cannot be used, where it cannot
        self._files = _Files(path, owner)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._keys: Counter[CallKey] = Counter()
        self._opened = 0
        self._taken = 0  # bytes at the beginning of the file that are durable elsewhere
        self._queue: list[_Wanted] = []
        self._batch: list[_Wanted] = []  # of the queue, what is being written
        self._writer: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Settlements that wait."""
        return self._keys.total()

    def holds(self, node: str, uniqueid: str) -> bool:
        """Whether the end of this channel waits here: nobody else may conclude it."""
        return (node, uniqueid) in self._keys

    def follows(self, boot_id: str) -> bool:
        """Whether the daemon of this boot had the journal before us: it is gone, its lock was free."""
        return bool(boot_id) and self._files.previous_owner == boot_id

    async def open(self) -> None:
        """Take the journal over. What is in the way is logged, and tried again with each use."""
        with suppress(JournalFailed):
            await self._on_disk(lambda: None)
            if self._keys:
                log.warning("%d settlements wait in %s", len(self), self.path)

    async def append(self, report: SettleReport) -> None:
        """Keep a settlement; durable when it returns. Raises JournalFailed.

        Those that come while others are written share one flush. One whose waiter was cancelled may be kept all the
        same.
        """
        if len(self) >= MAX_ENTRIES:
            raise JournalFailed(f"{self.path} holds {len(self)} settlements already")
        key = (report.node, report.uniqueid)
        wanted = _Wanted(encode(report), key, asyncio.get_running_loop().create_future())
        self._queue.append(wanted)
        self._keys[key] += 1
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())
        await wanted.kept

    async def _write(self) -> None:
        try:
            while self._queue:
                self._batch, self._queue = self._queue, []
                failed = await self._failure(b"".join(wanted.line for wanted in self._batch))
                for wanted in self._batch:
                    if failed is not None:
                        self._drop(wanted.key)
                    if not wanted.kept.done():
                        wanted.kept.set_exception(failed) if failed else wanted.kept.set_result(None)
                self._batch = []
        finally:
            self._writer = None

    async def _failure(self, data: bytes) -> JournalFailed | None:
        try:
            await self._on_disk(lambda: self._files.append(data))
        except JournalFailed as error:
            return error
        self._tell("")
        return None

    async def oldest(self) -> Chunk:
        """The oldest settlements that are not yet `taken`; none when nothing waits. Raises JournalFailed."""
        if not self._files.is_open:
            await self._on_disk(lambda: None)
        if self._taken >= self._files.size:
            if self._taken:
                await self._empty()
            return Chunk((), 0, self._opened)
        taken, opened = self._taken, self._opened
        return await self._on_disk(lambda: self._files.chunk(taken, opened))

    async def taken(self, chunk: Chunk, aside: Sequence[Entry] = ()) -> None:
        """What `oldest` gave is durable elsewhere, or to be put aside. Raises JournalFailed; then it waits on."""
        if aside:
            await self._on_disk(lambda: self._files.put_aside(b"".join(entry.line for entry in aside)))
        if chunk.opened != self._opened:
            return  # the file was taken away meanwhile; what is in the new one is replayed
        self._taken = chunk.end
        for entry in chunk.entries:
            if entry.key:
                self._drop(entry.key)
        await self._empty()

    async def _empty(self) -> None:
        upto, opened = self._taken, self._opened
        if await self._on_disk(lambda: self._files.empty(upto, opened)):
            self._taken = 0

    def _drop(self, key: CallKey) -> None:
        self._keys[key] -= 1
        if self._keys[key] <= 0:
            del self._keys[key]

    async def _on_disk(self, work: Callable[[], Answer]) -> Answer:
        """`work` on the thread of the files, with the files open."""
        try:
            found, answer = await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: (self._files.ensure(), work())
            )
        except (OSError, RuntimeError) as error:  # RuntimeError: it is closed
            self._tell(f"{self.path}: {getattr(error, 'strerror', None) or error}")
            raise JournalFailed(self.trouble) from error
        if found is not None:  # opened just now
            self._tell("")
            self._taken, self._opened = 0, self._files.opened
            self._keys = Counter(found)
            self._keys.update(wanted.key for wanted in (*self._batch, *self._queue))
        return answer

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.error("the journal cannot be used: %s", trouble)
        self.trouble = trouble

    async def close(self) -> None:
        """Finish what is being written and give the files back. Harmless twice."""
        with suppress(TimeoutError, RuntimeError):  # RuntimeError: it is closed already
            async with asyncio.timeout(CLOSE_S):
                if self._writer is not None:
                    await asyncio.shield(self._writer)
                await asyncio.get_running_loop().run_in_executor(self._thread, self._files.close)
        self._thread.shutdown(wait=False)
