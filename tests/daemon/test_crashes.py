"""Killing the daemon and PostgreSQL in every state of a call: all is right again within ten seconds of their return."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest

from asterisk_simulator.behaviours import Answers, Behaviour, Busy, CallerCancels, CallOutcome, NoAnswer, Unavailable
from capconduit.domain.calls import LegTimes
from capconduit.domain.model import Cdr, Node
from capconduit.render.contexts import SPOOL_FIELDS, SPOOL_SEPARATOR
from capconduit.services import balances
from capconduit.vocab import CallState, CapMetric, CapScope, RejectCode
from fastagi.reconciler import NODE_GONE_MS, NODE_STILL_S, UNWATCHED_S, NodeWatch
from fastagi.spool import read_entry, report_of
from lab.ports import free_port
from lab.wait import wait_for
from tests.daemon.rig import Rig, until
from tests.daemon.test_daemon import spec
from tests.daemon.test_replay import locked
from tests.store_contract.conftest import PostgresServer

RECOVERY_S = 14.0  # ten on a machine that does nothing else; after fifteen the daemon would compare by itself
TALK_MARGIN_MS = 250
DEADLINE_MS = 2_000  # a database that is away is told of long before


class Cluster(PostgresServer):
    """A PostgreSQL of these tests alone, to be killed."""

    def kill9(self) -> None:
        """SIGKILL to the postmaster; its children notice and go with it."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        family = [Path(f"/proc/{pid}"), *(p for p in Path("/proc").glob("[0-9]*") if _parent(p) == pid)]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(process.exists() for process in family), "end of PostgreSQL")


