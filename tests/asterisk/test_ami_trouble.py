"""AMI cut, stalled, slow and flooded under real calls: right CDR, right money, nothing held, AGI unhurt.

The daemon has two AMI users here, a reader and one that acts, each with the least rights, as they are rendered.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from pathlib import Path

import pytest

from capconduit.clock import SystemClock
from capconduit.config import Config, load_config
from capconduit.domain.model import Cdr
from capconduit.services.calls import find_cdrs
from capconduit.vocab import CallState, DialStatus
from lab.floor import NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, Floor
from lab.ports import LOOPBACK
from lab.sipp import Scenario, Sipp
from lab.wait import Watch, wait_for
from tests.asterisk.ami_proxy import AmiClient, AmiProxy, Flood
from tests.asterisk.test_calls import EARLY_MS, TALK_MARGIN_MS
from tests.asterisk.test_kills import FUNDED_MICROS, Scene, up

READER, CONTROL = "capconduit", "capconduit-control"
TALK_MS = 4_000
TOGETHER_MS = 6_000  # for calls that begin one after another and are to be seen together
FUNDED_MARGIN_MS = 600  # a limit that was set by the dialplan alone, on a busy machine
BACK_S = 60.0  # a stalled link is noticed by a ping that is not answered
FLOODER = f"""
[flooder]
secret = flooder-secret
deny = 0.0.0.0/0
permit = {LOOPBACK}/32
read = none
write = user,originate
"""
FLOOD_CONTEXT = """
[flood]
exten => s,1,Answer()
 same => n,Hangup()
"""


class TroubledFloor(Floor):
    """A floor whose daemon reaches AMI through a proxy, with two users; and a third manager that floods."""

    proxy: AmiProxy

    def _configure(self) -> Config:
        config = super()._configure()
        text = self.config_path.read_text()
        secret = self.dir / "ami.control"
        secret.write_text("lab-control-secret")
        secret.chmod(0o600)
        text = text.replace("[node]", f'control_username = "{CONTROL}"\ncontrol_secret = "file:{secret}"\n[node]')
        self.config_path.write_text(text)
        config = load_config(self.config_path, {})  # Asterisk listens there, the daemon is told of the proxy
        self.proxy = AmiProxy(self.ports.ami)
        self.config_path.write_text(text.replace(f"port = {self.ports.ami}", f"port = {self.proxy.port}"))
        return config

    def _files(self) -> dict[str, str]:
        files = super()._files()
        return files | {"manager.conf": files["manager.conf"] + FLOODER, "capconduit.d/flood.conf": FLOOD_CONTEXT}


@pytest.fixture(scope="module")
def floor(asterisk_tree: Path) -> Iterator[TroubledFloor]:
    floor = TroubledFloor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S)
    with floor.proxy, floor:
        floor.fund(str(FUNDED_MICROS // 1_000_000))
        yield floor


@pytest.fixture
def scene(floor: TroubledFloor) -> Iterator[Scene]:
    floor.setting("funding_slice_s", "60")
    scene = Scene(floor)
    try:
        with scene.stack:
            yield scene
    finally:
        floor.proxy.mend()
    floor.asterisk.wait_idle()
    is_well(floor)


def is_well(floor: TroubledFloor) -> None:
    """Both logins stand again, the daemon has answered whatever it was asked, and Asterisk has no complaint."""
    wait_for(lambda: floor.status()["ready"], "both AMI users", BACK_S)
    fastagi = floor.status()["fastagi"]
    assert (fastagi["timeouts"], fastagi["failures"]) == (0, 0)
    assert [line for line in floor.asterisk.log_warnings() if "res_agi" in line] == []


def is_down(floor: TroubledFloor, reason: str = "ami down") -> None:
    wait_for(lambda: reason in floor.status()["reasons"], reason, BACK_S)


def answered_late(scene: Scene, *, ring_ms: int, hold_ms: int) -> None:
    """A call that rings for a while, and is answered then."""
    buyer = scene.stack.enter_context(Sipp.uas(Scenario.UAS_ANSWER, ring_ms=ring_ms))
    scene.floor.target(buyer.uri)
    scene.call(hold_ms=hold_ms)
    scene.lives()


def talked(scene: Scene, cdr: Cdr, talk_ms: int) -> None:
    """It was answered, and its talk is what the caller's own clock says, who hung up after so long."""
    assert (cdr.dialstatus, cdr.reject_reason) == (DialStatus.ANSWER, "")
    assert talk_ms - EARLY_MS <= cdr.talk_ms <= scene.seen_ms(cdr) + TALK_MARGIN_MS
    assert cdr.written_off_micros == 0


