"""Settles what nobody told us about: the spool, calls of a dead Asterisk, and calls that are in no channel list.

Failure policy: fails open. Without AMI or database nothing is concluded and nothing is released; it tries again later.
Reconciling never hangs up a call. Where AMI is away or off there is no witness at all: a call is over when the time its
hold paid for is, because no extension was possible and Asterisk's own limit has ended it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from capconduit.domain.calls import SettleAnswer, SettleReport
from capconduit.domain.model import Call
from capconduit.domain.reconcile import Listing, expired, last_known_ms, of_dead_asterisk, orphans
from capconduit.errors import CapConduitError
from capconduit.services.engine import EngineBusy
from capconduit.vocab import CallState, DialStatus
from fastagi.ami_events import AmiEvent, ChannelList, LinkUp, ResyncNeeded
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker
from fastagi.housekeeping import Housekeeping
from fastagi.meter import Meter
from fastagi.spool import SPOOL_FAMILY, read_entry, report_of

log = logging.getLogger(__name__)

EVERY_S: Final = 15.0  # between two looks
BETWEEN_LISTS_S: Final = 1.0


class Reconciler:
    """Runs beside the meter. All methods belong to the loop.

    `alone` says whether this node's name is ours alone: calls that another daemon of the same name admitted are not in
    our Asterisk's lists, and must not be taken for dead.
    """

    def __init__(
        self,
        asker: Asker,
        ami: AmiLink | None,
        meter: Meter,
        housekeeping: Housekeeping,
        node: str,
        now_ms: Callable[[], int],
        alone: Callable[[], bool],
    ) -> None:
        self._asker = asker
        self._ami = ami
        self._meter = meter
        self._housekeeping = housekeeping
        self._node = node
        self._now_ms = now_ms
        self._alone = alone
        self._wake = asyncio.Event()
        self._began_ms: int | None = None  # of an Asterisk that was found to be another one
        self._complained: set[str] = set()

    def on_event(self, event: AmiEvent) -> None:
        """A new link, or lost events: look at once."""
        match event:
            case LinkUp():
                if event.restarted and event.asterisk_started_ms is not None:
                    self._began_ms = event.asterisk_started_ms
                self._wake.set()
            case ResyncNeeded():
                self._wake.set()
            case _:
                pass

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    async def run(self) -> None:
        """Look every EVERY_S, and when told to, until cancelled."""
        while True:
            for step in self._steps():
                try:
                    await step()
                except (CapConduitError, EngineBusy) as error:
                    log.warning("reconciling: %s", error)
            try:
                await asyncio.wait_for(self._wake.wait(), EVERY_S)
            except TimeoutError:
                continue
            self._wake.clear()

    def _steps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        if self._ami is None or not self._ami.up:
            return (self._settle_expired,) if self._alone() else ()
        if not self._alone():
            return (self._settle_spool,)
        return (self._settle_spool, self._settle_dead, self._settle_orphans)

    async def _settle_spool(self) -> None:
        """Settlements that Asterisk kept for us; each is deleted only when it is durable here."""
        assert self._ami is not None
        for path, text in (await self._ami.db_get_tree(SPOOL_FAMILY)).items():
            try:
                await self._settle_entry(self._ami, path, text)
            except (CapConduitError, EngineBusy) as error:
                log.warning("the kept settlement %s: %s", path, error)

    async def _settle_entry(self, ami: AmiLink, path: str, text: str) -> None:
        entry = read_entry(path, text)
        node = await self._housekeeping.call_node(entry.call_id) if entry is not None else None
        if entry is None or node is None:
            self._complain(path, "cannot be read" if entry is None else "is of a call that this database does not know")
            return
        report = report_of(entry, node, self._meter.times(entry.uniqueid))
        answer: SettleAnswer = await self._asker.ask(report)
        if answer.call_id != entry.call_id:
            self._complain(path, f"names call {entry.call_id}, and its channel is of {answer.call_id}")
            return
        self._meter.settled(entry.uniqueid)
        await ami.db_del(SPOOL_FAMILY, entry.uniqueid)
        log.info("settled from the spool", extra={"uniqueid": entry.uniqueid})

    def _complain(self, path: str, why: str) -> None:
        """Once for each entry; it stays in Asterisk's database for an operator to look at."""
        if path not in self._complained:
            self._complained.add(path)
            log.error("the kept settlement %s %s; it stays in Asterisk's database", path, why)

    async def _settle_dead(self) -> None:
        """Calls that died with an Asterisk that is gone, at their last known life."""
        if self._began_ms is None:
            return
        for call in of_dead_asterisk(await self._housekeeping.node_calls(self._node), self._began_ms):
            await self._settle(call, "asterisk-restart")
        self._began_ms = None

    async def _settle_orphans(self) -> None:
        """Calls that two complete lists in a row do not show."""
        assert self._ami is not None
        calls = await self._housekeeping.node_calls(self._node)
        if not calls:
            return
        earlier = await self._ami.core_show_channels()
        self._meter.on_list(earlier)
        if not _misses(calls, earlier):
            return
        await asyncio.sleep(BETWEEN_LISTS_S)
        later = await self._ami.core_show_channels()
        if not (earlier.complete and later.complete):
            return
        seen = {call.uniqueid: self._meter.seen_ms(call.uniqueid) for call in calls}
        for call in orphans(calls, _listing(earlier), _listing(later), seen):
            await self._settle(call, "reconciler")

    async def _settle_expired(self) -> None:
        """Without AMI: calls whose lease and funded time have passed."""
        calls = await self._housekeeping.node_calls(self._node)
        if calls:
            ends = await self._housekeeping.hold_ends(self._node)
            for call in expired(calls, ends, self._now_ms()):
                await self._settle(call, "expired")

    async def _settle(self, call: Call, witness: str) -> None:
        log.warning("settling a call that is gone, by %s", witness, extra={"uniqueid": call.uniqueid})
        await self._asker.ask(
            SettleReport(
                node=self._node,
                uniqueid=call.uniqueid,
                dialstatus=DialStatus.ANSWER if call.state is CallState.UP else None,
                ended_ms=last_known_ms(call, self._meter.seen_ms(call.uniqueid)),
                leg=self._meter.times(call.uniqueid),
                witness=witness,
            )
        )
        self._meter.settled(call.uniqueid)


def _listing(channels: ChannelList) -> Listing:
    return Listing(frozenset(c.uniqueid for c in channels.channels), channels.at_ms)


def _misses(calls: Sequence[Call], listed: ChannelList) -> bool:
    present = {c.uniqueid for c in listed.channels}
    return any(call.uniqueid not in present for call in calls)
