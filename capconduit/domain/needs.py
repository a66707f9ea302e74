"""What a command's decision will read: which rows must be locked and loaded before it can be made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from capconduit.domain.books import Books, CallerKey, CallKey, CounterKey
from capconduit.domain.calls import AnswerReport, AttemptReport, ExtendRequest, RouteRequest, SettleReport
from capconduit.domain.estate import Estate, Way, ZonedCap
from capconduit.domain.model import Call, Campaign
from capconduit.domain.numbers import to_e164
from capconduit.domain.routing import caller_of
from capconduit.domain.strategies import ROTATING
from capconduit.domain.usage import counter_key
from capconduit.domain.ways import find_way

Command = RouteRequest | AttemptReport | SettleReport | AnswerReport | ExtendRequest


@dataclass(slots=True)
class Needs:
    """Keys of what a batch of decisions reads; counters with their tenant, caps that look back with the `ranges` that
    their buckets begin in: (cap id, after, until)."""

    sellers: set[str] = field(default_factory=set)
    targets: set[str] = field(default_factory=set)
    rules: set[str] = field(default_factory=set)
    counters: dict[CounterKey, str] = field(default_factory=dict)
    ranges: set[tuple[str, int, int]] = field(default_factory=set)
    _routed: dict[int, Way] = field(default_factory=dict)  # that were seen to already, by identity

    def route(self, way: Way) -> bool:
        """Whether a call on this way is the first of the batch: the next ones need the same."""
        fresh = id(way) not in self._routed
        self._routed[id(way)] = way
        return fresh

    def cap(self, zoned: ZonedCap, key: CounterKey) -> None:
        """A place may be taken in this counter, or changed. A cap that looks back is locked as a whole by its counter
        of instant 0: two daemons may be in different buckets."""
        tenant_id = zoned.cap.tenant_id
        self.counters[key] = tenant_id
        if zoned.bucket_ms:
            self.counters[(zoned.cap.id, 0)] = tenant_id
            span_ms = zoned.rolling_ms + zoned.bucket_ms
            self.ranges.add((zoned.cap.id, key[1] - span_ms, key[1] + span_ms))

    def buckets(self) -> list[tuple[str, int, int]]:
        """The ranges, those of one cap that touch made one. A call of yesterday and one of now leave out the time
        between them."""
        merged: list[tuple[str, int, int]] = []
        for cap_id, after_ms, until_ms in sorted(self.ranges):
            if merged and merged[-1][0] == cap_id and after_ms <= merged[-1][2]:
                merged[-1] = (cap_id, merged[-1][1], max(until_ms, merged[-1][2]))
            else:
                merged.append((cap_id, after_ms, until_ms))
        return merged

    def caps(self, caps: Iterable[ZonedCap], now_ms: int) -> None:
        """Places may be taken in these caps, in the windows of now."""
        for zoned in caps:
            from_ms, until_ms, key = zoned.recent[0]  # counter_key, but for a call that most do not need
            if not from_ms <= now_ms < until_ms:
                key = counter_key(zoned, now_ms)
            if zoned.bucket_ms:
                self.cap(zoned, key)
            else:
                self.counters[key] = zoned.cap.tenant_id


def key_of(command: Command) -> CallKey:
    """The channel a command is about."""
    return (command.node, command.uniqueid)


def caller_key(command: Command, estate: Estate) -> CallerKey | None:
    """The caller in a campaign that does not take the same one twice in a while; None where that does not matter."""
    if not isinstance(command, RouteRequest):
        return None
    way = find_way(command, estate)
    campaign = way.campaign
    if campaign is None or not campaign.duplicate_window_ms:
        return None
    caller = caller_of(to_e164(command.ani, way.region) or "", command.ani)
    return (campaign.id, caller) if caller else None


def needs_of(command: Command, estate: Estate, books: Books, now_ms: int, needs: Needs) -> None:
    """Add what `command` needs. Its call, if it lives, must be in `books`."""
    call = books.call_of(key_of(command))
    if call is not None:
        _of_call(command, call, estate, books, now_ms, needs)
    elif isinstance(command, RouteRequest):
        way = find_way(command, estate)
        if way.campaign is not None and needs.route(way):
            needs.sellers.add(way.campaign.seller_id)
            needs.caps(way.every_cap, now_ms)
            _of_targets(way.campaign, estate, needs)


def needs_of_all(commands: Iterable[Command], estate: Estate, books: Books, now_ms: int) -> Needs:
    """What these commands need together."""
    needs = Needs()
    for command in commands:
        needs_of(command, estate, books, now_ms, needs)
    return needs


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a batch needs if every channel in it is new: known before anything is read."""

    callers: frozenset[CallerKey]
    needs: Needs


def foresee(commands: Sequence[Command], estate: Estate, now_ms: int) -> Foreseen:
    """What these commands will need where no channel has a call yet."""
    return Foreseen(callers_of(commands, estate), needs_of_all(commands, estate, Books(), now_ms))


def callers_of(commands: Iterable[Command], estate: Estate) -> frozenset[CallerKey]:
    """The callers that these commands ask about."""
    return frozenset(key for command in commands if (key := caller_key(command, estate)))


def _of_targets(campaign: Campaign, estate: Estate, needs: Needs) -> None:
    """The target's side of a choice, but for its caps."""
    for offer in estate.offers(campaign).all:
        needs.targets.add(offer.target.id)
        if campaign.strategy in ROTATING:
            needs.rules.add(offer.rule.id)


def _of_call(command: Command, call: Call, estate: Estate, books: Books, now_ms: int, needs: Needs) -> None:
    """A live call's account, the counters of its places, and the targets of its attempts."""
    needs.sellers.add(call.seller_id)
    only_reserved = isinstance(command, ExtendRequest)
    for place in books.open_places(call.id):
        zoned = estate.caps.get(place.cap_id)
        if only_reserved and (zoned is None or not zoned.reserves):
            continue
        key = (place.cap_id, place.window_start_ms)
        if zoned is not None and zoned.reserves:
            needs.cap(zoned, key)
        else:
            needs.counters[key] = place.tenant_id
            if zoned is not None and zoned.bucket_ms:  # who holds this one reads the buckets without locking each
                needs.counters[(place.cap_id, 0)] = place.tenant_id
    if not only_reserved:
        needs.targets.update(a.target_id for a in books.attempts[call.id].values() if a.ended_ms is None)
    campaign = estate.campaigns.get(call.campaign_id)
    if isinstance(command, AttemptReport) and campaign is not None:
        _of_targets(campaign, estate, needs)
        for offer in estate.offers(campaign).all:
            needs.caps(offer.caps, now_ms)
