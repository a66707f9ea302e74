"""Whether the machine can carry the calls: clocks, open files, media ports, disk, permissions of files."""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capconduit.doctor.conffile import ConfFile
from capconduit.doctor.findings import SUDO, CannotTell, Check, Fault, Finding, Matter, Severity, fine, unknown
from capconduit.doctor.scene import Scene
from capconduit.doctor.sockets import UdpSocket, udp_sockets
from capconduit.render.files import CONF_FILES, INCLUDE_DIR
from capconduit.units import format_duration

CLOCK_OFF_MS: Final = 1_000  # calls per second and windows are counted by these clocks
CLOCK_FAR_MS: Final = 60_000
FILES_OF_OURS: Final = 200  # of the daemon beside its connections: databases, sockets, logs, libraries
FILES_OF_ASTERISK: Final = 300  # beside its calls
FILES_PER_CALL: Final = 12  # two legs with RTP and RTCP, timers and pipes of both channels, an AGI connection
PORTS_PER_CALL: Final = 4  # two legs, each with RTP and RTCP
DEFAULT_RTP: Final = (5_000, 31_000)  # of an Asterisk without rtp.conf (res_rtp_asterisk.c)
DISK_FULL_BYTES: Final = 200 * 1024 * 1024
DISK_LOW_BYTES: Final = 2 * 1024 * 1024 * 1024
DISK_LOW_PART: Final = 0.05
INODES_LOW: Final = 1_000
_STA_UNSYNC: Final = 0x0040  # timex.h
_TIME_ERROR: Final = 5

UNSYNCHRONISED = Fault(
    "clock-unsynchronised",
    Severity.WARNING,
    "daily caps end at midnight of a clock that drifts, and machines that share caps count by different ones",
)
CLOCKS_DIFFER = Fault(
    "clock-differs", Severity.WARNING, "instants of one call come from both clocks: windows and talk are told wrongly"
)
CLOCKS_FAR = Fault(
    "clock-far", Severity.ERROR, "instants of one call come from both clocks: caps and talk are counted wrongly"
)
FILES_FEW = Fault(
    "open-files-few", Severity.WARNING, "when no descriptor is left, calls are refused and records cannot be written"
)
FILES_NEAR = Fault(
    "open-files-near", Severity.ERROR, "most descriptors are in use now: something leaks, or load has grown"
)
RTP_FEW = Fault("rtp-ports-few", Severity.WARNING, "a call without a free pair of ports has no sound or fails")
RTP_TAKEN = Fault(
    "rtp-ports-taken", Severity.WARNING, "somebody else has ports of the media range: Asterisk tries and skips them"
)
RTP_OWN = Fault(
    "rtp-ports-own",
    Severity.WARNING,
    "a call may hold the port when SIP or IAX2 has to bind it again: the trunks stay silent then",
)
RTP_EPHEMERAL = Fault(
    "rtp-ports-ephemeral",
    Severity.INFO,
    "the kernel gives ports of that range to any program for its own connections, one now and then",
)
DISK_LOW = Fault("disk-low", Severity.WARNING, "a full disk ends every decision: no call is admitted")
DISK_FULL = Fault("disk-full", Severity.ERROR, "a full disk ends every decision: no call is admitted")
SECRET_OPEN = Fault("file-secret-readable", Severity.ERROR, "every user of this machine can read the secret in it")
DATA_OPEN = Fault(
    "file-data-readable", Severity.WARNING, "every user of this machine can read numbers, callers and balances"
)
WRITABLE = Fault(
    "file-writable", Severity.ERROR, "another user can change it, and with it money, routes or what the daemon runs"
)


# --- clocks -----------------------------------------------------------------------------------------------------------


def judge_synchronised(synchronised: bool) -> Iterator[Finding]:
    """Whether the kernel says that somebody disciplines its clock."""
    if synchronised:
        yield fine("the kernel's clock is kept by a time service")
    else:
        yield UNSYNCHRONISED.found(
            "the kernel says that its clock is not synchronised",
            fix="timedatectl set-ntp true   # or: apt-get install chrony",
        )


