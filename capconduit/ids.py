"""Public ids: ULIDs, sortable by the instant they were made (https://github.com/ulid/spec)."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(a + b for a in _CROCKFORD for b in _CROCKFORD)  # 10 bits at a time
_TIME_SHIFTS: Final = range(40, -1, -10)
_FORTY: Final = (1 << 40) - 1  # bits
ULID_LENGTH: Final = 26


def ulid(now_ms: int, randomness: int) -> str:
    """A ULID of `now_ms` (48 bits) and 80 bits of `randomness`; both come from the caller."""
    return _instant(now_ms) + _eight(randomness >> 40 & _FORTY) + _eight(randomness & _FORTY)


def _eight(bits: int) -> str:
    """Eight characters of 40 bits, made thousands of times a second."""
    return f"{_PAIRS[bits >> 30]}{_PAIRS[bits >> 20 & 1023]}{_PAIRS[bits >> 10 & 1023]}{_PAIRS[bits & 1023]}"


@lru_cache(maxsize=8)
def _instant(now_ms: int) -> str:
    """The first ten characters; many ids are made in the same millisecond."""
    value = now_ms & ((1 << 48) - 1)
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _TIME_SHIFTS])


def is_ulid(text: str) -> bool:
    """Whether `text` has the form of a ULID."""
    return len(text) == ULID_LENGTH and all(c in _CROCKFORD for c in text)
