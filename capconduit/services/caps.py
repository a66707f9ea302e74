"""Caps: setting them so that what happened before counts, their use, and whether the counts are true."""

from __future__ import annotations

import re
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.books import Books, Changes, CounterKey
from capconduit.domain.estate import Estate, Rows, ZonedCap, build_estate
from capconduit.domain.model import (
    Call,
    Campaign,
    Cap,
    Counter,
    Did,
    Entity,
    Place,
    Rule,
    Seller,
    Setting,
    Target,
    TargetState,
    Trunk,
)
from capconduit.domain.needs import Needs
from capconduit.domain.numbers import parse_number
from capconduit.domain.rating import SECONDS_PER_MINUTE
from capconduit.domain.usage import amount_of, counter_key, taken
from capconduit.domain.windows import FOREVER_MS, window_end_ms, window_start_ms
from capconduit.errors import CapConduitError, NotFound, UsageError
from capconduit.services.office import Desk, Office
from capconduit.units import MICROS_PER_UNIT, MS_PER_SECOND, parse_duration_ms, parse_money
from capconduit.vocab import ATTEMPT_SCOPES, CapMetric, CapScope, PlaceState, WindowKind

MAX_LIMIT: Final = 1_000_000_000  # calls, or units of a currency
MAX_MINUTES: Final = 100_000_000
MAX_CPS: Final = 10_000
ROLLING_MS: Final = (10 * MS_PER_SECOND, 35 * 86_400 * MS_PER_SECOND)  # least and most
_LIMITED: Final[Mapping[CapScope, type[Entity]]] = {
    CapScope.SELLER: Seller, CapScope.CAMPAIGN: Campaign, CapScope.DID: Did, CapScope.RULE: Rule,
    CapScope.TARGET: Target, CapScope.TRUNK: Trunk,
}  # fmt: skip
_LIMIT = re.compile(r"^(none|[0-9.,]+)\s*([A-Za-z]{3})?(?:\s*/\s*([a-z]+)(?::([0-9a-z]+))?)?$")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as it is asked for: in calls, seconds or micros as Cap.limit_value; `value` None takes the cap away.

    `currency` is the one that was written behind an amount, empty where none was.
    """

    metric: CapMetric
    window: WindowKind
    value: int | None
    window_ms: int = 0
    currency: str = ""


@dataclass(frozen=True, slots=True)
class CapView:
    """A cap with what it has used in the window of now. `resets_ms` None: never.

    `currency` is that of a cap by spend, empty where what it limits has none (the system, a target, a trunk).
    """

    cap: Cap
    subject: str
    zone: str
    used: int
    in_flight: int
    resets_ms: int | None
    currency: str = ""


@dataclass(frozen=True, slots=True)
class CapDrift:
    """A counter that is not what its places say.

    With `of_target` it is the number of a target's attempts under way, which the strategy fewest-active goes by:
    `in_flight` stands there, `open` are those of live calls.
    """

    cap: Cap | None
    cap_id: str
    subject: str
    window_start_ms: int
    used: int
    in_flight: int
    counted: int
    open: int
    of_target: bool = False


def parse_limit(metric: CapMetric, text: str) -> Limit:
    """`200/day`, `1000/total`, `50/rolling:1h`; minutes `500/day`; spend `25.50/week`; for concurrent and cps a bare
    number. `none` instead of the number takes the cap away.

    Raises UsageError.
    """
    form = _FORMS.get(metric, "write it like 200/day (hour, day, week, month, total, rolling:1h)")
    match = _LIMIT.match(text.strip())
    if match is None:
        raise UsageError("limit-invalid", f"{text!r} is no limit by {metric}", form)
    number, currency, window, length = match.groups()
    if currency and metric is not CapMetric.SPEND:
        raise UsageError("limit-invalid", f"{text!r}: a currency belongs to spend only", form)
    value = None if number == "none" else _limit_value(metric, number, text, form)
    if metric in (CapMetric.CONCURRENT, CapMetric.CPS):
        if window:
            raise UsageError("limit-invalid", f"{text!r}: {metric} is counted now, not by {window}", form)
        return Limit(metric, WindowKind.NONE, value)
    if window not in WINDOWS or (length is not None) != (window == WindowKind.ROLLING):
        hint = "write it like none/day: `capconduit cap list` has the windows" if value is None else form
        raise UsageError("limit-invalid", f"{text!r} names no window", hint)
    window_ms = _rolling_ms(length, text, form) if length else 0
    return Limit(metric, WindowKind(window), value, window_ms, (currency or "").upper())


WINDOWS: Final = frozenset(w.value for w in WindowKind if w is not WindowKind.NONE)
_FORMS: Final = {
    CapMetric.CONCURRENT: "write a number of calls, like 10",
    CapMetric.CPS: "write a number of new calls per second, like 5",
    CapMetric.MINUTES: "write minutes and a window, like 500/day (hour, day, week, month, total, rolling:1h)",
    CapMetric.SPEND: "write an amount and a window, like 25.50/day (hour, day, week, month, total, rolling:1h)",
}


def _limit_value(metric: CapMetric, number: str, text: str, form: str) -> int:
    most = {CapMetric.MINUTES: MAX_MINUTES, CapMetric.CPS: MAX_CPS}.get(metric, MAX_LIMIT)
    try:
        value = parse_money(number) if metric is CapMetric.SPEND else int(number)
    except (CapConduitError, ValueError):
        raise UsageError("limit-invalid", f"{text!r} is no limit by {metric}", form) from None
    if value > most * (MICROS_PER_UNIT if metric is CapMetric.SPEND else 1):
        raise UsageError("limit-invalid", f"{text!r} is too large", f"at most {most}")
    return value * SECONDS_PER_MINUTE if metric is CapMetric.MINUTES else value


def _rolling_ms(length: str, text: str, form: str) -> int:
    try:
        window_ms = parse_duration_ms(length)
    except CapConduitError:
        raise UsageError("limit-invalid", f"{text!r}: {length!r} is no duration", form) from None
    if not ROLLING_MS[0] <= window_ms <= ROLLING_MS[1]:
        raise UsageError("limit-invalid", f"{text!r}: a rolling window of {length}", "give 10s to 35d")
    return window_ms


def find_scope(desk: Desk, scope: CapScope, name: str) -> str:
    """Id of what a cap is to limit; rules are named CAMPAIGN/TARGET. Raises NotFound, UsageError."""
    match scope:
        case CapScope.SYSTEM:
            return desk.tenant_id
        case CapScope.SELLER:
            return desk.named(Seller, name).id
        case CapScope.CAMPAIGN:
            return desk.named(Campaign, name).id
        case CapScope.TARGET:
            return desk.named(Target, name).id
        case CapScope.TRUNK:
            return desk.named(Trunk, name).id
        case CapScope.DID:
            return desk.named(Did, parse_number(name, desk.settings().default_region)).id
        case CapScope.RULE:
            campaign, slash, target = name.partition("/")
            if not slash:
                raise UsageError("rule-name-invalid", f"{name!r} names no rule", "write it like solar/buyer1")
            rule = desk.tx.find(
                Rule,
                desk.tenant_id,
                campaign_id=desk.named(Campaign, campaign).id,
                target_id=desk.named(Target, target).id,
            )
            if rule is None:
                raise NotFound("rule", name)
            return rule.id


def set_caps(office: Office, scope: CapScope, name: str, limits: Sequence[Limit]) -> Sequence[CapView]:
    """Set, change or take away caps of one thing, all or nothing. Returns the caps it has now.

    A new cap counts what happened before it: calls settled in its window, and calls that are alive. A lowered cap ends
    no call; it only stops new ones.
    """
    if not limits:
        raise UsageError("limit-missing", "no limit was given", "add --concurrent 10 or --billable 200/day")

    def work(desk: Desk) -> Sequence[CapView]:
        scope_id = find_scope(desk, scope, name)
        for limit in limits:
            _check_currency(desk, scope, scope_id, limit)
            _set_one(desk, scope, scope_id, _called(desk, scope, name), limit)
        caps = _caps_of(desk, scope, scope_id)
        return _views(desk, _estate_of(desk, caps), [c.id for c in caps])

    return office.change(work)


def _check_currency(desk: Desk, scope: CapScope, scope_id: str, limit: Limit) -> None:
    """A currency that was named is that of what is limited. Raises UsageError."""
    if not limit.currency:
        return
    currency = _currency_of(desk, scope, scope_id)
    if not currency:
        raise UsageError(
            "currency-mismatch",
            f"a cap on a {scope} has no currency: it counts the calls of all sellers",
            f"write the amount without {limit.currency}",
        )
    if limit.currency != currency:
        raise UsageError(
            "currency-mismatch", f"the limit is in {limit.currency}, not in {currency}", f"give it in {currency}"
        )


def _currency_of(desk: Desk, scope: CapScope, scope_id: str) -> str:
    """The currency that calls counted by a scope are paid in; empty where that may be any."""
    seller_id: str | None = None
    match scope:
        case CapScope.SELLER:
            seller_id = scope_id
        case CapScope.CAMPAIGN:
            campaign = desk.tx.find(Campaign, desk.tenant_id, id=scope_id)
            seller_id = campaign.seller_id if campaign else None
        case CapScope.RULE:
            rule = desk.tx.find(Rule, desk.tenant_id, id=scope_id)
            return _currency_of(desk, CapScope.CAMPAIGN, rule.campaign_id) if rule else ""
        case CapScope.DID:
            did = desk.tx.find(Did, desk.tenant_id, id=scope_id)
            seller_id = did.seller_id if did else None
    seller = desk.tx.find(Seller, desk.tenant_id, id=seller_id) if seller_id else None
    return seller.currency if seller else ""


def clear_caps(office: Office, scope: CapScope, name: str) -> int:
    """Take away all caps of one thing; how many there were."""

    def work(desk: Desk) -> int:
        caps = _caps_of(desk, scope, find_scope(desk, scope, name))
        for cap in caps:
            _take_away(desk, cap)
            desk.changed("cap.clear", _called(desk, scope, name), cap, None)
        return len(caps)

    return office.change(work)


def cap_usage(office: Office, scope: CapScope | None = None, name: str = "") -> Sequence[CapView]:
    """Caps with their use now; all, those of a scope, or those of one thing."""

    def work(desk: Desk) -> Sequence[CapView]:
        estate = desk.tx.load_estate()
        scope_id = find_scope(desk, scope, name) if scope is not None and (name or scope is CapScope.SYSTEM) else None
        chosen = [
            z.cap.id
            for z in estate.caps.values()
            if z.cap.tenant_id == desk.tenant_id
            and (scope is None or z.cap.scope is scope)
            and (scope_id is None or z.cap.scope_id == scope_id)
        ]
        return _views(desk, estate, chosen)

    return office.read(work)


def usage_in(desk: Desk, estate: Estate) -> Sequence[CapView]:
    """All caps of the tenant with their use now, by an estate that the caller keeps up to date."""
    return _views(desk, estate, [z.cap.id for z in estate.caps.values() if z.cap.tenant_id == desk.tenant_id])


def verify_caps(office: Office, *, fix: bool = False) -> Sequence[CapDrift]:
    """Counters that differ from their places, and targets whose attempts under way are not those of live calls.

    `fix` sets them right, in the same transaction that found them.
    """

    def work(desk: Desk) -> Sequence[CapDrift]:
        estate = desk.tx.load_estate()
        of_targets = _verify_targets(desk, fix=fix)
        none = Books()
        counters = {(c.cap_id, c.window_start_ms): c for c in desk.tx.rows(Counter, desk.tenant_id)}
        if fix:  # locked before places are summed: who prunes moves what those counted into the counters
            locked = Books()
            desk.tx.lock_counters(dict.fromkeys(counters, desk.tenant_id), locked)
            counters = locked.counters
        sums = desk.tx.place_sums(desk.tenant_id)
        drifts = []
        uncounted = {c.id for c in desk.tx.rows(Cap, desk.tenant_id, metric=CapMetric.CPS.value)}
        for key in sorted(counters.keys() | sums.keys()):
            if key[0] in uncounted:  # calls per second hold no places to recount
                continue
            counter = counters.get(key) or none.counter(desk.tenant_id, key)
            counted, still_open = sums.get(key, (0, 0))
            if (counter.used, counter.in_flight) != (counter.base + counted, still_open):
                zoned = estate.caps.get(key[0])
                drifts.append(_drift(counter, zoned, counted, still_open))
                if fix:
                    put = desk.tx.update if key in counters else desk.tx.insert
                    put(replace(counter, used=counter.base + counted, in_flight=still_open))
        drifts += of_targets
        if fix and drifts:
            desk.changed("cap.verify", f"{len(drifts)} counters set right", None, None)
        return drifts

    return office.change(work) if fix else office.read(work)


def _verify_targets(desk: Desk, *, fix: bool) -> list[CapDrift]:
    """Targets whose `active` is not the number of the attempts under way there. (Only live calls have any.)"""
    live = Books()
    desk.tx.lock_calls(desk.tx.live_call_keys(desk.tenant_id), live, desk.now_ms)
    under_way = Tally(a.target_id for own in live.attempts.values() for a in own.values() if a.ended_ms is None)
    books = Books()
    known = {s.target_id for s in desk.tx.rows(TargetState, desk.tenant_id)}
    desk.tx.lock_needs(Needs(targets=known | under_way.keys()), books)
    names = {t.id: t.name for t in desk.tx.rows(Target, desk.tenant_id)}
    drifts = []
    for target_id in sorted(known | under_way.keys()):
        state = books.target(desk.tenant_id, target_id)
        if state.active == under_way[target_id]:
            continue
        subject = names.get(target_id, "a target that was removed")
        drifts.append(CapDrift(None, target_id, subject, 0, 0, state.active, 0, under_way[target_id], of_target=True))
        if fix:
            books.apply(Changes(targets=[replace(state, active=under_way[target_id])]))
    if fix:
        desk.tx.write(books)
    return drifts


def remove_caps_of(desk: Desk, scope: CapScope, scope_id: str) -> None:
    """The caps of something that is being removed go with it."""
    for cap in _caps_of(desk, scope, scope_id):
        _take_away(desk, cap)


def _take_away(desk: Desk, cap: Cap) -> None:
    """Remove a cap. Its counters stay with the places of live calls, but those of calls per second have none."""
    desk.tx.delete(cap)
    if cap.metric is CapMetric.CPS:
        for counter in desk.tx.rows(Counter, desk.tenant_id, cap_id=cap.id):
            desk.tx.delete(counter)


def cap_zones(desk: Desk, caps: Sequence[Cap] | None = None) -> Mapping[str, str]:
    """The time zone that the windows of each cap, or of these, follow now, by cap id; what `carry_over` wants to know
    afterwards."""
    estate = desk.tx.load_estate() if caps is None else _estate_of(desk, caps)
    return {cap_id: zoned.zone for cap_id, zoned in estate.caps.items()}


def carry_over(desk: Desk, before: Mapping[str, str], caps: Sequence[Cap] | None = None) -> None:
    """Caps (all, or these) whose time zone is another than `before` begin a window of the new zone with all that the
    old one has used.

    So neither zone's day lets more calls through than its limit; the next window is the new zone's own.
    """
    estate = desk.tx.load_estate() if caps is None else _estate_of(desk, caps)
    for zoned in estate.caps.values():
        cap, old_zone = zoned.cap, before.get(zoned.cap.id, zoned.zone)
        if cap.tenant_id != desk.tenant_id or old_zone == zoned.zone:
            continue
        begun_ms = window_start_ms(cap.window_kind, desk.now_ms, old_zone)
        if begun_ms == window_start_ms(cap.window_kind, desk.now_ms, zoned.zone):
            continue
        anew = replace(cap, id=desk.new_id(), updated_ms=desk.now_ms)
        desk.tx.delete(cap)
        desk.tx.insert(anew)
        _count_what_was(desk, anew, begun_ms)


def caps_of(desk: Desk, scope: CapScope, scope_id: str) -> Sequence[Cap]:
    """The caps of one thing."""
    return _caps_of(desk, scope, scope_id)


def _estate_of(desk: Desk, caps: Sequence[Cap]) -> Estate:
    """As much of the estate as these caps need to know their windows: not the whole of it for one cap."""
    found: dict[type[Entity], dict[str, Any]] = {kind: {} for kind in (Seller, Campaign, Did, Rule, Target, Trunk)}

    def take(kind: type[Entity], row_id: str | None) -> Any:
        if row_id and row_id not in found[kind] and (row := desk.tx.find(kind, desk.tenant_id, id=row_id)) is not None:
            found[kind][row_id] = row
        return found[kind].get(row_id or "")

    for cap in caps:
        kind = _LIMITED.get(cap.scope)
        limited = take(kind, cap.scope_id) if kind else None
        if isinstance(limited, Rule):
            take(Target, limited.target_id)
            limited = take(Campaign, limited.campaign_id)
        if isinstance(limited, (Campaign, Did)):
            take(Seller, limited.seller_id)
    rows = {kind: tuple(known.values()) for kind, known in found.items()}
    return build_estate(
        0,
        Rows(
            sellers=rows[Seller], trunks=rows[Trunk], campaigns=rows[Campaign], dids=rows[Did], targets=rows[Target],
            rules=rows[Rule], caps=caps, settings=desk.tx.rows(Setting, desk.tenant_id),
        ),
    )  # fmt: skip


def _caps_of(desk: Desk, scope: CapScope, scope_id: str) -> Sequence[Cap]:
    return desk.tx.rows(Cap, desk.tenant_id, scope=scope.value, scope_id=scope_id)


def _drift(counter: Counter, zoned: ZonedCap | None, counted: int, still_open: int) -> CapDrift:
    return CapDrift(
        cap=zoned.cap if zoned else None,
        cap_id=counter.cap_id,
        subject=zoned.subject if zoned else "a cap that was cleared",
        window_start_ms=counter.window_start_ms,
        used=counter.used,
        in_flight=counter.in_flight,
        counted=counter.base + counted,
        open=still_open,
    )


def _called(desk: Desk, scope: CapScope, name: str) -> str:
    """What is limited as the audit has it, however it was written: `campaign solar`, `did +18005550100`, `system`."""
    known = parse_number(name, desk.settings().default_region) if scope is CapScope.DID else name
    return f"{scope} {known}".strip()


def _set_one(desk: Desk, scope: CapScope, scope_id: str, subject: str, limit: Limit) -> None:
    before = desk.tx.find(
        Cap,
        desk.tenant_id,
        scope=scope.value,
        scope_id=scope_id,
        metric=limit.metric.value,
        window_kind=limit.window.value,
        window_ms=limit.window_ms,
    )
    if limit.value is None:
        if before is not None:
            _take_away(desk, before)
            desk.changed("cap.clear", subject, before, None)
        return
    if before is not None:
        after = replace(before, limit_value=limit.value, updated_ms=desk.now_ms)
        desk.tx.update(after)
        desk.changed("cap.set", subject, before, after)
        return
    cap = Cap(
        **desk.stamp(),
        scope=scope,
        scope_id=scope_id,
        metric=limit.metric,
        window_kind=limit.window,
        limit_value=limit.value,
        window_ms=limit.window_ms,
    )
    desk.tx.insert(cap)
    desk.changed("cap.set", subject, None, cap)
    _count_what_was(desk, cap)


def _count_what_was(desk: Desk, cap: Cap, begun_ms: int | None = None) -> None:
    """Give a new cap its past: settled calls of the window of now as `base`, live calls as places.

    What was admitted since `begun_ms`, where that is earlier, counts in the window of now. The estate's version is
    locked for a change, so no call is admitted meanwhile.
    """
    if cap.metric is CapMetric.CPS:
        return  # the last second is over before anybody looks
    zoned = _estate_of(desk, [cap]).caps[cap.id]
    books = Books()
    desk.tx.lock_calls(desk.tx.live_call_keys(desk.tenant_id), books, desk.now_ms)
    spans = _spans(zoned, desk.now_ms, begun_ms)
    places = [
        replace(place, window_start_ms=_window_of(spans, since_ms, place.window_start_ms))
        for call in books.calls.values()
        for since_ms, place in _places_in(zoned, call, books, desk)
    ]
    keys: dict[CounterKey, str] = {(p.cap_id, p.window_start_ms): p.tenant_id for p in places}
    desk.tx.lock_counters(keys | {(cap.id, key_ms): cap.tenant_id for key_ms, _, _ in spans}, books)
    books.apply(Changes(places=places))
    past = desk.tx.recount_cap(cap, spans[0][1], spans[-1][2], zoned.bucket_ms)
    for key_ms, start_ms, _ in spans:
        base = past.get(start_ms, 0)
        counter = books.counters[(cap.id, key_ms)]
        books.counters[(cap.id, key_ms)] = replace(counter, used=counter.used + base, base=base)
        books.dirty_counters.add((cap.id, key_ms))
    desk.tx.write(books)


def _spans(zoned: ZonedCap, now_ms: int, begun_ms: int | None) -> list[tuple[int, int, int]]:
    """The counters that a cap needs now, each with the time it counts: (key, from, to)."""
    cap = zoned.cap
    if zoned.bucket_ms:
        _, newest_ms = counter_key(zoned, now_ms)
        oldest_ms = (now_ms - zoned.rolling_ms) // zoned.bucket_ms * zoned.bucket_ms
        starts = range(oldest_ms, newest_ms + 1, zoned.bucket_ms)
        return [(start, start, start + zoned.bucket_ms) for start in starts]
    key_ms = window_start_ms(cap.window_kind, now_ms, zoned.zone)
    start_ms = key_ms if begun_ms is None else min(begun_ms, key_ms)
    return [(key_ms, start_ms, window_end_ms(cap.window_kind, now_ms, zoned.zone))]


def _window_of(spans: Sequence[tuple[int, int, int]], since_ms: int, otherwise_ms: int) -> int:
    """The counter that what was taken at `since_ms` counts in; one of another window keeps its own."""
    return next((key for key, start, end in spans if start <= since_ms < end), otherwise_ms)


def _places_in(zoned: ZonedCap, call: Call, books: Books, desk: Desk) -> list[tuple[int, Place]]:
    """The places that a live call has in a new cap, each with the instant it would have been taken at."""
    cap = zoned.cap
    taken_at: list[tuple[int, int]] = []  # attempt, instant
    if cap.scope in ATTEMPT_SCOPES:
        for attempt in books.attempts[call.id].values():
            subject = attempt.target_id if cap.scope is CapScope.TARGET else attempt.rule_id
            if subject == cap.scope_id and attempt.ended_ms is None:
                taken_at.append((attempt.number, attempt.started_ms))
    elif _belongs(cap, call, desk):
        taken_at.append((0, call.decided_ms))
    return [
        (
            since_ms,
            Place(
                call_id=call.id,
                attempt=number,
                cap_id=cap.id,
                tenant_id=cap.tenant_id,
                window_start_ms=counter_key(zoned, since_ms)[1],
                amount=amount_of(cap.metric, call.funded_s, books.holds[call.id].amount_micros),
                state=PlaceState.HELD,
                counted=0,
                reason="",
                node=call.node,
                boot_id=call.boot_id,
            ),
        )
        for number, since_ms in taken_at
    ]


def _belongs(cap: Cap, call: Call, desk: Desk) -> bool:
    match cap.scope:
        case CapScope.SYSTEM:
            return call.tenant_id == cap.scope_id
        case CapScope.SELLER:
            return call.seller_id == cap.scope_id
        case CapScope.CAMPAIGN:
            return call.campaign_id == cap.scope_id
        case CapScope.DID:
            return call.did_id == cap.scope_id
        case _:
            trunk = desk.tx.find(Trunk, desk.tenant_id, id=cap.scope_id)
            return trunk is not None and call.trunk == trunk.name


def _views(desk: Desk, estate: Estate, cap_ids: Sequence[str]) -> Sequence[CapView]:
    zoned_caps = [estate.caps[i] for i in cap_ids]
    books, needs = Books(), Needs()
    needs.caps(zoned_caps, desk.now_ms)
    desk.tx.lock_needs(needs, books)
    views = []
    for zoned in zoned_caps:
        used, in_flight = taken(zoned, counter_key(zoned, desk.now_ms), books, desk.now_ms)
        end_ms = window_end_ms(zoned.cap.window_kind, desk.now_ms, zoned.zone)
        views.append(
            CapView(
                cap=zoned.cap,
                subject=zoned.subject,
                zone=zoned.zone,
                used=used,
                in_flight=in_flight,
                resets_ms=None if end_ms == FOREVER_MS else end_ms,
                currency=(
                    _currency_of(desk, zoned.cap.scope, zoned.cap.scope_id)
                    if zoned.cap.metric is CapMetric.SPEND
                    else ""
                ),
            )
        )
    return sorted(views, key=lambda v: (v.cap.scope, v.subject, v.cap.metric, v.cap.window_kind, v.cap.window_ms))
