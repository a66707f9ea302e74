"""Requests for DIDs: a seller asks for numbers, an admin gives them, all or some, or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.areas import in_area, parse_area
from capconduit.domain.events import event
from capconduit.domain.model import Campaign, Did, Seller
from capconduit.domain.people import DidRequest
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.services.dids import find_did_row
from capconduit.services.office import Desk, Office
from capconduit.units import format_instant
from capconduit.vocab import DidStatus, EventKind, RequestStatus

MAX_QUANTITY: Final = 1_000
MAX_NOTE: Final = 500  # characters of a note or a reason
MAX_OPEN: Final = 100  # requests of one seller that wait to be decided
FEW: Final = 20  # numbers that are looked for one by one; more are compared with all there are
SHORTEST_PART: Final = 4  # characters of an id's beginning or end
OFFERED: Final = 3  # requests named where a part of an id fits several
OPEN: Final = frozenset({RequestStatus.OPEN, RequestStatus.PARTLY})


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request with the name of its seller, the numbers that were given, and how many are still wanted."""

    request: DidRequest
    seller: str

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers that were given."""
        return numbers_of(self.request)

    @property
    def wanted(self) -> int:
        """How many are still to be decided about."""
        return _wanted(self.request)


def numbers_of(request: DidRequest) -> tuple[str, ...]:
    """The numbers that were given to a request."""
    return tuple(request.numbers.split(",")) if request.numbers else ()


def _wanted(request: DidRequest) -> int:
    return request.quantity - len(numbers_of(request)) if request.status in OPEN else 0


def file_request(office: Office, *, seller: str, area: str = "", quantity: int = 1, note: str = "") -> RequestView:
    """A seller asks for numbers; told in the same transaction. Raises UsageError, NotFound, Refused."""
    kept = parse_area(area)
    if not 1 <= quantity <= MAX_QUANTITY:
        raise UsageError("quantity-invalid", f"{quantity} numbers cannot be asked for", f"give 1 to {MAX_QUANTITY}")
    _check_text("a note", note)

    def work(desk: Desk) -> RequestView:
        row = desk.named(Seller, seller)
        if len([r for r in desk.tx.rows(DidRequest, desk.tenant_id, seller_id=row.id) if r.status in OPEN]) >= MAX_OPEN:
            raise Refused(
                "requests-too-many", f"seller {seller!r} has {MAX_OPEN} requests open", "wait until some are decided"
            )
        request = DidRequest(
            **desk.stamp(),
            seller_id=row.id,
            area=kept,
            quantity=quantity,
            note=note,
            status=RequestStatus.OPEN,
            numbers="",
            filed_by=desk.actor,
            decided_ms=None,
            decided_by="",
            reason="",
        )
        desk.tx.insert(request)
        desk.changed("request.file", request.id, None, request, estate=False)
        _tell(desk, EventKind.REQUEST_FILED, request, row, note=note)
        return RequestView(request, row.name)

    return office.change(work, estate=False)


def list_requests(office: Office, *, seller: str = "", status: RequestStatus | None = None) -> Sequence[RequestView]:
    """All requests, the newest first, or those of a seller or a status. Raises NotFound."""

    def work(desk: Desk) -> Sequence[RequestView]:
        names = {s.id: s.name for s in desk.tx.rows(Seller, desk.tenant_id)}
        where: dict[str, Any] = {"seller_id": desk.named(Seller, seller).id} if seller else {}
        if status is not None:
            where["status"] = status.value
        rows = desk.tx.rows(DidRequest, desk.tenant_id, newest_first="created_ms", **where)
        return [RequestView(row, names.get(row.seller_id, "")) for row in rows]

    return office.read(work)


def show_request(office: Office, request: str) -> RequestView:
    """One request, by its id or the beginning or end of it. Raises NotFound, Refused (it fits several)."""
    return office.read(lambda desk: _view(desk, _named(desk, request)))


def available_for(office: Office, request: str) -> Sequence[str]:
    """The numbers that are available and in the request's area, in their order. Raises NotFound."""
    return office.read(lambda desk: [did.number for did in _available(desk, _named(desk, request))])


def approve_request(
    office: Office,
    request: str,
    *,
    campaign: str = "",
    numbers: Sequence[str] = (),
    count: int | None = None,
    partly: bool = False,
    reason: str = "",
) -> RequestView:
    """Give the seller the `numbers`, or the first `count` (default: all that are wanted) available ones of its area.

    With `campaign` (one of the seller's) they take calls at once; without, they are the seller's and take none yet.
    Where fewer are available than wanted nothing is given, but with `partly` what there is. What is still wanted then
    stays open. All in one transaction. Raises UsageError, NotFound, Refused.
    """
    _check_text("a reason", reason)
    if numbers and count is not None:
        raise UsageError("numbers-and-count", "numbers and a count are too much at once", "give one of them")

    from capconduit.services.bulk_dids import give_many  # it brings the library of numbers, which lists do not need

    def work(desk: Desk) -> RequestView:
        row = _named(desk, request)
        _check_open(row)
        seller = _seller_of(desk, row)
        stream = _campaign_of(desk, campaign, seller) if campaign else None
        chosen = _given(desk, row, numbers) if numbers else _first(desk, row, count, partly=partly)
        if len(chosen) > _wanted(row):
            raise Refused(
                "too-many-numbers", f"{len(chosen)} numbers are more than the {_wanted(row)} wanted", "give fewer"
            )
        give_many(desk, chosen, seller, stream)
        kept = (*numbers_of(row), *(did.number for did in chosen))
        status = RequestStatus.APPROVED if len(kept) == row.quantity else RequestStatus.PARTLY
        return _decide(desk, row, seller, "request.approve", status, reason, kept)

    return office.change(work)


