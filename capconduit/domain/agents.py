"""Voice agents as plain data: the accounts at providers, the profiles of agents, and what each may be. Pure.

A key is never here: `key_ref` names where it is.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final
from urllib.parse import SplitResult, urlsplit

from capconduit.domain.model import Entity
from capconduit.domain.record import record
from capconduit.errors import UsageError
from capconduit.vocab import AgentTool, ProviderKind

MAX_URL: Final = 300
MAX_CHAIN: Final = 8  # providers of one agent
MAX_TOOLS: Final = 64
MAX_INSTRUCTIONS: Final = 16_000  # characters
MAX_GREETING: Final = 1_000
DURATION_MS: Final = (10_000, 14_400_000)  # of one conversation
SILENCE_MS: Final = (1_000, 600_000)
RETENTION_DAYS: Final = (1, 3_650)
MAX_COST_MICROS: Final = 1_000_000_000
COST_CURRENCY: Final = "USD"  # what the providers' prices are in
MCP: Final = "mcp:"

DEFAULT_URL: Final = {
    ProviderKind.OPENAI: "https://api.openai.com/v1",
    ProviderKind.AZURE: "",  # everybody has one of their own
    ProviderKind.DEEPGRAM: "https://api.deepgram.com",
    ProviderKind.OLLAMA: "http://127.0.0.1:11434",
}
DEFAULT_AZURE_VERSION: Final = "2024-10-21"  # the newest one of Azure's data plane that is no preview

_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
_VOICE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/() -]{0,126}[A-Za-z0-9.)])?")
_DEPLOYMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_API_VERSION: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:-preview)?|v1|latest|preview")
_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
_MCP_TOOL: Final = re.compile(r"mcp:[A-Za-z0-9][A-Za-z0-9_.-]{0,62}(?:/[A-Za-z0-9][A-Za-z0-9_.-]{0,62})?")
# RFC 5646, 2.1, without extensions and private use: language, script, region, variants. No language has more than three
# letters so far.
_LANGUAGE: Final = re.compile(
    r"(?P<language>[a-z]{2,3})(?:-(?P<script>[a-z]{4}))?(?:-(?P<region>[a-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*)",
    re.IGNORECASE,
)
# What a text of several lines may not hold: what a terminal obeys, and what cannot be encoded.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@record
class Provider(Entity):
    """An account at a provider of voices and models.

    `model` speaks; `text_model` writes, where that is another one. Of azure both are deployments' names, `deployment`
    the one that speaks. Empty: none is said.
    """

    name: str
    kind: ProviderKind
    base_url: str
    key_ref: str
    model: str
    text_model: str
    voice: str
    deployment: str
    api_version: str


@record
class Agent(Entity):
    """The profile of a voice agent. `provider_ids`: the ids of its providers, comma separated, the first choice first;
    services hold them to what there is. `tools`: comma separated. `max_cost_micros` 0: as much as it takes, in
    COST_CURRENCY. `silence_ms` 0: it waits for ever. `transcripts`: whether what is said may be kept, and how long.
    """

    name: str
    provider_ids: str
    voice: str
    language: str
    instructions: str
    greeting: str
    tools: str
    max_duration_ms: int
    max_cost_micros: int
    silence_ms: int
    transcripts: bool
    retention_days: int


def chain_of(agent: Agent) -> list[str]:
    """The ids of an agent's providers, the first choice first."""
    return listed(agent.provider_ids)


def listed(joined: str) -> list[str]:
    """A list that is kept in one text."""
    return joined.split(",") if joined else []


# --- providers --------------------------------------------------------------------------------------------------------


