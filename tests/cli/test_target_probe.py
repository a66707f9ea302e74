"""`capconduit target test`: whether a call would find somebody there, by kind; told, and nothing changed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from capconduit.errors import ExitCode
from lab.ports import free_port
from tests.cli.estate import contents, done, walk
from tests.cli.runner import Result, run
from tests.protocol.sip_answerer import answerer, reply

CONSOLE = r"""
for last; do :; done
case "$last" in
"pjsip show endpoint good") printf ' Endpoint:  good  Not in use\n      Contact:  good/sip:192.0.2.1:5060  766e6c004b Avail  12.318\n' ;;
"pjsip show endpoint dead") printf ' Endpoint:  dead  Unavailable\n      Contact:  dead/sip:192.0.2.1:9  344e588cfb Unavail  -nan\n' ;;
"pjsip show endpoint open") printf ' Endpoint:  open  Not in use\n      Contact:  open/sip:192.0.2.1:9  344e588cfb NonQual  nan\n' ;;
"pjsip show endpoint phone") printf ' Endpoint:  phone  Unavailable\n' ;;
"pjsip show"*) printf 'Unable to find object nobody.\n' ;;
"iax2 show peer good") printf '  * Name       : good\n  Status       : OK (7 ms)\n' ;;
"iax2 show peer dead") printf '  * Name       : dead\n  Status       : UNREACHABLE\n' ;;
"iax2 show peer"*) printf 'Peer x not found.\n' ;;
"dialplan show 205@inside") printf "[ Included context 'more' created by 'pbx_config' ]\n  '_2XX' => 1. Answer()\n" ;;
"dialplan show"*) printf 'There is no existence of it\n' ;;
esac
"""  # noqa: E501  # as Asterisk 22 prints them, without the headings

NO_AMI = {"CAPCONDUIT_AMI__HOST": ""}


@pytest.fixture
def estate(home: Path) -> Path:
    """The walk's estate."""
    return walk(home)


@pytest.fixture
def console(tmp_path: Path) -> dict[str, str]:
    """The environment in which Asterisk's console answers."""
    path = tmp_path / "asterisk"
    path.write_text(f"#!/bin/sh{CONSOLE}")
    path.chmod(0o755)
    return {"CAPCONDUIT_ASTERISK__PROGRAM": str(path), **NO_AMI}


def probed(home: Path, kind: str, address: str, *more: str, env: dict[str, str] | None = None) -> Result:
    """A target of that address, tested."""
    done("target", "add", "probe", "--kind", kind, "--address", address, home=home)
    before = contents(home)
    result = run("target", "test", "probe", "--json", *more, home=home, env=env)
    assert contents(home) == before
    assert "Traceback" not in result.err
    return result


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_a_sip_uri_that_answers_is_well(estate: Path, status: str) -> None:
    with answerer(lambda data, _: [reply(data, status)]) as (port, requests):
        result = probed(estate, "pjsip", f"sip:buyer@127.0.0.1:{port}", "--timeout", "10s")
    assert result.code == ExitCode.DONE, result.err
    found = result.json
    assert (found["ok"], found["reason"], found["status"]) == (True, "", int(status[:3]))
    assert found["asked"] == f"127.0.0.1:{port}"
    assert isinstance(found["latency_ms"], int)
    assert (found["health"], found["active"], found["failures"], found["rested_until"]) == ("well", 0, 0, None)
    assert requests[0].startswith(f"OPTIONS sip:buyer@127.0.0.1:{port} ".encode())


def test_a_sip_uri_that_does_not_answer_is_told_with_exit_code_4(estate: Path) -> None:
    with answerer(lambda data, _: []) as (port, _):
        result = probed(estate, "pjsip", f"sip:buyer@127.0.0.1:{port}", "--timeout", "200ms")
    assert result.code == ExitCode.PEER
    assert "[target-timeout]" in result.err
    assert (result.json["ok"], result.json["reason"], result.json["status"]) == (False, "timeout", None)


def test_a_transport_that_is_not_asked_is_no_verdict_and_no_success(estate: Path) -> None:
    result = probed(estate, "pjsip", "sip:buyer@127.0.0.1:5060;transport=tls")
    assert result.code == ExitCode.PEER
    assert "[target-transport]" in result.err
    assert (result.json["ok"], result.json["reason"]) == (None, "transport")


