"""A file with what happened on the floor: written while somebody watches, read to look at it again.

Form, version 1: the line `capconduit-recording 1`, then blocks. A block is a header (_HEADER: mark, kind, instant of
its first line, milliseconds to its last, length of what follows, CRC-32 of all that) and a piece of a zlib stream. A
block of kind K begins a stream of its own, so a reader can begin there; those of kind D go on with it. Unpacked, a
block is lines of JSON: [milliseconds since the line before, kind, data]. The first line of a stream is a `snapshot` of
everything, the others are the daemon's messages; `~call` and the like have only the fields that changed. `feed` lines
tell what the viewer knew: {"kind": "live" | "stale", "message": …}.

A block is whole or it is not there: whatever follows the last whole one (the writer was killed) is ignored. Blocks are
written every FLUSH_S, streams begun every KEY_MS. There are callers' numbers in it, so only the owner may read it.

Failure policy: fails open. A file that cannot be written any more ends the recording, never the viewing.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import struct
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from capconduit.errors import Refused, UsageError
from capconduit.units import MAX_INSTANT_MS, format_instant
from capconduit.vocab import FeedKind, FloorMessage
from capconduit_cli.tui.feed import FeedState, LiveFeed, OnChange
from capconduit_cli.tui.floor import Floor

VERSION: Final = 1
NAME: Final = b"capconduit-recording "
FIRST_LINE: Final = NAME + b"%d\n" % VERSION
FLUSH_S: Final = 2.0  # what a kill may lose
KEY_MS: Final = 300_000  # between the places where a reader can begin
BLOCK_BYTES: Final = 1_048_576  # unpacked: then a block is written before its time
MAX_PACKED: Final = 16 * 1_048_576  # of one block: a floor far larger than one daemon serves
MAX_UNPACKED: Final = 64 * 1_048_576
CLOCK_BACK_MS: Final = 1_000  # a clock that is set back by more begins a stream of its own
MAX_EVENTS: Final = 200  # that a snapshot has, as the daemon's picture
DAMAGED: Final = "damaged"  # instead of what the viewer knew: the file is, here
FEED: Final = "feed"  # the line that tells what the viewer knew
CHANGED: Final = "~"  # before a kind: only the fields that changed; of a picture the rows that did
GONE: Final = "gone"  # in such a picture: the keys of rows that are no more, by table

_MARK: Final = b"\xcc\x0aRB"
_HEADER: Final = struct.Struct(">4scQIII")
_SUMMED: Final = struct.Struct(">cQI")
_KEY, _MORE = b"K", b"D"
_TABLES: Final = {
    FloorMessage.CALL: ("calls", "id"),
    FloorMessage.CAP: ("caps", "id"),
    FloorMessage.BALANCE: ("balances", "seller"),
    FloorMessage.TARGET: ("targets", "name"),
    FloorMessage.CAMPAIGN: ("campaigns", "name"),
}

Fields = dict[str, Any]


class RecordingError(UsageError):
    """A file that is no recording, or none that can be read."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__("recording-invalid", f"{path}: {why}", "give a file that `capconduit top --record` wrote")


