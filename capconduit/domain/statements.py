"""A seller's statement of a month: what there was, what moved, what is left, and whether it adds up to the micro."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.domain.model import LedgerEntry
from capconduit.units import MS_PER_SECOND, ceil_div, format_micros
from capconduit.vocab import LedgerKind, StatementGroup

SECONDS_PER_MINUTE: Final = 60
UNKNOWN: Final = ""  # the group of calls whose records were pruned: only their money is known


@dataclass(frozen=True, slots=True)
class ChargedCalls:
    """Calls of one campaign and one price that were charged, summed.

    `ledger_micros` is what the account paid by its ledger, `cdr_micros` by the calls' records: the same, or something
    is wrong. `known` False: the records were pruned; all but the count and `ledger_micros` is empty then.
    """

    campaign: str
    known: bool
    connect_fee_micros: int
    per_minute_micros: int
    first_s: int
    step_s: int
    then_after_s: int
    then_per_minute_micros: int
    calls: int
    billed_s: int
    talk_ms: int
    ledger_micros: int
    cdr_micros: int
    written_off_micros: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The sums of a seller's ledger before a span, in it and after it (micros)."""

    before_micros: int
    within_micros: int
    after_micros: int


@dataclass(frozen=True, slots=True)
class CallLine:
    """The calls of one group. `amount_micros` is what they cost: positive. `known` False: records of some were pruned,
    so how long they were, and what was written off, nobody knows."""

    group: str
    calls: int
    billed_s: int
    talk_ms: int
    amount_micros: int
    written_off_micros: int
    known: bool = True

    @property
    def billed_minutes(self) -> str:
        """Billed minutes with two decimals, rounded up."""
        hundredths = ceil_div(self.billed_s * 100, SECONDS_PER_MINUTE)
        return f"{hundredths // 100}.{hundredths % 100:02d}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A seller's span: `opening + Σ others − Σ calls = closing`, to the micro (see `differences`)."""

    opening_micros: int
    closing_micros: int
    calls: Sequence[CallLine]
    others: Sequence[LedgerEntry]  # adjustments, fees and corrections, the oldest first

    def sum_of(self, kind: LedgerKind) -> int:
        """What entries of a kind moved, with its sign (micros)."""
        if kind is LedgerKind.CALL:
            return -sum(line.amount_micros for line in self.calls)
        return sum(entry.amount_micros for entry in self.others if entry.kind is kind)

    @property
    def total_calls(self) -> CallLine:
        """All calls as one line."""
        return _summed("", self.calls)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two numbers that must be equal and are not (micros)."""

    what: str
    stands_micros: int
    sums_micros: int

    @property
    def words(self) -> str:
        """How it is told."""
        off = format_micros(self.sums_micros - self.stands_micros)
        return (
            f"{self.what} is {format_micros(self.stands_micros)} and sums to {format_micros(self.sums_micros)}"
            f" ({off} off)"
        )


def make_statement(
    parts: Parts, calls: Iterable[ChargedCalls], others: Sequence[LedgerEntry], by: StatementGroup
) -> Statement:
    """The statement of a span from the sums of its ledger, its charged calls and its other entries."""
    groups: dict[str, list[CallLine]] = {}
    for each in calls:
        name = _group(each, by)
        line = CallLine(
            name, each.calls, each.billed_s, each.talk_ms, each.ledger_micros, each.written_off_micros, each.known
        )
        groups.setdefault(name, []).append(line)
    lines = [_summed(name, found) for name, found in sorted(groups.items(), key=lambda item: (not item[0], item[0]))]
    opening = parts.before_micros
    return Statement(opening, opening + parts.within_micros, lines, others)


def differences(
    statement: Statement, parts: Parts, calls: Iterable[ChargedCalls], balance_micros: int
) -> Sequence[Difference]:
    """What does not add up: the lines of the statement, each group's records, the account. Nothing where all does."""
    found = []
    moved = statement.opening_micros + sum(statement.sum_of(kind) for kind in LedgerKind)
    whole = parts.before_micros + parts.within_micros + parts.after_micros
    for what, stands, sums in (
        ("the closing balance", statement.closing_micros, moved),
        ("the account's balance", balance_micros, whole),
    ):
        if stands != sums:
            found.append(Difference(what, stands, sums))
    for each in calls:
        if each.known and each.ledger_micros != each.cdr_micros:
            what = f"what the calls of {each.campaign!r} at {tariff_words(each)} paid"
            found.append(Difference(what, each.ledger_micros, each.cdr_micros))
    return found


def tariff_words(each: ChargedCalls) -> str:
    """A price in words: `0.20/min 60/60`, `0.05 + 0.20/min 30/6, then 0.10/min after 60s`."""
    fee = f"{format_micros(each.connect_fee_micros, trim=True)} + " if each.connect_fee_micros else ""
    text = f"{fee}{format_micros(each.per_minute_micros, trim=True)}/min {each.first_s}/{each.step_s}"
    if each.then_after_s:
        text += f", then {format_micros(each.then_per_minute_micros, trim=True)}/min after {each.then_after_s}s"
    return text


def _group(each: ChargedCalls, by: StatementGroup) -> str:
    if not each.known:
        return UNKNOWN
    return each.campaign if by is StatementGroup.CAMPAIGN else tariff_words(each)


def _summed(group: str, lines: Sequence[CallLine]) -> CallLine:
    return CallLine(
        group,
        sum(line.calls for line in lines),
        sum(line.billed_s for line in lines),
        sum(line.talk_ms for line in lines),
        sum(line.amount_micros for line in lines),
        sum(line.written_off_micros for line in lines),
        all(line.known for line in lines),
    )


def talk_seconds(line: CallLine) -> int:
    """Whole seconds of talk, rounded up."""
    return ceil_div(line.talk_ms, MS_PER_SECOND)
