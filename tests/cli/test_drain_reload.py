"""`drain`, `reload`, and what `status` tells of the floor: a daemon that is stood for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import ExitCode
from capconduit_cli.control_glance import glance
from tests.cli.daemon import stub
from tests.cli.runner import Result, run

STATUS = {"node": "pbx1", "boot_id": "B1", "pid": 7, "calls": 3, "ready": True, "reasons": []}


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path that is short enough for a socket, which pytest's are not always."""
    with tempfile.TemporaryDirectory(prefix="cc") as directory:
        yield f"{directory}/control.sock"


def asked(home: Path, socket_path: str, *argv: str) -> Result:
    return run(*argv, home=home, env={"CAPCONDUIT_CONTROL__SOCKET": socket_path})


def test_draining_is_asked_for_rehearsed_and_done_in_somebodys_name(home: Path, socket_path: str) -> None:
    with stub(socket_path, {"/status": (200, STATUS), "/drain": (202, {"draining": True})}) as daemon:
        rehearsed = asked(home, socket_path, "drain", "--dry-run", "--json")
        assert rehearsed.json == {"node": "pbx1", "boot_id": "B1", "pid": 7, "calls": 3, "draining": False}
        refused = asked(home, socket_path, "drain")
        assert refused.code == ExitCode.USAGE
        assert "Drain the daemon of node pbx1, which has 3 live calls?" in refused.err
        assert not [request for request in daemon.requests if request.startswith("POST")]
        done = asked(home, socket_path, "drain", "--yes", "--json")
        assert (done.code, done.json["draining"]) == (0, True)
        assert daemon.requests[-1] == "POST /drain HTTP/1.1"
        assert daemon.bodies[-1]["actor"]


def test_waiting_for_a_daemon_that_does_not_end_has_an_end(home: Path, socket_path: str) -> None:
    with stub(socket_path, {"/status": (200, STATUS), "/drain": (202, {})}) as daemon:
        late = asked(home, socket_path, "drain", "--yes", "--wait", "250ms")
        assert late.code == ExitCode.PEER
        assert "[daemon-still-there]" in late.err
        daemon.after_post["/drain"] = {"/status": (200, STATUS | {"boot_id": "B2"})}  # another one took its place
        assert asked(home, socket_path, "drain", "--yes", "--wait", "10s").code == 0


def test_reload_tells_the_version(home: Path, socket_path: str) -> None:
    with stub(socket_path, {"/status": (200, STATUS), "/reload": (200, {"estate_version": 12})}) as daemon:
        assert asked(home, socket_path, "reload", "--json").json == {"node": "pbx1", "estate_version": 12}
        assert daemon.bodies[0]["actor"]
        daemon.answers["/reload"] = (503, {"error": "database-failed", "message": "it is away"})
        refused = asked(home, socket_path, "reload")
        assert refused.code == ExitCode.PEER
        assert "it is away [database-failed]" in refused.err
    assert asked(home, socket_path, "drain", "--yes").code == ExitCode.PEER


def cap(scope: str, subject: str, metric: str, window: str, limit: Any, used: Any, in_flight: Any) -> dict[str, Any]:
    return {
        "scope": scope, "subject": subject, "metric": metric, "window": window, "limit": limit, "used": used,
        "in_flight": in_flight,
    }  # fmt: skip


def balance(seller: str, available: str, low: str, empty_at: str | None = None) -> dict[str, Any]:
    return {"seller": seller, "currency": "USD", "available": available, "low_balance": low, "empty_at": empty_at}


PICTURE: dict[str, Any] = {
    "calls": [{"state": "up", "node": "a"}, {"state": "up", "node": "b"}, {"state": "dialing", "node": "a"}],
    "caps": [
        cap("campaign", "solar", "billable", "day", 200, 190, 2),
        cap("seller", "acme", "spend", "day", "10.000000", "9.000000", "1.000000"),
        cap("target", "buyer1", "concurrent", "none", 0, 0, 0),
        cap("target", "buyer2", "concurrent", "none", 5, 0, 3),
    ],
    "balances": [
        balance("rich", "99.000000", "0.000000"),
        balance("low", "4.000000", "5.000000"),
        balance("soon", "9.000000", "0.000000", "2026-11-21T12:00:00.000Z"),
    ],
    "targets": [
        {"name": "buyer1", "status": "resting", "rested_until": "2026-11-21T12:01:00.000Z", "failures": 3},
        {"name": "buyer2", "status": "active", "rested_until": None, "failures": 0},
        {"name": "buyer3", "status": "paused", "rested_until": None, "failures": 0},
    ],
}


def test_status_ends_with_what_matters_on_the_floor(home: Path, socket_path: str) -> None:
    lines = [
        "floor     2 up, 1 dialing, on 2 nodes",
        "caps      100 % seller acme spend/day: 9.00 used, 1.00 in flight of 10.00",
        "          96 % campaign solar billable/day: 190 used, 2 in flight of 200",
        "money     soon 9.00 USD available, empty at 2026-11-21T12:00:00.000Z",
        "          low 4.00 USD available",
        "targets   buyer1 resting until 2026-11-21T12:01:00.000Z, 3 failures in a row",
    ]
    assert list(glance(PICTURE)) == lines
    with stub(socket_path, {"/status": (200, STATUS), "/snapshot": (200, PICTURE)}) as daemon:
        assert asked(home, socket_path, "status").out.splitlines()[-len(lines) :] == lines
        assert daemon.requests[-1] == "GET /snapshot?tenant=default HTTP/1.1"


@pytest.mark.parametrize("picture", [{}, {"calls": 3}, {"calls": [], "caps": [7, {}], "balances": {}, "targets": None}])
def test_a_picture_of_another_version_is_shown_as_far_as_it_is_known(picture: dict[str, Any]) -> None:
    assert list(glance(picture)) in ([], ["floor     0 up, 0 dialing"])
