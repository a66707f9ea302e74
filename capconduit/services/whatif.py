"""What would happen to a call, now or at another instant: the decision, asked without taking anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capconduit.domain.admission import reject_answer, ring_seconds
from capconduit.domain.books import Books
from capconduit.domain.calls import DialAnswer, RouteAnswer, RouteRequest
from capconduit.domain.dialing import dial_of_attempt
from capconduit.domain.model import Target, Trunk
from capconduit.domain.needs import Needs, caller_key, needs_of
from capconduit.domain.numbers import parse_number
from capconduit.domain.routing import Decision, first_dial, route
from capconduit.domain.supposed import SupposedUsage
from capconduit.services.office import Desk, Office
from capconduit.services.supposing import suppose
from capconduit.services.why_not import WhyNot, why_not

_SEED = "what-if"  # stands for the call's id where the strategy draws


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What would be answered at `at_ms`, and the decision with its trace."""

    at_ms: int
    decision: Decision
    answer: RouteAnswer
    why_not: WhyNot | None = None  # where a target was asked about


def what_if(
    office: Office,
    did: str,
    *,
    caller: str = "",
    trunk: str = "",
    attestation: str = "",
    at_ms: int | None = None,
    given: Sequence[str] = (),
    about: str = "",
) -> WhatIf:
    """Decide about a call on `did` from `caller` as if it came at `at_ms` (default: now), by the balances and counts of
    now, or those that `given` supposes (see services/supposing.py); `about` is a target whose fate is asked for.

    Raises UsageError for a DID that is no number or a supposition that is none, NotFound for an unknown name.
    """

    def work(desk: Desk) -> WhatIf:
        if trunk:
            desk.named(Trunk, trunk)  # an unknown one would silently be passed by, as an unknown peer is
        asked = desk.named(Target, about) if about else None
        estate = desk.tx.load_estate()
        now_ms = desk.now_ms if at_ms is None else at_ms
        request = RouteRequest(
            node="what-if",
            boot_id="",
            uniqueid=_SEED,
            dnid=parse_number(did, desk.settings().default_region),
            ani=caller,
            trunk=trunk,
            attestation=attestation,
            arrived_ms=now_ms,
        )
        books = Books()
        known_as = caller_key(request, estate)
        desk.tx.lock_callers([known_as] if known_as else [], books)
        needs = Needs()
        needs_of(request, estate, books, now_ms, needs)
        desk.tx.lock_needs(needs, books)
        usage = SupposedUsage(books, suppose(desk, estate, given, now_ms))
        decision = route(request, estate, usage, now_ms, _SEED)
        fate = why_not(asked, decision, estate, usage, now_ms, did) if asked else None
        settings = estate.settings(decision.tenant_id)
        if decision.reject is not None:
            return WhatIf(now_ms, decision, reject_answer("", decision.reject, decision.reason, settings), fate)
        return WhatIf(now_ms, decision, _dial(decision), fate)

    return office.read(work)


def _dial(decision: Decision) -> DialAnswer:
    campaign, funding = decision.campaign, decision.funding
    assert campaign is not None  # a decision that is no reject has both
    assert funding is not None
    dialled = first_dial(campaign, decision.candidates, campaign.max_attempts)
    return DialAnswer(
        call_id="",
        attempt=1,
        dial="&".join(dial_of_attempt(c.offer.dial, "CALL", number) for number, c in enumerate(dialled, 1)),
        ring_s=ring_seconds(dialled, campaign.ring_budget_ms),
        funded_s=funding.funded_s,
        ceiling_ms=campaign.max_duration_ms,
        target="&".join(c.target.name for c in dialled),
    )
