"""The local journal: what it acknowledges is on the disk, what it holds is settled once, and nothing else is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest

from asterisk_simulator.behaviours import Answers
from capconduit.domain.calls import LegTimes, SettleAnswer, SettleReport
from capconduit.errors import DatabaseError, Refused
from capconduit.services.engine import EngineBusy
from capconduit.vocab import CallState, DialStatus
from fastagi import journal as journal_module
from fastagi.agi_server import AgiReply, AgiRequest
from fastagi.handlers.replies import ACKNOWLEDGED, NOT_ACKNOWLEDGED
from fastagi.handlers.settle import SettleHandler
from fastagi.journal import Journal, JournalFailed, decode, encode
from fastagi.reconciler import Reconciler
from tests.daemon.rig import Rig, until
from tests.daemon.test_daemon import run, spec

AWAY = DatabaseError("database-failed", "the server is away", "start it")


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


# --- replay -----------------------------------------------------------------------------------------------------------


class Engine:
    """Answers settlements by a rule; `asked` are their uniqueids."""

    def __init__(self, rule: Callable[[SettleReport], Any]) -> None:
        self.rule = rule
        self.asked: list[str] = []

    def ask(self, command: SettleReport) -> asyncio.Future[Any]:
        self.asked.append(command.uniqueid)
        answer = self.rule(command)
        if isinstance(answer, EngineBusy):
            raise answer
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(answer) if isinstance(answer, Exception) else future.set_result(answer)
        return future


class Unwatched:
    """A meter that knows no call."""

    def __init__(self) -> None:
        self.over: list[str] = []

    def settled(self, uniqueid: str) -> None:
        self.over.append(uniqueid)

    def times(self, _uniqueid: str) -> LegTimes:
        return LegTimes(rang_ms=5, answered_ms=10, ended_ms=20)

    def seen_ms(self, _uniqueid: str) -> int:
        return 0

    async def wait_for_end(self, _uniqueid: str, _timeout_s: float) -> None:
        return


def settled(one: SettleReport) -> SettleAnswer:
    return SettleAnswer(call_id=f"call-{one.uniqueid}", first=True)


async def replay(journal: Journal, engine: Engine) -> None:
    reconciler = Reconciler(
        engine, None, Unwatched(), None, journal, "n", lambda: 0, lambda: True,  # type: ignore[arg-type]
    )  # fmt: skip
    await reconciler._replay()


def test_settlements_are_replayed_oldest_first_and_leave_the_file(tmp_path: Path) -> None:
    keep(tmp_path, *(report(f"u-{n}") for n in range(450)))
    engine = Engine(settled)
    with_journal(tmp_path, lambda journal: replay(journal, engine))
    assert engine.asked == [f"u-{n}" for n in range(450)]
    assert (tmp_path / "s.journal").read_bytes() == b""


@pytest.mark.parametrize("failure", [AWAY, EngineBusy()])
def test_a_database_that_is_still_away_leaves_everything_where_it_is(tmp_path: Path, failure: Exception) -> None:
    file = keep(tmp_path, *(report(f"u-{n}") for n in range(10)))
    before = file.read_bytes()

    async def test(journal: Journal) -> None:
        with pytest.raises(type(failure)):
            await replay(journal, Engine(lambda _one: failure))
        assert len(journal) == 10

    with_journal(tmp_path, test)
    assert file.read_bytes() == before


def test_a_database_that_goes_away_in_the_middle_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagi.reconciler.REPLAY_AT_ONCE", 3)
    names = [f"u-{n}" for n in range(10)]
    file = keep(tmp_path, *(report(name) for name in names))
    before = file.read_bytes()
    engine = Engine(lambda one: settled(one) if len(engine.asked) <= 5 else AWAY)

    async def test(journal: Journal) -> None:
        with pytest.raises(DatabaseError):
            await replay(journal, engine)
        assert file.read_bytes() == before
        again = Engine(settled)
        await replay(journal, again)
        assert again.asked == names

    with_journal(tmp_path, test)
    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    "poison",
    [
        Refused("value-invalid", "a value cannot be kept"),
        DatabaseError("database-failed", "the program left out a value"),
        ValueError("a bug in the decision"),
        SettleAnswer(call_id=None, first=True),
    ],
)
def test_one_settlement_that_can_never_be_settled_is_put_aside_and_holds_nobody_up(tmp_path: Path, poison: Any) -> None:
    """A database that refuses one settlement fails the others of its transaction with it."""
    keep(tmp_path, *(report(f"u-{n}") for n in range(6)))
    alone = {"u-0"}

    def rule(one: SettleReport) -> Any:
        if one.uniqueid == "u-0":
            return poison
        whole_batch_fails = isinstance(poison, DatabaseError) and "u-1" not in alone
        alone.add(one.uniqueid if len(engine.asked) >= 6 else "")
        return poison if whole_batch_fails and len(engine.asked) <= 6 else settled(one)

    engine = Engine(rule)
    with_journal(tmp_path, lambda journal: replay(journal, engine))
    assert (tmp_path / "s.journal").read_bytes() == b""
    assert kept_in(tmp_path / "s.journal.aside") == ["u-0"]
    assert stat.S_IMODE((tmp_path / "s.journal.aside").stat().st_mode) == 0o600


def test_what_cannot_be_put_aside_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_ASIDE_BYTES", 10)
    file = keep(tmp_path, report("u-1"))
    before = file.read_bytes()

    async def test(journal: Journal) -> None:
        with pytest.raises(JournalFailed):
            await replay(journal, Engine(lambda _one: ValueError("never")))

    with_journal(tmp_path, test)
    assert file.read_bytes() == before


class Calls:
    """A database with two calls that are over by all that can be inferred: no AMI, no money left for long."""

    async def node_calls(self, node: str) -> list[Any]:
        long_ago = {"lease_until_ms": 1, "decided_ms": 1, "seen_ms": 1, "answered_ms": 1, "state": CallState.UP}
        return [SimpleNamespace(id=name, node=node, uniqueid=name, **long_ago) for name in ("u-1", "u-2")]

    async def hold_ends(self, _node: str) -> dict[str, int]:
        return {"u-1": 1, "u-2": 1}


def test_a_call_whose_true_end_waits_in_the_journal_is_not_settled_by_inference(tmp_path: Path) -> None:
    keep(tmp_path, report("u-1"))
    engine = Engine(lambda one: AWAY if one.uniqueid == "u-1" else settled(one))
    told: list[tuple[str, str]] = []

    async def test(journal: Journal) -> None:
        reconciler = Reconciler(
            engine, None, Unwatched(), Calls(), journal, "n", lambda: 10**12, lambda: True,  # type: ignore[arg-type]
        )  # fmt: skip
        assert not await reconciler._look()
        assert engine.asked == ["u-1", "u-2"]
        engine.rule = lambda one: told.append((one.uniqueid, one.witness)) or settled(one)  # type: ignore[func-returns-value]
        assert await reconciler._look()

    with_journal(tmp_path, test)
    assert told[0] == ("u-1", "handler")  # the journal's, as it was kept


# --- the handler ------------------------------------------------------------------------------------------------------


def ask_handler(tmp_path: Path, rule: Callable[[SettleReport], Any], *args: str) -> tuple[AgiReply, list[SettleReport]]:
    """The handler's answer to `settle`, and what is in the journal then."""
    replies: list[AgiReply] = []
    meter = Unwatched()

    async def test(journal: Journal) -> None:
        handler = SettleHandler(Engine(rule), meter, journal, "n", lambda: 50, lambda: None)  # type: ignore[arg-type]
        request = AgiRequest(script="settle", query={}, args=args, env={"agi_channel": "PJSIP/c-1"}, received_ns=0)
        replies.append(await handler.handle(request))

    with_journal(tmp_path, test)
    lines = (tmp_path / "s.journal").read_bytes().splitlines() if (tmp_path / "s.journal").exists() else []
    reports = [decode(line) for line in lines]
    assert bool(meter.over) == (replies[0] == ACKNOWLEDGED)
    return replies[0], reports


