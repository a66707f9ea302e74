"""Keeping and replaying ends of calls: the settle handler, the reconciler, and the daemon killed in between."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
from tests.daemon.test_journal import keep, kept_in, report, with_journal

AWAY = DatabaseError("database-failed", "the server is away", "start it")


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


def test_a_call_that_can_never_be_settled_holds_up_no_other_and_ends_no_daemon(tmp_path: Path) -> None:
    engine = Engine(lambda one: ValueError("a bug in the decision") if one.uniqueid == "u-1" else settled(one))

    async def test(journal: Journal) -> None:
        reconciler = Reconciler(
            engine, None, Unwatched(), Calls(), journal, "n", lambda: 10**12, lambda: True,  # type: ignore[arg-type]
        )  # fmt: skip
        assert await reconciler._look()
        assert engine.asked == ["u-1", "u-2"]

    with_journal(tmp_path, test)


# --- the handler ------------------------------------------------------------------------------------------------------


def ask_handler(tmp_path: Path, rule: Callable[[SettleReport], Any], *args: str) -> tuple[AgiReply, list[SettleReport]]:
    """The handler's answer to `settle`, and what is in the journal then."""
    replies: list[AgiReply] = []
    meter = Unwatched()

    async def test(journal: Journal) -> None:
        handler = SettleHandler(Engine(rule), meter, journal, "n", lambda: 50, lambda: None)  # type: ignore[arg-type]
        request = AgiRequest(script="settle", query={}, args=args, channel="PJSIP/c-1", uniqueid=args[0], received_ns=0)
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
        call = await talking(rig, 4_000)
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
        call = await talking(rig, 4_000)
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
        call = await talking(rig, 4_000)
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
        # Some were kept again and again: settled once, but each looked at, which gives time to kill it in their midst.
        in_journal(rig, [*names[:200], *names[:200] * 12, *names[200:]])
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
