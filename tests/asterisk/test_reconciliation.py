"""Our books and a real Asterisk's channels compared: zombies are seen and told, dead boots settled, nobody is hung up.

What the end of a killed daemon or Asterisk costs is in test_kills.py; here stands what neither of them told.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.calls import SettleReport
from capconduit.domain.model import Event
from capconduit.services.engine import Engine
from capconduit.vocab import CallState, DialStatus, EventKind
from lab.floor import PATIENT_DEADLINE_MS, PATIENT_GUARD_S, Floor
from lab.sipp import Scenario
from lab.wait import wait_for
from tests.asterisk.test_calls import EARLY_MS, TALK_MARGIN_MS
from tests.asterisk.test_kills import FUNDED_MICROS, RECOVERY_S, Scene

LOOK_S = 50.0  # the daemon compares every fifteen seconds, and twice before it concludes
HELD_MS = 15_000  # long enough for two restarts of a daemon on a busy machine
# A context of the operator's own, beside ours.
OWN_CONTEXT = """
[own]
exten => s,1,Answer()
 same => n,Wait(60)
"""


@pytest.fixture(scope="module")
def floor(asterisk_tree: Path) -> Iterator[Floor]:
    with Floor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S) as floor:
        floor.fund(str(FUNDED_MICROS // 1_000_000))
        floor.asterisk.put("capconduit.d/own.conf", OWN_CONTEXT)
        floor.asterisk.cli("dialplan reload")
        yield floor


@pytest.fixture
def scene(floor: Floor) -> Iterator[Scene]:
    scene = Scene(floor)
    with scene.stack:
        yield scene
    floor.asterisk.cli("channel request hangup all")  # where the test failed
    floor.asterisk.wait_idle()


def zombies(floor: Floor, since_ms: int) -> list[dict[str, Any]]:
    """What `call.zombie` told since then."""
    events = floor.office.read(lambda desk: desk.tx.rows(Event, desk.tenant_id, since=("at_ms", since_ms)))
    told = [event for event in events if event.kind is EventKind.CALL_ZOMBIE]
    return [{"subject": event.subject, **json.loads(event.data)} for event in told]


def settle_behind_its_back(floor: Floor) -> str:
    """Somebody else settles the only live call, as another daemon would; its uniqueid."""
    (view,) = floor.live()
    engine = Engine(floor.store, SystemClock())
    engine.start()
    try:
        done: list[Any] = []
        report = SettleReport(
            node=view.call.node, uniqueid=view.call.uniqueid, dialstatus=DialStatus.ANSWER,
            ended_ms=SystemClock().now_ms(), witness="abandoned",
        )  # fmt: skip
        engine.submit(report, lambda answer, error: done.append(error or answer))
        wait_for(lambda: done, "settlement")
    finally:
        engine.stop(10)
    assert not floor.live()
    return view.call.uniqueid


# --- a channel without a call -----------------------------------------------------------------------------------------


def test_a_channel_without_a_call_is_told_once_and_left_alone(scene: Scene, floor: Floor) -> None:
    began_ms = SystemClock().now_ms()
    scene.target(Scenario.UAS_ANSWER)
    scene.call(Scenario.UAC_WAIT_BYE)
    scene.lives(CallState.UP)
    uniqueid = settle_behind_its_back(floor)
    floor.stop_daemon()
    floor.start_daemon()  # it compares at its start
    wait_for(lambda: floor.status()["zombies"]["channels"], "zombie", LOOK_S)
    shown = floor.status()["zombies"]["shown"][0]
    assert shown["uniqueid"] == uniqueid
    assert shown["channel"] in floor.asterisk.channels()
    assert len(floor.asterisk.channels()) == 2, "it talks on"
    (told,) = zombies(floor, began_ms)
    assert told == {
        "subject": uniqueid, "node": floor.node, "lacks": "call", "uniqueid": uniqueid, "channel": shown["channel"],
    }  # fmt: skip
    floor.asterisk.cli("channel request hangup all")
    floor.asterisk.wait_idle()
    wait_for(lambda: not floor.status()["zombies"]["channels"], "end of the zombie", LOOK_S)
    assert len(zombies(floor, began_ms)) == 1
    scene.recovered()


def test_the_operators_own_calls_and_calls_that_are_ours_are_no_zombies(scene: Scene, floor: Floor) -> None:
    began_ms = SystemClock().now_ms()
    scene.target(Scenario.UAS_ANSWER)
    floor.asterisk.cli("channel originate Local/s@own extension s@own")
    scene.call(hold_ms=HELD_MS)
    scene.lives(CallState.UP)
    floor.stop_daemon()
    floor.start_daemon()  # it compares at its start
    assert len(floor.asterisk.channels()) == 4
    wait_for(lambda: len(floor.asterisk.channels()) == 2, "end of our call", HELD_MS / 1_000 + 30)
    assert floor.status()["zombies"] == {"channels": 0, "calls_found": 0, "shown": []}
    assert zombies(floor, began_ms) == []
    floor.asterisk.cli("channel request hangup all")
    (cdr,) = scene.recovered()
    assert HELD_MS - EARLY_MS <= cdr.talk_ms <= scene.seen_ms(cdr) + TALK_MARGIN_MS


# --- a call without a channel -----------------------------------------------------------------------------------------


def test_a_call_without_a_channel_is_told_and_settled_at_its_last_known_life(scene: Scene, floor: Floor) -> None:
    """Its end was told to nobody: the daemon was dead, and what Asterisk kept is lost."""
    began_ms = SystemClock().now_ms()
    scene.target(Scenario.UAS_ANSWER)
    scene.call(hold_ms=5_000)
    scene.lives(CallState.UP)
    (view,) = floor.live()
    floor.stop_daemon(signal.SIGKILL)
    floor.asterisk.wait_idle()
    wait_for(lambda: floor.asterisk.database("capconduit/unsettled"), "kept settlement")
    floor.asterisk.cli("database deltree capconduit/unsettled")
    floor.start_daemon()
    (cdr,) = scene.recovered()
    assert cdr.witness.startswith("reconciler")
    assert cdr.talk_ms <= scene.seen_ms(cdr) + TALK_MARGIN_MS
    (told,) = zombies(floor, began_ms)
    assert told == {
        "subject": cdr.call_id, "node": floor.node, "lacks": "channel", "uniqueid": view.call.uniqueid,
        "channel": view.call.channel,
    }  # fmt: skip
    assert floor.status()["zombies"]["calls_found"] == 1


# --- dead boots -------------------------------------------------------------------------------------------------------


def test_calls_of_several_boots_are_each_settled_as_of_their_own(scene: Scene, floor: Floor) -> None:
    """One call dies with its Asterisk while the daemon is dead, too; the next is of the Asterisk that came after it."""
    began_ms = SystemClock().now_ms()
    scene.target(Scenario.UAS_ANSWER)
    scene.call()
    scene.lives(CallState.UP)
    (first,) = floor.live()
    floor.stop_daemon(signal.SIGKILL)
    floor.asterisk.kill9()
    killed_ms = SystemClock().now_ms()
    floor.asterisk.start()
    floor.start_daemon()
    scene.call(hold_ms=6_000)
    wait_for(lambda: [c for c in floor.live() if c.call.uniqueid != first.call.uniqueid], "second call")
    wait_for(lambda: first.call.id not in {c.call.id for c in floor.live()}, "end of the first", RECOVERY_S)
    floor.asterisk.wait_idle()
    dead, lived = sorted(scene.recovered(), key=lambda cdr: cdr.call_id)
    assert (dead.call_id, dead.dialstatus) == (first.call.id, DialStatus.ANSWER)
    assert dead.witness.startswith(("asterisk-restart", "reconciler"))
    assert dead.answered_ms is not None
    assert dead.talk_ms <= killed_ms - dead.answered_ms
    assert lived.witness == "handler+ami"
    assert 6_000 - EARLY_MS <= lived.talk_ms <= scene.seen_ms(lived) + TALK_MARGIN_MS
    assert all(told["subject"] == dead.call_id for told in zombies(floor, began_ms))


def test_a_daemon_that_comes_back_to_living_calls_hangs_up_none_of_them(scene: Scene, floor: Floor) -> None:
    scene.target(Scenario.UAS_ANSWER)
    for _ in range(3):
        scene.call(hold_ms=HELD_MS)
    wait_for(lambda: len([c for c in floor.live() if c.call.state is CallState.UP]) == 3, "three calls that are up")
    for _ in range(2):
        floor.stop_daemon(signal.SIGKILL)
        floor.start_daemon()
        assert len(floor.live()) == 3
        assert len(floor.asterisk.channels()) == 6
    floor.asterisk.wait_idle(HELD_MS / 1_000 + 30)
    cdrs = scene.recovered()
    assert len(cdrs) == 3
    for cdr in cdrs:
        assert HELD_MS - EARLY_MS <= cdr.talk_ms <= scene.seen_ms(cdr) + TALK_MARGIN_MS
        assert cdr.hung_up_by == "caller"
