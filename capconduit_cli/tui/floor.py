"""The floor as a viewer knows it: plain objects read from the daemon's messages, and what a live call has cost so far.

Pure data: no terminal, no clock, no socket. The daemon may be of another version: keys that are not known are ignored,
keys that are missing have a default. What has the wrong type is refused with a MessageError that names it, and changes
nothing. Texts come from callers and carriers and are kept as they are: whoever shows them escapes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from capconduit.domain.rating import Tariff, charge
from capconduit.errors import PeerError, UsageError
from capconduit.units import MS_PER_SECOND, instant_ms, parse_money
from capconduit.vocab import CapMetric, FloorMessage

MAX_EVENTS: Final = 2_000  # kept to be looked through; older ones are in the database
TABLES: Final = ("calls", "caps", "balances", "targets", "campaigns", "events", "health")

Fields = Mapping[str, Any]
Item = TypeVar("Item")


class MessageError(PeerError):
    """A message of the daemon (or of a recording) that cannot be read."""

    def __init__(self, message: str) -> None:
        super().__init__("floor-message-invalid", message, "is it a capconduit daemon of the same version?")


@dataclass(frozen=True, slots=True)
class Call:
    """A live call. `caller` is its `from`; `funded_until_ms` is None as long as nobody answered."""

    id: str
    node: str
    state: str
    did: str
    caller: str
    caller_name: str
    seller: str
    campaign: str
    target: str
    trunk: str
    attempt: int
    arrived_ms: int
    answered_ms: int | None
    currency: str
    tariff: Tariff
    funded_s: int
    funded_until_ms: int | None
    held_micros: int

    def talk_ms(self, now_ms: int) -> int:
        """How long it has talked; 0 before the answer and where our clock is behind the daemon's."""
        return 0 if self.answered_ms is None else max(now_ms - self.answered_ms, 0)

    def cost_micros(self, now_ms: int) -> int:
        """What it would cost if it ended now; 0 before the answer and below the billable threshold."""
        return 0 if self.answered_ms is None else charge(self.tariff, self.talk_ms(now_ms)).price_micros


@dataclass(frozen=True, slots=True)
class Cap:
    """A cap and what is used of it: in calls, in milliseconds (`minutes`) or in micros (`spend`)."""

    id: str
    scope: str
    subject: str
    metric: str
    window: str
    limit: int
    used: int
    in_flight: int
    resets_ms: int | None
    currency: str


