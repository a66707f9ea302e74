"""The real daemon on the world's loop: its own handlers, meter, reconciler, journal, heartbeat; no sockets or threads.

What is put in its place: the engine's thread (batches are decided when their turn comes), the port (see asterisk.py),
the AMI connection (`Link`), the journal's disk (`Disk`) and the machine's clock (`MachineClock`).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from capconduit.clock import Clock
from capconduit.config import AmiConfig, Config, NodeConfig
from capconduit.domain.books import CallKey
from capconduit.domain.model import Node
from capconduit.domain.needs import Command
from capconduit.errors import CapConduitError
from capconduit.ids import ulid
from capconduit.services.engine import Engine, _Item
from capconduit.services.gathering import BATCH_MAX, Gathering
from capconduit.store.store import Store
from capconduit.units import Millis
from fastagi import daemon as daemon_module
from fastagi.ami_events import AmiEvent, ChannelList, LinkDown, LinkUp, LiveChannel, ResyncNeeded
from fastagi.ami_guard import down
from fastagi.ami_link import AmiRefused, AmiUnavailable
from fastagi.daemon import Daemon, DaemonFailed
from fastagi.journal import Chunk, _entries
from tests.simulation.loop import Boot

if TYPE_CHECKING:
    from tests.simulation.asterisk import Asterisk
    from tests.simulation.world import World

ACTION_TIMEOUT_S = 5.0
RESTART_S = 2.0  # a supervisor starts a daemon again after so long
BACKOFF_S = 0.5


class MachineClock:
    """The wall clock of one machine, which may be wrong, and a monotonic one; ids that do not depend on chance."""

    def __init__(self, machine: Machine, number: int) -> None:
        self._machine = machine
        self._number = number
        self._transaction = 0
        self._made = 0

    def now_ms(self) -> Millis:
        return Millis(self._machine.wall_ms())

    def monotonic_ms(self) -> int:
        return int(self._machine.world.loop.time() * 1_000)

    def begin_transaction(self) -> None:
        """Ids of a transaction are the same, however far the one before it came."""
        self._transaction += 1
        self._made = 0

    def new_id(self) -> str:
        self._made += 1
        return ulid(max(self.now_ms(), 0), (self._number << 56) | (self._transaction << 24) | self._made)


@dataclass
class Disk:
    """Where a machine's journal is kept; it outlives the daemon."""

    data: bytes = b""
    aside: bytes = b""
    owner: str = ""
    locked_by: object = None
    full: bool = False
    kill_when_emptied: bool = False


@dataclass
class Machine:
    """A computer with a daemon, an Asterisk beside it, a clock and a disk."""

    world: World
    name: str
    node: str  # the daemon's node name; two machines may have the same by mistake
    with_ami: bool
    offset_ms: int = 0
    drift: float = 0.0  # seconds that the clock gains each second
    drift_from_s: float = 0.0
    disk: Disk = field(default_factory=Disk)
    process: Process | None = None
    gone: bool = False  # the whole machine is off

    def __post_init__(self) -> None:
        from tests.simulation.asterisk import Asterisk

        self.asterisk: Asterisk = Asterisk(self.world, self)

    def wall_ms(self) -> int:
        """What the machine's clock says."""
        drifted = (self.world.loop.time() - self.drift_from_s) * self.drift * 1_000
        return self.world.true_ms() + self.offset_ms + int(drifted)

    def skew_ms(self) -> int:
        """How far the clock is ahead of the true time."""
        return self.wall_ms() - self.world.true_ms()

    def start(self) -> None:
        """Start the daemon, if none runs."""
        if not self.gone and (self.process is None or self.process.boot.dead):
            self.process = Process(self)

    def kill(self, back_after_s: float | None = RESTART_S) -> None:
        """kill -9 of the daemon; a supervisor starts it again."""
        if self.process is not None:
            self.process.killed()
        if back_after_s is not None:
            self.world.after(back_after_s, self.start)


