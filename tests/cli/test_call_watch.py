"""`call watch` and `call hangup`: one call till its end, and its end by an operator's word."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.errors import ExitCode, Refused
from capconduit.services.office import Office
from capconduit.services.stores import open_store
from capconduit_cli import control_watch
from capconduit_cli.commands.call import step_line
from capconduit_cli.control_watch import begin
from tests.cli.daemon import stub
from tests.cli.estate import CALLER, DID, Calls, database, engine, walk
from tests.cli.runner import Result, run


@pytest.fixture
def calls(home: Path) -> Iterator[Calls]:
    with engine(walk(home)) as running:
        yield running


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a socket, which pytest's are not always."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        yield f"{directory}/control.sock"


@pytest.fixture
def office(home: Path, calls: Calls) -> Iterator[Office]:
    store = open_store(f"sqlite://{database(home)}")
    yield Office(store, SystemClock(), actor="test")
    store.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_watch, "POLL_S", 0.01)


def call_object(call_id: str, **more: Any) -> dict[str, Any]:
    """A CALL of the stream."""
    return {
        "id": call_id, "state": "dialing", "target": "buyer1", "attempt": 1, "answered": None, "funded_s": 60,
        "held": "0.200000", "currency": "USD", "node": "pbx1", **more,
    }  # fmt: skip


def test_a_call_is_followed_over_the_stream_till_its_record_is_there(
    office: Office, calls: Calls, socket_path: str
) -> None:
    call_id = calls.arrive("1.1").call_id
    answered = "2026-11-21T12:00:02.000Z"
    stream = [
        ("snapshot", {"calls": [call_object("another"), call_object(call_id)]}),
        ("call", call_object("another", state="up")),
        ("call", call_object(call_id)),
        ("call", call_object(call_id, state="up", answered=answered)),
        ("call", call_object(call_id, state="up", answered=answered, funded_s=120, held="0.400000")),
        ("call-gone", {"id": call_id}),
    ]
    following = begin(office, socket_path, call_id)
    with stub(socket_path, {}, stream):
        steps = following.steps()
        seen = [next(steps) for _ in range(3)]
        calls.clock.at_ms += 2_000
        calls.answer("1.1")
        calls.clock.at_ms += 70_000
        calls.end("1.1", answered_for_ms=70_000)
        seen.extend(steps)
    assert [step["state"] for step in seen] == ["dialing", "up", "up", "ended"]
    assert [step["funded_s"] for step in seen] == [60, 60, 120, None]
    assert (seen[3]["outcome"], seen[3]["talk_ms"], seen[3]["billed_micros"]) == ("completed", 70_000, 400_000)
    lines = [step_line(step) for step in seen]
    assert lines[0].endswith("dialing  buyer1, attempt 1, 0.20 USD held")
    assert lines[2].endswith("up       buyer1, funded for 2m00s, 0.40 USD held")
    assert lines[3] == "2026-11-21T12:01:12.000Z  ended    completed at buyer1: talked 1m10s, billed 0.40 USD"


def test_without_a_daemon_it_is_followed_in_the_database(
    office: Office, calls: Calls, socket_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call_id = calls.arrive("1.1").call_id
    steps = begin(office, socket_path, call_id).steps()
    assert next(steps)["state"] == "dialing"
    calls.answer("1.1")
    assert next(steps)["state"] == "up"
    calls.end("1.1", answered_for_ms=1_000)
    assert [step["state"] for step in steps] == ["ended"]
    assert capsys.readouterr().err.count("following the database") == 1


def test_a_call_that_has_ended_is_not_watched(office: Office, calls: Calls, socket_path: str) -> None:
    call_id = calls.arrive("1.1").call_id
    calls.end("1.1")
    with pytest.raises(Refused) as caught:
        begin(office, socket_path, call_id)
    assert f"cdr show {call_id}" in caught.value.hint


def hangup(home: Path, socket_path: str, *argv: str) -> Result:
    return run("call", "hangup", *argv, home=home, env={"CAPCONDUIT_CONTROL__SOCKET": socket_path})


def test_the_daemon_is_told_whom_to_hang_up_and_for_whom(home: Path, calls: Calls, socket_path: str) -> None:
    call_id = calls.arrive("1.1").call_id
    with stub(socket_path, {"/hangup": (202, {"call": call_id})}) as daemon:
        rehearsed = hangup(home, socket_path, "1.1", "--dry-run")
        assert (rehearsed.code, daemon.requests) == (0, [])
        asked = hangup(home, socket_path, "1.1")
        assert (asked.code, daemon.requests) == (ExitCode.USAGE, [])
        assert f"Hang up the call of {CALLER} to {DID}, ringing at buyer1?" in asked.err
        done = hangup(home, socket_path, "1.1", "--yes", "--json")
        assert (done.code, done.json["call_id"]) == (0, call_id)
        assert daemon.requests == ["POST /hangup HTTP/1.1"]
        assert daemon.bodies[0]["call"] == call_id
        assert daemon.bodies[0]["actor"]


@pytest.mark.parametrize(
    ("status", "slug", "code"),
    [
        (409, "call-elsewhere", ExitCode.REFUSED),
        (503, "ami-down", ExitCode.PEER),
        (404, "call-unknown", ExitCode.REFUSED),
    ],
)
def test_what_the_daemon_refuses_is_told_in_its_words(
    home: Path, calls: Calls, socket_path: str, status: int, slug: str, code: ExitCode
) -> None:
    calls.arrive("1.1")
    with stub(socket_path, {"/hangup": (status, {"error": slug, "message": "words \x1b", "hint": "next"})}):
        refused = hangup(home, socket_path, "1.1", "--yes")
    assert refused.code == code
    assert f"words \\x1b [{slug}]" in refused.err
    assert "next" in refused.err


def test_an_older_daemon_is_named_as_such(home: Path, calls: Calls, socket_path: str) -> None:
    calls.arrive("1.1")
    with stub(socket_path, {}):
        refused = hangup(home, socket_path, "1.1", "--yes")
    assert refused.code == ExitCode.PEER
    assert "[daemon-too-old]" in refused.err


def test_without_a_daemon_nothing_is_hung_up(home: Path, calls: Calls, socket_path: str) -> None:
    calls.arrive("1.1")
    refused = hangup(home, socket_path, "1.1", "--yes")
    assert refused.code == ExitCode.PEER
    assert "[daemon-unreachable]" in refused.err
    wrong = hangup(home, socket_path, "nonsense", "--yes")
    assert wrong.code == ExitCode.REFUSED
    assert "call list" in wrong.err