def check_base_url(url: str) -> str:
    """An http or https URL without a user, a query or a fragment, which could hold a key; no slash at its end.

    Raises UsageError; one that may hold a secret is not repeated.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError("url-invalid", "the base URL cannot be read", "write it like https://host/path") from None
    if parts.username is not None or parts.password is not None or "?" in url or "#" in url:
        raise UsageError(
            "url-with-more",
            "the base URL has more than a scheme, a host and a path",
            "leave out user, query and fragment; a key is named by --key env:NAME or file:/absolute/path",
        )
    good = (
        parts.scheme in ("http", "https") and url.isascii() and url.isprintable() and len(url) <= MAX_URL and port != 0
    )
    if not good or not _is_host(parts.hostname or "") or not _PATH.fullmatch(parts.path):
        raise UsageError("url-invalid", f"{url[:MAX_URL]!r} is no base URL", "write it like https://api.example.com/v1")
    return url.rstrip("/")


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _HOST.fullmatch(host) is not None
    return True


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    host = _host_of(urlsplit(url))
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_of(parts: SplitResult) -> str:
    return (parts.hostname or "").lower().rstrip(".")


def check_model(model: str) -> str:
    """A model's name, or nothing. Raises UsageError."""
    return _fits(_MODEL, model, "model", "write it like gpt-realtime, nova-3 or llama3.2:3b")


def check_voice(voice: str) -> str:
    """A voice's name, or nothing. Raises UsageError."""
    return _fits(_VOICE, voice, "voice", "write it as the provider does, like marin or aura-2-thalia-en")


def check_deployment(deployment: str) -> str:
    """The name of an Azure deployment, or nothing. Raises UsageError."""
    return _fits(_DEPLOYMENT, deployment, "deployment", "write it as the Azure portal does: letters, digits, - _ .")


def check_api_version(version: str) -> str:
    """A version of Azure's API, or nothing. Raises UsageError."""
    return _fits(_API_VERSION, version, "api-version", f"write it like {DEFAULT_AZURE_VERSION}")


def _fits(pattern: re.Pattern[str], text: str, what: str, hint: str) -> str:
    if text and not pattern.fullmatch(text):
        raise UsageError(f"{what}-invalid", f"{text[:MAX_URL]!r} is no {what.replace('-', ' ')}", hint)
    return text


def check_provider(provider: Provider) -> None:
    """That what is said of a provider goes together. Raises UsageError naming what is missing or too much."""
    problem = _of_kind(provider) or _of_key(provider)
    if problem is not None:
        slug, message, hint = problem
        raise UsageError(slug, f"provider {provider.name!r}: {message}", hint)


Problem = tuple[str, str, str]


def _of_kind(provider: Provider) -> Problem | None:
    kind = provider.kind
    if not provider.base_url:
        return "url-missing", f"{kind} has no base URL of its own", "add --url https://NAME.openai.azure.com"
    if kind is ProviderKind.AZURE:
        if not provider.deployment:
            return "deployment-missing", "azure is asked by a deployment's name", "add --deployment NAME"
        return None
    for option, given in (("--deployment", provider.deployment), ("--api-version", provider.api_version)):
        if given:
            return "not-of-kind", f"{option} is of azure, not of {kind}", f"leave {option} out, or use --kind azure"
    if not provider.model and kind in (ProviderKind.OPENAI, ProviderKind.OLLAMA):
        example = "gpt-realtime" if kind is ProviderKind.OPENAI else "llama3.2"
        return "model-missing", f"{kind} is asked for a model by its name", f"add --model {example}"
    if kind is ProviderKind.DEEPGRAM and provider.text_model:
        return "not-of-kind", "deepgram has no text chat", "leave --text-model out"
    return None


def _of_key(provider: Provider) -> Problem | None:
    kind = provider.kind
    # A server of one's own that speaks OpenAI's protocol often asks for none.
    is_openais = provider.base_url == DEFAULT_URL[ProviderKind.OPENAI]
    if (is_openais or kind in (ProviderKind.AZURE, ProviderKind.DEEPGRAM)) and not provider.key_ref:
        return "key-missing", f"{kind} needs a key", "add --key env:NAME or --key file:/absolute/path"
    if provider.key_ref and provider.base_url.startswith("http:") and not is_loopback(provider.base_url):
        return (
            "key-unprotected",
            f"the key would go to {provider.base_url} unencrypted",
            "use https, or a server on this machine, or one that needs no key",
        )
    return None


