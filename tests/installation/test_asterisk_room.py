"""AMI and the console, as commands ask them: every wait and every answer has a bound, every failure a slug."""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capconduit.asterisk import console as console_module
from capconduit.asterisk.console import Console
from capconduit.asterisk.manager import Manager
from capconduit.errors import PeerError

BANNER = b"Asterisk Call Manager/9.0.0\r\n"
WELCOME = b"Response: Success\r\nActionID: capconduit-1\r\nMessage: Authentication accepted\r\n\r\n"
Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """`serve(b"...", ...)`: a port of one that says the first on connection and each next one on what it is asked."""
    ended: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(*says: bytes, hang: bool = False) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        ended.append(server)

        def answer() -> None:
            with contextlib.suppress(OSError):  # the other side may leave at any time
                peer, _ = server.accept()
                ended.append(peer)
                peer.sendall(says[0])
                for text in says[1:]:
                    if not peer.recv(65_536):
                        return
                    peer.sendall(text)
                if not hang:
                    peer.recv(65_536)
                    peer.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        threads.append(thread)
        return int(server.getsockname()[1])

    yield start
    for one in ended:
        one.close()
    for thread in threads:
        thread.join(30)


def manager(port: int, timeout_s: float = 30.0) -> Manager:
    return Manager("127.0.0.1", port, "capconduit", "secret", timeout_s)


def test_a_list_is_collected_and_events_of_others_are_passed_over(serve: Serve) -> None:
    answer = (
        b"Event: FullyBooted\r\nStatus: x\r\n\r\n"
        b"Response: Success\r\nActionID: capconduit-2\r\nEventList: start\r\n\r\n"
        b"Event: Row\r\nActionID: capconduit-2\r\nName: a\r\n\r\n"
        b"Event: Row\r\nActionID: other\r\nName: b\r\n\r\n"
        b"Event: RowsDone\r\nActionID: capconduit-2\r\nEventList: Complete\r\n\r\n"
    )
    with manager(serve(BANNER, WELCOME, answer)) as asked:
        assert asked.version == "9.0.0"
        assert [event["Name"] for event in asked.action("Rows").events] == ["a"]


@pytest.mark.parametrize(
    ("says", "slug"),
    [
        ((b"HTTP/1.1 400 Bad Request\r\n",), "ami-not-asterisk"),
        ((BANNER, b"Response: Error\r\nActionID: capconduit-1\r\nMessage: Authentication failed\r\n\r\n"),
         "ami-login-refused"),
    ],
)  # fmt: skip
def test_who_does_not_let_us_in_is_told(serve: Serve, says: tuple[bytes, ...], slug: str) -> None:
    with pytest.raises(PeerError) as refused, manager(serve(*says)):
        pass
    assert refused.value.slug == slug
    assert "secret" not in refused.value.message


def test_a_right_that_is_missing_is_told_by_the_action(serve: Serve) -> None:
    port = serve(
        BANNER, WELCOME, b"Response: Error\r\nActionID: capconduit-2\r\nMessage: Permission denied\r\n\r\n", hang=True
    )
    with manager(port) as asked, pytest.raises(PeerError, match="PJSIPShowAors: Permission denied") as refused:
        asked.action("PJSIPShowAors")
    assert refused.value.slug == "ami-refused"


def test_silence_ends_at_the_bound_and_a_cut_at_once(serve: Serve) -> None:
    with manager(serve(BANNER, WELCOME, hang=True), 3.5) as asked, pytest.raises(PeerError) as late:
        asked.action("Ping")
    assert late.value.slug == "ami-timeout"
    with manager(serve(BANNER, WELCOME)) as asked, pytest.raises(PeerError) as lost:
        asked.action("Ping")
    assert lost.value.slug == "ami-lost"


def test_a_value_that_would_be_another_action_is_not_sent(serve: Serve) -> None:
    with manager(serve(BANNER, WELCOME, hang=True)) as asked, pytest.raises(PeerError) as refused:
        asked.action("ShowDialPlan", Context="a\r\nAction: Originate")
    assert refused.value.slug == "ami-value-refused"


# --- the console -----------------------------------------------------------------------------------------------------


def program(tmp_path: Path, text: str) -> Console:
    path = tmp_path / "asterisk"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Console(str(path), Path("/etc/x.conf"), timeout_s=30.0)


def test_the_console_is_asked_one_command_without_a_shell(tmp_path: Path) -> None:
    asked = program(tmp_path, 'printf "%s|" "$@"')
    assert asked.ask("core show $(id) version") == "-C|/etc/x.conf|-rx|core show $(id) version|"


def test_colours_are_taken_out(tmp_path: Path) -> None:
    assert program(tmp_path, r'printf "\033[1;32mok\033[0m"').ask("x") == "ok"


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("echo Unable to connect; exit 1", "asterisk-unreachable"),
        ("exec sleep 60", "asterisk-timeout"),
        ("yes", "console-output-too-long"),
    ],
)
def test_a_console_that_does_not_answer_well_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, slug: str
) -> None:
    monkeypatch.setattr(console_module, "OUTPUT_BYTES", 1_000)
    asked = program(tmp_path, text)
    quick = Console(asked.program, timeout_s=0.3) if slug == "asterisk-timeout" else asked
    with pytest.raises(PeerError) as told:
        quick.ask("core show version")
    assert told.value.slug == slug


def test_a_program_that_is_not_there_names_the_key_to_set(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="cannot run") as told:
        Console(str(tmp_path / "nothing")).ask("x")
    assert "asterisk.program" in told.value.hint


@pytest.mark.parametrize("command", ["", "a\nb", "x" * 1_000])
def test_what_is_no_command_is_not_run(tmp_path: Path, command: str) -> None:
    with pytest.raises(PeerError) as told:
        program(tmp_path, "touch ran").ask(command)
    assert told.value.slug == "console-command-invalid"


def test_the_group_of_an_asterisk_that_runs_as_another_user(tmp_path: Path) -> None:
    from capconduit.installation.live import LiveAsterisk

    names = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid not in (0, os.geteuid())}
    name, entry = next(iter(names.items()))
    told = program(tmp_path, f"echo '  User name and group:         {name}/'")
    assert LiveAsterisk(told, tmp_path).group() == entry.pw_gid
    itself = program(tmp_path, "echo '  User name and group:         /'")
    assert LiveAsterisk(itself, tmp_path).group() is None
    if os.geteuid() == 0:
        os.chown(tmp_path, entry.pw_uid, -1)
        assert LiveAsterisk(told, tmp_path).group() is None
