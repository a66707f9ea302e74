"""Providers and agents on both databases: a tenant's own, tied to each other, and copied with everything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.agents import Agent, Provider, chain_of
from capconduit.domain.model import Target, Tenant
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.services import agents, providers, targets
from capconduit.services.office import Office
from capconduit.store.copying import copy_everything
from capconduit.store.sqlstore import SqlStore
from capconduit.vocab import ProviderKind, TargetKind
from tests.unit.estate_builder import T0, Till


@pytest.fixture
def office(shop: Till) -> Office:
    """The small estate, with an agent that answers the target `night`."""
    made = shop.office()
    for name in ("first", "second"):
        providers.add_provider(made, name, kind=ProviderKind.OLLAMA, model="m")
    agents.add_agent(made, "reception", providers=["second", "first"], instructions="Ünïcodé\n☎ 𝄞", tools=["hangup"])
    targets.add_target(made, "night", kind=TargetKind.AGENT, agent="reception")
    return made


def test_what_was_added_is_there_with_its_names(office: Office) -> None:
    view = agents.show_agent(office, "reception")
    assert (view.providers, view.targets) == (["second", "first"], ["night"])
    assert view.agent.instructions == "Ünïcodé\n☎ 𝄞"
    assert agents.list_agents(office) == [view]
    assert [p.name for p in providers.list_providers(office)] == ["first", "second"]
    assert targets.show_target(office, "night").agent == "reception"
    assert {t.target.name: t.agent for t in targets.list_targets(office)}["night"] == "reception"


def test_a_chain_is_changed_as_a_whole(office: Office) -> None:
    assert agents.set_agent(office, "reception", providers=["first"]).providers == ["first"]
    providers.remove_provider(office, "second")
    with pytest.raises(UsageError):
        agents.set_agent(office, "reception", providers=[])
    with pytest.raises(NotFound):
        agents.set_agent(office, "reception", providers=["first", "second"])
    assert agents.show_agent(office, "reception").providers == ["first"]


def test_what_is_used_stays(office: Office) -> None:
    with pytest.raises(Refused):
        providers.remove_provider(office, "first")
    with pytest.raises(Refused):
        agents.remove_agent(office, "reception")
    targets.remove_target(office, "night")
    agents.remove_agent(office, "reception")
    providers.remove_provider(office, "first")


def test_names_are_taken_once(office: Office) -> None:
    with pytest.raises(Refused) as caught:
        providers.add_provider(office, "first", kind=ProviderKind.OLLAMA, model="m")
    assert caught.value.slug == "provider-exists"
    with pytest.raises(Refused) as caught:
        agents.add_agent(office, "reception", providers=["first"])
    assert caught.value.slug == "agent-exists"


def test_another_tenant_sees_none_of_it(office: Office) -> None:
    with office.store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)
        tx.insert(Tenant(id="OTHER", name="other", created_ms=T0, updated_ms=T0))
        tx.bump_estate()
    other = Office(office.store, office.clock, tenant="other", actor="x")
    assert (list(providers.list_providers(other)), list(agents.list_agents(other))) == ([], [])
    providers.add_provider(other, "first", kind=ProviderKind.OLLAMA, model="another")
    with pytest.raises(NotFound):
        agents.add_agent(other, "reception", providers=["second"])
    with pytest.raises(NotFound):
        targets.add_target(other, "night", kind=TargetKind.AGENT, agent="reception")
    assert providers.show_provider(office, "first").model == "m"


def test_a_change_is_seen_by_the_next_decision(office: Office) -> None:
    """The estate that decisions go by has the target as it has become."""
    before = office.read(lambda desk: desk.tx.load_estate())
    targets.set_target(office, "night", kind=TargetKind.PJSIP, address="sip:x@192.0.2.1")
    after = office.read(lambda desk: desk.tx.load_estate(before))
    night = next(t for t in after.targets.values() if t.name == "night")
    assert (night.kind, night.agent_id, night.address) == (TargetKind.PJSIP, None, "sip:x@192.0.2.1")


def test_a_copy_has_them_too(office: Office, tmp_path: Path, opened: Any) -> None:
    store: Any = office.store
    target: SqlStore = opened(f"sqlite:///{tmp_path}/copy.sqlite")
    copied = {one.table: one.rows for one in copy_everything(store, target, T0, lambda *_: None)}
    assert (copied["provider"], copied["agent"]) == (2, 1)
    with target.transaction(write=False) as tx:
        tenant_id = tx.tenants()[0].id
        [agent] = tx.rows(Agent, tenant_id)
        names = {p.id: p.name for p in tx.rows(Provider, tenant_id)}
        assert [names[one] for one in chain_of(agent)] == ["second", "first"]
        assert tx.find(Target, tenant_id, name="night") is not None


def test_a_dry_run_leaves_nothing(office: Office) -> None:
    rehearsal = Office(office.store, office.clock, actor="x", dry_run=True)
    made = providers.add_provider(rehearsal, "third", kind=ProviderKind.OLLAMA, model="m")
    assert replace(made, id="", created_ms=0, updated_ms=0).name == "third"
    with pytest.raises(NotFound):
        providers.show_provider(office, "third")
