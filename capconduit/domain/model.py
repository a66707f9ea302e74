"""The nouns as plain, immutable data: one class for each table; a field is a column of the same name.

Units are last in the name: `_ms` (instants in UTC milliseconds, or durations), `_s` (seconds), `_micros` (money).
Every entity has a public id (ULID) and belongs to a tenant.
"""

from __future__ import annotations

from dataclasses import dataclass

from capconduit.domain.record import record
from capconduit.vocab import (
    CallState,
    CampaignStatus,
    CapMetric,
    CapScope,
    DialStatus,
    DidStatus,
    EventKind,
    HoldState,
    HungUpBy,
    LedgerKind,
    PlaceState,
    SipTransport,
    Status,
    Strategy,
    TargetKind,
    TrunkAuth,
    TrunkKind,
    UserRole,
    WindowKind,
)


@record
class Tenant:
    """Whom an estate belongs to; an installation begins with one, `default`."""

    id: str
    name: str
    created_ms: int
    updated_ms: int


@record
class Entity:
    """What every named thing of an estate has."""

    id: str
    tenant_id: str
    created_ms: int
    updated_ms: int


@record
class User(Entity):
    """A person or business that signs in. `seller_id`: the account that a user of role seller belongs to.

    `email`: where notifications go; empty: none.
    """

    name: str
    role: UserRole
    status: Status
    email: str
    seller_id: str | None


@record
class Seller(Entity):
    """The business side of a seller; its money stands in Account."""

    name: str
    currency: str
    timezone: str
    status: Status
    low_balance_micros: int


@record
class Account:
    """A seller's prepaid money: `held_micros` is the sum of its open holds, `balance_micros` that of its ledger."""

    seller_id: str
    tenant_id: str
    balance_micros: int
    held_micros: int
    credit_limit_micros: int

    @property
    def available_micros(self) -> int:
        """What may still be reserved or withdrawn; never negative."""
        return self.balance_micros + self.credit_limit_micros - self.held_micros


@record
class Trunk(Entity):
    """A carrier: who may send us calls. `hosts`, `codecs` and `permit` are comma separated.

    `auth_secret_ref` names where the secret is. `permit`: networks that calls may come from besides proving who they
    are; empty: any. `nat`: the carrier is behind NAT. `qualify_ms` 0: it is not asked whether it is there.
    """

    name: str
    kind: TrunkKind
    hosts: str
    port: int
    codecs: str
    region: str
    auth_username: str
    auth_secret_ref: str
    auth: TrunkAuth
    transport: SipTransport
    srtp: bool
    nat: bool
    qualify_ms: int
    permit: str


@record
class Rate(Entity):
    """What a seller pays: connect fee + per-minute price, billed in increments of `first_s` then `step_s`.

    Two steps: the seconds billed beyond `then_after_s` cost `then_per_minute_micros`; 0 seconds: one price throughout.
    """

    name: str
    currency: str
    connect_fee_micros: int
    per_minute_micros: int
    first_s: int
    step_s: int
    then_after_s: int
    then_per_minute_micros: int


@record
class Schedule(Entity):
    """When something is open; `hours` and `holidays` as domain/schedules.py writes them."""

    name: str
    timezone: str
    hours: str
    holidays: str


@record
class Block(Entity):
    """Callers that are refused, for the whole tenant (`system`), a seller or a campaign. See domain/blocklist.py."""

    scope: CapScope
    scope_id: str
    pattern: str
    reason: str
    expires_ms: int | None


@record
class Campaign(Entity):
    """A seller's stream of calls.

    `duplicate_window_ms` 0: callers may come again at once. `anonymous_callers` and `min_attestation` empty: as the
    settings say.
    """

    name: str
    seller_id: str
    rate_id: str
    status: CampaignStatus
    strategy: Strategy
    billable_threshold_ms: int
    max_attempts: int
    ring_budget_ms: int
    max_duration_ms: int
    schedule_id: str | None
    duplicate_window_ms: int
    anonymous_callers: str
    min_attestation: str


