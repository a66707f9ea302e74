"""Whether the daemon runs, is ready, alone, watched over, and has nothing left to tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from capconduit import __version__
from capconduit.doctor.findings import SUDO, CannotTell, Check, Fault, Finding, Matter, Severity, fine
from capconduit.doctor.scene import Scene
from capconduit.render.contexts import SPOOL_FAMILY
from capconduit.units import format_duration, format_instant, parse_instant

if TYPE_CHECKING:
    from capconduit.domain.model import Node

SILENT_MS: Final = 15_000  # a daemon writes of itself every three seconds
DOUBLE: Final = "another daemon"  # how the daemon's own reason begins
_UNIT: Final = re.compile(r"/([^/\n]+\.service)")

AWAY = Fault("daemon-away", Severity.ERROR, "nobody answers Asterisk: every call is refused or falls back")
NOT_READY = Fault("daemon-not-ready", Severity.ERROR, "it runs and cannot do all that calls need of it")
DOUBLED = Fault(
    "daemon-doubled",
    Severity.ERROR,
    "two daemons of one name settle each other's calls: neither settles by inference now",
)
OTHER_VERSION = Fault(
    "daemon-version", Severity.WARNING, "the daemon was not restarted after an upgrade: it decides as before"
)
CONFIG_STALE = Fault(
    "daemon-config-stale", Severity.WARNING, "the daemon reads its configuration when it starts: it has the former one"
)
JOURNAL_WAITS = Fault(
    "journal-waiting", Severity.WARNING, "ends of calls wait for the database: balances and caps lag behind until then"
)
JOURNAL_BROKEN = Fault(
    "journal-broken",
    Severity.ERROR,
    "when the database is away, ends of calls have only Asterisk's own store to wait in",
)
JOURNAL_ASIDE = Fault(
    "journal-aside", Severity.WARNING, "ends of calls that could not be settled lie there until a person looks at them"
)
SPOOL_LEFT = Fault(
    "spool-left",
    Severity.WARNING,
    "ends of calls that no daemon has taken from Asterisk yet: their money is still held",
)
NODE_SILENT = Fault(
    "node-silent",
    Severity.WARNING,
    "it said that it was up and writes no more: its calls wait until their money is used",
)
ZOMBIES = Fault(
    "zombies", Severity.WARNING, "channels in our dialplan that no call of ours accounts for: nobody pays for them"
)
UNSUPERVISED = Fault("daemon-unsupervised", Severity.WARNING, "when it dies nobody starts it again")
NO_WATCHDOG = Fault(
    "daemon-no-watchdog",
    Severity.WARNING,
    "a daemon that hangs answers nothing and is not restarted: each call waits in vain",
)


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_status(status: Mapping[str, Any], version: str) -> Iterator[Finding]:
    """What the daemon tells of itself; `version` is that of this command."""
    reasons = [str(reason) for reason in status.get("reasons") or ()]
    doubled = [reason for reason in reasons if reason.startswith(DOUBLE)]
    others = [reason for reason in reasons if reason not in doubled]
    node = status.get("node")
    bad = False
    if doubled:
        bad = True
        yield DOUBLED.found(
            f"another daemon runs as node {node}", fix="capconduit config set node.name OTHER   # on the other machine"
        )
    if others or (status.get("ready") is not True and not doubled):
        bad = True
        yield NOT_READY.found(f"node {node}: {', '.join(others) or 'it does not say why'}", fix=_remedy(others))
    if status.get("version") != version:
        bad = True
        yield OTHER_VERSION.found(
            f"it is {status.get('version')}, this command is {version}", fix="systemctl restart capconduit"
        )
    if not bad:
        yield fine(f"node {node} is ready, pid {status.get('pid')}, {status.get('calls')} calls")


def _remedy(reasons: Sequence[str]) -> str:
    text = " ".join(reasons)
    if "database" in text:
        return "capconduit doctor --only database"
    if "ami" in text:
        return "capconduit doctor --only ami-login"
    if "draining" in text:
        return "systemctl start capconduit   # it was told to stop, and ends after its last exchange"
    return "capconduit status"


def judge_config_age(changed_ms: int, started_ms: int, path: str) -> Iterator[Finding]:
    """The configuration file's change against the daemon's start."""
    if changed_ms > started_ms:
        yield CONFIG_STALE.found(
            f"{path} is of {format_instant(changed_ms)}, the daemon runs since {format_instant(started_ms)}",
            fix="systemctl restart capconduit",
        )
    else:
        yield fine("the daemon has read the configuration as it is now")


def judge_journal(waiting: int, trouble: str, aside_bytes: int, aside: str) -> Iterator[Finding]:
    """Ends in the journal, what the daemon says is wrong with it, and the size of what was put aside."""
    if trouble:
        yield JOURNAL_BROKEN.found(trouble, fix="capconduit doctor --only disk-space --only file-permissions")
    if waiting:
        yield JOURNAL_WAITS.found(f"{waiting} ends wait in the journal", fix="capconduit doctor --only database")
    if aside_bytes:
        yield JOURNAL_ASIDE.found(f"{aside_bytes} bytes in {aside}", fix=f"cat {aside}   # then: rm {aside}")
    if not (trouble or waiting or aside_bytes):
        yield fine("nothing waits in the journal")


def judge_spool(left: int) -> Iterator[Finding]:
    """Settlements in Asterisk's own database."""
    if left:
        yield SPOOL_LEFT.found(
            f"{left} ends of calls in Asterisk's database under {SPOOL_FAMILY}",
            fix="systemctl restart capconduit   # it reads them when AMI is up, and then every minute",
        )
    else:
        yield fine("no end of a call is left in Asterisk's database")


