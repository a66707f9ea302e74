"""Providers: the accounts whose voices and models agents use. Keys are references; what they name is read when it is
needed and goes nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from capconduit.config import resolve_secret
from capconduit.config_rules import Invalid, secret_reference
from capconduit.domain.agents import (
    DEFAULT_AZURE_VERSION,
    DEFAULT_URL,
    Agent,
    Provider,
    chain_of,
    check_api_version,
    check_base_url,
    check_deployment,
    check_model,
    check_provider,
    check_voice,
)
from capconduit.errors import Refused, UsageError
from capconduit.providers.account import Account
from capconduit.services.office import Desk, Office, check_name
from capconduit.vocab import ProviderKind

MAX_NAMED: Final = 5


def check_key_ref(reference: str) -> str:
    """Where a key is; may be empty. Raises UsageError, in which nothing of a plain key is repeated."""
    try:
        secret_reference(reference)
    except Invalid as bad:
        raise UsageError("key-not-a-reference", f"--key {bad.reason}", bad.hint) from None
    return reference


CHECKS: Final = {
    "base_url": check_base_url,
    "key_ref": check_key_ref,
    "model": check_model,
    "text_model": check_model,
    "voice": check_voice,
    "deployment": check_deployment,
    "api_version": check_api_version,
}


def add_provider(
    office: Office,
    name: str,
    *,
    kind: ProviderKind,
    base_url: str = "",
    key_ref: str = "",
    model: str = "",
    text_model: str = "",
    voice: str = "",
    deployment: str = "",
    api_version: str = "",
) -> Provider:
    """A new provider. Empty: the kind's own base URL and API version, no key, what the provider chooses.

    Raises UsageError, Refused.
    """
    check_name("provider", name)
    given = {
        "base_url": base_url or DEFAULT_URL[kind],
        "key_ref": key_ref,
        "model": model,
        "text_model": text_model,
        "voice": voice,
        "deployment": deployment,
        "api_version": api_version or (DEFAULT_AZURE_VERSION if kind is ProviderKind.AZURE else ""),
    }
    values = _checked(given)

    def work(desk: Desk) -> Provider:
        provider = Provider(**desk.stamp(), name=name, kind=kind, **values)
        check_provider(provider)
        desk.add("provider", provider)
        return provider

    return office.change(work)


def list_providers(office: Office) -> Sequence[Provider]:
    """All providers by name."""
    return office.read(lambda desk: sorted(desk.tx.rows(Provider, desk.tenant_id), key=lambda p: p.name))


def show_provider(office: Office, name: str) -> Provider:
    """One provider. Raises NotFound."""
    return office.read(lambda desk: desk.named(Provider, name))


def set_provider(office: Office, name: str, **fields: str) -> Provider:
    """Change what `add_provider` takes, but the kind; an empty base URL or API version is the kind's own again.

    Raises UsageError, NotFound.
    """
    values = _checked({field: value for field, value in fields.items() if field in CHECKS and value})
    values |= {field: "" for field, value in fields.items() if not value}

    def work(desk: Desk) -> Provider:
        provider = desk.named(Provider, name)
        if values.get("base_url") == "":
            values["base_url"] = DEFAULT_URL[provider.kind]
        if values.get("api_version") == "" and provider.kind is ProviderKind.AZURE:
            values["api_version"] = DEFAULT_AZURE_VERSION
        changed = replace(provider, **values, updated_ms=desk.now_ms)
        check_provider(changed)
        desk.change("provider", provider, changed)
        return changed

    return office.change(work)


def _checked(fields: Mapping[str, str]) -> dict[str, Any]:
    return {field: CHECKS[field](value) if value else "" for field, value in fields.items()}


def remove_provider(office: Office, name: str) -> None:
    """Remove a provider that no agent uses. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        provider = desk.named(Provider, name)
        users = sorted(a.name for a in desk.tx.rows(Agent, desk.tenant_id) if provider.id in chain_of(a))
        if users:
            shown = ", ".join(users[:MAX_NAMED]) + (" and others" if len(users) > MAX_NAMED else "")
            raise Refused(
                "provider-in-use", f"provider {name!r} is in use by {shown}", "give those agents another one first"
            )
        desk.remove("provider", provider, "give the agents that use it another provider first")

    office.change(work)


def account_of(provider: Provider, env: Mapping[str, str]) -> Account:
    """What a request to a provider needs, its key included. Raises ConfigError where that cannot be read."""
    key = resolve_secret(provider.key_ref, env) if provider.key_ref else ""
    return Account(
        name=provider.name,
        kind=provider.kind,
        base_url=provider.base_url,
        key=key,
        key_ref=provider.key_ref,
        model=provider.model,
        text_model=provider.text_model,
        deployment=provider.deployment,
        api_version=provider.api_version,
    )
