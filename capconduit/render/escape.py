"""The one place that checks operator text before it enters a rendered Asterisk file, one function per place in a file.

Asterisk's configuration parser (main/config.c) and dialplan parser (main/app.c, main/pbx_variables.c) have no quoting
that survives every place, so unsafe text is *refused* (fail closed), never rewritten: a name that was silently changed
would point to another trunk. Each function returns `Checked`, and the engine puts nothing else into a file.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from capconduit.errors import UsageError

MAX_VALUE_CHARS: Final = 256

# Sections that have a meaning of their own in pjsip.conf, iax.conf, manager.conf or extensions.conf.
RESERVED_SECTIONS: Final = frozenset({"general", "global", "globals", "system", "default", "mappings", "guest"})
RESERVED_PREFIX: Final = "capconduit-"

_SECTION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}", re.ASCII)
_LABEL: Final = r"[A-Za-z0-9][A-Za-z0-9-]{0,62}"
_HOSTNAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)
_PATH: Final = re.compile(r"/[A-Za-z0-9/._+-]{1,255}", re.ASCII)
_WEBSOCKET_URL: Final = re.compile(
    r"wss?://(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\])(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]{0,200})?",
    re.ASCII,
)
_USER: Final = re.compile(r"[A-Za-z0-9+][A-Za-z0-9_.+-]{0,79}", re.ASCII)
_UNSAFE_IN_REGISTER: Final = "@:/?#, "
_UNSAFE_IN_VALUES: Final = (";", "[", "]", "=>", "${", "$[", "\\")

# Every character that the dialplan gives a meaning in an argument, an expression or a variable, and every control
# character: `{{ clean("CALLERID(name)") }}` replaces each by `_` when the call arrives. Written as \xNN because the
# argument parser would otherwise act on them; twice escaped because that parser eats one backslash.
UNSAFE_FROM_CALLERS: Final = "".join(chr(c) for c in (*range(1, 32), 127)) + "\"'\\,()[]{}$`|^"


class Checked(str):
    """Text that one of this module's functions has passed; the only text the engine renders."""

    __slots__ = ()


def _refuse(field: str, value: str, expected: str, *, secret: bool = False) -> UsageError:
    shown = "the value" if secret else repr(value)
    return UsageError(
        "unsafe-config-value", f"{field}: {shown} cannot stand in an Asterisk file", f"expected {expected}"
    )


def section(value: str, field: str) -> Checked:
    """A name between `[` and `]`, also usable in a dial string: letters, digits, `_ . -`, at most 64 characters.

    Raises UsageError on any other character and on names that Asterisk or our own templates give a meaning.
    """
    if not _SECTION.fullmatch(value):
        raise _refuse(field, value, "a name of letters, digits, '_', '.' and '-', starting with a letter or a digit")
    if value.lower() in RESERVED_SECTIONS or value.lower().startswith(RESERVED_PREFIX):
        raise _refuse(
            field, value, f"a name that is not one of {', '.join(sorted(RESERVED_SECTIONS))}, {RESERVED_PREFIX}…"
        )
    return Checked(value)


def ami_user(value: str, field: str) -> Checked:
    """A section of manager.conf: as `section`, and it may be called after us. Raises UsageError."""
    if not _SECTION.fullmatch(value) or value.lower() == "general":
        raise _refuse(field, value, "a name of letters, digits, '_', '.' and '-', other than general")
    return Checked(value)


def word(value: str, field: str) -> Checked:
    """A bare word that is safe as a dialplan argument: a context, a codec, a node name. Raises UsageError."""
    if not _WORD.fullmatch(value):
        raise _refuse(field, value, "a word of letters, digits, '_', '.' and '-', starting with a letter or a digit")
    return Checked(value)


