"""Real SIP calls through a real Asterisk, decided and settled by the real daemon: the right CDR, money and places."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from collections.abc import Iterator
from math import ceil
from pathlib import Path

import pytest

from capconduit.domain.model import Cdr
from capconduit.domain.rating import Tariff, charge
from capconduit.domain.settlement import CUT_TOLERANCE_MS
from capconduit.services import calls
from capconduit.services.balances import ledger
from capconduit.vocab import CallState, CapMetric, HungUpBy
from lab.floor import NUMBER, PATIENT_DEADLINE_MS, PATIENT_GUARD_S, SELLER, Floor
from lab.sipp import Scenario, Sipp, SippFailed, dial
from lab.wait import Watch, wait_for

TALK_MARGIN_MS = 800  # beyond what SIPp saw: the ways of 200 and BYE on a busy machine, some 10 ms on an idle one
EARLY_MS = 500  # AMI dates an event when it tells of it: what it tells late of an answer is missing at the beginning

# What Asterisk says of a daemon that is away on purpose, and of Latin-1 bytes in a caller's name.
EXPECTED_WARNINGS = ("res_agi.c: Connecting to", "res_agi.c: Couldn't connect", "has invalid UTF-8 characters")


@pytest.fixture
def floor(asterisk_tree: Path) -> Iterator[Floor]:
    with Floor(asterisk_tree, deadline_ms=PATIENT_DEADLINE_MS, guard_s=PATIENT_GUARD_S) as floor:
        floor.fund("10")
        yield floor
        floor.asterisk.wait_idle()
        assert_at_rest(floor)


def assert_at_rest(floor: Floor) -> None:
    """Nothing is held, nothing occupied, everything adds up, and Asterisk had nothing to complain about."""
    wait_for(lambda: not floor.live(), "end of all calls")
    account = floor.balance().account
    assert account.held_micros == 0
    assert account.available_micros >= 0
    assert floor.drift() == []
    unexpected = [line for line in floor.asterisk.log_warnings() if not any(w in line for w in EXPECTED_WARNINGS)]
    assert unexpected == []


def price(cdr: Cdr) -> int:
    """What the call must cost, by its own talk time and rate."""
    tariff = Tariff(cdr.connect_fee_micros, cdr.per_minute_micros, cdr.first_s, cdr.step_s, cdr.billable_threshold_ms)
    return charge(tariff, cdr.talk_ms).price_micros if cdr.answered_ms else 0


def is_cut_at(cdr: Cdr, seconds: int, watch: Watch) -> None:
    """We ended it after so many seconds, which are billed; later only where the machine stood still in that moment."""
    assert cdr.hung_up_by is HungUpBy.SYSTEM
    assert cdr.talk_ms >= seconds * 1_000 - EARLY_MS
    if cdr.talk_ms <= seconds * 1_000 + CUT_TOLERANCE_MS:
        assert (cdr.billed_seconds, cdr.written_off_micros) == (seconds, 0)
    else:
        assert cdr.talk_ms <= seconds * 1_000 + CUT_TOLERANCE_MS + watch.stood_still_ms
        assert cdr.amount_micros + cdr.written_off_micros == price(cdr)


def is_up(floor: Floor) -> None:
    """Wait until the database knows a call that is up."""
    wait_for(lambda: [c for c in floor.live() if c.call.state is CallState.UP], "answered call")


def call_all(floor: Floor, count: int) -> tuple[int, int]:
    """`count` calls at once, which last until all are decided; how many were answered and how many refused."""
    with Sipp.uac(Scenario.UAC_WAIT_BYE, NUMBER, floor.ports.sip, calls=count, rate=count * 4) as uac:
        wait_for(lambda: len(calls.find_cdrs(floor.office)) + len(floor.live()) == count, f"{count} decisions")
        wait_for(lambda: all(c.call.state is CallState.UP for c in floor.live()), "answers")
        # Both legs: an answer that is known to the daemon may be on its way to the caller.
        wait_for(lambda: len(floor.asterisk.channels_up()) == 2 * len(floor.live()), "talk")
        floor.asterisk.cli("channel request hangup all")
        with contextlib.suppress(SippFailed):  # the refused ones are failures to SIPp
            uac.wait()
        counts = uac.counts()
    return counts.succeeded, counts.failed


def test_an_answered_call_has_exact_cdr_price_and_ledger(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER, ring_ms=400) as buyer:
        name = floor.target(buyer.uri)
        seen_ms = dial(NUMBER, floor.ports.sip, hold_ms=1_500)
        cdr = floor.cdr()
    assert cdr.answered_ms is not None
    assert 200 <= cdr.ring_ms <= cdr.answered_ms - cdr.arrived_ms
    assert (cdr.did, cdr.seller, cdr.campaign, cdr.target) == (NUMBER, "acme", "solar", name)
    assert (cdr.dialstatus, cdr.sip_code, cdr.reject_code) == ("ANSWER", 200, "")
    assert cdr.witness == "handler+ami"
    assert 1_500 - EARLY_MS <= cdr.talk_ms <= seen_ms + TALK_MARGIN_MS
    assert cdr.billed_seconds == ceil(cdr.talk_ms / 1_000)
    charged = cdr.billed_seconds * 10_000  # at 0.60 a minute
    assert cdr.amount_micros == price(cdr) == charged
    assert cdr.written_off_micros == 0
    _, entries = ledger(floor.office, SELLER)
    assert [(e.amount_micros, e.call_id) for e in entries] == [(-charged, cdr.call_id), (10_000_000, None)]
    assert floor.balance().account.balance_micros == cdr.balance_after_micros == 10_000_000 - charged


def test_a_caller_who_cancels_while_it_rings_pays_nothing(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_RING) as buyer:
        floor.target(buyer.uri)
        with Sipp.uac(Scenario.UAC_CANCEL, NUMBER, floor.ports.sip, hold_ms=300) as uac:
            uac.wait()
        cdr = floor.cdr()
    assert (cdr.dialstatus, cdr.sip_code, cdr.hung_up_by) == ("CANCEL", 487, HungUpBy.CALLER)
    assert (cdr.answered_ms, cdr.talk_ms, cdr.amount_micros) == (None, 0, 0)


def test_a_busy_target_leads_to_the_next_which_answers(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_REFUSE, code=486) as busy, Sipp.uas(Scenario.UAS_ANSWER) as free:
        floor.target(busy.uri, priority=1)
        second = floor.target(free.uri, priority=2)
        dial(NUMBER, floor.ports.sip, hold_ms=500)
        cdr = floor.cdr()
    assert (cdr.target, cdr.attempts, cdr.dialstatus) == (second, 2, "ANSWER")
    assert cdr.amount_micros == price(cdr) > 0


def test_nobody_answers(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_RING) as first, Sipp.uas(Scenario.UAS_RING) as second:
        floor.target(first.uri, priority=1, ring_s=1)
        floor.target(second.uri, priority=2, ring_s=1)
        dial(NUMBER, floor.ports.sip, expect=480)
        cdr = floor.cdr()
    assert (cdr.dialstatus, cdr.attempts, cdr.hangup_cause) == ("NOANSWER", 2, 19)
    assert (cdr.reject_reason, cdr.amount_micros) == ("targets_all_failed", 0)


def test_an_unknown_number_is_404(floor: Floor) -> None:
    dial("+18005550999", floor.ports.sip, expect=404)
    cdr = floor.cdr()
    assert (cdr.reject_reason, cdr.sip_code, cdr.did) == ("did_unknown", 404, "+18005550999")


def test_an_empty_balance_is_403(floor: Floor) -> None:
    floor.fund("-10")
    dial(NUMBER, floor.ports.sip, expect=403)
    assert floor.cdr().reject_reason == "balance_exhausted"


def test_a_full_concurrent_cap_is_486_and_free_again_after_the_hangup(floor: Floor) -> None:
    floor.cap(CapMetric.CONCURRENT, "1")
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        with Sipp.uac(Scenario.UAC_WAIT_BYE, NUMBER, floor.ports.sip) as first:
            is_up(floor)
            dial(NUMBER, floor.ports.sip, expect=486)
            wait_for(lambda: len(floor.asterisk.channels_up()) == 2, "talk")
            floor.asterisk.cli("channel request hangup all")
            first.wait()
        wait_for(lambda: not floor.live(), "settlement, which comes after the BYE")
        dial(NUMBER, floor.ports.sip, hold_ms=100)
        cdrs = floor.cdrs(3)
    assert Counter(c.reject_reason for c in cdrs) == {"": 2, "cap_reached:campaign:concurrent": 1}


def test_twenty_calls_at_once_against_a_cap_of_five_are_five(floor: Floor) -> None:
    floor.cap(CapMetric.CONCURRENT, "5")
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        assert call_all(floor, 20) == (5, 15)
        cdrs = floor.cdrs(20)
    assert Counter(c.reject_reason for c in cdrs) == {"": 5, "cap_reached:campaign:concurrent": 15}


def test_thirty_calls_at_once_on_money_for_one_are_one(floor: Floor) -> None:
    floor.fund("-9.40")  # 0.60 is what one call holds at first, and pays for a minute
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        assert call_all(floor, 30) == (1, 29)
        cdrs = floor.cdrs(30)
    rejects = Counter(c.reject_reason for c in cdrs)
    assert rejects == {"": 1, "balance_held_by_other_calls": 29}
    (paid,) = (cdr for cdr in cdrs if not cdr.reject_reason)
    assert paid.amount_micros == price(paid) > 0
    assert floor.balance().account.balance_micros == 600_000 - paid.amount_micros


def test_a_call_ends_when_its_money_does(floor: Floor) -> None:
    floor.setting("funding_slice_s", "5")
    floor.fund("-9.88")
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer, Watch() as watch:
        floor.target(buyer.uri)
        dial(NUMBER, floor.ports.sip, ended_by="us")
        cdr = floor.cdr()
    is_cut_at(cdr, 12, watch)
    assert cdr.amount_micros == 120_000
    assert floor.balance().account.balance_micros == 0


def test_money_that_comes_while_a_call_lasts_extends_it(floor: Floor) -> None:
    floor.setting("funding_slice_s", "6")
    floor.fund("-9.94")
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, floor.ports.sip, hold_ms=8_000) as uac:
            is_up(floor)
            floor.fund("1")
            uac.wait()
            seen_ms = uac.talk_ms()
        cdr = floor.cdr()
    assert 8_000 - EARLY_MS <= cdr.talk_ms <= seen_ms + TALK_MARGIN_MS
    assert cdr.hung_up_by is HungUpBy.CALLER
    assert cdr.amount_micros == price(cdr)


def test_without_the_daemon_a_caller_gets_the_fallback_and_the_next_call_works(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        assert floor.stop_daemon() == 0
        dial(NUMBER, floor.ports.sip, expect=500)
        floor.start_daemon()
        dial(NUMBER, floor.ports.sip, hold_ms=200)
        assert floor.cdr().dialstatus == "ANSWER"


def test_a_call_that_ends_while_the_daemon_is_dead_is_settled_from_asterisks_database(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, floor.ports.sip, hold_ms=5_000) as uac:
            is_up(floor)
            floor.stop_daemon(signal.SIGKILL)
            uac.wait()
            seen_ms = uac.talk_ms()
        floor.asterisk.wait_idle()
        assert len(floor.live()) == 1
        floor.start_daemon()
        cdr = floor.cdr()
        wait_for(lambda: not floor.asterisk.database("capconduit/unsettled"), "empty spool")
    assert cdr.witness == "spool+ami"  # AMI saw the answer, the spool told the end
    assert 5_000 - EARLY_MS <= cdr.talk_ms <= seen_ms + TALK_MARGIN_MS
    assert cdr.amount_micros == price(cdr) == ceil(cdr.talk_ms / 1_000) * 10_000


@pytest.mark.parametrize(("ended_by", "who"), [("caller", HungUpBy.CALLER), ("us", HungUpBy.TARGET)])
def test_who_hung_up_is_right(floor: Floor, ended_by: str, who: HungUpBy) -> None:
    scenario = Scenario.UAS_ANSWER if ended_by == "caller" else Scenario.UAS_HANG_UP
    with Sipp.uas(scenario, hold_ms=400) as buyer:
        floor.target(buyer.uri)
        dial(NUMBER, floor.ports.sip, hold_ms=400, ended_by=ended_by)
        assert floor.cdr().hung_up_by is who


@pytest.mark.parametrize(
    "name",
    [
        b'"a \\"quoted\\", name"',
        b'"${SHELL(id)} $[1+1]"',
        b'"Caf\xe9 M\xfcller"',
        b'"),1,Hangup( ; drop"',
        b'"x, y, +19995550199, z"',
    ],
)
def test_a_hostile_caller_name_does_no_harm(floor: Floor, name: bytes) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        dial(NUMBER, floor.ports.sip, hold_ms=200, name=name)
        cdr = floor.cdr()
    assert (cdr.dialstatus, cdr.did, cdr.caller_e164) == ("ANSWER", NUMBER, "+12125550147")
    assert "uid=" not in cdr.caller_name


def test_calls_of_a_killed_asterisk_are_settled_once_it_is_back(floor: Floor) -> None:
    with Sipp.uas(Scenario.UAS_ANSWER) as buyer:
        floor.target(buyer.uri)
        with Sipp.uac(Scenario.UAC_HANG_UP, NUMBER, floor.ports.sip, hold_ms=60_000):
            is_up(floor)
            floor.asterisk.kill9()
            floor.asterisk.start()
            cdr = floor.cdr()
    assert cdr.witness.startswith(("asterisk-restart", "reconciler"))
    assert cdr.dialstatus == "ANSWER"
    assert cdr.amount_micros == price(cdr)
