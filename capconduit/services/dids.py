"""DIDs: the numbers that calls arrive on, and whose they are.

Listing ten thousand of them is to be quick: what only single numbers need (phonenumbers, caps) is imported there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from capconduit.domain.model import Campaign, Did, Seller, Trunk
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.services.office import Desk, Office
from capconduit.vocab import CapScope, DidStatus

MAX_RANGE: Final = 10_000  # numbers added at once
LOCAL_DIGITS: Final = 7  # of a number, without what all of a place have in common


@dataclass(frozen=True, slots=True)
class DidView:
    """A DID with the names of what it belongs to (empty where nothing)."""

    did: Did
    trunk: str
    seller: str
    campaign: str


def parse_range(text: str, region: str, count: int | None = None) -> Sequence[str]:
    """The numbers of `+18005550100-+18005550199`, or `count` of them from one on; one number where neither is said.

    Raises UsageError.
    """
    from capconduit.domain.numbers import parse_number

    dash = ".." if ".." in text else "-+"
    first_text, dash, last_text = text.partition(dash)
    first = parse_number(first_text, region)
    if dash and count is not None:
        raise UsageError("range-and-count", f"{text!r} is a range already", "leave --count out")
    last = parse_number(f"+{last_text}" if dash == "-+" else last_text, region) if dash else ""
    if dash and (len(last) != len(first) or last < first):
        raise UsageError("range-invalid", f"{text!r} is no range of numbers", "write it like +18005550100-+18005550199")
    how_many = int(last) - int(first) + 1 if dash else 1 if count is None else count
    if not 1 <= how_many <= MAX_RANGE:
        raise UsageError("range-invalid", f"{how_many} numbers at once", f"give 1 to {MAX_RANGE}")
    numbers = [f"+{n}" for n in range(int(first), int(first) + how_many)]
    if len(numbers[-1]) != len(first) or numbers[-1][:-LOCAL_DIGITS] != first[:-LOCAL_DIGITS]:
        raise UsageError(
            "range-invalid", f"{how_many} numbers from {first} on run into another area: {numbers[-1]}", "give fewer"
        )
    return numbers


def add_did_range(
    office: Office, numbers: str, *, count: int | None = None, trunk: str = "", campaign: str = ""
) -> Sequence[DidView]:
    """New DIDs, all or none: `numbers` is one, or a range (see parse_range). Raises UsageError, NotFound, Refused."""
    region = office.read(lambda desk: _region(desk, trunk))
    wanted = parse_range(numbers, region, count)
    if len(wanted) == 1:
        return [add_did(office, wanted[0], trunk=trunk, campaign=campaign)]
    from capconduit.services.bulk_dids import add_many

    return add_many(office, wanted, trunk=trunk, campaign=campaign)


def _region(desk: Desk, trunk: str) -> str:
    """Where a number without a country code is."""
    row = desk.named(Trunk, trunk) if trunk else None
    return (row.region if row else "") or desk.settings().default_region


def add_did(office: Office, number: str, *, trunk: str = "", campaign: str = "") -> DidView:
    """A new DID; with `campaign` it is assigned at once. Raises UsageError, NotFound, Refused."""

    from capconduit.domain.numbers import parse_number

    def work(desk: Desk) -> DidView:
        trunk_row = desk.named(Trunk, trunk) if trunk else None
        campaign_row = desk.named(Campaign, campaign) if campaign else None
        did = Did(
            **desk.stamp(),
            number=parse_number(number, (trunk_row.region if trunk_row else "") or desk.settings().default_region),
            trunk_id=trunk_row.id if trunk_row else None,
            seller_id=campaign_row.seller_id if campaign_row else None,
            campaign_id=campaign_row.id if campaign_row else None,
            status=DidStatus.ASSIGNED if campaign_row else DidStatus.AVAILABLE,
        )
        desk.add("did", did)
        return _view(desk, did)

    return office.change(work)


def has_odd_length(number: str) -> bool:
    """Whether no number of its country is as long as this complete one: a slip, or a special number."""
    from capconduit.domain.numbers import to_e164

    return to_e164(number.removeprefix("+"), "") is None  # without the plus it is not taken as it is


def list_dids(office: Office) -> Sequence[DidView]:
    """All DIDs by number."""

    def work(desk: Desk) -> Sequence[DidView]:
        names = _Names(desk)
        return [names.view(d) for d in sorted(desk.tx.rows(Did, desk.tenant_id), key=lambda d: d.number)]

    return office.read(work)


def show_did(office: Office, number: str) -> DidView:
    """One DID, its number in any notation. Raises NotFound."""
    return office.read(lambda desk: _view(desk, find_did_row(desk, number)))


def find_did_row(desk: Desk, number: str) -> Did:
    """The DID of a number in any notation. Raises NotFound, UsageError."""
    from capconduit.domain.numbers import parse_number

    kept = parse_number(number, desk.settings().default_region)
    try:
        return desk.named(Did, kept)
    except NotFound as error:
        if not error.near:  # the list of all numbers would not help anybody
            error.hint = f"`capconduit find {kept[-LOCAL_DIGITS:]}` looks for a part of it"
        raise


def assign_did(office: Office, number: str, campaign: str) -> DidView:
    """Give a DID to a campaign (and so to its seller). A suspended DID stays suspended."""

    def work(desk: Desk) -> DidView:
        did, row = find_did_row(desk, number), desk.named(Campaign, campaign)
        status = did.status if did.status is DidStatus.SUSPENDED else DidStatus.ASSIGNED
        return _change(desk, did, replace(did, campaign_id=row.id, seller_id=row.seller_id, status=status))

    return office.change(work)


def give_did_to_seller(office: Office, number: str, seller: str) -> DidView:
    """Give a DID to a seller, who has no campaign for it yet: it takes no calls. A suspended DID stays suspended.

    Raises NotFound, Refused (it is in a campaign).
    """

    def work(desk: Desk) -> DidView:
        did, row = find_did_row(desk, number), desk.named(Seller, seller)
        if did.campaign_id is not None:
            raise Refused(
                "did-assigned",
                f"{did.number} is assigned to a campaign",
                f"release it first: capconduit did release {did.number}",
            )
        return give_did(desk, did, row, None)

    return office.change(work)


def give_did(desk: Desk, did: Did, seller: Seller, campaign: Campaign | None) -> DidView:
    """The DID is the seller's from now on, in that campaign of it if any. A suspended one stays suspended."""
    return _change(desk, did, given(did, seller, campaign))


