"""Whether Asterisk itself is what the rendered files need: version, modules, names, options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.doctor.conffile import parse_conf
from capconduit.doctor.findings import SUDO, CannotTell, Check, Fault, Finding, Matter, Severity, fine
from capconduit.doctor.needed import module_needs
from capconduit.doctor.scene import Scene
from capconduit.units import format_instant

DAY_MS: Final = 86_400_000
LEAST_MAJOR: Final = 16
# The last day of the project's security fixes (https://docs.asterisk.org/About-the-Project/Asterisk-Versions/), UTC ms.
FIXES_END_MS: Final[Mapping[int, int]] = {
    16: 1_696_809_600_000, 17: 1_635_379_200_000, 18: 1_760_918_400_000, 19: 1_698_883_200_000,
    20: 1_823_904_000_000, 21: 1_792_281_600_000, 22: 1_886_803_200_000, 23: 1_823_558_400_000,
}  # fmt: skip
_VERSION: Final = re.compile(r"(?:Asterisk )?(?:certified[/-])?(\d+)\.(\d+)", re.IGNORECASE)
_RUNNING: Final = "Running"
REFER: Final = "res_pjsip_refer.so"  # transfers, and INVITE with Replaces
RESTART: Final = "asterisk -rx 'core restart when convenient'"

VERSION_OLD = Fault(
    "asterisk-version-old", Severity.ERROR, f"nothing before Asterisk {LEAST_MAJOR} is tested with the rendered files"
)
VERSION_DIFFERS = Fault(
    "asterisk-version-differs",
    Severity.ERROR,
    "files rendered for another version use what this one lacks, or do without what it has",
)
VERSION_UNFIXED = Fault(
    "asterisk-version-unfixed",
    Severity.INFO,
    "the project mends no security holes in it any more; your distribution may",
)
MODULE_MISSING = Fault(
    "asterisk-module-missing", Severity.ERROR, "the rendered files use it: calls fail, or run on without what it does"
)
MODULE_WANTED = Fault(
    "asterisk-module-wanted", Severity.WARNING, "calls work without it, and something that was meant to be is missing"
)
REPLACES = Fault(
    "asterisk-calls-stolen",
    Severity.WARNING,
    "a phone at a trunk's address can take over a call with INVITE and Replaces, whatever allow_transfer says; the"
    " dialplan ends such a call, so whoever does that cuts the talk of others",
)
SYSTEM_NAME = Fault(
    "asterisk-system-name",
    Severity.WARNING,
    "systemname begins every uniqueid: without the node's name two machines can give two calls the same one",
)
DANGEROUS = Fault(
    "asterisk-live-dangerously",
    Severity.ERROR,
    "whoever may set a variable over AMI or ARI can then run programs and read files as Asterisk (SHELL(), FILE())",
)
OPTIONS_PENDING = Fault(
    "asterisk-options-pending",
    Severity.WARNING,
    "Asterisk reads asterisk.conf only when it starts: what is in it now may not be in force",
)


@dataclass(frozen=True, slots=True)
class Module:
    """A module that the rendered files need, and for what. `vital`: calls do not work without it."""

    name: str
    for_what: str
    vital: bool


# --- judging ----------------------------------------------------------------------------------------------------------


def judge_version(text: str, configured: int, now_ms: int) -> Iterator[Finding]:
    """`text` is what Asterisk says of itself, `configured` is asterisk.version."""
    match = _VERSION.search(text)
    if match is None:
        raise CannotTell(f"Asterisk calls its version {text!r}", "asterisk -rx 'core show version'")
    major = int(match[1])
    if major < LEAST_MAJOR:
        yield VERSION_OLD.found(f"Asterisk {text}", fix="apt-get install asterisk   # 22, or at least 18")
        return
    if major != configured:
        yield VERSION_DIFFERS.found(
            f"Asterisk {text} runs, asterisk.version is {configured}",
            fix=f"capconduit config set asterisk.version {major} && capconduit install",
        )
    end_ms = FIXES_END_MS.get(major)
    if end_ms is not None and end_ms + DAY_MS <= now_ms:
        yield VERSION_UNFIXED.found(
            f"Asterisk {text}; the fixes ended on {format_instant(end_ms)[:10]}", fix="apt-get upgrade asterisk"
        )
    elif major == configured:
        yield fine(f"Asterisk {text}")


def judge_modules(needed: Sequence[Module], loaded: Mapping[str, str]) -> Iterator[Finding]:
    """`loaded` is name → status, as `module show` has it; an empty status is one that older versions do not tell."""
    missing = [m for m in needed if loaded.get(m.name, "absent") not in (_RUNNING, "")]
    for module in missing:
        state = "is loaded and does not run" if module.name in loaded else "is not loaded"
        fault = MODULE_MISSING if module.vital else MODULE_WANTED
        yield fault.found(
            f"{module.name} {state}; {module.for_what}",
            subject=module.name,
            fix=f"asterisk -rx 'module load {module.name}'   # and `load = {module.name}` in modules.conf",
        )
    if not missing:
        yield fine(f"all {len(needed)} that the rendered files need are running")


def judge_system_name(system_name: str, node: str) -> Iterator[Finding]:
    """`system_name` is Asterisk's, `node` is ours."""
    if system_name == node:
        yield fine(f"systemname is {node}, as node.name")
        return
    yield SYSTEM_NAME.found(
        f"systemname is {system_name or 'empty'}, node.name is {node}",
        fix=f"set `systemname = {node}` in [options] of asterisk.conf, then: {RESTART}",
    )


