"""Whether a provider answers as its kind does, asked for something that costs nothing, and whether the model is there.

openai: GET /models · azure: GET /openai/models · deepgram: GET /v1/projects · ollama: GET /api/tags. Azure tells no
deployments to who has but a key: whether the deployment is there shows when it is used.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from capconduit.providers.account import Account
from capconduit.providers.asking import AskFailed, Heard, ask
from capconduit.vocab import ProviderFault, ProviderKind

_PATHS: Final = {
    ProviderKind.OPENAI: "/models",
    ProviderKind.AZURE: "/openai/models",
    ProviderKind.DEEPGRAM: "/v1/projects",
    ProviderKind.OLLAMA: "/api/tags",
}
_LIST: Final = {ProviderKind.OLLAMA: ("models", "name"), ProviderKind.DEEPGRAM: ("projects", "project_id")}
_NEAR: Final = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """What a test found. `fault` None: all is well; `words` say it. `model_found` None: it was not looked for."""

    url: str
    status: int | None
    latency_ms: int
    model_found: bool | None
    fault: ProviderFault | None
    words: str


def probe(account: Account, *, timeout_ms: int) -> Probe:
    """One request to a provider; every failure is an answer."""
    path = _PATHS[account.kind]
    query = {"api-version": account.api_version} if account.kind is ProviderKind.AZURE else None
    url = account.base_url + path
    try:
        heard = ask(account, path, timeout_ms=timeout_ms, query=query)
        names = _names(account.kind, heard)
    except AskFailed as failed:
        return Probe(url, failed.status, failed.latency_ms, None, failed.fault, failed.words)
    if account.kind not in (ProviderKind.OPENAI, ProviderKind.OLLAMA):
        return Probe(url, heard.status, heard.latency_ms, None, None, "it answers, and knows the key")
    wanted = [model for model in (account.model, account.text_model) if model]
    missing = [model for model in wanted if not _has(account.kind, model, names)]
    if missing:
        near = get_close_matches(missing[0], names, n=_NEAR)
        known = f"did you mean {' or '.join(near)}?" if near else f"it has {len(names)} others"
        words = f"it answers, and has no model {missing[0]}: {known}"
        return Probe(url, heard.status, heard.latency_ms, False, ProviderFault.MODEL, words)
    words = f"it answers, and has {' and '.join(dict.fromkeys(wanted))}"
    return Probe(url, heard.status, heard.latency_ms, True, None, words)


def _names(kind: ProviderKind, heard: Heard) -> list[str]:
    """The names in the list that the kind answers with. Raises AskFailed where it is another answer."""
    key, name = _LIST.get(kind, ("data", "id"))
    entries: Any = heard.data.get(key) if isinstance(heard.data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise AskFailed(
            ProviderFault.ANSWER,
            f"it answers something else than {kind} does: is it of another kind?",
            status=heard.status,
            latency_ms=heard.latency_ms,
        )
    return [entry[name] for entry in entries if isinstance(entry.get(name), str)]


def _has(kind: ProviderKind, model: str, names: Collection[str]) -> bool:
    """Ollama's models have a tag; `latest` where none is said."""
    return model in names or (kind is ProviderKind.OLLAMA and ":" not in model and f"{model}:latest" in names)
