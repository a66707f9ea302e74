"""What `capconduit doctor` asks of the database; reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capconduit.services.balances import verify_balances
from capconduit.services.caps import cap_usage, verify_caps
from capconduit.services.office import Office
from capconduit.services.setup import tenant_names
from capconduit.services.targets import list_targets
from capconduit.store.sqlstore import MIGRATIONS
from capconduit.vocab import CapMetric, CapScope, TargetKind


@dataclass(frozen=True, slots=True)
class Drifted:
    """What does not add up in one tenant: accounts by seller, and how many counters of caps."""

    tenant: str
    sellers: Sequence[str]
    counters: int


def newest_migration() -> int:
    """The number of the newest migration that this program knows."""
    return MIGRATIONS[-1][0]


def concurrent_calls(office: Office) -> int | None:
    """How many calls all tenants may have at the same time, by the caps on the system; None where one has no cap."""
    limits = []
    for tenant in tenant_names(office.store):
        views = cap_usage(_of(office, tenant), CapScope.SYSTEM)
        of_calls = [view.cap.limit_value for view in views if view.cap.metric is CapMetric.CONCURRENT]
        if not of_calls:
            return None
        limits.append(min(of_calls))
    return sum(limits) or None


def agent_targets(office: Office) -> Sequence[str]:
    """Names of the targets of kind agent, of all tenants."""
    names = []
    for tenant in tenant_names(office.store):
        views = list_targets(_of(office, tenant))
        names += [view.target.name for view in views if view.target.kind is TargetKind.AGENT]
    return sorted(names)


def drifted(office: Office) -> Sequence[Drifted]:
    """The tenants in which balances differ from ledger and holds, or counters from their places."""
    found = []
    for tenant in tenant_names(office.store):
        one = _of(office, tenant)
        balances, caps = verify_balances(one), verify_caps(one)
        if balances or caps:
            found.append(Drifted(tenant, sorted({drift.seller for drift in balances}), len(caps)))
    return found


def _of(office: Office, tenant: str) -> Office:
    return Office(office.store, office.clock, tenant=tenant, actor=office.actor)
