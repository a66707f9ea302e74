"""The daemon's metrics: equal to what happened, documented, bounded, and readable by Prometheus' own tools."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from asterisk_simulator.behaviours import Answers, Busy, CallSpec
from capconduit.vocab import CapMetric, CapScope
from lab.ports import free_port
from lab.promtool import ensure_promtool
from lab.wait import LabUnavailable
from tests.daemon.rig import CALLER, NUMBER, ROOT, Rig, until

MONITORING = ROOT / "docs/monitoring"
_NAME = re.compile(r"`(capconduit_[a-z_]+)`")
_IN_QUERY = re.compile(r"\bcapconduit_[a-z_]+")

Families = dict[str, Metric]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        yield Path(directory)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, on which the daemon is to serve its metrics."""
    found = free_port()
    monkeypatch.setenv("CAPCONDUIT_METRICS__LISTEN", f"127.0.0.1:{found}")
    return found


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' own checker."""
    try:
        return ensure_promtool()
    except LabUnavailable as error:
        pytest.skip(f"NO PROMTOOL, RULES AND METRICS ARE NOT CHECKED BY IT: {error}")


async def fetched(port: int, path: str = "/metrics") -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(f"http://127.0.0.1:{port}{path}", timeout=10)


def families(text: str) -> Families:
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(told: Families, name: str, **labels: str) -> float:
    """The sum of the samples `name` with these labels."""
    samples = [s for family in told.values() for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


async def told_of(port: int, ended: int) -> Families:
    """The metrics once they tell of so many calls that ended: they are counted after the record is written."""
    async with asyncio.timeout(40):
        # A scrape tells no one that it would say something else now.
        while value(told := families((await fetched(port)).text), "capconduit_calls_ended_total") < ended:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return told


def run(test: Callable[[Rig], Coroutine[None, None, None]], directory: Path) -> None:
    async def whole() -> None:
        async with Rig(directory) as rig:
            await test(rig)

    asyncio.run(whole())


def test_what_metrics_say_is_what_happened(short: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPCONDUIT_METRICS__BALANCES", "on")

    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.BILLABLE, "2/day")
        rig.script("buyer1", Answers(after_ms=20, talk_ms=120), Busy())
        rig.script("buyer2", Answers(after_ms=20, talk_ms=120))
        for _ in range(3):
            await rig.world.call(CallSpec(dnid=NUMBER, ani=CALLER))
        await rig.world.call(CallSpec(dnid="+18005550999", ani=CALLER))
        await until(lambda: len(rig.cdrs()) == 4 and not rig.live())
        told = await told_of(port, 4)
        cdrs = rig.cdrs()
        answered = [cdr for cdr in cdrs if cdr.answered_ms is not None]
        assert len(answered) == 2
        assert value(told, "capconduit_calls_ended_total") == 4
        assert value(told, "capconduit_calls_ended_total", outcome="completed") == 2
        assert value(told, "capconduit_calls_ended_total", reason="cap_reached") == 1
        assert value(told, "capconduit_calls_ended_total", outcome="rejected", reason="did_unknown") == 1
        assert value(told, "capconduit_decisions_total", script="route", verdict="dial") == 2
        assert value(told, "capconduit_decisions_total", script="attempt", verdict="dial") == 1
        assert value(told, "capconduit_decisions_total", verdict="reject") == 2
        assert value(told, "capconduit_decision_seconds_count", script="route") == 4
        assert value(told, "capconduit_decision_seconds_bucket", script="route", le="+Inf") == 4
        assert value(told, "capconduit_agi_requests_total", script="settle") == 2
        assert value(told, "capconduit_billed_seconds_total") == sum(cdr.billed_seconds for cdr in cdrs)
        billed = sum(cdr.amount_micros for cdr in cdrs) / 1_000_000
        assert value(told, "capconduit_billed_amount_total", currency="USD") == pytest.approx(billed)
        assert value(told, "capconduit_settlement_lag_seconds_count") == 4
        commands = rig.status()["engine"]["commands"]
        assert value(told, "capconduit_batch_commands_sum") == commands >= 7
        assert value(told, "capconduit_batch_commands_bucket", le="+Inf") == rig.status()["engine"]["batches"]
        assert value(told, "capconduit_live_calls") == 0
        assert value(told, "capconduit_ready") == value(told, "capconduit_ami_up") == 1
        cap = {"scope": "campaign", "subject": "solar", "metric": "billable", "window": "day", "tenant": "default"}
        assert (value(told, "capconduit_cap_used", **cap), value(told, "capconduit_cap_limit", **cap)) == (2, 2)
        assert value(told, "capconduit_balance", seller="acme") == pytest.approx(10 - billed)

    run(test, short)


def test_a_live_call_is_counted_and_holds_a_place(short: Path, port: int) -> None:
    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "5")
        assert (await rig.route("u-1")).variables["CC_VERDICT"] == "dial"
        told = families((await fetched(port)).text)
        assert value(told, "capconduit_live_calls") == 1
        assert value(told, "capconduit_cap_in_flight", subject="solar") == 1
        assert not [name for name in told if name.startswith("capconduit_balance")]  # only who asks for them is told

    run(test, short)


def test_the_port_answers_nothing_but_metrics(short: Path, port: int) -> None:
    async def test(rig: Rig) -> None:
        for path in ("/status", "/snapshot", "/", "/metrics/x"):
            assert (await fetched(port, path)).status_code == 404
        async with httpx.AsyncClient() as http:
            assert (await http.post(f"http://127.0.0.1:{port}/drain")).status_code == 404
        assert rig.status()["ready"]

    run(test, short)


def test_only_the_fullest_caps_are_told(short: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPCONDUIT_METRICS__CAPS", "1")

    async def test(rig: Rig) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "1")
        rig.cap(CapScope.SELLER, "acme", CapMetric.CONCURRENT, "100")
        await rig.route("u-1")
        told = families((await fetched(port)).text)
        assert [s.labels["subject"] for s in told["capconduit_cap_used"].samples] == ["solar"]
        assert value(told, "capconduit_caps_left_out") == 1

    run(test, short)


def test_every_metric_is_documented_and_every_documented_one_is_there(
    short: Path, port: int, promtool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPCONDUIT_METRICS__BALANCES", "on")
    documented = set(_NAME.findall((ROOT / "docs/metrics.md").read_text()))

    async def test(rig: Rig) -> None:
        rig.fund("1")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "1")
        text = (await fetched(port)).text
        told = {f"{name}_total" if family.type == "counter" else name for name, family in families(text).items()}
        assert told == documented
        texts.append(text)

    texts: list[str] = []
    run(test, short)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=texts[0], capture_output=True, text=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_rules_and_dashboard_ask_for_metrics_that_exist_in_queries_that_can_be_read(
    tmp_path: Path, promtool: Path
) -> None:
    documented = set(_NAME.findall((ROOT / "docs/metrics.md").read_text()))
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(queries) > 15
    rules = (MONITORING / "alerts.yml").read_text()
    asked = {_of_series(name) for text in [rules, *queries] for name in _IN_QUERY.findall(text)}
    assert asked <= documented
    as_rules = [
        {"record": f"q:{i}", "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for i, query in enumerate(queries)
    ]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": as_rules}]}))
    for file in (MONITORING / "alerts.yml", tmp_path / "queries.yml"):
        checked = subprocess.run(
            [promtool, "check", "rules", file], capture_output=True, text=True, timeout=30, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def _of_series(name: str) -> str:
    """The metric that a series of a histogram belongs to."""
    return re.sub(r"_(bucket|sum|count)$", "", name)
