"""Rows as the last transaction of a connection left them, so that the next one need not read them again.

Only where the engine can tell whether anybody else has written since (SQLite's `data_version`), and only for decisions,
which hand over everything that they change as Books. What is remembered is never newer than the database: it is kept
after a commit, and forgotten with whatever fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, NamedTuple

from capconduit.domain.books import Books, CallKey, CounterKey
from capconduit.domain.model import Account, Attempt, Call, Counter, Hold, Place, RuleState, TargetState
from capconduit.domain.record import copier
from capconduit.vocab import PlaceState

ROWS_MAX: Final = 20_000  # of each kind; beyond that everything is forgotten, and what is used is read again
CALLS_MAX: Final = 500  # the newest: most that somebody asks about again within a second or so have just begun
RELEASED: Final = PlaceState.RELEASED  # asked for by each place; Python 3.11 takes long to find a member of an enum

_copied = copier(Counter)


class LiveCall(NamedTuple):
    """A call and what belongs to it."""

    call: Call
    attempts: dict[int, Attempt]
    places: dict[tuple[int, str], Place]
    hold: Hold | None


@dataclass(slots=True)
class Remembered:
    """Belongs to one connection, and to the thread that uses it."""

    data_version: int = -1  # of the database that all this stood in
    calls: dict[CallKey, LiveCall] = field(default_factory=dict)
    counters: dict[CounterKey, Counter] = field(default_factory=dict)
    rows: dict[type, dict[str, Any]] = field(default_factory=lambda: {Account: {}, TargetState: {}, RuleState: {}})

    def forget(self) -> None:
        """Know nothing."""
        self.calls, self.counters = {}, {}
        for rows in self.rows.values():
            rows.clear()

    def check(self, data_version: int) -> None:
        """A transaction begins and found this version: another one than the last means that others have written."""
        if data_version != self.data_version:
            self.forget()
            self.data_version = data_version

    def keep(self, books: Books) -> None:
        """These were written, and committed."""
        if len(self.counters) > ROWS_MAX or len(self.rows[TargetState]) > ROWS_MAX:
            self.forget()
        self.rows[Account].update(books.accounts)
        self.rows[TargetState].update(books.targets)
        self.rows[RuleState].update(books.rules)
        self.counters.update(books.counters)
        for key, call_id in books.call_ids.items():
            own = books.places.get(call_id, {})
            places = {at: place for at, place in own.items() if place.state is not RELEASED or place.counted}
            attempts = dict(books.attempts.get(call_id, {}))  # what is committed must not fail for want of them
            self.calls[key] = LiveCall(books.calls[call_id], attempts, places, books.holds.get(call_id))
        for key in list(islice(self.calls, max(len(self.calls) - CALLS_MAX, 0))):
            del self.calls[key]

    def give_rows(self, kind: type, ids: Iterable[str], into: dict[str, Any]) -> list[str]:
        """Put those of `ids` that `into` lacks and that are known there; the others, in their order."""
        known = self.rows[kind]
        missing = []
        for key in ids:
            if key not in into:
                row = known.get(key)
                if row is None:
                    missing.append(key)
                else:
                    into[key] = row
        return sorted(missing)

    def give_counters(self, keys: Iterable[CounterKey], into: dict[CounterKey, Counter]) -> list[CounterKey]:
        """Likewise. Counters are moved in place, so each Books gets its own."""
        missing = []
        for key in keys:
            counter = self.counters.get(key)
            if counter is None:
                missing.append(key)
            else:
                into[key] = _copied(counter)
        return missing

    def give_calls(self, keys: Sequence[CallKey], books: Books) -> list[CallKey]:
        """Hand the live calls of these channels that are known over to `books`; the channels of which nothing is."""
        missing = []
        for key in keys:
            known = self.calls.pop(key, None)
            if known is None:
                missing.append(key)
                continue
            call, attempts, places, hold = known
            books.calls[call.id], books.call_ids[key] = call, call.id
            books.attempts[call.id] = attempts
            if places:
                books.places[call.id] = places
            if hold is not None:
                books.holds[call.id] = hold
        return missing


def is_unused(place: Place) -> bool:
    """A place that was given back and of which nothing stays used is over: its row goes."""
    return place.state is RELEASED and place.counted == 0
