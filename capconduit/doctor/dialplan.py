"""Whether the dialplan in force is the rendered one, and whether Asterisk reaches the daemon that it names."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from capconduit.doctor.findings import CannotTell, Check, Fault, Finding, Matter, Severity, fine
from capconduit.doctor.scene import Scene, is_loopback
from capconduit.render.contexts import INBOUND_CONTEXT, SETTLE_CONTEXT

CONNECT_S: Final = 2.0  # as long as Asterisk itself waits (res_agi.c)
_EXTEN: Final = re.compile(r"exten\s*=>?\s*([^,]+),\s*([^,(]+)(?:\(([^)]*)\))?\s*,(.*)$")
_SAME: Final = re.compile(r"same\s*=>?\s*([^,(]+)(?:\(([^)]*)\))?\s*,(.*)$")
_SECTION: Final = re.compile(r"\[([^\]]+)\]")
_NOT_CONTEXTS: Final = frozenset({"general", "globals"})
_AGI: Final = re.compile(r"agi://(\[[^\]]+\]|[^:/,]+)(?::(\d+))?/")
LOADED: Final = ("pjsip.conf", "iax.conf", "manager.conf", "rtp.conf", "cdr.conf")
DIFFERENCES_SHOWN: Final = 10
SHOWN_CHARS: Final = 60
SHOWN_BEFORE: Final = 15
ASKING_CONTEXTS: Final = (INBOUND_CONTEXT, SETTLE_CONTEXT)
AGI_PORT: Final = 4573  # res_agi.c AGI_PORT
_ANY: Final = frozenset({"0.0.0.0", "::"})

CONTEXT_MISSING = Fault("dialplan-missing", Severity.ERROR, "calls of the trunks find no dialplan and are refused")
DIFFERS = Fault(
    "dialplan-differs",
    Severity.ERROR,
    "what runs is not what was tested: caps, prices and limits depend on every line of it",
)
EXTRA = Fault(
    "dialplan-extra", Severity.ERROR, "somebody else writes into our contexts: calls may take a way past the daemon"
)
NOT_LOADED = Fault(
    "config-not-loaded",
    Severity.ERROR,
    "trunks and users in force are not those of the estate: calls are refused, or come in by what was taken away",
)
AGI_DIFFERS = Fault(
    "fastagi-elsewhere", Severity.ERROR, "Asterisk asks where no daemon of ours listens: every call is refused"
)
AGI_LOOPBACK = Fault(
    "fastagi-own-loopback",
    Severity.ERROR,
    "on another machine this address is that machine itself: Asterisk asks nobody, every call is refused",
)
AGI_REFUSED = Fault("fastagi-unreachable", Severity.ERROR, "without the daemon every call is refused or falls back")
AGI_UNPROVEN = Fault(
    "fastagi-unproven",
    Severity.INFO,
    "only Asterisk's own machine can prove that Asterisk gets through; a routed call is that proof",
)

Step = tuple[str, str, int]  # context, extension, priority


# --- judging ----------------------------------------------------------------------------------------------------------


def parse_dialplan(text: str) -> dict[Step, tuple[str, str]]:
    """(context, extension, priority) → (application, its arguments), as pbx_config.c reads extensions.conf."""
    steps: dict[Step, tuple[str, str]] = {}
    context, extension, priority = "", "", 0
    for raw in text.splitlines():
        line = re.sub(r"(?<!\\);.*", "", raw).replace("\\;", ";").strip()
        if match := _SECTION.match(line):
            context = match[1]
            continue
        if match := _EXTEN.match(line):
            extension, number, call = match[1].strip(), match[2].strip(), match[4]
        elif match := _SAME.match(line):
            number, call = match[1].strip(), match[3]
        else:
            continue
        priority = int(number) if number.isdigit() else priority + 1
        if context not in _NOT_CONTEXTS:
            steps[(context, extension, priority)] = _application(call)
    return steps


def _application(call: str) -> tuple[str, str]:
    name, opens, rest = call.strip().partition("(")
    return name.strip(), rest[: rest.rindex(")")] if opens and ")" in rest else rest


def judge_dialplan(
    expected: Mapping[Step, tuple[str, str]], found: Mapping[Step, tuple[str, str]]
) -> Iterator[Finding]:
    """Both as (context, extension, priority) → (application, arguments); of `found` only our contexts."""
    contexts = sorted({context for context, _, _ in expected})
    known = {context for context, _, _ in found}
    for context in contexts:
        if context not in known:
            yield CONTEXT_MISSING.found(f"there is no context {context}", subject=context, fix="capconduit install")
            continue
        ours = {step: call for step, call in expected.items() if step[0] == context}
        theirs = {step: call for step, call in found.items() if step[0] == context}
        changed = sorted(step for step, call in ours.items() if theirs.get(step) != call)
        extra = sorted(step for step in theirs if step not in ours)
        if changed:
            there, wanted = _where_they_differ(_text(theirs.get(changed[0])), _text(ours[changed[0]]))
            yield DIFFERS.found(
                f"{len(changed)} of {len(ours)} priorities of {context} differ, first {_named(changed[0])}:"
                f" {there} instead of {wanted}",
                subject=context,
                fix="capconduit install   # `asterisk -rx 'dialplan reload'` where the files are as rendered",
            )
        if extra:
            yield EXTRA.found(
                f"{context} has {len(extra)} more, first {_named(extra[0])}: {_short(_text(theirs[extra[0]]))}",
                subject=context,
                fix=f"grep -rn '{context}' /etc/asterisk   # take it away there, then: asterisk -rx 'dialplan reload'",
            )
        if not changed and not extra:
            yield fine(f"{context} has its {len(ours)} priorities as rendered", context)


def _named(step: Step) -> str:
    return f"{step[1]},{step[2]}"


def _text(call: tuple[str, str] | None) -> str:
    return "nothing" if call is None else f"{call[0]}({call[1]})"


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else f"{text[: SHOWN_CHARS - 1]}…"


def _where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Both from a little before the first character that differs."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = same - SHOWN_BEFORE if max(len(one), len(other)) > SHOWN_CHARS and same > SHOWN_BEFORE else 0
    lead = "…" if start else ""
    return lead + _short(one[start:]), lead + _short(other[start:])


@dataclass(frozen=True, slots=True)
class AgiFacts:
    """What is known of the way from Asterisk to the daemon.

    asked: the addresses that the dialplan in force names. listens: where the daemon listens, as it says itself, else
    as the configuration says. connected: address → "" or why not, from this machine, for what it can reach. local:
    Asterisk is on this machine. same_network: both in one network namespace; None where that cannot be seen. routed:
    requests that the daemon has answered since it started.
    """

    asked: Sequence[tuple[str, int]]
    listens: str
    connected: Mapping[tuple[str, int], str]
    local: bool
    same_network: bool | None
    routed: int


def judge_agi(facts: AgiFacts) -> Iterator[Finding]:
    """Whether Asterisk gets through, as far as it can be told from here; says what is proven and what is not."""
    host, port = _split(facts.listens)
    for asked_host, asked_port in facts.asked:
        asked = f"{asked_host}:{asked_port}"
        if asked_port != port or not _same_host(asked_host, host, facts.local):
            yield AGI_DIFFERS.found(
                f"the dialplan asks {asked}, the daemon listens on {facts.listens}",
                subject=asked,
                fix="capconduit install",
            )
        elif is_loopback(asked_host.strip("[]")) and not facts.local:
            yield AGI_LOOPBACK.found(
                f"Asterisk is on another machine and asks {asked}",
                subject=asked,
                fix="capconduit config set fastagi.listen ADDRESS:4573 && capconduit install   # ours, not loopback",
            )
        elif why := facts.connected.get((asked_host, asked_port), ""):
            yield AGI_REFUSED.found(
                f"{asked}: {why}", subject=asked, fix="systemctl start capconduit   # capconduit serve"
            )
        elif facts.routed:
            yield fine(f"Asterisk asks {asked}; {facts.routed} requests came through since the daemon started", asked)
        elif facts.local and facts.same_network:
            yield fine(f"Asterisk asks {asked} and has the same network as this command, which was let in", asked)
        else:
            yield AGI_UNPROVEN.found(
                f"Asterisk asks {asked}, which is where the daemon listens; {_unproven(facts)}",
                subject=asked,
                fix="call one of your numbers, then: capconduit status   # `answered: route 1` is the proof",
            )


def _split(listens: str) -> tuple[str, int]:
    host, _, port = listens.rpartition(":")  # the daemon writes IPv6 addresses without brackets
    return host.strip("[]"), int(port) if port.isdigit() else 0


def _unproven(facts: AgiFacts) -> str:
    if not facts.local:
        return "it was reached from this machine, Asterisk is on another"
    if facts.same_network is None:
        return "it was reached from here; whether Asterisk has the same network cannot be seen without root"
    return "it was reached from here, but Asterisk is in another network namespace (a container?)"


def _same_host(asked: str, listens: str, local: bool) -> bool:
    """A name may stand for any of our addresses; on another machine it is resolved there, and cannot be judged here."""
    asked = asked.strip("[]")
    return listens in _ANY or asked == listens or not _is_address(asked) or (not local and is_loopback(asked))


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def agi_addresses(calls: Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    """The FastAGI addresses that a dialplan asks, each once."""
    found: dict[tuple[str, int], None] = {}
    for application, arguments in calls:
        if application == "AGI" and (match := _AGI.match(arguments)):
            found[(match[1], int(match[2] or AGI_PORT))] = None
    return list(found)


# --- gathering --------------------------------------------------------------------------------------------------------


def dialplan_in_force(scene: Scene, contexts: Iterable[str]) -> dict[Step, tuple[str, str]]:
    """Those contexts as Asterisk has them now, over AMI ShowDialPlan (`reporting`). Raises CannotTell."""

    def ask(context: str) -> dict[Step, tuple[str, str]]:
        answer = scene.ami().ask("ShowDialPlan", Context=context)
        if not answer.success and "context" not in answer.message.lower():  # "Did not find context ..."
            raise CannotTell(
                f"AMI does not show the dialplan: {answer.message}", "give the AMI user `write = reporting`"
            )
        return parse_rows(answer.rows)

    steps: dict[Step, tuple[str, str]] = {}
    for context in contexts:
        steps |= scene.source(f"context {context}", partial(ask, context))
    return steps


def parse_rows(rows: Iterable[Mapping[str, str]]) -> dict[Step, tuple[str, str]]:
    """The ListDialplan events of ShowDialPlan; hints and includes have no number and are shown as priority 0."""
    steps = {}
    for row in rows:
        if row.get("Event") != "ListDialplan":
            continue
        number = row.get("Priority", "")
        extension = (
            row.get("Extension") or row.get("IncludeContext") or row.get("Switch") or row.get("IgnorePattern", "")
        )
        step = (row.get("Context", ""), extension, int(number) if number.isdigit() else 0)
        steps[step] = (row.get("Application", "include"), row.get("AppData", ""))
    return steps


def _dialplan(scene: Scene) -> Iterable[Finding]:
    expected = parse_dialplan(scene.rendered().get("extensions.conf", ""))
    return judge_dialplan(expected, dialplan_in_force(scene, sorted({step[0] for step in expected})))


def judge_loaded(files: Sequence[str], differences: Sequence[str]) -> Iterator[Finding]:
    """`differences` are those of `files` from what Asterisk has loaded."""
    for text in differences[:DIFFERENCES_SHOWN]:
        yield NOT_LOADED.found(text, fix="capconduit install")
    if len(differences) > DIFFERENCES_SHOWN:
        more = len(differences) - DIFFERENCES_SHOWN
        yield NOT_LOADED.found(f"and {more} more differences", fix="capconduit install")
    if not differences:
        yield fine(f"what Asterisk has loaded is what is rendered: {', '.join(files)}")


def _loaded(scene: Scene) -> Iterable[Finding]:
    scene.demand_local_asterisk("Asterisk's console")
    files = {name: text for name, text in scene.rendered().items() if name in LOADED}
    return judge_loaded(list(files), scene.source("what is loaded", lambda: scene.doors.differences(files)))


def _fastagi(scene: Scene) -> Iterable[Finding]:
    asked = agi_addresses(dialplan_in_force(scene, ASKING_CONTEXTS).values())
    if not asked:
        raise CannotTell("the dialplan in force asks no daemon", "capconduit install")
    local = scene.asterisk_is_local()
    try:
        fastagi = scene.status().get("fastagi") or {}
    except CannotTell:
        fastagi = {}
    connected = {address: _connect(*address) for address in asked if local or not is_loopback(address[0].strip("[]"))}
    return judge_agi(
        AgiFacts(
            asked=asked,
            listens=str(fastagi.get("listen") or scene.config.fastagi.listen),
            connected=connected,
            local=local,
            same_network=_same_network(scene) if local else False,
            routed=sum(count for count in (fastagi.get("requests") or {}).values() if isinstance(count, int)),
        )
    )


def _connect(host: str, port: int) -> str:
    try:
        socket.create_connection((host.strip("[]"), port), CONNECT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _same_network(scene: Scene) -> bool | None:
    """Whether Asterisk lives in this command's network namespace; None where /proc does not say."""
    try:
        theirs = Path(scene.doors.proc / str(scene.asterisk_pid()) / "ns/net").readlink()
        return theirs == Path(scene.doors.proc / "self/ns/net").readlink()
    except (CannotTell, OSError):
        return None


CHECKS: Final = (
    Check(
        "dialplan-in-force",
        Matter.DIALPLAN,
        "the contexts that Asterisk has loaded are, line by line, what `capconduit render` gives now",
        (CONTEXT_MISSING, DIFFERS, EXTRA),
        _dialplan,
    ),
    Check(
        "config-in-force",
        Matter.DIALPLAN,
        "trunks, AMI users, media ports and records that Asterisk has loaded are those that are rendered now",
        (NOT_LOADED,),
        _loaded,
    ),
    Check(
        "fastagi",
        Matter.DIALPLAN,
        "the daemon listens where the dialplan in force asks, and Asterisk reaches it, as far as that shows from here",
        (AGI_DIFFERS, AGI_LOOPBACK, AGI_REFUSED, AGI_UNPROVEN),
        _fastagi,
    ),
)
