"""The real daemon as a process, on a database of its own, beside a simulated Asterisk in the test's own loop."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from asterisk_simulator.agi_client import AgiResult, agi_exchange
from asterisk_simulator.ami_server import AmiServer, User
from asterisk_simulator.behaviours import Behaviour
from asterisk_simulator.world import World
from capconduit.clock import SystemClock
from capconduit.domain.model import Cdr
from capconduit.services import balances, calls, campaigns, caps, dids, rates, sellers, settings, targets, trunks
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit.units import parse_money
from capconduit.vocab import CapMetric, CapScope, TargetKind, TrunkKind
from lab.ports import free_port

NUMBER = "+18005550100"
CALLER = "+12125550147"
SECRET = "rig-secret"
CONTROL = "capconduit-control"  # the second AMI user
ROOT = Path(__file__).parents[2]

T = TypeVar("T")


async def until(condition: Callable[[], T], timeout_s: float = 40.0) -> T:
    """The first true value of `condition`; fails after `timeout_s`.

    It is asked once more when the time is over: a machine that stood still meanwhile has not answered with no.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        is_last = loop.time() >= deadline
        if value := condition():
            return value
        assert not is_last, "the condition did not come about"
        await asyncio.sleep(0.01)


class Rig:
    """`async with Rig(tmp_path) as rig:` starts the simulated Asterisk and the daemon."""

    def __init__(
        self,
        directory: Path,
        *,
        with_ami: bool = True,
        with_control: bool = False,
        deadline_ms: int = 4_000,  # how soon answers come is the matter of few tests
        url: str = "",
    ) -> None:
        self.dir = directory
        self.with_ami = with_ami
        self.with_control = with_control
        self.deadline_ms = deadline_ms
        self.node = "rig"
        self.socket = "c.sock"
        self.url = url or f"sqlite:///{directory}/rig.sqlite"
        self.store = open_store(self.url, create=True)
        prepare_database(self.store, SystemClock())
        self.office = Office(self.store, SystemClock(), actor="rig")
        self.ami = AmiServer(username="capconduit", secret=SECRET)
        if with_control:
            self.ami.users["capconduit"] = User(SECRET, write=frozenset({"reporting"}))
            self.ami.users[CONTROL] = User(SECRET, read=False, write=frozenset({"call"}))
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._estate()

    def _estate(self) -> None:
        sellers.add_seller(self.office, "acme", timezone="America/New_York")
        rates.add_rate(self.office, "std", per_minute_micros=parse_money("0.60"), increment="1/1")
        trunks.add_trunk(self.office, "carrier", kind=TrunkKind.PJSIP, hosts=["127.0.0.1"])
        campaigns.add_campaign(self.office, "solar", seller="acme", rate="std")
        dids.add_did(self.office, NUMBER, trunk="carrier", campaign="solar")
        for priority, name in enumerate(("buyer1", "buyer2"), 1):
            address = f"sip:{name}@127.0.0.1:5080"
            targets.add_target(self.office, name, kind=TargetKind.PJSIP, address=address, ring_ms=2_000)
            targets.add_rule(self.office, "solar", name, priority=priority)

    async def __aenter__(self) -> Rig:
        await self.ami.start(port=free_port())
        self.world = World("127.0.0.1", self.port, self.ami, random.Random(1), guard_s=6.0)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.world.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        await self.ami.close()
        self.store.close()

    # --- the daemon ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the daemon and wait until it is ready."""
        self.spawn()
        await until(lambda: self.status().get("ready"))

    def spawn(self, *options: str) -> None:
        """Start the daemon, with these options of its command line."""
        secret = self.dir / "ami.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        config = self.dir / "capconduit.toml"
        host = "127.0.0.1" if self.with_ami else ""
        control = f'control_username = "{CONTROL}"\ncontrol_secret = "file:{secret}"\n' if self.with_control else ""
        on_server = self.url.startswith("postgresql")  # else it is beside the file
        journal = f'journal = "{self.dir}/settlements.journal"\n' if on_server else ""
        config.write_text(
            f'[database]\nurl = "{self.url}"\n'
            f'[fastagi]\nlisten = "127.0.0.1:{self.port}"\ndeadline_ms = {self.deadline_ms}\n'
            f'[ami]\nhost = "{host}"\nport = {self.ami.port}\nsecret = "file:{secret}"\n{control}'
            f'[node]\nname = "{self.node}"\n{journal}[control]\nsocket = "{self.dir}/{self.socket}"\n'
        )
        with (self.dir / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fastagi", "--config", str(config), *options],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """What the control socket tells; empty while there is none."""
        connection = http.client.HTTPConnection("localhost", timeout=2)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(f"{self.dir}/{self.socket}")
            connection.request("GET", "/status")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        except OSError:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            return {}
        finally:
            connection.close()

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the daemon; its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        process = self.process
        await until(lambda: process.poll() is not None)
        return int(process.returncode)

    def log(self) -> str:
        """What the daemon logged."""
        return (self.dir / "daemon.log").read_text()

    # --- the estate and the world -------------------------------------------------------------------------------------

    def fund(self, amount: str) -> None:
        """Give the seller money."""
        balances.adjust(self.office, "acme", parse_money(amount), reason="rig")

    def cap(self, scope: CapScope, name: str, metric: CapMetric, limit: str) -> None:
        """Set a cap."""
        caps.set_caps(self.office, scope, name, [caps.parse_limit(metric, limit)])

    def setting(self, name: str, value: str) -> None:
        """Set a setting."""
        settings.set_setting(self.office, name, value)

    def script(self, target: str, *behaviours: Behaviour) -> None:
        """Say what a target does."""
        self.world.script(target, *behaviours)

    async def exchange(self, script: str, *args: str, timeout_s: float = 20.0) -> AgiResult:
        """One FastAGI exchange."""
        return await agi_exchange("127.0.0.1", self.port, script, list(args), timeout_s=timeout_s)

    async def route(self, uniqueid: str, *, dnid: str = NUMBER, ani: str = CALLER, name: str = "") -> AgiResult:
        """The `route` exchange of a call."""
        return await self.exchange("route", uniqueid, uniqueid, dnid, ani, name, "carrier", "", "", "sip-1")

    async def settle(
        self, uniqueid: str, dialstatus: str = "", answered_ms: str = "", cause: str = "16", attempt: str = "1"
    ) -> AgiResult:
        """The `settle` exchange of a call; `attempt` is empty where the dialplan was never told of one."""
        return await self.exchange(
            "settle", uniqueid, attempt, dialstatus, answered_ms, "", cause, "", "capconduit-inbound"
        )

    # --- what can be seen ---------------------------------------------------------------------------------------------

    def live(self) -> Sequence[calls.CallView]:
        """The live calls."""
        return calls.list_calls(self.office)

    def cdrs(self) -> list[Cdr]:
        """The CDRs, oldest first."""
        return sorted(calls.find_cdrs(self.office), key=lambda c: c.call_id)

    def account(self) -> sellers.Account:
        """The seller's money."""
        return sellers.show_seller(self.office, "acme").account

    def drift(self) -> list[object]:
        """What does not add up."""
        return [*balances.verify_balances(self.office), *caps.verify_caps(self.office)]

    async def at_rest(self) -> None:
        """Wait until nothing lives; nothing is held then, and everything adds up."""
        await until(lambda: not self.live())
        assert self.account().held_micros == 0
        assert self.account().available_micros >= 0
        assert self.drift() == []
