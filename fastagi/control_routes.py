"""What the control socket answers: status and health, the live picture, hanging up, draining, reloading, logging.

Whatever acts is logged, and written to the audit in the name of who asked. That is what the request says, `actor`, and
where it says nothing the user that the kernel names.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from capconduit.domain.model import Call
from capconduit.errors import CapConduitError
from capconduit.services.office import DEFAULT_TENANT
from capconduit.vocab import CAUSE_NORMAL, EventKind
from fastagi.ami_guard import AMI_DOWN
from fastagi.ami_link import AmiLink
from fastagi.control_desk import ControlDesk
from fastagi.control_http import Answer, Fault, Handler, Request
from fastagi.control_stream import Viewer
from fastagi.floor import FloorHub
from fastagi.meter import Meter
from fastagi.texts import clean

log = logging.getLogger(__name__)

VIEWERS: Final = 32
ACTOR_CHARS: Final = 100
WRITTEN_S: Final = 3.0  # for the audit
LEVELS: Final = ("debug", "info", "warning", "error", "critical")

Status = Callable[[], dict[str, Any]]


class ControlRoutes:
    """The routes of one daemon."""

    def __init__(
        self,
        *,
        node: str,
        status: Status,
        drain: Callable[[], None],
        reload: Callable[[], Awaitable[int]],
        hub: FloorHub,
        meter: Meter,
        ami: AmiLink | None,
        desk: ControlDesk,
    ) -> None:
        self._node = node
        self._status = status
        self._drain = drain
        self._reload = reload
        self._hub = hub
        self._meter = meter
        self._ami = ami
        self._desk = desk

    def table(self) -> dict[tuple[str, str], Handler]:
        """By method and path; docs/control.md has the same."""
        return {
            ("GET", "/status"): self.status,
            ("GET", "/health"): self.health,
            ("GET", "/live"): self.live,
            ("GET", "/snapshot"): self.snapshot,
            ("GET", "/stream"): self.stream,
            ("POST", "/hangup"): self.hangup,
            ("POST", "/drain"): self.drain,
            ("POST", "/reload"): self.reload,
            ("POST", "/log-level"): self.log_level,
        }

    # --- looking ------------------------------------------------------------------------------------------------------

    async def status(self, _request: Request) -> Answer:
        """Everything the daemon knows of itself."""
        return Answer(self._status())

    async def health(self, _request: Request) -> Answer:
        """200 where it is ready, else 503, with the reasons."""
        told = self._status()
        code = HTTPStatus.OK if told["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer({"ready": told["ready"], "reasons": told["reasons"]}, code)

    async def live(self, _request: Request) -> Answer:
        """200 while the loop turns."""
        return Answer({"live": True})

    async def snapshot(self, request: Request) -> Answer:
        """PICTURE."""
        watched = await self._hub.look(_tenant(request))
        return Answer(watched.picture())

    async def stream(self, request: Request) -> Answer:
        """Server-sent events: a snapshot, or what was missed since an id, and then every change."""
        if self._hub.viewers >= VIEWERS:
            raise Fault(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-viewers", f"{VIEWERS} viewers look already")
        watched = await self._hub.look(_tenant(request))
        last_id = request.headers.get("last-event-id") or request.query.get("since", "")
        viewer = Viewer(watched, last_id)
        return Answer(content_type="text/event-stream", stream=viewer.run)

    # --- acting -------------------------------------------------------------------------------------------------------

    async def hangup(self, request: Request) -> Answer:
        """Hang up the caller's channel of one live call of this node."""
        told = request.json()
        call_id, actor = _text(told, "call"), _actor(request, told)
        call = await self._desk.live_call(call_id)
        if call is None:
            raise await self._unknown(call_id)
        if call.node != self._node:
            raise Fault(
                HTTPStatus.CONFLICT, "call-elsewhere", f"call {call_id} is on node {call.node}, this is {self._node}",
                f"ask the daemon of {call.node}", node=call.node,
            )  # fmt: skip
        if self._ami is None or not self._ami.can_act:
            stands = "down" if self._ami else "off"
            raise Fault(
                HTTPStatus.SERVICE_UNAVAILABLE, AMI_DOWN, f"Asterisk cannot be told: AMI is {stands}",
                "see `capconduit status`",
            )  # fmt: skip
        await self._hang_up(call, self._ami)
        log.info("hung up call=%s for %s", call.id, actor, extra={"uniqueid": call.uniqueid})
        await self._written(
            request, actor, "call.hangup", call.id, {"uniqueid": call.uniqueid, "node": self._node},
            tenant_id=call.tenant_id, told=(EventKind.CALL_HANGUP, {"actor": actor, "node": self._node}),
        )  # fmt: skip
        return Answer({"call": call.id, "node": self._node}, HTTPStatus.ACCEPTED)

    async def _hang_up(self, call: Call, ami: AmiLink) -> None:
        channel = self._meter.channel(call.uniqueid) or call.channel
        try:
            await ami.hangup(channel, CAUSE_NORMAL)
        except CapConduitError as error:
            down = error.slug == AMI_DOWN
            code = HTTPStatus.SERVICE_UNAVAILABLE if down else HTTPStatus.CONFLICT
            raise Fault(code, error.slug, f"channel {channel!r}: {error.message}", error.hint) from None

    async def _unknown(self, call_id: str) -> Fault:
        ended = await self._desk.call_node(call_id) is not None
        message = f"call {call_id!r} has ended" if ended else f"there is no live call {call_id!r}"
        hint = f"see `capconduit cdr show {call_id}`" if ended else "see `capconduit call list`"
        return Fault(HTTPStatus.NOT_FOUND, "call-unknown", message, hint, ended=ended)

    async def drain(self, request: Request) -> Answer:
        """Take no new calls, finish what is under way, end."""
        actor = _actor(request, request.json())
        log.info("draining for %s", actor)
        await self._written(request, actor, "daemon.drain", self._node, {"node": self._node})
        self._drain()
        return Answer({"draining": True}, HTTPStatus.ACCEPTED)

    async def reload(self, request: Request) -> Answer:
        """Read the whole estate anew; its version."""
        actor = _actor(request, request.json())
        version = await self._reload()
        log.info("read the estate anew for %s: version %d", actor, version)
        await self._written(request, actor, "daemon.reload", self._node, {"estate_version": version})
        return Answer({"estate_version": version})

    async def log_level(self, request: Request) -> Answer:
        """Log more or less, until the daemon is started again."""
        told = request.json()
        level, name, actor = _text(told, "level").lower(), str(told.get("logger") or ""), _actor(request, told)
        if level not in LEVELS:
            raise Fault(
                HTTPStatus.BAD_REQUEST, "level-unknown", f"{level!r} is no log level", f"one of {', '.join(LEVELS)}"
            )
        if name and not (name.isascii() and name.replace(".", "").replace("_", "").isalnum()):
            raise Fault(HTTPStatus.BAD_REQUEST, "logger-invalid", f"{name!r} is no logger", "like fastagi.meter")
        before = logging.getLevelName(logging.getLogger(name or None).level).lower()
        logging.getLogger(name or None).setLevel(level.upper())
        log.log(logging.INFO, "log level of %s is %s for %s", name or "all", level, actor)
        told_of = {"logger": name, "level": level, "before": before}
        await self._written(request, actor, "daemon.log-level", self._node, told_of)
        return Answer({"level": level, "logger": name, "before": before})

    async def _written(
        self, request: Request, actor: str, action: str, subject: str, after: Mapping[str, Any], **more: Any
    ) -> None:
        """To the audit, with the user that the kernel names, and as an event where there is one.

        What was done stands, and what is to be done is done, also where the database is away or hangs.
        """
        try:
            acted = self._desk.acted(actor, action, subject, {**after, "peer": request.peer}, **more)
            await asyncio.wait_for(acted, WRITTEN_S)
        except (CapConduitError, TimeoutError) as error:
            log.warning("%s of %s for %s is not in the audit: %s", action, subject, actor, error or "no database")


def _tenant(request: Request) -> str:
    return request.query.get("tenant") or DEFAULT_TENANT


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key)
    if not isinstance(value, str) or not value or len(value) > ACTOR_CHARS:
        raise Fault(HTTPStatus.BAD_REQUEST, "body-invalid", f"the body has no text {key!r}")
    return value


def _actor(request: Request, told: Mapping[str, Any]) -> str:
    """Who acts, in printable characters."""
    said = told.get("actor")
    name = clean(said)[:ACTOR_CHARS].strip() if isinstance(said, str) else ""
    return name or request.peer or "unknown"
