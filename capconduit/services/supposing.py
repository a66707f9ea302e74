"""Reading what is supposed for a what-if: `balance:acme=5`, `cap:campaign:solar:concurrent=9`, `target:buyer1=rested`.

The same words as on the command line everywhere: names, metrics and windows of `cap set`, amounts as people write them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Final

from capconduit.domain.estate import Estate, ZonedCap
from capconduit.domain.model import Seller, Target
from capconduit.domain.rating import SECONDS_PER_MINUTE
from capconduit.domain.supposed import Supposed
from capconduit.domain.usage import window_text
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk
from capconduit.units import MAX_MICROS, MS_PER_SECOND, parse_money
from capconduit.vocab import CapMetric, CapScope

RESTED, WELL = "rested", "well"
MAX_USED: Final = 1_000_000_000_000
_FORM: Final = (
    "write it like balance:acme=5, cap:campaign:solar:concurrent=9, cap:system:billable/day=100 or target:buyer1=rested"
)


def suppose(desk: Desk, estate: Estate, texts: Iterable[str], now_ms: int) -> Supposed:
    """What the texts say together; the last one of a thing counts. Raises UsageError, NotFound."""
    balances: dict[str, int] = {}
    used: dict[str, int] = {}
    rested: dict[str, int] = {}
    for text in texts:
        subject, equals, value = text.partition("=")
        kind, _, name = subject.strip().partition(":")
        if not equals or not name or kind not in ("balance", "cap", "target"):
            raise UsageError("given-invalid", f"{text!r} supposes nothing", _FORM)
        if kind == "balance":
            seller = desk.named(Seller, name)
            balances[seller.id] = _amount(value, seller.currency)
        elif kind == "target":
            rested[desk.named(Target, name).id] = _rest(text, value, estate, desk, now_ms)
        else:
            zoned = _cap(desk, estate, text, name)
            used[zoned.cap.id] = _used(text, value, zoned)
    return Supposed(balances, used, rested)


def _amount(value: str, currency: str) -> int:
    micros = parse_money(value, currency=currency, signed=True)
    if abs(micros) > MAX_MICROS:
        raise UsageError("amount-invalid", f"{value!r} is too large", "give a smaller amount")
    return micros


def _rest(text: str, value: str, estate: Estate, desk: Desk, now_ms: int) -> int:
    match value.strip().lower():
        case "rested":
            return now_ms + estate.settings(desk.tenant_id).breaker_rest_s * MS_PER_SECOND
        case "well":
            return 0
    raise UsageError("given-invalid", f"{text!r}: a target is {RESTED} or {WELL}", _FORM)


def _cap(desk: Desk, estate: Estate, text: str, name: str) -> ZonedCap:
    """The one cap that `campaign:solar:billable/day` names; without a window, the only one by that metric."""
    scope_text, _, rest = name.partition(":")
    scopes = [scope.value for scope in CapScope]
    if scope_text not in scopes:
        near = get_close_matches(scope_text, scopes, 1)
        raise UsageError(
            "given-invalid",
            f"{text!r}: nothing is called {scope_text!r}",
            f"did you mean {near[0]!r}?" if near else _FORM,
        )
    scope = CapScope(scope_text)
    limited, _, counts = ("system", "", rest) if scope is CapScope.SYSTEM else rest.partition(":")
    metric, _, window = counts.partition("/")
    own = [z for z in estate.caps.values() if z.cap.tenant_id == desk.tenant_id and z.cap.scope is scope]
    if scope is not CapScope.SYSTEM:
        own = [z for z in own if z.subject == limited]
    found = [z for z in own if z.cap.metric == metric and (not window or window_text(z.cap) == window)]
    if len(found) == 1:
        return found[0]
    where = "the system" if scope is CapScope.SYSTEM else f"{scope} {limited!r}"
    raise Refused(
        "cap-not-found" if not found else "cap-ambiguous",
        f"{text!r}: {where} has {'no such cap' if not found else 'several caps by ' + metric}",
        f"its caps: {', '.join(_names(own)) or 'none'}",
    )


def _names(caps: Sequence[ZonedCap]) -> list[str]:
    return [f"{z.cap.metric}/{window}" if (window := window_text(z.cap)) else str(z.cap.metric) for z in caps]


def _used(text: str, value: str, zoned: ZonedCap) -> int:
    """How much is supposed to be used, as the cap counts it: calls, seconds or micros."""
    metric = zoned.cap.metric
    if metric is CapMetric.SPEND:
        return parse_money(value)
    digits = value.strip()
    if not (digits.isascii() and digits.isdigit()) or int(digits) > MAX_USED:
        unit = "minutes" if metric is CapMetric.MINUTES else "calls"
        raise UsageError("given-invalid", f"{text!r}: {value!r} is no number of {unit}", _FORM)
    return int(digits) * (SECONDS_PER_MINUTE if metric is CapMetric.MINUTES else 1)
