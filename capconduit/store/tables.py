"""The schema as SQLModel tables: one for each class of domain/model.py, a column for each field.

This is where the schema is read and compared; the migrations make it, and a test holds both (and the domain's
classes) together. Statements at run time are SQL (see sqlstore.py): importing this module costs a third of a second,
so nothing on the way of a call or of a quick command imports it. Integers are BIGINT
everywhere: SQLModel's default for `int` holds 32 bits on PostgreSQL, and 10^15 micros would fail there.

Tables of configuration have foreign keys. Those on the way of a call have none: each would cost a look-up and a share
lock on the tenant's row for every row written; `capconduit db verify` checks them instead.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import BigInteger, Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel


def _id() -> Any:
    return Field(primary_key=True, sa_type=Text)


def _ref(column: str) -> Any:
    return Field(foreign_key=column, sa_type=Text)


def _text() -> Any:
    return Field(sa_type=Text)


def _big() -> Any:
    return Field(sa_type=BigInteger)


def _big_key() -> Any:
    return Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})


class TenantTable(SQLModel, table=True):
    """See domain.model.Tenant."""

    __tablename__: ClassVar[str] = "tenant"
    __table_args__: ClassVar[Any] = (UniqueConstraint("name", name="tenant_name"),)

    id: str = _id()
    name: str = _text()
    created_ms: int = _big()
    updated_ms: int = _big()


class UserTable(SQLModel, table=True):
    """See domain.model.User."""

    __tablename__: ClassVar[str] = "users"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="users_name"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    name: str = _text()
    role: str = _text()
    status: str = _text()


class SellerTable(SQLModel, table=True):
    """See domain.model.Seller."""

    __tablename__: ClassVar[str] = "seller"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="seller_name"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    name: str = _text()
    currency: str = _text()
    timezone: str = _text()
    status: str = _text()
    low_balance_micros: int = _big()


class AccountTable(SQLModel, table=True):
    """See domain.model.Account."""

    __tablename__: ClassVar[str] = "account"

    seller_id: str = Field(primary_key=True, foreign_key="seller.id", sa_type=Text)
    tenant_id: str = _ref("tenant.id")
    balance_micros: int = _big()
    held_micros: int = _big()
    credit_limit_micros: int = _big()


class TrunkTable(SQLModel, table=True):
    """See domain.model.Trunk."""

    __tablename__: ClassVar[str] = "trunk"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="trunk_name"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    name: str = _text()
    kind: str = _text()
    hosts: str = _text()
    port: int = _big()
    codecs: str = _text()
    region: str = _text()
    auth_username: str = _text()
    auth_secret_ref: str = _text()


class RateTable(SQLModel, table=True):
    """See domain.model.Rate."""

    __tablename__: ClassVar[str] = "rate"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="rate_name"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    name: str = _text()
    currency: str = _text()
    connect_fee_micros: int = _big()
    per_minute_micros: int = _big()
    first_s: int = _big()
    step_s: int = _big()


class CampaignTable(SQLModel, table=True):
    """See domain.model.Campaign."""

    __tablename__: ClassVar[str] = "campaign"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="campaign_name"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    name: str = _text()
    seller_id: str = _ref("seller.id")
    rate_id: str = _ref("rate.id")
    status: str = _text()
    strategy: str = _text()
    billable_threshold_ms: int = _big()
    max_attempts: int = _big()
    ring_budget_ms: int = _big()
    max_duration_ms: int = _big()


class DidTable(SQLModel, table=True):
    """See domain.model.Did."""

    __tablename__: ClassVar[str] = "did"
    __table_args__: ClassVar[Any] = (UniqueConstraint("number", name="did_number"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    number: str = _text()
    trunk_id: str | None = _ref("trunk.id")
    seller_id: str | None = _ref("seller.id")
    campaign_id: str | None = _ref("campaign.id")
    status: str = _text()


class TargetTable(SQLModel, table=True):
    """See domain.model.Target."""

    __tablename__: ClassVar[str] = "target"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="target_name"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    name: str = _text()
    kind: str = _text()
    address: str = _text()
    ring_ms: int = _big()
    enabled: bool


class RuleTable(SQLModel, table=True):
    """See domain.model.Rule."""

    __tablename__: ClassVar[str] = "rule"
    __table_args__: ClassVar[Any] = (UniqueConstraint("campaign_id", "target_id", name="rule_pair"),)

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    campaign_id: str = _ref("campaign.id")
    target_id: str = _ref("target.id")
    priority: int = _big()
    weight: int = _big()
    enabled: bool


class CapTable(SQLModel, table=True):
    """See domain.model.Cap."""

    __tablename__: ClassVar[str] = "cap"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("tenant_id", "scope", "scope_id", "metric", "window_kind", name="cap_key"),
    )

    id: str = _id()
    tenant_id: str = _ref("tenant.id")
    created_ms: int = _big()
    updated_ms: int = _big()
    scope: str = _text()
    scope_id: str = _text()
    metric: str = _text()
    window_kind: str = _text()
    limit_value: int = _big()


class SettingTable(SQLModel, table=True):
    """See domain.model.Setting."""

    __tablename__: ClassVar[str] = "setting"

    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id", sa_type=Text)
    name: str = _id()
    value: str = _text()
    updated_ms: int = _big()


class CounterTable(SQLModel, table=True):
    """See domain.model.Counter."""

    __tablename__: ClassVar[str] = "counter"

    tenant_id: str = _text()
    cap_id: str = _id()
    window_start_ms: int = _big_key()
    used: int = _big()
    in_flight: int = _big()
    base: int = _big()


class CallTable(SQLModel, table=True):
    """See domain.model.Call."""

    __tablename__: ClassVar[str] = "call"
    __table_args__: ClassVar[Any] = (UniqueConstraint("node", "uniqueid", name="call_channel"),)

    id: str = _id()
    tenant_id: str = _text()
    node: str = _text()
    boot_id: str = _text()
    uniqueid: str = _text()
    linkedid: str = _text()
    sip_call_id: str = _text()
    channel: str = _text()
    state: str = _text()
    dnid: str = _text()
    ani: str = _text()
    ani_e164: str = _text()
    caller_name: str = _text()
    trunk: str = _text()
    attestation: str = _text()
    stir_verdict: str = _text()
    did_id: str = _text()
    did_number: str = _text()
    seller_id: str = _text()
    campaign_id: str = _text()
    rate_id: str = _text()
    currency: str = _text()
    connect_fee_micros: int = _big()
    per_minute_micros: int = _big()
    first_s: int = _big()
    step_s: int = _big()
    billable_threshold_ms: int = _big()
    strategy: str = _text()
    attempt: int = _big()
    funded_s: int = _big()
    arrived_ms: int = _big()
    decided_ms: int = _big()
    answered_ms: int | None = _big()
    seen_ms: int = _big()
    lease_until_ms: int = _big()
    reject_reason: str = _text()
    trace: str = _text()


class AttemptTable(SQLModel, table=True):
    """See domain.model.Attempt."""

    __tablename__: ClassVar[str] = "attempt"

    call_id: str = _id()
    number: int = _big_key()
    tenant_id: str = _text()
    target_id: str = _text()
    target_name: str = _text()
    rule_id: str = _text()
    dial: str = _text()
    ring_s: int = _big()
    started_ms: int = _big()
    rang_ms: int | None = _big()
    answered_ms: int | None = _big()
    ended_ms: int | None = _big()
    dialstatus: str | None = _text()
    hangup_cause: int | None = _big()


class PlaceTable(SQLModel, table=True):
    """See domain.model.Place."""

    __tablename__: ClassVar[str] = "place"
    __table_args__: ClassVar[Any] = (Index("place_open", "cap_id", "state"),)

    call_id: str = _id()
    attempt: int = _big_key()
    cap_id: str = _id()
    tenant_id: str = _text()
    window_start_ms: int = _big()
    amount: int = _big()
    state: str = _text()
    counted: int = _big()
    reason: str = _text()
    node: str = _text()
    boot_id: str = _text()


class HoldTable(SQLModel, table=True):
    """See domain.model.Hold."""

    __tablename__: ClassVar[str] = "hold"
    __table_args__: ClassVar[Any] = (Index("hold_seller", "seller_id", "state"),)

    call_id: str = _id()
    tenant_id: str = _text()
    seller_id: str = _text()
    amount_micros: int = _big()
    state: str = _text()
    opened_ms: int = _big()
    expires_ms: int = _big()


class LedgerEntryTable(SQLModel, table=True):
    """See domain.model.LedgerEntry."""

    __tablename__: ClassVar[str] = "ledger"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("tenant_id", "idempotency_key", name="ledger_once"),
        Index("ledger_account", "seller_id", "id"),
    )

    id: str = _id()
    tenant_id: str = _text()
    seller_id: str = _text()
    amount_micros: int = _big()
    kind: str = _text()
    idempotency_key: str = _text()
    actor: str = _text()
    reason: str = _text()
    call_id: str | None = _text()
    corrects_id: str | None = _text()
    balance_after_micros: int = _big()
    created_ms: int = _big()


class CdrTable(SQLModel, table=True):
    """See domain.model.Cdr."""

    __tablename__: ClassVar[str] = "cdr"
    __table_args__: ClassVar[Any] = (
        Index("cdr_channel", "node", "uniqueid"),
        Index("cdr_time", "tenant_id", "arrived_ms"),
        Index("cdr_decided", "tenant_id", "decided_ms"),
    )

    call_id: str = _id()
    tenant_id: str = _text()
    schema_version: int = _big()
    node: str = _text()
    boot_id: str = _text()
    uniqueid: str = _text()
    linkedid: str = _text()
    sip_call_id: str = _text()
    did: str = _text()
    did_id: str | None = _text()
    caller: str = _text()
    caller_e164: str = _text()
    caller_name: str = _text()
    trunk: str = _text()
    attestation: str = _text()
    stir_verdict: str = _text()
    seller_id: str | None = _text()
    seller: str = _text()
    campaign_id: str | None = _text()
    campaign: str = _text()
    rule_id: str | None = _text()
    target_id: str | None = _text()
    target: str = _text()
    strategy: str = _text()
    attempts: int = _big()
    arrived_ms: int = _big()
    decided_ms: int = _big()
    first_ring_ms: int | None = _big()
    answered_ms: int | None = _big()
    ended_ms: int = _big()
    decision_ms: int = _big()
    ring_ms: int = _big()
    talk_ms: int = _big()
    billed_seconds: int = _big()
    dialstatus: str = _text()
    hangup_cause: int = _big()
    sip_code: int = _big()
    hung_up_by: str = _text()
    reject_code: str = _text()
    reject_reason: str = _text()
    witness: str = _text()
    currency: str = _text()
    connect_fee_micros: int = _big()
    per_minute_micros: int = _big()
    first_s: int = _big()
    step_s: int = _big()
    billable_threshold_ms: int = _big()
    billable: bool
    amount_micros: int = _big()
    written_off_micros: int = _big()
    balance_after_micros: int | None = _big()
    trace: str = _text()


class EventTable(SQLModel, table=True):
    """See domain.model.Event."""

    __tablename__: ClassVar[str] = "event"
    __table_args__: ClassVar[Any] = (Index("event_time", "tenant_id", "at_ms"),)

    id: str = _id()
    tenant_id: str = _text()
    at_ms: int = _big()
    kind: str = _text()
    subject: str = _text()
    data: str = _text()


class AuditTable(SQLModel, table=True):
    """See domain.model.Audit."""

    __tablename__: ClassVar[str] = "audit"
    __table_args__: ClassVar[Any] = (Index("audit_time", "tenant_id", "at_ms"),)

    id: str = _id()
    tenant_id: str = _text()
    at_ms: int = _big()
    actor: str = _text()
    action: str = _text()
    subject: str = _text()
    before: str = _text()
    after: str = _text()


class NodeTable(SQLModel, table=True):
    """See domain.model.Node."""

    __tablename__: ClassVar[str] = "node"

    name: str = _id()
    boot_id: str = _text()
    started_ms: int = _big()
    seen_ms: int = _big()
    asterisk_started_ms: int | None = _big()
    state: str = _text()


class TombstoneTable(SQLModel, table=True):
    """See domain.model.Tombstone."""

    __tablename__: ClassVar[str] = "tombstone"

    node: str = _id()
    uniqueid: str = _id()
    created_ms: int = _big()


class EstateVersionTable(SQLModel, table=True):
    """One row: a number that grows with every change of configuration; deciding transactions share a lock on it."""

    __tablename__: ClassVar[str] = "estate_version"

    id: int = _big_key()
    version: int = _big()


class MigrationTable(SQLModel, table=True):
    """The migrations that were applied."""

    __tablename__: ClassVar[str] = "schema_migration"

    version: int = _big_key()
    name: str = _text()
    applied_ms: int = _big()
