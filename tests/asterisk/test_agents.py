"""Calls to voice agents under a real Asterisk: answered and billed where the voice agent says that it is ready, and
otherwise on to the next target, unanswered and unbilled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from capconduit.config import Config, load_config
from capconduit.domain.model import Attempt, Cdr
from capconduit.render.files import BY_NAME
from capconduit.services import agents, providers, targets
from capconduit.services.calls import find_cdrs
from capconduit.vocab import DialStatus, ProviderKind, TargetKind
from lab.asterisk import ETC
from lab.floor import CAMPAIGN, NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, Floor
from lab.ports import LOOPBACK, free_port
from lab.root import asterisk_major
from lab.sipp import Scenario, Sipp, dial
from lab.wait import wait_for
from tests.asterisk.test_calls import EARLY_MS, price
from tests.asterisk.voice_peer import Manner, VoicePeer

WEBSOCKETS = asterisk_major() >= 22  # those of the lab: 16 has none
MODULES = "".join(f"load = {name}.so\n" for name in ("res_http_websocket", "res_websocket_client", "chan_websocket"))
RING_MS = 6_000
SLACK_MS = 4_500  # of a machine that does other things, too; less than it rings
CONNECT_MS = 2_500  # half a second may be over before a busy machine takes the connection
TALK_MS = 600


class AgentFloor(Floor):
    """A floor whose first target is an agent, and the second a buyer who answers."""

    def __init__(self, tree: Path, url: str, *, modules: bool = True) -> None:
        self._voice_url, self._modules = url, modules and WEBSOCKETS
        super().__init__(tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S)
        self.fund("100")
        providers.add_provider(self.office, "local", kind=ProviderKind.OLLAMA, model="m")
        agents.add_agent(self.office, "reception", providers=["local"])
        targets.add_target(self.office, "ai", kind=TargetKind.AGENT, agent="reception", ring_ms=RING_MS)
        targets.add_target(self.office, "buyer", kind=TargetKind.PJSIP, address=f"sip:nobody@{LOOPBACK}")
        for priority, name in enumerate(("ai", "buyer")):
            targets.add_rule(self.office, CAMPAIGN, name, priority=priority)

    def __enter__(self) -> AgentFloor:
        super().__enter__()
        return self

    def _configure(self) -> Config:
        super()._configure()
        with self.config_path.open("a") as file:
            file.write(f'[voice]\nurl = "{self._voice_url}"\nconnect_timeout_ms = {CONNECT_MS}\n')
        return load_config(self.config_path, {})

    def _files(self) -> dict[str, str]:
        modules = (ETC / "modules.conf").read_text() + MODULES
        more = {"modules.conf": modules, "chan_websocket.conf": ""} if self._modules else {}
        return {**super()._files(), **more}

    def call(self) -> tuple[Cdr, list[Attempt]]:
        """One call that is answered: its record and its Dials, in their order. Nothing is left behind."""
        before, had = len(find_cdrs(self.office)), self.balance().account.balance_micros
        dial(NUMBER, self.ports.sip, hold_ms=TALK_MS)
        cdr = self.cdrs(before + 1)[-1]
        wait_for(lambda: not self.live(), "end of the call")
        assert (self.balance().account.held_micros, self.drift()) == (0, [])
        assert TALK_MS - EARLY_MS <= cdr.talk_ms <= TALK_MS + SLACK_MS
        assert had - self.balance().account.balance_micros == cdr.amount_micros == price(cdr) > 0
        found = self.office.read(lambda desk: desk.tx.rows(Attempt, desk.tenant_id, call_id=cdr.call_id))
        return cdr, sorted(found, key=lambda attempt: attempt.number)

    def fell_through(self, *, ring_ms: int, expect: set[DialStatus]) -> None:
        """A call for which the agent was tried for no longer than `ring_ms`; the buyer answered, and is paid for."""
        with Sipp.uas(Scenario.UAS_ANSWER) as buyer_sipp:
            targets.set_target(self.office, "buyer", address=buyer_sipp.uri)
            targets.revive_target(self.office, "ai")
            cdr, (agent, buyer) = self.call()
        assert agent.dialstatus in expect
        assert (agent.answered_ms, cdr.target, cdr.attempts) == (None, buyer.target_name, 2)
        assert agent.ended_ms is not None
        assert agent.ended_ms - agent.started_ms <= ring_ms + SLACK_MS


@dataclass(frozen=True)
class Stage:
    """A floor and the voice agent's process that it leads to."""

    floor: AgentFloor
    peer: VoicePeer


