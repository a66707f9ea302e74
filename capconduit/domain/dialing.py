"""A target's address as app_dial wants it, and the check that an address can be dialled safely."""

from __future__ import annotations

import re
from typing import Final

from capconduit.domain.model import Target
from capconduit.errors import UsageError
from capconduit.vocab import TargetKind

OUTBOUND_ENDPOINT: Final = "capconduit-out"  # the one endpoint that plain SIP URIs are dialled through

OWN_CONTEXTS: Final = "capconduit-"

VOICE_CONNECTION: Final = "capconduit-voice"  # the section of websocket_client.conf that leads to the voice agent
# Where the call and the number of its attempt go; never shorter than those are: the length of dial strings is bounded.
_CALL_PLACE: Final = "call______________________-attempt"
# chan_websocket: u-law, no answer before the voice agent says so, commands as JSON, one parameter added to the URI.
_AGENT_DIAL: Final = f"WebSocket/{VOICE_CONNECTION}/c(ulaw)f(json)nv(t={_CALL_PLACE})"

# Nothing here has a meaning to the dialplan: no comma, ampersand, parenthesis, quote, dollar or blank.
_HOST: Final = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.\-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_USER: Final = r"[A-Za-z0-9_+*#.\-]{1,64}"
_FORMS: Final = {
    TargetKind.PJSIP: (
        re.compile(rf"^(?:sips?:{_USER}@{_HOST}(?:;transport=(?:udp|tcp|tls))?|(?:{_USER}@)?[A-Za-z0-9_.\-]{{1,64}})$"),
        "sip:user@host:5060, number@endpoint or endpoint",
    ),
    TargetKind.IAX2: (
        re.compile(rf"^[A-Za-z0-9_.\-]{{1,64}}(?::[0-9]{{1,5}})?(?:/{_USER})?$"),
        "peer/number or host/number",
    ),
    TargetKind.EXTENSION: (re.compile(rf"^{_USER}@[A-Za-z0-9_.\-]{{1,79}}$"), "extension@context"),
}


def check_address(kind: TargetKind, address: str) -> str:
    """The address, if it has the form of its kind. Raises UsageError naming the form."""
    if kind is TargetKind.AGENT:
        if address:
            raise UsageError("address-invalid", f"an agent has no address like {address!r}", "name it by --agent NAME")
        return address
    pattern, form = _FORMS[kind]
    if not address:
        raise UsageError("address-missing", f"a target of kind {kind} needs an address", f"add --address, like {form}")
    if not pattern.fullmatch(address):
        raise UsageError("address-invalid", f"{address!r} is no {kind} address", f"write it like {form}")
    if kind is TargetKind.EXTENSION and address.partition("@")[2].lower().startswith(OWN_CONTEXTS):
        raise UsageError("address-invalid", f"{address!r} leads back to our own dialplan", "name a context of your own")
    return address


def dial_string(target: Target) -> str:
    """What app_dial is given for `target` (Asterisk apps/app_dial.c: Technology/resource)."""
    match target.kind:
        case TargetKind.PJSIP if target.address.startswith(("sip:", "sips:")):
            return f"PJSIP/{OUTBOUND_ENDPOINT}/{target.address}"
        case TargetKind.PJSIP:
            return f"PJSIP/{target.address}"
        case TargetKind.IAX2:
            return f"IAX2/{target.address}"
        case TargetKind.EXTENSION:
            return f"Local/{target.address}/n"
        case TargetKind.AGENT:
            return _AGENT_DIAL


def dial_of_attempt(dial: str, call_id: str, number: int) -> str:
    """What is dialled for one attempt: the voice agent is told which one it is, in the parameter `t` of the URI.

    That names the attempt; it proves nothing. Other dial strings stay as they are.
    """
    return dial.replace(_CALL_PLACE, f"{call_id}-{number}", 1) if dial.startswith("WebSocket/") else dial


_TOLD: Final = str.maketrans("(),", "___")


def as_told(dial: str) -> str:
    """A dial string as the dialplan tells of it at the end of a call, where unsafe characters are replaced."""
    return dial.translate(_TOLD)
