"""What belongs to users and sellers beside the estate: tokens, and requests for numbers. One class for each table."""

from __future__ import annotations

from capconduit.domain.model import Entity
from capconduit.domain.record import record
from capconduit.vocab import RequestStatus


@record
class Token(Entity):
    """A key of a user to the HTTP API. Only `hash` is kept of it; `scopes` are space separated.

    `expires_ms` None: never; `revoked_ms`: since when it opens nothing any more; `used_ms`: about when it was
    used last.
    """

    name: str
    user_id: str
    hash: str
    scopes: str
    expires_ms: int | None
    revoked_ms: int | None
    used_ms: int | None


@record
class DidRequest(Entity):
    """A seller asks for `quantity` numbers in `area` (see domain/areas.py; empty: anywhere).

    `numbers`: those that were given, comma separated; `reason`: why it was decided so, `decided_by` whom.
    """

    seller_id: str
    area: str
    quantity: int
    note: str
    status: RequestStatus
    numbers: str
    filed_by: str
    decided_ms: int | None
    decided_by: str
    reason: str
