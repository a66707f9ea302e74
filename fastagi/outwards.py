"""What leaves the daemon: events to webhooks and commands, notifications to users; on a thread with a loop of its own.

Decisions do not know of it: events are in the database when it begins. What is in hand is bounded: so many lanes in
all and of one receiver, so many events of a lane. A receiver that fails is left alone for a while (a circuit); another
one's events go on meanwhile.

Failure policy: fails open. What cannot be sent waits in the database, what cannot be written is sent again under the
same id; a failure here is logged and touches no call.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from capconduit.clock import Clock
from capconduit.domain.estate import Estate
from capconduit.domain.outgoing import TROUBLE, Circuit, Outcome, Patience, after_failure, after_success
from capconduit.errors import CapConduitError, ConfigError, DatabaseError
from capconduit.outward.receivers import HttpSender, Secrets, run_command, send_notice
from capconduit.services.notifications import carry_out, look
from capconduit.services.outbox import (
    EMAIL,
    GIVEN_AT_ONCE,
    LEASE_MS,
    Done,
    Given,
    Parcel,
    Receiver,
    Work,
    claim,
    forget,
    give_out,
    receivers_of,
    record,
)
from capconduit.store.store import Store, Transaction
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import ReceiverKind

if TYPE_CHECKING:
    from capconduit.mail import MailSettings

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LANES: Final = 64  # in hand at the same time
LANES_EACH: Final = 24  # of one receiver
COMMANDS: Final = 4  # processes at the same time
MAILS: Final = 2
# Of one receiver, where few are sent at the same time: what waits behind one that hangs could not be given elsewhere.
_LANES_BY_WAY: Final = {ReceiverKind.COMMAND.value: COMMANDS // 2, EMAIL: MAILS}
POLL_S: Final = 0.5  # between two looks for work where nothing wakes us
GATHER_S: Final = 0.02  # results that come so close together are written together
REST: Final = 2  # times as long as a step took in the database, it is left to decisions
PACE: Final = 300  # tries a second, all receivers together: a backlog must not take the processor from decisions
WATCH_S: Final = 5.0  # between two looks at what users should know
RENEW_S: Final = LEASE_MS / MS_PER_SECOND / 3
AMI_AWAY_MS: Final = 20_000  # after which it is told of
FORGET_S: Final = 600.0
FORGET_REST_S: Final = 0.05
TROUBLE_S: Final = 2.0  # after a turn that failed
AGAIN_S: Final = 10  # after a bug of ours
ROWS_AT_ONCE: Final = 2_000  # that give_out may write in one transaction, about: decisions wait for it in SQLite
STOP_S: Final = 2.0  # for what is under way when the daemon stops
RECEIVERS_FRESH_MS: Final = 1_000
DATABASE_THREADS: Final = 1


@dataclass(slots=True)
class Counters:
    """What was done since the daemon began."""

    events: int = 0
    delivered: int = 0
    failed: int = 0
    parked: int = 0
    notifications: int = 0
    lost_leases: int = 0
    turns_failed: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where this daemon is, for what it tells of itself. `has_ami`: AMI is up, or off on purpose."""

    node: str
    boot_id: str
    has_ami: Callable[[], bool] = lambda: True
    estate: Callable[[], Estate | None] = lambda: None
    mail: Callable[[], MailSettings | None] = lambda: None

    @property
    def owner(self) -> str:
        """How our claims are named."""
        return f"{self.node} {self.boot_id}"


@dataclass(slots=True)
class _Hands:
    """What is under way."""

    lanes: dict[str, int] = field(default_factory=dict)  # by receiver
    keys: set[tuple[str, str]] = field(default_factory=set)  # of those lanes, until what came of them is written
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    done: list[Done] = field(default_factory=list)
    circuits: dict[str, Circuit] = field(default_factory=dict)

    @property
    def full(self) -> int:
        return sum(self.lanes.values())


