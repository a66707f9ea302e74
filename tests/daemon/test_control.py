"""The control socket of a real daemon: what it answers, the live picture, and that nobody who looks harms a call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from asterisk_simulator.behaviours import Answers, Busy, CallSpec, NoAnswer, Unavailable
from capconduit.clock import SystemClock
from capconduit.domain.usage import window_text
from capconduit.services import audit, balances, calls, campaigns, caps, events, sellers, targets
from capconduit.services.floor import Floor
from capconduit.services.floor_reading import read
from capconduit.units import format_micros, parse_money
from capconduit.vocab import CapMetric, CapScope
from fastagi.control import CLIENTS
from lab.ports import free_port
from tests.daemon.rig import CALLER, NUMBER, ROOT, Rig, until
from tests.daemon.viewer import Viewer, client, comparable
from tests.store_contract.conftest import PostgresServer

Test = Callable[[Rig, str], Coroutine[Any, Any, None]]
OBJECTS = 500


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        yield Path(directory)


def run(directory: Path, test: Test, **options: Any) -> None:
    """Run `test` with a rig and the path of its control socket."""

    async def whole() -> None:
        async with Rig(directory, **options) as rig:
            await test(rig, f"{directory}/{rig.socket}")

    asyncio.run(whole())


def spec() -> CallSpec:
    return CallSpec(dnid=NUMBER, ani=CALLER)


async def answered(path: str, method: str, resource: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON of one exchange."""
    async with client(path) as http:
        response = await http.request(method, resource, json=body)
        return response.status_code, response.json()