ENDED = ("u-1", "2", "ANSWER", "5000", "6000", "16", "PJSIP/c-1", "capconduit-inbound")


@pytest.mark.parametrize("failure", [AWAY, EngineBusy()])
def test_without_a_database_the_end_is_kept_with_what_ami_saw_and_acknowledged(
    tmp_path: Path, failure: Exception
) -> None:
    reply, kept = ask_handler(tmp_path, lambda _one: failure, *ENDED)
    assert reply == ACKNOWLEDGED
    assert kept == [
        SettleReport(
            node="n", uniqueid="u-1", attempt=2, dialstatus=DialStatus.ANSWER, answered_for_ms=5_000, hangup_cause=16,
            hangup_source="PJSIP/c-1", channel="PJSIP/c-1", ended_ms=20, witness="journal",
            leg=LegTimes(rang_ms=5, answered_ms=10, ended_ms=20),
        )
    ]  # fmt: skip


def test_a_database_that_does_not_answer_in_time_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.handlers.settle.ENGINE_S", 0.01)
    monkeypatch.setattr(Engine, "ask", lambda *_: asyncio.get_running_loop().create_future())
    reply, kept = ask_handler(tmp_path, settled, *ENDED)
    assert (reply, len(kept)) == (ACKNOWLEDGED, 1)


def test_what_is_settled_is_not_kept(tmp_path: Path) -> None:
    assert ask_handler(tmp_path, settled, *ENDED) == (ACKNOWLEDGED, [])


def test_without_database_and_journal_nothing_is_acknowledged(tmp_path: Path) -> None:
    (tmp_path / "s.journal").symlink_to("/dev/null")
    reply, kept = ask_handler(tmp_path, lambda _one: AWAY, *ENDED)
    assert (reply, kept) == (NOT_ACKNOWLEDGED, [])


def test_a_call_that_was_never_told_of_an_attempt_does_not_fill_the_journal(tmp_path: Path) -> None:
    assert ask_handler(tmp_path, lambda _one: AWAY, "u-1", "", "") == (NOT_ACKNOWLEDGED, [])


