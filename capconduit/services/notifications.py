"""Notifications: who is told of what and how, what was told, and what the daemon looks at every few seconds.

Looking costs decisions nothing: it reads in a snapshot, apart from them, and only what somebody wants to be told of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from capconduit.domain.deliveries import Notification, NotificationMark, NotificationRule
from capconduit.domain.estate import Estate
from capconduit.domain.model import Account, Seller, Target, TargetState, Tenant, User
from capconduit.domain.notices import (
    AGAIN_MS,
    OVER_WITH_CONDITION,
    Finding,
    ami_down,
    as_it_holds,
    by_user,
    cap_filling,
    daemon_lost,
    lasting_longer,
    low_balance,
    over,
    runs_low,
    target_rested,
    to_judge,
    wanted_kinds,
)
from capconduit.errors import NotFound, Refused, UsageError
from capconduit.mail import parse_address
from capconduit.outward.receivers import check_url, check_words
from capconduit.services.caps import CapView, usage_in
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.outbox import rules_now, tell
from capconduit.services.webhooks import check_kinds, check_secrets, forget_removed
from capconduit.store.store import Transaction
from capconduit.units import format_duration
from capconduit.vocab import CapMetric, CapScope, NoticeChannel, NoticeKind, WindowKind

MAX_RULES: Final = 200  # of a tenant
LOST_MS: Final = 30_000  # a daemon writes of itself every three seconds
LONG_LOST_MS: Final = 86_400_000  # one that is gone for so long is no news
EVER_MS: Final = 365 * 86_400_000
ID_AT_LEAST: Final = 6  # characters of an id that name a notification


@dataclass(frozen=True, slots=True)
class RuleView:
    """A rule with the name of the seller it is limited to now, by itself or by its user's; empty: of everybody."""

    rule: NotificationRule
    seller: str


# --- rules ------------------------------------------------------------------------------------------------------------


def add_rule(
    office: Office,
    name: str,
    *,
    kinds: Sequence[str],
    user: str = "",
    channel: NoticeChannel = NoticeChannel.LIST,
    to: str = "",
    command: Sequence[str] = (),
    secrets: Sequence[str] = (),
    seller: str = "",
) -> RuleView:
    """A new rule, for a user of the installation or for a person whom only the rule knows (`user`; empty: named as the
    rule). A user of a seller is told of that seller. Raises UsageError, NotFound, Refused."""
    check_name("notification rule", name)
    check_name("user", user or name)
    patterns = check_kinds(kinds, tuple(NoticeKind))
    references = check_secrets(secrets, needed=channel is NoticeChannel.WEBHOOK)

    def work(desk: Desk) -> RuleView:
        if len(desk.tx.rows(NotificationRule, desk.tenant_id)) >= MAX_RULES:
            raise Refused("rules-many", f"there are {MAX_RULES} rules", "give one of them more kinds")
        known = desk.tx.find(User, desk.tenant_id, name=user or name)
        rule = NotificationRule(
            **desk.stamp(), name=name, user_name=user or name, kinds=patterns, channel=channel,
            address=_address(channel, to, command, known), secrets=references,
            seller_id=_seller_id(desk, seller, known),
        )  # fmt: skip
        try:
            desk.tx.insert(rule)
        except Refused:
            raise Refused(
                "rule-exists", f"notification rule {name!r} exists already", "see `capconduit notification rules`"
            ) from None
        desk.tx.outward.decide_feeding()
        desk.changed("notification.add", name, None, rule, estate=False)
        return _rule_view(desk, rule)

    return office.change(work)


