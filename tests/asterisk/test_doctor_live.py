"""`capconduit doctor` on a real Asterisk with the real daemon: a well-set one is well, and what is broken is found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from capconduit.clock import SystemClock
from capconduit.config import Config
from capconduit.doctor import asterisk as asterisk_checks
from capconduit.doctor import peers
from capconduit.doctor.checks import chosen
from capconduit.doctor.findings import Finding, Severity
from capconduit.doctor.needed import APPLICATIONS, FUNCTIONS
from capconduit.doctor.run import examine
from capconduit.doctor.scene import Doors, Scene
from capconduit.errors import ExitCode
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from capconduit_cli.control import ask_daemon
from lab.asterisk import Asterisk
from lab.floor import Floor
from lab.ports import LabPorts
from lab.root import asterisk_major
from lab.wait import wait_for
from tests.cli.runner import Result, run_process

STRONG = "f2a9c4e81b7d605392ae4c81"
# What a lab cannot have: a time service, a systemd unit, files of root alone.
NOT_IN_THE_LAB = {"clock", "supervision"}


@pytest.fixture(scope="module")
def floor(asterisk_tree: Path) -> Iterator[Floor]:
    """A floor whose AMI secret is a good one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.floor.SECRET", STRONG)
        made = Floor(asterisk_tree)
    made.asterisk.leave_out(asterisk_checks.REFER)
    with made:
        yield made


def etc(floor: Floor) -> Path:
    return floor.asterisk.dir / "etc"


def program(floor: Floor) -> Path:
    """The tree's Asterisk as a program that can be called like any other."""
    path = floor.dir / "asterisk"
    if not path.exists():
        *words, _, _ = floor.asterisk._program()
        path.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        path.chmod(0o755)
    return path


def config_of(floor: Floor) -> Config:
    asterisk = replace(
        floor.config.asterisk,
        config_dir=str(etc(floor)),
        main_config=str(etc(floor) / "asterisk.conf"),
        program=str(console_program(floor.asterisk, floor.dir / "asterisk")),
    )
    return replace(floor.config, asterisk=asterisk)


def doctor(floor: Floor, *only: str, files: Mapping[str, str] | None = None) -> list[Finding]:
    """The findings of those checks (none: all that a lab can pass)."""
    config = config_of(floor)
    scene = Scene(
        Doors(
            config=config,
            env={},
            clock=SystemClock(),
            ask_daemon=lambda resource: ask_daemon(config.control.socket, resource),
            open_store=lambda: floor.store,
            make_office=lambda store: floor.office,
            open_ami=lambda name, secret: peers.open_ami(config, name, secret),
            console=peers.console_of(config).ask,
            render=lambda office: files or floor._files(),
            differences=lambda files: peers.differences(config, files),
            systemctl=peers.systemctl,
            calls=50,
        )
    )
    try:
        return list(examine(scene, chosen(only, () if only else tuple(NOT_IN_THE_LAB))))
    finally:
        scene.close()


def ids(findings: list[Finding], least: Severity = Severity.INFO) -> set[str]:
    return {f.id for f in findings if f.severity.rank >= least.rank}


@contextmanager
def changed(floor: Floor, name: str, edit: Callable[[str], str], *reloads: str) -> Iterator[None]:
    """A file of Asterisk's with another text, taken in by `reloads`; both as they were afterwards."""
    path = etc(floor) / name
    before, about = path.read_text(), path.stat()
    after = edit(before)
    assert after != before
    path.write_text(after)
    try:
        for command in reloads:
            floor.asterisk.cli(command)
        yield
    finally:
        path.write_text(before)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        for command in reloads:
            floor.asterisk.cli(command)


def test_a_well_set_asterisk_is_well(floor: Floor) -> None:
    findings = doctor(floor)
    bad = [f for f in findings if f.severity.rank > Severity.INFO.rank]
    assert bad == []
    checks = {f.check for f in findings}
    assert checks == {check.slug for check in chosen((), tuple(NOT_IN_THE_LAB))}
    assert {f.id for f in findings if f.severity is Severity.INFO} <= {
        "asterisk-version-unfixed", "rtp-ports-ephemeral", "fastagi-unproven"
    }  # fmt: skip


