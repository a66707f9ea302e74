"""What of two trunks' addresses is the same, so that nobody could say whose a call is."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def shared_host(ours: Sequence[str], theirs: Sequence[str]) -> tuple[str, str] | None:
    """The first host of `ours` that lies in one of `theirs` or the other way round, with its counterpart; else None.

    Hosts are names, addresses or networks. Names are compared as names: what they resolve to is not known here.
    """
    for host in ours:
        for other in theirs:
            if _overlap(host, other):
                return host, other
    return None


def _overlap(host: str, other: str) -> bool:
    first, second = _network(host), _network(other)
    if first is None or second is None:
        return host.lower() == other.lower()
    return first.version == second.version and first.overlaps(second)


def _network(host: str) -> Network | None:
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError:
        return None
