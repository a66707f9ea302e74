"""Comments of a TOML file: found by what they stand at, and put back at the same place of another text.

Only whole lines before a table or a key, and what follows a value on its line. A line with a `#` inside of a text is
understood; a comment within a list that spans lines is not kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

Place = tuple[str, str]  # the table's header as written without spaces, and the key; the key is empty at the header

_HEADER = re.compile(r"^\s*(\[\[?[^#]*?\]\]?)\s*(#.*)?$")
_KEY = re.compile(r"^\s*([A-Za-z0-9_\-]+|\"[^\"]*\")\s*=\s*(.*)$")
_TEXTS = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'")


@dataclass
class Comments:
    """Comments by their place: lines before it, and what follows on its line. `last`: those at the end of the file."""

    before: dict[Place, list[str]] = field(default_factory=dict)
    behind: dict[Place, str] = field(default_factory=dict)
    last: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> Comments:
        """The comments of a file. Of a place that comes twice (`[[block]]`) the first keeps its own."""
        found, waiting, header = cls(), list[str](), ""
        seen: dict[str, int] = {}
        for line in text.splitlines():
            if line.strip().startswith("#"):
                waiting.append(line.strip())
                continue
            place, comment, header = _place(line, header, seen)
            if place is None:
                continue
            if waiting:
                found.before.setdefault(place, waiting)
                waiting = []
            if comment:
                found.behind.setdefault(place, comment)
        found.last = waiting
        return found

    def put_into(self, text: str) -> str:
        """`text` with these comments at their places; those whose place is gone are gone."""
        lines: list[str] = []
        header, seen = "", dict[str, int]()
        for line in text.splitlines():
            place, _, header = _place(line, header, seen)
            if place is not None:
                lines.extend(self.before.get(place, ()))
            opens_list = line.rstrip().endswith("[") and "=" in line
            behind = self.behind.get(place) if place is not None and not opens_list else None
            lines.append(f"{line}  {behind}" if behind else line)
        return "\n".join([*lines, *self.last]) + "\n"


def _place(line: str, header: str, seen: dict[str, int]) -> tuple[Place | None, str, str]:
    """(place of the line if it has one, the comment behind it, the header that is in force from here on)."""
    if match := _HEADER.match(line):
        name = match[1].replace(" ", "")
        if name.startswith("[["):
            seen[name] = seen.get(name, 0) + 1
            name = f"{name}{seen[name]}"
        return (name, ""), match[2] or "", name
    if match := _KEY.match(line):
        rest = _TEXTS.sub(lambda found: "x" * len(found[0]), match[2])
        return (header, match[1]), match[2][rest.index("#") :].strip() if "#" in rest else "", header
    return None, "", header