def judge_nodes(nodes: Sequence[Node], now_ms: int) -> Iterator[Finding]:
    """Daemons that said that they are up and write no more."""
    silent = [node for node in nodes if node.state == "up" and now_ms - node.seen_ms > SILENT_MS]
    for node in silent:
        yield NODE_SILENT.found(
            f"node {node.name} was last heard of {format_duration(now_ms - node.seen_ms)} ago",
            subject=node.name,
            fix=f"systemctl start capconduit   # on {node.name}; one that is gone for good does no harm",
        )
    if not silent:
        up = [node.name for node in nodes if node.state == "up"]
        yield fine(f"up: {', '.join(up) or 'none'}; of {len(nodes)} that were ever seen")


def judge_zombies(channels: int, named: Sequence[str]) -> Iterator[Finding]:
    """Channels that the daemon sees and has no call for."""
    if channels:
        first = named[0] if named else "CHANNEL"
        yield ZOMBIES.found(
            f"{channels} channels without a call: {', '.join(named)}",
            fix=f"asterisk -rx 'core show channel {first}'   # and `channel request hangup {first}` if it is stuck",
        )
    else:
        yield fine("every channel belongs to a call")


def judge_supervision(unit: str, properties: Mapping[str, str]) -> Iterator[Finding]:
    """The systemd unit that the daemon runs in ("" for none), and its properties."""
    if not unit:
        yield UNSUPERVISED.found(
            "the daemon runs in no systemd service", fix="systemctl enable --now capconduit   # the packaged unit"
        )
        return
    restart, watchdog = properties.get("Restart", ""), properties.get("WatchdogUSec", "")
    if restart in ("", "no"):
        yield UNSUPERVISED.found(
            f"{unit} has Restart={restart or 'no'}", fix=f"systemctl edit {unit}   # [Service] Restart=always"
        )
    if watchdog in ("", "0", "infinity"):
        yield NO_WATCHDOG.found(
            f"{unit} has WatchdogSec={watchdog or '0'}", fix=f"systemctl edit {unit}   # [Service] WatchdogSec=30s"
        )
    if restart not in ("", "no") and watchdog not in ("", "0", "infinity"):
        yield fine(f"{unit}: Restart={restart}, WatchdogSec={watchdog}")


def service_of(cgroup: str) -> str:
    """The service in /proc/PID/cgroup: `0::/system.slice/capconduit.service`; "" where it is in none.

    A service that only manages a login (`user@1000.service`) or somebody's terminal supervises nothing.
    """
    units = [unit for unit in _UNIT.findall(cgroup) if not unit.startswith(("user@", "session-", "ssh"))]
    return units[-1] if units else ""


# --- gathering --------------------------------------------------------------------------------------------------------


