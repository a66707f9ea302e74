"""What the rules of routing and money do to real SIP calls: exact SIP codes, cuts at the limit, dearer and resting
targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.model import Cdr
from capconduit.render.contexts import RtpRange, StirSource
from capconduit.render.engine import render_all
from capconduit.render.from_config import render_context
from capconduit.services import balances, blocks, calls, campaigns, caps, dids, rates, schedules, targets, trunks
from capconduit.services.targets import Health
from capconduit.units import parse_money
from capconduit.vocab import CallState, CapMetric, CapScope, EventKind, TargetKind, WindowKind
from lab.floor import NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, RATE, SELLER, Floor
from lab.ports import LOOPBACK
from lab.sipp import DEFAULT_CALLER, Scenario, Sipp, SippFailed, dial
from lab.wait import Watch, wait_for
from tests.asterisk.test_calls import EXPECTED_WARNINGS, is_cut_at

FUNDS = 1_000_000_000
A_SECOND = 10_000  # micros, at the campaign's rate of 0.60 a minute
BLOCKED, OTHER = "+12125550199", "+12125550148"
ATTESTED = "P-Attestation-Indicator"
VERDICT = "X-Verstat"
HOUR_MS = 3_600_000
ENDPOINT = """
[nowhere]
type = endpoint
transport = capconduit-udp
context = capconduit-none
disallow = all
allow = ulaw
direct_media = no
aors = nowhere
[nowhere]
type = aor
contact = sip:target@{host}:{port}
"""


class StirFloor(Floor):
    """A floor whose carrier tells STIR in headers."""

    def _files(self) -> dict[str, str]:
        context = render_context(self.config, trunks.list_trunks(self.office), {})
        rtp = RtpRange(start=self.ports.rtp_start, end=self.ports.rtp_end)
        return render_all(replace(context, rtp=rtp, guard_s=self._guard_s, stir=StirSource.HEADERS))


class Scene:
    """One test on a floor that all share, with a campaign of its own: earlier calls count for no cap and no caller."""

    def __init__(self, floor: Floor, campaign: str) -> None:
        self.floor, self.office, self.campaign = floor, floor.office, campaign
        self.stack = ExitStack()
        self._warnings = len(floor.asterisk.log_warnings())
        campaigns.add_campaign(self.office, campaign, seller=SELLER, rate=RATE)
        dids.assign_did(self.office, NUMBER, campaign)
        floor.setting("funding_slice_s", "60")
        self.own(FUNDS)

    def own(self, micros: int) -> None:
        """The seller has this much from now on."""
        if difference := micros - self.floor.balance().account.balance_micros:
            balances.adjust(self.office, SELLER, difference, reason="lab")

    def policy(self, **fields: Any) -> None:
        """Change what the campaign asks for."""
        campaigns.set_campaign(self.office, self.campaign, **fields)

    def buyer(self, scenario: Scenario = Scenario.UAS_ANSWER, *, priority: int = 1, rate: str = "") -> str:
        """A new target at a SIPp of its own; its name."""
        return self.target(self.stack.enter_context(Sipp.uas(scenario)).uri, priority=priority, rate=rate)

    def target(self, address: str, *, priority: int = 1, rate: str = "") -> str:
        """A new target; its name."""
        name = f"{self.campaign}-{priority}"
        targets.add_target(self.office, name, kind=TargetKind.PJSIP, address=address, ring_ms=20_000, rate=rate)
        targets.add_rule(self.office, self.campaign, name, priority=priority)
        return name

    def limit(self, metric: CapMetric, window: WindowKind, value: int, window_ms: int = 0) -> None:
        """A cap on the campaign, in calls, seconds or micros."""
        caps.set_caps(self.office, CapScope.CAMPAIGN, self.campaign, [caps.Limit(metric, window, value, window_ms)])

    def call(self, expect: int = 200, *, caller: str = DEFAULT_CALLER, **more: Any) -> None:
        """One call, which must be answered with this code."""
        dial(NUMBER, self.floor.ports.sip, expect=expect, caller=caller, **more)

    def lives(self, state: CallState) -> None:
        """Wait until the database knows a call in this state."""
        wait_for(lambda: [c for c in self.floor.live() if c.call.state is state], f"live call, {state}")

    def cdrs(self, expected_warning: str = "nothing") -> list[Cdr]:
        """The records of this test, the oldest first, with nothing left behind."""
        floor = self.floor
        floor.asterisk.wait_idle()
        wait_for(lambda: not floor.live(), "end of all calls")
        assert floor.balance().account.held_micros == 0
        assert floor.drift() == []
        expected = (*EXPECTED_WARNINGS, expected_warning)
        warnings = floor.asterisk.log_warnings()[self._warnings :]
        assert [line for line in warnings if not any(words in line for words in expected)] == []
        found = [cdr for cdr in calls.find_cdrs(self.office) if cdr.campaign == self.campaign]
        return sorted(found, key=lambda cdr: cdr.call_id)

    def cut_after(self, seconds: int, *, metric: CapMetric | None = None) -> Cdr:
        """A call that nobody ends is ended by us after so many seconds, which are billed; its record."""
        with Watch() as watch:
            self.call(ended_by="us")
            (cdr,) = self.cdrs()
        is_cut_at(cdr, seconds, watch)
        if metric is not None:
            (view,) = caps.cap_usage(self.office, CapScope.CAMPAIGN, self.campaign)
            assert (view.used, view.in_flight) == (view.cap.limit_value, 0) or cdr.billed_seconds > seconds
            self.call(486)
            assert self.cdrs()[-1].reject_reason.startswith(f"cap_reached:campaign:{metric}")
        return cdr


@pytest.fixture(scope="module")
def floor(asterisk_tree: Path) -> Iterator[Floor]:
    with StirFloor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S) as floor:
        floor.fund(str(FUNDS // 1_000_000))
        rates.add_rate(floor.office, "dear", per_minute_micros=parse_money("3.00"), increment="1/1")
        blocks.add_block(floor.office, BLOCKED, blocks.Where())
        schedules.add_schedule(floor.office, "closed", hours="never")
        yield floor


@pytest.fixture
def scene(floor: Floor) -> Iterator[Scene]:
    scene = Scene(floor, f"campaign{len(campaigns.list_campaigns(floor.office))}")
    with scene.stack:
        yield scene
    floor.asterisk.cli("channel request hangup all")  # what a failed test left
    floor.asterisk.wait_idle()


# --- exact SIP codes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A call that is refused: what the campaign asks for, who calls with which headers, and what he is told."""

    sip: int
    reason: str
    policy: Mapping[str, str] = field(default_factory=dict)
    caller: str = DEFAULT_CALLER
    headers: tuple[str, ...] = ()


