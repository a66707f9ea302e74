"""Lists of DIDs: ten thousand numbers as one change, in a few statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from capconduit.domain.model import Campaign, Cap, Did, Seller, Trunk
from capconduit.domain.numbers import parse_number
from capconduit.errors import Refused, UsageError
from capconduit.services.bulk import (
    BadLines,
    Columns,
    Line,
    Outcome,
    Plan,
    Problems,
    Tell,
    carry_out,
    check_count,
    exists_already,
    known_name,
    progress,
    silent,
    twice,
    with_audit,
    write,
)
from capconduit.services.dids import DidView, given
from capconduit.services.office import Desk, Office
from capconduit.vocab import CapScope, DidStatus

COLUMNS: Final = Columns(("number",), ("status", "trunk", "seller", "campaign"))
_FREE: Final = frozenset({"", DidStatus.AVAILABLE.value, DidStatus.SUSPENDED.value})
_TAKEN: Final = frozenset({"", DidStatus.ASSIGNED.value, DidStatus.SUSPENDED.value})


def import_dids(
    office: Office,
    lines: Sequence[Line],
    *,
    update: bool = False,
    problems: Problems | None = None,
    tell: Tell = silent,
) -> Outcome:
    """Add the DIDs of a list, and with `update` change those that exist to what their line says.

    Columns that the list does not have stay as they are; an empty cell takes away what was there. Raises BadLines.
    """
    check_count(lines)
    gathered = problems or Problems()
    plan = carry_out(office, lambda desk: _Look(desk, update).plan(lines, gathered, tell), _zones)
    return plan.outcome


def add_many(office: Office, numbers: Sequence[str], *, trunk: str = "", campaign: str = "") -> Sequence[DidView]:
    """New DIDs of numbers in E.164, all or none. Raises NotFound, Refused."""
    lines = [Line(place, {"number": n, "trunk": trunk, "campaign": campaign}) for place, n in enumerate(numbers, 1)]
    try:
        plan = carry_out(office, lambda desk: _Look(desk, False).plan(lines, Problems(), silent), _zones)
    except BadLines as error:
        first = error.problems[0].error
        if len(error.problems) == 1 or len(error.problems) == len(lines):
            raise first from None
        message = f"{len(error.problems)} of {len(lines)} numbers are refused; the first: {first.message}"
        raise Refused(first.slug, message, "nothing was added; leave them out of the range") from None

    def work(desk: Desk) -> Sequence[DidView]:
        look = _Look(desk, False)
        return [look.view(did) for did in plan.added if isinstance(did, Did)]

    return office.read(work)


def give_many(desk: Desk, dids: Sequence[Did], seller: Seller, campaign: Campaign | None) -> None:
    """These DIDs, none of them twice, are the seller's from now on, as dids.give_did makes one; audited one by one.

    In a few statements, however many: decisions wait meanwhile. Whoever calls makes the new version of the estate.
    """
    changed = [(did, replace(given(did, seller, campaign), updated_ms=desk.now_ms)) for did in dids]
    plan = with_audit(desk, Plan("did", changed=list(changed)))
    desk.tx.insert_all(plan.told)
    write(desk, plan, _zones)


def _zones(desk: Desk, plan: Plan) -> Callable[[], None]:
    """A DID that becomes another seller's has its caps in another time zone."""
    moved = {before.id for before, after in plan.changed if _seller(before) != _seller(after)}
    own = desk.tx.rows(Cap, desk.tenant_id, scope=CapScope.DID.value) if moved else ()
    caps = [cap for cap in own if cap.scope_id in moved]
    if not caps:
        return lambda: None
    from capconduit.services.caps import cap_zones, carry_over

    zones = cap_zones(desk, caps)
    return lambda: carry_over(desk, zones, caps)


def _seller(did: object) -> str | None:
    assert isinstance(did, Did)
    return did.seller_id


