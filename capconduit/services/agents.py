"""Agents: the profiles that voice agents answer by, and one turn of text to try them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from capconduit.domain.agents import (
    MAX_CHAIN,
    Agent,
    Provider,
    chain_of,
    check_greeting,
    check_instructions,
    check_language,
    check_max_cost,
    check_max_duration,
    check_retention,
    check_silence,
    check_tools,
    check_voice,
)
from capconduit.domain.model import Target
from capconduit.errors import Refused, UsageError
from capconduit.services.office import Desk, Office, check_name

DEFAULT_DURATION_MS: Final = 1_800_000
DEFAULT_SILENCE_MS: Final = 30_000
DEFAULT_RETENTION_DAYS: Final = 30
TRANSCRIPTS_ON: Final = "on"  # of the setting
CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "voice": check_voice,
    "language": check_language,
    "instructions": check_instructions,
    "greeting": check_greeting,
    "tools": check_tools,
    "max_duration_ms": check_max_duration,
    "max_cost_micros": check_max_cost,
    "silence_ms": check_silence,
    "transcripts": bool,
    "retention_days": check_retention,
}


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent with the names of its providers, the first choice first, and of the targets that it answers.

    `keeps`: whether it may keep transcripts, which the setting of that name has to allow as well.
    """

    agent: Agent
    providers: Sequence[str]
    targets: Sequence[str]
    keeps: bool


def add_agent(
    office: Office,
    name: str,
    *,
    providers: Sequence[str],
    voice: str = "",
    language: str = "",
    instructions: str = "",
    greeting: str = "",
    tools: Sequence[str] = (),
    max_duration_ms: int = DEFAULT_DURATION_MS,
    max_cost_micros: int = 0,
    silence_ms: int = DEFAULT_SILENCE_MS,
    transcripts: bool = False,
    retention_days: int = DEFAULT_RETENTION_DAYS,
) -> AgentView:
    """A new agent; `providers` by name, the first choice first. Raises UsageError, NotFound, Refused."""
    check_name("agent", name)
    values = _checked({
        "voice": voice,
        "language": language,
        "instructions": instructions,
        "greeting": greeting,
        "tools": tools,
        "max_duration_ms": max_duration_ms,
        "max_cost_micros": max_cost_micros,
        "silence_ms": silence_ms,
        "transcripts": transcripts,
        "retention_days": retention_days,
    })  # fmt: skip

    def work(desk: Desk) -> AgentView:
        agent = Agent(**desk.stamp(), name=name, provider_ids=_chain(desk, name, providers), **values)
        desk.add("agent", agent)
        return _view(desk, agent)

    return office.change(work)


def list_agents(office: Office) -> Sequence[AgentView]:
    """All agents by name."""

    def work(desk: Desk) -> Sequence[AgentView]:
        names = {p.id: p.name for p in desk.tx.rows(Provider, desk.tenant_id)}
        targets, allowed = desk.tx.rows(Target, desk.tenant_id), _allowed(desk)
        agents = sorted(desk.tx.rows(Agent, desk.tenant_id), key=lambda a: a.name)
        return [_seen(agent, names, targets, allowed=allowed) for agent in agents]

    return office.read(work)


def show_agent(office: Office, name: str) -> AgentView:
    """One agent. Raises NotFound."""
    return office.read(lambda desk: _view(desk, desk.named(Agent, name)))


def set_agent(office: Office, name: str, *, providers: Sequence[str] | None = None, **fields: Any) -> AgentView:
    """Change what `add_agent` takes; calls that are up keep what they began with. Raises UsageError, NotFound."""
    values = _checked(fields)

    def work(desk: Desk) -> AgentView:
        agent = desk.named(Agent, name)
        if providers is not None:
            values["provider_ids"] = _chain(desk, name, providers)
        changed = replace(agent, **values, updated_ms=desk.now_ms)
        desk.change("agent", agent, changed)
        return _view(desk, changed)

    return office.change(work)


def remove_agent(office: Office, name: str) -> None:
    """Remove an agent that no target leads to. Raises NotFound, Refused."""

    def work(desk: Desk) -> None:
        desk.remove("agent", desk.named(Agent, name), "remove the targets that lead to it first")

    office.change(work)


def check_chain_is_there(desk: Desk, agent: Agent) -> None:
    """That the providers of an agent that comes back are there. Raises Refused."""
    gone = [one for one in chain_of(agent) if desk.tx.find(Provider, desk.tenant_id, id=one) is None]
    if gone:
        raise Refused(
            "undo-conflict",
            f"agent {agent.name!r} cannot be as it was: a provider of its chain is gone",
            "bring the provider back first, or set the agent by hand",
        )


def chain_to_ask(office: Office, name: str) -> tuple[Agent, Sequence[Provider]]:
    """An agent and its providers, the first choice first. Raises NotFound."""

    def work(desk: Desk) -> tuple[Agent, Sequence[Provider]]:
        agent = desk.named(Agent, name)
        known: Mapping[str, Provider] = {p.id: p for p in desk.tx.rows(Provider, desk.tenant_id)}
        return agent, [known[one] for one in chain_of(agent) if one in known]

    return office.read(work)


def _checked(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: CHECKS[field](value) for field, value in fields.items()}


def _chain(desk: Desk, agent: str, names: Sequence[str]) -> str:
    """The ids of providers, as they are kept. Raises UsageError, NotFound."""
    if not names:
        raise UsageError("provider-missing", f"agent {agent!r} has no provider", "name one: --provider NAME")
    if len(names) > MAX_CHAIN:
        raise UsageError("providers-too-many", f"{len(names)} providers", f"an agent takes {MAX_CHAIN}")
    if len(set(names)) != len(names):
        raise UsageError("provider-twice", "a provider is named twice", "name each once, the first choice first")
    return ",".join(desk.named(Provider, name).id for name in names)


def _view(desk: Desk, agent: Agent) -> AgentView:
    found = [desk.tx.find(Provider, desk.tenant_id, id=one) for one in chain_of(agent)]
    names = {provider.id: provider.name for provider in found if provider is not None}
    targets = desk.tx.rows(Target, desk.tenant_id, agent_id=agent.id)
    return _seen(agent, names, targets, allowed=_allowed(desk))


def _allowed(desk: Desk) -> bool:
    return desk.settings().transcripts == TRANSCRIPTS_ON


def _seen(agent: Agent, names: Mapping[str, str], targets: Sequence[Target], *, allowed: bool) -> AgentView:
    return AgentView(
        agent=agent,
        providers=[names[one] for one in chain_of(agent) if one in names],
        targets=sorted(target.name for target in targets if target.agent_id == agent.id),
        keeps=agent.transcripts and allowed,
    )