def _daemon(scene: Scene) -> Iterable[Finding]:
    try:
        status = scene.status()
    except CannotTell as failure:
        if failure.is_for_root:
            raise
        return [AWAY.found(failure.reason, fix="systemctl start capconduit   # or: capconduit serve")]
    return judge_status(status, __version__)


def _config_age(scene: Scene) -> Iterable[Finding]:
    origin, started = scene.config.origin, str(scene.status().get("started") or "")
    if origin is None:
        return [fine("there is no configuration file")]
    try:
        changed_ms = int(origin.stat().st_mtime * 1_000)
        started_ms = parse_instant(started, now_ms=scene.doors.clock.now_ms())
    except OSError as error:
        raise CannotTell(f"{origin}: {error.strerror}", SUDO) from None
    return judge_config_age(changed_ms, started_ms, str(origin))


def _journal(scene: Scene) -> Iterable[Finding]:
    told = scene.status().get("journal")
    journal = told if isinstance(told, Mapping) else {}
    aside = Path(f"{scene.config.node.journal}.aside")
    try:
        size = aside.stat().st_size
    except FileNotFoundError:
        size = 0
    except OSError as error:
        raise CannotTell(f"{aside}: {error.strerror}", SUDO) from None
    return judge_journal(int(journal.get("waiting") or 0), str(journal.get("trouble") or ""), size, str(aside))


def _spool(scene: Scene) -> Iterable[Finding]:
    answer = scene.ami().ask("DBGetTree", Family=SPOOL_FAMILY)
    if not answer.success and "permission" in answer.message.lower():
        raise CannotTell(f"AMI DBGetTree: {answer.message}", "capconduit doctor --only ami-rights")
    return judge_spool(sum(row.get("Event") == "DBGetTreeResponse" for row in answer.rows))


def _nodes(scene: Scene) -> Iterable[Finding]:
    from capconduit.services.nodes import list_nodes

    return judge_nodes(list_nodes(scene.office()), scene.doors.clock.now_ms())


def _zombies(scene: Scene) -> Iterable[Finding]:
    told = scene.status().get("zombies")
    if not isinstance(told, Mapping):
        raise CannotTell("this daemon does not tell", "systemctl restart capconduit   # after an upgrade")
    shown = told.get("shown")
    names = [str(one.get("channel")) for one in shown if isinstance(one, Mapping)] if isinstance(shown, list) else []
    return judge_zombies(int(told.get("channels") or 0), names)


def _supervision(scene: Scene) -> Iterable[Finding]:
    path = scene.doors.proc / str(scene.daemon_pid()) / "cgroup"
    try:
        unit = service_of(path.read_text())
    except OSError as error:
        raise CannotTell(f"{path}: {error.strerror}", SUDO) from None
    return judge_supervision(unit, scene.doors.systemctl(unit) if unit else {})


CHECKS: Final = (
    Check(
        "daemon-ready",
        Matter.DAEMON,
        "the daemon answers on its control socket, is ready, the only one of its name, and of this version",
        (AWAY, NOT_READY, DOUBLED, OTHER_VERSION),
        _daemon,
    ),
    Check(
        "daemon-config",
        Matter.DAEMON,
        "the configuration was not changed after the daemon had read it",
        (CONFIG_STALE,),
        _config_age,
    ),
    Check(
        "journal",
        Matter.DAEMON,
        "no end of a call waits in the daemon's journal or was put aside",
        (JOURNAL_WAITS, JOURNAL_BROKEN, JOURNAL_ASIDE),
        _journal,
    ),
    Check(
        "spool",
        Matter.DAEMON,
        "no end of a call is left in Asterisk's own database",
        (SPOOL_LEFT,),
        _spool,
    ),
    Check(
        "nodes",
        Matter.DAEMON,
        "every daemon on this database that said it is up still writes its heartbeat",
        (NODE_SILENT,),
        _nodes,
    ),
    Check(
        "zombies",
        Matter.DAEMON,
        "no channel is in our dialplan without a call of ours",
        (ZOMBIES,),
        _zombies,
    ),
    Check(
        "supervision",
        Matter.DAEMON,
        "systemd restarts the daemon when it dies, and when it hangs",
        (UNSUPERVISED, NO_WATCHDOG),
        _supervision,
    ),
)