class Mirror:
    """The picture as the daemon wrote it, kept up to date message by message, with keys that we do not know too."""

    def __init__(self) -> None:
        self.picture: Fields = {}
        self._rows: dict[str, dict[str, Fields]] = {}
        self._health: Fields = {}
        self._events: deque[Fields] = deque(maxlen=MAX_EVENTS)

    def keep(self, kind: str, data: Fields) -> tuple[str, Fields]:
        """Take a message in; it as it is to be written: the fields that changed, or all."""
        if kind == FloorMessage.HEALTH:
            before, self._health = self._health, data
            return _difference(kind, before, data, "")
        if kind in _TABLES:
            table, name = _TABLES[FloorMessage(kind)]
            rows, key = self._rows.setdefault(table, {}), str(data.get(name))
            if data.get("gone"):
                rows.pop(key, None)
                return kind, data
            before, rows[key] = rows.get(key, {}), data
            return _difference(kind, before, data, name)
        if kind == FloorMessage.SNAPSHOT:
            return self._replace(data)
        if kind == FloorMessage.CALL_GONE:
            self._rows.setdefault("calls", {}).pop(str(data.get("id")), None)
        if kind == FloorMessage.EVENT:
            self._events.append(data)
        return kind, data

    def restore(self, kind: str, data: Fields) -> tuple[str, Fields]:
        """The message that `keep` wrote so; it is taken in. A change of what is not there is all there is."""
        if kind.startswith(CHANGED):
            kind = kind.removeprefix(CHANGED)
            if kind == FloorMessage.HEALTH:
                data = {**self._health, **data}
            elif kind in _TABLES:
                table, name = _TABLES[FloorMessage(kind)]
                data = {**self._rows.get(table, {}).get(str(data.get(name)), {}), **data}
            elif kind == FloorMessage.SNAPSHOT:
                data = self._patched(data)
        self.keep(kind, data)
        return kind, data

    def whole(self, at_ms: int) -> Fields:
        """PICTURE as it is now."""
        tables = {table: list(self._rows.get(table, {}).values()) for table, _ in _TABLES.values()}
        return {
            **self.picture,
            **tables,
            "at": format_instant(at_ms),
            "events": list(self._events),
            "health": self._health or None,
        }

    def _replace(self, picture: Fields) -> tuple[str, Fields]:
        """Take a picture in; what differs from the one that is known: rows that are new, changed or gone."""
        known, first = self._rows, not self.picture
        known_events = {str(event.get("id")) for event in self._events}
        events = _objects(picture.get("events"))[-MAX_EVENTS:]
        health = picture.get("health")
        self._rows = {
            table: {str(row.get(name)): row for row in _objects(picture.get(table))} for table, name in _TABLES.values()
        }
        self._events = deque(events, MAX_EVENTS)
        self._health = health if isinstance(health, dict) else {}
        self.picture = {key: value for key, value in picture.items() if not isinstance(value, dict | list)}
        if first:
            return FloorMessage.SNAPSHOT, picture
        changed = {
            table: [row for key, row in rows.items() if known.get(table, {}).get(key) != row]
            for table, rows in self._rows.items()
        }
        gone = {table: [key for key in known.get(table, {}) if key not in rows] for table, rows in self._rows.items()}
        fresh = [event for event in events if str(event.get("id")) not in known_events]
        return CHANGED + FloorMessage.SNAPSHOT, {
            **self.picture, **changed, GONE: gone, "events": fresh, "health": self._health or None,
        }  # fmt: skip

    def _patched(self, changed: Fields) -> Fields:
        """The picture that `_replace` made this of."""
        tables: dict[str, list[Fields]] = {}
        gone = changed.get(GONE)
        for table, name in _TABLES.values():
            taken = gone.get(table) if isinstance(gone, dict) else None
            taken = {str(key) for key in taken} if isinstance(taken, list) else ()
            rows = {key: row for key, row in self._rows.get(table, {}).items() if key not in taken}
            tables[table] = list({**rows, **{str(row.get(name)): row for row in _objects(changed.get(table))}}.values())
        events = [*self._events, *_objects(changed.get("events"))]
        return {**{key: value for key, value in changed.items() if key != GONE}, **tables, "events": events}


def _objects(value: object) -> list[Fields]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _difference(kind: str, before: Fields, after: Fields, name: str) -> tuple[str, Fields]:
    """What is to be written of a row that changed: all of it where it is new or has lost a field."""
    if not before or before.keys() - after.keys():
        return kind, after
    changed = {key: value for key, value in after.items() if key == name or key not in before or before[key] != value}
    return CHANGED + kind, changed


