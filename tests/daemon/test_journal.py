"""The local journal: what it acknowledges is on the disk, what it holds is settled once, and nothing else is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from capconduit.config import load_config
from capconduit.domain.calls import LegTimes, SettleReport
from capconduit.errors import ConfigError
from capconduit.vocab import DialStatus
from fastagi import journal as journal_module
from fastagi.journal import Journal, JournalFailed, decode, encode
from tests.daemon.rig import until


def report(uniqueid: str = "u-1", **more: Any) -> SettleReport:
    """The end of an answered call, as the handler tells it."""
    leg = LegTimes(rang_ms=1, answered_ms=1_000, ended_ms=6_000)
    return SettleReport(node="n", uniqueid=uniqueid, attempt=1, dialstatus=DialStatus.ANSWER, leg=leg, **more)


def with_journal(tmp_path: Path, test: Callable[[Journal], Coroutine[Any, Any, None]], owner: str = "boot-2") -> None:
    """Run `test` with the journal of a daemon that has just begun."""

    async def whole() -> None:
        journal = Journal(tmp_path / "s.journal", owner)
        await journal.open()
        try:
            await test(journal)
        finally:
            await journal.close()

    asyncio.run(whole())


def keep(tmp_path: Path, *reports: SettleReport, owner: str = "boot-1") -> Path:
    """What an earlier daemon kept; the file."""

    async def test(journal: Journal) -> None:
        await asyncio.gather(*(journal.append(one) for one in reports))

    with_journal(tmp_path, test, owner)
    return tmp_path / "s.journal"


def kept_in(file: Path) -> list[str]:
    """The uniqueids in a journal's file."""
    return [decode(line).uniqueid for line in file.read_bytes().splitlines()]


# --- lines ------------------------------------------------------------------------------------------------------------


def full(kind: Any) -> Any:
    """An object with a value that is no default in every field."""
    hints, values = get_type_hints(kind), {}
    for number, field in enumerate(fields(kind), 1):
        arms = get_args(hints[field.name]) or (hints[field.name],)
        one = next(arm for arm in arms if arm is not type(None))
        if is_dataclass(one):
            values[field.name] = full(one)
        elif issubclass(one, Enum):
            values[field.name] = list(one)[-1]
        else:
            values[field.name] = one(number) if one is not str else f'Ü"\n\\ \u2028 {number}'
    return kind(**values)


