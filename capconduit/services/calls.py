"""Calls as an operator reads them: the live ones, the settled ones, and the story of one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from capconduit.domain.model import (
    Attempt,
    Call,
    Campaign,
    Cap,
    Cdr,
    Did,
    Event,
    Hold,
    LedgerEntry,
    Place,
    Rule,
    Seller,
    Target,
    Trunk,
)
from capconduit.domain.numbers import to_e164
from capconduit.domain.trace import Check, load_trace
from capconduit.domain.usage import window_text
from capconduit.errors import Refused
from capconduit.ids import ulid
from capconduit.services.office import Desk, Office, label
from capconduit.vocab import CapMetric, CapScope, HoldState

CDR_PAGE: Final = 1_000  # more calls than can arrive within one millisecond
RECENT_CALLS: Final = 1_000  # settled calls that are looked through for the beginning or end of an id
SHORTEST_PART: Final = 4  # characters of such a beginning or end
OFFERED: Final = 3  # calls named where it fits several
SETTLED_MS: Final = 86_400_000  # within this after a call's end, almost always, it is in the ledger
_KIND_OF_SCOPE: Final = {
    CapScope.SELLER: Seller,
    CapScope.CAMPAIGN: Campaign,
    CapScope.TARGET: Target,
    CapScope.DID: Did,
    CapScope.TRUNK: Trunk,
}


@dataclass(frozen=True, slots=True)
class CallView:
    """A live call with the names it belongs to and its hold.

    `target` is where it talks, or what is dialled: several that ring at once are joined by `&`.
    """

    call: Call
    seller: str
    campaign: str
    target: str
    hold_micros: int


@dataclass(frozen=True, slots=True)
class PlaceView:
    """A place of a call with the cap it is in: its scope, what it limits (`solar`), and what it counts
    (`billable/day`). All are empty for a cap that was cleared."""

    place: Place
    scope: str
    subject: str
    counts: str
    metric: CapMetric | None


@dataclass(frozen=True, slots=True)
class Story:
    """Everything known of one call. One of `call` (alive) and `cdr` (settled) is there; checks are in their order."""

    call: CallView | None
    cdr: Cdr | None
    checks: Sequence[Check]
    attempts: Sequence[Attempt]
    places: Sequence[PlaceView]
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


def show_call(office: Office, call: str) -> CallView:
    """One live call, by id, uniqueid or an unambiguous part. Raises Refused: there is none, it has ended."""

    def work(desk: Desk) -> CallView:
        call_id = _call_id(desk, call)
        live = desk.tx.find(Call, desk.tenant_id, id=call_id)
        if live is None:
            raise Refused("call-ended", f"call {call!r} has ended", f"see `capconduit cdr show {call_id}`")
        return _Names(desk).view(live)

    return office.read(work)


def find_cdrs(
    office: Office,
    *,
    since_ms: int | None = None,
    until_ms: int | None = None,
    limit: int | None = None,
    **where: Any,
) -> Sequence[Cdr]:
    """Settled calls, the newest first. `where` are columns of the CDR: seller, campaign, did, target, reject_code …

    A number may be in any notation. Raises NotFound for a seller, campaign or
    target that neither is there nor has calls.
    """

    def work(desk: Desk) -> Sequence[Cdr]:
        if "did" in where:
            where["did"] = to_e164(where["did"], desk.settings().default_region) or where["did"]
        rows = desk.tx.rows(
            Cdr,
            desk.tenant_id,
            since=("arrived_ms", since_ms) if since_ms is not None else None,
            until=("arrived_ms", until_ms) if until_ms is not None else None,
            newest_first="arrived_ms",
            limit=limit,
            **where,
        )
        for column, kind in (("seller", Seller), ("campaign", Campaign), ("target", Target)):
            if not rows and where.get(column):
                desk.named(kind, where[column])  # a misspelt name must not look like a name without calls
        return rows

    return office.read(work)


def each_cdr(
    office: Office, *, since_ms: int | None = None, until_ms: int | None = None, page: int = CDR_PAGE, **where: Any
) -> Iterator[Cdr]:
    """The same as find_cdrs for any number of calls: they are read in pages of `page`, each a snapshot of its own.

    A call that is settled meanwhile may be missing; none comes twice.
    """
    seen: set[str] = set()  # those of the instant that the last page ended in
    while True:
        rows = find_cdrs(office, since_ms=since_ms, until_ms=until_ms, limit=page, **where)
        fresh = [cdr for cdr in rows if cdr.call_id not in seen]
        yield from fresh
        if len(rows) < page or not fresh:
            return
        last_ms = rows[-1].arrived_ms
        seen = {cdr.call_id for cdr in rows if cdr.arrived_ms == last_ms}
        until_ms = last_ms + 1


def tell(office: Office, call: str) -> Story:
    """The story of a call, alive or settled, by call id, Asterisk uniqueid or an unambiguous part. Raises Refused."""

    def work(desk: Desk) -> Story:
        call_id = _call_id(desk, call)
        live = desk.tx.find(Call, desk.tenant_id, id=call_id)
        cdr = desk.tx.find(Cdr, desk.tenant_id, call_id=call_id)
        trace = live.trace if live else cdr.trace if cdr else ""
        events = desk.tx.rows(Event, desk.tenant_id, subject=call_id)
        return Story(
            call=_Names(desk).view(live) if live else None,
            cdr=cdr,
            checks=load_trace(trace),
            attempts=desk.tx.rows(Attempt, desk.tenant_id, call_id=call_id),
            places=[_place_view(desk, p) for p in desk.tx.rows(Place, desk.tenant_id, call_id=call_id)],
            hold=desk.tx.find(Hold, desk.tenant_id, call_id=call_id),
            ledger=_ledger_of(desk, cdr) if cdr else (),
            events=[(e, json.loads(e.data)) for e in events],
        )

    return office.read(work)


def _ledger_of(desk: Desk, cdr: Cdr) -> Sequence[LedgerEntry]:
    """What the ledger took for a settled call. Entries are found by seller and id, and a settlement may come days after
    the call from a journal: those of its own day first, then all that are younger."""
    if cdr.seller_id is None or not cdr.amount_micros:
        return ()
    where: dict[str, Any] = {"seller_id": cdr.seller_id, "call_id": cdr.call_id, "since": ("id", cdr.call_id)}
    soon = desk.tx.rows(LedgerEntry, desk.tenant_id, until=("id", ulid(cdr.ended_ms + SETTLED_MS, 0)), **where)
    return soon or desk.tx.rows(LedgerEntry, desk.tenant_id, **where)


def _call_id(desk: Desk, call: str) -> str:
    """The id of the call that `call` names. Raises Refused where it fits none, or several."""
    call = call.strip()
    known = call.upper()  # ids have capitals
    if desk.tx.find(Call, desk.tenant_id, id=known) or desk.tx.find(Cdr, desk.tenant_id, call_id=known):
        return known
    live = desk.tx.rows(Call, desk.tenant_id)
    older = [c for node in desk.tx.nodes() for c in desk.tx.rows(Cdr, desk.tenant_id, node=node.name, uniqueid=call)]
    ended = [] if older else desk.tx.rows(Cdr, desk.tenant_id, newest_first="arrived_ms", limit=RECENT_CALLS)
    ids = {c.id: c.uniqueid for c in live} | {c.call_id: c.uniqueid for c in [*ended, *older]}
    fitting = [i for i, uniqueid in ids.items() if uniqueid == call] or list(_with_part(ids.items(), call))
    if not fitting:  # of a node that is not in the books any more: every record is looked at
        unknown = desk.tx.rows(Cdr, desk.tenant_id, newest_first="arrived_ms", limit=OFFERED, uniqueid=call)
        fitting = [cdr.call_id for cdr in unknown]
    if not fitting:
        raise Refused(
            "call-not-found",
            f"no call {call!r}",
            "`capconduit call list` has those that are up, `capconduit cdr list` those that ended",
        )
    if len(fitting) > 1:
        raise Refused(
            "call-ambiguous", f"{call!r} fits {len(fitting)} calls", f"name one: {', '.join(fitting[:OFFERED])}"
        )
    return fitting[0]


def _with_part(ids: Iterable[tuple[str, str]], part: str) -> Iterable[str]:
    """Ids of the calls whose id or uniqueid begins or ends with `part`."""
    wanted = part.upper()
    for call_id, uniqueid in ids:
        names = (call_id.upper(), uniqueid.upper())
        if len(wanted) >= SHORTEST_PART and any(n.startswith(wanted) or n.endswith(wanted) for n in names):
            yield call_id


def _place_view(desk: Desk, place: Place) -> PlaceView:
    cap = desk.tx.find(Cap, desk.tenant_id, id=place.cap_id)
    if cap is None:
        return PlaceView(place, "", "", "", None)
    window = window_text(cap)
    return PlaceView(
        place, cap.scope, _limited(desk, cap), f"{cap.metric}/{window}" if window else cap.metric, cap.metric
    )


def _limited(desk: Desk, cap: Cap) -> str:
    """The name of what a cap limits."""
    if cap.scope is CapScope.SYSTEM:
        return "system"
    if cap.scope is CapScope.RULE:
        rule = desk.tx.find(Rule, desk.tenant_id, id=cap.scope_id)
        campaign = desk.tx.find(Campaign, desk.tenant_id, id=rule.campaign_id) if rule else None
        target = desk.tx.find(Target, desk.tenant_id, id=rule.target_id) if rule else None
        return f"{campaign.name}/{target.name}" if campaign and target else ""
    entity: Any = desk.tx.find(_KIND_OF_SCOPE[cap.scope], desk.tenant_id, id=cap.scope_id)
    return label(entity) if entity else ""


class _Names:
    """Names of what live calls refer to, read once."""

    def __init__(self, desk: Desk) -> None:
        self._sellers = {s.id: s.name for s in desk.tx.rows(Seller, desk.tenant_id)}
        self._campaigns = {c.id: c.name for c in desk.tx.rows(Campaign, desk.tenant_id)}
        self._holds = {
            h.call_id: h.amount_micros for h in desk.tx.rows(Hold, desk.tenant_id, state=HoldState.OPEN.value)
        }
        self._desk = desk

    def view(self, call: Call) -> CallView:
        attempts = self._desk.tx.rows(Attempt, self._desk.tenant_id, call_id=call.id)
        now = [a for a in attempts if a.number == call.leg] or [
            a for a in attempts if call.attempt in (a.round, a.number)
        ]
        return CallView(
            call=call,
            seller=self._sellers.get(call.seller_id, ""),
            campaign=self._campaigns.get(call.campaign_id, ""),
            target="&".join(a.target_name for a in now),
            hold_micros=self._holds.get(call.id, 0),
        )
