"""Caps: setting them so that what happened before counts, their use, and whether the counts are true."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from capconduit.domain.books import Books, Changes, CounterKey
from capconduit.domain.estate import Estate, ZonedCap
from capconduit.domain.model import Call, Campaign, Cap, Counter, Did, Place, Rule, Seller, Target, Trunk
from capconduit.domain.numbers import parse_number
from capconduit.domain.routing import counter_key
from capconduit.domain.windows import FOREVER_MS, window_end_ms, window_start_ms
from capconduit.errors import NotFound, UsageError
from capconduit.services.office import Desk, Office
from capconduit.vocab import ATTEMPT_SCOPES, CallState, CapMetric, CapScope, PlaceState, WindowKind

# Metrics that can be set; the others of the vocabulary are refused by parse_limit.
COUNTED: Final = (CapMetric.CONCURRENT, CapMetric.ATTEMPTS, CapMetric.CONNECTED, CapMetric.BILLABLE)
MAX_LIMIT: Final = 1_000_000_000
_LIMIT = re.compile(r"^(none|\d{1,10})(?:\s*/\s*([a-z]+))?$")


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit as it is asked for; `value` None takes the cap away."""

    metric: CapMetric
    window: WindowKind
    value: int | None


@dataclass(frozen=True, slots=True)
class CapView:
    """A cap with what it has used in the window of now. `resets_ms` None: never."""

    cap: Cap
    subject: str
    zone: str
    used: int
    in_flight: int
    resets_ms: int | None


@dataclass(frozen=True, slots=True)
class CapDrift:
    """A counter that is not what its places say."""

    cap: Cap | None
    cap_id: str
    subject: str
    window_start_ms: int
    used: int
    in_flight: int
    counted: int
    open: int


def parse_limit(metric: CapMetric, text: str) -> Limit:
    """`200/day`, `1000/total`; for concurrent a bare number. `none` instead of the number takes the cap away.

    Raises UsageError.
    """
    match = _LIMIT.match(text.strip().lower())
    windows = [w.value for w in WindowKind if w is not WindowKind.NONE]
    form = (
        "write a number, like 10" if metric is CapMetric.CONCURRENT else f"write it like 200/day ({', '.join(windows)})"
    )
    if metric not in COUNTED:
        raise UsageError("metric-unsupported", f"caps by {metric} cannot be set", f"use {', '.join(COUNTED)}")
    value = int(match[1]) if match and match[1] != "none" else None
    if not match or (value or 0) > MAX_LIMIT:
        raise UsageError("limit-invalid", f"{text!r} is no limit of {metric} calls", form)
    window = match[2]
    if metric is CapMetric.CONCURRENT:
        if window:
            raise UsageError("limit-invalid", f"{text!r}: concurrent calls are counted now, not by {window}", form)
        return Limit(metric, WindowKind.NONE, value)
    if window not in windows:
        raise UsageError("limit-invalid", f"{text!r} names no window", form)
    return Limit(metric, WindowKind(window), value)


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
            _set_one(desk, scope, scope_id, name, limit)
        return _views(desk, desk.tx.load_estate(), [c.id for c in _caps_of(desk, scope, scope_id)])

    return office.change(work)


def clear_caps(office: Office, scope: CapScope, name: str) -> int:
    """Take away all caps of one thing; how many there were."""

    def work(desk: Desk) -> int:
        caps = _caps_of(desk, scope, find_scope(desk, scope, name))
        for cap in caps:
            desk.tx.delete(cap)
            desk.changed("cap.clear", f"{scope} {name}", cap, None)
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


def verify_caps(office: Office, *, fix: bool = False) -> Sequence[CapDrift]:
    """Counters that differ from their places; `fix` sets them right, in the same transaction that found them."""

    def work(desk: Desk) -> Sequence[CapDrift]:
        estate = desk.tx.load_estate()
        sums = desk.tx.place_sums(desk.tenant_id)
        counters = {(c.cap_id, c.window_start_ms): c for c in desk.tx.rows(Counter, desk.tenant_id)}
        none = Books()
        drifts = []
        for key in sorted(counters.keys() | sums.keys()):
            counter = counters.get(key) or none.counter(desk.tenant_id, key)
            counted, still_open = sums.get(key, (0, 0))
            if (counter.used, counter.in_flight) != (counter.base + counted, still_open):
                zoned = estate.caps.get(key[0])
                drifts.append(_drift(counter, zoned, counted, still_open))
                if fix:
                    put = desk.tx.update if key in counters else desk.tx.insert
                    put(replace(counter, used=counter.base + counted, in_flight=still_open))
        if fix and drifts:
            desk.changed("cap.verify", f"{len(drifts)} counters set right", None, None)
        return drifts

    return office.change(work) if fix else office.read(work)


def remove_caps_of(desk: Desk, scope: CapScope, scope_id: str) -> None:
    """The caps of something that is being removed go with it."""
    for cap in _caps_of(desk, scope, scope_id):
        desk.tx.delete(cap)