class Recorder:
    """Writes to `path`; a recording that is there already is continued. A Listener of the live feed.

    Raises RecordingError (another file is there), Refused (somebody writes to it) and OSError, when it is made only:
    later `trouble` says why nothing is written any more.
    """

    def __init__(self, path: Path) -> None:
        self.trouble = ""
        self._mirror = Mirror()
        self._state: FeedState | None = None
        self._file = _open_to_append(path)
        self._packer: Any = None  # zlib's, of the stream that is being written; None: none is begun
        self._lines: list[bytes] = []
        self._size = 0
        self._kind = _MORE
        self._key_ms = self._first_ms = self._last_ms = 0

    def message(self, at_ms: int, kind: str, data: Fields) -> None:
        """Keep a message. Before the first picture there is nothing to keep."""
        if self.trouble or not (self._mirror.picture or kind == FloorMessage.SNAPSHOT):
            return
        stored = self._mirror.keep(kind, data)
        if self._packer is None or not self._last_ms - CLOCK_BACK_MS <= at_ms < self._key_ms + KEY_MS:
            self._begin(at_ms)
        else:
            self._line(at_ms, *stored)
        if self._size >= BLOCK_BYTES:
            self.flush()

    def state(self, at_ms: int, state: FeedState) -> None:
        """Keep what the viewer knows."""
        self._state = state
        if not self.trouble and self._packer is not None:
            self._known(at_ms)

    def flush(self) -> None:
        """Write what is kept, as one block."""
        if self.trouble or not self._lines:
            return
        packed = self._packer.compress(b"\n".join(self._lines)) + self._packer.flush(zlib.Z_SYNC_FLUSH)
        span_ms = min(self._last_ms - self._first_ms, 2**32 - 1)
        crc = _sum(self._kind, self._first_ms, span_ms, packed)
        block = _HEADER.pack(_MARK, self._kind, self._first_ms, span_ms, len(packed), crc) + packed
        self._lines, self._size, self._kind = [], 0, _MORE
        try:
            while block:
                block = block[self._file.write(block) :]
        except OSError as error:
            self.trouble = f"recording ended: {error.strerror or error}"

    def close(self) -> None:
        """Write the rest and close the file."""
        self.flush()
        with suppress(OSError):
            self._file.close()

    def _begin(self, at_ms: int) -> None:
        """Begin a stream of its own with everything."""
        self.flush()
        self._packer, self._kind, self._key_ms = zlib.compressobj(), _KEY, at_ms
        self._line(at_ms, FloorMessage.SNAPSHOT, self._mirror.whole(at_ms))
        self._known(at_ms)

    def _known(self, at_ms: int) -> None:
        """Tell what the viewer knows; that it waits for the first picture is not told, for here is one."""
        if self._state is not None and self._state.kind in (FeedKind.LIVE, FeedKind.STALE):
            self._line(at_ms, FEED, {"kind": self._state.kind, "message": self._state.message})

    def _line(self, at_ms: int, kind: str, data: Fields) -> None:
        if not self._lines:
            if self._kind == _KEY:
                self._last_ms = at_ms
            self._first_ms = self._last_ms = max(at_ms, self._last_ms)
        at_ms = max(at_ms, self._last_ms)
        line = orjson.dumps([at_ms - self._last_ms, kind, data])
        self._last_ms = at_ms
        self._lines.append(line)
        self._size += len(line)


def _sum(kind: bytes, first_ms: int, span_ms: int, packed: bytes) -> int:
    """What says that a block is as it was written."""
    return zlib.crc32(packed, zlib.crc32(_SUMMED.pack(kind, first_ms, span_ms)))


