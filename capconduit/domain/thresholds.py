"""Thresholds of reports: `asr<40`, `margin<100 USD`, `acd<=30s`; what they say, and where they are crossed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import eq, ge, gt, le, lt, ne
from typing import Final

from capconduit.domain.stats import MEASURES, Line, Measure, value_of
from capconduit.errors import UsageError
from capconduit.units import MS_PER_SECOND, parse_duration_ms, parse_money

MAX_LENGTH: Final = 100
_FORM: Final = re.compile(r"\s*([A-Za-z_]+)\s*(<=|>=|==|!=|<|>|=)\s*(\S.*?)\s*", re.ASCII)
_NUMBER: Final = re.compile(r"(-?[0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(%?)", re.ASCII)
_RELATIONS: Final[Mapping[str, Callable[[Fraction, Fraction], bool]]] = {
    "<": lt, "<=": le, ">": gt, ">=": ge, "=": eq, "==": eq, "!=": ne,
}  # fmt: skip
_UNITS: Final = {
    "calls": "a number, as 100",
    "percent": "a percentage, as 40 or 40%",
    "ms": "a duration, as 30s or 1m30s",
    "minutes": "a number of minutes, as 12.5",
    "money": "an amount, as 100 or '100 USD'",
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """A condition on one measure. `currency` "": of whatever currency."""

    text: str
    measure: Measure
    relation: str
    value: Fraction
    currency: str = ""

    def crossed(self, line: Line) -> bool:
        """Whether it holds of a line; never of a measure that has no meaning there, as the ASR of no calls."""
        if self.currency and line.currency != self.currency:
            return False
        found = value_of(self.measure.name, line)
        return found is not None and _RELATIONS[self.relation](found, self.value)


def parse_threshold(text: str) -> Threshold:
    """What `asr<40` says. Raises UsageError, for an unknown measure with the nearest one."""
    match = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise UsageError(
            "threshold-invalid",
            f"{text[:MAX_LENGTH]!r} is not a threshold",
            "write MEASURE, one of < <= > >= = !=, and a value, like 'asr<40'",
        )
    name, relation, value = match[1].lower(), match[2], match[3]
    measure = MEASURES.get(name)
    if measure is None:
        near = difflib.get_close_matches(name, MEASURES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the measures are {', '.join(MEASURES)}"
        raise UsageError("measure-unknown", f"no measure {match[1]!r}", hint)
    number, currency = _value(text, measure, value)
    return Threshold(text.strip(), measure, relation, number, currency)


def _value(text: str, measure: Measure, value: str) -> tuple[Fraction, str]:
    if measure.unit == "money":
        named = value.split()[-1].upper() if value[-3:].isalpha() else ""
        return Fraction(parse_money(value, signed=True)), named[-3:]
    number = _NUMBER.fullmatch(value)
    if measure.unit == "ms":  # a bare number is seconds, as everywhere
        if number and not number[2]:
            return Fraction(number[1]) * MS_PER_SECOND, ""
        return Fraction(parse_duration_ms(value)), ""
    if number is None or (number[2] and measure.unit != "percent"):
        raise UsageError(
            "threshold-invalid", f"{text!r}: {value!r} is no value", f"{measure.name} is {_UNITS[measure.unit]}"
        )
    return Fraction(number[1]), ""


def crossings(thresholds: Iterable[Threshold], lines: Iterable[Line]) -> Iterator[tuple[Threshold, Line]]:
    """The thresholds that lines cross. Where a line is of all calls and others of their currencies, numbers of calls
    are looked at in that one and amounts in the others. Raises UsageError for an amount without a currency where there
    are several."""
    known = list(lines)
    whole = {line.key for line in known if line.mixed}
    currencies = sorted({line.currency for line in known if line.currency})
    for threshold in thresholds:
        if threshold.measure.unit == "money" and not threshold.currency and len(currencies) > 1:
            raise UsageError(
                "threshold-without-currency",
                f"{threshold.text!r} does not say of which currency",
                f"there are {' and '.join(currencies)}: write it like '{threshold.text} {currencies[0]}'",
            )
        of_amounts = threshold.measure.unit == "money" or threshold.measure.name == "margin_percent"
        for line in known:
            if (of_amounts or line.mixed or line.key not in whole) and threshold.crossed(line):
                yield threshold, line
