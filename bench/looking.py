"""A look at a soak: the daemon's memory and files, what is open in the books, and whether they add up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.servers import Installation, Process
from bench.soaking import FIXED_CONCURRENT, FIXED_SELLER, Soaked
from capconduit.domain.model import Call, Hold
from capconduit.services import balances, calls, caps, sellers
from capconduit.services.office import Desk
from capconduit.vocab import CapMetric, CapScope, DialStatus, HoldState

MIB: Final = 1024 * 1024
SPARE_FILES: Final = 8  # connections of threads that came later
LEAK_MIN_ROWS: Final = 20  # minutes; before that, caches fill
LEAK_RATIO: Final = 1.10
LEAK_MIB: Final = 16
TALK_RATIO: Final = 0.02


class Look:
    """Looks; all methods are called from one thread."""

    def __init__(self, shop: Installation, daemon: Process, world: Soaked) -> None:
        self._shop = shop
        self._world = world
        self.pid = daemon.pid

    def take(self) -> tuple[dict[str, Any], list[str]]:
        """A row of the series, and what is wrong."""
        live, holds, places = self._open()
        status = self._shop.status()
        path = Path(self._shop.url.removeprefix("sqlite:///"))
        row = {
            "calls": self._world.tally["begun"],
            "live_calls": self._world.live_calls,
            "live_in_books": live,
            "metered": int(status.get("calls", -1)),
            "open_holds": holds,
            "open_places": places,
            "held_micros": sum(view.account.held_micros for view in sellers.list_sellers(self._shop.office)),
            "rss_mib": round(machine.rss_bytes(self.pid) / MIB, 1),
            "open_files": machine.open_files(self.pid),
            "cpu_s": round(machine.tree_cpu_s(self.pid), 1),
            "database_mib": round(path.stat().st_size / MIB, 1),
            "wal_mib": round(path.with_name(path.name + "-wal").stat().st_size / MIB, 1),
            "late": int(status.get("fastagi", {}).get("timeouts", -1)),
        }
        return row, self._faults(status)

    def _faults(self, status: dict[str, Any]) -> list[str]:
        office = self._shop.office
        faults = [f"cap verify: {drift}" for drift in caps.verify_caps(office)]
        faults += [f"balance verify: {drift}" for drift in balances.verify_balances(office)]
        faults += [
            f"seller {view.seller.name} has {view.account.available_micros} micros available"
            for view in sellers.list_sellers(office)
            if view.account.available_micros < 0
        ]
        faults += [
            f"{view.in_flight} calls of {FIXED_SELLER} at once, {FIXED_CONCURRENT} are allowed"
            for view in caps.cap_usage(office, CapScope.SELLER, FIXED_SELLER)
            if view.cap.metric is CapMetric.CONCURRENT and view.in_flight > FIXED_CONCURRENT
        ]
        return faults if status.get("ready") else [*faults, f"the daemon is not ready: {status.get('reasons')}"]

    def _open(self) -> tuple[int, int, int]:
        """Live calls, open holds and open places in the books."""

        def work(desk: Desk) -> tuple[int, int, int]:
            live = len(desk.tx.rows(Call, desk.tenant_id))
            holds = len(desk.tx.rows(Hold, desk.tenant_id, state=HoldState.OPEN.value))
            places = sum(still_open for _, still_open in desk.tx.place_sums(desk.tenant_id).values())
            return live, holds, places

        return self._shop.office.read(work)

    def is_at_rest(self) -> bool:
        """Whether no call lives in the books, and none is watched."""
        return not self._open()[0] and self._shop.status().get("calls") == 0

    def left_over(self, files: int) -> list[str]:
        """What must not be there when every call has ended. `files`: open when the soak began."""
        live, holds, places = self._open()
        held = sum(view.account.held_micros for view in sellers.list_sellers(self._shop.office))
        counts = {
            "live calls": self._world.live_calls,
            "live calls in the books": live,
            "open holds": holds,
            "open places": places,
            "micros held": held,
            "settlements kept by Asterisk": len(self._world.ami.database),
            "calls watched": int(self._shop.status().get("calls", -1)),
            "open files more": max(machine.open_files(self.pid) - files - SPARE_FILES, 0),
        }
        return [f"{count} {what}" for what, count in counts.items() if count] + self._unlike_the_world()

    def _unlike_the_world(self) -> list[str]:
        """Where the CDRs differ from what the simulated Asterisk saw."""
        answered = talk_ms = 0
        for cdr in calls.each_cdr(self._shop.office):
            if cdr.dialstatus == DialStatus.ANSWER:
                answered += 1
                talk_ms += cdr.talk_ms
        seen = self._world.tally
        faults = []
        if answered != seen["answered"]:
            faults.append(f"{answered} CDRs of answered calls, {seen['answered']} calls were answered")
        if abs(talk_ms - seen["talk_ms"]) > TALK_RATIO * max(seen["talk_ms"], 1):
            faults.append(f"{talk_ms} ms of talk in CDRs, {seen['talk_ms']} ms were spoken")
        return faults

    def leaks(self, series: Sequence[dict[str, Any]]) -> list[str]:
        """Whether memory or files grew from the second quarter of the soak to the last one."""
        if len(series) < LEAK_MIN_ROWS:
            return []
        quarter = len(series) // 4
        faults = []
        for name, least in (("rss_mib", LEAK_MIB), ("open_files", SPARE_FILES)):
            before = median(row[name] for row in series[quarter : 2 * quarter])
            after = median(row[name] for row in series[-quarter - 1 : -1])  # the last row is at rest
            if after > max(before * LEAK_RATIO, before + least):
                faults.append(f"{name} grew from {before:.0f} to {after:.0f}")
        return faults