def reject_request(office: Office, request: str, *, reason: str) -> RequestView:
    """Refuse what is still wanted; numbers that were given stay given. Raises UsageError, NotFound, Refused."""
    if not reason.strip():
        raise UsageError("reason-missing", "a rejection needs a reason", "add --reason 'no numbers in that area'")
    _check_text("a reason", reason)

    def work(desk: Desk) -> RequestView:
        row = _named(desk, request)
        _check_open(row)
        status = RequestStatus.CLOSED if row.numbers else RequestStatus.REJECTED
        return _decide(desk, row, _seller_of(desk, row), "request.reject", status, reason, numbers_of(row))

    return office.change(work)


def remove_requests_of(desk: Desk, seller_id: str) -> None:
    """The requests of a seller that is being removed go with it."""
    for request in desk.tx.rows(DidRequest, desk.tenant_id, seller_id=seller_id):
        desk.tx.delete(request)


def _decide(
    desk: Desk,
    before: DidRequest,
    seller: Seller,
    action: str,
    status: RequestStatus,
    reason: str,
    numbers: Sequence[str],
) -> RequestView:
    """The request as it was decided, audited and told."""
    after = replace(
        before,
        status=status,
        numbers=",".join(numbers),
        decided_ms=desk.now_ms,
        decided_by=desk.actor,
        reason=reason,
        updated_ms=desk.now_ms,
    )
    desk.tx.update(after)
    fresh = list(numbers[len(numbers_of(before)) :])
    desk.changed(action, after.id, before, after, estate=bool(fresh))  # one version, however many numbers
    _tell(desk, EventKind.REQUEST_DECIDED, after, seller, given=len(numbers), numbers=fresh, reason=reason)
    return RequestView(after, seller.name)


def _tell(desk: Desk, kind: EventKind, request: DidRequest, seller: Seller, **data: object) -> None:
    told = event(
        desk.new_id, desk.tenant_id, desk.now_ms, kind, request.id,
        seller=seller.name, seller_id=seller.id, area=request.area, quantity=request.quantity, status=request.status,
        actor=desk.actor, **data,
    )  # fmt: skip
    desk.tx.insert(told)


def _check_text(what: str, text: str) -> None:
    if len(text) > MAX_NOTE:
        raise UsageError("text-too-long", f"{what} of more than {MAX_NOTE} characters", "say it shorter")


def _check_open(request: DidRequest) -> None:
    if request.status not in OPEN:
        when = format_instant(request.decided_ms or request.updated_ms)[:10]
        raise Refused(
            "request-decided",
            f"request {request.id} is {request.status} since {when}",
            "`capconduit request file` files a new one",
        )


def _named(desk: Desk, request: str) -> DidRequest:
    wanted = request.strip().upper()
    found = desk.tx.find(DidRequest, desk.tenant_id, id=wanted)
    if found is not None:
        return found
    ids = {row.id: row for row in desk.tx.rows(DidRequest, desk.tenant_id)}
    fitting = [i for i in ids if i.startswith(wanted) or i.endswith(wanted)] if len(wanted) >= SHORTEST_PART else []
    if not fitting:
        raise NotFound("request", request)
    if len(fitting) > 1:
        offered = ", ".join(fitting[:OFFERED])
        raise Refused("request-ambiguous", f"{request!r} fits {len(fitting)} requests", f"name one: {offered}")
    return ids[fitting[0]]


def _seller_of(desk: Desk, request: DidRequest) -> Seller:
    seller = desk.tx.find(Seller, desk.tenant_id, id=request.seller_id)
    assert seller is not None  # a foreign key
    return seller


def _view(desk: Desk, request: DidRequest) -> RequestView:
    return RequestView(request, _seller_of(desk, request).name)


def _campaign_of(desk: Desk, name: str, seller: Seller) -> Campaign:
    campaign = desk.named(Campaign, name)
    if campaign.seller_id != seller.id:
        raise Refused(
            "campaign-of-another-seller",
            f"campaign {name!r} is not one of seller {seller.name!r}",
            f"name one of its own: capconduit campaign list --filter seller={seller.name}",
        )
    return campaign


def _available(desk: Desk, request: DidRequest) -> Sequence[Did]:
    rows = desk.tx.rows(Did, desk.tenant_id, status=DidStatus.AVAILABLE.value)
    return sorted((did for did in rows if in_area(did.number, request.area)), key=lambda did: did.number)


def _given(desk: Desk, request: DidRequest, numbers: Sequence[str]) -> Sequence[Did]:
    """The DIDs that were named, each once; the operator may go beyond the area. Raises NotFound, Refused."""
    known = {did.number: did for did in desk.tx.rows(Did, desk.tenant_id)} if len(numbers) > FEW else {}
    named = (known.get(number) or find_did_row(desk, number) for number in numbers)
    chosen = {did.number: did for did in named}
    for did in chosen.values():
        if did.status is not DidStatus.AVAILABLE:
            raise Refused(
                "did-not-available",
                f"{did.number} is {did.status}",
                f"`capconduit request show {request.id}` lists what is available",
            )
    return list(chosen.values())


def _first(desk: Desk, request: DidRequest, count: int | None, *, partly: bool) -> Sequence[Did]:
    wanted = _wanted(request) if count is None else count
    if wanted < 1:
        raise UsageError("quantity-invalid", f"{wanted} numbers cannot be given", f"give 1 to {_wanted(request)}")
    found = _available(desk, request)
    if not found or (len(found) < wanted and not partly):
        where = f" that begin with {request.area}" if request.area else ""
        raise Refused(
            "not-enough-numbers",
            f"{len(found)} numbers{where} are available, {wanted} are to be given",
            "add --partly to give what there is" if found else "add numbers: capconduit did add, capconduit did import",
        )
    return found[:wanted]