def cap_zones(desk: Desk) -> Mapping[str, str]:
    """The time zone that each cap's windows follow now, by cap id; what `carry_over` wants to know afterwards."""
    return {cap_id: zoned.zone for cap_id, zoned in desk.tx.load_estate().caps.items()}


def carry_over(desk: Desk, before: Mapping[str, str]) -> None:
    """Caps whose time zone is another than `before` begin a window of the new zone with all that the old one has used.

    So neither zone's day lets more calls through than its limit; the next window is the new zone's own.
    """
    for zoned in desk.tx.load_estate().caps.values():
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


def _set_one(desk: Desk, scope: CapScope, scope_id: str, name: str, limit: Limit) -> None:
    subject = f"{scope} {name}".strip()
    before = desk.tx.find(
        Cap,
        desk.tenant_id,
        scope=scope.value,
        scope_id=scope_id,
        metric=limit.metric.value,
        window_kind=limit.window.value,
    )
    if limit.value is None:
        if before is not None:
            desk.tx.delete(before)
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
    )
    desk.tx.insert(cap)
    desk.changed("cap.set", subject, None, cap)
    _count_what_was(desk, cap)


def _count_what_was(desk: Desk, cap: Cap, begun_ms: int | None = None) -> None:
    """Give a new cap its past: settled calls of the window of now as `base`, live calls as places.

    What was admitted since `begun_ms`, where that is earlier, counts in the window of now. The estate's version is
    locked for a change, so no call is admitted meanwhile.
    """
    zoned = desk.tx.load_estate().caps[cap.id]
    books = Books()
    desk.tx.lock_calls(desk.tx.live_call_keys(desk.tenant_id), books)
    now_start_ms = window_start_ms(cap.window_kind, desk.now_ms, zoned.zone)
    start_ms = now_start_ms if begun_ms is None else min(begun_ms, now_start_ms)
    end_ms = window_end_ms(cap.window_kind, desk.now_ms, zoned.zone)
    places = [
        replace(p, window_start_ms=now_start_ms) if start_ms <= since_ms < now_start_ms else p
        for call in books.calls.values()
        for since_ms, p in _places_in(cap, zoned, call, books, desk)
    ]
    now_key = (cap.id, now_start_ms)
    keys: dict[CounterKey, str] = {(p.cap_id, p.window_start_ms): p.tenant_id for p in places}
    desk.tx.lock_counters(keys | {now_key: cap.tenant_id}, books)
    books.apply(Changes(places=places))
    base = desk.tx.recount_cap(cap, start_ms, end_ms)
    counter = books.counters[now_key]
    books.counters[now_key] = replace(counter, used=counter.used + base, base=base)
    books.dirty_counters.add(now_key)
    desk.tx.write(books)


def _places_in(cap: Cap, zoned: ZonedCap, call: Call, books: Books, desk: Desk) -> list[tuple[int, Place]]:
    """The places that a live call has in a new cap, each with the instant it would have been taken at."""
    state = PlaceState.UP if call.state is CallState.UP else PlaceState.DIALING
    if cap.scope in ATTEMPT_SCOPES:
        attempt = books.attempts[call.id][call.attempt]
        subject = attempt.target_id if cap.scope is CapScope.TARGET else attempt.rule_id
        since_ms, number = attempt.started_ms, attempt.number
        mine = subject == cap.scope_id and attempt.ended_ms is None
    else:
        since_ms, number = call.decided_ms, 0
        mine = _belongs(cap, call, desk)
    if not mine:
        return []
    place = Place(
        call_id=call.id,
        attempt=number,
        cap_id=cap.id,
        tenant_id=cap.tenant_id,
        window_start_ms=window_start_ms(cap.window_kind, since_ms, zoned.zone),
        amount=1,
        state=state,
        counted=0,
        reason="",
        node=call.node,
        boot_id=call.boot_id,
    )
    return [(since_ms, place)]


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
    keys: Mapping[str, CounterKey] = {z.cap.id: counter_key(z, desk.now_ms) for z in zoned_caps}
    books = Books()
    desk.tx.lock_counters({keys[z.cap.id]: z.cap.tenant_id for z in zoned_caps}, books)
    views = []
    for zoned in zoned_caps:
        counter = books.counter(desk.tenant_id, keys[zoned.cap.id])
        end_ms = window_end_ms(zoned.cap.window_kind, desk.now_ms, zoned.zone)
        views.append(
            CapView(
                cap=zoned.cap,
                subject=zoned.subject,
                zone=zoned.zone,
                used=counter.used,
                in_flight=counter.in_flight,
                resets_ms=None if end_ms == FOREVER_MS else end_ms,
            )
        )
    return sorted(views, key=lambda v: (v.cap.scope, v.subject, v.cap.metric, v.cap.window_kind))
