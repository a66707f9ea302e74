"""Trunks: the carriers that may send us calls."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import phonenumbers

from capconduit.config_rules import Invalid, did_you_mean, secret_reference
from capconduit.domain.model import Trunk
from capconduit.domain.trunks import shared_host
from capconduit.errors import Refused, UsageError
from capconduit.services.caps import remove_caps_of
from capconduit.services.office import Desk, Office, check_name
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import CODECS, IAX2_CODECS, CapScope, SipTransport, TrunkAuth, TrunkKind

DEFAULT_PORT: Final = {TrunkKind.PJSIP: 5060, TrunkKind.IAX2: 4569}
TLS_PORT: Final = 5061
DEFAULT_CODECS: Final = "ulaw,alaw"
MAX_HOSTS: Final = 64
_NAME_OF_HOST = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?$")
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")
QUALIFY_MS: Final = (5_000, 3_600_000)
# Sections that the rendered configuration has for itself.
RESERVED: Final = frozenset({"global", "system", "general", "guest", "acl"})


def check_hosts(hosts: Sequence[str], kind: TrunkKind = TrunkKind.PJSIP) -> str:
    """Addresses, networks or names, as they are kept: comma separated. Raises UsageError.

    The first is where calls are sent, so it is no network. IAX2 knows addresses and networks only.
    """
    if len(hosts) > MAX_HOSTS:
        raise UsageError("hosts-too-many", f"{len(hosts)} hosts", f"a trunk takes {MAX_HOSTS}: name networks instead")
    if len(set(hosts)) != len(hosts):
        raise UsageError("host-twice", "a host is named twice", "name each host once")
    for position, host in enumerate(hosts):
        _check_host(host, kind, first=position == 0)
    return ",".join(hosts)


def _check_host(host: str, kind: TrunkKind, *, first: bool) -> None:
    form = "give an address or a network" if kind is TrunkKind.IAX2 else "give an address, a network or a name"
    try:
        network = ipaddress.ip_network(host, strict=False)
    except ValueError:
        looks_numeric = set(host) <= set("0123456789./:")
        if kind is TrunkKind.IAX2 or looks_numeric or not _NAME_OF_HOST.match(host):
            raise UsageError("host-invalid", f"{host!r} is no host of a {kind} trunk", form) from None
        return
    if network.prefixlen == 0:
        raise UsageError("host-invalid", f"{host!r} is the whole world", "name the carrier's networks")
    if first and "/" in host:
        raise UsageError(
            "host-invalid", f"{host!r} is a network", "the first host is where calls are sent: name an address first"
        )


def check_port(port: int) -> int:
    """A port number. Raises UsageError."""
    if not 1 <= port <= 65_535:
        raise UsageError("port-invalid", f"{port} is no port", "give a number from 1 to 65535")
    return port


def check_region(region: str) -> str:
    """An ISO 3166 region in capitals, or nothing. Raises UsageError."""
    if region and region.upper() not in phonenumbers.SUPPORTED_REGIONS:
        raise UsageError("region-invalid", f"{region!r} is no region", "use an ISO 3166 code like US or GB")
    return region.upper()


def check_codecs(codecs: str, kind: TrunkKind = TrunkKind.PJSIP) -> str:
    """Codec names as Asterisk writes them, comma separated, each once. Raises UsageError."""
    names = codecs.split(",")
    known = IAX2_CODECS if kind is TrunkKind.IAX2 else CODECS
    for name in names:
        if name not in known:
            hint = did_you_mean(name, tuple(sorted(known))) or "write it like ulaw,alaw"
            raise UsageError("codecs-invalid", f"{name!r} is no codec of a {kind} trunk", hint)
    if len(set(names)) != len(names):
        raise UsageError("codecs-invalid", f"a codec is named twice in {codecs!r}", "name each codec once")
    return codecs


def check_username(username: str) -> str:
    """A user name of SIP or IAX2 that can stand in a URI and in a file; may be empty. Raises UsageError."""
    if username and not _USERNAME.fullmatch(username):
        raise UsageError(
            "username-invalid", f"{username!r} is no user name of a trunk", "use letters, digits, '_', '.', '-', '+'"
        )
    return username


def check_secret_ref(reference: str) -> str:
    """Where a secret is; may be empty. Raises UsageError, in which nothing of a plain secret is repeated."""
    try:
        secret_reference(reference)
    except Invalid as bad:
        raise UsageError("secret-not-a-reference", f"--secret {bad.reason}", bad.hint) from None
    return reference


def check_qualify(qualify_ms: int) -> int:
    """How often the carrier is asked whether it is there: whole seconds, 0 for never. Raises UsageError."""
    low, high = QUALIFY_MS
    if qualify_ms and (not low <= qualify_ms <= high or qualify_ms % MS_PER_SECOND):
        raise UsageError(
            "qualify-invalid", f"{qualify_ms} ms is no interval", "give 5s to 1h in whole seconds, or none"
        )
    return qualify_ms


def check_permit(networks: Sequence[str]) -> str:
    """Addresses and networks, as they are kept: comma separated. Raises UsageError."""
    for network in networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise UsageError(
                "permit-invalid", f"{network!r} is neither an address nor a network", "write it like 203.0.113.0/24"
            ) from None
    return ",".join(networks)


CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "hosts": list,
    "port": check_port,
    "codecs": str,
    "region": check_region,
    "auth": TrunkAuth,
    "auth_username": check_username,
    "auth_secret_ref": check_secret_ref,
    "transport": SipTransport,
    "srtp": bool,
    "nat": bool,
    "qualify_ms": check_qualify,
    "permit": check_permit,
}


def check_whole(trunk: Trunk) -> None:
    """That what is said of a trunk goes together. Raises UsageError naming what is missing or too much."""
    problem = _of_auth(trunk) or _of_kind(trunk) or _of_transport(trunk)
    if problem is not None:
        slug, message, hint = problem
        raise UsageError(slug, f"trunk {trunk.name!r}: {message}", hint)


Problem = tuple[str, str, str]


def _of_auth(trunk: Trunk) -> Problem | None:
    username, secret, auth = trunk.auth_username, trunk.auth_secret_ref, trunk.auth
    if not trunk.hosts and auth is not TrunkAuth.DIGEST:
        return "host-missing", "it needs at least one host", "add --host 203.0.113.7"
    if bool(username) != bool(secret) or (not secret and auth is not TrunkAuth.IP):
        needs = "a username and a secret" if auth is not TrunkAuth.IP else "both a username and a secret, or none"
        return "auth-incomplete", f"auth {auth} needs {needs}", "add --username NAME --secret file:/absolute/path"
    # Without an address the endpoint is found by the name that the carrier proves to be, so that is the trunk's name.
    by_name = auth is TrunkAuth.DIGEST and (trunk.kind is TrunkKind.IAX2 or not trunk.hosts)
    if by_name and username != trunk.name:
        return (
            "username-invalid",
            f"the carrier is known by its username alone, and {username!r} is not the trunk's name",
            "give the trunk that name, or leave --username out"
            + ("" if trunk.kind is TrunkKind.IAX2 else "; or add --host"),
        )
    if trunk.permit and auth is TrunkAuth.IP:
        return (
            "permit-needless",
            "its hosts are the only addresses it may come from",
            "leave --permit out, or add a --host",
        )
    return None


def _of_kind(trunk: Trunk) -> Problem | None:
    check_codecs(trunk.codecs, trunk.kind)
    if trunk.qualify_ms and not trunk.hosts:
        return "qualify-invalid", "without a host there is nobody to ask", "add --host, or leave --qualify out"
    if trunk.kind is TrunkKind.PJSIP:
        return None
    for option, given in (
        ("--transport", trunk.transport is not SipTransport.UDP), ("--srtp", trunk.srtp), ("--nat", trunk.nat)
    ):  # fmt: skip
        if given:
            return "not-of-iax2", f"{option} is not of IAX2", f"leave {option} out, or use --kind pjsip"
    return None


def _of_transport(trunk: Trunk) -> Problem | None:
    if trunk.srtp and trunk.transport is not SipTransport.TLS:
        return (
            "srtp-without-tls",
            f"the keys of SRTP travel in SIP, which {trunk.transport} does not protect",
            "add --transport tls, or leave --srtp out",
        )
    return None


def check_hosts_of_others(desk: Desk, trunk: Trunk) -> None:
    """That an address belongs to one trunk only: what comes from it must be one trunk's. Raises Refused.

    SIP takes the first that it finds. A trunk without hosts is known by its name, and so are IAX2 trunks that
    authenticate.
    """
    ours = found_by_address(trunk)
    for other in desk.tx.rows(Trunk, desk.tenant_id):
        if other.id == trunk.id or other.kind is not trunk.kind:
            continue
        shared = shared_host(ours, found_by_address(other))
        if shared is not None:
            host, of_other = shared
            in_what = "" if host == of_other else f" ({of_other} there)"
            raise Refused(
                "host-shared",
                f"host {host} of trunk {trunk.name!r} belongs to trunk {other.name!r} already{in_what}",
                "a call from it could be either trunk's: give its numbers to one trunk, or name other hosts",
            )


def found_by_address(trunk: Trunk) -> list[str]:
    """The hosts by which a call is known to be this trunk's; none where its name says so."""
    if not trunk.hosts or (trunk.kind is TrunkKind.IAX2 and trunk.auth_username):
        return []
    return trunk.hosts.split(",")