def judge_clock(whose: str, ahead_ms: int, slack_ms: int) -> Iterator[Finding]:
    """How far another clock is ahead of ours (behind: negative); `slack_ms` is what the asking itself may have cost."""
    off_ms = max(abs(ahead_ms) - slack_ms, 0)
    if off_ms < CLOCK_OFF_MS:
        yield fine(f"the clock of {whose} is ours", whose)
        return
    fault = CLOCKS_FAR if off_ms >= CLOCK_FAR_MS else CLOCKS_DIFFER
    yield fault.found(
        f"the clock of {whose} is {format_duration(abs(ahead_ms))} {'ahead of' if ahead_ms > 0 else 'behind'} ours",
        subject=whose,
        fix="timedatectl set-ntp true   # on both machines",
    )


class _Timex(ctypes.Structure):
    """struct timex of Linux; only `modes` is set (0: read), only `status` is read. Room for what newer kernels add."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_byte * 512),
    )  # fmt: skip


def kernel_synchronised() -> bool:
    """adjtimex(2), reading. Raises CannotTell."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
        timex = _Timex()
        state = adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError) as error:
        raise CannotTell(f"the kernel cannot be asked: {error}", "timedatectl status") from None
    if state < 0:
        raise CannotTell(f"the kernel does not tell: {os.strerror(ctypes.get_errno())}", "timedatectl status")
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC


def _clock(_: Scene) -> Iterable[Finding]:
    return judge_synchronised(kernel_synchronised())


