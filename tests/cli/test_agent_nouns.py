"""`capconduit provider`, `capconduit agent` and targets that lead to agents: what is kept, refused, asked and told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from capconduit.vocab import ProviderFault
from tests.cli.estate import DID, contents, done, walk
from tests.cli.runner import Result, run
from tests.protocol.provider_server import ProviderServer, replies

KEY = "sk-proj-0123456789abcdef"
ENV = {"OPENAI_API_KEY": KEY}
MODELS = {"data": [{"id": "gpt-realtime"}, {"id": "gpt-4.1-mini"}]}
COMPLETION = {"choices": [{"message": {"content": "On Saturdays, too."}}]}


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def added(home: Path, *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = done(*argv, "--json", home=home).json
    return found


def main(home: Path, *more: str, name: str = "main") -> dict[str, Any]:
    """A provider of kind openai."""
    key = ("--key", "env:OPENAI_API_KEY", "--model", "gpt-realtime", "--text-model", "gpt-4.1-mini")
    return added(home, "provider", "add", name, "--kind", "openai", *key, *more)


def refused(result: Result, code: ExitCode, slug: str, *words: str) -> None:
    assert result.code == code, result
    assert f"[{slug}]" in result.err
    assert all(word in result.err for word in words), result.err
    assert "Traceback" not in result.err


# --- providers --------------------------------------------------------------------------------------------------------


def test_a_provider_has_the_defaults_of_its_kind(estate: Path) -> None:
    made = main(estate, "--voice", "marin")
    assert (made["kind"], made["url"], made["voice"]) == ("openai", "https://api.openai.com/v1", "marin")
    azure = ("--kind", "azure", "--url", "https://a.openai.azure.com/", "--key", "file:/k", "--deployment", "eu")
    made = added(estate, "provider", "add", "eu", *azure)
    assert (made["url"], made["deployment"], made["api_version"]) == ("https://a.openai.azure.com", "eu", "2024-10-21")
    made = added(estate, "provider", "add", "local", "--kind", "ollama", "--model", "llama3.2")
    assert (made["url"], made["key"]) == ("http://127.0.0.1:11434", "")
    listed = done("provider", "list", "--json", home=estate).json
    assert [(p["name"], p["kind"]) for p in listed] == [("eu", "azure"), ("local", "ollama"), ("main", "openai")]


@pytest.mark.parametrize("key", [KEY, f"env:{KEY}", "file:key.txt", f"file:{KEY}", "ENV:X", f"env:X {KEY}"])
def test_a_plain_key_is_refused_and_neither_told_nor_kept(estate: Path, key: str) -> None:
    before = contents(estate)
    result = run("provider", "add", "main", "--kind", "openai", "--model", "m", "--key", key, home=estate)
    refused(result, ExitCode.USAGE, "key-not-a-reference", "env:NAME")
    assert KEY not in result.out + result.err
    assert contents(estate) == before
    main(estate)
    result = run("provider", "set", "main", "--key", key, home=estate)
    refused(result, ExitCode.USAGE, "key-not-a-reference")
    assert KEY not in result.out + result.err


def test_a_url_with_a_key_is_refused_and_not_told(estate: Path) -> None:
    argv = ("provider", "add", "main", "--kind", "openai", "--model", "m", "--url", f"https://x:{KEY}@api.example")
    result = run(*argv, home=estate)
    refused(result, ExitCode.USAGE, "url-with-more")
    assert KEY not in result.out + result.err


def test_a_provider_is_changed_back_to_what_it_was(estate: Path) -> None:
    before = main(estate)
    done("provider", "set", "main", "--url", "http://127.0.0.1:9/v1", "--key", "none", "--voice", "x", home=estate)
    back = ("--url", "none", "--key", "env:OPENAI_API_KEY", "--voice", "none")
    after = added(estate, "provider", "set", "main", *back)
    assert {**after, "updated": ""} == {**before, "updated": ""}


def test_a_misspelt_provider_is_told_with_the_nearest(estate: Path) -> None:
    main(estate)
    for verb in ("show", "test", "remove"):
        refused(run("provider", verb, "mian", home=estate), ExitCode.REFUSED, "provider-not-found", "'main'")
    refused(
        run("provider", "add", "main", "--kind", "ollama", "--model", "m", home=estate),
        ExitCode.REFUSED,
        "provider-exists",
    )


def test_a_test_says_what_it_found_and_asks_with_the_key(estate: Path, stack: ExitStack) -> None:
    server = stack.enter_context(ProviderServer(replies(MODELS)))
    main(estate, "--url", server.url)
    result = run("provider", "test", "main", "--json", home=estate, env=ENV)
    assert result.code == ExitCode.DONE, result
    found = result.json
    assert found.pop("latency_ms") >= 0
    assert found == {
        "name": "main", "kind": "openai", "ok": True, "reason": "", "status": 200, "model_found": True,
        "detail": "it answers, and has gpt-realtime and gpt-4.1-mini", "url": f"{server.url}/models",
    }  # fmt: skip
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_key_is_read_from_its_file(estate: Path, stack: ExitStack, tmp_path: Path) -> None:
    server = stack.enter_context(ProviderServer(replies(MODELS)))
    place = tmp_path / "key"
    place.write_text(f"{KEY}\n")
    main(estate, "--url", server.url)
    done("provider", "set", "main", "--key", f"file:{place}", home=estate)
    done("provider", "test", "main", home=estate)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("status", "slug"),
    [(401, "provider-key"), (404, "provider-path"), (429, "provider-quota"), (503, "provider-server")],
)
def test_a_test_that_fails_prints_what_it_found_and_ends_with_4(
    estate: Path, stack: ExitStack, status: int, slug: str
) -> None:
    server = stack.enter_context(ProviderServer(replies({"error": {"message": f"no: {KEY}"}}, status)))
    main(estate, "--url", server.url)
    result = run("provider", "test", "main", "--json", home=estate, env=ENV)
    refused(result, ExitCode.PEER, slug, "hint:")
    assert (result.json["ok"], result.json["status"]) == (False, status)
    assert KEY not in result.out + result.err


def test_a_key_that_is_not_there_is_a_fault_of_the_provider(estate: Path) -> None:
    main(estate)
    result = run("provider", "test", "main", "--json", home=estate)
    refused(result, ExitCode.PEER, "provider-key", "OPENAI_API_KEY is not set")
    assert result.json["status"] is None


def test_a_timeout_has_bounds(estate: Path) -> None:
    main(estate)
    refused(run("provider", "test", "main", "--timeout", "1h", home=estate), ExitCode.USAGE, "timeout-invalid", "2m")


# --- agents -----------------------------------------------------------------------------------------------------------


def test_an_agent_has_its_chain_in_order_and_all_that_was_said(estate: Path, tmp_path: Path) -> None:
    main(estate)
    main(estate, name="second")
    told = tmp_path / "told.txt"
    told.write_text("Ask for the postcode.\nThen transfer.\n")
    made = added(
        estate, "agent", "add", "reception", "--provider", "second", "--provider", "main", "--language", "en-us",
        "--instructions-file", str(told), "--greeting", "Good day.", "--tool", "transfer", "--tool", "mcp:crm/note",
        "--max-duration", "10m", "--max-cost", "1.50 USD", "--silence", "none", "--transcripts",
        "--retention-days", "7",
    )  # fmt: skip
    kept = {key: value for key, value in made.items() if key not in ("id", "created", "updated")}
    assert kept == {
        "name": "reception", "providers": ["second", "main"], "voice": "", "language": "en-US",
        "tools": ["mcp:crm/note", "transfer"], "targets": [], "instructions": "Ask for the postcode.\nThen transfer.",
        "greeting": "Good day.", "max_duration_ms": 600_000, "max_cost": "1.500000", "currency": "USD",
        "silence_ms": None, "transcripts": True, "retention_days": 7,
    }  # fmt: skip
    assert done("agent", "show", "reception", "--json", home=estate).json == made


def test_transcripts_are_off_unless_they_are_asked_for(estate: Path) -> None:
    main(estate)
    assert added(estate, "agent", "add", "a", "--provider", "main")["transcripts"] is False
    result = run("agent", "set", "a", "--transcripts", home=estate)
    assert "setting set transcripts on" in result.err
    done("setting", "set", "transcripts", "on", home=estate)
    assert run("agent", "set", "a", "--retention-days", "9", home=estate).err == ""


@pytest.mark.parametrize(
    ("argv", "slug"),
    [
        ((), "provider-missing"),
        (("--provider", "main", "--provider", "main"), "provider-twice"),
        (("--provider", "main", "--language", "en_US"), "language-invalid"),
        (("--provider", "main", "--tool", "reboot"), "tool-unknown"),
        (("--provider", "main", "--max-duration", "5s"), "duration-invalid"),
        (("--provider", "main", "--max-cost", "1 EUR"), "currency-mismatch"),
        (("--provider", "main", "--silence", "20m"), "silence-invalid"),
        (("--provider", "main", "--retention-days", "0"), "retention-invalid"),
        (("--provider", "main", "--instructions", "x" * 16_001), "instructions-too-long"),
        (("--provider", "main", "--instructions", "x", "--instructions-file", "y"), "instructions-twice"),
        (("--provider", "main", "--instructions-file", "/nowhere"), "instructions-unreadable"),
        (("--provider", "main", "--voice", "a;b"), "voice-invalid"),
    ],
)
def test_what_an_agent_cannot_be_is_refused(estate: Path, argv: tuple[str, ...], slug: str) -> None:
    main(estate)
    before = contents(estate)
    refused(run("agent", "add", "a", *argv, home=estate), ExitCode.USAGE, slug, "hint:")
    assert contents(estate) == before


def test_instructions_come_from_a_pipe_too(estate: Path) -> None:
    main(estate)
    argv = ("agent", "add", "a", "--provider", "main", "--instructions-file", "-", "--json")
    result = run(*argv, home=estate, stdin="Be kind.\n")
    assert result.json["instructions"] == "Be kind."
    result = run("agent", "set", "a", "--instructions-file", "-", home=estate, stdin="x" * 200_000)
    refused(result, ExitCode.USAGE, "instructions-too-long")


def test_a_misspelt_agent_or_provider_is_told_with_the_nearest(estate: Path) -> None:
    main(estate)
    result = run("agent", "add", "a", "--provider", "mian", home=estate)
    refused(result, ExitCode.REFUSED, "provider-not-found", "'main'")
    added(estate, "agent", "add", "reception", "--provider", "main")
    for argv in (("show", "recption"), ("try", "recption", "--say", "x"), ("remove", "recption")):
        refused(run("agent", *argv, home=estate), ExitCode.REFUSED, "agent-not-found", "'reception'")


def test_what_is_used_is_not_removed(estate: Path) -> None:
    main(estate)
    added(estate, "agent", "add", "reception", "--provider", "main")
    added(estate, "target", "add", "night", "--kind", "agent", "--agent", "reception")
    refused(run("provider", "remove", "main", "--yes", home=estate), ExitCode.REFUSED, "provider-in-use", "reception")
    refused(run("agent", "remove", "reception", "--yes", home=estate), ExitCode.REFUSED, "agent-in-use")
    for argv in (("target", "remove", "night"), ("agent", "remove", "reception"), ("provider", "remove", "main")):
        assert run(*argv, "--yes", home=estate).code == ExitCode.DONE


def test_names_are_offered_to_the_shell(estate: Path) -> None:
    from capconduit_cli.app import CliState
    from capconduit_cli.names import AGENTS, PROVIDERS

    main(estate)
    added(estate, "agent", "add", "reception", "--provider", "main")
    os.environ["XDG_STATE_HOME"] = str(estate / "state")
    try:
        state = CliState()
        assert list(PROVIDERS(state)) == [("main", "openai gpt-realtime")]
        assert list(AGENTS(state)) == [("reception", "main")]
    finally:
        del os.environ["XDG_STATE_HOME"]


# --- a turn -----------------------------------------------------------------------------------------------------------


def chain(home: Path, *urls: str, **more: str) -> None:
    """Agent `a` with a provider `p1`, `p2` … at each of these."""
    names = [f"p{number}" for number in range(1, len(urls) + 1)]
    for name, url in zip(names, urls, strict=True):
        main(home, "--url", url, name=name)
    providers = [word for name in names for word in ("--provider", name)]
    told = [word for option, text in more.items() for word in (f"--{option}", text)]
    added(home, "agent", "add", "a", *providers, *told)


def test_an_agent_answers_in_its_words(estate: Path, stack: ExitStack) -> None:
    server = stack.enter_context(ProviderServer(replies(COMPLETION)))
    chain(estate, server.url, instructions="Be brief.", greeting="Good day.", language="en-US")
    result = run("agent", "try", "a", "--say", "Saturdays?", "--json", home=estate, env=ENV)
    assert result.code == ExitCode.DONE, result
    found = result.json
    assert (found["answer"], found["provider"], found["model"]) == ("On Saturdays, too.", "p1", "gpt-4.1-mini")
    assert [turn["ok"] for turn in found["turns"]] == [True]
    assert server.asked[0].data["messages"] == [
        {"role": "system", "content": "Be brief.\n\nSpeak en-US (BCP 47)."},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "Saturdays?"},
    ]
    told = run("agent", "try", "a", "--say", "Saturdays?", home=estate, env=ENV)
    assert "On Saturdays, too." in told.out


def test_the_next_provider_takes_over(estate: Path, stack: ExitStack) -> None:
    first = stack.enter_context(ProviderServer(replies({"error": "overloaded"}, 503)))
    second = stack.enter_context(ProviderServer(replies(COMPLETION)))
    third = stack.enter_context(ProviderServer(replies(COMPLETION)))
    chain(estate, first.url, second.url, third.url)
    result = run("agent", "try", "a", "--say", "Hello", "--json", home=estate, env=ENV)
    assert (result.code, result.json["provider"]) == (ExitCode.DONE, "p2")
    assert [(t["provider"], t["reason"]) for t in result.json["turns"]] == [("p1", "server"), ("p2", "")]
    assert "overloaded" in result.err
    assert third.asked == []


def test_an_account_that_refuses_us_is_not_asked_again_under_another_name(estate: Path, stack: ExitStack) -> None:
    server = stack.enter_context(ProviderServer(replies({}, 401)))
    chain(estate, server.url, server.url)
    result = run("agent", "try", "a", "--say", "Hello", "--json", home=estate, env=ENV)
    refused(result, ExitCode.PEER, "agent-no-answer", "is not accepted")
    assert (len(server.asked), result.json["answer"], len(result.json["turns"])) == (1, "", 1)
    assert KEY not in result.out + result.err


def test_deepgram_alone_has_no_text(estate: Path) -> None:
    added(estate, "provider", "add", "ears", "--kind", "deepgram", "--key", "env:OPENAI_API_KEY")
    added(estate, "agent", "add", "a", "--provider", "ears")
    result = run("agent", "try", "a", "--say", "Hello", home=estate, env=ENV)
    refused(result, ExitCode.REFUSED, "agent-no-text", "deepgram has no text chat")


@pytest.mark.parametrize("said", ["", "  ", "x" * 4_001])
def test_something_has_to_be_said(estate: Path, said: str) -> None:
    chain(estate, "http://127.0.0.1:9")
    refused(run("agent", "try", "a", "--say", said, home=estate, env=ENV), ExitCode.USAGE, "said-invalid")


# --- targets ----------------------------------------------------------------------------------------------------------


def test_a_target_leads_to_an_agent_and_calls_are_routed_there(estate: Path) -> None:
    main(estate)
    added(estate, "agent", "add", "reception", "--provider", "main")
    result = run(
        "target", "add", "night", "--kind", "agent", "--agent", "reception", "--ring", "10s", "--json", home=estate
    )
    assert (result.json["kind"], result.json["address"], result.json["agent"]) == ("agent", "", "reception")
    assert "voice.url is not configured" in result.err
    done("rule", "add", "solar", "night", "--priority", "0", home=estate)
    done("cap", "set", "target", "night", "--concurrent", "3", home=estate)
    routed = done("route", DID, "--from", "+12125550147", "--json", home=estate).json
    assert routed["target"] == "night"
    assert done("agent", "show", "reception", "--json", home=estate).json["targets"] == ["night"]


def test_a_target_becomes_an_agent_and_something_else_again(estate: Path) -> None:
    main(estate)
    added(estate, "agent", "add", "reception", "--provider", "main")
    made = added(estate, "target", "set", "buyer1", "--kind", "agent", "--agent", "reception")
    assert (made["address"], made["agent"]) == ("", "reception")
    refused(
        run("target", "set", "buyer1", "--kind", "pjsip", home=estate), ExitCode.USAGE, "address-missing", "--address"
    )
    made = added(estate, "target", "set", "buyer1", "--kind", "pjsip", "--address", "sip:b@192.0.2.1")
    assert (made["address"], made["agent"]) == ("sip:b@192.0.2.1", "")


@pytest.mark.parametrize(
    ("argv", "slug"),
    [
        (("--kind", "agent"), "agent-missing"),
        (("--kind", "agent", "--agent", "reception", "--address", "sip:x@y"), "address-invalid"),
        (("--address", "sip:x@192.0.2.1", "--agent", "reception"), "not-of-kind"),
        ((), "address-missing"),
    ],
)
def test_what_does_not_go_together_is_refused(estate: Path, argv: tuple[str, ...], slug: str) -> None:
    main(estate)
    added(estate, "agent", "add", "reception", "--provider", "main")
    refused(run("target", "add", "night", *argv, home=estate), ExitCode.USAGE, slug, "hint:")


def test_the_voice_agents_address_reaches_asterisks_file(estate: Path) -> None:
    where = {"CAPCONDUIT_VOICE__URL": "wss://voice.example:8443/media", "CAPCONDUIT_VOICE__CONNECT_TIMEOUT_MS": "700"}
    text = run("render", "websocket_client.conf", home=estate, env=where).out
    assert "[capconduit-voice]\ntype = websocket_client\nuri = wss://voice.example:8443/media\n" in text
    assert "connection_timeout = 700\n" in text
    assert "tls_enabled = yes\n" in text
    result = run("render", "--out", str(estate / "etc"), home=estate)
    assert result.code == ExitCode.DONE
    assert not (estate / "etc" / "websocket_client.conf").exists()


@pytest.mark.parametrize(
    "url", ["http://x", "ws://", "ws://u:p@h/", "ws://h/?a=b", "ws://h:99999/", "ws://h/a;b", "ws://h:0"]
)
def test_another_address_of_the_voice_agent_is_refused(estate: Path, url: str) -> None:
    result = run("target", "list", home=estate, env={"CAPCONDUIT_VOICE__URL": url})
    refused(result, ExitCode.USAGE, "config-value-invalid", "ws://127.0.0.1:8765/media")


def test_every_reason_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    for fault in ProviderFault:
        assert f"| `{fault}` | " in text


# --- the estate as a file ---------------------------------------------------------------------------------------------


def test_an_export_says_all_of_it_and_changes_nothing(estate: Path, tmp_path: Path) -> None:
    chain(estate, "http://127.0.0.1:9")
    done("agent", "set", "a", "--tool", "hangup", "--max-cost", "2", home=estate)
    assert run("agent", "set", "a", "--instructions-file", "-", home=estate, stdin="One.\nTwo.").code == 0
    added(estate, "target", "add", "night", "--kind", "agent", "--agent", "a")
    text = done("export", home=estate).out
    assert 'instructions = """\nOne.\nTwo."""\n' in text
    assert 'key = "env:OPENAI_API_KEY"' in text
    place = tmp_path / "estate.toml"
    place.write_text(text)
    assert run("plan", "-f", str(place), "--prune", home=estate).code == ExitCode.DONE


def test_a_file_with_a_plain_key_is_refused_and_the_key_is_not_told(estate: Path, tmp_path: Path) -> None:
    place = tmp_path / "estate.toml"
    place.write_text(f'[provider.main]\nkind = "openai"\nmodel = "m"\nkey = "{KEY}"\n')
    result = run("apply", "-f", str(place), home=estate)
    refused(result, ExitCode.USAGE, "estate-value-invalid", "provider.main.key")
    assert KEY not in result.out + result.err


def test_a_chain_follows_a_renamed_provider(estate: Path, tmp_path: Path) -> None:
    chain(estate, "http://127.0.0.1:9", "http://127.0.0.1:10")
    place = tmp_path / "estate.toml"
    place.write_text('[provider.first]\nrenamed_from = "p1"\n')
    assert run("apply", "-f", str(place), "--yes", home=estate).code == ExitCode.DONE
    assert done("agent", "show", "a", "--json", home=estate).json["providers"] == ["first", "p2"]


def test_a_chain_names_what_there_is(estate: Path, tmp_path: Path) -> None:
    chain(estate, "http://127.0.0.1:9")
    place = tmp_path / "estate.toml"
    place.write_text('[agent.b]\nproviders = ["p1", "p11"]\n')
    refused(run("plan", "-f", str(place), home=estate), ExitCode.USAGE, "estate-reference-unknown", "'p1'", "p11")
