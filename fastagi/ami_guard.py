"""One guarded connection to AMI on panoramisk: what its Manager and AMIProtocol do not do themselves.

A Manager lives as long as one connection, so nothing is ever replayed; whole messages are decoded, not segments; what
is pending fails as soon as the connection does; answers are bounded in size and handled in slices; a message that
cannot be handled costs itself, not the connection. The private names of panoramisk that are leaned on here are pinned
by tests/protocol/test_ami_panoramisk_contract.py.

Fails open: every fault becomes AmiUnavailable or AmiRefused, which the link and its callers survive.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from panoramisk.actions import Action
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.manager import Manager
from panoramisk.message import Message

from capconduit.asterisk.ami_codec import (
    BANNER,
    BANNER_BYTES,
    AmiRefused,
    AmiUnavailable,
    MessageBuffer,
    Oversized,
    encode_action,
    line_starts,
    pick_fields,
)
from fastagi.ami_events import FIELDS_READ

log = logging.getLogger(__name__)

SLICE_MESSAGES: Final = 50  # so many are handled before other tasks get their turn
UNSENT_BYTES: Final = 256 * 1024  # an Asterisk that reads no more does not get more
MAX_PENDING_ACTIONS: Final = 1_000
EVENT_CLASSES: Final = "call,system"  # asked for at login; what the user may read still decides
NO_EVENTS: Final = "off"

_WANTED: Final = {name.encode(): (name, line_starts(fields)) for name, fields in FIELDS_READ.items()}
_ACTION_ID: Final = re.compile(rb"(?:\A|\r\n)ActionID: ([^\r]*)")

Fields = dict[str, str]


@dataclass(frozen=True)
class AmiSettings:
    """Where Asterisk is, who we are there, and every bound of the link. Durations in s."""

    host: str
    port: int
    username: str
    secret: str = field(repr=False)
    events: str = EVENT_CLASSES  # or NO_EVENTS
    connect_timeout_s: float = 5.0
    login_timeout_s: float = 10.0  # Asterisk thinks for a second before it refuses
    fully_booted_wait_s: float = 10.0  # a user without read=system never hears of it
    action_timeout_s: float = 5.0
    ping_interval_s: float = 10.0
    ping_timeout_s: float = 10.0
    backoff_first_s: float = 0.5
    backoff_max_s: float = 30.0
    refused_backoff_s: float = 60.0  # after a wrong password: a person must act, and Asterisk logs each try
    stable_after_s: float = 30.0  # a link that stood so long begins again with the first backoff
    queue_limit: int = 20_000
    message_limit_bytes: int = 65_536
    reply_limit_items: int = 20_000


@dataclass
class LinkCounters:
    """What happened on the link since the start; only ever added to."""

    received_bytes: int = 0
    events: int = 0  # call events that were translated
    ignored: int = 0  # messages that are none of ours
    malformed: int = 0  # messages that could not be handled
    oversized: int = 0
    strays: int = 0  # answers that nobody waits for any more
    actions: int = 0
    unanswered: int = 0
    connects: int = 0
    logins: int = 0
    login_refusals: int = 0
    losses: int = 0


class LoginRefused(AmiRefused):
    """Wrong name or secret: another try changes nothing until a person acts."""


class GuardedProtocol(AMIProtocol):
    """One connection: cuts, parses and sorts what comes in, a slice at a time."""

    version: str | None
    closed: bool
    responses: dict[str, Any]
    factory: GuardedManager | None
    transport: asyncio.Transport

    def __init__(self, settings: AmiSettings, counters: LinkCounters) -> None:
        self.settings, self.counters = settings, counters
        self.buffer = MessageBuffer(settings.message_limit_bytes)
        self.draining = False
        self.lost_by: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.counters.received_bytes += len(data)
        self.buffer.feed(data)
        if not self.draining:
            self.drain()

    def drain(self) -> None:
        """Handle one slice of what is buffered; the rest after other tasks had their turn, reading paused."""
        self.draining = False
        if self.closed or (self.version is None and not self.read_banner()):
            return
        for _ in range(SLICE_MESSAGES):
            data = self.buffer.next()
            if data is None:
                if not self.transport.is_closing():
                    self.transport.resume_reading()
                return
            if not self.sort(data):
                return
        self.draining = True
        if not self.transport.is_closing():
            self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self.drain)

    def read_banner(self) -> bool:
        """Take in the first line; whoever does not say that it is a manager interface is left."""
        line = self.buffer.next_line(BANNER_BYTES)
        if line is None:
            return False
        self.version = line.removeprefix(BANNER).decode(errors="replace")
        if not line.startswith(BANNER):
            self.connection_lost(ConnectionError("what answers there is not an Asterisk manager interface"))
            return False
        return True

    def sort(self, data: bytes) -> bool:
        """One whole message: a wanted event, the answer to an action, or nothing of ours. False: the end came."""
        try:
            name = data[7 : data.find(b"\r\n")] if data.startswith(b"Event: ") else b""
            if isinstance(data, Oversized):
                self.on_oversized(data)
            elif (wanted := _WANTED.get(name)) is not None:
                if self.factory is not None:
                    fields = pick_fields(data, wanted[1])
                    fields["Event"] = wanted[0]
                    self.factory.dispatch(fields)
            else:
                self.on_answer(data)
        except Exception:  # one message that panoramisk or we cannot handle must not cost the link
            self.counters.malformed += 1
            if self.counters.malformed.bit_count() == 1:  # the 1st, 2nd, 4th … so that a flood does not fill the log
                log.exception("AMI messages that could not be handled: %d", self.counters.malformed)
        return not self.closed

    def on_answer(self, data: bytes) -> None:
        """A message that may belong to an action: parsed only where somebody waits for it."""
        answer = _ACTION_ID.search(data)
        if answer is None:
            self.counters.ignored += 1
        elif answer[1].decode(errors="replace") not in self.responses:
            self.counters.strays += 1
        else:
            self.handle_message(Message.from_line(data.decode(errors="replace").strip()))

    def handle_message(self, message: Message | None) -> None:
        """Give an answer to its action; one of more than `reply_limit_items` parts is handed over as far as it came."""
        action = None if message is None else self.responses.get(message.id)
        if action is None:
            self.counters.malformed += 1
        elif len(action.responses) >= self.settings.reply_limit_items:
            self.responses.pop(action.id, None)
            if not action.future.done():
                action.future.set_result(action.responses)
        else:
            super().handle_message(message)

    def on_oversized(self, head: bytes) -> None:
        self.counters.oversized += 1
        answer = _ACTION_ID.search(head)
        action = None if answer is None else self.responses.pop(answer[1].decode(errors="replace"), None)
        if action is not None and not action.future.done():
            limit = self.settings.message_limit_bytes
            action.future.set_exception(AmiRefused("ami-reply-too-large", f"an answer of more than {limit} bytes"))
        elif self.factory is not None:
            self.factory.lost_an_event("an AMI message was too long")

    def send(self, data: Mapping[str, object], as_list: bool | None = None) -> asyncio.Future[Any]:
        """Encode and write one action. Raises AmiUnavailable or AmiRefused before anything is written."""
        action = data if isinstance(data, Action) else Action(data)
        action.as_list = as_list
        if self.closed or self.transport.is_closing():
            raise down("the connection is closing")
        if len(self.responses) >= MAX_PENDING_ACTIONS or self.transport.get_write_buffer_size() > UNSENT_BYTES:
            raise AmiUnavailable("ami-busy", "Asterisk does not keep up with what it is asked over AMI", _TRY_LATER)
        encoded = encode_action(action)
        self.responses[action.id] = action
        self.transport.write(encoded)
        return action.future  # type: ignore[no-any-return]  # panoramisk is untyped; Action makes an asyncio.Future

    def connection_lost(self, exc: Exception | None) -> None:
        if self.factory is None:
            self.closed, self.lost_by = True, exc  # lost before the Manager knew of it, which looks at these
            self.transport.abort()
            return
        super().connection_lost(exc)

    def close(self) -> None:
        """Fail what is pending, at once and for good; then let go of the socket without waiting for it."""
        pending, self.responses = list(self.responses.values()), {}
        for action in pending:
            if not action.future.done():
                action.future.set_exception(down("the connection was lost before the answer came"))
                action.future.exception()  # whoever waits still gets it; nobody waiting is no warning
        self.transport.abort()
        super().close()


class GuardedManager(Manager):
    """One login: lives as long as its connection and knows nothing of another."""

    def __init__(self, settings: AmiSettings, counters: LinkCounters, sink: Callable[[Fields], None]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            host=settings.host,
            port=settings.port,
            username=settings.username,
            secret=settings.secret,
            events=settings.events,
            loop=loop,
            protocol_factory=partial(GuardedProtocol, settings, counters),
        )
        self.sink = sink
        self.lost: asyncio.Future[str] = loop.create_future()

    def connection_made(self, f: asyncio.Future[Any]) -> None:
        """Log in on the new connection; a connection that failed is told to whoever awaits it, and not retried here."""
        if f.cancelled() or f.exception() is not None:
            return
        protocol = f.result()[1]
        if protocol.closed:
            self.connection_lost(protocol.lost_by)
            return
        super().connection_made(f)
        self.pinger.cancel()  # the link pings, and looks at the answers

    def login(self, future: asyncio.Future[Any]) -> bool:  # noqa: ARG002 - the name and arguments are panoramisk's
        """The link awaits the same future and judges it."""
        return bool(self.authenticated)

    def dispatch(self, event: Fields) -> None:
        self.sink(event)

    def lost_an_event(self, why: str) -> None:
        """Tell the link, by a message that has no Event: no real one is like it."""
        self.sink({"Lost": why})

    def send_action(self, action: Mapping[str, object], as_list: bool | None = None, **kwargs: object) -> Any:
        if self.protocol is None:
            raise down("there is no connection")
        return super().send_action(action, as_list=as_list, **kwargs)

    async def send_awaiting_actions(self, *_: object) -> None:
        """Nothing: what was not answered is never sent again."""

    def connection_lost(self, exc: object) -> None:
        """Tell the link, once; it decides when to try again."""
        if not self.lost.done():
            self.lost.set_result(str(exc) if isinstance(exc, Exception) and str(exc) else "Asterisk closed it")


AMI_DOWN: Final = "ami-down"
_TRY_LATER: Final = "look at the link with `capconduit status`, and try again"


def down(message: str) -> AmiUnavailable:
    """The error of everything that needs a link that is not there."""
    return AmiUnavailable(AMI_DOWN, message, "is Asterisk running, and [ami] in the configuration right?")
