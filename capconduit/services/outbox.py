"""The daemon's side of what goes out: events from the outbox into lanes, lanes into hands, and what came of it.

Each step is one short transaction, so that decisions hardly wait for it. A daemon claims lanes for a while; what it was
at when it died is claimed again by whoever comes first, and sent again under the same id: at least once, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from capconduit.clock import Clock
from capconduit.domain.deliveries import Delivery, Lane, Notification, NotificationRule, Webhook
from capconduit.domain.events import event
from capconduit.domain.jsontext import compact
from capconduit.domain.model import Event, Setting, User
from capconduit.domain.notices import Finding, as_it_holds, by_user, found_in, mark_of
from capconduit.domain.outgoing import Patience, Verdict, lane_of, wants
from capconduit.domain.settings import Settings, settings_of
from capconduit.outward.envelope import NOTICE_PREFIX, encode, event_payload, notification_payload
from capconduit.store.store import Store, Transaction
from capconduit.units import MS_PER_SECOND
from capconduit.vocab import DeliveryState, EventKind, NoticeChannel, ReceiverKind, ReceiverStatus

GIVEN_AT_ONCE: Final = 100  # events that go from the outbox into lanes in one transaction
EACH_LANE: Final = 16  # deliveries of one lane that are claimed at once
LEASE_MS: Final = 30_000
FORGOTTEN_AT_ONCE: Final = 500
POSITION_BITS: Final = 16
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
EMAIL: Final = "email"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who is given something: a webhook, or a rule of notifications. `way`: http, command or email; `changed_ms`: when
    somebody last changed it, or wanted it to be tried again."""

    id: str
    tenant_id: str
    tenant: str
    name: str
    way: str
    address: str
    secrets: str
    active: bool
    patience: Patience
    timeout_ms: int
    changed_ms: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """One delivery with what is to be sent. An empty message: what it was about is gone."""

    delivery: Delivery
    message: Mapping[str, Any]
    body: bytes


@dataclass(frozen=True, slots=True)
class Work:
    """A lane that was claimed, and what waits in it in its order; there may be more behind."""

    receiver: Receiver
    lane: Lane
    parcels: Sequence[Parcel]


@dataclass(slots=True)
class Done:
    """What came of a lane that was claimed: what was delivered, and how the first failure left it."""

    lane: Lane
    delivered: list[Delivery] = field(default_factory=list)
    failed: Verdict | None = None


@dataclass(slots=True)
class Given:
    """What one step brought on its way."""

    events: int = 0
    deliveries: int = 0
    notifications: int = 0
    receivers: set[str] = field(default_factory=set)  # that were given something


# --- receivers --------------------------------------------------------------------------------------------------------


def receivers_of(tx: Transaction) -> dict[str, Receiver]:
    """Whoever can be given something, of all tenants, by id."""
    webhooks, rules = tx.outward.webhooks(), tx.outward.rules()
    if not webhooks and not rules:
        return {}
    tenants = {tenant.id: tenant.name for tenant in tx.tenants()}
    settings = {tenant_id: settings_of(tx.rows(Setting, tenant_id)) for tenant_id in tenants}
    found = [_of_webhook(hook, tenants[hook.tenant_id], settings[hook.tenant_id]) for hook in webhooks]
    found += [
        _of_rule(rule, tenants[rule.tenant_id], settings[rule.tenant_id])
        for rule in rules
        if rule.channel is not NoticeChannel.LIST
    ]
    return {receiver.id: receiver for receiver in found}


def patience_of(settings: Settings) -> Patience:
    """How long a tenant's receivers are tried."""
    return Patience(
        first_ms=settings.webhook_retry_s * MS_PER_SECOND,
        tries=settings.webhook_tries,
        give_up_ms=settings.webhook_give_up_h * HOUR_MS,
    )


def _of_webhook(hook: Webhook, tenant: str, settings: Settings) -> Receiver:
    return Receiver(
        hook.id, hook.tenant_id, tenant, hook.name, hook.kind.value, hook.address, hook.secrets,
        hook.status is ReceiverStatus.ACTIVE, patience_of(settings), settings.webhook_timeout_s * MS_PER_SECOND,
        hook.updated_ms,
    )  # fmt: skip


def _of_rule(rule: NotificationRule, tenant: str, settings: Settings) -> Receiver:
    way = {
        NoticeChannel.EMAIL: EMAIL,
        NoticeChannel.WEBHOOK: ReceiverKind.HTTP.value,
        NoticeChannel.COMMAND: ReceiverKind.COMMAND.value,
    }[rule.channel]
    return Receiver(
        rule.id, rule.tenant_id, tenant, rule.name, way, rule.address, rule.secrets, True, patience_of(settings),
        settings.webhook_timeout_s * MS_PER_SECOND, rule.updated_ms,
    )  # fmt: skip