def set_rule(
    office: Office,
    name: str,
    *,
    kinds: Sequence[str] = (),
    channel: NoticeChannel | None = None,
    to: str = "",
    command: Sequence[str] = (),
    secrets: Sequence[str] | None = None,
) -> RuleView:
    """Change what is given. Raises UsageError, NotFound."""
    patterns = check_kinds(kinds, tuple(NoticeKind)) if kinds else ""

    def work(desk: Desk) -> RuleView:
        rule = named_rule(desk, name)
        after = replace(rule, updated_ms=desk.now_ms, kinds=patterns or rule.kinds, channel=channel or rule.channel)
        if to or command or after.channel is not rule.channel:
            known = desk.tx.find(User, desk.tenant_id, name=rule.user_name)
            after = replace(after, address=_address(after.channel, to, command, known))
        given = after.secrets.split() if secrets is None else secrets
        references = check_secrets(given, needed=after.channel is NoticeChannel.WEBHOOK)
        after = replace(after, secrets=references)
        desk.tx.update(after)
        desk.changed("notification.set", name, rule, after, estate=False)
        return _rule_view(desk, after)

    return office.change(work, estate=False)


def remove_rule(office: Office, name: str) -> None:
    """Tell no more by this rule; what was told stays in the list. Raises NotFound."""

    def work(desk: Desk) -> str:
        rule = named_rule(desk, name)
        desk.tx.outward.drop_receiver(desk.tenant_id, rule.id)
        desk.tx.delete(rule)
        desk.tx.outward.decide_feeding()
        desk.changed("notification.remove", name, rule, None, estate=False)
        return rule.id

    forget_removed(office, office.change(work))


def list_rules(office: Office) -> Sequence[RuleView]:
    """All rules by name."""

    def work(desk: Desk) -> Sequence[RuleView]:
        rules = sorted(desk.tx.rows(NotificationRule, desk.tenant_id), key=lambda rule: rule.name)
        return [_rule_view(desk, rule) for rule in rules]

    return office.read(work)


def near_user(office: Office, name: str) -> str:
    """The user, or the name that rules tell already, that `name` may be a slip for; empty where it is one of them, or
    like none. Who is told need not be a user of the installation."""
    from difflib import get_close_matches  # only here

    def work(desk: Desk) -> str:
        known = {user.name for user in desk.tx.rows(User, desk.tenant_id)}
        known |= {rule.user_name for rule in desk.tx.rows(NotificationRule, desk.tenant_id)}
        near = [] if name in known else get_close_matches(name, sorted(known), n=1)
        return near[0] if near else ""

    return office.read(work)


def show_rule(office: Office, name: str) -> RuleView:
    """One rule. Raises NotFound."""
    return office.read(lambda desk: _rule_view(desk, named_rule(desk, name)))


def named_rule(desk: Desk, name: str) -> NotificationRule:
    """The rule of that name. Raises NotFound."""
    try:
        return desk.named(NotificationRule, name, "notification")
    except NotFound as error:
        if error.near:
            raise
        raise Refused(
            "notification-not-found", f"no notification rule named {name!r}", "see `capconduit notification rules`"
        ) from None


def _address(channel: NoticeChannel, to: str, command: Sequence[str], user: User | None) -> str:
    if command and channel is not NoticeChannel.COMMAND:
        raise UsageError(
            "receiver-unclear", f"a command is given, and the channel is {channel}", "give --channel command"
        )
    match channel:
        case NoticeChannel.EMAIL:
            address = to or (user.email if user else "")
            if not address:
                raise UsageError("address-missing", "there is no address to mail to", "give --to ops@example.net")
            return parse_address(address)
        case NoticeChannel.WEBHOOK:
            return check_url(to)
        case NoticeChannel.COMMAND:
            return check_words(command)
        case NoticeChannel.LIST:
            if to:
                raise UsageError("receiver-unclear", f"--to {to!r} needs a channel", "give --channel email or webhook")
            return ""


def _seller_id(desk: Desk, seller: str, user: User | None) -> str:
    """Whom the rule is limited to by itself; that a seller's user is told of no other is looked up with each telling.
    Raises Refused where nothing would be left to tell."""
    wanted = desk.named(Seller, seller).id if seller else ""
    own = (user.seller_id or "") if user else ""
    if own and wanted and own != wanted:
        raise Refused(
            "seller-not-theirs", f"user {user.name if user else ''!r} belongs to another seller", "leave --seller out"
        )
    return wanted


def _rule_view(desk: Desk, rule: NotificationRule) -> RuleView:
    held = as_it_holds(rule, desk.tx.find(User, desk.tenant_id, name=rule.user_name)) or rule
    seller = desk.tx.find(Seller, desk.tenant_id, id=held.seller_id) if held.seller_id else None
    return RuleView(rule, seller.name if seller else "")


