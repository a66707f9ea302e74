"""Telephone numbers: what arrived, as E.164, with the region of the trunk it came on."""

from __future__ import annotations

import re
from functools import lru_cache

import phonenumbers

from capconduit.errors import UsageError

_E164 = re.compile(r"^\+[1-9][0-9]{6,14}$")
_ANONYMOUS = frozenset({"", "anonymous", "unknown", "unavailable", "private", "restricted", "withheld"})


def is_anonymous(received: str) -> bool:
    """Whether the caller's number was withheld (RFC 3323 `anonymous`, or nothing)."""
    return received.strip().lower() in _ANONYMOUS


@lru_cache(maxsize=65_536)
def to_e164(received: str, region: str) -> str | None:
    """E.164 form of a number as it arrived, or None where it is none.

    A complete E.164 number is taken as it is, so that test and special ranges stay what they are; anything else must be
    a possible number of `region` (ISO 3166), or become one with a leading `+` (carriers that send bare E.164).
    """
    text = received.strip()
    if _E164.match(text):
        return text
    return _possible(text, region) or _possible("+" + text, region)


def _possible(text: str, region: str) -> str | None:
    """E.164 of a number of a possible length; one that lacks its area code is none, it would become another number."""
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if phonenumbers.is_possible_number_with_reason(parsed) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return None
    number = str(phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164))
    return number if _E164.match(number) else None


def parse_number(text: str, region: str) -> str:
    """E.164 of a number as a person writes it. Raises UsageError."""
    number = to_e164(re.sub(r"[\s().\-/]", "", text), region)
    if number is None:
        raise UsageError(
            "number-invalid", f"{text!r} is not a telephone number", "write it with its country code, like +18005550100"
        )
    return number