def check_free_name(name: str) -> str:
    """A name that is no section of ours. Raises UsageError."""
    if name.lower() in RESERVED or name.lower().startswith("capconduit"):
        raise UsageError("name-reserved", f"{name!r} is a section of the rendered configuration", "choose another name")
    return name


def add_trunk(
    office: Office,
    name: str,
    *,
    kind: TrunkKind,
    hosts: Sequence[str] = (),
    port: int | None = None,
    codecs: str = DEFAULT_CODECS,
    region: str = "",
    auth: TrunkAuth = TrunkAuth.IP,
    auth_username: str = "",
    auth_secret_ref: str = "",
    transport: SipTransport = SipTransport.UDP,
    srtp: bool = False,
    nat: bool = False,
    qualify_ms: int = 0,
    permit: Sequence[str] = (),
) -> Trunk:
    """A new trunk. Its name becomes a section of Asterisk's configuration, and its username where the carrier proves
    to be somebody and none is given. Raises UsageError, Refused.
    """
    check_name("trunk", name)
    check_free_name(name)
    values: dict[str, Any] = {
        "port": check_port(port if port is not None else _default_port(kind, transport)),
        "codecs": codecs,
        "region": check_region(region),
        "auth": auth,
        "auth_username": check_username(auth_username or (name if auth is TrunkAuth.DIGEST else "")),
        "auth_secret_ref": check_secret_ref(auth_secret_ref),
        "transport": transport,
        "srtp": srtp,
        "nat": nat,
        "qualify_ms": check_qualify(qualify_ms),
        "permit": check_permit(permit),
    }

    def work(desk: Desk) -> Trunk:
        trunk = Trunk(**desk.stamp(), name=name, kind=kind, hosts=check_hosts(hosts, kind), **values)
        check_whole(trunk)
        check_hosts_of_others(desk, trunk)
        desk.add("trunk", trunk)
        return trunk

    return office.change(work)


