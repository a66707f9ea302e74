"""What really happens: channels, Dials, talk, and the dead-man limit of each call, moved only by what it was told.

The steps are those of dialplan_templates/extensions.conf.j2, written again from its text. Nothing here knows the books.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from capconduit.render.contexts import SPOOL_SEPARATOR
from capconduit.vocab import DialStatus, RejectCode, Verdict
from fastagi.ami_events import (
    AmiEvent,
    ChannelHungUp,
    DialBegan,
    DialEnded,
    LegLeftBridge,
    LiveChannel,
    RingingBegan,
)
from tests.simulation.agi import Exchange

if TYPE_CHECKING:
    from tests.simulation.daemons import Link, Machine
    from tests.simulation.world import World

GUARD_S = 3.0  # TIMEOUT(absolute) around an exchange
QUIET_S = 10.0  # a daemon that was found frozen is not asked for so long
MAX_ROUNDS = 25
LAG_S = 5.0  # an event that is told later than that lets a call talk longer than it is funded (Meter.EVENT_LAG_MS)
RANKED = (DialStatus.BUSY, DialStatus.CONGESTION, DialStatus.CHANUNAVAIL)
CAUSES = {DialStatus.BUSY: 17, DialStatus.CONGESTION: 34, DialStatus.CHANUNAVAIL: 20, DialStatus.NOANSWER: 0}


@dataclass
class Dialled:
    """One Dial that really took place."""

    call_id: str
    attempt: int
    dials: Sequence[str]
    began_s: float
    ring_s: int
    funded_s: int


@dataclass
class Leg:
    """One leg of a Dial."""

    uniqueid: str
    channel: str
    dial: str
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    ended: bool = False


@dataclass
class Caller:
    """A call to come, and what its caller and the targets will do, whatever else happens."""

    uniqueid: str
    dnid: str
    ani: str
    trunk: str
    attestation: str
    verdict: str
    rng: random.Random
    patience_s: float
    talk_s: float
    target_hangs_up: bool
    is_first: bool  # the caller's channel is the first of its linked ones


class Line:
    """One inbound call as it really is, from the trunk to the end of its hangup handler."""

    def __init__(self, asterisk: Asterisk, caller: Caller) -> None:
        self.asterisk = asterisk
        self.world = asterisk.world
        self.caller = caller
        self.uniqueid = caller.uniqueid
        self.node = asterisk.machine.node
        self.channel = f"PJSIP/{caller.trunk or 'nobody'}-{asterisk.world.next_number():08x}"
        self.variables: dict[str, str] = {}
        self.stage = ""
        self.gone = False  # the caller's channel is dead
        self.over = False  # nothing of it is left
        self.killed = False  # with its Asterisk
        self.frozen = False
        self.dials: list[Dialled] = []
        self.legs: list[Leg] = []
        self.dialstatus = ""
        self.cause = 0
        self.source = ""
        self.arrived_s = self.world.loop.time()
        self.answered_s: float | None = None
        self.answered_dial = ""
        self.talked_until_s: float | None = None
        self.over_by = ""
        self.slack_ms = 0.0  # what it may talk longer than it is funded, by what was done to it
        self.clock_ms = 0.0  # by how much its machine's clock was set while it lived
        self.acknowledged = self.kept = False  # its end, by the daemon; in Asterisk's database
        self.forgiven = False  # it was taken for dead, by a mistake that is known (see World.forgives)
        self.bridge = ""
        self.limit_s: float | None = None  # when the dead man's limit ends it, on the loop's clock
        self._limit: asyncio.TimerHandle | None = None
        self._ceiling: asyncio.TimerHandle | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._exchange: Exchange | None = None
        self._ring: asyncio.TimerHandle | None = None
        self._failed: list[DialStatus] = []

    # --- what may be asked --------------------------------------------------------------------------------------------

    @property
    def dialling(self) -> bool:
        """A target rings now."""
        return self.stage == "dial" and not self.gone

    @property
    def talking(self) -> bool:
        """Caller and target talk now."""
        return self.stage == "talk"

    def talk_ms(self) -> int:
        """How long they have talked, really."""
        if self.answered_s is None:
            return 0
        until_s = self.world.loop.time() if self.talked_until_s is None else self.talked_until_s
        return round((until_s - self.answered_s) * 1_000)

    # --- the dialplan -------------------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """The call comes in."""
        self.asterisk.appear(self)
        caller = self.caller
        self._timer(caller.patience_s, self.hang_up_by_caller)
        self.stage = "route"
        self._ask(
            "route",
            [
                self.uniqueid, self.uniqueid, caller.dnid, caller.ani, "", caller.trunk, caller.attestation,
                caller.verdict, f"sip-{self.uniqueid}",
            ],
            self._on_verdict,
        )  # fmt: skip

    def _on_verdict(self) -> None:
        verdict = self.variables.pop("CC_VERDICT", "")
        numbers = [self._number(name) for name in ("CC_RING_S", "CC_FUNDED_S", "CC_CEILING_MS")]
        if verdict == Verdict.DIAL and min(numbers) >= 1 and len(self.dials) < MAX_ROUNDS:
            self._dial(*numbers)
            return
        reason = self.variables.get("CC_REASON", "")
        self.stage = "reject" if verdict else "fallback"
        undecided = (RejectCode.ENGINE_TIMEOUT, RejectCode.DATABASE_DOWN, "")
        if verdict and not self.variables.get("CC_CALL") and reason not in undecided:
            self.variables["CC_ACK"] = "1"
        self._end()

    def _dial(self, ring_s: int, funded_s: int, ceiling_ms: int) -> None:
        """Dial(CC_DIAL, CC_RING_S): the first leg that answers gets the call."""
        now_s = self.world.loop.time()
        self.stage, self.dialstatus, self.cause = "dial", "", 0
        dials = [d for d in self.variables["CC_DIAL"].split("&") if d]
        attempt = self._number("CC_ATTEMPT")
        self._say(f"dials {attempt}: {'&'.join(dials)} for {ring_s} s, funded {funded_s} s")
        self.dials.append(Dialled(self.variables["CC_CALL"], attempt, dials, now_s, ring_s, funded_s))
        self.set_limit(ring_s + funded_s)
        self.legs = []
        self._failed = []
        self.world.invariants.dialling(self)
        for dial in dials:
            fate, after_s = self.world.fate_of(self, dial)
            if fate is DialStatus.CHANUNAVAIL:
                self._failed.append(fate)
                continue
            leg = self._new_leg(dial)
            now_ms = self._now_ms()
            resource = dial.partition("/")[2]
            self._tell(DialBegan(self.uniqueid, leg.uniqueid, leg.channel, resource, now_ms))
            if fate is not DialStatus.NOANSWER and after_s < ring_s:
                self._leg_timer(leg, after_s, self._answered if fate is DialStatus.ANSWER else self._leg_failed, fate)
            if fate in (DialStatus.ANSWER, DialStatus.NOANSWER):
                self._leg_timer(leg, min(after_s, 1.0) / 2, self._rings)
        self._ring = self._timer(ring_s if self.legs else 0.001, self._nobody_answered)

    def _new_leg(self, dial: str) -> Leg:
        name = dial.partition("/")[2].split("/")[0].split("@")[-1] or "target"
        number = self.world.next_number()
        leg = Leg(f"{self.uniqueid}-{number}", f"PJSIP/{name}-{number:08x}", dial)
        self.legs.append(leg)
        return leg

    def _leg_timer(self, leg: Leg, after_s: float, work: Callable[..., None], *args: Any) -> None:
        def due() -> None:
            if not leg.ended and self.dialling:
                work(leg, *args)

        leg.timers.append(self.world.after(after_s, due))

    def _rings(self, leg: Leg) -> None:
        self._tell(RingingBegan(self.uniqueid, self._now_ms()))

    def _leg_failed(self, leg: Leg, status: DialStatus) -> None:
        self._failed.append(status)
        self._leg_over(leg, status)
        if all(leg.ended for leg in self.legs):
            self._nobody_answered()

    def _leg_over(self, leg: Leg, status: DialStatus) -> None:
        if leg.ended:
            return
        leg.ended = True
        now_ms = self._now_ms()
        self._tell(DialEnded(self.uniqueid, leg.uniqueid, status, self.channel, now_ms))
        self._tell(ChannelHungUp(leg.uniqueid, CAUSES.get(status, 0), now_ms))

    def _nobody_answered(self) -> None:
        """Dial comes back without an answer."""
        if not self.dialling:
            return
        self._stop_ringing()
        ringing = [leg for leg in self.legs if not leg.ended]
        status = DialStatus.NOANSWER
        if not ringing:
            status = next((s for s in RANKED if s in self._failed), DialStatus.NOANSWER)
        for leg in ringing:
            self._leg_over(leg, status)
        self.dialstatus, self.cause = status, CAUSES[status]
        self._say(f"attempt {self.variables['CC_ATTEMPT']}: {status}")
        self.stage = "attempt"
        self._ask("attempt", [self.uniqueid, self.variables["CC_ATTEMPT"], status, str(self.cause)], self._on_verdict)

    def _stop_ringing(self) -> None:
        if self._ring is not None:
            self._ring.cancel()

    # --- the talk -----------------------------------------------------------------------------------------------------

    def _answered(self, leg: Leg, _fate: DialStatus) -> None:
        """The target answers: the limit begins anew, with the funded time alone, where the dialplan can reach it."""
        self._stop_ringing()
        dialled = self.dials[-1]
        now_s, now_ms = self.world.loop.time(), self._now_ms()
        self.stage, self.answered_s, self.answered_dial = "talk", now_s, leg.dial
        self._say(f"is answered by {leg.dial}, first={self.caller.is_first}")
        self.dialstatus, self.cause = DialStatus.ANSWER, 16
        self._tell(DialEnded(self.uniqueid, leg.uniqueid, DialStatus.ANSWER, self.channel, now_ms))
        for other in self.legs:
            if other is not leg:
                self._leg_over(other, DialStatus.CANCEL)
        self.legs = [leg]
        self.bridge = f"bridge-{self.uniqueid}"
        ceiling_ms = self._number("CC_CEILING_MS")
        if self.caller.is_first:
            self.set_limit(dialled.funded_s)
        elif ceiling_ms > dialled.funded_s * 1_000:
            ceiling_ms = dialled.funded_s * 1_000  # CC_LIMIT_MS
        self._ceiling = self._timer(ceiling_ms / 1_000, self.talk_over, "ceiling")
        self._timer(self.caller.talk_s, self.talk_over, "target" if self.caller.target_hangs_up else "caller")
        self.world.invariants.answered(self)

    def talk_over(self, by: str) -> None:
        """Caller and target are apart."""
        if not self.talking:
            return
        leg = self.legs[0]
        self.stage, self.talked_until_s, self.over_by, self.bridge = "talked", self.world.loop.time(), by, ""
        self._say(f"talked {self.talk_ms()} ms, ended by {by}")
        self.set_limit(None)
        if self._ceiling is not None:
            self._ceiling.cancel()
        now_ms = self._now_ms()
        self.source = {"caller": self.channel, "target": leg.channel}.get(by, "dialplan/builtin")
        self._tell(LegLeftBridge(leg.uniqueid, now_ms))
        self._tell(ChannelHungUp(leg.uniqueid, 16, now_ms))
        leg.ended = True
        self.world.invariants.talked(self)
        if by == "caller":
            self.gone = True
            self._handler()
        else:
            self._end()

    # --- the end ------------------------------------------------------------------------------------------------------

    def hang_up_by_caller(self) -> None:
        """The caller has no patience left."""
        if self.gone or self.over:
            return
        if self.talking:
            return  # talks as long as it was to talk
        self.gone = True
        self.source = self.channel
        self._say(f"the caller hangs up, stage {self.stage}")
        if self.stage == "dial":
            self.dialstatus, self.cause = DialStatus.CANCEL, 127
            for leg in self.legs:
                self._leg_over(leg, DialStatus.CANCEL)
        self.set_limit(None)
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
        self._handler()

    def _end(self) -> None:
        """The end of the dialplan while the caller's channel lives."""
        self.set_limit(None)
        if self._acknowledged or self.asterisk.quiet:
            self._hang_up()
            return
        self.stage = "settle"
        self._ask("settle", self._settle_args(), self._hang_up)

    def _hang_up(self) -> None:
        self.gone = True
        self.stage = "settled"
        self.source = self.source or "dialplan/builtin"
        self._handler()

    def _handler(self) -> None:
        """The hangup handler: on a dead channel, where no limit works."""
        self.set_limit(None)
        for timer in self._timers:
            timer.cancel()
        if self._acknowledged:
            self._leave()
        elif self.stage == "settled" or self.frozen or self.asterisk.quiet:
            self._keep()
        else:
            self.stage = "handler"
            self._ask("settle", self._settle_args(), self._keep, guarded=False)

    def _keep(self) -> None:
        """What nobody acknowledged is kept in Asterisk's own database."""
        if not self._acknowledged and self.variables.get("CC_CALL"):
            _, *rest = self._settle_args()
            ended = f"{self._now_ms() / 1_000:.3f}"
            text = SPOOL_SEPARATOR.join([self.variables["CC_CALL"], *rest, ended])
            self.asterisk.keep(self.uniqueid, text)
            self.kept = self.asterisk.machine.with_ami
            self._say("its end is kept in Asterisk's database")
        self._leave()

    def _leave(self) -> None:
        self.over, self.stage = True, "over"
        self._tell(ChannelHungUp(self.uniqueid, self.cause, self._now_ms()))
        self.asterisk.disappear(self)

    def vanish(self) -> None:
        """Asterisk is killed: no handler runs, nothing is told."""
        if self.talking:
            self.talked_until_s, self.over_by = self.world.loop.time(), "killed"
            self.world.invariants.talked(self)
        self.set_limit(None)
        for timer in self._timers:
            timer.cancel()
        if self._exchange is not None:
            self._exchange.close()
        self._say("vanishes with its Asterisk")
        self.gone = self.over = self.killed = True
        self.stage = "over"

    def _settle_args(self) -> list[str]:
        talk = str(self.talk_ms()) if self.answered_s is not None else ""
        up = str(round((self.world.loop.time() - self.arrived_s) * 1_000)) if talk else ""
        return [
            self.uniqueid, self.variables.get("CC_ATTEMPT", ""), self.dialstatus, talk, up, str(self.cause),
            self.source, "capconduit-inbound",
        ]  # fmt: skip

    # --- limits and exchanges -----------------------------------------------------------------------------------------

    def set_limit(self, seconds: float | None) -> None:
        """TIMEOUT(absolute) of the caller's channel, counted from now."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = self.limit_s = None
        if seconds:
            self.limit_s = self.world.loop.time() + seconds
            self._limit = self.world.after(seconds, self._limit_fired)
            if self.talking:
                self._say(f"limit {seconds:.3f} s from now")
                self.world.invariants.limit_moved(self)

    def _limit_fired(self) -> None:
        self._limit = self.limit_s = None
        if self.talking:
            self.talk_over("limit")
        elif self._exchange is not None:
            self.frozen = True
            self.asterisk.quiet_until_s = self.world.loop.time() + QUIET_S
            exchange, self._exchange = self._exchange, None
            exchange.close()
            exchange.then()
        elif self.dialling:
            self._stop_ringing()
            for leg in self.legs:
                self._leg_over(leg, DialStatus.CANCEL)
            self._end()

    def _ask(self, script: str, args: Sequence[str], then: Callable[[], None], *, guarded: bool = True) -> None:
        self.set_limit(GUARD_S if guarded else None)
        self._exchange = Exchange(self, script, args, then)
        self._exchange.begin()

    def exchanged(self, exchange: Exchange, variables: dict[str, str]) -> None:
        """An exchange is over; what it set is on the channel."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        self.set_limit(None)
        self.variables.update(variables)
        self.acknowledged = self.acknowledged or (exchange.script == "settle" and self._acknowledged)
        exchange.then()

    # --- small things -------------------------------------------------------------------------------------------------

    @property
    def _acknowledged(self) -> bool:
        return self.variables.get("CC_ACK") == "1"

    def _number(self, name: str) -> int:
        text = self.variables.get(name, "")
        return int(text) if text.isdecimal() else 0

    def _timer(self, after_s: float, work: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        timer = self.world.after(after_s, lambda: None if self.over else work(*args))
        self._timers.append(timer)
        return timer

    def _say(self, text: str) -> None:
        if self.world.telling:
            self.world.say(text, self.uniqueid)

    def _tell(self, event: AmiEvent) -> None:
        self.asterisk.tell(event, self)

    def _now_ms(self) -> int:
        return self.asterisk.machine.wall_ms()


class Asterisk:
    """One Asterisk: its channels, its database of unacknowledged ends, and who listens to its manager interface."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.lines: dict[str, Line] = {}
        self.channels: dict[str, Line] = {}
        self.spool: dict[str, str] = {}
        self.links: list[Link] = []
        self.exchanges: set[Exchange] = set()
        self.quiet_until_s = 0.0
        self.ami_away = False
        self.alive = False
        self.life: object = None
        self.started_ms = 0
        self._stalled_until_s = 0.0
        self._kept: list[tuple[float, str]] = []

    @property
    def quiet(self) -> bool:
        """The daemon was found frozen a moment ago."""
        return self.world.loop.time() < self.quiet_until_s

    def start(self) -> None:
        """Asterisk begins; of the one before only its database is left."""
        if not self.alive and not self.machine.gone:
            self.alive, self.life = True, object()
            self.started_ms = self.machine.wall_ms() // 1_000 * 1_000

    def kill(self) -> None:
        """SIGKILL: every channel ends without a word; what was kept in the last second may be lost."""
        if not self.alive:
            return
        self.alive = False
        now_s = self.world.loop.time()
        for kept_s, uniqueid in self._kept:
            if kept_s > now_s - 1.0 and self.spool.pop(uniqueid, None) is not None:
                self.world.lines[uniqueid].kept = False
        for line in list(self.lines.values()):
            line.vanish()
        self.lines.clear()
        self.channels.clear()
        self.quiet_until_s = 0.0
        self.drop_links()

    def stop(self) -> None:
        """`core stop now`: every channel is hung up and its handler runs."""
        for line in list(self.lines.values()):
            if line.talking:
                line.talk_over("caller")
            else:
                line.hang_up_by_caller()

    def drop_links(self) -> None:
        """Connections to the manager interface are lost."""
        for link in list(self.links):
            link.lost()

    def daemon_gone(self) -> None:
        """The daemon's process ended: its connections are reset."""
        for exchange in list(self.exchanges):
            exchange.reset()

    # --- channels -----------------------------------------------------------------------------------------------------

    def appear(self, line: Line) -> None:
        """A channel is there."""
        self.lines[line.uniqueid] = line
        self.channels[line.channel] = line

    def disappear(self, line: Line) -> None:
        """It is gone."""
        self.lines.pop(line.uniqueid, None)
        self.channels.pop(line.channel, None)

    def keep(self, uniqueid: str, text: str) -> None:
        """DB(capconduit/unsettled/<uniqueid>)=…"""
        self.spool[uniqueid] = text
        self._kept = [(s, u) for s, u in self._kept if s > self.world.loop.time() - 1.0]
        self._kept.append((self.world.loop.time(), uniqueid))

    def absolute_timeout(self, channel: str, seconds: float) -> bool:
        """AMI AbsoluteTimeout: the limit of a channel, counted from now. False: there is no such channel."""
        line = self.channels.get(channel)
        if line is None or line.gone:
            return False
        line.set_limit(seconds)
        return True

    def live_channels(self) -> list[LiveChannel]:
        """CoreShowChannels."""
        found = []
        for line in self.lines.values():
            state = 6 if line.talking else 4
            found.append(LiveChannel(line.uniqueid, line.uniqueid, line.channel, state, "Dial", line.bridge, 0))
            found += [_leg_channel(line, leg, state) for leg in line.legs if not leg.ended]
        return found

    # --- events -------------------------------------------------------------------------------------------------------

    def tell(self, event: AmiEvent, line: Line) -> None:
        """An event goes to whoever is connected, in the order of events, perhaps late, twice, or not at all."""
        if not self.links:
            return
        messages, now_s = self.world.messages, self.world.loop.time()
        stall_s = messages.event_stall_s()
        if stall_s:
            self._stalled_until_s = max(self._stalled_until_s, now_s + stall_s)
        at_s = max(now_s + messages.net_s(), self._stalled_until_s)
        line.slack_ms += max((at_s - now_s - LAG_S) * 1_000, 0)
        lost, doubled = messages.event_is_lost(), messages.event_is_doubled()
        for link in list(self.links):
            if lost:
                self.world.at(at_s, link.overflow)
                continue
            self.world.at(at_s, link.deliver, event)
            if doubled:
                self.world.at(at_s, link.deliver, event)


def _leg_channel(line: Line, leg: Leg, state: int) -> LiveChannel:
    return LiveChannel(leg.uniqueid, line.uniqueid, leg.channel, state, "AppDial", line.bridge, 0)
