"""What happens during a soak: callers of all kinds, targets that answer, fail or stay silent, and a busy operator."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

from asterisk_simulator.ami_server import AmiServer
from asterisk_simulator.behaviours import (
    Answers,
    Behaviour,
    Busy,
    CallerCancels,
    CallSpec,
    Congested,
    NoAnswer,
    Unavailable,
)
from asterisk_simulator.world import World
from bench.shapes import FIRST_NUMBER, TRUNK, Shape, make_estate, number_of, target_of
from capconduit.errors import CapConduitError
from capconduit.services import balances, campaigns, caps, dids, rates, sellers, settings, targets
from capconduit.services.office import Office
from capconduit.vocab import CapMetric, CapScope, DialStatus, Verdict, WindowKind

SHAPE: Final = Shape(dids=200, campaigns=20, sellers=5, targets=2)
MAX_CALLS: Final = 5_000
RING_MS: Final = 5_000
TALK_MS: Final = (1_000, 60_000)
SLICE_S: Final = 10  # so that calls are extended while they last
# Never changed, so that no call above it can be explained by anything but a fault. It is met all the time.
FIXED_SELLER: Final = "s0"
FIXED_CONCURRENT: Final = 100
POOR_SELLER: Final = "s4"  # runs out of money again and again
POOR_MICROS: Final = 5_000_000
AWAY_AT_ONCE: Final = 3  # campaigns paused, numbers suspended, targets disabled
NEW_DIDS: Final = 50
PLENTY: Final = 1_000_000


def prepare(office: Office) -> None:
    """The estate of a soak."""
    make_estate(office, SHAPE)
    settings.set_setting(office, "funding_slice_s", str(SLICE_S))
    rates.set_rate(office, "std", increment="6/6")
    fixed = caps.Limit(CapMetric.CONCURRENT, WindowKind.NONE, FIXED_CONCURRENT)
    caps.set_caps(office, CapScope.SELLER, FIXED_SELLER, [fixed])
    money = sellers.show_seller(office, POOR_SELLER).account.balance_micros
    balances.adjust(office, POOR_SELLER, POOR_MICROS - money, reason="paid out")
    for campaign in range(SHAPE.campaigns):
        for place in range(SHAPE.targets):
            targets.set_target(office, target_of(campaign, place), ring_ms=RING_MS)


class Soaked(World):
    """A simulated Asterisk whose targets do this and that. `tally` counts what became of calls."""

    def __init__(self, agi_port: int, ami: AmiServer, rng: random.Random) -> None:
        super().__init__("127.0.0.1", agi_port, ami, rng, systemname="bench", max_calls=MAX_CALLS)
        self.tally: Counter[str] = Counter(begun=0, ended=0, answered=0, rejected=0, fallback=0, kept=0, talk_ms=0)
        self.rejects: Counter[str] = Counter()

    def behaviour(self, dial: str, target: str) -> Behaviour:  # noqa: ARG002 - all targets are alike
        """What a target does this time: seven of ten answer."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.7:
            talk_ms = min(max(int(rng.expovariate(1 / 20_000)), TALK_MS[0]), TALK_MS[1])
            return Answers(rng.randint(100, 3_000), talk_ms, rng.choice(("caller", "target")))
        if kind < 0.8:
            return Busy(rng.randint(10, 500))
        if kind < 0.85:
            return Congested(rng.randint(5, 100))
        if kind < 0.9:
            return Unavailable()
        return NoAnswer() if kind < 0.95 else CallerCancels(rng.randint(100, 4_000))

    async def keep_calling(self, rate: float) -> None:
        """Calls come in at `rate` a second until cancelled."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            due_s = began_s + self.tally["begun"] / rate
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            self.start(self._spec(self.tally["begun"]))
            self.tally["begun"] += 1
            if self.tally["begun"] % 100 == 0:
                self.sum_up()

    def _spec(self, number: int) -> CallSpec:
        rng = self.rng
        dnid = number_of(rng.randrange(SHAPE.dids)) if rng.random() > 0.01 else "+18005550199"
        ani = f"+1212{2_000_000 + number % 7_000_000}" if rng.random() > 0.02 else "anonymous"
        leaves_ms = rng.randint(1, 4_000) if rng.random() < 0.03 else None
        return CallSpec(dnid, ani, "Soak", TRUNK, sip_call_id=f"{number:012x}@carrier", cancel_after_ms=leaves_ms)

    def sum_up(self) -> None:
        """Count the calls that have ended, and forget them."""
        ended, self.outcomes = self.outcomes, []
        for outcome in ended:
            answered = outcome.dialstatus == DialStatus.ANSWER
            self.tally["ended"] += 1
            self.tally["answered"] += answered
            self.tally["rejected"] += outcome.verdict == Verdict.REJECT
            if outcome.reject_reason:
                self.rejects[outcome.reject_reason] += 1
            self.tally["fallback"] += outcome.fallback
            self.tally["kept"] += outcome.spooled
            self.tally["talk_ms"] += outcome.talk_ms if answered else 0


class Operator:
    """Changes the configuration, one thing at a time, as the seed has it."""

    def __init__(self, office: Office, rng: random.Random) -> None:
        self._office = office
        self._rng = rng
        self._away: dict[str, list[str]] = {"campaign": [], "did": [], "target": []}
        self._new_dids: list[str] = []
        self._next_did = 0
        self.changes = 0
        self.refused = 0

    def change(self) -> None:
        """One change; a refusal is an answer too."""
        work: Callable[[], object] = self._rng.choice(
            [self._cap, self._cap, self._pause, self._suspend, self._disable, self._price, self._pay, self._did]
        )
        try:
            work()
        except CapConduitError:
            self.refused += 1
        self.changes += 1

    def _campaign(self) -> str:
        return f"c{self._rng.randrange(SHAPE.campaigns)}"

    def _target(self) -> str:
        return target_of(self._rng.randrange(SHAPE.campaigns), self._rng.randrange(SHAPE.targets))

    def _cap(self) -> None:
        rng = self._rng
        scope, name = rng.choice(
            [
                (CapScope.CAMPAIGN, self._campaign()),
                (CapScope.TARGET, self._target()),
                (CapScope.DID, number_of(rng.randrange(SHAPE.dids))),
                (CapScope.TRUNK, TRUNK),
            ]
        )
        least = 500 if scope is CapScope.TRUNK else 5
        concurrent = caps.Limit(CapMetric.CONCURRENT, WindowKind.NONE, rng.choice([None, least, 4 * least, PLENTY]))
        window = rng.choice([WindowKind.HOUR, WindowKind.DAY, WindowKind.TOTAL])
        metric = rng.choice([CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE])
        counted = caps.Limit(metric, window, rng.choice([None, None, 100 * least, PLENTY]))
        caps.set_caps(self._office, scope, name, [rng.choice([concurrent, counted])])

    def _switch(self, kind: str, name: str, switch: Callable[[str, bool], object]) -> None:
        """Take `name` away, or where enough are away, let the longest one come back."""
        away = self._away[kind]
        if len(away) >= AWAY_AT_ONCE:
            switch(away.pop(0), True)
        elif name not in away:
            switch(name, False)
            away.append(name)

    def _pause(self) -> None:
        pause = campaigns.pause_campaign
        self._switch("campaign", self._campaign(), lambda name, on: pause(self._office, name, paused=not on))

    def _suspend(self) -> None:
        number = number_of(self._rng.randrange(SHAPE.dids))
        self._switch("did", number, lambda name, on: dids.suspend_did(self._office, name, suspended=not on))

    def _disable(self) -> None:
        self._switch("target", self._target(), lambda name, on: targets.set_target(self._office, name, enabled=on))

    def _price(self) -> None:
        rates.set_rate(self._office, "std", per_minute_micros=self._rng.choice([60_000, 200_000, 600_000]))

    def _pay(self) -> None:
        balances.adjust(self._office, POOR_SELLER, POOR_MICROS, reason="payment")

    def _did(self) -> None:
        """A number more, or where there are enough, one less."""
        if len(self._new_dids) < NEW_DIDS:
            number = f"+1888{FIRST_NUMBER + self._next_did}"
            self._next_did += 1
            dids.add_did(self._office, number, trunk=TRUNK, campaign=self._campaign())
            self._new_dids.append(number)
        else:
            number = self._new_dids.pop(0)
            dids.release_did(self._office, number)
            dids.remove_did(self._office, number)
