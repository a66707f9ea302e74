"""Small estates for tests: rows with sensible values, a clock that only tests move, and a till that asks an engine."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from capconduit.domain.books import Books, Changes
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
from capconduit.domain.estate import Estate, Rows, build_estate
from capconduit.domain.model import (
    Account,
    Block,
    Call,
    Campaign,
    Cap,
    Cdr,
    Counter,
    Did,
    Event,
    LedgerEntry,
    Rate,
    Rule,
    Schedule,
    Seller,
    Setting,
    Target,
    TargetState,
    Tenant,
    Trunk,
)
from capconduit.domain.needs import Command, Needs, caller_key, key_of, needs_of
from capconduit.ids import ulid
from capconduit.services.balances import verify_balances
from capconduit.services.caps import verify_caps
from capconduit.services.engine import Engine, decide
from capconduit.services.office import Office
from capconduit.store.sqlstore import SqlStore
from capconduit.units import Millis
from capconduit.vocab import (
    CampaignStatus,
    CapMetric,
    CapScope,
    DialStatus,
    DidStatus,
    EventKind,
    LedgerKind,
    SipTransport,
    Status,
    Strategy,
    TargetKind,
    TrunkAuth,
    TrunkKind,
    WindowKind,
)
from tests.unit.locked_books import LockedBooks

T0 = 1_772_452_800_000  # 2026-03-02T12:00:00Z, a Monday
TENANT = "T"
NODE = "node-1"
CALLER = "+12125550147"
DOLLAR = 1_000_000
MINUTE_MS = 60_000
# What caps of each scope limit in small_estate(): by id, and as operators name it.
SCOPE_IDS = {
    CapScope.SYSTEM: TENANT,
    CapScope.SELLER: "acme",
    CapScope.CAMPAIGN: "solar",
    CapScope.DID: "did+18005550100",
    CapScope.TRUNK: "carrier",
    CapScope.TARGET: "buyer1",
    CapScope.RULE: "solar/buyer1",
}
SCOPE_NAMES = {**SCOPE_IDS, CapScope.SYSTEM: "", CapScope.DID: "+18005550100"}


class FakeClock:
    """Time and ids of a test: nothing moves by itself, and one seed gives the same ids every time."""

    def __init__(self, now_ms: int = T0, seed: int = 0) -> None:
        self.wall_ms = now_ms
        self._random = random.Random(seed)

    def now_ms(self) -> Millis:
        return Millis(self.wall_ms)

    def monotonic_ms(self) -> int:
        return self.wall_ms

    def new_id(self) -> str:
        return ulid(max(self.wall_ms, 0), self._random.getrandbits(80))

    def pass_ms(self, duration_ms: int) -> None:
        self.wall_ms += duration_ms


@dataclass
class EstateBuilder:
    """Collects rows. Every method adds one with the named values changed and returns it; ids are the names."""

    now_ms: int = T0
    tenant_id: str = TENANT
    tenants: list[Tenant] = field(default_factory=list)
    sellers: list[Seller] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    trunks: list[Trunk] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    campaigns: list[Campaign] = field(default_factory=list)
    dids: list[Did] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    caps: list[Cap] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tenants.append(Tenant(id=self.tenant_id, name="default", created_ms=self.now_ms, updated_ms=self.now_ms))

    def _stamp(self, row_id: str) -> dict[str, Any]:
        return {"id": row_id, "tenant_id": self.tenant_id, "created_ms": self.now_ms, "updated_ms": self.now_ms}

    def seller(self, name: str = "acme", *, balance: int = 100 * DOLLAR, credit: int = 0, **fields: Any) -> Seller:
        values = {"currency": "USD", "timezone": "America/New_York", "status": Status.ACTIVE, "low_balance_micros": 0}
        row = Seller(**self._stamp(name), name=name, **{**values, **fields})
        self.sellers.append(row)
        self.accounts.append(
            Account(
                seller_id=name,
                tenant_id=self.tenant_id,
                balance_micros=balance,
                held_micros=0,
                credit_limit_micros=credit,
            )
        )
        return row

    def trunk(self, name: str = "carrier", **fields: Any) -> Trunk:
        values = {
            "kind": TrunkKind.PJSIP,
            "hosts": "127.0.0.1",
            "port": 5060,
            "codecs": "ulaw",
            "region": "",
            "auth_username": "",
            "auth_secret_ref": "",
            "auth": TrunkAuth.IP,
            "transport": SipTransport.UDP,
            "srtp": False,
            "nat": False,
            "qualify_ms": 0,
            "permit": "",
        }
        row = Trunk(**self._stamp(name), name=name, **{**values, **fields})
        self.trunks.append(row)
        return row

    def rate(self, name: str = "std", **fields: Any) -> Rate:
        values = {
            "currency": "USD",
            "connect_fee_micros": 0,
            "per_minute_micros": 200_000,
            "first_s": 60,
            "step_s": 60,
            "then_after_s": 0,
            "then_per_minute_micros": 0,
        }
        row = Rate(**self._stamp(name), name=name, **{**values, **fields})
        self.rates.append(row)
        return row

    def campaign(self, name: str = "solar", seller: str = "acme", rate: str = "std", **fields: Any) -> Campaign:
        values = {
            "status": CampaignStatus.ACTIVE,
            "strategy": Strategy.PRIORITY,
            "billable_threshold_ms": 0,
            "max_attempts": 5,
            "ring_budget_ms": 90_000,
            "max_duration_ms": 4 * 3_600_000,
            "schedule_id": None,
            "duplicate_window_ms": 0,
            "anonymous_callers": "",
            "min_attestation": "",
        }
        row = Campaign(**self._stamp(name), name=name, seller_id=seller, rate_id=rate, **{**values, **fields})
        self.campaigns.append(row)
        return row

    def did(
        self, number: str = "+18005550100", campaign: str | None = "solar", trunk: str | None = None, **fields: Any
    ) -> Did:
        owner = next((c.seller_id for c in self.campaigns if c.id == campaign), None)
        values = {"status": DidStatus.ASSIGNED if campaign else DidStatus.AVAILABLE}
        row = Did(
            **self._stamp(f"did{number}"),
            number=number,
            trunk_id=trunk,
            seller_id=owner,
            campaign_id=campaign,
            **{**values, **fields},
        )
        self.dids.append(row)
        return row

    def target(
        self, name: str = "buyer1", *, campaign: str | None = "solar", rule: dict[str, Any] | None = None, **fields: Any
    ) -> Target:
        """A target, with a rule from `campaign` (None: without)."""
        values = {
            "kind": TargetKind.PJSIP,
            "address": f"sip:{name}@127.0.0.1:5080",
            "ring_ms": 20_000,
            "enabled": True,
            "schedule_id": None,
            "rate_id": None,
            "payout_rate_id": None,
        }
        row = Target(**self._stamp(name), name=name, **{**values, **fields})
        self.targets.append(row)
        if campaign is not None:
            self.rule(campaign, name, **(rule or {}))
        return row

    def rule(self, campaign: str, target: str, **fields: Any) -> Rule:
        values = {
            "priority": len(self.rules) + 1,
            "weight": 1,
            "enabled": True,
            "rate_id": None,
            "payout_rate_id": None,
        }
        row = Rule(
            **self._stamp(f"{campaign}/{target}"), campaign_id=campaign, target_id=target, **{**values, **fields}
        )
        self.rules.append(row)
        return row

    def schedule(self, name: str = "office", **fields: Any) -> Schedule:
        values = {"timezone": "America/New_York", "hours": "Mon-Fri 09:00-17:00", "holidays": ""}
        row = Schedule(**self._stamp(name), name=name, **{**values, **fields})
        self.schedules.append(row)
        return row

    def block(self, pattern: str, scope: CapScope = CapScope.SYSTEM, scope_id: str = TENANT, **fields: Any) -> Block:
        values = {"reason": "spam", "expires_ms": None}
        row = Block(
            **self._stamp(f"block:{scope}:{scope_id}:{pattern}"),
            scope=scope,
            scope_id=scope_id,
            pattern=pattern,
            **{**values, **fields},
        )
        self.blocks.append(row)
        return row

    def cap(
        self,
        scope: CapScope,
        scope_id: str,
        metric: CapMetric,
        limit: int,
        window: WindowKind = WindowKind.NONE,
        window_ms: int = 0,
    ) -> Cap:
        row = Cap(
            **self._stamp(f"cap:{scope}:{scope_id}:{metric}:{window}{window_ms or ''}"),
            scope=scope,
            scope_id=scope_id,
            metric=metric,
            window_kind=window,
            limit_value=limit,
            window_ms=window_ms,
        )
        self.caps.append(row)
        return row

    def setting(self, name: str, value: object) -> Setting:
        row = Setting(tenant_id=self.tenant_id, name=name, value=str(value), updated_ms=self.now_ms)
        self.settings.append(row)
        return row

    def rows(self) -> Rows:
        return Rows(
            tenants=self.tenants,
            sellers=self.sellers,
            trunks=self.trunks,
            rates=self.rates,
            campaigns=self.campaigns,
            dids=self.dids,
            targets=self.targets,
            rules=self.rules,
            caps=self.caps,
            settings=self.settings,
            schedules=self.schedules,
            blocks=self.blocks,
        )

    def estate(self, version: int = 1) -> Estate:
        return build_estate(version, self.rows())

    def insert_into(self, store: SqlStore) -> None:
        """Write everything to a fresh, migrated store; each balance comes with the ledger entry that explains it."""
        with store.transaction(write=True) as tx:
            rows = self.rows()
            for group in (
                rows.tenants, rows.sellers, self.accounts, rows.trunks, rows.rates, rows.schedules, rows.campaigns,
                rows.dids, rows.targets, rows.rules, rows.caps, rows.settings, rows.blocks,
            ):  # fmt: skip
                for row in group:
                    tx.insert(row)
            for account in self.accounts:
                if account.balance_micros:
                    tx.insert(self._opening(account))
            tx.bump_estate()

    def _opening(self, account: Account) -> LedgerEntry:
        return LedgerEntry(
            id=f"opening-{account.seller_id}",
            tenant_id=account.tenant_id,
            seller_id=account.seller_id,
            amount_micros=account.balance_micros,
            kind=LedgerKind.ADJUSTMENT,
            idempotency_key=f"opening:{account.seller_id}",
            actor="test",
            reason="opening balance",
            call_id=None,
            corrects_id=None,
            balance_after_micros=account.balance_micros,
            created_ms=self.now_ms,
        )


def small_estate(**campaign: Any) -> EstateBuilder:
    """One seller with 100 dollars, one campaign at 0.20 a minute (60/60), one DID on one trunk, one target."""
    builder = EstateBuilder()
    builder.seller()
    builder.trunk()
    builder.rate()
    builder.campaign(**campaign)
    builder.did(trunk="carrier")
    builder.target()
    return builder


# --- what Asterisk says, in short ------------------------------------------------------------------------------------


def route_of(uniqueid: str = "u1", dnid: str = "+18005550100", **fields: Any) -> RouteRequest:
    values = {"node": NODE, "boot_id": "boot-1", "ani": CALLER}
    return RouteRequest(uniqueid=uniqueid, dnid=dnid, **{**values, **fields})


def attempt_of(
    uniqueid: str = "u1", attempt: int = 1, dialstatus: DialStatus | None = DialStatus.BUSY, cause: int = 17
) -> AttemptReport:
    return AttemptReport(node=NODE, uniqueid=uniqueid, attempt=attempt, dialstatus=dialstatus, hangup_cause=cause)


def answer_of(uniqueid: str = "u1", answered_ms: int | None = None, rang_ms: int | None = None) -> AnswerReport:
    return AnswerReport(node=NODE, uniqueid=uniqueid, leg=LegTimes(answered_ms=answered_ms, rang_ms=rang_ms))


def extend_of(uniqueid: str = "u1") -> ExtendRequest:
    return ExtendRequest(node=NODE, uniqueid=uniqueid)


def settle_of(uniqueid: str = "u1", talk_ms: int | None = None, **fields: Any) -> SettleReport:
    """The end of a call: of an answered one that talked for `talk_ms`, or (None) of one that was cancelled."""
    answered = talk_ms is not None
    values = {
        "node": NODE,
        "attempt": 1,
        "dialstatus": DialStatus.ANSWER if answered else DialStatus.CANCEL,
        "answered_for_ms": talk_ms,
        "hangup_cause": 16 if answered else 127,
    }
    return SettleReport(uniqueid=uniqueid, **{**values, **fields})


# --- asking ----------------------------------------------------------------------------------------------------------


class PureTill:
    """Asks the pure domain over Books in memory, as the engine does, without any database."""

    def __init__(self, builder: EstateBuilder, seed: int = 0) -> None:
        self.builder = builder
        self.clock = FakeClock(builder.now_ms, seed)
        self.estate = builder.estate()
        self.books = Books(accounts={a.seller_id: a for a in builder.accounts})
        self.events: list[Event] = []
        self.batch_changes: list[Changes] = []
        self.answers: list[Any] = []  # all of them, in their order

    def ask(self, command: Command) -> Any:
        """Decide one command and take over its changes."""
        return self.batch([command])[0]

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        """Decide commands on one set of locked rows. `changes` are those of the last, `batch_changes` those of all."""
        now_ms, needs = self.clock.now_ms(), Needs()
        callers = {key for command in commands if (key := caller_key(command, self.estate))}
        locked = LockedBooks(self.books, {key_of(command) for command in commands}, callers, needs)
        for command in commands:
            needs_of(command, self.estate, locked, now_ms, needs)
        locked.lock(self.books)
        self.batch_changes = []
        answers = []
        for command in commands:
            answer, self.changes = decide(command, self.estate, locked, now_ms, self.clock.new_id)
            locked.apply(self.changes)
            self.books.apply(self.changes)
            self.batch_changes.append(self.changes)
            self.events.extend(self.changes.events)
            answers.append(answer)
        self.answers.extend(answers)
        for key in locked.dirty_counters:
            assert locked.counters[key] == self.books.counters[key]
        return answers

    def dial(self, command: Command) -> DialAnswer:
        """An answer that dials."""
        answer = self.ask(command)
        assert isinstance(answer, DialAnswer), answer
        return answer

    def reject(self, command: Command) -> RejectAnswer:
        """An answer that rejects."""
        answer = self.ask(command)
        assert isinstance(answer, RejectAnswer), answer
        return answer

    def told(self, kind: EventKind) -> list[dict[str, Any]]:
        """The data of all events of a kind so far."""
        return [json.loads(e.data) for e in self.events if e.kind is kind]

    def state(self, target_id: str) -> TargetState:
        """What a target has been through."""
        return self.books.target(TENANT, target_id)

    def active(self, target_id: str) -> int:
        """Attempts at a target that are under way, counted one by one."""
        return sum(
            a.target_id == target_id and a.ended_ms is None
            for call_id in self.books.calls
            for a in self.books.attempts[call_id].values()
        )

    def rebuild(self) -> None:
        """The estate has changed: see the builder's rows as they are now."""
        self.estate = self.builder.estate(self.estate.version + 1)

    def account(self, seller_id: str = "acme") -> Account:
        return self.books.accounts[seller_id]

    def call(self, uniqueid: str = "u1") -> Call | None:
        return self.books.call_of((NODE, uniqueid))

    def cdr(self, uniqueid: str = "u1") -> Cdr:
        return self.books.settled[(NODE, uniqueid)]

    def count(self, cap: Cap, window_start_ms: int | None = None) -> tuple[int, int]:
        """(used, in flight) of a cap; of all its windows where none is named."""
        found = [
            c
            for c in self.books.counters.values()
            if c.cap_id == cap.id and window_start_ms in (None, c.window_start_ms)
        ]
        return sum(c.used for c in found), sum(c.in_flight for c in found)


