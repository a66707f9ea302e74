"""SIP OPTIONS over UDP: whether somebody answers at a SIP URI, asked from this machine as a call would be.

Sources: RFC 3261 sections 11 (any final response is an answer), 8.1 (the request), 17.1.2 (when it is sent again) and
17.1.3 (which response belongs to it), RFC 3581 (rport).
The outside dependency is whoever listens there. **Fails closed**: no matching response in time is a fault; nothing that
comes is trusted beyond its status, and every wait ends at the deadline.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import Final

from capconduit.vocab import TargetFault

SIP_PORT: Final = 5060
MAX_PORT: Final = 65_535
T1_S: Final = 0.5
T2_S: Final = 4.0
PACKET_BYTES: Final = 65_535
ADDRESSES: Final = 4  # of one name that are asked
REASON_CHARS: Final = 80
_MAGIC: Final = "z9hG4bK"  # every branch begins so, RFC 3261 section 8.1.1.7
_URI: Final = re.compile(r"sips?:([^@;]+)@(\[[0-9A-Fa-f:]+\]|[^:;\[\]]+)(?::([0-9]+))?(?:;transport=([a-z]+))?")
_STATUS: Final = re.compile(r"SIP/2\.0 ([1-6][0-9]{2})(?: (.*))?")
_BRANCH: Final = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)
_FOLD: Final = re.compile(r"\r?\n[ \t]+")
_COMPACT: Final = {"v": "via", "i": "call-id"}
_UNSEEN: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a SIP URI leads. `udp` is false where it asks for TCP or TLS."""

    user: str
    host: str
    port: int
    udp: bool

    @property
    def shown(self) -> str:
        """Host and port as one writes them."""
        return at(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Ask:
    """What tells our request from all others."""

    branch: str
    call_id: str
    tag: str


@dataclass(frozen=True, slots=True)
class Response:
    """Status and reason of a response that belongs to our request."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Heard:
    """How an exchange ended: a final response with its latency, or a fault. `sent`: how often the request was."""

    asked: str
    fault: TargetFault | None
    words: str
    status: int | None = None
    latency_ms: int | None = None
    sent: int = 0


def at(host: str, port: int) -> str:
    """`host:port`; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def place_of(uri: str) -> Place:
    """Where a SIP URI of a target leads. Raises ValueError where it is none."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise ValueError(f"{uri!r} is no SIP URI")
    user, host, port, transport = match.groups()
    udp = uri.startswith("sip:") and transport in (None, "udp")
    return Place(user, host.strip("[]"), int(port or SIP_PORT), udp)


def new_ask() -> Ask:
    """Identifiers that nobody can guess, and so not answer for somebody else."""
    return Ask(f"{_MAGIC}{os.urandom(8).hex()}", os.urandom(12).hex(), os.urandom(6).hex())


def request(place: Place, ask: Ask, local: tuple[str, int]) -> bytes:
    """The request, from `local` address and port."""
    user = place.user.replace("#", "%23")  # which stands for itself in a dial string, but in no URI
    uri = f"sip:{user}@{place.shown}"
    here = at(*local)
    lines = (
        f"OPTIONS {uri} SIP/2.0",
        f"Via: SIP/2.0/UDP {here};branch={ask.branch};rport",
        "Max-Forwards: 70",
        f"From: <sip:capconduit@{here}>;tag={ask.tag}",
        f"To: <{uri}>",
        f"Call-ID: {ask.call_id}",
        "CSeq: 1 OPTIONS",
        f"Contact: <sip:capconduit@{here}>",
        "Accept: application/sdp",
        "User-Agent: CapConduit",
        "Content-Length: 0",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def response_to(ask: Ask, packet: bytes) -> Response | None:
    """The response in a packet, if it belongs to our request; None for all else."""
    head = _FOLD.sub(" ", packet.decode("utf-8", "replace").partition("\r\n\r\n")[0])
    first, *lines = head.split("\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        return None
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.strip().lower()
        fields.setdefault(_COMPACT.get(key, key), value.strip())  # the topmost Via is ours
    branch = _BRANCH.search(fields.get("via", "").partition(",")[0])
    ours = (
        branch is not None
        and branch[1] == ask.branch
        and fields.get("call-id") == ask.call_id
        and fields.get("cseq", "").upper().split() == ["1", "OPTIONS"]
    )
    return Response(int(status[1]), _UNSEEN.sub("?", status[2] or "")[:REASON_CHARS].strip()) if ours else None


def meaning(response: Response, user: str) -> str:
    """What a final response says, in words."""
    told = f"{response.status} {response.reason}".strip()
    match response.status:
        case 401 | 407:
            more = "; somebody answers, and wants a password first"
        case 403:
            more = "; somebody answers, and lets nobody from this machine in"
        case 404 | 410 | 604:
            more = f"; somebody answers, and knows no {user}"
        case 405 | 501:
            more = "; somebody answers, and does not care for OPTIONS"
        case 408 | 480 | 486 | 600:
            more = f"; somebody answers, but {user} is not to be had now"
        case status if 300 <= status < 400:
            more = "; somebody answers, and sends calls on elsewhere"
        case status if 500 <= status < 600:
            more = "; somebody answers, but a call would fare no better now"
        case status if status >= 400:
            more = "; somebody answers"
        case _:
            more = ""
    return told + more


def options(uri: str, timeout_s: float) -> Heard:
    """Ask at a SIP URI whether somebody is there; all of it ends within `timeout_s`. Raises ValueError for no URI.

    A name is looked up as an address (no SRV or NAPTR record); of several addresses the next one is asked where nobody
    listens at the one before.
    """
    place = place_of(uri)
    if not place.udp:
        words = "only UDP is asked, and the address wants another transport: nothing was sent"
        return Heard(place.shown, TargetFault.TRANSPORT, words)
    if not 0 < place.port <= MAX_PORT:  # the resolver would quietly ask at another one
        return Heard(place.shown, TargetFault.UNREACHABLE, f"{place.shown}: {place.port} is no port")
    deadline = time.monotonic() + timeout_s
    found = _addresses(place, timeout_s)
    if isinstance(found, Heard):
        return found
    heard = None
    for family, address in found[:ADDRESSES]:
        heard = _exchange(place, family, address, deadline, timeout_s)
        if heard.fault not in (TargetFault.REFUSED, TargetFault.UNREACHABLE):
            break
    assert heard is not None, "a name has an address"
    return heard


Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]


def _addresses(place: Place, timeout_s: float) -> list[Address] | Heard:
    """The addresses of a host. A thread waits for them: the resolver takes no deadline."""
    found: list[Address] = []
    why: list[str] = []

    def look_up() -> None:
        try:
            infos = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:
            why.append(getattr(error, "strerror", None) or str(error))
            return
        for family, _, _, _, address in infos:
            if family in (socket.AF_INET, socket.AF_INET6):
                found.append((family, address))  # type: ignore[arg-type]  # those families' addresses

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return Heard(place.shown, TargetFault.DNS, f"{place.host} was not looked up within {timeout_s:g} s")
    if not found:
        return Heard(place.shown, TargetFault.DNS, f"{place.host}: {why[0] if why else 'no address'}")
    return found


def _exchange(
    place: Place, family: socket.AddressFamily, address: tuple[object, ...], deadline: float, timeout_s: float
) -> Heard:
    """Ask one address, again and again as RFC 3261 says, until the deadline."""
    asked = at(str(address[0]), place.port)
    sent = 0
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)  # so that only its packets come, and that nobody listens there is told
            sock.setblocking(False)
            ask = new_ask()
            data = request(place, ask, sock.getsockname()[:2])
            began = again_at = time.monotonic()
            wait_s, others = T1_S, 0
            while (now := time.monotonic()) < deadline:
                if now >= again_at:
                    sock.send(data)
                    sent += 1
                    again_at, wait_s = now + wait_s, min(2 * wait_s, T2_S)
                if not select.select([sock], [], [], max(min(again_at, deadline) - time.monotonic(), 0.0))[0]:
                    continue
                answer = response_to(ask, sock.recv(PACKET_BYTES))
                if answer is None:
                    others += 1
                elif answer.status < 200:  # somebody works on it: no hurry
                    again_at, wait_s = time.monotonic() + T2_S, T2_S
                else:
                    latency_ms = round((time.monotonic() - began) * 1000)
                    return Heard(asked, None, meaning(answer, place.user), answer.status, latency_ms, sent)
        except OSError as error:
            refused = error.errno == errno.ECONNREFUSED
            fault = TargetFault.REFUSED if refused else TargetFault.UNREACHABLE
            words = "nobody listens there" if refused else error.strerror or str(error)
            return Heard(asked, fault, f"{asked}: {words}", sent=sent)
    strange = f"; {others} packets came that answer something else" if others else ""
    words = f"{asked}: no answer within {timeout_s:g} s, asked {sent} times{strange}"
    return Heard(asked, TargetFault.TIMEOUT, words, sent=sent)
