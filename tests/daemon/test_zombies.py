"""Zombies alone: which channels are strange, and that each is told once, in the end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from capconduit.domain.model import Event
from capconduit.errors import DatabaseError
from fastagi.ami_events import ChannelList, LiveChannel
from fastagi.housekeeping import Housekeeping
from fastagi.zombies import MAX_SHOWN, Zombies, in_both, strangers


def channel(uniqueid: str, *, context: str = "capconduit-inbound", application: str = "Dial") -> LiveChannel:
    return LiveChannel(uniqueid, uniqueid, f"PJSIP/carrier-{uniqueid}", 6, application, "b", 3, context)


@pytest.mark.parametrize(
    ("seen", "is_strange"),
    [
        (channel("u-1"), True),
        (channel("known"), False),
        (channel("u-1", context="capconduit-on-reject"), False),  # the operator's own Dial, after a reject
        (channel("u-1", context="from-internal"), False),
        (channel("u-1", application="AGI"), False),  # it is being decided, or settled
        (channel("u-1", application="AppDial", context="capconduit-none"), False),  # a target's leg
    ],
)
def test_only_who_dials_by_our_dialplan_without_a_call_is_strange(seen: LiveChannel, is_strange: bool) -> None:
    found = strangers(ChannelList((seen,), True, 1), {"known"})
    assert found == ([seen] if is_strange else [])


def test_who_was_not_there_before_may_have_been_admitted_since() -> None:
    assert in_both([channel("u-1")], [channel("u-1"), channel("u-2")]) == [channel("u-1")]


class Books:
    """Keeps the events, or fails."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.away = False

    async def tell(self, make: Callable[[str], Event], tenant_id: str = "") -> None:
        if self.away:
            raise DatabaseError("database-down", "the database is away")
        self.events.append(make(tenant_id or "tenant-1"))


def zombies(books: Books) -> Zombies:
    ids = iter(range(1_000))
    return Zombies(cast(Housekeeping, books), "n", lambda: 7_000, lambda: f"id-{next(ids)}")


def told(books: Books) -> list[tuple[str, dict[str, Any]]]:
    return [(event.subject, json.loads(event.data)) for event in books.events]


def test_a_stranger_is_told_once_for_as_long_as_it_is_there() -> None:
    async def test() -> None:
        books = Books()
        found = zombies(books)
        for _ in range(3):
            await found.channels_without_call([channel("u-1")])
        assert told(books) == [
            ("u-1", {"node": "n", "lacks": "call", "uniqueid": "u-1", "channel": "PJSIP/carrier-u-1"})
        ]  # fmt: skip
        assert found.status()["channels"] == 1
        assert found.status()["shown"][0]["since"] == "1970-01-01T00:00:07.000Z"
        await found.channels_without_call([])
        assert found.status()["channels"] == 0
        await found.channels_without_call([channel("u-1")])
        assert len(books.events) == 2

    asyncio.run(test())


def test_what_could_not_be_told_is_told_with_the_next_look() -> None:
    async def test() -> None:
        books = Books()
        found = zombies(books)
        books.away = True
        await found.channels_without_call([channel("u-1")])
        assert found.status()["channels"] == 0
        books.away = False
        await found.channels_without_call([channel("u-1")])
        assert len(books.events) == found.status()["channels"] == 1

    asyncio.run(test())


def test_the_status_shows_the_first_of_many() -> None:
    async def test() -> None:
        found = zombies(Books())
        await found.channels_without_call([channel(f"u-{n}") for n in range(MAX_SHOWN + 5)])
        status = found.status()
        assert (status["channels"], len(status["shown"])) == (MAX_SHOWN + 5, MAX_SHOWN)

    asyncio.run(test())