def _clock_asterisk(scene: Scene) -> Iterable[Finding]:
    clock = scene.doors.clock
    user = scene.ami()
    before_ms = clock.now_ms()
    stamp = user.demand("Ping").fields.get("Timestamp", "")
    after_ms = clock.now_ms()
    if not re.fullmatch(r"\d+\.\d+", stamp):
        raise CannotTell(f"Asterisk answers a ping without its time ({stamp!r})", "asterisk -rx 'core show uptime'")
    theirs_ms = int(float(stamp) * 1_000)
    return judge_clock("Asterisk", theirs_ms - (before_ms + after_ms) // 2, (after_ms - before_ms) // 2 + 1)


# --- open files -------------------------------------------------------------------------------------------------------


def judge_files(who: str, limit: int, needed: int, used: int | None, fix: str) -> Iterator[Finding]:
    """`limit` is the soft limit of open files, `used` how many are open now, where that can be seen."""
    if limit < needed:
        yield FILES_FEW.found(f"{who} may open {limit} files, {needed} are needed", subject=who, fix=fix)
    elif used is not None and used > limit * 8 // 10:
        yield FILES_NEAR.found(f"{who} has {used} of {limit} files open", subject=who, fix=fix)
    else:
        yield fine(f"{who} may open {limit} files, {needed} are needed", who)


def parse_open_files(limits: str) -> int:
    """The soft limit in /proc/PID/limits; unlimited is a very large number. Raises CannotTell."""
    match = re.search(r"^Max open files\s+(\S+)", limits, re.MULTILINE)
    if match is None:
        raise CannotTell("/proc/PID/limits says nothing of open files", "cat /proc/PID/limits")
    return int(match[1]) if match[1].isdigit() else 2**31


def _files(scene: Scene) -> Iterable[Finding]:
    needed = scene.config.limits.connections + FILES_OF_OURS
    try:
        yield from _files_of(
            scene, "the daemon", scene.daemon_pid(), needed, "systemctl edit capconduit   # [Service] LimitNOFILE=65536"
        )
    except CannotTell as failure:
        yield unknown(failure.reason, failure.how, "the daemon")
    needed = scene.calls() * FILES_PER_CALL + FILES_OF_ASTERISK
    yield from _files_of(
        scene, "Asterisk", scene.asterisk_pid(), needed, "systemctl edit asterisk   # [Service] LimitNOFILE=65536"
    )


def _files_of(scene: Scene, who: str, pid: int, needed: int, fix: str) -> Iterator[Finding]:
    place = scene.doors.proc / str(pid)
    try:
        limit = parse_open_files((place / "limits").read_text())
    except OSError as error:
        raise CannotTell(f"{place}/limits: {error.strerror}", SUDO) from None
    try:
        used: int | None = sum(1 for _ in (place / "fd").iterdir())
    except OSError:
        used = None
    return judge_files(who, limit, needed, used, fix)


# --- media ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RtpFacts:
    """The media range (both inclusive), what lies in it, and how many calls are to be up.

    own: ports of Asterisk's own signalling by what they are for. foreign: UDP sockets of other users in the range.
    ephemeral: the kernel's range for connections of any program.
    """

    start: int
    end: int
    calls: int
    own: Mapping[str, int]
    foreign: Sequence[UdpSocket]
    ephemeral: tuple[int, int]


def judge_rtp(facts: RtpFacts) -> Iterator[Finding]:
    """Whether the range is wide enough, and Asterisk's alone."""
    room = max(facts.end - facts.start + 1, 0) // PORTS_PER_CALL
    bad = False
    if room < facts.calls:
        bad = True
        yield RTP_FEW.found(
            f"ports {facts.start} to {facts.end} carry {room} calls, {facts.calls} are expected",
            fix=f"set `rtpend = {min(facts.start + facts.calls * PORTS_PER_CALL * 2, 65_535)}` in rtp.conf, then:"
            " asterisk -rx 'module reload res_rtp_asterisk.so'",
        )
    for what, port in facts.own.items():
        if facts.start <= port <= facts.end:
            bad = True
            yield RTP_OWN.found(
                f"{what} is port {port}, media are {facts.start} to {facts.end}",
                subject=what,
                fix="set `rtpstart = 10000` and `rtpend = 20000` in rtp.conf, then:"
                " asterisk -rx 'module reload res_rtp_asterisk.so'",
            )
    if facts.foreign:
        bad = True
        first = facts.foreign[0]
        yield RTP_TAKEN.found(
            f"{len(facts.foreign)} UDP ports of {facts.start} to {facts.end} belong to others, first {first.port}"
            f" of uid {first.uid}",
            fix=f"ss -lunp 'sport >= :{facts.start} and sport <= :{facts.end}'   # move what is not Asterisk",
        )
    low, high = max(facts.start, facts.ephemeral[0]), min(facts.end, facts.ephemeral[1])
    if low <= high and not bad:
        yield RTP_EPHEMERAL.found(
            f"ports {low} to {high} are in the kernel's own range, too",
            fix=f"sysctl -w net.ipv4.ip_local_reserved_ports={facts.start}-{facts.end}",
        )
    elif not bad:
        yield fine(f"ports {facts.start} to {facts.end} carry {room} calls, {facts.calls} are expected")


def rtp_range(conf: ConfFile | None) -> tuple[int, int]:
    """The media range of rtp.conf, Asterisk's default where it does not say."""
    general = conf.named("general") if conf else None
    values = [general.get(key) if general else "" for key in ("rtpstart", "rtpend")]
    start, end = (int(v) if v.isdigit() else default for v, default in zip(values, DEFAULT_RTP, strict=True))
    return start, end


def _rtp(scene: Scene) -> Iterable[Finding]:
    start, end = rtp_range(scene.conf("rtp.conf"))
    asterisk = scene.config.asterisk
    own = {
        "asterisk.sip_listen": int(asterisk.sip_listen.rpartition(":")[2]),
        "asterisk.iax_listen": int(asterisk.iax_listen.rpartition(":")[2]),
    }
    try:
        uid: int | None = (scene.doors.proc / str(scene.asterisk_pid())).stat().st_uid
    except (CannotTell, OSError):
        uid = None
    foreign = [s for s in udp_sockets(scene.doors.proc) if start <= s.port <= end and uid not in (None, s.uid)]
    return judge_rtp(RtpFacts(start, end, scene.calls(), own, foreign, _ephemeral(scene.doors.proc)))


def _ephemeral(proc: Path) -> tuple[int, int]:
    try:
        low, high = (proc / "sys/net/ipv4/ip_local_port_range").read_text().split()
        reserved = (proc / "sys/net/ipv4/ip_local_reserved_ports").read_text().strip()
    except (OSError, ValueError):
        return 0, -1
    return (0, -1) if reserved else (int(low), int(high))


# --- disk -------------------------------------------------------------------------------------------------------------


def judge_disk(what: str, path: str, free: int, total: int, inodes: int | None) -> Iterator[Finding]:
    """Bytes free for us and in all, and inodes free, where the file system counts them."""
    mib = free // (1024 * 1024)
    if free < DISK_FULL_BYTES or inodes == 0:
        left = f"{mib} MiB are free" if free < DISK_FULL_BYTES else "no inode is free"
        yield DISK_FULL.found(f"{left} for {what} in {path}", subject=what, fix=f"df -h {path}; capconduit db prune")
    elif free < min(DISK_LOW_BYTES, total * DISK_LOW_PART) or (inodes is not None and inodes < INODES_LOW):
        yield DISK_LOW.found(
            f"{mib} MiB are free for {what} in {path}", subject=what, fix=f"df -h {path}; capconduit db prune"
        )
    else:
        yield fine(f"{mib} MiB are free for {what}", what)


def _disk(scene: Scene) -> Iterable[Finding]:
    places = {"the journal": Path(scene.config.node.journal).parent}
    if (database := scene.config.database.sqlite_path) is not None:
        places = {"the database": database.parent} | places
    for what, path in places.items():
        try:
            about = os.statvfs(path)
        except OSError as error:
            yield unknown(f"{path}: {error.strerror}", "capconduit init" if not path.exists() else "", what)
            continue
        inodes = about.f_favail if about.f_files else None
        yield from judge_disk(what, str(path), about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize, inodes)


# --- permissions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file or directory: what it is for, its mode and owner, and whether what is in it is secret, or data.

    `hidden`: other users cannot enter one of the directories above it, so its own mode lets nobody in.
    """

    path: str
    what: str
    mode: int
    uid: int
    secret: bool = False
    data: bool = False
    hidden: bool = False


def judge_file(facts: FileFacts, trusted: frozenset[int]) -> Iterator[Finding]:
    """Who else may read or write it. `trusted` may own such files: root, us, the users of Asterisk and the daemon."""
    shown = f"{facts.path} ({facts.what}) has mode {stat.S_IMODE(facts.mode):04o}"
    group = "g-w," if facts.mode & stat.S_IWGRP and facts.secret else ""
    if facts.uid not in trusted:
        yield WRITABLE.found(
            f"{facts.path} ({facts.what}) belongs to uid {facts.uid}",
            subject=facts.path,
            fix=f"chown root {facts.path}   # or the user that the daemon runs as",
        )
    if facts.hidden:
        return
    if facts.mode & stat.S_IWOTH and not facts.mode & stat.S_ISVTX:
        yield WRITABLE.found(shown, subject=facts.path, fix=f"chmod {group}o-w {facts.path}")
    readable = facts.mode & stat.S_IROTH if not stat.S_ISDIR(facts.mode) else 0
    if readable and facts.secret:
        yield SECRET_OPEN.found(shown, subject=facts.path, fix=f"chmod {group}o-rwx {facts.path}")
    elif readable and facts.data:
        yield DATA_OPEN.found(shown, subject=facts.path, fix=f"chmod o-rwx {facts.path}")


def _permissions(scene: Scene) -> Iterable[Finding]:
    trusted = {0, os.geteuid()}
    for pid in (scene.asterisk_pid, scene.daemon_pid):
        try:
            trusted.add((scene.doors.proc / str(pid())).stat().st_uid)
        except (CannotTell, OSError):
            continue
    looked, bad = 0, False
    for path, what, secret, data in _watched(scene):
        try:
            about = path.stat()
        except FileNotFoundError:
            continue
        except OSError as error:
            yield unknown(f"{path}: {error.strerror}", SUDO, str(path))
            continue
        looked += 1
        for finding in judge_file(
            FileFacts(str(path), what, about.st_mode, about.st_uid, secret, data, _is_hidden(path)), frozenset(trusted)
        ):
            bad = True
            yield finding
    if not bad:
        yield fine(f"{looked} files and directories are closed to others")


def _is_hidden(path: Path) -> bool:
    """Whether one of the directories above it is closed to other users."""
    for directory in path.absolute().parents:
        try:
            if not directory.stat().st_mode & stat.S_IXOTH:
                return True
        except OSError:
            return True
    return False


def _watched(scene: Scene) -> Iterator[tuple[Path, str, bool, bool]]:
    """(path, what it is, has secrets, has data of calls and money)."""
    config = scene.config
    if config.origin is not None:
        yield config.origin, "the configuration", ":" in (config.database.url.split("@")[0].split("//")[-1]), False
        yield config.origin.parent, "the directory of the configuration", False, False
    for reference, whose in ((config.ami.secret, "AMI secret"), (config.ami.control_secret, "AMI secret for control")):
        if reference.startswith("file:"):
            yield Path(reference.removeprefix("file:")), f"the {whose}", True, False
    if (database := config.database.sqlite_path) is not None:
        yield database.parent, "the directory of the database", False, False
        for suffix in ("", "-wal", "-shm"):
            yield database.with_name(database.name + suffix), "the database", False, True
    journal = Path(config.node.journal)
    yield journal, "the journal", False, True
    yield journal.with_name(journal.name + ".aside"), "what the journal put aside", False, True
    yield journal.parent, "the directory of the journal", False, False
    yield Path(config.control.socket), "the control socket", False, False
    if scene.asterisk_is_local():
        etc = Path(config.asterisk.config_dir)
        yield etc, "Asterisk's configuration", False, False
        for file in CONF_FILES:
            yield etc / file.name, "Asterisk's configuration", file.secret, False
            yield etc / INCLUDE_DIR / file.name, "rendered for Asterisk", file.secret, False


CHECKS: Final = (
    Check("clock", Matter.MACHINE, "a time service keeps this machine's clock", (UNSYNCHRONISED,), _clock),
    Check(
        "clock-asterisk",
        Matter.MACHINE,
        "Asterisk's clock, as its AMI tells it, is ours",
        (CLOCKS_DIFFER, CLOCKS_FAR),
        _clock_asterisk,
    ),
    Check(
        "open-files",
        Matter.MACHINE,
        "the daemon and Asterisk may open as many files as the expected calls need",
        (FILES_FEW, FILES_NEAR),
        _files,
    ),
    Check(
        "rtp-ports",
        Matter.MACHINE,
        "the media ports are enough for the expected calls and nobody else's",
        (RTP_FEW, RTP_TAKEN, RTP_OWN, RTP_EPHEMERAL),
        _rtp,
    ),
    Check(
        "disk-space",
        Matter.MACHINE,
        "there is room where the database and the journal are",
        (DISK_LOW, DISK_FULL),
        _disk,
    ),
    Check(
        "file-permissions",
        Matter.MACHINE,
        "configuration, secrets, database, journal, control socket and rendered files are closed to other users",
        (SECRET_OPEN, DATA_OPEN, WRITABLE),
        _permissions,
    ),
)
