"""What listens on this machine, read from /proc/net (proc(5)); no process is asked."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from capconduit.doctor.findings import CannotTell

LISTEN: Final = "0A"  # tcp_states.h TCP_LISTEN


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A TCP socket that takes connections."""

    port: int
    address: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return _ip(self.address).is_loopback

    @property
    def is_everywhere(self) -> bool:
        """Whether it takes connections on every address of this machine."""
        return _ip(self.address).is_unspecified

    @property
    def is_private(self) -> bool:
        """Whether its address is one that the world cannot route to."""
        return _ip(self.address).is_private and not self.is_everywhere


@dataclass(frozen=True, slots=True, order=True)
class UdpSocket:
    """A bound UDP socket, and whose it is."""

    port: int
    address: str
    uid: int


def tcp_listeners(proc: Path) -> list[Listener]:
    """Every listening TCP socket of this network namespace, IPv4 and IPv6. Raises CannotTell."""
    found = {
        Listener(port, address)
        for name in ("tcp", "tcp6")
        for address, port, state, _ in _rows(proc / "net" / name)
        if state == LISTEN
    }
    return sorted(found)


def udp_sockets(proc: Path) -> list[UdpSocket]:
    """Every bound UDP socket of this network namespace. Raises CannotTell."""
    rows = (row for name in ("udp", "udp6") for row in _rows(proc / "net" / name))
    return sorted({UdpSocket(port, address, uid) for address, port, _, uid in rows})


def _rows(path: Path) -> Iterator[tuple[str, int, str, int]]:
    """(local address, local port, state, uid) of each line; a kernel without IPv6 has no file for it."""
    try:
        lines = path.read_text().splitlines()[1:]
    except FileNotFoundError:
        return
    except OSError as error:
        raise CannotTell(f"{path}: {error.strerror}", "ss -lntu") from None
    for line in lines:
        words = line.split()
        if len(words) > 7 and ":" in words[1]:
            address, _, port = words[1].partition(":")
            yield _address(address), int(port, 16), words[3], int(words[7])


def _address(text: str) -> str:
    """`0100007F` is 127.0.0.1: words of four bytes in the machine's own order."""
    raw = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address)
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
