"""The FastAGI server: one asyncio Protocol per connection that answers within its deadline, whatever the handler does.

The outside dependency is Asterisk, or whoever else reaches the port. **Fails closed**: no answer, a refusal and a
crash all leave CC_VERDICT unset or rejecting, never admitting. And it fails quickly, because AGI has no read timeout
(res/res_agi.c `run_agi`): a peer that waits for us holds a caller.

One exchange: read the header, ask the handler, write one `EXEC MSet` and half-close in the same breath, wait for
`200 result=0` and the peer's EOF. Asterisk never half-closes, so its EOF ends the exchange at any point; a handler
that is still at work then goes on, and is told that its answer was not applied. No handler is cancelled except by
`AgiServer.close`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from capconduit.domain.record import value
from fastagi.agi_protocol import (
    MAX_HEADER_BYTES,
    AgiRequest,
    Failure,
    HeaderFault,
    HeaderReader,
    ReplyReader,
    encode_mset,
    failure_line,
    parse_header,
)

__all__ = ["AgiCounters", "AgiLimits", "AgiReply", "AgiRequest", "AgiServer", "Endpoint"]

LISTEN_BACKLOG: Final = 1_024
REFUSED_AT_ONCE: Final = 256  # refused peers that we still listen to, so that they read our line before a reset
MAX_DISCARDED_BYTES: Final = 65_536  # what a refused peer may still send
CLOSE_WAIT_S: Final = 2.0  # for cancelled handlers and aborted connections to end
COMPLAINTS_PER_WINDOW: Final = 20
COMPLAINT_WINDOW_S: Final = 60.0


@value
class AgiReply:
    """What a handler answers.

    variables: (name, value) in the order they are set; the one the dialplan tests comes last. failed: also write a
    failure line, so that AGISTATUS is FAILURE. on_applied: called exactly once, with True when `200 result=0` came
    before EOF, else with False; for an answer that came after its deadline see `Endpoint.on_late_result`.
    """

    variables: tuple[tuple[str, str], ...]
    failed: bool = False
    on_applied: Callable[[bool], None] | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One script of the dialplan.

    late: answers in the handler's place when that was not done within the deadline, or raised (then `failed` is
    added); it must not block. on_late_result: gets what the handler answered after its deadline, to give back what
    it took; where it is None the answer's `on_applied(False)` is called instead. deadline_ms: from the complete
    header; None takes the server's. on_request: told of each request before its handler. on_answer: told what the
    handler answered, in time or not, None where it raised; and the seconds since the complete header.
    """

    handler: Callable[[AgiRequest], Coroutine[Any, Any, AgiReply]]
    late: Callable[[AgiRequest], AgiReply]
    on_late_result: Callable[[AgiRequest, AgiReply], None] | None = None
    deadline_ms: int | None = None
    on_request: Sequence[Callable[[], None]] = ()
    on_answer: Sequence[Callable[[AgiReply | None, float], None]] = ()


@dataclass(frozen=True, slots=True)
class AgiLimits:
    """Bounds of the server.

    header_ms, header_bytes: for a complete header. connections: at once, and apart from that handlers at work at
    once (one may outlive its connection). deadline_ms: for an answer. applied_wait_ms: for the peer's reply and EOF
    after our answer or refusal. Each connection is a file descriptor: RLIMIT_NOFILE must leave room for
    `connections` and `REFUSED_AT_ONCE`.
    """

    header_ms: int = 2_000
    header_bytes: int = MAX_HEADER_BYTES
    connections: int = 2_000
    deadline_ms: int = 250
    applied_wait_ms: int = 2_000


@dataclass(slots=True)
class AgiCounters:
    """Counts since start; they only grow.

    requests: by known script. left_early: closed by the peer before its header was complete (a health check, a scan).
    abandoned: closed by the peer while the handler was at work. not_applied: answers without `200 result=0`.
    """

    connections: int = 0
    refused: int = 0
    left_early: int = 0
    header_timeouts: int = 0
    bad_headers: int = 0
    unknown_scripts: int = 0
    deadlines_missed: int = 0
    failures: int = 0
    abandoned: int = 0
    applied: int = 0
    not_applied: int = 0
    requests: dict[str, int] = field(default_factory=dict)


