"""The rendered dialplan on a real Asterisk, with a scripted FastAGI server in the daemon's place.

For every exchange (route, attempt, settle) its four ends: answered, refused, reset, frozen. None of them may hold a
call, and none may lose a settlement.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from capconduit.render.contexts import (
    CDR_FIELDS,
    CDR_FILE,
    SPOOL_FAMILY,
    SPOOL_FIELDS,
    SPOOL_SEPARATOR,
    Ami,
    AmiUser,
    Fallback,
    RenderContext,
    RtpRange,
    StirSource,
    TrunkContext,
)
from capconduit.render.engine import render_all
from capconduit.vocab import TrunkKind
from lab.asterisk import Asterisk
from lab.phone import Phone
from lab.ports import LOOPBACK, LabPorts
from lab.root import asterisk_major
from lab.scripted_agi import Answer, Freeze, Reset, ScriptedAgi
from lab.sipp import Scenario, Sipp, dial
from lab.wait import wait_for

MODERN = asterisk_major() >= 20  # has PJSIPHangup and filters by event name
NUMBER = "+18005550100"
RESCUED = "+18005550911"  # the only number in the operator's fallback context
CALLER = "+12125550147"
SECRET = "lab-secret"
GUARD_S = 4  # a machine may stand still for three seconds before our answer is there

# Asterisk says these itself when nobody listens, and when a caller's name is not UTF-8.
EXPECTED_WARNINGS = re.compile(
    r"res_agi\.c: (Connecting to|Couldn't connect)|res_pjsip\.c: CallerID Name .* invalid UTF-8"
)

OPERATOR_DIALPLAN = f"""
[capconduit-on-reject]
exten => campaign_paused,1,MSet(CC_CAUSE=17,CC_SIP=486)
 same => n,Return()
exten => cap_reached,1,MSet(CC_CAUSE=31,CC_SIP=480)
 same => n,Return()
[operator]
exten => {RESCUED},1,Answer()
 same => n,Wait(30)
[lab-iax]
exten => call,1,Set(NAME=Eve@agi_arg_3: +19995550199)
 same => n,Set(CALLERID(num)={CALLER})
 same => n,Set(CALLERID(name)=${{REPLACE(NAME,@,\\x0a)}})
 same => n,Dial(IAX2/carrier-iax:{SECRET}@127.0.0.1:${{IAX_PORT}}/{NUMBER},5)
"""


def _context(ports: LabPorts, agi_port: int) -> RenderContext:
    return RenderContext(
        node_name="lab",
        agi_port=agi_port,
        ami=Ami(port=ports.ami, users=(AmiUser(username="capconduit", secret=SECRET),), named_filters=MODERN),
        exact_sip_codes=MODERN,
        sip_listen=f"{LOOPBACK}:{ports.sip}",
        iax_listen=f"{LOOPBACK}:{ports.iax}",
        rtp=RtpRange(start=ports.rtp_start, end=ports.rtp_end),
        guard_s=GUARD_S,
        fallback=Fallback(context="operator"),
        stir=StirSource.HEADERS,
        trunks=(
            TrunkContext(name="carrier", kind=TrunkKind.PJSIP, hosts=(LOOPBACK,), username="us", secret="p=#1"),
            TrunkContext(
                name="carrier-iax", kind=TrunkKind.IAX2, hosts=(LOOPBACK,), username="carrier-iax", secret=SECRET
            ),
        ),
    )


def _files(ports: LabPorts, agi_port: int) -> dict[str, str]:
    return {**render_all(_context(ports, agi_port)), "capconduit.d/operator.conf": OPERATOR_DIALPLAN}


@pytest.fixture(scope="module")
def served() -> Iterator[ScriptedAgi]:
    server = ScriptedAgi()
    yield server
    server.close()


@pytest.fixture(scope="module")
def booted(start_asterisk: Any, served: ScriptedAgi) -> Asterisk:
    asterisk: Asterisk = start_asterisk(lambda ports: _files(ports, served.port))
    return asterisk


@pytest.fixture
def agi(served: ScriptedAgi) -> ScriptedAgi:
    served.reset()
    served.on = {"settle": ACK}
    return served


@pytest.fixture
def asterisk(booted: Asterisk, agi: ScriptedAgi) -> Iterator[Asterisk]:
    """The module's Asterisk, without the traces of the test before; afterwards nothing may be left in it."""
    booted.cli("dialplan set global CC_QUIET_UNTIL 0")
    booted.cli(f"database deltree {SPOOL_FAMILY}")
    before = len(booted.log_warnings())
    yield booted
    agi.release()
    booted.wait_idle()
    assert [line for line in booted.log_warnings()[before:] if not EXPECTED_WARNINGS.search(line)] == []