@pytest.fixture(scope="module")
def stage(asterisk_tree: Path) -> Iterator[Stage]:
    if not WEBSOCKETS:
        pytest.skip("this Asterisk has no chan_websocket")
    with VoicePeer(Manner.ANSWER) as peer, AgentFloor(asterisk_tree, peer.url) as floor:
        yield Stage(floor, peer)


def test_a_call_is_answered_when_the_voice_agent_says_so_and_knows_its_attempt(stage: Stage) -> None:
    stage.peer.manner = Manner.ANSWER
    asked, told = len(stage.peer.requests), len(stage.peer.texts)
    cdr, [attempt] = stage.floor.call()
    assert stage.peer.requests[asked:] == [f"GET /media?t={cdr.call_id}-1 HTTP/1.1"]
    assert attempt.dial == f"WebSocket/capconduit-voice/c(ulaw)f(json)nv(t={cdr.call_id}-1)"
    # Commands are JSON, and what is heard is u-law.
    assert any('"format":"ulaw"' in text for text in stage.peer.texts[told:])
    assert (cdr.target, cdr.dialstatus, cdr.witness) == ("ai", "ANSWER", "handler+ami")


@pytest.mark.parametrize(
    ("manner", "ring_ms", "expect"),
    [
        (Manner.SILENT, RING_MS, {DialStatus.NOANSWER}),
        (Manner.LEAVE, 0, {DialStatus.NOANSWER, DialStatus.CHANUNAVAIL, DialStatus.CONGESTION}),
        (Manner.REFUSE, 0, {DialStatus.CHANUNAVAIL}),
        (Manner.DROP, 0, {DialStatus.CHANUNAVAIL}),
    ],
)
def test_a_voice_agent_that_does_not_answer_costs_nothing_and_the_next_target_gets_the_call(
    stage: Stage, manner: Manner, ring_ms: int, expect: set[DialStatus]
) -> None:
    stage.peer.manner = manner
    stage.floor.fell_through(ring_ms=ring_ms, expect=expect)


def test_a_voice_agent_that_is_not_there_costs_nothing_and_is_found_after_the_reload_of_its_file(stage: Stage) -> None:
    floor, file = stage.floor, BY_NAME["websocket_client.conf"]
    text = (floor.asterisk.dir / "etc" / file.name).read_text()
    floor.asterisk.put(file.name, text.replace(stage.peer.url, f"ws://{LOOPBACK}:{free_port()}/media"))
    floor.asterisk.cli(file.reload)
    floor.fell_through(ring_ms=0, expect={DialStatus.CHANUNAVAIL})
    floor.asterisk.put(file.name, text)
    floor.asterisk.cli(file.reload)
    stage.peer.manner = Manner.ANSWER
    assert floor.call()[0].target == "ai"


def test_an_asterisk_without_websockets_passes_an_agent_by(asterisk_tree: Path) -> None:
    """Neither the module nor, before 20, the file: the channel type is not known, and the cascade goes on."""
    url = f"ws://{LOOPBACK}:{free_port()}/media"
    with AgentFloor(asterisk_tree, url, modules=False) as floor:
        floor.fell_through(ring_ms=0, expect={DialStatus.CHANUNAVAIL})
