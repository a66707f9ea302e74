"""Plays scenarios on one Asterisk with one daemon, all at once; each has a seller, a number and phones of its own."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from capconduit.domain.model import Cdr as CdrRow
from capconduit.services import balances, calls, campaigns, caps, dids, sellers, targets
from capconduit.units import parse_money
from capconduit.vocab import CapMetric, CapScope, TargetKind
from lab.floor import PATIENT_DEADLINE_MS, PATIENT_GUARD_S, RATE, SECRET, TRUNK, Floor
from lab.phone import Phone
from lab.ports import LOOPBACK
from lab.wait import LabError, wait_for
from tests.asterisk.ends.scenario import (
    CLOSED_PORT,
    NO_ENDPOINT,
    PHONE,
    TIGHT,
    UNRESOLVABLE,
    Disaster,
    End,
    Play,
)

AT_ONCE: Final = 12  # scenarios that last for seconds; those that last for a minute run beside them
LONG_S: Final = 30
LATE_S: Final = 90  # how much longer than it lasts a scenario may take on a machine that is busy
RECOVERY_S: Final = 45.0
READY_S: Final = 60.0
WATCHED_HOST: Final = "127.0.0.2"  # the carrier whose endpoint watches RTP
ADDRESSES: Final = {
    CLOSED_PORT: f"sip:target@{LOOPBACK}:9",
    UNRESOLVABLE: "sip:target@no-such-host.invalid",
    NO_ENDPOINT: "nobody@nowhere",
}
WATCHED_ENDPOINT: Final = """
[{name}]
type = endpoint
transport = capconduit-udp
context = {context}
disallow = all
allow = ulaw
direct_media = no
allow_transfer = no
rtp_timeout = 2
aors = {name}
{more}
[{name}]
type = aor
contact = {contact}
"""
WATCHED_TRUNK: Final = f"[watched]\ntype = identify\nendpoint = watched\nmatch = {WATCHED_HOST}\n"
AMI_USER: Final = f"""
[operator]
secret = {SECRET}
deny = 0.0.0.0/0
permit = {LOOPBACK}
read =
write = call,system
"""
# Codes that work on every bridge whose Dial allows them; ours allows none.
FEATURES: Final = "[general]\n[featuremap]\nblindxfer => #1\natxfer => *2\n"


@dataclass(slots=True)
class Run:
    """One scenario under way: what its thread came to."""

    end: End
    play: Play
    seller: str
    thread: threading.Thread
    ready: threading.Event = field(default_factory=threading.Event)  # for the disaster, or for the recovery
    error: BaseException | None = None

    def joined(self) -> None:
        """Wait for its end. Raises what the scenario raised."""
        self.thread.join(self.end.lasts_s + LATE_S)
        if self.thread.is_alive():
            raise LabError(f"{self.end.name} does not end\n{self.play.transcript()}")
        if self.error is not None:
            raise LabError(f"{self.end.name}: {self.error}\n{self.play.transcript()}") from self.error


class Stage:
    """`with Stage(tree, ends) as stage:` starts an Asterisk with an estate for these scenarios."""

    def __init__(self, tree: Path, ends: Iterable[End], *, without_refer: bool = False) -> None:
        self.floor = Floor(tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S)
        self.runs: dict[str, Run] = {}
        self._struck, self._recovered = threading.Event(), threading.Event()
        self._struck_s = 0.0
        self._places = threading.Semaphore(AT_ONCE)
        for index, each in enumerate(ends, 1):
            self.runs[each.name] = self._prepare(each, index)
        self._configure()
        if without_refer:
            self.floor.asterisk.leave_out("res_pjsip_refer.so")

    # --- the estate ---------------------------------------------------------------------------------------------------

    def _prepare(self, end: End, index: int) -> Run:
        floor, office = self.floor, self.floor.office
        name, number = f"s{index}", f"+1800556{index:04d}"
        sellers.add_seller(office, name, currency="USD", timezone="America/New_York")
        balances.adjust(office, name, parse_money(end.funds, signed=True), reason="lab")
        campaigns.add_campaign(
            office, name, seller=name, rate=RATE, strategy=end.strategy, max_duration_ms=end.ceiling_s * 1_000
        )
        limits = [caps.parse_limit(CapMetric.CONCURRENT, "1"), caps.parse_limit(CapMetric.SPEND, "100/day")]
        limits += [caps.parse_limit(m, "9/day") for m in (CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)]
        caps.set_caps(office, CapScope.CAMPAIGN, name, limits)
        dids.add_did(office, number, trunk=TRUNK, campaign=name)
        host = WATCHED_HOST if end.from_watched_trunk else LOOPBACK
        caller = Phone(floor.ports.sip, f"+1212556{index:04d}", host)
        phones: list[Phone] = []
        for place, kind in enumerate(end.targets, 1):
            target = f"{name}-t{place}"
            if kind in (PHONE, TIGHT):
                phones.append(Phone(floor.ports.sip))
                address = phones[-1].uri if kind == PHONE else f"watched-{name}"
            else:
                address = ADDRESSES[kind]
            targets.add_target(office, target, kind=TargetKind.PJSIP, address=address, ring_ms=end.ring_s * 1_000)
            targets.add_rule(office, name, target, priority=place)
        play = Play(number, caller, phones, floor.asterisk, self.ami)
        run = Run(end, play, name, threading.Thread(daemon=True))
        run.thread = threading.Thread(target=self._play, args=(run,), name=end.name, daemon=True)
        play.await_disaster = lambda: self._await(run, self._struck)
        play.await_recovery = lambda: self._await(run, self._recovered)
        return run

    def _configure(self) -> None:
        """Endpoints that watch their media, a user of AMI for the operator, and transfer codes."""
        watched = [
            WATCHED_ENDPOINT.format(
                name="watched", context="capconduit-inbound", contact=f"sip:{WATCHED_HOST}", more="identify_by = ip"
            ),
            WATCHED_TRUNK,
        ]
        watched += [
            WATCHED_ENDPOINT.format(
                name=f"watched-{run.seller}", context="capconduit-none", contact=run.play.target.uri, more=""
            )
            for run in self.runs.values()
            if TIGHT in run.end.targets
        ]
        asterisk = self.floor.asterisk
        asterisk.put("capconduit.d/pjsip/watched.conf", "".join(watched))
        asterisk.put("manager.conf", (asterisk.dir / "etc/manager.conf").read_text() + AMI_USER)
        asterisk.put("features.conf", FEATURES)

    # --- playing ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """All scenarios without a disaster, the longest first; returns at once."""
        runs = [run for run in self.runs.values() if run.end.disaster is None]
        for run in sorted(runs, key=lambda run: -run.end.lasts_s):
            run.thread.start()

    def strike(self, disaster: Disaster) -> None:
        """All scenarios of a disaster; returns when everything is back."""
        runs = [run for run in self.runs.values() if run.end.disaster is disaster]
        self._struck.clear()
        self._recovered.clear()
        for run in runs:
            run.thread.start()
        self._wait_for(runs)
        self._strike(disaster)
        self._struck_s = time.monotonic()
        for run in runs:
            run.ready.clear()
            run.play.struck_s = self._struck_s
        self._struck.set()
        self._wait_for(runs)
        self._recover(disaster)
        self._recovered.set()
        for run in runs:
            run.thread.join(run.end.lasts_s + LATE_S)

    def _wait_for(self, runs: Sequence[Run]) -> None:
        wait_for(lambda: all(run.ready.is_set() or not run.thread.is_alive() for run in runs), "scenarios", READY_S)

    def _strike(self, disaster: Disaster) -> None:
        floor = self.floor
        match disaster:
            case Disaster.DAEMON_FROZEN:
                floor.signal_daemon(signal.SIGSTOP)
            case Disaster.DAEMON_KILLED:
                floor.stop_daemon(signal.SIGKILL)
            case Disaster.ASTERISK_STOPPED:
                floor.asterisk.stop()
            case Disaster.ASTERISK_RESTARTED:
                floor.asterisk.restart_now()
            case Disaster.ASTERISK_KILLED:
                floor.asterisk.kill9()

    def _recover(self, disaster: Disaster) -> None:
        floor = self.floor
        match disaster:
            case Disaster.DAEMON_FROZEN:
                floor.signal_daemon(signal.SIGCONT)
            case Disaster.DAEMON_KILLED:
                floor.start_daemon()
            case Disaster.ASTERISK_STOPPED | Disaster.ASTERISK_KILLED:
                floor.asterisk.start()
            case Disaster.ASTERISK_RESTARTED:
                pass
        wait_for(lambda: floor.status()["ready"] and floor.status()["ami"]["up"], "daemon with AMI", RECOVERY_S)
        floor.asterisk.cli("dialplan set global CC_QUIET_UNTIL 0")

    def _await(self, run: Run, event: threading.Event) -> None:
        run.ready.set()
        if not event.wait(READY_S + RECOVERY_S):
            raise LabError("nothing happened")

    def _play(self, run: Run) -> None:
        place = self._places if run.end.lasts_s < LONG_S else threading.Semaphore()
        with place:
            try:
                run.end.play(run.play)
            except BaseException as error:  # the test that asks for it tells
                run.error = error
                run.play.give_up()
            finally:
                run.ready.set()

    def ami(self, action: dict[str, str]) -> dict[str, str]:
        """One action of the operator, and its answer."""
        login = {"Action": "Login", "Username": "operator", "Secret": SECRET, "Events": "off"}
        with socket.create_connection((LOOPBACK, self.floor.ports.ami), timeout=RECOVERY_S) as connection:
            lines = connection.makefile("rw", encoding="utf-8", newline="")
            lines.readline()
            answer: dict[str, str] = {}
            for packet in (login, action):
                lines.write("".join(f"{key}: {value}\r\n" for key, value in packet.items()) + "\r\n")
                lines.flush()
                answer = dict(line.strip().partition(": ")[::2] for line in iter(lines.readline, "\r\n"))
                if answer.get("Response") != "Success":
                    raise LabError(f"AMI: {answer}")
            return answer

    # --- what came of it ----------------------------------------------------------------------------------------------

    def cdr(self, run: Run) -> CdrRow:
        """The only CDR of a scenario's number, once its call has ended."""
        office = self.floor.office
        wait_for(lambda: self._cdrs(run), f"CDR of {run.end.name}", RECOVERY_S)
        wait_for(lambda: not [c for c in calls.list_calls(office) if c.call.did_number == run.play.number], "end")
        (cdr,) = self._cdrs(run)
        return cdr

    def _cdrs(self, run: Run) -> list[CdrRow]:
        return [cdr for cdr in calls.find_cdrs(self.floor.office) if cdr.did == run.play.number]

    # --- life ---------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Stage:
        try:
            self.floor.__enter__()
        except BaseException:
            self._close_phones()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.floor.close()
        finally:
            self._close_phones()

    def _close_phones(self) -> None:
        for run in self.runs.values():
            for phone in (run.play.caller, *run.play.targets, *run.play.others):
                phone.close()