ACK = Answer({"CC_ACK": "1"})


def to(target: Sipp, *, ring_s: int = 5, funded_s: int = 20, attempt: int = 1) -> Answer:
    """The verdict that sends the call to a target."""
    return Answer(
        {
            "CC_CALL": "01CALL", "CC_ATTEMPT": str(attempt), "CC_DIAL": f"PJSIP/capconduit-out/{target.uri}",
            "CC_RING_S": str(ring_s), "CC_FUNDED_S": str(funded_s), "CC_CEILING_MS": "3600000", "CC_OPTIONS": "",
            "CC_TARGET": "buyer", "CC_VERDICT": "dial",
        }
    )  # fmt: skip


def reject(reason: str, cause: int, sip: int, then_deaf: bool = False) -> Answer:
    verdict = {"CC_REASON": reason, "CC_CAUSE": str(cause), "CC_SIP": str(sip), "CC_VERDICT": "reject"}
    return Answer(verdict, then_deaf)


def spooled(asterisk: Asterisk) -> dict[str, str]:
    """The fields of the only settlement in Asterisk's database, waited for."""
    rows = wait_for(lambda: asterisk.database(SPOOL_FAMILY), "row in the spool")
    (row,) = rows.values()
    return dict(zip(SPOOL_FIELDS, row.split(SPOOL_SEPARATOR), strict=True))


def test_the_rendered_configuration_loads_without_a_warning(booted: Asterisk) -> None:
    assert booted.log_warnings() == []
    assert "capconduit-settle" in booted.cli("dialplan show capconduit-settle")
    assert "carrier" in booted.cli("pjsip show endpoints")
    assert "carrier-iax" in booted.cli("iax2 show peers")
    assert "capconduit" in booted.cli("manager show users")


# --- route


EXACT = pytest.mark.skipif(not MODERN, reason="needs PJSIPHangup")


@pytest.mark.parametrize(
    ("cause", "sip"), [(17, 486), (1, 404), pytest.param(21, 433, marks=EXACT), pytest.param(34, 402, marks=EXACT)]
)
def test_a_reject_answers_exactly_its_sip_code(asterisk: Asterisk, agi: ScriptedAgi, cause: int, sip: int) -> None:
    agi.on["route"] = reject("caller_anonymous", cause, sip)
    dial(NUMBER, asterisk.ports.sip, expect=sip)
    asterisk.wait_idle()
    wait_for(lambda: agi.replies, "reply to the verdict")  # a thread reads it
    assert agi.replies == ["200 result=0\n"]
    assert [call.script for call in agi.calls] == ["route"], "a reject that was decided is recorded already"


def test_a_reject_that_may_have_been_decided_after_all_is_settled(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = reject("engine_timeout", 38, 500)
    dial(NUMBER, asterisk.ports.sip, expect=500)
    assert agi.arguments("settle")[7] == "capconduit-inbound"


def test_without_the_module_for_limits_a_call_is_bridged_and_still_limited(
    start_asterisk: Any, served: ScriptedAgi, agi: ScriptedAgi
) -> None:
    asterisk: Asterisk = start_asterisk(lambda ports: _files(ports, served.port))
    asterisk.cli("module unload bridge_builtin_interval_features.so")
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target, funded_s=1)
        dial(NUMBER, asterisk.ports.sip, ended_by="us")
    assert agi.arguments("settle")[2] == "ANSWER"
    assert asterisk.log_warnings() == []


