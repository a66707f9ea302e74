"""Where facts come from: this machine or another, processes, systemd, an AMI that is busy."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from capconduit.doctor import peers
from capconduit.doctor.checks import chosen
from capconduit.doctor.findings import CannotTell, Severity
from capconduit.doctor.run import examine
from capconduit.doctor.scene import AmiAnswer, AmiUser, is_loopback, is_ours
from capconduit.errors import PeerError
from tests.doctor.facts import config, scene


def test_an_address_of_this_machine_is_ours_and_others_are_not() -> None:
    assert is_ours("127.0.0.1")
    assert is_ours("localhost")
    assert not is_ours("192.0.2.1")
    assert not is_ours("no-such-name.invalid")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")


def test_an_asterisk_elsewhere_is_not_looked_at_here() -> None:
    made = scene(config(ami={"host": "192.0.2.1", "secret": "env:S"}), console=lambda command: "never asked")
    findings = list(examine(made, chosen(["asterisk", "guests", "ami-users", "config-in-force", "rtp-ports"], [])))
    assert {f.severity for f in findings} == {Severity.UNKNOWN}
    assert any("another machine (192.0.2.1)" in f.found for f in findings)


def test_asterisks_process_is_the_one_that_its_own_file_names(tmp_path: Path) -> None:
    (tmp_path / "asterisk.conf").write_text(f"[directories]\nastrundir => {tmp_path}\n")
    made = scene(config(asterisk={"config_dir": str(tmp_path)}), proc=Path("/proc"))
    (tmp_path / "asterisk.pid").write_text(f"{os.getpid()}\n")
    assert made.asterisk_pid() == os.getpid()
    for text in ("4194305\n", "", "x\n", "../1\n"):
        (tmp_path / "asterisk.pid").write_text(text)
        with pytest.raises(CannotTell):
            scene(config(asterisk={"config_dir": str(tmp_path)}), proc=Path("/proc")).asterisk_pid()


def test_a_daemon_whose_process_is_not_here_cannot_be_looked_at() -> None:
    for pid in (None, "1; rm", 4194305):
        made = scene(ask_daemon=lambda resource, pid=pid: {"pid": pid}, proc=Path("/proc"))
        with pytest.raises(CannotTell):
            made.daemon_pid()


def test_a_user_that_is_busy_with_a_hanging_action_is_not_waited_for() -> None:
    entered, let_go = threading.Event(), threading.Event()

    def ask(action: str, fields: object) -> AmiAnswer:
        entered.set()
        let_go.wait(30)
        return AmiAnswer(True, "", {}, ())

    user = AmiUser("capconduit", ask, lambda: None)
    waiting = threading.Thread(target=user.ask, args=("Ping",))
    waiting.start()
    try:
        assert entered.wait(30)
        with pytest.raises(CannotTell, match="former AMI action"):
            user.ask("Ping")
    finally:
        let_go.set()
        waiting.join()


def test_a_link_that_breaks_is_told() -> None:
    def ask(action: str, fields: object) -> AmiAnswer:
        raise PeerError("ami-lost", "Asterisk closed the AMI connection", "")

    with pytest.raises(CannotTell, match="AMI action Ping: Asterisk closed"):
        AmiUser("capconduit", ask, lambda: None).ask("Ping")


def test_an_action_that_is_refused_is_told_with_the_user() -> None:
    user = AmiUser("clerk", lambda action, fields: AmiAnswer(False, "Permission denied", {}, ()), lambda: None)
    with pytest.raises(CannotTell, match="clerk may not do CoreSettings: Permission denied"):
        user.demand("CoreSettings")


def test_users_are_logged_off_at_the_end() -> None:
    closed = []

    def open_ami(name: str, secret: str) -> AmiUser:
        return AmiUser(name, lambda action, fields: AmiAnswer(True, "", {}, ()), lambda: closed.append(name))

    made = scene(config(ami={"secret": "env:S"}), env={"S": "long-and-winding-secret"}, open_ami=open_ami)
    assert made.ami() is made.ami() is made.ami_control()
    made.close()
    assert closed == ["capconduit"]


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl of the test's own."""
    path = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def test_systemd_is_asked_for_the_unit(systemctl: Path) -> None:
    systemctl.write_text(
        "#!/bin/sh\n[ \"$5\" = capconduit.service ] && printf 'Restart=always\\nWatchdogUSec=30s\\n'\n"
    )
    systemctl.chmod(0o755)
    assert peers.systemctl("capconduit.service") == {"Restart": "always", "WatchdogUSec": "30s"}
    with pytest.raises(CannotTell):
        peers.systemctl("other.service")


def test_without_systemd_it_cannot_be_told(systemctl: Path) -> None:
    assert not systemctl.exists()
    with pytest.raises(CannotTell, match="systemctl"):
        peers.systemctl("capconduit.service")
