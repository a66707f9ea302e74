"""The life of a live picture: begun by the first who looks, ended when nobody does, and begun anew after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from capconduit.errors import DatabaseError, NotFound
from capconduit.services.engine import Engine
from capconduit.services.setup import prepare_database
from capconduit.services.stores import open_store
from fastagi import floor
from fastagi.agi_server import Endpoint
from fastagi.floor import FloorHub
from fastagi.floor_pulse import SECONDS, Pulse
from tests.daemon.rig import until
from tests.unit.estate_builder import FakeClock

Test = Callable[[FloorHub], Coroutine[Any, Any, None]]


def told() -> dict[str, Any]:
    return {
        "ready": True, "reasons": [], "ami": {}, "database_up": True, "timeouts": 0, "failures": 0, "journal": 0,
    }  # fmt: skip


def with_hub(directory: Path, test: Test) -> None:
    """Run `test` with a hub on a new database."""

    async def whole() -> None:
        store, clock = open_store(f"sqlite:///{directory}/f.sqlite", create=True), FakeClock()
        prepare_database(store, clock)
        hub = FloorHub(Engine(store, clock), store, clock, "node", "B", Pulse(), told)
        try:
            await asyncio.wait_for(test(hub), 20)
        finally:
            await hub.close()
            store.close()

    asyncio.run(whole())


@pytest.fixture(autouse=True)
def short_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "FLUSH_S", 0.01)
    monkeypatch.setattr(floor, "FIRST_S", 0.2)
    monkeypatch.setattr(floor, "GLANCE_S", 0.1)
    monkeypatch.setattr(floor, "LINGER_S", 0.3)


class Looking:
    """A viewer that only remembers."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.ended = False

    def push(self, message: bytes) -> None:
        self.messages.append(message)

    def end(self) -> None:
        self.ended = True


def test_nothing_is_kept_while_nobody_looks(tmp_path: Path) -> None:
    async def test(hub: FloorHub) -> None:
        assert hub.engine.on_commit is None
        watched = await hub.look("default")
        assert b'"tenant":"default"' in watched.picture()
        assert hub.engine.on_commit is not None
        await until(lambda: hub.engine.on_commit is None)

    with_hub(tmp_path, test)


def test_it_lives_as_long_as_somebody_looks_and_a_while_longer(tmp_path: Path) -> None:
    async def test(hub: FloorHub) -> None:
        viewer = Looking()
        watched = await hub.look("default")
        watched.join(viewer)
        await until(lambda: len(viewer.messages) >= 2)  # a second apart: longer than a glance lasts
        assert await hub.look("default") is watched
        watched.leave(viewer)
        assert await hub.look("default") is watched, "who comes back at once finds what was missed"
        await until(lambda: hub.engine.on_commit is None)
        assert await hub.look("default") is not watched

    with_hub(tmp_path, test)


def test_a_tenant_that_is_not_there_is_not_found_and_costs_nothing(tmp_path: Path) -> None:
    async def test(hub: FloorHub) -> None:
        with pytest.raises(NotFound):
            await hub.look("nobody")
        assert hub.engine.on_commit is None

    with_hub(tmp_path, test)


def test_without_a_database_there_is_no_first_picture_and_it_is_said_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise DatabaseError("database-failed", "it is away")

    monkeypatch.setattr(floor, "read", broken)

    async def test(hub: FloorHub) -> None:
        with pytest.raises(DatabaseError, match="it is away"):
            await hub.look("default")

    with_hub(tmp_path, test)


def test_a_picture_that_fails_lets_go_of_its_viewers_and_begins_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(hub: FloorHub) -> None:
        viewer = Looking()
        watched = await hub.look("default")
        watched.join(viewer)

        def fails(*_: Any) -> Any:
            raise RuntimeError("a bug")

        monkeypatch.setattr(watched.floor, "tick", fails)
        await until(lambda: viewer.ended)
        assert await hub.look("default") is not watched
        assert "the floor of tenant default failed" in caplog.text

    with_hub(tmp_path, test)


def test_the_pulse_counts_by_second_and_forgets_after_a_minute() -> None:
    now_s = [1_000.0]
    pulse = Pulse(lambda: now_s[0])

    nothing: Any = None
    endpoint = pulse.timed(Endpoint(handler=nothing, late=nothing), arrives=True)

    def decide(took_s: float) -> None:
        for listener in endpoint.on_request:
            listener()
        now_s[0] += took_s
        for told in endpoint.on_answer:
            told(None, took_s)

    assert pulse.decisions() == {"per_second": 0.0, "p50_ms": None, "p99_ms": None}
    for _ in range(3):
        decide(0.010)
    now_s[0] += 1
    decide(0.100)
    assert pulse.cps()[-2:] == [3, 1]
    assert (pulse.decisions()["p50_ms"], pulse.decisions()["p99_ms"]) == (10.0, 100.0)
    now_s[0] += 5
    assert pulse.decisions()["per_second"] == 0.4
    assert pulse.cps()[-7:] == [3, 1, 0, 0, 0, 0, 0]
    now_s[0] += SECONDS
    assert pulse.cps() == [0] * SECONDS
    assert pulse.decisions()["p50_ms"] is None
