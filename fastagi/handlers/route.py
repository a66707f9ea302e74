"""`route`: a call arrived; which target, or why none.

Arguments: uniqueid, linkedid, DNID, ANI, caller name, trunk, STIR attestation, STIR verdict, SIP call id.
Failure policy: fail closed. Without a database or in want of time the call is rejected; what a decision that came too
late had taken is given back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from capconduit.clock import Clock
from capconduit.domain.calls import DialAnswer, RouteAnswer, RouteRequest, SettleAnswer, SettleReport
from capconduit.errors import DatabaseError
from capconduit.services.engine import EngineBusy
from capconduit.vocab import CcVariable, RejectCode, Verdict
from fastagi.agi_server import AgiReply, AgiRequest, Endpoint
from fastagi.asking import Asker
from fastagi.handlers.replies import dial_reply, reject_reply, reject_without_decision
from fastagi.meter import Meter
from fastagi.texts import argument, clean, uniqueid_of

log = logging.getLogger(__name__)

# The hangup handler of a caller who left while we decided tells us at once; this long after, nobody will.
UNDELIVERED_GRACE_S: Final = 5.0


class RouteHandler:
    """Answers `route`. `counted` adds how often the caller calls; it never fails."""

    def __init__(
        self,
        asker: Asker,
        meter: Meter,
        node: str,
        boot_id: str,
        clock: Clock,
        deadline_ms: int,
        counted: Callable[[RouteRequest], RouteRequest] | None = None,
    ) -> None:
        self._asker = asker
        self._meter = meter
        self._node = node
        self._boot_id = boot_id
        self._clock = clock
        self._deadline_ms = deadline_ms
        self._counted = counted

    def endpoint(self) -> Endpoint:
        """How the server runs it."""
        return Endpoint(handler=self.handle, late=self.late, on_late_result=self.give_back)

    async def handle(self, request: AgiRequest) -> AgiReply:
        """Decide, and remember the call for the meter."""
        command = self.command(request)
        if self._counted is not None:
            command = self._counted(command)
        self._meter.expect(command.uniqueid, command.channel)
        try:
            answer: RouteAnswer = await self._asker.ask(command)
        except EngineBusy:
            self._meter.forget(command.uniqueid)
            return reject_without_decision(RejectCode.ENGINE_TIMEOUT)
        except DatabaseError as error:
            self._meter.forget(command.uniqueid)
            log.error("database down: %s", error.message, extra={"uniqueid": command.uniqueid})
            return reject_without_decision(RejectCode.DATABASE_DOWN)
        except BaseException:  # not ours to handle, only not to be watched any more
            self._meter.forget(command.uniqueid)
            raise
        if log.isEnabledFor(logging.DEBUG):
            log.debug("route %s", _told(answer), extra={"uniqueid": command.uniqueid, "did": command.dnid})
        if not isinstance(answer, DialAnswer):
            self._meter.forget(command.uniqueid)
            return reject_reply(answer)
        return dial_reply(answer, lambda applied: self._delivered(command.uniqueid, applied))

    def _delivered(self, uniqueid: str, applied: bool) -> None:
        """Asterisk did not take the verdict: the caller is gone, or the dialplan waited no longer for us.

        A caller who is gone is settled by the hangup handler. A dialplan that fell back tells us nothing more, so what
        was taken is given back after a while, if AMI was there to see that the call was not dialled after all.
        """
        if not applied:
            asyncio.get_running_loop().call_later(UNDELIVERED_GRACE_S, self._give_back_undelivered, uniqueid)

    def _give_back_undelivered(self, uniqueid: str) -> None:
        if self._meter.knows_undialled(uniqueid):
            self._give_back(uniqueid, "undelivered")

    def command(self, request: AgiRequest) -> RouteRequest:
        """The request as the engine wants it. Raises BadRequest."""
        args = request.args
        return RouteRequest(
            node=self._node,
            boot_id=self._boot_id,
            uniqueid=uniqueid_of(args),
            linkedid=argument(args, 1),
            dnid=argument(args, 2),
            ani=argument(args, 3),
            caller_name=argument(args, 4),
            trunk=argument(args, 5),
            attestation=argument(args, 6),
            stir_verdict=argument(args, 7),
            sip_call_id=argument(args, 8),
            channel=clean(request.channel),
            arrived_ms=self._clock.now_ms(),
            until_mono_ms=self._clock.monotonic_ms() + self._deadline_ms,
        )

    def late(self, _request: AgiRequest) -> AgiReply:
        """What is answered when there is no more time."""
        return reject_without_decision(RejectCode.ENGINE_TIMEOUT)

    def give_back(self, request: AgiRequest, reply: AgiReply) -> None:
        """The decision came too late and the call was rejected: settle it so that nothing stays held."""
        if (CcVariable.VERDICT, Verdict.DIAL) not in reply.variables:
            return
        self._give_back(uniqueid_of(request.args), "late")

    def _give_back(self, uniqueid: str, witness: str) -> None:
        log.warning("a decision was %s and is given back", witness, extra={"uniqueid": uniqueid})
        report = SettleReport(node=self._node, uniqueid=uniqueid, reject=RejectCode.ENGINE_TIMEOUT, witness=witness)
        try:
            self._asker.ask(report).add_done_callback(lambda answered: self._given_back(uniqueid, answered))
        except EngineBusy:
            log.error("not given back, the engine is busy", extra={"uniqueid": uniqueid})

    def _given_back(self, uniqueid: str, answered: asyncio.Future[SettleAnswer]) -> None:
        """A call that had been dialled after all goes on, and goes on being watched."""
        if answered.cancelled():
            return
        if (error := answered.exception()) is not None:
            log.error("not given back: %s", error, extra={"uniqueid": uniqueid})
        elif answered.result().first:
            self._meter.forget(uniqueid)


def _told(answer: RouteAnswer) -> str:
    if isinstance(answer, DialAnswer):
        return f"dial {answer.target} call={answer.call_id} funded_s={answer.funded_s}"
    return f"reject {answer.reason} sip={answer.sip}"
