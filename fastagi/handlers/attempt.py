"""`attempt`: a Dial ended without an answer; which target next.

Arguments: uniqueid, attempt, DIALSTATUS, HANGUPCAUSE. Failure policy: fail closed, the call ends.
"""

from __future__ import annotations

import logging

from capconduit.domain.calls import AttemptReport, RouteAnswer
from capconduit.errors import DatabaseError
from capconduit.services.engine import EngineBusy
from capconduit.vocab import DialStatus, RejectCode
from fastagi.agi_server import AgiReply, AgiRequest, Endpoint
from fastagi.asking import Asker
from fastagi.handlers.replies import reject_without_decision, route_reply
from fastagi.meter import Meter
from fastagi.texts import argument, number, uniqueid_of

log = logging.getLogger(__name__)


class AttemptHandler:
    """Answers `attempt`."""

    def __init__(self, asker: Asker, meter: Meter, node: str) -> None:
        self._asker = asker
        self._meter = meter
        self._node = node

    def endpoint(self) -> Endpoint:
        """How the server runs it. What a late answer took is the call's, and is given back with its settlement."""
        return Endpoint(handler=self.handle, late=self.late)

    async def handle(self, request: AgiRequest) -> AgiReply:
        """Record the end of the attempt and choose the next."""
        uniqueid = uniqueid_of(request.args)
        command = AttemptReport(
            node=self._node,
            uniqueid=uniqueid,
            attempt=number(argument(request.args, 1)) or 0,
            dialstatus=DialStatus.parse(argument(request.args, 2)),
            hangup_cause=number(argument(request.args, 3)) or 0,
            rang_ms=self._meter.times(uniqueid).rang_ms,
        )
        self._meter.dial_over(uniqueid)
        try:
            answer: RouteAnswer = await self._asker.ask(command)
        except EngineBusy:
            return reject_without_decision(RejectCode.ENGINE_TIMEOUT)
        except DatabaseError as error:
            log.error("database down: %s", error.message, extra={"uniqueid": command.uniqueid})
            return reject_without_decision(RejectCode.DATABASE_DOWN)
        log.debug(
            "attempt %d %s cause=%d", command.attempt, command.dialstatus, command.hangup_cause,
            extra={"uniqueid": command.uniqueid},
        )  # fmt: skip
        return route_reply(answer)

    def late(self, _request: AgiRequest) -> AgiReply:
        """What is answered when there is no more time."""
        return reject_without_decision(RejectCode.ENGINE_TIMEOUT)
