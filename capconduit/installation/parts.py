"""How our files live beside an operator's own: what of ours is left out where theirs has it, and the include line.

Pure: texts in, texts out. Sources: Asterisk main/config.c (sections, `(+)`, includes, comments), res_sorcery_config.c
(one object twice, and the whole pjsip.conf is refused).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.errors import Refused
from capconduit.render.files import BY_NAME, INCLUDE_DIR

DIRECTORY: Final = INCLUDE_DIR  # below Asterisk's configuration directory: our files that are in force
MARK: Final = "; added by capconduit install"
RENDERED_HEADER: Final = "; Rendered by `capconduit render`"  # _header.j2

_SECTION: Final = re.compile(r"^[ \t]*\[([^\]\r\n]+)\][ \t]*(\([^)\r\n]*\))?", re.MULTILINE)
_INCLUDE: Final = re.compile(r"^[ \t]*#[ \t]*(?:try)?include[ \t]+(.*?)[ \t]*(?:(?<!\\);.*)?$", re.MULTILINE)
_OPTION: Final = re.compile(r"^[ \t]*([A-Za-z_][\w-]*)[ \t]*=>?[ \t]*(.*?)[ \t]*(?:(?<!\\);.*)?$", re.MULTILINE)
_BLOCK_COMMENT: Final = re.compile(r";--(?!-).*?--;", re.DOTALL)
_OBJECTS_OF_ALL: Final = frozenset({"global", "system", "transport"})  # pjsip.conf: for the whole Asterisk

# What we need in a section that is theirs: durations come from the times of AMI's events, see docs/dialplan.md.
NEEDED_OF_THEIRS: Final[Mapping[str, tuple[str, ...]]] = {"manager.conf": ("timestampevents",)}


@dataclass(frozen=True, slots=True)
class Section:
    """One `[name](modifiers)` with the lines that follow it."""

    name: str
    modifiers: str
    text: str

    def option(self, name: str) -> str:
        """The value of the first line `name = value`; empty without one."""
        return next((value for key, value in _OPTION.findall(self.text) if key == name), "")

    @property
    def kind(self) -> tuple[str, ...]:
        """What pjsip.conf can have one of: its type; of a transport with the protocol and port it listens at."""
        of_type = self.option("type")
        if of_type != "transport":
            return (of_type,)
        port = self.option("bind").rpartition("]")[2].rpartition(":")[2]
        return of_type, self.option("protocol") or "udp", port if port.isdigit() else "5060"


def split(text: str) -> tuple[str, list[Section]]:
    """What stands before the first section, and the sections. Comments just above a section belong to it."""
    heads = list(_SECTION.finditer(text))
    if not heads:
        return text, []
    starts = [_with_comments(text, head.start()) for head in heads]
    ends = [*starts[1:], len(text)]
    sections = [
        Section(head[1].strip(), head[2] or "", text[start:end])
        for head, start, end in zip(heads, starts, ends, strict=True)
    ]
    return text[: starts[0]], sections


def _with_comments(text: str, start: int) -> int:
    """Where the comment lines that stand directly above `start` begin."""
    while start > 0:
        above = text.rfind("\n", 0, start - 1) + 1
        if not text[above:start].lstrip(" \t").startswith(";"):
            return start
        start = above
    return start


def sections_of(text: str) -> list[Section]:
    """The sections of an operator's file; commented-out blocks are none."""
    return split(_BLOCK_COMMENT.sub("", text))[1]


def includes_of(text: str) -> Iterator[str]:
    """What the file includes, ours left out: paths or patterns, relative to Asterisk's configuration directory."""
    for line in _INCLUDE.finditer(_BLOCK_COMMENT.sub("", text)):
        name = line[1].strip().strip('"<>').strip()
        if name and not name.startswith((f"{DIRECTORY}/", f"{DIRECTORY}.d/")):
            yield name


def fit(name: str, text: str, theirs: Sequence[Section]) -> str | None:
    """Our file beside `theirs`; None where all of it is the operator's business.

    A section that both have would be refused by Asterisk (pjsip.conf) or silently ignored (most others): what holds for
    the whole Asterisk is left to theirs, `[general]` gets only what we cannot do without. Raises Refused where
    something that must be ours, such as a trunk or an AMI user, is theirs already.
    """
    if not theirs:
        return text
    if name in BY_NAME and not BY_NAME[name].includable:
        return None
    head, ours = split(text)
    taken = {section.name.lower() for section in theirs}
    left_to_them = {section.kind for section in theirs if section.kind[0] in _OBJECTS_OF_ALL}
    dropped = [section.name for section in ours if section.kind in left_to_them]
    kept, ours_so_far = [head], set[str]()
    for section in ours:
        low = section.name.lower()
        if section.kind in left_to_them:
            continue
        if "+" in section.modifiers:
            there = low in taken or low in ours_so_far
            ours_so_far.add(low)
            kept.append(section.text if there else section.text.replace(section.modifiers, "", 1))
            continue
        if low in taken and low in ("general", "globals", "mappings"):
            kept += _beside(name, section)
            continue
        if low in taken:
            raise Refused(
                "section-taken",
                f"[{section.name}] is in {name} already, and is not ours",
                "give one of the two another name, or take theirs away",
            )
        ours_so_far.add(low)
        kept.append(_without_transports(section.text, dropped))
    return "".join(kept)


def _without_transports(text: str, names: Sequence[str]) -> str:
    """Without the lines that name one of these transports: Asterisk then takes the one that fits."""
    for name in names:
        text = re.sub(rf"^transport[ \t]*=[ \t]*{re.escape(name)}[ \t]*\n", "", text, flags=re.MULTILINE)
    return text


def _beside(name: str, section: Section) -> list[str]:
    """What of a section is added to theirs of the same name."""
    if section.name.lower() == "mappings":
        return [section.text.replace(f"[{section.name}]", f"[{section.name}](+)", 1)]
    needed = NEEDED_OF_THEIRS.get(name, ())
    lines = [f"{key} = {value}\n" for key, value in _OPTION.findall(section.text) if key in needed]
    tail = "".join(f"{line}\n" for line in section.text.splitlines() if _INCLUDE.match(line))
    return [f"[{section.name}](+)\n{''.join(lines)}\n" if lines else "", tail]


def include_line(name: str) -> str:
    """The one line in the operator's file. `#tryinclude`: what is not there (yet, or any more) is no error."""
    return f"#tryinclude {DIRECTORY}/{name} {MARK}\n"


def has_include(text: str, name: str) -> bool:
    """Whether the line is there, however the operator has moved or indented it."""
    return any(line[1].strip().strip('"<>').strip() == f"{DIRECTORY}/{name}" for line in _INCLUDE.finditer(text))


def with_include(text: str, name: str) -> str:
    """`text` with our line at its end, once."""
    if has_include(text, name):
        return text
    gap = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{gap}{include_line(name)}"


def without_include(text: str, name: str) -> str:
    """`text` without the line that carries our mark; an include that somebody else wrote stays."""
    ours = include_line(name).strip()
    return "".join(line for line in text.splitlines(keepends=True) if line.strip() != ours)
