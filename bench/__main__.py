"""`python -m bench [NAME] [OPTIONS]`: decisions (default), asterisk, estate, growth, report, tui, cli, soak."""

from __future__ import annotations

import importlib
import sys
from typing import Final

NAMES: Final = ("decisions", "asterisk", "estate", "growth", "report", "tui", "cli", "soak")


def main(argv: list[str]) -> int:
    """Run one bench; its exit code."""
    if argv[:1] in (["-h"], ["--help"]):
        print(f"usage: python -m bench [{' | '.join(NAMES)}] [OPTIONS]; NAME --help has the options of each")
        return 0
    name, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (NAMES[0], argv)
    if name not in NAMES:
        print(f"no bench {name!r}; there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"bench.{name}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
