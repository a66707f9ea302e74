"""Targets that ring at once, on a real Asterisk with the real daemon: whose call it is, and that nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.domain.model import Attempt, Cdr
from capconduit.services import calls, campaigns, caps, rates, targets
from capconduit.vocab import CAUSE_ANSWERED_ELSEWHERE, CallState, CapMetric, CapScope, HungUpBy, Strategy, TargetKind
from lab.floor import CAMPAIGN, NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, Floor
from lab.ports import LOOPBACK
from lab.sipp import Scenario, Sipp, dial
from lab.wait import wait_for
from tests.asterisk.test_calls import EARLY_MS

# What a second at the n-th target of a call costs the seller, and what the target's side gets for it (micros).
PRICES = (10_000, 100_000, 20_000, 40_000)
PAYOUTS = (5_000, 70_000, 1_000, 2_000)
QUICK_MS, SLOW_MS = 400, 20_000
BUSY_MACHINE_MS = 6_000  # a talk may take so much longer than asked for
RING_S = 30

# An operator's own: an endpoint and a peer for each kind of address, and where they lead.
ENDPOINT = """
[bureau]
type = endpoint
transport = capconduit-udp
context = capconduit-none
disallow = all
allow = ulaw
direct_media = no
aors = bureau
[bureau]
type = aor
contact = sip:target@{host}:{port}
"""
OWN_DIALPLAN = """
[own]
exten => 100,1,Ringing()
 same => n,Wait(0.4)
 same => n,Answer()
 same => n,Wait(9)
"""
PEER = """
[loop]
type = peer
host = {host}
port = {port}
[guest]
type = user
context = own
requirecalltoken = no
"""


class Ringing:
    """One test's targets on a floor that all tests share."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.stack = ExitStack()
        floor.clear_targets()
        self.names: list[str] = []
        self._earlier = {cdr.call_id for cdr in calls.find_cdrs(floor.office)}
        self._warnings = len(floor.asterisk.log_warnings())

    def uas(self, scenario: Scenario, *, calls: int = 0, **more: int) -> Sipp:
        """A SIPp that can be called."""
        return self.stack.enter_context(Sipp.uas(scenario, calls=calls, **more))

    def target(self, address: str, kind: TargetKind = TargetKind.PJSIP, *, ring_s: int = RING_S) -> str:
        """A new target of the campaign, with prices of its own and caps that count all it does."""
        office, place = self.floor.office, len(self.names)
        name = f"leg{place + 1}"
        self.names.append(name)
        targets.add_target(
            office, name, kind=kind, address=address, ring_ms=ring_s * 1_000, rate=f"rate{place}", payout=f"pay{place}"
        )
        targets.add_rule(office, CAMPAIGN, name, priority=place + 1)
        limits = [caps.parse_limit(CapMetric.CONCURRENT, "9")]
        limits += [caps.parse_limit(m, "99/total") for m in (CapMetric.ATTEMPTS, CapMetric.CONNECTED)]
        caps.set_caps(office, CapScope.TARGET, name, limits)
        return name

    def counts(self, metric: CapMetric) -> list[tuple[int, int]]:
        """(used, in flight) of a cap on each target."""
        found = (
            [v for v in caps.cap_usage(self.floor.office, CapScope.TARGET, name) if v.cap.metric is metric]
            for name in self.names
        )
        return [(view.used, view.in_flight) for (view,) in found]

    def active(self) -> list[int]:
        """Attempts under way at each target."""
        return [targets.show_target(self.floor.office, name).state.active for name in self.names]

    def up(self) -> calls.CallView:
        """The live call, once its answer is recorded."""
        return wait_for(lambda: [c for c in self.floor.live() if c.call.state is CallState.UP], "answered call")[0]

    def cdr(self, expected_warning: str = "nothing") -> Cdr:
        """The only record of this test, with nothing left behind."""
        floor = self.floor
        floor.asterisk.wait_idle()
        wait_for(lambda: not floor.live(), "end of all calls")
        assert floor.balance().account.held_micros == 0
        assert floor.drift() == []
        assert [w for w in floor.asterisk.log_warnings()[self._warnings :] if expected_warning not in w] == []
        assert self.active() == [0] * len(self.names)
        assert [in_flight for _, in_flight in self.counts(CapMetric.CONCURRENT)] == [0] * len(self.names)
        (cdr,) = (cdr for cdr in calls.find_cdrs(floor.office) if cdr.call_id not in self._earlier)
        return cdr

    def attempts(self, cdr: Cdr) -> list[Attempt]:
        """The attempts of a call, in their order."""
        return sorted(calls.tell(self.floor.office, cdr.call_id).attempts, key=lambda a: a.number)

    def is_billed(self, cdr: Cdr, name: str, talk_ms: int) -> None:
        """The record names this target, its own prices and the talk."""
        place = self.names.index(name)
        assert (cdr.target, cdr.dialstatus, cdr.attempt) == (name, "ANSWER", place + 1)
        assert talk_ms - EARLY_MS <= cdr.talk_ms <= talk_ms + BUSY_MACHINE_MS
        assert cdr.amount_micros == cdr.billed_seconds * PRICES[place] > 0
        assert cdr.payout_micros == cdr.billed_seconds * PAYOUTS[place]
        assert cdr.written_off_micros == 0


