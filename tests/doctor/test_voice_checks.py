"""Voice agents: configured, reached, and told apart from what only takes connections."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from capconduit.doctor import voice
from tests.doctor.facts import ids


@pytest.mark.parametrize(
    ("targets", "url", "trouble", "expected"),
    [
        ([], "", "", []),
        ([], "ws://127.0.0.1:1/", "refused", []),
        (["lexi"], "", "", ["voice-unconfigured"]),
        (["lexi"], "ws://127.0.0.1:1/", "refused", ["voice-unreachable"]),
        (["lexi"], "ws://127.0.0.1:1/", "", []),
    ],
)
def test_only_where_a_target_is_an_agent_somebody_must_answer(
    targets: list[str], url: str, trouble: str, expected: list[str]
) -> None:
    assert ids(voice.judge_voice(targets, url, trouble)) == expected


@contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Takes one connection and answers so; None: never."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4_096)
                if answer is None:
                    done.wait(30)
                else:
                    peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/media"
        done.set()
        thread.join(30)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"HTTP/1.1 403 Forbidden\r\n\r\n"])
def test_whoever_answers_a_handshake_is_well(answer: bytes) -> None:
    with server(answer) as url:
        assert voice.trouble_at(url) == ""


def test_what_takes_connections_and_says_nothing_is_told() -> None:
    with server(None) as url:
        assert "no answer within" in voice.trouble_at(url)


def test_what_speaks_otherwise_is_told() -> None:
    with server(b"SSH-2.0-x\r\n") as url:
        assert "no web server" in voice.trouble_at(url)


def test_nobody_there_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert voice.trouble_at(f"ws://127.0.0.1:{port}/media") == "Connection refused"