class Process:
    """One life of a machine's daemon."""

    def __init__(self, machine: Machine) -> None:
        world = machine.world
        self.machine = machine
        self.boot = Boot(f"{machine.name}#{world.next_number()}")
        self.context = self.boot.context()
        self.listening = False
        self.link: Link | None = None
        self.daemon: SimDaemon | None = None
        world.boots.append(self.boot)
        world.loop.call_soon(self._launch, context=self.context)

    def _launch(self) -> None:
        world = self.machine.world
        clock = MachineClock(self.machine, world.next_number())
        self.daemon = SimDaemon(self, world.store_for(self.machine, self.boot, clock), clock)
        world.loop.create_task(self.daemon.run()).add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """The process ended by itself: told to, or it could not start."""
        self.listening = False
        error = task.exception()
        self.killed()
        if isinstance(error, DaemonFailed) or (error is not None and not isinstance(error, CapConduitError)):
            self.machine.world.fail(AssertionError(f"{self.boot.name} failed: {error!r}"))
        elif not self.machine.world.ending:
            self.machine.world.after(RESTART_S, self.machine.start)

    def killed(self) -> None:
        """Nothing of it runs any more; its connections are reset, its locks are free."""
        self.boot.dead = True
        self.listening = False
        if self.link is not None:
            self.link.cut()
        if self.machine.disk.locked_by is self.boot:
            self.machine.disk.locked_by = None
        self.machine.asterisk.daemon_gone()


class NoControl:
    """Stands for the control socket, which nobody asks here."""

    def __init__(self, *_: Any) -> None:
        self.routes: dict[Any, Any] = {}

    async def refuse_if_taken(self) -> None:
        pass

    start = close = refuse_if_taken


class SimDaemon(Daemon):
    """The daemon, with an engine that has no thread, a journal on a simulated disk, and no port."""

    def __init__(self, process: Process, store: Store, clock: Clock) -> None:
        machine = process.machine
        ami = AmiConfig(secret="env:NONE") if machine.with_ami else AmiConfig(host="")
        config = Config(ami=ami, node=NodeConfig(name=machine.node, journal=f"/{machine.name}.journal"))
        super().__init__(config, store, clock, take_over=True)  # doubles are what is tested here
        self._process = process
        self._engine = SimEngine(process, store, clock)
        self._journal._files = DiskFiles(process, self.boot_id)  # type: ignore[assignment]

    @property
    def agi(self) -> Any:
        """The FastAGI server."""
        return self._agi

    @property
    def engine(self) -> SimEngine:
        """The engine."""
        assert isinstance(self._engine, SimEngine)
        return self._engine

    @property
    def has_work_left(self) -> bool:
        """Whether settlements wait in the journal."""
        return len(self._journal) > 0

    async def _listen(self) -> None:
        self._process.listening = True

    async def _end(self) -> None:
        self._process.listening = False
        await super()._end()

    def _make_link(self, known: Node | None) -> Any:
        if not self._process.machine.with_ami:
            return None
        self._process.link = Link(self._process, known.asterisk_started_ms if known else None)
        return self._process.link


class NoOutwards:
    """Stands for what sends events out, on a thread of its own, which has tests of its own."""

    def __init__(self, *_: Any) -> None:
        pass

    async def run(self) -> None:
        await asyncio.get_running_loop().create_future()

    def status(self) -> dict[str, Any]:
        return {}


async def no_growth(*_: Any) -> None:
    """Stands for the pruning of old rows and for the sums of reports, which have tests of their own."""
    await asyncio.get_running_loop().create_future()


# `Daemon` makes these itself; and a collection for each of some hundred daemons is not for one process.
vars(daemon_module).update(
    ControlServer=NoControl,
    Outwards=NoOutwards,
    look_after_growth=no_growth,
    look_after_sums=no_growth,
    gc=SimpleNamespace(collect=lambda: 0, freeze=lambda: None),
)


class Turns(Gathering[_Item]):
    """The engine's queue where nothing waits for others: the world says when its turn is."""

    def __init__(self) -> None:
        super().__init__(patient=False)

    def now(self) -> list[_Item]:
        """A batch, as the queue stands."""
        return [self._items.popleft() for _ in range(min(len(self._items), BATCH_MAX))]

    def put_back(self, items: Sequence[_Item]) -> None:
        """What was kept back waits again."""
        self._items.extend(items)