@dataclass(frozen=True, slots=True)
class Balance:
    """A seller's account. `burn_micros` is what its calls that are up cost a minute."""

    seller: str
    currency: str
    balance_micros: int
    held_micros: int
    available_micros: int
    credit_limit_micros: int
    low_balance_micros: int
    burn_micros: int
    empty_at_ms: int | None
    status: str


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what it has been through; `asr` is as the daemon sends it: answered of today's calls, 0 to 1."""

    name: str
    kind: str
    status: str
    active: int
    rested_until_ms: int | None
    failures: int
    calls_today: int
    answered_today: int
    asr: float | None
    acd_ms: int | None


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign and whether it takes calls."""

    name: str
    seller: str
    status: str
    strategy: str


@dataclass(frozen=True, slots=True)
class Event:
    """A row of the event table."""

    id: str
    at_ms: int
    kind: str
    subject: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """A daemon of the installation, as the others know it."""

    name: str
    state: str
    seen_ms: int


@dataclass(frozen=True, slots=True)
class Health:
    """How the daemon is. `cps` are the new calls of each of the last seconds, the oldest first."""

    at_ms: int
    ready: bool
    reasons: tuple[str, ...]
    ami_enabled: bool
    ami_up: bool
    database_up: bool
    database_ms: float | None
    per_second: float
    p50_ms: float | None
    p99_ms: float | None
    timeouts: int
    failures: int
    calls: int
    journal: int
    cps: tuple[int, ...]
    nodes: tuple[Node, ...]


class Floor:
    """All that a viewer knows, kept up to date by `apply`. One thread only.

    `version` grows with every message, `versions[table]` with every one that changed that table; so a screen repaints
    what changed. `at_ms` is the newest instant the daemon told, 0 before the first.
    """

    def __init__(self) -> None:
        self.node = self.boot_id = self.tenant = ""
        self.at_ms = 0
        self.calls: dict[str, Call] = {}
        self.caps: dict[str, Cap] = {}
        self.balances: dict[str, Balance] = {}
        self.targets: dict[str, Target] = {}
        self.campaigns: dict[str, Campaign] = {}
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.health: Health | None = None
        self.lost = 0  # messages that this viewer was too slow for; a fresh snapshot followed
        self.version = 0
        self.versions = dict.fromkeys(TABLES, 0)

    def apply(self, kind: str, data: object) -> None:
        """Take a message in; an unknown kind changes nothing. Raises MessageError, and then nothing changed."""
        fields = _object(data, kind)
        match kind:
            case FloorMessage.SNAPSHOT:
                self._replace(fields)
            case FloorMessage.CALL:
                call = read_call(fields)
                self.calls[call.id] = call
                self._touched("calls")
            case FloorMessage.CALL_GONE:
                self.calls.pop(_named(fields, "id"), None)
                self._touched("calls")
            case FloorMessage.CAP:
                self._put("caps", self.caps, _named(fields, "id"), fields, read_cap)
            case FloorMessage.BALANCE:
                self._put("balances", self.balances, _named(fields, "seller"), fields, read_balance)
            case FloorMessage.TARGET:
                self._put("targets", self.targets, _named(fields, "name"), fields, read_target)
            case FloorMessage.CAMPAIGN:
                self._put("campaigns", self.campaigns, _named(fields, "name"), fields, read_campaign)
            case FloorMessage.EVENT:
                self.events.append(read_event(fields))
                self._touched("events")
            case FloorMessage.HEALTH:
                self.health = read_health(fields)
                self.at_ms = max(self.at_ms, self.health.at_ms)
                self._touched("health")
            case FloorMessage.LOST:
                self.lost += _integer(fields, "messages")
                self._touched()

    def _put(self, table: str, rows: dict[str, Item], key: str, fields: Fields, read: Callable[[Fields], Item]) -> None:
        if _flag(fields, "gone"):
            rows.pop(key, None)
        else:
            rows[key] = read(fields)
        self._touched(table)

    def _replace(self, picture: Fields) -> None:
        """Everything anew. All is read before anything is kept. Events that are known stay: a picture has few."""
        calls = {call.id: call for call in _each(picture, "calls", read_call)}
        caps = {cap.id: cap for cap in _each(picture, "caps", read_cap)}
        balances = {balance.seller: balance for balance in _each(picture, "balances", read_balance)}
        targets = {target.name: target for target in _each(picture, "targets", read_target)}
        campaigns = {campaign.name: campaign for campaign in _each(picture, "campaigns", read_campaign)}
        events = list(_each(picture, "events", read_event))
        health = read_health(_object(picture["health"], "health")) if picture.get("health") is not None else None
        node, boot_id, tenant = (_text(picture, key) for key in ("node", "boot_id", "tenant"))
        at_ms = _instant(picture, "at") or 0
        self.calls, self.caps, self.balances, self.targets, self.campaigns = calls, caps, balances, targets, campaigns
        self._merge_events(events)
        self.health, self.node, self.boot_id, self.tenant, self.at_ms = health, node, boot_id, tenant, at_ms
        self._touched(*TABLES)

    def _merge_events(self, events: Iterable[Event]) -> None:
        """Ids are ULIDs, in the order of their making: what is older than the picture's first is kept before it."""
        fresh = sorted({event.id: event for event in events}.values(), key=lambda event: event.id)
        if fresh:
            kept = [event for event in self.events if event.id < fresh[0].id]
            self.events = deque([*kept, *fresh], maxlen=MAX_EVENTS)

    def forget_events(self) -> None:
        """Drop the events: after a jump in a recording those that are known may lie in its future."""
        self.events.clear()
        self._touched("events")

    def _touched(self, *tables: str) -> None:
        self.version += 1
        for table in tables:
            self.versions[table] += 1


