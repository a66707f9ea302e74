"""Following what happens: the database's backlog, then the daemon's stream; without a daemon the database, at a pace.

Nothing is told twice and nothing is left out: whenever a stream begins, the database is read from where the last one
ended. A daemon that goes, and comes back, is joined again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from capconduit.domain.model import Event
from capconduit.errors import DatabaseError, PeerError
from capconduit.ids import is_ulid, ulid
from capconduit.services.events import OVERLAP_MS, PAGE, Wish, events_from
from capconduit.units import parse_instant
from capconduit.vocab import EventKind
from capconduit_cli.control import DaemonStream
from capconduit_cli.output import notice

if TYPE_CHECKING:
    from capconduit.services.office import Office

POLL_S: Final = 1.0  # between two looks at the database
POLLS: Final = 5  # until the daemon is tried again
REMEMBERED: Final = 20_000  # ids that were told, so that none is told twice
_INSTANT_CHARS: Final = 10  # of a ULID
_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def instant_of(event_id: str) -> int:
    """When an id was made (UTC ms); 0 for what is none."""
    if not is_ulid(event_id):
        return 0
    value = 0
    for character in event_id[:_INSTANT_CHARS]:
        value = value * 32 + _CROCKFORD.index(character)
    return value


class Follower:
    """Events of a tenant from `last_id` on, that one excluded, in the order they become known."""

    def __init__(self, made: Office, socket: str, wish: Wish, last_id: str) -> None:
        self._made = made
        self._socket = socket
        self._wish = wish
        self._newest_ms = instant_of(last_id)
        self._told: dict[str, None] = {last_id: None}
        self._floor_id = last_id
        self._complained = ""

    def told(self, event_id: str) -> None:
        """This one was told already, before following began."""
        self._remember(event_id)

    def follow(self) -> Iterator[Event]:
        """Without end."""
        while True:
            try:
                with DaemonStream(self._socket, self._made.tenant) as stream:
                    for kind, data in stream:
                        if kind in ("snapshot", "lost"):
                            self._well()
                            yield from self._from_database()
                        elif kind == "event":
                            yield from self._from_stream(data)
            except PeerError as error:
                self._complain(f"{error.message}: following the database, once a second")
            for _ in range(POLLS):
                yield from self._from_database()
                time.sleep(POLL_S)

    def _from_stream(self, data: Mapping[str, Any]) -> Iterator[Event]:
        event = event_of(data)
        if event is not None and event.id not in self._told:
            self._remember(event.id)
            if self._wish.fits(event.kind, event.subject):
                yield event

    def _from_database(self) -> Iterator[Event]:
        """What was not told yet. A database that is away is waited for."""
        since = ulid(max(self._newest_ms - OVERLAP_MS, 0), 0)
        since = max(since, self._floor_id)
        while True:
            try:
                rows = events_from(self._made, since, PAGE)
            except DatabaseError as error:
                self._complain(f"{error.message}: trying again")
                return
            for row in rows:
                if row.id not in self._told:
                    self._remember(row.id)
                    if self._wish.fits(row.kind, row.subject):
                        yield row
            if len(rows) < PAGE:
                return
            since = rows[-1].id

    def _remember(self, event_id: str) -> None:
        self._told[event_id] = None
        self._newest_ms = max(self._newest_ms, instant_of(event_id))
        if len(self._told) > REMEMBERED:
            for old in list(self._told)[: REMEMBERED // 2]:
                del self._told[old]

    def _complain(self, text: str) -> None:
        """Once for each reason."""
        if text != self._complained:
            self._complained = text
            notice(text)

    def _well(self) -> None:
        if self._complained:
            self._complained = ""
            notice("the daemon is there: following its stream")


def event_of(data: Mapping[str, Any]) -> Event | None:
    """An EVENT of the stream as a row; None for one of another version."""
    from capconduit.domain.jsontext import compact

    try:
        return Event(
            id=str(data["id"]),
            tenant_id="",
            at_ms=parse_instant(str(data["at"]), now_ms=0),
            kind=EventKind(data["kind"]),
            subject=str(data["subject"]),
            data=compact(data.get("data") or {}),
        )
    except (KeyError, ValueError):
        return None