def _parent(process: Path) -> int:
    """The pid of a process' parent; 0 where it is gone."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    server = Cluster()
    yield server
    server.start()
    server.close()


class CrashRig(Rig):
    """A rig whose journal is in its own directory, whatever its database."""

    def spawn(self, *options: str) -> None:
        with mock.patch.dict(os.environ, {"CAPCONDUIT_NODE__JOURNAL": f"{self.dir}/settlements.journal"}):
            super().spawn(*options)

    def requests(self, script: str) -> int:
        """Exchanges of a kind that have begun."""
        return int(self.status().get("fastagi", {}).get("requests", {}).get(script, 0))

    def cdr_of(self, outcome: CallOutcome) -> Cdr | None:
        """The record of a call of this world."""
        return next((cdr for cdr in self.cdrs() if cdr.uniqueid == outcome.uniqueid), None)

    async def recovered(self) -> None:
        """All pieces are back: nothing lives or is held in less than ten seconds, every call is settled once."""
        await until(lambda: not self.live(), RECOVERY_S)
        await self.at_rest()
        _, entries = balances.ledger(self.office, "acme")
        assert [count for count in Counter(e.call_id for e in entries if e.call_id).values() if count > 1] == []
        assert [count for count in Counter(c.uniqueid for c in self.cdrs()).values() if count > 1] == []
        paid = sum(cdr.amount_micros for cdr in self.cdrs())
        funded = sum(e.amount_micros for e in entries if e.call_id is None)
        assert self.account().balance_micros == funded - paid

    def right(self, outcome: CallOutcome) -> None:
        """What the call is billed is what Asterisk saw of it."""
        cdr = self.cdr_of(outcome)
        if cdr is None:
            assert not outcome.call, "it was admitted, and there is no record of it"
            return
        assert abs(cdr.talk_ms - outcome.talk_ms) <= TALK_MARGIN_MS, (cdr, outcome)
        assert cdr.amount_micros == cdr.billed_seconds * 10_000
        assert bool(cdr.amount_micros) == bool(outcome.talk_ms)


Test = Callable[[CrashRig], Coroutine[Any, Any, None]]
Lock = Callable[[], AbstractContextManager[None]]


def run(tmp_path: Path, test: Test, **options: Any) -> None:
    """Run `test` with a rig that has money."""

    async def whole() -> None:
        rig = CrashRig(tmp_path, **{"deadline_ms": DEADLINE_MS, **options})
        async with rig:
            rig.fund("1000")
            await test(rig)

    asyncio.run(whole())


# --- the states of a call ---------------------------------------------------------------------------------------------


async def alive(rig: CrashRig, state: CallState | None = None) -> None:
    """Wait until the database knows a live call, in this state."""
    await until(lambda: [c for c in rig.live() if state in (None, c.call.state)])


@asynccontextmanager
async def deciding(rig: CrashRig, lock: Lock) -> AsyncIterator[asyncio.Task[CallOutcome]]:
    with lock():
        call = rig.world.start(spec())
        await until(lambda: rig.requests("route"))
        yield call


@asynccontextmanager
async def ringing(rig: CrashRig, lock: Lock) -> AsyncIterator[asyncio.Task[CallOutcome]]:
    rig.script("buyer1", CallerCancels(after_ms=700))
    call = rig.world.start(spec())
    await alive(rig)
    yield call


@asynccontextmanager
async def up(rig: CrashRig, lock: Lock) -> AsyncIterator[asyncio.Task[CallOutcome]]:
    rig.script("buyer1", Answers(talk_ms=4_000))  # a daemon that is slow still sees that it is up
    call = rig.world.start(spec())
    await alive(rig, CallState.UP)
    yield call


@asynccontextmanager
async def up_for_longer(rig: CrashRig, lock: Lock) -> AsyncIterator[asyncio.Task[CallOutcome]]:
    """It ends when everything is back."""
    rig.script("buyer1", Answers(talk_ms=6_000, hung_up_by="target"))
    call = rig.world.start(spec())
    await alive(rig, CallState.UP)
    yield call


@asynccontextmanager
async def hanging_up(rig: CrashRig, lock: Lock) -> AsyncIterator[asyncio.Task[CallOutcome]]:
    rig.script("buyer1", Answers(talk_ms=4_000))
    call = rig.world.start(spec())
    await alive(rig, CallState.UP)
    with lock():
        await until(lambda: rig.requests("settle"))
        yield call


@asynccontextmanager
async def failing_over(rig: CrashRig, lock: Lock) -> AsyncIterator[asyncio.Task[CallOutcome]]:
    rig.script("buyer1", Busy(after_ms=600))
    rig.script("buyer2", Answers(talk_ms=500))
    call = rig.world.start(spec())
    await alive(rig)
    with lock():
        await until(lambda: rig.requests("attempt"))
        yield call


State = Callable[[CrashRig, Lock], AbstractAsyncContextManager[asyncio.Task[CallOutcome]]]
STATES = [deciding, ringing, up, up_for_longer, hanging_up, failing_over]


def name_of(state: State) -> str:
    return state.__name__.replace("_", "-")


# --- the daemon -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=name_of)
def test_a_daemon_is_killed(tmp_path: Path, state: State) -> None:
    async def test(rig: CrashRig) -> None:
        async with state(rig, lambda: locked(rig)) as call:
            await rig.stop(signal.SIGKILL)
        if state is not up_for_longer:
            await call
        await rig.start()
        outcome = await call
        await rig.recovered()
        rig.right(outcome)
        await until(lambda: not rig.ami.database)
        rig.script("buyer1", Answers(talk_ms=50))
        rig.right(await rig.world.call(spec()))

    run(tmp_path, test)


def test_what_was_promised_to_nobody_is_given_back_when_the_daemon_is_back(tmp_path: Path) -> None:
    """The daemon dies between its commit and its answer: no channel, handler or list will ever tell of the call."""

    async def test(rig: CrashRig) -> None:
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "1")
        assert (await rig.route("promised-1")).variables["CC_VERDICT"] == "dial"
        await rig.stop(signal.SIGKILL)
        await rig.start()
        await rig.recovered()
        assert (await rig.route("next-1")).variables["CC_VERDICT"] == "dial"
        await rig.settle("next-1")

    run(tmp_path, test)


BEHAVIOURS: tuple[Behaviour, ...] = (
    Answers(talk_ms=300), Answers(talk_ms=1_500), Answers(talk_ms=700, hung_up_by="target"), Busy(), NoAnswer(),
    Unavailable(), CallerCancels(after_ms=200), Answers(after_ms=400, talk_ms=900),
)  # fmt: skip


async def storm(rig: CrashRig, seed: int, crash: Callable[[], Any]) -> list[CallOutcome]:
    """Forty calls of all kinds in two seconds, and `crash` twice in their midst; what became of them."""
    rng = random.Random(seed)
    rig.setting("funding_slice_s", "2")
    rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "12")
    for target in ("buyer1", "buyer2"):
        rig.script(target, *(rng.choice(BEHAVIOURS) for _ in range(200)))
    calls = []
    for number in range(40):
        calls.append(rig.world.start(spec(cancel_after_ms=rng.choice((None, None, rng.randrange(1_500))))))
        await asyncio.sleep(0.05)  # the pace of the storm, not a wait for anything
        if number in (12, 27):
            await crash()
    return list(await asyncio.gather(*calls))


def test_a_daemon_is_killed_twice_in_a_storm_of_calls(tmp_path: Path) -> None:
    async def test(rig: CrashRig) -> None:
        async def crash() -> None:
            await rig.stop(signal.SIGKILL)
            await rig.start()

        outcomes = await storm(rig, 11, crash)
        await rig.recovered()
        for outcome in outcomes:
            rig.right(outcome)
        assert sum(outcome.talk_ms > 0 for outcome in outcomes) >= 5, "hardly anybody talked: this proves nothing"

    run(tmp_path, test)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


@contextmanager
def held(url: str) -> Iterator[None]:
    """Somebody holds the lock that every decision needs; he may lose his connection."""
    connection = psycopg.connect(url)
    connection.execute("SELECT version FROM estate_version FOR UPDATE")
    try:
        yield
    finally:
        connection.close()


@pytest.fixture
def url(cluster: Cluster) -> str:
    """A fresh database of the cluster."""
    cluster.start()
    return cluster.url(cluster.empty_database())


@pytest.mark.postgres
@pytest.mark.parametrize("state", STATES, ids=name_of)
def test_postgres_is_killed(tmp_path: Path, cluster: Cluster, url: str, state: State) -> None:
    async def test(rig: CrashRig) -> None:
        async with state(rig, lambda: held(url)) as call:
            await asyncio.to_thread(cluster.kill9)
        if state is not up_for_longer:
            outcome = await call
            assert not outcome.fallback, "the daemon lives and answers, in time"
            if outcome.call:
                assert outcome.settled_ack, "the end is kept in the daemon's own journal"
        await asyncio.to_thread(cluster.start)
        outcome = await call
        await rig.recovered()
        rig.right(outcome)
        await until(lambda: rig.status()["ready"])
        assert rig.status()["journal"] == {"waiting": 0, "trouble": None}
        assert not rig.ami.database
        rig.script("buyer1", Answers(talk_ms=50))
        rig.right(await rig.world.call(spec()))

    run(tmp_path, test, url=url)


@pytest.mark.postgres
def test_calls_while_postgres_is_away_are_rejected_and_leave_nothing(
    tmp_path: Path, cluster: Cluster, url: str
) -> None:
    async def test(rig: CrashRig) -> None:
        await asyncio.to_thread(cluster.kill9)
        outcomes = await asyncio.gather(*(rig.world.call(spec()) for _ in range(5)))
        assert {(o.reject_reason, o.cause, o.sip) for o in outcomes} == {(RejectCode.DATABASE_DOWN, 38, 500)}
        assert rig.status()["journal"]["waiting"] == 0
        await until(lambda: rig.status()["reasons"] == ["database down"])
        await asyncio.to_thread(cluster.start)
        await until(lambda: rig.status()["ready"], RECOVERY_S)  # without a call to find it out
        await rig.recovered()

    run(tmp_path, test, url=url)


@pytest.mark.postgres
def test_what_was_promised_to_nobody_is_found_when_postgres_is_back(tmp_path: Path, cluster: Cluster, url: str) -> None:
    """As when it dies between its commit and the word of it: a caller was rejected, nobody will tell of the call."""

    async def test(rig: CrashRig) -> None:
        assert (await rig.route("promised-1")).variables["CC_VERDICT"] == "dial"
        await asyncio.to_thread(cluster.kill9)
        await until(lambda: rig.status()["reasons"] == ["database down"])
        await asyncio.to_thread(cluster.start)
        await rig.recovered()

    run(tmp_path, test, url=url)


@pytest.mark.postgres
def test_postgres_is_killed_twice_in_a_storm_of_calls(tmp_path: Path, cluster: Cluster, url: str) -> None:
    async def test(rig: CrashRig) -> None:
        async def crash() -> None:
            await asyncio.to_thread(cluster.kill9)
            await asyncio.sleep(0.3)  # an outage takes a while
            await asyncio.to_thread(cluster.start)

        outcomes = await storm(rig, 12, crash)
        await rig.recovered()
        for outcome in outcomes:
            rig.right(outcome)
        assert sum(outcome.talk_ms > 0 for outcome in outcomes) >= 5, "hardly anybody talked: this proves nothing"

    run(tmp_path, test, url=url)


@pytest.mark.postgres
def test_daemon_and_postgres_are_killed_together(tmp_path: Path, cluster: Cluster, url: str) -> None:
    async def test(rig: CrashRig) -> None:
        async with up(rig, lambda: held(url)) as call:
            await asyncio.to_thread(cluster.kill9)
            outcome = await call
            assert outcome.settled_ack
            await rig.stop(signal.SIGKILL)
        await asyncio.to_thread(cluster.start)
        await rig.start()
        await rig.recovered()
        rig.right(outcome)
        cdr = rig.cdr_of(outcome)
        assert cdr is not None
        assert cdr.witness == "journal+ami"

    run(tmp_path, test, url=url)


# --- what the dialplan kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialstatus", "up_ms", "answered_ms", "ended_ms"),
    [
        ("ANSWER", "5000", 1_000_000, 1_005_000),  # written 60 s after the end: the daemon was frozen
        ("ANSWER", "90000", 1_000_000, 1_065_000),  # the caller was answered before the target
        ("ANSWER", "5000", None, 1_065_000),
        ("ANSWER", "", 1_000_000, 1_065_000),
        ("CANCEL", "", None, 1_065_000),
    ],
)
def test_a_settlement_that_was_kept_long_after_the_end_is_of_the_end(
    dialstatus: str, up_ms: str, answered_ms: int | None, ended_ms: int
) -> None:
    told = {"call": "CALL", "attempt": "1", "dialstatus": dialstatus, "answered_ms": up_ms, "ended": "1065.000"}
    entry = read_entry("u-1", SPOOL_SEPARATOR.join(told.get(name, "") for name in SPOOL_FIELDS))
    assert entry is not None
    assert report_of(entry, "n", LegTimes(), answered_ms).ended_ms == ended_ms
    assert report_of(entry, "n", LegTimes(answered_ms=answered_ms)).ended_ms == ended_ms


# --- a node that is gone ----------------------------------------------------------------------------------------------


def node(name: str = "other", seen_ms: int = 0, state: str = "up", boot_id: str = "b") -> Node:
    return Node(name=name, boot_id=boot_id, started_ms=0, seen_ms=seen_ms, asterisk_started_ms=None, state=state)


HEARTBEAT_S = 3.0


def watched(*rows: Node | None, own: str = "own", now_ms: int = 0) -> list[str]:
    """Who is gone after one look each heartbeat at these rows of one node; at None nobody could look."""
    watch, now_s = NodeWatch(own), 1_000.0
    for row in rows:
        if row is not None:
            watch.look([row, node(own)], now_s)
        now_s += HEARTBEAT_S
    return watch.gone(now_ms, now_s - HEARTBEAT_S)


STILL = int(NODE_STILL_S / HEARTBEAT_S) + 1  # looks until its row has stood still for long enough


def test_a_node_that_was_silent_for_long_and_stays_so_is_gone() -> None:
    assert watched(*[node()] * STILL, now_ms=NODE_GONE_MS) == ["other"]
    assert watched(*[node()] * STILL, now_ms=NODE_GONE_MS - 1) == []
    assert watched(*[node()] * (STILL - 1), now_ms=NODE_GONE_MS) == []


def test_a_node_that_said_goodbye_is_gone_unless_it_comes_again() -> None:
    down = node(state="down")
    assert watched(*[down] * STILL) == ["other"]
    assert watched(*[down] * STILL, node(boot_id="c")) == []


def test_a_node_whose_clock_is_wrong_lives_as_long_as_it_writes() -> None:
    assert watched(*[node(seen_ms=1_000 * n) for n in range(40)], now_ms=10**12) == []


def test_a_node_whose_clock_is_ahead_is_gone_when_it_has_been_still_for_long_enough() -> None:
    looks = int(NODE_GONE_MS / 1_000 / HEARTBEAT_S)
    assert watched(*[node(seen_ms=10**12)] * looks) == []
    assert watched(*[node(seen_ms=10**12)] * (looks + 1)) == ["other"]


def test_after_a_time_in_which_nobody_could_write_watching_begins_again() -> None:
    nobody = [None] * (int(UNWATCHED_S / HEARTBEAT_S) + 1)
    assert watched(*[node()] * STILL, *nobody, node(), now_ms=NODE_GONE_MS) == []
    assert watched(*[node()] * STILL, *nobody, *[node()] * STILL, now_ms=NODE_GONE_MS) == ["other"]


def test_our_own_row_and_one_that_was_removed_are_nobody_elses() -> None:
    assert watched(*[node()] * STILL, own="other", now_ms=NODE_GONE_MS) == []
    watch = NodeWatch("own")
    watch.look([node()], 0.0)
    watch.look([], 3.0)
    assert watch.gone(10**12, 1_000.0) == []


class Neighbour(CrashRig):
    """A second daemon on the database of a first, on a node of its own; it waits less before it calls a node gone."""

    def __init__(self, first: CrashRig, directory: Path) -> None:
        self.__dict__.update(first.__dict__)
        directory.mkdir()
        self.dir, self.node, self.process = directory, "neighbour", None
        self.port = free_port()

    def spawn(self, *options: str) -> None:
        with mock.patch("subprocess.Popen", self._impatient):
            super().spawn(*options)

    @staticmethod
    def _impatient(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        program = (
            "import sys, fastagi.reconciler as r; from fastagi.__main__ import main; r.NODE_STILL_S = 6.5;"
            "sys.exit(main(sys.argv[1:]))"
        )
        return REAL_POPEN([sys.executable, "-c", program, *command[3:]], **more)


REAL_POPEN = subprocess.Popen


def set_back(url: str, what: str) -> None:
    """Let minutes have passed for rows, without waiting for them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(what.encode())


