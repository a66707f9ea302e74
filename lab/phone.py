"""A SIP telephone of the lab for one call, for what SIPp cannot do: every message at the moment a test wants it.

What any telephone does by itself (ACK, 200 to BYE, 487 after CANCEL, retransmitted answers) a thread does here; what a
test is about is a verb. Waiting is bounded; what does not come, or what comes instead, raises PhoneError with all
messages of the call. UDP on loopback loses nothing: requests are sent once.
"""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Mapping
from typing import Final

from lab.ports import LOOPBACK
from lab.rtp import Media
from lab.sip_message import SipMessage, build, media_address, parse, sdp, tag_of, uri_of
from lab.wait import LabError

WAIT_S: Final = 30.0
READ_S: Final = 0.2
DATAGRAM: Final = 65_535
# What may come at any time and is answered by itself; whoever waits for something else does not mind.
_BY_THE_WAY: Final = frozenset({"ACK", "OPTIONS", "NOTIFY", "UPDATE", "INVITE", "INFO"})


class PhoneError(LabError):
    """A call did not go as the test says."""


class Phone:
    """One end of one call. `sip_port`: where Asterisk listens on 127.0.0.1.

    acks: whether a final answer to our INVITE is acknowledged. stubborn: a CANCEL is confirmed and not obeyed. mute:
    nothing is answered any more. on: codes for re-INVITE and UPDATE, default 200.
    """

    def __init__(self, sip_port: int, name: str = "target", host: str = LOOPBACK) -> None:
        self.name, self.host = name, host
        self.acks, self.stubborn, self.mute = True, False, False
        self.on: dict[str, int] = {}
        self._server = (LOOPBACK, sip_port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(READ_S)
        self.port = int(self._socket.getsockname()[1])
        self.media = Media(host)
        self.call_id = f"{random.randrange(1 << 48):x}@phone"
        self.tag = f"{random.randrange(1 << 32):x}"
        self.remote_tag = ""
        self._remote, self._remote_uri = "", ""  # the dialog's other side, and where it wants its requests
        self._local_header, self._remote_header = "", ""
        self._cseq = 0
        self._invite: SipMessage | None = None  # the one that came
        self._branch = ""  # of the one that we sent
        self._answered: dict[tuple[str, str, str], bytes] = {}
        self._is_decided = False  # a final answer to the INVITE that came is sent
        self._inbox: list[SipMessage] = []
        self._change = threading.Condition()
        self._transcript: list[str] = []
        self._began_s = time.monotonic()
        self.up_s: float | None = None  # when the answer went out, or came
        self.over_s: float | None = None  # when a BYE went out, or came
        self.heard = 0  # the final code that our INVITE got
        self._closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    # --- what a test knows of it --------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        """Where this phone is called."""
        return f"sip:{self.name}@{self.host}:{self.port}"

    @property
    def talk_ms(self) -> int:
        """From the answer to the first BYE, as this side saw it; 0 where there was no answer."""
        if self.up_s is None:
            return 0
        return round(((self.over_s or time.monotonic()) - self.up_s) * 1_000)

    @property
    def is_over(self) -> bool:
        """Whether a BYE went out or came."""
        return self.over_s is not None

    def transcript(self) -> str:
        """What was sent and received, one line for each message."""
        return f"--- {self.name} at {self.host}:{self.port}\n" + "\n".join(self._transcript)

    # --- what a caller does -------------------------------------------------------------------------------------------

    def calls(self, number: str, *, headers: Mapping[str, str] | None = None) -> None:
        """Send INVITE."""
        self._remote_uri = f"sip:{number}@{self._server[0]}:{self._server[1]}"
        self._local_header = f"<sip:{self.name}@{self.host}:{self.port}>;tag={self.tag}"
        self._remote_header = f"<{self._remote_uri}>"
        self._cseq += 1
        self._branch = _branch()
        more = [*(headers or {}).items(), ("Content-Type", "application/sdp")]
        self._request("INVITE", self._branch, self._cseq, more, sdp(self.media.port, host=self.host))

    def cancels(self) -> None:
        """Send CANCEL of our INVITE."""
        self._request("CANCEL", self._branch, self._cseq)

    # --- what a target does -------------------------------------------------------------------------------------------

    def is_called(self) -> SipMessage:
        """Wait for INVITE."""
        return self.hears("INVITE")

    def rings(self, code: int = 180, *, early_media: bool = False) -> None:
        """Send a provisional answer."""
        self._answer(code, self._sdp() if early_media else "")

    def answers(self, *, body: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Send 200 with our SDP, or with another body."""
        text = self._sdp() if body is None else body
        self.up_s = self.up_s or time.monotonic()
        self._answer(200, text, headers)

    def refuses(self, code: int, headers: Mapping[str, str] | None = None) -> None:
        """Send a final answer that is none."""
        self._answer(code, "", headers)

    def says(self, data: bytes) -> None:
        """Send any bytes to Asterisk."""
        self._socket.sendto(data, self._server)

    # --- what both do -------------------------------------------------------------------------------------------------

    def hangs_up(self) -> None:
        """Send BYE."""
        self.over_s = self.over_s or time.monotonic()
        self.sends("BYE")

    def sends(self, method: str, headers: Mapping[str, str] | None = None, body: str = "") -> None:
        """Send a request within the dialog."""
        self._cseq += 1
        self._request(method, _branch(), self._cseq, list((headers or {}).items()), body)

    def hears(self, *names: str, of: str = "INVITE", within_s: float = WAIT_S) -> SipMessage:
        """Wait for a request (`BYE`) or an answer (`200`) to `of`. Raises PhoneError: nothing, or something else."""
        deadline = time.monotonic() + within_s
        with self._change:
            while True:
                while self._inbox:
                    message = self._inbox.pop(0)
                    if message.name in names and (message.is_request or message.method == of):
                        return message
                    if not self._does_not_matter(message, of):
                        raise PhoneError(f"{message.name} instead of {'/'.join(names)}\n{self.transcript()}")
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    raise PhoneError(f"no {'/'.join(names)} within {within_s:g} s\n{self.transcript()}")
                self._change.wait(left_s)

    def keeps(self, ms: int) -> None:
        """Let the call go on for so long. Raises PhoneError where it ends meanwhile."""
        deadline = time.monotonic() + ms / 1_000
        with self._change:
            while (left_s := deadline - time.monotonic()) > 0:
                ends = [m.name for m in self._inbox if m.name in ("BYE", "CANCEL")]
                if ends:
                    raise PhoneError(f"{ends[0]} while the call should go on\n{self.transcript()}")
                self._change.wait(left_s)

    def close(self) -> None:
        """End the threads and give the ports back."""
        self._closed = True
        self._thread.join(2)
        self._socket.close()
        self.media.close()

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _does_not_matter(self, message: SipMessage, of: str) -> bool:
        if message.is_request:
            late = (message.method == "BYE" and self.is_over) or (message.method == "CANCEL" and self.stubborn)
            return message.method in _BY_THE_WAY or late
        return message.code < 200 or message.method != of

    def _sdp(self) -> str:
        return sdp(self.media.port, host=self.host)

    def _send(self, data: bytes, to: tuple[str, int] | None = None) -> None:
        self._note("→", data.split(b"\r\n", 1)[0].decode())
        self._socket.sendto(data, to or self._server)

    def _note(self, arrow: str, text: str) -> None:
        self._transcript.append(f"{time.monotonic() - self._began_s:8.3f} {arrow} {text}")

    def _request(
        self, method: str, branch: str, cseq: int, headers: list[tuple[str, str]] | None = None, body: str = ""
    ) -> None:
        to = self._remote_header
        if self.remote_tag and method != "CANCEL" and "tag=" not in to:
            to += f";tag={self.remote_tag}"
        lines = [
            ("Via", f"SIP/2.0/UDP {self.host}:{self.port};branch={branch}"),
            ("Max-Forwards", "70"),
            ("From", self._local_header),
            ("To", to),
            ("Call-ID", self.call_id),
            ("CSeq", f"{cseq} {method}"),
            ("Contact", f"<{self.uri}>"),
            *(headers or []),
        ]
        self._send(build(f"{method} {self._remote_uri} SIP/2.0", lines, body))

    def _answer(self, code: int, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Answer the INVITE that came."""
        assert self._invite is not None
        self._is_decided = self._is_decided or code >= 200
        self._reply(self._invite, code, body, headers)

    def _reply(self, request: SipMessage, code: int, body: str = "", headers: Mapping[str, str] | None = None) -> bytes:
        to = request.header("to")
        if "tag=" not in to and code > 100:
            to += f";tag={self.tag}"
        lines = [
            *(("Via", via) for via in request.every("via")),
            *(("Record-Route", route) for route in request.every("record-route")),
            ("From", request.header("from")),
            ("To", to),
            ("Call-ID", request.header("call-id")),
            ("CSeq", request.header("cseq")),
            ("Contact", f"<{self.uri}>"),
            *(headers or {}).items(),
        ]
        if body:
            lines.append(("Content-Type", "application/sdp"))
        data = build(f"SIP/2.0 {code} {_reason(code)}", lines, body)
        self._send(data)
        return data

    def _read(self) -> None:
        while not self._closed:
            try:
                data, _ = self._socket.recvfrom(DATAGRAM)
            except TimeoutError:
                continue
            except OSError:
                return
            message = parse(data)
            if message is None:
                continue
            self._note("←", message.start)
            if self.mute:
                continue
            new = self._take_request(message) if message.is_request else self._take_response(message)
            if new:
                with self._change:
                    self._inbox.append(message)
                    self._change.notify_all()

    def _take_request(self, message: SipMessage) -> bool:
        """Answer what answers itself; False for a repetition."""
        key = (message.method, message.header("cseq"), message.header("via"))
        if key in self._answered:
            if self._answered[key]:
                self._send(self._answered[key])
            return False
        match message.method:
            case "INVITE" if self._invite is None and not self._branch:
                self._take_call(message)
                self._answered[key] = b""
            case "INVITE" | "UPDATE":
                if message == self._invite:
                    return False
                code = self.on.get(message.method, 200)
                body = self._sdp() if message.body and code == 200 else ""
                self._answered[key] = self._reply(message, code, body)
            case "ACK":
                pass
            case "CANCEL":
                self._answered[key] = self._reply(message, 200)
                if not self.stubborn and not self._is_decided:
                    self._answer(487)
            case "BYE":
                self.over_s = self.over_s or time.monotonic()
                self._answered[key] = self._reply(message, 200)
            case _:
                self._answered[key] = self._reply(message, 200)
        return True

    def _take_call(self, message: SipMessage) -> None:
        self._invite = message
        self.call_id = message.header("call-id")
        self.remote_tag = tag_of(message.header("from"))
        self._local_header = f"{message.header('to')};tag={self.tag}"
        self._remote_header = message.header("from")
        self._remote_uri = uri_of(message.header("contact"))
        self.media.peer = media_address(message.body)

    def _take_response(self, message: SipMessage) -> bool:
        """Acknowledge what wants it; False for a repetition."""
        if message.method != "INVITE":
            return True
        if tag := tag_of(message.header("to")):
            self.remote_tag = tag
        if message.body and (peer := media_address(message.body)):
            self.media.peer = peer
        if message.code < 200:
            return True
        self.heard = message.code
        repeated = self._answered.get(("final", message.header("cseq"), tag))
        if message.code < 300:
            self.up_s = self.up_s or time.monotonic()
            if contact := message.header("contact"):
                self._remote_uri = uri_of(contact)
        if self.acks:
            branch = _branch() if message.code < 300 else self._branch
            self._request("ACK", branch, int(message.header("cseq").split()[0]))
        self._answered[("final", message.header("cseq"), tag)] = b"ACK"
        return repeated is None


def _branch() -> str:
    return f"z9hG4bK{random.randrange(1 << 60):x}"


def _reason(code: int) -> str:
    return {180: "Ringing", 183: "Session Progress", 200: "OK", 302: "Moved Temporarily", 486: "Busy Here"}.get(
        code, "Said"
    )
