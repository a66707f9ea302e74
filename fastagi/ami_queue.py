"""The one bounded queue between the AMI link and its one consumer: a flood costs events, never memory, and is told.

When it is full, call events are dropped. Behind those that were kept come the latest words about the link itself
(LinkDown, LinkUp, ChannelList), then one ResyncNeeded: a list that is asked for then is newer than all that was lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from fastagi.ami_events import AmiEvent, ChannelList, LinkDown, LinkUp, ResyncNeeded


class EventQueue:
    """One producer (callbacks, never blocked) and one consumer, in one event loop."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("the queue needs room for one event")
        self._limit = limit
        self._events: deque[AmiEvent] = deque()
        self._late: list[AmiEvent] = []  # the link's own words while the queue is full
        self._full = False
        self._arrived: asyncio.Future[None] | None = None  # while the consumer waits
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._events) + len(self._late) + self._full

    def put(self, event: AmiEvent) -> None:
        """Append `event`, or drop it where the queue is full. Never waits, never raises."""
        if not self._full and len(self._events) < self._limit:
            self._events.append(event)
        else:
            self._full = True
            self._put_late(event)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def get(self) -> AmiEvent:
        """The next event; waits for one. Safe to cancel: nothing is lost."""
        while not self._events:
            if self._full:
                self._empty_again()
                continue
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        return self._events.popleft()

    def _empty_again(self) -> None:
        """All that was kept is consumed: tell what was lost, and take events again."""
        self._full = False
        self._events.extend(self._late)
        self._events.append(ResyncNeeded(f"more than {self._limit} events were waiting"))
        self._late.clear()

    def _put_late(self, event: AmiEvent) -> None:
        """While full: keep the last Down, Up and List, and that a restart happened in any of them."""
        if not isinstance(event, (LinkDown, LinkUp, ChannelList)):
            self.dropped += 1
            return
        if isinstance(event, LinkUp):
            restarted = any(isinstance(known, LinkUp) and known.restarted for known in self._late)
            event = replace(event, restarted=event.restarted or restarted)
        if isinstance(event, LinkDown):
            # a LinkUp that told of a restart stays until a later one repeats it
            self._late = [known for known in self._late if isinstance(known, LinkUp) and known.restarted]
        else:
            self._late = [known for known in self._late if not isinstance(known, type(event))]
        self._late.append(event)
