"""The table in docs/call-ends.md, from the scenarios: `python -m tests.asterisk.ends.table` writes it again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from capconduit.vocab import HungUpBy
from tests.asterisk.ends.catalogue import ENDS, ROOMS
from tests.asterisk.ends.scenario import VERSIONS, Cdr, End

PAGE: Final = Path(__file__).parents[3] / "docs" / "call-ends.md"
BEGIN, FINISH = "<!-- the scenarios begin -->\n", "<!-- the scenarios end -->\n"
HEAD: Final = (
    "| End | What happens | DIALSTATUS | Cause | SIP | Hung up by | Witness | Charged | Seen on |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def tables() -> str:
    """One table for each room, in the catalogue's order."""
    parts = []
    for title, room in ROOMS.items():
        ends = [end for end in ENDS.values() if end.play.__module__ == room.__name__]
        parts.append(f"\n### {title}\n\n{HEAD}" + "".join(map(_row, ends)))
    return "".join(parts) + "\n"


def page_with(text: str, made: str) -> str:
    """The page with these tables in it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(FINISH)
    return before + BEGIN + made + FINISH + after


def _row(end: End) -> str:
    what = " ".join(part for part in (end.what, end.note) if part)
    cells = [f"`{end.name}`", what, *_cells(end), _charged(end), ", ".join(map(str, end.versions))]
    return f"| {' | '.join(cells)} |\n"


def _cells(end: End) -> list[str]:
    """DIALSTATUS, cause, SIP code, who hung up, witness; several values where they differ by version or by chance."""
    ways = [_way(end.cdr)]
    ways += [_way(cdr) for cdr in (end.or_else, *(end.told_otherwise.get(v) for v in VERSIONS)) if cdr is not None]
    return [" or ".join(dict.fromkeys(cells)) for cells in zip(*ways, strict=True)]


def _way(cdr: Cdr) -> list[str]:
    dialstatus = cdr.dialstatus or "none"
    return [dialstatus, _each(cdr.cause), _each(cdr.sip), _each(cdr.by), _each(cdr.witness)]


def _each(value: object) -> str:
    values = value if isinstance(value, tuple) else (value,)
    return " or ".join(each.value if isinstance(each, HungUpBy) else str(each) for each in values)


def _charged(end: End) -> str:
    if end.charged_s is not None:
        return f"{end.charged_s} s"
    ways = [cdr for cdr in (end.cdr, end.or_else, *end.told_otherwise.values()) if cdr is not None]
    words = ["the talk" if cdr.dialstatus == "ANSWER" else "nothing" for cdr in ways]
    return " or ".join(dict.fromkeys(words))


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(), tables()))
