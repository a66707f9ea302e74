"""Who may come in: guests and anonymous callers in Asterisk's files, and what listens to the world."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from capconduit.doctor.conffile import ConfFile, Section
from capconduit.doctor.findings import CannotTell, Check, Fault, Finding, Matter, Severity, fine, unknown
from capconduit.doctor.scene import Scene, is_ours
from capconduit.doctor.sockets import Listener, tcp_listeners
from capconduit.render.contexts import NO_CONTEXT

ANONYMOUS_MODULE: Final = "res_pjsip_endpoint_identifier_anonymous.so"
_BY_NAME: Final = frozenset({"username", "auth_username"})
_EVERYWHERE: Final = frozenset({"0.0.0.0/0", "0.0.0.0/0.0.0.0", "::/0"})
RELOAD_PJSIP: Final = "asterisk -rx 'module reload res_pjsip.so'"
RELOAD_IAX: Final = "asterisk -rx 'iax2 reload'"

ANONYMOUS = Fault(
    "pjsip-anonymous", Severity.ERROR, "anybody's calls reach its context: scanners find it within hours (toll fraud)"
)
OPEN_ENDPOINT = Fault(
    "pjsip-endpoint-open",
    Severity.ERROR,
    "whoever writes its name into From is taken for it, from any address and without a password",
)
OPTIONS_OPEN = Fault(
    "pjsip-options-unauthenticated", Severity.INFO, "scanners are answered, and learn that there is an Asterisk"
)
IAX_GUEST = Fault(
    "iax-guest", Severity.ERROR, "calls come in without a secret and from any address, into this user's context"
)
IAX_TOKENS = Fault(
    "iax-call-tokens-off",
    Severity.WARNING,
    "without call tokens forged packets use up every call number (AST-2009-006)",
)
SIP_GUEST = Fault(
    "sip-guest", Severity.ERROR, "chan_sip takes calls of strangers into its default context, unless told not to"
)
LISTENS_OPEN = Fault(
    "listener-open",
    Severity.ERROR,
    "it is meant for this machine or a private network; no password protects it well enough against the world",
)
LISTENS_WIDE = Fault(
    "listener-wide", Severity.WARNING, "it has users and passwords, and the world may try them; bind it or wall it off"
)


# --- guests -----------------------------------------------------------------------------------------------------------


def judge_pjsip(conf: ConfFile) -> Iterator[Finding]:
    """pjsip.conf with its includes."""
    endpoints = [s for s in conf.real() if s.get("type").lower() == "endpoint"]
    for endpoint in endpoints:
        place = f"[{endpoint.name}] of {endpoint.file or 'pjsip.conf'}"
        if endpoint.name == "anonymous" or endpoint.name.startswith("anonymous@"):
            yield ANONYMOUS.found(
                f"endpoint {endpoint.name}, context {endpoint.get('context', 'default')}",
                subject=endpoint.name,
                fix=f"take {place} away, add `noload = {ANONYMOUS_MODULE}` to modules.conf, then: {RELOAD_PJSIP}",
            )
        elif _is_open(endpoint):
            yield OPEN_ENDPOINT.found(
                f"endpoint {endpoint.name} has no auth, is found by its name, context"
                f" {endpoint.get('context', 'default')}",
                subject=endpoint.name,
                fix=f"set `identify_by = ip` (with a `type = identify`) or `auth = …` in {place}, then: {RELOAD_PJSIP}",
            )
        if endpoint.is_true("allow_unauthenticated_options"):
            yield OPTIONS_OPEN.found(
                f"endpoint {endpoint.name} has allow_unauthenticated_options",
                subject=endpoint.name,
                fix=f"take it out of {place}, then: {RELOAD_PJSIP}",
            )


def _is_open(endpoint: Section) -> bool:
    by = {word.strip().lower() for word in endpoint.get("identify_by", "username,ip").split(",")}
    into_nothing = endpoint.get("context") == NO_CONTEXT
    return not endpoint.get("auth") and bool(by & _BY_NAME) and not into_nothing and not _is_barred(endpoint)


def _is_barred(section: Section) -> bool:
    """Whether it takes calls from some addresses only."""
    denied = any(network in _EVERYWHERE for network in section.all("deny")) or bool(section.get("acl"))
    return denied and not any(network in _EVERYWHERE for network in section.all("permit"))


def judge_iax(conf: ConfFile) -> Iterator[Finding]:
    """iax.conf with its includes."""
    general = conf.named("general")
    if general.get("requirecalltoken").lower() in ("no", "false", "0") or any(
        network in _EVERYWHERE for network in general.all("calltokenoptional")
    ):
        yield IAX_TOKENS.found(
            "call tokens are not asked for",
            fix="set `requirecalltoken = yes` and no wide `calltokenoptional` in [general] of iax.conf, then:"
            f" {RELOAD_IAX}",
        )
    for section in conf.real():
        comes_in = section.get("type").lower() in ("user", "friend")
        known = section.get("secret") or section.get("inkeys") or section.get("dbsecret")
        if comes_in and not known and not _is_barred(section) and section.get("context") != NO_CONTEXT:
            yield IAX_GUEST.found(
                f"user {section.name} needs no secret, context {section.get('context', 'default')}",
                subject=section.name,
                fix=f"give [{section.name}] of {section.file or 'iax.conf'} a secret, or deny and permit, then:"
                f" {RELOAD_IAX}",
            )


def judge_sip(conf: ConfFile) -> Iterator[Finding]:
    """sip.conf of a chan_sip that is loaded."""
    general = conf.named("general")
    if general.is_true("allowguest", default=True):
        yield SIP_GUEST.found(
            f"allowguest is {general.get('allowguest') or 'not set, which is yes'}, context"
            f" {general.get('context', 'default')}",
            fix="set `allowguest = no` in [general] of sip.conf, then: asterisk -rx 'sip reload'",
        )


def _guests(scene: Scene) -> Iterable[Finding]:
    bad: list[Finding] = []
    looked: list[str] = []
    for name, judge in (("pjsip.conf", judge_pjsip), ("iax.conf", judge_iax), ("sip.conf", judge_sip)):
        conf = scene.conf(name)
        if conf is None or (name == "sip.conf" and not _has_chan_sip(scene)):
            continue
        looked.append(name)
        bad += judge(conf)
    if not any(one.id == ANONYMOUS.id for one in bad):
        bad += _loaded_anonymous(scene)
    yield from bad
    if not looked:
        yield unknown(
            f"none of Asterisk's files is in {scene.config.asterisk.config_dir}",
            "capconduit config set asterisk.config_dir /etc/asterisk",
        )
    elif not bad:
        yield fine(f"nobody comes in unknown by {', '.join(looked)}")


def judge_loaded_anonymous(shown: str) -> Iterator[Finding]:
    """What `pjsip show endpoint anonymous` says: one that is in no file may be in a database, or left loaded."""
    if re.search(r"^\s*Endpoint:\s+anonymous\b", shown, re.MULTILINE):
        yield ANONYMOUS.found(
            "endpoint anonymous is loaded, and in none of the files",
            subject="anonymous",
            fix=f"asterisk -rx 'module unload {ANONYMOUS_MODULE}'   # and look where it is: realtime, or not reloaded",
        )


def _loaded_anonymous(scene: Scene) -> Iterable[Finding]:
    """Where the console can be asked; the files are judged without it."""
    try:
        return judge_loaded_anonymous(scene.console("pjsip show endpoint anonymous"))
    except CannotTell:
        return ()


def _has_chan_sip(scene: Scene) -> bool:
    """Whether chan_sip runs; where that cannot be seen, whether this Asterisk may have one at all."""
    try:
        return "chan_sip.so" in scene.console("module show like chan_sip")
    except CannotTell:
        return scene.config.asterisk.version < 21


# --- listeners --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Service:
    """A service by its port. `guarded`: it asks for a password."""

    port: int
    what: str
    guarded: bool
    fix: str


def judge_listeners(listeners: Sequence[Listener], services: Sequence[Service]) -> Iterator[Finding]:
    """Which of our services take connections from more than this machine or a private network."""
    for service in services:
        mine = [one for one in listeners if one.port == service.port]
        wide = [one for one in mine if not (one.is_loopback or one.is_private)]
        if wide:
            fault = LISTENS_WIDE if service.guarded else LISTENS_OPEN
            yield fault.found(
                f"{service.what} listens on {_places(wide)}; firewalls cannot be seen from here",
                subject=service.what,
                fix=service.fix,
            )
        elif mine:
            yield fine(f"{service.what} listens on {_places(mine)}", service.what)


def _places(listeners: Iterable[Listener]) -> str:
    return ", ".join(
        f"[{one.address}]:{one.port}" if ":" in one.address else f"{one.address}:{one.port}" for one in listeners
    )


def _services(scene: Scene) -> list[Service]:
    config = scene.config
    found = [
        Service(
            config.fastagi.address[1], "FastAGI", False,
            f"capconduit config set fastagi.listen 127.0.0.1:{config.fastagi.address[1]} && capconduit install",
        ),
        Service(
            config.ami.port, "AMI", False,
            "set `bindaddr = 127.0.0.1` in [general] of manager.conf, then: asterisk -rx 'manager reload'",
        ),
    ]  # fmt: skip
    found += [
        Service(
            port, "Asterisk's HTTP server", True,
            "set `bindaddr = 127.0.0.1` in http.conf (`enabled = no` where nobody needs it), then: asterisk -rx"
            " 'module reload http'",
        )
        for port in _http_ports(scene)
    ]  # fmt: skip
    if config.database.url.startswith("postgres"):
        url = urlsplit(config.database.url)
        if not url.hostname or is_ours(url.hostname):
            found.append(
                Service(
                    url.port or 5432, "PostgreSQL", True,
                    "psql -c \"ALTER SYSTEM SET listen_addresses = 'localhost'\" && systemctl restart postgresql",
                )
            )  # fmt: skip
    if config.http.listen:
        port = int(config.http.listen.rpartition(":")[2])
        found.append(Service(port, "the HTTP API", True, f"capconduit config set http.listen 127.0.0.1:{port}"))
    return found


def _http_ports(scene: Scene) -> list[int]:
    """Ports of Asterisk's HTTP server, its defaults where http.conf does not say or cannot be read."""
    try:
        conf = scene.conf("http.conf")
    except CannotTell:
        conf = None
    general: Mapping[str, str] = dict(conf.named("general").pairs) if conf else {}
    ports = {general.get("bindport", "8088"), (general.get("tlsbindaddr", "") or ":8089").rpartition(":")[2]}
    return sorted(int(port) for port in ports if port.isdigit())


def _listeners(scene: Scene) -> Iterable[Finding]:
    listeners = scene.source("listening sockets", lambda: tcp_listeners(scene.doors.proc))
    findings = list(judge_listeners(listeners, _services(scene)))
    return findings or [fine("none of our services listens on this machine now")]


CHECKS: Final = (
    Check(
        "guests",
        Matter.NETWORK,
        "pjsip.conf, iax.conf and sip.conf let nobody in who is not known by address or secret",
        (ANONYMOUS, OPEN_ENDPOINT, OPTIONS_OPEN, IAX_GUEST, IAX_TOKENS, SIP_GUEST),
        _guests,
    ),
    Check(
        "listeners",
        Matter.NETWORK,
        "FastAGI, AMI, HTTP and PostgreSQL of this machine do not listen to the world",
        (LISTENS_OPEN, LISTENS_WIDE),
        _listeners,
    ),
)