async def raw(path: str, request: bytes) -> bytes:
    """What comes back for bytes that may be no request."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def of_database(rig: Rig) -> dict[str, list[Any]]:
    """The picture as a fresh look at the database gives it."""
    clock = SystemClock()
    with rig.store.transaction(write=False) as tx:
        (tenant,) = tx.tenants()
        floor = Floor(tenant, "nobody")
        floor.put(read(tx, floor.begin(clock.now_ms(), whole=True, estate=None, recount=True)), clock.now_ms())
    while floor.dirty:
        floor.flush(clock.now_ms(), OBJECTS)
    return comparable(json.loads(floor.picture(clock.now_ms(), "", b"null")))


# --- what it answers --------------------------------------------------------------------------------------------------


def test_routes_answer_as_they_are_documented(short: Path) -> None:
    documented = set(re.findall(r"^### (GET|POST) (/\S+)", (ROOT / "docs" / "control.md").read_text("utf-8"), re.M))

    async def test(rig: Rig, path: str) -> None:
        _, told = await answered(path, "GET", "/nowhere")
        assert set(re.findall(r"(GET|POST) (/[a-z-]+)", told["hint"])) == documented
        assert (await answered(path, "GET", "/live")) == (200, {"live": True})
        assert (await answered(path, "GET", "/health")) == (200, {"ready": True, "reasons": []})
        assert (await answered(path, "GET", "/status"))[1]["node"] == "rig"
        assert (await answered(path, "POST", "/status", {}))[0] == 405
        status, told = await answered(path, "GET", "/snapshot?tenant=nobody")
        assert (status, told["error"]) == (404, "tenant-not-found")

    run(short, test)


def test_a_daemon_that_is_not_ready_is_not_healthy_and_lives(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        await rig.ami.close()
        await until(lambda: not rig.status()["ready"])
        assert (await answered(path, "GET", "/health")) == (503, {"ready": False, "reasons": ["ami down"]})
        assert (await answered(path, "GET", "/live"))[0] == 200
        status, told = await answered(path, "POST", "/hangup", {"call": "01M80074A65Q4VFGJER67MP925"})
        assert (status, told["error"]) == (404, "call-unknown")

    run(short, test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET\r\n\r\n", 400),
        (b"GET /live HTTP/2.0\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET live HTTP/1.1\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n", 431),
        (b"GET /live HTTP/1.1\r\na: " + b"x" * 9_000 + b"\r\n\r\n", 431),
        (b"POST /drain HTTP/1.1\r\nContent-Length: 70000\r\n\r\n", 413),
        (b"POST /drain HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /drain HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /drain HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST /log-level HTTP/1.1\r\nContent-Length: 17\r\n\r\n" + b'{"level":"loud"}\n', 400),
    ],
)
def test_what_is_no_request_is_refused(control: str, request_: bytes, status: int) -> None:
    told = asyncio.run(raw(control, request_))
    assert told.startswith(b"HTTP/1.1 %d " % status)
    assert set(json.loads(told.partition(b"\r\n\r\n")[2])) == {"error", "message", "hint"}


@pytest.fixture(scope="module")
def control() -> Iterator[str]:
    """The control socket of a server without a daemon behind it."""
    import threading

    from fastagi.control import ControlServer
    from fastagi.control_routes import ControlRoutes

    nothing: Any = None
    routes = ControlRoutes(
        node="n", status=dict, drain=lambda: None, reload=nothing, hub=nothing, meter=nothing, ami=None, desk=nothing
    )
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        path, loop, started = f"{directory}/c.sock", asyncio.new_event_loop(), threading.Event()
        server = ControlServer(Path(path), routes.table())

        def serve() -> None:
            loop.run_until_complete(server.start())
            started.set()
            loop.run_forever()

        thread = threading.Thread(target=serve)
        thread.start()
        assert started.wait(10)
        yield path
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


# --- acting -----------------------------------------------------------------------------------------------------------


def test_a_call_is_hung_up_and_told_who_did_it(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        rig.fund("10")
        rig.script("buyer1", Answers(after_ms=20, talk_ms=60_000))
        talking = asyncio.create_task(rig.world.call(spec()))
        await until(lambda: [view for view in rig.live() if view.call.state == "up"])
        (view,) = rig.live()
        status, told = await answered(
            path, "POST", "/hangup", {"call": view.call.id, "actor": "root (sudo: anna)\x1b[2J"}
        )
        assert (status, told["call"]) == (202, view.call.id)
        await talking
        await rig.at_rest()
        (cdr,) = rig.cdrs()
        assert cdr.hangup_cause == 16
        entry = audit.list_audit(rig.office, action="call.hangup")[0]
        assert json.loads(entry.after)["peer"], "the user that the kernel names"
        assert (entry.actor, entry.subject) == ("root (sudo: anna)[2J", view.call.id)
        told = [e.kind for e in events.list_events(rig.office, events.Wish((), (view.call.id,)))]
        assert "call.hangup" in told
        status, told = await answered(path, "POST", "/hangup", {"call": view.call.id})
        assert (status, told["error"], told["ended"]) == (404, "call-unknown", True)

    run(short, test)


def test_a_call_of_another_node_is_told_where_it_is(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        rig.fund("10")
        told = (await rig.route("u-1")).variables
        await rig.stop()
        rig.node, rig.socket = "other", "o.sock"
        await rig.start()
        status, answer = await answered(f"{short}/o.sock", "POST", "/hangup", {"call": told["CC_CALL"]})
        assert (status, answer["error"], answer["node"]) == (409, "call-elsewhere", "rig")

    run(short, test)


def test_reload_log_level_and_drain_are_done_and_audited(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        with rig.store.transaction(write=False) as tx:
            version = tx.estate_version()
        assert (await answered(path, "POST", "/reload", {"actor": "anna"})) == (200, {"estate_version": version})
        status, told = await answered(path, "POST", "/log-level", {"level": "debug", "logger": "fastagi.floor"})
        assert (status, told["level"]) == (200, "debug")
        assert (await answered(path, "POST", "/drain", {}))[0] == 202
        process = rig.process
        assert process is not None
        await until(lambda: process.poll() is not None)
        assert process.returncode == 0
        entries = {entry.action: entry.actor for entry in audit.list_audit(rig.office)}
        assert entries["daemon.reload"] == "anna"
        assert {"daemon.log-level", "daemon.drain"} <= set(entries)
        assert entries["daemon.drain"], "the user that the kernel names"

    run(short, test)


# --- the live picture -------------------------------------------------------------------------------------------------


def test_a_viewer_sees_a_call_from_its_beginning_to_its_end(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONCURRENT, "5")
        rig.script("buyer1", Busy())
        targets.set_target(rig.office, "buyer2", ring_ms=20_000)
        rig.script("buyer2", Answers(after_ms=4_000, talk_ms=4_000))  # each state lasts until it is seen
        async with Viewer(path) as viewer:
            assert viewer.told[0] == "snapshot"
            talking = asyncio.create_task(rig.world.call(spec()))
            shown = viewer.objects["call"]
            await viewer.until(lambda: [c for c in viewer.objects["call"].values() if c["target"] == "buyer2"])
            (call,) = shown.values()
            assert (call["state"], call["attempt"], call["answered"], call["funded_until"]) == (
                "dialing",
                2,
                None,
                None,
            )
            assert (call["did"], call["from"], call["seller"], call["campaign"]) == (NUMBER, CALLER, "acme", "solar")
            (cap,) = viewer.objects["cap"].values()
            assert (cap["in_flight"], cap["used"], cap["limit"], cap["window"]) == (1, 0, 5, "none")
            await viewer.until(lambda: viewer.objects["call"][call["id"]]["state"] == "up")
            balance = viewer.objects["balance"]["acme"]
            assert (balance["burn_per_minute"], balance["held"]) == ("0.600000", "0.600000")
            assert balance["empty_at"] is not None
            await talking
            await viewer.until(lambda: viewer.gone)
            (cdr,) = rig.cdrs()
            gone = viewer.gone[call["id"]]
            assert (gone["outcome"], gone["talk_ms"]) == ("completed", cdr.talk_ms)
            assert gone["billed"] == format_micros(cdr.amount_micros)
            await viewer.until(lambda: viewer.objects["target"]["buyer2"]["answered_today"] == 1)
            assert viewer.objects["target"]["buyer1"]["asr"] == 0.0
            assert viewer.objects["balance"]["acme"]["burn_per_minute"] == "0.000000"
            kinds = [event["kind"] for event in viewer.events if event["subject"] == call["id"]]
            assert kinds == ["call.started", "attempt.failed", "call.answered", "call.ended"]

    run(short, test)


def test_what_commands_change_is_seen(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        async with Viewer(path) as viewer:
            rig.fund("12.50")
            await viewer.until(lambda: viewer.objects["balance"]["acme"]["available"] == "12.500000")
            campaigns.pause_campaign(rig.office, "solar", paused=True)
            await viewer.until(lambda: viewer.objects["campaign"]["solar"]["status"] == "paused")
            rig.cap(CapScope.TARGET, "buyer1", CapMetric.CPS, "3")
            await viewer.until(lambda: viewer.objects["cap"])
            rig.cap(CapScope.TARGET, "buyer1", CapMetric.CPS, "none")
            await viewer.until(lambda: not viewer.objects["cap"])
            targets.set_target(rig.office, "buyer1", enabled=False)
            await viewer.until(lambda: viewer.objects["target"]["buyer1"]["status"] == "paused")
            targets.rest_target(rig.office, "buyer2")
            await viewer.until(lambda: viewer.objects["target"]["buyer2"]["rested_until"])
            assert viewer.events[-1]["kind"] == "target.rested"

    run(short, test)


def test_a_cap_that_looks_back_empties_by_itself(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        rig.fund("10")
        rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CPS, "3")
        async with Viewer(path) as viewer:
            await rig.route("u-1")
            await viewer.until(lambda: next(iter(viewer.objects["cap"].values()))["used"] == 1)
            await viewer.until(lambda: next(iter(viewer.objects["cap"].values()))["used"] == 0)

    run(short, test)


def test_who_comes_back_gets_what_was_missed_and_no_more(short: Path) -> None:
    async def test(rig: Rig, path: str) -> None:
        async with Viewer(path) as viewer:
            rig.fund("1")
            await viewer.until(lambda: "balance" in viewer.told)
            last, seen = viewer.ids[-1], viewer.events[-1]["id"]
        rig.fund("2")
        async with Viewer(path, f"?since={last}") as viewer:
            await viewer.until(lambda: "balance" in viewer.told)
            assert viewer.snapshots == 0
            assert viewer.objects["balance"]["acme"]["balance"] == "3.000000"
            assert seen not in [event["id"] for event in viewer.events]
        async with Viewer(path, "?since=older", {"Last-Event-ID": last}) as viewer:  # as a browser reconnects
            await viewer.until(lambda: "balance" in viewer.told)
            assert viewer.snapshots == 0
        boot, _, seq = last.rpartition("-")
        for lost in (f"{boot}-{int(seq) + 1_000}", f"{boot[:-1]}0-{seq}", "nonsense", f"{boot}-x"):
            async with Viewer(path, f"?since={lost}") as viewer:
                assert viewer.told[0] == "snapshot", lost

    run(short, test)


async def some_calls(rig: Rig, chance: random.Random, number: int) -> None:
    """Calls of every kind, a few at once."""

    async def one() -> None:
        await asyncio.sleep(chance.random() * 2)
        await rig.world.call(CallSpec(dnid=NUMBER, ani=f"+1212555{chance.randrange(10_000):04d}"))

    await asyncio.gather(*(one() for _ in range(number)))


def matches_services(rig: Rig, picture: dict[str, list[Any]]) -> None:
    """What is shown is what the commands print."""
    assert {c["id"] for c in picture["calls"]} == {view.call.id for view in calls.list_calls(rig.office)}
    (view,) = sellers.list_sellers(rig.office)
    (balance,) = picture["balances"]
    assert balance["balance"] == format_micros(view.account.balance_micros)
    assert balance["held"] == format_micros(view.account.held_micros)
    shown = {(c["scope"], c["subject"], c["metric"], c["window"]): (c["used"], c["in_flight"]) for c in picture["caps"]}
    for cap in caps.cap_usage(rig.office):
        numbers: tuple[Any, Any] = (cap.used, cap.in_flight)
        if cap.cap.metric is CapMetric.SPEND:
            numbers = (format_micros(cap.used), format_micros(cap.in_flight))
        key = (cap.cap.scope, cap.subject, cap.cap.metric, window_text(cap.cap) or "none")
        assert shown[key] == numbers, key
    for target in targets.list_targets(rig.office):
        mine = next(t for t in picture["targets"] if t["name"] == target.target.name)
        assert (mine["active"], mine["failures"]) == (target.state.active, target.state.failures)


def test_the_picture_is_the_database_when_the_dust_settles(short: Path) -> None:
    """Random calls, and random changes by commands meanwhile; one viewer from the beginning, one who comes late."""

    async def test(rig: Rig, path: str) -> None:
        chance = random.Random(7)
        rig.setting("funding_slice_s", "1")
        rig.fund("3")
        for limit in ("20/day", "30/rolling:1h"):
            rig.cap(CapScope.CAMPAIGN, "solar", CapMetric.CONNECTED, limit)
        rig.cap(CapScope.SELLER, "acme", CapMetric.SPEND, "2.50/day")
        rig.cap(CapScope.TARGET, "buyer1", CapMetric.MINUTES, "10/hour")
        rig.cap(CapScope.SYSTEM, "", CapMetric.CONCURRENT, "12")
        kinds = (Busy(), NoAnswer(), Unavailable(), Answers(after_ms=50, talk_ms=400))
        rig.script("buyer1", *(chance.choice(kinds) for _ in range(80)))
        rig.script("buyer2", *(Answers(after_ms=30, talk_ms=chance.randrange(100, 1_500)) for _ in range(80)))
        async with Viewer(path) as early:
            calling = asyncio.create_task(some_calls(rig, chance, 50))
            for _ in range(10):
                await asyncio.sleep(0.1)
                balances.adjust(rig.office, "acme", parse_money("0.10"), reason="more")
            targets.rest_target(rig.office, "buyer2", rest_ms=1_000)
            async with Viewer(path) as late:
                await calling
                await until(lambda: not rig.live())
                for viewer in (early, late):
                    await viewer.until(lambda shown=viewer: shown.picture() == of_database(rig))  # type: ignore[misc]
                    matches_services(rig, viewer.picture())
                _, picture = await answered(path, "GET", "/snapshot")
                assert comparable(picture) == early.picture()
                known = {event.id for event in events.list_events(rig.office, events.Wish())}
                assert known == {event["id"] for event in early.events}
                assert len(known) == len(early.events), "none is told twice"
                assert len(early.gone) == len([cdr for cdr in rig.cdrs() if cdr.attempts])

    run(short, test)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of these tests alone."""
    server = PostgresServer()
    try:
        yield server.url(server.migrated_database())
    finally:
        server.close()