# --- from the outbox into lanes ---------------------------------------------------------------------------------------


def give_out(tx: Transaction, now_ms: int, new_id: Callable[[], str], limit: int = GIVEN_AT_ONCE) -> Given:
    """Put the first events of the outbox into the lanes of those who want them, and tell users what they tell of."""
    given = Given()
    tx.outward.lock_outbox()
    positions = tx.outward.outbox(limit)
    if not positions:
        return given
    events = {found.id: found for found in tx.outward.events(list(positions))}
    webhooks, rules = tx.outward.webhooks(), tx.outward.rules()
    deliveries: list[Delivery] = []
    findings: list[Finding] = []
    for event_id, position in positions.items():
        happened = events.get(event_id)
        if happened is None:
            continue  # it was pruned before anybody looked
        given.events += 1
        wanting = [hook for hook in webhooks if _is_for(hook, happened)]
        deliveries += [_delivery(hook.id, happened, lane_of(happened), position, now_ms) for hook in wanting]
        finding = found_in(happened) if rules else None
        if finding is not None:
            findings.append(finding)
    given.notifications = tell(tx, rules, findings, now_ms, new_id)
    tx.outward.add(deliveries)
    tx.outward.take_out(list(positions))
    given.deliveries = len(deliveries)
    given.receivers = {delivery.receiver_id for delivery in deliveries}
    return given


def _is_for(hook: Webhook, happened: Event) -> bool:
    if hook.tenant_id != happened.tenant_id or not wants(hook.kinds, happened.kind):
        return False
    # What a receiver did not take is told to others.
    return not (happened.kind is EventKind.DELIVERY_PARKED and happened.subject == hook.id)


def _delivery(receiver_id: str, happened: Event, lane: str, position: int, now_ms: int) -> Delivery:
    return Delivery(
        receiver_id=receiver_id, event_id=happened.id, tenant_id=happened.tenant_id, lane=lane, position=position,
        kind=happened.kind.value, state=DeliveryState.WAITING, tries=0, made_ms=now_ms, done_ms=None, answer="",
    )  # fmt: skip


def rules_now(tx: Transaction, rules: Sequence[NotificationRule]) -> list[NotificationRule]:
    """The rules that tell something, limited as their users are now."""
    tenants = sorted({rule.tenant_id for rule in rules})
    users = {(user.tenant_id, user.name): user for tenant_id in tenants for user in tx.rows(User, tenant_id)}
    held = (as_it_holds(rule, users.get((rule.tenant_id, rule.user_name))) for rule in rules)
    return [rule for rule in held if rule is not None]


def tell(
    tx: Transaction,
    rules: Sequence[NotificationRule],
    findings: Sequence[Finding],
    now_ms: int,
    new_id: Callable[[], str],
) -> int:
    """Tell each user who wants it, and may know, of each finding, once; how many notifications there are of it."""
    if not rules or not findings:
        return 0
    rules = rules_now(tx, rules)
    deliveries: list[Delivery] = []
    told = 0
    for finding in findings:
        for user_name, by_rules in by_user(rules, finding).items():
            if not tx.outward.mark(mark_of(user_name, finding, now_ms)):
                continue
            notice = Notification(
                id=new_id(), tenant_id=finding.tenant_id, at_ms=now_ms, user_name=user_name, kind=finding.kind,
                subject=finding.subject, occasion=finding.occasion, text=finding.text,
                data=compact(dict(finding.data)), read_ms=None,
            )  # fmt: skip
            tx.insert(notice)
            told += 1
            for rule in by_rules:
                if rule.channel is not NoticeChannel.LIST:
                    deliveries.append(notice_delivery(rule.id, notice, len(deliveries)))
    tx.outward.add(deliveries)
    return told


def notice_delivery(rule_id: str, notice: Notification, number: int = 0) -> Delivery:
    """A notification on its way by one rule."""
    return Delivery(
        receiver_id=rule_id, event_id=notice.id, tenant_id=notice.tenant_id, lane=notice.subject or notice.id,
        position=notice.at_ms << POSITION_BITS | number, kind=NOTICE_PREFIX + notice.kind, state=DeliveryState.WAITING,
        tries=0, made_ms=notice.at_ms, done_ms=None, answer="",
    )  # fmt: skip


# --- into hands, and what came of it ----------------------------------------------------------------------------------