# --- what was told ----------------------------------------------------------------------------------------------------


def list_notifications(
    office: Office, *, user: str = "", unread: bool = False, limit: int | None = None
) -> Sequence[Notification]:
    """What users were told, the newest first."""

    def work(desk: Desk) -> Sequence[Notification]:
        where: dict[str, Any] = {"user_name": user} if user else {}
        if not unread:
            return desk.tx.rows(Notification, desk.tenant_id, newest_first="at_ms", limit=limit, **where)
        found = desk.tx.rows(Notification, desk.tenant_id, newest_first="at_ms", **where)
        return [notice for notice in found if notice.read_ms is None][:limit]

    return office.read(work)


def show_notification(office: Office, id_: str) -> Notification:
    """One notification by its id, or by an end of it that no other has. Raises NotFound, Refused."""
    return office.read(lambda desk: _found(desk, id_))


def _found(desk: Desk, id_: str) -> Notification:
    exact = desk.tx.find(Notification, desk.tenant_id, id=id_.upper())
    if exact is not None:
        return exact
    wanted = id_.upper()
    near = [
        n for n in desk.tx.rows(Notification, desk.tenant_id) if len(wanted) >= ID_AT_LEAST and n.id.endswith(wanted)
    ]
    if len(near) != 1:
        raise NotFound("notification", id_, tuple(n.id for n in near[:2]))
    return near[0]


def unread_counts(office: Office) -> dict[str, int]:
    """How many notifications each user has not read."""
    return office.read(lambda desk: desk.tx.outward.unread(desk.tenant_id))


def read_notifications(office: Office, ids: Sequence[str] = (), *, user: str = "") -> int:
    """These (or all, of a user where one is named) are read now; how many were not before. Raises NotFound."""

    def work(desk: Desk) -> int:
        found = [_found(desk, id_).id for id_ in ids]
        return desk.tx.outward.read(desk.tenant_id, desk.now_ms, user_name=user, ids=found)

    return office.change(work, estate=False)


# --- what the daemon looks at -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Looked:
    """What a look found: what lasts now, and the marks that are over or hold longer."""

    findings: list[Finding] = field(default_factory=list)
    ends_ms: dict[str, int] = field(default_factory=dict)  # of caps: until when they are told of once
    rules: Sequence[NotificationRule] = ()
    fresh: list[Finding] = field(default_factory=list)  # that some user may not know of yet
    over: list[NotificationMark] = field(default_factory=list)
    longer: list[NotificationMark] = field(default_factory=list)

    @property
    def is_news(self) -> bool:
        """Whether anything is to be written."""
        return bool(self.fresh or self.over or self.longer)


def look(
    tx: Transaction, now_ms: int, new_id: Callable[[], str], known: Estate | None, node: str, *, has_ami: bool,
    starts: bool = False,
) -> Looked:  # fmt: skip
    """Look at balances, caps, targets and daemons, as far as somebody wants to know; `has_ami`: this node's AMI is up,
    or off on purpose; `starts`: its daemon looks for the first time. In a transaction that only reads."""
    looked = Looked(rules=tx.outward.rules())
    known_marks = tx.outward.marks()
    marks = to_judge(known_marks, node, starts=starts)
    if not looked.rules:
        looked.over = list(over(marks, (), OVER_WITH_CONDITION, now_ms))
        return looked
    kinds = wanted_kinds(looked.rules)
    tenants = tx.tenants()
    for tenant in tenants:
        desk = Desk(tx, tenant, "capconduit", now_ms, new_id)
        if NoticeKind.BALANCE_LOW in kinds:
            looked.findings += _balances(desk)
        if NoticeKind.TARGET_RESTED in kinds:
            looked.findings += _targets(desk)
    if kinds & {NoticeKind.CAP_NEARLY, NoticeKind.CAP_REACHED}:
        estate = tx.load_estate(known)
        for tenant in tenants:
            _caps(Desk(tx, tenant, "capconduit", now_ms, new_id), estate, looked)
    looked.findings += _daemons(tx, tenants, now_ms, node, has_ami=has_ami)
    told = {(mark.tenant_id, mark.user_name, mark.occasion) for mark in known_marks}
    rules = rules_now(tx, looked.rules) if looked.findings else ()
    looked.fresh = [
        finding
        for finding in looked.findings
        if any((finding.tenant_id, user, finding.occasion) not in told for user in by_user(rules, finding))
    ]
    looked.over = over(marks, looked.findings, OVER_WITH_CONDITION, now_ms)
    looked.longer = lasting_longer(marks, looked.ends_ms)
    return looked


