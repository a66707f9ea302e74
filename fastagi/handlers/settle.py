"""`settle`: the call ended; post its price, free its places, write its CDR. Acknowledged only when durable.

Arguments: uniqueid, attempt, DIALSTATUS, ANSWEREDTIME_MS, DIALEDTIME_MS, HANGUPCAUSE, CHANNEL(hangupsource), context.
Failure policy: fail closed. Without CC_ACK the dialplan keeps the settlement in Asterisk's own database, from where it
is read later; settling twice is the same as once.
"""

from __future__ import annotations

import logging
from typing import Final

from capconduit.domain.calls import SettleAnswer, SettleReport
from capconduit.errors import DatabaseError
from capconduit.services.engine import EngineBusy
from capconduit.vocab import DialStatus
from fastagi.agi_server import AgiReply, AgiRequest, Endpoint
from fastagi.asking import Asker
from fastagi.handlers.replies import ACKNOWLEDGED, NOT_ACKNOWLEDGED
from fastagi.meter import Meter
from fastagi.texts import argument, clean, number, uniqueid_of

log = logging.getLogger(__name__)

# AMI's word of the leg's end comes on another connection and may be a little behind the handler's.
AMI_GRACE_S: Final = 0.1
DEADLINE_MS: Final = 2_000  # nobody hears a caller wait here, and an answer spares the spool


class SettleHandler:
    """Answers `settle`."""

    def __init__(self, asker: Asker, meter: Meter, node: str) -> None:
        self._asker = asker
        self._meter = meter
        self._node = node

    def endpoint(self) -> Endpoint:
        """How the server runs it."""
        return Endpoint(handler=self.handle, late=self.late, on_late_result=self.too_late, deadline_ms=DEADLINE_MS)

    async def handle(self, request: AgiRequest) -> AgiReply:
        """Settle with AMI's times where AMI saw the answer, else with the channel's own."""
        args = request.args
        uniqueid = uniqueid_of(args)
        await self._meter.wait_for_end(uniqueid, AMI_GRACE_S)
        report = SettleReport(
            node=self._node,
            uniqueid=uniqueid,
            attempt=number(argument(args, 1)) or 0,
            dialstatus=DialStatus.parse(argument(args, 2)),
            answered_for_ms=number(argument(args, 3)),
            hangup_cause=number(argument(args, 5)) or 0,
            hangup_source=argument(args, 6),
            channel=clean(request.env.get("agi_channel", "")),
            leg=self._meter.times(uniqueid),
        )
        try:
            answer: SettleAnswer = await self._asker.ask(report)
        except (EngineBusy, DatabaseError) as error:
            log.error("not settled yet: %s", error, extra={"uniqueid": uniqueid})
            return NOT_ACKNOWLEDGED
        self._meter.settled(uniqueid)
        if answer.disagreement:
            log.warning("settled before with other numbers: %s", answer.disagreement, extra={"uniqueid": uniqueid})
        elif answer.first and answer.call_id:
            log.info("settled call=%s", answer.call_id, extra={"uniqueid": uniqueid})
        return ACKNOWLEDGED

    def late(self, _request: AgiRequest) -> AgiReply:
        """No acknowledgement: the dialplan keeps the settlement."""
        return NOT_ACKNOWLEDGED

    def too_late(self, request: AgiRequest, _reply: AgiReply) -> None:
        """It is settled, and the dialplan keeps it as well; reading it again from there changes nothing."""
        log.warning("settled after the deadline", extra={"uniqueid": uniqueid_of(request.args)})
