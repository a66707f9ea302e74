"""`settle`: the call ended; post its price, free its places, write its CDR. Acknowledged only when durable.

Arguments: uniqueid, attempt, DIALSTATUS, ANSWEREDTIME_MS, DIALEDTIME_MS, HANGUPCAUSE, CHANNEL(hangupsource), context,
what was dialled for the leg that answered.
Failure policy: fail closed. What the database cannot take in time is kept in the local journal, with what AMI saw, and
acknowledged when it is on the disk. Without CC_ACK the dialplan keeps the settlement in Asterisk's own database, from
where it is read later; settling twice is the same as once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from capconduit.domain.calls import SettleAnswer, SettleReport
from capconduit.domain.record import replace
from capconduit.errors import DatabaseError
from capconduit.services.engine import EngineBusy
from capconduit.vocab import DialStatus
from fastagi.agi_server import AgiReply, AgiRequest, Endpoint
from fastagi.asking import Asker
from fastagi.handlers.replies import ACKNOWLEDGED, NOT_ACKNOWLEDGED
from fastagi.journal import Journal, JournalFailed
from fastagi.meter import Meter
from fastagi.texts import MAX_DIAL, argument, clean, dialled_leg, number, uniqueid_of

log = logging.getLogger(__name__)

# AMI's word of the leg's end comes on another connection and may be a little behind the handler's.
AMI_GRACE_S: Final = 0.1
ENGINE_S: Final = 0.7  # for the database; then there is still time to flush a disk before any dialplan's guard
DEADLINE_MS: Final = 2_000  # nobody hears a caller wait here, and an answer spares the spool
SPOOLED_S: Final = 1.0  # the dialplan has written the spool by then


class SettleHandler:
    """Answers `settle`. `on_kept` is told when the journal, or the spool, has got something to take from it."""

    def __init__(
        self,
        asker: Asker,
        meter: Meter,
        journal: Journal,
        node: str,
        now_ms: Callable[[], int],
        on_kept: Callable[[], None],
    ) -> None:
        self._asker = asker
        self._meter = meter
        self._journal = journal
        self._node = node
        self._now_ms = now_ms
        self._on_kept = on_kept

    def endpoint(self) -> Endpoint:
        """How the server runs it."""
        return Endpoint(handler=self.handle, late=self.late, on_late_result=self.too_late, deadline_ms=DEADLINE_MS)

    async def handle(self, request: AgiRequest) -> AgiReply:
        """Settle with AMI's times where AMI saw the answer, else with the channel's own."""
        args, ended_ms = request.args, self._now_ms()
        uniqueid = uniqueid_of(args)
        await self._meter.wait_for_end(uniqueid, AMI_GRACE_S)
        leg = self._meter.times(uniqueid)
        if not leg.dial:
            leg = replace(leg, dial=dialled_leg(argument(args, 8, MAX_DIAL)))
        report = SettleReport(
            node=self._node,
            uniqueid=uniqueid,
            attempt=number(argument(args, 1)) or 0,
            dialstatus=DialStatus.parse(argument(args, 2)),
            answered_for_ms=number(argument(args, 3)),
            hangup_cause=number(argument(args, 5)) or 0,
            hangup_source=argument(args, 6),
            channel=clean(request.channel),
            leg=leg,
        )
        try:
            answer = await self._settled(report)
        except (EngineBusy, DatabaseError, TimeoutError) as error:
            log.error("not settled yet: %s", error or type(error).__name__, extra={"uniqueid": uniqueid})
            return await self._keep(replace(report, ended_ms=_end_ms(report, ended_ms), witness="journal"))
        if answer.call_id is None and report.attempt:
            # Admitted under another node's name, or before a backup was put back: the dialplan keeps it with its id.
            log.error("the end of a call that is not in the database", extra={"uniqueid": uniqueid})
            return self._left_to_asterisk()
        self._meter.settled(uniqueid)
        if answer.disagreement:
            log.warning("settled before with other numbers: %s", answer.disagreement, extra={"uniqueid": uniqueid})
        elif answer.first and answer.call_id:
            log.debug("settled call=%s", answer.call_id, extra={"uniqueid": uniqueid})
        return ACKNOWLEDGED

    async def _settled(self, report: SettleReport) -> SettleAnswer:
        """The engine's answer. Raises EngineBusy, DatabaseError, TimeoutError; it may settle later all the same."""
        asked: asyncio.Future[SettleAnswer] = self._asker.ask(report)
        timer = asyncio.get_running_loop().call_later(ENGINE_S, _give_up, asked)
        try:
            return await asked
        finally:
            timer.cancel()

    async def _keep(self, report: SettleReport) -> AgiReply:
        """Keep it on our own disk; acknowledged only when it is there.

        A channel that was never told of an attempt has nothing to settle, in all likelihood: it is rejected because the
        database is away. In a long outage such calls would fill the journal. One that was admitted all the same is
        found missing in Asterisk's channel list.
        """
        if report.attempt == 0:
            return NOT_ACKNOWLEDGED
        try:
            await self._journal.append(report)
        except JournalFailed as error:
            log.error("not kept, it stays with Asterisk: %s", error, extra={"uniqueid": report.uniqueid})
            return self._left_to_asterisk()
        self._meter.settled(report.uniqueid)
        self._on_kept()
        log.warning("kept in the journal until the database is back", extra={"uniqueid": report.uniqueid})
        return ACKNOWLEDGED

    def late(self, _request: AgiRequest) -> AgiReply:
        """No acknowledgement: the dialplan keeps the settlement."""
        return self._left_to_asterisk()

    def _left_to_asterisk(self) -> AgiReply:
        asyncio.get_running_loop().call_later(SPOOLED_S, self._on_kept)
        return NOT_ACKNOWLEDGED

    def too_late(self, request: AgiRequest, _reply: AgiReply) -> None:
        """It is settled, and the dialplan keeps it as well; reading it again from there changes nothing."""
        log.warning("settled after the deadline", extra={"uniqueid": uniqueid_of(request.args)})


def _end_ms(report: SettleReport, heard_ms: int) -> int:
    """When the call ended, for whoever reads it later: AMI's word, else ours, bounded by the time the caller was up."""
    leg = report.leg
    if leg.ended_ms is not None:
        return leg.ended_ms
    if leg.answered_ms is not None and report.dialstatus is DialStatus.ANSWER and report.answered_for_ms:
        return min(heard_ms, leg.answered_ms + report.answered_for_ms)
    return heard_ms


def _give_up(asked: asyncio.Future[SettleAnswer]) -> None:
    """Nobody waits for an answer any more; what comes later comes to nothing, for the journal has the settlement."""
    if not asked.done():
        asked.set_exception(TimeoutError(f"the database did not answer within {ENGINE_S:g} s"))
