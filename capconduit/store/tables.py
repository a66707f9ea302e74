"""The schema as SQLModel tables: one for each class of domain/model.py, a column for each field.

Those on the way of a call stand in call_tables.py. This is where the schema is read and compared; the migrations make
it, and a test holds both (and the domain's classes) together. Statements at run time are SQL (see sqltransaction.py):
importing this module costs a third of a second, so nothing on the way of a call or of a quick command imports it.

Tables of configuration have foreign keys. Those on the way of a call have none: each would cost a look-up and a share
lock on the tenant's row for every row written; `capconduit db verify` checks them instead.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Index, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from capconduit.store import (  # noqa: F401 - register the others
    agent_tables,
    call_tables,
    outward_tables,
    people_tables,
    rollup_tables,
)
from capconduit.store.columns import WITHOUT_ROWID, added_big, added_flag, added_text, big, big_key, key, plain, ref


class TenantTable(SQLModel, table=True):
    """See domain.model.Tenant."""

    __tablename__: ClassVar[str] = "tenant"
    __table_args__: ClassVar[Any] = (UniqueConstraint("name", name="tenant_name"),)

    id: str = key()
    name: str = plain()
    created_ms: int = big()
    updated_ms: int = big()


class UserTable(SQLModel, table=True):
    """See domain.model.User."""

    __tablename__: ClassVar[str] = "users"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="users_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    role: str = plain()
    status: str = plain()
    email: str = added_text()
    seller_id: str | None = ref("seller.id")


class SellerTable(SQLModel, table=True):
    """See domain.model.Seller."""

    __tablename__: ClassVar[str] = "seller"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="seller_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    currency: str = plain()
    timezone: str = plain()
    status: str = plain()
    low_balance_micros: int = big()


class AccountTable(SQLModel, table=True):
    """See domain.model.Account."""

    __tablename__: ClassVar[str] = "account"
    __table_args__: ClassVar[Any] = ({"postgresql_with": {"fillfactor": 50}},)

    seller_id: str = Field(primary_key=True, foreign_key="seller.id", sa_type=Text)
    tenant_id: str = ref("tenant.id")
    balance_micros: int = big()
    held_micros: int = big()
    credit_limit_micros: int = big()


class TrunkTable(SQLModel, table=True):
    """See domain.model.Trunk."""

    __tablename__: ClassVar[str] = "trunk"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="trunk_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    kind: str = plain()
    hosts: str = plain()
    port: int = big()
    codecs: str = plain()
    region: str = plain()
    auth_username: str = plain()
    auth_secret_ref: str = plain()
    auth: str = added_text()
    transport: str = added_text()
    srtp: bool = added_flag()
    nat: bool = added_flag()
    qualify_ms: int = added_big()
    permit: str = added_text()


class RateTable(SQLModel, table=True):
    """See domain.model.Rate."""

    __tablename__: ClassVar[str] = "rate"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="rate_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    currency: str = plain()
    connect_fee_micros: int = big()
    per_minute_micros: int = big()
    first_s: int = big()
    step_s: int = big()
    then_after_s: int = added_big()
    then_per_minute_micros: int = added_big()


class ScheduleTable(SQLModel, table=True):
    """See domain.model.Schedule."""

    __tablename__: ClassVar[str] = "schedule"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="schedule_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    timezone: str = plain()
    hours: str = plain()
    holidays: str = plain()


class BlockTable(SQLModel, table=True):
    """See domain.model.Block."""

    __tablename__: ClassVar[str] = "block"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("tenant_id", "scope", "scope_id", "pattern", name="block_pattern"),
    )

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    scope: str = plain()
    scope_id: str = plain()
    pattern: str = plain()
    reason: str = plain()
    expires_ms: int | None = big()


class CampaignTable(SQLModel, table=True):
    """See domain.model.Campaign."""

    __tablename__: ClassVar[str] = "campaign"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="campaign_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    seller_id: str = ref("seller.id")
    rate_id: str = ref("rate.id")
    status: str = plain()
    strategy: str = plain()
    billable_threshold_ms: int = big()
    max_attempts: int = big()
    ring_budget_ms: int = big()
    max_duration_ms: int = big()
    schedule_id: str | None = ref("schedule.id")
    duplicate_window_ms: int = added_big()
    anonymous_callers: str = added_text()
    min_attestation: str = added_text()


class DidTable(SQLModel, table=True):
    """See domain.model.Did."""

    __tablename__: ClassVar[str] = "did"
    __table_args__: ClassVar[Any] = (UniqueConstraint("number", name="did_number"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    number: str = plain()
    trunk_id: str | None = ref("trunk.id")
    seller_id: str | None = ref("seller.id")
    campaign_id: str | None = ref("campaign.id")
    status: str = plain()


class TargetTable(SQLModel, table=True):
    """See domain.model.Target."""

    __tablename__: ClassVar[str] = "target"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="target_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    kind: str = plain()
    address: str = plain()
    ring_ms: int = big()
    enabled: bool
    schedule_id: str | None = ref("schedule.id")
    rate_id: str | None = ref("rate.id")
    payout_rate_id: str | None = ref("rate.id")
    agent_id: str | None = ref("agent.id")


class RuleTable(SQLModel, table=True):
    """See domain.model.Rule."""

    __tablename__: ClassVar[str] = "rule"
    __table_args__: ClassVar[Any] = (UniqueConstraint("campaign_id", "target_id", name="rule_pair"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    campaign_id: str = ref("campaign.id")
    target_id: str = ref("target.id")
    priority: int = big()
    weight: int = big()
    enabled: bool
    rate_id: str | None = ref("rate.id")
    payout_rate_id: str | None = ref("rate.id")


class CapTable(SQLModel, table=True):
    """See domain.model.Cap."""

    __tablename__: ClassVar[str] = "cap"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("tenant_id", "scope", "scope_id", "metric", "window_kind", "window_ms", name="cap_key"),
    )

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    scope: str = plain()
    scope_id: str = plain()
    metric: str = plain()
    window_kind: str = plain()
    limit_value: int = big()
    window_ms: int = added_big()


class SettingTable(SQLModel, table=True):
    """See domain.model.Setting."""

    __tablename__: ClassVar[str] = "setting"

    tenant_id: str = Field(primary_key=True, foreign_key="tenant.id", sa_type=Text)
    name: str = key()
    value: str = plain()
    updated_ms: int = big()


class AuditTable(SQLModel, table=True):
    """See domain.model.Audit."""

    __tablename__: ClassVar[str] = "audit"
    __table_args__: ClassVar[Any] = (Index("audit_time", "tenant_id", "at_ms"),)

    id: str = key()
    tenant_id: str = plain()
    at_ms: int = big()
    actor: str = plain()
    action: str = plain()
    subject: str = plain()
    before: str = plain()
    after: str = plain()


class NodeTable(SQLModel, table=True):
    """See domain.model.Node."""

    __tablename__: ClassVar[str] = "node"

    name: str = key()
    boot_id: str = plain()
    started_ms: int = big()
    seen_ms: int = big()
    asterisk_started_ms: int | None = big()
    state: str = plain()


class TombstoneTable(SQLModel, table=True):
    """See domain.model.Tombstone."""

    __tablename__: ClassVar[str] = "tombstone"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    node: str = key()
    uniqueid: str = key()
    created_ms: int = big()


class EstateVersionTable(SQLModel, table=True):
    """One row: a number that grows with every change of configuration; deciding transactions share a lock on it."""

    __tablename__: ClassVar[str] = "estate_version"

    id: int = big_key()
    version: int = big()
    feeding: bool = added_flag()  # somebody wants events: each is noted in the outbox, too


class EstateChangeTable(SQLModel, table=True):
    """Which rows of the estate each of its last versions changed; see estates.py."""

    __tablename__: ClassVar[str] = "estate_change"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    version: int = big_key()
    kind: str = key()
    row_key: str = key()


class MigrationTable(SQLModel, table=True):
    """The migrations that were applied."""

    __tablename__: ClassVar[str] = "schema_migration"

    version: int = big_key()
    name: str = plain()
    applied_ms: int = big()
