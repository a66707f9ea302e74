"""Trying providers and agents: requests that cost little or nothing, outside of any transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from capconduit.domain.agents import Agent, Provider
from capconduit.errors import ConfigError, Refused, UsageError
from capconduit.providers.account import Account
from capconduit.providers.chat import Messages, Turn, same_account_failed, take_turn
from capconduit.providers.probe import Probe, probe
from capconduit.services.agents import chain_to_ask
from capconduit.services.office import Office
from capconduit.services.providers import account_of, show_provider
from capconduit.units import format_span
from capconduit.vocab import ProviderFault

TEST_TIMEOUT_MS: Final = 10_000
TRY_TIMEOUT_MS: Final = 30_000  # for each provider of the chain
TIMEOUT_MS: Final = (100, 120_000)
MAX_SAID: Final = 4_000  # characters


@dataclass(frozen=True, slots=True)
class Trial:
    """One turn with an agent: what each provider that was asked made of it, in order; the last may have answered."""

    agent: Agent
    turns: Sequence[Turn]

    @property
    def answer(self) -> Turn | None:
        """The turn that has the answer; None where no provider gave one."""
        last = self.turns[-1] if self.turns else None
        return last if last is not None and last.fault is None else None


def probe_provider(office: Office, name: str, env: Mapping[str, str], *, timeout_ms: int) -> tuple[Provider, Probe]:
    """Ask a provider for what it has; every failure of it is an answer. Raises NotFound, UsageError."""
    check_timeout(timeout_ms)
    provider = show_provider(office, name)
    try:
        account = account_of(provider, env)
    except ConfigError as error:
        words = f"{error.message}; {error.hint}"
        return provider, Probe(provider.base_url, None, 0, None, ProviderFault.KEY, words)
    return provider, probe(account, timeout_ms=timeout_ms)


def try_agent(office: Office, name: str, said: str, env: Mapping[str, str], *, timeout_ms: int) -> Trial:
    """Say one thing to an agent in text: its providers are asked one after the other until one answers.

    An account that refuses us is not asked again under another name. Raises NotFound, UsageError, Refused where no
    provider of the chain has a text chat.
    """
    check_timeout(timeout_ms)
    text = _check_said(said)
    agent, chain = chain_to_ask(office, name)
    messages = _messages(agent, text)
    turns: list[Turn] = []
    failed: list[tuple[Account, Turn]] = []
    for provider in chain:
        try:
            account = account_of(provider, env)
        except ConfigError as error:
            turns.append(Turn(provider.name, "", 0, None, ProviderFault.KEY, f"{error.message}; {error.hint}"))
            continue
        if same_account_failed(account, failed):
            continue
        turn = take_turn(account, messages, timeout_ms=timeout_ms)
        turns.append(turn)
        if turn.fault is None:
            break
        failed.append((account, turn))
    if all(turn.fault is ProviderFault.NO_TEXT for turn in turns):
        raise Refused(
            "agent-no-text",
            f"no provider of agent {name!r} has a text chat: {'; '.join(f'{t.provider}: {t.text}' for t in turns)}",
            "an agent is tried in text: add a provider of kind openai, azure or ollama to its chain",
        )
    return Trial(agent, turns)


def check_timeout(timeout_ms: int) -> int:
    """How long a provider may take. Raises UsageError."""
    low, high = TIMEOUT_MS
    if not low <= timeout_ms <= high:
        raise UsageError(
            "timeout-invalid", f"{timeout_ms} ms is no timeout", f"give {format_span(low)} to {format_span(high)}"
        )
    return timeout_ms


def _check_said(said: str) -> str:
    text = said.strip()
    if not text or len(text) > MAX_SAID:
        raise UsageError("said-invalid", f"a text of {len(text):,} characters", f"say 1 to {MAX_SAID:,} characters")
    return text


def _messages(agent: Agent, said: str) -> Messages:
    """What a provider is told: the instructions, the language, what the agent says first, what the caller says."""
    language = f"Speak {agent.language} (BCP 47)." if agent.language else ""
    system = "\n\n".join(filter(None, [agent.instructions, language]))
    turns = [("system", system), ("assistant", agent.greeting), ("user", said)]
    return [(role, text) for role, text in turns if text]