@pytest.mark.postgres
def test_calls_of_a_dead_node_are_given_back_by_another_once_when_their_money_is_used(tmp_path: Path, url: str) -> None:
    async def test(rig: CrashRig) -> None:
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "3")
        other = Neighbour(rig, tmp_path / "neighbour")
        await other.start()
        try:
            for uniqueid in ("dead-1", "dead-2"):
                assert (await rig.route(uniqueid)).variables["CC_VERDICT"] == "dial"
            assert (await other.route("theirs-1")).variables["CC_VERDICT"] == "dial"
            # Its money is used, but its daemon lives: it may only have been slow to tell.
            set_back(url, "UPDATE call SET lease_until_ms = 1; UPDATE hold SET expires_ms = 1")
            await rig.stop(signal.SIGKILL)
            assert (await other.route("too-many")).variables["CC_REASON"] == "cap_reached:campaign:concurrent"
            assert len(rig.live()) == 3, "nobody has said that they are over"
            set_back(url, f"UPDATE call SET lease_until_ms = {10**14} WHERE uniqueid = 'dead-2'")
            set_back(url, f"UPDATE node SET seen_ms = seen_ms - {NODE_GONE_MS} WHERE name = 'rig'")
            await until(lambda: "dead-1" not in {c.call.uniqueid for c in rig.live()})
            assert {c.call.uniqueid for c in rig.live()} >= {"dead-2"}, "its lease is not over"
            (cdr,) = [c for c in rig.cdrs() if c.uniqueid == "dead-1"]
            assert (cdr.node, cdr.witness, cdr.amount_micros) == ("rig", "abandoned", 0)
            await rig.start()  # and its own daemon, which has an end for it after all
            assert (await rig.settle("dead-1", "ANSWER", "5000")).variables == {"CC_ACK": "1"}
            for one, uniqueid in ((rig, "dead-2"), (other, "theirs-1")):
                assert (await one.settle(uniqueid)).variables == {"CC_ACK": "1"}
            await rig.recovered()
            assert rig.account().balance_micros == 1_000_000_000
        finally:
            await other.stop()

    run(tmp_path, test, url=url, with_ami=False)