def given(did: Did, seller: Seller, campaign: Campaign | None) -> Did:
    """The DID as `give_did` leaves it."""
    status = did.status if did.status is DidStatus.SUSPENDED else DidStatus.ASSIGNED
    return replace(did, campaign_id=campaign.id if campaign else None, seller_id=seller.id, status=status)


def release_did(office: Office, number: str) -> DidView:
    """Take a DID back from its campaign and seller; live calls on it go on. A suspended DID stays suspended."""

    def work(desk: Desk) -> DidView:
        did = find_did_row(desk, number)
        status = did.status if did.status is DidStatus.SUSPENDED else DidStatus.AVAILABLE
        return _change(desk, did, replace(did, campaign_id=None, seller_id=None, status=status))

    return office.change(work)


def suspend_did(office: Office, number: str, *, suspended: bool) -> DidView:
    """Stop a DID from taking calls, or let it again."""

    def work(desk: Desk) -> DidView:
        did = find_did_row(desk, number)
        back = DidStatus.ASSIGNED if did.seller_id else DidStatus.AVAILABLE
        return _change(desk, did, replace(did, status=DidStatus.SUSPENDED if suspended else back))

    return office.change(work)


def set_did_trunk(office: Office, number: str, trunk: str) -> DidView:
    """Say which trunk a DID arrives on."""

    def work(desk: Desk) -> DidView:
        did = find_did_row(desk, number)
        return _change(desk, did, replace(did, trunk_id=desk.named(Trunk, trunk).id))

    return office.change(work)


def remove_did(office: Office, number: str) -> None:
    """Remove a DID that is not assigned. Raises NotFound, Refused."""
    from capconduit.services.caps import remove_caps_of

    def work(desk: Desk) -> None:
        did = find_did_row(desk, number)
        if did.campaign_id is not None:
            raise Refused(
                "did-assigned", f"{did.number} is assigned", f"release it first: capconduit did release {did.number}"
            )
        remove_caps_of(desk, CapScope.DID, did.id)
        desk.remove("did", did, "release it first")

    office.change(work)


def _change(desk: Desk, before: Did, after: Did) -> DidView:
    after = replace(after, updated_ms=desk.now_ms)
    if after.seller_id == before.seller_id:
        desk.change("did", before, after)
        return _view(desk, after)
    from capconduit.services.caps import cap_zones, caps_of, carry_over

    caps = caps_of(desk, CapScope.DID, before.id)
    zones = cap_zones(desk, caps)
    desk.change("did", before, after)
    carry_over(desk, zones, caps)  # another seller has another time zone
    return _view(desk, after)


class _Names:
    """Names of what DIDs refer to, read once."""

    def __init__(self, desk: Desk) -> None:
        self._trunks = {t.id: t.name for t in desk.tx.rows(Trunk, desk.tenant_id)}
        self._sellers = {s.id: s.name for s in desk.tx.rows(Seller, desk.tenant_id)}
        self._campaigns = {c.id: c.name for c in desk.tx.rows(Campaign, desk.tenant_id)}

    def view(self, did: Did) -> DidView:
        return DidView(
            did,
            self._trunks.get(did.trunk_id or "", ""),
            self._sellers.get(did.seller_id or "", ""),
            self._campaigns.get(did.campaign_id or "", ""),
        )


def _view(desk: Desk, did: Did) -> DidView:
    """Of one DID: what it belongs to is read, not all there is."""

    def name(kind: type[Trunk] | type[Seller] | type[Campaign], row_id: str | None) -> str:
        row = desk.tx.find(kind, desk.tenant_id, id=row_id) if row_id else None
        return row.name if row else ""

    return DidView(did, name(Trunk, did.trunk_id), name(Seller, did.seller_id), name(Campaign, did.campaign_id))
