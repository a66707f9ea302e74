"""Settlements that nobody acknowledged, as the dialplan keeps them in Asterisk's database; read back and settled.

The fields are those of render.contexts.SPOOL_FIELDS, joined by `|`; numbers may be empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from capconduit.domain.calls import LegTimes, SettleReport
from capconduit.render.contexts import SPOOL_FAMILY, SPOOL_FIELDS, SPOOL_SEPARATOR
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DialStatus
from fastagi.texts import MAX_DIAL, MAX_UNIQUEID, clean, dialled_leg, number

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
    if len(parts) == len(SPOOL_FIELDS) - 1:  # of a dialplan that was rendered before it told what was dialled
        parts.append("")
    if len(parts) != len(SPOOL_FIELDS) or not uniqueid:
        return None
    fields = dict(zip(SPOOL_FIELDS, (clean(part, MAX_DIAL) for part in parts), strict=True))
    return SpoolEntry(uniqueid, fields["call"], fields) if fields["call"] else None


def report_of(entry: SpoolEntry, node: str, leg: LegTimes, answered_ms: int | None = None) -> SettleReport:
    """The report for the engine; `node` is the one that admitted the call, whatever this node is called now.

    The dialplan wrote it when it had given up on us, which with a frozen daemon is long after the end: where the answer
    is known (`answered_ms`), the time for which the caller's channel was up bounds it.
    """
    uniqueid, fields = entry.uniqueid, entry.fields
    ended_ms, up_ms = _unix_ms(fields["ended"]), number(fields["answered_ms"])
    answered_ms = leg.answered_ms or answered_ms
    if ended_ms is not None and answered_ms is not None and up_ms and fields["dialstatus"] == DialStatus.ANSWER:
        ended_ms = min(ended_ms, answered_ms + up_ms)
    return SettleReport(
        node=node,
        uniqueid=uniqueid,
        attempt=number(fields["attempt"]) or 0,
        dialstatus=DialStatus.parse(fields["dialstatus"]),
        answered_for_ms=up_ms,
        hangup_cause=number(fields["cause"]) or 0,
        hangup_source=fields["hangup_source"],
        ended_ms=ended_ms,
        leg=replace(leg, dial=leg.dial or dialled_leg(fields["dialled"])),
        witness="spool",
    )


def _unix_ms(text: str) -> int | None:
    """UTC ms of a Unix time with a fraction, or None."""
    return int(Decimal(text) * MS_PER_SECOND) if _UNIX_TIME.match(text) else None
