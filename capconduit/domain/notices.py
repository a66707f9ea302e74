"""What a user should know: what is worth telling, in which words, and telling it once.

An *occasion* names what a notification is about: the low balance of a seller, a cap in one of its windows. A user is
told of it once, and a mark remembers it: until the occasion is over (a balance that has risen above its threshold is
worth telling the next time), or for a while, where nothing says that it is over.

Conditions are looked at every few seconds by the daemon, events come from the outbox; both become findings here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from capconduit.domain.deliveries import NotificationMark, NotificationRule
from capconduit.domain.model import Account, Event, Seller, User
from capconduit.domain.outgoing import data_of, wants
from capconduit.units import format_micros
from capconduit.vocab import EventKind, NoticeKind, Status, UserRole

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
NEARLY_PERCENT: Final = 80
AGAIN_MS: Final = HOUR_MS  # after which what has no end of its own may be told again
# Conditions that the daemon sees for itself: a mark of one goes when the condition does.
OVER_WITH_CONDITION: Final = frozenset(
    {NoticeKind.BALANCE_LOW, NoticeKind.TARGET_RESTED, NoticeKind.DAEMON_LOST, NoticeKind.AMI_DOWN}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to be told. `until_ms`: not again before then; 0: not before it is over. `seller_id`: whom it concerns;
    empty: the operator."""

    kind: NoticeKind
    tenant_id: str
    subject: str
    occasion: str
    text: str
    until_ms: int = 0
    seller_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def occasion_of(kind: NoticeKind, *parts: str) -> str:
    """The name of an occasion: its kind, then what it is about."""
    return " ".join((kind.value, *parts))


def kind_of(occasion: str) -> str:
    """The kind that an occasion's name begins with."""
    return occasion.partition(" ")[0]


# --- conditions -------------------------------------------------------------------------------------------------------


def runs_low(seller: Seller, account: Account) -> bool:
    """Whether an active seller has less than its low-balance mark, credit included.

    What calls hold is not taken off: it goes with each call and comes with the next, which would each time be told
    anew. Without it a balance rises by a payment alone, or by more credit.
    """
    owned = account.balance_micros + account.credit_limit_micros
    return seller.status is Status.ACTIVE and seller.low_balance_micros > 0 and owned < seller.low_balance_micros


def low_balance(tenant_id: str, seller_id: str, seller: str, currency: str, available: int, threshold: int) -> Finding:
    """A seller has less available than the threshold (micros)."""
    return Finding(
        NoticeKind.BALANCE_LOW, tenant_id, seller, occasion_of(NoticeKind.BALANCE_LOW, seller_id),
        f"seller {seller} has {format_micros(available, trim=True)} {currency} left, less than"
        f" {format_micros(threshold, trim=True)}",
        seller_id=seller_id,
        data={"seller": seller, "currency": currency, "available_micros": available, "threshold_micros": threshold},
    )  # fmt: skip


def cap_level(taken: int, limit: int) -> NoticeKind | None:
    """What a cap's use is worth telling: that it is reached, nearly, or nothing. A cap of 0 is closed on purpose."""
    if limit <= 0:
        return None
    if taken >= limit:
        return NoticeKind.CAP_REACHED
    return NoticeKind.CAP_NEARLY if taken * 100 >= limit * NEARLY_PERCENT else None


def cap_filling(
    tenant_id: str, cap_id: str, name: str, taken: int, limit: int, until_ms: int, seller_id: str = ""
) -> Finding | None:  # fmt: skip
    """A cap of which four fifths, or all, are used; once for each of its windows, which ends at `until_ms`."""
    kind = cap_level(taken, limit)
    if kind is None:
        return None
    said = "is reached" if kind is NoticeKind.CAP_REACHED else f"is used to {taken * 100 // limit} %"
    return Finding(
        kind, tenant_id, name, occasion_of(kind, cap_id), f"the cap {name} {said}",
        until_ms=until_ms, seller_id=seller_id,
        data={"cap": cap_id, "limited": name, "taken": taken, "limit": limit},
    )  # fmt: skip


def target_rested(tenant_id: str, target_id: str, name: str, until_ms: int) -> Finding:
    """A target failed so often that it is rested."""
    return Finding(
        NoticeKind.TARGET_RESTED, tenant_id, name, occasion_of(NoticeKind.TARGET_RESTED, target_id),
        f"target {name} fails and is rested", data={"target": name, "rested_until_ms": until_ms},
    )  # fmt: skip


