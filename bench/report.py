"""`report`: how long reports take with a million settled calls, against the sum of all records, and what sums cost."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench import machine
from bench.options import parser, workplace
from bench.postgres import Postgres
from bench.reports import finish
from bench.sizes import table_sizes
from capconduit.clock import SystemClock
from capconduit.domain.model import Attempt, Cdr
from capconduit.domain.periods import Period
from capconduit.domain.stats import Group
from capconduit.ids import ulid
from capconduit.services.office import Office
from capconduit.services.reports import Ask, _Reads, make_report
from capconduit.services.rollups import roll_up, verify_rollups
from capconduit.services.setup import prepare_database
from capconduit.store.open import open_store
from capconduit.store.rollups import Wanted
from capconduit.store.rows import mapping
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import ReportBy

CDRS: Final = 1_000_000
MAX_CDRS: Final = 10_000_000
DAYS: Final = 90
DAY_MS: Final = 86_400_000
PAGE: Final = 5_000  # calls in one transaction
SELLERS, CAMPAIGNS, DIDS, TRUNKS, TARGETS = 25, 100, 1_000, 3, 300
RUNS: Final = 5
COMMAND_RUNS: Final = 3
COMMAND_S: Final = 300
LATE_CALLS: Final = 50  # settled into quarter hours that were summed already
TRACE: Final = "x" * 600  # about what a decision's trace takes
ASKED: Final = (ReportBy.NOTHING, ReportBy.HOUR, ReportBy.DAY, ReportBy.SELLER, ReportBy.CAMPAIGN, ReportBy.DID,
                ReportBy.TARGET, ReportBy.REASON)  # fmt: skip
COMMANDS: Final = ("summary", "campaigns", "daily", "targets")


def main(argv: Sequence[str]) -> int:
    """Measure and write."""
    made = parser("report", __doc__)
    made.add_argument("--cdrs", type=int, default=CDRS, help=f"how many (default {CDRS:,})")
    made.add_argument("--days", type=int, default=DAYS, help=f"over how many days (default {DAYS})")
    made.add_argument("--engines", nargs="+", choices=("sqlite", "postgres"), default=["sqlite", "postgres"])
    made.add_argument("--verify", action="store_true", help="also compare every sum with its records")
    options = made.parse_args(argv)
    if not (1 <= options.cdrs <= MAX_CDRS and 1 <= options.days <= 3_650):
        made.error(f"--cdrs is 1 to {MAX_CDRS:,}, --days 1 to 3650")
    engines: dict[str, Any] = {}
    with workplace(options) as directory:
        for engine in options.engines:
            with ExitStack() as stack:
                url = f"sqlite:///{directory}/report.sqlite"
                if engine == "postgres":
                    url = stack.enter_context(Postgres(options.dir)).new_database()
                engines[engine] = _measure(options, directory, url)
        report = {
            "machine": machine.describe(options.dir),
            "options": {"cdrs": options.cdrs, "days": options.days, "forced": options.force},
            "engines": engines,
        }
    finish("report", report, options)
    return 0


def _measure(options: argparse.Namespace, directory: Path, url: str) -> dict[str, Any]:
    store, clock = open_store(url, create=True), SystemClock()
    assert isinstance(store, SqlStore)
    prepare_database(store, clock)
    office = Office(store, clock, actor="bench")
    tenant_id = office.read(lambda desk: desk.tenant_id)
    now_ms = clock.now_ms()
    span = Period(now_ms - options.days * DAY_MS, now_ms)
    found: dict[str, Any] = {"fill_s": _timed(lambda: _fill(store, tenant_id, options.cdrs, span))}
    slow = {by: _timed_sum(store, tenant_id, by, span) for by in (ReportBy.NOTHING, ReportBy.CAMPAIGN)}
    found["from_records_s"] = {str(by): seconds for by, (seconds, _) in slow.items()}
    found["first_rollup_s"] = _timed(lambda: sum(roll_up(store, tenant_id, now_ms)))
    sizes = table_sizes(url)
    found["sizes"] = {name: sizes[name] for name in ("cdr", "attempt", "rollup", "rollup_name") if name in sizes}
    zones = {by: _timed_report(office, by, options.days) for by in ASKED}
    found["reports_s"] = {str(by): seconds for by, seconds in zones.items()}
    for by, (_, right) in slow.items():
        same = sorted(_read(store, tenant_id, by, span), key=str) == sorted(right, key=str)
        assert same, f"the report by {by} is not the sum of the records"
    found["compared_s"] = _timed_report(office, ReportBy.CAMPAIGN, options.days // 2, compare=True)
    _fill(store, tenant_id, LATE_CALLS, span, seed=2)
    found["with_late_calls_s"] = _timed_report(office, ReportBy.NOTHING, options.days)
    found["next_rollup_s"] = _timed(lambda: sum(roll_up(store, tenant_id, now_ms)))
    if options.verify:
        found["verify_s"] = _timed(lambda: verify_rollups(office))
    store.close()
    found["commands_s"] = {name: _command(directory, url, name, options.days) for name in COMMANDS}
    return found


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 3)


_BY: Final = {ReportBy.NOTHING: (), ReportBy.CAMPAIGN: ("seller_id", "campaign_id")}


def _timed_sum(store: SqlStore, tenant_id: str, by: ReportBy, span: Period) -> tuple[float, list[Group]]:
    """The sum of all records."""
    began = time.monotonic()
    with store.transaction(write=False) as tx:
        groups = tx.rollups().summed(tenant_id, Wanted(by=_BY[by]), span.from_ms, span.until_ms)
    return round(time.monotonic() - began, 3), groups


def _read(store: SqlStore, tenant_id: str, by: ReportBy, span: Period) -> list[Group]:
    with store.transaction(write=False) as tx:
        return _Reads(tx.rollups(), tenant_id).groups(Wanted(by=_BY[by]), span)


def _timed_report(office: Office, by: ReportBy, days: int, *, compare: bool = False) -> float:
    """A whole report as a command makes it, in a time zone whose days begin within an hour of UTC."""
    ask = Ask(by=by, period=f"{days}d", zone="Asia/Kathmandu", compare=compare)
    return round(median(_timed(lambda: make_report(office, ask)) for _ in range(RUNS)), 3)


def _command(directory: Path, url: str, name: str, days: int) -> float:
    """The same as a process of its own, start-up included."""
    argv = [sys.executable, "-m", "capconduit_cli", "report", name, f"{days}d", "-o", "csv"]
    env = os.environ | {"CAPCONDUIT_DATABASE__URL": url, "HOME": str(directory)}
    run = partial(subprocess.run, argv, env=env, check=True, timeout=COMMAND_S, stdout=subprocess.DEVNULL)
    return round(median(_timed(run) for _ in range(COMMAND_RUNS)), 3)


# Filling -----------------------------------------------------------------------------------------------------------


def _fill(store: SqlStore, tenant_id: str, count: int, span: Period, seed: int = 1) -> None:
    """Settled calls with their Dials, made up and put in as they are; arrivals are random, so none is in order."""
    chance = random.Random(seed)
    store.ensure_partitions(span.until_ms)
    for first in range(0, count, PAGE):
        calls = [_call(chance, tenant_id, span) for _ in range(min(PAGE, count - first))]
        with store.transaction(write=True) as tx:
            tx.put(Cdr, [cdr for cdr, _ in calls])
            tx.put(Attempt, [attempt for _, attempts in calls for attempt in attempts])


def _call(chance: random.Random, tenant_id: str, span: Period) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    arrived_ms = chance.randrange(span.from_ms, span.until_ms)
    campaign, call_id = chance.randrange(CAMPAIGNS), ulid(arrived_ms, chance.getrandbits(80))
    rejected, answered = (luck := chance.random()) < 0.15, luck > 0.4
    talk_ms = int(chance.expovariate(1 / 180_000)) + 1 if answered else 0
    dials = 0 if rejected else 1 + (chance.random() < 0.2)
    targets = [campaign * 3 + chance.randrange(3) for _ in range(dials)]
    assert all(target < TARGETS for target in targets)
    values = {
        "call_id": call_id, "tenant_id": tenant_id, "node": "n", "boot_id": "b", "uniqueid": call_id,
        "did": f"+1800555{campaign * 10 + chance.randrange(DIDS // CAMPAIGNS):04d}", "did_id": "d",
        "trunk": f"trunk{chance.randrange(TRUNKS)}", "seller_id": f"seller{campaign % SELLERS:020d}",
        "seller": f"s{campaign % SELLERS}", "campaign_id": f"campaign{campaign:018d}", "campaign": f"c{campaign}",
        "target_id": f"target{targets[-1]:020d}" if targets else None, "target": f"t{targets[-1]}" if targets else "",
        "attempts": dials, "attempt": dials, "arrived_ms": arrived_ms, "decided_ms": arrived_ms + 2,
        "first_ring_ms": arrived_ms + 1_200 if dials else None, "answered_ms": arrived_ms + 9_000 if answered else None,
        "ended_ms": arrived_ms + 9_000 + talk_ms, "talk_ms": talk_ms, "billed_seconds": -(-talk_ms // 60_000) * 60,
        "hung_up_by": "caller", "reject_code": "cap_reached" if rejected else "",
        "reject_reason": "cap_reached:campaign:billable:day" if rejected else "", "currency": "USD",
        "billable": talk_ms > 30_000, "amount_micros": -(-talk_ms // 60_000) * 200_000, "trace": TRACE,
    }  # fmt: skip
    attempts = [
        {
            "call_id": call_id, "tenant_id": tenant_id, "number": number, "target_id": f"target{target:020d}",
            "target_name": f"t{target}", "started_ms": arrived_ms + 5, "rang_ms": arrived_ms + 1_200,
            "ended_ms": arrived_ms + 9_000 + talk_ms, "hangup_cause": 16,
        }
        for number, target in enumerate(targets, 1)
    ]  # fmt: skip
    return _row(Cdr, values), [_row(Attempt, attempt) for attempt in attempts]


def _row(kind: type, values: dict[str, Any]) -> tuple[Any, ...]:
    """A raw row: what is not given is empty."""
    return tuple(_filled(kind, values))


def _filled(kind: type, values: dict[str, Any]) -> Iterator[Any]:
    empty = {"bigint": 0, "boolean": False, "text": ""}
    for name, sql_type in mapping(kind).types.items():
        yield values.get(name, empty[sql_type])
