"""The deciding engine: one thread that gathers what Asterisk asks into shared transactions (group commit).

Decisions that arrive while a transaction is under way share the next one: rows are locked in the store's order, every
command is decided purely on the same Books, everything is written and committed once, then all are answered. An answer
is given only after its commit.

Failure policy: fail closed. If the database cannot be had, every command of the batch fails with DatabaseError and
nothing was taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final

from capconduit.clock import Clock
from capconduit.domain.admission import admit, refuse_late
from capconduit.domain.attempts import next_attempt
from capconduit.domain.books import Books, Changes
from capconduit.domain.calls import AnswerReport, AttemptReport, ExtendRequest, RouteRequest, SettleReport
from capconduit.domain.estate import Estate
from capconduit.domain.metering import answered, extend
from capconduit.domain.model import Cdr
from capconduit.domain.needs import Command, Needs, callers_of, foresee, key_of, needs_of_all
from capconduit.domain.settlement import settle
from capconduit.domain.windows import CPS_BUCKET_MS
from capconduit.errors import DatabaseError
from capconduit.services.gathering import (
    BATCH_MAX,
    CALLER_WAITS_S,
    CHANNEL_WAITS_S,
    NOBODY_WAITS_S,
    Gathering,
    QueueFull,
)
from capconduit.store.store import Store, Transaction

log = logging.getLogger(__name__)

SENT_AHEAD: Final = 12  # decisions whose rows are sent to the database while the next are made
RELOCKS: Final = 3  # how often what is needed is looked at again because locks were waited for


class _Unforeseen(Exception):
    """A batch needs other rows than it seemed before anything was read."""


class EngineBusy(Exception):
    """The queue is full, or the engine is stopping: nothing was taken and nothing will be."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction changed, in its order, and the rows as they are now. Nobody changes either any more."""

    books: Books
    changes: Sequence[Changes]


@dataclass(slots=True)
class _Item:
    command: Command
    done: Callable[[Any, Exception | None], None]


# How long each can wait for others to share its transaction.
_PATIENCE_S: Final = {
    RouteRequest: CALLER_WAITS_S,
    AttemptReport: CALLER_WAITS_S,
    SettleReport: CHANNEL_WAITS_S,
    AnswerReport: NOBODY_WAITS_S,
    ExtendRequest: NOBODY_WAITS_S,
}


def decide(
    command: Command, estate: Estate, books: Books, now_ms: int, ids: Callable[[], str]
) -> tuple[object, Changes]:
    """The pure decision that a command asks for."""
    match command:
        case RouteRequest():
            return admit(command, estate, books, now_ms, ids)
        case AttemptReport():
            return next_attempt(command, estate, books, now_ms, ids)
        case SettleReport():
            return settle(command, estate, books, now_ms, ids)
        case AnswerReport():
            return answered(command, estate, books, now_ms, ids)
        case ExtendRequest():
            return extend(command, estate, books, now_ms, ids)