NEEDS_A = {"min_attestation": "A"}


@pytest.mark.parametrize(
    "case",
    [
        Refused(403, "caller_blocked", caller=BLOCKED),
        Refused(433, "caller_anonymous", {"anonymous_callers": "reject"}, caller="anonymous"),
        Refused(428, "attestation_missing", NEEDS_A),
        Refused(428, "attestation_missing", NEEDS_A, headers=(f"{ATTESTED}: B",)),
        Refused(438, "attestation_invalid", NEEDS_A, headers=(f"{ATTESTED}: A", f"{VERDICT}: TN-Validation-Failed")),
        Refused(480, "campaign_closed", {"schedule": "closed"}),
    ],
    ids=lambda case: f"{case.reason}-{case.sip}",
)
def test_a_refused_caller_hears_the_exact_code(scene: Scene, case: Refused) -> None:
    scene.policy(**case.policy)
    scene.call(case.sip, caller=case.caller, headers=case.headers)
    (cdr,) = scene.cdrs()
    assert (cdr.reject_reason, cdr.sip_code, cdr.amount_micros) == (case.reason, case.sip, 0)


def test_a_caller_with_the_attestation_that_is_asked_for_is_let_in(scene: Scene) -> None:
    scene.buyer()
    scene.policy(**NEEDS_A)
    scene.call(headers=(f"{ATTESTED}: A", f"{VERDICT}: TN-Validation-Passed"))
    (cdr,) = scene.cdrs()
    assert (cdr.dialstatus, cdr.attestation, cdr.stir_verdict) == ("ANSWER", "A", "TN-Validation-Passed")


def test_a_caller_is_a_duplicate_while_the_call_lives_and_after_it_was_answered(scene: Scene) -> None:
    scene.buyer()
    scene.policy(duplicate_window_ms=HOUR_MS)
    with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, scene.floor.ports.sip, hold_ms=4_000) as first:
        scene.lives(CallState.UP)
        scene.call(403)
        first.wait()
    scene.call(403)
    scene.call(200, caller=OTHER)
    reasons = [cdr.reject_reason for cdr in scene.cdrs()]
    assert reasons == ["", "duplicate_caller", "duplicate_caller", ""]


def test_a_caller_who_reached_nobody_is_no_duplicate(scene: Scene) -> None:
    scene.buyer(Scenario.UAS_REFUSE)
    scene.policy(duplicate_window_ms=HOUR_MS)
    scene.call(486)
    scene.call(486)
    assert [cdr.reject_reason for cdr in scene.cdrs()] == ["targets_all_failed"] * 2


