"""Settlements that nobody acknowledged, as the dialplan keeps them in Asterisk's database; read back and settled.

The fields are those of render.contexts.SPOOL_FIELDS, joined by `|`; numbers may be empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from capconduit.domain.calls import LegTimes, SettleReport
from capconduit.render.contexts import SPOOL_FAMILY, SPOOL_FIELDS, SPOOL_SEPARATOR
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus
from fastagi.texts import MAX_UNIQUEID, clean, number

__all__ = ["SPOOL_FAMILY", "SpoolEntry", "read_entry", "report_of"]

_UNIX_TIME = re.compile(r"^\d{1,11}(\.\d{1,9})?$")


@dataclass(frozen=True, slots=True)
class SpoolEntry:
    """A settlement that Asterisk kept: of which call, and its fields."""

    uniqueid: str
    call_id: str
    fields: Mapping[str, str]


def read_entry(path: str, text: str) -> SpoolEntry | None:
    """The settlement kept under `path` (…/uniqueid), or None where it cannot be read."""
    parts = text.split(SPOOL_SEPARATOR)
    uniqueid = clean(path.rsplit("/", 1)[-1], MAX_UNIQUEID)
    if len(parts) != len(SPOOL_FIELDS) or not uniqueid:
        return None
    fields = dict(zip(SPOOL_FIELDS, (clean(part) for part in parts), strict=True))
    return SpoolEntry(uniqueid, fields["call"], fields) if fields["call"] else None


def report_of(entry: SpoolEntry, node: str, leg: LegTimes) -> SettleReport:
    """The report for the engine; `node` is the one that admitted the call, whatever this node is called now."""
    uniqueid, fields = entry.uniqueid, entry.fields
    return SettleReport(
        node=node,
        uniqueid=uniqueid,
        attempt=number(fields["attempt"]) or 0,
        dialstatus=DialStatus.parse(fields["dialstatus"]),
        answered_for_ms=number(fields["answered_ms"]),
        hangup_cause=number(fields["cause"]) or 0,
        hangup_source=fields["hangup_source"],
        ended_ms=_unix_ms(fields["ended"]),
        leg=leg,
        witness="spool",
    )


def _unix_ms(text: str) -> int | None:
    """UTC ms of a Unix time with a fraction, or None."""
    return int(Decimal(text) * MS_PER_SECOND) if _UNIX_TIME.match(text) else None
