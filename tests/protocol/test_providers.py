"""Requests to providers over real loopback connections: what is sent, what is understood, and every way it can fail."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capconduit.providers import asking, probe
from capconduit.providers.account import Account
from capconduit.providers.chat import Turn, same_account_failed, take_turn
from capconduit.providers.probe import Probe
from capconduit.vocab import ProviderFault, ProviderKind
from lab.ports import free_port
from tests.protocol.provider_server import LOOPBACK, Answer, ProviderServer, replies, send

KEY = "sk-proj-0123456789abcdef"
TIMEOUT_MS = 30_000
SHORT_MS = 300
MODELS = {"object": "list", "data": [{"id": "gpt-realtime"}, {"id": "gpt-4.1-mini"}]}
TAGS = {"models": [{"name": "llama3.2:latest"}]}
SAID = [("system", "Be brief."), ("assistant", "Good day."), ("user", "Hello?")]
COMPLETION = {"choices": [{"message": {"role": "assistant", "content": " Hello. \n"}}]}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def account(kind: ProviderKind, url: str, **more: str) -> Account:
    models = {ProviderKind.OPENAI: "gpt-realtime", ProviderKind.OLLAMA: "llama3.2"}
    values = {"key": KEY, "key_ref": "env:KEY", "model": models.get(kind, ""), **more}
    if kind is ProviderKind.AZURE:
        values = {"deployment": "eu", "api_version": "2024-10-21", **values}
    return Account(name="p", kind=kind, base_url=url, **values)


def probed(stack: ExitStack, answer: Answer, kind: ProviderKind = ProviderKind.OPENAI, **more: str) -> Probe:
    """What a test finds at a server that answers so; no part of the key is in it."""
    server = stack.enter_context(ProviderServer(answer))
    found = probe.probe(account(kind, server.url, **more), timeout_ms=TIMEOUT_MS)
    assert KEY not in repr(found)
    return found


# --- what is sent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data", "path", "query", "header", "value"),
    [
        (ProviderKind.OPENAI, MODELS, "/models", {}, "authorization", f"Bearer {KEY}"),
        (ProviderKind.AZURE, MODELS, "/openai/models", {"api-version": "2024-10-21"}, "api-key", KEY),
        (ProviderKind.DEEPGRAM, {"projects": []}, "/v1/projects", {}, "authorization", f"Token {KEY}"),
        (ProviderKind.OLLAMA, TAGS, "/api/tags", {}, "authorization", f"Bearer {KEY}"),
    ],
)  # fmt: skip
def test_each_kind_is_asked_as_it_wants_to_be(
    stack: ExitStack, kind: ProviderKind, data: Any, path: str, query: dict[str, str], header: str, value: str
) -> None:
    server = stack.enter_context(ProviderServer(replies(data)))
    found = probe.probe(account(kind, server.url), timeout_ms=TIMEOUT_MS)
    assert (found.fault, found.status, found.url) == (None, 200, server.url + path)
    [asked] = server.asked
    assert (asked.method, asked.path, asked.query, asked.headers[header]) == ("GET", path, query, value)
    assert asked.headers["accept-encoding"] == "identity"
    assert KEY not in asked.path + json.dumps(asked.query)


def test_without_a_key_none_is_sent(stack: ExitStack) -> None:
    server = stack.enter_context(ProviderServer(replies({"models": [{"name": "llama3.2"}]})))
    assert probe.probe(account(ProviderKind.OLLAMA, server.url, key=""), timeout_ms=TIMEOUT_MS).fault is None
    assert not {"authorization", "api-key"} & server.asked[0].headers.keys()


@pytest.mark.parametrize(
    ("kind", "data", "path", "more", "model"),
    [
        (ProviderKind.OPENAI, COMPLETION, "/chat/completions", {"text_model": "gpt-4.1-mini"}, "gpt-4.1-mini"),
        (ProviderKind.AZURE, COMPLETION, "/openai/deployments/eu/chat/completions", {}, "eu"),
        (ProviderKind.OLLAMA, {"message": {"content": " Hello. \n"}}, "/api/chat", {}, "llama3.2"),
    ],
)
def test_a_turn_has_the_whole_conversation_and_the_model_that_writes(
    stack: ExitStack, kind: ProviderKind, data: Any, path: str, more: dict[str, str], model: str
) -> None:
    server = stack.enter_context(ProviderServer(replies(data)))
    turn = take_turn(account(kind, server.url, **more), SAID, timeout_ms=TIMEOUT_MS)
    assert (turn.fault, turn.text, turn.model, turn.status) == (None, "Hello.", model, 200)
    [asked] = server.asked
    assert (asked.method, asked.path, asked.headers["content-type"]) == ("POST", path, "application/json")
    messages = [{"role": role, "content": text} for role, text in SAID]
    assert asked.data == {"model": model, "messages": messages, "stream": False}


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_missing_is_told_with_the_nearest(stack: ExitStack) -> None:
    found = probed(stack, replies(MODELS), model="gpt-realtme")
    assert (found.fault, found.model_found, found.status) == (ProviderFault.MODEL, False, 200)
    assert "did you mean gpt-realtime" in found.words


def test_the_model_that_writes_is_looked_for_too(stack: ExitStack) -> None:
    assert probed(stack, replies(MODELS), text_model="gpt-9").fault is ProviderFault.MODEL
    assert probed(stack, replies(MODELS), text_model="gpt-4.1-mini").model_found is True


@pytest.mark.parametrize(("model", "found"), [("llama3.2", True), ("llama3.2:latest", True), ("llama3.2:1b", False)])
def test_a_model_of_ollama_without_a_tag_is_the_latest(stack: ExitStack, model: str, found: bool) -> None:
    data = {"models": [{"name": "llama3.2:latest"}, {"name": "qwen:7b"}]}
    assert probed(stack, replies(data), ProviderKind.OLLAMA, model=model).model_found is found


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "fault", "word"),
    [
        (401, ProviderFault.KEY, "env:KEY"),
        (403, ProviderFault.FORBIDDEN, "may not"),
        (404, ProviderFault.PATH, "base URL"),
        (429, ProviderFault.QUOTA, "quota"),
        (500, ProviderFault.SERVER, "500"),
        (418, ProviderFault.STATUS, "418"),
    ],
)
def test_a_status_is_told_in_plain_words(stack: ExitStack, status: int, fault: ProviderFault, word: str) -> None:
    found = probed(stack, replies({"error": {"message": "out of credit"}}, status))
    assert (found.fault, found.status) == (fault, status)
    assert word in found.words
    assert ("out of credit" in found.words) == (status not in (401, 403))


@pytest.mark.parametrize("part", [KEY, KEY[:8], KEY[-8:]])
@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_no_part_of_the_key_that_a_provider_repeats_is_told(stack: ExitStack, part: str, status: int) -> None:
    assert part not in probed(stack, replies({"error": {"message": f"wrong key: {part}"}}, status)).words


def test_a_redirect_is_not_followed(stack: ExitStack) -> None:
    other = stack.enter_context(ProviderServer(replies(MODELS)))
    found = probed(stack, replies(b"", 307, f"Location: {other.url}/models\r\n"))
    assert (found.fault, found.status) == (ProviderFault.REDIRECT, 307)
    assert LOOPBACK in found.words
    assert other.asked == []


@pytest.mark.parametrize(
    "body",
    [b"<html>Hello</html>", b"", b"[1, 2", b"[" * 100_000, b'{"data": 3}', b'{"data": ["x"]}', b"[]", b"\xff\xfe"],
)
def test_an_answer_that_is_none_is_told(stack: ExitStack, body: bytes) -> None:
    found = probed(stack, replies(body))
    assert (found.fault, found.status) == (ProviderFault.ANSWER, 200)


def test_a_body_is_read_no_further_than_it_may_be_long(stack: ExitStack) -> None:
    sent: list[int] = []

    def flood(_: Any, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(1_000):
            connection.sendall(b" " * 65_536)
            sent.append(65_536)

    found = probed(stack, flood)
    assert found.fault is ProviderFault.ANSWER
    assert "longer than" in found.words
    assert sum(sent) < 10 * asking.MAX_BODY


def test_a_packed_body_is_not_unpacked(stack: ExitStack) -> None:
    body = gzip.compress(json.dumps(MODELS).encode())
    assert probed(stack, replies(body, 200, "Content-Encoding: gzip\r\n")).fault is ProviderFault.ANSWER


def test_an_answer_that_is_cut_is_told(stack: ExitStack) -> None:
    def cut(_: Any, connection: socket.socket) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data": [')

    assert probed(stack, cut).fault is ProviderFault.CUT
    assert probed(stack, lambda _, connection: connection.shutdown(socket.SHUT_RDWR)).fault is ProviderFault.CUT


def test_what_is_no_http_is_told(stack: ExitStack) -> None:
    assert probed(stack, lambda _, connection: connection.sendall(b"220 mail ESMTP\r\n\r\n")).fault is ProviderFault.CUT


@pytest.mark.parametrize("part", ["nothing", "head", "body"])
def test_a_server_that_says_nothing_or_a_byte_at_a_time_is_waited_for_no_longer_than_allowed(
    stack: ExitStack, part: str
) -> None:
    """Each byte comes in time; only the whole does not."""

    def slow(_: Any, connection: socket.socket) -> None:
        if part == "body":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not server.stopped.wait(SHORT_MS / 10_000):
            if part != "nothing":
                connection.sendall(b" " if part == "body" else b"H")

    server = stack.enter_context(ProviderServer(slow))
    found = probe.probe(account(ProviderKind.OPENAI, server.url), timeout_ms=SHORT_MS)
    assert found.fault is ProviderFault.TIMEOUT
    assert SHORT_MS / 2 < found.latency_ms < 20 * SHORT_MS


def test_nobody_who_listens_is_told() -> None:
    port = free_port()
    found = probe.probe(account(ProviderKind.OPENAI, f"http://{LOOPBACK}:{port}"), timeout_ms=TIMEOUT_MS)
    assert (found.fault, found.status) == (ProviderFault.REFUSED, None)
    assert f"{LOOPBACK}:{port}" in found.words


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = probe.probe(account(ProviderKind.OPENAI, "https://api.openai.example/v1"), timeout_ms=TIMEOUT_MS)
    assert found.fault is ProviderFault.DNS
    assert "api.openai.example" in found.words


def test_a_look_up_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        go_on.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    found = probe.probe(account(ProviderKind.OPENAI, "https://api.openai.example/v1"), timeout_ms=SHORT_MS)
    go_on.set()
    assert found.fault is ProviderFault.TIMEOUT


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate that nobody vouches for, in one file."""
    place = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days",
            "2", "-subj", "/CN=localhost", "-keyout", str(place), "-out", str(place.with_suffix(".crt")),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    place.write_text(place.read_text() + place.with_suffix(".crt").read_text())
    return place


