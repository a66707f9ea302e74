"""Gets what the lab needs and keeps it: unpacked Debian trees with Asterisk in .lab/, and SIPp from the system.

The outside dependency is the Debian mirror that apt uses on this machine. **Fails closed**: a tree appears under its
name only when it is complete; what cannot be had raises LabUnavailable with the reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from lab.wait import LabUnavailable

LAB_DIR: Final = Path(__file__).parents[1] / ".lab"
SUITES: Final = {"forky": "asterisk-22", "bullseye": "asterisk-16"}
DEFAULT_SUITE: Final = os.environ.get("CAPCONDUIT_LAB_SUITE", "forky")
PACKAGES: Final = "asterisk,asterisk-core-sounds-en-gsm"
APT_TIMEOUT_S: Final = 600
BINARY: Final = Path("usr/sbin/asterisk")


def asterisk_major(suite: str = DEFAULT_SUITE) -> int:
    """The major version of the Asterisk in a suite's tree: 22 or 16."""
    return int(SUITES[suite].rpartition("-")[2])


def major_of(tree: Path) -> int:
    """The major version of the Asterisk in a tree that this module made."""
    return int(tree.name.rpartition("-")[2])


def tree_dir(suite: str = DEFAULT_SUITE) -> Path:
    """Where the tree of a Debian suite is, or will be."""
    return LAB_DIR / SUITES[suite]


def ensure_tree(suite: str = DEFAULT_SUITE) -> Path:
    """The unpacked tree, made now if it is not there (half a minute, 350 MB). Raises LabUnavailable."""
    tree = tree_dir(suite)
    if (tree / BINARY).exists():
        return tree
    LAB_DIR.mkdir(exist_ok=True)
    with (LAB_DIR / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once must not unpack into the same place
        if not (tree / BINARY).exists():
            _unpack(suite, tree)
    return tree


def ensure_sipp() -> Path:
    """SIPp's program, installed now if it is missing and we may. Raises LabUnavailable."""
    return _ensure_program("sipp", "sip-tester")


def _ensure_program(program: str, package: str) -> Path:
    if found := shutil.which(program):
        return Path(found)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise LabUnavailable(f"{program} is missing: install the package {package}")
    for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", "--no-install-recommends", package]):
        _run(command)
    if found := shutil.which(program):
        return Path(found)
    raise LabUnavailable(f"{package} was installed, and {program} is still missing")


def _unpack(suite: str, tree: Path) -> None:
    mmdebstrap = _ensure_program("mmdebstrap", "mmdebstrap")
    part = tree.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    # A mirror's copy of a moving suite can be older than its Valid-Until.
    _run([
        str(mmdebstrap), "--variant=minbase", '--aptopt=Acquire::Check-Valid-Until "false"',
        f"--include={PACKAGES}", suite, str(part), _mirror(),
    ])  # fmt: skip
    part.rename(tree)


def _mirror() -> str:
    """The first mirror of apt's own configuration that is not for security updates."""
    targets = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"])
    for uri in targets.split():
        if "security" not in uri:
            return uri
    raise LabUnavailable("apt knows no mirror: run apt-get update")


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=APT_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabUnavailable(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise LabUnavailable(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout
