"""What an estate file can say: the nouns, their fields, and how each value is written and understood.

A value is kept as the program counts it (micros, milliseconds, whole numbers), so that `0.2` and `0.20` are the same.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from capconduit.config_rules import Invalid, secret_reference
from capconduit.errors import CapConduitError, UsageError
from capconduit.units import (
    MICROS_PER_UNIT,
    format_instant,
    format_micros,
    format_span,
    parse_duration_ms,
    parse_instant,
    parse_money,
)
from capconduit.vocab import (
    Attestation,
    CampaignStatus,
    CapMetric,
    ProviderKind,
    SipTransport,
    Status,
    Strategy,
    TargetKind,
    TrunkAuth,
    TrunkKind,
    WindowKind,
)

SECONDS_PER_MINUTE: Final = 60
MAX_SHOWN: Final = 80  # characters of a value in a message
MAX_MESSAGE: Final = 500  # characters of what a reader says of a value
_LIMIT = re.compile(
    r"(?P<metric>[a-z]+)[ \t]+(?P<number>[0-9.]{1,20})(?:\s*/\s*(?P<window>[a-z]+)(?::(?P<length>[0-9a-z]{1,32}))?)?"
)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = MAX_SHOWN
_brief.maxlevel = 3


def shown(value: Any) -> str:
    """A value of a file in a message: short, however long or deep it is."""
    return _brief.repr(value)


class CapLimit(NamedTuple):
    """One cap as a file says it: `billable 200/day`. `value` is in calls, seconds of talk or micros."""

    metric: str
    window: str
    window_ms: int
    value: int


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of a kind are read from TOML, and written. `expected` tells what was expected instead.

    `hidden`: one that is wrong may be a secret, so no message repeats it.
    """

    expected: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    hidden: bool = False


class _NotIt(Exception):
    """A value of another kind."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _NotIt
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _NotIt
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _NotIt
    return value


def _money(value: Any) -> int:
    """Floats are refused: 0.1 is not a tenth. So is a currency: it is that of the rate or the seller, whatever is
    written behind an amount."""
    text = value if isinstance(value, str) else str(_number(value))
    if text.strip()[-1:].isalpha():
        raise _NotIt
    return parse_money(text)


def _span(value: Any) -> int:
    return parse_duration_ms(_text(value))


def _write_span(value: int) -> str:
    return format_span(value) if value else "0s"


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _NotIt
    return tuple(_text(item) for item in value)


def _words(value: Any) -> tuple[str, ...]:
    """Texts that are kept in one, separated by commas."""
    words = _texts(value)
    if any("," in word or not word for word in words):
        raise _NotIt
    return words


def _secret(value: Any) -> str:
    try:
        secret_reference(_text(value))
    except Invalid:
        raise _NotIt from None
    return str(value)


def _instant(value: Any) -> int | None:
    """Days and instants only: `yesterday` would be another one each time the file is read."""
    if value == "":
        return None
    if not _DAY.match(_text(value)):
        raise _NotIt
    return parse_instant(value, now_ms=0)


def _one_of(words: type[StrEnum], *, empty: bool = False) -> Form:
    def read(value: Any) -> str:
        text = _text(value)
        if text not in (*words, *([""] if empty else [])):
            raise _NotIt
        return text

    return Form(f"one of {', '.join(words)}", read, str)


def _caps(value: Any) -> tuple[CapLimit, ...]:
    limits = [_cap(text) for text in _texts(value)]
    kinds = [(limit.metric, limit.window, limit.window_ms) for limit in limits]
    if len(set(kinds)) < len(kinds):
        raise UsageError("cap-twice", "two caps of one metric and window", "keep one of them")
    return tuple(sorted(limits))


def _cap(text: str) -> CapLimit:
    match = _LIMIT.fullmatch(text.strip().lower())
    if match is None or match["metric"] not in tuple(CapMetric):
        raise _NotIt
    metric, window = CapMetric(match["metric"]), match["window"] or WindowKind.NONE.value
    if window not in tuple(WindowKind) or (window == WindowKind.ROLLING) != (match["length"] is not None):
        raise _NotIt
    if match["window"] == WindowKind.NONE or (metric in _COUNTED_NOW) != (window == WindowKind.NONE):
        raise _NotIt
    number = match["number"]
    if metric is CapMetric.SPEND:
        value: int = parse_money(number)
    elif number.isdigit():
        value = int(number) * (SECONDS_PER_MINUTE if metric is CapMetric.MINUTES else 1)
    else:
        raise _NotIt
    return CapLimit(metric.value, window, parse_duration_ms(match["length"]) if match["length"] else 0, value)


_COUNTED_NOW: Final = (CapMetric.CONCURRENT, CapMetric.CPS)


def format_cap(limit: CapLimit) -> str:
    """As an operator writes it behind `cap set`: `billable 200/day`, `spend 25.5/rolling:1h`, `concurrent 10`."""
    if limit.metric == CapMetric.SPEND:
        number = (
            format_micros(limit.value, trim=True)
            if limit.value % MICROS_PER_UNIT
            else str(limit.value // MICROS_PER_UNIT)
        )
    else:
        number = str(limit.value // SECONDS_PER_MINUTE if limit.metric == CapMetric.MINUTES else limit.value)
    window = "" if limit.window == WindowKind.NONE else f"/{limit.window}"
    return f"{limit.metric} {number}{window}{f':{format_span(limit.window_ms)}' if limit.window_ms else ''}"


TEXT: Final = Form("a text in quotes", _text, str)
FLAG: Final = Form("true or false", _flag, bool)
NUMBER: Final = Form("a whole number", _number, int)
MONEY: Final = Form('an amount in quotes like "0.20"', _money, lambda micros: format_micros(micros, trim=True))
SPAN: Final = Form('a duration in quotes like "20s"', _span, _write_span)
WORDS: Final = Form('a list of texts like ["192.0.2.1"]', _words, list)
SECRET: Final = Form(
    'where the secret is: "file:/absolute/path" or "env:NAME", never the secret itself', _secret, str, hidden=True
)
INSTANT: Final = Form(
    'an instant in quotes like "2026-12-31T00:00:00Z", or an empty text',
    _instant,
    lambda instant: "" if instant is None else format_instant(instant),
)
CAPS: Final = Form(
    'a list of caps like ["concurrent 10", "billable 200/day"]', _caps, lambda limits: [format_cap(x) for x in limits]
)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a noun. `needed`: a new one cannot do without; `fixed`: it cannot be changed afterwards."""

    form: Form
    needed: bool = False
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Noun:
    """A table of the file: `[name.KEY]`, for rules `[rule.CAMPAIGN.TARGET]`. `renamed`: a key can be another one's
    former name."""

    name: str
    fields: Mapping[str, Field]
    parts: int = 1  # of a key
    renamed: bool = True


def _noun(name: str, parts: int = 1, *, renamed: bool = True, **fields: Field) -> Noun:
    return Noun(name, fields, parts, renamed)


_ANY = Field(TEXT)
# The order is that of the file, and of making: what others refer to comes first.
NOUNS: Final[Sequence[Noun]] = (
    _noun(
        "rate",
        currency=Field(TEXT, fixed=True), per_minute=Field(MONEY, needed=True), connect_fee=Field(MONEY),
        increment=_ANY, then_per_minute=Field(MONEY), then_after=Field(SPAN),
    ),
    _noun("schedule", hours=Field(TEXT, needed=True), timezone=_ANY, holidays=_ANY),
    _noun(
        "trunk",
        kind=Field(_one_of(TrunkKind), needed=True, fixed=True), hosts=Field(WORDS), port=Field(NUMBER),
        codecs=Field(WORDS), region=_ANY, auth=Field(_one_of(TrunkAuth)), username=_ANY, secret=Field(SECRET),
        transport=Field(_one_of(SipTransport)), srtp=Field(FLAG), nat=Field(FLAG), qualify=Field(SPAN),
        permit=Field(WORDS), caps=Field(CAPS),
    ),
    _noun(
        "seller",
        currency=Field(TEXT, fixed=True), timezone=Field(TEXT, fixed=True), status=Field(_one_of(Status)),
        credit_limit=Field(MONEY), low_balance=Field(MONEY), caps=Field(CAPS),
    ),
    _noun(
        "provider",
        kind=Field(_one_of(ProviderKind), needed=True, fixed=True), url=_ANY, key=Field(SECRET), model=_ANY,
        text_model=_ANY, voice=_ANY, deployment=_ANY, api_version=_ANY,
    ),
    _noun(
        "agent",
        providers=Field(WORDS, needed=True), voice=_ANY, language=_ANY, instructions=_ANY, greeting=_ANY,
        tools=Field(WORDS), max_duration=Field(SPAN), max_cost=Field(MONEY), silence=Field(SPAN),
        transcripts=Field(FLAG), retention_days=Field(NUMBER),
    ),
    _noun(
        "target",
        kind=Field(_one_of(TargetKind), needed=True), address=_ANY, agent=_ANY, ring=Field(SPAN),
        enabled=Field(FLAG), schedule=_ANY, rate=_ANY, payout=_ANY, caps=Field(CAPS),
    ),
    _noun(
        "campaign",
        seller=Field(TEXT, needed=True, fixed=True), rate=Field(TEXT, needed=True),
        status=Field(_one_of(CampaignStatus)), strategy=Field(_one_of(Strategy)),
        billable_threshold=Field(SPAN), max_attempts=Field(NUMBER), ring_budget=Field(SPAN),
        max_duration=Field(SPAN), schedule=_ANY, duplicate_window=Field(SPAN), anonymous_callers=_ANY,
        min_attestation=Field(_one_of(Attestation, empty=True)), caps=Field(CAPS),
    ),
    _noun(
        "rule", 2, renamed=False,
        priority=Field(NUMBER), weight=Field(NUMBER), enabled=Field(FLAG), rate=_ANY, payout=_ANY, caps=Field(CAPS),
    ),
    _noun("did", renamed=False, trunk=_ANY, campaign=_ANY, seller=_ANY, suspended=Field(FLAG), caps=Field(CAPS)),
    _noun("block", 2, renamed=False, reason=_ANY, expires=Field(INSTANT)),
)  # fmt: skip
BY_NAME: Final = {noun.name: noun for noun in NOUNS}

Key = tuple[str, ...]  # the parts of a name; of a block: for whom (`everybody`, `seller acme`), and the pattern
Values = dict[str, Any]  # by field


@dataclass(slots=True)
class Document:
    """An estate as a file says it. `settings` by name as texts; `system_caps` None: not said.

    `renamed`: former names by noun and key. `exported_ms`: when the file was written from an estate, if it was;
    `changed_ms`: the last change of that estate that is in it.
    """

    nouns: dict[str, dict[Key, Values]] = field(default_factory=lambda: {noun.name: {} for noun in NOUNS})
    settings: dict[str, str] = field(default_factory=dict)
    system_caps: tuple[CapLimit, ...] | None = None
    renamed: dict[tuple[str, Key], str] = field(default_factory=dict)
    exported_ms: int | None = None
    changed_ms: int | None = None


def read_value(path: str, form: Form, value: Any) -> Any:
    """A value of the file as the program counts it. Raises UsageError with the path and the value."""
    said = f"{path} is not understood" if form.hidden else f"{path} = {shown(value)}"
    try:
        return form.read(value)
    except _NotIt:
        raise UsageError("estate-value-invalid", said, f"expected {form.expected}") from None
    except CapConduitError as error:
        raise UsageError(error.slug, f"{said}: {error.message[:MAX_MESSAGE]}", error.hint) from None
