"""The daemons that were ever seen, as the database last heard of them, and the events of their beginnings and ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from capconduit.domain.events import event
from capconduit.domain.model import Event, Node
from capconduit.services.office import Office
from capconduit.store.store import Transaction
from capconduit.vocab import EventKind

UP, DOWN = "up", "down"


def list_nodes(office: Office) -> Sequence[Node]:
    """All daemons by name; they belong to the installation, not to a tenant."""
    return office.read(lambda desk: desk.tx.nodes())


def keep_node(tx: Transaction, node: Node, new_id: Callable[[], str], *, tell: bool) -> Sequence[Node]:
    """Write a daemon's row; all rows as they were just before, so that nobody's falls in between.

    tell: it is the first row of this run with this state, so its beginning or end is told, to the tenant that the
    installation began with.
    """
    rows = tx.nodes()
    tx.put_node(node)
    if tell and node.state == UP:
        before = next((row for row in rows if row.name == node.name), None)
        how = "none" if before is None else "stopped" if before.state == DOWN else "lost"
        tx.insert(_told(tx, node, new_id, EventKind.NODE_STARTED, before=how))
    elif tell and node.state == DOWN:
        tx.insert(_told(tx, node, new_id, EventKind.NODE_STOPPED))
    return rows


def _told(tx: Transaction, node: Node, new_id: Callable[[], str], kind: EventKind, **data: Any) -> Event:
    tenant = min(tx.tenants(), key=lambda tenant: tenant.created_ms)
    return event(new_id, tenant.id, node.seen_ms, kind, node.name, boot=node.boot_id, **data)
