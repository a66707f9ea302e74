"""Abuse as the daemon meets it: how often a caller calls, counted before the decision, and attacks, found after calls.

Both see the calls of this daemon only; a block holds for all. Neither is on the way of a call: counting is a look-up in
memory, and what is found is told and blocked on a thread of its own.

Failure policy: fails open. What cannot be counted is let through, what cannot be told is tried again for a while and
then only logged; a failure here touches no call.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from capconduit.clock import Clock
from capconduit.domain.abuse import Detector, Finding, block_ms_of, limits_of
from capconduit.domain.calls import RouteRequest
from capconduit.domain.estate import Estate
from capconduit.domain.model import Cdr
from capconduit.domain.numbers import to_e164
from capconduit.domain.routing import caller_of
from capconduit.domain.ways import find_way
from capconduit.errors import CapConduitError
from capconduit.services.abuse import fact_of, forget, office_of, over, tell
from capconduit.services.engine import Engine
from capconduit.store.store import Store
from capconduit.units import MS_PER_SECOND

log = logging.getLogger(__name__)

CALLERS_MAX: Final = 16_384  # whose calls are counted; the one who has not called for longest is forgotten first
BUCKETS: Final = 10  # of the window: a call counts until it is a tenth of it too old
WAITING_MAX: Final = 10_000  # records nobody has looked at yet; the oldest are dropped
UNTOLD_MAX: Final = 1_000  # findings that could not be told yet; the oldest are dropped
TOLD_AT_ONCE: Final = 100  # findings in one transaction
BLOCKS_A_MINUTE: Final = 100  # each changes the estate, which every daemon reads again
LOOK_EVERY_S: Final = 0.5
FORGET_EVERY_MS: Final = 600_000
MINUTE_MS: Final = 60_000


class CallerWindow:
    """How often each caller called within a while, at most a tenth of it too much; bounded, for one thread."""

    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self._bucket_ms = max(window_ms // BUCKETS, 1)
        # caller → bucket, calls in it, bucket, calls, … the oldest first; of callers the least recent first
        self._calls: OrderedDict[str, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def count(self, caller: str, now_ms: int) -> int:
        """Note a call; how many that makes. `now_ms` is of a clock that never goes back."""
        bucket = now_ms // self._bucket_ms
        calls = self._calls.setdefault(caller, [])
        self._calls.move_to_end(caller)
        while calls and calls[0] < bucket - BUCKETS:
            del calls[:2]
        if calls and calls[-2] == bucket:
            calls[-1] += 1
        else:
            calls += (bucket, 1)
        if len(self._calls) > CALLERS_MAX:
            self._calls.popitem(last=False)
        return sum(calls[1::2])


class AbuseWatch:
    """Counts callers before decisions and looks at the records of calls after them."""

    def __init__(self, engine: Engine, store: Store, clock: Clock) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock
        self._estate: Estate | None = None  # that `_windows` was made for
        self._windows: dict[str, CallerWindow] = {}  # by tenant, of those that limit their callers
        self._complained = False
        self._waiting: deque[Cdr] = deque(maxlen=WAITING_MAX)
        self._detectors: dict[str, Detector] = {}
        self._untold: deque[tuple[str, Finding]] = deque(maxlen=UNTOLD_MAX)
        self._blocked: deque[int] = deque()  # when the last blocks were made
        self._forget_ms = clock.monotonic_ms() + FORGET_EVERY_MS
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="abuse")
        engine.on_cdrs.append(self._waiting.extend)

    # --- before the decision, on the loop -----------------------------------------------------------------------------

    def counted(self, request: RouteRequest) -> RouteRequest:
        """The request with the number of its caller's calls, where the tenant limits them."""
        try:
            estate = self._engine.estate
            if estate is None:
                return request
            if estate is not self._estate:
                self._limit(estate)
            return self._count(request, estate) if self._windows else request
        except Exception:
            if not self._complained:  # once tells it; a bug here would fail for every call
                self._complained = True
                log.exception("the calls of a caller cannot be counted, and are let through")
            return request

    def _limit(self, estate: Estate) -> None:
        """Take over which tenants limit their callers; counts go on where the window is as long as it was."""
        windows: dict[str, CallerWindow] = {}
        for tenant_id in estate.tenants:
            settings = estate.settings(tenant_id)
            if settings.caller_max_calls:
                window_ms = settings.caller_window_s * MS_PER_SECOND
                known = self._windows.get(tenant_id)
                windows[tenant_id] = known if known and known.window_ms == window_ms else CallerWindow(window_ms)
        self._estate, self._windows = estate, windows

    def _count(self, request: RouteRequest, estate: Estate) -> RouteRequest:
        way = find_way(request, estate)
        window = self._windows.get(way.tenant_id)
        caller = caller_of(to_e164(request.ani, way.region) or "", request.ani)
        if window is None or not caller:
            return request
        return replace(request, caller_calls=window.count(caller, self._clock.monotonic_ms()))

    # --- after the call, on a thread of its own -----------------------------------------------------------------------

    async def run(self) -> None:
        """Look at what has ended, again and again, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                await loop.run_in_executor(self._thread, self.look)
        finally:
            # A round is short and uses a connection that is closed next: it is waited for.
            self._thread.shutdown(wait=True, cancel_futures=True)

    def look(self) -> None:
        """One round: find, tell, block, forget. Never raises."""
        try:
            estate = self._engine.estate
            if estate is not None:
                self._find(estate)
                self._tell(estate)
                self._forget(estate)
        except CapConduitError as error:
            log.warning("abuse: %s", error)
        except Exception:
            log.exception("looking for abuse failed")
            self._untold.clear()  # what cannot be told at all would fail again and again

    def _find(self, estate: Estate) -> None:
        now_ms, wall_ms = self._clock.monotonic_ms(), self._clock.now_ms()
        for _ in range(len(self._waiting)):
            cdr = self._waiting.popleft()
            detector = self._detector(cdr.tenant_id, estate, now_ms)
            # What was kept during an outage tells of then; it would look like an attack of now.
            if detector is None or wall_ms - cdr.ended_ms > detector.limits.window_ms:
                continue
            for finding in detector.observe(fact_of(cdr), now_ms):
                log.warning(
                    "abuse: %s by %s, %d in %d s (limit %d)",
                    finding.kind, finding.subject, finding.count, finding.window_s, finding.limit,
                )  # fmt: skip
                self._untold.append((cdr.tenant_id, finding))

    def _detector(self, tenant_id: str, estate: Estate, now_ms: int) -> Detector | None:
        """That of a tenant; a new one where its limits have changed; None where it wants none."""
        limits = limits_of(estate.settings(tenant_id))
        if limits.is_off:
            self._detectors.pop(tenant_id, None)
            return None
        detector = self._detectors.get(tenant_id)
        if detector is None or detector.limits != limits:
            detector = self._detectors[tenant_id] = Detector(limits, now_ms)
        return detector

    def _tell(self, estate: Estate) -> None:
        """Tell what was found; what cannot be told now waits for the next round."""
        while self._untold:
            tenant_id = self._untold[0][0]
            batch: list[Finding] = []
            for whose, finding in self._untold:
                if whose != tenant_id or len(batch) == TOLD_AT_ONCE:
                    break
                batch.append(finding)
            tenant = estate.tenants.get(tenant_id)
            if tenant is not None:
                self._tell_batch(tenant.name, batch, block_ms_of(estate.settings(tenant_id)))
            for _ in batch:
                self._untold.popleft()

    def _tell_batch(self, tenant: str, batch: Sequence[Finding], block_ms: int) -> None:
        now_ms = self._clock.monotonic_ms()
        while self._blocked and self._blocked[0] <= now_ms - MINUTE_MS:
            self._blocked.popleft()
        most = BLOCKS_A_MINUTE - len(self._blocked)
        if block_ms and not most:
            log.warning("abuse: %d callers were blocked within a minute; no more for now", BLOCKS_A_MINUTE)
        for told in tell(office_of(self._store, self._clock, tenant), batch, block_ms=block_ms, most=most):
            if told.blocked_until_ms is not None:
                self._blocked.append(now_ms)
                log.warning("abuse: %s is blocked for %d s", told.finding.caller, block_ms // MS_PER_SECOND)

    def _forget(self, estate: Estate) -> None:
        """Now and then take away blocks of ours that are over."""
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._forget_ms:
            return
        self._forget_ms = now_ms + FORGET_EVERY_MS
        gone = over(estate.rows.blocks, self._clock.now_ms())
        for tenant_id in {block.tenant_id for block in gone}:
            if (tenant := estate.tenants.get(tenant_id)) is not None:
                own = [block for block in gone if block.tenant_id == tenant_id]
                forget(office_of(self._store, self._clock, tenant.name), own)
