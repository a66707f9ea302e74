"""Archives: what is pruned is first written to files, read back, and only then taken away.

A file has the rows of one kind, tenant and month: `cdr-default-2026-10.jsonl.gz`, the next one of the same month
`cdr-default-2026-10.2.jsonl.gz`. It appears under its name when it is whole, on the disk and was read back; after that
its rows are deleted. So whatever interrupts it, every row is in the database, in a file, or in both; and who begins
again finds those that are in both by their ids in the files of that month, deletes them and writes none a second time.
Rows come in the order of their ids: of what files have, only ids from the first row on that is to be written can come
again. So the files of a month are looked at once in a run, those that end before that row not at all where this process
wrote or read them before, and the rows of a run itself never.

Rows are written as they are kept: amounts are whole micros, instants are UTC milliseconds; a record has its attempts
(`attempt_list`) and its decision trace with it. One archive is written by one process at a time.

Failure policy: fail closed. What could not be written, or reads back as something else, is not deleted.
"""

from __future__ import annotations

import fcntl
import gzip
import importlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, Final, Protocol

from capconduit.domain.model import Attempt, Cdr, Event
from capconduit.errors import CapConduitError, Refused, UsageError
from capconduit.ids import ULID_LENGTH
from capconduit.store import archiving
from capconduit.store.partitions import instant_of
from capconduit.store.sqlstore import SqlStore
from capconduit.store.store import Outdated, Transaction
from capconduit.units import MS_PER_SECOND

PAGE: Final = 500  # rows read at a time
FILE_ROWS: Final = 50_000  # rows of one file at most: what is kept in memory of it are ids
READ_AT_ONCE: Final = 2_000  # rows of older files that are looked at without a rest
FILE_MODE: Final = 0o600  # callers' numbers and money are nobody else's business
DIRECTORY_MODE: Final = 0o700
DIGEST_BYTES: Final = 16
_PART: Final = ".part"
_LOCK: Final = ".lock"
_OURS: Final = re.compile(r"(?:cdr|event)-.+-[0-9]{4}-[0-9]{2}\.[0-9]+\.part")
_KINDS: Final = {Cdr: "cdr", Event: "event"}
AMOUNT: Final = "amount_micros"  # of records; events have none
_WITH: Final[Mapping[type, Sequence[type]]] = {Cdr: (Attempt,), Event: ()}
_KEY_BEGINS: Final = ('{"call_id":"', '{"id":"')  # how rows begin
_INTEGERS: Final = frozenset({"int", "int | None"})


class ArchiveForm(StrEnum):
    """Forms of archives."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Archived:
    """A file that is whole, and what is in it. `amount_micros` is the sum over records, 0 of events."""

    file: Path
    rows: int
    amount_micros: int


@dataclass(slots=True)
class Batch:
    """Rows that are safe in files and may be deleted; `file` is the one that was just written, None: older ones.

    One without keys is an occasion to rest: a daemon archives beside its decisions.
    """

    kind: type
    keys: list[str]
    file: Archived | None


_Stamp = tuple[int, int, int]  # inode, size, instant of its last change


@dataclass(frozen=True, slots=True)
class Archive:
    """A directory that archives are written to. Raises UsageError where the form's library is not there."""

    directory: Path
    form: ArchiveForm = ArchiveForm.JSONL
    # The largest id of files that were written or read, as long as they are what they were.
    ends: dict[Path, tuple[_Stamp, str]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.form is ArchiveForm.PARQUET:
            pyarrow()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Make the directory, keep others out, and clear away what an interruption left unfinished. Raises Refused."""
        with _told(self.directory):
            self.directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            descriptor = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refused(
                    "archive-busy", f"somebody else archives into {self.directory}", "wait until that has ended"
                ) from None
            with _told(self.directory):
                for left in self.directory.glob(f"*{_PART}"):
                    if _OURS.fullmatch(left.name):  # the directory may be one that other programs use
                        left.unlink()
            yield
        finally:
            os.close(descriptor)

    def batches(self, store: SqlStore, tenant: str, what: Outdated) -> Iterator[Batch]:
        """Write the rows of `what` (Cdr or Event, of one tenant) that no file has yet; yields what may be deleted,
        which is expected to be done before the next one is asked for. Raises Refused."""
        writing = _Writing(self, what.kind, tenant)
        after = ""
        try:
            while True:
                with store.transaction(write=False) as tx:
                    rows = archiving.page(tx, what.kind, what.tenant_id, after, what.before, PAGE)
                    tries = archiving.attempts(tx, rows) if what.kind is Cdr else {}
                for row in rows:
                    after = getattr(row, archiving.KEYS[what.kind])
                    if writing.is_full or writing.month != _month(after):
                        yield from writing.finish()
                        yield from writing.begin(_month(after), after)
                    writing.add(after, as_kept(row, tries.get(after, ())))
                if len(rows) < PAGE:
                    break
                yield Batch(what.kind, [], None)
            yield from writing.finish()
        finally:
            writing.abandon()

    def end_of(self, file: Path) -> str | None:
        """The largest id in a file of this directory; None where it is not known."""
        stamp, end = self.ends.get(file, (None, None))
        return end if stamp == _stamp(file) else None

    def note_end(self, file: Path, end: str) -> None:
        """Remember the largest id in a file."""
        self.ends[file] = (_stamp(file), end)


def _stamp(file: Path) -> _Stamp:
    """What tells a file from another one of its name."""
    told = file.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def as_kept(row: Any, attempts: Sequence[Attempt] = ()) -> dict[str, Any]:
    """A row as an archive has it; a record with its attempts."""
    values = _values(row)
    return values | {"attempt_list": [_values(attempt) for attempt in attempts]} if isinstance(row, Cdr) else values


def _values(row: Any) -> dict[str, Any]:
    return {each.name: getattr(row, each.name) for each in fields(row)}


def pyarrow() -> Any:
    """The library of Parquet. Raises UsageError where it is not installed: it is large, and few need it."""
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise UsageError(
            "parquet-missing",
            "Parquet needs the library pyarrow, which is not installed",
            "pip install 'capconduit[parquet]', or take another form",
        ) from None


# One file ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    """What must be read back: how many rows, their amounts, a digest of all of them in their order."""

    rows: int = 0
    amount_micros: int = 0
    digest: Any = field(default_factory=lambda: blake2b(digest_size=DIGEST_BYTES))

    def add(self, line: str, amount_micros: int) -> None:
        self.rows += 1
        self.amount_micros += amount_micros
        self.digest.update(line.encode() + b"\n")

    @property
    def told(self) -> tuple[int, int, str]:
        return self.rows, self.amount_micros, self.digest.hexdigest()


class _File(Protocol):
    """A file that is being written, line by line (each is a JSON object)."""

    def write(self, line: str) -> None:
        """One row more."""
        ...

    def close(self) -> None:
        """No more rows: everything is on the disk afterwards."""
        ...

    def abandon(self) -> None:
        """It is not to be kept."""
        ...


class _Writing:
    """The files of a kind, one after the other; each is made when its first row comes."""

    def __init__(self, archive: Archive, kind: type, tenant: str) -> None:
        self.month = ""
        self._archive, self._kind, self._tenant = archive, kind, tenant
        self._stem = ""
        self._known: dict[str, bytes] = {}  # rows of older files that may come again: a digest of each by its id
        self._sum = _Sum()
        self._keys: list[str] = []
        self._again: list[str] = []
        self._part: Path | None = None
        self._file: _File | None = None

    @property
    def is_full(self) -> bool:
        """Whether the next row belongs into another file."""
        return len(self._keys) + len(self._again) >= FILE_ROWS

    def begin(self, month: str, first: str) -> Iterator[Batch]:
        """The next file of this month, whose rows have ids from `first` on; what older files have of these is known
        afterwards. Raises Refused."""
        if month != self.month:  # of one that goes on, the files since then have smaller ids than all that comes
            self.month, self._stem = month, f"{_KINDS[self._kind]}-{self._tenant}-{month}"
            self._known = {}
            for file in _files(self._archive.directory, self._stem):
                yield from self._look_at(file, first)
        self._sum, self._keys, self._again, self._part, self._file = _Sum(), [], [], None, None

    def _look_at(self, file: Path, first: str) -> Iterator[Batch]:
        """Know the rows of an older file from `first` on, with rests."""
        with _told(file):
            end = self._archive.end_of(file)
            if end is not None and end < first:
                return
            end = ""
            for place, line in enumerate(_lines(file, _form_of(file)), 1):
                key = _key_of(line)
                end = max(end, key)
                if key >= first:
                    self._known[key] = _digest(line)
                if not place % READ_AT_ONCE:
                    yield Batch(self._kind, [], None)
            self._archive.note_end(file, end)

    def abandon(self) -> None:
        """Leave what is not finished; nothing of it is deleted from the database."""
        if self._file is not None:
            self._file.abandon()
            self._file = None
        if self._part is not None:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Write a row, unless an older file has it. Raises Refused where that has it otherwise."""
        line = _line(row)
        known = self._known.get(key)
        if known is not None:
            if known != _digest(line):
                raise Refused(
                    "archive-differs",
                    f"{self._archive.directory} has {key} already, and it differs from what is in the database",
                    "is it the archive of another installation? give another directory; nothing was deleted",
                )
            self._again.append(key)
            return
        with _told(self._archive.directory):
            if self._file is None:
                self._part = self._archive.directory / f"{self._stem}.{os.getpid()}{_PART}"
                self._file = _FILES[self._archive.form](self._part, self._kind)
            self._file.write(line)
        self._sum.add(line, row.get(AMOUNT, 0))
        self._keys.append(key)

    def finish(self) -> Iterator[Batch]:
        """Put the file on the disk, read it back, give it its name. Raises Refused: then nothing is to be deleted."""
        if self._again:
            yield Batch(self._kind, self._again, None)
        if self._file is None or self._part is None:
            return
        with _told(self._archive.directory):
            self._file.close()
            read = _Sum()
            for line in _lines(self._part, self._archive.form):
                read.add(line, json.loads(line).get(AMOUNT, 0))
                if not read.rows % PAGE:
                    yield Batch(self._kind, [], None)
            if read.told != self._sum.told:
                raise Refused(
                    "archive-damaged",
                    f"{self._part} reads back as {read.rows} rows, {self._sum.rows} were written, or as other ones",
                    "look after the disk; nothing was deleted",
                )
            file = self._name(self._part)
            self._archive.note_end(file, self._keys[-1])
        self._file = self._part = None
        yield Batch(self._kind, self._keys, Archived(file, read.rows, read.amount_micros))

    def _name(self, part: Path) -> Path:
        """Give the file the next free name of its month; durable when this returns."""
        taken = len(_files(self._archive.directory, self._stem))
        while True:
            number = f".{taken + 1}" if taken else ""
            file = self._archive.directory / f"{self._stem}{number}{_SUFFIX[self._archive.form]}"
            if not file.exists():
                break
            taken += 1
        part.rename(file)
        descriptor = os.open(self._archive.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return file


class _JsonLines:
    """Compressed JSON lines; the same rows make the same bytes."""

    def __init__(self, path: Path, kind: type) -> None:
        del kind  # a row says all there is to say
        self._raw: IO[bytes] = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb")
        self._zip = gzip.GzipFile("", "wb", fileobj=self._raw, mtime=0)

    def write(self, line: str) -> None:
        self._zip.write(line.encode() + b"\n")

    def close(self) -> None:
        self._zip.close()
        _to_disk(self._raw)

    def abandon(self) -> None:
        self._raw.close()


class _Parquet:
    """Parquet: whole numbers as such, everything else as text, a record's attempts as JSON text."""

    def __init__(self, path: Path, kind: type) -> None:
        arrow = pyarrow()
        self._raw: IO[bytes] = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb")
        self._schema = arrow.schema([(name, _arrow_type(arrow, type_)) for name, type_ in _columns(kind)])
        self._table = arrow.Table
        self._writer = importlib.import_module("pyarrow.parquet").ParquetWriter(self._raw, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, line: str) -> None:
        row = json.loads(line)
        if "attempt_list" in row:
            row["attempt_list"] = _dumps(row["attempt_list"])
        self._rows.append(row)
        if len(self._rows) >= PAGE:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        _to_disk(self._raw)

    def abandon(self) -> None:
        self._raw.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._table.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def _to_disk(raw: IO[bytes]) -> None:
    raw.flush()
    os.fsync(raw.fileno())
    raw.close()


_FILES: Final[Mapping[ArchiveForm, type[_JsonLines] | type[_Parquet]]] = {
    ArchiveForm.JSONL: _JsonLines,
    ArchiveForm.PARQUET: _Parquet,
}
_SUFFIX: Final = {ArchiveForm.JSONL: ".jsonl.gz", ArchiveForm.PARQUET: ".parquet"}


def read_archive(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of an archive, as they were kept. Raises Refused where it cannot be read."""
    with _told(file):
        yield from (json.loads(line) for line in _lines(file, _form_of(file)))


def _form_of(file: Path) -> ArchiveForm:
    return ArchiveForm.PARQUET if file.suffix == _SUFFIX[ArchiveForm.PARQUET] else ArchiveForm.JSONL


def _lines(file: Path, form: ArchiveForm) -> Iterator[str]:
    if form is ArchiveForm.JSONL:
        with gzip.open(file, "rt", encoding="utf-8", newline="\n") as lines:
            yield from (line.rstrip("\n") for line in lines)
        return
    pyarrow()
    read = importlib.import_module("pyarrow.parquet").ParquetFile(file)
    with read:
        for batch in read.iter_batches(batch_size=PAGE):
            for row in batch.to_pylist():
                if "attempt_list" in row:
                    row["attempt_list"] = json.loads(row["attempt_list"])
                yield _line(row)


def _columns(kind: type) -> list[tuple[str, str]]:
    own = [(each.name, str(each.type)) for each in fields(kind)]
    return [*own, ("attempt_list", "str")] if kind is Cdr else own


def _arrow_type(arrow: Any, type_: str) -> Any:
    if type_ in _INTEGERS:
        return arrow.int64()
    return arrow.bool_() if type_ == "bool" else arrow.string()


def _files(directory: Path, stem: str) -> list[Path]:
    """The files of a month, whatever their form."""
    form = re.compile(re.escape(stem) + r"(\.\d+)?(\.jsonl\.gz|\.parquet)")
    return sorted(path for path in directory.glob(f"{stem}*") if form.fullmatch(path.name))


def _key_of(line: str) -> str:
    """The id of a row. It stands in front, and ids of ours need no escapes: reading all of the row takes far longer."""
    for begin in _KEY_BEGINS:
        key = line[len(begin) : len(begin) + ULID_LENGTH]
        if line.startswith(begin) and key.isalnum() and line.startswith('"', len(begin) + ULID_LENGTH):
            return key
    row = json.loads(line)
    return str(row.get("call_id") if "attempt_list" in row else row.get("id"))


def _line(row: Mapping[str, Any]) -> str:
    return _dumps(row)


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _digest(line: str) -> bytes:
    return blake2b(line.encode(), digest_size=DIGEST_BYTES).digest()


def _month(key: str) -> str:
    """The month an id was made in: `2026-10`; `0000-00` of what is no ULID."""
    at_ms = instant_of(key)
    return "0000-00" if at_ms is None else f"{datetime.fromtimestamp(at_ms // MS_PER_SECOND, UTC):%Y-%m}"


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Failures of files as ours."""
    try:
        yield
    except CapConduitError:
        raise
    except (OSError, EOFError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise Refused(
            "archive-failed",
            f"{getattr(error, 'filename', None) or path}: {reason}",
            "what is not in a whole file was not deleted; give another directory, or make room",
        ) from error


def drop(store: SqlStore, what: Outdated, keys: Sequence[str]) -> Mapping[type, int]:
    """Delete archived rows with what belongs to them, in one transaction: a record that had lost its attempts would
    not be what its archive says. How many there were, by kind."""
    these = [(key,) for key in keys]

    def work(tx: Transaction) -> Mapping[type, int]:
        return {
            kind: tx.drop_outdated(Outdated(kind, what.tenant_id, before=what.before), these)
            for kind in (*_WITH[what.kind], what.kind)
        }

    return store.run(work)
