"""Free ports on loopback, chosen when they are needed, so that several labs run side by side."""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from dataclasses import dataclass
from typing import Final

from lab.wait import LabError

LOOPBACK: Final = "127.0.0.1"
RTP_PORTS: Final = 400  # per Asterisk: two per leg
MEDIA_SPACING: Final = 10  # SIPp binds mp and mp + 2; agents that are closer exit without a word
TRIES: Final = 200
# Below Linux' ephemeral ports (32768 and up), which any client may have at the wrong moment.
_SINGLE: Final = (12_000, 20_000)
_RANGES: Final = (20_000, 28_000)
_MEDIA: Final = (28_000, 32_000)  # SIPp's alone: an Asterisk binds none of its ports before a call needs it
# What this process gave away last: whoever got it may not have bound it yet, so nobody else gets it soon.
_GIVEN: Final[deque[tuple[socket.SocketKind, int]]] = deque(maxlen=400)
_MEDIA_GIVEN: Final[deque[int]] = deque(maxlen=25)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody has at this moment, for TCP or, with SOCK_DGRAM, UDP. Raises LabError."""
    low, high = _own_share(_SINGLE)
    for _ in range(TRIES):
        given = (kind, random.randrange(low, high))
        if given not in _GIVEN and is_free(given[1], kind):
            _GIVEN.append(given)
            return given[1]
    raise LabError("no free port")


def free_udp_range(count: int, align: int = 2) -> int:
    """The first of `count` UDP ports in a row that are all free, a multiple of `align`. Raises LabError."""
    low, high = _own_share(_RANGES)
    return _free_row(low, high, count, align)


def media_ports() -> int:
    """The first of the UDP ports of one SIPp's media, which the next SIPps do not get. Raises LabError."""
    low, high = _own_share(_MEDIA)
    for _ in range(TRIES):
        first = _free_row(low, high, MEDIA_SPACING, MEDIA_SPACING)
        if first not in _MEDIA_GIVEN:
            _MEDIA_GIVEN.append(first)
            return first
    raise LabError("no free UDP ports for media")


def _free_row(low: int, high: int, count: int, align: int) -> int:
    for _ in range(TRIES):
        first = random.randrange(low, high - count) // align * align
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise LabError(f"no {count} free UDP ports in a row")


def _own_share(ports: tuple[int, int]) -> tuple[int, int]:
    """Test runs side by side look in different places: between looking and binding, a port is nobody's."""
    workers, name = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    width = (ports[1] - ports[0]) // workers
    low = ports[0] + int(name.removeprefix("gw")) * width
    return low, low + width


def is_free(port: int, kind: socket.SocketKind = socket.SOCK_DGRAM) -> bool:
    """Whether nobody has that port of 127.0.0.1 at this moment, by default for UDP."""
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class LabPorts:
    """Where one Asterisk listens, all on 127.0.0.1. `rtp_start` and `rtp_end` are both inclusive."""

    sip: int
    iax: int
    ami: int
    rtp_start: int
    rtp_end: int

    @classmethod
    def choose(cls) -> LabPorts:
        """Ports that are free now."""
        rtp = free_udp_range(RTP_PORTS)
        udp = socket.SOCK_DGRAM
        return cls(free_port(udp), free_port(udp), free_port(), rtp, rtp + RTP_PORTS - 1)
