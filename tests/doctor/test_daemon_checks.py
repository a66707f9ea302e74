"""The daemon: running, ready, alone, watched over, with nothing left to tell."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit import __version__
from capconduit.doctor import daemon
from capconduit.doctor.checks import chosen
from capconduit.doctor.findings import Severity
from capconduit.doctor.run import examine
from capconduit.domain.model import Node
from capconduit.errors import PeerError
from tests.doctor.facts import NOW_MS, FakeAmi, answer, config, ids, scene

WELL: dict[str, Any] = {"node": "pbx1", "pid": 1, "version": __version__, "ready": True, "reasons": [], "calls": 0}
NODE = Node(name="pbx1", boot_id="b", started_ms=1, seen_ms=NOW_MS, asterisk_started_ms=None, state="up")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, []),
        ({"ready": False, "reasons": ["ami down"]}, ["daemon-not-ready"]),
        ({"ready": False, "reasons": []}, ["daemon-not-ready"]),
        ({"ready": False, "reasons": ["another daemon runs as this node"]}, ["daemon-doubled"]),
        (
            {"ready": False, "reasons": ["draining", "another daemon runs as this node"]},
            ["daemon-doubled", "daemon-not-ready"],
        ),
        ({"version": "0.0.9"}, ["daemon-version"]),
    ],
)
def test_what_it_tells_of_itself(more: dict[str, Any], expected: list[str]) -> None:
    assert ids(daemon.judge_status(WELL | more, __version__)) == expected


@pytest.mark.parametrize(("reason", "fix"), [("database down", "database"), ("ami down", "ami-login"), ("x", "status")])
def test_the_fix_goes_by_the_reason(reason: str, fix: str) -> None:
    (finding,) = daemon.judge_status(WELL | {"ready": False, "reasons": [reason]}, __version__)
    assert fix in finding.fix


def test_a_configuration_that_was_changed_since() -> None:
    assert ids(daemon.judge_config_age(NOW_MS - 1, NOW_MS, "/x")) == []
    assert ids(daemon.judge_config_age(NOW_MS + 1, NOW_MS, "/x")) == ["daemon-config-stale"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ((0, "", 0, "/a"), []),
        ((3, "", 0, "/a"), ["journal-waiting"]),
        ((0, "no space left", 0, "/a"), ["journal-broken"]),
        ((0, "", 80, "/a"), ["journal-aside"]),
    ],
)
def test_the_journal(facts: tuple[int, str, int, str], expected: list[str]) -> None:
    assert ids(daemon.judge_journal(*facts)) == expected


def test_the_spool() -> None:
    assert ids(daemon.judge_spool(0)) == []
    assert ids(daemon.judge_spool(2)) == ["spool-left"]


def test_the_spool_over_ami() -> None:
    row = {"Event": "DBGetTreeResponse", "Key": "/capconduit/unsettled/1", "Val": "x"}
    on = config(ami={"secret": "env:S"})
    env = {"S": "long-and-winding-secret"}
    for given, expected in (
        ({"DBGetTree": answer(rows=[row, row])}, ["spool-left"]),
        ({"DBGetTree": answer()}, []),
        ({}, ["spool"]),  # denied: unknown
    ):
        assert ids(examine(scene(on, env=env, open_ami=FakeAmi(given).user), chosen(["spool"], []))) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (NODE, []),
        (replace(NODE, seen_ms=NOW_MS - 60_000), ["node-silent"]),
        (replace(NODE, seen_ms=NOW_MS - 60_000, state="down"), []),
    ],
)
def test_nodes(node: Node, expected: list[str]) -> None:
    assert ids(daemon.judge_nodes([node], NOW_MS)) == expected


def test_zombies() -> None:
    assert ids(daemon.judge_zombies(0, [])) == []
    (finding,) = daemon.judge_zombies(2, ["PJSIP/a-1", "PJSIP/b-2"])
    assert "core show channel PJSIP/a-1" in finding.fix


@pytest.mark.parametrize(
    ("unit", "properties", "expected"),
    [
        ("capconduit.service", {"Restart": "always", "WatchdogUSec": "30s"}, []),
        ("capconduit.service", {"Restart": "no", "WatchdogUSec": "30s"}, ["daemon-unsupervised"]),
        ("capconduit.service", {"Restart": "always", "WatchdogUSec": "0"}, ["daemon-no-watchdog"]),
        ("capconduit.service", {"Restart": "always", "WatchdogUSec": "infinity"}, ["daemon-no-watchdog"]),
        ("", {}, ["daemon-unsupervised"]),
    ],
)
def test_supervision(unit: str, properties: dict[str, str], expected: list[str]) -> None:
    assert ids(daemon.judge_supervision(unit, properties)) == expected


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/capconduit.service\n", "capconduit.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/cc.service\n", "cc.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/init.scope\n", ""),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", ""),
        ("12:cpu:/\n0::/\n", ""),
    ],
)
def test_the_service_of_a_process(cgroup: str, unit: str) -> None:
    assert daemon.service_of(cgroup) == unit


def test_a_daemon_that_is_away_is_an_error_and_what_it_tells_unknown() -> None:
    findings = {f.check: f for f in examine(scene(), chosen(["daemon"], []))}
    assert findings["daemon-ready"].id == "daemon-away"
    assert findings["journal"].severity is Severity.UNKNOWN
    assert findings["supervision"].severity is Severity.UNKNOWN


def test_a_daemon_that_may_not_be_asked_is_unknown() -> None:
    def denied(_: str) -> dict[str, Any]:
        raise PeerError("daemon-unreachable", "no daemon answers on /x: Permission denied", "use sudo")

    findings = {f.check: f for f in examine(scene(ask_daemon=denied), chosen(["daemon"], []))}
    assert findings["daemon-ready"].severity is Severity.UNKNOWN


def test_a_daemon_that_is_asked(tmp_path: Path) -> None:
    (tmp_path / "j.aside").write_text("{}\n")
    status = WELL | {"pid": os.getpid(), "journal": {"waiting": 4}, "zombies": {"channels": 1, "shown": []}}
    made = scene(
        config(node={"name": "pbx1", "journal": str(tmp_path / "j")}), ask_daemon=lambda resource: status,
        systemctl=lambda unit: {"Restart": "always", "WatchdogUSec": "30s"}, proc=Path("/proc"),
    )  # fmt: skip
    found = ids(f for f in examine(made, chosen(["journal", "zombies", "daemon"], ["nodes", "spool", "supervision"])))
    assert found == ["journal-waiting", "journal-aside", "zombies"]
