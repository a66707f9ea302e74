"""The tables of rolled-up calls: what reports are summed from."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlmodel import SQLModel

from capconduit.store.columns import WITHOUT_ROWID, big, big_key, key, plain


class RollupTable(SQLModel, table=True):
    """See domain.rollups.Rollup. The key begins with what a report looks for: one kind and grain, over a span."""

    __tablename__: ClassVar[str] = "rollup"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    tenant_id: str = key()
    kind: str = key()
    grain: str = key()
    bucket_ms: int = big_key()
    seller_id: str = key()
    campaign_id: str = key()
    subject: str = key()
    currency: str = key()
    reject_reason: str = key()
    calls: int = big()
    attempted: int = big()
    connected: int = big()
    billable: int = big()
    rang: int = big()
    pdd_ms: int = big()
    talk_ms: int = big()
    billed_s: int = big()
    amount_micros: int = big()
    payout_micros: int = big()
    written_off_micros: int = big()


class RollupNameTable(SQLModel, table=True):
    """See domain.rollups.RollupName."""

    __tablename__: ClassVar[str] = "rollup_name"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    tenant_id: str = key()
    kind: str = key()
    id: str = key()
    name: str = plain()