def test_a_user_that_may_originate_is_found(floor: Floor) -> None:
    with changed(
        floor, "manager.conf", lambda t: t.replace("write = call,", "write = originate,call,"), "manager reload"
    ):
        (finding,) = doctor(floor, "ami-excess")
    assert finding.id == "ami-right-too-many"
    assert finding.severity is Severity.ERROR
    assert "`originate`" in finding.found
    assert ids(doctor(floor, "ami-excess")) == set()


@pytest.mark.parametrize("right", ["system", "command", "config"])
def test_other_rights_that_the_daemon_never_needs_are_found(floor: Floor, right: str) -> None:
    with changed(
        floor, "manager.conf", lambda t: t.replace("write = call,", f"write = {right},call,"), "manager reload"
    ):
        found = doctor(floor, "ami-excess")
    assert [f.id for f in found] == ["ami-right-too-many"]
    assert f"`{right}`" in found[0].found


def test_a_right_that_is_missing_is_found(floor: Floor) -> None:
    def without(text: str) -> str:
        return text.replace("write = call,reporting", "write = reporting")

    with changed(floor, "manager.conf", without, "manager reload"):
        found = [f for f in doctor(floor, "ami-rights") if f.id == "ami-right-missing"]
    assert any("AbsoluteTimeout" in f.found for f in found)
    assert any("Hangup" in f.found for f in found)
    with changed(
        floor, "manager.conf", lambda t: t.replace("write = call,reporting", "write = call"), "manager reload"
    ):
        found = [f for f in doctor(floor, "ami-rights") if f.id == "ami-right-missing"]
    assert any("CoreShowChannels" in f.found for f in found)


