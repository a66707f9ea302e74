"""Every end of a call on every version: the right CDR, the right money, and nothing held."""

from __future__ import annotations

from typing import Any

import pytest

from capconduit.domain.model import Cdr as CdrRow
from capconduit.domain.rating import Tariff, charge
from capconduit.domain.settlement import CUT_TOLERANCE_MS
from capconduit.services import balances, caps, sellers
from capconduit.units import parse_money
from capconduit.vocab import CapMetric, CapScope, LedgerKind
from lab.wait import Watch, wait_for
from tests.asterisk.ends.catalogue import ENDS
from tests.asterisk.ends.conftest import Theatre
from tests.asterisk.ends.scenario import PLACES, VERSIONS, Cdr, End
from tests.asterisk.ends.stage import Run, Stage

FIRST_S = 400  # the first test may have to get a tree, and starts everything
TALK_MARGIN_MS = 1_000  # between what a phone on a busy machine saw and what the witness told

# What Asterisk says of these ends by itself.
EXPECTED_WARNINGS = (
    "transfer attempt blocked due to configuration",
    "endpoint 'nowhere' was not found",
    "no-such-host.invalid",
    "syntax error exception",
    "Error parsing/validating SDP body",
    "Session already DISCONNECTED",
    "Abnormal 'Gosub(capconduit-answered",  # the target left in the moment of its answer
    "app_dial.c: Unable to forward frametype: 2",  # early media for a caller who is leaving in that moment
    "res_agi.c: Connecting to",
    "res_agi.c: Couldn't connect",
)


def _in_order() -> list[Any]:
    """Disasters first, because they are played while the others go on; what lasts longest, last."""
    pairs = [(end, version) for end in ENDS.values() for version in end.versions]
    pairs.sort(key=lambda pair: (PLACES.index(pair[0].place), pair[0].lasts_s, -pair[1]))
    return [pytest.param(end, version, id=f"{end.name}-{version}") for end, version in pairs]


@pytest.mark.timeout(FIRST_S)
@pytest.mark.parametrize(("end", "version"), _in_order())
def test_end(theatre: Theatre, end: End, version: int) -> None:
    stage = theatre.stage(version, end.place)
    run = stage.runs[end.name]
    run.joined()
    cdr = stage.cdr(run)
    told = [expected for expected in (end.cdr_on(version), end.or_else) if expected and _says(cdr, expected)]
    assert told, f"{_summary(cdr)} instead of {end.cdr_on(version)}\n{run.play.transcript()}"
    heard = cdr.sip_code if end.heard is None else end.heard
    assert run.play.caller.heard in (heard if isinstance(heard, tuple) else (heard,)), run.play.transcript()
    _talk_is_right(cdr, run)
    _money_is_right(cdr, run, stage, theatre.watch)
    _nothing_is_held(cdr, run, stage)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("place", PLACES)
def test_afterwards_nothing_is_left(theatre: Theatre, version: int, place: str) -> None:
    stage = theatre.stage(version, place)
    for run in stage.runs.values():
        run.thread.join(run.end.lasts_s)
    floor = stage.floor
    floor.asterisk.wait_idle()
    wait_for(lambda: not floor.live(), "end of all calls")
    wait_for(lambda: not floor.asterisk.database("capconduit/unsettled"), "empty spool")
    assert floor.drift() == []
    assert [line for line in floor.asterisk.log_warnings() if not any(w in line for w in EXPECTED_WARNINGS)] == []


def _says(cdr: CdrRow, expected: Cdr) -> bool:
    wanted = (
        expected.dialstatus, expected.cause, expected.sip, expected.by, expected.witness, expected.reason,
        expected.attempts,
    )  # fmt: skip
    return all(
        got in (want if isinstance(want, tuple) else (want,)) for got, want in zip(_of(cdr), wanted, strict=True)
    )


def _of(cdr: CdrRow) -> tuple[object, ...]:
    return (
        cdr.dialstatus, cdr.hangup_cause, cdr.sip_code, cdr.hung_up_by, cdr.witness, cdr.reject_reason, cdr.attempts,
    )  # fmt: skip


def _summary(cdr: CdrRow) -> str:
    names = ("DIALSTATUS", "cause", "SIP", "by", "witness", "reason", "attempts")
    return ", ".join(f"{name} {value}" for name, value in zip(names, _of(cdr), strict=True))


def _talk_is_right(cdr: CdrRow, run: Run) -> None:
    """As long as the target that was connected saw it, by the clock of its phone."""
    if cdr.answered_ms is None:
        assert (cdr.talk_ms, cdr.dialstatus == "ANSWER") == (0, False)
        return
    assert run.play.talker is not None
    seen_ms = run.play.talker.talk_ms
    assert abs(cdr.talk_ms - seen_ms) <= TALK_MARGIN_MS, f"{cdr.talk_ms} ms, the phone saw {seen_ms} ms"


def _money_is_right(cdr: CdrRow, run: Run, stage: Stage, watch: Watch) -> None:
    """To the micro, by the talk of the CDR; the ledger has it once, and nothing is held."""
    funds = parse_money(run.end.funds)
    tariff = Tariff(cdr.connect_fee_micros, cdr.per_minute_micros, cdr.first_s, cdr.step_s, cdr.billable_threshold_ms)
    price = charge(tariff, cdr.talk_ms).price_micros if cdr.answered_ms is not None else 0
    written_off = 0
    if run.end.charged_s is not None:
        late_ms = cdr.talk_ms - run.end.charged_s * 1_000 - CUT_TOLERANCE_MS
        if late_ms <= 0:
            price = charge(tariff, run.end.charged_s * 1_000).price_micros
        else:  # the machine stood still as it should be cut: what money is there pays for that
            assert late_ms <= watch.stood_still_ms
            price, written_off = min(price, funds), max(price - funds, 0)
    assert (cdr.amount_micros, cdr.written_off_micros) == (price, written_off)
    _, entries = balances.ledger(stage.floor.office, run.seller)
    charged = [(e.amount_micros, e.call_id) for e in entries if e.kind is LedgerKind.CALL]
    assert charged == ([(-price, cdr.call_id)] if price else [])
    account = sellers.show_seller(stage.floor.office, run.seller).account
    assert (account.balance_micros, account.held_micros) == (funds - price, 0)


def _nothing_is_held(cdr: CdrRow, run: Run, stage: Stage) -> None:
    """No place of a cap, and no channel in Asterisk."""
    usage = caps.cap_usage(stage.floor.office, CapScope.CAMPAIGN, run.seller)
    assert [view.in_flight for view in usage] == [0] * len(usage)
    used = {view.cap.metric: view.used for view in usage}
    connected = int(cdr.answered_ms is not None)
    assert (used[CapMetric.CONCURRENT], used[CapMetric.CONNECTED], used[CapMetric.BILLABLE]) == (
        0,
        connected,
        connected,
    )
    assert used[CapMetric.SPEND] == cdr.amount_micros
    number = run.play.number
    wait_for(lambda: number not in stage.floor.asterisk.cli("core show channels concise"), f"end of {number}")
