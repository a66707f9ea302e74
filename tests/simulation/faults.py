"""Every kind of fault, by name: what it does, what must hold all the same, how often it comes.

A `Chance` is drawn where it can happen (a message, a statement, an action); a `Happening` comes at random instants and
does something to the world. Each seed has a choice of them, each with a generator of its own, so that one that is left
out changes nothing about the others (see `shrink`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capconduit.domain.calls import AnswerReport, AttemptReport, ExtendRequest, LegTimes, SettleReport
from capconduit.domain.needs import Command
from capconduit.services.engine import _Item
from capconduit.vocab import DialStatus, RejectCode
from tests.simulation.daemons import RESTART_S, Machine

if TYPE_CHECKING:
    from tests.simulation.daemons import SimEngine
    from tests.simulation.world import World

BOOKS = "the books balance; nothing is half done"
ONCE = "every call is recorded and billed once"
FUNDED = "no call talks longer than it is funded"
LIMITS = "no cap is exceeded"
OBEYED = "the next decision does as it was told"
HELD = "no place or hold of a living call is given back"


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `often`: of a Chance its probability, of a Happening how many an hour."""

    name: str
    does: str
    holds: str
    often: float
    act: Callable[[World, random.Random], None] | None = None


FAULTS: dict[str, Fault] = {}


def chance(name: str, does: str, holds: str, often: float) -> None:
    """Register a fault that is drawn where it can happen."""
    FAULTS[name] = Fault(name, does, holds, often)


def happening(does: str, holds: str, often: float) -> Callable[[Any], Any]:
    """Register a fault that comes at random instants; its name is the function's."""

    def register(act: Callable[[World, random.Random], None]) -> Callable[[World, random.Random], None]:
        FAULTS[act.__name__] = Fault(act.__name__, does, holds, often, act)
        return act

    return register


# --- messages ---------------------------------------------------------------------------------------------------------

chance("request_lost", "the daemon's port refuses, or the connection is lost before it is read", ONCE, 0.03)
chance("answer_lost", "the daemon has decided and committed, and its answer never reaches the channel", ONCE, 0.03)
chance("applied_unheard", "the channel takes the verdict, and its word of that never reaches the daemon", HELD, 0.03)
chance("command_doubled", "the engine is told the same thing twice, in one batch or in two", ONCE, 0.08)
chance("command_late", "a command waits in the engine for up to 9 s, behind every deadline", ONCE, 0.02)
chance(
    "commands_reordered", "a batch is decided in another order: settle before route, answer after the end", ONCE, 0.3
)
chance(
    "engine_slow",
    "the engine comes to its next batch up to a second late: it is large, and behind its deadlines",
    ONCE,
    0.03,
)
chance("witness_disagrees", "a second witness tells the end of a call with other numbers", ONCE, 0.08)
chance("stray_message", "a report of a Dial that is none, an extension or an end of a call nobody knows", ONCE, 0.05)
chance("caller_leaves_at_once", "the caller hangs up while route is being decided: settle overtakes it", ONCE, 0.08)
chance("not_the_first_channel", "the answer cannot restart the caller's limit: linked channels", FUNDED, 0.1)

# --- AMI --------------------------------------------------------------------------------------------------------------

chance("ami_action_dropped", "AbsoluteTimeout or a list is asked for and never arrives at Asterisk", FUNDED, 0.15)
chance("ami_action_unanswered", "Asterisk has carried it out, and its answer is never seen", FUNDED, 0.15)
chance("ami_events_late", "the link stalls: every event comes up to 20 s late", FUNDED, 0.01)
chance("ami_events_doubled", "an event is delivered twice", ONCE, 0.1)
chance("ami_events_lost", "an event is dropped and the link asks for a resync", FUNDED, 0.03)
chance("channel_list_cut", "the list of channels comes incomplete: absence proves nothing", HELD, 0.2)


@happening("the AMI connection breaks and cannot be made for up to a minute", FUNDED, 60)
def ami_link_lost(world: World, rng: random.Random) -> None:
    asterisk = rng.choice(world.machines).asterisk
    asterisk.ami_away = True
    asterisk.drop_links()

    def back() -> None:
        asterisk.ami_away = False

    world.after(rng.choice([0.1, 3.0, 20.0, 60.0]), back)


# --- the daemon -------------------------------------------------------------------------------------------------------

chance("killed_in_transaction", "kill -9 of the daemon between two statements of a transaction", BOOKS, 0.002)
chance("killed_after_commit", "kill -9 of the daemon when it has committed and before it has answered", ONCE, 0.002)


@happening("kill -9 of a daemon; it is back after two seconds, or a minute", HELD, 40)
def daemon_killed(world: World, rng: random.Random) -> None:
    rng.choice(world.machines).kill(rng.choice([RESTART_S, RESTART_S, 60.0]))


