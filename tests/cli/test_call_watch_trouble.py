"""`call watch` where the database is away in the very moment in which the call ends."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from capconduit.clock import SystemClock
from capconduit.errors import DatabaseError
from capconduit.services.calls import tell
from capconduit.services.office import Office
from capconduit.services.stores import open_store
from capconduit_cli import control_watch
from capconduit_cli.control_watch import begin
from tests.cli.daemon import stub
from tests.cli.estate import database, engine, walk

WORDS = 5  # of the stream, after the end


class NoTime:
    """Nobody waits: the stream goes on."""

    @staticmethod
    def sleep(_seconds: float) -> None:
        raise AssertionError("the end was missed")


def test_the_end_is_told_though_the_database_was_away_when_it_came(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = [True, True]

    def told(made: Office, call: str) -> Any:
        if away:
            away.pop()
            raise DatabaseError("database-locked", "the database is locked", "")
        return tell(made, call)

    with engine(walk(home)) as calls, tempfile.TemporaryDirectory(prefix="cc") as short:
        call_id = calls.arrive("1.1").call_id
        store = open_store(f"sqlite://{database(home)}")
        following = begin(Office(store, SystemClock(), actor="test"), f"{short}/s", call_id)
        calls.end("1.1")
        monkeypatch.setattr(control_watch, "tell", told)
        monkeypatch.setattr(control_watch, "time", NoTime)
        stream = [("snapshot", {"calls": [{"id": call_id, "state": "dialing"}]}), ("call-gone", {"id": call_id})]
        with stub(f"{short}/s", {}, [*stream, *[("health", {})] * WORDS]):
            steps = [step["state"] for step in following.steps()]
        store.close()
    assert (steps, away) == (["dialing", "ended"], [])