def judge_options(text: str, changed_ms: int, started_ms: int | None) -> Iterator[Finding]:
    """`text` is asterisk.conf, changed at `changed_ms`; `started_ms` is when Asterisk started, where that is known."""
    if parse_conf(text).named("options").is_true("live_dangerously"):
        yield DANGEROUS.found(
            "live_dangerously = yes in asterisk.conf",
            fix=f"set `live_dangerously = no` in [options] of asterisk.conf, then: {RESTART}",
        )
    elif started_ms is not None and changed_ms > started_ms:
        yield OPTIONS_PENDING.found(
            f"asterisk.conf is of {format_instant(changed_ms)}, Asterisk runs since {format_instant(started_ms)}",
            fix=RESTART,
        )
    else:
        yield fine("live_dangerously is off")


# --- gathering --------------------------------------------------------------------------------------------------------


def parse_modules(text: str) -> Mapping[str, str]:
    """Name → status of `module show`: `app_dial.so  Dialing Application  0  Running  core`."""
    found = {}
    for line in text.splitlines():
        name = line.split(" ", 1)[0]
        if name.endswith(".so"):
            match = re.search(r"\s\d+\s+(Not Running|Running)\b", line)
            found[name] = match[1] if match else ""
    return found


def parse_uptime_s(text: str) -> int | None:
    """Seconds of `core show uptime seconds`: `System uptime: 123`."""
    match = re.search(r"System uptime:\s*(\d+)", text)
    return int(match[1]) if match else None


def needed_modules(files: Mapping[str, str]) -> Sequence[Module]:
    """What the rendered files need, by name."""
    return [Module(name, for_what, vital) for name, (for_what, vital) in sorted(module_needs(files).items())]


def loaded_modules(scene: Scene) -> Mapping[str, str]:
    """The modules of the Asterisk that runs."""
    return parse_modules(scene.console("module show"))


def _version(scene: Scene) -> Iterable[Finding]:
    try:
        text = scene.core_settings().get("AsteriskVersion", "")
    except CannotTell:
        text = scene.console("core show version").strip().split(" built by", 1)[0]
    return judge_version(text.removeprefix("Asterisk "), scene.config.asterisk.version, scene.doors.clock.now_ms())


def judge_replaces(loaded: Mapping[str, str]) -> Iterator[Finding]:
    """`loaded` as for judge_modules."""
    if loaded.get(REFER, "absent") in (_RUNNING, ""):
        yield REPLACES.found(
            f"{REFER} is running",
            fix=f"put `noload = {REFER}` into modules.conf where your own phones transfer no calls, and"
            f" asterisk -rx 'module unload {REFER}'",
        )
    else:
        yield fine(f"{REFER} is not running: nobody takes a call over")


def _replaces(scene: Scene) -> Iterable[Finding]:
    return judge_replaces(loaded_modules(scene))


def _modules(scene: Scene) -> Iterable[Finding]:
    return judge_modules(needed_modules(scene.rendered()), loaded_modules(scene))


def _system_name(scene: Scene) -> Iterable[Finding]:
    try:
        name = scene.core_settings().get("SystemName", "")
    except CannotTell:
        match = re.search(r"^\s*System name:\s*(\S*)", scene.console("core show settings"), re.MULTILINE)
        name = match[1] if match else ""
    return judge_system_name(name, scene.config.node.name)


def _options(scene: Scene) -> Iterable[Finding]:
    path = scene.main_conf_path()
    try:
        text, changed_ms = path.read_text("utf-8", "replace"), int(path.stat().st_mtime * 1_000)
    except OSError as error:
        raise CannotTell(f"{path} cannot be read: {error.strerror}", SUDO) from None
    return judge_options(text, changed_ms, _started_ms(scene))


def _started_ms(scene: Scene) -> int | None:
    try:
        uptime_s = parse_uptime_s(scene.console("core show uptime seconds"))
    except CannotTell:
        return None
    return None if uptime_s is None else scene.doors.clock.now_ms() - uptime_s * 1_000


CHECKS: Final = (
    Check(
        "asterisk-version",
        Matter.ASTERISK,
        "the version that runs: one that is tested, and the one that the files are rendered for",
        (VERSION_OLD, VERSION_DIFFERS, VERSION_UNFIXED),
        _version,
    ),
    Check(
        "asterisk-modules",
        Matter.ASTERISK,
        "every module that the rendered dialplan, trunks and records use is running",
        (MODULE_MISSING, MODULE_WANTED),
        _modules,
    ),
    Check(
        "asterisk-replaces",
        Matter.ASTERISK,
        "nobody can take over a call that is up (INVITE with Replaces)",
        (REPLACES,),
        _replaces,
    ),
    Check(
        "asterisk-system-name",
        Matter.ASTERISK,
        "Asterisk's systemname is the name of this node",
        (SYSTEM_NAME,),
        _system_name,
    ),
    Check(
        "asterisk-options",
        Matter.ASTERISK,
        "live_dangerously is off, and asterisk.conf was not changed after Asterisk had started",
        (DANGEROUS, OPTIONS_PENDING),
        _options,
    ),
)