def test_a_reader_and_a_user_for_control_have_each_what_it_needs(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = floor.dir / "control.secret"
    secret.write_text(STRONG[::-1])
    secret.chmod(0o600)
    ami = replace(floor.config.ami, control_username="hands", control_secret=f"file:{secret}")
    monkeypatch.setattr(floor, "config", replace(floor.config, ami=ami))
    text = floor._files()["manager.conf"]
    assert "[hands]" in text
    with changed(floor, "manager.conf", lambda _: text, "manager reload"):
        findings = doctor(floor, "ami", "secrets", "config-in-force")
    assert ids(findings) == set()
    assert {f.subject for f in findings if f.check == "ami-rights"} == {"capconduit", "hands"}


def test_a_guest_endpoint_is_found(floor: Floor) -> None:
    guest = "\n[anonymous]\ntype = endpoint\ncontext = capconduit-inbound\nallow = ulaw\n"
    with changed(floor, "pjsip.conf", lambda t: t + guest, "module reload res_pjsip.so"):
        assert ids(doctor(floor, "guests")) == {"pjsip-anonymous"}
    path = etc(floor) / "pjsip.conf"
    with changed(floor, "pjsip.conf", lambda t: t + guest, "module reload res_pjsip.so"):
        whole = path.read_text()
        path.write_text(whole.removesuffix(guest))  # still loaded
        (finding,) = doctor(floor, "guests")
        assert finding.id == "pjsip-anonymous"
        assert "in none of the files" in finding.found
    guest = "\n[guest]\ntype = user\ncontext = capconduit-inbound\n"
    with changed(floor, "iax.conf", lambda t: t + guest):
        assert ids(doctor(floor, "guests")) == {"iax-guest"}
    named = "\n[colleague]\ntype = endpoint\ncontext = capconduit-inbound\nallow_unauthenticated_options = yes\n"
    with changed(floor, "pjsip.conf", lambda t: t + named):
        assert ids(doctor(floor, "guests")) == {"pjsip-endpoint-open", "pjsip-options-unauthenticated"}


def test_a_dialplan_that_was_changed_is_found(floor: Floor) -> None:
    def edit(text: str) -> str:
        assert "FIELDQTY(CC_DIAL,/)} < 2" in text
        return text.replace("FIELDQTY(CC_DIAL,/)} < 2", "FIELDQTY(CC_DIAL,/)} < 1")

    with changed(floor, "extensions.conf", edit, "dialplan reload"):
        (finding,) = [f for f in doctor(floor, "dialplan-in-force") if f.severity is Severity.ERROR]
    assert finding.id == "dialplan-differs"
    assert finding.subject == "capconduit-inbound"
    assert finding.found.startswith("1 of ")
    assert ids(doctor(floor, "dialplan-in-force")) == set()


def test_what_somebody_else_adds_to_our_contexts_is_found(floor: Floor) -> None:
    floor.asterisk.cli("dialplan add extension 911,1,Dial,PJSIP/x into capconduit-inbound")
    try:
        (finding,) = [f for f in doctor(floor, "dialplan-in-force") if f.severity is Severity.ERROR]
        assert finding.id == "dialplan-extra"
        assert "911,1" in finding.found
    finally:
        floor.asterisk.cli("dialplan remove extension 911@capconduit-inbound")
    assert ids(doctor(floor, "dialplan-in-force")) == set()


def test_a_context_that_is_missing_is_found(floor: Floor) -> None:
    floor.asterisk.cli("dialplan remove context capconduit-answered")
    try:
        assert ids(doctor(floor, "dialplan-in-force")) == {"dialplan-missing"}
    finally:
        floor.asterisk.cli("module reload pbx_config.so")
    assert ids(doctor(floor, "dialplan-in-force")) == set()


def test_live_dangerously_is_found(floor: Floor) -> None:
    with changed(floor, "asterisk.conf", lambda t: t.replace("live_dangerously = no", "live_dangerously = yes")):
        assert ids(doctor(floor, "asterisk-options")) == {"asterisk-live-dangerously"}
    with changed(floor, "asterisk.conf", lambda t: t + "; one more comment\n"):
        assert ids(doctor(floor, "asterisk-options")) == {"asterisk-options-pending"}
    assert ids(doctor(floor, "asterisk-options")) == set()


def test_ami_that_listens_to_the_world_is_found(floor: Floor) -> None:
    with changed(
        floor, "manager.conf", lambda t: t.replace("bindaddr = 127.0.0.1", "bindaddr = 0.0.0.0"), "manager reload"
    ):
        (finding,) = [f for f in doctor(floor, "listeners") if f.subject == "AMI"]
    assert finding.id == "listener-open"
    assert f"0.0.0.0:{floor.ports.ami}" in finding.found
    assert ids(doctor(floor, "listeners")) == set()


def test_a_wrong_secret_is_found_and_hides_nothing_else(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    other = floor.dir / "other.secret"
    other.write_text("a-quite-different-one")
    other.chmod(0o600)
    monkeypatch.setattr(floor, "config", replace(floor.config, ami=replace(floor.config.ami, secret=f"file:{other}")))
    findings = doctor(floor)
    by_check = {f.check: f for f in findings}
    assert by_check["ami-login"].id == "ami-login-refused"
    assert by_check["ami-login"].severity is Severity.ERROR
    assert "quite-different" not in str(findings)
    assert by_check["ami-rights"].severity is Severity.UNKNOWN
    assert by_check["database-current"].severity is Severity.OK
    assert by_check["asterisk-modules"].severity is Severity.OK


def test_a_secret_that_can_be_guessed_is_found_and_not_shown(floor: Floor) -> None:
    weak = "\n[clerk]\nsecret = amp111\nread = call\n"
    with changed(floor, "manager.conf", lambda t: t + weak):
        (finding,) = [f for f in doctor(floor, "secrets") if f.severity is Severity.ERROR]
    assert finding.id == "secret-default"
    assert "[clerk]" in finding.found
    assert "amp111" not in str(finding)


def test_a_module_that_is_missing_is_found(floor: Floor) -> None:
    floor.asterisk.cli("module unload func_cut.so")
    try:
        (finding,) = doctor(floor, "asterisk-modules")
        assert (finding.id, finding.subject) == ("asterisk-module-missing", "func_cut.so")
    finally:
        floor.asterisk.cli("module load func_cut.so")
    assert ids(doctor(floor, "asterisk-modules")) == set()


def test_another_version_than_the_one_rendered_for_is_found(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(floor.config.asterisk, version=20)
    monkeypatch.setattr(floor, "config", replace(floor.config, asterisk=other))
    found = doctor(floor, "asterisk-version")
    assert "asterisk-version-differs" in ids(found)
    assert f"asterisk.version {asterisk_major()}" in found[0].fix


def test_without_the_daemon_what_waits_for_it_is_found(floor: Floor) -> None:
    floor.stop_daemon()
    floor.asterisk.cli("database put capconduit/unsettled lab-1.1 x|y")
    try:
        findings = doctor(floor, "daemon", "fastagi", "network")
        assert {"daemon-away", "fastagi-unreachable", "spool-left"} <= ids(findings, Severity.WARNING)
        assert {f.severity for f in findings if f.check == "journal"} == {Severity.UNKNOWN}
    finally:
        floor.asterisk.cli("database deltree capconduit/unsettled")
        floor.start_daemon()
    wait_for(
        lambda: not ids(doctor(floor, "daemon", "fastagi", "spool"), Severity.ERROR), "a daemon that is well again"
    )


def test_every_name_is_where_the_table_says(asterisk_tree: Path) -> None:
    places = [asterisk_tree / "usr/lib/x86_64-linux-gnu/asterisk/modules", asterisk_tree / "usr/lib/asterisk/modules"]
    (modules,) = [place for place in places if place.is_dir()]
    looked = 0
    for name, module in {**APPLICATIONS, **FUNCTIONS}.items():
        if module and (modules / module).exists():
            looked += 1
            content = (modules / module).read_bytes()
            if asterisk_major() >= 22:
                assert name.encode() + b"\0" in content, (name, module)  # the end of a string, maybe of a longer one
    assert looked > 30


def test_the_needed_modules_are_those_without_which_the_dialplan_fails(floor: Floor) -> None:
    """What is derived from the files is loaded in the lab, whose list of modules was found by trying."""
    needed = {m.name for m in asterisk_checks.needed_modules(floor._files())}
    assert {"app_dial.so", "res_agi.so", "func_cut.so", "chan_pjsip.so", "cdr_custom.so"} <= needed
    loaded = asterisk_checks.parse_modules(floor.asterisk.cli("module show"))
    assert needed <= set(loaded)


def test_what_asterisk_has_loaded_otherwise_is_found(floor: Floor) -> None:
    with changed(floor, "manager.conf", lambda t: t.replace("read = system,call", "read = call"), "manager reload"):
        found = doctor(floor, "config-in-force", "ami-users")
    assert {"config-not-loaded", "ami-events-missing"} <= ids(found)


def test_the_command_itself_on_a_real_asterisk(floor: Floor, tmp_path: Path) -> None:
    """As a process; the lab renders a shorter guard than the configuration says, which is the one thing it finds."""
    asterisk = config_of(floor).asterisk
    env = {
        "CAPCONDUIT_ASTERISK__CONFIG_DIR": asterisk.config_dir,
        "CAPCONDUIT_ASTERISK__MAIN_CONFIG": asterisk.main_config,
        "CAPCONDUIT_ASTERISK__PROGRAM": asterisk.program,
        "CAPCONDUIT_ASTERISK__RTP_RANGE": f"{floor.ports.rtp_start}-{floor.ports.rtp_end}",
    }
    skip = [word for check in NOT_IN_THE_LAB for word in ("--skip", check)]
    command = ("--config", str(floor.config_path), "doctor", *skip, "--calls", "50", "--json")
    result = run_process(*command, home=tmp_path, env=env)
    assert result.code == ExitCode.DRIFT, result.err
    assert "[doctor-findings]" in result.err
    wrong = {row["id"] for row in result.json if row["severity"] in ("unknown", "warning", "error")}
    assert wrong == {"dialplan-differs"}
    well = run_process(*command, "--skip", "dialplan-in-force", home=tmp_path, env=env)
    assert well.code == ExitCode.DONE, well.err


def console_program(asterisk: Asterisk, path: Path) -> Path:
    """The tree's Asterisk as a program that can be called like any other."""
    words = " ".join(asterisk._program()[:-2])
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)
    return path


def foreign_files(ports: LabPorts) -> dict[str, str]:
    """A PBX of its own with a phone and an AMI user."""
    return {
        "pjsip.conf": f"[udp]\ntype=transport\nprotocol=udp\nbind=127.0.0.1:{ports.sip}\n"
        "[phone]\ntype=endpoint\nauth=phone\ncontext=inside\nallow=ulaw\n"
        "[phone]\ntype=auth\nusername=phone\npassword=phone\n",
        "manager.conf": f"[general]\nenabled=yes\nbindaddr=127.0.0.1\nport={ports.ami}\n"
        f"[clerk]\nsecret={STRONG}\nwrite=all\n",
        "extensions.conf": "[inside]\nexten => 100,1,Dial(PJSIP/phone)\n",
    }


def foreign_config(asterisk: Asterisk, place: Path) -> Path:
    """Our configuration beside that PBX, with a database that is ready."""
    secret = place / "ami.secret"
    secret.write_text(STRONG[::-1])
    secret.chmod(0o600)
    store = open_store(f"sqlite://{place}/x.sqlite", create=True)
    prepare_database(store, SystemClock())
    store.close()
    config = place / "capconduit.toml"
    config.write_text(
        f'[database]\nurl = "sqlite://{place}/x.sqlite"\n[node]\nname = "lab"\n'
        f'[ami]\nport = {asterisk.ports.ami}\nsecret = "file:{secret}"\n'
        f'[asterisk]\nversion = {asterisk_major()}\nconfig_dir = "{asterisk.dir}/etc"\n'
        f'program = "{console_program(asterisk, place / "asterisk")}"\n'
        f'main_config = "{asterisk.dir}/etc/asterisk.conf"\nudp_transport = "udp"\n'
        f'iax_listen = "127.0.0.1:{asterisk.ports.iax}"\n'
    )
    return config


def test_what_install_puts_into_a_foreign_asterisk_is_well(asterisk_tree: Path, tmp_path: Path) -> None:
    """Beside files that were there before only what is wrong with those is found."""
    ports = LabPorts.choose()
    only = ("asterisk", "ami", "dialplan-in-force", "config-in-force", "secrets", "guests", "listeners")
    with Asterisk(asterisk_tree, foreign_files(ports), ports) as asterisk:
        config = foreign_config(asterisk, tmp_path)

        def capconduit(*argv: str) -> Result:
            return run_process("--config", str(config), *argv, home=tmp_path)

        assert capconduit("trunk", "add", "carrier", "--kind", "pjsip", "--host", "127.0.0.1").code == ExitCode.DONE
        before = capconduit("doctor", "--only", "dialplan", "--only", "ami-login", "--json")
        assert "ami-login-refused" in {row["id"] for row in before.json}
        installed = capconduit("install", "--yes")
        assert installed.code == ExitCode.DONE, installed.err
        after = capconduit("doctor", *(word for name in only for word in ("--only", name)), "--json")
    wrong = {(row["id"], row["subject"]) for row in after.json if row["severity"] in ("unknown", "warning", "error")}
    assert {slug for slug, _ in wrong} == {"ami-user-open", "asterisk-calls-stolen", "secret-default"}, after.json
    assert ("secret-default", "pjsip.conf [phone]") in wrong


def test_the_module_that_lets_calls_be_stolen_is_found(floor: Floor) -> None:
    floor.asterisk.cli(f"module load {asterisk_checks.REFER}")
    try:
        loaded = asterisk_checks.parse_modules(floor.asterisk.cli("module show"))
        assert [f.id for f in asterisk_checks.judge_replaces(loaded)] == ["asterisk-calls-stolen"]
    finally:
        floor.asterisk.cli(f"module unload {asterisk_checks.REFER}")
