"""Taking changes back on both databases: all of it or nothing, and never what was changed again since."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capconduit.domain.model import Audit, Cap, RuleState, Setting, TargetState
from capconduit.errors import NotFound, Refused
from capconduit.services import (
    agents,
    audit,
    balances,
    blocks,
    campaigns,
    caps,
    dids,
    providers,
    rates,
    schedules,
    sellers,
    targets,
    trunks,
)
from capconduit.services.office import Office
from capconduit.services.settings import set_setting
from capconduit.vocab import CapMetric, CapScope, ProviderKind, Strategy, TargetKind, TrunkKind
from tests.store_contract.test_books_written import dump
from tests.unit.estate_builder import FakeClock, Till

BOOKKEEPING = ("Audit", "Event")


@pytest.fixture
def office(shop: Till) -> Office:
    """The small estate, and things that nobody uses yet."""
    made = shop.office()
    rates.add_rate(made, "spare", per_minute_micros=1)
    targets.add_target(made, "spare", kind=TargetKind.PJSIP, address="sip:x@192.0.2.9")
    providers.add_provider(made, "spare", kind=ProviderKind.OLLAMA, model="m")
    agents.add_agent(made, "spare", providers=["spare"])
    later(made)
    return made


def last(office: Office, action: str) -> str:
    """The id of the newest entry of an action; the clock goes on, so that the next one is newer."""
    found = audit.list_audit(office, action=action)[0].id
    later(office)
    return found


def later(office: Office) -> None:
    """A second goes by."""
    assert isinstance(office.clock, FakeClock)
    office.clock.pass_ms(1_000)


def state(office: Office) -> dict[str, list[str]]:
    """Everything but the bookkeeping, without the instants of the last change."""
    found: Any = dump(office.store)  # type: ignore[arg-type]
    return {
        name: sorted(re.sub(r"updated_ms=\d+", "", str(row)) for row in rows)
        for name, rows in found.items()
        if name not in BOOKKEEPING
    }


WEEKLY = caps.parse_limit(CapMetric.BILLABLE, "9/week")
CHANGES: list[tuple[str, Callable[[Office], object]]] = [
    ("rate.add", lambda o: rates.add_rate(o, "new", per_minute_micros=5)),
    ("rate.set", lambda o: rates.set_rate(o, "spare", per_minute_micros=5)),
    ("rate.remove", lambda o: rates.remove_rate(o, "spare")),
    ("schedule.add", lambda o: schedules.add_schedule(o, "office", hours="Mon-Fri 09:00-17:00")),
    ("trunk.add", lambda o: trunks.add_trunk(o, "new", kind=TrunkKind.PJSIP, hosts=["192.0.2.77"])),
    ("seller.add", lambda o: sellers.add_seller(o, "new")),
    ("seller.set", lambda o: sellers.suspend_seller(o, "acme", suspended=True)),
    ("target.add", lambda o: targets.add_target(o, "new", kind=TargetKind.PJSIP, address="sip:y@192.0.2.9")),
    ("target.set", lambda o: targets.set_target(o, "spare", ring_ms=5_000)),
    ("target.remove", lambda o: targets.remove_target(o, "spare")),
    ("provider.add", lambda o: providers.add_provider(o, "new", kind=ProviderKind.OLLAMA, model="m")),
    ("provider.set", lambda o: providers.set_provider(o, "spare", model="n")),
    ("agent.add", lambda o: agents.add_agent(o, "new", providers=["spare"])),
    ("agent.set", lambda o: agents.set_agent(o, "spare", transcripts=True)),
    ("agent.remove", lambda o: agents.remove_agent(o, "spare")),
    ("target.set", lambda o: targets.set_target(o, "spare", kind=TargetKind.AGENT, agent="spare")),
    ("campaign.set", lambda o: campaigns.set_campaign(o, "solar", strategy=Strategy.WEIGHTED)),
    ("campaign.add", lambda o: campaigns.add_campaign(o, "new", seller="acme", rate="spare")),
    ("rule.add", lambda o: targets.add_rule(o, "solar", "spare")),
    ("did.add", lambda o: dids.add_did(o, "+18005550199", campaign="solar")),
    ("block.add", lambda o: blocks.add_block(o, "+1212555*", blocks.Where())),
    ("setting.set", lambda o: set_setting(o, "default_max_attempts", "3")),
    ("cap.set", lambda o: caps.set_caps(o, CapScope.CAMPAIGN, "solar", [WEEKLY])),
]  # fmt: skip


@pytest.mark.parametrize(("action", "change"), CHANGES, ids=[action for action, _ in CHANGES])
def test_what_is_undone_is_as_if_it_had_not_been(
    office: Office, action: str, change: Callable[[Office], object]
) -> None:
    before = state(office)
    change(office)
    assert state(office) != before
    undone = audit.undo(office, last(office, action))
    after = state(office)
    if action == "cap.set":  # its counter stays until it is pruned
        after["Counter"] = before["Counter"]
    assert after == before
    assert undone.action == action
    [told] = audit.list_audit(office, action=audit.UNDONE)
    assert told.subject == undone.id


def test_undoing_twice_and_after_another_change_is_refused(office: Office) -> None:
    campaigns.set_campaign(office, "solar", strategy=Strategy.WEIGHTED)
    entry = last(office, "campaign.set")
    campaigns.set_campaign(office, "solar", max_attempts=1)
    with pytest.raises(Refused, match="changed again since"):
        audit.undo(office, entry)
    assert campaigns.show_campaign(office, "solar").campaign.strategy is Strategy.WEIGHTED
    newest = last(office, "campaign.set")
    audit.undo(office, newest)
    with pytest.raises(Refused, match="changed again since"):
        audit.undo(office, newest)
    audit.undo(office, entry)


def test_the_caps_former_limit_comes_back_and_counts_what_it_counted(office: Office) -> None:
    for limit in ("5/day", "7/day"):
        later(office)
        caps.set_caps(office, CapScope.TARGET, "spare", [caps.parse_limit(CapMetric.ATTEMPTS, limit)])
    audit.undo(office, last(office, "cap.set"))
    [cap] = [v.cap for v in caps.cap_usage(office, CapScope.TARGET, "spare")]
    assert cap.limit_value == 5
    assert not caps.verify_caps(office)


def test_a_target_and_a_rule_that_come_back_can_be_locked(office: Office) -> None:
    def states(kind: type[Any]) -> int:
        return office.read(lambda desk: len(desk.tx.rows(kind, desk.tenant_id)))

    targets_before = states(TargetState)
    targets.add_rule(office, "solar", "spare")
    later(office)
    targets.remove_rule(office, "solar", "spare")
    audit.undo(office, last(office, "rule.remove"))
    assert states(RuleState) == 1
    later(office)
    targets.remove_rule(office, "solar", "spare")
    targets.remove_target(office, "spare")
    audit.undo(office, last(office, "target.remove"))
    assert states(TargetState) == targets_before


def test_what_is_in_use_by_now_stays(office: Office) -> None:
    rates.add_rate(office, "new", per_minute_micros=5)
    entry = last(office, "rate.add")
    campaigns.set_campaign(office, "solar", rate="new")
    with pytest.raises(Refused, match="in use"):
        audit.undo(office, entry)
    assert rates.show_rate(office, "new").per_minute_micros == 5


def test_what_referred_to_something_gone_does_not_come_back(office: Office) -> None:
    targets.set_target(office, "spare", rate="spare")
    later(office)
    targets.set_target(office, "spare", rate="")
    entry = last(office, "target.set")
    rates.remove_rate(office, "spare")
    with pytest.raises(Refused) as refused:
        audit.undo(office, entry)
    assert refused.value.slug == "undo-conflict"
    assert targets.show_target(office, "spare").rate == ""


def test_an_agent_does_not_come_back_to_a_provider_that_is_gone(office: Office) -> None:
    agents.remove_agent(office, "spare")
    entry = last(office, "agent.remove")
    providers.remove_provider(office, "spare")
    later(office)
    with pytest.raises(Refused) as caught:
        audit.undo(office, entry)
    assert caught.value.slug == "undo-conflict"
    audit.undo(office, last(office, "provider.remove"))
    audit.undo(office, entry)
    assert agents.show_agent(office, "spare").providers == ["spare"]


def test_what_is_removed_and_referred_to_something_gone_is_told_so(office: Office) -> None:
    campaigns.add_campaign(office, "new", seller="acme", rate="spare")
    later(office)
    campaigns.remove_campaign(office, "new")
    entry = last(office, "campaign.remove")
    rates.remove_rate(office, "spare")
    with pytest.raises(Refused, match="what it referred to is gone") as refused:
        audit.undo(office, entry)
    assert refused.value.slug == "undo-conflict"


def test_a_name_that_another_one_has_by_now_is_told_so(office: Office) -> None:
    rates.remove_rate(office, "spare")
    entry = last(office, "rate.remove")
    rates.add_rate(office, "spare", per_minute_micros=7)
    with pytest.raises(Refused, match="another one has its name") as refused:
        audit.undo(office, entry)
    assert refused.value.slug == "undo-conflict"


def test_an_address_that_is_another_trunks_by_now_does_not_come_back(office: Office) -> None:
    trunks.add_trunk(office, "one", kind=TrunkKind.PJSIP, hosts=["192.0.2.77"])
    later(office)
    trunks.set_trunk(office, "one", hosts=["192.0.2.78"])
    moved = last(office, "trunk.set")
    trunks.set_trunk(office, "one", codecs="ulaw")
    unrelated = last(office, "trunk.set")
    trunks.add_trunk(office, "two", kind=TrunkKind.PJSIP, hosts=["192.0.2.77"])
    audit.undo(office, unrelated)
    with pytest.raises(Refused) as refused:
        audit.undo(office, moved)
    assert refused.value.slug == "host-shared"
    trunks.remove_trunk(office, "two")
    gone = last(office, "trunk.remove")
    audit.undo(office, moved)
    with pytest.raises(Refused) as refused:
        audit.undo(office, gone)
    assert refused.value.slug == "host-shared"


def test_a_rate_in_another_currency_than_its_calls_by_now_does_not_come_back(office: Office) -> None:
    rates.add_rate(office, "euro", per_minute_micros=5, currency="EUR")
    targets.set_target(office, "spare", rate="euro")
    later(office)
    targets.set_target(office, "spare", rate="")
    taken = last(office, "target.set")
    targets.add_rule(office, "solar", "spare")
    with pytest.raises(Refused) as refused:
        audit.undo(office, taken)
    assert refused.value.slug == "currency-mismatch"
    targets.remove_rule(office, "solar", "spare")
    without = last(office, "rule.remove")
    audit.undo(office, taken)
    with pytest.raises(Refused) as refused:
        audit.undo(office, without)
    assert refused.value.slug == "currency-mismatch"


def test_a_block_that_was_made_anew_after_its_end_goes(office: Office) -> None:
    blocks.add_block(office, "+1212555*", blocks.Where(), expires_ms=office.clock.now_ms() + 1)
    later(office)
    blocks.add_block(office, "+1212555*", blocks.Where(), reason="again")
    audit.undo(office, last(office, "block.add"))
    assert not blocks.list_blocks(office, blocks.Where())


def test_rules_and_blocks_are_called_in_the_audit_what_they_were_called(office: Office) -> None:
    targets.add_rule(office, "solar", "spare")
    blocks.add_block(office, "+1212555*", blocks.Where())
    later(office)
    targets.set_rule(office, "solar", "spare", weight=7)
    blocks.set_block(office, "+1212555*", blocks.Where(), reason="other")
    audit.undo(office, last(office, "rule.set"))
    audit.undo(office, last(office, "block.set"))
    later(office)
    targets.remove_rule(office, "solar", "spare")
    blocks.remove_block(office, "+1212555*", blocks.Where())
    audit.undo(office, last(office, "rule.remove"))
    audit.undo(office, last(office, "block.remove"))
    told = {(e.action, e.subject) for e in audit.list_audit(office) if e.action.startswith(("rule.", "block."))}
    assert told == {
        (f"{noun}.{verb}", name)
        for noun, name in (("rule", "solar/spare"), ("block", "+1212555*"))
        for verb in ("add", "set", "remove")
    }


def test_money_is_not_undone(office: Office) -> None:
    later(office)
    balances.adjust(office, "acme", 5_000_000, reason="wire")
    entry = audit.list_audit(office)[0]
    with pytest.raises(Refused, match="cannot be undone") as refused:
        audit.undo(office, entry.id)
    assert "balance correct" in refused.value.hint


def test_of_a_list_each_thing_is_undone_by_its_own_entry(office: Office) -> None:
    dids.add_did_range(office, "+18005550190", count=2)
    with pytest.raises(Refused) as refused:
        audit.undo(office, last(office, "did.import"))
    assert "`capconduit audit list --action did.add`" in refused.value.hint
    audit.undo(office, last(office, "did.add").lower())


def test_an_unknown_entry_is_named(office: Office) -> None:
    with pytest.raises(NotFound, match="nothing"):
        audit.undo(office, "nothing")


def test_a_rehearsal_changes_nothing(shop: Till, office: Office) -> None:
    set_setting(office, "default_max_attempts", "3")
    entry = last(office, "setting.set")
    audit.undo(shop.office(dry_run=True), entry)
    [row] = office.read(lambda desk: desk.tx.rows(Setting, desk.tenant_id, name="default_max_attempts"))
    assert row.value == "3"


def test_an_entry_of_an_older_version_is_left_alone(office: Office) -> None:
    rates.set_rate(office, "spare", per_minute_micros=5)
    entry: Audit = audit.list_audit(office, action="rate.set")[0]
    with office.store.transaction(write=True) as tx:
        tx.delete(entry)
        tx.insert(replace(entry, before='{"name": "spare"}'))
    with pytest.raises(Refused, match="older version"):
        audit.undo(office, entry.id)


def test_no_cap_is_left_without_its_row(office: Office) -> None:
    caps.set_caps(office, CapScope.CAMPAIGN, "solar", [WEEKLY])
    before = office.read(lambda desk: len(desk.tx.rows(Cap, desk.tenant_id)))
    caps.clear_caps(office, CapScope.CAMPAIGN, "solar")
    for entry in audit.list_audit(office, action="cap.clear"):
        audit.undo(office, entry.id)
    assert office.read(lambda desk: len(desk.tx.rows(Cap, desk.tenant_id))) == before
