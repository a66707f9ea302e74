"""One turn of text with a provider: chat completions for openai and azure, chat for ollama."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from capconduit.providers.account import Account
from capconduit.providers.asking import AskFailed, Heard, ask, hidden
from capconduit.vocab import ACCOUNT_FAULTS, ProviderFault, ProviderKind

MAX_ANSWER: Final = 16_000  # characters of an answer that are kept
Messages = Sequence[tuple[str, str]]  # role (`system`, `assistant`, `user`) and text, in their order


@dataclass(frozen=True, slots=True)
class Turn:
    """What one provider of a chain made of a turn. `fault` None: `text` is the answer; else `text` says why not."""

    provider: str
    model: str
    latency_ms: int
    status: int | None
    fault: ProviderFault | None
    text: str


def take_turn(account: Account, messages: Messages, *, timeout_ms: int) -> Turn:
    """The provider's answer; every failure is one, too."""
    if not account.writes:
        return Turn(account.name, "", 0, None, ProviderFault.NO_TEXT, _no_text(account))
    try:
        heard = _ask(account, messages, timeout_ms)
        text = _text(account, heard)
    except AskFailed as failed:
        return Turn(account.name, account.writes, failed.latency_ms, failed.status, failed.fault, failed.words)
    return Turn(account.name, account.writes, heard.latency_ms, heard.status, None, text)


def _no_text(account: Account) -> str:
    if account.kind is ProviderKind.DEEPGRAM:
        return "deepgram has no text chat"
    own = account.deployment if account.kind is ProviderKind.AZURE else account.model
    return f"{own} speaks and has no text chat: `capconduit provider set {account.name} --text-model NAME`"


def _ask(account: Account, messages: Messages, timeout_ms: int) -> Heard:
    told = [{"role": role, "content": text} for role, text in messages]
    body: dict[str, Any] = {"model": account.writes, "messages": told, "stream": False}
    if account.kind is ProviderKind.OLLAMA:
        return ask(account, "/api/chat", timeout_ms=timeout_ms, body=body)
    if account.kind is ProviderKind.AZURE:
        path = f"/openai/deployments/{account.writes}/chat/completions"
        return ask(account, path, timeout_ms=timeout_ms, query={"api-version": account.api_version}, body=body)
    return ask(account, "/chat/completions", timeout_ms=timeout_ms, body=body)


def _text(account: Account, heard: Heard) -> str:
    """The text of an answer. Raises AskFailed where there is none."""
    data: Any = heard.data if isinstance(heard.data, dict) else {}
    if account.kind is ProviderKind.OLLAMA:
        message = data.get("message")
    else:
        choices = data.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        message = first.get("message") if isinstance(first, dict) else None
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise AskFailed(
            ProviderFault.ANSWER, "there is no text in its answer", status=heard.status, latency_ms=heard.latency_ms
        )
    return hidden(account.key, text.strip())[:MAX_ANSWER]


def same_account_failed(account: Account, failed: Sequence[tuple[Account, Turn]]) -> bool:
    """Whether this account was refused already, under whatever name: it is not asked a second time."""
    return any(
        turn.fault in ACCOUNT_FAULTS and (before.base_url, before.key) == (account.base_url, account.key)
        for before, turn in failed
    )
