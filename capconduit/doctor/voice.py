"""Whether what answers for voice agents is configured, and answers: a frozen one holds callers in Asterisk."""

from __future__ import annotations

import os
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from capconduit.doctor.findings import Check, Fault, Finding, Matter, Severity, fine

if TYPE_CHECKING:
    from capconduit.doctor.scene import Scene

ANSWERS_S: Final = 1.0
NAMES_SHOWN: Final = 5
ANSWER_BYTES: Final = 512
PORTS: Final = {"ws": 80, "wss": 443}

UNCONFIGURED = Fault(
    "voice-unconfigured", Severity.WARNING, "calls to an agent go on to the next target, and so does the money"
)
UNREACHABLE = Fault(
    "voice-unreachable",
    Severity.WARNING,
    "calls to agents go on to the next target; a process that takes connections and says nothing holds their callers"
    " instead, because Asterisk waits for its handshake",
)


def judge_voice(targets: Sequence[str], url: str, trouble: str) -> Iterator[Finding]:
    """`targets` are those of kind agent by name, `trouble` why `url` does not answer, empty where it does."""
    shown = ", ".join(targets[:NAMES_SHOWN]) + (" …" if len(targets) > NAMES_SHOWN else "")
    if not targets:
        yield fine("no target is an agent")
    elif not url:
        yield UNCONFIGURED.found(
            f"voice.url is empty, and agents answer for {shown}",
            fix="capconduit config set voice.url ws://127.0.0.1:8765/media, then capconduit install",
        )
    elif trouble:
        yield UNREACHABLE.found(f"{url}: {trouble}; agents answer for {shown}", fix="start the voice agent, or again")
    else:
        yield fine(f"{url} answers")


def trouble_at(url: str, timeout_s: float = ANSWERS_S) -> str:
    """Why a WebSocket server does not answer as one; empty where it does, even if it refuses this connection."""
    place = urlsplit(url)
    try:
        answer = _shaken(place, timeout_s)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return "" if answer.startswith(b"HTTP/1.") else "what answers is no web server"


def _shaken(place: SplitResult, timeout_s: float) -> bytes:
    """What comes back for the opening of a WebSocket (RFC 6455, section 4.1). Raises OSError."""
    host, port = place.hostname or "", place.port or PORTS[place.scheme]
    opening = (
        f"GET {place.path or '/'} HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: media\r\n\r\n"
    )
    with socket.create_connection((host, port), timeout_s) as plain:
        if place.scheme == "ws":
            return _asked(plain, opening)
        with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as wrapped:
            return _asked(wrapped, opening)


def _asked(peer: socket.socket, opening: str) -> bytes:
    peer.sendall(opening.encode())
    return peer.recv(ANSWER_BYTES)


def _voice(scene: Scene) -> Iterable[Finding]:
    from capconduit.services.doctor import agent_targets

    targets, url = agent_targets(scene.office()), scene.config.voice.url
    return judge_voice(targets, url, trouble_at(url) if targets and url else "")


CHECKS: Final = (
    Check(
        "voice-agents",
        Matter.NETWORK,
        "what speaks for voice agents is configured and answers, where a target is an agent",
        (UNCONFIGURED, UNREACHABLE),
        _voice,
    ),
)