def claim(
    tx: Transaction, receivers: Iterable[tuple[Receiver, int]], owner: str, now_ms: int, lease_ms: int = LEASE_MS
) -> list[Work]:
    """Claim lanes that are due: of each receiver as many as it may have."""
    work: list[Work] = []
    for receiver, room in receivers:
        lanes = {
            lane.lane: lane for lane in tx.outward.claim(receiver.id, owner, now_ms, now_ms + lease_ms, room)
        }  # fmt: skip
        if not lanes:
            continue
        waiting = tx.outward.waiting(receiver.id, list(lanes), EACH_LANE)
        parcels: dict[str, list[Parcel]] = {}
        for parcel in _packed(tx, receiver, waiting):
            parcels.setdefault(parcel.delivery.lane, []).append(parcel)
        work += [Work(receiver, lane, parcels.get(name, [])) for name, lane in lanes.items()]
    return work


def _packed(tx: Transaction, receiver: Receiver, waiting: Sequence[Delivery]) -> list[Parcel]:
    notices = [d.event_id for d in waiting if d.kind.startswith(NOTICE_PREFIX)]
    others = [d.event_id for d in waiting if not d.kind.startswith(NOTICE_PREFIX)]
    messages: dict[str, Mapping[str, Any]] = {
        notice.id: notification_payload(notice, receiver.tenant) for notice in tx.outward.notifications(notices)
    }
    messages |= {happened.id: event_payload(happened, receiver.tenant) for happened in tx.outward.events(others)}
    return [
        Parcel(delivery, message := messages.get(delivery.event_id, {}), encode(message) if message else b"")
        for delivery in waiting
    ]


def record(
    tx: Transaction, done: Sequence[Done], owner: str, now_ms: int, new_id: Callable[[], str], names: Mapping[str, str]
) -> int:
    """Write what came of lanes that `owner` claimed; how many were taken away from it meanwhile, whose results are
    dropped: somebody else sends again. `names`: of receivers, by id."""
    keys = [(one.lane.receiver_id, one.lane.lane) for one in done]
    mine = tx.outward.still_owned(keys, owner)
    kept = [one for one, key in zip(done, keys, strict=True) if key in mine]
    deliveries = [delivery for one in kept for delivery in one.delivered]
    deliveries += [one.failed.delivery for one in kept if one.failed]
    lanes = [
        one.failed.lane
        if one.failed
        else replace(one.lane, due_ms=now_ms, owner="", tries=0 if one.delivered else one.lane.tries, error="")
        for one in kept
    ]
    tx.outward.put_deliveries(sorted(deliveries, key=lambda d: (d.receiver_id, d.event_id)))
    tx.outward.put_lanes(sorted(lanes, key=lambda lane: (lane.receiver_id, lane.lane)))
    tx.outward.drop_empty([key for one, key in zip(done, keys, strict=True) if key in mine and not one.failed])
    for one in kept:
        if one.failed and one.failed.parked and not one.failed.delivery.kind.endswith(EventKind.DELIVERY_PARKED):
            tx.insert(_parked(one.failed, names.get(one.lane.receiver_id, ""), now_ms, new_id))
    return len(done) - len(kept)


def _parked(verdict: Verdict, name: str, now_ms: int, new_id: Callable[[], str]) -> Event:
    lane, delivery = verdict.lane, verdict.delivery
    return event(
        new_id, lane.tenant_id, now_ms, EventKind.DELIVERY_PARKED, lane.receiver_id,
        webhook=name, lane=lane.lane, event=delivery.event_id, event_kind=delivery.kind, tries=delivery.tries,
        answer=delivery.answer,
    )  # fmt: skip


# --- growth -----------------------------------------------------------------------------------------------------------


def forget(store: Store, clock: Clock) -> Mapping[str, int]:
    """Take away what is older than each tenant keeps, one small step of each tenant, and some of what was for a
    receiver that is removed; how many deliveries went by their state or as `removed`, and notifications. The caller
    comes again as long as something went."""
    with store.transaction(write=False) as reading:
        removed = reading.outward.removed()

    def work(tx: Transaction) -> dict[str, int]:
        gone: dict[str, int] = {}
        for tenant in tx.tenants():
            settings = settings_of(tx.rows(Setting, tenant.id))
            before_ms = clock.now_ms() - settings.webhook_keep_days * DAY_MS
            for state, number in tx.outward.forget_deliveries(tenant.id, before_ms, FORGOTTEN_AT_ONCE).items():
                gone[state] = gone.get(state, 0) + number
            before_ms = clock.now_ms() - settings.notification_keep_days * DAY_MS
            notices = tx.outward.forget_notifications(tenant.id, before_ms, FORGOTTEN_AT_ONCE)
            if notices:
                gone["notification"] = gone.get("notification", 0) + notices
        for tenant_id, receiver_id in removed[:1]:
            if went := tx.outward.forget_removed(tenant_id, receiver_id, FORGOTTEN_AT_ONCE):
                gone["removed"] = went
        return gone

    return store.run(work)
