"""Webhooks: who is given events, by URL or command, what waits for them and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.config import resolve_secret
from capconduit.config_rules import Invalid, secret_reference
from capconduit.domain.deliveries import Delivery, Webhook
from capconduit.domain.outgoing import MAX_PATTERNS, is_pattern, known_kinds
from capconduit.errors import DatabaseError, Refused, UsageError
from capconduit.outward.envelope import TEST_KIND, payload
from capconduit.outward.receivers import check_url, check_words
from capconduit.services.office import Desk, Office, check_name
from capconduit.services.outbox import FORGOTTEN_AT_ONCE
from capconduit.vocab import DeliveryState, EventKind, ReceiverKind, ReceiverStatus

MAX_SECRETS: Final = 4
MAX_WEBHOOKS: Final = 100  # of a tenant: every event is looked at for each of them
RETRIED_AT_ONCE: Final = 500  # lanes that are due again in one transaction
REST_S: Final = 0.01  # between two transactions of many, for calls to be decided


@dataclass(frozen=True, slots=True)
class WebhookView:
    """A webhook with how many deliveries wait, are parked, and were made (10,000: so many or more); and the error that
    is in its way."""

    webhook: Webhook
    waiting: int
    parked: int
    delivered: int
    error: str


def check_kinds(kinds: Sequence[str], known: Sequence[str] = tuple(EventKind)) -> str:
    """Patterns of kinds, comma separated. Raises UsageError for one that takes in nothing."""
    given = [one.strip() for text in kinds for one in text.split(",") if one.strip()]
    wrong = [one for one in given if not is_pattern(one)] + known_kinds([o for o in given if is_pattern(o)], known)
    if wrong or not given or len(given) > MAX_PATTERNS:
        near = _near(wrong[0], known) if wrong else ""
        raise UsageError(
            "kind-unknown",
            f"{wrong[0]!r} is no kind of event" if wrong else "no kind of event is given",
            near or f"give kinds like call.ended, families like call.*, or '*'; there are {', '.join(known)}",
        )
    return ",".join(dict.fromkeys(given))


def _near(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    families = dict.fromkeys(f"{kind.partition('.')[0]}.*" for kind in known)
    near = get_close_matches(word, [*map(str, known), *families], n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def check_secrets(references: Sequence[str], *, needed: bool) -> str:
    """References to secrets, space separated. Raises UsageError: a secret itself is never taken."""
    references = [reference for reference in references if reference]
    for reference in references:
        try:
            secret_reference(reference)
        except Invalid as bad:
            raise UsageError("secret-invalid", f"a secret {bad.reason}", bad.hint) from None
    if needed and not references:
        raise UsageError(
            "secret-missing", "what is posted must be signed", "give --secret env:NAME or --secret file:/absolute/path"
        )
    if len(references) > MAX_SECRETS or any(" " in reference for reference in references):
        raise UsageError(
            "secret-invalid", f"{len(references)} secrets", f"give 1 to {MAX_SECRETS}, without spaces in them"
        )
    return " ".join(dict.fromkeys(references))


def check_target(url: str, command: Sequence[str]) -> tuple[ReceiverKind, str]:
    """What was given, of the two, as it is kept. Raises UsageError."""
    if bool(url) == bool(command):
        raise UsageError("receiver-unclear", "give a URL, or a command after --", "like --url https://example.net/hook")
    return (ReceiverKind.HTTP, check_url(url)) if url else (ReceiverKind.COMMAND, check_words(command))


def add_webhook(
    office: Office,
    name: str,
    *,
    url: str = "",
    command: Sequence[str] = (),
    kinds: Sequence[str],
    secrets: Sequence[str] = (),
) -> WebhookView:
    """A new receiver of what happens from now on. Raises UsageError, Refused."""
    check_name("webhook", name)
    kind, address = check_target(url, command)
    patterns = check_kinds(kinds)
    references = check_secrets(secrets, needed=kind is ReceiverKind.HTTP)

    def work(desk: Desk) -> WebhookView:
        if len(desk.tx.rows(Webhook, desk.tenant_id)) >= MAX_WEBHOOKS:
            raise Refused("webhooks-many", f"there are {MAX_WEBHOOKS} webhooks", "give one of them more kinds")
        hook = Webhook(
            **desk.stamp(), name=name, kind=kind, address=address, kinds=patterns, secrets=references,
            status=ReceiverStatus.ACTIVE,
        )  # fmt: skip
        try:
            desk.tx.insert(hook)
        except Refused:
            raise Refused(
                "webhook-exists", f"webhook {name!r} exists already", f"see `capconduit webhook show {name}`"
            ) from None
        desk.tx.outward.decide_feeding()
        desk.changed("webhook.add", name, None, hook, estate=False)
        return WebhookView(hook, 0, 0, 0, "")

    return office.change(work)


def list_webhooks(office: Office) -> Sequence[WebhookView]:
    """All webhooks by name."""

    def work(desk: Desk) -> Sequence[WebhookView]:
        errors = desk.tx.outward.errors(desk.tenant_id)
        hooks = sorted(desk.tx.rows(Webhook, desk.tenant_id), key=lambda hook: hook.name)
        return [_view(desk, hook, errors) for hook in hooks]

    return office.read(work)


def show_webhook(office: Office, name: str) -> WebhookView:
    """One webhook. Raises NotFound."""
    return office.read(lambda desk: _shown(desk, desk.named(Webhook, name)))


def set_webhook(
    office: Office,
    name: str,
    *,
    url: str = "",
    command: Sequence[str] = (),
    kinds: Sequence[str] = (),
    secrets: Sequence[str] | None = None,
    status: ReceiverStatus | None = None,
) -> WebhookView:
    """Change what is given. What waits goes to where the webhook points then. Raises UsageError, NotFound."""
    patterns = check_kinds(kinds) if kinds else ""
    target = check_target(url, command) if url or command else None

    def work(desk: Desk) -> WebhookView:
        hook = desk.named(Webhook, name)
        after = replace(hook, updated_ms=desk.now_ms, kinds=patterns or hook.kinds, status=status or hook.status)
        if target:
            after = replace(after, kind=target[0], address=target[1])
        given = after.secrets.split() if secrets is None else secrets
        after = replace(after, secrets=check_secrets(given, needed=after.kind is ReceiverKind.HTTP))
        desk.tx.update(after)
        desk.changed("webhook.set", name, hook, after, estate=False)
        return _shown(desk, after)

    return office.change(work, estate=False)


def remove_webhook(office: Office, name: str) -> None:
    """Give it no more events, and forget what waits for it. Raises NotFound."""

    def work(desk: Desk) -> str:
        hook = desk.named(Webhook, name)
        desk.tx.outward.drop_receiver(desk.tenant_id, hook.id)
        desk.tx.delete(hook)
        desk.tx.outward.decide_feeding()
        desk.changed("webhook.remove", name, hook, None, estate=False)
        return hook.id

    forget_removed(office, office.change(work))


def forget_removed(office: Office, receiver_id: str) -> None:
    """Take away the deliveries of a receiver that was just removed, step by step, each of its own: calls go on.

    What is left where this ends early, a daemon takes away; so that is no failure of what was asked for.
    """

    def step(desk: Desk) -> int:
        return desk.tx.outward.forget_removed(desk.tenant_id, receiver_id, FORGOTTEN_AT_ONCE)

    with suppress(DatabaseError):
        while not office.dry_run and office.change(step, estate=False) == FORGOTTEN_AT_ONCE:
            time.sleep(REST_S)


def retry_webhook(office: Office, name: str, *, event_id: str = "") -> int:
    """What is parked, or waits for its next try, is due now, with all its tries (of one event: its lane); how many
    lanes that are. Many lanes are several changes, each with its audit entry: calls go on between them. Raises
    NotFound."""

    def work(desk: Desk) -> Sequence[str]:
        hook = desk.named(Webhook, name)
        if event_id and desk.tx.find(Delivery, desk.tenant_id, receiver_id=hook.id, event_id=event_id) is None:
            raise Refused(
                "delivery-not-found",
                f"event {event_id!r} is not among the deliveries of {name!r}",
                f"see `capconduit webhook deliveries {name}`",
            )
        lanes = desk.tx.outward.retry(
            desk.tenant_id, hook.id, desk.now_ms, RETRIED_AT_ONCE, after=after, event_id=event_id
        )
        if lanes:
            desk.tx.update(replace(hook, updated_ms=desk.now_ms))  # so that no daemon leaves it alone any longer
            desk.changed("webhook.retry", name, None, {"lanes": len(lanes), "event": event_id}, estate=False)
        return lanes

    after, count = "", 0
    while lanes := office.change(work, estate=False):
        after, count = lanes[-1], count + len(lanes)
        if len(lanes) < RETRIED_AT_ONCE:
            break
        time.sleep(REST_S)
    return count


def deliveries(
    office: Office, name: str, *, state: DeliveryState | None = None, limit: int | None = None
) -> Sequence[Delivery]:
    """What went, goes and did not go to a webhook, the newest first. Raises NotFound."""

    def work(desk: Desk) -> Sequence[Delivery]:
        hook = desk.named(Webhook, name)
        where: dict[str, Any] = {"receiver_id": hook.id} | ({"state": state.value} if state else {})
        return desk.tx.rows(Delivery, desk.tenant_id, newest_first="position", limit=limit, **where)

    return office.read(work)


def test_message(office: Office, hook: Webhook) -> dict[str, Any]:
    """What `webhook test` sends: an event that did not happen, of a kind of its own."""
    return payload(
        office.clock.new_id(), TEST_KIND, office.clock.now_ms(), office.tenant, hook.name, {"webhook": hook.name}
    )


def has_its_secrets(hook: Webhook, env: dict[str, str]) -> None:
    """Raises ConfigError where a secret is not there for this process."""
    for reference in hook.secrets.split():
        resolve_secret(reference, env)


def _shown(desk: Desk, hook: Webhook) -> WebhookView:
    return _view(desk, hook, desk.tx.outward.errors(desk.tenant_id))


def _view(desk: Desk, hook: Webhook, errors: Mapping[str, str]) -> WebhookView:
    counts = desk.tx.outward.counts(desk.tenant_id, hook.id)
    return WebhookView(
        hook,
        counts[DeliveryState.WAITING],
        counts[DeliveryState.PARKED],
        counts[DeliveryState.DELIVERED],
        errors.get(hook.id, ""),
    )