@pytest.mark.postgres
def test_two_daemons_on_one_database_show_one_floor(short: Path, postgres_url: str) -> None:
    async def test(rig: Rig, path: str) -> None:
        rig.fund("10")
        second = Rig.__new__(Rig)
        second.__dict__.update(rig.__dict__)
        second.dir = short / "two"
        second.dir.mkdir()
        second.node, second.with_ami = "two", False
        second.port = free_port()
        await second.start()
        try:
            async with Viewer(path) as viewer:
                call_id = (await second.route("u-9")).variables["CC_CALL"]
                await viewer.until(lambda: call_id in viewer.objects["call"])
                assert viewer.objects["call"][call_id]["node"] == "two"
                assert viewer.objects["target"]["buyer1"]["active"] == 1
                await second.exchange("attempt", "u-9", "1", "BUSY", "17")
                await viewer.until(lambda: viewer.objects["call"][call_id]["target"] == "buyer2")
                await second.settle("u-9", "ANSWER", "2500", attempt="2")
                await viewer.until(lambda: call_id in viewer.gone)
                (cdr,) = rig.cdrs()
                assert (viewer.gone[call_id]["node"], viewer.gone[call_id]["talk_ms"]) == ("two", cdr.talk_ms)
                await viewer.until(lambda: viewer.objects["target"]["buyer2"]["answered_today"] == 1)
                await viewer.until(lambda: viewer.picture() == of_database(rig))
                await viewer.until(lambda: {node["name"] for node in viewer.health["nodes"]} == {"rig", "two"})
        finally:
            await second.stop()

    run(short, test, url=postgres_url)


