"""The payload of an event or a notification: the JSON that a receiver gets. Described in docs/events.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from capconduit.domain.deliveries import Notification
from capconduit.domain.model import Event
from capconduit.domain.outgoing import data_of
from capconduit.units import format_instant, format_micros

SCHEMA: Final = 1  # grows when a field changes its meaning or goes; new fields do not change it
TEST_KIND: Final = "webhook.test"
NOTICE_PREFIX: Final = "notification."
_MICROS: Final = "_micros"
_INSTANT: Final = "until_ms"


def event_payload(event: Event, tenant: str) -> dict[str, Any]:
    """An event as it is sent."""
    return payload(event.id, event.kind, event.at_ms, tenant, event.subject, data_of(event.data))


def notification_payload(notice: Notification, tenant: str) -> dict[str, Any]:
    """A notification as it is sent by a webhook or a command."""
    data = {"user": notice.user_name, "text": notice.text, "about": outward_data(data_of(notice.data))}
    kind = NOTICE_PREFIX + notice.kind
    return payload(notice.id, kind, notice.at_ms, tenant, notice.subject, data)


def payload(id_: str, kind: str, at_ms: int, tenant: str, subject: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The envelope around the data of one kind."""
    return {
        "schema": SCHEMA,
        "id": id_,
        "kind": str(kind),
        "at": format_instant(at_ms),
        "tenant": tenant,
        "subject": subject,
        "data": outward_data(data),
    }


def outward_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data as others read them: money as decimal text without `_micros` in its name, as everywhere in our JSON."""
    told: dict[str, Any] = {}
    for name, value in data.items():
        if name.endswith(_MICROS) and isinstance(value, int):
            told[name.removesuffix(_MICROS)] = format_micros(value)
        elif name.endswith(_INSTANT) and isinstance(value, int):
            told[name.removesuffix("_ms")] = format_instant(value) if value else None
        else:
            told[name] = value
    return told


def encode(message: Mapping[str, Any]) -> bytes:
    """The body, byte for byte what is signed."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
