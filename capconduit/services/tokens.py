"""Tokens of the HTTP API: made once and shown once, kept as a hash, looked up by it.

The hash is SHA-256 and not one of the slow hashes for passwords: a token is 256 bits from the system's generator, so
there is nothing to guess that a slow hash would protect, and no salt is needed where no two are alike; but it is looked
up with every request, by its hash.

Failure policy: fail closed. A token that is unknown, revoked or expired, or whose user is suspended, opens nothing,
and nobody is told which of these it was. A suspended seller may still look, not ask for anything.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.clock import Clock
from capconduit.domain.model import Seller, Tenant, User
from capconduit.domain.people import Token
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk, Office, check_name
from capconduit.store.store import Store, Transaction
from capconduit.units import MAX_INSTANT_MS, format_instant
from capconduit.vocab import SELLER_SCOPES, Status, TokenScope, UserRole

PREFIX: Final = "cct_"  # so that people and scanners for leaked secrets see what it is
SECRET_BYTES: Final = 32
USED_STEP_MS: Final = 60_000  # `used_ms` is written no oftener
_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_\-]{{43}}")


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token with the name of its user, and whether it opens anything now."""

    token: Token
    user: str
    valid: bool

    @property
    def scopes(self) -> tuple[str, ...]:
        """What it may do."""
        return tuple(self.token.scopes.split())


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whoever brought a token: of which tenant, as which user, for which seller (None: an admin), with which scopes."""

    tenant: Tenant
    user: User
    token: Token
    seller: Seller | None
    scopes: frozenset[TokenScope]


def new_token() -> str:
    """A fresh token: the prefix and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def token_hash(text: str) -> str:
    """What is kept of a token (SHA-256, hexadecimal; see above for why)."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_token(text: str) -> bool:
    """Whether a text has the form of a token at all."""
    return _TOKEN.fullmatch(text) is not None


def add_token(
    office: Office,
    name: str,
    *,
    user: str,
    scopes: Sequence[TokenScope] = (),
    expires_ms: int | None = None,
    make: Callable[[], str] = new_token,
) -> tuple[TokenView, str]:
    """A new token of a user, and its text, which is nowhere else. Without `scopes`: all that the user's role has.

    Raises UsageError, NotFound, Refused.
    """
    check_name("token", name)
    text = make()

    def work(desk: Desk) -> tuple[TokenView, str]:
        _check_expiry(expires_ms, desk.now_ms)
        owner = desk.named(User, user)
        token = Token(
            **desk.stamp(),
            name=name,
            user_id=owner.id,
            hash=token_hash(text),
            scopes=" ".join(_scopes_of(owner, scopes)),
            expires_ms=expires_ms,
            revoked_ms=None,
            used_ms=None,
        )
        try:
            desk.tx.insert(token)
        except Refused as error:
            if error.slug != "exists":
                raise
            raise Refused(
                "token-exists", f"token {name!r} exists already", f"see `capconduit token show {name}`"
            ) from None
        desk.changed("token.add", name, None, replace(token, hash=""), estate=False)
        return _view(token, owner, desk.now_ms), text

    return office.change(work, estate=False)


def list_tokens(office: Office, user: str = "") -> Sequence[TokenView]:
    """All tokens by name, or those of a user. Raises NotFound."""

    def work(desk: Desk) -> Sequence[TokenView]:
        users = {u.id: u for u in desk.tx.rows(User, desk.tenant_id)}
        where: dict[str, Any] = {"user_id": desk.named(User, user).id} if user else {}
        tokens = sorted(desk.tx.rows(Token, desk.tenant_id, **where), key=lambda t: t.name)
        return [_view(t, users[t.user_id], desk.now_ms) for t in tokens]

    return office.read(work)


def show_token(office: Office, name: str) -> TokenView:
    """One token, without its text. Raises NotFound."""

    def work(desk: Desk) -> TokenView:
        token = desk.named(Token, name)
        return _view(token, _user_of(desk, token), desk.now_ms)

    return office.read(work)


def revoke_token(office: Office, name: str) -> TokenView:
    """From now on the token opens nothing; it stays to be seen. Raises NotFound, Refused."""

    def work(desk: Desk) -> TokenView:
        token = desk.named(Token, name)
        if token.revoked_ms is not None:
            raise Refused(
                "token-revoked",
                f"token {name!r} was revoked already, {format_instant(token.revoked_ms)}",
                f"remove it for good: capconduit token remove {name}",
            )
        after = replace(token, revoked_ms=desk.now_ms, updated_ms=desk.now_ms)
        desk.tx.update(after)
        desk.changed("token.revoke", name, replace(token, hash=""), replace(after, hash=""), estate=False)
        return _view(after, _user_of(desk, after), desk.now_ms)

    return office.change(work, estate=False)


def remove_token(office: Office, name: str) -> None:
    """Remove a token; it opens nothing any more. Raises NotFound."""

    def work(desk: Desk) -> None:
        token = desk.named(Token, name)
        desk.tx.delete(token)
        desk.changed("token.remove", name, replace(token, hash=""), None, estate=False)

    office.change(work, estate=False)


def find_by_token(store: Store, clock: Clock, digest: str) -> Bearer | None:
    """Whose token this is, by its hash, of any tenant; None for one that opens nothing.

    That it was used is noted, at most once in USED_STEP_MS. Raises DatabaseError.
    """
    now_ms = clock.now_ms()
    with store.transaction(write=False) as tx:
        found = _bearer(tx, digest, now_ms)
    if found is None:
        return None
    used_ms = found.token.used_ms
    if used_ms is None or now_ms - used_ms >= USED_STEP_MS:
        return store.run(lambda tx: _used(tx, digest, now_ms))
    return found


def _used(tx: Transaction, digest: str, now_ms: int) -> Bearer | None:
    """The same once more, with its use noted: what was revoked meanwhile stays revoked."""
    found = _bearer(tx, digest, now_ms)
    if found is None:
        return None
    tx.tokens().note_use(found.token, now_ms)
    return replace(found, token=replace(found.token, used_ms=now_ms))


def _bearer(tx: Transaction, digest: str, now_ms: int) -> Bearer | None:
    token = tx.tokens().by_hash(digest)
    if token is None or not _is_valid(token, now_ms):
        return None
    user = tx.find(User, token.tenant_id, id=token.user_id)
    tenant = tx.find(Tenant, token.tenant_id, id=token.tenant_id)
    if user is None or tenant is None or user.status is not Status.ACTIVE:
        return None
    seller = tx.find(Seller, token.tenant_id, id=user.seller_id) if user.seller_id else None
    if user.role is UserRole.SELLER and seller is None:
        return None
    allowed = set(_allowed(user))
    if seller is not None and seller.status is not Status.ACTIVE:
        allowed.discard(TokenScope.REQUESTS_WRITE)
    scopes = frozenset(scope for scope in allowed if scope.value in token.scopes.split())
    return Bearer(tenant, user, token, seller, scopes)


def _allowed(user: User) -> Sequence[TokenScope]:
    """The scopes that a role can have."""
    return tuple(TokenScope) if user.role is UserRole.ADMIN else SELLER_SCOPES


def _scopes_of(user: User, wanted: Sequence[TokenScope]) -> Sequence[TokenScope]:
    """In the order of the vocabulary, each once. Raises Refused for one that the role does not have."""
    if not wanted:
        return (TokenScope.ADMIN,) if user.role is UserRole.ADMIN else SELLER_SCOPES
    for scope in wanted:
        if scope not in _allowed(user):
            raise Refused(
                "scope-refused",
                f"user {user.name!r} is of role {user.role} and cannot have the scope {scope.value!r}",
                f"choose among {', '.join(_allowed(user))}",
            )
    return tuple(scope for scope in TokenScope if scope in wanted)


def _check_expiry(expires_ms: int | None, now_ms: int) -> None:
    if expires_ms is None:
        return
    if expires_ms >= MAX_INSTANT_MS:
        raise UsageError("expiry-invalid", "that is too far away", "leave --expires out for one that has no end")
    if expires_ms <= now_ms:
        raise UsageError("expiry-invalid", f"{format_instant(expires_ms)} is over", "give a time to come, like 90d")


def _is_valid(token: Token, now_ms: int) -> bool:
    return token.revoked_ms is None and (token.expires_ms is None or now_ms < token.expires_ms)


def _user_of(desk: Desk, token: Token) -> User:
    user = desk.tx.find(User, desk.tenant_id, id=token.user_id)
    assert user is not None  # a foreign key
    return user


def _view(token: Token, user: User, now_ms: int) -> TokenView:
    return TokenView(token, user.name, _is_valid(token, now_ms) and user.status is Status.ACTIVE)