def _open_to_append(path: Path) -> BinaryIO:
    """The file, behind its last whole block, and nobody else writes to it; a new one begins with FIRST_LINE."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("recording-in-use", f"{path} is being recorded to", "give another file") from None
        blocks = _scan(file, path) if os.fstat(file.fileno()).st_size else []
        end = blocks[-1].end if blocks else 0
        if os.fstat(file.fileno()).st_size - end > MAX_PACKED:
            raise RecordingError(path, f"it is damaged at byte {end}, and there is much behind it")
        file.truncate(end)
        file.seek(end)
        if not end:
            file.write(FIRST_LINE)
    except BaseException:
        file.close()
        raise
    return file


@dataclass(frozen=True, slots=True)
class _Block:
    """Where a block is, and of when."""

    key: bool
    start_ms: int
    end_ms: int
    offset: int  # of what is packed
    length: int
    crc: int

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.offset + self.length


def _scan(file: BinaryIO, path: Path) -> list[_Block]:
    """The whole blocks, from the first with a picture on. Raises RecordingError where it is no recording."""
    first = file.read(len(FIRST_LINE))
    if not first.startswith(NAME) and not (len(first) < len(FIRST_LINE) and FIRST_LINE.startswith(first)):
        raise RecordingError(path, "it is no recording")
    if first != FIRST_LINE and len(first) == len(FIRST_LINE):
        version = first.removeprefix(NAME).strip().decode("ascii", "replace")
        raise RecordingError(path, f"it is of version {version}, and only {VERSION} is known")
    size = os.fstat(file.fileno()).st_size
    offset = len(first)
    blocks: list[_Block] = []
    while True:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return blocks
        mark, kind, start_ms, span_ms, length, crc = _HEADER.unpack(header)
        offset += _HEADER.size
        sound = mark == _MARK and kind in (_KEY, _MORE) and length <= MAX_PACKED and start_ms + span_ms < MAX_INSTANT_MS
        if not sound or offset + length > size:
            return blocks
        if kind == _KEY or blocks:
            blocks.append(_Block(kind == _KEY, start_ms, start_ms + span_ms, offset, length, crc))
        offset = file.seek(length, os.SEEK_CUR)


Line = tuple[int, str, Fields]


class Recording:
    """A recording to be read: an index of its blocks in memory, everything else from the file as it is asked for.

    Raises RecordingError when it is made: it is none, has nothing in it, or its beginning cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise RecordingError(path, error.strerror or str(error)) from None
        try:
            blocks = _scan(self._file, path)
            keys = [number for number, block in enumerate(blocks) if block.key]
            streams = [blocks[first:last] for first, last in pairwise([*keys, len(blocks)])]
            # A clock that was set back may have begun one that is earlier than those before it.
            self._streams = sorted(streams, key=lambda stream: stream[0].start_ms)
            if not streams:
                raise RecordingError(path, "there is nothing in it")
            if not self._has_picture(0):
                raise RecordingError(path, "its first picture cannot be read")
        except BaseException:
            self._file.close()
            raise
        self._starts_ms = [stream[0].start_ms for stream in self._streams]
        self.start_ms = self._starts_ms[0]
        self.end_ms = max(block.end_ms for block in blocks)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def streams(self) -> int:
        """How many places there are to begin at."""
        return len(self._streams)

    def stream_at(self, at_ms: int) -> int:
        """The number of the stream that has `at_ms`; before the beginning, the first."""
        return max(bisect_right(self._starts_ms, at_ms) - 1, 0)

    def whole_stream_at(self, at_ms: int) -> int:
        """The same, but for those before it where its picture is damaged: the first of all is not."""
        stream = self.stream_at(at_ms)
        while stream and not self._has_picture(stream):
            stream -= 1
        return stream

    def _has_picture(self, stream: int) -> bool:
        return next(self.lines(stream))[1] == FloorMessage.SNAPSHOT

    def lines(self, stream: int) -> Iterator[Line]:
        """The lines of a stream as they were written, with their instants; where it is damaged, that is its last."""
        unpacker = zlib.decompressobj()
        for block in self._streams[stream]:
            try:
                yield from _read_lines(self._unpack(block, unpacker), block.start_ms)
            except (zlib.error, ValueError):
                yield block.start_ms, FEED, {"kind": DAMAGED, "message": f"the recording, at byte {block.offset}"}
                return

    def _unpack(self, block: _Block, unpacker: Any) -> bytes:
        """The lines of a block. Raises ValueError, zlib.error."""
        self._file.seek(block.offset)
        packed = self._file.read(block.length)
        kind = _KEY if block.key else _MORE
        if _sum(kind, block.start_ms, block.end_ms - block.start_ms, packed) != block.crc:
            raise ValueError("not what was written")
        unpacked: bytes = unpacker.decompress(packed, MAX_UNPACKED)
        if unpacker.unconsumed_tail:
            raise ValueError("too much in a block")
        return unpacked


def _read_lines(unpacked: bytes, at_ms: int) -> Iterator[Line]:
    """The lines of a block. Raises ValueError where one is none."""
    for text in io.BytesIO(unpacked):
        match orjson.loads(text):
            case [int(waited_ms), str(kind), dict(data)] if 0 <= waited_ms < MAX_INSTANT_MS - at_ms:
                at_ms += waited_ms
                yield at_ms, kind, data
            case _:
                raise ValueError("no line of a recording")


class Recorded:
    """A live feed that is recorded while it runs."""

    def __init__(self, feed: LiveFeed, recorder: Recorder) -> None:
        self._feed = feed
        self._recorder = recorder

    @property
    def trouble(self) -> str:
        """Why nothing is recorded any more; empty: all is well."""
        return self._recorder.trouble

    async def run(self, on_change: OnChange) -> None:
        def told(floor: Floor, state: FeedState) -> None:
            words = "; ".join(text for text in (state.message, self.trouble) if text)
            on_change(floor, replace(state, message=words) if self.trouble else state)

        self._feed.listener = self._recorder
        flushing = asyncio.create_task(self._flush())
        try:
            await self._feed.run(told)
        finally:
            flushing.cancel()
            self._feed.listener = None
            self._recorder.close()

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._recorder.flush()


def recorded(feed: LiveFeed, path: Path) -> Recorded:
    """`feed`, written to `path` while it runs. Raises RecordingError, Refused."""
    try:
        return Recorded(feed, Recorder(path))
    except OSError as error:
        raise UsageError(
            "recording-unwritable", f"{path} cannot be written: {error.strerror or error}", "give another file"
        ) from None