@record
class Did(Entity):
    """A number calls arrive on, E.164."""

    number: str
    trunk_id: str | None
    seller_id: str | None
    campaign_id: str | None
    status: DidStatus


@record
class Target(Entity):
    """Where a call can be forwarded. `rate_id`: what the seller pays here instead of the campaign's rate;
    `payout_rate_id`: what the target's side gets."""

    name: str
    kind: TargetKind
    address: str
    ring_ms: int
    enabled: bool
    schedule_id: str | None
    rate_id: str | None
    payout_rate_id: str | None
    agent_id: str | None = None  # of kind agent: whose profile answers; it has no address


@record
class Rule(Entity):
    """Links a campaign to a target. Lower priority numbers come first. Its rates stand before the target's."""

    campaign_id: str
    target_id: str
    priority: int
    weight: int
    enabled: bool
    rate_id: str | None
    payout_rate_id: str | None


@record
class Cap(Entity):
    """A limit: (scope, metric, window, limit). `scope_id` is the limited entity's id, or the tenant's for `system`.

    `limit_value` is in calls, for `minutes` in seconds of talk, for `spend` in micros. `window_ms` is the length of a
    rolling window, else 0.
    """

    scope: CapScope
    scope_id: str
    metric: CapMetric
    window_kind: WindowKind
    limit_value: int
    window_ms: int


@record
class Setting:
    """An operator's value of a system setting; the settings that exist stand in domain/settings.py."""

    tenant_id: str
    name: str
    value: str
    updated_ms: int


@dataclass(slots=True, kw_only=True)
class Counter:
    """What a cap has used in one window. used = base + counted places; in_flight = places not released.

    The one row that is counted in place: a batch of decisions moves it hundreds of times (see Books).
    """

    tenant_id: str
    cap_id: str
    window_start_ms: int
    used: int
    in_flight: int
    base: int


@record
class TargetState:
    """What a target has been through. `active`: attempts under way; `failures`: in a row; instants 0: never.

    Until `rested_until_ms` it is not dialled; then one call tries it, and until `probe_until_ms` no other.
    """

    target_id: str
    tenant_id: str
    active: int
    failures: int
    rested_until_ms: int
    probe_until_ms: int
    idle_since_ms: int


@record
class RuleState:
    """Where a rule stands in its campaign's rotation; see domain/strategies.py."""

    rule_id: str
    tenant_id: str
    cursor: int


@record
class RecentCaller:
    """The last call of a caller that was or may yet be connected, for campaigns with a duplicate window."""

    campaign_id: str
    caller: str
    tenant_id: str
    call_id: str
    at_ms: int


@record
class Call:
    """A live call: admitted and not yet settled. When it is settled it becomes a Cdr and leaves this table.

    `attempt` is the number of the Dial under way (of its first leg); `leg` that of the attempt that answered, else 0.
    The tariff is that of the Dial under way.
    """

    id: str
    tenant_id: str
    node: str
    boot_id: str
    uniqueid: str
    linkedid: str
    sip_call_id: str
    channel: str
    state: CallState
    dnid: str
    ani: str
    ani_e164: str
    caller_name: str
    trunk: str
    attestation: str
    stir_verdict: str
    did_id: str
    did_number: str
    seller_id: str
    campaign_id: str
    rate_id: str
    currency: str
    connect_fee_micros: int
    per_minute_micros: int
    first_s: int
    step_s: int
    billable_threshold_ms: int
    strategy: Strategy
    attempt: int
    funded_s: int
    arrived_ms: int
    decided_ms: int
    answered_ms: int | None
    seen_ms: int
    lease_until_ms: int
    reject_reason: str
    trace: str
    leg: int
    then_after_s: int
    then_per_minute_micros: int