class Outwards:
    """Gives out events and notifications. `run` lasts until it is cancelled; `status` may be asked from any thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        place: Place,
        *,
        luck: Callable[[], int] | None = None,
        env: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        trouble: Patience = TROUBLE,
        timeout_ms: int = 0,
        watch_s: float = WATCH_S,
        pace: int = PACE,
    ) -> None:
        self._store = store
        self._clock = clock
        self._place = place
        self._luck = luck or (lambda: int.from_bytes(os.urandom(4)))
        self._env = dict(os.environ if env is None else env)
        self._patience = patience  # instead of the settings'
        self._trouble = trouble
        self._timeout_ms = timeout_ms
        self._watch_s = watch_s
        self._pace = pace
        self._secrets = Secrets(self._env)
        self._receivers: dict[str, Receiver] = {}
        self._hands = _Hands()
        self.counters = Counters()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._complained = ""
        self._ami_away_ms: int | None = None
        self._has_looked = False

    # --- the thread ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work on a thread of our own until cancelled; then what is under way has STOP_S to end."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def whole() -> None:
            while not self._stopping.is_set():
                try:
                    self.work()
                except Exception:  # a bug: calls go on, events wait in the database
                    log.exception("what goes out has stopped, and begins again in %d s", AGAIN_S)
                    self._stopping.wait(AGAIN_S)
            with suppress(RuntimeError):  # the daemon's loop may be gone
                loop.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=whole, name="outwards", daemon=True)
        thread.start()
        try:
            await asyncio.Event().wait()
        finally:
            self.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S + 1):
                    await ended.wait()

    def stop(self) -> None:
        """End soon; from any thread."""
        self._stopping.set()
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._wake.set)

    def work(self) -> None:
        """Work on this thread until stopped."""
        with asyncio.Runner() as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._hands = _Hands()
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()  # from now on `stop` wakes it
        self._database = ThreadPoolExecutor(DATABASE_THREADS, thread_name_prefix="outwards-db")
        self._mails = ThreadPoolExecutor(MAILS, thread_name_prefix="outwards-mail")
        self._commands = asyncio.Semaphore(COMMANDS)
        self._sender = HttpSender(self._secrets, LANES_EACH)
        self._first = True
        self._read_again_ms = 0
        self._rest_s = GATHER_S
        self._slot_s = 0.0
        beside = [asyncio.create_task(work) for work in (self._watch(), self._renew(), self._forget())]
        try:
            while not self._stopping.is_set():
                await self._turn_and_rest()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await self._end()

    async def _turn_and_rest(self) -> None:
        rest_s = POLL_S
        try:
            if await self._turn():
                rest_s = 0.0
            self._complained = ""
        except CapConduitError as error:
            self._failed_turn(str(error))
            rest_s = TROUBLE_S
        except Exception as error:
            if str(error) != self._complained:
                log.exception("what goes out: a turn failed")
            self._failed_turn(str(error), logged=True)
            rest_s = TROUBLE_S
        if rest_s and not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._wake.wait()
        if not self._stopping.is_set() and (self._wake.is_set() or not rest_s):
            await asyncio.sleep(self._rest_s)
        self._wake.clear()

    def _failed_turn(self, text: str, *, logged: bool = False) -> None:
        self.counters.turns_failed += 1
        if text != self._complained and not logged:  # the same trouble is told once
            log.warning("what goes out: %s", text)
        self._complained = text

    async def _end(self) -> None:
        """What is under way may end, the rest is given back for others."""
        if self._hands.tasks:
            await asyncio.wait(self._hands.tasks, timeout=STOP_S)
        for task in self._hands.tasks:
            task.cancel()
        await asyncio.gather(*self._hands.tasks, return_exceptions=True)
        with suppress(CapConduitError):
            await self._flush(claims=False)
            await self._write(lambda tx: tx.outward.let_go(self._place.owner, self._clock.now_ms()))
        await self._sender.close()
        self._database.shutdown(wait=True)
        self._mails.shutdown(wait=False, cancel_futures=True)

    # --- a turn -------------------------------------------------------------------------------------------------------

    async def _turn(self) -> bool:
        """Write what is done, give out what is new, take what is due in hand; whether there may be more at once."""
        more, claimed = await self._flush(claims=True)
        for work in claimed:
            self._hands.lanes[work.receiver.id] = self._hands.lanes.get(work.receiver.id, 0) + 1
            self._hands.keys.add((work.lane.receiver_id, work.lane.lane))
            task = asyncio.create_task(self._carry(work))
            self._hands.tasks.add(task)
            task.add_done_callback(self._hands.tasks.discard)
        return more

    async def _flush(self, *, claims: bool) -> tuple[bool, list[Work]]:
        """A step in the database. What came of lanes and cannot be written now is tried again with the next one."""
        done, self._hands.done = self._hands.done, []
        began_s = time.monotonic()
        try:
            more, claimed = await self._run(partial(self._step, done, claims=claims))
        except DatabaseError:
            self._hands.done = [*done, *self._hands.done]
            raise
        except BaseException:  # it would not be written the next time either: their leases run out, they are sent again
            self._hands.keys.difference_update((one.lane.receiver_id, one.lane.lane) for one in done)
            raise
        self._hands.keys.difference_update((one.lane.receiver_id, one.lane.lane) for one in done)
        self._rest_s = max(GATHER_S, REST * (time.monotonic() - began_s))
        return more, claimed

    def _step(self, done: Sequence[Done], *, claims: bool) -> tuple[bool, list[Work]]:
        """On the database's thread, in one transaction that writes, or none where there is nothing to write."""
        now_ms, new_id, owner = self._clock.now_ms(), self._clock.new_id, self._place.owner
        if self._first:
            self._store.run(lambda tx: tx.outward.release(self._place.node, owner, now_ms))
            self._first = False
        with self._store.transaction(write=False) as tx:
            if self._clock.monotonic_ms() >= self._read_again_ms:
                self._know(receivers_of(tx))
                self._read_again_ms = self._clock.monotonic_ms() + RECEIVERS_FRESH_MS
            waits = claims and tx.outward.has_outbox()
            due = set(tx.outward.due_receivers(now_ms)) if claims else set()
        if not (done or waits or self._wanted(due, now_ms)):
            return False, []
        limit = min(GIVEN_AT_ONCE, ROWS_AT_ONCE // max(len(self._receivers), 1))
        names = {receiver.id: receiver.name for receiver in self._receivers.values()}

        def work(tx: Transaction) -> tuple[Given, int, list[Work]]:
            given = give_out(tx, now_ms, new_id, limit) if waits else Given()  # first: see the lock order
            lost = record(tx, done, owner, now_ms, new_id, names) if done else 0
            return given, lost, claim(tx, self._wanted(due | given.receivers, now_ms), owner, now_ms)

        given, lost, claimed = self._store.run(work)
        self.counters.events += given.events
        self.counters.notifications += given.notifications
        self.counters.lost_leases += lost
        return given.events > 0, claimed

    def _know(self, receivers: dict[str, Receiver]) -> None:
        """Remember who there is; one that is not as it was is no longer left alone."""
        for id_ in list(self._hands.circuits):
            if self._receivers.get(id_) != receivers.get(id_):
                self._hands.circuits.pop(id_, None)
        self._receivers = receivers

    def _wanted(self, due: Set[str], now_ms: int) -> list[tuple[Receiver, int]]:
        """Of those that are due: who may be given something, and how many lanes of each."""
        free = LANES - self._hands.full
        room = {id_: self._room(receiver, now_ms) for id_, receiver in self._receivers.items() if id_ in due}
        able = [(self._receivers[id_], most) for id_, most in room.items() if most][: max(free, 0)]
        return [(receiver, min(most, max(free // len(able), 1))) for receiver, most in able]

    def _room(self, receiver: Receiver, now_ms: int) -> int:
        """How many more lanes of a receiver may be taken in hand."""
        if not receiver.active:
            return 0
        in_hand = self._hands.lanes.get(receiver.id, 0)
        allowed = self._hands.circuits.get(receiver.id, Circuit()).allows(now_ms)
        most = _LANES_BY_WAY.get(receiver.way, LANES_EACH)
        return max((most if allowed < 0 else min(allowed, most)) - in_hand, 0)

    # --- a lane -------------------------------------------------------------------------------------------------------

    async def _carry(self, work: Work) -> None:
        """Send what waits in a lane, one after the other, until something fails or the receiver wants no more.

        Each goes to where the receiver is by now.
        """
        receiver, done = work.receiver, Done(work.lane)
        patience = self._patience or receiver.patience
        try:
            for parcel in work.parcels:
                await self._keep_pace()
                now = self._receivers.get(receiver.id)
                if self._stopping.is_set() or now is None or not now.active:
                    break
                receiver = now
                outcome = await self._send(receiver, parcel)
                now_ms = self._clock.now_ms()
                self._note(receiver, work.lane.lane, outcome, now_ms)
                if not outcome.delivered:
                    lane = replace(done.lane, tries=0) if done.delivered else done.lane
                    done.failed = after_failure(lane, parcel.delivery, outcome, patience, now_ms, self._luck())
                    self.counters.parked += done.failed.parked
                    break
                done.delivered.append(after_success(parcel.delivery, outcome, now_ms))
        finally:
            self._hands.lanes[receiver.id] -= 1
            self._hands.done.append(done)
            self._wake.set()

    async def _keep_pace(self) -> None:
        """Wait for the next moment in which something may be sent."""
        if self._pace:
            now_s = time.monotonic()
            self._slot_s = max(self._slot_s + 1 / self._pace, now_s)
            if self._slot_s > now_s:
                await asyncio.sleep(self._slot_s - now_s)

    def _note(self, receiver: Receiver, lane: str, outcome: Outcome, now_ms: int) -> None:
        """Count it, and see whether the receiver is to be left alone."""
        before = self._hands.circuits.get(receiver.id, Circuit())
        after = before.after(lane, outcome, now_ms, self._luck(), self._trouble)
        self._hands.circuits[receiver.id] = after
        if outcome.delivered:
            self.counters.delivered += 1
            if before.is_troubled:
                log.info("receiver %s takes events again", receiver.name)
            return
        self.counters.failed += 1
        if after.is_troubled and not before.is_troubled:
            log.warning("receiver %s is left alone for a while: %s", receiver.name, outcome.answer)

    async def _send(self, receiver: Receiver, parcel: Parcel) -> Outcome:
        """One try. Never raises, but for cancellation."""
        if not parcel.message:
            return Outcome(True, "it is gone: what it was about was pruned")
        timeout_ms = self._timeout_ms or receiver.timeout_ms
        timeout_s = timeout_ms / MS_PER_SECOND
        try:
            if receiver.way == ReceiverKind.HTTP.value:
                return await self._sender.post(
                    receiver.address,
                    receiver.secrets,
                    parcel.message,
                    parcel.body,
                    parcel.delivery.tries + 1,
                    timeout_s,
                )
            if receiver.way == EMAIL:
                return await self._mail(receiver, parcel)
            async with self._commands:
                return await run_command(receiver.address, parcel.body, timeout_s, self._environment(parcel))
        except Exception as error:
            log.exception("sending to %s failed", receiver.name)
            return Outcome(False, type(error).__name__)

    async def _mail(self, receiver: Receiver, parcel: Parcel) -> Outcome:
        try:
            settings = self._place.mail()
        except ConfigError as error:
            return Outcome(False, f"{error.slug}: {error.message}", blameless=True)
        if settings is None:
            return Outcome(False, "mail is not configured", blameless=True)
        text = str(parcel.message["data"]["text"])
        work = partial(
            send_notice, settings, receiver.address, f"CapConduit: {text}", mail_text(parcel.message),
            self._clock.now_ms(), str(parcel.message["id"]),
        )  # fmt: skip
        return await asyncio.get_running_loop().run_in_executor(self._mails, work)

    def _environment(self, parcel: Parcel) -> dict[str, str]:
        """What a command sees: nothing of the daemon's own secrets."""
        kept = {name: value for name, value in self._env.items() if name in ("PATH", "LANG", "LC_ALL", "TZ")}
        message = parcel.message
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin", **kept, "CAPCONDUIT_EVENT_ID": str(message["id"]),
            "CAPCONDUIT_EVENT_KIND": str(message["kind"]), "CAPCONDUIT_EVENT_ATTEMPT": str(parcel.delivery.tries + 1),
        }  # fmt: skip

    # --- beside -------------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look every few seconds at what users should know."""
        while True:
            await self._quietly("notifications", self._look)
            await asyncio.sleep(self._watch_s)

    def _look(self) -> None:
        now_ms, new_id = self._clock.now_ms(), self._clock.new_id
        has_ami = self._has_ami()
        with self._store.transaction(write=False) as tx:
            if not tx.outward.feeding():
                return
            looked = look(
                tx, now_ms, new_id, self._place.estate(), self._place.node, has_ami=has_ami,
                starts=not self._has_looked,
            )  # fmt: skip
        if looked.is_news:
            self.counters.notifications += self._store.run(lambda tx: carry_out(tx, looked, now_ms, new_id))
        self._has_looked = True

    def _has_ami(self) -> bool:
        """Whether AMI is up, or not away for long: at a start, and while Asterisk is restarted, it is no news."""
        now_ms = self._clock.monotonic_ms()
        if self._place.has_ami():
            self._ami_away_ms = None
        elif self._ami_away_ms is None:
            self._ami_away_ms = now_ms
        return self._ami_away_ms is None or now_ms - self._ami_away_ms < AMI_AWAY_MS

    async def _renew(self) -> None:
        """Keep what is in hand."""
        while True:
            await asyncio.sleep(RENEW_S)
            if keys := sorted(self._hands.keys):
                await self._quietly("leases", partial(self._keep, keys))

    def _keep(self, keys: Sequence[tuple[str, str]]) -> None:
        """Those that we know of: one that was claimed in a transaction whose end nobody knows runs out by itself."""
        self._store.run(lambda tx: tx.outward.renew(keys, self._place.owner, self._clock.now_ms() + LEASE_MS))

    async def _forget(self) -> None:
        """Take away what is older than it is kept."""
        while True:
            await asyncio.sleep(FORGET_S)
            while gone := await self._quietly("growth", partial(forget, self._store, self._clock)):
                if lost := gone.get("waiting", 0):
                    log.warning("%d events waited for their receivers longer than webhook_keep_days", lost)
                await asyncio.sleep(FORGET_REST_S)

    async def _quietly(self, what: str, work: Callable[[], Answer]) -> Answer | None:
        try:
            return await self._run(work)
        except CapConduitError as error:
            log.warning("%s: %s", what, error)
        except Exception:
            log.exception("%s: a look failed", what)
        return None

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._database, work)

    async def _write(self, work: Callable[[Transaction], Answer]) -> Answer:
        return await self._run(lambda: self._store.run(work))

    def status(self) -> dict[str, Any]:
        """What the control socket tells."""
        now_ms = self._clock.now_ms()
        names = {receiver.id: receiver.name for receiver in list(self._receivers.values())}
        troubled = {
            names.get(id_, id_): max(circuit.open_until_ms - now_ms, 0)
            for id_, circuit in list(self._hands.circuits.items())
            if circuit.is_troubled
        }
        return {
            "receivers": len(names),
            "in_hand": self._hands.full,
            "events": self.counters.events,
            "delivered": self.counters.delivered,
            "failed": self.counters.failed,
            "parked": self.counters.parked,
            "notifications": self.counters.notifications,
            "leases_lost": self.counters.lost_leases,
            "trouble": self._complained or None,
            "left_alone_ms": troubled,
        }


def mail_text(message: Mapping[str, Any]) -> str:
    """A notification as a mail says it."""
    about = message["data"].get("about") or {}
    lines = [str(message["data"]["text"]) + ".", ""]
    lines += [f"{name}: {value}" for name, value in about.items() if value not in (None, "", [])]
    lines += ["", f"at: {message['at']}", f"tenant: {message['tenant']}", f"id: {message['id']}"]
    return "\n".join(lines) + "\n"
