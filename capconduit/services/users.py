"""Users: the people and businesses that sign in, and which seller's they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.deliveries import NotificationRule
from capconduit.domain.model import Seller, User
from capconduit.domain.people import Token
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk, Office, check_name
from capconduit.vocab import Status, UserRole

MAX_EMAIL: Final = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets
# What SMTP takes without quoting (RFC 5321, section 4.1.2), at a domain with a dot in it or `localhost`.
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+)*"
    r"@(?:localhost|(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?)"
)


@dataclass(frozen=True, slots=True)
class UserView:
    """A user, the name of its seller (empty: none), and how many tokens it has that are not revoked."""

    user: User
    seller: str
    tokens: int


def check_email(text: str) -> str:
    """An address that mail can be sent to; empty for none. Raises UsageError."""
    if text and (len(text) > MAX_EMAIL or not _EMAIL.fullmatch(text)):
        raise UsageError("email-invalid", f"{text!r} is no e-mail address", "write it like ops@example.com")
    return text


def add_user(office: Office, name: str, *, role: UserRole, seller: str = "", email: str = "") -> UserView:
    """A new, active user; one of role seller belongs to a seller. Raises UsageError, NotFound, Refused."""
    check_name("user", name)
    check_email(email)

    def work(desk: Desk) -> UserView:
        row = desk.named(Seller, seller) if seller else None
        user = User(
            **desk.stamp(),
            name=name,
            role=role,
            status=Status.ACTIVE,
            email=email,
            seller_id=row.id if row else None,
        )
        _check_role(user)
        try:
            desk.tx.insert(user)
        except Refused as error:
            if error.slug != "exists":
                raise
            raise Refused(
                "user-exists", f"user {name!r} exists already", f"see `capconduit user show {name}`"
            ) from None
        desk.changed("user.add", name, None, user, estate=False)
        return _view(desk, user)

    return office.change(work, estate=False)


def list_users(office: Office) -> Sequence[UserView]:
    """All users by name."""

    def work(desk: Desk) -> Sequence[UserView]:
        sellers = {s.id: s.name for s in desk.tx.rows(Seller, desk.tenant_id)}
        live = [t.user_id for t in desk.tx.rows(Token, desk.tenant_id) if t.revoked_ms is None]
        users = sorted(desk.tx.rows(User, desk.tenant_id), key=lambda u: u.name)
        return [UserView(u, sellers.get(u.seller_id or "", ""), live.count(u.id)) for u in users]

    return office.read(work)


def show_user(office: Office, name: str) -> UserView:
    """One user. Raises NotFound."""
    return office.read(lambda desk: _view(desk, desk.named(User, name)))


def set_user(office: Office, name: str, *, seller: str | None = None, **fields: Any) -> UserView:
    """Change role, status, email, or the seller (empty: none). Raises UsageError, NotFound, Refused.

    Tokens with scopes that the new role does not have must be revoked first.
    """
    check_email(fields.get("email", ""))

    def work(desk: Desk) -> UserView:
        user = desk.named(User, name)
        if seller is not None:
            fields["seller_id"] = desk.named(Seller, seller).id if seller else None
        changed = replace(user, **fields, updated_ms=desk.now_ms)
        _check_role(changed)
        if changed.role is not user.role or changed.seller_id != user.seller_id:
            _check_tokens(desk, changed)
        desk.tx.update(changed)
        desk.changed("user.set", name, user, changed, estate=False)
        return _view(desk, changed)

    return office.change(work, estate=False)


def suspend_user(office: Office, name: str, *, suspended: bool) -> UserView:
    """Keep a user and its tokens out, or let them in again. Raises NotFound."""
    return set_user(office, name, status=Status.SUSPENDED if suspended else Status.ACTIVE)


def remove_user(office: Office, name: str) -> None:
    """Remove a user with its tokens. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        user = desk.named(User, name)
        _check_rules(desk, user)
        for token in desk.tx.rows(Token, desk.tenant_id, user_id=user.id):
            desk.tx.delete(token)
            desk.changed("token.remove", token.name, replace(token, hash=""), None, estate=False)
        try:
            desk.tx.delete(user)
        except Refused:
            raise Refused(
                "user-in-use", f"user {name!r} is in use", f"suspend it: capconduit user suspend {name}"
            ) from None
        desk.changed("user.remove", name, user, None, estate=False)

    office.change(work, estate=False)


def users_of(desk: Desk, seller_id: str) -> Sequence[str]:
    """The names of the users that belong to a seller."""
    return sorted(user.name for user in desk.tx.rows(User, desk.tenant_id, seller_id=seller_id))


def _check_role(user: User) -> None:
    """A seller's user belongs to a seller, an admin to none. Raises UsageError."""
    if user.role is UserRole.SELLER and user.seller_id is None:
        raise UsageError("seller-missing", f"to which seller does user {user.name!r} belong?", "give --seller NAME")
    if user.role is UserRole.ADMIN and user.seller_id is not None:
        raise UsageError(
            "seller-of-admin",
            f"user {user.name!r} is an admin and so belongs to no seller",
            "leave --seller out, or take it away with --seller none",
        )


def _check_tokens(desk: Desk, user: User) -> None:
    """Tokens were made for what a user was: one that lives on would open another account, or more than it should."""
    live = [t.name for t in desk.tx.rows(Token, desk.tenant_id, user_id=user.id) if t.revoked_ms is None]
    if live:
        raise Refused(
            "user-has-tokens",
            f"user {user.name!r} has tokens that were made for another role or seller: {', '.join(sorted(live)[:3])}",
            f"revoke them first: capconduit token revoke {sorted(live)[0]}",
        )


def _check_rules(desk: Desk, user: User) -> None:
    """A rule that outlives its user is that of a person whom nothing limits: it would tell of other sellers."""
    rules = sorted(rule.name for rule in desk.tx.rows(NotificationRule, desk.tenant_id, user_name=user.name))
    if rules:
        raise Refused(
            "user-has-notifications",
            f"user {user.name!r} is told by notification rules: {', '.join(rules[:3])}",
            f"remove them first: capconduit notification remove {rules[0]}",
        )


def _view(desk: Desk, user: User) -> UserView:
    seller = desk.tx.find(Seller, desk.tenant_id, id=user.seller_id) if user.seller_id else None
    live = [t for t in desk.tx.rows(Token, desk.tenant_id, user_id=user.id) if t.revoked_ms is None]
    return UserView(user, seller.name if seller else "", len(live))
