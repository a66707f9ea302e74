"""The systemd units: understood by systemd, hardened, with the paths of this machine, and as the daemon behaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from capconduit.config import load_config
from capconduit.errors import ConfigError
from capconduit_cli.systemd_unit import unit, units_dir
from tests.cli.runner import run

REPOSITORY = Path(__file__).resolve().parents[2]
EXPOSURE_TENTHS = 25  # `systemd-analyze security`: what is below 3.0 it calls OK
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """All units, for a program that exists."""
    program = tmp_path / "capconduit"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    place = tmp_path / "units"
    place.mkdir()
    for path in units_dir().iterdir():
        (place / path.name).write_text(path.read_text().replace("/usr/local/bin/capconduit", str(program)))
    return place


@needs_systemd
def test_systemd_understands_every_line(units: Path) -> None:
    found = sorted(str(path) for path in units.iterdir())
    assert len(found) == 3
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *found],
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "capconduit" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_the_daemon_is_hardened(units: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--json=short", str(units / "capconduit.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_TENTHS}",
         str(units / "capconduit.service")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout[-500:]
    assert json.loads(done.stdout)


def test_a_watchdog_the_daemon_answers_and_the_bounds_it_needs(tmp_path: Path) -> None:
    text = (units_dir() / "capconduit.service").read_text()
    options = dict(re.findall(r"^([A-Za-z]+)=(.*)$", text, re.MULTILINE))
    config = load_config(Path(os.devnull), {"HOME": str(tmp_path)})
    assert options["Type"] == "notify"
    assert options["NoNewPrivileges"] == "yes"
    assert options["CapabilityBoundingSet"] == ""
    assert options["ProtectSystem"] == "strict"
    assert int(options["WatchdogSec"]) > 0
    assert int(options["TimeoutStopSec"]) * 1_000 > config.limits.drain_ms
    assert int(options["LimitNOFILE"]) >= 8_192  # what the daemon would ask for, and may not under this unit


def test_the_printed_unit_has_this_program_this_configuration_and_what_it_may_write(tmp_path: Path) -> None:
    file = tmp_path / "cc.toml"
    file.write_text(
        f'[database]\nurl = "sqlite://{tmp_path}/data/cc.sqlite"\n[control]\nsocket = "/run/capconduit/c"\n'
    )
    text = unit(load_config(file, {"HOME": str(tmp_path)}), Path("/opt/cc/bin/capconduit"))
    assert f"\nExecStart=/opt/cc/bin/capconduit --config {file} serve\n" in text
    assert text.count("ReadWritePaths=") == 1
    assert f"\nReadWritePaths={tmp_path}/data\n" in text


def test_a_path_that_systemd_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    config = load_config(Path(os.devnull), {"HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="systemd unit"):
        unit(config, Path("/opt/my programs/capconduit"))
    assert "%%h" in unit(config, Path("/opt/%h/capconduit"))


def test_the_command_prints_it_and_starts_nothing(tmp_path: Path) -> None:
    done = run("serve", "--print-unit", home=tmp_path)
    assert done.code == 0
    assert re.search(r"^ExecStart=/\S+/capconduit( --config \S+)? serve$", done.out, re.MULTILINE)
    assert not list(tmp_path.rglob("*.sqlite"))