def read_call(fields: Fields) -> Call:
    """CALL of the daemon's stream. Raises MessageError, as all of these."""
    return Call(
        id=_named(fields, "id"),
        node=_text(fields, "node"),
        state=_text(fields, "state"),
        did=_text(fields, "did"),
        caller=_text(fields, "from"),
        caller_name=_text(fields, "caller_name"),
        seller=_text(fields, "seller"),
        campaign=_text(fields, "campaign"),
        target=_text(fields, "target"),
        trunk=_text(fields, "trunk"),
        attempt=_integer(fields, "attempt"),
        arrived_ms=_instant(fields, "arrived") or 0,
        answered_ms=_instant(fields, "answered"),
        currency=_text(fields, "currency"),
        tariff=_tariff(fields),
        funded_s=_integer(fields, "funded_s"),
        funded_until_ms=_instant(fields, "funded_until"),
        held_micros=_money(fields, "held"),
    )


def _tariff(fields: Fields) -> Tariff:
    """What the call is priced by; increments of a second at least, so that a strange daemon cannot divide by zero."""
    return Tariff(
        connect_fee_micros=_money(fields, "connect_fee"),
        per_minute_micros=_money(fields, "per_minute"),
        first_s=max(_integer(fields, "first_s"), 1),
        step_s=max(_integer(fields, "further_s"), 1),
        billable_threshold_ms=_integer(fields, "billable_threshold_ms"),
        then_after_s=_integer(fields, "then_after_s"),
        then_per_minute_micros=_money(fields, "then_per_minute"),
    )


def read_cap(fields: Fields) -> Cap:
    """CAP, whose amounts are in the unit of its metric: money as text, `minutes` in seconds, all others in calls."""
    metric = _text(fields, "metric")
    return Cap(
        id=_named(fields, "id"),
        scope=_text(fields, "scope"),
        subject=_text(fields, "subject") or _text(fields, "name"),
        metric=metric,
        window=_text(fields, "window"),
        limit=_amount(fields, "limit", metric),
        used=_amount(fields, "used", metric),
        in_flight=_amount(fields, "in_flight", metric),
        resets_ms=_instant(fields, "resets"),
        currency=_text(fields, "currency"),
    )


def read_balance(fields: Fields) -> Balance:
    """BALANCE."""
    return Balance(
        seller=_named(fields, "seller"),
        currency=_text(fields, "currency"),
        balance_micros=_money(fields, "balance"),
        held_micros=_money(fields, "held"),
        available_micros=_money(fields, "available"),
        credit_limit_micros=_money(fields, "credit_limit"),
        low_balance_micros=_money(fields, "low_balance"),
        burn_micros=_money(fields, "burn_per_minute"),
        empty_at_ms=_instant(fields, "empty_at"),
        status=_text(fields, "status"),
    )


def read_target(fields: Fields) -> Target:
    """TARGET."""
    return Target(
        name=_named(fields, "name"),
        kind=_text(fields, "kind"),
        status=_text(fields, "status"),
        active=_integer(fields, "active"),
        rested_until_ms=_instant(fields, "rested_until"),
        failures=_integer(fields, "failures"),
        calls_today=_integer(fields, "calls_today"),
        answered_today=_integer(fields, "answered_today"),
        asr=_real(fields, "asr"),
        acd_ms=None if fields.get("acd_ms") is None else _integer(fields, "acd_ms"),
    )


def read_campaign(fields: Fields) -> Campaign:
    """CAMPAIGN."""
    return Campaign(
        name=_named(fields, "name"),
        seller=_text(fields, "seller"),
        status=_text(fields, "status"),
        strategy=_text(fields, "strategy"),
    )