def value(text: str, field: str, secret: bool = False) -> Checked:
    """The right side of `key = value` (main/config.c): printable, no `; [ ] => ${ $[ \\`, no blank at either end.

    With `secret` the text itself is not named in the UsageError.
    """
    if not 1 <= len(text) <= MAX_VALUE_CHARS or not text.isprintable() or text != text.strip():
        raise _refuse(
            field, text, f"1 to {MAX_VALUE_CHARS} printable characters, no blank at either end", secret=secret
        )
    for unsafe in _UNSAFE_IN_VALUES:
        if unsafe in text:
            raise _refuse(field, text, f"a value without {unsafe!r}", secret=secret)
    return Checked(text)


def path(text: str, field: str) -> Checked:
    """An absolute path of letters, digits and `/ . _ - +`. Raises UsageError."""
    if not _PATH.fullmatch(text):
        raise _refuse(field, text, "an absolute path of letters, digits, '/', '.', '_', '-' and '+'")
    return Checked(text)


def websocket_url(text: str, field: str) -> Checked:
    """`ws://host:port/path` or `wss://…`, without a user or a query. Raises UsageError."""
    if not _WEBSOCKET_URL.fullmatch(text):
        raise _refuse(field, text, "a URL like ws://127.0.0.1:8765/media")
    return Checked(text)


def user(text: str, field: str) -> Checked:
    """The user part of a SIP URI and the name in an IAX2 registration: no `@ : / ; ? &`. Raises UsageError."""
    if not _USER.fullmatch(text):
        raise _refuse(field, text, "letters, digits, '_', '.', '-' and '+', starting with a letter or a digit")
    return Checked(text)


def register_secret(text: str, field: str) -> Checked:
    """The secret inside of `register => user:secret@host:port` (channels/chan_iax2.c). Raises UsageError; the secret
    is not named."""
    for unsafe in _UNSAFE_IN_REGISTER:
        if unsafe in text:
            raise _refuse(field, text, f"a secret without {unsafe!r}, which IAX2 registrations use", secret=True)
    return value(text, field, secret=True)


def host(text: str, field: str) -> Checked:
    """A host name or an IP address; an IPv6 address comes back in brackets. Raises UsageError."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        if bare != text or not _HOSTNAME.fullmatch(text):
            raise _refuse(field, text, "a host name or an IP address") from None
        return Checked(text)
    return Checked(f"[{address}]" if address.version == 6 else str(address))


def listen(text: str, field: str) -> Checked:
    """`ADDRESS:PORT` to bind to; IPv6 in brackets. Raises UsageError."""
    address, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise _refuse(field, text, "ADDRESS:PORT with a port from 1 to 65535")
    return Checked(f"{host(address, field)}:{int(port)}")


def listen_host(text: str, field: str) -> Checked:
    """The address of `listen` alone, without brackets (iax.conf takes address and port apart)."""
    return Checked(listen(text, field).rpartition(":")[0].strip("[]"))


def listen_port(text: str, field: str) -> Checked:
    """The port of `listen` alone."""
    return Checked(listen(text, field).rpartition(":")[2])


def network(text: str, field: str) -> Checked:
    """An IP address or network in CIDR form, for permit and match lines. Raises UsageError."""
    try:
        return Checked(str(ipaddress.ip_network(text, strict=False)))
    except ValueError:
        raise _refuse(field, text, "an IP address or a network such as 192.0.2.0/24") from None


def host_or_network(text: str, field: str) -> Checked:
    """What PJSIP can match a sender by: a host name, an address, or a network. Raises UsageError."""
    return network(text, field) if "/" in text else host(text, field)


def clean(expression: str, keep: str = "") -> Checked:
    """A dialplan function that reads `expression` by its *name* and returns its value with every unsafe character
    replaced by `_` (funcs/func_strings.c REPLACE), but those in `keep`.

    By name, because a value that is substituted into a function's argument is parsed again: a caller named
    `x):1:2` would end the function early.
    """
    escaped = "".join(f"\\\\x{ord(character):02x}" for character in UNSAFE_FROM_CALLERS if character not in keep)
    return Checked(f"${{REPLACE({expression},{escaped},_)}}")


def clean_header(name: str) -> Checked:
    """`clean` of the first SIP header of that name (res_pjsip_header_funcs.c); empty where there is none."""
    return clean(f"PJSIP_HEADER(read,{word(name, 'SIP header name')})")
