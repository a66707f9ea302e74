"""`capconduit route`: try a call before it happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.units import format_duration, format_instant, format_micros
from capconduit.vocab import Attestation
from capconduit_cli import story
from capconduit_cli.names import TARGETS, TRUNKS, Number, name_option
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, OutputFormat, Row, ShowOutput, emit_one, emit_text
from capconduit_cli.params import instant_option
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.domain.estate import Offer
    from capconduit.domain.routing import Decision
    from capconduit.services.whatif import WhatIf
    from capconduit.services.why_not import WhyNot

COLUMNS: Final = (
    Column("verdict"),
    Column("did"),
    Column("caller"),
    Column("trunk"),
    Column("at", Kind.INSTANT, source="at_ms"),
    Column("seller"),
    Column("campaign"),
    Column("strategy"),
    Column("target"),
    Column("targets", Kind.ANY),
    Column("skipped", Kind.ANY),
    Column("hold", Kind.MONEY, source="hold_micros"),
    Column("funded_s", Kind.INT),
    Column("ceiling_ms", Kind.DURATION),
    Column("currency"),
    Column("reject_code"),
    Column("reject_reason"),
    Column("hangup_cause", Kind.INT),
    Column("sip_code", Kind.INT),
    Column("checks", Kind.ANY),
    Column("given", Kind.NAMES),
    Column("why_not", Kind.ANY),
)


def row(answer: WhatIf, caller: str, given: Sequence[str] = ()) -> Row:
    """The answer as it is printed in JSON."""
    from capconduit.domain.calls import RejectAnswer

    decision, funding = answer.decision, answer.decision.funding
    reject = answer.answer if isinstance(answer.answer, RejectAnswer) else None
    dial = None if isinstance(answer.answer, RejectAnswer) else answer.answer
    return {
        "verdict": "reject" if reject else "dial",
        "did": decision.did_number,
        "caller": decision.caller_e164 or caller,
        "trunk": decision.trunk.name if decision.trunk else "",
        "at_ms": answer.at_ms,
        "seller": decision.seller.name if decision.seller else "",
        "campaign": decision.campaign.name if decision.campaign else "",
        "strategy": decision.campaign.strategy if decision.campaign else "",
        "target": dial.target if dial else "",
        "targets": _targets(decision) if dial else [],
        "skipped": [c.detail for c in decision.checks if c.name == "target" and not c.ok],
        "hold_micros": funding.hold_micros if dial and funding else None,
        "funded_s": funding.funded_s if dial and funding else None,
        "ceiling_ms": dial.ceiling_ms if dial else None,
        "currency": decision.seller.currency if decision.seller else "",
        "reject_code": reject.code if reject else "",
        "reject_reason": reject.reason if reject else "",
        "hangup_cause": reject.cause if reject else None,
        "sip_code": reject.sip if reject else None,
        "checks": [story.check_json(check) for check in decision.checks],
        "given": list(given),
        "why_not": _why_not_json(answer.why_not) if answer.why_not else None,
    }


def _why_not_json(fate: WhyNot) -> dict[str, Any]:
    return {
        "target": fate.target,
        "outcome": fate.outcome,
        "place": fate.place,
        "check": story.check_json(fate.check) if fate.check else None,
        "change": list(fate.change),
    }


def _why_not_lines(fate: WhyNot, currency: str) -> Iterator[str]:
    """What becomes of the target that was asked about, and what would change it."""
    yield ""
    yield f"{fate.target}: {_FATES[fate.outcome].format(place=fate.place)}"
    if fate.check is not None:
        yield from (f"  {line}" for line in story.check_lines([fate.check], currency))
    lead = "would be dialled if" if fate.outcome == "later" else "would have to change"
    for change in fate.change:
        yield f"  {lead}: {change.replace('`', '')}"
        lead = "or"


_FATES: Final = {
    "dialled": "would be dialled, nothing rules it out",
    "later": "would be dialled as number {place}, when those before it have failed",
    "skipped": "is passed by",
    "no-rule": "is none of the campaign's targets",
    "rejected": "is not looked at: the call is rejected before",
}


def _targets(decision: Decision) -> list[dict[str, Any]]:
    return [
        {
            "target": c.target.name,
            "address": c.target.address,
            "priority": c.rule.priority,
            "weight": c.rule.weight,
            "ring_ms": c.target.ring_ms,
            "rate": story.tariff_json(c.offer.tariff),
            "payout_rate": story.tariff_json(c.offer.payout),
            "minute_margin": _decimal(_minute_margin(c.offer)),
        }
        for c in decision.candidates
    ]


def _minute_margin(offer: Offer) -> int | None:
    """What a call of one minute leaves; None where nothing is paid out."""
    from capconduit.domain.rating import SECONDS_PER_MINUTE, price_of_seconds, round_up_to_increment

    if offer.payout is None:
        return None
    price, paid = (
        price_of_seconds(tariff, round_up_to_increment(tariff, SECONDS_PER_MINUTE))
        for tariff in (offer.tariff, offer.payout)
    )
    return price - paid


def _decimal(micros: int | None) -> str | None:
    return None if micros is None else format_micros(micros)


def _price_line(offer: Offer, currency: str) -> str:
    margin = _minute_margin(offer)
    if offer.payout is None or margin is None:
        return f"costs {story.tariff_words(offer.tariff)}"
    words = f"costs {story.tariff_words(offer.tariff)}; pays out {story.tariff_words(offer.payout)}"
    return f"{words}; a minute leaves {story.money(margin, currency)}"


def lines(values: Row, answer: WhatIf) -> Iterator[str]:
    """The answer as people read it."""
    r: Any = values
    yield f"{r['did']} from {r['caller'] or 'a withheld number'} at {format_instant(answer.at_ms)}: {r['verdict']}"
    if r["verdict"] == "reject":
        yield f"  {story.reject_words(r['reject_code'], r['reject_reason'])}"
        yield f"  hangup cause {r['hangup_cause']}, SIP {r['sip_code']}"
    at_once = r["target"].split("&")
    if len(at_once) > 1:
        yield f"  the first {len(at_once)} ring at once"
    for place, (target, candidate) in enumerate(zip(r["targets"], answer.decision.candidates, strict=False), 1):
        where = candidate.target.address or candidate.target.kind
        yield (
            f"  {place}. {target['target']}  {where}  priority {target['priority']}, weight"
            f" {target['weight']}, may ring {format_duration(target['ring_ms'])}"
        )
        yield f"     {_price_line(candidate.offer, r['currency'])}"
    for skipped in r["skipped"]:
        yield f"  not {skipped.get('target')}: {story.why_words(str(skipped.get('why')))}"
    if r["hold_micros"] is not None:
        yield (
            f"  holds {story.money(r['hold_micros'], r['currency'])} for the first {r['funded_s']}s, no longer than"
            f" {format_duration(r['ceiling_ms'])} in all"
        )
    yield ""
    yield "checks (caps are used/in flight/limit)"
    yield from (f"  {line}" for line in story.check_lines(answer.decision.checks, r["currency"]))
    if answer.why_not is not None:
        yield from _why_not_lines(answer.why_not, r["currency"])


@single(
    "capconduit route +18005550100 --from +12125550147",
    "capconduit route +18005550100 --from +12125550147 --at 2026-12-24T20:00 --json",
    "capconduit route +18005550100 --from +12125550147 --attestation A",
    "capconduit route +18005550100 --why-not buyer1",
    "capconduit route +18005550100 --given balance:acme=5 --given cap:campaign:solar:concurrent=9",
)
def app(
    ctx: typer.Context,
    did: Number,
    out: ShowOutput,
    caller: Annotated[
        str | None,
        typer.Option("--from", metavar="ANI", help="The caller's number.", show_default="a withheld number"),
    ] = None,
    trunk: Annotated[
        str | None, name_option("--trunk", TRUNKS, "The trunk it comes on; the DID's own where not given.")
    ] = None,
    attestation: Annotated[
        Attestation | None,
        typer.Option("--attestation", help="The STIR attestation it comes with.", show_default="none"),
    ] = None,
    at: Annotated[int | None, instant_option("--at", help="When it comes; now where not given.")] = None,
    why_not: Annotated[
        str | None,
        name_option("--why-not", TARGETS, "Say what rules this target out, and what would have to change."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="WHAT=VALUE",
            help="Suppose that balance:SELLER=AMOUNT, cap:SCOPE:NAME:METRIC[/WINDOW]=USED (cap:system:METRIC=USED), or"
            " target:NAME=rested|well; may be given several times.",
        ),
    ] = None,
) -> None:
    """Decide about a call as if it came, and take nothing.

    Says whether it would be dialled or rejected, to which targets in which order, why not to the others, and every
    check with its numbers. Balances and caps are those of now, whatever --at says, or those that --given supposes: the
    use of a cap as `capconduit cap usage` counts it (minutes, amounts), of which nothing is in flight. A reject is an
    answer: exit code 0.
    """
    from capconduit.services.whatif import what_if

    supposed = given or []
    answer = what_if(
        office(ctx),
        did,
        caller=caller or "",
        trunk=trunk or "",
        attestation=attestation or "",
        at_ms=at,
        given=supposed,
        about=why_not or "",
    )
    values = row(answer, caller or "", supposed)
    if out.format is OutputFormat.TABLE and out.fields is None:
        emit_text(lines(values, answer))
    else:
        emit_one(values, COLUMNS, out)
