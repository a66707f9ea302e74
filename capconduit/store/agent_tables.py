"""The tables of voice agents: providers and profiles; see domain/agents.py."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import UniqueConstraint
from sqlmodel import SQLModel

from capconduit.store.columns import big, key, plain, ref


class ProviderTable(SQLModel, table=True):
    """See domain.agents.Provider."""

    __tablename__: ClassVar[str] = "provider"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="provider_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    kind: str = plain()
    base_url: str = plain()
    key_ref: str = plain()
    model: str = plain()
    text_model: str = plain()
    voice: str = plain()
    deployment: str = plain()
    api_version: str = plain()


class AgentTable(SQLModel, table=True):
    """See domain.agents.Agent."""

    __tablename__: ClassVar[str] = "agent"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="agent_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    provider_ids: str = plain()
    voice: str = plain()
    language: str = plain()
    instructions: str = plain()
    greeting: str = plain()
    tools: str = plain()
    max_duration_ms: int = big()
    max_cost_micros: int = big()
    silence_ms: int = big()
    transcripts: bool
    retention_days: int = big()
