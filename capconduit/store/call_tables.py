"""The tables on the way of a call, as SQLModel tables; see tables.py, which has the others and imports these."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import SQLModel

from capconduit.store.columns import (
    BY_MONTH,
    HOT,
    ROOM_FOR_ALL,
    ROOM_FOR_HALF,
    WITHOUT_ROWID,
    added_big,
    added_text,
    big,
    big_key,
    key,
    plain,
)


class CounterTable(SQLModel, table=True):
    """See domain.model.Counter."""

    __tablename__: ClassVar[str] = "counter"
    __table_args__: ClassVar[Any] = (HOT,)

    tenant_id: str = plain()
    cap_id: str = key()
    window_start_ms: int = big_key()
    used: int = big()
    in_flight: int = big()
    base: int = big()


class TargetStateTable(SQLModel, table=True):
    """See domain.model.TargetState."""

    __tablename__: ClassVar[str] = "target_state"
    __table_args__: ClassVar[Any] = (HOT,)

    target_id: str = key()
    tenant_id: str = plain()
    active: int = big()
    failures: int = big()
    rested_until_ms: int = big()
    probe_until_ms: int = big()
    idle_since_ms: int = big()


class RuleStateTable(SQLModel, table=True):
    """See domain.model.RuleState."""

    __tablename__: ClassVar[str] = "rule_state"
    __table_args__: ClassVar[Any] = (HOT,)

    rule_id: str = key()
    tenant_id: str = plain()
    cursor: int = big()


class RecentCallerTable(SQLModel, table=True):
    """See domain.model.RecentCaller."""

    __tablename__: ClassVar[str] = "recent_caller"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    campaign_id: str = key()
    caller: str = key()
    tenant_id: str = plain()
    call_id: str = plain()
    at_ms: int = big()


class CallTable(SQLModel, table=True):
    """See domain.model.Call."""

    __tablename__: ClassVar[str] = "call"
    __table_args__: ClassVar[Any] = (UniqueConstraint("node", "uniqueid", name="call_channel"), ROOM_FOR_ALL)

    id: str = key()
    tenant_id: str = plain()
    node: str = plain()
    boot_id: str = plain()
    uniqueid: str = plain()
    linkedid: str = plain()
    sip_call_id: str = plain()
    channel: str = plain()
    state: str = plain()
    dnid: str = plain()
    ani: str = plain()
    ani_e164: str = plain()
    caller_name: str = plain()
    trunk: str = plain()
    attestation: str = plain()
    stir_verdict: str = plain()
    did_id: str = plain()
    did_number: str = plain()
    seller_id: str = plain()
    campaign_id: str = plain()
    rate_id: str = plain()
    currency: str = plain()
    connect_fee_micros: int = big()
    per_minute_micros: int = big()
    first_s: int = big()
    step_s: int = big()
    billable_threshold_ms: int = big()
    strategy: str = plain()
    attempt: int = big()
    funded_s: int = big()
    arrived_ms: int = big()
    decided_ms: int = big()
    answered_ms: int | None = big()
    seen_ms: int = big()
    lease_until_ms: int = big()
    reject_reason: str = plain()
    trace: str = plain()
    leg: int = added_big()
    then_after_s: int = added_big()
    then_per_minute_micros: int = added_big()


class AttemptTable(SQLModel, table=True):
    """See domain.model.Attempt."""

    __tablename__: ClassVar[str] = "attempt"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    call_id: str = key()
    number: int = big_key()
    tenant_id: str = plain()
    target_id: str = plain()
    target_name: str = plain()
    rule_id: str = plain()
    dial: str = plain()
    ring_s: int = big()
    started_ms: int = big()
    rang_ms: int | None = big()
    answered_ms: int | None = big()
    ended_ms: int | None = big()
    dialstatus: str | None = plain()
    hangup_cause: int | None = big()
    round: int = added_big()
    rate_id: str = added_text()
    tariff: str = added_text()
    payout: str = added_text()


class PlaceTable(SQLModel, table=True):
    """See domain.model.Place."""

    __tablename__: ClassVar[str] = "place"
    __table_args__: ClassVar[Any] = (ROOM_FOR_HALF,)

    call_id: str = key()
    attempt: int = big_key()
    cap_id: str = key()
    tenant_id: str = plain()
    window_start_ms: int = big()
    amount: int = big()
    state: str = plain()
    counted: int = big()
    reason: str = plain()
    node: str = plain()
    boot_id: str = plain()


class HoldTable(SQLModel, table=True):
    """See domain.model.Hold."""

    __tablename__: ClassVar[str] = "hold"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    call_id: str = key()
    tenant_id: str = plain()
    seller_id: str = plain()
    amount_micros: int = big()
    state: str = plain()
    opened_ms: int = big()
    expires_ms: int = big()


class LedgerEntryTable(SQLModel, table=True):
    """See domain.model.LedgerEntry."""

    __tablename__: ClassVar[str] = "ledger"
    __table_args__: ClassVar[Any] = (
        Index("ledger_account", "seller_id", "id"),
        {"postgresql_partition_by": BY_MONTH.format("id")},
    )

    id: str = key()
    tenant_id: str = plain()
    seller_id: str = plain()
    amount_micros: int = big()
    kind: str = plain()
    idempotency_key: str = plain()
    actor: str = plain()
    reason: str = plain()
    call_id: str | None = plain()
    corrects_id: str | None = plain()
    balance_after_micros: int = big()
    created_ms: int = big()


class LedgerKeyTable(SQLModel, table=True):
    """See domain.model.LedgerKey: unique over all partitions of the ledger."""

    __tablename__: ClassVar[str] = "ledger_key"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    tenant_id: str = key()
    idempotency_key: str = key()
    ledger_id: str = plain()


class CdrTable(SQLModel, table=True):
    """See domain.model.Cdr."""

    __tablename__: ClassVar[str] = "cdr"
    __table_args__: ClassVar[Any] = (
        Index("cdr_channel", "node", "uniqueid"),
        Index("cdr_time", "tenant_id", "arrived_ms"),
        Index("cdr_decided", "tenant_id", "decided_ms"),
        {"postgresql_partition_by": BY_MONTH.format("call_id")},
    )

    call_id: str = key()
    tenant_id: str = plain()
    schema_version: int = big()
    node: str = plain()
    boot_id: str = plain()
    uniqueid: str = plain()
    linkedid: str = plain()
    sip_call_id: str = plain()
    did: str = plain()
    did_id: str | None = plain()
    caller: str = plain()
    caller_e164: str = plain()
    caller_name: str = plain()
    trunk: str = plain()
    attestation: str = plain()
    stir_verdict: str = plain()
    seller_id: str | None = plain()
    seller: str = plain()
    campaign_id: str | None = plain()
    campaign: str = plain()
    rule_id: str | None = plain()
    target_id: str | None = plain()
    target: str = plain()
    strategy: str = plain()
    attempts: int = big()
    arrived_ms: int = big()
    decided_ms: int = big()
    first_ring_ms: int | None = big()
    answered_ms: int | None = big()
    ended_ms: int = big()
    decision_ms: int = big()
    ring_ms: int = big()
    talk_ms: int = big()
    billed_seconds: int = big()
    dialstatus: str = plain()
    hangup_cause: int = big()
    sip_code: int = big()
    hung_up_by: str = plain()
    reject_code: str = plain()
    reject_reason: str = plain()
    witness: str = plain()
    currency: str = plain()
    connect_fee_micros: int = big()
    per_minute_micros: int = big()
    first_s: int = big()
    step_s: int = big()
    billable_threshold_ms: int = big()
    billable: bool
    amount_micros: int = big()
    written_off_micros: int = big()
    balance_after_micros: int | None = big()
    trace: str = plain()
    attempt: int = added_big()
    then_after_s: int = added_big()
    then_per_minute_micros: int = added_big()
    payout_micros: int = added_big()
    payout_tariff: str = added_text()


class EventTable(SQLModel, table=True):
    """See domain.model.Event."""

    __tablename__: ClassVar[str] = "event"
    __table_args__: ClassVar[Any] = (
        Index("event_subject", "tenant_id", "subject"),
        {"sqlite_with_rowid": False, "postgresql_partition_by": BY_MONTH.format("id")},
    )

    id: str = key()
    tenant_id: str = plain()
    at_ms: int = big()
    kind: str = plain()
    subject: str = plain()
    data: str = plain()
