"""`python -m lab up|suite SUITE`: make sure that a real Asterisk and SIPp are there, ready for tests."""

from __future__ import annotations

import sys

from lab.root import DEFAULT_SUITE, ensure_sipp, ensure_tree
from lab.wait import LabUnavailable


def main(argv: list[str]) -> int:
    """Set the lab up; 0, or 1 with the reason."""
    suite = argv[1] if len(argv) > 1 else DEFAULT_SUITE
    if not argv or argv[0] != "up":
        print("usage: python -m lab up [SUITE]", file=sys.stderr)
        return 2
    try:
        print(f"Asterisk: {ensure_tree(suite)}")
        print(f"SIPp: {ensure_sipp()}")
    except LabUnavailable as error:
        print(f"the lab cannot be set up here: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
