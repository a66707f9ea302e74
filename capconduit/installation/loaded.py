"""What Asterisk says it has loaded, compared with what was rendered. Pure: texts and AMI events in, differences out.

Sources: Asterisk pbx/pbx_config.c (`exten`, `same`, priorities, labels), main/manager.c and main/pbx.c (ShowDialPlan,
`dialplan show`), res_pjsip/pjsip_cli.c (`pjsip show`), main/manager.c (`manager show user`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from capconduit.installation.parts import Section, sections_of

_EXTEN: Final = re.compile(r"^[ \t]*exten[ \t]*=>?[ \t]*([^,]+),(.*)$")
_SAME: Final = re.compile(r"^[ \t]*same[ \t]*=>?[ \t]*(.*)$")
_PRIORITY: Final = re.compile(r"^[ \t]*(n|s|[0-9]+)(?:\+([0-9]+))?[ \t]*(?:\(([^)]*)\))?[ \t]*,[ \t]*(.*)$")
_OTHER: Final = re.compile(r"^[ \t]*(include|switch|eswitch|lswitch|ignorepat)[ \t]*=>?[ \t]*(.*?)[ \t]*$")
_COMMENT: Final = re.compile(r"(?<!\\);.*$")

UNKNOWN: Final = "?"  # a word that Asterisk shows as another one

Step = tuple[str, str]  # the application and its argument


@dataclass(frozen=True, slots=True)
class Priority:
    """One step of an extension."""

    label: str
    application: str
    argument: str


Dialplan = dict[tuple[str, int], Priority]  # by extension and number


def rendered_dialplan(section: Section) -> tuple[Dialplan, list[str]]:
    """The priorities of a context as we wrote it, and its lines that are none and that Asterisk would drop."""
    found: Dialplan = {}
    odd: list[str] = []
    extension, last = "", 0
    for line in section.text.splitlines():
        text = _COMMENT.sub("", line).rstrip()
        if not text.strip() or text.lstrip().startswith(("[", "#")) or _OTHER.match(text):
            continue
        if head := _EXTEN.match(text):
            extension, rest = head[1].strip(), head[2]
        elif same := _SAME.match(text):
            rest = same[1]
        else:
            odd.append(line.strip())
            continue
        step = _PRIORITY.match(rest)
        if step is None or not extension:
            odd.append(line.strip())
            continue
        number = _number(step[1], int(step[2] or 0), last)
        application, argument = _application(step[4])
        found[extension, number] = Priority((step[3] or "").strip(), application, argument)
        last = number
    return found, odd


def _number(word: str, plus: int, last: int) -> int:
    if word == "n":
        return last + 1 + plus
    return (last if word == "s" else int(word)) + plus


def _application(text: str) -> Step:
    """`App(argument)`: the argument reaches to the last bracket (pbx_config.c)."""
    name, bracket, rest = text.strip().partition("(")
    if not bracket:
        return name.strip(), ""
    return name.strip(), _unescaped(rest[: rest.rindex(")")] if ")" in rest else rest)


def _unescaped(text: str) -> str:
    return text.replace("\\;", ";")


def loaded_dialplan(events: Iterable[Mapping[str, str]]) -> Dialplan:
    """The priorities that ShowDialPlan told of one context."""
    return {
        (event["Extension"], int(event["Priority"])): Priority(
            event.get("ExtensionLabel", ""), event.get("Application", ""), event.get("AppData", "")
        )
        for event in events
        if event.get("Extension") and event.get("Priority", "").isdigit()
    }


_SHOWN: Final = re.compile(
    r"^  (?:'(?P<extension>[^']+)' =>)?[ \t]*(?:\[(?P<label>[^\]]*)\])?[ \t]+(?P<number>[0-9]+)\. (?P<step>.*)$"
)
_REGISTRAR: Final = re.compile(r"[ \t]+\[[^\[\]]*\]$")


def shown_dialplan(text: str) -> Dialplan:
    """The priorities that `dialplan show CONTEXT` prints; long arguments are cut by Asterisk itself."""
    found: Dialplan = {}
    extension = ""
    for line in text.splitlines():
        match = _SHOWN.match(line)
        if match is None:
            continue
        extension = match["extension"] or extension
        application, argument = _application(_REGISTRAR.sub("", match["step"]))
        found[extension, int(match["number"])] = Priority(match["label"] or "", application, argument)
    return found


def dialplan_differences(context: str, ours: Dialplan, theirs: Dialplan, *, cut_at: int = 0) -> list[str]:
    """What of `ours` Asterisk has not, or has otherwise. With `cut_at`, arguments are compared so far.

    What it has besides is not told: an operator may add extensions of own to a context.
    """
    found = []
    for (extension, number), wanted in ours.items():
        where = f"{context},{extension},{number}"
        has = theirs.get((extension, number))
        if has is None:
            found.append(f"{where} is not in Asterisk's dialplan")
        elif not _same(wanted, has, cut_at):
            found.append(f"{where} is {has.application}({_short(has.argument)}) in Asterisk's dialplan")
    return found


def _same(ours: Priority, theirs: Priority, cut_at: int) -> bool:
    if (ours.label, ours.application.lower()) != (theirs.label, theirs.application.lower()):
        return False
    if cut_at:
        return ours.argument[:cut_at] == theirs.argument[:cut_at]
    return ours.argument == theirs.argument


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


# PJSIP --------------------------------------------------------------------------------------------------------------

# Types of pjsip.conf that the console shows one by one. An object that Asterisk refuses on a reload stays as it was, so
# each option counts: its name must be known, and what we write ourselves must come back as written (yes for true).
SHOWN_TYPES: Final = ("endpoint", "aor", "auth", "identify", "registration", "transport")
MODULE_OF: Final[Mapping[str, str]] = {
    "registration": "res_pjsip_outbound_registration.so",
    "identify": "res_pjsip_endpoint_identifier_ip.so",
}
MISSING: Final = "is not in Asterisk"
# Known, and not among what is shown.
HIDDEN_OPTIONS: Final = frozenset(
    {"type", "disallow", "permit", "deny", "contact_permit", "contact_deny", "local_net", "async_operations"}
)
# Shown in other words than they are written in.
OTHER_WORDS: Final = frozenset(
    {
        "identify_by", "callerid", "dtls_verify", "local_net", "tos", "tos_audio", "tos_video", "cipher", "method",
        "redirect_method", "set_var", "bind",
    }
)  # fmt: skip
_ROW: Final = re.compile(r"^ ([a-z0-9_]+) +: ?(.*?) *$", re.MULTILINE)


def shown_options(text: str) -> dict[str, list[str]]:
    """The `ParameterName : ParameterValue` rows of `pjsip show …`; empty where it shows no such object."""
    found: dict[str, list[str]] = {}
    _, title, rows = text.partition("ParameterName")
    for name, value in _ROW.findall(rows) if title else ():
        found.setdefault(name, []).append(value)
    return found


def options_of(section: Section) -> dict[str, list[str]]:
    """The options of a section as we wrote it, in order."""
    found: dict[str, list[str]] = {}
    for line in section.text.splitlines():
        name, equals, value = _COMMENT.sub("", line).partition("=")
        if equals and not line.lstrip().startswith(("[", "#")):
            found.setdefault(name.strip().lower(), []).append(_unescaped(value.removeprefix(">").strip()))
    return found


def object_differences(section: Section, text: str) -> list[str]:
    """What of an object of pjsip.conf Asterisk has not, or has otherwise. Secrets are not named."""
    kind = section.option("type")
    where = f"pjsip {kind} {section.name}"
    shown = shown_options(text)
    if not shown:
        without = f": {MODULE_OF[kind]} does not run" if kind in MODULE_OF and "No such command" in text else ""
        return [f"{where} {MISSING}{without}"]
    found = []
    for option, values in options_of(section).items():
        if option in HIDDEN_OPTIONS:
            continue
        if option not in shown:
            found.append(f"{where}: Asterisk does not know the option {option}")
        elif option not in OTHER_WORDS and _differ(_words(option, values), _words(option, shown[option])):
            told = "another" if option == "password" else ", ".join(shown[option]) or "empty"
            found.append(f"{where}: {option} is {told} in Asterisk")
    return found


def _differ(ours: list[str], theirs: list[str]) -> bool:
    """Whether they differ, as far as it can be told."""
    return ours != theirs and UNKNOWN not in ours


def _words(option: str, values: Iterable[str]) -> list[str]:
    """Values in one form, whoever wrote them."""
    values = list(values)
    if option == "allow":
        return [word for value in values for word in re.split(r"[,|]", value.strip("()!")) if word]
    if option == "match":
        return sorted(_network(word) for value in values for word in value.split(","))
    if option in ("password", "username", "contact", "server_uri", "client_uri"):
        return values
    single = values[-1].lower()
    return [
        "yes" if single in ("yes", "true", "on", "1") else "no" if single in ("no", "false", "off", "0") else single
    ]


def _network(text: str) -> str:
    """`10.0.0.1` is `10.0.0.1/255.255.255.255`; a host name shows as what it resolves to, which is not known here."""
    try:
        return str(ipaddress.ip_network(text.strip(), strict=False))
    except ValueError:
        return UNKNOWN


# AMI and IAX2 -------------------------------------------------------------------------------------------------------

USER_OPTIONS: Final = frozenset(
    {
        "secret", "deny", "permit", "acl", "read", "write", "writetimeout", "eventfilter", "displayconnects",
        "allowmultiplelogin", "setvar",
    }
)  # fmt: skip
_FIELD: Final = re.compile(r"^ *([A-Za-z][\w >-]*?) *: (.*?) *$", re.MULTILINE)


def shown_fields(text: str) -> dict[str, str]:
    """`name: value` lines of `manager show user` and `iax2 show peer`."""
    return {name.lower(): value for name, value in _FIELD.findall(text)}


def user_differences(section: Section, text: str) -> list[str]:
    """What of an AMI user Asterisk has not, or has otherwise. Its secret shows when somebody logs in."""
    shown = shown_fields(text)
    where = f"AMI user {section.name}"
    if shown.get("username") != section.name:
        return [f"{where} is not in Asterisk"]
    ours = options_of(section)
    odd = [name for name in ours if name.partition("(")[0] not in USER_OPTIONS]
    found = [f"{where}: Asterisk does not know the option {name}" for name in odd]
    for option in ("read", "write"):
        has = shown.get(f"{option} perm", "")
        # Without a line there is no right; but a reload keeps what was there before.
        if _rights(",".join(ours.get(option, [""])[-1:])) != _rights(has):
            found.append(f"{where}: {option} is {has or 'empty'} in Asterisk")
    return found


def _rights(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()} - {"<none>"}


def peer_differences(section: Section, text: str) -> list[str]:
    """What of an IAX2 peer Asterisk has not, or has otherwise."""
    shown = shown_fields(text)
    where = f"iax2 peer {section.name}"
    if shown.get("* name", shown.get("name")) != section.name and f"* Name       : {section.name}" not in text:
        return [f"{where} is not in Asterisk"]
    context = options_of(section).get("context", [""])[-1]
    if context and shown.get("context") != context:
        return [f"{where}: its context is {shown.get('context')} in Asterisk"]
    return []


def contexts_of(text: str) -> list[Section]:
    """The contexts of a rendered extensions.conf."""
    return [s for s in sections_of(text) if s.name not in ("general", "globals")]
