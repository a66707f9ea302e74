"""Events as an operator reads them: the newest ones, those since an instant or an id, and one."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from capconduit.domain.model import Event, Seller
from capconduit.errors import NotFound, UsageError
from capconduit.ids import ulid
from capconduit.services.office import Desk, Office
from capconduit.vocab import EventKind

PAGE: Final = 500
OVERLAP_MS: Final = 5_000  # an id is made before its event is committed: so far back is looked again
LATER_MS: Final = 60_000  # how far a node's clock may be ahead


@dataclass(frozen=True, slots=True)
class Wish:
    """Which events: kinds as patterns (`call.*`; empty: all), and subjects (empty: all)."""

    kinds: Sequence[str] = ()
    subjects: Sequence[str] = ()

    def fits(self, kind: str, subject: str) -> bool:
        """Whether an event is wished for."""
        if self.subjects and subject not in self.subjects:
            return False
        return not self.kinds or any(fnmatchcase(kind, pattern) for pattern in self.kinds)


def check_kinds(patterns: Sequence[str]) -> Sequence[str]:
    """Patterns that at least one kind of event fits. Raises UsageError."""
    for pattern in patterns:
        if not any(fnmatchcase(kind, pattern) for kind in EventKind):
            raise UsageError(
                "kind-unknown", f"no kind of event fits {pattern!r}", f"the kinds are {', '.join(sorted(EventKind))}"
            )
    return patterns


def list_events(
    office: Office, wish: Wish, *, since_ms: int | None = None, until_ms: int | None = None, page: int = PAGE
) -> Iterator[Event]:
    """Events by id, the newest first, read in pages as far as they are asked for; the instants bound their ids."""
    until = None if until_ms is None else ulid(until_ms, 0)
    since = None if since_ms is None else ulid(since_ms, 0)
    wanted: Sequence[Mapping[str, Any]] = [{"subject": subject} for subject in wish.subjects] or [{}]
    found = [_pages(office, since, until, page, where) for where in wanted]
    for event in heapq.merge(*found, key=lambda event: event.id, reverse=True):
        if wish.fits(event.kind, event.subject):
            yield event


def _pages(
    office: Office, since: str | None, until: str | None, page: int, where: Mapping[str, Any]
) -> Iterator[Event]:
    """Events from `since` to `until`, the newest first."""
    while True:

        def work(desk: Desk, before: str | None = until) -> Sequence[Event]:
            bounds: Any = {"since": ("id", since) if since else None, "until": ("id", before) if before else None}
            return desk.tx.rows(Event, desk.tenant_id, newest_first="id", limit=page, **bounds, **where)

        rows = office.read(work)
        yield from rows
        if len(rows) < page:
            return
        until = rows[-1].id


def events_from(office: Office, since_id: str, limit: int) -> Sequence[Event]:
    """Events from an id on, the oldest first, at most `limit`; of all kinds, so that the last one is where to go on."""

    def work(desk: Desk) -> Sequence[Event]:
        bounds: Any = {"since": ("id", since_id)}
        return desk.tx.rows(Event, desk.tenant_id, limit=limit, **bounds)

    return office.read(work)


def each_event(office: Office, wish: Wish, since_id: str, *, page: int = PAGE) -> Iterator[Event]:
    """All events from an id on, the oldest first, read in pages as far as they are asked for."""
    while True:
        rows = events_from(office, since_id, page + 1)
        yield from (row for row in rows[:page] if wish.fits(row.kind, row.subject))
        if len(rows) <= page:
            return
        since_id = rows[page].id


def subjects_of(office: Office, text: str) -> Sequence[str]:
    """What events about `text` name as their subject: itself, and where it is a seller's name, the seller's id."""
    seller = office.read(lambda desk: desk.tx.find(Seller, desk.tenant_id, name=text))
    return (text, seller.id) if seller is not None else (text,)


class Names:
    """What subjects are called that are ids: sellers, which money is about. Read when first needed, and again when an
    id is new."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._known: dict[str, str] = {}

    def of(self, event: Event) -> str:
        """The name, empty where the subject needs none."""
        if not event.kind.startswith("balance."):
            return ""
        if event.subject not in self._known:
            sellers = self._office.read(lambda desk: desk.tx.rows(Seller, desk.tenant_id))
            self._known = {event.subject: "", **{seller.id: seller.name for seller in sellers}}
        return self._known[event.subject]


def show_event(office: Office, event_id: str) -> Event:
    """One event. Raises NotFound."""
    wanted = event_id.strip().upper()
    found = office.read(lambda desk: desk.tx.find(Event, desk.tenant_id, id=wanted))
    if found is None:
        raise NotFound("event", event_id)
    return found


def data_of(event: Event) -> dict[str, Any]:
    """What an event tells."""
    data: dict[str, Any] = json.loads(event.data) if event.data else {}
    return data
