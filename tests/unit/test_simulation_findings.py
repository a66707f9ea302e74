"""What the simulation has found in the domain, each as small as it gets."""

from __future__ import annotations

from capconduit.domain.calls import LegTimes, SettleReport
from capconduit.vocab import DialStatus
from tests.unit.estate_builder import NODE, T0, PureTill, answer_of, route_of, small_estate

DAY_MS = 86_400_000


def concluded(ended_ms: int, **fields: object) -> SettleReport:
    """An end that nobody told: it was concluded, and put at `ended_ms` of the wall clock."""
    values = {"dialstatus": DialStatus.ANSWER, "witness": "asterisk-restart", **fields}
    return SettleReport(node=NODE, uniqueid="u1", ended_ms=ended_ms, **values)  # type: ignore[arg-type]


def talking() -> PureTill:
    """A call that was answered at T0 and is funded for a minute."""
    till = PureTill(small_estate())
    till.ask(route_of())
    till.ask(answer_of(answered_ms=T0))
    return till


def test_a_clock_that_is_set_forward_bills_no_more_than_was_funded() -> None:
    """Seed 255: a call of a minute was settled by a clock that had been set a day ahead, for a day of talk."""
    till = talking()
    till.clock.pass_ms(DAY_MS)
    till.ask(concluded(T0 + DAY_MS))
    assert till.cdr().talk_ms == 60_000
    assert till.cdr().amount_micros == 200_000
    assert till.cdr().written_off_micros == 0


def test_an_end_that_was_concluded_within_the_funding_stays_where_it_is() -> None:
    till = talking()
    till.ask(concluded(T0 + 12_345))
    assert till.cdr().talk_ms == 12_345


def test_a_clock_that_is_set_back_bills_no_talk_that_nobody_measured() -> None:
    till = talking()
    till.ask(concluded(T0 - DAY_MS))
    assert till.cdr().talk_ms == 0


def test_talk_that_was_measured_is_not_bounded_by_the_funding() -> None:
    """An overrun that somebody measured is charged, or written off where everybody can see it."""
    till = talking()
    leg = LegTimes(answered_ms=T0, ended_ms=T0 + 65_000, clock_talk_ms=65_000)
    till.ask(concluded(T0 + 65_000, leg=leg, answered_for_ms=65_000, witness="handler"))
    assert till.cdr().talk_ms == 65_000
    assert till.cdr().amount_micros == 400_000
