"""docs/tutorial.md, typed as it stands: Debian's own Asterisk configuration, a real daemon, real SIP calls."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from socket import SOCK_DGRAM

import pytest

from lab.asterisk import Asterisk
from lab.ports import LabPorts, free_port, media_ports
from tests.cli.runner import Result, clean_environment, run

TUTORIAL = Path(__file__).resolve().parent.parent.parent / "docs" / "tutorial.md"
DEADLINE_S = 60.0
TALK_MS = "1500"  # instead of twenty seconds: one minute is paid for either way
# What makes the machine ready, which the lab is already.
MACHINE = ("apt", "asterisk", "python3", "/opt/capconduit/bin/pip", "ln", "systemctl")
# Debian's files that ours meet; modules.conf and asterisk.conf are the lab's, which says where its tree is.
DEBIAN = ("extensions.conf", "pjsip.conf", "iax.conf", "manager.conf", "cdr.conf", "cdr_custom.conf", "rtp.conf")


def lines() -> list[str]:
    """The commands of the tutorial in their order."""
    blocks = re.findall(r"^```console\n(.*?)^```$", TUTORIAL.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines()]


@dataclass
class Reader:
    """Somebody who types the tutorial, on ports and in directories that are free here."""

    asterisk: Asterisk
    home: Path
    ports: Mapping[str, int]
    env: Mapping[str, str]
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    results: dict[str, Result] = field(default_factory=dict)

    def type(self, line: str) -> None:
        """Type one line. Raises AssertionError where it does not do what the tutorial says."""
        program = shlex.split(line)[0]
        if program in MACHINE:
            return
        if program == "sipp":
            self._sipp(line)
        elif line.startswith("capconduit serve"):
            self._serve()
        else:
            self._capconduit(line)

    def _capconduit(self, line: str) -> None:
        argv = shlex.split(line)[1:]
        if argv == ["init"]:
            argv.append("--yes")  # nobody is there to answer; tests/cli has the questions
        argv = [self._call() if word == "CALL" else self._moved(word) for word in argv]
        if argv[0] == "status":
            self._until(lambda: self._run(*argv).code == 0, "the daemon")
        result = self._run(*argv)
        # doctor looks at the whole machine, which is not the tutorial's
        assert result.code == 0 or argv[0] == "doctor", f"{line}: {result.err}"
        self.results[line] = result

    def _run(self, *argv: str) -> Result:
        return run(*argv, home=self.home, env=self.env)

    def _serve(self) -> None:
        environment = clean_environment(self.home, PYTHONPATH=os.pathsep.join(sys.path), **self.env)
        command = [sys.executable, "-m", "capconduit_cli", "serve"]
        with (self.home / "daemon.log").open("wb") as log:
            self.running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    def _sipp(self, line: str) -> None:
        line = self._moved(line).replace("-d 20000", f"-d {TALK_MS}")
        if " | " in line:
            subprocess.run(["/bin/sh", "-c", line], cwd=self.home, timeout=DEADLINE_S, check=True)
            return
        with (self.home / "sipp.log").open("ab") as log:
            argv = [*shlex.split(line), "-nostdin"]
            process = subprocess.Popen(argv, cwd=self.home, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(process)
        if "-sn uas" not in line:
            refused = "-d 1000" in line
            assert (process.wait(DEADLINE_S) != 0) == refused, (self.home / "sipp.log").read_text(errors="replace")
            # The call is settled after its BYE was answered.
            self._until(lambda: self._run("call", "list", "--json").json == [], "end of the call")

    def _call(self) -> str:
        calls = self._run("cdr", "list", "--json").json
        return str(calls[0]["call_id"])[-8:]

    def _moved(self, text: str) -> str:
        """With ports that are free here."""
        return re.sub(r"(?<![0-9])(5060|5070|5080|6000|6100)(?![0-9])", lambda found: str(self.ports[found[0]]), text)

    def _until(self, is_so: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: {(self.home / 'daemon.log').read_text()}"
            time.sleep(0.05)

    def close(self) -> None:
        """End what was started."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(DEADLINE_S)


@pytest.fixture
def reader(asterisk_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setattr("capconduit.config.SYSTEM_FILE", tmp_path / "etc" / "config.toml")
    ports = LabPorts.choose()
    theirs = asterisk_tree / "etc/asterisk"
    names = [*DEBIAN, *(str(path.relative_to(theirs)) for path in theirs.glob("manager.d/*.conf"))]
    debian = {name: (theirs / name).read_text() for name in names}
    debian["manager.conf"] = re.sub(r"(?m)^port = 5038$", f"port = {ports.ami}", debian["manager.conf"])
    with Asterisk(asterisk_tree, debian, ports) as asterisk:
        etc = asterisk.dir / "etc"
        console = asterisk.dir / "console-program"
        console.write_text(f'#!/bin/sh\nexec {shlex.join(asterisk._program()[:-2])} "$@"\n')
        console.chmod(0o755)
        env = {
            "CAPCONDUIT_CONFIG": str(tmp_path / "etc" / "config.toml"),
            "CAPCONDUIT_NODE__NAME": asterisk.node_name,
            "CAPCONDUIT_AMI__PORT": str(ports.ami),
            "CAPCONDUIT_FASTAGI__LISTEN": f"127.0.0.1:{free_port()}",
            "CAPCONDUIT_FASTAGI__DEADLINE_MS": "4000",  # how soon answers come is not the matter here
            "CAPCONDUIT_ASTERISK__CONFIG_DIR": str(etc),
            "CAPCONDUIT_ASTERISK__MAIN_CONFIG": str(etc / "asterisk.conf"),
            "CAPCONDUIT_ASTERISK__PROGRAM": str(console),
            "CAPCONDUIT_ASTERISK__SIP_LISTEN": f"127.0.0.1:{ports.sip}",
            "CAPCONDUIT_ASTERISK__IAX_LISTEN": f"127.0.0.1:{ports.iax}",
        }
        moved = {"5060": ports.sip, "5070": free_port(SOCK_DGRAM), "5080": free_port(SOCK_DGRAM)}
        moved |= {"6000": media_ports(), "6100": media_ports()}
        typing = Reader(asterisk, tmp_path, moved, env)
        try:
            yield typing
        finally:
            typing.close()


def test_the_tutorial_leads_to_the_first_paid_call(reader: Reader) -> None:
    assert len(lines()) > 30
    for line in lines():
        reader.type(line)
    told = reader.results
    assert "dial" in told["capconduit route +18005550100 --from +12125550147"].out
    given = told["capconduit route +18005550100 --from +12125550147 --given balance:acme=0.10 --why-not buyer1"].out
    assert "capconduit balance add acme" in given
    assert "24.80" in told["capconduit balance show acme"].out
    assert "ANSWER" in told["capconduit cdr list"].out
    story = told["capconduit explain CALL"].out
    assert "billed 60s" in story
    assert "attempt 1 is answered" in story
    assert told["capconduit db verify"].out == ""
    assert "campaign_paused" in told["capconduit cdr list --reject campaign_paused"].out
