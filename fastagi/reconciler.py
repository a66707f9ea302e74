"""Settles what nobody told us about: the spool, calls of a dead Asterisk, and calls that are in no channel list.

Failure policy: fails open. Without AMI or database nothing is concluded and nothing is released; it tries again later.
Reconciling never hangs up a call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from capconduit.domain.calls import SettleReport
from capconduit.domain.model import Call
from capconduit.domain.reconcile import Listing, last_known_ms, of_dead_asterisk, orphans
from capconduit.errors import CapConduitError
from capconduit.services.engine import EngineBusy
from capconduit.vocab import DialStatus
from fastagi.ami_events import AmiEvent, ChannelList, LinkUp, ResyncNeeded
from fastagi.ami_link import AmiLink
from fastagi.asking import Asker
from fastagi.housekeeping import Housekeeping
from fastagi.meter import Meter
from fastagi.spool import SPOOL_FAMILY, read_entry

log = logging.getLogger(__name__)

EVERY_S: Final = 15.0  # between two looks at the spool and at calls whose lease has run out
BETWEEN_LISTS_S: Final = 1.0


class Reconciler:
    """Runs beside the meter. All methods belong to the loop."""

    def __init__(self, asker: Asker, ami: AmiLink, meter: Meter, housekeeping: Housekeeping, node: str) -> None:
        self._asker = asker
        self._ami = ami
        self._meter = meter
        self._housekeeping = housekeeping
        self._node = node
        self._wake = asyncio.Event()
        self._began_ms: int | None = None  # of an Asterisk that was found to be another one

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

    async def run(self) -> None:
        """Look every EVERY_S, and when told to, until cancelled."""
        while True:
            if self._ami.up:
                try:
                    await self._settle_spool()
                    await self._settle_dead()
                    await self._settle_orphans()
                except (CapConduitError, EngineBusy) as error:
                    log.warning("reconciling: %s", error)
            try:
                await asyncio.wait_for(self._wake.wait(), EVERY_S)
            except TimeoutError:
                continue
            self._wake.clear()

    async def _settle_spool(self) -> None:
        """Settlements that Asterisk kept for us; each is deleted only when it is durable here."""
        for path, text in (await self._ami.db_get_tree(SPOOL_FAMILY)).items():
            uniqueid = path.rsplit("/", 1)[-1]
            report = read_entry(self._node, path, text, self._meter.times(uniqueid))
            if report is None:
                log.error("cannot read the kept settlement %s: %r", path, text)
                continue
            await self._asker.ask(report)
            self._meter.settled(uniqueid)
            await self._ami.db_del(SPOOL_FAMILY, uniqueid)
            log.info("settled from the spool", extra={"uniqueid": uniqueid})

    async def _settle_dead(self) -> None:
        """Calls that died with an Asterisk that is gone, at their last known life."""
        if self._began_ms is None:
            return
        for call in of_dead_asterisk(await self._housekeeping.node_calls(self._node), self._began_ms):
            await self._settle(call, "asterisk-restart")
        self._began_ms = None

    async def _settle_orphans(self) -> None:
        """Calls that two complete lists in a row do not show."""
        calls = await self._housekeeping.node_calls(self._node)
        if not calls:
            return
        earlier = await self._ami.core_show_channels()
        if not _misses(calls, earlier):
            return
        await asyncio.sleep(BETWEEN_LISTS_S)
        later = await self._ami.core_show_channels()
        if not (earlier.complete and later.complete):
            return
        for call in orphans(calls, _listing(earlier), _listing(later), self._meter.last_event_ms):
            await self._settle(call, "reconciler")

    async def _settle(self, call: Call, witness: str) -> None:
        log.warning("settling a call that is gone, by %s", witness, extra={"uniqueid": call.uniqueid})
        leg = self._meter.times(call.uniqueid)
        await self._asker.ask(
            SettleReport(
                node=self._node,
                uniqueid=call.uniqueid,
                dialstatus=DialStatus.ANSWER if call.answered_ms else None,
                ended_ms=last_known_ms(call, self._meter.last_event_ms.get(call.uniqueid)),
                leg=leg,
                witness=witness,
            )
        )
        self._meter.settled(call.uniqueid)


def _listing(channels: ChannelList) -> Listing:
    return Listing(frozenset(c.uniqueid for c in channels.channels), channels.at_ms)


def _misses(calls: Sequence[Call], listed: ChannelList) -> bool:
    present = {c.uniqueid for c in listed.channels}
    return any(call.uniqueid not in present for call in calls)