def test_route_gets_everything_it_decides_by(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = reject("campaign_closed", 31, 480)
    headers = ("P-Attestation-Indicator: A", "X-Verstat: TN-Validation-Passed")
    dial(NUMBER, asterisk.ports.sip, expect=480, caller=CALLER, name=b'"Jo" ', headers=headers)
    uniqueid, linkedid, dnid, ani, name, trunk, attestation, verdict, sip_call_id = agi.arguments("route")
    assert uniqueid == linkedid
    assert uniqueid.startswith("lab-")
    assert (dnid, ani, name, trunk) == (NUMBER, CALLER, "Jo", "carrier")
    assert (attestation, verdict) == ("A", "TN-Validation-Passed")
    assert sip_call_id.endswith(LOOPBACK)


def test_route_refused_falls_back(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.deafen()
    dial(NUMBER, asterisk.ports.sip, expect=500)


def test_route_reset_falls_back(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = Reset()
    dial(NUMBER, asterisk.ports.sip, expect=500)
    asterisk.wait_idle()
    assert asterisk.database(SPOOL_FAMILY) == {}  # nothing was admitted, nothing is to be settled


def test_route_frozen_falls_back_and_nothing_else_is_asked(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = Freeze()
    dial(NUMBER, asterisk.ports.sip, expect=500)
    asterisk.wait_idle()
    assert [call.script for call in agi.calls] == ["route"]


def test_fallback_goes_to_the_operators_context_where_it_knows_the_number(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = Reset()
    dial(RESCUED, asterisk.ports.sip, expect=200)


def test_a_verdict_without_its_limits_is_no_verdict(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = Answer(
        {"CC_DIAL": "PJSIP/capconduit-out/sip:x@127.0.0.1", "CC_RING_S": "5", "CC_VERDICT": "dial"}
    )
    dial(NUMBER, asterisk.ports.sip, expect=500)


def test_a_caller_who_gives_up_while_route_decides_is_settled(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = Freeze()
    caller = Phone(asterisk.ports.sip, CALLER)
    try:
        caller.calls(NUMBER)
        asked = agi.arguments("route")[0]  # 100 Trying says nothing of it: that is sent before the dialplan begins
        caller.cancels()
        caller.hears("487")
    finally:
        caller.close()
    assert agi.arguments("settle")[0] == asked


@pytest.mark.parametrize(
    ("reason", "sip"), [("campaign_paused", 486), ("cap_reached:campaign:billable:day", 480), ("no_target", 404)]
)
def test_the_operators_hook_for_a_reason_runs_before_the_reject(
    asterisk: Asterisk, agi: ScriptedAgi, reason: str, sip: int
) -> None:
    agi.on["route"] = reject(reason, 1, 404)
    dial(NUMBER, asterisk.ports.sip, expect=sip)


# --- hostile input


@pytest.mark.parametrize(
    ("name", "arrives"),
    [
        (rb'"Jo \"x\", (y) [z]" ', "Jo __x___ _y_ _z_"),
        (rb'"${SHELL(id)} $[1+1] a):1:2" ', "__SHELL_id__ __1+1_ a_:1:2"),
        (b'"caf\xe9" ', "caf\N{REPLACEMENT CHARACTER}"),
        (rb'"a\\,b;c|d`e^f\'g" ', "a___b;c_d_e_f__g"),
        (b"", ""),
    ],
)
def test_a_hostile_caller_name_arrives_harmless(
    asterisk: Asterisk, agi: ScriptedAgi, name: bytes, arrives: str
) -> None:
    agi.on["route"] = reject("no_target", 31, 480)
    dial(NUMBER, asterisk.ports.sip, expect=480, name=name)
    arguments = agi.arguments("route")
    assert len(arguments) == 9
    assert arguments[4] == arrives
    assert arguments[5] == "carrier"


@pytest.mark.parametrize("number", ["+1212x", "1,2", "12%22%29", "%24%7BEPOCH%7D1", "alice"])
def test_a_hostile_caller_number_is_refused_without_asking(asterisk: Asterisk, agi: ScriptedAgi, number: str) -> None:
    dial(NUMBER, asterisk.ports.sip, expect=484, caller=number)
    assert agi.calls == []


@pytest.mark.parametrize("number", ["1%7C1", "1%22,2", "12%29%3A1", "1%24%7BEPOCH%7D", "1alice", "T", "s", "h"])
def test_a_hostile_dialled_number_is_refused_without_asking(asterisk: Asterisk, agi: ScriptedAgi, number: str) -> None:
    dial(number, asterisk.ports.sip, expect=404)
    assert agi.calls == []


@pytest.mark.parametrize("number", ["anonymous", "Restricted"])
def test_a_withheld_number_arrives_as_anonymous(asterisk: Asterisk, agi: ScriptedAgi, number: str) -> None:
    agi.on["route"] = reject("caller_anonymous", 21, 403)
    dial(NUMBER, asterisk.ports.sip, expect=403, caller=number)
    assert agi.arguments("route")[3] == "anonymous"


def test_a_hostile_diversion_cannot_inject_a_line(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    agi.on["route"] = reject("no_target", 31, 480)
    diversion = "Diversion: <sip:1%0aagi_arg_3%20+19995550199@127.0.0.1>;reason=unconditional"
    dial(NUMBER, asterisk.ports.sip, expect=480, headers=(diversion,))
    assert agi.arguments("route")[2] == NUMBER
    assert agi.calls[0].environment["agi_rdnis"] == "1_agi_arg_3 +19995550199"


def test_an_iax2_call_names_its_trunk_and_cannot_inject_a_line(
    asterisk: Asterisk, agi: ScriptedAgi, start_asterisk: Any
) -> None:
    agi.on["route"] = reject("no_target", 31, 480)
    carrier: Asterisk = start_asterisk(lambda ports: _files(ports, agi.port))
    carrier.cli(f"dialplan set global IAX_PORT {asterisk.ports.iax}")
    carrier.cli("channel originate Local/call@lab-iax application Wait 1")
    arguments = agi.arguments("route")
    assert arguments[2:6] == (NUMBER, CALLER, "Eve_agi_arg_3: +19995550199", "carrier-iax")
    assert agi.calls[0].environment["agi_calleridname"] == "Eve_agi_arg_3: +19995550199"


# --- dial


def test_a_call_is_settled_when_the_caller_hangs_up(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target)
        dial(NUMBER, asterisk.ports.sip, hold_ms=100)
        uniqueid, attempt, status, answered_ms, dialed_ms, cause, source, context, dialled = agi.arguments("settle")
    assert uniqueid == agi.arguments("route")[0]
    assert (attempt, status, cause, context) == ("1", "ANSWER", "16", "capconduit-inbound")
    assert dialled == f"PJSIP/capconduit-out/{target.uri}"
    assert 0 < int(answered_ms) <= int(dialed_ms)
    assert source.startswith("PJSIP/carrier-")
    asterisk.wait_idle()
    assert [call.script for call in agi.calls] == ["route", "settle"]


def test_a_call_is_settled_when_the_target_hangs_up(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_HANG_UP, hold_ms=100) as target:
        agi.on["route"] = to(target)
        dial(NUMBER, asterisk.ports.sip, ended_by="us")
        _, _, status, answered_ms, _, cause, source, *_ = agi.arguments("settle")
    assert (status, cause) == ("ANSWER", "16")
    assert int(answered_ms) > 0
    assert source.startswith("PJSIP/capconduit-out-")
    asterisk.wait_idle()

    def records() -> list[str]:
        return [row for row in asterisk.cdr_rows(CDR_FILE) if agi.calls[0].arguments[0] in row]

    wait_for(records, "record of the call")  # Asterisk writes it after the channel is gone
    asterisk.cli("cdr show status")
    rows = records()
    assert len(rows) == 1  # what runs after Dial leaves no record of its own
    record = dict(zip(CDR_FIELDS, (cell.strip('"') for cell in rows[0].split(",")), strict=True))
    assert record["dstchannel"].startswith("PJSIP/capconduit-out-")
    assert float(record["end"]) > float(record["answer"]) > float(record["start"]) > 0


def test_an_answered_call_ends_with_its_money_and_not_with_unused_ringing_time(
    asterisk: Asterisk, agi: ScriptedAgi
) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target, ring_s=30, funded_s=1)
        dial(NUMBER, asterisk.ports.sip, ended_by="us")
        _, _, status, answered_ms, _, _, source, *_ = agi.arguments("settle")
    assert (status, source) == ("ANSWER", "")
    assert 900 < int(answered_ms) < 30_000


def test_ami_moves_the_funded_time_of_a_live_call(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target, AmiClient(asterisk) as ami:
        agi.on["route"] = to(target, ring_s=30, funded_s=5)
        with Sipp.uac(Scenario.UAC_WAIT_BYE, NUMBER, asterisk.ports.sip) as call:
            wait_for(lambda: len(asterisk.channels_up()) == 2, "two legs that talk")
            (channel,) = (name for name in asterisk.channels() if "/carrier-" in name)
            assert "Success" in ami.ask("AbsoluteTimeout", Channel=channel, Timeout="6")
            call.wait()
        answered_ms = agi.arguments("settle")[3]
    assert int(answered_ms) > 5900


def test_a_call_that_came_through_another_channel_ends_with_its_first_money_too(
    asterisk: Asterisk, agi: ScriptedAgi
) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target, ring_s=30, funded_s=1)
        asterisk.cli(f"channel originate Local/{NUMBER}@capconduit-inbound application Wait 20")
        uniqueid, linkedid, _, ani, name, trunk, *_ = agi.arguments("route")
        _, _, status, answered_ms, *_ = agi.arguments("settle")
    assert uniqueid != linkedid
    assert (ani, name, trunk) == ("", "", "")
    assert status == "ANSWER"
    assert int(answered_ms) < 30_000


def test_the_ceiling_ends_a_call_whatever_its_money(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        verdict = to(target, funded_s=60)
        agi.on["route"] = Answer({**verdict.variables, "CC_CEILING_MS": "500", "CC_VERDICT": "dial"})
        dial(NUMBER, asterisk.ports.sip, ended_by="us")
        assert agi.arguments("settle")[2] == "ANSWER"


def test_a_target_that_forwards_the_call_is_not_followed(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_REFUSE, code=302) as target:
        # By way of a trunk, because only its context has extensions.
        dial_string = {"CC_DIAL": f"PJSIP/carrier/{target.uri}", "CC_VERDICT": "dial"}
        agi.on["route"] = Answer({**to(target).variables, **dial_string})
        agi.on["attempt"] = reject("targets_all_failed", 31, 480)
        dial(NUMBER, asterisk.ports.sip, expect=480)
        assert agi.arguments("attempt")[1] == "1"
        assert len([call for call in agi.calls if call.script == "route"]) == 1


# --- attempt


def test_a_busy_target_leads_to_the_next(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_REFUSE, code=486) as busy, Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(busy)
        agi.on["attempt"] = to(target, attempt=2)
        dial(NUMBER, asterisk.ports.sip)
        assert agi.arguments("attempt")[1:] == ("1", "BUSY", "17")
        assert agi.arguments("settle")[1:3] == ("2", "ANSWER")


def test_a_silent_target_is_left_after_its_ringing_time(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_RING) as silent:
        agi.on["route"] = to(silent, ring_s=1)
        agi.on["attempt"] = reject("targets_all_failed", 19, 480)
        dial(NUMBER, asterisk.ports.sip, expect=480)
        assert agi.arguments("attempt")[2] == "NOANSWER"


def test_a_caller_who_gives_up_while_it_rings_is_settled_once(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_RING) as silent:
        agi.on["route"] = to(silent)
        with Sipp.uac(Scenario.UAC_CANCEL, NUMBER, asterisk.ports.sip, hold_ms=100) as call:
            call.wait()
        assert agi.arguments("settle")[2] == "CANCEL"
        asterisk.wait_idle()
        assert [call.script for call in agi.calls] == ["route", "settle"]


@pytest.mark.parametrize("end", ["refused", "reset", "frozen"])
def test_attempt_without_an_answer_falls_back_and_is_kept(asterisk: Asterisk, agi: ScriptedAgi, end: str) -> None:
    with Sipp.uas(Scenario.UAS_REFUSE, code=503) as target:
        agi.on["route"] = Answer(to(target).variables, then_deaf=end == "refused")
        agi.on["attempt"] = Reset() if end == "reset" else Freeze()
        agi.on["settle"] = Reset()
        dial(NUMBER, asterisk.ports.sip, expect=500)
    row = spooled(asterisk)
    assert (row["call"], row["attempt"], row["dialstatus"], row["dialled"]) == ("01CALL", "1", "CONGESTION", "/")


def test_attempts_are_bounded_in_the_dialplan_too(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_REFUSE, code=486) as busy:
        agi.on["route"] = agi.on["attempt"] = to(busy)
        dial(NUMBER, asterisk.ports.sip, expect=500)
    assert len([call for call in agi.calls if call.script == "attempt"]) == 32


# --- settle


@pytest.mark.parametrize("end", ["refused", "reset"])
@pytest.mark.parametrize("ended_by", ["caller", "us"])
def test_a_settlement_nobody_took_is_kept(asterisk: Asterisk, agi: ScriptedAgi, end: str, ended_by: str) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER if ended_by == "caller" else Scenario.UAS_HANG_UP, hold_ms=50) as target:
        agi.on["route"] = Answer(to(target).variables, then_deaf=end == "refused")
        agi.on["settle"] = Reset()
        dial(NUMBER, asterisk.ports.sip, hold_ms=50, ended_by=ended_by)
    row = spooled(asterisk)
    assert (row["call"], row["attempt"], row["dialstatus"], row["cause"]) == ("01CALL", "1", "ANSWER", "16")
    assert int(row["answered_ms"]) > 0
    assert row["hangup_source"].startswith("PJSIP/carrier-" if ended_by == "caller" else "PJSIP/capconduit-out-")
    assert row["context"] == "capconduit-inbound"
    assert row["dialled"] == f"PJSIP/capconduit-out/{target.uri}"
    assert re.fullmatch(r"\d{10}\.\d{3}", row["ended"])


def test_a_frozen_settle_does_not_hold_the_caller(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_HANG_UP, hold_ms=50) as target:
        agi.on["route"] = to(target)
        agi.on["settle"] = Freeze()
        dial(NUMBER, asterisk.ports.sip, ended_by="us")
    assert spooled(asterisk)["dialstatus"] == "ANSWER"
    asterisk.wait_idle()


def test_a_settle_frozen_after_the_caller_left_is_kept_when_the_daemon_dies(
    asterisk: Asterisk, agi: ScriptedAgi
) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target)
        agi.on["settle"] = Freeze()
        dial(NUMBER, asterisk.ports.sip, hold_ms=50)  # the caller has its answer to BYE
        agi.arguments("settle")
        agi.release()
    assert spooled(asterisk)["dialstatus"] == "ANSWER"


def test_after_a_frozen_exchange_the_next_ends_are_kept_and_a_verdict_ends_that(
    asterisk: Asterisk, agi: ScriptedAgi
) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target, funded_s=60)
        caller = Phone(asterisk.ports.sip, CALLER)
        try:
            caller.calls(NUMBER)
            caller.hears("200")
            agi.on["route"] = Freeze()
            dial(NUMBER, asterisk.ports.sip, expect=500)
            caller.hangs_up()
            caller.hears("200", of="BYE")
        finally:
            caller.close()
        assert spooled(asterisk)["call"] == "01CALL"
        assert "settle" not in [call.script for call in agi.calls]
        agi.on["route"] = to(target)
        dial(NUMBER, asterisk.ports.sip)
        agi.arguments("settle")


def test_core_stop_settles_live_calls(start_asterisk: Any, served: ScriptedAgi, agi: ScriptedAgi) -> None:
    asterisk: Asterisk = start_asterisk(lambda ports: _files(ports, served.port))
    with Sipp.uas(Scenario.UAS_ANSWER) as target:
        agi.on["route"] = to(target)
        with Sipp.uac(Scenario.UAC_WAIT_BYE, NUMBER, asterisk.ports.sip) as call:
            wait_for(lambda: len(asterisk.channels_up()) == 2, "two legs that talk")
            asterisk.stop()
            call.wait()
        assert agi.arguments("settle")[2] == "ANSWER"


# --- AMI

AMI_S = 30


class AmiClient:
    """A few AMI actions as the daemon's user."""

    def __init__(self, asterisk: Asterisk) -> None:
        self._socket = socket.create_connection((LOOPBACK, asterisk.ports.ami), timeout=AMI_S)
        self._text = ""
        self.ask("Login", Username="capconduit", Secret=SECRET)

    def __enter__(self) -> AmiClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, action: str, until: str = "Response: ", **headers: str) -> str:
        """Sends an action and returns everything that came up to the message that has `until`."""
        seen = len(self._text)
        lines = [f"Action: {action}", *(f"{name}: {value}" for name, value in headers.items())]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while not (until in self._text[seen:] and self._text.endswith("\r\n\r\n")):
            self._receive()
        return self._text[seen:]

    def _receive(self) -> None:
        piece = self._socket.recv(65_536)
        assert piece, f"AMI closed the connection after {self._text!r}"
        self._text += piece.decode(errors="replace")

    def seen(self, event: str) -> bool:
        """Whether an event of that name has come."""
        self._socket.settimeout(0.05)
        try:
            self._receive()
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(AMI_S)
        return f"Event: {event}\r\n" in self._text


def test_the_daemons_ami_user_may_do_what_it_needs_and_no_more(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    asterisk.cli(f"database put {SPOOL_FAMILY} lab-1.1 x")
    with AmiClient(asterisk) as ami:
        wait_for(lambda: ami.seen("FullyBooted"), "FullyBooted")
        assert "CoreStartupTime" in ami.ask("CoreStatus")
        assert "EventList: Complete" in ami.ask("CoreShowChannels", until="EventList: Complete")
        assert "lab-1.1" in ami.ask("DBGetTree", until="EventList: Complete", Family=SPOOL_FAMILY)
        assert "No such channel" in ami.ask("Hangup", Channel="nobody")
        assert "Success" in ami.ask("Setvar", Variable=f"DB_DELETE({SPOOL_FAMILY}/lab-1.1)", Value="1")
        for action in ("Originate", "Command", "DBPut", "UpdateConfig"):
            assert "Permission denied" in ami.ask(action, Command="core show version", Channel="Local/s@default")
    assert asterisk.database(SPOOL_FAMILY) == {}


def test_events_come_with_times_and_only_those_we_name(asterisk: Asterisk, agi: ScriptedAgi) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as target, AmiClient(asterisk) as ami:
        agi.on["route"] = to(target)
        dial(NUMBER, asterisk.ports.sip)
        wait_for(lambda: ami.seen("Hangup"), "Hangup")
        asterisk.wait_idle()
        text = ami.ask("Ping")
    assert "Event: DialEnd\r\n" in ami._text
    assert re.search(r"Event: BridgeLeave\r\n.*?Timestamp: \d+\.\d+", ami._text, re.DOTALL)
    assert "Event: VarSet" not in ami._text
    assert "Pong" in text
