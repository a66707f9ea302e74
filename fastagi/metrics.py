"""The daemon's metrics in Prometheus' text format, made when somebody asks.

What is counted on the way of calls is in metrics_counts.py; caps and balances are read from the database, at most every
few seconds and on a thread of their own. Failure policy: fails open. Where the database does not answer, what is read
from it is left out and all else is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from capconduit.clock import Clock
from capconduit.config import MetricsConfig
from capconduit.domain.usage import window_text
from capconduit.errors import CapConduitError
from capconduit.services.caps import CapView, cap_usage
from capconduit.services.engine import Engine
from capconduit.services.office import Office
from capconduit.services.sellers import SellerView, list_sellers
from capconduit.services.setup import tenant_names
from capconduit.store.store import Store
from capconduit.units import MICROS_PER_UNIT
from fastagi.agi_server import AgiCounters
from fastagi.metrics_counts import MS_PER_SECOND, Counts, Histogram

if TYPE_CHECKING:  # a daemon that nobody asks starts without it
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

READ_AGAIN_S: Final = 5.0  # scrapes within this time share what was read from the database
READ_S: Final = 3.0  # a scrape waits so long for the database
ACTOR: Final = "metrics"
EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the daemon knows of itself at this moment; None: it does not know."""

    node: str
    version: str
    ready: bool
    started_ms: int
    live_calls: int
    ami_enabled: bool
    ami_up: bool
    asterisk_started_ms: int | None
    database_up: bool
    database_s: float | None
    journal: int
    viewers: int
    agi: AgiCounters
    connections: int


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was read of a tenant."""

    tenant: str
    caps: list[CapView]
    left_out: int
    sellers: list[SellerView]


class Metrics:
    """Makes the text; belongs to the loop."""

    def __init__(
        self,
        config: MetricsConfig,
        store: Store,
        clock: Clock,
        engine: Engine,
        counts: Counts,
        gauges: Callable[[], Gauges],
    ) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._engine = engine
        self._counts = counts
        self._gauges = gauges
        self._thread: ThreadPoolExecutor | None = None
        self._reading: asyncio.Future[list[_Kept]] | None = None
        self._kept: list[_Kept] = []
        self._read_at_s = float("-inf")

    async def text(self) -> bytes:
        """Everything, as Prometheus reads it (exposition format 0.0.4)."""
        from prometheus_client import CollectorRegistry, generate_latest

        await self._read()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return bytes(generate_latest(registry))

    def close(self) -> None:
        """Read no more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def collect(self) -> Iterator[Metric]:
        """All metrics; docs/metrics.md describes each."""
        now = self._gauges()
        yield from _of_itself(now)
        yield from self._of_decisions(now)
        yield from self._of_calls(now)
        yield from self._of_engine(now)
        yield from _of_caps(self._kept)
        if self._config.balances == "on":
            yield from _of_balances(self._kept)

    # --- from the database ----------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Caps and balances anew, if it is time; what is still being read is waited for once more."""
        if not self._config.caps and self._config.balances == "off":
            return
        loop = asyncio.get_running_loop()
        if self._reading is None:
            if loop.time() - self._read_at_s < READ_AGAIN_S:
                return
            if self._thread is None:
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
            self._reading = loop.run_in_executor(self._thread, self._look)
        reading = self._reading
        done, _ = await asyncio.wait((reading,), timeout=READ_S)
        if not done:
            self._kept = []
        elif self._reading is reading:  # the first of those who waited for it
            self._reading, self._read_at_s = None, loop.time()
            self._kept = reading.result()

    def _look(self) -> list[_Kept]:
        try:
            return [self._look_at(tenant) for tenant in tenant_names(self._store)]
        except CapConduitError as error:
            log.warning("no caps and balances for metrics: %s", error)
            return []

    def _look_at(self, tenant: str) -> _Kept:
        office = Office(self._store, self._clock, tenant=tenant, actor=ACTOR)
        caps = sorted(cap_usage(office), key=_fullness, reverse=True) if self._config.caps else []
        sellers = list(list_sellers(office)) if self._config.balances == "on" else []
        return _Kept(tenant, caps[: self._config.caps], max(len(caps) - self._config.caps, 0), sellers)

    # --- what is counted ------------------------------------------------------------------------------------------

    def _of_decisions(self, now: Gauges) -> Iterator[Metric]:
        counts, agi = self._counts, now.agi
        yield _counter(
            "capconduit_decisions", "Answers with a verdict.", ("script", "verdict", "reason"), dict(counts.decisions)
        )
        yield _histograms("capconduit_decision_seconds", "From the request to the answer.", "script", counts.took)
        yield _counter(
            "capconduit_agi_requests", "FastAGI requests.", ("script",), {(k,): v for k, v in agi.requests.items()}
        )
        yield _counter(
            "capconduit_agi_faults",
            "FastAGI exchanges that did not go as they should.",
            ("kind",),
            {
                ("deadline_missed",): agi.deadlines_missed,
                ("failed",): agi.failures,
                ("refused",): agi.refused,
                ("bad_header",): agi.bad_headers + agi.header_timeouts,
                ("unknown_script",): agi.unknown_scripts,
                ("abandoned",): agi.abandoned,
                ("not_applied",): agi.not_applied,
            },
        )
        yield _gauge("capconduit_agi_connections", "FastAGI connections that are open.", now.connections)

    def _of_calls(self, now: Gauges) -> Iterator[Metric]:
        counts = self._counts
        yield _gauge("capconduit_live_calls", "Calls of this node that are up or being dialled.", now.live_calls)
        yield _counter("capconduit_calls_ended", "Calls with a record.", ("outcome", "reason"), dict(counts.ended))
        yield _counter("capconduit_talk_seconds", "Talk of ended calls.", (), {(): counts.talk_ms / MS_PER_SECOND})
        yield _counter("capconduit_billed_seconds", "Billed time of ended calls.", (), {(): counts.billed_s})
        amounts = {(currency,): micros / MICROS_PER_UNIT for currency, micros in dict(counts.amounts).items()}
        yield _counter("capconduit_billed_amount", "Price of ended calls.", ("currency",), amounts)
        yield _histograms("capconduit_settlement_lag_seconds", "From a call's end to its record.", "", {"": counts.lag})

    def _of_engine(self, now: Gauges) -> Iterator[Metric]:
        yield _gauge("capconduit_engine_queued", "Commands that wait for a transaction.", self._engine.queued)
        sizes = list(self._engine.batch_sizes)
        yield _batches(sizes, self._engine.commands)
        yield _gauge("capconduit_journal_entries", "Ends of calls that wait for the database.", now.journal)


