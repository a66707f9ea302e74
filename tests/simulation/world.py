"""A world that one seed drives: callers, targets, operators, machines, and all that goes wrong around real daemons.

Reality is asterisk.py, the books are the product's; invariants.py compares the two. Nothing is random but the seed's
own generators, nothing waits, and nothing depends on how a set is ordered: a seed replays, in any process.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from datetime import UTC, datetime
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from capconduit.domain.model import Call, Cap, Cdr, Rule, Target
from capconduit.domain.needs import Command
from capconduit.errors import DatabaseError
from capconduit.services.engine import EngineBusy, _Item
from capconduit.services.office import Office
from capconduit.store import sqlstore
from capconduit.units import instant_ms
from capconduit.vocab import CapScope, DialStatus
from tests.simulation import faults, operators  # noqa: F401 - operators register themselves
from tests.simulation.allowed import Allowed
from tests.simulation.asterisk import Asterisk, Caller, Line
from tests.simulation.daemons import Machine, MachineClock, Process, SimEngine
from tests.simulation.estates import ATTESTATIONS, CALLERS, Scoped, Wide, make_estate, scopes
from tests.simulation.faults import FAULTS, Messages
from tests.simulation.forgiven import Forgiven
from tests.simulation.invariants import Invariants
from tests.simulation.loop import Boot, Killed, VirtualLoop
from tests.simulation.memory import Change, MemoryStore
from tests.simulation.store import Database, FaultyStore
from tests.unit.estate_builder import TENANT

CALLS = 150
# Evenings of New York and Havana from which midnights, ends of months and changes of the clock are near (UTC).
EVENINGS = (
    "2026-03-03T04:58", "2026-03-08T04:58", "2026-03-08T06:58", "2026-11-01T03:58", "2026-11-01T05:57",
    "2026-12-31T23:58", "2026-04-04T14:57", "2026-07-05T12:00", "2026-06-29T18:28",
    "2026-05-13T03:57", "2026-09-30T18:27",
)  # fmt: skip
ODD_NUMBERS = ("+18005550198", "+18005550199", "18005559999", "8005550101")
FOREVER_S = 4 * 3_600.0  # of simulated time: after so long at rest something hangs
CLOSED_WITHIN = 30
STORY = 90  # lines of a story that are printed


class Broken(AssertionError):
    """A promise does not hold; names the seed and tells the story."""


class _OnlyErrors(logging.Handler):
    """A failure that the daemon caught and logged is a failure."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._world.fail(record.exc_info[1], record.getMessage())


