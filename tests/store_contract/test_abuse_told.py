"""Abuse that is told and blocked, on both engines: one event, one block with an end, audited, taken away when over."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from capconduit.domain.abuse import Finding
from capconduit.domain.model import Audit, Block, Event
from capconduit.services.abuse import forget, office_of, over, tell
from capconduit.services.blocks import Where, add_block
from capconduit.services.settings import set_setting
from capconduit.vocab import AbuseKind, CapScope, EventKind, RejectCode
from fastagi import abuse
from fastagi.abuse import AbuseWatch
from tests.unit.estate_builder import CALLER, EstateBuilder, Till, route_of, small_estate

HOUR_MS = 3_600_000
Shop = Callable[[EstateBuilder], Till]


class Watched:
    """A shop with a running engine and whoever watches it."""

    def __init__(self, till: Till) -> None:
        self.till = till
        self.watch = AbuseWatch(till.engine, till.store, till.clock)
        till.engine.start()
        self._calls = 0

    def setting(self, name: str, value: str) -> None:
        set_setting(self.till.office(), name, value)

    def call(self, dnid: str = "+18005550100", **fields: Any) -> str:
        """A call that arrives; the reason of its reject, or `dial`."""
        self._calls += 1
        answer = self.till.engine.ask(self.watch.counted(route_of(f"u{self._calls}", dnid, **fields)), 10)
        return str(getattr(answer, "reason", "dial"))

    def scan(self, count: int = 30, caller: str = CALLER) -> None:
        """One caller dials numbers that are not ours, one after the other."""
        for number in range(count):
            self.call(f"+1900555{number:04d}", ani=caller)
        self.watch.look()

    def events(self) -> list[dict[str, Any]]:
        rows: Sequence[Event] = self.till.rows(Event)
        found = [row for row in rows if row.kind is EventKind.ABUSE_DETECTED]
        return [json.loads(row.data) | {"subject": row.subject} for row in sorted(found, key=lambda row: row.id)]


@pytest.fixture
def watched(open_shop: Shop) -> Iterator[Watched]:
    one = Watched(open_shop(small_estate()))
    yield one
    one.till.engine.stop(10)


def finding(caller: str, kind: AbuseKind = AbuseKind.JUNK) -> Finding:
    return Finding(kind, caller, 20, 20, 300, {"did": "+18005550100", "trunk": "carrier"})


def test_a_scan_is_one_event_and_blocks_nobody_unless_somebody_says_so(watched: Watched) -> None:
    watched.scan(60)
    watched.scan(60)
    assert watched.events() == [
        {
            "subject": CALLER, "abuse": "did_sequence", "count": 5, "limit": 5, "window_s": 300,
            "did": "+19005550004", "trunk": "", "blocked_until": None,
        }
    ]  # fmt: skip
    assert watched.till.rows(Block) == []
    assert watched.call() == "dial"


def test_a_scanner_is_blocked_for_a_while_and_audited(watched: Watched) -> None:
    watched.setting("abuse_block", "1h")
    watched.scan()
    (block,) = watched.till.rows(Block)
    now_ms = watched.till.clock.now_ms()
    assert (block.pattern, block.scope, block.expires_ms) == (CALLER, CapScope.SYSTEM, now_ms + HOUR_MS)
    assert block.reason == "abuse: did_sequence, 5 in 300 s"
    audits = [row for row in watched.till.rows(Audit) if row.action == "block.add"]
    assert [(row.actor, row.subject) for row in audits] == [("capconduit", CALLER)]
    assert watched.events()[0]["blocked_until"] == "2026-03-02T13:00:00.000Z"
    assert watched.call() == RejectCode.CALLER_BLOCKED
    watched.till.clock.pass_ms(HOUR_MS)
    assert watched.call() == "dial"
    watched.scan()
    assert len(watched.events()) == 2, "who goes on after the block is found again"
    (again,) = watched.till.rows(Block)
    assert again.expires_ms == now_ms + 2 * HOUR_MS


def test_a_caller_above_the_rate_is_rejected_with_a_record(watched: Watched) -> None:
    watched.setting("caller_max_calls", "3")
    watched.call("+19005550000")  # the daemon knows of the setting with the next decision
    watched.till.clock.pass_ms(20_000)
    assert [watched.call() for _ in range(5)] == ["dial"] * 3 + ["cps_limit"] * 2
    assert watched.call(ani="+12125550199") == "dial"
    watched.till.clock.pass_ms(11_000)
    assert watched.call() == "dial"
    watched.till.verify()


def test_a_block_of_the_operator_stays_as_it_is(watched: Watched) -> None:
    office = watched.till.office()
    add_block(office, CALLER, Where(), reason="by hand")
    told = tell(office_of(watched.till.store, watched.till.clock, "default"), [finding(CALLER)], block_ms=1, most=9)
    assert [one.blocked_until_ms for one in told] == [None]
    (block,) = watched.till.rows(Block)
    assert (block.reason, block.expires_ms) == ("by hand", None)


@pytest.mark.parametrize("caller", ["+1*", "*", "+1212555????", "?", "+", "a b", "'; DROP TABLE block; --", "x" * 500])
def test_what_no_caller_can_be_blocks_nobody(watched: Watched, caller: str) -> None:
    """A caller who writes a wildcard for a number must not block a country."""
    office = office_of(watched.till.store, watched.till.clock, "default")
    (told,) = tell(office, [finding(caller)], block_ms=HOUR_MS, most=9)
    assert told.blocked_until_ms is None
    assert watched.till.rows(Block) == []
    assert len(watched.events()) == 1


def test_a_number_of_another_region_blocks_nobody_else(watched: Watched) -> None:
    """What was no number on its trunk may be somebody's number in the default region."""
    office = office_of(watched.till.store, watched.till.clock, "default")
    (told,) = tell(office, [finding("2125550147")], block_ms=HOUR_MS, most=9)
    assert told.blocked_until_ms is None
    assert [b.pattern for b in watched.till.rows(Block)] == []
    (told,) = tell(office, [finding("1001")], block_ms=HOUR_MS, most=9)
    assert [b.pattern for b in watched.till.rows(Block)] == ["1001"]


