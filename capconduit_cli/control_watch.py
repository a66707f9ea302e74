"""Following one call till its end: from the daemon's stream, and from the database where that is away."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from capconduit.errors import CapConduitError, PeerError
from capconduit.services.calls import CallView, show_call, tell
from capconduit.units import parse_instant, parse_money
from capconduit_cli.control import DaemonStream
from capconduit_cli.output import notice

if TYPE_CHECKING:
    from capconduit.domain.model import Cdr
    from capconduit.services.office import Office

POLL_S: Final = 0.5
POLLS: Final = 10  # until the daemon is tried again
ENDED: Final = "ended"
_CHANGES: Final = ("state", "target", "attempt", "funded_s")  # what makes a new step

Step = dict[str, Any]


class Watch:
    """The steps of a live call, the last one its end."""

    def __init__(self, made: Office, socket: str, view: CallView) -> None:
        self._made = made
        self._socket = socket
        self._id = view.call.id
        self._last: tuple[Any, ...] = ()
        self._gone = False  # the stream has it no more: the database knows how it stands
        self._complained = False

    def steps(self) -> Iterator[Step]:
        """Until the call is over. A daemon or a database that is away is waited for."""
        while True:
            try:
                with DaemonStream(self._socket, self._made.tenant) as stream:
                    for kind, data in stream:
                        step = self._of_message(kind, data)
                        if step is not None:
                            yield step
                            if step["state"] == ENDED:
                                return
            except PeerError as error:
                if not self._complained:
                    self._complained = True
                    notice(f"{error.message}: following the database, twice a second")
            for _ in range(POLLS):
                step = self._of_database()
                if step is not None:
                    yield step
                    if step["state"] == ENDED:
                        return
                time.sleep(POLL_S)

    def _of_message(self, kind: str, data: Mapping[str, Any]) -> Step | None:
        if kind == "snapshot":
            mine = [c for c in data.get("calls") or () if isinstance(c, dict) and c.get("id") == self._id]
            self._gone = not mine
            if mine:
                return self._changed(_of_object(mine[0]))
        elif data.get("id") == self._id and kind in ("call", "call-gone"):
            self._gone = kind == "call-gone"
            if not self._gone:
                return self._changed(_of_object(data))
        return self._of_database() if self._gone else None  # again with each word, where it could not be read

    def _of_database(self) -> Step | None:
        """The call as it stands there; None where nothing changed, or nothing can be read now."""
        try:
            told = tell(self._made, self._id)
        except CapConduitError as error:
            if not self._complained:
                self._complained = True
                notice(f"{error.message}: trying again")
            return None
        if told.cdr is not None:
            return _of_record(told.cdr)
        return self._changed(_of_view(told.call)) if told.call else None

    def _changed(self, step: Step) -> Step | None:
        now = tuple(step[name] for name in _CHANGES)
        if now == self._last:
            return None
        self._last = now
        return step | {"at_ms": self._made.clock.now_ms()}


def begin(made: Office, socket: str, call: str) -> Watch:
    """Raises NotFound, Refused where it has ended."""
    return Watch(made, socket, show_call(made, call))


def _step(**known: Any) -> Step:
    return {
        "at_ms": None, "call_id": "", "state": "", "target": "", "attempt": None, "answered_ms": None, "funded_s": None,
        "held_micros": None, "talk_ms": None, "billed_micros": None, "currency": "", "outcome": None, "reason": None,
        "node": "",
    } | known  # fmt: skip


def _of_object(call: Mapping[str, Any]) -> Step:
    """A CALL of the stream."""
    answered = call.get("answered")
    return _step(
        call_id=call.get("id"), state=call.get("state"), target=call.get("target"), attempt=call.get("attempt"),
        answered_ms=parse_instant(answered, now_ms=0) if answered else None, funded_s=call.get("funded_s"),
        held_micros=parse_money(str(call.get("held") or "0")), currency=call.get("currency"), node=call.get("node"),
    )  # fmt: skip


def _of_view(view: CallView) -> Step:
    call = view.call
    return _step(
        call_id=call.id, state="up" if call.state == "up" else "dialing", target=view.target, attempt=call.attempt,
        answered_ms=call.answered_ms, funded_s=call.funded_s, held_micros=view.hold_micros, currency=call.currency,
        node=call.node,
    )  # fmt: skip


def _of_record(cdr: Cdr) -> Step:
    talked = cdr.answered_ms is not None or cdr.talk_ms
    outcome = "completed" if talked else "rejected" if cdr.reject_code else "unanswered"
    return _step(
        at_ms=cdr.ended_ms, call_id=cdr.call_id, state=ENDED, target=cdr.target, attempt=cdr.attempt,
        answered_ms=cdr.answered_ms, talk_ms=cdr.talk_ms, billed_micros=cdr.amount_micros, held_micros=0,
        currency=cdr.currency, outcome=outcome, reason=cdr.reject_reason or cdr.dialstatus, node=cdr.node,
    )  # fmt: skip