def test_calls_beyond_the_rate_per_second_hear_480(scene: Scene) -> None:
    scene.buyer()
    scene.limit(CapMetric.CPS, WindowKind.NONE, 1)
    with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, scene.floor.ports.sip, calls=6, rate=50, hold_ms=100) as uac:
        with suppress(SippFailed):  # the refused ones are failures to SIPp
            uac.wait()
        told = Counter(line.split()[1] for line in uac.messages().splitlines() if line.startswith("SIP/2.0 "))
    cdrs = scene.cdrs()
    assert len(cdrs) == 6
    refused = [cdr for cdr in cdrs if cdr.reject_reason]
    assert {cdr.reject_reason for cdr in refused} == {"cps_limit"}
    assert told["480"] >= len(refused)
    began = [cdr.decided_ms for cdr in cdrs if not cdr.reject_reason]
    assert all(later - earlier >= 1_000 for earlier, later in pairwise(began))


def test_a_full_rolling_window_is_486(scene: Scene) -> None:
    scene.buyer()
    scene.limit(CapMetric.ATTEMPTS, WindowKind.ROLLING, 1, HOUR_MS)
    scene.call()
    scene.call(486)
    assert [cdr.reject_reason for cdr in scene.cdrs()] == ["", "cap_reached:campaign:attempts:rolling:1h"]


# --- money and limits -------------------------------------------------------------------------------------------------


def test_a_dearer_target_after_a_busy_one_is_funded_anew_and_cut_when_that_is_used_up(scene: Scene) -> None:
    scene.own(15 * A_SECOND)  # 15 s at the first target, 3 s at the second
    scene.buyer(Scenario.UAS_REFUSE)
    dear = scene.buyer(priority=2, rate="dear")
    cdr = scene.cut_after(3)
    assert (cdr.target, cdr.attempts, cdr.amount_micros) == (dear, 2, 15 * A_SECOND)
    assert scene.floor.balance().account.balance_micros == 0


def test_a_cap_by_minutes_cuts_the_call_at_its_limit(scene: Scene) -> None:
    scene.buyer()
    scene.limit(CapMetric.MINUTES, WindowKind.DAY, 2)
    scene.cut_after(2, metric=CapMetric.MINUTES)


def test_a_cap_by_spend_is_extended_to_slice_by_slice_and_cuts_the_call_at_its_limit(scene: Scene) -> None:
    scene.floor.setting("funding_slice_s", "4")
    scene.buyer()
    scene.limit(CapMetric.SPEND, WindowKind.TOTAL, 12 * A_SECOND)
    cdr = scene.cut_after(12, metric=CapMetric.SPEND)
    assert cdr.amount_micros + cdr.written_off_micros == cdr.billed_seconds * A_SECOND
    extended = [e for e, _ in calls.tell(scene.office, cdr.call_id).events if e.kind is EventKind.HOLD_EXTENDED]
    assert len(extended) >= 2


# --- failing targets --------------------------------------------------------------------------------------------------


def test_a_target_that_fails_in_a_row_is_rested_and_one_call_tries_it_afterwards(scene: Scene) -> None:
    floor, office = scene.floor, scene.office
    floor.setting("breaker_failures", "2")
    floor.setting("breaker_rest_s", "10")
    shaky, steady = scene.target("nowhere"), scene.buyer(priority=2)

    def health() -> Health:
        return targets.show_target(office, shaky).health

    for after in (Health.FAILING, Health.RESTING):
        scene.call()  # no such endpoint: CHANUNAVAIL, and the steady one answers
        assert health() is after
    scene.call()
    wait_for(lambda: health() is Health.WAITING, "end of the rest")
    slow = scene.stack.enter_context(Sipp.uas(Scenario.UAS_ANSWER, ring_ms=6_000))
    floor.asterisk.put("capconduit.d/pjsip/nowhere.conf", ENDPOINT.format(host=LOOPBACK, port=slow.port))
    floor.asterisk.cli("module reload res_pjsip.so")
    wait_for(lambda: str(slow.port) in floor.asterisk.cli("pjsip show aor nowhere"), "endpoint")
    with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, floor.ports.sip, hold_ms=300) as probe:
        wait_for(lambda: health() is Health.PROBING, "call that tries it")
        scene.call()
        probe.wait()
    wait_for(lambda: health() is Health.WELL, "end of the trial")
    cdrs = scene.cdrs("endpoint 'nowhere' was not found")
    tried = [(cdr.attempts, cdr.target) for cdr in cdrs]
    assert tried == [(2, steady), (2, steady), (1, steady), (1, shaky), (1, steady)]
    (rested,) = [attempt for attempt in calls.tell(office, cdrs[1].call_id).attempts if attempt.target_name == shaky]
    assert rested.dialstatus == "CHANUNAVAIL"
