"""Questions on a terminal: an answer is checked at once and asked for again until it is right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final

from capconduit.errors import CapConduitError, Refused
from capconduit_cli.text import printable

TRIES: Final = 5  # a terminal whose other side only makes noise is not asked for ever


def can_ask() -> bool:
    """Whether there is a person to ask."""
    return sys.stdin.isatty()


def ask(question: str, default: str, check: Callable[[str], object], shown: str = "") -> str:
    """The answer to a question; Enter takes the default, which is `shown` otherwise than it is where that is given.

    `check` raises CapConduitError for a wrong answer; that is told, and the question comes again. Raises Refused at the
    end of the input, or after TRIES wrong answers.
    """
    for _ in range(TRIES):
        sys.stderr.write(f"{printable(question)} [{printable(shown or default)}]: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            sys.stderr.write("\n")
            raise Refused("not-confirmed", "nothing was changed")
        answer = line.strip() or default
        try:
            check(answer)
        except CapConduitError as error:
            sys.stderr.write(f"  {printable(error.message)}; {printable(error.hint)}\n")
            continue
        return answer
    raise Refused(
        "not-answered", f"no answer to {question!r} was right", "see `capconduit init --help` for the options"
    )