def test_trunks_and_ranges_are_never_blocked(watched: Watched) -> None:
    office = office_of(watched.till.store, watched.till.clock, "default")
    found = [
        finding("carrier", kind)
        for kind in AbuseKind
        if kind in (AbuseKind.CALLER_RANGE, AbuseKind.TRUNK_SPIKE, AbuseKind.TRUNK_JUNK, AbuseKind.TRUNK_SHORT_CALLS)
    ]
    assert [t.blocked_until_ms for t in tell(office, found, block_ms=HOUR_MS, most=9)] == [None] * 4
    assert watched.till.rows(Block) == []


def test_blocks_are_so_many_a_minute(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abuse, "BLOCKS_A_MINUTE", 3)
    watched.setting("abuse_block", "2h")
    watched.setting("abuse_sequence", "2")
    for number in range(5):
        watched.scan(2, caller=f"+1212555{number * 111:04d}")
    assert len(watched.events()) == 5
    assert len(watched.till.rows(Block)) == 3
    watched.till.clock.pass_ms(60_000)
    watched.scan(2, caller="+12125559999")
    assert len(watched.till.rows(Block)) == 4


def test_blocks_that_are_over_go_and_those_of_operators_stay(watched: Watched) -> None:
    till = watched.till
    add_block(till.office(), "+12125550001", Where(), reason="by hand", expires_ms=till.clock.now_ms() + 1_000)
    add_block(till.office(), "+12125550003", Where(), reason="abuse: by hand, for ever")
    tell(office_of(till.store, till.clock, "default"), [finding("+12125550002")], block_ms=60_000, most=9)
    office = office_of(till.store, till.clock, "default")
    assert over(till.rows(Block), till.clock.now_ms()) == []
    till.clock.pass_ms(abuse.FORGET_EVERY_MS + 1)
    watched.call()
    watched.watch.look()
    assert {b.pattern for b in till.rows(Block)} == {"+12125550001", "+12125550003"}
    assert forget(office, till.rows(Block)) == 0


def test_what_was_found_at_a_tenant_that_is_gone_is_dropped(watched: Watched) -> None:
    watched.watch._untold.append(("no-such-tenant", finding(CALLER)))
    watched.scan()
    assert [one["abuse"] for one in watched.events()] == ["did_sequence"]