def carry_out(tx: Transaction, looked: Looked, now_ms: int, new_id: Callable[[], str]) -> int:
    """Write what a look found: tell what is new, forget what is over; how many notifications were made."""
    tx.outward.unmark(looked.over)
    for mark in looked.longer:
        tx.update(mark)
    return tell(tx, tx.outward.rules(), looked.fresh, now_ms, new_id)


def _balances(desk: Desk) -> list[Finding]:
    accounts = {account.seller_id: account for account in desk.tx.rows(Account, desk.tenant_id)}
    return [
        low_balance(
            desk.tenant_id, seller.id, seller.name, seller.currency, accounts[seller.id].available_micros,
            seller.low_balance_micros,
        )
        for seller in desk.tx.rows(Seller, desk.tenant_id)
        if seller.id in accounts and runs_low(seller, accounts[seller.id])
    ]  # fmt: skip


def _targets(desk: Desk) -> list[Finding]:
    rested = [state for state in desk.tx.rows(TargetState, desk.tenant_id) if state.rested_until_ms]
    if not rested:
        return []
    names = {target.id: target.name for target in desk.tx.rows(Target, desk.tenant_id)}
    return [
        target_rested(desk.tenant_id, state.target_id, names[state.target_id], state.rested_until_ms)
        for state in rested
        if state.target_id in names
    ]


def _caps(desk: Desk, estate: Estate, looked: Looked) -> None:
    for view in usage_in(desk, estate):
        if view.cap.metric is CapMetric.CPS:
            continue  # the second is over before anybody reads of it
        until_ms = view.resets_ms or desk.now_ms + (EVER_MS if view.cap.window_kind is WindowKind.TOTAL else AGAIN_MS)
        if view.resets_ms:
            looked.ends_ms[view.cap.id] = view.resets_ms
        found = cap_filling(
            desk.tenant_id, view.cap.id, cap_name(view), view.used + view.in_flight, view.cap.limit_value, until_ms,
            _seller_of(view, estate),
        )  # fmt: skip
        if found is not None:
            looked.findings.append(found)


def cap_name(view: CapView) -> str:
    """How a cap is called in a sentence: `campaign solar billable/day`."""
    cap = view.cap
    window = "" if cap.window_kind is WindowKind.NONE else f"/{cap.window_kind}"
    if cap.window_kind is WindowKind.ROLLING:
        window = f"/rolling:{format_duration(cap.window_ms)}"
    whose = cap.scope.value if cap.scope is CapScope.SYSTEM else f"{cap.scope} {view.subject}"
    return f"{whose} {cap.metric}{window}"


def _seller_of(view: CapView, estate: Estate) -> str:
    match view.cap.scope:
        case CapScope.SELLER:
            return view.cap.scope_id
        case CapScope.CAMPAIGN:
            campaign = estate.campaigns.get(view.cap.scope_id)
            return campaign.seller_id if campaign else ""
        case _:
            return ""


def _daemons(tx: Transaction, tenants: Sequence[Tenant], now_ms: int, node: str, *, has_ami: bool) -> list[Finding]:
    """Trouble of daemons concerns the operator of the tenant that the installation began with."""
    first = tenants[0].id
    found = [
        daemon_lost(first, row.name, row.seen_ms)
        for row in tx.nodes()
        if row.state == "up" and row.name != node and LOST_MS < now_ms - row.seen_ms < LONG_LOST_MS
    ]
    return found if has_ami else [*found, ami_down(first, node)]
