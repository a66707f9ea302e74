"""Trunks: the carriers that may send us calls."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import phonenumbers

from capconduit.domain.model import Trunk
from capconduit.errors import UsageError
from capconduit.services.caps import remove_caps_of
from capconduit.services.office import Desk, Office, check_name
from capconduit.vocab import CapScope, TrunkKind

DEFAULT_PORT: Final = {TrunkKind.PJSIP: 5060, TrunkKind.IAX2: 4569}
DEFAULT_CODECS: Final = "ulaw,alaw"
MAX_HOSTS: Final = 64
_NAME_OF_HOST = re.compile(r"^[A-Za-z0-9](?:[A-Za-z0-9.\-]{0,251}[A-Za-z0-9])?$")
_CODECS = re.compile(r"^[a-z0-9]+(?:,[a-z0-9]+)*$")
# Sections that the rendered configuration has for itself.
RESERVED: Final = frozenset({"global", "system", "general", "guest", "acl"})


def check_hosts(hosts: Sequence[str], kind: TrunkKind = TrunkKind.PJSIP) -> str:
    """Addresses, networks or names, as they are kept: comma separated. Raises UsageError.

    The first is where calls are sent, so it is no network. IAX2 knows addresses and networks only.
    """
    if not hosts or len(hosts) > MAX_HOSTS:
        raise UsageError("host-missing", "a trunk needs at least one host", "add --host 203.0.113.7")
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


def check_codecs(codecs: str) -> str:
    """Codec names as Asterisk writes them, comma separated. Raises UsageError."""
    if not _CODECS.fullmatch(codecs):
        raise UsageError("codecs-invalid", f"{codecs!r} is no list of codecs", "write it like ulaw,alaw")
    return codecs


def add_trunk(
    office: Office,
    name: str,
    *,
    kind: TrunkKind,
    hosts: Sequence[str],
    port: int | None = None,
    codecs: str = DEFAULT_CODECS,
    region: str = "",
) -> Trunk:
    """A new trunk. Its name becomes a section of Asterisk's configuration. Raises UsageError, Refused."""
    check_name("trunk", name)
    if name.lower() in RESERVED or name.lower().startswith("capconduit"):
        raise UsageError("name-reserved", f"{name!r} is a section of the rendered configuration", "choose another name")
    kept_hosts, kept_codecs, kept_region = check_hosts(hosts, kind), check_codecs(codecs), check_region(region)

    def work(desk: Desk) -> Trunk:
        trunk = Trunk(
            **desk.stamp(),
            name=name,
            kind=kind,
            hosts=kept_hosts,
            port=check_port(port if port is not None else DEFAULT_PORT[kind]),
            codecs=kept_codecs,
            region=kept_region,
            auth_username="",
            auth_secret_ref="",
        )
        desk.add("trunk", trunk)
        return trunk

    return office.change(work)


def list_trunks(office: Office) -> Sequence[Trunk]:
    """All trunks by name."""
    return office.read(lambda desk: sorted(desk.tx.rows(Trunk, desk.tenant_id), key=lambda t: t.name))


def show_trunk(office: Office, name: str) -> Trunk:
    """One trunk. Raises NotFound."""
    return office.read(lambda desk: desk.named(Trunk, name))


def set_trunk(office: Office, name: str, **fields: Any) -> Trunk:
    """Change hosts (a list), port, codecs or region. Render again afterwards. Raises UsageError, NotFound."""
    checks: dict[str, Callable[[Any], object]] = {
        "hosts": list,
        "port": check_port,
        "codecs": check_codecs,
        "region": check_region,
    }
    kept: dict[str, Any] = {field: checks[field](value) for field, value in fields.items()}

    def work(desk: Desk) -> Trunk:
        trunk = desk.named(Trunk, name)
        if "hosts" in kept:
            kept["hosts"] = check_hosts(kept["hosts"], trunk.kind)
        changed = replace(trunk, **kept, updated_ms=desk.now_ms)
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