# --- agents -----------------------------------------------------------------------------------------------------------


def check_language(text: str) -> str:
    """A language tag (BCP 47) in its usual capitals, or nothing. Raises UsageError."""
    if not text:
        return ""
    match = _LANGUAGE.fullmatch(text)
    if match is None:
        near = text.replace("_", "-").partition(".")[0]
        usual = _usual(found) if (found := _LANGUAGE.fullmatch(near)) else ""
        raise UsageError(
            "language-invalid",
            f"{text[:MAX_URL]!r} is no language tag",
            f"did you mean {usual!r}?" if usual else "write it like en, en-US or zh-Hant-TW (BCP 47)",
        )
    return _usual(match)


def _usual(match: re.Match[str]) -> str:
    parts = [match["language"].lower(), (match["script"] or "").title(), (match["region"] or "").upper()]
    return "-".join(filter(None, parts)) + match["variants"].lower()


def check_tools(tools: Sequence[str]) -> str:
    """The tools an agent may use, as they are kept: comma separated, sorted. Raises UsageError."""
    for tool in tools:
        if tool not in tuple(AgentTool) and not _MCP_TOOL.fullmatch(tool):
            near = get_close_matches(tool, tuple(AgentTool), n=1)
            known = f"use {', '.join(AgentTool)}, mcp:SERVER or mcp:SERVER/TOOL"
            raise UsageError(
                "tool-unknown", f"{tool[:MAX_URL]!r} is no tool", f"did you mean '{near[0]}'?" if near else known
            )
    if len(set(tools)) != len(tools):
        raise UsageError("tool-twice", "a tool is named twice", "name each tool once")
    if len(tools) > MAX_TOOLS:
        raise UsageError("tools-too-many", f"{len(tools)} tools", f"an agent takes {MAX_TOOLS}")
    return ",".join(sorted(tools))


def check_instructions(text: str) -> str:
    """What an agent is told to do, without blank ends. Raises UsageError."""
    return _check_prose("instructions", text, MAX_INSTRUCTIONS)


def check_greeting(text: str) -> str:
    """What an agent says first, without blank ends. Raises UsageError."""
    return _check_prose("greeting", text, MAX_GREETING)


def _check_prose(what: str, text: str, most: int) -> str:
    kept = text.replace("\r\n", "\n").strip()
    if len(kept) > most:
        raise UsageError(f"{what}-too-long", f"{what} of {len(kept):,} characters", f"{most:,} at most")
    if found := _UNSAFE.search(kept):
        raise UsageError(
            f"{what}-invalid", f"{what} with the control character {found[0]!r}", "use letters, tabs and line ends"
        )
    return kept


def check_max_duration(duration_ms: int) -> int:
    """How long one conversation may last. Raises UsageError."""
    low, high = DURATION_MS
    if not low <= duration_ms <= high:
        raise UsageError("duration-invalid", f"{duration_ms} ms is too short or too long", "give 10s to 4h")
    return duration_ms


def check_silence(silence_ms: int) -> int:
    """How long nobody may speak; 0: for ever. Raises UsageError."""
    low, high = SILENCE_MS
    if silence_ms and not low <= silence_ms <= high:
        raise UsageError("silence-invalid", f"{silence_ms} ms is too short or too long", "give 1s to 10m, or none")
    return silence_ms


def check_max_cost(micros: int) -> int:
    """What one conversation may cost; 0: any amount. Raises UsageError."""
    if not 0 <= micros <= MAX_COST_MICROS:
        raise UsageError("cost-invalid", "more than a conversation can cost", "give 1000 at most, or none")
    return micros


def check_retention(days: int) -> int:
    """For how many days a transcript is kept. Raises UsageError."""
    low, high = RETENTION_DAYS
    if not low <= days <= high:
        raise UsageError("retention-invalid", f"{days} is no number of days to keep", f"give {low} to {high:,}")
    return days