class World:
    """Everything there is. `without` names faults that are left out, `also` such that are not left to chance.

    `wide` are caps on everything of a scope, for those who want to see them counted.
    """

    def __init__(
        self,
        seed: int,
        store: MemoryStore | None = None,
        *,
        calls: int = CALLS,
        without: frozenset[str] = frozenset(),
        also: frozenset[str] = frozenset(),
        wide: Sequence[Wide] = (),
        recount_every: int = 150,
        telling: bool = False,
    ) -> None:
        self.seed = seed
        self.calls = calls
        self.telling = telling
        self.story: list[tuple[float, str, str]] = []  # when, of which call (empty: of none), what
        self.failure: BaseException | None = None
        self.failed_at = ""
        self.recount_every = recount_every
        self.every_commit = False
        self._rngs: dict[str, Random] = {}
        self._number = 0
        self._context = Context()
        self.loop: VirtualLoop = cast(Any, VirtualLoop)(self._broken)  # it has what the daemon asks of a loop
        rng = self.random("world")
        self._base_ms = int(instant_ms(datetime.fromisoformat(rng.choice(EVENINGS)).replace(tzinfo=UTC)))
        self.calm = False
        self.enabled = (self._choose(rng) | also) - without
        self.met: Tally[str] = Tally()
        self.intensity = rng.choice([0.5, 1.0, 3.0])
        self.gap_s = rng.choice([0.05, 0.2, 0.2, 0.8])
        self.boots: list[Boot] = []
        self.lines: dict[str, Line] = {}
        self.unreachable: set[str] = set()
        self.builder = make_estate(self.random("estate"), self._base_ms, wide)
        self.database = Database(store or MemoryStore())
        self.tables = self.database.store.tables
        self.messages = Messages(self)
        self.allowed = Allowed(self)
        self.forgiven = Forgiven(self)
        self.invariants = Invariants(self)
        self.machines = [Machine(self, f"m{i}", f"node-{i}", with_ami=rng.random() < 0.85) for i in range(3)]
        desk = Machine(self, "desk", "desk", with_ami=False)  # nobody sets the operators' clock
        self._office_clock = MachineClock(desk, self.next_number())
        self._office_store = FaultyStore(self, self._office_clock, None)
        self.batch: Sequence[Command] = ()
        self.stale_estate: Any = None
        self.first_estate: Any = None
        self.caps_of_the_beginning: set[str] = set()
        self.carried: set[str] = set()
        self.begun = False
        self.born = self.admitted = self.rejected = 0
        self.set_back_ms = 0
        self.clocks_were_set = False
        self.ending = False
        self._pausing = False

    @property
    def tenant_id(self) -> str:
        """The one tenant."""
        return TENANT

    def _choose(self, rng: Random) -> frozenset[str]:
        """Which faults this seed has: none, a few, many."""
        share = rng.choice([0.0, 0.1, 0.1, 0.25, 0.25, 0.5, 0.8])
        return frozenset(name for name in FAULTS if self.random(f"choice:{name}").random() < share)

    # --- time, chance, small things -----------------------------------------------------------------------------------

    def true_ms(self) -> int:
        """The true time, UTC milliseconds."""
        return self._base_ms + int(self.loop.time() * 1_000)

    def office_now_ms(self) -> int:
        """What the operators' clock says."""
        return self._office_clock.now_ms()

    def after(self, delay_s: float, work: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Do something later that belongs to no process."""
        return self.loop.call_later(delay_s, work, *args, context=self._context)

    def at(self, when_s: float, work: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """As `after`, at an instant of the loop."""
        return self.loop.call_at(when_s, work, *args, context=self._context)

    def random(self, name: str) -> Random:
        """The generator of that name."""
        known = self._rngs.get(name)
        if known is None:
            known = self._rngs[name] = Random(f"{self.seed}:{name}")
        return known

    def draw(self, name: str) -> bool:
        """Whether a fault happens here and now."""
        if self.calm or name not in self.enabled:
            return False
        if self.random(name).random() >= FAULTS[name].often * self.intensity:
            return False
        self.met[name] += 1
        return True

    def next_number(self) -> int:
        """A number that was not used before."""
        self._number += 1
        return self._number

    def say(self, text: str, uniqueid: str = "") -> None:
        """What happened, for whoever reads a failure; of single calls only when a failure is told again."""
        if self.telling or not uniqueid:
            self.story.append((self.loop.time(), uniqueid, text))

    def fail(self, error: BaseException, what: str = "") -> None:
        """A promise is broken; the first one counts."""
        if self.failure is None:
            self.failure, self.failed_at = error, what

    def _broken(self, error: BaseException) -> None:
        self.fail(error)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """A look at reality must not disturb it: what is found is told afterwards."""
        try:
            yield
        except AssertionError as error:
            self.fail(error)

    # --- processes and stores -----------------------------------------------------------------------------------------

    def store_for(self, machine: Machine, boot: Boot, clock: MachineClock) -> FaultyStore:
        """The database as a daemon sees it."""
        return FaultyStore(self, clock, machine.process)

    @contextmanager
    def in_office(self, *, dry_run: bool) -> Iterator[Office]:
        """Where operators work."""
        yield Office(self._office_store, self._office_clock, actor="operator", dry_run=dry_run)

    def die(self, process: Process | None, how: str) -> None:
        """The process that runs now is killed."""
        if process is not None:
            self.say(f"{process.boot.name} is killed {how}")
            process.killed()
            self.after(2.0, process.machine.start)
        raise Killed

    def committed(self, changes: list[Change]) -> None:
        """A transaction stands: look at it. A broken promise is told when the step is over."""
        try:
            self.invariants.committed(changes)
        except AssertionError as error:
            self.fail(error)

    def noted(self, command: Command, done: Callable[[Any, Exception | None], None]) -> Callable[[Any, Any], None]:
        """`done`, with a look at what it is told."""

        def told(answer: Any, error: Exception | None) -> None:
            if self.telling:
                self.say(f"{short(command)} -> {short(answer if error is None else error)}", command.uniqueid)
            if error is not None and not isinstance(error, DatabaseError | EngineBusy):
                self.fail(error, f"{type(command).__name__} {command.uniqueid}")
            done(answer, error)

        return told

    def postponed(self, item: _Item) -> None:
        """A command that waits in its engine."""
        engine = self._engine_of(item.command)
        if engine is None:
            return
        process = engine.process

        def back() -> None:
            engine.take_back(item)

        delay_s = self.random("command_late").choice([0.1, 0.4, 2.0, 9.0])
        self.loop.call_later(delay_s, back, context=process.context)

    def _engine_of(self, _command: Command) -> SimEngine | None:
        return self.deciding

    deciding: SimEngine | None = None

    def tell(self, engine: SimEngine, command: Command, delay_s: float) -> None:
        """Somebody tells an engine something that nobody waits for; a second witness only of what was settled."""

        def now() -> None:
            settled = (command.node, command.uniqueid) in self.tables.channels[Cdr]
            if command.uniqueid == "nobody" or settled or not hasattr(command, "witness"):
                with suppress(EngineBusy):
                    engine.submit_quietly(command)

        self.loop.call_later(delay_s, now, context=engine.process.context)

    # --- callers ------------------------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """A call comes in somewhere."""
        rng = self.random("calls")
        machines = [m for m in self.machines if m.asterisk.alive]
        caller = self._caller(rng)
        if not machines or self.calm:
            return
        self.born += 1
        line = Line(rng.choice(machines).asterisk, caller)
        self.lines[line.uniqueid] = line
        self.say(f"arrives at {line.asterisk.machine.name} on {caller.dnid} from {caller.ani!r}", line.uniqueid)
        line.arrive()

    def _caller(self, rng: Random) -> Caller:
        uniqueid = f"u{self.next_number()}"
        own = Random(f"{self.seed}:{uniqueid}")
        attestation, verdict = own.choice([("A", ""), ("A", ""), ("A", ""), *ATTESTATIONS])
        talk_s = own.choice(
            [0.004, 3.0, 9.999, 10.0, 30.0, 59.9, 60.0, 60.2, 61.0, *(own.expovariate(1 / 70) for _ in range(9))]
        )
        patience_s = 0.002 if self.draw("caller_leaves_at_once") else own.choice([4.0, 15.0, 60.0, 60.0])
        return Caller(
            uniqueid=uniqueid,
            dnid=rng.choice([f"+1800555010{n}" for n in range(4)] * 12 + list(ODD_NUMBERS)),
            ani=own.choice(CALLERS),
            trunk=own.choice(["carrier", "carrier", "carrier", "spare", "stranger", ""]),
            attestation=attestation,
            verdict=verdict,
            rng=own,
            patience_s=patience_s,
            talk_s=talk_s,
            target_hangs_up=own.random() < 0.5,
            is_first=not self.draw("not_the_first_channel"),
        )

    def fate_of(self, line: Line, dial: str) -> tuple[DialStatus, float]:
        """What a target does with a Dial, and after how long."""
        rng = Random(f"{self.seed}:{line.uniqueid}:{dial}:{len(line.dials)}")
        name = re.search(r"buyer\d", dial)
        if name is not None and name[0] in self.unreachable:
            return rng.choice([DialStatus.CHANUNAVAIL, DialStatus.CONGESTION]), 0.05
        fate = rng.choices(
            [DialStatus.ANSWER, DialStatus.NOANSWER, DialStatus.BUSY, DialStatus.CONGESTION, DialStatus.CHANUNAVAIL],
            [60, 10, 14, 8, 8],
        )[0]
        return fate, rng.choice([0.02, 0.3, 1.0, 3.0, 3.0, 7.0])

    def _next_arrival(self) -> None:
        if self.born >= self.calls or self.calm:
            return
        if not self._pausing:
            self.arrive()
        self.after(self.random("gaps").expovariate(1 / self.gap_s), self._next_arrival)

    # --- what happens -------------------------------------------------------------------------------------------------

    def _plan(self, name: str) -> None:
        """The next time that a happening comes."""
        rng = self.random(name)
        per_second = FAULTS[name].often * self.intensity / 3_600
        self.after(rng.expovariate(per_second), self._happen, name)

    def _happen(self, name: str) -> None:
        if self.calm:
            return
        fault = FAULTS[name]
        assert fault.act is not None
        self.met[name] += 1
        self.say(f"*** {name}")
        with self.judging():
            fault.act(self, self.random(name))
        self._plan(name)

    def set_clock(self, machine: Machine, by_ms: int) -> None:
        """Somebody sets a machine's clock."""
        machine.offset_ms += by_ms
        self.clocks_were_set = True
        self.say(f"    clock of {machine.name} {by_ms:+} ms")
        if by_ms < 0:
            self.set_back_ms += -by_ms
        for line in machine.asterisk.lines.values():
            line.clock_ms += abs(by_ms)
            if by_ms < 0:
                line.slack_ms += -by_ms

    def lull(self, by_ms: int) -> None:
        """No call comes for a while, and when all have ended, a long time passes."""
        self._pausing = True

        def wait() -> None:
            if any(not line.over for line in self.lines.values()) and not self.calm:
                self.after(1.0, wait)
                return
            if not self.calm:
                self._base_ms += by_ms
                self.say(f"    {by_ms / 3_600_000:.0f} h have passed")
            self._pausing = False

        self.after(1.0, wait)

    def scopes(self) -> list[Scoped]:
        """What can be limited as it stands now; rules by the names of what they link."""
        rows = self.tables.rows
        fixed = [s for s in scopes(self.builder) if s.scope is not CapScope.RULE]
        named = [
            Scoped(CapScope.RULE, f"{r.campaign_id}/{rows[Target][r.target_id].name}", r.id)
            for _, r in sorted(rows[Rule].items())
        ]
        return [*fixed, *named]

    def caps(self) -> list[Cap]:
        """The caps there are, in one order."""
        return [cap for _, cap in sorted(self.tables.rows[Cap].items())]

    # --- from the beginning to the end --------------------------------------------------------------------------------

    def run(self) -> World:
        """The whole world. Raises Broken."""
        clock = vars(sqlstore)["time"]
        vars(sqlstore)["time"] = SimpleNamespace(sleep=lambda _s: None)
        loggers = [logging.getLogger(name) for name in ("capconduit", "fastagi")]
        handler, levels = _OnlyErrors(self), [(log, log.level, log.propagate) for log in loggers]
        for log in loggers:
            log.setLevel(logging.ERROR)
            log.propagate = False
            log.addHandler(handler)
        try:
            with self.loop.running():
                self._run()
                self._end()
        except Broken:
            raise
        except Exception as error:
            self.fail(error)
            raise self._story() from error
        finally:
            with self.loop.running():
                self._bury()
            vars(sqlstore)["time"] = clock
            for log, level, propagate in levels:
                log.removeHandler(handler)
                log.setLevel(level)
                log.propagate = propagate
        return self

    def _run(self) -> None:
        self._begin()
        self._drive(lambda: self.born >= self.calls and not self._pausing, FOREVER_S)
        self._drive(lambda: False, self.random("world").choice([1.0, 30.0, 120.0]))
        self._rest()

    def _begin(self) -> None:
        store = self.database.store
        store.committed = self.committed  # type: ignore[method-assign]
        self.builder.insert_into(store)
        self.begun = True
        self.caps_of_the_beginning = {cap.id for cap in self.builder.caps}
        with store.transaction(write=False) as tx:
            self.first_estate = tx.load_estate()
        self.say(f"faults: {', '.join(sorted(self.enabled)) or 'none'}")
        for machine in self.machines:
            machine.asterisk.start()
            machine.start()
        self.after(1.0, self._next_arrival)
        for name in sorted(self.enabled):
            if FAULTS[name].act is not None:
                self._plan(name)

    def _drive(self, until: Callable[[], bool], at_most_s: float) -> bool:
        """Run the loop until something is so; whether it came to be within that time."""
        deadline_s = self.loop.time() + at_most_s
        while not until():
            if self.failure is not None:
                raise self._story() from self.failure
            if self.loop.time() > deadline_s or not self.loop.run_once():
                return False
        return True

    def _rest(self) -> None:
        """Everything is repaired, every call ends, and nothing more happens. Then nothing may be held."""
        self.say("coming to rest")
        self.calm = True
        self.database.away_until_s = self.database.read_only_until_s = 0.0
        self.unreachable.clear()
        for machine in self.machines:
            self._repair(machine)
        ends = self.random("ends")
        for line in self.lines.values():
            self.after(ends.random() * 30, line.talk_over, "caller")
            self.after(ends.random() * 30, line.hang_up_by_caller)
        if not self._drive_at_rest():
            left = [c.uniqueid for c in self.tables.channels[Call].values()]
            raise self._story_of(AssertionError(f"not at rest after {FOREVER_S} s: {left}"))
        self._drive(lambda: False, 20.0)
        with self.judging():
            self.invariants.at_rest()
        if self.failure is not None:
            raise self._story() from self.failure

    def _repair(self, machine: Machine) -> None:
        machine.disk.full = machine.disk.kill_when_emptied = False
        machine.asterisk.ami_away = False
        if machine.process is not None:
            machine.process.boot.stopped_until_s = 0.0
        if machine.name.endswith("-double"):
            machine.gone = True
            machine.kill(None)
            machine.asterisk.kill()
        elif not machine.gone or self.random("ends").random() < 0.5:
            machine.gone = False
            machine.asterisk.start()
            machine.start()

    def _drive_at_rest(self) -> bool:
        """Until no call lives anywhere and no end waits where somebody could read it."""
        limit_s = self.loop.time() + FOREVER_S + self.set_back_ms / 1_000

        def is_over() -> bool:
            if self.tables.channels[Call] or any(not line.over for line in self.lines.values()):
                return False
            alive = [m for m in self.machines if not m.gone]
            return not any(
                m.disk.data or (m.with_ami and self._spooled(m.asterisk)) or m.process is None or m.process.boot.dead
                for m in alive
            )

        while self.loop.time() < limit_s:
            if is_over():
                return True
            self._drive(lambda: False, 1.0)
        return False

    def _spooled(self, asterisk: Asterisk) -> bool:
        """Whether Asterisk keeps an end that the daemon can read."""
        return bool(asterisk.spool)

    def _end(self) -> None:
        """Daemons are told to stop, and do."""
        self.ending = True
        for machine in self.machines:
            process = machine.process
            if process is not None and process.daemon is not None and not process.boot.dead:
                self.loop.call_soon(process.daemon.stop, context=process.context)
        self._drive(lambda: all(m.process is None or m.process.boot.dead for m in self.machines), 60.0)
        if self.failure is not None:
            raise self._story() from self.failure

    def _bury(self) -> None:
        """Close what is left of every process: else the garbage collector would, whenever it likes, loudly."""
        for task in (task for boot in self.boots for task in boot.tasks if not task.done()):
            for _ in range(CLOSED_WITHIN):  # each `finally` that waits is another stop
                try:
                    task.get_coro().close()
                    break
                except BaseException:
                    continue

    def _story(self) -> Broken:
        assert self.failure is not None
        return self._story_of(self.failure)

    def _story_of(self, error: BaseException) -> Broken:
        """What a person wants to read: what broke, what went wrong before, and the life of the calls that are named."""
        named = set(re.findall(r"\bu\d+\b", str(error)))
        for call_id in re.findall(r"\b[0-9A-Z]{26}\b", str(error)):
            named |= {line.uniqueid for line in self.lines.values() if any(d.call_id == call_id for d in line.dials)}
        told = [entry for entry in self.story if not entry[1] or entry[1] in named]
        if not named:
            told = self.story[-STORY:]
        text = "\n".join(f"  {at:10.3f} {uniqueid:5} {what}" for at, uniqueid, what in told[:1] + told[1:][-STORY:])
        what = f" ({self.failed_at})" if self.failed_at else ""
        return Broken(f"seed {self.seed}: {type(error).__name__}: {error}{what}\n{text}")


def short(value: object) -> str:
    """A command or an answer without what it does not say."""
    text = re.sub(r"<\w+\.\w+: ('[^']*')>", r"\1", repr(value))
    text = re.sub(r"\b(node|boot_id|linkedid|sip_call_id|uniqueid|caller_name|channel)='[^']*', ", "", text)
    return re.sub(r", \w+=(None|''|0)(?=[,)])", "", text)


def simulate(seed: int, store: MemoryStore | None = None, **options: Any) -> World:
    """One world from its beginning to its rest. Raises Broken with the story, for which it is lived again."""
    try:
        return World(seed, store, **options).run()
    except Broken as error:
        if store is not None and type(store) is not MemoryStore:
            raise
        try:
            World(seed, telling=True, **options).run()
        except Broken as told:
            raise told from error.__cause__
        raise
