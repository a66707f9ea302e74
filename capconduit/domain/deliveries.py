"""What goes out, as plain, immutable data: receivers, notifications, and events on their way; see model.py.

One class for each table of store/outward_tables.py; a field is a column of the same name.
"""

from __future__ import annotations

from typing import ClassVar

from capconduit.domain.model import Entity
from capconduit.domain.record import record
from capconduit.vocab import DeliveryState, NoticeChannel, NoticeKind, ReceiverKind, ReceiverStatus


@record
class Webhook(Entity):
    """Where events go. `kinds`: patterns like `call.*`, comma separated.

    `address`: a URL, or the words of a command as a JSON array. `secrets`: references, space separated; each signs.
    """

    name: str
    kind: ReceiverKind
    address: str
    kinds: str
    secrets: str
    status: ReceiverStatus


@record
class NotificationRule(Entity):
    """What a user is told of, and how. `user_name`: of a user, or of a person whom only this rule knows.

    `address`: an e-mail address, a URL, the words of a command as a JSON array; empty for the list. `seller_id`: what
    concerns other sellers is left out; empty: nothing is.
    """

    name: str
    user_name: str
    kinds: str
    channel: NoticeChannel
    address: str
    secrets: str
    seller_id: str


@record
class Notification:
    """Something that a user should know. `occasion`: what it is about, told once while that lasts. `data` is JSON."""

    id: str
    tenant_id: str
    at_ms: int
    user_name: str
    kind: NoticeKind
    subject: str
    occasion: str
    text: str
    data: str
    read_ms: int | None


@record
class NotificationMark:
    """An occasion that a user was told of: not told again until `until_ms`; 0: until it is over."""

    KEY: ClassVar[tuple[str, ...]] = ("tenant_id", "user_name", "occasion")

    tenant_id: str
    user_name: str
    occasion: str
    told_ms: int
    until_ms: int


@record
class Outbox:
    """An event that no receiver was looked for yet. Written with it, in the order of `position`."""

    KEY: ClassVar[tuple[str, ...]] = ("event_id",)

    event_id: str
    tenant_id: str
    position: int


@record
class Lane:
    """What one receiver gets one after the other: the events of a call, or of another subject.

    `due_ms`: when the first of them may go out; `owner`: whose hands it is in until then. Tries are of that first one.
    """

    KEY: ClassVar[tuple[str, ...]] = ("receiver_id", "lane")

    receiver_id: str
    lane: str
    tenant_id: str
    due_ms: int
    owner: str
    tries: int
    state: DeliveryState
    error: str


@record
class Delivery:
    """One event, or notification, on its way to one receiver. `answer`: what came of it."""

    KEY: ClassVar[tuple[str, ...]] = ("receiver_id", "event_id")

    receiver_id: str
    event_id: str
    tenant_id: str
    lane: str
    position: int
    kind: str
    state: DeliveryState
    tries: int
    made_ms: int
    done_ms: int | None
    answer: str
