"""Asterisk itself: its version, modules, name and options."""

from __future__ import annotations

import pytest

from capconduit.doctor import asterisk
from capconduit.doctor.asterisk import Module
from capconduit.doctor.findings import CannotTell
from tests.doctor.facts import NOW_MS, ids

TODAY_MS = 1_795_392_000_000  # November 2026


@pytest.mark.parametrize(
    ("text", "configured", "expected"),
    [
        ("22.10.1+dfsg-1", 22, []),
        ("certified/22.8-cert1", 22, []),
        ("22.10.1", 20, ["asterisk-version-differs"]),
        ("16.28.0~dfsg-0+deb11u3", 16, ["asterisk-version-unfixed"]),
        ("18.1.0", 22, ["asterisk-version-differs", "asterisk-version-unfixed"]),
        ("13.38.2", 22, ["asterisk-version-old"]),
        ("99.0.0", 99, []),
    ],
)
def test_version(text: str, configured: int, expected: list[str]) -> None:
    assert ids(asterisk.judge_version(text, configured, TODAY_MS)) == expected


def test_a_version_that_cannot_be_read_is_unknown() -> None:
    with pytest.raises(CannotTell, match="GIT-master"):
        list(asterisk.judge_version("GIT-master-1234", 22, TODAY_MS))


NEEDED = [Module("app_dial.so", "the dialplan uses Dial", True), Module("cdr_custom.so", "records", False)]


def test_modules_that_run_are_well() -> None:
    assert ids(asterisk.judge_modules(NEEDED, {"app_dial.so": "Running", "cdr_custom.so": ""})) == []


def test_a_missing_module_is_an_error_where_calls_need_it_and_else_a_warning() -> None:
    found = list(asterisk.judge_modules(NEEDED, {}))
    assert ids(found) == ["asterisk-module-missing", "asterisk-module-wanted"]
    assert "module load app_dial.so" in found[0].fix
    assert "the dialplan uses Dial" in found[0].found


def test_a_module_that_is_loaded_and_does_not_run_is_found() -> None:
    (finding,) = asterisk.judge_modules(NEEDED[:1], {"app_dial.so": "Not Running"})
    assert "does not run" in finding.found


@pytest.mark.parametrize("status", ["Running", ""])
def test_a_module_that_lets_calls_be_stolen_is_an_error(status: str) -> None:
    (finding,) = asterisk.judge_replaces({asterisk.REFER: status})
    assert ids([finding]) == ["asterisk-calls-stolen"]
    assert f"noload = {asterisk.REFER}" in finding.fix
    assert ids(asterisk.judge_replaces({})) == []
    assert ids(asterisk.judge_replaces({asterisk.REFER: "Not Running"})) == []


def test_the_modules_of_the_console() -> None:
    text = (
        "Module                         Description                              Use Count  Status      Support Level\n"
        "app_dial.so                    Dialing Application                      0          Running              core\n"
        "chan_iax2.so                   Inter Asterisk eXchange (Ver 2)          0          Not Running          core\n"
        "res_x.so                       No number here\n"
        "3 modules loaded\n"
    )
    assert asterisk.parse_modules(text) == {"app_dial.so": "Running", "chan_iax2.so": "Not Running", "res_x.so": ""}


def test_system_name() -> None:
    assert ids(asterisk.judge_system_name("pbx1", "pbx1")) == []
    assert ids(asterisk.judge_system_name("", "pbx1")) == ["asterisk-system-name"]
    assert "systemname = pbx1" in next(iter(asterisk.judge_system_name("other", "pbx1"))).fix


@pytest.mark.parametrize(
    ("text", "changed_ms", "expected"),
    [
        ("[options]\nlive_dangerously = no\n", 0, []),
        ("[directories]\nastetcdir = /x\n", 0, []),
        ("[options]\nlive_dangerously = yes\n", 0, ["asterisk-live-dangerously"]),
        ("[options]\n;live_dangerously = yes\n", 0, []),
        ("[other]\nlive_dangerously = yes\n", 0, []),
        ("[options]\nlive_dangerously = no\n", NOW_MS + 1, ["asterisk-options-pending"]),
    ],
)
def test_options(text: str, changed_ms: int, expected: list[str]) -> None:
    assert ids(asterisk.judge_options(text, changed_ms, NOW_MS)) == expected


def test_options_where_the_start_is_not_known() -> None:
    assert ids(asterisk.judge_options("[options]\n", NOW_MS, None)) == []
    assert asterisk.parse_uptime_s("System uptime: 42\nLast reload: 42\n") == 42
    assert asterisk.parse_uptime_s("nothing") is None