@pytest.mark.parametrize(
    ("leg", "status", "answered_for", "ended_ms"),
    [
        (LegTimes(answered_ms=10, ended_ms=30), "ANSWER", "15", 30),
        (LegTimes(answered_ms=10), "ANSWER", "15", 25),  # AMI told no end: the caller was up for so long
        (LegTimes(answered_ms=10), "ANSWER", "4000", 50),
        (LegTimes(), "CANCEL", "", 50),
    ],
)
def test_the_end_is_kept_as_of_when_it_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leg: LegTimes, status: str, answered_for: str, ended_ms: int
) -> None:
    monkeypatch.setattr(Unwatched, "times", lambda *_: leg)
    _, (kept,) = ask_handler(tmp_path, lambda _one: AWAY, "u-1", "1", status, answered_for, "", "16", "", "")
    assert (kept.ended_ms, kept.leg) == (ended_ms, leg)


# --- the real daemon --------------------------------------------------------------------------------------------------


@contextmanager
def locked(rig: Rig) -> Iterator[None]:
    """Another process writes to the database and does not end."""
    blocker = sqlite3.connect(rig.dir / "rig.sqlite", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        blocker.rollback()
        blocker.close()


def waiting(rig: Rig) -> int:
    """Settlements in the daemon's journal, as it tells."""
    return int(rig.status().get("journal", {}).get("waiting", 0))


async def talking(rig: Rig, talk_ms: int = 60_000, hung_up_by: Any = "caller") -> asyncio.Task[Any]:
    """A call that is up."""
    rig.script("buyer1", Answers(talk_ms=talk_ms, hung_up_by=hung_up_by))
    call = rig.world.start(spec())
    await until(lambda: [c for c in rig.live() if c.call.state is CallState.UP])
    return call


def test_a_call_that_ends_while_the_database_is_locked_is_acknowledged_and_settled_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        call = await talking(rig, 1_500)
        with locked(rig):
            outcome = await call
            assert (outcome.settled_ack, outcome.spooled) == (True, False)
            assert waiting(rig) == 1
        await until(lambda: not waiting(rig))
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert abs(cdr.talk_ms - outcome.talk_ms) <= 100
        assert cdr.witness.endswith("+ami")
        assert (tmp_path / "settlements.journal").read_bytes() == b""

    run(tmp_path, test)


def test_a_daemon_that_is_killed_with_a_full_journal_settles_by_it_when_it_is_back(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        call = await talking(rig, 1_500)
        with locked(rig):
            outcome = await call
            assert outcome.settled_ack
            await rig.stop(signal.SIGKILL)
        assert len(rig.live()) == 1
        await rig.start()
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert cdr.witness == "journal+ami"
        assert abs(cdr.talk_ms - outcome.talk_ms) <= 100
        assert cdr.amount_micros == cdr.billed_seconds * 10_000

    run(tmp_path, test)


def test_without_a_journal_asterisk_keeps_the_settlement(tmp_path: Path) -> None:
    (tmp_path / "settlements.journal").mkdir()

    async def test(rig: Rig) -> None:
        rig.fund("10")
        assert "journal" in rig.status()["journal"]["trouble"]
        call = await talking(rig, 1_500)
        with locked(rig):
            outcome = await call
            assert (outcome.settled_ack, outcome.spooled) == (False, True)
        await rig.at_rest()
        assert abs(rig.cdrs()[0].talk_ms - outcome.talk_ms) <= 100
        await until(lambda: not rig.ami.database)

    run(tmp_path, test)


async def admitted(rig: Rig, count: int) -> list[str]:
    """Calls that wait for their Dial."""
    names = [f"many-{n:03}" for n in range(count)]
    for at in range(0, count, 50):
        for told in await asyncio.gather(*(rig.route(name) for name in names[at : at + 50])):
            assert told.variables["CC_VERDICT"] == "dial"
    return names


def in_journal(rig: Rig, names: Sequence[str]) -> None:
    """The daemon kept the ends of these calls: each talked for 5 s."""
    ends = [replace(report(name, witness="journal"), node=rig.node) for name in names]
    (rig.dir / "settlements.journal").write_bytes(b"".join(encode(end) for end in ends))


def test_a_daemon_that_is_killed_in_the_middle_of_the_replay_begins_again_and_settles_each_once(tmp_path: Path) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("1000")
        names = await admitted(rig, 450)
        await rig.stop(signal.SIGKILL)
        in_journal(rig, [*names, *names[:50]])  # some were kept twice
        rig.spawn()
        await until(rig.cdrs)
        await rig.stop(signal.SIGKILL)
        assert len(rig.live()) > 0, "it was killed too late for this test"
        await rig.start()
        await rig.at_rest()
        assert sorted(cdr.uniqueid for cdr in rig.cdrs()) == names
        assert {cdr.amount_micros for cdr in rig.cdrs()} == {50_000}
        assert rig.account().balance_micros == 1_000_000_000 - 450 * 50_000
        await until(lambda: not waiting(rig))

    run(tmp_path, test, with_ami=False)
