"""`top --once` and the last known: the daemon's picture, or the database's marked stale, or exit 4."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from capconduit.config import load_config
from capconduit_cli.tui.floor import Floor
from capconduit_cli.tui.stale import last_known
from tests.cli import estate as walks
from tests.cli.conftest import home  # noqa: F401  # a fixture
from tests.cli.estate import database, engine
from tests.cli.runner import Result, run
from tests.tui.fake_daemon import FakeDaemon, picture

PICTURE_KEYS = {
    "at", "node", "boot_id", "tenant", "calls", "caps", "balances", "targets", "campaigns", "events", "health",
    "stale", "stale_reason",
}  # fmt: skip


@pytest.fixture
def estate(home: Path) -> Path:  # noqa: F811
    return walks.walk(home)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@contextmanager
def daemon(socket: Path, **prepared: Any) -> Iterator[None]:
    """A daemon's stand-in on a thread of its own, for commands that block."""
    ready, loop, ended = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with FakeDaemon(socket, picture=picture(calls=2)) as fake:
            for name, value in prepared.items():
                setattr(fake, name, value)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def once(place: Path, socket: Path, *words: str) -> Result:
    return run(*words, "top", "--once", home=place, env={"CAPCONDUIT_CONTROL__SOCKET": str(socket)})


def test_the_daemons_picture_is_printed(estate: Path, socket: Path) -> None:
    with daemon(socket):
        result = once(estate, socket)
    assert result.code == 0, result.err
    assert result.json.keys() == PICTURE_KEYS
    assert (result.json["stale"], result.json["stale_reason"], result.json["node"]) == (False, "", "n1")
    assert len(result.json["calls"]) == 2


def test_without_a_daemon_the_databases_picture_is_printed_as_stale(estate: Path, socket: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1.1", name="Ada")
        calls.answer("1.1")
        calls.arrive("1.2")
    result = once(estate, socket)
    assert result.code == 0, result.err
    told = result.json
    assert told.keys() == PICTURE_KEYS
    assert (told["stale"], told["health"]) == (True, None)
    assert "no daemon answers" in told["stale_reason"]
    assert [(call["state"], call["caller_name"]) for call in told["calls"]] == [("up", "Ada"), ("dialing", "")]
    assert told["balances"][0]["held"] == "0.400000"
    usage = {(cap["scope"], cap["metric"]): cap["in_flight"] for cap in told["caps"]}
    assert usage[("campaign", "concurrent")] == 2
    assert {event["kind"] for event in told["events"]} >= {"call.started", "call.answered", "estate.changed"}


def test_what_the_database_tells_can_be_shown(estate: Path) -> None:
    with engine(estate) as calls:
        calls.arrive("1.1")
    config = load_config(None, {"HOME": str(estate), "CAPCONDUIT_DATABASE__URL": f"sqlite://{database(estate)}"})
    floor = Floor()
    floor.apply("snapshot", last_known(config, "default")())
    assert len(floor.calls) == 1
    assert floor.balances["acme"].held_micros == 200_000
    assert (floor.node, floor.health) == ("", None)


def test_with_neither_daemon_nor_database_the_exit_code_is_4(home: Path, socket: Path) -> None:  # noqa: F811
    result = once(home, socket)
    assert result.code == 4
    assert result.out == ""
    assert "no daemon answers" in result.err
    assert "has no CapConduit tables" in result.err


def test_what_the_daemon_refuses_is_not_taken_from_the_database(estate: Path, socket: Path) -> None:
    refused = (404, {"error": "tenant-not-found", "message": "no tenant named 'x'", "hint": ""})
    with daemon(socket, refuse=refused):
        result = once(estate, socket, "--tenant", "x")
    assert result.code == 1
    assert "no tenant named 'x'" in result.err


def test_a_tenant_that_is_not_there_is_no_matter_of_the_daemon(estate: Path, socket: Path) -> None:
    result = once(estate, socket, "--tenant", "nobody")
    assert result.code == 1
    assert "nobody" in result.err
