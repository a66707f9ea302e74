"""The estate of the walk for tests of the nouns, and calls on it decided by the real engine at chosen instants."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from capconduit.domain.calls import AnswerReport, AttemptReport, LegTimes, RouteRequest, SettleReport
from capconduit.ids import ulid
from capconduit.services.engine import Engine
from capconduit.services.stores import open_store
from capconduit.units import Millis
from capconduit.vocab import DialStatus
from tests.cli.runner import Result, run

NODE = "pbx1"
ENGINE_S = 40
DID = "+18005550100"
CALLER = "+12125550147"
NOON_MS = 1_795_262_400_000  # 2026-11-21T12:00:00Z

WALK: tuple[tuple[str, ...], ...] = (
    ("init", "--yes"),
    ("seller", "add", "acme", "--currency", "USD", "--timezone", "America/New_York"),
    ("balance", "add", "acme", "25", "--reason", "wire 1234"),
    ("rate", "add", "std", "--per-minute", "0.20", "--increment", "60/60"),
    ("trunk", "add", "carrier", "--kind", "pjsip", "--host", "127.0.0.1", "--port", "5070"),
    ("campaign", "add", "solar", "--seller", "acme", "--rate", "std", "--strategy", "priority"),
    ("did", "add", DID, "--trunk", "carrier", "--campaign", "solar"),
    ("target", "add", "buyer1", "--kind", "pjsip", "--address", "sip:buyer@127.0.0.1:5080", "--ring", "20s"),
    ("rule", "add", "solar", "buyer1", "--priority", "1"),
    ("cap", "set", "campaign", "solar", "--billable", "200/day", "--concurrent", "10"),
    ("cap", "set", "target", "buyer1", "--concurrent", "5"),
)


def done(*argv: str, home: Path) -> Result:
    """A command line that must succeed."""
    result = run(*argv, home=home)
    assert result.code == 0, f"{argv}: {result.err}"
    return result


def walk(home: Path) -> Path:
    """Build the walk's estate in `home`."""
    for argv in WALK:
        done(*argv, home=home)
    return home


def database(home: Path) -> Path:
    """The file of the database."""
    return home / "state" / "capconduit" / "capconduit.sqlite"


def contents(home: Path) -> dict[str, list[Any]]:
    """Every row of every table, to see that nothing changed."""
    with closing(sqlite3.connect(database(home))) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in sorted(names)}


def change(home: Path, sql: str, *values: Any) -> None:
    """Spoil the database behind our back."""
    with closing(sqlite3.connect(database(home))) as connection, connection:
        assert connection.execute(sql, values).rowcount == 1


class SetClock:
    """A clock that stands where a test puts it."""

    def __init__(self, now_ms: int = NOON_MS) -> None:
        self.at_ms = now_ms
        self._ids = 0

    def now_ms(self) -> Millis:
        """See Clock."""
        return Millis(self.at_ms)

    def monotonic_ms(self) -> int:
        """See Clock."""
        return self.at_ms

    def new_id(self) -> str:
        """See Clock."""
        self._ids += 1
        return ulid(self.now_ms(), self._ids)


class Calls:
    """Lets calls come, be answered and end."""

    def __init__(self, engine: Engine, clock: SetClock) -> None:
        self._engine = engine
        self.clock = clock

    def arrive(
        self,
        uniqueid: str,
        *,
        did: str = DID,
        caller: str = CALLER,
        name: str = "",
        attestation: str = "",
        verdict: str = "",
    ) -> Any:
        """A call comes; the engine's answer."""
        return self._ask(
            RouteRequest(
                node=NODE, boot_id="boot1", uniqueid=uniqueid, linkedid=uniqueid, dnid=did, ani=caller,
                caller_name=name, trunk="carrier", arrived_ms=self.clock.at_ms, attestation=attestation,
                stir_verdict=verdict,
            )
        )  # fmt: skip

    def fail(self, uniqueid: str, attempt: int, status: DialStatus = DialStatus.BUSY, cause: int = 17) -> Any:
        """A Dial ends without an answer."""
        return self._ask(
            AttemptReport(node=NODE, uniqueid=uniqueid, attempt=attempt, dialstatus=status, hangup_cause=cause)
        )

    def answer(self, uniqueid: str, dial: str = "") -> None:
        """The target answers; `dial` says which of several."""
        leg = LegTimes(rang_ms=self.clock.at_ms - 1_000, answered_ms=self.clock.at_ms, dial=dial)
        assert self._ask(AnswerReport(node=NODE, uniqueid=uniqueid, leg=leg)) is not None

    def end(self, uniqueid: str, *, answered_for_ms: int | None = None) -> None:
        """The call ends; answered when `answered_for_ms` says so or `answer` was told before."""
        status = DialStatus.ANSWER if answered_for_ms is not None else DialStatus.CANCEL
        report = SettleReport(
            node=NODE, uniqueid=uniqueid, attempt=1, dialstatus=status, answered_for_ms=answered_for_ms,
            hangup_cause=16, ended_ms=self.clock.at_ms,
        )  # fmt: skip
        assert self._ask(report).first

    def _ask(self, command: Any) -> Any:
        return self._engine.ask(command, ENGINE_S)


@contextmanager
def engine(home: Path, now_ms: int = NOON_MS) -> Iterator[Calls]:
    """The deciding engine on the database of `home`, with a clock that the test sets."""
    store = open_store(f"sqlite://{database(home)}")
    clock = SetClock(now_ms)
    running = Engine(store, clock)
    running.start()
    try:
        yield Calls(running, clock)
    finally:
        assert running.stop(ENGINE_S)
        store.close()
