"""SIP messages as the lab's phones write and read them: start line, headers, body; and a small SDP."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lab.ports import LOOPBACK

PCMU, EVENTS = 0, 101  # RTP payload types of a phone: talk and keys
_COMPACT: Final = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length"}


@dataclass(frozen=True, slots=True)
class SipMessage:
    """One SIP request or response. Header names are in lower case."""

    start: str
    headers: tuple[tuple[str, str], ...]
    body: str

    @property
    def is_request(self) -> bool:
        """A request begins with its method."""
        return not self.start.startswith("SIP/2.0")

    @property
    def method(self) -> str:
        """The method of a request, or of the request that a response answers."""
        return self.start.split(" ", 1)[0] if self.is_request else self.header("cseq").split()[1]

    @property
    def code(self) -> int:
        """The code of a response; 0 of a request."""
        return 0 if self.is_request else int(self.start.split()[1])

    def header(self, name: str) -> str:
        """The first header of that name, or nothing."""
        return next((value for key, value in self.headers if key == name), "")

    def every(self, name: str) -> list[str]:
        """All headers of that name, in their order."""
        return [value for key, value in self.headers if key == name]

    @property
    def name(self) -> str:
        """What a test calls it: `BYE`, `180`."""
        return self.method if self.is_request else str(self.code)


def parse(data: bytes) -> SipMessage | None:
    """The message in a datagram; None where it is none (a keep-alive)."""
    head, _, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    lines = [line for line in head.split("\r\n") if line]
    if not lines:
        return None
    headers = []
    for line in lines[1:]:
        key, _, value = line.partition(":")
        name = key.strip().lower()
        headers.append((_COMPACT.get(name, name), value.strip()))
    return SipMessage(lines[0], tuple(headers), body)


def build(start: str, headers: list[tuple[str, str]], body: str = "") -> bytes:
    """The datagram of a message; Content-Length is added."""
    lines = [start, *(f"{name}: {value}" for name, value in headers), f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def sdp(rtp_port: int, *, host: str = LOOPBACK, payload: str = f"{PCMU} {EVENTS}") -> str:
    """An offer or answer of one audio stream."""
    lines = [
        "v=0", f"o=phone 1 1 IN IP4 {host}", "s=-", f"c=IN IP4 {host}", "t=0 0",
        f"m=audio {rtp_port} RTP/AVP {payload}", f"a=rtpmap:{PCMU} PCMU/8000",
        f"a=rtpmap:{EVENTS} telephone-event/8000", "a=sendrecv",
    ]  # fmt: skip
    return "\r\n".join(lines) + "\r\n"


def media_address(body: str) -> tuple[str, int] | None:
    """Where the other side wants its RTP, by its SDP."""
    port = re.search(r"^m=audio (\d+) ", body, re.MULTILINE)
    host = re.search(r"^c=IN IP4 (\S+)", body, re.MULTILINE)
    return (host[1], int(port[1])) if port and host else None


def uri_of(header: str) -> str:
    """The URI in From, To or Contact."""
    found = re.search(r"<([^>]+)>", header)
    return found[1] if found else header.split(";")[0].strip()


def tag_of(header: str) -> str:
    """The tag in From or To."""
    found = re.search(r";\s*tag=([^;\s]+)", header)
    return found[1] if found else ""