def test_every_field_of_a_settlement_survives() -> None:
    whole = full(SettleReport)
    assert decode(encode(whole)) == whole
    assert decode(encode(SettleReport(node="n", uniqueid="u"))) == SettleReport(node="n", uniqueid="u")
    assert encode(whole).count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"{}",
        b'{"format":2,"node":"n","uniqueid":"u"}',
        b'{"format":1,"node":"n"}',
        b'{"format":1,"node":"n","uniqueid":7}',
        b'{"format":1,"node":"n","uniqueid":"u","attempt":"1"}',
        b'{"format":1,"node":"n","uniqueid":"u","dialstatus":"MAYBE"}',
        b'{"format":1,"node":"n","uniqueid":"u","leg":{"answered_ms":1.5}}',
        b"\0" * 512,
        b"[" * 100_000,
        encode(report())[:-2],
    ],
)
def test_a_line_that_is_no_settlement_is_told_as_such(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.journal").write_bytes(line + b"\n")

    async def test(journal: Journal) -> None:
        chunk = await journal.oldest()
        assert [entry.report for entry in chunk.entries] == [None]
        assert len(journal) == 0

    with_journal(tmp_path, test)


# --- kept is on the disk ----------------------------------------------------------------------------------------------


@contextmanager
def held_flush(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A disk that does not finish: (it was asked to flush, let it)."""
    asked, let = threading.Event(), threading.Event()
    real = os.fsync

    def fsync(file: int) -> None:
        asked.set()
        assert let.wait(30)
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    yield asked, let
    let.set()


def test_nothing_is_told_as_kept_before_the_disk_has_it_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(journal: Journal) -> None:
        with held_flush(monkeypatch) as (asked, let):
            keeping = asyncio.ensure_future(journal.append(report()))
            await until(asked.is_set)  # the loop turns while the disk works
            assert not keeping.done()
            assert journal.holds("n", "u-1"), "nobody else may conclude its end meanwhile"
            let.set()
            await keeping
        assert kept_in(journal.path) == ["u-1"]

    with_journal(tmp_path, test)


def test_settlements_that_come_while_the_disk_works_share_one_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes: list[int] = []

    async def test(journal: Journal) -> None:
        with held_flush(monkeypatch) as (asked, let):
            first = asyncio.ensure_future(journal.append(report("first")))
            await until(asked.is_set)
            others = [asyncio.ensure_future(journal.append(report(f"u-{n}"))) for n in range(100)]
            await asyncio.sleep(0)
            monkeypatch.setattr(os, "fsync", flushes.append)
            let.set()
            await asyncio.gather(first, *others)
        assert len(flushes) == 1
        assert kept_in(journal.path) == ["first", *(f"u-{n}" for n in range(100))]

    with_journal(tmp_path, test)


REAL_PWRITE = os.pwrite


def broken_write(file: int, data: bytes, offset: int) -> int:
    """A disk that becomes full in the middle of a line."""
    if not data.startswith(b"{"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return REAL_PWRITE(file, data[:40], offset)


def broken_flush(_file: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(("call", "broken"), [("pwrite", broken_write), ("fsync", broken_flush)])
def test_what_cannot_be_written_is_not_kept_and_harms_nothing_before_or_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, broken: Any
) -> None:
    async def test(journal: Journal) -> None:
        await journal.append(report("u-1"))
        before = journal.path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, broken)
            with pytest.raises(JournalFailed):
                await journal.append(report("u-2"))
        assert journal.path.read_bytes() == before
        assert journal.trouble
        assert not journal.holds("n", "u-2")
        await journal.append(report("u-3"))
        assert not journal.trouble
        assert kept_in(journal.path) == ["u-1", "u-3"]

    with_journal(tmp_path, test)


def test_nothing_is_kept_in_a_file_that_was_taken_away(tmp_path: Path) -> None:
    async def test(journal: Journal) -> None:
        await journal.append(report("u-1"))
        journal.path.unlink()
        await journal.append(report("u-2"))
        assert kept_in(journal.path) == ["u-2"]
        journal.path.rename(tmp_path / "elsewhere")
        await journal.append(report("u-3"))
        assert kept_in(journal.path) == ["u-3"]

    with_journal(tmp_path, test)


def test_a_file_that_is_taken_away_in_the_moment_of_writing_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(journal: Journal) -> None:
        await journal.append(report("u-1"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda _file: journal.path.unlink())
            with pytest.raises(JournalFailed):
                await journal.append(report("u-2"))

    with_journal(tmp_path, test)


@pytest.mark.parametrize("limit", ["MAX_ENTRIES", "MAX_BYTES"])
def test_a_full_journal_keeps_no_more_and_takes_again_when_it_was_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(journal_module, limit, 2 if limit == "MAX_ENTRIES" else 2 * len(encode(report("u-1"))))

    async def test(journal: Journal) -> None:
        await journal.append(report("u-1"))
        await journal.append(report("u-2"))
        with pytest.raises(JournalFailed):
            await journal.append(report("u-3"))
        assert kept_in(journal.path) == ["u-1", "u-2"]
        await journal.taken(await journal.oldest())
        await journal.append(report("u-3"))
        assert kept_in(journal.path) == ["u-3"]

    with_journal(tmp_path, test)


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "s.journal"
    file.touch(mode=0o644)
    file.chmod(0o644)
    keep(tmp_path, report())
    for name in ("s.journal", "s.journal.lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "directory", "fifo"])
def test_something_else_under_its_name_is_not_written_to(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "s.journal", tmp_path / "other"
    other.write_text("not ours")
    match kind:
        case "symlink":
            path.symlink_to(other)
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)

    async def test(journal: Journal) -> None:
        assert str(path) in journal.trouble
        with pytest.raises(JournalFailed):
            await journal.append(report())
        with pytest.raises(JournalFailed):
            await journal.oldest()

    with_journal(tmp_path, test)
    assert other.read_text() == "not ours"


def test_two_daemons_never_share_a_journal(tmp_path: Path) -> None:
    async def test(first: Journal) -> None:
        second = Journal(first.path, "boot-3")
        await second.open()
        assert "another daemon" in second.trouble
        with pytest.raises(JournalFailed):
            await second.append(report("of-the-second"))
        await first.append(report("of-the-first"))
        await first.close()
        await second.append(report("of-the-second"))
        assert not second.trouble
        assert kept_in(first.path) == ["of-the-first", "of-the-second"]
        assert (second.holds("n", "of-the-first"), len(second)) == (True, 2)
        await second.close()

    with_journal(tmp_path, test)


def test_who_had_it_before_is_known_to_be_gone(tmp_path: Path) -> None:
    keep(tmp_path, owner="boot-1")

    async def test(journal: Journal) -> None:
        assert journal.follows("boot-1")
        assert not journal.follows("boot-0")
        assert not journal.follows("")

    with_journal(tmp_path, test, "boot-2")


# --- after a crash ----------------------------------------------------------------------------------------------------


def test_what_a_killed_daemon_kept_waits_for_the_next_one(tmp_path: Path) -> None:
    keep(tmp_path, report("u-1"), report("u-2"))

    async def test(journal: Journal) -> None:
        assert [entry.report for entry in (await journal.oldest()).entries] == [report("u-1"), report("u-2")]
        assert (len(journal), journal.holds("n", "u-2"), journal.holds("m", "u-2")) == (2, True, False)

    with_journal(tmp_path, test)


@pytest.mark.parametrize("torn", [b"", encode(report("u-3"))[:-30], b"\0" * 4_096, b"{"])
def test_a_torn_last_line_is_dropped_and_what_was_kept_before_and_comes_after_is_whole(
    tmp_path: Path, torn: bytes
) -> None:
    file = keep(tmp_path, report("u-1"), report("u-2"))
    with file.open("ab") as appending:
        appending.write(torn)

    async def test(journal: Journal) -> None:
        await journal.append(report("u-4"))
        assert kept_in(file) == ["u-1", "u-2", "u-4"]
        assert [e.report.uniqueid for e in (await journal.oldest()).entries if e.report] == ["u-1", "u-2", "u-4"]

    with_journal(tmp_path, test)


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path: Path) -> None:
    file = keep(tmp_path, report("u-1"), report("u-2"))
    file.write_bytes(file.read_bytes()[:-1])

    async def test(journal: Journal) -> None:
        await journal.append(report("u-3"))
        assert kept_in(file) == ["u-1", "u-2", "u-3"]

    with_journal(tmp_path, test)


def test_a_file_longer_than_one_read_comes_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "READ_BYTES", 1_000)
    names = [f"u-{n:03}" for n in range(50)]
    file = keep(tmp_path, *(report(name) for name in names))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:20], b"x" * 3_500 + b"\n", *lines[20:], b"{" * 2_500]))
    told: list[str] = []

    async def test(journal: Journal) -> None:
        assert len(journal) == 50
        while (chunk := await journal.oldest()).entries:
            told.extend(entry.report.uniqueid for entry in chunk.entries if entry.report)
            await journal.taken(chunk, [entry for entry in chunk.entries if entry.report is None])
        assert len(journal) == 0

    with_journal(tmp_path, test)
    assert told == names
    assert file.read_bytes() == b""
    assert (tmp_path / "s.journal.aside").read_bytes() == b"x" * 3_500 + b"\n"


def test_what_comes_while_the_oldest_are_replayed_stays(tmp_path: Path) -> None:
    keep(tmp_path, report("u-1"))

    async def test(journal: Journal) -> None:
        chunk = await journal.oldest()
        await journal.append(report("u-2"))
        await journal.taken(chunk)
        assert kept_in(journal.path) == ["u-1", "u-2"]  # the file is emptied at once or not at all
        assert not journal.holds("n", "u-1")
        chunk = await journal.oldest()
        assert [entry.report for entry in chunk.entries] == [report("u-2")]
        await journal.taken(chunk)
        assert journal.path.read_bytes() == b""
        assert (await journal.oldest()).entries == ()

    with_journal(tmp_path, test)


def test_a_file_that_was_replaced_during_the_replay_is_replayed_from_its_beginning(tmp_path: Path) -> None:
    keep(tmp_path, report("u-1"))

    async def test(journal: Journal) -> None:
        chunk = await journal.oldest()
        journal.path.unlink()
        await journal.append(report("u-2"))
        await journal.taken(chunk)
        assert kept_in(journal.path) == ["u-2"]
        assert [entry.report for entry in (await journal.oldest()).entries] == [report("u-2")]

    with_journal(tmp_path, test)


# --- where it is ------------------------------------------------------------------------------------------------------


def test_it_is_beside_the_sqlite_file_or_in_the_state_directory_unless_configured(tmp_path: Path) -> None:
    file = tmp_path / "capconduit.toml"

    def place(text: str) -> str:
        file.write_text(text)
        return load_config(file, {"XDG_STATE_HOME": "/s", "HOME": "/h"}).node.journal

    assert place("") == "/s/capconduit/settlements.journal"
    assert place('[database]\nurl = "sqlite:///var/x/y.sqlite"') == "/var/x/settlements.journal"
    assert place('[database]\nurl = "postgresql://h/x"') == "/s/capconduit/settlements.journal"
    assert place('[node]\njournal = "/var/spool/j"') == "/var/spool/j"
    for wrong in ("relative", "/a/directory/"):
        with pytest.raises(ConfigError):
            place(f'[node]\njournal = "{wrong}"')
