"""Where a seller wants numbers: the beginning of a number, `?` for any one digit."""

from __future__ import annotations

import re
from typing import Final

from capconduit.errors import UsageError

MAX_DIGITS: Final = 15  # of a number in E.164
_AREA: Final = re.compile(r"^\+[1-9][0-9?]{0,14}$")
_WRITTEN_BETWEEN: Final = re.compile(r"[\s().\-/]")


def parse_area(text: str) -> str:
    """`+1212` of `+1 (212)`, `+1212*`; `+1212555????` stays; empty for anywhere. Raises UsageError."""
    area = _WRITTEN_BETWEEN.sub("", text).removesuffix("*")
    if not area:
        return ""
    if not _AREA.fullmatch(area):
        raise UsageError(
            "area-invalid",
            f"{text!r} is no area of numbers",
            "write how they begin, with the country code, like +1212; ? is any one digit",
        )
    return area


def in_area(number: str, area: str) -> bool:
    """Whether a number in E.164 begins as `area` says."""
    if "?" not in area:
        return number.startswith(area)
    return len(number) >= len(area) and all(a in ("?", n) for n, a in zip(number, area, strict=False))
