"""A world that one seed drives: calls, lost and doubled messages, operators, clocks and crashes around the real engine.

Reality (which channel lives, what was told) is kept here; the books are the engine's. After every step the two are
compared by `tests.simulation.invariants`. Nothing is random but the seed's own generator, so a seed replays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capconduit.domain.calls import (
    AnswerReport,
    AttemptReport,
    DialAnswer,
    ExtendRequest,
    LegTimes,
    RejectAnswer,
    RouteRequest,
    SettleReport,
)
from capconduit.domain.needs import Command
from capconduit.errors import DatabaseError, Refused
from capconduit.services import balances, campaigns, caps, dids, rates, sellers, settings, targets
from capconduit.services.engine import Engine
from capconduit.services.office import Office
from capconduit.store.sqlite import SqliteStore
from capconduit.units import instant_ms
from capconduit.vocab import (
    FAILOVER_STATUSES,
    CapMetric,
    CapScope,
    DialStatus,
    RejectCode,
    Status,
    Strategy,
    WindowKind,
)
from tests.simulation.invariants import Invariants
from tests.unit.estate_builder import DOLLAR, TENANT, EstateBuilder, FakeClock

NODES = ("node-1", "node-2")
WINDOWS = (WindowKind.HOUR, WindowKind.DAY, WindowKind.WEEK, WindowKind.MONTH, WindowKind.TOTAL)
COUNTING = (CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)
# Evenings of New York from which midnights, ends of months and changes of the clock are near (UTC).
EVENINGS = ("2026-03-03T04:30", "2026-03-08T05:30", "2026-11-01T03:00", "2026-12-31T20:00", "2026-07-05T12:00")
HOUR_MS = 3_600_000


class PlugPulled(Exception):
    """A crash of the daemon or the database within a transaction."""


@dataclass
class Channel:
    """A call as Asterisk knows it. `attempt` 0: no Dial yet. `answered_ms` None: nobody has answered."""

    node: str
    uniqueid: str
    dnid: str
    ani: str
    arrived_ms: int
    attempt: int = 0
    dialing: bool = False
    answered_ms: int | None = None
    alive: bool = True
    settlement: SettleReport | None = None


@dataclass
class World:
    """Everything there is. `path` is the database file, made anew."""

    seed: int
    path: Path
    log: list[str] = field(default_factory=list)
    channels: dict[str, Channel] = field(default_factory=dict)
    under_way: list[Command] = field(default_factory=list)  # told, not yet delivered
    born: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        start = datetime.fromisoformat(self.rng.choice(EVENINGS)).replace(tzinfo=UTC)
        self.clock = FakeClock(instant_ms(start), self.seed)
        self.store = SqliteStore(self.path, create=True)
        self.store.upgrade(self.clock.now_ms())
        self.store._connection().execute("PRAGMA synchronous = OFF")  # crashes here are of the process, not the disk
        self.builder = self._estate()
        self.builder.insert_into(self.store)
        self.engines = [Engine(self.store, self.clock) for _ in range(2)]
        self.office = Office(self.store, self.clock, actor="operator")
        self.invariants = Invariants(self.store, self.builder)

    # --- the estate ---------------------------------------------------------------------------------------------------

    def _estate(self) -> EstateBuilder:
        rng, b = self.rng, EstateBuilder(now_ms=self.clock.now_ms())
        b.setting("funding_slice_s", rng.choice([6, 30, 60, 180]))
        b.setting("timezone", rng.choice(["UTC", "America/New_York", "America/Havana"]))
        b.trunk("carrier")
        for name in ("acme", "zenith"):
            b.seller(
                name,
                balance=rng.choice([150_000, DOLLAR, 5 * DOLLAR, 100 * DOLLAR, 100 * DOLLAR]),
                credit=rng.choice([0, 0, DOLLAR]),
                timezone=rng.choice(["America/New_York", "America/New_York", "America/Havana", "Asia/Kolkata"]),
            )
        for i, (first_s, step_s) in enumerate(rng.sample([(60, 60), (30, 6), (6, 6), (1, 1)], 2)):
            b.rate(
                f"rate{i}",
                first_s=first_s,
                step_s=step_s,
                per_minute_micros=rng.choice([0, 59, 200_000, DOLLAR]),
                connect_fee_micros=rng.choice([0, 0, 50_000]),
            )
        for name in ("buyer1", "buyer2", "buyer3"):
            b.target(name, campaign=None, ring_ms=rng.choice([5_000, 20_000]))
        for i, seller in enumerate(("acme", "acme", "zenith")):
            name = f"campaign{i}"
            b.campaign(
                name,
                seller,
                rng.choice(["rate0", "rate1"]),
                strategy=rng.choice(list(Strategy)),
                billable_threshold_ms=rng.choice([0, 0, 30_000]),
                max_attempts=rng.choice([1, 3, 5, 5]),
                ring_budget_ms=rng.choice([10_000, 90_000]),
                max_duration_ms=rng.choice([60_000, 90_000, 4 * HOUR_MS]),
            )
            b.did(f"+1800555010{i}", name, trunk="carrier")
            for target in rng.sample(["buyer1", "buyer2", "buyer3"], rng.choice([1, 2, 3, 3])):
                b.rule(name, target, priority=rng.randrange(3), weight=rng.randrange(3))
        for scope, name in rng.sample(self._scopes(b), rng.randrange(1, 8)):
            limit = self._limit()
            b.cap(scope, self._scope_id(b, scope, name), limit.metric, limit.value or 0, limit.window)
        unique = {(c.scope, c.scope_id, c.metric, c.window_kind): c for c in b.caps}
        b.caps[:] = unique.values()
        return b

    def _scopes(self, b: EstateBuilder) -> list[tuple[CapScope, str]]:
        """What can be limited, with the name the operator uses."""
        return [
            (CapScope.SYSTEM, ""),
            *((CapScope.SELLER, s.name) for s in b.sellers),
            *((CapScope.CAMPAIGN, c.name) for c in b.campaigns),
            *((CapScope.TARGET, t.name) for t in b.targets),
            *((CapScope.RULE, r.id) for r in b.rules),
            *((CapScope.DID, d.number) for d in b.dids),
            (CapScope.TRUNK, "carrier"),
        ]

    def _scope_id(self, b: EstateBuilder, scope: CapScope, name: str) -> str:
        if scope is CapScope.SYSTEM:
            return TENANT
        return next(d.id for d in b.dids if d.number == name) if scope is CapScope.DID else name

    def _limit(self) -> caps.Limit:
        if self.rng.random() < 0.4:
            return caps.Limit(CapMetric.CONCURRENT, WindowKind.NONE, self.rng.choice([0, 1, 2, 4, 8]))
        return caps.Limit(self.rng.choice(COUNTING), self.rng.choice(WINDOWS), self.rng.choice([0, 1, 3, 6, 9, 15]))

    # --- steps --------------------------------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Take `steps` steps, then let everything come to rest. Raises AssertionError with seed and story."""
        try:
            for _ in range(steps):
                self.step()
                self.invariants.check()
            self.rest()
        except Exception as error:
            story = "\n  ".join(self.log[-25:])
            raise AssertionError(f"seed {self.seed}, step {len(self.log)}: {error!r}\n  {story}") from error
        finally:
            self.store.close()

    def step(self) -> None:
        """One thing happens."""
        actions: list[tuple[int, Callable[[], None]]] = [
            (20, self.arrive),
            (30, self.live),
            (45, self.deliver),
            (6, self.operate),
            (6, self.pass_time),
            (1, self.jump),
            (2, self.restart_engine),
            (3, self.lose),
        ]
        total = sum(weight for weight, _ in actions)
        pick = self.rng.randrange(total)
        for weight, action in actions:
            pick -= weight
            if pick < 0:
                action()
                return

    def say(self, text: str) -> None:
        """What happened, for whoever reads a failure."""
        self.log.append(f"{len(self.log)}: {text}")

    def tell(self, command: Command) -> None:
        """A message sets out; it may overtake others, and one in seven goes twice."""
        self.under_way.append(command)
        if self.rng.random() < 0.15:
            self.under_way.append(command)

    # --- what Asterisk does -------------------------------------------------------------------------------------------

    def arrive(self) -> None:
        """A call comes in. Now and then the same channel asks a second time, or an unknown number is dialled."""
        self.born += 1
        channel = Channel(
            node=self.rng.choice(NODES),
            uniqueid=f"u{self.born}",
            dnid=self.rng.choice([*(d.number for d in self.builder.dids)] * 6 + ["+18005559999"]),
            ani=self.rng.choice(["+12125550147", "", "anonymous", "1001"]),
            arrived_ms=self.clock.now_ms(),
        )
        self.channels[channel.uniqueid] = channel
        self.say(f"{channel.uniqueid} arrives on {channel.dnid}")
        self.tell(
            RouteRequest(
                node=channel.node, boot_id="boot", uniqueid=channel.uniqueid, dnid=channel.dnid, ani=channel.ani,
                trunk=self.rng.choice(["carrier", "stranger"]), arrived_ms=channel.arrived_ms,
                until_mono_ms=self.rng.choice([None, None, None, self.clock.monotonic_ms() + 400]),
            )
        )  # fmt: skip

    def live(self) -> None:
        """Something happens to a live channel: its Dial fails or is answered, it wants funding, or it ends."""
        alive = [c for c in self.channels.values() if c.alive and (c.attempt or self.rng.random() < 0.1)]
        if not alive:
            return
        channel = self.rng.choice(alive)
        choice = self.rng.random()
        if channel.dialing and channel.answered_ms is None and choice < 0.55:
            self._dial_fails(channel)
        elif channel.dialing and channel.answered_ms is None and choice < 0.8:
            channel.answered_ms = self.clock.now_ms() - self.rng.choice([0, 20, 5_000])
            self.say(f"{channel.uniqueid} is answered")
            if self.rng.random() < 0.8:  # AMI may be down
                leg = LegTimes(answered_ms=self.rng.choice([channel.answered_ms, None]))
                self.tell(AnswerReport(node=channel.node, uniqueid=channel.uniqueid, leg=leg))
        elif choice < 0.3:
            self.say(f"{channel.uniqueid} wants funding")
            self.tell(ExtendRequest(node=channel.node, uniqueid=channel.uniqueid))
        else:
            self.hang_up(channel)

    def _dial_fails(self, channel: Channel) -> None:
        status = self.rng.choice([*sorted(FAILOVER_STATUSES), *sorted(FAILOVER_STATUSES), DialStatus.CANCEL, None])
        wrong = self.rng.choice([0] * 8 + [1, -1])
        self.say(f"{channel.uniqueid} attempt {channel.attempt}: {status}")
        channel.dialing = False
        self.tell(
            AttemptReport(
                node=channel.node, uniqueid=channel.uniqueid, attempt=channel.attempt + wrong,
                dialstatus=status, hangup_cause=self.rng.choice([0, 17, 34, 127]),
            )
        )  # fmt: skip
        if self.rng.random() < 0.15:
            self.hang_up(channel)  # the caller leaves while the next target is looked for

    def hang_up(self, channel: Channel) -> None:
        """The channel ends; its settlement sets out, perhaps with other numbers the second time."""
        channel.alive = False
        now_ms = self.clock.now_ms()
        answered = channel.answered_ms is not None
        talk_ms = max(now_ms - (channel.answered_ms or now_ms), 0) if answered else None
        if answered and self.rng.random() < 0.2:
            talk_ms = self.rng.choice([0, 29_999, 30_000, 60_000, 60_001, 60_200, 10 * HOUR_MS])
        saw_all = answered and self.rng.random() < 0.4
        leg = LegTimes(answered_ms=channel.answered_ms, ended_ms=now_ms) if saw_all else LegTimes()
        report = SettleReport(
            node=channel.node,
            uniqueid=channel.uniqueid,
            attempt=channel.attempt,
            dialstatus=DialStatus.ANSWER if answered else self.rng.choice([DialStatus.CANCEL, DialStatus.BUSY, None]),
            answered_for_ms=talk_ms,
            hangup_cause=self.rng.choice([0, 16, 17, 127]),
            leg=leg,
        )
        channel.settlement = report
        self.say(f"{channel.uniqueid} ends, talk {talk_ms}")
        self.tell(report)
        if self.rng.random() < 0.1:
            self.tell(replace(report, answered_for_ms=999_999, dialstatus=DialStatus.ANSWER, witness="other"))

    # --- the way to the engine ----------------------------------------------------------------------------------------

    def deliver(self) -> None:
        """Some messages reach an engine in one batch, in any order; now and then the plug is pulled."""
        if not self.under_way:
            return
        batch = [self._draw() for _ in range(min(self.rng.choice([1, 1, 2, 4, 9]), len(self.under_way)))]
        what = ", ".join(f"{type(c).__name__} {c.uniqueid}" for c in batch)
        if self.rng.random() < 0.06:
            self.say(f"plug pulled in: {what}")
            self._crash(batch)
            return
        self.say(f"delivered: {what}")
        engine = self.rng.choice(self.engines)
        answers = self.store.run(lambda tx: engine.work(batch, tx))
        for command, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            self._hear(command, answer)

    def _draw(self) -> Command:
        return self.under_way.pop(self.rng.randrange(len(self.under_way)))

    def _crash(self, batch: Sequence[Command]) -> None:
        """The transaction ends at any statement, or right before its commit: nothing of it may stay."""
        before = self.invariants.everything()
        engine, after = self.rng.choice(self.engines), self.rng.randrange(1, 12)
        with suppress(PlugPulled), self.store.transaction(write=True) as tx:
            tx._db = _PulledPlug(tx._db, after)  # type: ignore[assignment]  # stands before the dialect
            engine.work(batch, tx)
            raise PlugPulled
        assert self.invariants.everything() == before, "something of a broken transaction stayed"
        for command in batch:
            if not isinstance(command, RouteRequest) or self.rng.random() < 0.5:
                self.under_way.append(command)  # whoever sent it tries again; a rejected caller may be gone

    def _hear(self, command: Command, answer: Any) -> None:
        """What the dialplan does with an answer."""
        channel = self.channels[command.uniqueid]
        if isinstance(answer, DialAnswer):
            self.invariants.answered(command, answer)
            if self.rng.random() < 0.04:
                self.say(f"{channel.uniqueid}: the answer seems not to have arrived")
                self.tell(
                    SettleReport(
                        node=channel.node, uniqueid=channel.uniqueid, reject=RejectCode.ENGINE_TIMEOUT, witness="late"
                    )
                )
            if channel.alive and channel.answered_ms is None:
                channel.attempt, channel.dialing = answer.attempt, True
        elif isinstance(answer, RejectAnswer) and channel.alive and channel.answered_ms is None:
            channel.dialing = False
            self.hang_up(channel)

    def lose(self) -> None:
        """A message is lost. What ends a call is kept by somebody and comes later; other messages never come."""
        if self.under_way:
            lost = self._draw()
            self.say(f"lost: {type(lost).__name__} {lost.uniqueid}")

    # --- time and crashes ---------------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        """A while passes."""
        self.clock.pass_ms(self.rng.choice([1, 500, 10_000, 60_000, 90_000, 20 * 60_000, HOUR_MS]))
        self.say(f"time passes to {self.clock.now_ms()}")

    def jump(self) -> None:
        """Somebody sets the clock, forward or back, often over a midnight."""
        self.clock.pass_ms(self.rng.choice([-2 * HOUR_MS, -HOUR_MS, -60_000, 6 * HOUR_MS, 25 * HOUR_MS]))
        self.say(f"the clock jumps to {self.clock.now_ms()}")

    def restart_engine(self) -> None:
        """A daemon is gone, and another begins."""
        self.say("an engine restarts")
        self.engines[self.rng.randrange(2)] = Engine(self.store, self.clock)

    # --- what operators do --------------------------------------------------------------------------------------------

    def operate(self) -> None:
        """One change by an operator; what is refused changes nothing. Now and then it is a dry run."""
        office = replace_dry(self.office, self.rng.random() < 0.1)
        work = self.rng.choice(
            [self._set_cap, self._set_cap, self._clear_cap, self._adjust, self._adjust, self._switch, self._reprice]
        )
        before = self.invariants.everything() if office.dry_run else None
        try:
            work(office)
        except Refused as error:
            self.say(f"refused: {error.slug}")
        if before is not None:
            self.say("it was a dry run")
            assert self.invariants.everything() == before, "a dry run changed something"
        else:
            self.invariants.operated()

    def _set_cap(self, office: Office) -> None:
        scope, name = self.rng.choice(self._scopes(self.builder))
        limit = self._limit()
        self.say(f"cap {scope} {name}: {limit.metric} {limit.value}/{limit.window}")
        caps.set_caps(office, scope, name, [limit])

    def _clear_cap(self, office: Office) -> None:
        scope, name = self.rng.choice(self._scopes(self.builder))
        self.say(f"cap {scope} {name} cleared")
        caps.clear_caps(office, scope, name)

    def _adjust(self, office: Office) -> None:
        seller = self.rng.choice(self.builder.sellers).name
        account = sellers.show_seller(office, seller).account
        everything = [-account.balance_micros or 1, -account.available_micros or 1, -account.available_micros - 1]
        amount = self.rng.choice([DOLLAR, 5 * DOLLAR, 100_000, -100_000, -DOLLAR, *everything])
        self.say(f"{seller} balance {amount:+}")
        balances.adjust(office, seller, amount, reason="simulated", key=self.rng.choice(["", "", f"k{amount}"]))

    def _switch(self, office: Office) -> None:
        on = self.rng.random() < 0.6
        match self.rng.randrange(6):
            case 0:
                name = self.rng.choice(self.builder.campaigns).name
                campaigns.pause_campaign(office, name, paused=not on)
            case 1:
                name = self.rng.choice(self.builder.sellers).name
                sellers.set_seller(office, name, status=Status.ACTIVE if on else Status.SUSPENDED)
            case 2:
                name = self.rng.choice(self.builder.dids).number
                dids.suspend_did(office, name, suspended=not on)
            case 3:
                name = self.rng.choice(self.builder.targets).name
                targets.set_target(office, name, enabled=on)
            case 4:
                name = self.rng.choice(self.builder.rules).id
                targets.set_rule(office, *name.split("/"), enabled=on)
            case _:
                name = self.rng.choice(self.builder.sellers).name
                sellers.set_seller(office, name, credit_limit_micros=self.rng.choice([0, 100_000, DOLLAR]))
        self.say(f"{name} switched {'on' if on else 'off'}, or its credit changed")

    def _reprice(self, office: Office) -> None:
        name = self.rng.choice(self.builder.rates).name
        price = self.rng.choice([0, 60, 200_000, 3 * DOLLAR])
        self.say(f"{name} costs {price} a minute, and slices change")
        rates.set_rate(office, name, per_minute_micros=price)
        settings.set_setting(office, "funding_slice_s", self.rng.choice(["6", "60", "600"]))

    # --- the end ------------------------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Every message arrives, every call ends and is settled by somebody, some twice. Then nothing may be held."""
        self.say("coming to rest")
        for channel in self.channels.values():
            if channel.alive:
                self.hang_up(channel)
            assert channel.settlement is not None
            self.under_way.append(replace(channel.settlement, witness="spool", ended_ms=self.clock.now_ms()))
        while self.under_way:
            self.deliver()
            self.invariants.check()
        self.invariants.check_rest([(c.node, c.uniqueid) for c in self.channels.values()])


class _PulledPlug:
    """Stands before a dialect and fails at the n-th statement that writes."""

    def __init__(self, dialect: Any, after: int) -> None:
        self._dialect = dialect
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dialect, name)

    def many(self, sql: str, rows: Any) -> None:
        self._left -= 1
        if self._left == 0:
            raise PlugPulled
        self._dialect.many(sql, rows)


def replace_dry(office: Office, dry_run: bool) -> Office:
    """The same office, perhaps only trying."""
    return Office(office.store, office.clock, actor=office.actor, dry_run=dry_run)


def simulate(seed: int, path: Path, steps: int = 250) -> World:
    """One world from its beginning to its rest. Raises AssertionError naming the seed."""
    try:
        world = World(seed, path)
    except DatabaseError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    world.run(steps)
    return world
