"""The daemon put together: engine, FastAGI server, AMI link, meter, reconciler, control socket; start, drain, stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from capconduit import __version__
from capconduit.clock import Clock
from capconduit.config import Config, resolve_secret
from capconduit.config_rules import parse_listen
from capconduit.domain.model import Node
from capconduit.errors import CapConduitError, ConfigError
from capconduit.services.engine import Engine
from capconduit.services.retention import Archive
from capconduit.store.store import Store
from capconduit.units import MS_PER_SECOND, format_instant
from fastagi.abuse import AbuseWatch
from fastagi.agi_server import AgiLimits, AgiServer
from fastagi.ami_guard import NO_EVENTS
from fastagi.ami_link import AmiControl, AmiLink, AmiSettings
from fastagi.asking import Asker
from fastagi.call_log import log_calls
from fastagi.control import ControlServer
from fastagi.control_desk import ControlDesk
from fastagi.control_http import Answer, Handler, Request
from fastagi.control_routes import ControlRoutes
from fastagi.floor import FloorHub
from fastagi.floor_pulse import Pulse
from fastagi.handlers.attempt import AttemptHandler
from fastagi.handlers.route import RouteHandler
from fastagi.handlers.settle import SettleHandler
from fastagi.housekeeping import Housekeeping, look_after_growth, look_after_sums
from fastagi.journal import Journal
from fastagi.meter import Meter
from fastagi.metrics import EXPOSITION, Gauges, Metrics
from fastagi.metrics_counts import Counts
from fastagi.metrics_port import MetricsPort
from fastagi.outwards import Outwards, Place
from fastagi.reconciler import Reconciler
from fastagi.systemd import notify, watchdog_interval_s
from fastagi.zombies import Zombies

log = logging.getLogger(__name__)

ENGINE_STOP_S: Final = 10.0
HEARTBEAT_S: Final = 3.0
DOUBLE_BEATS: Final = 3
SUSPECT_MS: Final = 7_000  # a node that was up so short a time ago may have another daemon: two heartbeats tell
LAST_WORD_S: Final = 5.0  # for the node's row at the end
FRESH_MS: Final = 60_000  # a heartbeat that is older, or so far ahead, is of a daemon that is gone, or of another time
LOOK_S: Final = 0.25  # between two looks at the row of a daemon that may still live
OVERDUE_S: Final = 10.0  # without a heartbeat written: the database hangs
AMI_BACKOFF_S: Final = 4.0  # what an Asterisk left behind is settled within ten seconds of its being back


class DaemonFailed(Exception):
    """A part of the daemon ended by itself; it was logged, and everything was stopped in order."""


async def _watchdog(interval_s: float) -> None:
    """Tell systemd that the loop turns; apart from everything that may wait for a database."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