@happening("a daemon is told to stop, drains, and is started again", ONCE, 25)
def daemon_restarted(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    process = machine.process
    if process is not None and process.daemon is not None and process.listening:
        world.loop.call_soon(process.daemon.stop, context=process.context)


@happening("a daemon stands still (SIGSTOP) for up to 20 s and goes on where it was", FUNDED, 25)
def daemon_frozen(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    if machine.process is not None:
        seconds = rng.choice([0.3, 2.0, 8.0, 20.0])
        machine.process.boot.stopped_until_s = world.loop.time() + seconds
        for line in machine.asterisk.lines.values():
            line.slack_ms += seconds * 1_000


@happening("the estate that a daemon has read is as old as the world", HELD, 40)
def estate_stale(world: World, rng: random.Random) -> None:
    world.stale_estate = world.first_estate


@happening("a machine is off, daemon and Asterisk; others give back its calls; it may come back much later", HELD, 8)
def machine_lost(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    if machine.gone or sum(not m.gone for m in world.machines) < 2:
        return
    machine.gone = True
    machine.kill(None)
    machine.asterisk.kill()

    def back() -> None:
        machine.gone = False
        machine.asterisk.start()
        machine.start()

    world.after(rng.choice([30.0, 300.0, 900.0]), back)


@happening("a second daemon runs under the same node name beside an Asterisk of its own", HELD, 8)
def daemon_doubled(world: World, rng: random.Random) -> None:
    if any(m.name.endswith("-double") for m in world.machines):
        return
    original = rng.choice(world.machines)
    double = Machine(world, f"{original.name}-double", original.node, True)
    world.machines.append(double)
    double.asterisk.start()
    double.start()


@happening("the disk of a journal is full for up to two minutes", ONCE, 20)
def journal_full(world: World, rng: random.Random) -> None:
    disk = rng.choice(world.machines).disk
    disk.full = True

    def room() -> None:
        disk.full = False

    world.after(rng.choice([10.0, 120.0]), room)


@happening("a daemon is killed when its journal is replayed and not yet emptied: it is replayed twice", ONCE, 60)
def journal_replayed_twice(world: World, rng: random.Random) -> None:
    for machine in world.machines:
        machine.disk.kill_when_emptied = True


# --- Asterisk ---------------------------------------------------------------------------------------------------------


@happening("SIGKILL of an Asterisk: all its calls end without a word", ONCE, 15)
def asterisk_killed(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    machine.asterisk.kill()
    world.after(rng.choice([0.5, 5.0, 40.0]), machine.asterisk.start)


@happening("`core stop now`: all calls of an Asterisk end at once and all their handlers run", ONCE, 15)
def asterisk_stopped(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    machine.asterisk.stop()

    def down() -> None:
        machine.asterisk.kill()
        world.after(5.0, machine.asterisk.start)

    world.after(3.0, down)


@happening("a target is unreachable for a while: its Dials fail at once", LIMITS, 60)
def target_unreachable(world: World, rng: random.Random) -> None:
    name = rng.choice(world.builder.targets).name
    world.unreachable.add(name)
    world.after(rng.choice([10.0, 60.0, 200.0]), world.unreachable.discard, name)


# --- the database -----------------------------------------------------------------------------------------------------

chance(
    "transaction_retried", "a statement or the commit ends in a lock timeout or a serialization failure", BOOKS, 0.05
)
chance("transaction_lost", "the connection breaks between two statements of a transaction", BOOKS, 0.01)
chance("commit_in_doubt", "the connection breaks at the commit, which was carried out all the same", ONCE, 0.01)
chance("contention", "every try of a transaction is aborted, until the retries are used up", BOOKS, 0.003)


@happening("the database is restarted: nothing can be asked for up to 40 s", ONCE, 25)
def database_restarted(world: World, rng: random.Random) -> None:
    world.database.away_until_s = world.loop.time() + rng.choice([0.5, 5.0, 40.0])


@happening("the database is full or read-only for a while: every writing transaction fails", ONCE, 25)
def database_read_only(world: World, rng: random.Random) -> None:
    world.database.read_only_until_s = world.loop.time() + rng.choice([1.0, 10.0, 40.0])


# --- clocks -----------------------------------------------------------------------------------------------------------


@happening("somebody sets the clock of a machine forward, by up to a day", FUNDED, 10)
def clock_set_forward(world: World, rng: random.Random) -> None:
    world.set_clock(rng.choice(world.machines), rng.choice([2_000, 60_000, 3_600_000, 86_400_000]))


@happening("somebody sets the clock of a machine back, by up to two hours", FUNDED, 10)
def clock_set_back(world: World, rng: random.Random) -> None:
    world.set_clock(rng.choice(world.machines), -rng.choice([2_000, 60_000, 3_600_000, 7_200_000]))


@happening("the clock of a machine gains or loses a second in a thousand", LIMITS, 15)
def clock_drifts(world: World, rng: random.Random) -> None:
    machine = rng.choice(world.machines)
    machine.offset_ms = machine.skew_ms()
    machine.drift, machine.drift_from_s = rng.choice([0.001, -0.001]), world.loop.time()


@happening("hours or days pass without a call; what waits in a spool waits", ONCE, 20)
def days_pass(world: World, rng: random.Random) -> None:
    world.lull(rng.choice([3_600_000, 6 * 3_600_000, 26 * 3_600_000, 5 * 86_400_000]))


@happening("many calls come at once", LIMITS, 60)
def burst(world: World, rng: random.Random) -> None:
    for _ in range(rng.choice([5, 15, 30])):
        world.after(rng.random(), world.arrive)


class Messages:
    """Draws every chance, and the small delays of everything that is sent."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._net = random.Random(f"{world.seed}:net")

    def net_s(self) -> float:
        """From one process to another."""
        return 0.0003 + self._net.random() * 0.001

    def engine_latency_s(self) -> float:
        """Until the engine's thread takes what waits."""
        if self._world.draw("engine_slow"):
            return self._world.random("engine_slow").choice([0.1, 0.4, 1.0])
        return 0.0002 + self._net.random() * 0.002

    def batch(self, items: Sequence[_Item]) -> tuple[Sequence[_Item], Sequence[_Item]]:
        """The batch as it is decided, and what is left for later."""
        draw, world = self._world.draw, self._world
        now: list[_Item] = []
        later: list[_Item] = []
        for item in items:
            if draw("command_late"):
                world.postponed(item)
                continue
            now.append(item)
            if draw("command_doubled"):
                (now if world.random("command_doubled").random() < 0.5 else later).append(self._again(item))
        if len(now) > 1 and draw("commands_reordered"):
            world.random("commands_reordered").shuffle(now)
        return now, later

    def _again(self, item: _Item) -> _Item:
        return _Item(item.command, self._world.noted(item.command, lambda _answer, _error: None))

    def submitted(self, engine: SimEngine, command: Command) -> None:
        """Somebody has told the engine something; others may tell it more."""
        world = self._world
        if isinstance(command, SettleReport) and world.draw("witness_disagrees"):
            rng = world.random("witness_disagrees")
            other = SettleReport(
                node=command.node, uniqueid=command.uniqueid, attempt=rng.choice([0, 1, command.attempt]),
                dialstatus=rng.choice([DialStatus.ANSWER, DialStatus.BUSY, None]),
                answered_for_ms=rng.choice([None, 1, 999_999]), witness="other",
            )  # fmt: skip
            world.tell(engine, other, rng.random() * 3 + 0.5)
        if world.draw("stray_message"):
            world.tell(engine, self._stray(command, world.random("stray_message")), 0.01)

    def _stray(self, command: Command, rng: random.Random) -> Command:
        node, uniqueid = command.node, command.uniqueid
        strays: list[Command] = [
            AttemptReport(node=node, uniqueid=uniqueid, attempt=99, dialstatus=DialStatus.BUSY, hangup_cause=17),
            AttemptReport(node=node, uniqueid="nobody", attempt=1, dialstatus=None, hangup_cause=0),
            ExtendRequest(node=node, uniqueid="nobody"),
            AnswerReport(node=node, uniqueid="nobody", leg=LegTimes()),
            SettleReport(node=node, uniqueid="nobody", witness="stray", reject=RejectCode.ENGINE_TIMEOUT),
            ExtendRequest(node=node, uniqueid=uniqueid),
        ]
        return rng.choice(strays)

    # --- AGI and AMI --------------------------------------------------------------------------------------------------

    def agi_fate(self, _script: str) -> str:
        """What becomes of an exchange."""
        if self._world.draw("request_lost"):
            return "refused"
        if self._world.draw("answer_lost"):
            return "answer lost"
        return "unheard" if self._world.draw("applied_unheard") else ""

    def ami_fate(self) -> str:
        """What becomes of an action."""
        if self._world.draw("ami_action_dropped"):
            return "dropped"
        return "unanswered" if self._world.draw("ami_action_unanswered") else ""

    def list_is_cut(self) -> bool:
        """Whether a list of channels comes incomplete."""
        return self._world.draw("channel_list_cut")

    def event_stall_s(self) -> float:
        """How long the link stalls from now."""
        if self._world.draw("ami_events_late"):
            return self._world.random("ami_events_late").choice([0.5, 4.0, 20.0])
        return 0.0

    def event_is_lost(self) -> bool:
        """Whether an event is dropped."""
        return self._world.draw("ami_events_lost")

    def event_is_doubled(self) -> bool:
        """Whether an event comes twice."""
        return self._world.draw("ami_events_doubled")
