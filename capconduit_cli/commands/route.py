"""`capconduit route`: try a call before it happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from capconduit.units import format_duration, format_instant, format_micros
from capconduit_cli import story
from capconduit_cli.names import TRUNKS, Number, name_option
from capconduit_cli.office import office
from capconduit_cli.output import Column, Kind, OutputFormat, Row, ShowOutput, emit_one, emit_text
from capconduit_cli.params import instant_option
from capconduit_cli.typer_seam import single

if TYPE_CHECKING:
    from capconduit.domain.estate import Offer
    from capconduit.domain.routing import Decision
    from capconduit.services.whatif import WhatIf

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
)


def row(answer: WhatIf, caller: str) -> Row:
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
        yield (
            f"  {place}. {target['target']}  {target['address']}  priority {target['priority']}, weight"
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


@single(
    "capconduit route +18005550100 --from +12125550147",
    "capconduit route +18005550100 --from +12125550147 --at 2026-12-24T20:00 --json",
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
    at: Annotated[int | None, instant_option("--at", help="When it comes; now where not given.")] = None,
) -> None:
    """Decide about a call as if it came, and take nothing.

    Says whether it would be dialled or rejected, to which targets in which order, why not to the others, and every
    check with its numbers. Balances are those of now, whatever --at says. A reject is an answer: exit code 0.
    """
    from capconduit.services.whatif import what_if

    answer = what_if(office(ctx), did, caller=caller or "", trunk=trunk or "", at_ms=at)
    values = row(answer, caller or "")
    if out.format is OutputFormat.TABLE and out.fields is None:
        emit_text(lines(values, answer))
    else:
        emit_one(values, COLUMNS, out)
