"""Statements from real calls and entries, on both engines: the seller's months, to the micro, or none at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from capconduit.domain.model import Cdr, LedgerEntry
from capconduit.errors import DriftError, UsageError
from capconduit.services import balances, campaigns, rates
from capconduit.services.statements import MonthStatement, statement_of
from capconduit.store.store import Outdated
from capconduit.units import parse_instant
from capconduit.vocab import LedgerKind, StatementGroup
from tests.unit.estate_builder import DOLLAR, TENANT, EstateBuilder, Till, answer_of, route_of, settle_of, small_estate

Shop = Callable[[EstateBuilder], Till]


@pytest.fixture
def till(open_shop: Shop) -> Till:
    """T0 is 2026-03-02 12:00 UTC; acme lives in New York and has 100 dollars since then."""
    return open_shop(small_estate())


def at(till: Till, text: str) -> None:
    till.clock.wall_ms = parse_instant(text, now_ms=0, timezone="America/New_York")


def talk(till: Till, uniqueid: str, seconds: int) -> None:
    till.dial(route_of(uniqueid))
    till.ask(answer_of(uniqueid))
    till.ask(settle_of(uniqueid, talk_ms=seconds * 1_000))


def march(till: Till, by: StatementGroup = StatementGroup.CAMPAIGN) -> MonthStatement:
    return statement_of(till.office(), "acme", "2026-03", by)


def test_a_month_is_its_calls_and_entries_to_the_micro(till: Till) -> None:
    office = till.office()
    talk(till, "a", 61)
    talk(till, "b", 30)
    rates.add_rate(office, "dear", per_minute_micros=333_333, increment="1/1")
    campaigns.set_campaign(office, "solar", rate="dear")
    talk(till, "c", 7)
    posted = balances.post_adjustment(office, "acme", 5 * DOLLAR, reason="wire 1")
    balances.correct(office, posted.entry.id, -1, reason="a micro too many")
    made = march(till)
    whole = made.statement
    price = -(-7 * 333_333 // 60)
    assert (whole.opening_micros, whole.sum_of(LedgerKind.CALL)) == (0, -(600_000 + price))
    assert whole.sum_of(LedgerKind.ADJUSTMENT) == 105 * DOLLAR
    assert whole.sum_of(LedgerKind.CORRECTION) == -1
    assert whole.closing_micros == till.account().balance_micros == 105 * DOLLAR - 600_001 - price
    assert [(line.group, line.calls, line.billed_s) for line in whole.calls] == [("solar", 3, 187)]
    assert [(line.group, line.amount_micros) for line in march(till, StatementGroup.RATE).statement.calls] == [
        ("0.20/min 60/60", 600_000),
        ("0.333333/min 1/1", price),
    ]
    assert not made.is_over


def test_months_are_the_seller_s_own_and_follow_each_other(till: Till) -> None:
    at(till, "2026-03-31T23:59:59.999")
    talk(till, "a", 30)
    at(till, "2026-04-01T00:00")
    talk(till, "b", 30)
    at(till, "2026-05-10T00:00")
    assert statement_of(till.office(), "acme").month == "2026-04"
    statements = [statement_of(till.office(), "acme", month) for month in ("2026-02", "2026-03", "last", "this")]
    assert [len(s.statement.calls) for s in statements] == [0, 1, 1, 0]
    assert [s.is_over for s in statements] == [True, True, True, False]
    closings = [s.statement.closing_micros for s in statements]
    assert closings == [0, 100 * DOLLAR - 200_000, 100 * DOLLAR - 400_000, 100 * DOLLAR - 400_000]
    assert [s.statement.opening_micros for s in statements[1:]] == closings[:-1]
    assert statements[1].until_ms == statements[2].since_ms  # the month in which the clocks change is no longer


def test_rejected_calls_and_those_that_cost_nothing_are_no_lines(till: Till) -> None:
    till.reject(route_of("a", dnid="+18005559999"))
    till.dial(route_of("b"))
    till.ask(settle_of("b"))
    assert not march(till).statement.calls


def test_calls_whose_records_are_pruned_keep_their_money(till: Till) -> None:
    talk(till, "a", 30)
    with till.store.transaction(write=True) as tx:
        what = Outdated(Cdr, TENANT, before="Z")
        keys, _ = tx.find_outdated(what, (), 100)
        assert tx.drop_outdated(what, keys) == 1
    made = march(till).statement
    assert [(line.group, line.calls, line.billed_s, line.amount_micros) for line in made.calls] == [("", 1, 0, 200_000)]


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("UPDATE account SET balance_micros = balance_micros + 1 RETURNING 1", "the account's balance"),
        (
            "UPDATE ledger SET amount_micros = amount_micros - 1 WHERE kind = 'call' RETURNING 1",
            "the account's balance",
        ),
        ("UPDATE cdr SET amount_micros = amount_micros + 1 RETURNING 1", "what the calls of 'solar'"),
    ],
)
def test_what_does_not_add_up_is_refused_with_the_difference(till: Till, sql: str, what: str) -> None:
    talk(till, "a", 30)
    with till.store.transaction(write=True) as tx:
        assert len(tx.query(sql)) == 1
    with pytest.raises(DriftError) as caught:
        march(till)
    assert what in caught.value.message
    assert "0.000001 off" in caught.value.message


@pytest.mark.parametrize("month", ["2026-13", "2026-00", "March", "26-03", "2026-03-01", "", "1066-10"])
def test_what_is_no_month_is_refused(till: Till, month: str) -> None:
    with pytest.raises(UsageError):
        statement_of(till.office(), "acme", month)


def test_a_month_to_come_is_refused_in_the_seller_s_zone(till: Till) -> None:
    at(till, "2026-03-31T23:00")  # April already in UTC
    with pytest.raises(UsageError):
        statement_of(till.office(), "acme", "2026-04")
    assert statement_of(till.office(), "acme", "this").month == "2026-03"
    assert till.rows(LedgerEntry)