@pytest.mark.postgres
def test_calls_of_a_living_node_are_left_alone_even_when_their_money_is_used(tmp_path: Path, url: str) -> None:
    """Its daemon has AMI and its channel lives, so it concludes nothing; nor does the other."""

    async def test(rig: CrashRig) -> None:
        rig.script("buyer1", Answers(talk_ms=60_000))
        call = rig.world.start(spec())
        await alive(rig, CallState.UP)
        other = Neighbour(rig, tmp_path / "neighbour")
        other.with_ami = False
        set_back(url, "UPDATE call SET lease_until_ms = 1; UPDATE hold SET expires_ms = 1")
        await other.start()
        try:
            set_back(url, f"UPDATE node SET seen_ms = seen_ms - {NODE_GONE_MS} WHERE name = 'rig'")
            await until(lambda: _seen(url) is not None)
            seen = _seen(url) or 0
            await until(lambda: (_seen(url) or 0) >= seen + 9_000)  # three heartbeats: the other has looked in between
            assert len(rig.live()) == 1
        finally:
            await other.stop()
        rig.world.move_limit(rig.live()[0].call.channel, 0.1)
        await call
        await rig.recovered()

    run(tmp_path, test, url=url)


def _seen(url: str) -> int | None:
    """When the neighbour last said that it lives; None before it did."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT seen_ms FROM node WHERE name = 'neighbour'").fetchone()
    return int(row[0]) if row is not None else None