class SimEngine(Engine):
    """The engine without its thread: what waits is decided in one batch when its turn comes."""

    _queue: Turns

    def __init__(self, process: Process, store: Store, clock: Clock, *, gathers: bool = False) -> None:
        super().__init__(store, clock, gathers=gathers)
        self._queue = Turns()
        self.process = process
        self._world = process.machine.world
        self._due = False

    def start(self) -> None:
        with self._store.transaction(write=False) as tx:
            self.estate = tx.load_estate()

    def stop(self, timeout_s: float) -> bool:
        self._queue.close()
        while self._queue:
            self._turn()
        return True

    def submit(self, command: Command, done: Callable[[Any, Exception | None], None]) -> None:
        super().submit(command, self._world.noted(command, done))
        self._arm()
        self._world.messages.submitted(self, command)

    def submit_quietly(self, command: Command) -> None:
        """As `submit`; nobody waits for the answer, and nobody says more because of it."""
        super().submit(command, self._world.noted(command, lambda _answer, _error: None))
        self._arm()

    def take_back(self, item: _Item) -> None:
        """What was kept back has its turn."""
        self._queue.put_back([item])
        self._arm()

    def _arm(self) -> None:
        if not self._due:
            self._due = True
            self._world.loop.call_later(self._world.messages.engine_latency_s(), self._turn)

    def _turn(self) -> None:
        """One batch, as the queue stands; whoever injects faults may change it before."""
        self._due = False
        self._world.deciding = self
        now, later = self._world.messages.batch(self._queue.now())
        self._queue.put_back(later)
        if self._world.stale_estate is not None:
            self.estate, self._world.stale_estate = self._world.stale_estate, None
        if now:
            self._world.batch = [item.command for item in now]
            self._process(now)
        if self._queue:
            self._arm()


# --- the journal's disk -----------------------------------------------------------------------------------------------


class DiskFiles:
    """fastagi.journal._Files on a simulated disk."""

    def __init__(self, process: Process, owner: str) -> None:
        self.path = Path(f"/{process.machine.name}.journal")
        self.owner = owner
        self.previous_owner = ""
        self.opened = 0
        self._process = process
        self._disk = process.machine.disk
        self._open = False

    @property
    def size(self) -> int:
        return len(self._disk.data)

    @property
    def is_open(self) -> bool:
        return self._open

    def ensure(self) -> list[CallKey] | None:
        if self._disk.locked_by not in (None, self._process.boot):
            raise OSError(errno.EBUSY, "another daemon has it")
        if self._disk.locked_by is None:
            self._disk.locked_by = self._process.boot
            self.previous_owner, self._disk.owner = self._disk.owner, self.owner
        if self._open:
            return None
        self._open = True
        self.opened += 1
        return [key for entry in _entries(self._disk.data) if (key := entry.key)]

    def append(self, data: bytes) -> None:
        if self._disk.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._disk.data += data

    def read(self, offset: int) -> bytes:
        return self._disk.data[offset:]

    def chunk(self, taken: int, opened: int) -> Chunk:
        start = taken if opened == self.opened else 0
        return Chunk(tuple(_entries(self.read(start))), self.size, self.opened)

    def empty(self, upto: int, opened: int) -> bool:
        if self._disk.kill_when_emptied:
            self._disk.kill_when_emptied = False
            self._process.machine.world.die(self._process, "killed before its journal was emptied")
        if (upto, opened) != (self.size, self.opened):
            return False
        self._disk.data = b""
        return True

    def put_aside(self, data: bytes) -> None:
        self._disk.aside += data

    def close(self) -> None:
        if self._disk.locked_by is self._process.boot:
            self._disk.locked_by = None
        self._open = False


# --- AMI --------------------------------------------------------------------------------------------------------------