def test_a_certificate_that_nobody_vouches_for_is_told_and_the_key_is_not_sent(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    heard: list[bytes] = []
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.settimeout(10)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        heard.append(secured.recv(1_000))
                except (ssl.SSLError, OSError):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://{LOOPBACK}:{listening.getsockname()[1]}"
        found = probe.probe(account(ProviderKind.OPENAI, url), timeout_ms=TIMEOUT_MS)
        thread.join(10)
    assert found.fault is ProviderFault.TLS
    assert "certificate" in found.words
    assert b"".join(heard) == b""


def test_a_server_without_tls_is_told(stack: ExitStack) -> None:
    server = stack.enter_context(ProviderServer(replies(MODELS)))
    url = server.url.replace("http:", "https:")
    assert probe.probe(account(ProviderKind.OPENAI, url), timeout_ms=TIMEOUT_MS).fault is ProviderFault.TLS


@pytest.mark.parametrize("key", ["sk-\n1234567890", "sk-über1234567", " sk-1234567890"])
def test_a_key_that_no_header_carries_goes_nowhere(stack: ExitStack, key: str) -> None:
    server = stack.enter_context(ProviderServer(replies(MODELS)))
    found = probe.probe(account(ProviderKind.OPENAI, server.url, key=key), timeout_ms=TIMEOUT_MS)
    assert (found.fault, server.asked) == (ProviderFault.KEY, [])
    assert key not in repr(found)


# --- turns ------------------------------------------------------------------------------------------------------------


def test_who_has_no_text_chat_is_not_asked(stack: ExitStack) -> None:
    server = stack.enter_context(ProviderServer(replies(COMPLETION)))
    for one in (account(ProviderKind.DEEPGRAM, server.url), account(ProviderKind.OPENAI, server.url)):
        turn = take_turn(one, SAID, timeout_ms=TIMEOUT_MS)
        assert turn.fault is ProviderFault.NO_TEXT
    assert "--text-model" in turn.text
    assert server.asked == []


@pytest.mark.parametrize(
    "data",
    [
        {}, [], {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": None}}]},
        {"choices": [{"message": {"content": "  "}}]}, {"choices": {"0": 1}},
    ],
)  # fmt: skip
def test_an_answer_without_a_text_is_told(stack: ExitStack, data: Any) -> None:
    server = stack.enter_context(ProviderServer(replies(data)))
    turn = take_turn(account(ProviderKind.OPENAI, server.url, text_model="m"), SAID, timeout_ms=TIMEOUT_MS)
    assert (turn.fault, turn.status) == (ProviderFault.ANSWER, 200)
    assert KEY not in repr(turn)


def test_a_key_in_an_answer_is_hidden_and_a_word_for_a_key_is_not(stack: ExitStack) -> None:
    data = {"choices": [{"message": {"content": f"your key is {KEY}, dummy"}}]}
    server = stack.enter_context(ProviderServer(replies(data)))
    for key, text in ((KEY, "your key is ***, dummy"), ("dummy", f"your key is {KEY}, dummy")):
        asked = account(ProviderKind.OPENAI, server.url, text_model="m", key=key)
        assert take_turn(asked, SAID, timeout_ms=TIMEOUT_MS).text == text


def test_a_model_that_is_not_there_is_told_as_such(stack: ExitStack) -> None:
    data = {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}
    server = stack.enter_context(ProviderServer(replies(data, 404)))
    turn = take_turn(account(ProviderKind.OPENAI, server.url, text_model="m"), SAID, timeout_ms=TIMEOUT_MS)
    assert turn.fault is ProviderFault.MODEL
    assert "does not exist" in turn.text


def test_only_who_was_refused_as_an_account_is_not_asked_again() -> None:
    first = account(ProviderKind.OPENAI, "http://127.0.0.1:1")
    turn = Turn("p", "m", 1, 401, ProviderFault.KEY, "no")
    assert same_account_failed(replace(first, name="q"), [(first, turn)])
    assert not same_account_failed(replace(first, key="another"), [(first, turn)])
    assert not same_account_failed(first, [(first, replace(turn, fault=ProviderFault.TIMEOUT))])


def test_a_server_may_keep_the_connection_open(stack: ExitStack) -> None:
    def alive(_: Any, connection: socket.socket) -> None:
        send(connection, 200, json.dumps(MODELS).encode())
        server.stopped.wait(10)

    server = stack.enter_context(ProviderServer(alive))
    assert probe.probe(account(ProviderKind.OPENAI, server.url), timeout_ms=TIMEOUT_MS).fault is None