@record
class Attempt:
    """One Dial of one target within a call; `number` counts from 1.

    Targets that ring at once are legs of one Dial: their `round` is the number of its first leg. `tariff` and `payout`
    are the prices as they stood when it began (see rating.dump_tariff); an empty payout: none.
    """

    call_id: str
    number: int
    tenant_id: str
    target_id: str
    target_name: str
    rule_id: str
    dial: str
    ring_s: int
    started_ms: int
    rang_ms: int | None
    answered_ms: int | None
    ended_ms: int | None
    dialstatus: DialStatus | None
    hangup_cause: int | None
    round: int
    rate_id: str
    tariff: str
    payout: str


@record
class Place:
    """A call's place (slot) in one window of one cap. `attempt` is 0 for places of the whole call.

    `amount` is what it reserves: 1 call, or seconds or micros; `counted` what of it stays used.
    """

    call_id: str
    attempt: int
    cap_id: str
    tenant_id: str
    window_start_ms: int
    amount: int
    state: PlaceState
    counted: int
    reason: str
    node: str
    boot_id: str


@record
class Hold:
    """Money reserved for a live call; one for each call."""

    call_id: str
    tenant_id: str
    seller_id: str
    amount_micros: int
    state: HoldState
    opened_ms: int
    expires_ms: int


@record
class LedgerEntry:
    """Money moved; append only. The sum of an account's rows is its balance."""

    id: str
    tenant_id: str
    seller_id: str
    amount_micros: int
    kind: LedgerKind
    idempotency_key: str
    actor: str
    reason: str
    call_id: str | None
    corrects_id: str | None
    balance_after_micros: int
    created_ms: int


@record
class LedgerKey:
    """A key that makes a repeated adjustment harmless, with the entry that it made."""

    tenant_id: str
    idempotency_key: str
    ledger_id: str


@record
class Cdr:
    """The settled record of a call, rejected calls included.

    `attempt` is the number of the attempt that answered, or of the last; `payout_micros` what the target's side gets.
    """

    call_id: str
    tenant_id: str
    schema_version: int
    node: str
    boot_id: str
    uniqueid: str
    linkedid: str
    sip_call_id: str
    did: str
    did_id: str | None
    caller: str
    caller_e164: str
    caller_name: str
    trunk: str
    attestation: str
    stir_verdict: str
    seller_id: str | None
    seller: str
    campaign_id: str | None
    campaign: str
    rule_id: str | None
    target_id: str | None
    target: str
    strategy: str
    attempts: int
    arrived_ms: int
    decided_ms: int
    first_ring_ms: int | None
    answered_ms: int | None
    ended_ms: int
    decision_ms: int
    ring_ms: int
    talk_ms: int
    billed_seconds: int
    dialstatus: str
    hangup_cause: int
    sip_code: int
    hung_up_by: HungUpBy
    reject_code: str
    reject_reason: str
    witness: str
    currency: str
    connect_fee_micros: int
    per_minute_micros: int
    first_s: int
    step_s: int
    billable_threshold_ms: int
    billable: bool
    amount_micros: int
    written_off_micros: int
    balance_after_micros: int | None
    trace: str
    attempt: int
    then_after_s: int
    then_per_minute_micros: int
    payout_micros: int
    payout_tariff: str


@record
class Event:
    """Anything that happened; append only. `data` is JSON."""

    id: str
    tenant_id: str
    at_ms: int
    kind: EventKind
    subject: str
    data: str


@record
class Audit:
    """Who changed what, from what to what. `before` and `after` are JSON."""

    id: str
    tenant_id: str
    at_ms: int
    actor: str
    action: str
    subject: str
    before: str
    after: str


@record
class Node:
    """A daemon and the Asterisk beside it, as last seen."""

    name: str
    boot_id: str
    started_ms: int
    seen_ms: int
    asterisk_started_ms: int | None
    state: str


@record
class Tombstone:
    """A call whose end was told before its beginning: a late route of it takes nothing."""

    node: str
    uniqueid: str
    created_ms: int
