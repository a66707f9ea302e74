"""`serve` and `status`: becoming the daemon, and asking it over its control socket."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.domain.model import Node
from capconduit.errors import ExitCode
from capconduit.services.stores import open_store
from capconduit_cli.control import MAX_BYTES
from tests.cli.estate import NOON_MS, database, done
from tests.cli.runner import Result, run

WELL: dict[str, Any] = {
    "node": "pbx1",
    "boot_id": "01M7YZMHG00000000000000001",
    "pid": 4711,
    "version": "0.1.0",
    "started": "2026-11-21T12:00:00.000Z",
    "ready": True,
    "reasons": [],
    "fastagi": {
        "listen": "127.0.0.1:4573",
        "connections": 2,
        "requests": {"route": 7, "settle": 5},
        "timeouts": 1,
        "failures": 0,
    },
    "ami": {"enabled": True, "up": True, "asterisk_started": "2026-11-21T11:00:00.000Z"},
    "engine": {"queued": 0, "batches": 9, "commands": 12},
    "calls": 3,
}


class Daemon:
    """Answers on a control socket what a test says: raw bodies, the last one again and again."""

    def __init__(self, path: str, *bodies: bytes, status: int = 200) -> None:
        self.requests: list[str] = []
        left = list(bodies)
        daemon = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                daemon.requests.append(self.rfile.readline().decode().strip())
                while self.rfile.readline().strip():
                    pass
                body = left.pop(0) if len(left) > 1 else left[0]
                head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                self.wfile.write(head.encode() + body)

        self.server = socketserver.ThreadingUnixStreamServer(path, Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a socket, which pytest's are not always."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        yield f"{directory}/control.sock"


@pytest.fixture
def daemons(socket_path: str) -> Iterator[Any]:
    """Starts daemons; they are stopped when the test ends."""
    started: list[Daemon] = []

    def start(*answers: dict[str, Any] | bytes, status: int = 200) -> Daemon:
        bodies = [a if isinstance(a, bytes) else json.dumps(a).encode() for a in answers]
        started.append(Daemon(socket_path, *bodies, status=status))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()


def status(home: Path, socket_path: str, *argv: str) -> Result:
    return run("status", *argv, home=home, env={"CAPCONDUIT_CONTROL__SOCKET": socket_path})


def test_json_is_what_the_daemon_said(home: Path, socket_path: str, daemons: Any) -> None:
    daemon = daemons(WELL | {"more": "of a newer version"})
    result = status(home, socket_path, "--json")
    assert result.code == ExitCode.DONE, result.err
    assert result.json == WELL | {"more": "of a newer version"}
    assert daemon.requests == ["GET /status HTTP/1.1"]


def test_text_says_it_to_people(home: Path, socket_path: str, daemons: Any) -> None:
    daemons(WELL)
    assert status(home, socket_path).out.splitlines() == [
        "ready",
        "node      pbx1, pid 4711, version 0.1.0",
        "started   2026-11-21T12:00:00.000Z",
        "calls     3",
        "fastagi   on 127.0.0.1:4573, 2 connections",
        "          answered: route 7, settle 5",
        "          1 too late, 0 failed",
        "ami       up, Asterisk started 2026-11-21T11:00:00.000Z",
        "engine    12 commands in 9 transactions, 0 waiting",
    ]


def test_a_daemon_that_is_not_ready_says_why(home: Path, socket_path: str, daemons: Any) -> None:
    daemons(WELL | {"ready": False, "reasons": ["ami down"]})
    for form in ((), ("--json",), ("-o", "csv")):
        result = status(home, socket_path, *form)
        assert result.code == ExitCode.PEER
        assert "ami down" in result.out
    assert status(home, socket_path).out.splitlines()[0] == "not ready: ami down"


def test_zombies_and_a_second_ami_user_are_told(home: Path, socket_path: str, daemons: Any) -> None:
    ami = WELL["ami"] | {"control": {"user": "acting", "up": False}}
    zombies = {"channels": 1, "calls_found": 2, "shown": [{"channel": "PJSIP/carrier-00000001"}]}
    daemons(WELL | {"ami": ami, "zombies": zombies})
    result = status(home, socket_path)
    assert result.code == ExitCode.DONE
    assert result.out.splitlines()[7:] == [
        "ami       up, Asterisk started 2026-11-21T11:00:00.000Z",
        "          down for actions, as acting",
        "engine    12 commands in 9 transactions, 0 waiting",
        "zombies   1 channels without a call: PJSIP/carrier-00000001",
        "zombies   2 calls without a channel, since the start",
    ]


def test_other_forms_have_the_same_fields(home: Path, socket_path: str, daemons: Any) -> None:
    daemons(WELL)
    header, line = status(home, socket_path, "-o", "csv").out.splitlines()
    assert header.split(",")[:3] == ["node", "boot_id", "pid"]
    assert line.startswith("pbx1,01M7YZMHG00000000000000001,4711,")


def test_without_a_daemon_the_last_known_nodes_are_told(home: Path, socket_path: str) -> None:
    done("init", "--yes", home=home)
    store = open_store(f"sqlite://{database(home)}")
    with store.transaction(write=True) as tx:
        tx.put_node(Node(name="pbx1", boot_id="b", started_ms=1, seen_ms=NOON_MS, asterisk_started_ms=None, state="up"))
    store.close()
    result = status(home, socket_path, "--json")
    assert result.code == ExitCode.PEER
    assert result.out == ""
    assert "last known: node pbx1 was up at 2026-11-21T12:00:00.000Z\n" in result.err
    assert f"{socket_path}: No such file or directory [daemon-unreachable]" in result.err
    assert "capconduit serve" in result.err


def test_without_a_daemon_and_without_a_database_the_exit_code_is_the_daemons(home: Path, socket_path: str) -> None:
    result = status(home, socket_path)
    assert result.code == ExitCode.PEER
    assert "[daemon-unreachable]" in result.err


@pytest.mark.parametrize(
    ("body", "http_status"),
    [(b"{", 200), (b"[]", 200), (b"\xff\xfe", 200), (b"{}", 500), (b"{}" + b" " * MAX_BYTES, 200)],
)
def test_what_is_no_answer_is_refused(
    home: Path, socket_path: str, daemons: Any, body: bytes, http_status: int
) -> None:
    daemons(body, status=http_status)
    result = status(home, socket_path, "--json")
    assert result.code == ExitCode.PEER
    assert result.out == ""
    assert "[daemon-answer-invalid]" in result.err


def test_an_answer_of_another_version_is_shown_as_far_as_it_is_known(
    home: Path, socket_path: str, daemons: Any
) -> None:
    daemons({"ready": True, "fastagi": "busy", "ami": None, "zombies": {"channels": 1, "shown": 7}})
    assert status(home, socket_path).out.splitlines()[0] == "ready"


def test_hostile_text_of_a_daemon_stays_text(home: Path, socket_path: str, daemons: Any) -> None:
    daemons(WELL | {"node": "\x1b]0;owned\x07"})
    for form in ((), ("--json",), ("-o", "csv")):
        assert "\x1b" not in status(home, socket_path, *form).out


def test_wait_ready_asks_until_it_is(home: Path, socket_path: str, daemons: Any) -> None:
    waiting = WELL | {"ready": False, "reasons": ["ami down"]}
    daemon = daemons(waiting, waiting, WELL)
    result = status(home, socket_path, "--wait-ready", "30s", "--json")
    assert result.code == ExitCode.DONE, result.err
    assert result.json["ready"] is True
    assert len(daemon.requests) == 3


def test_wait_ready_ends_with_the_reason(home: Path, socket_path: str, daemons: Any) -> None:
    daemons(WELL | {"ready": False, "reasons": ["ami down"]})
    result = status(home, socket_path, "--wait-ready", "250ms")
    assert result.code == ExitCode.PEER
    assert result.out == ""
    assert "ami down [daemon-not-ready]" in result.err


def test_wait_ready_waits_for_a_daemon_that_is_not_there_yet(home: Path, socket_path: str) -> None:
    result = status(home, socket_path, "--wait-ready", "250ms")
    assert result.code == ExitCode.PEER
    assert "[daemon-unreachable]" in result.err
    assert status(home, socket_path, "--wait-ready", "1h").code == ExitCode.USAGE


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What would have taken the place of this process."""
    seen: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: seen.append((path, argv)))
    return seen


