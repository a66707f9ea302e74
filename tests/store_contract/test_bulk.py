"""Lists carried out as one change, on both engines: all or nothing, every wrong line told, nobody kept waiting long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from capconduit.domain.model import Audit, Did, Rate, Target
from capconduit.errors import ExitCode, Refused
from capconduit.services import audit, bulk, campaigns, caps, dids, rates, sellers, targets, trunks
from capconduit.services.bulk import BadLines, Line, Outcome, Problems
from capconduit.services.bulk_blocks import import_blocks
from capconduit.services.bulk_dids import import_dids
from capconduit.services.bulk_selling import import_rates, import_rules, import_targets
from capconduit.services.caps import cap_usage
from capconduit.services.office import Office
from capconduit.store import estates
from capconduit.store.sqltransaction import SqlTransaction
from capconduit.vocab import CapMetric, CapScope, DidStatus, RejectCode, TrunkKind
from tests.unit.estate_builder import EstateBuilder, Till, answer_of, route_of, settle_of, small_estate

Shop = Callable[[EstateBuilder], Till]
OWN = "+18005550100"  # of the small estate, assigned to solar
OTHER_TENANT = "+18005559900"


@pytest.fixture
def till(open_shop: Shop) -> Till:
    return open_shop(small_estate())


def listed(*rows: dict[str, str]) -> list[Line]:
    return [Line(place, cells) for place, cells in enumerate(rows, 2)]


def numbers(first: int, count: int, **cells: str) -> list[Line]:
    return listed(*({"number": f"+1212555{n:04d}", **cells} for n in range(first, first + count)))


def wrong(work: Callable[[], object]) -> list[tuple[int, str]]:
    with pytest.raises(BadLines) as caught:
        work()
    return [(problem.line, problem.error.slug) for problem in caught.value.problems]


def by_number(till: Till) -> dict[str, Did]:
    return {did.number: did for did in till.rows(Did)}


def test_a_thousand_numbers_are_one_change_and_take_calls(till: Till) -> None:
    office = till.office()
    with till.store.transaction(write=False) as tx:
        version = tx.estate_version()
    heard: list[tuple[int, int]] = []
    lines = numbers(0, 1_000, campaign="solar", trunk="carrier")
    assert import_dids(office, lines, tell=lambda done, total: heard.append((done, total))) == Outcome(1_000, 0, 0)
    with till.store.transaction(write=False) as tx:
        assert tx.estate_version() == version + 1
    assert heard[-1] == (1_000, 1_000)
    assert sorted(done for done, _ in heard) == list(range(200, 1_001, 200))
    till.dial(route_of("a", dnid="+12125550500"))
    entries = [entry for entry in till.rows(Audit) if entry.action == "did.add"]
    assert len(entries) == 1_000
    one = next(entry for entry in entries if entry.subject == "+12125550007")
    audit.undo(office, one.id)
    assert "+12125550007" not in by_number(till)


def test_an_engine_sees_more_changes_than_are_noted_one_by_one(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estates, "MOST_CHANGES", 10)
    till.dial(route_of("a"))  # it knows the estate of before
    import_dids(till.office(), numbers(0, 30, campaign="solar"))
    for place in (0, 9, 10, 29):
        till.dial(route_of(f"b{place}", dnid=f"+1212555{place:04d}", ani=f"+1310555{place:04d}"))
    import_dids(till.office(), numbers(0, 10, campaign=""), update=True)
    assert till.reject(route_of("c", dnid="+12125550009")).code is RejectCode.DID_UNASSIGNED


def test_the_audit_of_a_list_is_written_before_decisions_begin_to_wait(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    office, steps = till.office(), list[str]()
    insert, look = SqlTransaction.insert_all, SqlTransaction.estate_version

    def inserting(self: SqlTransaction, rows: Sequence[object]) -> None:
        steps.extend({type(row).__name__ for row in rows})
        insert(self, rows)

    def looking(self: SqlTransaction, *, for_change: bool = False) -> int:
        steps.extend(["lock"] if for_change else [])
        return look(self, for_change=for_change)

    monkeypatch.setattr(SqlTransaction, "insert_all", inserting)
    monkeypatch.setattr(SqlTransaction, "estate_version", looking)
    import_dids(office, numbers(0, 300))
    assert steps[:3] == ["Audit", "lock", "Did"]


def test_a_list_is_looked_through_again_where_the_estate_changed_meanwhile(till: Till) -> None:
    office, begun = till.office(), list[int]()

    def tell(done: int, total: int) -> None:
        if not begun:
            begun.append(total)
            other = threading.Thread(target=lambda: dids.add_did(office, meanwhile))
            other.start()
            other.join()

    meanwhile = "+12125550003"
    with pytest.raises(BadLines):
        import_dids(office, numbers(0, 300), tell=tell)
    assert len([entry for entry in till.rows(Audit) if entry.action == "did.add"]) == 1
    begun.clear()
    meanwhile = "+13105550177"
    assert import_dids(office, numbers(4, 300), tell=tell) == Outcome(300, 0, 0)
    added = [entry.subject for entry in till.rows(Audit) if entry.action == "did.add"]
    assert len(added) == len(set(added)) == 302


def test_every_wrong_line_is_told_and_nothing_is_added(till: Till) -> None:
    office = till.office()
    lines = listed(
        {"number": "+12125550100", "campaign": "solar"},
        {"number": "nobody", "campaign": ""},
        {"number": "+12125550101", "campaign": "sola"},
        {"number": "(212) 555-0100", "campaign": ""},
        {"number": OWN, "campaign": ""},
        {"number": "+12125550102", "campaign": "", "trunk": "nowhere"},
        {"number": "+12125550103", "campaign": "", "status": "assigned"},
        {"number": "+12125550104", "campaign": "solar", "status": "available"},
        {"number": "+12125550105", "seller": "acme", "status": "resting"},
    )
    before = by_number(till)
    problems = wrong(lambda: import_dids(office, lines))
    assert problems == [
        (3, "number-invalid"), (4, "campaign-not-found"), (5, "line-twice"), (6, "did-exists"), (7, "trunk-not-found"),
        (8, "status-invalid"), (9, "status-invalid"), (10, "status-invalid"),
    ]  # fmt: skip
    assert by_number(till) == before


def test_what_was_wrong_with_reading_is_told_with_the_rest(till: Till) -> None:
    problems = Problems()
    problems.add(7, Refused("cells-miscounted", "it has 3 cells"))
    told = wrong(lambda: import_dids(till.office(), listed({"number": "x"}), problems=problems))
    assert told == [(2, "number-invalid"), (7, "cells-miscounted")]
    assert len(by_number(till)) == 1


@pytest.mark.parametrize(("slug", "code"), [("number-invalid", ExitCode.USAGE), ("did-exists", ExitCode.REFUSED)])
def test_the_exit_code_says_whether_it_was_written_wrong(till: Till, slug: str, code: ExitCode) -> None:
    with pytest.raises(BadLines) as caught:
        import_dids(till.office(), listed({"number": OWN if slug == "did-exists" else "x"}))
    assert (caught.value.problems[0].error.slug, caught.value.exit_code) == (slug, code)


def test_an_update_changes_what_the_list_says_and_nothing_else(till: Till) -> None:
    office = till.office()
    sellers.add_seller(office, "globex")
    trunks.add_trunk(office, "second", kind=TrunkKind.PJSIP, hosts=["127.0.0.2"])
    campaigns.add_campaign(office, "wind", seller="globex", rate="std")
    import_dids(office, numbers(0, 4, campaign="solar", trunk="carrier"))
    dids.suspend_did(office, "+12125550003", suspended=True)
    again = import_dids(office, numbers(0, 5, trunk="second"), update=True)
    assert again == Outcome(1, 4, 0)
    rows = by_number(till)
    assert {rows[f"+1212555000{n}"].trunk_id for n in range(5)} == {trunks.show_trunk(office, "second").id}
    assert rows["+12125550000"].campaign_id == "solar"
    assert rows["+12125550003"].status is DidStatus.SUSPENDED
    assert import_dids(office, numbers(0, 5, trunk="second"), update=True) == Outcome(0, 0, 5)

    moved = import_dids(office, numbers(0, 2, campaign="wind"), update=True)
    assert moved == Outcome(0, 2, 0)
    assert dids.show_did(office, "+12125550001").seller == "globex"
    freed = import_dids(office, numbers(0, 1, campaign=""), update=True)
    assert freed == Outcome(0, 1, 0)
    assert dids.show_did(office, "+12125550000").did.status is DidStatus.AVAILABLE
    assert wrong(lambda: import_dids(office, numbers(1, 1, seller="acme"), update=True)) == [(2, "seller-mismatch")]
    assert wrong(lambda: import_dids(office, numbers(1, 1, campaign="wind", seller="acme"), update=True))
    import_dids(office, numbers(0, 1, seller="acme"), update=True)
    kept = import_dids(office, numbers(0, 1, campaign="", trunk="carrier"), update=True)
    assert kept == Outcome(0, 1, 0)
    assert dids.show_did(office, "+12125550000").seller == "acme"  # it was in no campaign, so it left none


def test_a_cap_follows_its_number_to_another_seller_s_time_zone(till: Till) -> None:
    """Neither zone's day lets more through than the limit: what was used is carried over."""
    office = till.office()
    sellers.add_seller(office, "globex", timezone="Asia/Tokyo")
    campaigns.add_campaign(office, "wind", seller="globex", rate="std")
    caps.set_caps(office, CapScope.DID, OWN, [caps.parse_limit(CapMetric.ATTEMPTS, "5/day")])
    till.dial(route_of("a"))
    till.ask(answer_of("a"))
    till.ask(settle_of("a", talk_ms=1_000))
    import_dids(office, listed({"number": OWN, "campaign": "wind"}), update=True)
    used = [usage.used for usage in cap_usage(office) if usage.cap.scope is CapScope.DID]
    assert used == [1]
    till.verify()


