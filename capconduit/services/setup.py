"""Making a database ready: the tables, and the first tenant."""

from __future__ import annotations

from capconduit.clock import Clock
from capconduit.domain.model import Tenant
from capconduit.services.office import DEFAULT_TENANT
from capconduit.store.store import Store


def tenant_names(store: Store) -> list[str]:
    """Names of all tenants, the first one first. The tables must be there."""
    with store.transaction(write=False) as tx:
        return [tenant.name for tenant in tx.tenants()]


def prepare_database(store: Store, clock: Clock) -> list[str]:
    """Apply missing migrations and make the tenant `default`; safe twice. Returns what was applied."""
    applied = store.upgrade(clock.now_ms())
    with store.transaction(write=True) as tx:
        tx.estate_version(for_change=True)  # one at a time: who comes second finds the tenant
        if not tx.tenants():
            now_ms = clock.now_ms()
            tx.insert(Tenant(id=clock.new_id(), name=DEFAULT_TENANT, created_ms=now_ms, updated_ms=now_ms))
    return applied
