"""The tables of people beside their users: tokens and requests for numbers; see tables.py, which has the others."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import SQLModel

from capconduit.store.columns import big, key, plain, ref


class TokenTable(SQLModel, table=True):
    """See domain.people.Token. What is looked for is the hash, before any tenant is known."""

    __tablename__: ClassVar[str] = "token"
    __table_args__: ClassVar[Any] = (
        UniqueConstraint("hash", name="token_hash"),
        UniqueConstraint("tenant_id", "name", name="token_name"),
    )

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    user_id: str = ref("users.id")
    hash: str = plain()
    scopes: str = plain()
    expires_ms: int | None = big()
    revoked_ms: int | None = big()
    used_ms: int | None = big()


class DidRequestTable(SQLModel, table=True):
    """See domain.people.DidRequest."""

    __tablename__: ClassVar[str] = "did_request"
    __table_args__: ClassVar[Any] = (Index("did_request_status", "tenant_id", "status"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    seller_id: str = ref("seller.id")
    area: str = plain()
    quantity: int = big()
    note: str = plain()
    status: str = plain()
    numbers: str = plain()
    filed_by: str = plain()
    decided_ms: int | None = big()
    decided_by: str = plain()
    reason: str = plain()