@pytest.fixture(scope="module")
def floor(asterisk_tree: Path) -> Iterator[Floor]:
    with Floor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S) as floor:
        floor.fund("1000")
        campaigns.set_campaign(floor.office, CAMPAIGN, strategy=Strategy.RING_ALL)
        for place, (price, payout) in enumerate(zip(PRICES, PAYOUTS, strict=True)):
            rates.add_rate(floor.office, f"rate{place}", per_minute_micros=price * 60, increment="1/1")
            rates.add_rate(floor.office, f"pay{place}", per_minute_micros=payout * 60, increment="1/1")
        yield floor


@pytest.fixture
def ringing(floor: Floor) -> Iterator[Ringing]:
    made = Ringing(floor)
    with made.stack:
        yield made
    floor.asterisk.cli("channel request hangup all")  # what a failed test left
    floor.asterisk.wait_idle()


def test_the_quickest_gets_the_call_and_the_others_are_cancelled(ringing: Ringing) -> None:
    busy, silent = ringing.uas(Scenario.UAS_REFUSE, calls=1), ringing.uas(Scenario.UAS_RING, calls=1)
    quick, slow = ringing.uas(Scenario.UAS_ANSWER, ring_ms=QUICK_MS), ringing.uas(Scenario.UAS_ANSWER, ring_ms=SLOW_MS)
    for leg in (busy, quick, silent, slow):
        ringing.target(leg.uri)
    with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, ringing.floor.ports.sip, hold_ms=6_000) as caller:
        assert ringing.up().target == "leg2"
        assert ringing.active() == [0, 1, 0, 0]
        assert ringing.counts(CapMetric.CONCURRENT) == [(0, 0), (0, 1), (0, 0), (0, 0)]
        assert ringing.counts(CapMetric.ATTEMPTS) == [(1, 0), (0, 1), (1, 0), (1, 0)]
        silent.wait()  # it rang, and was cancelled
        busy.wait()
        caller.wait()
    cdr = ringing.cdr()
    ringing.is_billed(cdr, "leg2", 6_000)
    assert cdr.witness == "handler+ami"
    assert (cdr.attempts, cdr.strategy) == (4, Strategy.RING_ALL)
    assert cdr.ring_ms >= QUICK_MS / 2
    lost = CAUSE_ANSWERED_ELSEWHERE
    assert [a.hangup_cause for a in ringing.attempts(cdr)] == [lost, 16, lost, lost]
    assert ringing.counts(CapMetric.ATTEMPTS) == [(1, 0)] * 4
    assert ringing.counts(CapMetric.CONNECTED) == [(0, 0), (1, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize("form", ["sip:uri;transport", "endpoint", "number@endpoint", "extension", "peer", "host:port"])
def test_ami_tells_the_leg_that_answered_by_what_was_dialled(ringing: Ringing, form: str) -> None:
    asterisk, iax = ringing.floor.asterisk, ringing.floor.ports.iax
    quick = ringing.uas(Scenario.UAS_ANSWER, ring_ms=QUICK_MS)
    asterisk.put("capconduit.d/pjsip/bureau.conf", ENDPOINT.format(host=LOOPBACK, port=quick.port))
    asterisk.put("capconduit.d/own.conf", OWN_DIALPLAN)
    asterisk.put("capconduit.d/iax/loop.conf", PEER.format(host=LOOPBACK, port=iax))
    for command in ("module reload res_pjsip.so", "dialplan reload", "iax2 reload"):
        asterisk.cli(command)
    wait_for(lambda: f"target@{LOOPBACK}:{quick.port}" in asterisk.cli("pjsip show aor bureau"), "endpoint")
    address, kind = {
        "sip:uri;transport": (f"{quick.uri};transport=udp", TargetKind.PJSIP),
        "endpoint": ("bureau", TargetKind.PJSIP),
        "number@endpoint": ("4711@bureau", TargetKind.PJSIP),
        "extension": ("100@own", TargetKind.EXTENSION),
        "peer": ("loop/100", TargetKind.IAX2),
        "host:port": (f"{LOOPBACK}:{iax}/100", TargetKind.IAX2),
    }[form]
    ringing.target(ringing.uas(Scenario.UAS_RING, calls=1).uri)
    ringing.target(address, kind)
    with Sipp.uac(Scenario.UAC_WAIT_BYE, NUMBER, ringing.floor.ports.sip) as caller:
        call = ringing.up().call
        assert call.leg == 2
        assert ringing.active() == [0, 1]
        wait_for(lambda: call.channel in asterisk.channels_up(), "caller that talks")
        asterisk.cli(f"channel request hangup {call.channel}")
        caller.wait()
    ringing.is_billed(ringing.cdr(), "leg2", 0)


def test_a_caller_who_hangs_up_while_all_ring_cancels_them_all(ringing: Ringing) -> None:
    silent = [ringing.uas(Scenario.UAS_RING, calls=1) for _ in range(2)]
    for leg in silent:
        ringing.target(leg.uri)
    with Sipp.uac(Scenario.UAC_CANCEL, NUMBER, ringing.floor.ports.sip, hold_ms=300) as caller:
        caller.wait()
    for leg in silent:
        leg.wait()
    cdr = ringing.cdr()
    assert (cdr.dialstatus, cdr.sip_code, cdr.attempts, cdr.amount_micros) == ("CANCEL", 487, 2, 0)
    assert ringing.counts(CapMetric.ATTEMPTS) == [(1, 0)] * 2
    assert ringing.counts(CapMetric.CONNECTED) == [(0, 0)] * 2


def test_when_all_fail_the_caller_hears_why(ringing: Ringing) -> None:
    for _ in range(2):
        ringing.target(ringing.uas(Scenario.UAS_REFUSE, code=486).uri)
    ringing.target("nobody@nowhere")  # no such endpoint: no channel comes to be
    dial(NUMBER, ringing.floor.ports.sip, expect=486)
    cdr = ringing.cdr("endpoint 'nowhere' was not found")
    assert (cdr.reject_reason, cdr.dialstatus, cdr.hangup_cause) == ("targets_all_failed", "BUSY", 17)
    assert (cdr.attempts, cdr.amount_micros) == (3, 0)
    assert ringing.counts(CapMetric.ATTEMPTS) == [(1, 0)] * 3


def test_what_did_not_ring_yet_rings_when_all_have_failed(ringing: Ringing) -> None:
    floor, silent = ringing.floor, [ringing.uas(Scenario.UAS_RING, calls=1) for _ in range(2)]
    for leg in silent:
        ringing.target(leg.uri, ring_s=5)
    last = ringing.target(ringing.uas(Scenario.UAS_ANSWER).uri)
    full = caps.parse_limit(CapMetric.CONCURRENT, "0")
    caps.set_caps(floor.office, CapScope.TARGET, last, [full])
    with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, floor.ports.sip, hold_ms=300) as caller:
        wait_for(lambda: floor.live(), "call")
        caps.set_caps(floor.office, CapScope.TARGET, last, [replace(full, value=1)])
        caller.wait()
    for leg in silent:
        leg.wait()
    cdr = ringing.cdr()
    ringing.is_billed(cdr, last, 300)
    assert [(a.round, a.dialstatus) for a in ringing.attempts(cdr)] == [(1, "NOANSWER"), (1, "NOANSWER"), (3, "ANSWER")]


@pytest.mark.parametrize("hung_up_by", [HungUpBy.CALLER, HungUpBy.TARGET])
def test_without_ami_the_dialplan_tells_the_leg_that_answered(ringing: Ringing, hung_up_by: HungUpBy) -> None:
    by_target = hung_up_by is HungUpBy.TARGET
    ringing.target(ringing.uas(Scenario.UAS_RING, calls=1).uri)
    answers = Scenario.UAS_HANG_UP if by_target else Scenario.UAS_ANSWER
    ringing.target(ringing.uas(answers, ring_ms=QUICK_MS, hold_ms=500).uri)
    with ami_away(ringing.floor):
        dial(NUMBER, ringing.floor.ports.sip, hold_ms=500, ended_by="us" if by_target else "caller")
    cdr = ringing.cdr()
    # The caller is answered when the other leg is gone, some milliseconds later.
    assert cdr.talk_ms >= 400
    ringing.is_billed(cdr, "leg2", 400)
    assert (cdr.witness, cdr.hung_up_by) == ("handler", hung_up_by)
    assert ringing.counts(CapMetric.CONNECTED) == [(0, 0), (1, 0)]


@contextmanager
def ami_away(floor: Floor) -> Iterator[None]:
    """Asterisk closes its manager interface, and opens it again afterwards."""
    asterisk = floor.asterisk
    rendered = (asterisk.dir / "etc/manager.conf").read_text()
    asterisk.put("manager.conf", rendered.replace("enabled = yes", "enabled = no", 1))
    asterisk.cli("manager reload")
    rows = [line.split() for line in asterisk.cli("manager show connected").splitlines()]
    for descriptor in [row[4] for row in rows if row[:1] == ["capconduit"]]:
        asterisk.cli(f"manager kick session {descriptor}")
    wait_for(lambda: not floor.status()["ami"]["up"], "daemon without AMI")
    try:
        yield
    finally:
        asterisk.put("manager.conf", rendered)
        asterisk.cli("manager reload")
        wait_for(lambda: floor.status()["ami"]["up"], "daemon with AMI")