def test_serve_becomes_the_daemon_with_the_config_in_force(home: Path, executed: list[tuple[str, list[str]]]) -> None:
    config = home / "my.toml"
    run("--config", str(config), "init", "--yes", home=home)
    result = run("--config", str(config), "serve", "--log-level", "debug", "--take-over", home=home)
    assert result.code == ExitCode.DONE, result.err
    assert executed == [
        (
            sys.executable,
            [sys.executable, "-m", "fastagi", "--config", str(config), "--log-level", "debug", "--take-over"],
        )
    ]


def test_serve_without_any_config_file_names_none(home: Path, executed: list[tuple[str, list[str]]]) -> None:
    config = home / "my.toml"
    run("--config", str(config), "init", "--yes", home=home)
    config.unlink()
    assert run("serve", home=home).code == ExitCode.DONE
    assert executed == [(sys.executable, [sys.executable, "-m", "fastagi"])]


def test_serve_checks_before_it_begins(home: Path, executed: list[tuple[str, list[str]]]) -> None:
    without_database = run("serve", home=home)
    assert without_database.code == ExitCode.DATABASE
    assert "capconduit init" in without_database.err
    config = home / "bad.toml"
    config.write_text("[fastagi]\nlisten = 7\n", "utf-8")
    assert run("--config", str(config), "serve", home=home).code == ExitCode.USAGE
    assert run("serve", "--log-level", "loud", home=home).code == ExitCode.USAGE
    assert executed == []
