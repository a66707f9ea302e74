"""Where a dialled number leads: its DID, whose it is, and every cap on the way; worked out once for each estate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from capconduit.domain.calls import RouteRequest
from capconduit.domain.estate import Estate, Way, ZonedCap
from capconduit.domain.model import Campaign, Did, Seller, Trunk
from capconduit.domain.numbers import to_e164
from capconduit.vocab import CapScope

WAYS_MAX: Final = 20_000  # remembered at once; as many DIDs as most operators have


def find_way(request: RouteRequest, estate: Estate) -> Way:
    """Where the number of a call leads.

    National numbers are read with the region of the trunk the call came on; where several tenants name a trunk so, the
    call counts for that of the DID's tenant. A call that names no trunk counts for the DID's own; one from a trunk that
    the estate does not know counts for none.
    """
    key = request.trunk, request.dnid
    way = estate.ways.get(key)
    if way is None:
        way = _make_way(request, estate)
        if way.did is not None:  # there is no end of numbers that are nobody's
            if len(estate.ways) >= WAYS_MAX:
                estate.ways.clear()
            estate.ways[key] = way
    return way


def region_of(trunk: Trunk | None, estate: Estate) -> str:
    """The region of national numbers on a trunk (ISO 3166)."""
    tenant_id = trunk.tenant_id if trunk else estate.first_tenant_id()
    return (trunk.region if trunk else "") or estate.settings(tenant_id).default_region


def caps_of_call(
    estate: Estate, tenant_id: str, seller: Seller, did: Did, trunk: Trunk | None, campaign: Campaign
) -> list[tuple[CapScope, Sequence[ZonedCap]]]:
    """The caps that hold for a call as a whole, in the order they are checked."""
    return [
        (CapScope.SYSTEM, estate.scoped(CapScope.SYSTEM, tenant_id)),
        (CapScope.SELLER, estate.scoped(CapScope.SELLER, seller.id)),
        (CapScope.DID, estate.scoped(CapScope.DID, did.id)),
        (CapScope.TRUNK, estate.scoped(CapScope.TRUNK, trunk.id if trunk else None)),
        (CapScope.CAMPAIGN, estate.scoped(CapScope.CAMPAIGN, campaign.id)),
    ]


def _make_way(request: RouteRequest, estate: Estate) -> Way:
    named = estate.trunks_by_name.get(request.trunk, ())
    trunk = named[0] if named else None
    number = to_e164(request.dnid, region_of(trunk, estate)) or request.dnid
    did = estate.dids_by_number.get(number)
    if did is not None and (trunk is None or trunk.tenant_id != did.tenant_id):
        own = estate.trunks[did.trunk_id] if did.trunk_id is not None and not request.trunk else None
        trunk = next((t for t in named if t.tenant_id == did.tenant_id), own)
    owner = did or trunk
    tenant_id = owner.tenant_id if owner else estate.first_tenant_id()
    way = Way(number, region_of(trunk, estate), tenant_id, did, trunk)
    if did is None or did.campaign_id is None:
        return way
    campaign = estate.campaigns[did.campaign_id]
    seller = estate.sellers[campaign.seller_id]
    caps = caps_of_call(estate, did.tenant_id, seller, did, trunk, campaign)
    every = [zoned for _, own_caps in caps for zoned in own_caps]
    for offer in estate.offers(campaign).all:
        every.extend(offer.caps)
    return Way(number, way.region, tenant_id, did, trunk, campaign, seller, caps, tuple(every))