def daemon_lost(tenant_id: str, node: str, seen_ms: int) -> Finding:
    """A daemon has not written of itself for a while, and did not say goodbye."""
    return Finding(
        NoticeKind.DAEMON_LOST, tenant_id, node, occasion_of(NoticeKind.DAEMON_LOST, node),
        f"the daemon of node {node} gives no sign of life", data={"node": node, "seen_ms": seen_ms},
    )  # fmt: skip


def ami_down(tenant_id: str, node: str) -> Finding:
    """A daemon has no connection to its Asterisk's manager interface."""
    return Finding(
        NoticeKind.AMI_DOWN, tenant_id, node, occasion_of(NoticeKind.AMI_DOWN, node),
        f"node {node} has no connection to Asterisk's manager interface", data={"node": node},
    )  # fmt: skip


# --- events -----------------------------------------------------------------------------------------------------------


def found_in(event: Event) -> Finding | None:
    """What an event is worth telling of; conditions are told as events, too, where a moment later they may be over."""
    data = data_of(event.data)
    tenant_id, at_ms = event.tenant_id, event.at_ms
    match event.kind:
        case EventKind.CAP_REACHED:
            window = "/".join(str(data.get(name, "")) for name in ("metric", "window"))
            name = f"{data.get('limited', '')} {window}".strip()
            return Finding(
                NoticeKind.CAP_REACHED, tenant_id, name,
                occasion_of(NoticeKind.CAP_REACHED, event.subject), f"the cap {name} is reached",
                until_ms=at_ms + AGAIN_MS, data={"cap": event.subject, **data},
            )  # fmt: skip
        case EventKind.TARGET_RESTED:
            return target_rested(tenant_id, event.subject, str(data.get("target", "")), _number(data.get("until_ms")))
        case EventKind.TARGET_REVIVED:
            name = str(data.get("target", ""))
            return Finding(
                NoticeKind.TARGET_REVIVED, tenant_id, name, occasion_of(NoticeKind.TARGET_REVIVED, event.id),
                f"target {name} takes calls again", until_ms=at_ms + DAY_MS, data=data,
            )  # fmt: skip
        case EventKind.ABUSE_DETECTED:
            said = (
                f"{data.get('abuse', 'abuse')} by {event.subject}: {data.get('count', '?')} in {data.get('window_s')} s"
            )
            return Finding(
                NoticeKind.ABUSE_DETECTED, tenant_id, event.subject,
                occasion_of(NoticeKind.ABUSE_DETECTED, str(data.get("abuse", "")), event.subject), said,
                until_ms=at_ms + AGAIN_MS, data=data,
            )  # fmt: skip
        case EventKind.REQUEST_FILED | EventKind.REQUEST_DECIDED:
            return _request(event, data)
        case EventKind.DELIVERY_PARKED:
            kind = data.get("event_kind", "an event")
            said = f"{data.get('webhook', 'a webhook')} does not take {kind} of {data.get('lane', '')}"
            return Finding(
                NoticeKind.DELIVERY_PARKED, tenant_id, event.subject,
                occasion_of(NoticeKind.DELIVERY_PARKED, event.subject), said, until_ms=at_ms + AGAIN_MS, data=data,
            )  # fmt: skip
        case _:
            return None


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _request(event: Event, data: Mapping[str, Any]) -> Finding:
    """A request for numbers was filed (for the operator) or decided (for the seller)."""
    decided = event.kind is EventKind.REQUEST_DECIDED
    kind = NoticeKind.REQUEST_DECIDED if decided else NoticeKind.REQUEST_FILED
    seller = str(data.get("seller", ""))
    said = f"request {event.subject} of {seller} is {data.get('status', 'decided')}" if decided else (
        f"seller {seller} asks for {data.get('quantity', 'some')} numbers"
    )  # fmt: skip
    return Finding(
        kind, event.tenant_id, event.subject, occasion_of(kind, event.id), said, until_ms=event.at_ms + DAY_MS,
        seller_id=str(data.get("seller_id", "")), data=data,
    )  # fmt: skip


# --- who is told ------------------------------------------------------------------------------------------------------


