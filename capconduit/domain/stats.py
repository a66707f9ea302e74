"""The numbers of reports: sums of calls, and the measures made of them.

Everything is exact: sums are integers, ratios are fractions, and rounding is done once, half up, when a number is
shown. docs/reports.md defines each measure with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from capconduit.domain.rollups import Sums

MS_PER_MINUTE: Final = 60_000


@dataclass(frozen=True, slots=True)
class Group:
    """The sums of the calls that agree in `key`."""

    key: tuple[str | int, ...]
    currency: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a report: what it is about, its sums, and those of the period before where they were asked for.

    `currency` "": of calls without one, or of several (`mixed`), and then no amount means anything.
    """

    key: tuple[str | int, ...]
    currency: str
    sums: Sums
    before: Sums | None = None
    mixed: bool = False


# Summing -----------------------------------------------------------------------------------------------------------


def merged(groups: Iterable[Group]) -> list[Group]:
    """Groups of the same key and currency as one, in the order of their first."""
    sums: dict[tuple[tuple[str | int, ...], str], Sums] = {}
    for group in groups:
        known = sums.get((group.key, group.currency))
        sums[(group.key, group.currency)] = group.sums if known is None else known + group.sums
    return [Group(key, currency, total) for (key, currency), total in sums.items()]


def rekeyed(groups: Iterable[Group], key: Callable[[tuple[str | int, ...]], tuple[str | int, ...]]) -> list[Group]:
    """Groups under other keys, summed where those agree."""
    return merged(Group(key(group.key), group.currency, group.sums) for group in groups)


def lines_of(groups: Sequence[Group], before: Sequence[Group] | None = None, *, overall: bool = False) -> list[Line]:
    """The lines of a report, in the order of their groups: one for each key and currency.

    Calls without a currency (rejected before a seller was found) belong to the key's only one; where it has several
    they are a line of their own. Different currencies are never added: `overall` puts a line before them that has the
    numbers of calls of all of them and no amounts.
    """
    now, then = _by_key(groups), _by_key(before) if before is not None else None
    keys = list(dict.fromkeys([*now, *(then or {})]))
    lines: list[Line] = []
    for key in keys:
        here, there = dict(now.get(key, {})), dict((then or {}).get(key, {}))
        currencies = [c for c in dict.fromkeys([*here, *there]) if c]
        if len(currencies) <= 1:
            only = currencies[0] if currencies else ""
            lines.append(Line(key, only, _total(here), _total(there) if then is not None else None))
            continue
        if overall:
            lines.append(Line(key, "", _total(here), _total(there) if then is not None else None, mixed=True))
        for currency in [*sorted(currencies), *([""] if "" in here or "" in there else [])]:
            was = there.get(currency, Sums()) if then is not None else None
            lines.append(Line(key, currency, here.get(currency, Sums()), was))
    return lines


def _by_key(groups: Iterable[Group]) -> dict[tuple[str | int, ...], dict[str, Sums]]:
    found: dict[tuple[str | int, ...], dict[str, Sums]] = {}
    for group in merged(groups):
        found.setdefault(group.key, {})[group.currency] = group.sums
    return found


def _total(by_currency: Mapping[str, Sums]) -> Sums:
    total = Sums()
    for sums in by_currency.values():
        total = total + sums
    return total


# Measures ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of a report. `unit`: calls, percent, ms, minutes or money (micros); `of` gives None where it has no
    meaning, as a ratio of no calls."""

    name: str
    unit: str
    of: Callable[[Sums], Fraction | None]
    better: int = 0  # 1: more is better, -1: less is, 0: neither


def _ratio(part: int, whole: int) -> Fraction | None:
    return Fraction(part * 100, whole) if whole else None


def _mean(total: int, count: int) -> Fraction | None:
    return Fraction(total, count) if count else None


MEASURES: Final[Mapping[str, Measure]] = {
    measure.name: measure
    for measure in (
        Measure("calls", "calls", lambda s: Fraction(s.calls), 1),
        Measure("attempted", "calls", lambda s: Fraction(s.attempted), 1),
        Measure("connected", "calls", lambda s: Fraction(s.connected), 1),
        Measure("billable", "calls", lambda s: Fraction(s.billable), 1),
        Measure("rejected", "calls", lambda s: Fraction(s.rejected), -1),
        Measure("unanswered", "calls", lambda s: Fraction(s.calls - s.connected - s.rejected), -1),
        Measure("asr", "percent", lambda s: _ratio(s.connected, s.attempted), 1),
        Measure("abr", "percent", lambda s: _ratio(s.connected, s.calls), 1),
        Measure("acd", "ms", lambda s: _mean(s.talk_ms, s.connected), 1),
        Measure("pdd", "ms", lambda s: _mean(s.pdd_ms, s.rang), -1),
        Measure("minutes", "minutes", lambda s: Fraction(s.talk_ms, MS_PER_MINUTE), 1),
        Measure("billed_minutes", "minutes", lambda s: Fraction(s.billed_s, 60), 1),
        Measure("revenue", "money", lambda s: Fraction(s.amount_micros), 1),
        Measure("payout", "money", lambda s: Fraction(s.payout_micros)),
        Measure("margin", "money", lambda s: Fraction(s.amount_micros - s.payout_micros), 1),
        Measure("margin_percent", "percent", lambda s: _ratio(s.amount_micros - s.payout_micros, s.amount_micros), 1),
        Measure("written_off", "money", lambda s: Fraction(s.written_off_micros), -1),
    )
}


def value_of(name: str, line: Line, *, before: bool = False) -> Fraction | None:
    """A measure of a line, or of the period before it; None where it has no meaning, as amounts of several
    currencies."""
    sums = line.before if before else line.sums
    if sums is None:
        return None
    if line.mixed and (MEASURES[name].unit == "money" or name == "margin_percent"):
        return None
    return MEASURES[name].of(sums)


def rounded(value: Fraction, places: int = 0) -> int:
    """`value` · 10^places as a whole number, half away from zero."""
    scaled = abs(value) * int(10**places)
    whole = (2 * scaled.numerator + scaled.denominator) // (2 * scaled.denominator)
    return -whole if value < 0 else whole


def change_percent(now: Fraction | None, before: Fraction | None) -> Fraction | None:
    """By how many percent `now` is more than `before`; None where there is nothing to compare with."""
    if now is None or before is None or before == 0:
        return None
    return Fraction((now - before) * 100, abs(before))
