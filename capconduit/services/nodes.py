"""The daemons that were ever seen, as the database last heard of them."""

from __future__ import annotations

from collections.abc import Sequence

from capconduit.domain.model import Node
from capconduit.services.office import Office


def list_nodes(office: Office) -> Sequence[Node]:
    """All daemons by name; they belong to the installation, not to a tenant."""
    return office.read(lambda desk: desk.tx.nodes())