class Engine:
    """Runs commands in batches. `submit` may be called from any thread; answers come on the engine's own thread.

    gathers: commands wait some milliseconds for others (see gathering.py); else each begins as soon as it can.
    """

    def __init__(self, store: Store, clock: Clock, *, gathers: bool = False) -> None:
        self._store = store
        self._clock = clock
        self._queue: Gathering[_Item] = Gathering(patient=gathers)
        self._thread: threading.Thread | None = None
        self.estate: Estate | None = None
        self.failing = False  # the last batch found no database
        self.batches = 0
        self.commands = 0
        self.batch_sizes = [0] * (BATCH_MAX.bit_length() + 1)  # batches by the bit length of their size
        self.on_cdrs: list[Callable[[Sequence[Cdr]], None]] = []  # each told after the commit, on the engine's thread
        self._cdrs: list[Cdr] = []  # of the transaction under way
        self.on_commit: Callable[[Committed], None] | None = None  # likewise; it may only hand over
        self._changes: list[Changes] = []  # of the transaction under way
        self._books = Books()  # of the transaction under way

    def start(self) -> None:
        """Load the estate and begin. Raises DatabaseError."""
        with self._store.transaction(write=False) as tx:
            self.estate = tx.load_estate()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish what is queued and end. False: the thread still works after `timeout_s`."""
        self._queue.close()
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def queued(self) -> int:
        """Commands that wait."""
        return len(self._queue)

    def submit(self, command: Command, done: Callable[[Any, Exception | None], None]) -> None:
        """Queue a command; `done(answer, error)` is called once, on the engine's thread. Raises EngineBusy."""
        try:
            self._queue.put(_Item(command, done), _PATIENCE_S[type(command)])
        except QueueFull:
            raise EngineBusy from None

    def ask(self, command: Command, timeout_s: float) -> Any:
        """Submit and wait; for tests and tools that have a thread to spare. Raises what the decision raised."""
        future: Future[Any] = Future()

        def done(answer: Any, error: Exception | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(answer)

        self.submit(command, done)
        return future.result(timeout_s)

    def _loop(self) -> None:
        while batch := self._queue.take():
            self._process(batch)

    def _process(self, batch: Sequence[_Item]) -> None:
        answers = self._answers(batch)
        self.batches += 1
        self.commands += len(batch)
        self.batch_sizes[len(batch).bit_length()] += 1
        for item, answer in zip(batch, answers, strict=True):
            try:
                if isinstance(answer, Exception):
                    item.done(None, answer)
                else:
                    item.done(answer, None)
            except Exception:  # whoever asked has failed at its own answer; the others want theirs
                log.exception("an answer could not be given")

    def _answers(self, batch: Sequence[_Item]) -> Sequence[Any]:
        """The answers of a batch. One that the database refuses is tried again command by command: a value that cannot
        be kept fails its own command only."""
        try:
            answers = self.run([item.command for item in batch])
        except DatabaseError as error:
            self.failing = True
            return [error] * len(batch)
        except Exception as error:  # the engine must outlive whatever a batch meets: each caller is told
            if len(batch) == 1:
                log.exception("%s failed", type(batch[0].command).__name__)
                return [error]
            log.warning("a batch of %d failed, each command is tried alone: %s", len(batch), error)
            return [self._answers([item])[0] for item in batch]
        self.failing = False
        if self._cdrs:
            for listener in self.on_cdrs:
                self._tell(listener, self._cdrs)
        if self.on_commit is not None and self._changes:
            self._tell(self.on_commit, Committed(self._books, self._changes))
        return answers

    @staticmethod
    def _tell(listener: Callable[[Any], None], told: object) -> None:
        """Whoever listens is no part of a decision: its failure is its own."""
        try:
            listener(told)
        except Exception:
            log.exception("whoever listens to the engine failed")

    def _is_stale(self, command: RouteRequest, books: Books) -> bool:
        """Nobody waits for it any more: it must not take a place or money that a fresh call could have.

        A channel that is known, alive or over, takes nothing anyway and has its record already.
        """
        key = key_of(command)
        if command.until_mono_ms is None or books.call_of(key) or key in books.settled or key in books.buried:
            return False
        return self._queue.closed or self._clock.monotonic_ms() > command.until_mono_ms

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Decide `commands` in a transaction of their own, on the thread of the caller, and commit it."""
        try:
            return self._store.run(lambda tx: self.work(commands, tx, foresees=True), hurry=True)
        except _Unforeseen:
            return self._store.run(lambda tx: self.work(commands, tx), hurry=True)

    def work(self, commands: Sequence[Command], tx: Transaction, *, foresees: bool = False) -> list[Any]:
        """Decide `commands` in one transaction. An answer may be an exception: a bug in one decision harms no other.

        `foresees`: raises _Unforeseen, and then nothing was decided.
        """
        books = self._books = Books()
        self._cdrs, self._changes = [], []
        estate, now_ms = self._lock(commands, books, tx, foresees=foresees)
        answers: list[Any] = []
        for place, command in enumerate(commands):
            if place and place % SENT_AHEAD == 0:
                tx.send(books)
            answer: object
            try:
                if isinstance(command, RouteRequest) and self._is_stale(command, books):
                    answer, changes = refuse_late(command, estate, now_ms, self._clock.new_id)
                else:
                    answer, changes = decide(command, estate, books, now_ms, self._clock.new_id)
            except Exception as error:  # decisions are pure: a failed one has changed nothing, the others stand
                log.exception("deciding %s failed", type(command).__name__)
                answers.append(error)
                continue
            books.apply(changes)
            self._cdrs.extend(changes.cdrs)
            self._changes.append(changes)
            answers.append(answer)
        tx.write(books)
        return answers

    def _lock(
        self, commands: Sequence[Command], books: Books, tx: Transaction, *, foresees: bool
    ) -> tuple[Estate, int]:
        """Lock and load what `commands` need; the estate, and the instant to decide at.

        What new calls need is foreseen and asked for together with all the rest. Where that was wrong, everything
        begins again without: to lock more now would be out of order.
        """
        now_ms = self._clock.now_ms()
        estate = self.estate  # once: a reload on another thread puts its own there
        live = not all(isinstance(command, RouteRequest) for command in commands)
        foreseen = foresee(commands, estate, now_ms) if foresees and estate is not None and not live else None
        keys = [key_of(command) for command in commands]
        version = tx.begin_decisions(keys, books, now_ms, live=live, foreseen=foreseen)
        if estate is None or estate.version != version:
            estate = self.estate = tx.load_estate(estate)
            if foreseen is not None:
                raise _Unforeseen
        if foreseen is None:
            tx.lock_callers(callers_of(commands, estate), books)
        elif books.calls:
            raise _Unforeseen
        needs = foreseen.needs if foreseen is not None else None
        return estate, self._lock_needs(commands, estate, books, tx, now_ms, needs)

    def _lock_needs(
        self,
        commands: Sequence[Command],
        estate: Estate,
        books: Books,
        tx: Transaction,
        now_ms: int,
        needs: Needs | None,
    ) -> int:
        """Lock what `commands` need, which is `needs` at `now_ms` where that is known; the instant to decide at.

        Who waited for others decides at the instant the locks were there: a cap that looks back must not be asked about
        a time that others have counted beyond.
        """
        for again in reversed(range(RELOCKS + 1)):
            if needs is None:
                needs = needs_of_all(commands, estate, books, now_ms)
            tx.lock_needs(needs, books)
            locked_ms = self._clock.now_ms()
            if not (again and needs.ranges) or abs(locked_ms - now_ms) < CPS_BUCKET_MS:
                break
            now_ms, needs = locked_ms, None
        return now_ms
