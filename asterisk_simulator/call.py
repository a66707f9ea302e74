"""One simulated call: what the rendered dialplan does with it, step by step, with the AMI events of Asterisk 22.

The steps are those of dialplan_templates/extensions.conf.j2: numbers are looked at; route; verdict, Dial and attempt in
turn; settle while the caller's channel lives (the target hung up, a limit, a reject), else in the hangup handler; what
is not acknowledged is kept, unless no call was ever admitted.

The order of events was compared with Asterisk 22.10 for: answered and hung up by the caller, by the target, by
TIMEOUT(absolute), by L() and by AMI Hangup; busy; no answer; cancelled by the caller; and for Dials of several legs
(`a&b`): one answers, all fail, nobody answers, the caller leaves. A Local channel has only its dialled half here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isinf
from typing import TYPE_CHECKING, Final

from asterisk_simulator.agi_client import AgiResult, agi_exchange
from asterisk_simulator.behaviours import (
    Answers,
    AttemptOutcome,
    Behaviour,
    Busy,
    CallerCancels,
    CallOutcome,
    CallSpec,
    Congested,
    EndedBy,
    NoAnswer,
    Unavailable,
)
from asterisk_simulator.channels import CAUSE_TEXTS, STATE_DOWN, STATE_RINGING, STATE_UP, Channel
from capconduit.vocab import CAUSE_NORMAL, REJECTS, CcVariable, DialStatus, RejectCode, Verdict

if TYPE_CHECKING:
    from asterisk_simulator.world import World

EXCHANGE_MAX_S: Final = 3_600.0  # behind the guard of the dialplan, which ends an exchange first
HANGUP_BY_DIALPLAN: Final = "dialplan/builtin"  # CHANNEL(hangupsource) after Hangup() in the dialplan
CAUSE_CANCELLED: Final = 127  # what chan_pjsip leaves on CANCEL
CAUSE_BUSY: Final = 17
CAUSE_CONGESTION: Final = 34
CAUSE_ABSENT: Final = 20
CAUSE_ELSEWHERE: Final = 26
NUMBER_CHARS: Final = frozenset("0123456789+")
WITHHELD: Final = frozenset({"anonymous", "restricted", "private", "unavailable", "unknown"})
# What the dialplan replaces by `_` in text from outside, before it goes into an application's arguments.
UNSAFE_FROM_CALLERS: Final = "".join(chr(code) for code in (*range(1, 32), 127)) + "\"'\\,()[]{}$`|^"
_CLEANED: Final = str.maketrans(dict.fromkeys(UNSAFE_FROM_CALLERS, "_"))


@dataclass(frozen=True)
class Dialplan:
    """What the rendered dialplan fixes."""

    agi_host: str
    agi_port: int
    context: str
    guard_s: float  # TIMEOUT(absolute) around each exchange with a live channel
    quiet_s: float  # after the guard fired, ends of calls are kept, not sent, for so long
    max_rounds: int  # Dials of one call
    settle_timeout_s: float  # ours: Asterisk waits for ever in the handler, whose channel is dead


@dataclass
class _Leg:
    """One dialled leg of a Dial."""

    channel: Channel
    target: str
    dial: str
    behaviour: Behaviour
    ended: bool = False


class Call:
    """One call. `run()` takes it from the trunk to the end of its hangup handler."""

    def __init__(self, world: World, spec: CallSpec) -> None:
        self._world, self._spec, self._plan = world, spec, world.dialplan
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()  # the caller's channel is hung up, or its absolute timeout is over
        self._stopped_by = ""  # "", "caller", "admin", "limit"
        self._limit: asyncio.TimerHandle | None = None
        self._variables: dict[str, str] = {}
        self._dialstatus = self._source = ""
        self._hangup_cause = 0
        self._up_since = 0.0
        self._dialled_leg = "/"  # what was dialled for the leg that answered
        self._frozen = self._settled_stage = False
        self._legs: list[_Leg] = []
        uniqueid = world.unique_id()
        self._caller = Channel(
            name=world.channel_name(spec.trunk),
            uniqueid=uniqueid,
            linkedid=uniqueid,
            context=self._plan.context,
            exten=spec.dnid,
            caller_num=spec.ani,
            caller_name=spec.caller_name,
            created=self._loop.time(),
        )
        self._outcome = CallOutcome(uniqueid=uniqueid, spec=spec)

    async def run(self) -> CallOutcome:
        """The whole life of the call; the outcome as the simulated Asterisk saw it."""
        self._world.appear(self._caller, self)
        cancel = None
        if self._spec.cancel_after_ms is not None:
            cancel = self._loop.call_later(self._spec.cancel_after_ms / 1000, self._caller_goes, CAUSE_CANCELLED)
        try:
            await self._dialplan()
        finally:
            self._set_limit(None)
            if cancel is not None:
                cancel.cancel()
        if self._gone:
            self._end("caller" if self._stopped_by == "caller" else "system", self._hangup_cause)
        self._say("SoftHangupRequest", self._caller, ("Cause", str(CAUSE_NORMAL)))
        await self._hangup_handler()
        self._hangup_event(self._caller, self._outcome.cause)
        return replace(self._outcome, dialstatus=self._dialstatus)

    def vanish(self) -> None:
        """Forget the channels without a word, as a killed Asterisk does; harmless after a normal end."""
        self._set_limit(None)
        for channel in [self._caller, *(leg.channel for leg in self._legs)]:
            self._world.disappear(channel)

    def admin_hangup(self, cause: int) -> None:
        """AMI Hangup of any leg: the call ends with `cause` (0: normal)."""
        self._hangup_cause = cause or CAUSE_NORMAL
        self._halt("admin")

    def limit_from_manager(self, channel: Channel, seconds: float) -> None:
        """AMI AbsoluteTimeout; only the caller's channel carries a limit."""
        if channel is self._caller and not self._stop.is_set():
            self._set_limit(seconds)

    # ----- the dialplan

    @property
    def _gone(self) -> bool:
        """The caller's channel is dead: no more dialplan but the handler."""
        return self._stopped_by in {"caller", "admin"}

    async def _dialplan(self) -> None:
        """What runs while the caller's channel lives."""
        ani = self._clean_ani()
        if ani is None:
            return
        await self._decide(ani)
        if not self._gone:
            await self._settle_alive()
        if not self._gone:
            self._hang_up()

    def _clean_ani(self) -> str | None:
        """The caller's number for the daemon, or None where the dialplan refuses the call on its own."""
        spec = self._spec
        if not spec.dnid or not NUMBER_CHARS.issuperset(spec.dnid):
            refused = RejectCode.DID_UNKNOWN
        elif NUMBER_CHARS.issuperset(spec.ani):
            return spec.ani
        elif _clean(spec.ani).lower() in WITHHELD:
            return "anonymous"
        else:
            refused = RejectCode.CALLER_INVALID
        cause, sip, _ = REJECTS[refused]
        self._variables |= {CcVariable.ACK: "1", CcVariable.CAUSE: str(cause)}
        self._outcome = replace(self._outcome, reject_reason=refused.value, sip=sip)
        self._hang_up()
        return None

    async def _decide(self, ani: str) -> None:
        """Route, then Dial and attempt in turn, until somebody hangs up, a limit fires or nothing is left to try."""
        spec, uniqueid = self._spec, self._caller.uniqueid
        outside = (spec.caller_name, spec.trunk, spec.attestation, spec.stir_verdict, spec.sip_call_id)
        result = await self._exchange("route", uniqueid, uniqueid, spec.dnid, ani, *map(_clean, outside))
        self._outcome = replace(self._outcome, route_ms=result.elapsed_ms)
        while not self._gone:
            verdict = self._note_verdict()
            if not verdict or (verdict == Verdict.DIAL and not self._dialable()):
                self._fall_back()
                return
            if verdict != Verdict.DIAL:
                return
            await self._dial()
            if self._gone or self._limit_fired() or self._dialstatus == DialStatus.ANSWER:
                return
            cause, attempt = str(self._hangup_cause), self._variable(CcVariable.ATTEMPT)
            await self._exchange("attempt", uniqueid, attempt, self._dialstatus, cause)

    def _note_verdict(self) -> str:
        verdict = self._variables.pop(CcVariable.VERDICT, "")
        rejected = verdict not in {"", Verdict.DIAL}
        self._outcome = replace(
            self._outcome,
            verdict=verdict,
            call=self._variable(CcVariable.CALL),
            reject_reason=self._variable(CcVariable.REASON) if rejected else "",
            sip=_number(self._variable(CcVariable.SIP)) if rejected else 0,
        )
        if verdict:
            self._world.end_quiet()
        undecided = {RejectCode.ENGINE_TIMEOUT, RejectCode.DATABASE_DOWN}
        if rejected and not self._variable(CcVariable.CALL) and self._outcome.reject_reason not in undecided:
            self._variables[CcVariable.ACK] = "1"  # what was decided is recorded already
        return verdict

    def _dialable(self) -> bool:
        """A zero would be no limit at all; without all of them the dialplan does not dial."""
        numbers = (CcVariable.RING_S, CcVariable.FUNDED_S, CcVariable.CEILING_MS)
        whole = all(_number(self._variable(name)) >= 1 for name in numbers)
        return whole and "/" in self._variable(CcVariable.DIAL) and len(self._outcome.attempts) < self._plan.max_rounds

    def _fall_back(self) -> None:
        cause, sip, _ = REJECTS[RejectCode.ENGINE_TIMEOUT]
        self._variables[CcVariable.CAUSE] = str(cause)
        self._outcome = replace(self._outcome, fallback=True, sip=sip)

    async def _exchange(self, script: str, *args: str, guarded: bool = True) -> AgiResult:
        """One AGI exchange; its variables are on the channel afterwards. The guard needs a live channel."""
        if guarded:
            self._set_limit(self._plan.guard_s)
        result = await agi_exchange(
            self._plan.agi_host,
            self._plan.agi_port,
            script,
            args,
            self._environment(),
            timeout_s=EXCHANGE_MAX_S if guarded else self._plan.settle_timeout_s,
            hangup=self._stop if guarded else None,
        )
        self._set_limit(None)
        self._variables.update(result.variables)
        if self._limit_fired():  # extension T goes on after the exchange
            self._frozen = True
            self._world.begin_quiet(self._plan.quiet_s)
        return result

    def _limit_fired(self) -> bool:
        """Whether the absolute timeout fired; it is used up by asking, as extension T uses it up."""
        if self._stopped_by != "limit":
            return False
        self._stopped_by = ""
        self._stop.clear()
        return True

    def _hang_up(self) -> None:
        """Hangup(CC_CAUSE) at the end of the dialplan."""
        self._settled_stage = True
        self._source = self._source or HANGUP_BY_DIALPLAN
        self._hangup_cause = _number(self._variable(CcVariable.CAUSE)) or CAUSE_NORMAL
        self._outcome = replace(self._outcome, cause=self._hangup_cause)

    # ----- settle

    async def _settle_alive(self) -> None:
        if not (self._acknowledged or self._world.quiet):
            await self._settle(guarded=True)

    async def _hangup_handler(self) -> None:
        """Runs on the dead channel: settles what was not, and keeps what nobody acknowledged."""
        if not (self._acknowledged or self._settled_stage or self._frozen or self._world.quiet):
            await self._settle(guarded=False)
        keep = not self._acknowledged and self._variable(CcVariable.CALL) != ""
        if keep:
            fields = (self._variable(CcVariable.CALL), *self._settle_args()[1:])
            self._world.keep_settlement(self._caller.uniqueid, fields)
        self._outcome = replace(self._outcome, settled_ack=self._acknowledged, spooled=keep)

    @property
    def _acknowledged(self) -> bool:
        return self._variable(CcVariable.ACK) == "1"

    async def _settle(self, *, guarded: bool) -> None:
        result = await self._exchange("settle", *self._settle_args(), guarded=guarded)
        self._outcome = replace(self._outcome, settle_ms=result.elapsed_ms)

    def _settle_args(self) -> tuple[str, ...]:
        answered_ms = dialed_ms = ""
        if self._up_since:
            now = self._loop.time()
            answered_ms, dialed_ms = str(_ms(now - self._up_since)), str(_ms(now - self._caller.created))
        return (
            self._caller.uniqueid,
            self._variable(CcVariable.ATTEMPT),
            self._dialstatus,
            answered_ms,
            dialed_ms,
            str(self._hangup_cause),
            _clean(self._source),
            self._plan.context,
            self._dialled_leg,
        )

    # ----- Dial

    async def _dial(self) -> None:
        """Dial(CC_DIAL, CC_RING_S): rings every leg of the dial string; the first that answers gets the call."""
        ring_s, funded_s = _number(self._variable(CcVariable.RING_S)), _number(self._variable(CcVariable.FUNDED_S))
        began = self._loop.time()
        self._caller.application, self._caller.application_data = "Dial", self._variable(CcVariable.DIAL)
        self._set_limit(ring_s + funded_s)
        self._dialstatus, self._hangup_cause = "", 0
        self._begin_legs()
        winner = await self._ring(began, ring_s * 1000)
        rang = self._loop.time() - began
        talked = 0.0
        if winner is not None:
            talked = await self._talk(winner, funded_s)
        self._note_attempt(_ms(rang), _ms(talked), winner.target if winner else "")

    async def _ring(self, began: float, ring_ms: int) -> _Leg | None:
        """Let the legs ring until one answers (that one), all have failed, or nobody wants to wait any more."""
        failed: list[DialStatus] = []
        for leg in sorted(self._ringing(), key=_acts_after_ms):
            if _acts_after_ms(leg) >= ring_ms or await self._pause_until(began + _acts_after_ms(leg) / 1000):
                break
            if isinstance(leg.behaviour, CallerCancels):
                self._caller_goes(CAUSE_CANCELLED)
                break
            if isinstance(leg.behaviour, Answers):
                return leg
            failed.append(self._leg_fails(leg))
        if self._ringing() and not self._stop.is_set():
            await self._pause_until(began + ring_ms / 1000)
        self._nobody_answered(failed)
        return None

    def _begin_legs(self) -> None:
        """Create every leg that can be created, then call them, as app_dial does."""
        legs = []
        for part, target in self._dialled():
            behaviour = self._world.behaviour(part, target)
            if not isinstance(behaviour, Unavailable):
                legs.append(_Leg(self._new_leg(part), target, part, behaviour))
                self._legs.append(legs[-1])
                self._world.appear(legs[-1].channel, self)
        for leg in legs:
            self._say(
                "DialBegin", self._caller, *leg.channel.fields("Dest"), ("DialString", leg.dial.partition("/")[2])
            )
        for leg in legs:
            if not isinstance(leg.behaviour, Busy | Congested):
                self._say("DialState", self._caller, *leg.channel.fields("Dest"), ("DialStatus", "RINGING"))
            leg.channel.state = STATE_RINGING
        if not legs:
            self._hangup_cause = CAUSE_ABSENT

    def _dialled(self) -> list[tuple[str, str]]:
        """Dial string and target's name of each leg; CC_TARGET names them in the same order."""
        parts = [text for text in self._variable(CcVariable.DIAL).split("&") if text]
        target = self._variable(CcVariable.TARGET)
        names = target.split("&")
        return list(zip(parts, names if len(names) == len(parts) else [target] * len(parts), strict=True))

    def _new_leg(self, dial: str) -> Channel:
        technology, _, resource = dial.partition("/")
        peer, _, _ = resource.partition("/")
        endpoint = peer.rpartition("@")[2] if technology == "PJSIP" else peer
        return Channel(
            name=self._world.channel_name(endpoint or "target", technology),
            uniqueid=self._world.unique_id(),
            linkedid=self._caller.uniqueid,
            context="default",
            exten="",
            caller_num=self._spec.dnid,
            caller_name="",
            created=self._loop.time(),
            state=STATE_DOWN,
            connected_num=self._spec.ani,
            application="AppDial",
            application_data="(Outgoing Line)",
        )

    def _ringing(self) -> list[_Leg]:
        return [leg for leg in self._legs if not leg.ended]

    def _leg_fails(self, leg: _Leg) -> DialStatus:
        busy = isinstance(leg.behaviour, Busy)
        status, cause = (DialStatus.BUSY, CAUSE_BUSY) if busy else (DialStatus.CONGESTION, CAUSE_CONGESTION)
        self._hangup_cause = cause
        self._say("HangupRequest", leg.channel, ("Cause", str(cause)))
        self._end_legs([leg], status, cause)
        return status

    def _end_legs(self, legs: Sequence[_Leg], status: DialStatus, cause: int) -> None:
        """The Dial of these legs ended without an answer."""
        for leg in legs:
            self._say("DialEnd", self._caller, *leg.channel.fields("Dest"), ("DialStatus", status.value))
        for leg in legs:
            self._leg_gone(leg, cause)

    def _leg_gone(self, leg: _Leg, cause: int) -> None:
        if not leg.ended:
            leg.ended = True
            self._hangup_event(leg.channel, cause)

    def _nobody_answered(self, failed: Sequence[DialStatus]) -> None:
        """DIALSTATUS and HANGUPCAUSE: the latter is that of the last leg that failed by itself, 0 where none did."""
        ringing, cause = self._ringing(), 0
        if self._stop.is_set():
            self._dialstatus, cause = DialStatus.CANCEL, CAUSE_CANCELLED
        elif ringing:
            self._dialstatus = DialStatus.NOANSWER
        else:
            ranked = (DialStatus.BUSY, DialStatus.CONGESTION)
            self._dialstatus = next((status for status in ranked if status in failed), DialStatus.CHANUNAVAIL)
        self._end_legs(ringing, DialStatus(self._dialstatus), cause)

    async def _talk(self, leg: _Leg, funded_s: int) -> float:
        """Bridge the caller and the leg until somebody or a limit ends it; how long they talked, in s."""
        assert isinstance(leg.behaviour, Answers)
        answered = self._loop.time()
        self._dialstatus, self._hangup_cause = DialStatus.ANSWER, CAUSE_NORMAL
        self._dialled_leg = leg.dial
        self._end_legs([other for other in self._ringing() if other is not leg], DialStatus.CANCEL, CAUSE_ELSEWHERE)
        leg.channel.state = STATE_UP
        self._say("DialEnd", self._caller, *leg.channel.fields("Dest"), ("DialStatus", DialStatus.ANSWER.value))
        self._caller.state, self._up_since = STATE_UP, answered
        self._set_limit(funded_s)
        self._enter_bridge(leg)
        ceiling_ms = _number(self._variable(CcVariable.CEILING_MS)) or leg.behaviour.talk_ms
        over_at = answered + min(leg.behaviour.talk_ms, ceiling_ms) / 1000
        stopped = await self._pause_until(over_at)
        talked = self._loop.time() - answered
        ceiling_cut = not stopped and ceiling_ms < leg.behaviour.talk_ms
        cut = ceiling_cut or self._stopped_by == "limit"
        self._outcome = replace(self._outcome, talk_ms=_ms(talked), cut_by_timeout=cut)
        self._leave_bridge(leg, cut)
        return talked

    def _enter_bridge(self, leg: _Leg) -> None:
        bridge = self._world.bridge_id()
        for number, channel in enumerate((leg.channel, self._caller), 1):
            channel.bridge_id = bridge
            self._say("BridgeEnter", channel, bridge=(bridge, number))

    def _leave_bridge(self, leg: _Leg, cut: bool) -> None:
        """Who ended the talk decides who leaves first, and what CHANNEL(hangupsource) says."""
        assert isinstance(leg.behaviour, Answers)
        bridge = leg.channel.bridge_id
        by_target = not cut and not self._stopped_by and leg.behaviour.hung_up_by == "target"
        first, second = (leg.channel, self._caller) if by_target else (self._caller, leg.channel)
        if not cut and self._stopped_by != "admin":
            if self._stopped_by != "caller":  # otherwise the request was told when the caller went
                self._say("HangupRequest", first, ("Cause", str(CAUSE_NORMAL)))
            self._source = first.name
            self._end("target" if by_target else "caller", CAUSE_NORMAL)
            if not by_target:
                self._halt("caller")
        self._say("BridgeLeave", first, bridge=(bridge, 1))
        if by_target:
            self._leg_gone(leg, CAUSE_NORMAL)
        self._say("BridgeLeave", second, bridge=(bridge, 0))
        first.bridge_id = second.bridge_id = ""
        self._leg_gone(leg, CAUSE_NORMAL)

    def _note_attempt(self, ring_ms: int, talk_ms: int, answered_by: str) -> None:
        attempt = AttemptOutcome(
            attempt=self._variable(CcVariable.ATTEMPT),
            target=self._variable(CcVariable.TARGET),
            dial=self._variable(CcVariable.DIAL),
            dialstatus=str(self._dialstatus),
            hangup_cause=self._hangup_cause,
            ring_ms=ring_ms,
            talk_ms=talk_ms,
            answered_by=answered_by,
        )
        target = answered_by or attempt.target
        self._outcome = replace(self._outcome, attempts=(*self._outcome.attempts, attempt), target=target)

    # ----- time and hangup

    def _set_limit(self, seconds: float | None) -> None:
        """TIMEOUT(absolute): counted from now; None or 0 takes it away."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if seconds:
            self._limit = self._loop.call_later(seconds, self._halt, "limit")

    def _halt(self, by: str) -> None:
        if not self._stopped_by or (self._stopped_by == "limit" and by != "limit"):
            self._stopped_by = by
        self._stop.set()

    def _caller_goes(self, cause: int) -> None:
        """The caller hangs up, in whatever state the call is."""
        if self._stop.is_set():
            return
        up = self._caller.state == STATE_UP
        self._hangup_cause = CAUSE_NORMAL if up else cause
        self._source = self._caller.name
        self._say("HangupRequest", self._caller, ("Cause", str(self._hangup_cause)))
        self._halt("caller")

    def _end(self, by: EndedBy, cause: int) -> None:
        self._outcome = replace(self._outcome, ended_by=by, cause=cause)

    async def _pause_until(self, when: float) -> bool:
        """Let time pass until `when` (loop clock, s, or infinity); True when the call was stopped before."""
        try:
            async with asyncio.timeout_at(None if isinf(when) else when):
                await self._stop.wait()
        except TimeoutError:
            return self._stop.is_set()
        return True

    # ----- words

    def _variable(self, name: CcVariable) -> str:
        return self._variables.get(name, "")

    def _environment(self) -> dict[str, str]:
        return {
            "agi_channel": self._caller.name,
            "agi_uniqueid": self._caller.uniqueid,
            "agi_callerid": self._spec.ani or "unknown",
            "agi_calleridname": self._spec.caller_name or "unknown",
            "agi_dnid": self._spec.dnid or "unknown",
            "agi_context": self._plan.context,
            "agi_extension": self._spec.dnid,
        }

    def _say(
        self, event: str, channel: Channel, *fields: tuple[str, str], bridge: tuple[str, int] | None = None
    ) -> None:
        head: list[tuple[str, str]] = []
        if bridge is not None:
            head = [
                ("BridgeUniqueid", bridge[0]),
                ("BridgeType", "basic"),
                ("BridgeTechnology", "simple_bridge"),
                ("BridgeCreator", "<unknown>"),
                ("BridgeName", "<unknown>"),
                ("BridgeNumChannels", str(bridge[1])),
                ("BridgeVideoSourceMode", "none"),
            ]
        self._world.tell(event, [*head, *channel.fields(), *fields])

    def _hangup_event(self, channel: Channel, cause: int) -> None:
        self._say("Hangup", channel, ("Cause", str(cause)), ("Cause-txt", CAUSE_TEXTS.get(cause, "Unknown")))
        self._world.disappear(channel)


def _acts_after_ms(leg: _Leg) -> float:
    """When this leg does something on its own, in ms after the Dial; infinity where it never does."""
    match leg.behaviour:
        case Answers(after_ms=after_ms) | Busy(after_ms=after_ms) | Congested(after_ms=after_ms):
            return after_ms
        case CallerCancels(after_ms=after_ms):
            return after_ms
        case NoAnswer() | Unavailable():
            return inf


def _clean(text: str) -> str:
    """Text from outside as the dialplan passes it on."""
    return text.translate(_CLEANED)


def _number(text: str) -> int:
    """A number as the dialplan reads it: nothing or rubbish is 0."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
