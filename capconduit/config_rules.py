"""The rules that values of the configuration keep; each says what is wrong and how to write it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from typing import Final

from capconduit.errors import ConfigError
from capconduit.vocab import CODECS

Value = str | int

MAX_PORT: Final = 65_535
MIN_RTP_PORT: Final = 1_024
MAX_SOCKET_PATH_BYTES: Final = 107  # sun_path of unix(7) is 108 bytes with the final zero

_NODE_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")
_CONTEXT = re.compile(r"[A-Za-z0-9_-]{1,79}")  # AST_MAX_CONTEXT is 80 with the final zero (asterisk/channel.h)
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_SECTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PORT_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})", re.ASCII)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Invalid(Exception):
    """A value breaks its key's rule; carries the reason and the form that is expected."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:4573`, `[::1]:4573` or `name:4573`; port 0 lets the system choose.

    Raises ConfigError.
    """
    try:
        return _split_listen(text)
    except Invalid as bad:
        raise ConfigError("config-value-invalid", f"{text!r} {bad.reason}", bad.hint) from None


def _split_listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    good = bool(colon) and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= MAX_PORT
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        good = good and _is_ipv6(host)
    else:
        good = good and _HOST.fullmatch(host) is not None
    if not good:
        raise Invalid("is not HOST:PORT", "write it like 127.0.0.1:4573, 0.0.0.0:4573 or [::1]:4573")
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    import ipaddress  # only needed here, and slow to import

    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def listen(value: Value) -> None:
    _split_listen(str(value))


def listen_or_off(value: Value) -> None:
    if value:
        listen(value)


def host_or_off(value: Value) -> None:
    if value and not (_HOST.fullmatch(str(value)) or _is_ipv6(str(value))):
        raise Invalid("is not a host name or address", "write it like 127.0.0.1 or pbx.example.net, or leave it empty")


def between(lowest: int, highest: int) -> Callable[[Value], None]:
    def check(value: Value) -> None:
        if not lowest <= int(value) <= highest:
            raise Invalid(f"is not between {lowest} and {highest}", f"choose a number from {lowest} to {highest}")

    return check


def one_of(*words: str) -> Callable[[Value], None]:
    def check(value: Value) -> None:
        if value not in words:
            near = did_you_mean(str(value), words)
            raise Invalid(f"is not one of {', '.join(words)}", near or f"choose {' or '.join(words)}")

    return check


def database_url(value: Value) -> None:
    url = str(value)
    expected = "write it like sqlite:///var/lib/capconduit/capconduit.sqlite or postgresql://user@host/name"
    if not url or url.startswith("postgresql://"):
        return
    if url.startswith("postgres://"):
        raise Invalid("begins with postgres://", "write postgresql:// instead")
    if not url.startswith("sqlite:"):
        raise Invalid("is neither a sqlite nor a postgresql URL", expected)
    path = url.removeprefix("sqlite://")
    if path == url or not path.startswith("/") or path.endswith("/") or set(path) & set("?#"):
        raise Invalid("does not name an absolute file", expected)


def socket_path(value: Value) -> None:
    path = str(value)
    if path and not path.startswith("/"):
        raise Invalid("is not an absolute path", "write it like /run/capconduit/control.sock")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise Invalid(f"is longer than {MAX_SOCKET_PATH_BYTES} bytes", "choose a shorter path for the socket")


def directory(value: Value) -> None:
    if not str(value).startswith("/"):
        raise Invalid("is not an absolute path", "write it like /etc/asterisk")


def directory_or_none(value: Value) -> None:
    if value:
        directory(value)


def absolute_file(value: Value) -> None:
    path = str(value)
    if path and (not path.startswith("/") or path.endswith("/")):
        raise Invalid("does not name an absolute file", "write it like /etc/asterisk/keys/sip.pem")


def section_or_none(value: Value) -> None:
    if value and not _SECTION.fullmatch(str(value)):
        raise Invalid("is not the name of a section", "use up to 64 letters, digits, '.', - and _, or leave it empty")


def networks(value: Value) -> None:
    import ipaddress  # only needed here, and slow to import

    for network in filter(None, str(value).split(",")):
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise Invalid(f"has {network!r}, which is no network", "write it like 10.0.0.0/8,192.168.0.0/16") from None


def parse_port_range(text: str) -> tuple[int, int]:
    """First and last port of `10000-20000`, both inclusive. Raises Invalid."""
    match = _PORT_RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not MIN_RTP_PORT <= first < last <= MAX_PORT:
        raise Invalid("is no range of ports", f"write it like 10000-20000, within {MIN_RTP_PORT} to {MAX_PORT}")
    return first, last


def port_range_or_none(value: Value) -> None:
    if value:
        parse_port_range(str(value))


def zero_or_between(lowest: int, highest: int) -> Callable[[Value], None]:
    def check(value: Value) -> None:
        if value and not lowest <= int(value) <= highest:
            raise Invalid(f"is neither 0 nor between {lowest} and {highest}", f"choose 0 or {lowest} to {highest}")

    return check


def codecs(value: Value) -> None:
    names = str(value).split(",")
    for name in names:
        if name not in CODECS:
            near = did_you_mean(name, tuple(sorted(CODECS)))
            raise Invalid(f"has {name!r}, which is no codec", near or "write it like ulaw,alaw")
    if len(set(names)) != len(names):
        raise Invalid("names a codec twice", "name each codec once")


def node_name(value: Value) -> None:
    if value and not _NODE_NAME.fullmatch(str(value)):
        raise Invalid("is not a node name", "use up to 32 letters, digits, - and _")


def dialplan_context(value: Value) -> None:
    if value and not _CONTEXT.fullmatch(str(value)):
        raise Invalid("is not a dialplan context", "use up to 79 letters, digits, - and _, or leave it empty")


def header_name(value: Value) -> None:
    """The name of a SIP header (RFC 3261, 25.1), as far as a dialplan carries it."""
    if not _HEADER.fullmatch(str(value)):
        raise Invalid("is no name of a SIP header", "write it like X-Verstat")


def secret_reference(value: Value) -> None:
    text = str(value)
    kind, _, rest = text.partition(":")
    if not text or (kind == "env" and _ENV_NAME.fullmatch(rest)) or (kind == "file" and rest.startswith("/")):
        return
    raise Invalid(
        "holds something that is not a reference to a secret",
        "secrets do not belong here: put it into a file and write file:/absolute/path, or write env:NAME",
    )


def did_you_mean(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"did you mean {near[0]!r}?" if near else ""
