"""The FastAGI load generator: it counts what happened, and it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest

from bench.agi_load import LoadPlan, main, percentile, request_template, run_load
from fastagi.agi_protocol import AgiRequest, HeaderReader, parse_header
from fastagi.agi_server import AgiReply, Endpoint
from tests.protocol.agi_peer import dial, reject_late, serving


def test_a_template_makes_requests_with_a_running_number() -> None:
    block = HeaderReader().feed(request_template("route?n={n}", ["u-{n}", "", "x"])(42))
    assert isinstance(block, bytes)
    request = parse_header(block, 0)
    assert isinstance(request, AgiRequest)
    assert (request.script, request.query, request.args) == ("route", {"n": "42"}, ("u-42", "", "x"))


@pytest.mark.parametrize("rate", [None, 5_000.0])
def test_every_exchange_is_made_and_counted(rate: float | None) -> None:
    async def scene() -> None:
        seen: list[str] = []

        async def handler(request: AgiRequest) -> AgiReply:
            seen.append(request.args[0])
            return await dial(request)

        async with serving({"route": Endpoint(handler, reject_late)}) as (server, port):
            plan = LoadPlan(port, request_template("route", ["{n}"]), clients=8, seconds=30, count=200, rate_per_s=rate)
            report = await asyncio.to_thread(run_load, plan)
            assert (report["count"], report["errors"], report["failures"]) == (200, {}, 0)
            assert sorted(map(int, seen)) == list(range(200))
            assert server.counters.applied == 200
            assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]

    asyncio.run(scene())


def test_failures_are_counted_apart() -> None:
    async def scene() -> None:
        async with serving({}) as (_, port):
            plan = LoadPlan(port, request_template("nobody", []), clients=2, seconds=30, count=5)
            report = await asyncio.to_thread(run_load, plan)
            assert (report["count"], report["errors"], report["failures"]) == (5, {}, 5)

    asyncio.run(scene())


def test_a_refused_connection_is_an_error_and_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert main(["--port", str(port), "--count", "3", "--clients", "1", "--server-pid", str(os.getpid())]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["count"], report["errors"]) == (3, {"ECONNREFUSED": 3})
    assert report["latency_ms"]["p50"] is None


def test_a_silent_server_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.agi_load.EXCHANGE_TIMEOUT_S", 0.01)
    monkeypatch.setattr("bench.agi_load.SWEEP_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        plan = LoadPlan(silent.getsockname()[1], request_template("route", []), clients=2, seconds=30, count=2)
        assert run_load(plan)["errors"] == {"timeout": 2}


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([], 50) is None


@pytest.mark.parametrize("wrong", [{"clients": 0}, {"seconds": 0}, {"count": 0}, {"rate_per_s": 0}])
def test_a_plan_without_bounds_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        LoadPlan(1, request_template("route", []), **wrong)  # type: ignore[arg-type]  # mypy sees one type for all
