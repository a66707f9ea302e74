"""Numbers that may have been meant: one digit wrong, missing, too many, or two of them swapped.

Texts are compared by how much of them is alike; of numbers in one block all are nearly alike, so that says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

MOST_OFFERED: Final = 2  # where more are as near, none of them is the one that was meant
_DIGITS: Final = "0123456789"


def near_numbers(number: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of `known` (E.164) that `number` is one slip of the finger away from; none where there are many."""
    numbers = known if isinstance(known, set | frozenset) else set(known)
    found = sorted({slip for slip in _slips(number) if slip in numbers})
    return tuple(found) if len(found) <= MOST_OFFERED else ()


def _slips(number: str) -> Iterator[str]:
    for place in range(1, len(number) + 1):  # behind the plus
        before, digit, after = number[:place], number[place : place + 1], number[place + 1 :]
        for other in _DIGITS:
            yield before + other + digit + after
            if digit:
                yield before + other + after
        if digit:
            yield before + after
        if after:
            yield before + after[0] + digit + after[1:]
