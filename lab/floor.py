"""A call floor of the lab: the real daemon beside a real Asterisk, on a database with a small estate.

Everything is made as an operator would make it: configuration file, services, rendered files. The daemon is a process
of its own, ended by its pid.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from capconduit.clock import SystemClock
from capconduit.config import Config, load_config
from capconduit.domain.model import Cdr
from capconduit.render.contexts import RtpRange
from capconduit.render.engine import render_all
from capconduit.render.from_config import render_context
from capconduit.services import balances, calls, campaigns, caps, dids, rates, sellers, settings, targets, trunks
from capconduit.services.office import Office
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit.units import parse_money
from capconduit.vocab import CapMetric, CapScope, Strategy, TargetKind, TrunkKind
from lab.asterisk import Asterisk
from lab.ports import LOOPBACK, LabPorts, free_port
from lab.root import major_of
from lab.wait import LabError, wait_for

SELLER, CAMPAIGN, RATE, TRUNK = "acme", "solar", "std", "carrier"
NUMBER: Final = "+18005550100"
SECRET: Final = "lab-secret"
READY_S: Final = 45.0
STOP_S: Final = 40.0
# For a `Floor` under tests of something else than how soon answers come: a machine may stand still for seconds.
PATIENT_DEADLINE_MS, PATIENT_GUARD_S = 4_000, 6
LOG_TAIL_CHARS: Final = 12_000


class Floor:
    """`with Floor(tree) as floor:` starts Asterisk and the daemon with an estate of one campaign without targets.

    database_url: default a SQLite file in the floor's own directory. deadline_ms: of a decision, default the
    product's. guard_s: how long the dialplan waits for the daemon.
    """

    def __init__(
        self, tree: Path, *, database_url: str = "", node: str = "lab", deadline_ms: int = 0, guard_s: int = 1
    ) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="cc-floor-"))
        self.ports = LabPorts.choose()
        self.node = node
        self.version = major_of(tree)
        self.agi_port = free_port()
        self._deadline_ms, self._guard_s = deadline_ms, guard_s
        self._url = database_url or f"sqlite:///{self.dir}/capconduit.sqlite"
        self.config = self._configure()
        self.store = open_store(self._url, create=True)
        prepare_database(self.store, SystemClock())
        self.office = Office(self.store, SystemClock(), actor="lab")
        self._daemon: subprocess.Popen[bytes] | None = None
        self._targets = 0
        self._estate()
        self.asterisk = Asterisk(tree, self._files(), self.ports, node_name=node)

    def _configure(self) -> Config:
        secret = self.dir / "ami.secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        deadline = f"deadline_ms = {self._deadline_ms}\n" if self._deadline_ms else ""
        self.config_path = self.dir / "capconduit.toml"
        self.config_path.write_text(
            f'[database]\nurl = "{self._url}"\n'
            f'[fastagi]\nlisten = "{LOOPBACK}:{self.agi_port}"\n{deadline}'
            f'[ami]\nhost = "{LOOPBACK}"\nport = {self.ports.ami}\nsecret = "file:{secret}"\n'
            f'[node]\nname = "{self.node}"\n'
            f'[control]\nsocket = "{self.dir}/control.sock"\n'
            f"[asterisk]\nversion = {self.version}\n"
            f'sip_listen = "{LOOPBACK}:{self.ports.sip}"\niax_listen = "{LOOPBACK}:{self.ports.iax}"\n'
        )
        return load_config(self.config_path, {})

    def _files(self) -> dict[str, str]:
        context = render_context(self.config, trunks.list_trunks(self.office), {})
        rtp = RtpRange(start=self.ports.rtp_start, end=self.ports.rtp_end)
        return render_all(replace(context, rtp=rtp, guard_s=self._guard_s))

    def _estate(self) -> None:
        sellers.add_seller(self.office, SELLER, currency="USD", timezone="America/New_York")
        rates.add_rate(self.office, RATE, per_minute_micros=parse_money("0.60"), increment="1/1")
        trunks.add_trunk(self.office, TRUNK, kind=TrunkKind.PJSIP, hosts=[LOOPBACK])
        campaigns.add_campaign(self.office, CAMPAIGN, seller=SELLER, rate=RATE, strategy=Strategy.PRIORITY)
        dids.add_did(self.office, NUMBER, trunk=TRUNK, campaign=CAMPAIGN)

    # --- the estate ---------------------------------------------------------------------------------------------------

    def target(self, uri: str, *, priority: int = 1, ring_s: int = 20) -> str:
        """A new target at a SIP URI, linked to the campaign; its name."""
        self._targets += 1
        name = f"buyer{self._targets}"
        targets.add_target(self.office, name, kind=TargetKind.PJSIP, address=uri, ring_ms=ring_s * 1_000)
        targets.add_rule(self.office, CAMPAIGN, name, priority=priority)
        return name

    def clear_targets(self) -> None:
        """No target is left."""
        for rule in targets.list_rules(self.office):
            targets.remove_rule(self.office, rule.campaign, rule.target)
            targets.remove_target(self.office, rule.target)

    def fund(self, amount: str) -> None:
        """Add money to the seller; take it back with a minus."""
        balances.adjust(self.office, SELLER, parse_money(amount, signed=True), reason="lab")

    def cap(self, metric: CapMetric, limit: str) -> None:
        """Set a cap on the campaign."""
        caps.set_caps(self.office, CapScope.CAMPAIGN, CAMPAIGN, [caps.parse_limit(metric, limit)])

    def setting(self, name: str, value: str) -> None:
        """Set a system setting."""
        settings.set_setting(self.office, name, value)

    # --- what can be seen ---------------------------------------------------------------------------------------------

    def balance(self) -> sellers.SellerView:
        """The seller with its money."""
        return sellers.show_seller(self.office, SELLER)

    def live(self) -> Sequence[calls.CallView]:
        """The live calls."""
        return calls.list_calls(self.office)

    def cdrs(self, count: int) -> list[Cdr]:
        """All CDRs, the oldest first, once there are `count`. Raises LabError."""

        def enough() -> list[Cdr] | None:
            rows = sorted(calls.find_cdrs(self.office), key=lambda c: c.call_id)
            return rows if len(rows) >= count else None

        return wait_for(enough, f"{count} CDRs") or []

    def cdr(self) -> Cdr:
        """The only CDR."""
        (row,) = self.cdrs(1)
        return row

    def drift(self) -> list[object]:
        """What does not add up: money, places, holds."""
        return [*balances.verify_balances(self.office), *caps.verify_caps(self.office)]

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """Start it and wait until it is ready, AMI included."""
        with (self.dir / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "fastagi", "--config", str(self.config_path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[1],
            )
        try:
            wait_for(self._is_ready, "ready daemon", READY_S)
        except LabError as error:
            raise LabError(f"{error}\n{self.log_tail()}") from error

    def _is_ready(self) -> bool:
        if self._daemon is not None and self._daemon.poll() is not None:
            raise LabError(f"the daemon ended with {self._daemon.returncode}\n{self.log_tail()}")
        try:
            return bool(self.status()["ready"])
        except OSError:
            return False

    def status(self) -> dict[str, Any]:
        """What the control socket tells. Raises OSError while there is none."""
        connection = http.client.HTTPConnection("localhost", timeout=2)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.sock.connect(self.config.control.socket)
            connection.request("GET", "/status")
            told: dict[str, Any] = json.loads(connection.getresponse().read())
            return told
        finally:
            connection.close()

    @property
    def daemon_pid(self) -> int:
        """Process id of the running daemon."""
        assert self._daemon is not None
        return self._daemon.pid

    def stop_daemon(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self._daemon is not None
        self._daemon.send_signal(how)
        code = self._daemon.wait(STOP_S)
        self._daemon = None
        return code

    def signal_daemon(self, how: signal.Signals) -> None:
        """Send a signal to the running daemon (SIGSTOP, SIGCONT)."""
        os.kill(self.daemon_pid, how)

    def log_tail(self) -> str:
        """The last of the daemon's log."""
        path = self.dir / "daemon.log"
        return path.read_text(errors="replace")[-LOG_TAIL_CHARS:] if path.exists() else ""

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Floor:
        try:
            self.asterisk.start()
            self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything and take the directory away."""
        if self._daemon is not None:
            if self._daemon.poll() is None:
                self._daemon.kill()
            self._daemon.wait()
            self._daemon = None
        self.asterisk.close()
        self.store.close()
        shutil.rmtree(self.dir, ignore_errors=True)