class Till:
    """Asks an Engine synchronously, each batch in its own transaction, on the thread of the test."""

    def __init__(self, store: SqlStore, builder: EstateBuilder | None = None, seed: int = 0) -> None:
        self.store = store
        self.clock = FakeClock(builder.now_ms if builder else T0, seed)
        if builder is not None:
            store.upgrade(self.clock.now_ms())
            builder.insert_into(store)
        self.engine = Engine(store, self.clock)

    def office(self, **fields: Any) -> Office:
        return Office(self.store, self.clock, **{"actor": "test", **fields})

    def batch(self, commands: Sequence[Command]) -> list[Any]:
        """All commands in one transaction."""
        return self.engine.run(commands)

    def ask(self, command: Command) -> Any:
        """One command; an answer that is an exception is raised."""
        answer = self.batch([command])[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def dial(self, command: Command) -> DialAnswer:
        answer = self.ask(command)
        assert isinstance(answer, DialAnswer), answer
        return answer

    def reject(self, command: Command) -> RejectAnswer:
        answer = self.ask(command)
        assert isinstance(answer, RejectAnswer), answer
        return answer

    def account(self, seller_id: str = "acme") -> Account:
        with self.store.transaction(write=False) as tx:
            found = tx.find(Account, TENANT, seller_id=seller_id)
        assert found is not None
        return found

    def rows(self, kind: type[Any], **where: Any) -> Sequence[Any]:
        with self.store.transaction(write=False) as tx:
            return tx.rows(kind, TENANT, **where)

    def count(self, cap: Cap, window_start_ms: int | None = None) -> tuple[int, int]:
        """(used, in flight) of a cap; of all its windows where none is named."""
        found = [c for c in self.rows(Counter, cap_id=cap.id) if window_start_ms in (None, c.window_start_ms)]
        return sum(c.used for c in found), sum(c.in_flight for c in found)

    def put(self, row: Any) -> None:
        """Replace a row of the estate, as an operator's change does."""
        with self.store.transaction(write=True) as tx:
            tx.estate_version(for_change=True)
            tx.update(row)
            tx.bump_estate()

    def verify(self) -> None:
        """Counters are what their places say, balances what their ledger says, held what open holds say."""
        assert list(verify_caps(self.office())) == []
        assert list(verify_balances(self.office())) == []
        assert all(a.available_micros >= 0 for a in self.rows(Account))