class Link:
    """What AmiLink is to the daemon; the other end is a simulated Asterisk."""

    def __init__(self, process: Process, known_started_ms: int | None) -> None:
        self._process = process
        self._world = process.machine.world
        self._asterisk = process.machine.asterisk
        self._events: asyncio.Queue[AmiEvent] = asyncio.Queue()
        self._started_ms = known_started_ms
        self._life: object = None  # which life of Asterisk it was connected to
        self._told_down = False
        self.up = False
        self._closed = False

    @property
    def asterisk_started_ms(self) -> int | None:
        return self._started_ms

    @property
    def dropped_events(self) -> int:
        return 0

    def start(self) -> None:
        self._world.loop.call_soon(self._connect)

    async def close(self) -> None:
        self._closed = True
        self.cut()

    async def next_event(self) -> AmiEvent:
        return await self._events.get()

    def _connect(self) -> None:
        """Connect now, or try again later; runs in the daemon's context."""
        if self._closed or self.up:
            return
        if not self._asterisk.alive or self._asterisk.ami_away:
            self._tell_down("refused")
            self._world.loop.call_later(BACKOFF_S, self._connect)
            return
        restarted = self._life is not self._asterisk.life
        if self._life is None:
            restarted = self._started_ms is not None and self._started_ms != self._asterisk.started_ms
        if restarted or self._life is None:
            self._started_ms = self._asterisk.started_ms
        self._life, self.up, self._told_down = self._asterisk.life, True, False
        self._asterisk.links.append(self)
        self._events.put_nowait(LinkUp(self._started_ms, restarted))
        self._events.put_nowait(self._list())

    def lost(self) -> None:
        """The connection is gone, and this end sees it."""
        if self.up:
            self.cut()
            self._tell_down("lost")
            self._world.loop.call_later(BACKOFF_S, self._connect, context=self._process.context)

    def cut(self) -> None:
        """The connection is gone; nobody looks at this end."""
        self.up = False
        if self in self._asterisk.links:
            self._asterisk.links.remove(self)

    def _tell_down(self, why: str) -> None:
        if not self._told_down:
            self._told_down = True
            self._events.put_nowait(LinkDown(why))

    def deliver(self, event: AmiEvent) -> None:
        """An event of Asterisk has come through."""
        if self.up:
            self._events.put_nowait(event)

    def overflow(self) -> None:
        """Events were lost on the way."""
        if self.up:
            self._events.put_nowait(ResyncNeeded("the queue was full"))

    async def _act(self, work: Callable[[], Any]) -> Any:
        """An action: it is sent at once, carried out, and answered; any part of it may fail."""
        if not self.up:
            raise down("the AMI link is down")
        answered: asyncio.Future[Any] = self._world.loop.create_future()
        self._world.after(self._world.messages.net_s(), self._carry_out, work, answered, self._life)
        try:
            async with asyncio.timeout(ACTION_TIMEOUT_S):
                return await answered
        except TimeoutError:
            raise AmiUnavailable("ami-no-answer", "Asterisk did not answer", "it may have been done") from None

    def _carry_out(self, work: Callable[[], Any], answered: asyncio.Future[Any], life: object) -> None:
        fate = self._world.messages.ami_fate()
        if fate == "dropped" or not self.up or self._asterisk.life is not life:
            return
        answer = work()
        if fate != "unanswered":
            self._world.after(self._world.messages.net_s(), self._answer, answered, answer)

    def _answer(self, answered: asyncio.Future[Any], answer: Any) -> None:
        if self.up and not answered.done():
            answered.set_result(answer)

    async def absolute_timeout(self, channel: str, seconds: float) -> None:
        if not await self._act(lambda: self._asterisk.absolute_timeout(channel, seconds)):
            raise AmiRefused("ami-no-such-channel", "there is no such channel")

    async def core_show_channels(self) -> ChannelList:
        asked_ms = self._process.machine.wall_ms()
        channels: ChannelList = await self._act(self._list)
        return replace(channels, at_ms=asked_ms)

    def _list(self) -> ChannelList:
        channels: Sequence[LiveChannel] = self._asterisk.live_channels()
        complete = True
        if self._world.messages.list_is_cut():
            channels, complete = channels[: len(channels) // 2], False
        return ChannelList(tuple(channels), complete, self._process.machine.wall_ms())

    async def db_get_tree(self, family: str, key: str = "") -> dict[str, str]:
        tree: dict[str, str] = await self._act(lambda: dict(self._asterisk.spool))
        return tree

    async def db_del(self, family: str, key: str) -> None:
        await self._act(lambda: self._asterisk.spool.pop(key, None))