# --- cut --------------------------------------------------------------------------------------------------------------


def test_the_link_is_cut_while_it_rings_and_is_back_while_they_talk(scene: Scene, floor: TroubledFloor) -> None:
    answered_late(scene, ring_ms=3_000, hold_ms=12_000)
    floor.proxy.cut()
    is_down(floor)
    wait_for(lambda: "Up" in floor.asterisk.cli("core show channels concise"), "answer")
    floor.proxy.mend()
    wait_for(lambda: floor.status()["ready"], "AMI", BACK_S)
    scene.lives(CallState.UP)
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    talked(scene, cdr, 12_000)


def test_the_link_is_cut_while_it_rings_and_stays_away_until_the_end(scene: Scene, floor: TroubledFloor) -> None:
    answered_late(scene, ring_ms=5_000, hold_ms=TALK_MS)
    floor.proxy.cut()
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    talked(scene, cdr, TALK_MS)
    assert cdr.witness == "handler"


def test_the_link_is_cut_while_they_talk_and_stays_away_until_the_end(scene: Scene, floor: TroubledFloor) -> None:
    up(scene)
    floor.proxy.cut()
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    talked(scene, cdr, TALK_MS)


def test_a_caller_who_leaves_while_it_rings_and_the_link_is_cut_pays_nothing(
    scene: Scene, floor: TroubledFloor
) -> None:
    scene.target(Scenario.UAS_RING)
    scene.call(Scenario.UAC_CANCEL, hold_ms=1_000)
    scene.lives()
    floor.proxy.cut()
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    assert (cdr.dialstatus, cdr.talk_ms, cdr.amount_micros) == (DialStatus.CANCEL, 0, 0)


def test_a_call_with_money_outlives_a_link_that_is_cut_when_it_should_be_extended(
    scene: Scene, floor: TroubledFloor
) -> None:
    floor.setting("funding_slice_s", "20")
    scene.target(Scenario.UAS_ANSWER)
    scene.call(hold_ms=23_000)
    scene.lives(CallState.UP)
    (view,) = floor.live()
    answered_ms = view.call.answered_ms or 0
    wait_for(lambda: SystemClock().now_ms() >= answered_ms + 8_500, "time shortly before half of the slice")
    floor.proxy.cut()
    wait_for(lambda: SystemClock().now_ms() >= answered_ms + 10_300, "half of the slice")
    floor.proxy.mend()  # the daemon may be four seconds late to try again, and two more to look
    floor.asterisk.wait_idle(60)
    (cdr,) = scene.recovered()
    talked(scene, cdr, 23_000)


def test_without_the_link_a_call_ends_when_its_first_slice_does(scene: Scene, floor: TroubledFloor) -> None:
    floor.setting("funding_slice_s", "3")
    floor.proxy.cut()
    is_down(floor)
    scene.target(Scenario.UAS_ANSWER)
    with Watch() as watch:
        scene.call(Scenario.UAC_WAIT_BYE)
        scene.lives()
        floor.asterisk.wait_idle()
    wait_for(lambda: not floor.live(), "end of the call")
    assert floor.drift() == []
    assert floor.balance().account.held_micros == 0
    cdr = max(find_cdrs(floor.office), key=lambda cdr: cdr.call_id)
    assert 3_000 - EARLY_MS <= cdr.talk_ms <= 3_000 + FUNDED_MARGIN_MS + watch.stood_still_ms
    assert cdr.amount_micros == cdr.billed_seconds * 10_000
    assert cdr.billed_seconds <= max(ceil(cdr.talk_ms / 1_000), 3)  # 3, where it was cut within the tolerance


