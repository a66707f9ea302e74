"""The tables of docs/doctor.md, written from the checks: `python -m capconduit.doctor.document --write`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from capconduit.doctor.checks import CHECKS
from capconduit.doctor.findings import Matter

PAGE: Final = Path(__file__).parents[2] / "docs" / "doctor.md"
BEGIN: Final = "<!-- from here on written by capconduit.doctor.document -->\n"

TITLES: Final = {
    Matter.ASTERISK: "Asterisk",
    Matter.AMI: "AMI",
    Matter.DIALPLAN: "Dialplan and configuration in force",
    Matter.MACHINE: "The machine",
    Matter.DATABASE: "Database",
    Matter.SECRETS: "Secrets",
    Matter.NETWORK: "Who may come in",
    Matter.DAEMON: "The daemon",
}


def tables() -> str:
    """Every check and all that it can find, by matter."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for matter in Matter:
        yield f"\n## {TITLES[matter]} (`{matter}`)\n"
        for check in CHECKS:
            if check.matter is not matter:
                continue
            yield f"**`{check.slug}`**: {check.looks_at}.\n"
            yield "| finding | severity | why it matters |"
            yield "|---|---|---|"
            for fault in check.faults:
                yield f"| `{fault.id}` | {fault.severity} | {fault.why} |"
            yield ""


def page(text: str) -> str:
    """The page `text` with the tables as they are now."""
    return text.partition(BEGIN)[0] + BEGIN + tables()


def main(arguments: list[str]) -> int:
    """Write the tables into the page, or print them."""
    if "--write" in arguments:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
    else:
        sys.stdout.write(tables())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