def test_a_number_of_another_tenant_is_told_by_its_line(open_shop: Shop) -> None:
    till = open_shop(small_estate())
    other = EstateBuilder(tenant_id="U")
    other.tenants[0] = type(other.tenants[0])(id="U", name="other", created_ms=other.now_ms, updated_ms=other.now_ms)
    with till.store.transaction(write=True) as tx:
        tx.insert(other.tenants[0])
    dids.add_did(till.office(tenant="other"), OTHER_TENANT)
    lines = listed({"number": "+12125550100"}, {"number": OTHER_TENANT})
    assert wrong(lambda: import_dids(till.office(), lines, update=True)) == [(3, "did-exists")]
    assert import_dids(till.office(), lines[:1]) == Outcome(1, 0, 0)


def test_what_changed_while_a_list_was_looked_through_is_seen(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody adds one of its numbers between the look and the change."""
    office, change = till.office(), Office.change
    looked: list[bool] = []

    def late(self: Office, *work: Any, **how: Any) -> Any:
        if not looked:
            looked.append(True)
            other = Till(till.store, seed=3)
            other.clock.wall_ms = till.clock.wall_ms
            dids.add_did(other.office(), "+12125550002")
        return change(self, *work, **how)

    monkeypatch.setattr(Office, "change", late)
    assert wrong(lambda: import_dids(office, numbers(0, 4))) == [(4, "did-exists")]
    assert sorted(by_number(till)) == ["+12125550002", OWN]


def test_a_dry_run_says_the_same_and_changes_nothing(till: Till) -> None:
    before = by_number(till)
    assert import_dids(till.office(dry_run=True), numbers(0, 3)) == Outcome(3, 0, 0)
    assert wrong(lambda: import_dids(till.office(dry_run=True), numbers(0, 1, trunk="x")))
    assert by_number(till) == before
    assert not [entry for entry in till.rows(Audit) if entry.action.startswith("did.")]


def test_a_list_has_an_end(till: Till, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_LINES", 2)
    monkeypatch.setattr(bulk.check_count, "__defaults__", (2,))
    with pytest.raises(Exception, match="too many"):
        import_dids(till.office(), numbers(0, 3))


# --- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count", "first", "how_many"),
    [
        ("+12125550100-+12125550199", None, "+12125550100", 100),
        ("(212) 555-0100..(212) 555-0104", None, "+12125550100", 5),
        ("+1 212-555-0100", None, "+12125550100", 1),
        ("+1 212-555-0100", 3, "+12125550100", 3),
    ],
)
def test_a_range_is_all_its_numbers(till: Till, text: str, count: int | None, first: str, how_many: int) -> None:
    views = dids.add_did_range(till.office(), text, count=count, trunk="carrier", campaign="solar")
    assert [view.did.number for view in views] == [f"+{int(first) + n}" for n in range(how_many)]
    assert {(view.campaign, view.seller, view.trunk) for view in views} == {("solar", "acme", "carrier")}


@pytest.mark.parametrize(
    ("text", "count", "slug"),
    [
        ("+12125550199-+12125550100", None, "range-invalid"),
        ("+12125550100-+442079460000", None, "range-invalid"),
        ("+12125550100-+12125550101", 2, "range-and-count"),
        ("+12125550100", 0, "range-invalid"),
        ("+12125550100", 10_001, "range-invalid"),
        ("+19999999999", 2, "range-invalid"),
        ("+12125550100-+x", None, "number-invalid"),
        ("+18005550099", 2, "did-exists"),
        ("+12125550100-+12125550101", None, "campaign-not-found"),
    ],
)
def test_what_is_no_range_adds_nothing(till: Till, text: str, count: int | None, slug: str) -> None:
    before = by_number(till)
    campaign = "nope" if slug == "campaign-not-found" else ""
    with pytest.raises(Exception) as caught:
        dids.add_did_range(till.office(), text, count=count, campaign=campaign)
    assert getattr(caught.value, "slug", caught.value) == slug
    assert by_number(till) == before


# --- rates, targets, rules -------------------------------------------------------------------------------------------


def test_rates_are_added_changed_and_left(till: Till) -> None:
    office = till.office()
    lines = listed(
        {"name": "a", "per_minute": "0.10", "increment": "6/6", "currency": "EUR", "connect_fee": ""},
        {"name": "b", "per_minute": "0.20 USD", "then_per_minute": "0.1", "then_after": "60s"},
    )
    assert import_rates(office, lines) == Outcome(2, 0, 0)
    assert wrong(lambda: import_rates(office, lines)) == [(2, "rate-exists"), (3, "rate-exists")]
    assert import_rates(office, lines, update=True) == Outcome(0, 0, 2)
    more = listed(
        {"name": "a", "per_minute": "0.11", "currency": "eur"},
        {"name": "b", "per_minute": "", "then_per_minute": "", "then_after": ""},
    )
    assert import_rates(office, more, update=True) == Outcome(0, 2, 0)
    kept = {rate.name: rate for rate in till.rows(Rate)}
    assert (kept["a"].per_minute_micros, kept["a"].first_s) == (110_000, 6)
    assert (kept["b"].per_minute_micros, kept["b"].then_after_s) == (200_000, 0)
    bad = listed(
        {"name": "a", "currency": "USD"}, {"name": "c"}, {"name": "d", "per_minute": "x"},
        {"name": "e/", "per_minute": "1"},
        {"name": "f", "per_minute": "1", "then_per_minute": "2"}, {"name": "f", "per_minute": "1"},
        {"name": "g", "per_minute": "1 EUR", "currency": "USD"},
    )  # fmt: skip
    assert wrong(lambda: import_rates(office, bad, update=True)) == [
        (2, "currency-stays"), (3, "cell-missing"), (4, "amount-invalid"), (5, "name-invalid"),
        (6, "second-step-incomplete"), (7, "line-twice"), (8, "currency-mismatch"),
    ]  # fmt: skip
    assert {rate.name: rate for rate in till.rows(Rate)} == kept


def test_blocks_of_a_list_hold_with_the_next_call(till: Till) -> None:
    office = till.office()
    lines = listed(
        {"pattern": "+1310*", "scope": "campaign", "name": "solar", "reason": "robots"},
        {"pattern": "+1415*", "expires": "2026-03-03"},
    )
    assert import_blocks(office, lines) == Outcome(2, 0, 0)
    assert till.reject(route_of("a", ani="+13105550100")).code is RejectCode.CALLER_BLOCKED
    assert wrong(lambda: import_blocks(office, lines)) == [(2, "block-exists"), (3, "block-exists")]
    till.clock.pass_ms(86_400_000)
    till.dial(route_of("b", ani="+14155550100"))
    assert import_blocks(office, listed({"pattern": "+1415*", "reason": "again"})) == Outcome(0, 1, 0)
    assert till.reject(route_of("c", ani="+14155550101")).code is RejectCode.CALLER_BLOCKED
    entry = next(e for e in till.rows(Audit) if (e.action, e.subject) == ("block.add", "+1310*"))
    audit.undo(office, entry.id)
    till.dial(route_of("d", ani="+13105550100"))


def test_targets_and_rules_are_added_changed_and_left(till: Till) -> None:
    office = till.office()
    rates.add_rate(office, "pay", per_minute_micros=50_000)
    lines = listed(
        {"name": "t1", "kind": "pjsip", "address": "sip:t1@127.0.0.1", "ring": "15s", "payout": "pay"},
        {"name": "t2", "kind": "extension", "address": "100@from-internal", "enabled": "no", "ring_ms": "9000"},
    )
    assert import_targets(office, lines) == Outcome(2, 0, 0)
    assert import_targets(office, lines, update=True) == Outcome(0, 0, 2)
    view = targets.show_target(office, "t2").target
    assert (view.enabled, view.ring_ms) == (False, 9_000)
    assert import_targets(office, listed({"name": "t1", "payout": ""}), update=True) == Outcome(0, 1, 0)
    assert targets.show_target(office, "t1").payout == ""
    bad = listed(
        {"name": "t3"}, {"name": "t4", "kind": "sip", "address": "x"},
        {"name": "t5", "kind": "pjsip", "address": "a b"},
        {"name": "t6", "kind": "pjsip", "address": "sip:a@b.example", "ring": "1s", "ring_ms": "1"},
        {"name": "t1", "enabled": "perhaps"},
    )  # fmt: skip
    told = wrong(lambda: import_targets(office, bad, update=True))
    assert [line for line, _ in told] == [2, 3, 4, 5, 6]
    assert len(till.rows(Target)) == 3

    rules = listed(
        {"campaign": "solar", "target": "t1", "priority": "2", "weight": "3"},
        {"campaign": "solar", "target": "t2", "enabled": "false"},
    )
    assert import_rules(office, rules) == Outcome(2, 0, 0)
    assert import_rules(office, rules, update=True) == Outcome(0, 0, 2)
    assert (
        import_rules(office, listed({"campaign": "solar", "target": "t1", "priority": "7"}), update=True).changed == 1
    )
    assert [v.rule.priority for v in targets.list_rules(office) if v.target == "t1"] == [7]
    bad = listed(
        {"campaign": "lunar", "target": "t1"}, {"campaign": "solar", "target": "t9"},
        {"campaign": "solar", "target": "t1", "priority": "1001"},
        {"campaign": "solar", "target": "t2", "weight": "-1"},
    )  # fmt: skip
    assert len(wrong(lambda: import_rules(office, bad, update=True))) == 4
    till.dial(route_of("a"))
    till.verify()
