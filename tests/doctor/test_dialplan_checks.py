"""The dialplan in force, and the way from Asterisk to the daemon."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

import pytest

from capconduit.doctor import dialplan
from capconduit.doctor.checks import chosen
from capconduit.doctor.dialplan import AgiFacts
from capconduit.doctor.findings import CannotTell, Severity
from capconduit.doctor.run import examine
from tests.doctor.facts import FakeAmi, answer, config, ids, scene

TEXT = """
[general]
static = yes
[capconduit-inbound]
; a comment
exten => _[+0-9]!,1,Set(X=${REPLACE(EXTEN,0123)}) ; another
 same => n(route),AGI(agi://127.0.0.1:4573/route,${UNIQUEID},a\\;b)
 same => n,Hangup()
exten => T,1,NoOp
[capconduit-answered]
exten => s,1,Return()
"""


def rows(steps: dict[tuple[str, str, int], tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"Event": "ListDialplan", "Context": c, "Extension": e, "Priority": str(p), "Application": a, "AppData": d}
        for (c, e, p), (a, d) in steps.items()
    ]


def test_the_rendered_text_is_read_as_asterisk_reads_it() -> None:
    steps = dialplan.parse_dialplan(TEXT)
    assert steps == {
        ("capconduit-inbound", "_[+0-9]!", 1): ("Set", "X=${REPLACE(EXTEN,0123)}"),
        ("capconduit-inbound", "_[+0-9]!", 2): ("AGI", "agi://127.0.0.1:4573/route,${UNIQUEID},a;b"),
        ("capconduit-inbound", "_[+0-9]!", 3): ("Hangup", ""),
        ("capconduit-inbound", "T", 1): ("NoOp", ""),
        ("capconduit-answered", "s", 1): ("Return", ""),
    }
    assert dialplan.parse_rows(rows(steps)) == steps


def test_the_same_dialplan_is_well() -> None:
    steps = dialplan.parse_dialplan(TEXT)
    assert ids(dialplan.judge_dialplan(steps, dict(steps))) == []


def test_a_changed_line_a_line_too_many_and_a_missing_context_are_told_apart() -> None:
    steps = dialplan.parse_dialplan(TEXT)
    changed = steps | {("capconduit-inbound", "_[+0-9]!", 3): ("Dial", "PJSIP/x")}
    (finding,) = [f for f in dialplan.judge_dialplan(steps, changed) if f.severity is Severity.ERROR]
    assert finding.id == "dialplan-differs"
    assert "Dial(PJSIP/x) instead of Hangup()" in finding.found
    more = steps | {("capconduit-answered", "s", 2): ("Dial", "PJSIP/x")}
    assert ids(dialplan.judge_dialplan(steps, more)) == ["dialplan-extra"]
    less = {step: call for step, call in steps.items() if step[0] != "capconduit-answered"}
    assert ids(dialplan.judge_dialplan(steps, less)) == ["dialplan-missing"]
    shorter = {step: call for step, call in steps.items() if step != ("capconduit-inbound", "T", 1)}
    (finding,) = [f for f in dialplan.judge_dialplan(steps, shorter) if f.severity is Severity.ERROR]
    assert "T,1: nothing instead of NoOp()" in finding.found


def test_a_long_line_is_shown_where_it_differs() -> None:
    steps = {("c", "s", 1): ("MSet", "A=" + "x" * 100 + ",LIMIT=5,B=1")}
    other = {("c", "s", 1): ("MSet", "A=" + "x" * 100 + ",LIMIT=0,B=1")}
    (finding,) = dialplan.judge_dialplan(steps, other)
    assert "LIMIT=0,B=1) instead of …" in finding.found
    assert "LIMIT=5" in finding.found


def test_an_include_in_our_context_is_one_too_many() -> None:
    steps = dialplan.parse_dialplan(TEXT)
    shown = [
        *rows(steps),
        {"Event": "ListDialplan", "Context": "capconduit-answered", "IncludeContext": "from-internal"},
    ]
    (finding,) = [f for f in dialplan.judge_dialplan(steps, dialplan.parse_rows(shown)) if f.fix]
    assert finding.id == "dialplan-extra"
    assert "from-internal" in finding.found


WELL = AgiFacts(
    asked=[("127.0.0.1", 4573)],
    listens="127.0.0.1:4573",
    connected={("127.0.0.1", 4573): ""},
    local=True,
    same_network=True,
    routed=0,
)
REMOTE = replace(
    WELL, asked=[("10.0.0.5", 4573)], listens="0.0.0.0:4573", connected={}, local=False, same_network=False
)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (WELL, []),
        (replace(WELL, same_network=None, routed=3), []),
        (replace(WELL, same_network=None), ["fastagi-unproven"]),
        (replace(WELL, same_network=False), ["fastagi-unproven"]),
        (replace(WELL, listens="127.0.0.1:4574"), ["fastagi-elsewhere"]),
        (replace(WELL, listens="10.0.0.5:4573"), ["fastagi-elsewhere"]),
        (replace(WELL, listens="0.0.0.0:4573"), []),
        (replace(WELL, asked=[("[::1]", 4573)], listens="::1:4573", connected={}), []),
        (replace(WELL, asked=[("agi.example.net", 4573)], listens="10.0.0.5:4573"), []),
        (replace(WELL, connected={("127.0.0.1", 4573): "Connection refused"}), ["fastagi-unreachable"]),
        (REMOTE, ["fastagi-unproven"]),
        (replace(REMOTE, routed=9), []),
        (replace(REMOTE, asked=[("127.0.0.1", 4573)]), ["fastagi-own-loopback"]),
        (replace(REMOTE, asked=[("127.0.0.1", 4573)], listens="127.0.0.1:4573"), ["fastagi-own-loopback"]),
        (replace(REMOTE, listens="10.0.0.6:4573"), ["fastagi-elsewhere"]),
    ],
)
def test_the_way_to_the_daemon(facts: AgiFacts, expected: list[str]) -> None:
    assert ids(dialplan.judge_agi(facts)) == expected


def test_what_is_not_proven_is_said() -> None:
    (finding,) = dialplan.judge_agi(REMOTE)
    assert "Asterisk is on another" in finding.found
    (finding,) = dialplan.judge_agi(replace(WELL, same_network=False))
    assert "another network namespace" in finding.found


def test_the_addresses_that_a_dialplan_asks() -> None:
    calls = [("AGI", "agi://10.0.0.5/route,x"), ("AGI", "agi://[::1]:99/settle"), ("AGI", "agi://10.0.0.5/attempt")]
    assert dialplan.agi_addresses([*calls, ("Dial", "agi://1.2.3.4/x")]) == [("10.0.0.5", 4573), ("[::1]", 99)]


def test_differences_of_what_is_loaded_are_bounded() -> None:
    found = list(dialplan.judge_loaded(["pjsip.conf"], [f"difference {n}" for n in range(25)]))
    assert ids(found) == ["config-not-loaded"] * 11
    assert "15 more" in found[-1].found
    assert ids(dialplan.judge_loaded(["pjsip.conf"], [])) == []


def doctored(*slugs: str, listen: str, status: dict[str, Any], **more: Any) -> list[str]:
    text = TEXT.replace("127.0.0.1:4573", listen)
    fake = FakeAmi({"ShowDialPlan": answer(rows=rows(dialplan.parse_dialplan(text)))})
    made = scene(
        config(ami={"secret": "env:SECRET"}, fastagi={"listen": listen}),
        env={"SECRET": "long-and-winding-secret"},
        open_ami=fake.user,
        open_store=lambda: None,
        make_office=lambda store: None,
        render=lambda office: {"extensions.conf": text},
        ask_daemon=lambda resource: status,
        **more,
    )
    return ids(examine(made, chosen(slugs, [])))


@pytest.fixture
def no_schema_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capconduit.services.stores.check_schema", lambda store: None)


@pytest.mark.usefixtures("no_schema_check")
def test_a_listener_that_answers_is_found_and_one_that_does_not_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = f"127.0.0.1:{server.getsockname()[1]}"
        status = {"fastagi": {"listen": listen, "requests": {"route": 2}}}
        assert doctored("dialplan-in-force", "fastagi", listen=listen, status=status) == []
    assert doctored("fastagi", listen=listen, status=status) == ["fastagi-unreachable"]


@pytest.mark.usefixtures("no_schema_check")
def test_a_dialplan_that_may_not_be_seen_is_unknown() -> None:
    made = scene(
        config(ami={"secret": "env:SECRET"}),
        env={"SECRET": "long-and-winding-secret"},
        open_ami=FakeAmi({}).user,
        open_store=lambda: None,
        make_office=lambda store: None,
        render=lambda office: {"extensions.conf": TEXT},
    )
    (finding,) = examine(made, chosen(["dialplan-in-force"], []))
    assert finding.severity is Severity.UNKNOWN
    assert "reporting" in finding.fix
    with pytest.raises(CannotTell):
        dialplan.dialplan_in_force(made, ["x"])
