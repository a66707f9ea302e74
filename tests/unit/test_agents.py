"""What providers and agents may be: URLs without secrets, language tags, tools, texts; and how an agent is dialled."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capconduit.domain.agents import (
    MAX_GREETING,
    MAX_INSTRUCTIONS,
    Provider,
    check_api_version,
    check_base_url,
    check_deployment,
    check_greeting,
    check_instructions,
    check_language,
    check_model,
    check_provider,
    check_tools,
    check_voice,
    is_loopback,
)
from capconduit.domain.dialing import as_told, check_address, dial_of_attempt, dial_string
from capconduit.domain.metering import winning_leg
from capconduit.errors import UsageError
from capconduit.vocab import AgentTool, ProviderKind, TargetKind
from tests.unit.estate_builder import EstateBuilder

CALL = "01M8004N8K6MRY1B1DK6JH1SNA"
HOSTILE = [*"\x00\x07\x1b\x85\u202e", "\ud800"]


def provider(kind: ProviderKind, **more: str) -> Provider:
    values = {
        "base_url": "https://api.example.com", "key_ref": "env:KEY", "model": "m", "text_model": "", "voice": "",
        "deployment": "d" if kind is ProviderKind.AZURE else "", "api_version": "", **more,
    }  # fmt: skip
    return Provider(id="p", tenant_id="t", created_ms=0, updated_ms=0, name="main", kind=kind, **values)


# --- URLs and keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["https://api.openai.com/v1", "http://127.0.0.1:11434", "http://[::1]:8000/v1", "https://a.openai.azure.com"],
)
def test_a_base_url_is_kept_without_a_slash_at_its_end(url: str) -> None:
    assert check_base_url(url) == check_base_url(f"{url}/") == url


@pytest.mark.parametrize(
    "secret",
    [
        "https://user:hunter2@h",
        "https://hunter2@h",
        "https://h/?key=hunter2",
        "https://h/?/hunter2",
        "https://h#hunter2",
    ],
)
def test_a_url_that_may_hold_a_secret_is_refused_and_not_repeated(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_base_url(secret)
    assert "hunter2" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "url",
    ["", "api.openai.com", "ftp://h", "https://", "https://h:99999", "https://h:0", "https://h/a b", "https://h/a\nb",
     "https://hä", "file:///etc/passwd", "https://h/" + "a" * 300, "https://h/?", "https://h#", "https://[1", "https://h/%2e"],
)  # fmt: skip
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        check_base_url(url)


@pytest.mark.parametrize(
    ("url", "here"),
    [("http://127.0.0.1:1", True), ("http://[::1]/v1", True), ("http://localhost", True), ("http://LOCALHOST./", True),
     ("http://10.0.0.1", False), ("https://localhost.example", False), ("https://127.0.0.1.example", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(url: str, here: bool) -> None:
    assert is_loopback(url) is here


@pytest.mark.parametrize(
    ("made", "slug"),
    [
        (provider(ProviderKind.OPENAI, base_url="https://api.openai.com/v1", key_ref=""), "key-missing"),
        (provider(ProviderKind.AZURE, key_ref=""), "key-missing"),
        (provider(ProviderKind.DEEPGRAM, key_ref=""), "key-missing"),
        (provider(ProviderKind.OPENAI, base_url="http://llm.example"), "key-unprotected"),
        (provider(ProviderKind.AZURE, base_url=""), "url-missing"),
        (provider(ProviderKind.AZURE, deployment=""), "deployment-missing"),
        (provider(ProviderKind.OPENAI, model=""), "model-missing"),
        (provider(ProviderKind.OLLAMA, model=""), "model-missing"),
        (provider(ProviderKind.OPENAI, deployment="d"), "not-of-kind"),
        (provider(ProviderKind.OLLAMA, api_version="v1"), "not-of-kind"),
        (provider(ProviderKind.DEEPGRAM, text_model="m"), "not-of-kind"),
    ],
)
def test_what_does_not_go_together_is_refused(made: Provider, slug: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_provider(made)
    assert caught.value.slug == slug
    assert "'main'" in caught.value.message


@pytest.mark.parametrize(
    "made",
    [
        provider(ProviderKind.OPENAI), provider(ProviderKind.AZURE, model=""),
        provider(ProviderKind.DEEPGRAM, model=""),
        provider(ProviderKind.OLLAMA, base_url="http://127.0.0.1:11434", key_ref=""),
        provider(ProviderKind.OLLAMA, base_url="http://gpu.example:11434", key_ref=""),
        provider(ProviderKind.OPENAI, base_url="http://127.0.0.1:8000/v1"),
        provider(ProviderKind.OPENAI, base_url="http://llm.example", key_ref=""),
    ],
)  # fmt: skip
def test_what_goes_together_is_taken(made: Provider) -> None:
    check_provider(made)


@pytest.mark.parametrize("check", [check_model, check_voice, check_deployment, check_api_version])
@pytest.mark.parametrize("text", ["a b\n", " a", "ä", "a;b", "$(x)", "a" * 200, "-a"])
def test_names_of_providers_have_no_odd_characters(check: object, text: str) -> None:
    with pytest.raises(UsageError):
        check(text)  # type: ignore[operator]


def test_names_are_as_providers_write_them() -> None:
    for model in ("gpt-realtime", "llama3.2:3b", "hf.co/org/model:Q4_K_M", "nova-3", ""):
        assert check_model(model) == model
    for voice in ("marin", "aura-2-thalia-en", "en-US-AvaMultilingualNeural", "Ava (Neural)", ""):
        assert check_voice(voice) == voice
    for version in ("2024-10-21", "2025-04-01-preview", "v1", ""):
        assert check_api_version(version) == version


# --- agents -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", ""), ("en", "en"), ("EN-us", "en-US"), ("zh-hant-tw", "zh-Hant-TW"), ("es-419", "es-419"),
     ("de-ch-1996", "de-CH-1996"), ("sl-rozaj", "sl-rozaj"), ("yue", "yue")],
)  # fmt: skip
def test_a_language_has_its_usual_capitals(given: str, kept: str) -> None:
    assert check_language(given) == kept


@pytest.mark.parametrize("given", ["english", "e", "en-", "en--US", "en-US-", "x-mine", "en US", "12", "en-USA", "*"])
def test_what_is_no_language_is_refused(given: str) -> None:
    with pytest.raises(UsageError):
        check_language(given)


@pytest.mark.parametrize(("given", "near"), [("en_US", "en-US"), ("de_DE.UTF-8", "de-DE")])
def test_a_locale_is_told_as_a_language(given: str, near: str) -> None:
    with pytest.raises(UsageError, match="no language tag") as caught:
        check_language(given)
    assert caught.value.hint == f"did you mean {near!r}?"


def test_tools_are_those_that_there_are_and_what_servers_offer() -> None:
    assert check_tools([]) == ""
    assert check_tools([*reversed(AgentTool)]) == "hangup,message,transfer"
    assert check_tools(["mcp:crm", "hangup", "mcp:crm/note"]) == "hangup,mcp:crm,mcp:crm/note"


@pytest.mark.parametrize(
    "tools", [["hangp"], ["mcp:"], ["mcp:a/"], ["mcp:a/b/c"], ["mcp:a b"], ["MCP:a"], ["a,b"], [""], ["hangup"] * 2,
              [f"mcp:s{n}" for n in range(65)]]
)  # fmt: skip
def test_other_tools_are_refused(tools: list[str]) -> None:
    with pytest.raises(UsageError):
        check_tools(tools)


def test_a_tool_that_is_misspelt_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        check_tools(["transfr"])
    assert caught.value.hint == "did you mean 'transfer'?"


def test_texts_have_lines_and_no_blank_ends() -> None:
    assert check_instructions("\r\n Be kind.\r\n\tAlways.\n\n") == "Be kind.\n\tAlways."
    assert len(check_instructions("ä" * MAX_INSTRUCTIONS)) == MAX_INSTRUCTIONS


@pytest.mark.parametrize(("check", "most"), [(check_instructions, MAX_INSTRUCTIONS), (check_greeting, MAX_GREETING)])
def test_texts_are_bounded_and_have_no_control_characters(check: object, most: int) -> None:
    for text in ["a" * (most + 1), *(f"a{character}b" for character in HOSTILE)]:
        with pytest.raises(UsageError) as caught:
            check(text)  # type: ignore[operator]
        assert len(caught.value.message) < 100


# --- dialling ---------------------------------------------------------------------------------------------------------


def test_an_agent_is_dialled_by_the_call_and_the_attempt() -> None:
    target = replace(EstateBuilder().target(campaign=None), kind=TargetKind.AGENT, address="")
    offered = dial_string(target)
    dialled = dial_of_attempt(offered, CALL, 12)
    assert dialled == f"WebSocket/capconduit-voice/c(ulaw)f(json)nv(t={CALL}-12)"
    assert len(dialled) <= len(offered)  # decisions bound the length of dial strings by the offer's
    assert dial_of_attempt("PJSIP/buyer", CALL, 1) == "PJSIP/buyer"


def test_an_agent_has_no_address_and_others_need_one() -> None:
    assert check_address(TargetKind.AGENT, "") == ""
    for kind in TargetKind:
        with pytest.raises(UsageError):
            check_address(kind, "sip:x@y" if kind is TargetKind.AGENT else "")


def test_of_several_legs_an_agents_is_known_as_the_dialplan_tells_it() -> None:
    """AMI tells a dial string as it is; the dialplan replaces brackets before it passes one on."""
    from capconduit.domain.model import Attempt

    def leg(number: int, dial: str) -> Attempt:
        return Attempt(
            call_id=CALL, number=number, tenant_id="t", target_id="x", target_name="x", rule_id="r", dial=dial,
            ring_s=1, started_ms=0, rang_ms=None, answered_ms=None, ended_ms=None, dialstatus=None, hangup_cause=None,
            round=1, rate_id="", tariff="", payout="",
        )  # fmt: skip

    legs = [leg(n, f"WebSocket/capconduit-voice/c(ulaw)f(json)nv(t={CALL}-{n})") for n in (1, 2)]
    for told in (legs[1].dial, as_told(legs[1].dial)):
        assert winning_leg(legs, told) is legs[1]
    assert winning_leg(legs, "WebSocket/another") is None
