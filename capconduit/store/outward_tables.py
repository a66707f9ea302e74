"""The tables of what goes out: receivers, notifications, and events on their way; see tables.py, which has the others.

Those that a daemon writes for every event have no foreign keys, as the tables on the way of a call.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import SQLModel

from capconduit.store.columns import HOT, WITHOUT_ROWID, big, key, plain, ref


class WebhookTable(SQLModel, table=True):
    """See domain.deliveries.Webhook."""

    __tablename__: ClassVar[str] = "webhook"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="webhook_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    kind: str = plain()
    address: str = plain()
    kinds: str = plain()
    secrets: str = plain()
    status: str = plain()


class NotificationRuleTable(SQLModel, table=True):
    """See domain.deliveries.NotificationRule."""

    __tablename__: ClassVar[str] = "notification_rule"
    __table_args__: ClassVar[Any] = (UniqueConstraint("tenant_id", "name", name="notification_rule_name"),)

    id: str = key()
    tenant_id: str = ref("tenant.id")
    created_ms: int = big()
    updated_ms: int = big()
    name: str = plain()
    user_name: str = plain()
    kinds: str = plain()
    channel: str = plain()
    address: str = plain()
    secrets: str = plain()
    seller_id: str = plain()


class NotificationTable(SQLModel, table=True):
    """See domain.deliveries.Notification."""

    __tablename__: ClassVar[str] = "notification"
    __table_args__: ClassVar[Any] = (Index("notification_user", "tenant_id", "user_name", "at_ms"),)

    id: str = key()
    tenant_id: str = plain()
    at_ms: int = big()
    user_name: str = plain()
    kind: str = plain()
    subject: str = plain()
    occasion: str = plain()
    text: str = plain()
    data: str = plain()
    read_ms: int | None = big()


class NotificationMarkTable(SQLModel, table=True):
    """See domain.deliveries.NotificationMark."""

    __tablename__: ClassVar[str] = "notification_mark"
    __table_args__: ClassVar[Any] = (WITHOUT_ROWID,)

    tenant_id: str = key()
    user_name: str = key()
    occasion: str = key()
    told_ms: int = big()
    until_ms: int = big()


class OutboxTable(SQLModel, table=True):
    """See domain.deliveries.Outbox."""

    __tablename__: ClassVar[str] = "outbox"
    __table_args__: ClassVar[Any] = (Index("outbox_position", "position", "event_id"), WITHOUT_ROWID)

    event_id: str = key()
    tenant_id: str = plain()
    position: int = big()


class LaneTable(SQLModel, table=True):
    """See domain.deliveries.Lane."""

    __tablename__: ClassVar[str] = "lane"
    __table_args__: ClassVar[Any] = (Index("lane_due", "receiver_id", "state", "due_ms"), HOT)

    receiver_id: str = key()
    lane: str = key()
    tenant_id: str = plain()
    due_ms: int = big()
    owner: str = plain()
    tries: int = big()
    state: str = plain()
    error: str = plain()


class DeliveryTable(SQLModel, table=True):
    """See domain.deliveries.Delivery."""

    __tablename__: ClassVar[str] = "delivery"
    __table_args__: ClassVar[Any] = (
        Index("delivery_lane", "receiver_id", "state", "lane", "position"),
        Index("delivery_made", "tenant_id", "made_ms"),
        WITHOUT_ROWID,
    )

    receiver_id: str = key()
    event_id: str = key()
    tenant_id: str = plain()
    lane: str = plain()
    position: int = big()
    kind: str = plain()
    state: str = plain()
    tries: int = big()
    made_ms: int = big()
    done_ms: int | None = big()
    answer: str = plain()
