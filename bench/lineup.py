"""Who is measured: every design with its name, what it needs, and the loads it can stand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.designs import till
from bench.generator import Load
from bench.postgres import Postgres
from bench.servers import Installation, Process, listens
from bench.shapes import HOT, SPREAD, Shape
from lab.ports import free_port

CLOSED_64, CLOSED_20, CLOSED_1 = Load("closed-64", 64), Load("closed-20", 20), Load("closed-1", 1)
OPEN_100, OPEN_1000 = Load("open-100", 64, 100.0), Load("open-1000", 64, 1_000.0)
LOADS: Final = (CLOSED_20, CLOSED_64, OPEN_100, OPEN_1000)
BASE: Final = "constant"  # all ratios are to this design's numbers under the same load
OURS: Final = ("sqlite", "sqlite-hot", "postgres", "postgres-hot")


@dataclass(frozen=True)
class Design:
    """One server. `module` empty: the daemon. `database`: "", "sqlite" or "postgres"; without one nothing is ended."""

    name: str
    title: str
    module: str = ""
    database: str = ""
    shape: Shape = SPREAD
    loads: Sequence[Load] = LOADS


@dataclass(frozen=True)
class Running:
    """A server to measure. `pid` and `database_pid` are the roots of their process trees."""

    design: Design
    port: int
    process: Process
    database_pid: int | None


_EACH = "a transaction each"
LINEUP: Final = (
    Design(BASE, "constant answer, Protocol on uvloop", "bench.designs.constant"),
    Design("constant-agi", "constant answer, the daemon's FastAGI server", "bench.designs.constant_agi_server"),
    Design("constant-streams", "constant answer, asyncio streams", "bench.designs.constant_streams"),
    Design("constant-panoramisk", "constant answer, panoramisk", "bench.designs.constant_panoramisk"),
    Design("sqlite-each", f"SQLite, {_EACH}", "bench.designs.sqlite_each", "sqlite"),
    Design("sqlite-each-hot", f"SQLite, {_EACH}, one campaign", "bench.designs.sqlite_each", "sqlite", HOT),
    Design("postgres-each", f"PostgreSQL, {_EACH}, pool of 10", "bench.designs.postgres_each", "postgres"),
    Design(
        "postgres-each-hot", f"PostgreSQL, {_EACH}, pool of 10, one campaign",
        "bench.designs.postgres_each", "postgres", HOT,
    ),
    Design(
        "classic", "AGI process → HTTP → Flask → PostgreSQL", "bench.designs.classic", "postgres",
        loads=(CLOSED_1, CLOSED_20),
    ),
    Design("sqlite", "CapConduit on SQLite", database="sqlite"),
    Design("sqlite-hot", "CapConduit on SQLite, one campaign", database="sqlite", shape=HOT),
    Design("postgres", "CapConduit on PostgreSQL", database="postgres"),
    Design("postgres-hot", "CapConduit on PostgreSQL, one campaign", database="postgres", shape=HOT),
)  # fmt: skip


@contextmanager
def running(design: Design, directory: Path, postgres: Postgres | None) -> Iterator[Running]:
    """The design on a fresh database in `directory`, and nothing of it afterwards but files."""
    with ExitStack() as stack:
        url, database_pid = "", None
        if design.database == "sqlite":
            url = f"sqlite:///{directory}/bench.sqlite"
        elif design.database == "postgres":
            assert postgres is not None
            url, database_pid = postgres.new_database(), postgres.pid
            stack.callback(postgres.drop, url)
        if not design.module:
            installation = stack.enter_context(Installation(directory, design.shape, url))
            process = stack.enter_context(installation.daemon())
            yield Running(design, installation.port, process, database_pid)
            return
        if url:
            till.prepare(url, design.shape.dids, design.shape.campaigns, design.shape.sellers)
        port = free_port()
        command = [sys.executable, "-m", design.module, str(port), *([url] if url else [])]
        process = stack.enter_context(Process(command, directory / "server.log", lambda: listens(port)))
        yield Running(design, port, process, database_pid)