class _Look:
    """What a list is compared with, read once."""

    def __init__(self, desk: Desk, update: bool) -> None:
        self._desk, self._update = desk, update
        self._trunks = {t.name: t for t in desk.tx.rows(Trunk, desk.tenant_id)}
        self._sellers = {s.name: s for s in desk.tx.rows(Seller, desk.tenant_id)}
        self._campaigns = {c.name: c for c in desk.tx.rows(Campaign, desk.tenant_id)}
        self._seller_names = {s.id: s.name for s in self._sellers.values()}
        self._campaign_names = {c.id: c.name for c in self._campaigns.values()}
        self._trunk_names = {t.id: t.name for t in self._trunks.values()}
        self._region = desk.settings().default_region

    def plan(self, lines: Sequence[Line], problems: Problems, tell: Tell) -> Plan:
        """The rows that the list makes and changes. Raises BadLines."""
        desk, plan = self._desk, Plan("did")
        known = {did.number: did for did in desk.tx.rows(Did, desk.tenant_id)}
        others = {  # a number is of one tenant only
            did.number
            for tenant in desk.tx.tenants()
            if tenant.id != desk.tenant_id
            for did in desk.tx.rows(Did, tenant.id)
        }
        seen: dict[str, int] = {}
        for place, line in enumerate(lines, 1):
            with problems.of(line):
                self._line(line, known, others, seen, plan)
            progress(tell, place, len(lines))
        problems.check()
        return plan

    def _line(self, line: Line, known: Mapping[str, Did], others: set[str], seen: dict[str, int], plan: Plan) -> None:
        trunk = self._named("trunk", line.text("trunk"), self._trunks)
        number = parse_number(line.text("number"), (trunk.region if trunk else "") or self._region)
        if number in seen:
            raise twice("did", number, seen[number])
        seen[number] = line.number
        before = known.get(number)
        if number in others:
            raise Refused("did-exists", f"did {number!r} exists already", "it is another tenant's")
        if before is None:
            blank = Did(
                **self._desk.stamp(), number=number, trunk_id=None, seller_id=None, campaign_id=None,
                status=DidStatus.AVAILABLE,
            )  # fmt: skip
            plan.added.append(self._filled(blank, line, trunk))
            return
        if not self._update:
            raise exists_already("did", number)
        after = self._filled(before, line, trunk)
        if after == before:
            plan.same += 1
        else:
            plan.changed.append((before, replace(after, updated_ms=self._desk.now_ms)))

    def _filled(self, did: Did, line: Line, trunk: Trunk | None) -> Did:
        """The DID as its line wants it. Raises UsageError, NotFound, Refused."""
        if "trunk" in line.cells:
            did = replace(did, trunk_id=trunk.id if trunk else None)
        seller_id, campaign_id = self._owner(did, line)
        status = self._status(did, line, taken=seller_id is not None)
        return replace(did, seller_id=seller_id, campaign_id=campaign_id, status=status)

    def _owner(self, did: Did, line: Line) -> tuple[str | None, str | None]:
        """Whose it is to be: seller and campaign. A campaign says its seller; one that is left leaves it too."""
        campaign = self._named("campaign", line.text("campaign"), self._campaigns)
        seller = self._named("seller", line.text("seller"), self._sellers)
        seller_id, campaign_id = did.seller_id, did.campaign_id
        if "campaign" in line.cells and (campaign is not None or campaign_id is not None):
            campaign_id = campaign.id if campaign else None
            seller_id = campaign.seller_id if campaign else None
        if "seller" not in line.cells or (campaign is not None and seller is None):
            return seller_id, campaign_id
        if campaign_id is not None and (seller is None or seller.id != seller_id):
            name, whose = self._campaign_names[campaign_id], self._seller_names[seller_id or ""]
            raise Refused(
                "seller-mismatch",
                f"campaign {name!r} is seller {whose!r}'s, not {line.text('seller')!r}'s",
                "leave the seller out, or name a campaign of its own",
            )
        return seller.id if seller else None, campaign_id

    @staticmethod
    def _status(did: Did, line: Line, *, taken: bool) -> DidStatus:
        """The status that was written, or the one that follows. Raises UsageError."""
        text = line.text("status").lower()
        if text not in (_TAKEN if taken else _FREE):
            belongs = "belongs to a seller" if taken else "belongs to nobody"
            possible = ", ".join(sorted((_TAKEN if taken else _FREE) - {""}))
            raise UsageError("status-invalid", f"a DID that {belongs} cannot be {text!r}", f"write one of {possible}")
        if text:
            return DidStatus(text)
        if did.status is DidStatus.SUSPENDED and "status" not in line.cells:
            return DidStatus.SUSPENDED
        return DidStatus.ASSIGNED if taken else DidStatus.AVAILABLE

    @staticmethod
    def _named(noun: str, name: str, names: Mapping[str, Any]) -> Any:
        return known_name(noun, name, names) if name else None

    def view(self, did: Did) -> DidView:
        """With the names of what it belongs to."""
        return DidView(
            did,
            self._trunk_names.get(did.trunk_id or "", ""),
            self._seller_names.get(did.seller_id or "", ""),
            self._campaign_names.get(did.campaign_id or "", ""),
        )
