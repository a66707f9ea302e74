"""Asks, by a target's kind, whether a call would find somebody there; nothing is changed by it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from capconduit.errors import UsageError
from capconduit.units import MS_PER_SECOND, format_span
from capconduit.vocab import TargetFault, TargetKind

if TYPE_CHECKING:
    from capconduit.asterisk.standing import Doors, Standing
    from capconduit.config import Config
    from capconduit.domain.model import Target

TIMEOUT_MS: Final = (100, 60_000)
# What to do about each fault.
NEXT: Final = {
    TargetFault.DNS: "look at the address, and at this machine's name servers; SRV records are not followed",
    TargetFault.REFUSED: "is it started, and is the port of the address right?",
    TargetFault.UNREACHABLE: "look at the network and the firewall, and whether it is started",
    TargetFault.TIMEOUT: "look at the address and the firewall; it may answer nobody but Asterisk's own machine",
    TargetFault.TRANSPORT: "place a call, or ask an endpoint of Asterisk's: give it one with qualify_frequency",
    TargetFault.UNKNOWN: "look at the address, and whether Asterisk has loaded your files in capconduit.d",
    TargetFault.CONTACT: "is the device registered? `asterisk -rx 'pjsip show contacts'` tells",
    TargetFault.UNCONFIGURED: "capconduit config set voice.url ws://127.0.0.1:8765/media, then capconduit install",
    TargetFault.VOICE: "start the voice agent, or again",
}


@dataclass(frozen=True, slots=True)
class Reached:
    """What a test found. `ok` is None where nobody can tell; `asked`: who was; `state`: Asterisk's own word."""

    ok: bool | None
    asked: str
    words: str
    fault: TargetFault | None = None
    state: str = ""
    status: int | None = None
    latency_ms: int | None = None


def check_timeout(timeout_ms: int) -> int:
    """How long a test may take. Raises UsageError."""
    low, high = TIMEOUT_MS
    if not low <= timeout_ms <= high:
        raise UsageError(
            "timeout-invalid", f"{timeout_ms} ms is no timeout", f"give {format_span(low)} to {format_span(high)}"
        )
    return timeout_ms


def reach(target: Target, config: Config, timeout_ms: int) -> Reached:
    """Ask whether somebody is there. Raises PeerError where Asterisk would have to be asked and cannot be."""
    timeout_s = timeout_ms / MS_PER_SECOND
    address = target.address
    match target.kind:
        case TargetKind.PJSIP if address.startswith(("sip:", "sips:")):
            return _by_options(address, timeout_s)
        case TargetKind.PJSIP:
            return _by_asterisk(_doors(config, timeout_s).endpoint(address.rpartition("@")[2]))
        case TargetKind.IAX2:
            return _by_asterisk(_doors(config, timeout_s).peer(address.partition("/")[0].partition(":")[0]))
        case TargetKind.EXTENSION:
            extension, _, context = address.partition("@")
            return _by_asterisk(_doors(config, timeout_s).extension(extension, context))
        case TargetKind.AGENT:
            return _by_handshake(config.voice.url, timeout_s)


def _by_options(uri: str, timeout_s: float) -> Reached:
    from capconduit.asterisk.options import options

    heard = options(uri, timeout_s)
    return Reached(
        None if heard.fault is TargetFault.TRANSPORT else heard.fault is None,
        heard.asked,
        heard.words,
        fault=heard.fault,
        status=heard.status,
        latency_ms=heard.latency_ms,
    )


def _by_asterisk(standing: Standing) -> Reached:
    return Reached(
        standing.well,
        "asterisk",
        standing.words,
        fault=standing.fault,
        state=standing.state,
        latency_ms=standing.latency_ms,
    )


def _by_handshake(url: str, timeout_s: float) -> Reached:
    from capconduit.doctor.voice import trouble_at

    if not url:
        words = "voice.url is not configured: calls go on to the next target"
        return Reached(False, "", words, fault=TargetFault.UNCONFIGURED)
    if trouble := trouble_at(url, timeout_s):
        return Reached(False, url, f"{url}: {trouble}", fault=TargetFault.VOICE)
    return Reached(True, url, f"{url} answers")


def _doors(config: Config, timeout_s: float) -> Doors:
    """The ways into the Asterisk of the configuration. Raises ConfigError where AMI's secret is not readable."""
    from capconduit.asterisk.console import Console
    from capconduit.asterisk.manager import Manager
    from capconduit.asterisk.standing import Doors
    from capconduit.config import resolve_secret

    ami, main_config = config.ami, config.asterisk.main_config
    manager = None
    if ami.host and ami.secret:
        manager = Manager(ami.host, ami.port, ami.username, resolve_secret(ami.secret, os.environ), timeout_s)
    return Doors(manager, Console(config.asterisk.program, Path(main_config) if main_config else None, timeout_s))
