"""Settlements that nobody acknowledged, as the dialplan keeps them in Asterisk's database; read back and settled.

The fields are those of render.contexts.SPOOL_FIELDS, joined by `|`; numbers may be empty.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from capconduit.domain.calls import LegTimes, SettleReport
from capconduit.render.contexts import SPOOL_FAMILY, SPOOL_FIELDS, SPOOL_SEPARATOR
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus
from fastagi.texts import MAX_UNIQUEID, clean, number

__all__ = ["SPOOL_FAMILY", "read_entry", "write_entry"]


def read_entry(node: str, path: str, text: str, leg: LegTimes) -> SettleReport | None:
    """The settlement kept under `path` (…/uniqueid), or None where it cannot be read."""
    parts = text.split(SPOOL_SEPARATOR)
    uniqueid = clean(path.rsplit("/", 1)[-1], MAX_UNIQUEID)
    if len(parts) != len(SPOOL_FIELDS) or not uniqueid:
        return None
    entry = dict(zip(SPOOL_FIELDS, (clean(part) for part in parts), strict=True))
    return SettleReport(
        node=node,
        uniqueid=uniqueid,
        attempt=number(entry["attempt"]) or 0,
        dialstatus=DialStatus.parse(entry["dialstatus"]),
        answered_for_ms=number(entry["answered_ms"]),
        hangup_cause=number(entry["cause"]) or 0,
        hangup_source=entry["hangup_source"],
        ended_ms=_unix_ms(entry["ended"]),
        leg=leg,
        witness="spool",
    )


def _unix_ms(text: str) -> int | None:
    """UTC ms of a Unix time with a fraction."""
    try:
        return int(Decimal(text) * MS_PER_SECOND)
    except (InvalidOperation, ValueError):
        return None


def write_entry(fields: dict[str, str]) -> str:
    """The text of an entry, as the dialplan writes it; for simulators."""
    return SPOOL_SEPARATOR.join(fields.get(name, "") for name in SPOOL_FIELDS)