def _of_itself(now: Gauges) -> Iterator[Metric]:
    yield _gauge("capconduit_build_info", "Always 1.", 1, ("version", "node"), (now.version, now.node))
    yield _gauge("capconduit_ready", "1: calls are decided as they should.", now.ready)
    yield _gauge("capconduit_start_time_seconds", "When the daemon started.", now.started_ms / MS_PER_SECOND)
    yield _gauge("capconduit_ami_enabled", "1: AMI is configured.", now.ami_enabled)
    yield _gauge("capconduit_ami_up", "1: AMI is connected.", now.ami_up)
    if now.asterisk_started_ms is not None:
        started_s = now.asterisk_started_ms / MS_PER_SECOND
        yield _gauge("capconduit_asterisk_start_time_seconds", "When Asterisk started, as AMI told it.", started_s)
    yield _gauge("capconduit_database_up", "1: the database answers.", now.database_up)
    if now.database_s is not None:
        yield _gauge("capconduit_database_seconds", "How long the last heartbeat's transaction took.", now.database_s)
    yield _gauge("capconduit_viewers", "Viewers of the live picture.", now.viewers)


def _of_caps(kept: Iterable[_Kept]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    names = ("tenant", "scope", "subject", "metric", "window")
    used = GaugeMetricFamily("capconduit_cap_used", "Used and in flight in the window of now.", labels=names)
    in_flight = GaugeMetricFamily("capconduit_cap_in_flight", "Of that, taken by live calls.", labels=names)
    limit = GaugeMetricFamily("capconduit_cap_limit", "The limit.", labels=names)
    left_out = GaugeMetricFamily("capconduit_caps_left_out", "Caps that are not told: too many.", labels=["tenant"])
    for tenant in kept:
        left_out.add_metric([tenant.tenant], tenant.left_out)
        for view in tenant.caps:
            cap = view.cap
            labels = [tenant.tenant, cap.scope, view.subject, cap.metric, window_text(cap) or "none"]
            used.add_metric(labels, view.used + view.in_flight)
            in_flight.add_metric(labels, view.in_flight)
            limit.add_metric(labels, cap.limit_value)
    yield from (used, in_flight, limit, left_out)


def _of_balances(kept: Iterable[_Kept]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    names = ("tenant", "seller", "currency")
    balance = GaugeMetricFamily("capconduit_balance", "Sum of the ledger.", labels=names)
    held = GaugeMetricFamily("capconduit_balance_held", "Reserved by live calls.", labels=names)
    available = GaugeMetricFamily("capconduit_balance_available", "What new calls can spend.", labels=names)
    for tenant in kept:
        for view in tenant.sellers:
            labels = [tenant.tenant, view.seller.name, view.seller.currency]
            account = view.account
            left = account.balance_micros + account.credit_limit_micros - account.held_micros
            balance.add_metric(labels, account.balance_micros / MICROS_PER_UNIT)
            held.add_metric(labels, account.held_micros / MICROS_PER_UNIT)
            available.add_metric(labels, left / MICROS_PER_UNIT)
    yield from (balance, held, available)


def _fullness(view: CapView) -> float:
    return (view.used + view.in_flight) / view.cap.limit_value if view.cap.limit_value else 1.0


def _gauge(name: str, help: str, value: float, labels: tuple[str, ...] = (), values: tuple[str, ...] = ()) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, help, labels=labels)
    family.add_metric(values, float(value))
    return family


def _counter(name: str, help: str, labels: tuple[str, ...], counts: Mapping[Any, float]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(name, help, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric([str(value) for value in values], float(count))
    return family


def _histograms(name: str, help: str, label: str, histograms: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, help, labels=[label] if label else [])
    for value, histogram in histograms.items():
        family.add_metric([value] if label else [], histogram.buckets(), histogram.total)
    return family


def _batches(sizes: list[int], commands: int) -> Metric:
    """Batches by how many commands they had; a bit length of n means at most 2**n - 1."""
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily("capconduit_batch_commands", "Commands that shared a transaction.", labels=[])
    buckets, so_far = [], 0
    for bits, count in enumerate(sizes):
        so_far += count
        if bits:
            buckets.append((str(float(2**bits - 1)), float(so_far)))
    family.add_metric([], [*buckets, ("+Inf", float(so_far))], float(commands))
    return family
