"""Comments of a TOML file: found by what they stand at, and put back at the same place of another text.

A place is a table or a key by its path, however it is quoted and spaced; a `[[block]]` is known by its pattern and
whose it is, not by its number. Comments within a list stand before its key afterwards. `#` within a text is none.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Place = tuple[str, ...]  # the path of a table or a key; of a block's: `[[block]]`, whose, pattern, key

_BLOCK: Final = "block"
_ARRAY: Final = "[[block]]"
_KEY_PART = re.compile(r"[ \t]*(?:([A-Za-z0-9_-]+)|(\"(?:\\.|[^\"\\])*\")|'([^']*)')[ \t]*(\.|=|\]|$)")
# What a value is made of: texts of the four kinds, a comment, a bracket, or anything else.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*|[\[{]|[\]}]|\n|[^"\'#\[{\]}\n]+|.',
    re.DOTALL,
)


@dataclass
class Comments:
    """Comments by their place: lines before it, and what follows on its line. `last`: those at the end of the file."""

    before: dict[Place, list[str]] = field(default_factory=dict)
    behind: dict[Place, str] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> Comments:
        """The comments of a file that is TOML; of another text, those that can be told from it."""
        found, waiting = cls(), list[str]()
        for statement in _statements(text):
            if statement.place is None:
                if statement.behind:
                    waiting.append(statement.behind)
                elif waiting and waiting[-1]:
                    waiting.append("")
                continue
            while waiting and not waiting[-1]:
                waiting.pop()
            if lines := [*waiting, *statement.within]:
                found.before.setdefault(statement.place, lines)
            waiting = []
            if statement.behind:
                found.behind.setdefault(statement.place, statement.behind)
        while waiting and not waiting[-1]:
            waiting.pop()
        found.last = waiting
        return found

    def put_into(self, text: str) -> str:
        """`text` with these comments at their places; those whose place is gone are gone."""
        lines: list[str] = []
        for statement in _statements(text):
            if statement.place is not None:
                lines.extend(self.before.get(statement.place, ()))
            behind = self.behind.get(statement.place) if statement.place is not None else None
            lines.append(f"{statement.text}  {behind}" if behind else statement.text)
        return "\n".join([*lines, *self.last]) + "\n"


@dataclass
class _Statement:
    """A header, or a key with its value, with the comment `behind` it and those `within` a value of several lines.

    `place` None: an empty line, or one with nothing but a comment.
    """

    place: Place | None
    text: str
    behind: str
    within: list[str]


def _statements(text: str) -> Iterator[_Statement]:
    """A file in its statements, in order."""
    at, blocks = 0, _blocks(text)
    header: Place = ()
    text = text.replace("\r\n", "\n").removesuffix("\n")
    while at <= len(text):
        whole, comments, end = _logical_line(text, at)
        stripped = whole.strip()
        place: Place | None = None
        if stripped.startswith("["):
            place = header = _header(stripped, blocks)
        elif stripped:
            place = (*header, *_path(stripped))
        # The comment behind a statement is its last, where it is on its last line.
        behind = comments.pop()[1] if comments and comments[-1][0] else ""
        yield _Statement(place, whole.rstrip(), behind, [line for _, line in comments])
        at = end + 1


def _logical_line(text: str, at: int) -> tuple[str, list[tuple[bool, str]], int]:
    """(a line without its comments and the lines that its texts and brackets go on over, its comments and whether each
    is on the last line, where it ends)."""
    parts: list[str] = []
    comments: list[tuple[bool, str]] = []
    depth = 0
    is_header = text[at : at + 80].lstrip(" \t").startswith("[")
    for match in _TOKEN.finditer(text, at):
        token = match[0]
        if token == "\n" and (depth <= 0 or is_header):
            return "".join(parts), comments, match.start()
        if token == "\n":
            comments = [(False, line) for _, line in comments]
        if token.startswith("#"):
            comments.append((True, token.strip()))
            continue
        depth += (token in "[{") - (token in "]}")
        parts.append(token)
    return "".join(parts), comments, len(text)


def _header(line: str, blocks: Iterator[Place]) -> Place:
    if line.startswith("[["):
        return next(blocks, (_ARRAY,)) if _path(line[2:]) == (_BLOCK,) else (_ARRAY, *_path(line[2:]))
    return _path(line[1:])


def _path(line: str) -> Place:
    """The parts of a dotted key, unquoted."""
    parts: list[str] = []
    at = 0
    while match := _KEY_PART.match(line, at):
        bare, quoted, literal, end = match.groups()
        parts.append(bare or (_unquoted(quoted) if quoted else literal or ""))
        at = match.end()
        if end != ".":
            break
    return tuple(parts)


def _unquoted(quoted: str) -> str:
    try:
        return str(tomllib.loads(f"x = {quoted}")["x"])
    except ValueError:
        return quoted


def _blocks(text: str) -> Iterator[Place]:
    """Who each `[[block]]` is, in their order."""
    if _ARRAY not in text.replace(" ", ""):
        return iter(())
    try:
        tables: Any = tomllib.loads(text).get(_BLOCK)
    except (ValueError, RecursionError):
        return iter(())
    entries = tables if isinstance(tables, list) else []
    return iter([_who(entry) for entry in entries if isinstance(entry, dict)])


def _who(entry: dict[str, Any]) -> Place:
    whose = next((f"{scope} {entry[scope]}" for scope in ("campaign", "seller") if scope in entry), "")
    return (_ARRAY, whose, str(entry.get("pattern", "")))
