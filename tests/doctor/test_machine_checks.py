"""The machine: clocks, open files, media ports, disk, permissions."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.doctor import machine
from capconduit.doctor.checks import chosen
from capconduit.doctor.conffile import parse_conf
from capconduit.doctor.findings import CannotTell, Severity
from capconduit.doctor.machine import FileFacts, RtpFacts
from capconduit.doctor.run import examine
from capconduit.doctor.sockets import UdpSocket
from tests.doctor.facts import NOW_MS, FakeAmi, FixedClock, answer, config, ids, scene


def test_the_kernels_clock() -> None:
    assert ids(machine.judge_synchronised(True)) == []
    assert ids(machine.judge_synchronised(False)) == ["clock-unsynchronised"]
    assert machine.kernel_synchronised() in (True, False)


@pytest.mark.parametrize(
    ("ahead_ms", "slack_ms", "expected"),
    [
        (0, 1, []),
        (999, 0, []),
        (-1_500, 600, []),
        (-1_500, 1, ["clock-differs"]),
        (1_001, 0, ["clock-differs"]),
        (61_000, 1, ["clock-far"]),
        (-3_600_000, 1, ["clock-far"]),
    ],
)
def test_another_clock(ahead_ms: int, slack_ms: int, expected: list[str]) -> None:
    assert ids(machine.judge_clock("Asterisk", ahead_ms, slack_ms)) == expected


def test_the_direction_of_a_clock_is_told() -> None:
    assert "ahead of" in next(iter(machine.judge_clock("Asterisk", 5_000, 0))).found
    assert "behind" in next(iter(machine.judge_clock("Asterisk", -5_000, 0))).found


@pytest.mark.parametrize(("ahead_s", "expected"), [(0, []), (30, ["clock-differs"]), (-7200, ["clock-far"])])
def test_asterisks_clock_is_that_of_its_ping(ahead_s: int, expected: list[str]) -> None:
    fake = FakeAmi({"Ping": answer({"Timestamp": f"{NOW_MS // 1_000 + ahead_s}.250000"})})
    made = scene(
        config(ami={"secret": "env:S"}), env={"S": "long-and-winding-secret"}, open_ami=fake.user, clock=FixedClock()
    )
    assert ids(examine(made, chosen(["clock-asterisk"], []))) == expected


@pytest.mark.parametrize(
    ("limit", "needed", "used", "expected"),
    [
        (1_024, 1_200, 10, ["open-files-few"]),
        (1_200, 1_200, 10, []),
        (10_000, 1_200, 9_000, ["open-files-near"]),
        (10_000, 1_200, None, []),
    ],
)
def test_open_files(limit: int, needed: int, used: int | None, expected: list[str]) -> None:
    assert ids(machine.judge_files("the daemon", limit, needed, used, "fix")) == expected


def test_the_limit_of_a_process() -> None:
    line = "Max open files            1024                 524288               files     \n"
    assert machine.parse_open_files(f"Limit   Soft Limit\n{line}") == 1_024
    assert machine.parse_open_files(line.replace("1024", "unlimited")) > 10**9
    with pytest.raises(CannotTell):
        machine.parse_open_files("nothing")
    assert machine.parse_open_files(Path("/proc/self/limits").read_text()) > 0


RTP = RtpFacts(
    start=10_000, end=20_000, calls=100, own={"sip": 5_060, "iax": 4_569}, foreign=[], ephemeral=(32_768, 60_999)
)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (RTP, []),
        (replace(RTP, calls=3_000), ["rtp-ports-few"]),
        (replace(RTP, end=10_399), []),
        (replace(RTP, end=10_398), ["rtp-ports-few"]),
        (replace(RTP, start=5_000), ["rtp-ports-own"]),
        (replace(RTP, foreign=[UdpSocket(10_500, "0.0.0.0", 33)]), ["rtp-ports-taken"]),
        (replace(RTP, end=40_000), ["rtp-ports-ephemeral"]),
        (replace(RTP, end=40_000, ephemeral=(0, -1)), []),
    ],
)
def test_media_ports(facts: RtpFacts, expected: list[str]) -> None:
    assert ids(machine.judge_rtp(facts)) == expected


def test_the_range_of_rtp_conf_and_asterisks_default() -> None:
    assert machine.rtp_range(parse_conf("[general]\nrtpstart=10000\nrtpend=20000\n")) == (10_000, 20_000)
    assert machine.rtp_range(parse_conf("[general]\nrtpstart=10000\n")) == (10_000, 31_000)
    assert machine.rtp_range(None) == (5_000, 31_000)


GIB = 1024**3


@pytest.mark.parametrize(
    ("free", "total", "inodes", "expected"),
    [
        (50 * GIB, 100 * GIB, 10**6, []),
        (1 * GIB, 100 * GIB, 10**6, ["disk-low"]),
        (1 * GIB, 4 * GIB, 10**6, []),
        (50 * GIB, 100 * GIB, 10, ["disk-low"]),
        (GIB // 10, 100 * GIB, 10**6, ["disk-full"]),
        (50 * GIB, 100 * GIB, 0, ["disk-full"]),
        (50 * GIB, 100 * GIB, None, []),
    ],
)
def test_disk(free: int, total: int, inodes: int | None, expected: list[str]) -> None:
    assert ids(machine.judge_disk("the database", "/var", free, total, inodes)) == expected


TRUSTED = frozenset({0, 1_000})
FILE = FileFacts("/x", "the thing", stat.S_IFREG | 0o600, 1_000)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(FILE, secret=True), []),
        (replace(FILE, secret=True, mode=stat.S_IFREG | 0o640), []),
        (replace(FILE, secret=True, mode=stat.S_IFREG | 0o644), ["file-secret-readable"]),
        (replace(FILE, data=True, mode=stat.S_IFREG | 0o644), ["file-data-readable"]),
        (replace(FILE, mode=stat.S_IFREG | 0o644), []),
        (replace(FILE, mode=stat.S_IFREG | 0o666), ["file-writable"]),
        (replace(FILE, uid=33), ["file-writable"]),
        (replace(FILE, mode=stat.S_IFDIR | 0o755), []),
        (replace(FILE, mode=stat.S_IFDIR | 0o777), ["file-writable"]),
        (replace(FILE, mode=stat.S_IFDIR | 0o1777), []),
        (replace(FILE, secret=True, mode=stat.S_IFREG | 0o666, hidden=True), []),
        (replace(FILE, uid=33, hidden=True), ["file-writable"]),
    ],
)
def test_permissions(facts: FileFacts, expected: list[str]) -> None:
    assert ids(machine.judge_file(facts, TRUSTED)) == expected


def test_the_fix_of_a_mode_is_a_command() -> None:
    (finding,) = machine.judge_file(replace(FILE, secret=True, mode=stat.S_IFREG | 0o644), TRUSTED)
    assert finding.fix == "chmod o-rwx /x"
    assert "0644" in finding.found


def test_real_files_are_looked_at(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    secret = tmp_path / "ami.secret"
    secret.write_text("long-and-winding-secret")
    secret.chmod(0o644)
    journal = tmp_path / "settlements.journal"
    journal.touch(0o600)
    configuration = config(ami={"secret": f"file:{secret}"}, node={"name": "pbx1", "journal": str(journal)})
    findings = list(examine(scene(configuration), chosen(["file-permissions"], [])))
    reachable = all(directory.stat().st_mode & stat.S_IXOTH for directory in secret.parents)
    assert ids(findings) == (["file-secret-readable"] if reachable else [])
    secret.chmod(0o600)
    assert ids(examine(scene(configuration), chosen(["file-permissions"], []))) == []


def test_disk_of_real_directories(tmp_path: Path) -> None:
    configuration = config(
        database={"url": f"sqlite://{tmp_path}/x.sqlite"}, node={"name": "pbx1", "journal": str(tmp_path / "j")}
    )
    assert {f.check for f in examine(scene(configuration), chosen(["disk-space"], []))} == {"disk-space"}
    (first, second) = examine(scene(), chosen(["disk-space"], []))
    assert (first.severity, second.severity) == (Severity.UNKNOWN, Severity.UNKNOWN)


def test_open_files_of_this_process(tmp_path: Path) -> None:
    made = scene(
        config(limits={"connections": 10**7}), ask_daemon=lambda resource: {"pid": os.getpid()}, proc=Path("/proc")
    )
    findings = [f for f in examine(made, chosen(["open-files"], [])) if f.severity is not Severity.UNKNOWN]
    assert ids(findings) == ["open-files-few"]
