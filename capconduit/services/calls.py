"""Calls as an operator reads them: the live ones, the settled ones, and the story of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capconduit.domain.model import Attempt, Call, Campaign, Cdr, Event, Hold, LedgerEntry, Place, Seller
from capconduit.domain.trace import Check, load_trace
from capconduit.errors import NotFound
from capconduit.services.office import Desk, Office


@dataclass(frozen=True, slots=True)
class CallView:
    """A live call with the names it belongs to, its current attempt and its hold."""

    call: Call
    seller: str
    campaign: str
    target: str
    hold_micros: int


@dataclass(frozen=True, slots=True)
class Story:
    """Everything known of one call. One of `call` (alive) and `cdr` (settled) is there; checks are in their order."""

    call: CallView | None
    cdr: Cdr | None
    checks: Sequence[Check]
    attempts: Sequence[Attempt]
    places: Sequence[Place]
    hold: Hold | None
    ledger: Sequence[LedgerEntry]
    events: Sequence[tuple[Event, dict[str, Any]]]


def list_calls(office: Office) -> Sequence[CallView]:
    """The live calls, the oldest first."""

    def work(desk: Desk) -> Sequence[CallView]:
        calls = desk.tx.rows(Call, desk.tenant_id)
        names = _Names(desk)
        return [names.view(call) for call in sorted(calls, key=lambda c: c.id)]

    return office.read(work)


def find_cdrs(
    office: Office,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
    **where: Any,
) -> Sequence[Cdr]:
    """Settled calls, the newest first. `where` are columns of the CDR: seller, campaign, did, target, reject_code …"""

    def work(desk: Desk) -> Sequence[Cdr]:
        return desk.tx.rows(
            Cdr,
            desk.tenant_id,
            since=("arrived_ms", since_ms) if since_ms is not None else None,
            until=("arrived_ms", until_ms) if until_ms is not None else None,
            newest_first="arrived_ms",
            limit=limit,
            **where,
        )

    return office.read(work)


def show_cdr(office: Office, call: str) -> Cdr:
    """The CDR of a call id or Asterisk uniqueid. Raises NotFound."""

    def work(desk: Desk) -> Cdr:
        cdr = _find_cdr(desk, call)
        if cdr is None:
            raise NotFound("cdr", call)
        return cdr

    return office.read(work)


def tell(office: Office, call: str) -> Story:
    """The story of a call, alive or settled, by call id or Asterisk uniqueid. Raises NotFound."""

    def work(desk: Desk) -> Story:
        live = desk.tx.find(Call, desk.tenant_id, id=call) or desk.tx.find(Call, desk.tenant_id, uniqueid=call)
        cdr = None if live else _find_cdr(desk, call)
        if live is None and cdr is None:
            raise NotFound("call", call)
        call_id = live.id if live else cdr.call_id if cdr else ""
        trace = live.trace if live else cdr.trace if cdr else ""
        events = desk.tx.rows(Event, desk.tenant_id, subject=call_id)
        return Story(
            call=_Names(desk).view(live) if live else None,
            cdr=cdr,
            checks=load_trace(trace),
            attempts=desk.tx.rows(Attempt, desk.tenant_id, call_id=call_id),
            places=desk.tx.rows(Place, desk.tenant_id, call_id=call_id),
            hold=desk.tx.find(Hold, desk.tenant_id, call_id=call_id),
            ledger=desk.tx.rows(LedgerEntry, desk.tenant_id, call_id=call_id),
            events=[(e, json.loads(e.data)) for e in events],
        )

    return office.read(work)


def _find_cdr(desk: Desk, call: str) -> Cdr | None:
    by_id = desk.tx.find(Cdr, desk.tenant_id, call_id=call)
    if by_id is not None:
        return by_id
    rows = desk.tx.rows(Cdr, desk.tenant_id, newest_first="arrived_ms", limit=1, uniqueid=call)
    return rows[0] if rows else None


class _Names:
    """Names of what live calls refer to, read once."""

    def __init__(self, desk: Desk) -> None:
        self._sellers = {s.id: s.name for s in desk.tx.rows(Seller, desk.tenant_id)}
        self._campaigns = {c.id: c.name for c in desk.tx.rows(Campaign, desk.tenant_id)}
        self._holds = {h.call_id: h.amount_micros for h in desk.tx.rows(Hold, desk.tenant_id, state="open")}
        self._desk = desk

    def view(self, call: Call) -> CallView:
        attempt = self._desk.tx.find(Attempt, self._desk.tenant_id, call_id=call.id, number=call.attempt)
        return CallView(
            call=call,
            seller=self._sellers.get(call.seller_id, ""),
            campaign=self._campaigns.get(call.campaign_id, ""),
            target=attempt.target_name if attempt else "",
            hold_micros=self._holds.get(call.id, 0),
        )