def _default_port(kind: TrunkKind, transport: SipTransport) -> int:
    return TLS_PORT if transport is SipTransport.TLS else DEFAULT_PORT[kind]


def list_trunks(office: Office) -> Sequence[Trunk]:
    """All trunks by name."""
    return office.read(lambda desk: sorted(desk.tx.rows(Trunk, desk.tenant_id), key=lambda t: t.name))


def show_trunk(office: Office, name: str) -> Trunk:
    """One trunk. Raises NotFound."""
    return office.read(lambda desk: desk.named(Trunk, name))


def set_trunk(office: Office, name: str, **fields: Any) -> Trunk:
    """Change what `add_trunk` takes, but the kind; hosts and permit are lists. Render again afterwards.

    Raises UsageError, NotFound, Refused.
    """
    kept: dict[str, Any] = {field: CHECKS[field](value) for field, value in fields.items()}

    def work(desk: Desk) -> Trunk:
        trunk = desk.named(Trunk, name)
        if "hosts" in kept:
            kept["hosts"] = check_hosts(fields["hosts"], trunk.kind)
        changed = replace(trunk, **kept, updated_ms=desk.now_ms)
        check_whole(changed)
        if {"hosts", "auth", "auth_username"} & kept.keys():  # an older estate must stay changeable
            check_hosts_of_others(desk, changed)
        desk.change("trunk", trunk, changed)
        return changed

    return office.change(work)


def remove_trunk(office: Office, name: str) -> None:
    """Remove a trunk that no DID names. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        trunk = desk.named(Trunk, name)
        remove_caps_of(desk, CapScope.TRUNK, trunk.id)
        desk.remove("trunk", trunk, "give its DIDs another trunk first")

    office.change(work)
