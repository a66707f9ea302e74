"""Killing Asterisk, daemon and PostgreSQL under real calls: all is right within ten seconds of their return."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from capconduit.clock import SystemClock
from capconduit.domain.model import Cdr
from capconduit.services.balances import ledger
from capconduit.services.calls import find_cdrs
from capconduit.vocab import CallState
from lab.floor import NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, SELLER, Floor
from lab.sipp import Scenario, Sipp, talks
from lab.wait import wait_for
from tests.asterisk.test_calls import EARLY_MS, TALK_MARGIN_MS, price
from tests.daemon.test_crashes import Cluster

RECOVERY_S = 14.0  # ten on a machine that does nothing else; after fifteen the daemon would compare by itself
FUNDED_MICROS = 1_000_000_000
TALK_MS, LONGER_MS = 4_000, 7_000


class Scene:
    """A floor that several tests share; each has targets and calls of its own."""

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.stack = ExitStack()
        self.callers: list[Sipp] = []
        self.frozen = False
        floor.clear_targets()
        self._earlier = {cdr.call_id for cdr in find_cdrs(floor.office)}

    # --- calls --------------------------------------------------------------------------------------------------------

    def target(self, scenario: Scenario, *, priority: int = 1, ring_s: int = 20) -> None:
        """Somebody to be called."""
        buyer = self.stack.enter_context(Sipp.uas(scenario))
        self.floor.target(buyer.uri, priority=priority, ring_s=ring_s)

    def call(self, scenario: Scenario = Scenario.UAC_HANG_UP, *, hold_ms: int = 60_000) -> None:
        """Somebody calls; he hangs up after `hold_ms`, if nobody is killed before."""
        uac = Sipp.uac(scenario, NUMBER, self.floor.ports.sip, hold_ms=hold_ms, timeout_s=90)
        self.callers.append(self.stack.enter_context(uac))

    def lives(self, state: CallState | None = None) -> None:
        """Wait until the database knows a call in this state."""
        wait_for(lambda: [c for c in self.floor.live() if state in (None, c.call.state)], f"live call, {state}")

    def seen_ms(self, cdr: Cdr) -> int:
        """How long that call talked by the clock of its caller, who hung up."""

        def found() -> int:
            return sum(talks(caller.messages()).get(cdr.sip_call_id, 0) for caller in self.callers)

        return wait_for(found, f"BYE of the caller of {cdr.call_id}")

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop the daemon, so that the next question of Asterisk waits for its answer."""
        self.floor.signal_daemon(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on."""
        if self.frozen:
            self.floor.signal_daemon(signal.SIGCONT)
            self.frozen = False

    def is_asked(self) -> None:
        """Wait until Asterisk has connected to the frozen daemon."""
        port = f":{self.floor.agi_port:04X}"

        def connected() -> bool:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            return any(row[2].endswith(port) and row[3] == "01" for row in rows)

        wait_for(connected, "question of Asterisk")

    # --- what must be -------------------------------------------------------------------------------------------------

    def recovered(self) -> list[Cdr]:
        """All pieces are back: all is right in less than ten seconds. The CDRs of this test."""
        floor = self.floor
        wait_for(lambda: not floor.live(), "end of all calls", RECOVERY_S)
        wait_for(lambda: not floor.asterisk.database("capconduit/unsettled"), "empty spool", RECOVERY_S)
        assert floor.drift() == []
        assert floor.balance().account.held_micros == 0
        cdrs = list(find_cdrs(floor.office))
        _, entries = ledger(floor.office, SELLER)
        settled = [*Counter(cdr.uniqueid for cdr in cdrs).values()]
        billed = [*Counter(entry.call_id for entry in entries if entry.call_id).values()]
        assert [count for count in (*settled, *billed) if count != 1] == []
        assert floor.balance().account.balance_micros == FUNDED_MICROS - sum(cdr.amount_micros for cdr in cdrs)
        ours = [cdr for cdr in cdrs if cdr.call_id not in self._earlier]
        assert [cdr.amount_micros for cdr in ours] == [price(cdr) for cdr in ours]
        return ours


@pytest.fixture(scope="module")
def floor(asterisk_tree: Path) -> Iterator[Floor]:
    with Floor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S) as floor:
        floor.fund(str(FUNDED_MICROS // 1_000_000))
        yield floor


@pytest.fixture
def scene(floor: Floor) -> Iterator[Scene]:
    scene = Scene(floor)
    with scene.stack:
        yield scene
    floor.asterisk.wait_idle()


# --- the states of a call ---------------------------------------------------------------------------------------------


def deciding(scene: Scene) -> None:
    scene.target(Scenario.UAS_ANSWER)
    scene.freeze()
    scene.call()
    scene.is_asked()


def ringing(scene: Scene, hold_ms: int = 1_000) -> None:
    scene.target(Scenario.UAS_RING)
    scene.call(Scenario.UAC_CANCEL, hold_ms=hold_ms)
    scene.lives()


def up(scene: Scene, hold_ms: int = TALK_MS) -> None:
    scene.target(Scenario.UAS_ANSWER)
    scene.call(hold_ms=hold_ms)
    scene.lives(CallState.UP)


def up_for_longer(scene: Scene) -> None:
    """It ends when everything is back."""
    up(scene, LONGER_MS)


def hanging_up(scene: Scene) -> None:
    """The daemon is frozen before the end, so that it does not hear AMI tell of it."""
    up(scene, LONGER_MS)
    scene.freeze()
    scene.is_asked()


def failing_over(scene: Scene) -> None:
    scene.target(Scenario.UAS_RING, priority=1, ring_s=5)
    scene.target(Scenario.UAS_ANSWER, priority=2)
    scene.call(hold_ms=500)
    wait_for(lambda: len(scene.floor.asterisk.channels()) == 2, "leg of the target")
    scene.freeze()
    scene.is_asked()


State = Callable[[Scene], None]
STATES = [deciding, ringing, up, up_for_longer, hanging_up, failing_over]
TALKING = (up, up_for_longer, hanging_up)


def name_of(state: State) -> str:
    return state.__name__.replace("_", "-")


# --- who is killed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=name_of)
def test_asterisk_is_killed(scene: Scene, state: State) -> None:
    state(scene)
    scene.floor.asterisk.kill9()
    killed_ms = SystemClock().now_ms()
    scene.thaw()
    scene.floor.asterisk.start()
    wait_for(lambda: scene.floor.status()["ready"], "AMI", RECOVERY_S)
    cdrs = scene.recovered()
    if state in TALKING:
        (cdr,) = cdrs
        assert (cdr.dialstatus, cdr.reject_reason) == ("ANSWER", "")
        assert cdr.answered_ms is not None
        seen_ms = scene.seen_ms(cdr) if state is hanging_up else killed_ms - cdr.answered_ms
        assert cdr.talk_ms <= seen_ms + TALK_MARGIN_MS
    else:
        assert [cdr.amount_micros for cdr in cdrs if cdr.amount_micros] == []


@pytest.mark.parametrize("state", STATES, ids=name_of)
def test_the_daemon_is_killed(scene: Scene, state: State) -> None:
    state(scene)
    scene.floor.stop_daemon(signal.SIGKILL)
    if state is not up_for_longer:
        scene.floor.asterisk.wait_idle()
    scene.floor.start_daemon()
    if state is up_for_longer:
        scene.floor.asterisk.wait_idle()
    cdrs = scene.recovered()
    if state in TALKING:
        (cdr,) = cdrs
        told_ms = TALK_MS if state is up else LONGER_MS
        assert told_ms - EARLY_MS <= cdr.talk_ms <= scene.seen_ms(cdr) + TALK_MARGIN_MS
        assert cdr.witness.endswith("+ami")
    else:
        assert [cdr.amount_micros for cdr in cdrs if cdr.amount_micros] == []
    if state is failing_over:
        (cdr,) = cdrs
        assert (cdr.attempts, cdr.dialstatus) == (1, "NOANSWER")


def test_asterisk_and_daemon_are_killed_together(scene: Scene) -> None:
    up(scene, hold_ms=60_000)
    scene.floor.asterisk.kill9()
    scene.floor.stop_daemon(signal.SIGKILL)
    scene.floor.asterisk.start()
    scene.floor.start_daemon()
    (cdr,) = scene.recovered()
    assert cdr.dialstatus == "ANSWER"
    assert cdr.witness.startswith(("asterisk-restart", "reconciler"))


@pytest.mark.postgres
def test_postgres_is_killed_under_calls_in_every_state(
    asterisk_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that ring, talk and fail over lose the database; their ends are acknowledged all the same."""
    monkeypatch.setenv("CAPCONDUIT_NODE__JOURNAL", str(tmp_path / "settlements.journal"))
    cluster = Cluster()
    try:
        with Floor(
            asterisk_tree,
            database_url=cluster.url(cluster.empty_database()),
            deadline_ms=PATIENT_DEADLINE_MS,
            guard_s=PATIENT_GUARD_S,
        ) as floor:
            floor.fund(str(FUNDED_MICROS // 1_000_000))
            scene = Scene(floor)
            with scene.stack:
                up(scene, hold_ms=9_000)  # both end after the database is dead
                floor.clear_targets()
                ringing(scene, hold_ms=5_000)
                wait_for(lambda: len(floor.live()) == 2, "two live calls")
                cluster.kill9()
                wait_for(lambda: floor.status()["journal"]["waiting"] == 2, "two ends in the journal")
                floor.asterisk.wait_idle()
                assert floor.asterisk.database("capconduit/unsettled") == {}
                scene.call(Scenario.UAC_REFUSED)
                wait_for(lambda: floor.status()["fastagi"]["requests"]["route"] == 3, "a call that is refused")
                cluster.start()
                talked, cancelled = sorted(scene.recovered(), key=lambda cdr: -cdr.talk_ms)
                seen_ms = scene.seen_ms(talked)
            assert 9_000 - EARLY_MS <= talked.talk_ms <= seen_ms + TALK_MARGIN_MS
            assert (talked.witness, cancelled.witness) == ("journal+ami", "journal")
            assert (cancelled.dialstatus, cancelled.amount_micros) == ("CANCEL", 0)
    finally:
        cluster.start()
        cluster.close()
