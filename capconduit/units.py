"""Money, instants, durations and telephone numbers as text and as integers; the only rounding functions.

Money is an integer of micros (millionths of the currency unit), instants are UTC milliseconds, durations are
milliseconds. No float comes near any of them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NewType
from zoneinfo import ZoneInfo

from capconduit.errors import UsageError

Micros = NewType("Micros", int)
Millis = NewType("Millis", int)

MICROS_PER_UNIT: Final = 1_000_000
MS_PER_SECOND: Final = 1_000
MAX_INSTANT_MS: Final = 7_258_118_400_000  # 2200-01-01
MAX_MICROS: Final = 9_000_000_000_000_000_000  # below 2^63: what the databases hold

_MONEY = re.compile(r"^\s*([+-]?)([0-9]{1,12})(?:\.([0-9]{1,6}))?(?:\s*([A-Za-z]{3}))?\s*$")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_DURATION_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_RELATIVE = re.compile(r"^([+-])([0-9]{1,9})(s|m|h|d)$")
_DAY_AND_CLOCK = re.compile(r"^([a-z]+)(?:[ t]([01]?[0-9]|2[0-3]):([0-5][0-9]))?$")
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def ceil_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded towards plus infinity; the denominator is positive."""
    return -(-numerator // denominator)


def floor_div(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded towards minus infinity; the denominator is positive."""
    return numerator // denominator


def seconds_from_ms_ceil(duration_ms: int) -> int:
    """Whole seconds, rounded up: a started second counts."""
    return ceil_div(duration_ms, MS_PER_SECOND)


def parse_money(text: str, *, currency: str | None = None, signed: bool = False) -> Micros:
    """Micros of `25`, `25.50` or `25.50 USD`; at most six decimals.

    `currency`, where given, must match a currency that is named. A sign needs `signed`. Raises UsageError.
    """
    match = _MONEY.match(text)
    if not match:
        raise UsageError(
            "amount-invalid",
            f"{text!r} is not an amount",
            "write it like 25, 25.50 or '25.50 USD' (up to six decimals)",
        )
    sign, whole, fraction, named = match.groups()
    if sign and not signed:
        raise UsageError("amount-invalid", f"{text!r} has a sign", "give the amount without a sign")
    if named and currency and named.upper() != currency.upper():
        raise UsageError("currency-mismatch", f"{text!r} is not in {currency}", f"give it in {currency}")
    micros = int(whole) * MICROS_PER_UNIT + int((fraction or "").ljust(6, "0") or "0")
    return Micros(-micros if sign == "-" else micros)


def format_micros(micros: int, *, trim: bool = False) -> str:
    """Decimal amount with six places (`24.800000`); `trim` keeps at least two (`24.80`)."""
    sign = "-" if micros < 0 else ""
    whole, fraction = divmod(abs(micros), MICROS_PER_UNIT)
    digits = f"{fraction:06d}"
    if trim:
        digits = digits[:2] + digits[2:].rstrip("0")
    return f"{sign}{whole}.{digits}"


def parse_duration_ms(text: str) -> Millis:
    """Milliseconds of `90s`, `1m30s`, `2h`, `500ms`; a bare number is seconds. Raises UsageError."""
    compact = text.strip().lower().replace(" ", "")
    if compact.isascii() and compact.isdigit() and len(compact) <= 9:
        return Millis(int(compact) * MS_PER_SECOND)
    parts = _DURATION_PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact or len(compact) > 32:
        raise UsageError("duration-invalid", f"{text!r} is not a duration", "write it like 90s, 1m30s or 2h")
    return Millis(sum(int(number) * _DURATION_MS[unit] for number, unit in parts))


def format_duration(duration_ms: int) -> str:
    """`1h02m03s`, `1m30s`, `4.2s` or `350ms`: the shortest that a person reads without thinking."""
    if duration_ms < 0:
        return "-" + format_duration(-duration_ms)
    if duration_ms < MS_PER_SECOND:
        return f"{duration_ms}ms"
    seconds, rest_ms = divmod(duration_ms, MS_PER_SECOND)
    if seconds < 60:
        return f"{seconds}.{rest_ms // 100}s" if rest_ms >= 100 else f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m{seconds:02d}s"


def format_span(duration_ms: int) -> str:
    """`1h`, `7d`, `1h30m`: to the millisecond, as parse_duration_ms reads it, without units that are zero."""
    parts, rest_ms = [], duration_ms
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest_ms = divmod(rest_ms, _DURATION_MS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def format_instant(instant_ms: int) -> str:
    """ISO 8601 in UTC with milliseconds: `2026-03-08T06:59:59.999Z`."""
    seconds, ms = divmod(instant_ms, MS_PER_SECOND)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms:03d}Z"


def instant_ms(moment: datetime) -> Millis:
    """UTC milliseconds of an aware datetime, exact (no float)."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Millis((delta.days * 86_400 + delta.seconds) * MS_PER_SECOND + delta.microseconds // 1_000)


def _day_named(name: str, now_ms: int, zone: ZoneInfo) -> datetime | None:
    """The midnight of `today`, `yesterday`, `tomorrow`, or of the last day of a weekday's name that has begun."""
    local_now = datetime.fromtimestamp(now_ms // MS_PER_SECOND, zone)
    midnight = local_now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)  # the first of two
    if name in _WEEKDAYS:
        return midnight - timedelta(days=(local_now.weekday() - _WEEKDAYS.index(name)) % 7)
    days = {"today": 0, "yesterday": -1, "tomorrow": 1}.get(name)
    return None if days is None else midnight + timedelta(days=days)


def parse_instant(text: str, *, now_ms: int, timezone: str = "UTC") -> Millis:
    """UTC milliseconds of an ISO date or time, `now`, `-2h`, `+2h`, or a day by name: `today`, `yesterday`, `tomorrow`,
    a weekday; also with a time of day, `tomorrow 09:00`.

    A text without an offset is local time in `timezone`; a date alone is its midnight; a weekday is the last one that
    has begun. Raises UsageError.
    """
    word = text.strip().lower()
    zone = ZoneInfo(timezone)
    if word == "now":
        return Millis(now_ms)
    if relative := _RELATIVE.match(word):
        span_ms = int(relative[2]) * _DURATION_MS[relative[3]]
        return Millis(min(max(now_ms + (span_ms if relative[1] == "+" else -span_ms), 0), MAX_INSTANT_MS - 1))
    if (named := _DAY_AND_CLOCK.match(word)) and (day := _day_named(named[1], now_ms, zone)) is not None:
        return instant_ms(day.replace(hour=int(named[2]), minute=int(named[3])) if named[2] else day)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            "time-invalid",
            f"{text!r} is not a time",
            "write it like 2026-03-08T14:30, 2026-03-08, yesterday, monday, 'tomorrow 09:00', -2h or +2h",
        ) from None
    try:
        instant = instant_ms(moment if moment.tzinfo else moment.replace(tzinfo=zone))
    except OverflowError:
        instant = Millis(-1)
    if not 0 <= instant < MAX_INSTANT_MS:
        raise UsageError("time-out-of-range", f"{text!r} is out of range", "give a time from 1970 to 2199")
    return instant