# --- viewers that do not read -----------------------------------------------------------------------------------------


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0])


def test_viewers_that_stop_reading_slow_no_call_and_cost_no_more_than_their_buffers(short: Path) -> None:
    """Twenty of them look at a floor that changes; routes are answered, and a viewer that reads sees everything."""

    async def test(rig: Rig, path: str) -> None:
        rig.fund("1000")
        async with Viewer(path) as viewer, contextlib.AsyncExitStack() as stuck:
            assert rig.process is not None
            before = memory_kib(rig.process.pid)
            for _ in range(20):
                sock = stuck.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                sock.connect(path)
                sock.sendall(b"GET /stream HTTP/1.1\r\n\r\n")
            await viewer.until(lambda: viewer.health and viewer.health["viewers"] == 21)
            took: list[float] = []
            loop = asyncio.get_running_loop()
            for number in range(150):
                began = loop.time()
                told = await rig.route(f"u-{number}", name="x" * 200)
                took.append(loop.time() - began)
                assert told.variables["CC_VERDICT"] == "dial"
            for number in range(150):
                await rig.exchange("attempt", f"u-{number}", "1", "BUSY", "17")
            await viewer.until(lambda: [c["attempt"] for c in viewer.objects["call"].values()] == [2] * 150)
            assert sorted(took)[len(took) // 2] < 0.25, "half the routes were answered well within the deadline"
            assert memory_kib(rig.process.pid) - before < 21 * 1_024 + 32_768
            assert viewer.snapshots == 1, "who reads has lost nothing"

    run(short, test, with_ami=False)


def test_a_client_that_says_nothing_is_let_go(control: str) -> None:
    assert asyncio.run(raw(control, b"")) == b""
    assert asyncio.run(answered(control, "GET", "/live"))[0] == 200


def test_more_clients_than_can_be_served_are_told_so(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastagi.control.REQUEST_S", 60.0)  # none of them is let go meanwhile

    async def test() -> None:
        async with contextlib.AsyncExitStack() as idle:
            for _ in range(CLIENTS):
                _, writer = await asyncio.open_unix_connection(control)
                idle.callback(writer.close)
            status, told = await answered(control, "GET", "/live")
            assert (status, told["error"]) == (503, "too-many-clients")

    asyncio.run(test())
