"""Making event rows: what happened, told in the transaction of what it tells of."""

from __future__ import annotations

from collections.abc import Callable

from capconduit.domain.jsontext import compact
from capconduit.domain.model import Event
from capconduit.domain.record import maker
from capconduit.vocab import EventKind

Ids = Callable[[], str]
_new_event = maker(Event)


def event(ids: Ids, tenant_id: str, now_ms: int, kind: EventKind, subject: str, **data: object) -> Event:
    """An event row; `data` becomes its JSON."""
    return _new_event(
        id=ids(),
        tenant_id=tenant_id,
        at_ms=now_ms,
        kind=kind,
        subject=subject,
        data=compact(data),
    )
