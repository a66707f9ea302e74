"""Zombies: calls of our books that Asterisk does not have, and channels that dial by our dialplan without such a call.

Each is told once, as the event `call.zombie` and in the log, and shown by the control socket. Nothing is ended because
of them: the reconciler settles a call without a channel, and a channel without a call is for an operator to look at
(it talks, and nobody pays).

Failure policy: fails open. What could not be told is told with the next look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from capconduit.domain.events import event
from capconduit.domain.model import Call
from capconduit.errors import CapConduitError
from capconduit.render.contexts import INBOUND_CONTEXT
from capconduit.units import format_instant
from capconduit.vocab import EventKind
from fastagi.ami_events import ChannelList, LiveChannel
from fastagi.housekeeping import Housekeeping

log = logging.getLogger(__name__)

DIAL: Final = "Dial"  # the application: before it a call is being decided, after it the call is settled
MAX_TOLD: Final = 1_000  # channels that are remembered, so that each is told once
MAX_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Stranger:
    """A channel without a call, and since when it is known (UTC ms)."""

    channel: LiveChannel
    since_ms: int


def strangers(listed: ChannelList, known: Collection[str]) -> list[LiveChannel]:
    """Channels that dial or talk by our dialplan, and whose uniqueids are not among the `known` calls.

    Our calls are in the books before they are dialled, and until the Dial is over: what `known` lacks, and was read
    before the list was asked for, was admitted since then, or is a zombie. The second look tells which.
    """
    return [
        channel
        for channel in listed.channels
        if channel.context == INBOUND_CONTEXT and channel.application == DIAL and channel.uniqueid not in known
    ]


def in_both(earlier: Sequence[LiveChannel], later: Sequence[LiveChannel]) -> list[LiveChannel]:
    """Those of the later ones that were there in the earlier look, too."""
    before = {channel.uniqueid for channel in earlier}
    return [channel for channel in later if channel.uniqueid in before]


class Zombies:
    """What was found and told since this daemon began. All methods belong to the loop."""

    def __init__(
        self, housekeeping: Housekeeping, node: str, now_ms: Callable[[], int], new_id: Callable[[], str]
    ) -> None:
        self._housekeeping = housekeeping
        self._node = node
        self._now_ms = now_ms
        self._new_id = new_id
        self._strangers: dict[str, Stranger] = {}
        self._calls: set[str] = set()  # that were told and could not be settled yet
        self._calls_found = 0

    async def live_calls(self) -> frozenset[str]:
        """Uniqueids of the live calls of all nodes: a node may have been renamed. Raises DatabaseError."""
        return frozenset(call.uniqueid for call in await self._housekeeping.all_calls())

    async def calls_without_channel(self, found: Sequence[Call]) -> None:
        """All the calls of ours that Asterisk does not have, as two looks found them; they are settled next."""
        self._calls &= {call.id for call in found}
        for call in found:
            if call.id in self._calls:
                continue
            log.warning("call %s lives in our books, and Asterisk does not have it", call.id, extra=_of(call.uniqueid))
            if await self._tell(call.id, call.tenant_id, lacks="channel", uniqueid=call.uniqueid, channel=call.channel):
                self._calls_found += 1
                self._calls.add(call.id)

    async def channels_without_call(self, found: Sequence[LiveChannel]) -> None:
        """All the channels that dial and are in no book, as two looks found them."""
        there = {channel.uniqueid for channel in found}
        self._strangers = {uniqueid: known for uniqueid, known in self._strangers.items() if uniqueid in there}
        for channel in found:
            if channel.uniqueid in self._strangers or len(self._strangers) >= MAX_TOLD:
                continue
            log.warning(
                "channel %s is dialled by our dialplan, and no call of our books is its own: look at it, nobody pays",
                channel.channel, extra=_of(channel.uniqueid),
            )  # fmt: skip
            if await self._tell(
                channel.uniqueid, "", lacks="call", uniqueid=channel.uniqueid, channel=channel.channel
            ):  # fmt: skip
                self._strangers[channel.uniqueid] = Stranger(channel, self._now_ms())

    async def _tell(self, subject: str, tenant_id: str, **data: object) -> bool:
        """Write the event; whether it was written."""
        now_ms, node = self._now_ms(), self._node
        try:
            await self._housekeeping.tell(
                lambda tenant: event(self._new_id, tenant, now_ms, EventKind.CALL_ZOMBIE, subject, node=node, **data),
                tenant_id,
            )
        except CapConduitError as error:
            log.warning("the event of it was not written: %s", error)
            return False
        return True

    def status(self) -> dict[str, Any]:
        """What the control socket tells: how many channels without a call there are, the first of them, and how many
        calls without a channel were found since the daemon began."""
        shown = list(self._strangers.values())[:MAX_SHOWN]
        return {
            "channels": len(self._strangers),
            "calls_found": self._calls_found,
            "shown": [
                {
                    "channel": known.channel.channel,
                    "uniqueid": known.channel.uniqueid,
                    "duration_s": known.channel.duration_s,
                    "since": format_instant(known.since_ms),
                }
                for known in shown
            ],
        }


def _of(uniqueid: str) -> dict[str, str]:
    return {"uniqueid": uniqueid}