# --- slow -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hold_ms", [1_000, 4_000])
def test_events_that_come_seconds_late_change_no_talk_time(scene: Scene, floor: TroubledFloor, hold_ms: int) -> None:
    """The call ends before its answer is told, or after it."""
    floor.proxy.delay_s = 2.0
    scene.target(Scenario.UAS_ANSWER)
    scene.call(hold_ms=hold_ms)
    scene.lives()
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    talked(scene, cdr, hold_ms)


def test_a_call_is_extended_in_time_over_a_link_that_is_seconds_late(scene: Scene, floor: TroubledFloor) -> None:
    floor.setting("funding_slice_s", "10")
    floor.proxy.delay_s = 1.5
    scene.target(Scenario.UAS_ANSWER)
    scene.call(hold_ms=13_000)
    scene.lives()
    floor.asterisk.wait_idle(60)
    (cdr,) = scene.recovered()
    talked(scene, cdr, 13_000)


def test_bytes_that_trickle_cost_no_call_and_no_answer(scene: Scene, floor: TroubledFloor) -> None:
    floor.proxy.bytes_s = 4_000
    scene.target(Scenario.UAS_ANSWER)
    for _ in range(3):
        scene.call(hold_ms=TOGETHER_MS)
    wait_for(lambda: len(floor.live()) == 3, "three live calls")
    floor.asterisk.wait_idle()
    cdrs = scene.recovered()
    assert len(cdrs) == 3
    for cdr in cdrs:
        talked(scene, cdr, TOGETHER_MS)


def test_a_link_that_stalls_without_a_word_is_left_and_made_anew(scene: Scene, floor: TroubledFloor) -> None:
    up(scene)
    floor.proxy.stalled = True
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    talked(scene, cdr, TALK_MS)
    is_down(floor)
    floor.proxy.mend()


# --- flooded ----------------------------------------------------------------------------------------------------------


def user_event(number: int) -> dict[str, str]:
    return {"Action": "UserEvent", "UserEvent": "Flood", "Number": str(number), "Filler": "x" * 200}


def originate(number: int) -> dict[str, str]:
    """Each makes two channels and about twenty events of the kinds that the daemon listens to."""
    return {
        "Action": "Originate", "Channel": "Local/s@flood", "Context": "flood", "Exten": "s", "Priority": "1",
        "Async": "true", "Variable": f"NUMBER={number}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("action", "per_s", "in_all"), [(user_event, 3_000, 60_000), (originate, 60, 600)], ids=["user", "calls"]
)
def test_a_flood_of_foreign_events_hurts_no_call(
    scene: Scene, floor: TroubledFloor, action: object, per_s: int, in_all: int
) -> None:
    assert callable(action)
    scene.target(Scenario.UAS_ANSWER)
    client = AmiClient(floor.ports.ami, "flooder", "flooder-secret")
    with Flood(client, action, per_s=per_s, in_all=in_all):
        wait_for(lambda: client.sent > per_s, "flood")
        with Sipp.uac(
            Scenario.UAC_HANG_UP, NUMBER, floor.ports.sip, hold_ms=TALK_MS, calls=10, rate=5, timeout_s=80
        ) as callers:
            scene.callers.append(callers)
            callers.wait()
            floor.asterisk.wait_idle(40)
            cdrs = scene.recovered()
    assert len(cdrs) == 10
    assert floor.status()["zombies"] == {"channels": 0, "calls_found": 0, "shown": []}


# --- the second user --------------------------------------------------------------------------------------------------


def test_two_users_with_the_least_rights_extend_a_call_and_delete_what_was_kept(
    scene: Scene, floor: TroubledFloor
) -> None:
    assert floor.status()["ami"]["control"] == {"user": CONTROL, "up": True}
    told = floor.asterisk.cli(f"manager show user {CONTROL}")
    assert "call" in told
    assert "reporting" not in told
    floor.setting("funding_slice_s", "12")
    scene.target(Scenario.UAS_ANSWER)
    scene.call(hold_ms=15_000)
    scene.lives(CallState.UP)
    floor.stop_daemon()
    floor.start_daemon()
    floor.asterisk.wait_idle()
    (cdr,) = scene.recovered()
    talked(scene, cdr, 15_000)
