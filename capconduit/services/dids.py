"""DIDs: the numbers that calls arrive on, and whose they are.

Listing ten thousand of them is to be quick: what only single numbers need (phonenumbers, caps) is imported there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from capconduit.domain.model import Campaign, Did, Seller, Trunk
from capconduit.errors import Refused
from capconduit.services.office import Desk, Office
from capconduit.vocab import CapScope, DidStatus


@dataclass(frozen=True, slots=True)
class DidView:
    """A DID with the names of what it belongs to (empty where nothing)."""

    did: Did
    trunk: str
    seller: str
    campaign: str


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

    return desk.named(Did, parse_number(number, desk.settings().default_region))


def assign_did(office: Office, number: str, campaign: str) -> DidView:
    """Give a DID to a campaign (and so to its seller). A suspended DID stays suspended."""

    def work(desk: Desk) -> DidView:
        did, row = find_did_row(desk, number), desk.named(Campaign, campaign)
        status = did.status if did.status is DidStatus.SUSPENDED else DidStatus.ASSIGNED
        return _change(desk, did, replace(did, campaign_id=row.id, seller_id=row.seller_id, status=status))

    return office.change(work)


def release_did(office: Office, number: str) -> DidView:
    """Take a DID back from its campaign; live calls on it go on. A suspended DID stays suspended."""

    def work(desk: Desk) -> DidView:
        did = find_did_row(desk, number)
        status = did.status if did.status is DidStatus.SUSPENDED else DidStatus.AVAILABLE
        return _change(desk, did, replace(did, campaign_id=None, seller_id=None, status=status))

    return office.change(work)


def suspend_did(office: Office, number: str, *, suspended: bool) -> DidView:
    """Stop a DID from taking calls, or let it again."""

    def work(desk: Desk) -> DidView:
        did = find_did_row(desk, number)
        back = DidStatus.ASSIGNED if did.campaign_id else DidStatus.AVAILABLE
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