class _Complaints:
    """A log that a flood cannot fill: so many lines per window, then their number."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._window_began_s = -COMPLAINT_WINDOW_S
        self._written = 0
        self._withheld = 0

    def __call__(self, level: int, text: str, *args: object, error: BaseException | None = None) -> None:
        now_s = time.monotonic()
        if now_s - self._window_began_s >= COMPLAINT_WINDOW_S:
            if self._withheld:
                self._log.warning("%d more such lines were withheld", self._withheld)
            self._window_began_s, self._written, self._withheld = now_s, 0, 0
        if self._written >= COMPLAINTS_PER_WINDOW:
            self._withheld += 1
            return
        self._written += 1
        self._log.log(level, text, *args, exc_info=error)


class AgiServer:
    """Answers FastAGI requests by script; all methods belong to the loop that ran `start`."""

    def __init__(self, endpoints: Mapping[str, Endpoint], limits: AgiLimits, log: logging.Logger) -> None:
        self.endpoints = dict(endpoints)
        self.limits = limits
        self.counters = AgiCounters(requests=dict.fromkeys(endpoints, 0))
        self.complain = _Complaints(log)
        self.connections: set[_Connection] = set()
        self.refused: set[_Connection] = set()
        self.handlers: set[asyncio.Task[AgiReply]] = set()
        self._listener: asyncio.Server | None = None
        self._idle_waiters: set[asyncio.Future[bool]] = set()

    @property
    def live_connections(self) -> int:
        """Connections that are open now, refused ones included."""
        return len(self.connections) + len(self.refused)

    @property
    def handlers_at_work(self) -> int:
        """Handlers that have not ended, those whose connection is gone included."""
        return len(self.handlers)

    async def start(self, host: str, port: int) -> int:
        """Listen and return the bound port (port 0: one that is free); OSError where that cannot be."""
        assert self._listener is None, "an AgiServer starts once"
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Connection(self, loop), host, port, backlog=LISTEN_BACKLOG)
        for listening in self._listener.sockets:
            # Connections inherit it: what we write waits for our end, which follows at once, and shares its segment.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        bound_port: int = self._listener.sockets[0].getsockname()[1]
        return bound_port

    def stop_accepting(self) -> None:
        """Refuse new connections; those that are open go on. Twice is once."""
        if self._listener is not None:
            self._listener.close()

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting and wait until all exchanges and handlers ended; False where `timeout_s` was not enough."""
        self.stop_accepting()
        return await self._until_idle(timeout_s)

    async def close(self) -> None:
        """End everything now: no new connections, open ones reset, handlers at work cancelled and waited for."""
        self.stop_accepting()
        for connection in [*self.connections, *self.refused]:
            connection.abort()
        for handler in [*self.handlers]:
            handler.cancel()
        if not await self._until_idle(CLOSE_WAIT_S):
            self.complain(logging.ERROR, "%d handlers did not end when cancelled", len(self.handlers))

    def ended(self) -> None:
        """A connection or a handler ended: wake those who wait for idleness."""
        if self._idle_waiters and self._is_idle():
            for waiter in self._idle_waiters:
                _resolve(waiter, True)

    def _is_idle(self) -> bool:
        return not (self.connections or self.refused or self.handlers)

    async def _until_idle(self, timeout_s: float) -> bool:
        if self._is_idle():
            return True
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._idle_waiters.add(waiter)
        timer = loop.call_later(timeout_s, _resolve, waiter, False)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._idle_waiters.discard(waiter)


def _resolve(waiter: asyncio.Future[bool], result: bool) -> None:
    if not waiter.done():
        waiter.set_result(result)


# States of a connection, in their order.
_READING_HEADER: Final = 0
_DECIDING: Final = 1
_ANSWERED: Final = 2
_REFUSED: Final = 3
_GONE: Final = 4


