"""`python -m lab`: get the tree, start and stop one Asterisk to try things on, ask it something."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path
from socket import SOCK_DGRAM, SOCK_STREAM
from typing import Final

from capconduit.errors import CapConduitError
from capconduit.render.contexts import Ami, AmiUser, RenderContext, RtpRange, TrunkContext
from capconduit.render.engine import render_all
from capconduit.vocab import TrunkKind
from lab.asterisk import Asterisk
from lab.ports import LOOPBACK, RTP_PORTS, LabPorts, free_udp_range, is_free
from lab.root import DEFAULT_SUITE, LAB_DIR, SUITES, asterisk_major, ensure_sipp, ensure_tree
from lab.wait import LabError, wait_for

RUN_DIR: Final = LAB_DIR / "run"
SIP_PORT, IAX_PORT, AMI_PORT = 5060, 4569, 5038
DOWN_TIMEOUT_S: Final = 15.0


def _example(ports: LabPorts, suite: str) -> dict[str, str]:
    """A configuration to begin with: one trunk `carrier` on loopback, AMI user capconduit with the secret `lab`."""
    modern = asterisk_major(suite) >= 20
    context = RenderContext(
        node_name="lab",
        ami=Ami(port=ports.ami, users=(AmiUser(username="capconduit", secret="lab"),), named_filters=modern),
        sip_listen=f"{LOOPBACK}:{ports.sip}",
        iax_listen=f"{LOOPBACK}:{ports.iax}",
        rtp=RtpRange(start=ports.rtp_start, end=ports.rtp_end),
        trunks=(TrunkContext(name="carrier", kind=TrunkKind.PJSIP, hosts=(LOOPBACK,), port=5070),),
        exact_sip_codes=modern,
    )
    return render_all(context)


def _up(suite: str, etc: Path | None) -> None:
    if _pid() is not None:
        print(f"it is up already (pid {_pid()}); `python -m lab down` ends it")
        return
    for port, kind in ((SIP_PORT, SOCK_DGRAM), (IAX_PORT, SOCK_DGRAM), (AMI_PORT, SOCK_STREAM)):
        if not is_free(port, kind):
            raise LabError(f"port {port} of {LOOPBACK} is taken: another Asterisk? end it first")
    rtp = free_udp_range(RTP_PORTS)
    ports = LabPorts(SIP_PORT, IAX_PORT, AMI_PORT, rtp, rtp + RTP_PORTS - 1)
    if etc is None:
        files = _example(ports, suite)
    else:
        files = {str(path.relative_to(etc)): path.read_text() for path in sorted(etc.rglob("*.conf"))}
    shutil.rmtree(RUN_DIR / "etc", ignore_errors=True)
    asterisk = Asterisk(ensure_tree(suite), files, ports, run_dir=RUN_DIR)
    asterisk.start()
    print(f"Asterisk {asterisk_major(suite)} is up: pid {asterisk.pid}, directory {RUN_DIR}")
    if etc is None:
        print(f"SIP {LOOPBACK}:{SIP_PORT}, IAX2 {IAX_PORT}, AMI {AMI_PORT} (capconduit, secret lab), FastAGI at 4573")


def _pid() -> int | None:
    """The process that `up` started, or None when it is gone."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
        pid = int((RUN_DIR / "pid").read_text())
        os.kill(pid, 0)
        # A number that was given to another process since is not ours to end.
        if str(RUN_DIR) in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    return None


def _down() -> None:
    pid = _pid()
    if pid is None:
        print("it is not up")
        return
    os.kill(pid, signal.SIGTERM)  # Asterisk ends its calls and runs their hangup handlers
    wait_for(lambda: _pid() is None, "end of Asterisk", DOWN_TIMEOUT_S)
    (RUN_DIR / "pid").unlink(missing_ok=True)
    print("down")


def _cli(suite: str, words: list[str]) -> None:
    ports = LabPorts(SIP_PORT, IAX_PORT, AMI_PORT, 0, 0)
    print(Asterisk.attach(ensure_tree(suite), ports, RUN_DIR).cli(" ".join(words)), end="")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 when it was done, 4 when Asterisk did not do its part, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), default=DEFAULT_SUITE, help="forky has 22, bullseye has 16")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("root", help="get the Asterisk tree and SIPp")
    up = commands.add_parser("up", help="start one Asterisk in .lab/run")
    up.add_argument("--etc", type=Path, help="what `capconduit render --out` wrote; without it an example")
    commands.add_parser("down", help="end it")
    commands.add_parser("cli", help="ask it, as in: cli core show channels").add_argument("words", nargs="+")
    chosen = parser.parse_args(arguments)
    try:
        match chosen.command:
            case "root":
                print(f"{ensure_tree(chosen.suite)}\n{ensure_sipp()}")
            case "up":
                _up(chosen.suite, chosen.etc)
            case "down":
                _down()
            case _:
                _cli(chosen.suite, chosen.words)
    except (LabError, CapConduitError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 2 if isinstance(error, CapConduitError) else 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
