"""A disk that is full, a database that may only be read: nothing half written, told as such, and well again later."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from asterisk_simulator.behaviours import Answers, CallOutcome
from capconduit.domain.calls import SettleReport
from capconduit.errors import DatabaseError, ExitCode
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import CallState
from fastagi.journal import Journal, JournalFailed
from lab.wait import wait_for
from tests.cli.runner import run_process
from tests.daemon.rig import Rig, until
from tests.daemon.test_crashes import DEADLINE_MS, CrashRig
from tests.daemon.test_daemon import spec
from tests.store_contract.conftest import Opener, PostgresServer
from tests.store_contract.test_books_written import dump
from tests.store_contract.test_failures import slug_of
from tests.unit.estate_builder import NODE, Till, answer_of, attempt_of, extend_of, route_of, settle_of, small_estate

PAGE = 4_096


class SmallDisk:
    """A file system of its own, of a few MiB, to be filled and to be made read-only."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self._filler = directory / "filler"

    def fill(self, leave: int = 0) -> None:
        """Use all space but `leave` bytes."""
        filler = os.open(self._filler, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            with suppress(OSError):
                while True:
                    os.write(filler, b"x" * PAGE)
            os.ftruncate(filler, max(os.fstat(filler).st_size - leave, 0))
        finally:
            os.close(filler)

    def free(self) -> None:
        """Give the space back."""
        self._filler.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """`ro` or `rw`; nobody may have a file open for writing."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.dir)], check=True, timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "none", str(directory)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield SmallDisk(directory)
    subprocess.run(["umount", "--lazy", str(directory)], check=True, timeout=60)


# --- the store --------------------------------------------------------------------------------------------------------


COMMANDS: list[Any] = [
    route_of("new"), route_of("of-nobody", dnid="+18005559999"), attempt_of("rings"), answer_of("rings", 1),
    extend_of("talks"), settle_of("rings"), settle_of("talks", talk_ms=5_000), settle_of("never-seen"),
]  # fmt: skip


@pytest.fixture(params=[pytest.param(c, id=f"{type(c).__name__}-{c.uniqueid}") for c in COMMANDS])
def command(request: pytest.FixtureRequest) -> Any:
    """Everything that can be asked while a call lasts."""
    return request.param


def till_in(store: SqlStore) -> Till:
    """A till with one call that rings and one that talks; two targets, so that an attempt has a next one."""
    builder = small_estate()
    builder.target("buyer2")
    till = Till(store, builder)
    till.dial(route_of("rings"))
    till.dial(route_of("talks"))
    till.ask(answer_of("talks", answered_ms=till.clock.now_ms()))
    return till


def refused(till: Till, command: Any) -> str:
    """The command cannot be had, and nothing of it was written; the hint."""
    before = dump(till.store)
    with pytest.raises(DatabaseError) as caught:
        till.ask(command)
    assert caught.value.exit_code is ExitCode.DATABASE
    assert dump(till.store) == before
    till.verify()
    return caught.value.hint


def works(till: Till, command: Any) -> None:
    """It can be had now."""
    before = dump(till.store)
    till.ask(command)
    assert dump(till.store) != before
    till.verify()


def test_on_a_full_disk_nothing_is_half_written_and_space_is_asked_for(
    opened: Opener, disk: SmallDisk, command: Any
) -> None:
    till = till_in(opened(f"sqlite:///{disk.dir}/s.sqlite"))
    disk.fill()
    assert "free disk space" in refused(till, command)
    disk.free()
    works(till, command)


def test_a_disk_that_becomes_full_in_the_middle_of_a_transaction_keeps_all_of_it_or_nothing(
    opened: Opener, disk: SmallDisk
) -> None:
    till = till_in(opened(f"sqlite:///{disk.dir}/s.sqlite"))
    kept = failed = 0
    for pages in range(60):
        disk.fill(leave=pages * PAGE)
        before = dump(till.store)
        try:
            till.dial(route_of(f"u-{pages}"))
        except DatabaseError:
            failed += 1
            assert dump(till.store) == before
        else:
            kept += 1
        till.verify()
        disk.free()
    assert kept
    assert failed > 3
    assert live(till) == kept + 2


def live(till: Till) -> int:
    with till.store.transaction(write=False) as tx:
        return len(tx.node_calls(NODE))


def pragma(till: Till, text: str) -> None:
    """Tell SQLite something about this thread's connection."""
    with till.store.transaction(write=False) as tx:
        tx.query(f"PRAGMA {text}")


def test_a_file_that_may_not_grow_keeps_all_of_a_transaction_or_nothing(opened: Opener, tmp_path: Path) -> None:
    """SQLITE_FULL without a disk of one's own: the file has a limit of pages."""
    till = till_in(opened(f"sqlite:///{tmp_path}/s.sqlite"))
    pragma(till, "max_page_count = 1")  # no less than there are
    kept, hint = 0, ""
    while kept < 1_000 and not hint:
        before = dump(till.store)
        try:
            till.dial(route_of(f"u-{kept}"))
            kept += 1
        except DatabaseError as error:
            hint = error.hint
    assert "free disk space" in hint
    assert dump(till.store) == before
    assert live(till) == kept + 2
    till.verify()
    pragma(till, "max_page_count = 1000000")
    works(till, route_of("afterwards"))


def test_a_connection_that_may_only_read_writes_nothing(opened: Opener, tmp_path: Path, command: Any) -> None:
    till = till_in(opened(f"sqlite:///{tmp_path}/s.sqlite"))
    pragma(till, "query_only = 1")
    assert "writ" in refused(till, command)
    pragma(till, "query_only = 0")
    works(till, command)


def test_a_file_system_that_may_only_be_read_is_told_and_the_same_store_works_again_later(
    opened: Opener, disk: SmallDisk
) -> None:
    url = f"sqlite:///{disk.dir}/s.sqlite"
    till_in(opened(url)).store.close()
    disk.remount("ro")
    store = opened(url)
    assert slug_of(lambda: store.run(lambda tx: tx.bump_estate())) == "database-failed"
    disk.remount("rw")
    store.run(lambda tx: tx.bump_estate())


@contextmanager
def read_only(server: PostgresServer) -> Iterator[None]:
    """PostgreSQL lets everything only be read, as a standby does; its sessions hear of it a moment later."""
    server.admin("ALTER SYSTEM SET default_transaction_read_only = on")
    server.admin("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.admin("ALTER SYSTEM RESET default_transaction_read_only")
        server.admin("SELECT pg_reload_conf()")


def hears(till: Till, value: str) -> None:
    """Wait until our session has heard."""

    def heard() -> bool:
        with till.store.transaction(write=False) as tx:
            told: Any = tx.query("SHOW default_transaction_read_only")
            return bool(told[0][0] == value)

    wait_for(heard, f"default_transaction_read_only = {value}")


@pytest.mark.postgres
def test_a_server_that_may_only_be_read_writes_nothing(
    opened: Opener, postgres_server: PostgresServer, postgres_url: str, command: Any
) -> None:
    till = till_in(opened(postgres_url))
    with read_only(postgres_server):
        hears(till, "on")
        assert refused(till, command)
    hears(till, "off")
    works(till, command)


# --- the journal ------------------------------------------------------------------------------------------------------


def test_a_journal_on_a_full_disk_acknowledges_nothing_and_takes_again_when_there_is_space(disk: SmallDisk) -> None:
    end, told = SettleReport(node="n", uniqueid="u", attempt=1, hangup_source="x" * 200), []

    async def whole() -> list[str]:
        journal = Journal(disk.dir / "s.journal", "boot")
        await journal.open()
        kept = []
        disk.fill(leave=2 * PAGE)
        for number in range(100):
            one = replace(end, uniqueid=f"u-{number}")
            if number == 99:
                disk.free()
            try:
                await journal.append(one)
                kept.append(one.uniqueid)
            except JournalFailed as error:
                told.append(str(error))
        held = [entry.report.uniqueid for entry in (await journal.oldest()).entries if entry.report]
        disk.fill()
        await journal.taken(await journal.oldest())  # to be emptied needs no space
        assert len(journal) == 0
        await journal.close()
        assert kept == held
        return kept

    kept = asyncio.run(whole())
    assert 2 <= len(kept) < 99
    assert "space" in told[0]
    assert kept[-1] == "u-99"
    assert (disk.dir / "s.journal").stat().st_size == 0


# --- the daemon and the command line ----------------------------------------------------------------------------------


DOWN = {"CC_REASON": "database_down", "CC_CAUSE": "38", "CC_SIP": "500", "CC_VERDICT": "reject"}
Trouble = Callable[[], AbstractContextManager[None]]


async def through(rig: CrashRig, trouble: Trouble) -> CallOutcome:
    """A call that is up, another that comes, and one that comes later: with a database that takes nothing meanwhile."""
    rig.fund("1000")
    rig.script("buyer1", Answers(talk_ms=4_000))
    call = rig.world.start(spec())
    await until(lambda: [c for c in rig.live() if c.call.state is CallState.UP])
    with trouble():
        await until(lambda: rig.status()["reasons"] == ["database down"])
        assert not rig.status()["ready"]
        before = dump(rig.store)
        assert (await rig.route("in-vain")).variables == DOWN  # not engine_timeout: it was told within the deadline
        outcome = await call
        assert dump(rig.store) == before
    await until(lambda: rig.status()["ready"])
    await rig.recovered()
    rig.right(outcome)
    assert "in-vain" not in [cdr.uniqueid for cdr in rig.cdrs()]
    rig.script("buyer1", Answers(talk_ms=50))
    rig.right(await rig.world.call(spec()))
    return outcome


def run(rig: CrashRig, test: Callable[[CrashRig], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        async with rig:
            await test(rig)

    asyncio.run(whole())


def refused_command(rig: CrashRig, tmp_path: Path) -> str:
    """What an operator is told when a command cannot be had."""
    ended = run_process("--config", str(rig.dir / "capconduit.toml"), "seller", "add", "newcomer", home=tmp_path)
    assert ended.code == ExitCode.DATABASE
    assert "hint: " in ended.err
    return ended.err


@pytest.mark.parametrize("journal", ["on another disk", "on the same disk"])
def test_the_daemon_on_a_full_disk_rejects_says_so_and_is_well_when_there_is_space(
    tmp_path: Path, disk: SmallDisk, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if journal == "on the same disk":
        monkeypatch.setattr(CrashRig, "spawn", Rig.spawn)
    rig = CrashRig(tmp_path, url=f"sqlite:///{disk.dir}/rig.sqlite", deadline_ms=DEADLINE_MS)

    @contextmanager
    def full() -> Iterator[None]:
        disk.fill()
        yield
        assert "free disk space" in refused_command(rig, tmp_path)
        disk.free()

    async def test(rig: CrashRig) -> None:
        outcome = await through(rig, full)
        assert outcome.settled_ack is not outcome.spooled
        assert outcome.settled_ack is (journal == "on another disk")

    run(rig, test)


class ReadOnlyRig(CrashRig):
    """Its daemon's connections may only read as long as there is a file `read-only`."""

    PROGRAM = """
import sys
from pathlib import Path
from capconduit.store.sqlite import SqliteStore
from fastagi.__main__ import main

flag, connect = Path(sys.argv[1]), SqliteStore._connection

def connection(store):
    made = connect(store)
    if not made.in_transaction:
        made.execute(f"PRAGMA query_only = {int(flag.exists())}")
    return made

SqliteStore._connection = connection
sys.exit(main(sys.argv[2:]))
"""

    def spawn(self) -> None:
        real = subprocess.Popen

        def hooked(command: Sequence[str], **more: Any) -> subprocess.Popen[bytes]:
            return real([sys.executable, "-c", self.PROGRAM, str(self.dir / "read-only"), *command[3:]], **more)

        with mock.patch("subprocess.Popen", hooked):
            super().spawn()


def test_the_daemon_on_a_file_that_may_only_be_read_rejects_says_so_and_is_well_later(tmp_path: Path) -> None:
    @contextmanager
    def only_read() -> Iterator[None]:
        (tmp_path / "read-only").touch()
        yield
        (tmp_path / "read-only").unlink()

    async def test(rig: CrashRig) -> None:
        assert (await through(rig, only_read)).settled_ack

    run(ReadOnlyRig(tmp_path, deadline_ms=DEADLINE_MS), test)


@pytest.mark.postgres
def test_the_daemon_on_a_server_that_may_only_be_read_rejects_says_so_and_is_well_later(
    tmp_path: Path, postgres_server: PostgresServer, postgres_url: str
) -> None:
    rig = CrashRig(tmp_path, url=postgres_url, deadline_ms=DEADLINE_MS)

    @contextmanager
    def only_read() -> Iterator[None]:
        with read_only(postgres_server):
            yield
            refused_command(rig, tmp_path)

    async def test(rig: CrashRig) -> None:
        assert (await through(rig, only_read)).settled_ack

    run(rig, test)


def test_on_a_file_system_that_may_only_be_read_daemon_and_commands_end_with_three_and_a_hint(
    tmp_path: Path, disk: SmallDisk
) -> None:
    rig = CrashRig(tmp_path, url=f"sqlite:///{disk.dir}/rig.sqlite")
    rig.store.close()
    disk.remount("ro")
    rig.ami._port = 1  # nobody listens; it does not come to that
    rig.spawn()
    assert rig.process is not None
    assert rig.process.wait(60) == ExitCode.DATABASE
    assert "hint: " in rig.log()
    assert str(disk.dir) in refused_command(rig, tmp_path)