class _Connection(asyncio.Protocol):
    """One exchange. There is never more than one timer: for the header, then the deadline, then the peer's EOF."""

    __slots__ = (
        "_discarded_bytes", "_endpoint", "_header", "_late", "_loop", "_pending", "_replies", "_request", "_server",
        "_state", "_timer", "_transport",
    )  # fmt: skip

    _endpoint: Endpoint
    _request: AgiRequest
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, server: AgiServer, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self._header = HeaderReader(server.limits.header_bytes)
        self._replies = ReplyReader()
        self._pending: AgiReply | None = None  # written, and not yet told whether it was applied
        self._late = False
        self._discarded_bytes = 0
        self._state = _READING_HEADER

    # -- what the transport tells -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        server = self._server
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has the methods and another base class
        server.counters.connections += 1
        server.connections.add(self)
        self._timer = self._loop.call_later(server.limits.header_ms / 1_000, self._header_expired)
        if len(server.connections) > server.limits.connections:
            self._refuse_busy()

    def data_received(self, data: bytes) -> None:
        if self._state == _READING_HEADER:
            block = self._header.feed(data)
            if block is None:
                return
            self._header_complete(block)
            data = self._header.rest
        if self._state == _DECIDING or self._state == _ANSWERED:
            self._read_replies(data)
        elif self._state == _REFUSED:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > MAX_DISCARDED_BYTES:
                self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        server = self._server
        self._timer.cancel()
        state, self._state = self._state, _GONE
        if state == _READING_HEADER:
            server.counters.left_early += 1
        elif state == _DECIDING:
            server.counters.abandoned += 1
        self._tell(False)
        server.connections.discard(self)
        server.refused.discard(self)
        server.ended()

    def abort(self) -> None:
        """Reset the connection; `connection_lost` follows."""
        self._transport.abort()

    # -- header -------------------------------------------------------------------------------------------------

    def _header_expired(self) -> None:
        if self._transport.is_closing():
            return
        self._server.counters.header_timeouts += 1
        self._refuse(Failure.HEADER_TIMEOUT)
        # Whoever dawdled over the header gets no time for goodbyes.
        self._transport.close()

    def _header_complete(self, block: bytes | HeaderFault) -> None:
        server = self._server
        self._timer.cancel()
        request = block if isinstance(block, HeaderFault) else parse_header(block, time.monotonic_ns())
        if isinstance(request, HeaderFault):
            server.counters.bad_headers += 1
            server.complain(logging.INFO, "refused an AGI header: %s", request)
            self._refuse(Failure.BAD_HEADER)
            return
        endpoint = server.endpoints.get(request.script)
        if endpoint is None:
            server.counters.unknown_scripts += 1
            server.complain(logging.WARNING, "no AGI script %a", request.script[:80])
            self._refuse(Failure.UNKNOWN_SCRIPT)
            return
        if len(server.handlers) >= server.limits.connections:
            self._refuse_busy()
            return
        server.counters.requests[request.script] += 1
        self._request, self._endpoint = request, endpoint
        self._decide()

    # -- decision -----------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        server, endpoint = self._server, self._endpoint
        deadline_ms = server.limits.deadline_ms if endpoint.deadline_ms is None else endpoint.deadline_ms
        self._state = _DECIDING
        self._timer = self._loop.call_later(deadline_ms / 1_000, self._deadline_passed)
        for listener in endpoint.on_request:
            self._call_back("on_request", listener)
        try:
            task = self._loop.create_task(endpoint.handler(self._request))
        except Exception as error:  # noqa: BLE001 - no coroutine came of it, and Asterisk waits without a timeout
            self._handler_failed(error)
            return
        server.handlers.add(task)
        task.add_done_callback(self._decided)

    def _decided(self, task: asyncio.Task[AgiReply]) -> None:
        server = self._server
        server.handlers.discard(task)
        if task.cancelled():  # by `close`: the daemon stops and has waited long enough
            server.complain(logging.WARNING, "AGI %s was given up for channel %s", *self._name())
            self._not_decided()
        elif (error := task.exception()) is not None:
            self._handler_failed(error)
        elif self._is_waiting():
            self._timer.cancel()
            self._answer(task.result())
        else:
            self._give_back(task.result())
        if self._endpoint.on_answer:
            took_s = (time.monotonic_ns() - self._request.received_ns) / 1e9
            answered = None if task.cancelled() or task.exception() is not None else task.result()
            for listener in self._endpoint.on_answer:
                self._call_back("on_answer", listener, answered, took_s)
        server.ended()

    def _handler_failed(self, error: BaseException) -> None:
        self._server.complain(logging.ERROR, "AGI %s failed for channel %s", *self._name(), error=error)
        self._not_decided()

    def _not_decided(self) -> None:
        self._server.counters.failures += 1
        if self._is_waiting():
            self._timer.cancel()
            self._answer_in_its_place(failed=True)

    def _is_waiting(self) -> bool:
        """Whether the peer still waits for our answer; between its EOF and `connection_lost` it does not."""
        return self._state == _DECIDING and not self._transport.is_closing()

    def _deadline_passed(self) -> None:
        if not self._is_waiting():
            return
        self._server.counters.deadlines_missed += 1
        self._server.complain(logging.WARNING, "AGI %s was late for channel %s", *self._name())
        self._late = True
        self._answer_in_its_place(failed=False)

    def _give_back(self, reply: AgiReply) -> None:
        """The handler answered when nobody was waiting any more: the peer had left, or had its answer from `late`."""
        on_late_result = self._endpoint.on_late_result
        if not self._late or on_late_result is None:
            self._report(reply, False)
            return
        self._server.counters.not_applied += 1
        self._call_back("on_late_result", on_late_result, self._request, reply)

    # -- answer -------------------------------------------------------------------------------------------------

    def _answer(self, reply: AgiReply) -> None:
        self._pending = reply
        try:
            line = _encode(reply)
        except Exception as error:  # noqa: BLE001 - whatever the handler answered, Asterisk waits without a timeout
            self._server.counters.failures += 1
            self._server.complain(logging.ERROR, "AGI %s cannot be sent to channel %s", *self._name(), error=error)
            self._tell(False)
            self._answer_in_its_place(failed=True)
            return
        self._send(line)

    def _answer_in_its_place(self, *, failed: bool) -> None:
        """Send what `late` says; a bare failure line where even that fails."""
        try:
            reply = self._endpoint.late(self._request)
            if failed:
                reply = replace(reply, failed=True)
            self._pending = reply
            line = _encode(reply)
        except Exception as error:  # noqa: BLE001 - whatever happened, Asterisk waits without a timeout
            self._server.counters.failures += 1
            self._callback_failed("late", error)
            self._tell(False)
            line = failure_line(Failure.HANDLER)
        self._send(line)

    def _send(self, line: bytes) -> None:
        """Write and half-close in the same breath, then wait for the reply and EOF, bounded."""
        self._state = _ANSWERED
        self._transport.write(line)
        self._transport.write_eof()
        self._timer = self._loop.call_later(self._server.limits.applied_wait_ms / 1_000, self.abort)

    def _read_replies(self, data: bytes) -> None:
        """The first reply after our command is its answer; before it nothing is pending, and `_tell` says nothing."""
        if not data:
            return
        for result in self._replies.feed(data):
            self._tell(result.applied)
        if self._replies.overflowed:
            self.abort()

    def _tell(self, applied: bool) -> None:
        """Say once what became of the pending reply."""
        reply, self._pending = self._pending, None
        if reply is not None:
            self._report(reply, applied)

    def _report(self, reply: AgiReply, applied: bool) -> None:
        if applied:
            self._server.counters.applied += 1
        else:
            self._server.counters.not_applied += 1
        if reply.on_applied is not None:
            self._call_back("on_applied", reply.on_applied, applied)

    def _call_back(self, name: str, callback: Callable[..., None], *told: object) -> None:
        try:
            callback(*told)
        except Exception as error:  # noqa: BLE001 - a callback's fault is logged; the loop serves other calls
            self._callback_failed(name, error)

    def _callback_failed(self, name: str, error: Exception) -> None:
        self._server.complain(logging.ERROR, "%s of AGI %s failed for channel %s", name, *self._name(), error=error)

    def _name(self) -> tuple[str, str]:
        """Script and channel for the log; the channel's id comes from the wire."""
        return self._request.script, ascii(self._request.uniqueid[:80])

    # -- refusal ------------------------------------------------------------------------------------------------

    def _refuse_busy(self) -> None:
        self._server.counters.refused += 1
        self._server.complain(logging.WARNING, "more than %d AGI exchanges at once", self._server.limits.connections)
        self._refuse(Failure.BUSY)

    def _refuse(self, reason: Failure) -> None:
        """Write the failure line and half-close. Closing at once would reset a peer that still writes its header."""
        server = self._server
        self._timer.cancel()
        self._state = _REFUSED
        server.connections.discard(self)
        server.refused.add(self)
        self._transport.write(failure_line(reason))
        if len(server.refused) > REFUSED_AT_ONCE:
            self._transport.close()
            return
        self._transport.write_eof()
        self._timer = self._loop.call_later(server.limits.applied_wait_ms / 1_000, self.abort)


def _encode(reply: AgiReply) -> bytes:
    """The bytes of a reply; AgiQuotingError where it cannot be sent.

    Two lines in one segment are safe only because our EOF follows: it makes Asterisk's poll return for the second.
    On 22.10.1 the variables are then set, `200 result=0` comes, and AGISTATUS is FAILURE.
    """
    if not reply.failed:
        return encode_mset(reply.variables)
    return (encode_mset(reply.variables) if reply.variables else b"") + failure_line(Failure.HANDLER)