def test_a_target_that_rests_is_told_with_its_rest(estate: Path) -> None:
    with answerer(lambda data, _: [reply(data, "200 OK")]) as (port, _):
        done("target", "add", "tired", "--address", f"sip:buyer@127.0.0.1:{port}", home=estate)
        done("target", "rest", "tired", "--for", "30s", home=estate)
        found = done("target", "test", "tired", "--timeout", "10s", "--json", home=estate).json
    assert (found["ok"], found["health"]) == (True, "resting")
    assert found["rested_until"]


@pytest.mark.parametrize(
    ("kind", "address", "ok", "reason", "latency_ms"),
    [
        ("pjsip", "good", True, "", 13),
        ("pjsip", "+18005550100@good", True, "", 13),
        ("pjsip", "dead", False, "unreachable", None),
        ("pjsip", "open", None, "", None),
        ("pjsip", "phone", False, "contact", None),
        ("pjsip", "nobody", False, "unknown", None),
        ("iax2", "good/100", True, "", 7),
        ("iax2", "dead", False, "unreachable", None),
        ("iax2", "nobody", False, "unknown", None),
        ("iax2", "192.0.2.1:4569/100", None, "", None),
        ("extension", "205@inside", True, "", None),
        ("extension", "999@inside", False, "unknown", None),
    ],
)
def test_what_asterisk_knows_is_asked_at_its_console_where_ami_is_off(
    estate: Path, console: dict[str, str], kind: str, address: str, ok: bool | None, reason: str, latency_ms: int | None
) -> None:
    result = probed(estate, kind, address, "--timeout", "10s", env=console)
    assert result.code == (ExitCode.DONE if not reason else ExitCode.PEER), result.err
    found = result.json
    assert (found["ok"], found["reason"], found["latency_ms"]) == (ok, reason, latency_ms)
    assert not reason or f"[target-{reason}]" in result.err


def test_ami_that_is_configured_and_away_is_told_and_the_console_not_asked(
    estate: Path, console: dict[str, str], unused_tcp: int
) -> None:
    there = {**console, "CAPCONDUIT_AMI__HOST": "127.0.0.1", "CAPCONDUIT_AMI__PORT": str(unused_tcp)}
    result = probed(estate, "pjsip", "good", env=there)
    assert (result.code, result.out) == (ExitCode.PEER, "")
    assert "[ami-down]" in result.err


def test_without_ami_and_console_what_to_configure_is_told(estate: Path, tmp_path: Path) -> None:
    result = probed(estate, "pjsip", "good", env={"CAPCONDUIT_ASTERISK__PROGRAM": str(tmp_path / "none"), **NO_AMI})
    assert (result.code, result.out) == (ExitCode.PEER, "")
    assert "[asterisk-not-asked]" in result.err
    assert "AMI is not configured" in result.err
    assert "set [ami] host and secret" in result.err


@pytest.fixture
def unused_tcp() -> int:
    """A port that nobody listens at."""
    return free_port()


@contextmanager
def voice(answer: bytes) -> Iterator[str]:
    """What speaks for agents: takes one connection and answers so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4_096)
                peer.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/media"
        thread.join(10)


def test_an_agent_is_as_well_as_what_speaks_for_it(estate: Path) -> None:
    done("provider", "add", "main", "--kind", "ollama", "--model", "llama3.2", home=estate)
    done("agent", "add", "lexi", "--provider", "main", "--instructions", "Be kind.", home=estate)
    done("target", "add", "night", "--kind", "agent", "--agent", "lexi", home=estate)
    argv = ("target", "test", "night", "--timeout", "10s", "--json")
    off = run(*argv, home=estate)
    assert (off.code, off.json["reason"]) == (ExitCode.PEER, "unconfigured")
    for answer, code, reason in ((b"HTTP/1.1 101 x\r\n\r\n", 0, ""), (b"220 mail\r\n", ExitCode.PEER, "voice")):
        with voice(answer) as url:
            told = run(*argv, home=estate, env={"CAPCONDUIT_VOICE__URL": url})
        assert (told.code, told.json["reason"], told.json["asked"]) == (code, reason, url), told.err


@pytest.mark.parametrize("timeout", ["10ms", "10m"])
def test_a_timeout_out_of_bounds_is_refused(estate: Path, timeout: str) -> None:
    result = run("target", "test", "buyer1", "--timeout", timeout, home=estate)
    assert (result.code, result.out) == (ExitCode.USAGE, "")


def test_a_target_that_is_not_there_is_refused(estate: Path) -> None:
    result = run("target", "test", "buyr1", home=estate)
    assert result.code == ExitCode.REFUSED
    assert "did you mean 'buyer1'" in result.err