def as_it_holds(rule: NotificationRule, user: User | None) -> NotificationRule | None:
    """A rule as it holds for its user now; None: it tells nothing. `user`: of the rule's user name; None: a person whom
    only the rule knows.

    Users move to other sellers, and some are made after their rules: so this is asked each time something is told.
    """
    if user is None:
        return rule
    if user.status is not Status.ACTIVE:
        return None
    if user.role is not UserRole.SELLER:
        return rule
    if not user.seller_id or rule.seller_id not in ("", user.seller_id):
        return None  # of a seller that is not, or no more, the user's
    return replace(rule, seller_id=user.seller_id)


def concerns(rule: NotificationRule, finding: Finding) -> bool:
    """Whether a rule's user wants to be told: of this tenant, of this kind, and of this seller or of nobody's."""
    return (
        rule.tenant_id == finding.tenant_id
        and wants(rule.kinds, finding.kind)
        and (not rule.seller_id or rule.seller_id == finding.seller_id)
    )


def by_user(rules: Iterable[NotificationRule], finding: Finding) -> dict[str, list[NotificationRule]]:
    """The rules by which each user is told of it: one notification for each user, by each of its channels."""
    told: dict[str, list[NotificationRule]] = {}
    for rule in rules:
        if concerns(rule, finding):
            told.setdefault(rule.user_name, []).append(rule)
    return told


def mark_of(user_name: str, finding: Finding, now_ms: int) -> NotificationMark:
    """What remembers that a user is told."""
    return NotificationMark(
        tenant_id=finding.tenant_id, user_name=user_name, occasion=finding.occasion, told_ms=now_ms,
        until_ms=finding.until_ms,
    )  # fmt: skip


def to_judge(marks: Iterable[NotificationMark], node: str, *, starts: bool) -> list[NotificationMark]:
    """The marks of which a node can say whether they are over.

    Whether its AMI is back a node alone knows. Whether it was lost itself others know: to itself it never is, and it
    would forget what they, by their clocks, tell again at once. Only when it `starts`, whoever told it may be gone.
    """
    own_ami, own_loss = occasion_of(NoticeKind.AMI_DOWN, node), occasion_of(NoticeKind.DAEMON_LOST, node)
    return [
        mark
        for mark in marks
        if (kind_of(mark.occasion) != NoticeKind.AMI_DOWN or mark.occasion == own_ami)
        and (starts or mark.occasion != own_loss)
    ]


def over(
    marks: Iterable[NotificationMark], lasting: Iterable[Finding], looked_at: frozenset[str], now_ms: int
) -> list[NotificationMark]:
    """The marks that are to be forgotten: run out, or of a condition that lasts no more.

    `looked_at`: the kinds that `lasting` is complete for. What was told in the moment of the look may have begun after
    it, so that a mark that young stays.
    """
    still = {(finding.tenant_id, finding.occasion) for finding in lasting}
    gone = []
    for mark in marks:
        if mark.until_ms:
            if mark.until_ms <= now_ms:
                gone.append(mark)
        elif (
            kind_of(mark.occasion) in looked_at
            and (mark.tenant_id, mark.occasion) not in still
            and mark.told_ms + SETTLED_MS <= now_ms
        ):
            gone.append(mark)
    return gone


SETTLED_MS: Final = 5_000


def lasting_longer(marks: Iterable[NotificationMark], ends_ms: Mapping[str, int]) -> list[NotificationMark]:
    """Marks of caps that hold for an hour because nobody knew the cap's window, made to hold until it ends; `ends_ms`
    by cap id. So a cap is told of once in a window, whoever saw it first."""
    longer = []
    for mark in marks:
        kind, _, cap_id = mark.occasion.partition(" ")
        end_ms = ends_ms.get(cap_id, 0) if kind in (NoticeKind.CAP_REACHED, NoticeKind.CAP_NEARLY) else 0
        if 0 < mark.until_ms < end_ms:
            longer.append(replace(mark, until_ms=end_ms))
    return longer


def wanted_kinds(rules: Sequence[NotificationRule]) -> frozenset[NoticeKind]:
    """The kinds that anybody wants to be told of."""
    return frozenset(kind for kind in NoticeKind if any(wants(rule.kinds, kind) for rule in rules))
