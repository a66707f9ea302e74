"""The keys of [voice]: where Asterisk reaches the process that speaks for agents."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from capconduit import config_rules as rules
from capconduit.config_keys import key
from capconduit.config_rules import Invalid, Value

_URL = re.compile(
    r"wss?://(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:]{2,45}\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?"
)


def _websocket_url(value: Value) -> None:
    """Nothing that Asterisk would read as more than an address: no user, no query (the call is added there)."""
    url = str(value)
    if not url:
        return
    try:
        good = _URL.fullmatch(url) is not None and urlsplit(url).port != 0
    except ValueError:  # a port that is none
        good = False
    if not good:
        raise Invalid("is no address of a WebSocket server", "write it like ws://127.0.0.1:8765/media")


@dataclass(frozen=True)
class VoiceConfig:
    """Where targets of kind agent are answered."""

    url: str = key(
        "",
        "Where Asterisk reaches the process that speaks for agents: ws://host:port/path, or wss:// on another machine."
        " Needs Asterisk 20.18, 22.8, 23.2 or newer. Run `capconduit render` after a change.",
        _websocket_url,
        empty="there is none, and calls to agents go on to the next target",
    )
    connect_timeout_ms: int = key(
        500,
        "How long Asterisk waits for a connection there (milliseconds) before a call goes on to the next target.",
        rules.between(50, 10_000),
    )