class Daemon:
    """One daemon on one node. `take_over`: start although another one seems to live under this node's name."""

    def __init__(self, config: Config, store: Store, clock: Clock, *, take_over: bool = False) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._take_over = take_over
        self.node = config.node.name
        self.boot_id = clock.new_id()
        self._started_ms = clock.now_ms()
        self._engine = Engine(store, clock, gathers=True)
        archive = Archive(Path(config.database.archive)) if config.database.archive else None
        self._housekeeping = Housekeeping(store, archive)
        self._control_desk = ControlDesk(store, clock)
        self._journal = Journal(Path(config.node.journal), self.boot_id)
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = asyncio.Event()
        self._draining = False
        self._failed = False
        self._double_beats = 0  # heartbeats for which another daemon of our name is still taken to live
        self._alone_from_s = 0.0
        self._written_s: float | None = None  # when the last heartbeat was written; None: the last one was not
        self._beat_took_s: float | None = None  # to write it
        self._batches_then = 0
        self._metrics_port: MetricsPort | None = None
        self.agi_port = 0

    async def run(self) -> None:
        """Start, serve until told to stop, drain. Raises CapConduitError where it cannot start, DaemonFailed."""
        await self._start()
        notify("READY=1")
        log.info("ready: FastAGI on %s, node %s, boot %s", self._listening(), self.node, self.boot_id)
        try:
            await self._stop.wait()
        finally:
            await self._end()
        if self._failed:
            raise DaemonFailed

    def stop(self) -> None:
        """Drain and end; safe twice."""
        self._draining = True
        self._stop.set()

    async def _start(self) -> None:
        self._control = ControlServer(Path(self._config.control.socket), {})
        await self._control.refuse_if_taken()
        await self._journal.open()
        known = await self._look_at_nodes()
        self._engine.start()
        gc.collect()
        gc.freeze()  # the estate is there to stay: no collection looks through it again
        asker = Asker(self._engine)
        abuse = AbuseWatch(self._engine, self._store, self._clock)
        self._ami = self._make_link(known)
        self._meter = Meter(asker, self._ami, self.node, self._clock.now_ms)
        deadline_ms = self._config.fastagi.deadline_ms
        self._pulse = pulse = Pulse()
        handlers = {
            "route": RouteHandler(
                asker, self._meter, self.node, self.boot_id, self._clock, deadline_ms, abuse.counted
            ).endpoint(),
            "attempt": AttemptHandler(asker, self._meter, self.node).endpoint(),
            "settle": SettleHandler(
                asker, self._meter, self._journal, self.node, self._clock.now_ms, lambda: self._reconciler.on_kept()
            ).endpoint(),
        }
        counts = Counts(self._clock.now_ms)
        handlers = {
            name: counts.counted(name, end if name == "settle" else pulse.timed(end, arrives=name == "route"))
            for name, end in handlers.items()
        }
        self._engine.on_cdrs += (counts.on_cdrs, log_calls)
        limits = AgiLimits(deadline_ms=deadline_ms, connections=self._config.limits.connections)
        self._agi = AgiServer(handlers, limits, logging.getLogger("fastagi.agi"))
        for call in await self._housekeeping.node_calls(self.node):
            self._meter.adopt(call)
        self._zombies = Zombies(self._housekeeping, self.node, self._clock.now_ms, self._clock.new_id)
        self._reconciler = Reconciler(
            asker, self._ami, self._meter, self._housekeeping, self._journal,
            self.node, self._clock.now_ms, self._is_alone, self._zombies,
        )  # fmt: skip
        self._outwards = self._make_outwards()
        self._written_s = asyncio.get_running_loop().time()
        await self._listen()
        if self._ami is not None:
            self._ami.start()
            self._spawn(self._consume(self._ami), "ami-events")
        self._spawn(self._reconciler.run(), "reconciler")
        self._hub = FloorHub(
            self._engine, self._store, self._clock, self.node, self.boot_id, pulse, self._told_to_viewers
        )
        self._control.routes.update(self._routes())
        self._metrics = Metrics(self._config.metrics, self._store, self._clock, self._engine, counts, self._gauges)
        scraped: dict[tuple[str, str], Handler] = {("GET", "/metrics"): self._scraped}
        self._control.routes.update(scraped)
        if self._config.metrics.listen:
            self._metrics_port = MetricsPort(parse_listen(self._config.metrics.listen), scraped)
            await self._metrics_port.start()
        await self._control.start()
        self._spawn(self._heartbeat(), "heartbeat")
        self._spawn(look_after_growth(self._housekeeping, self._clock), "growth")
        self._spawn(look_after_sums(self._housekeeping, self._clock), "sums")
        self._spawn(abuse.run(), "abuse")
        self._spawn(self._outwards.run(), "outwards")
        if (interval_s := watchdog_interval_s()) is not None:
            self._spawn(_watchdog(interval_s), "watchdog")

    def _make_outwards(self) -> Outwards:
        from capconduit.mail import mail_settings  # only where a notification is mailed

        place = Place(
            self.node, self.boot_id, lambda: self._ami is None or self._ami.up, lambda: self._engine.estate,
            lambda: mail_settings(self._config, os.environ),
        )  # fmt: skip
        return Outwards(self._store, self._clock, place)

    async def _look_at_nodes(self) -> Node | None:
        """This node as it was last seen. One that was up a moment ago may still be: then we wait and see."""
        nodes = {node.name: node for node in await self._housekeeping.nodes()}
        for node in nodes.values():
            if node.name != self.node and node.state == "up" and await self._housekeeping.node_calls(node.name):
                log.info("node %s has live calls; its own daemon looks after them", node.name)
            elif node.name != self.node and await self._housekeeping.node_calls(node.name):
                log.warning("node %s is down and has live calls: they are settled when their money is used", node.name)
        mine = nodes.get(self.node)
        if mine is not None and mine.state == "up" and not self._journal.follows(mine.boot_id):
            age_ms = abs(self._started_ms - mine.seen_ms)
            if not self._take_over and age_ms < FRESH_MS:
                await self._refuse_a_double(mine)
            elif age_ms < SUSPECT_MS:
                loop = asyncio.get_running_loop()
                self._alone_from_s = loop.time() + SUSPECT_MS / MS_PER_SECOND
                loop.call_at(self._alone_from_s + 0.1, lambda: self._reconciler.wake())
        return mine

    async def _refuse_a_double(self, mine: Node) -> None:
        """Wait until this node's row has stood still for two heartbeats. Raises ConfigError where somebody writes it.

        A daemon that was killed leaves such a row, too; where we had its journal it is known to be gone, and nobody
        waits.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SUSPECT_MS / MS_PER_SECOND
        log.warning("node %s was up a moment ago: waiting for a sign of life of its daemon", self.node)
        while loop.time() < until_s and not self._stop.is_set():
            await asyncio.sleep(LOOK_S)
            row = next((node for node in await self._housekeeping.nodes() if node.name == self.node), None)
            if row is None or row.state != "up":
                return
            if (row.boot_id, row.seen_ms) != (mine.boot_id, mine.seen_ms):
                raise ConfigError(
                    "node-name-taken",
                    f"another daemon runs as node {self.node}, boot {row.boot_id}, seen {format_instant(row.seen_ms)}",
                    "give each daemon its own node.name, stop the other one, or start this one with --take-over",
                )

    def _is_alone(self) -> bool:
        """Whether no other daemon goes by this node's name."""
        return not self._double_beats and asyncio.get_running_loop().time() >= self._alone_from_s

    def _make_link(self, known: Node | None) -> AmiLink | None:
        ami = self._config.ami
        if not ami.enabled:
            log.warning("AMI is off: talk times come from the channels, and calls end when their first slice is used")
            return None
        settings = AmiSettings(
            host=ami.host,
            port=ami.port,
            username=ami.username,
            secret=resolve_secret(ami.secret, os.environ),
            backoff_max_s=AMI_BACKOFF_S,
        )
        control = None
        if bool(ami.control_username) != bool(ami.control_secret):
            raise ConfigError(
                "ami-control-incomplete",
                "of ami.control_username and ami.control_secret one is empty",
                "give both, or neither: then the first user does all",
            )
        if ami.has_control:
            secret = resolve_secret(ami.control_secret, os.environ)
            acting = replace(settings, username=ami.control_username, secret=secret, events=NO_EVENTS)
            control = AmiControl(acting, random=random.random)
        return AmiLink(
            settings,
            now_ms=self._clock.now_ms,
            random=random.random,
            known_started_ms=known.asterisk_started_ms if known else None,
            control=control,
        )

    async def _listen(self) -> None:
        host, port = self._config.fastagi.address
        try:
            self.agi_port = await self._agi.start(host, port)
        except OSError as error:
            raise ConfigError(
                "listen-failed",
                f"cannot listen on {self._config.fastagi.listen}: {error.strerror or error}",
                "is another daemon running? change fastagi.listen or stop it",
            ) from error

    async def _consume(self, link: AmiLink) -> None:
        while True:
            event = await link.next_event()
            self._meter.on_event(event)
            self._reconciler.on_event(event)

    async def _heartbeat(self) -> None:
        """The node's row, and whether somebody else writes it, too."""
        first = True
        while True:
            was_away = self._database_away()
            began_s = asyncio.get_running_loop().time()
            before = await self._write_node("up")
            self._written_s = None if before is None else asyncio.get_running_loop().time()
            self._beat_took_s = None if self._written_s is None else self._written_s - began_s
            if before is not None:
                self._batches_then = self._engine.batches
                self._reconciler.on_nodes(before)
                self._look_for_double(before, first=first)
                if was_away:
                    self._reconciler.wake()
                first = False
            await asyncio.sleep(HEARTBEAT_S)

    def _look_for_double(self, before: Sequence[Node], *, first: bool) -> None:
        """Whether somebody else wrote our row since we did. Two heartbeats may come so that only one sees the other for
        a while: it is remembered for some."""
        mine = next((node for node in before if node.name == self.node), None)
        if first or mine is None or mine.boot_id == self.boot_id:
            self._double_beats = max(self._double_beats - 1, 0)
            return
        self._double_beats = DOUBLE_BEATS
        log.critical("another daemon runs as node %s: give each its own node.name", self.node)

    def _database_away(self) -> bool:
        """The last heartbeat was not written or is overdue, or the engine has failed since."""
        if self._written_s is None or asyncio.get_running_loop().time() - self._written_s > OVERDUE_S:
            return True
        return self._engine.failing and self._engine.batches > self._batches_then

    async def _write_node(self, state: str) -> Sequence[Node] | None:
        """All rows as they were before it was written; None where it was not."""
        node = Node(
            name=self.node,
            boot_id=self.boot_id,
            started_ms=self._started_ms,
            seen_ms=self._clock.now_ms(),
            asterisk_started_ms=self._ami.asterisk_started_ms if self._ami else None,
            state=state,
        )
        try:
            return await self._housekeeping.heartbeat(node, self._clock.new_id)
        except CapConduitError as error:
            log.warning("heartbeat: %s", error)
            return None

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part of the daemon ended by itself: a bug. Stop, so that the supervisor starts us whole again."""
        if not task.cancelled() and task.exception() is not None:
            log.critical("%s failed", task.get_name(), exc_info=task.exception())
            self._failed = True
            self.stop()

    async def _end(self) -> None:
        notify("STOPPING=1")
        self._draining = True
        log.info("draining")
        self._agi.stop_accepting()
        drain_s = self._config.limits.drain_ms / MS_PER_SECOND
        if not await self._agi.drain(drain_s):
            log.warning("exchanges were still under way after %s s", drain_s)
        await self._agi.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._control.close()
        await self._hub.close()
        if self._metrics_port is not None:
            await self._metrics_port.close()
        self._metrics.close()
        self._control_desk.close()
        await self._meter.close()
        if self._ami is not None:
            await self._ami.close()
        stopped = await asyncio.get_running_loop().run_in_executor(None, self._engine.stop, ENGINE_STOP_S)
        if not stopped:
            log.error("the engine did not end within %s s", ENGINE_STOP_S)
        try:
            await asyncio.wait_for(self._write_node("down"), LAST_WORD_S)
        except TimeoutError:
            log.warning("the database did not take the node's last word within %s s", LAST_WORD_S)
        await self._journal.close()
        self._housekeeping.close()
        log.info("stopped")

    def _routes(self) -> dict[tuple[str, str], Handler]:
        """What the control socket answers."""
        return ControlRoutes(
            node=self.node, status=self.status, drain=self.stop, reload=self._reload, hub=self._hub,
            meter=self._meter, ami=self._ami, desk=self._control_desk,
        ).table()  # fmt: skip

    async def _scraped(self, _request: Request) -> Answer:
        """The metrics."""
        return Answer(await self._metrics.text(), content_type=EXPOSITION)

    def _gauges(self) -> Gauges:
        ami = self._ami
        return Gauges(
            node=self.node,
            version=__version__,
            ready=not self._unready(),
            started_ms=self._started_ms,
            live_calls=len(self._meter),
            ami_enabled=ami is not None,
            ami_up=ami is not None and ami.up,
            asterisk_started_ms=ami.asterisk_started_ms if ami else None,
            database_up=not self._database_away(),
            database_s=self._beat_took_s,
            journal=len(self._journal),
            viewers=self._hub.viewers,
            agi=self._agi.counters,
            connections=self._agi.live_connections,
        )

    async def _reload(self) -> int:
        """Read the whole estate anew, rows that were changed by hand included; its version. Raises DatabaseError."""
        estate = await self._control_desk.load_estate()
        if self._engine.estate is None or estate.version >= self._engine.estate.version:
            self._engine.estate = estate
        return estate.version

    def _told_to_viewers(self) -> dict[str, Any]:
        """The daemon's own parts of HEALTH."""
        told = self.status()
        return {
            "ready": told["ready"],
            "reasons": told["reasons"],
            "ami": {"enabled": told["ami"]["enabled"], "up": told["ami"]["up"]},
            "database_up": not self._database_away(),
            "timeouts": told["fastagi"]["timeouts"],
            "failures": told["fastagi"]["failures"],
            "journal": told["journal"]["waiting"],
        }

    def _listening(self) -> str:
        return f"{self._config.fastagi.address[0]}:{self.agi_port}"

    def _unready(self) -> list[str]:
        """Why calls are not decided as they should; nothing where they are."""
        reasons = []
        if self._draining:
            reasons.append("draining")
        if self._ami is not None and not self._ami.up:
            reasons.append("ami down")
        if self._ami is not None and self._ami.up and not self._ami.can_act:
            reasons.append("ami control down")
        if self._database_away():
            reasons.append("database down")
        if self._double_beats:
            reasons.append("another daemon runs as this node")
        return reasons

    def status(self) -> dict[str, Any]:
        """What the control socket tells."""
        reasons = self._unready()
        counters = self._agi.counters
        started_ms = self._ami.asterisk_started_ms if self._ami else None
        return {
            "node": self.node,
            "boot_id": self.boot_id,
            "pid": os.getpid(),
            "version": __version__,
            "started": format_instant(self._started_ms),
            "ready": not reasons,
            "reasons": reasons,
            "fastagi": {
                "listen": self._listening(),
                "connections": self._agi.live_connections,
                "requests": dict(counters.requests),
                "timeouts": counters.deadlines_missed,
                "failures": counters.failures,
            },
            "ami": {
                "enabled": self._ami is not None,
                "up": self._ami is not None and self._ami.up,
                "asterisk_started": format_instant(started_ms) if started_ms else None,
                "control": self._control_status(),
            },
            "engine": {
                "queued": self._engine.queued,
                "batches": self._engine.batches,
                "commands": self._engine.commands,
            },
            "journal": {"waiting": len(self._journal), "trouble": self._journal.trouble or None},
            "decisions": self._pulse.decisions(),
            "database": {"up": not self._database_away()},
            "viewers": self._hub.viewers,
            "calls": len(self._meter),
            "zombies": self._zombies.status(),
            "outwards": self._outwards.status(),
        }

    def _control_status(self) -> dict[str, Any] | None:
        """Of the second AMI user; None where the first one does all."""
        if self._ami is None or self._ami.control is None:
            return None
        return {"user": self._ami.control.settings.username, "up": self._ami.control.up}
