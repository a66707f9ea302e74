"""Statements: the lines between the balances sum up to the micro, whatever the numbers; what does not is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capconduit.domain.model import LedgerEntry
from capconduit.domain.statements import (
    CallLine,
    ChargedCalls,
    Parts,
    differences,
    make_statement,
    tariff_words,
)
from capconduit.vocab import LedgerKind, StatementGroup

MICROS = st.integers(-(10**12), 10**12)
COUNTS = st.integers(0, 10**6)


def calls(campaign: str = "solar", micros: int = 200_000, **fields: object) -> ChargedCalls:
    row = ChargedCalls(campaign, True, 0, 200_000, 60, 60, 0, 0, 1, 60, 59_001, micros, micros, 0)
    return replace(row, **fields)  # type: ignore[arg-type]  # fields of the class


def entry(kind: LedgerKind, micros: int, at_ms: int = 0) -> LedgerEntry:
    return LedgerEntry(
        id=f"e{at_ms}", tenant_id="T", seller_id="acme", amount_micros=micros, kind=kind, idempotency_key="", actor="",
        reason="", call_id=None, corrects_id=None, balance_after_micros=0, created_ms=at_ms,
    )  # fmt: skip


groups = st.lists(
    st.builds(
        lambda campaign, price, count, billed, micros, known: calls(
            campaign if known else "", micros, per_minute_micros=price, calls=count, billed_s=billed, known=known
        ),
        st.sampled_from(["solar", "wind", ""]), st.sampled_from([1, 200_000]), COUNTS, COUNTS, st.integers(0, 10**12),
        st.booleans(),
    ),
    max_size=6,
)  # fmt: skip
others = st.lists(
    st.builds(entry, st.sampled_from([k for k in LedgerKind if k is not LedgerKind.CALL]), MICROS), max_size=5
)


@given(before=MICROS, after=MICROS, charged=groups, moved=others, by=st.sampled_from(StatementGroup))
def test_what_adds_up_has_no_difference(
    before: int, after: int, charged: list[ChargedCalls], moved: list[LedgerEntry], by: StatementGroup
) -> None:
    within = sum(e.amount_micros for e in moved) - sum(c.ledger_micros for c in charged)
    parts = Parts(before, within, after)
    made = make_statement(parts, charged, moved, by)
    assert not differences(made, parts, charged, before + within + after)
    assert made.opening_micros + sum(made.sum_of(kind) for kind in LedgerKind) == made.closing_micros
    assert sum(line.calls for line in made.calls) == sum(c.calls for c in charged)
    assert len({line.group for line in made.calls}) == len(made.calls)


@given(off=st.integers(-(10**9), 10**9).filter(bool))
def test_a_single_micro_that_is_missing_is_told(off: int) -> None:
    parts, charged, moved = Parts(1_000_000, -200_000, 0), [calls()], list[LedgerEntry]()
    made = make_statement(parts, charged, moved, StatementGroup.CAMPAIGN)
    assert [d.what for d in differences(made, parts, charged, 800_000 + off)] == ["the account's balance"]
    wrong = make_statement(replace(parts, within_micros=-200_000 + off), charged, moved, StatementGroup.CAMPAIGN)
    found = differences(wrong, parts, charged, 800_000)
    assert [(d.what, d.sums_micros - d.stands_micros) for d in found] == [("the closing balance", -off)]
    other = [calls(cdr_micros=200_000 + off)]
    assert len(differences(make_statement(parts, other, moved, StatementGroup.RATE), parts, other, 800_000)) == 1


def test_the_difference_is_told_in_words() -> None:
    parts = Parts(0, 0, 0)
    made = make_statement(parts, [], [], StatementGroup.CAMPAIGN)
    words = [d.words for d in differences(made, parts, [], 5)]
    assert words == ["the account's balance is 0.000005 and sums to 0.000000 (-0.000005 off)"]


def test_pruned_calls_are_one_group_at_the_end_and_are_not_compared() -> None:
    charged = [calls("", 5, known=False, cdr_micros=0), calls("wind"), calls("solar", per_minute_micros=1), calls()]
    parts = Parts(0, -600_005, 0)
    made = make_statement(parts, charged, [], StatementGroup.CAMPAIGN)
    assert [(line.group, line.calls) for line in made.calls] == [("solar", 2), ("wind", 1), ("", 1)]
    assert not differences(made, parts, charged, -600_005)
    by_rate = make_statement(parts, charged, [], StatementGroup.RATE)
    assert [line.group for line in by_rate.calls] == ["0.000001/min 60/60", "0.20/min 60/60", ""]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "0.20/min 60/60"),
        ({"connect_fee_micros": 50_000, "first_s": 30, "step_s": 6}, "0.05 + 0.20/min 30/6"),
        ({"then_after_s": 60, "then_per_minute_micros": 100_000}, "0.20/min 60/60, then 0.10/min after 60s"),
    ],
)
def test_a_price_in_words(fields: dict[str, int], words: str) -> None:
    assert tariff_words(calls(**fields)) == words


@pytest.mark.parametrize(("billed_s", "minutes"), [(0, "0.00"), (1, "0.02"), (60, "1.00"), (3_601, "60.02")])
def test_minutes_are_rounded_up_to_the_hundredth(billed_s: int, minutes: str) -> None:
    assert CallLine("", 1, billed_s, 0, 0, 0).billed_minutes == minutes
