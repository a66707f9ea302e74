"""Makes many ended calls in a database, through the deciding engine and a clock of our own, spread over days.

Every call is admitted and settled as the daemon does it, so that each leaves what a call leaves in this version. Only
the wire is left out, and the batches are large.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.servers import Installation
from bench.shapes import TRUNK, Shape, number_of
from capconduit.clock import SystemClock
from capconduit.domain.calls import DialAnswer, RouteRequest, SettleReport
from capconduit.ids import ulid
from capconduit.services.engine import Engine
from capconduit.units import Millis
from capconduit.vocab import DialStatus

MAX_CDRS: Final = 10_000_000
WAVE: Final = 250  # calls that live at once; as many as fit into one batch of the engine
TALK_MS: Final = 45_000
LATER_MS: Final = 60_000  # from admission to settlement
DAY_MS: Final = 86_400_000
WAVE_S: Final = 120.0
TELLS: Final = 20  # lines of progress
ENGINE_STOP_S: Final = 60.0


class PastClock(SystemClock):
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.at_ms = super().now_ms()

    def now_ms(self) -> Millis:
        return Millis(self.at_ms)

    def new_id(self) -> str:
        return ulid(self.at_ms, int.from_bytes(os.urandom(10)))


class Filler:
    """Fills the database of an installation whose daemon does not run."""

    def __init__(self, shop: Installation, shape: Shape) -> None:
        self._store = shop.store
        self._shape = shape
        self._clock = PastClock()
        self._engine = Engine(shop.store, self._clock)
        self._made = 0

    def fill(self, cdrs: int, days: int, tell: Callable[[str], None]) -> None:
        """Make `cdrs` ended calls, the first `days` days ago, the last now."""
        end_ms = SystemClock().now_ms() - LATER_MS
        waves, day = -(-cdrs // WAVE), -1
        self._engine.start()
        try:
            for wave in range(waves):
                self._clock.at_ms = Millis(end_ms - days * DAY_MS * (waves - wave - 1) // waves)
                if day != (day := self._clock.at_ms // DAY_MS):
                    self._store.ensure_partitions(self._clock.at_ms)  # as the daemon does it
                self._wave(min(WAVE, cdrs - self._made))
                if wave % max(waves // TELLS, 1) == 0:
                    tell(f"{self._made:,} of {cdrs:,} calls made")
        finally:
            self._engine.stop(ENGINE_STOP_S)

    def _wave(self, calls: int) -> None:
        numbers = range(self._made, self._made + calls)
        answers = self._ask([self._route(number) for number in numbers])
        rejected = [answer for answer in answers if not isinstance(answer, DialAnswer)]
        if rejected:
            raise SystemExit(f"a call was not admitted: {rejected[0]}")
        self._clock.at_ms = Millis(self._clock.at_ms + LATER_MS)
        self._ask([self._settle(number) for number in numbers])
        self._made += calls

    def _route(self, number: int) -> RouteRequest:
        return RouteRequest(
            node="filler",
            boot_id="filler",
            uniqueid=f"filler-{number}",
            linkedid=f"filler-{number}",
            dnid=number_of(number % self._shape.dids),
            ani=f"+1212{2_000_000 + number % 7_000_000}",
            caller_name="Load",
            trunk=TRUNK,
            sip_call_id=f"{number:012x}@carrier.example",
            channel=f"PJSIP/{TRUNK}-{number:08x}",
            arrived_ms=self._clock.at_ms,
        )

    def _settle(self, number: int) -> SettleReport:
        return SettleReport(
            node="filler",
            uniqueid=f"filler-{number}",
            attempt=1,
            dialstatus=DialStatus.ANSWER,
            answered_for_ms=TALK_MS,
            hangup_cause=16,
            hangup_source=f"PJSIP/t-{number:08x}",
            channel=f"PJSIP/{TRUNK}-{number:08x}",
        )

    def _ask(self, commands: Sequence[Any]) -> list[Any]:
        """The answers, in order. Raises what a decision raised."""
        answers: list[Any] = [None] * len(commands)
        left, lock, done = len(commands), threading.Lock(), threading.Event()

        def taker(place: int) -> Callable[[Any, Exception | None], None]:
            def take(answer: Any, error: Exception | None) -> None:
                nonlocal left
                answers[place] = error or answer
                with lock:
                    left -= 1
                    if not left:
                        done.set()

            return take

        for place, command in enumerate(commands):
            self._engine.submit(command, taker(place))
        if not done.wait(WAVE_S):
            raise SystemExit(f"the engine gave no answer within {WAVE_S:.0f} s")
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers
