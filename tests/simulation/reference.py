"""The same rules again, slow and obviously right: prices in fractions, windows by their names, counts one by one.

Nothing here comes from the product but the vocabulary and the shapes of rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import ceil
from typing import Any
from zoneinfo import ZoneInfo

from capconduit.domain.model import (
    Attempt,
    Block,
    Call,
    Campaign,
    Cap,
    Cdr,
    Did,
    Hold,
    Rule,
    Seller,
    Setting,
    Trunk,
)
from capconduit.vocab import CapMetric, CapScope, RejectCode, WindowKind
from tests.simulation.memory import Tables

CUT_TOLERANCE_MS = 250  # a call that our own limit ended is measured so much longer, and not charged for it
PER_ATTEMPT = (CapScope.TARGET, CapScope.RULE)
WITHHELD = ("", "anonymous", "unknown", "unavailable", "private", "restricted", "withheld")


# --- money ------------------------------------------------------------------------------------------------------------


Prices = Any  # whatever carries a tariff's numbers: a rate, a call, a record


PRICES = ("connect_fee_micros", "per_minute_micros", "first_s", "step_s", "then_after_s", "then_per_minute_micros")


def billed_seconds(prices: Prices, seconds: int) -> int:
    """The first increment, and then one more for each that was begun."""
    billed: int = prices.first_s
    while billed < seconds:
        billed += prices.step_s * max((seconds - billed) // prices.step_s, 1)
    return billed


def price(prices: Prices, seconds: int) -> int:
    """Micros of `seconds` of talk: each billed second at its own price, the sum rounded up once."""
    cost = Fraction(0)
    billed = billed_seconds(prices, seconds)
    at_first = min(billed, prices.then_after_s) if prices.then_after_s else billed
    cost += Fraction(at_first * prices.per_minute_micros, 60)
    cost += Fraction((billed - at_first) * prices.then_per_minute_micros, 60)
    return int(prices.connect_fee_micros) + ceil(cost)


def seconds_of(talk_ms: int) -> int:
    """Talk time in seconds, a begun one counting."""
    return ceil(Fraction(talk_ms, 1_000))


def possible_prices(cdr: Cdr) -> set[int]:
    """What a call costs by its record; two prices where it may have been cut by our limit, a moment too late."""
    if cdr.answered_ms is None or cdr.talk_ms < cdr.billable_threshold_ms:
        return {0}
    prices = {price(cdr, seconds_of(cdr.talk_ms))}
    if cdr.talk_ms >= 1_000 and cdr.talk_ms % 1_000 <= CUT_TOLERANCE_MS:
        seconds = cdr.talk_ms // 1_000
        prices.add(price(cdr, seconds) if seconds * 1_000 >= cdr.billable_threshold_ms else 0)
    return prices


def tariff_of(text: str) -> Prices:
    """The prices that were kept with an attempt."""

    class Kept:
        connect_fee_micros, per_minute_micros, first_s, step_s, _, then_after_s, then_per_minute_micros = json.loads(
            text
        )

    return Kept


# --- time -------------------------------------------------------------------------------------------------------------


def local_time(at_ms: int, zone: str) -> datetime:
    """The local time of an instant."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(ZoneInfo(zone))


def window_name(kind: WindowKind, at_ms: int, zone: str) -> str:
    """The name of the window of an instant, as a person in that zone would say it; equal names are one window."""
    local = local_time(at_ms, zone)
    match kind:
        case WindowKind.HOUR:
            return local.strftime("%Y-%m-%d %H %z")
        case WindowKind.DAY:
            return local.strftime("%Y-%m-%d")
        case WindowKind.WEEK:
            return local.strftime("%G week %V")
        case WindowKind.MONTH:
            return local.strftime("%Y-%m")
        case _:
            return "always"


# Opening hours that the worlds use, as an operator writes them and as a person understands them: (days, from, to).
HOURS: Mapping[str, Sequence[tuple[Sequence[int], int, int]]] = {
    "always": [(range(7), 0, 24)],
    "never": [],
    "Mon-Fri 09:00-17:00": [(range(5), 9, 17)],
    "Mon-Sun 06:00-22:00": [(range(7), 6, 22)],
    "Sat-Sun 00:00-24:00": [((5, 6), 0, 24)],
    "Mon-Sun 20:00-04:00": [(range(7), 20, 28)],
}


def is_open(hours: str, zone: str, at_ms: int) -> bool:
    """Whether these hours are open: today's, or those of last night."""
    local = local_time(at_ms, zone)
    today, yesterday = local.weekday(), (local - timedelta(days=1)).weekday()
    yesterday = (today - 1) % 7
    hour = Fraction(local.hour * 60 + local.minute, 60)
    return any(
        (today in days and begin <= hour < end) or (yesterday in days and begin <= hour + 24 < end)
        for days, begin, end in HOURS[hours]
    )


# --- callers ----------------------------------------------------------------------------------------------------------


def is_withheld(received: str) -> bool:
    """Whether the caller's number was withheld."""
    return received.strip().lower() in WITHHELD


def known_as(e164: str, received: str) -> str:
    """Whom a caller is known as, empty for nobody."""
    return e164 or ("" if is_withheld(received) else received.strip())


def is_blocked(blocks: Iterable[Block], call: Any, at_ms: int) -> bool:
    """Whether a caller is on a list that holds for the call. `call` is a call or the record of a reject."""
    e164 = call.ani_e164 if isinstance(call, Call) else call.caller_e164
    received = call.ani if isinstance(call, Call) else call.caller
    names = {"anonymous" if is_withheld(received) else received.strip().lower(), e164} - {""}
    owners = {
        CapScope.SYSTEM: call.tenant_id, CapScope.SELLER: call.seller_id, CapScope.CAMPAIGN: call.campaign_id,
    }  # fmt: skip
    for block in blocks:
        if owners.get(block.scope) != block.scope_id or (block.expires_ms is not None and block.expires_ms <= at_ms):
            continue
        pattern = re.escape(block.pattern).replace(r"\?", "[0-9]").replace(r"\*", "[0-9]*")
        wild = "?" in block.pattern or "*" in block.pattern
        if any(re.fullmatch(pattern, name) for name in ({e164} if wild else names)):
            return True
    return False


def is_vouched_for(required: str, attestation: str, verdict: str) -> bool:
    """Whether a caller's number is vouched for well enough. The worlds use these words only."""
    if not required:
        return True
    if verdict in ("TN-Validation-Failed", "No-TN-Validation"):
        return False
    level = attestation or (verdict[-1] if re.search("-[ABC]$", verdict) else "")
    return bool(level) and level <= required


def zone_of(cap: Cap, tables: Tables) -> str:
    """The time zone that a cap's windows follow."""

    rows = tables.rows
    seller: str | None = None
    match cap.scope:
        case CapScope.SELLER:
            seller = cap.scope_id
        case CapScope.CAMPAIGN:
            seller = rows[Campaign][cap.scope_id].seller_id
        case CapScope.RULE:
            seller = rows[Campaign][rows[Rule][cap.scope_id].campaign_id].seller_id
        case CapScope.DID:
            seller = rows[Did][cap.scope_id].seller_id
        case _:
            pass
    if seller is not None:
        return str(rows[Seller][seller].timezone)
    return str(rows[Setting][(cap.tenant_id, "timezone")].value)


# --- what caps count --------------------------------------------------------------------------------------------------


def owner_of(cap: Cap, row: Any, trunks: Mapping[str, str]) -> bool:
    """Whether a call or its record is one of what `cap` limits as a whole; `trunks` are names by id."""
    match cap.scope:
        case CapScope.SYSTEM:
            return bool(row.tenant_id == cap.scope_id)
        case CapScope.SELLER:
            return bool(row.seller_id == cap.scope_id)
        case CapScope.CAMPAIGN:
            return bool(row.campaign_id == cap.scope_id)
        case CapScope.DID:
            return bool(row.did_id == cap.scope_id)
        case CapScope.TRUNK:
            return bool(row.trunk == trunks.get(cap.scope_id))
        case _:
            raise AssertionError(cap.scope)


def counted(cap: Cap, cdr: Cdr) -> int:
    """What a settled call counts for a cap on the caller's side, or what its answered leg counts on the target's."""
    match cap.metric:
        case CapMetric.ATTEMPTS:
            return int(cdr.attempts > 0 and cdr.reject_code != RejectCode.ENGINE_TIMEOUT)
        case CapMetric.CONNECTED:
            return int(cdr.answered_ms is not None)
        case CapMetric.BILLABLE:
            return int(cdr.billable)
        case CapMetric.MINUTES:  # the least that it may count: one that our limit has cut is a few ms longer
            return seconds_of(max(cdr.talk_ms - CUT_TOLERANCE_MS, 0)) if cdr.answered_ms is not None else 0
        case CapMetric.SPEND:
            return cdr.amount_micros
        case _:
            return 0


def reserved(cap: Cap, call: Call, hold_micros: int, leg: Attempt | None = None) -> int:
    """What a live call reserves; `leg`: what that leg may cost of it."""
    if cap.metric is CapMetric.MINUTES:
        return call.funded_s
    if cap.metric is not CapMetric.SPEND:
        return 1
    return price(tariff_of(leg.tariff), call.funded_s) if leg is not None else hold_micros


def attempt_counted(cap: Cap, attempt: Attempt, cdr: Cdr | None) -> int:
    """What an attempt that has ended counts for a cap on the target's side. Without a cause it was never dialled."""
    if cdr is not None and cdr.attempt == attempt.number:
        return counted(cap, cdr)
    if cap.metric is not CapMetric.ATTEMPTS or attempt.hangup_cause is None:
        return 0
    return 1


class Uses:
    """Everything that a cap counts, one by one: (instant, settled, reserved)."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def of(self, cap: Cap) -> list[tuple[int, int, int]]:
        """All uses of a cap, of all time."""
        rows = self._tables.rows
        trunks = {t.id: t.name for t in rows[Trunk].values()}
        uses: list[tuple[int, int, int]] = []
        if cap.scope not in PER_ATTEMPT:
            settled = (c for c in rows[Cdr].values() if c.attempts and owner_of(cap, c, trunks))
            live = (c for c in rows[Call].values() if owner_of(cap, c, trunks))
            uses += [(c.decided_ms, counted(cap, c), 0) for c in settled]
            uses += [(c.decided_ms, 0, reserved(cap, c, rows[Hold][c.id].amount_micros)) for c in live]
            return uses
        column = "target_id" if cap.scope is CapScope.TARGET else "rule_id"
        for attempt in rows[Attempt].values():
            if getattr(attempt, column) != cap.scope_id:
                continue
            call = rows[Call].get(attempt.call_id)
            if attempt.ended_ms is not None:
                cdr = rows[Cdr].get(attempt.call_id)
                uses.append((attempt.started_ms, attempt_counted(cap, attempt, cdr), 0))
            elif call is not None:
                held = rows[Hold][call.id].amount_micros
                uses.append((attempt.started_ms, 0, reserved(cap, call, held, attempt)))
        return uses

    def admissions(self, cap: Cap) -> list[int]:
        """The instants at which something new came under a cap, whatever became of it."""
        rows = self._tables.rows
        trunks = {t.id: t.name for t in rows[Trunk].values()}
        if cap.scope in PER_ATTEMPT:
            column = "target_id" if cap.scope is CapScope.TARGET else "rule_id"
            return [a.started_ms for a in rows[Attempt].values() if getattr(a, column) == cap.scope_id]
        admitted = [*rows[Call].values(), *(c for c in rows[Cdr].values() if c.attempts)]
        return [c.decided_ms for c in admitted if owner_of(cap, c, trunks)]