def read_event(fields: Fields) -> Event:
    """EVENT."""
    return Event(
        id=_named(fields, "id"),
        at_ms=_instant(fields, "at") or 0,
        kind=_text(fields, "kind"),
        subject=_text(fields, "subject"),
        data=_object(fields.get("data") or {}, "data"),
    )


def read_health(fields: Fields) -> Health:
    """HEALTH."""
    ami, database, decisions = (_part(fields, key) for key in ("ami", "database", "decisions"))
    return Health(
        at_ms=_instant(fields, "at") or 0,
        ready=_flag(fields, "ready"),
        reasons=tuple(_text({"reason": reason}, "reason") for reason in _list(fields, "reasons")),
        ami_enabled=_flag(ami, "enabled"),
        ami_up=_flag(ami, "up"),
        database_up=_flag(database, "up"),
        database_ms=_real(database, "latency_ms"),
        per_second=_real(decisions, "per_second") or 0.0,
        p50_ms=_real(decisions, "p50_ms"),
        p99_ms=_real(decisions, "p99_ms"),
        timeouts=_integer(decisions, "timeouts"),
        failures=_integer(decisions, "failures"),
        calls=_integer(fields, "calls"),
        journal=_integer(fields, "journal"),
        cps=tuple(_integer({"cps": count}, "cps") for count in _list(fields, "cps")),
        nodes=tuple(_each(fields, "nodes", _node)),
    )


def _node(fields: Fields) -> Node:
    return Node(name=_named(fields, "name"), state=_text(fields, "state"), seen_ms=_instant(fields, "seen") or 0)


def _object(value: object, what: str) -> Fields:
    if not isinstance(value, Mapping):
        raise MessageError(f"{what}: {_shown(value)} is not an object")
    return value


def _part(fields: Fields, key: str) -> Fields:
    return _object(fields.get(key) or {}, key)


def _list(fields: Fields, key: str) -> list[Any]:
    value = fields.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise MessageError(f"{key}: {_shown(value)} is not a list")
    return value


def _each(fields: Fields, key: str, read: Callable[[Fields], Item]) -> Iterable[Item]:
    return (read(_object(item, key)) for item in _list(fields, key))


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise MessageError(f"{key}: {_shown(value)} is not a text")
    return value


def _named(fields: Fields, key: str) -> str:
    """The text that a row is known by: it cannot be missing."""
    value = _text(fields, key)
    if not value:
        raise MessageError(f"{key} is missing")
    return value


def _integer(fields: Fields, key: str) -> int:
    value = fields.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise MessageError(f"{key}: {_shown(value)} is not a whole number")
    return value


def _real(fields: Fields, key: str) -> float | None:
    value = fields.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise MessageError(f"{key}: {_shown(value)} is not a number")
    return float(value)


def _flag(fields: Fields, key: str) -> bool:
    value = fields.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise MessageError(f"{key}: {_shown(value)} is neither true nor false")
    return value


def _money(fields: Fields, key: str) -> int:
    value = fields.get(key)
    if value is None:
        return 0
    try:
        return parse_money(_text(fields, key), signed=True)
    except UsageError:
        raise MessageError(f"{key}: {_shown(value)} is not an amount") from None


def _amount(fields: Fields, key: str, metric: str) -> int:
    """An amount of a cap, in the integers that Cap has."""
    if metric == CapMetric.SPEND:
        return _money(fields, key)
    value = _integer(fields, key)
    return value * MS_PER_SECOND if metric == CapMetric.MINUTES else value


def _instant(fields: Fields, key: str) -> int | None:
    value = fields.get(key)
    if value is None or value == "":
        return None
    try:
        return instant_ms(datetime.fromisoformat(_text(fields, key)))
    except (ValueError, TypeError, OverflowError):  # no time at all; a time without a zone
        raise MessageError(f"{key}: {_shown(value)} is not an instant") from None


def _shown(value: object) -> str:
    """A value as a message names it: short, and without control characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
