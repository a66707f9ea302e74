"""A simulated Asterisk: takes calls, asks the daemon over FastAGI, tells AMI, and obeys it, as the dialplan would.

Time is the event loop's; randomness comes in as `rng`. Calls are concurrent tasks, at most `max_calls` at a time.
Loopback only. A daemon that is away, late or broken is an outcome of the call, never an exception.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from asterisk_simulator.ami_server import SPOOL_FAMILY, AmiServer, Fields
from asterisk_simulator.behaviours import Answers, Behaviour, CallOutcome, CallSpec
from asterisk_simulator.call import Call, Dialplan
from asterisk_simulator.channels import Channel

MAX_CALLS: Final = 10_000
CONTEXT: Final = "capconduit-inbound"


def spool_text(fields: Sequence[str], now_us: int) -> str:
    """How the handler keeps a settlement: CC_CALL and the arguments of settle after the uniqueid, before the last of
    which (what was dialled) stands when it was written (UTC s)."""
    *told, dialled = fields
    return "|".join((*told, f"{now_us // 1_000_000}.{now_us // 1_000 % 1_000:03d}", dialled))


class World:
    """Runs calls. `await call(spec)` runs one to its end; `start(spec)` runs it as a task; `await close()` ends all.

    `targets` maps a dial string (or a target's name) to what that target does: one behaviour, or a sequence of which
    each Dial takes the next and the last stays. Unknown targets do `otherwise`. Of a Dial of several legs
    (`CC_DIAL=a&b`, `CC_TARGET=x&y`) each leg does what its own target does.
    """

    def __init__(
        self,
        agi_host: str,
        agi_port: int,
        ami: AmiServer,
        rng: random.Random,
        *,
        systemname: str = "sim",
        targets: Mapping[str, Behaviour | Sequence[Behaviour]] | None = None,
        otherwise: Behaviour | None = None,
        context: str = CONTEXT,
        guard_s: float = 5.0,
        quiet_s: float = 10.0,
        max_rounds: int = 32,
        settle_timeout_s: float = 30.0,
        max_calls: int = MAX_CALLS,
    ) -> None:
        self.ami = ami
        self.rng = rng
        self.systemname = systemname
        self.dialplan = Dialplan(agi_host, agi_port, context, guard_s, quiet_s, max_rounds, settle_timeout_s)
        self.outcomes: list[CallOutcome] = []
        self._quiet_until = 0.0
        self._otherwise: Behaviour = otherwise or Answers()
        self._targets: dict[str, list[Behaviour]] = {}
        self._channels: dict[str, tuple[Channel, Call]] = {}
        self._tasks: set[asyncio.Task[CallOutcome]] = set()
        self._places = asyncio.Semaphore(max_calls)
        self._next_unique = 0
        self._next_channel = 0
        for name, behaviours in (targets or {}).items():
            self.script(name, *(behaviours if isinstance(behaviours, Sequence) else (behaviours,)))
        ami.channels = self

    def script(self, target: str, *behaviours: Behaviour) -> None:
        """Say what `target` (a dial string or a name) does from now on: each Dial takes the next, the last stays."""
        self._targets[target] = list(behaviours)

    async def call(self, spec: CallSpec) -> CallOutcome:
        """Run one call to its end, its hangup handler included. Cancelling it is a SIGKILL: no handler runs."""
        async with self._places:
            call = Call(self, spec)
            try:
                outcome = await call.run()
            finally:
                call.vanish()
        self.outcomes.append(outcome)
        return outcome

    def start(self, spec: CallSpec) -> asyncio.Task[CallOutcome]:
        """Run one call as a task of this world."""
        task = asyncio.get_running_loop().create_task(self.call(spec))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settle_down(self) -> None:
        """Wait until every started call has ended."""
        while self._tasks:
            await asyncio.gather(*list(self._tasks), return_exceptions=True)

    async def close(self) -> None:
        """Cancel what still runs, without handlers, and wait for it."""
        for task in list(self._tasks):
            task.cancel()
        await self.settle_down()

    @property
    def live_calls(self) -> int:
        """Calls that were started and have not ended."""
        return len({id(call) for _, call in self._channels.values()})

    # What a Call needs of its world.

    def unique_id(self) -> str:
        """The next uniqueid: systemname-seconds.counter."""
        self._next_unique += 1
        return f"{self.systemname}-{int(time.time())}.{self._next_unique - 1}"

    def channel_name(self, endpoint: str, technology: str = "PJSIP") -> str:
        """The next channel name of this endpoint (of a Local channel that of the half that is dialled)."""
        self._next_channel += 1
        half = ";1" if technology == "Local" else ""
        return f"{technology}/{endpoint}-{self._next_channel - 1:08x}{half}"

    def bridge_id(self) -> str:
        """A bridge id in the form of a UUID, from `rng`."""
        digits = f"{self.rng.getrandbits(128):032x}"
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))

    def behaviour(self, dial: str, target: str) -> Behaviour:
        """What the target behind this dial string does this time."""
        script = self._targets.get(dial) or self._targets.get(target)
        if not script:
            return self._otherwise
        return script.pop(0) if len(script) > 1 else script[0]

    def appear(self, channel: Channel, call: Call) -> None:
        """A channel came to be."""
        self._channels[channel.name] = (channel, call)
        self.tell("Newchannel", channel.fields())

    def disappear(self, channel: Channel) -> None:
        """A channel is gone; nothing is told here."""
        self._channels.pop(channel.name, None)

    def tell(self, event: str, fields: Fields) -> None:
        """Send an AMI event of now."""
        self.ami.publish(event, fields)

    def keep_settlement(self, uniqueid: str, fields: Sequence[str]) -> None:
        """`Set(DB(capconduit/unsettled/UNIQUEID)=…)` of the handler."""
        self.ami.database[f"/{SPOOL_FAMILY}/{uniqueid}"] = spool_text(fields, self.ami.now_us())

    @property
    def quiet(self) -> bool:
        """CC_QUIET_UNTIL has not passed: the daemon was found frozen, ends of calls are kept for it."""
        return asyncio.get_running_loop().time() < self._quiet_until

    def begin_quiet(self, seconds: float) -> None:
        """The guard fired."""
        self._quiet_until = asyncio.get_running_loop().time() + seconds

    def end_quiet(self) -> None:
        """A verdict came: the daemon lives."""
        self._quiet_until = 0.0

    # What the manager interface needs (ami_server.ChannelSource).

    def channel_rows(self) -> Iterable[Fields]:
        """Every live channel, as CoreShowChannels lists it."""
        now = asyncio.get_running_loop().time()
        return [channel.row(now) for channel, _ in self._channels.values()]

    def hang_up(self, channel: str, cause: int) -> bool:
        """AMI Hangup: ends the call of this channel with `cause`."""
        found = self._channels.get(channel)
        if found is None:
            return False
        found[1].admin_hangup(cause)
        return True

    def move_limit(self, channel: str, seconds: float) -> bool:
        """AMI AbsoluteTimeout: moves the limit of the caller's channel, counted from now; legs have none here."""
        found = self._channels.get(channel)
        if found is None:
            return False
        found[1].limit_from_manager(found[0], seconds)
        return True
