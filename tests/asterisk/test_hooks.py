"""The examples of docs/hooks.md as they stand there, on a real Asterisk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.render import contexts
from capconduit.render.contexts import Ami, Fallback, RenderContext, RtpRange, TrunkContext
from capconduit.render.engine import render_all
from capconduit.vocab import TrunkKind
from lab.asterisk import ETC, Asterisk
from lab.ports import LOOPBACK, LabPorts
from lab.root import asterisk_major
from lab.scripted_agi import Answer, ScriptedAgi
from lab.sipp import dial
from lab.wait import wait_for

MODERN = asterisk_major() >= 20
DOCUMENT = Path(__file__).parents[2] / "docs" / "hooks.md"
NUMBER = "+18005550100"
EXAMPLES = dict(re.findall(r"^## (.+?)$.*?^```\w+\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL))
MODULES = ("app_mixmonitor", "app_read", "app_senddtmf", "app_echo", "format_wav")
TARGET = """
[lab-target]
exten => 100,1,Answer()
 same => n,Playback(goodbye)
 same => n,Hangup()
"""
REJECT = {"CC_REASON": "cap_reached:campaign:billable:day", "CC_CAUSE": "17", "CC_SIP": "486", "CC_VERDICT": "reject"}


@pytest.fixture(scope="module")
def served() -> Iterator[ScriptedAgi]:
    server = ScriptedAgi()
    yield server
    server.close()


@pytest.fixture(scope="module")
def booted(start_asterisk: Any, served: ScriptedAgi) -> Asterisk:
    def files(ports: LabPorts) -> dict[str, str]:
        context = RenderContext(
            node_name="lab",
            agi_port=served.port,
            ami=Ami(port=ports.ami, users=(), named_filters=MODERN),
            exact_sip_codes=MODERN,
            sip_listen=f"{LOOPBACK}:{ports.sip}",
            iax_listen=f"{LOOPBACK}:{ports.iax}",
            rtp=RtpRange(start=ports.rtp_start, end=ports.rtp_end),
            guard_s=4,  # a machine may stand still for three seconds before our answer is there
            fallback=Fallback(context="rescue"),
            trunks=(TrunkContext(name="carrier", kind=TrunkKind.PJSIP, hosts=(LOOPBACK,)),),
        )
        modules = (ETC / "modules.conf").read_text() + "".join(f"load = {name}.so\n" for name in MODULES)
        if not MODERN:
            modules = modules.replace("load = res_cdrel_custom.so\n", "")
        return {**render_all(context), "modules.conf": modules, "capconduit.d/target.conf": TARGET}

    asterisk: Asterisk = start_asterisk(files)
    return asterisk


@pytest.fixture
def agi(served: ScriptedAgi) -> ScriptedAgi:
    served.reset()
    served.on = {"route": Answer(REJECT), "settle": Answer({"CC_ACK": "1"})}
    return served


@pytest.fixture
def asterisk(booted: Asterisk, agi: ScriptedAgi) -> Iterator[Asterisk]:
    """The module's Asterisk; what an example made it say is an error of the example."""
    booted.cli("dialplan set global CC_QUIET_UNTIL 0")
    before = len(booted.log_warnings())
    yield booted
    booted.wait_idle()
    expected = re.compile("res_agi.c: (Connecting to|Couldn't connect)")
    assert [line for line in booted.log_warnings()[before:] if not expected.search(line)] == []


def hook(asterisk: Asterisk, heading: str) -> None:
    """Puts an example in force, alone."""
    asterisk.put("capconduit.d/hooks.conf", EXAMPLES[heading])
    asterisk.cli("dialplan reload")


def test_every_hook_that_the_dialplan_calls_has_an_example() -> None:
    for context in (contexts.BEFORE_ROUTE_CONTEXT, contexts.BEFORE_DIAL_CONTEXT, contexts.REJECT_HOOK_CONTEXT):
        assert any(f"[{context}]" in example for example in EXAMPLES.values()), context


@pytest.mark.parametrize(("caller", "asked"), [("2125550147", "+12125550147"), ("+442079460000", "+442079460000")])
def test_rewriting_numbers(asterisk: Asterisk, agi: ScriptedAgi, caller: str, asked: str) -> None:
    hook(asterisk, "Rewriting numbers")
    dial(NUMBER, asterisk.ports.sip, caller=caller, expect=486)
    assert agi.arguments("route")[3] == asked


def test_the_ivr_lets_in_who_chose(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    hook(asterisk, "An IVR before the call counts")
    asterisk.cli(f"channel originate Local/{NUMBER}@capconduit-inbound application SendDTMF ww1")
    assert agi.arguments("route")[2] == NUMBER


def test_the_ivr_ends_a_call_of_who_did_not_choose_and_nobody_hears_of_it(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    hook(asterisk, "An IVR before the call counts")
    asterisk.cli(f"channel originate Local/{NUMBER}@capconduit-inbound application Wait 30")
    wait_for(asterisk.channels, "call in the IVR")
    asterisk.wait_idle(60)
    assert agi.calls == []


def test_the_announcement_before_a_reject(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    hook(asterisk, "An announcement before a reject")
    dial(NUMBER, asterisk.ports.sip, expect=503)
    assert len(agi.calls) == 1


def test_recording(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    hook(asterisk, "Recording")
    verdict = {
        "CC_CALL": "01CALL", "CC_ATTEMPT": "1", "CC_DIAL": "Local/100@lab-target/n", "CC_RING_S": "5",
        "CC_FUNDED_S": "20", "CC_CEILING_MS": "3600000", "CC_VERDICT": "dial",
    }  # fmt: skip
    agi.on["route"] = Answer(verdict)
    dial(NUMBER, asterisk.ports.sip, ended_by="us")
    record = asterisk.dir / "spool/monitor/capconduit/01CALL-1.wav"
    wait_for(lambda: record.exists() and record.stat().st_size > 1_000, "record of the call")


def test_the_fallback_context(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    hook(asterisk, "When the daemon is away")
    agi.deafen()
    dial(NUMBER, asterisk.ports.sip, expect=500)


def test_a_target_with_an_endpoint_of_its_own(asterisk: Asterisk) -> None:
    asterisk.put("capconduit.d/pjsip/buyers.conf", EXAMPLES["A target with an endpoint of its own"])
    asterisk.cli("module reload res_pjsip.so")
    assert "g722|ulaw" in re.sub(r"[(), ]+", "|", asterisk.cli("pjsip show endpoint buyer7"))
