"""How an endpoint, an IAX2 peer or an extension stands with the Asterisk in force, over AMI or else its console.

`PJSIPShowEndpoint` wants AMI's right `system`, which our own user has no other use for: where it is denied, the console
is asked. `IAXpeerlist` (IAXpeers forgets the ActionID) and `ShowDialPlan` go with `reporting`, which it has.
The outside dependency is Asterisk. **Fails closed**: where neither door opens, that is a PeerError, not an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from capconduit.asterisk.ami_codec import AmiRefused
from capconduit.asterisk.console import Console
from capconduit.asterisk.manager import Manager
from capconduit.errors import PeerError
from capconduit.vocab import TargetFault

Row = Mapping[str, str]
Answer = TypeVar("Answer")
CONTACTS_SHOWN: Final = 3
_DENIED: Final = "Permission denied"
_REACHABLE: Final = frozenset({"Reachable", "Avail"})
_UNREACHABLE: Final = frozenset({"Unreachable", "Unavail"})
_CONTACT: Final = re.compile(r"^\s+Contact:\s+[^/\s<]+/(\S+)\s+\S+\s+(Avail|Unavail|NonQual|Unknown)\s+(\S+)\s*$", re.M)
_PEER_STATUS: Final = re.compile(r"^\s+Status\s+:\s*(.*?)\s*$", re.M)
_PEER_RTT: Final = re.compile(r"\((\d+) ms\)")


@dataclass(frozen=True, slots=True)
class Standing:
    """What Asterisk says. `well` is None where it does not know; `state` is its own word."""

    well: bool | None
    state: str
    words: str
    fault: TargetFault | None = None
    latency_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Contact:
    """Where calls to an endpoint go, in what state Asterisk has it, and how long it took to answer."""

    uri: str
    status: str
    latency_ms: int | None


# --- judging ----------------------------------------------------------------------------------------------------------


def contacts_of(rows: Iterable[Row]) -> list[Contact]:
    """Those of the events of PJSIPShowEndpoint."""
    return [
        Contact(row.get("URI", ""), row.get("Status", ""), _whole_ms(row.get("RoundtripUsec", ""), per_ms=1000))
        for row in rows
        if row.get("Event") == "ContactStatusDetail"
    ]


def contacts_shown(text: str) -> list[Contact]:
    """Those of `pjsip show endpoint`."""
    return [Contact(uri, status, _whole_ms(rtt, per_ms=1)) for uri, status, rtt in _CONTACT.findall(text)]


def _whole_ms(text: str, *, per_ms: int) -> int | None:
    """Whole milliseconds, rounded up so that what was quick is not 0; None for `N/A` and `nan`."""
    if not re.fullmatch(r"\d+(?:\.\d+)?", text):
        return None
    whole, _, rest = text.partition(".")
    return -(-int(whole) // per_ms) + (1 if rest.strip("0") and per_ms == 1 else 0)


def judge_endpoint(name: str, contacts: Iterable[Contact]) -> Standing:
    """One contact that answers is enough; without any a call has nowhere to go."""
    known = list(contacts)
    if not known:
        words = f"endpoint {name} has no contact: nobody is registered there, and none is configured"
        return Standing(False, "", words, TargetFault.CONTACT)
    if good := [one for one in known if one.status in _REACHABLE]:
        return Standing(True, good[0].status, f"{good[0].uri} answers Asterisk", latency_ms=good[0].latency_ms)
    if all(one.status in _UNREACHABLE for one in known):
        uris = ", ".join(one.uri for one in known[:CONTACTS_SHOWN]) + (" …" if len(known) > CONTACTS_SHOWN else "")
        words = f"{uris}: no answer to the OPTIONS of Asterisk"
        return Standing(False, known[0].status, words, TargetFault.UNREACHABLE)
    unknown = next(one for one in known if one.status not in _UNREACHABLE)
    words = f"Asterisk does not know whether {unknown.uri} answers: its AOR has no qualify_frequency, or it is new"
    return Standing(None, unknown.status, words)


def judge_peer(name: str, status: str | None) -> Standing:
    """`status` as chan_iax2 writes it, None: there is no such peer."""
    if status is None and "." in name:
        words = f"Asterisk has no peer {name} and calls it as a host: nobody has asked whether it answers"
        return Standing(None, "", words)
    if status is None:
        return Standing(False, "", f"Asterisk has no IAX2 peer {name}", TargetFault.UNKNOWN)
    rtt = _PEER_RTT.search(status)
    latency_ms = int(rtt[1]) if rtt else None
    match status.split(" ")[0].upper():
        case "OK":
            return Standing(True, "OK", f"peer {name} answers Asterisk", latency_ms=latency_ms)
        case "LAGGED":
            return Standing(True, "LAGGED", f"peer {name} answers Asterisk, late", latency_ms=latency_ms)
        case "UNREACHABLE":
            return Standing(False, status, f"peer {name}: no answer to Asterisk", TargetFault.UNREACHABLE)
        case _:
            words = f"Asterisk does not know whether peer {name} answers: it has no qualify, or is new"
            return Standing(None, status, words)


def judge_extension(address: str, context: str) -> Standing:
    """`context` is the one the extension was found in, empty: in none."""
    if not context:
        words = f"the dialplan in force has no {address}"
        return Standing(False, "", words, TargetFault.UNKNOWN)
    return Standing(True, "", f"the dialplan in force has {address}, in {context}")


# --- asking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doors:
    """The ways into Asterisk: AMI (None: not configured), and the console."""

    manager: Manager | None
    console: Console

    def endpoint(self, name: str) -> Standing:
        """How a PJSIP endpoint stands. Raises PeerError."""

        def over_ami(manager: Manager) -> list[Contact] | None:
            try:
                return contacts_of(manager.action("PJSIPShowEndpoint", Endpoint=name).events)
            except AmiRefused as error:
                _demand_absence(error, "Unable to retrieve endpoint")
                return None

        def by_console(console: Console) -> list[Contact] | None:
            text = console.ask(f"pjsip show endpoint {name}")
            _demand(text, "Endpoint:", "Unable to find object")
            return None if "Unable to find object" in text else contacts_shown(text)

        contacts = self._asked(over_ami, by_console)
        if contacts is None:
            return Standing(False, "", f"Asterisk has no endpoint {name}", TargetFault.UNKNOWN)
        return judge_endpoint(name, contacts)

    def peer(self, name: str) -> Standing:
        """How an IAX2 peer stands. Raises PeerError."""

        def over_ami(manager: Manager) -> str | None:
            for row in manager.action("IAXpeerlist").events:
                if row.get("ObjectName", "").partition("/")[0] == name:
                    return row.get("PeerStatus") or row.get("Status", "")
            return None

        def by_console(console: Console) -> str | None:
            text = console.ask(f"iax2 show peer {name}")
            _demand(text, "* Name", "not found")
            found = _PEER_STATUS.search(text)
            return found[1] if found else None

        return judge_peer(name, self._asked(over_ami, by_console))

    def extension(self, extension: str, context: str) -> Standing:
        """Whether the dialplan in force has an extension, patterns and includes counted. Raises PeerError."""
        address = f"{extension}@{context}"

        def over_ami(manager: Manager) -> str:
            try:
                rows = manager.action("ShowDialPlan", Context=context, Extension=extension).events
            except AmiRefused as error:
                _demand_absence(error, "Did not find")
                return ""
            return next((row["Context"] for row in rows if row.get("Priority") and row.get("Context")), "")

        def by_console(console: Console) -> str:
            text = console.ask(f"dialplan show {address}")
            _demand(text, "ontext '", "no existence")
            found = re.search(r"\[ .*?ontext '([^']+)'", text)
            return found[1] if found else ""

        return judge_extension(address, self._asked(over_ami, by_console))

    def _asked(self, over_ami: Callable[[Manager], Answer], by_console: Callable[[Console], Answer]) -> Answer:
        """AMI's answer; where it is off or denies it, the console's."""
        if self.manager is not None:
            try:
                with self.manager as manager:
                    return over_ami(manager)
            except AmiRefused as error:
                if _DENIED not in error.message:
                    raise
        try:
            return by_console(self.console)
        except PeerError as error:
            why = "AMI is not configured" if self.manager is None else "AMI denies it"
            raise PeerError(
                "asterisk-not-asked",
                f"{why}, and the console: {error.message}",
                "set [ami] host and secret (endpoints want a user with write = system), or run this where Asterisk is",
            ) from None


def _demand_absence(error: AmiRefused, words: str) -> None:
    """Raises the refusal again, unless it says that there is no such thing."""
    if words.lower() not in error.message.lower():
        raise error


def _demand(text: str, *signs: str) -> None:
    """Raises PeerError where the console printed none of them: the module is not loaded."""
    if not any(sign in text for sign in signs):
        first = (text.strip().splitlines() or ["nothing"])[0][:200]
        raise PeerError("asterisk-answer", f"Asterisk's console says: {first}", "is the module loaded?")
